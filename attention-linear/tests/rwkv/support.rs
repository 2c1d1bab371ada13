//! Random weights, as a layer takes them and as the loops do, the loops' algebra in f64, and the comparison.

use std::sync::Arc;

use attention_linear::rwkv::{HeadNorm, HeadShape, LowRank, LowRankActivation, TokenShift};
use burn::tensor::{Device, Tensor, TensorData};
use kernel_dsl::linear::{PackedMatrix, WeightType};
use ssm_core::{Chain, Chunking, Context, Linear, Mixer, Shared};

/// Width of the stream; 3 heads of 4 keys and 2 values.
pub const WIDTH: usize = 10;
pub const SHAPE: HeadShape = HeadShape {
    model_dim: WIDTH,
    heads: 3,
    key_dim: 4,
    value_dim: 2,
};
pub const EPS: f64 = 64e-5;
/// Rounding of some hundred f32 operations in a row.
pub const TOLERANCE: f64 = 3e-6;

pub type Row = Vec<f64>;
pub type Matrix = Vec<Row>;

/// Weights, as the layer takes them and as the loops do.
pub struct Draw(pub u64);

impl Draw {
    /// In ±1.
    pub fn number(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let value = (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        f64::from(value)
    }

    pub fn row(&mut self, length: usize) -> Row {
        (0..length).map(|_| self.number()).collect()
    }

    pub fn vector(&mut self, length: usize) -> (Tensor<1>, Row) {
        let row = self.row(length);
        (tensor([length], &row), row)
    }

    pub fn by_head(&mut self) -> (Tensor<2>, Row) {
        let row = self.row(SHAPE.keys());
        (tensor([SHAPE.heads, SHAPE.key_dim], &row), row)
    }

    pub fn linear(&mut self, outputs: usize, inputs: usize) -> (Linear, Matrix) {
        self.biased(outputs, inputs, None)
    }

    pub fn biased(&mut self, outputs: usize, inputs: usize, bias: Option<&Row>) -> (Linear, Matrix) {
        let rows: Matrix = (0..outputs).map(|_| self.row(inputs)).collect();
        let values: Vec<f32> = rows.concat().iter().map(|value| *value as f32).collect();
        let packed = PackedMatrix::pack(&values, outputs, inputs, WeightType::F32).unwrap();
        let bias = bias.map(|bias| tensor([outputs], bias));
        (Linear::new(Arc::new(packed), bias).unwrap(), rows)
    }

    /// An interpolation by the share of the previous token.
    pub fn shift(&mut self) -> (TokenShift, Row) {
        let (share, row) = self.vector(WIDTH);
        (TokenShift::of_previous(share), row)
    }

    pub fn low_rank(
        &mut self,
        activation: LowRankActivation,
        outputs: usize,
        offset: bool,
    ) -> (LowRank, Narrow) {
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

    pub fn norm(&mut self) -> (HeadNorm, [Row; 2]) {
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
                chunking: Chunking::Fastest,
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
