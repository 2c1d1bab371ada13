//! RWKV-7: a delta rule with rates and removal keys of its own, and values that later layers mix in.

use burn::tensor::{Device, Tensor};
use spillway_attention_linear::rwkv::{Depth, LowRankActivation, Rwkv7, Rwkv7Config};
use spillway_ssm_core::{Chain, Chunking, Context, Mixer, Shared};

use super::support::{
    Draw, EPS, FIRST, LAST, Matrix, Narrow, RANK, Row, SHAPE, WIDTH, add, compare, compare_after, elements,
    map, normed, product, shifted, sigmoid, times,
};

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
    /// In layers after the first.
    residual: Option<Narrow>,
    xi: Row,
    alpha: Row,
    rho: Row,
    norm: [Row; 2],
}

fn rwkv7(mut draw: Draw, depth: Depth) -> (Rwkv7, Plain7) {
    let shares = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"].map(|name| draw.shift(name));
    let [wr, wk] = ["receptance", "key"].map(|name| draw.linear(name, SHAPE.keys(), WIDTH));
    let (wv, wo) = (
        draw.linear("value", SHAPE.values(), WIDTH),
        draw.linear("output", WIDTH, SHAPE.values()),
    );
    let decay = draw.low_rank("w", LowRankActivation::Tanh, SHAPE.keys(), true);
    let rate = draw.low_rank("a", LowRankActivation::None, SHAPE.keys(), true);
    let gate = draw.low_rank("g", LowRankActivation::Sigmoid, SHAPE.values(), false);
    let residual =
        (depth.layer > 0).then(|| draw.low_rank("v", LowRankActivation::None, SHAPE.values(), true));
    let [xi, alpha] = ["k_k", "k_a"].map(|name| draw.vector(name, SHAPE.keys()));
    let (rho, norm) = (draw.by_head("r_k"), draw.norm());
    let config = Rwkv7Config {
        shape: SHAPE,
        decay_rank: RANK,
        rate_rank: RANK,
        gate_rank: RANK,
        value_rank: RANK,
        norm_eps: EPS as f32,
        removal_eps: 1e-24,
        depth,
    };
    let mut source = draw.source();
    let mixer = Rwkv7::read(config, &mut source).unwrap();
    source.finish();
    let plain = Plain7 {
        shares,
        wr,
        wk,
        wv,
        wo,
        decay,
        rate,
        gate,
        residual,
        xi,
        alpha,
        rho,
        norm,
    };
    (mixer, plain)
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
        let v = match self.residual.as_ref().zip(first) {
            None => v,
            Some((residual, first)) => {
                let share: Row = residual.of(&read[3]).iter().map(|x| sigmoid(*x)).collect();
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
    let (mixer, plain) = rwkv7(Draw::new(7), FIRST);
    compare(
        &mixer,
        SHAPE.keys() * SHAPE.value_dim,
        Box::new(|x, before, state| plain.of(x, before, None, state)),
    );
}

#[test]
fn rwkv7_mixes_the_values_of_its_first_layer_into_later_ones() {
    let (mixer, plain) = rwkv7(Draw::new(8), LAST);
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
    let (mixer, _) = rwkv7(Draw::new(8), LAST);
    let chain = Chain::default();
    let mut state = mixer.start(1, 1, &chain, &Device::flex());
    let mut context = Context {
        chain: &chain,
        layer: 1,
        chunking: Chunking::Fastest,
        positions: &[0],
        lengths: None,
        prefix: None,
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
