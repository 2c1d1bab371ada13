//! Arithmetic of the reference: products, norms and states in f64, which may be off by the roundings of f32.

use super::rounding::rounded;

pub type Row = Vec<f64>;

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| rounded(a * b)).sum()
}

pub fn softmax(x: &[f64]) -> Row {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| rounded(x.exp() / sum)).collect()
}

/// x / √(mean x² + ε).
pub fn rms(x: &[f64], eps: f64) -> Row {
    let scale = (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().map(|x| rounded(x / scale)).collect()
}

/// A state `[key_dim][value_dim]`.
pub type State = Vec<Row>;

pub fn empty(rows: usize, cols: usize) -> State {
    vec![vec![0.0; cols]; rows]
}

pub fn read(state: &State, query: &[f64]) -> Row {
    let mut out = vec![0.0; state.first().map_or(0, Vec::len)];
    for (row, q) in state.iter().zip(query) {
        out.iter_mut().zip(row).for_each(|(o, h)| *o += rounded(q * h));
    }
    out
}

pub fn add_product(state: &mut State, key: &[f64], value: &[f64]) {
    for (row, k) in state.iter_mut().zip(key) {
        row.iter_mut().zip(value).for_each(|(h, v)| *h += rounded(k * v));
    }
}

/// Rows of heads, by token.
pub type Heads = Vec<Vec<Row>>;

pub fn split(rows: Vec<Row>, width: usize) -> Heads {
    let split = |row: Row| row.chunks(width).map(<[f64]>::to_vec).collect();
    rows.into_iter().map(split).collect()
}

pub fn map(heads: Heads, f: impl Fn(&[f64]) -> Row) -> Heads {
    let token = |token: Vec<Row>| token.iter().map(|head| f(head)).collect();
    heads.into_iter().map(token).collect()
}

/// `count` heads from fewer, each repeated for neighbours.
pub fn spread(heads: Heads, count: usize) -> Heads {
    let token = |token: Vec<Row>| {
        let share = count / token.len();
        token.into_iter().flat_map(|head| vec![head; share]).collect()
    };
    heads.into_iter().map(token).collect()
}

/// Every head turned by its token's position, halves paired.
pub fn turned(heads: Heads, base: f64) -> Heads {
    let turn = |t: usize, head: Row| -> Row {
        let half = head.len() / 2;
        let angle = |j: usize| t as f64 * base.powf(-(j as f64) / half as f64);
        let first = (0..half).map(|j| head[j] * angle(j).cos() - head[half + j] * angle(j).sin());
        let second = (0..half).map(|j| head[half + j] * angle(j).cos() + head[j] * angle(j).sin());
        first.chain(second).collect()
    };
    let token = |(t, token): (usize, Vec<Row>)| token.into_iter().map(|head| turn(t, head)).collect();
    heads.into_iter().enumerate().map(token).collect()
}
