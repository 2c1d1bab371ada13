//! One layer of each version of RWKV against the same layer written out in f64, one token after the other, however the tokens
//! are split among calls.

use std::sync::Arc;

use attention_linear::rwkv::{
    ChannelMix, ChannelMixWeights, DynamicShift, DynamicWeights, GatedHeads, HeadNorm, HeadShape, LowRank,
    LowRankActivation, ReceptanceGate, Rwkv4, Rwkv4Weights, Rwkv5, Rwkv5Weights, Rwkv6, Rwkv6Weights, Rwkv7,
    Rwkv7Weights, TokenShift,
};
use burn::tensor::{Device, Tensor, TensorData};
use kernel_dsl::linear::{PackedMatrix, WeightType};
use ssm_core::{Chain, Context, Error, Form, Linear, Mixer, Shared};

/// Width of the stream; 3 heads of 4 keys and 2 values.
const WIDTH: usize = 10;
const SHAPE: HeadShape = HeadShape {
    model_dim: WIDTH,
    heads: 3,
    key_dim: 4,
    value_dim: 2,
};
const EPS: f64 = 64e-5;
/// Rounding of some hundred f32 operations in a row.
const TOLERANCE: f64 = 3e-6;

type Row = Vec<f64>;
type Matrix = Vec<Row>;

/// Weights, as the layer takes them and as the loops do.
struct Draw(u64);

impl Draw {
    /// In ±1.
    fn number(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let value = (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        f64::from(value)
    }

    fn row(&mut self, length: usize) -> Row {
        (0..length).map(|_| self.number()).collect()
    }

    fn vector(&mut self, length: usize) -> (Tensor<1>, Row) {
        let row = self.row(length);
        (tensor([length], &row), row)
    }

    fn by_head(&mut self) -> (Tensor<2>, Row) {
        let row = self.row(SHAPE.keys());
        (tensor([SHAPE.heads, SHAPE.key_dim], &row), row)
    }

    fn linear(&mut self, outputs: usize, inputs: usize) -> (Linear, Matrix) {
        self.biased(outputs, inputs, None)
    }

    fn biased(&mut self, outputs: usize, inputs: usize, bias: Option<&Row>) -> (Linear, Matrix) {
        let rows: Matrix = (0..outputs).map(|_| self.row(inputs)).collect();
        let values: Vec<f32> = rows.concat().iter().map(|value| *value as f32).collect();
        let packed = PackedMatrix::pack(&values, outputs, inputs, WeightType::F32).unwrap();
        let bias = bias.map(|bias| tensor([outputs], bias));
        (Linear::new(Arc::new(packed), bias).unwrap(), rows)
    }

    /// An interpolation by the share of the previous token.
    fn shift(&mut self) -> (TokenShift, Row) {
        let (share, row) = self.vector(WIDTH);
        (TokenShift::of_previous(share), row)
    }

    fn low_rank(&mut self, activation: LowRankActivation, outputs: usize, offset: bool) -> (LowRank, Narrow) {
        let rank = 3;
        let (down, d) = self.linear(rank, WIDTH);
        let bias = offset.then(|| self.row(outputs));
        let (up, u) = self.biased(outputs, rank, bias.as_ref());
        let bias = bias.unwrap_or_else(|| vec![0.0; outputs]);
        (
            LowRank { down, activation, up },
            Narrow {
                d,
                u,
                bias,
                activation,
            },
        )
    }

    fn norm(&mut self) -> (HeadNorm, [Row; 2]) {
        let ((weight, w), (bias, b)) = (self.vector(SHAPE.values()), self.vector(SHAPE.values()));
        (
            HeadNorm {
                weight,
                bias,
                eps: EPS as f32,
            },
            [w, b],
        )
    }
}

struct Narrow {
    d: Matrix,
    u: Matrix,
    bias: Row,
    activation: LowRankActivation,
}

impl Narrow {
    fn of(&self, x: &Row) -> Row {
        let hidden = product(&self.d, x);
        let hidden: Row = match self.activation {
            LowRankActivation::None => hidden,
            LowRankActivation::Tanh => hidden.iter().map(|x| x.tanh()).collect(),
            LowRankActivation::Sigmoid => hidden.iter().map(|x| sigmoid(*x)).collect(),
        };
        add(&product(&self.u, &hidden), &self.bias)
    }
}

fn tensor<const D: usize>(shape: [usize; D], values: &[f64]) -> Tensor<D> {
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn product(matrix: &Matrix, x: &Row) -> Row {
    let dot = |row: &Row| row.iter().zip(x).map(|(a, b)| a * b).sum();
    matrix.iter().map(dot).collect()
}

fn map(a: &Row, b: &Row, f: impl Fn(f64, f64) -> f64) -> Row {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

fn add(a: &Row, b: &Row) -> Row {
    map(a, b, |a, b| a + b)
}

fn times(a: &Row, b: &Row) -> Row {
    map(a, b, |a, b| a * b)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// x + μ (x₋₁ − x).
fn shifted(x: &Row, before: &Row, share: &Row) -> Row {
    (0..x.len())
        .map(|i| x[i] + share[i] * (before[i] - x[i]))
        .collect()
}

/// LayerNorm of each head.
fn normed(y: &Row, [weight, bias]: &[Row; 2]) -> Row {
    let mut out = Row::new();
    for head in y.chunks(SHAPE.value_dim) {
        let n = head.len() as f64;
        let mean = head.iter().sum::<f64>() / n;
        let variance = head.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        out.extend(head.iter().map(|x| (x - mean) / (variance + EPS).sqrt()));
    }
    add(&times(&out, weight), bias)
}

/// A layer in f64: from a token, the one before it and the state to the layer's output.
type Step<'a> = Box<dyn Fn(&Row, &Row, &mut Row) -> Row + 'a>;

/// Runs the layer in one call and in two, for every split, on two sequences; compares with the steps from an empty state of
/// `state_len` numbers.
fn compare(mixer: &dyn Mixer, state_len: usize, step: Step<'_>) {
    compare_after(mixer, state_len, step, |_, _| {});
}

/// As [`compare`], after `before` has left something for the layer.
fn compare_after(
    mixer: &dyn Mixer,
    state_len: usize,
    step: Step<'_>,
    before: impl Fn(Tensor<3>, &mut Shared),
) {
    let (batch, time) = (2, 9);
    let mut draw = Draw(99);
    let inputs: Vec<Matrix> = (0..batch)
        .map(|_| (0..time).map(|_| draw.row(WIDTH)).collect())
        .collect();
    let mut expected = Row::new();
    for sequence in &inputs {
        let (mut previous, mut state) = (vec![0.0; WIDTH], vec![0.0; state_len]);
        for x in sequence {
            expected.extend(step(x, &previous, &mut state));
            previous.clone_from(x);
        }
    }
    let input: Tensor<3> = tensor([batch, time, WIDTH], &inputs.concat().concat());
    let chain = Chain::default();
    for split in 0..=time {
        let mut state = mixer.start(0, batch, &chain, &Device::flex());
        let mut outputs = Vec::new();
        for range in [0..split, split..time] {
            if range.is_empty() {
                continue;
            }
            let part = input.clone().narrow(1, range.start, range.len());
            let mut shared = Shared::default();
            before(part.clone(), &mut shared);
            let mut context = Context {
                chain: &chain,
                layer: 0,
                form: Form::Auto,
                positions: &[range.start as u64; 2],
                shared: &mut shared,
            };
            outputs.push(mixer.forward(part, &mut state, &mut context).unwrap());
        }
        let found: Vec<f32> = Tensor::cat(outputs, 1).into_data().iter::<f32>().collect();
        let error = relative_error(&found, &expected);
        assert!(error <= TOLERANCE, "split at {split}: relative error {error:e}");
    }
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - b));
    difference / square(&mut expected.iter().copied())
}

#[test]
fn channel_mixing_is_the_plain_loop() {
    let mut draw = Draw(1);
    let ((key_shift, mk), (shift, mr)) = (draw.shift(), draw.shift());
    let ((key, wk), (value, wv)) = (draw.linear(14, WIDTH), draw.linear(WIDTH, 14));
    let (projection, wr) = draw.linear(WIDTH, WIDTH);
    let hidden = |x: &Row, before: &Row| {
        let squares = product(&wk, &shifted(x, before, &mk))
            .iter()
            .map(|x| x.max(0.0).powi(2))
            .collect();
        product(&wv, &squares)
    };
    let mut weights = ChannelMixWeights {
        key_shift,
        key,
        value,
        receptance: None,
    };
    let plain = ChannelMix::new(weights.clone()).unwrap();
    compare(&plain, 0, Box::new(|x, before, _| hidden(x, before)));
    weights.receptance = Some(ReceptanceGate { shift, projection });
    let gated = ChannelMix::new(weights).unwrap();
    compare(
        &gated,
        0,
        Box::new(|x, before, _| {
            let gate = product(&wr, &shifted(x, before, &mr))
                .iter()
                .map(|x| sigmoid(*x))
                .collect();
            times(&gate, &hidden(x, before))
        }),
    );
}

#[test]
fn rwkv4_is_the_plain_loop() {
    let mut draw = Draw(4);
    let channels = 6;
    let [mr, mk, mv] = [draw.row(WIDTH), draw.row(WIDTH), draw.row(WIDTH)];
    // Its files store the share of the current token.
    let shift = |share: &Row| {
        let current: Row = share.iter().map(|share| 1.0 - share).collect();
        TokenShift::of_current(tensor([WIDTH], &current))
    };
    let ((receptance, wr), (key, wk)) = (draw.linear(channels, WIDTH), draw.linear(channels, WIDTH));
    let ((value, wv), (output, wo)) = (draw.linear(channels, WIDTH), draw.linear(WIDTH, channels));
    let ((time_decay, decay), (bonus, u)) = (draw.vector(channels), draw.vector(channels));
    let mixer = Rwkv4::new(Rwkv4Weights {
        receptance_shift: shift(&mr),
        key_shift: shift(&mk),
        value_shift: shift(&mv),
        receptance,
        key,
        value,
        output,
        time_decay,
        bonus,
    })
    .unwrap();
    compare(
        &mixer,
        2 * channels,
        Box::new(|x, before, state| {
            let r = product(&wr, &shifted(x, before, &mr));
            let (k, v) = (
                product(&wk, &shifted(x, before, &mk)),
                product(&wv, &shifted(x, before, &mv)),
            );
            let y: Row = (0..channels)
                .map(|c| {
                    let (now, kept) = ((u[c] + k[c]).exp(), (-decay[c].exp()).exp());
                    let mean = (state[2 * c] + now * v[c]) / (state[2 * c + 1] + now);
                    state[2 * c] = kept * state[2 * c] + k[c].exp() * v[c];
                    state[2 * c + 1] = kept * state[2 * c + 1] + k[c].exp();
                    sigmoid(r[c]) * mean
                })
                .collect();
            product(&wo, &y)
        }),
    );
}

/// The recurrence of versions 5 and 6 for one token: r (S + u k v), then S ← w S + k v.
fn weighted_sum([r, w, k, v, u]: [&Row; 5], state: &mut Row) -> Row {
    let mut y = vec![0.0; SHAPE.values()];
    for (h, i, j) in elements() {
        let (key, value) = (h * SHAPE.key_dim + i, h * SHAPE.value_dim + j);
        let held = &mut state[key * SHAPE.value_dim + j];
        y[value] += r[key] * (*held + u[key] * k[key] * v[value]);
        *held = w[key] * *held + k[key] * v[value];
    }
    y
}

fn elements() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..SHAPE.heads)
        .flat_map(|h| (0..SHAPE.key_dim).flat_map(move |i| (0..SHAPE.value_dim).map(move |j| (h, i, j))))
}

/// Projections of versions 5 and 6 and the norm, for the loops.
struct Plain {
    wr: Matrix,
    wk: Matrix,
    wv: Matrix,
    wg: Matrix,
    wo: Matrix,
    u: Row,
    norm: [Row; 2],
}

fn gated_heads(draw: &mut Draw) -> (GatedHeads, Plain) {
    let ((receptance, wr), (key, wk)) = (draw.linear(SHAPE.keys(), WIDTH), draw.linear(SHAPE.keys(), WIDTH));
    let ((value, wv), (gate, wg)) = (
        draw.linear(SHAPE.values(), WIDTH),
        draw.linear(SHAPE.values(), WIDTH),
    );
    let (output, wo) = draw.linear(WIDTH, SHAPE.values());
    let ((bonus, u), (head_norm, norm)) = (draw.by_head(), draw.norm());
    let heads = GatedHeads {
        receptance,
        key,
        value,
        gate,
        output,
        bonus,
        norm: head_norm,
    };
    (
        heads,
        Plain {
            wr,
            wk,
            wv,
            wg,
            wo,
            u,
            norm,
        },
    )
}

impl Plain {
    /// From the four shifted inputs r, k, v, g and the decay.
    fn of(&self, [r, k, v, g]: [Row; 4], w: &Row, state: &mut Row) -> Row {
        let (r, k, v) = (
            product(&self.wr, &r),
            product(&self.wk, &k),
            product(&self.wv, &v),
        );
        let y = weighted_sum([&r, w, &k, &v, &self.u], state);
        let gate = product(&self.wg, &g).iter().map(|x| silu(*x)).collect();
        product(&self.wo, &times(&normed(&y, &self.norm), &gate))
    }
}

#[test]
fn rwkv5_is_the_plain_loop() {
    let mut draw = Draw(5);
    let ((receptance_shift, mr), (key_shift, mk)) = (draw.shift(), draw.shift());
    let ((value_shift, mv), (gate_shift, mg)) = (draw.shift(), draw.shift());
    let (heads, plain) = gated_heads(&mut draw);
    let (time_decay, decay) = draw.by_head();
    let weights = Rwkv5Weights {
        receptance_shift,
        key_shift,
        value_shift,
        gate_shift,
        heads,
        time_decay,
    };
    let mixer = Rwkv5::new(SHAPE, weights).unwrap();
    let w: Row = decay.iter().map(|x| (-x.exp()).exp()).collect();
    compare(
        &mixer,
        SHAPE.keys() * SHAPE.value_dim,
        Box::new(|x, before, state| {
            let shifted = [&mr, &mk, &mv, &mg].map(|share| shifted(x, before, share));
            plain.of(shifted, &w, state)
        }),
    );
}

#[test]
fn rwkv6_is_the_plain_loop() {
    let mut draw = Draw(6);
    let rank = 2;
    let (input, mx) = draw.shift();
    let (down, d) = draw.linear(5 * rank, WIDTH);
    let (heads, plain) = gated_heads(&mut draw);
    // In the order w, k, v, r, g, of which the parts of the narrow layer are a permutation.
    let parts = [3, 0, 4, 1, 2];
    let shares: Matrix = (0..5).map(|_| draw.row(WIDTH)).collect();
    let ups: Vec<(Linear, Matrix)> = shares
        .iter()
        .map(|share| draw.biased(WIDTH, rank, Some(share)))
        .collect();
    let weights = |index: usize| DynamicWeights {
        part: parts[index],
        up: ups[index].0.clone(),
    };
    let shift = DynamicShift {
        input,
        down,
        decay: weights(0),
        key: weights(1),
        value: weights(2),
        receptance: weights(3),
        gate: weights(4),
    };
    let (decay, plain_decay) = draw.low_rank(LowRankActivation::Tanh, SHAPE.keys(), true);
    let mixer = Rwkv6::new(SHAPE, Rwkv6Weights { shift, decay, heads }).unwrap();
    compare(
        &mixer,
        SHAPE.keys() * SHAPE.value_dim,
        Box::new(|x, before, state| {
            let hidden: Row = product(&d, &shifted(x, before, &mx))
                .iter()
                .map(|x| x.tanh())
                .collect();
            let read = |index: usize| {
                let part: Row = hidden[parts[index] * rank..][..rank].to_vec();
                shifted(x, before, &add(&product(&ups[index].1, &part), &shares[index]))
            };
            let w = plain_decay
                .of(&read(0))
                .iter()
                .map(|x| (-x.exp()).exp())
                .collect();
            plain.of([read(3), read(1), read(2), read(4)], &w, state)
        }),
    );
}

#[test]
fn two_weights_of_an_interpolation_cannot_read_one_part() {
    let mut draw = Draw(6);
    let (heads, _) = gated_heads(&mut draw);
    let up = DynamicWeights {
        part: 1,
        up: draw.linear(WIDTH, 2).0,
    };
    let weights = Rwkv6Weights {
        shift: DynamicShift {
            input: draw.shift().0,
            down: draw.linear(10, WIDTH).0,
            decay: up.clone(),
            key: up.clone(),
            value: up.clone(),
            receptance: up.clone(),
            gate: up,
        },
        decay: draw.low_rank(LowRankActivation::Tanh, SHAPE.keys(), true).0,
        heads,
    };
    assert!(matches!(Rwkv6::new(SHAPE, weights), Err(Error::Value { .. })));
}

/// What the loop of RWKV-7 reads.
struct Plain7 {
    shares: [Row; 6],
    wr: Matrix,
    wk: Matrix,
    wv: Matrix,
    wo: Matrix,
    decay: Narrow,
    rate: Narrow,
    gate: Narrow,
    residual: Narrow,
    xi: Row,
    alpha: Row,
    rho: Row,
    norm: [Row; 2],
}

fn rwkv7(draw: &mut Draw, first: bool) -> (Rwkv7, Plain7) {
    let shifts: [(TokenShift, Row); 6] = std::array::from_fn(|_| draw.shift());
    let [
        (receptance_shift, a),
        (decay_shift, b),
        (key_shift, c),
        (value_shift, d),
        (rate_shift, e),
        (gate_shift, f),
    ] = shifts;
    let ((receptance, wr), (key, wk)) = (draw.linear(SHAPE.keys(), WIDTH), draw.linear(SHAPE.keys(), WIDTH));
    let ((value, wv), (output, wo)) = (
        draw.linear(SHAPE.values(), WIDTH),
        draw.linear(WIDTH, SHAPE.values()),
    );
    let (decay, plain_decay) = draw.low_rank(LowRankActivation::Tanh, SHAPE.keys(), true);
    let (rate, plain_rate) = draw.low_rank(LowRankActivation::None, SHAPE.keys(), true);
    let (gate, plain_gate) = draw.low_rank(LowRankActivation::Sigmoid, SHAPE.values(), false);
    let (value_residual, residual) = draw.low_rank(LowRankActivation::None, SHAPE.values(), true);
    let ((removal_key, xi), (rate_on_key, alpha)) = (draw.vector(SHAPE.keys()), draw.vector(SHAPE.keys()));
    let ((bonus, rho), (head_norm, norm)) = (draw.by_head(), draw.norm());
    let weights = Rwkv7Weights {
        receptance_shift,
        decay_shift,
        key_shift,
        value_shift,
        rate_shift,
        gate_shift,
        receptance,
        key,
        value,
        output,
        decay,
        rate,
        gate,
        value_residual: (!first).then_some(value_residual),
        removal_key,
        rate_on_key,
        bonus,
        removal_eps: 1e-24,
        norm: head_norm,
    };
    let plain = Plain7 {
        shares: [a, b, c, d, e, f],
        wr,
        wk,
        wv,
        wo,
        decay: plain_decay,
        rate: plain_rate,
        gate: plain_gate,
        residual,
        xi,
        alpha,
        rho,
        norm,
    };
    (Rwkv7::new(SHAPE, weights).unwrap(), plain)
}

impl Plain7 {
    /// One token; `first` are the values of the first layer, where this is another.
    fn of(&self, x: &Row, before: &Row, first: Option<&Row>, state: &mut Row) -> Row {
        let read = self.shares.each_ref().map(|share| shifted(x, before, share));
        let r = product(&self.wr, &read[0]);
        let scale = -(-0.5f64).exp();
        let w: Row = self
            .decay
            .of(&read[1])
            .iter()
            .map(|x| (scale * sigmoid(*x)).exp())
            .collect();
        let (k, v) = (product(&self.wk, &read[2]), product(&self.wv, &read[3]));
        let v = match first {
            None => v,
            Some(first) => {
                let share: Row = self.residual.of(&read[3]).iter().map(|x| sigmoid(*x)).collect();
                add(&v, &times(&map(first, &v, |first, v| first - v), &share))
            }
        };
        let a: Row = self.rate.of(&read[4]).iter().map(|x| sigmoid(*x)).collect();
        let gate = self.gate.of(&read[5]);
        let removal = times(&k, &self.xi);
        let removal: Row = removal
            .chunks(SHAPE.key_dim)
            .flat_map(|head| {
                let norm = head.iter().map(|x| x * x).sum::<f64>().sqrt();
                head.iter().map(move |x| x / norm)
            })
            .collect();
        let k: Row = (0..k.len())
            .map(|i| k[i] * (1.0 + (a[i] - 1.0) * self.alpha[i]))
            .collect();
        let y = delta_rule([&r, &w, &k, &v, &removal, &a], state);
        let mut y = normed(&y, &self.norm);
        for (h, i, j) in elements() {
            let (key, value) = (h * SHAPE.key_dim + i, h * SHAPE.value_dim + j);
            y[value] += r[key] * k[key] * self.rho[key] * v[value];
        }
        product(&self.wo, &times(&y, &gate))
    }
}

/// S ← w S − (κ a) (κᵀ S) + k v, then rᵀ S.
fn delta_rule([r, w, k, v, removal, a]: [&Row; 6], state: &mut Row) -> Row {
    let mut read = vec![0.0; SHAPE.values()];
    for (h, i, j) in elements() {
        let key = h * SHAPE.key_dim + i;
        read[h * SHAPE.value_dim + j] += removal[key] * state[key * SHAPE.value_dim + j];
    }
    let mut y = vec![0.0; SHAPE.values()];
    for (h, i, j) in elements() {
        let (key, value) = (h * SHAPE.key_dim + i, h * SHAPE.value_dim + j);
        let held = &mut state[key * SHAPE.value_dim + j];
        *held = w[key] * *held - removal[key] * a[key] * read[value] + k[key] * v[value];
        y[value] += r[key] * *held;
    }
    y
}

#[test]
fn rwkv7_is_the_plain_loop_in_its_first_layer() {
    let (mixer, plain) = rwkv7(&mut Draw(7), true);
    compare(
        &mixer,
        SHAPE.keys() * SHAPE.value_dim,
        Box::new(|x, before, state| plain.of(x, before, None, state)),
    );
}

#[test]
fn rwkv7_mixes_the_values_of_its_first_layer_into_later_ones() {
    let (mixer, plain) = rwkv7(&mut Draw(8), false);
    // In place of a first layer: values that are the first channels of the input.
    let first = |input: Tensor<3>, shared: &mut Shared| {
        shared.value_residual = Some(input.narrow(2, 0, SHAPE.values()));
    };
    compare_after(
        &mixer,
        SHAPE.keys() * SHAPE.value_dim,
        Box::new(|x, before, state| plain.of(x, before, Some(&x[..SHAPE.values()].to_vec()), state)),
        first,
    );
}

#[test]
fn a_later_layer_of_rwkv7_needs_a_first_one() {
    let (mixer, _) = rwkv7(&mut Draw(8), false);
    let chain = Chain::default();
    let mut state = mixer.start(1, 1, &chain, &Device::flex());
    let mut context = Context {
        chain: &chain,
        layer: 1,
        form: Form::Auto,
        positions: &[0],
        shared: &mut Shared::default(),
    };
    let error = mixer.forward(
        Tensor::zeros([1, 1, WIDTH], &Device::flex()),
        &mut state,
        &mut context,
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("values of the first layer")
    );
}

#[test]
fn weights_of_another_shape_are_refused() {
    let mut draw = Draw(3);
    let weights = ChannelMixWeights {
        key_shift: draw.shift().0,
        key: draw.linear(14, WIDTH).0,
        value: draw.linear(WIDTH, 13).0,
        receptance: None,
    };
    let error = ChannelMix::new(weights).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected shape [10, 14], found [10, 13]"),
        "{error}"
    );
}
