//! Random weights, as a layer takes them and as the loops do, the loops' algebra in f64, and the comparison.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_attention_linear::rwkv::{
    Depth, DynamicShift, FreshShare, FreshShares, HeadShape, LowRankActivation, RwkvSource, TokenShift,
};
use spillway_ssm_core::{
    Chain, Chunking, Context, Error, Init, Linear, Mixer, Result, Shared, WeightMap, WeightSource,
};

/// Width of the stream; 3 heads of 4 keys and 2 values.
pub const WIDTH: usize = 10;
pub const SHAPE: HeadShape = HeadShape {
    model_dim: WIDTH,
    heads: 3,
    key_dim: 4,
    value_dim: 2,
};
/// Of every low-rank projection.
pub const RANK: usize = 3;
/// The first layer of two, and the last.
pub const FIRST: Depth = Depth { layer: 0, layers: 2 };
pub const LAST: Depth = Depth { layer: 1, layers: 2 };
pub const EPS: f64 = 64e-5;
/// Rounding of some hundred f32 operations in a row.
pub const TOLERANCE: f64 = 3e-6;

pub type Row = Vec<f64>;
pub type Matrix = Vec<Row>;

/// Weights, as the layer reads them and as the loops do.
pub struct Draw {
    seed: u64,
    tensors: BTreeMap<String, TensorData>,
}

impl Draw {
    pub fn new(seed: u64) -> Self {
        let tensors = BTreeMap::new();
        Self { seed, tensors }
    }

    /// In ±1.
    pub fn number(&mut self) -> f64 {
        self.seed = self
            .seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let value = (self.seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        f64::from(value)
    }

    pub fn row(&mut self, length: usize) -> Row {
        (0..length).map(|_| self.number()).collect()
    }

    /// The tensor `name`, for the layer.
    pub fn put<const D: usize>(&mut self, name: &str, shape: [usize; D], values: &[f64]) {
        let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        self.tensors
            .insert(name.to_string(), TensorData::new(values, shape));
    }

    pub fn vector(&mut self, name: &str, length: usize) -> Row {
        let row = self.row(length);
        self.put(name, [length], &row);
        row
    }

    pub fn by_head(&mut self, name: &str) -> Row {
        let row = self.row(SHAPE.keys());
        self.put(name, [SHAPE.heads, SHAPE.key_dim], &row);
        row
    }

    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Matrix {
        let rows: Matrix = (0..outputs).map(|_| self.row(inputs)).collect();
        self.put(&format!("{name}.weight"), [outputs, inputs], &rows.concat());
        rows
    }

    /// An interpolation by the share of the previous token.
    pub fn shift(&mut self, name: &str) -> Row {
        self.vector(name, WIDTH)
    }

    pub fn low_rank(
        &mut self,
        name: &str,
        activation: LowRankActivation,
        outputs: usize,
        offset: bool,
    ) -> Narrow {
        let d = self.linear(&format!("{name}.down"), RANK, WIDTH);
        let bias = match offset {
            true => self.vector(&format!("{name}.up.bias"), outputs),
            false => vec![0.0; outputs],
        };
        let u = self.linear(&format!("{name}.up"), outputs, RANK);
        Narrow {
            d,
            u,
            bias,
            activation,
        }
    }

    pub fn norm(&mut self) -> [Row; 2] {
        ["ln_x.weight", "ln_x.bias"].map(|name| self.vector(name, SHAPE.values()))
    }

    /// The layer's source. The layer reads all that was drawn, or [`Source::finish`] fails.
    pub fn source(&self) -> Source {
        Source {
            map: WeightMap::new(self.tensors.clone(), Device::flex()),
            current_shares: false,
            parts: [0, 1, 2, 3, 4],
        }
    }
}

/// Drawn weights, perhaps stored as some publisher does.
pub struct Source {
    map: WeightMap,
    /// Whether interpolations are by the share of the current token.
    pub current_shares: bool,
    /// Which parts of the narrow layer of RWKV-6 its interpolations read, in the order w, k, v, r, g.
    pub parts: [usize; 5],
}

impl Source {
    /// Refuses weights that the layer has not read.
    pub fn finish(&self) {
        self.map.expect_all_read().unwrap();
    }
}

impl WeightSource for Source {
    type Error = Error;

    fn linear_with(&mut self, name: &str, shape: [usize; 2], bias: bool, init: Init) -> Result<Linear> {
        self.map.linear_with(name, shape, bias, init)
    }

    fn stacked(&mut self, parts: &[(&str, usize)], in_features: usize, bias: bool) -> Result<Linear> {
        self.map.stacked(parts, in_features, bias)
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Init) -> Result<Tensor<D>> {
        self.map.tensor(name, shape, init)
    }
}

impl RwkvSource for Source {
    fn shift(&mut self, name: &str, channels: usize, fresh: FreshShare) -> Result<TokenShift> {
        Ok(match self.current_shares {
            true => TokenShift::of_current(self.vector(name, channels, fresh.of_current())?),
            false => TokenShift::of_previous(self.vector(name, channels, fresh.of_previous())?),
        })
    }

    fn dynamic_shift(&mut self, sizes: [usize; 2], fresh: FreshShares) -> Result<DynamicShift> {
        let mut shift = DynamicShift::read(sizes, fresh, self)?;
        let [w, k, v, r, g] = self.parts;
        shift.decay.part = w;
        shift.key.part = k;
        shift.value.part = v;
        shift.receptance.part = r;
        shift.gate.part = g;
        Ok(shift)
    }
}

pub struct Narrow {
    d: Matrix,
    u: Matrix,
    bias: Row,
    activation: LowRankActivation,
}

impl Narrow {
    pub fn of(&self, x: &Row) -> Row {
        let hidden = product(&self.d, x);
        let hidden: Row = match self.activation {
            LowRankActivation::None => hidden,
            LowRankActivation::Tanh => hidden.iter().map(|x| x.tanh()).collect(),
            LowRankActivation::Sigmoid => hidden.iter().map(|x| sigmoid(*x)).collect(),
        };
        add(&product(&self.u, &hidden), &self.bias)
    }
}

pub fn tensor<const D: usize>(shape: [usize; D], values: &[f64]) -> Tensor<D> {
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

pub fn product(matrix: &Matrix, x: &Row) -> Row {
    let dot = |row: &Row| row.iter().zip(x).map(|(a, b)| a * b).sum();
    matrix.iter().map(dot).collect()
}

pub fn map(a: &Row, b: &Row, f: impl Fn(f64, f64) -> f64) -> Row {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

pub fn add(a: &Row, b: &Row) -> Row {
    map(a, b, |a, b| a + b)
}

pub fn times(a: &Row, b: &Row) -> Row {
    map(a, b, |a, b| a * b)
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// x + μ (x₋₁ − x).
pub fn shifted(x: &Row, before: &Row, share: &Row) -> Row {
    (0..x.len())
        .map(|i| x[i] + share[i] * (before[i] - x[i]))
        .collect()
}

/// LayerNorm of each head.
pub fn normed(y: &Row, [weight, bias]: &[Row; 2]) -> Row {
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
pub type Step<'a> = Box<dyn Fn(&Row, &Row, &mut Row) -> Row + 'a>;

/// Runs the layer in one call and in two, for every split, on two sequences; compares with the steps from an empty state of
/// `state_len` numbers.
pub fn compare(mixer: &dyn Mixer, state_len: usize, step: Step<'_>) {
    compare_after(mixer, state_len, step, |_, _| {});
}

/// As [`compare`], after `before` has left something for the layer.
pub fn compare_after(
    mixer: &dyn Mixer,
    state_len: usize,
    step: Step<'_>,
    before: impl Fn(Tensor<3>, &mut Shared),
) {
    let (batch, time) = (2, 9);
    let mut draw = Draw::new(99);
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
                chunking: Chunking::Fastest,
                positions: &[range.start as u64; 2],
                lengths: None,
                prefix: None,
                shared: &mut shared,
            };
            outputs.push(mixer.forward(part, &mut state, &mut context).unwrap());
        }
        let found: Vec<f32> = Tensor::cat(outputs, 1).into_data().iter::<f32>().collect();
        let error = relative_error(&found, &expected);
        assert!(error <= TOLERANCE, "split at {split}: relative error {error:e}");
    }
}

pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - b));
    difference / square(&mut expected.iter().copied())
}

/// Head, key and value of every number of the state.
pub fn elements() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..SHAPE.heads)
        .flat_map(|h| (0..SHAPE.key_dim).flat_map(move |i| (0..SHAPE.value_dim).map(move |j| (h, i, j))))
}
