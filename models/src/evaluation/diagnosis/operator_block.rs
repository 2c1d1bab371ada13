//! How many dimensions of its past a head's outputs can depend on: the effective state size.
//!
//! A recurrence is a linear operator on its values, y_s = Σ_j T_{sj} v_j (every column alike). What the past can do to the future at
//! position t passes through the state, and is the block of T with rows s ≥ t and columns j < t:
//!
//! ```text
//! H_{sj} = ã_sᵀ k̃_j        k̃_j = M_{t−1} ⋯ M_{j+1} k_j δ_j        ã_s = (M_s ⋯ M_t)ᵀ q_s
//! ```
//!
//! with M the token's transition: diag(a) in a weighted sum, (1 − β k kᵀ) diag(a) or diag(a) + b pᵀ in a delta rule (which writes β k
//! instead of k in the first form); where a read-out comes before its update, M_s is left out. Its rank is at most K, the rows of
//! the state; with singular values σ the *effective state size* is exp(−Σ p ln p), p = σ / Σσ. A head whose state has K = 128 rows and
//! an effective size of 9 uses 9 of them.
//!
//! Only Gram matrices are kept, Σ k̃ k̃ᵀ and Σ ã ãᵀ, from which σ² are the eigenvalues of their product; of the last [`WINDOW`] tokens before
//! t and the first as many from there on, so that the work does not grow with the training length.
//!
//! Source: Parnichkun et al., *Quantifying Memory Utilization with Effective State-Size* (2504.19561), section 3, the entropy form.

use nalgebra::{DMatrix, SymmetricEigen};

/// Tokens on either side of t at most.
pub const WINDOW: u64 = 256;
/// Rows of a state beyond which there is none: its matrices would be too large.
pub const LARGEST_KEY: usize = 320;

/// What a token multiplies the state of a head by.
#[derive(Clone, Copy, Debug)]
pub enum Transition<'a> {
    /// diag(a), the transition of a weighted sum.
    Diagonal,
    /// (1 − β k kᵀ) diag(a).
    Delta {
        /// β, the strength of the update along k.
        beta: f64,
        /// k, the key along which the state is erased, `[K]`.
        key: &'a [f32],
    },
    /// diag(a) + b pᵀ.
    LowRank {
        /// p, the direction in which the state is read for the update, `[K]`.
        p: &'a [f32],
        /// b, the direction in which what was read is added back, `[K]`.
        b: &'a [f32],
    },
}

/// What one token does to the state of one head, and what it reads there.
#[derive(Clone, Copy, Debug)]
pub struct BlockToken<'a> {
    /// a of the key rows: one number for all of them, or one each, as logarithms.
    pub log_decays: &'a [f32],
    /// What else it does to the state.
    pub transition: Transition<'a>,
    /// k, the key that the token's value is written at, `[K]`.
    pub key: &'a [f32],
    /// What k is multiplied by where it is written: δ, times β in a delta rule.
    pub size: f64,
    /// q; not looked at before t.
    pub query: &'a [f32],
    /// Whether it is read before the state is updated.
    pub reads_first: bool,
}

/// The Gram matrices of the block of one head so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorBlock {
    key_dim: usize,
    /// Σ k̃ k̃ᵀ, `[key_dim, key_dim]`.
    past: Vec<f64>,
    /// Σ ã ãᵀ, the same.
    future: Vec<f64>,
    /// M_s ⋯ M_t, the same; empty for the identity.
    passage: Vec<f64>,
}

impl OperatorBlock {
    /// The matrices before the first token, for a state of `key_dim` rows.
    pub fn new(key_dim: usize) -> Self {
        Self {
            key_dim,
            past: vec![0.0; key_dim * key_dim],
            future: vec![0.0; key_dim * key_dim],
            passage: Vec::new(),
        }
    }

    /// All three, one after another.
    pub fn to_array(&self) -> Vec<f64> {
        [self.past.as_slice(), &self.future, &self.passage].concat()
    }

    /// The inverse of [`Self::to_array`]; `None` for another number of values.
    pub fn from_array(key_dim: usize, values: &[f64]) -> Option<Self> {
        let size = key_dim * key_dim;
        let passage = values.len().checked_sub(2 * size)?;
        (passage == 0 || passage == size).then(|| Self {
            key_dim,
            past: values[..size].to_vec(),
            future: values[size..2 * size].to_vec(),
            passage: values[2 * size..].to_vec(),
        })
    }

    /// Takes in a token before t.
    pub fn written(&mut self, token: &BlockToken<'_>) {
        let n = self.key_dim;
        // M G Mᵀ = M (M G)ᵀ for a symmetric G.
        for _ in 0..2 {
            apply(token, &mut self.past, n);
            transpose(&mut self.past, n);
        }
        let weight = token.size * token.size;
        add_square(&mut self.past, token.key.iter().map(|&k| f64::from(k)), weight, n);
    }

    /// Takes in a token from t on.
    pub fn read(&mut self, token: &BlockToken<'_>) {
        let n = self.key_dim;
        if self.passage.is_empty() {
            self.passage = vec![0.0; n * n];
            (0..n).for_each(|row| self.passage[row * (n + 1)] = 1.0);
        }
        if token.reads_first {
            self.add_read(token.query);
        }
        apply(token, &mut self.passage, n);
        if !token.reads_first {
            self.add_read(token.query);
        }
    }

    /// ã = passageᵀ q.
    fn add_read(&mut self, query: &[f32]) {
        let n = self.key_dim;
        let mut read = vec![0.0; n];
        for (row, &q) in self.passage.chunks(n).zip(query) {
            let q = f64::from(q);
            read.iter_mut().zip(row).for_each(|(sum, x)| *sum += q * x);
        }
        add_square(&mut self.future, read.into_iter(), 1.0, n);
    }

    /// The effective state size; `None` where a number is not finite, or nothing passes from past to future.
    pub fn effective_size(&self) -> Option<f64> {
        let n = self.key_dim;
        if !self.past.iter().chain(&self.future).all(|x| x.is_finite()) {
            return None;
        }
        let past = SymmetricEigen::new(DMatrix::from_row_slice(n, n, &self.past));
        let future = DMatrix::from_row_slice(n, n, &self.future);
        let roots = past.eigenvalues.map(|value| value.max(0.0).sqrt());
        let half = past.eigenvectors * DMatrix::from_diagonal(&roots);
        let product = half.transpose() * future * &half;
        let squares = product.symmetric_eigenvalues();
        entropy_rank(squares.iter().map(|square| square.max(0.0).sqrt()))
    }
}

/// exp(−Σ p ln p) with p = σ / Σσ: 1 where one singular value is all there is, n where n are alike. `None` where all are 0.
///
/// Source: Roy and Vetterli, *The effective rank* (EUSIPCO 2007).
pub fn entropy_rank(singular_values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let sum: f64 = singular_values.clone().sum();
    if !(sum.is_finite() && sum > 0.0) {
        return None;
    }
    let entropy: f64 = singular_values
        .map(|value| value / sum)
        .filter(|share| *share > 0.0)
        .map(|share| -share * share.ln())
        .sum();
    Some(entropy.exp())
}

/// The effective rank of a state `[rows, columns]`; `None` for one that is 0 or not finite.
pub fn effective_rank(state: &[f32], rows: usize, columns: usize) -> Option<f64> {
    if rows * columns == 0 || !state.iter().all(|x| x.is_finite()) {
        return None;
    }
    let state = DMatrix::from_row_iterator(rows, columns, state.iter().map(|&x| f64::from(x)));
    let gram = match rows <= columns {
        true => &state * state.transpose(),
        false => state.transpose() * &state,
    };
    let squares = gram.symmetric_eigenvalues();
    entropy_rank(squares.iter().map(|square| square.max(0.0).sqrt()))
}

/// X ← M X.
fn apply(token: &BlockToken<'_>, matrix: &mut [f64], n: usize) {
    let under = |matrix: &[f64], vector: &[f32]| {
        let mut sums = vec![0.0; n];
        for (row, &x) in matrix.chunks(n).zip(vector) {
            let x = f64::from(x);
            sums.iter_mut()
                .zip(row)
                .for_each(|(sum, entry)| *sum += x * entry);
        }
        sums
    };
    let removed = match token.transition {
        Transition::LowRank { p, .. } => under(matrix, p),
        Transition::Diagonal | Transition::Delta { .. } => Vec::new(),
    };
    for (row, entries) in matrix.chunks_mut(n).enumerate() {
        let decay = f64::from(token.log_decays[row % token.log_decays.len()]).exp();
        entries.iter_mut().for_each(|entry| *entry *= decay);
    }
    match token.transition {
        Transition::Diagonal => {}
        Transition::LowRank { b, .. } => add_product(matrix, b, 1.0, &removed),
        Transition::Delta { beta, key } => {
            let held = under(matrix, key);
            add_product(matrix, key, -beta, &held);
        }
    }
}

/// X ← X + factor · column rowᵀ.
fn add_product(matrix: &mut [f64], column: &[f32], factor: f64, row: &[f64]) {
    for (entries, &x) in matrix.chunks_mut(row.len()).zip(column) {
        let x = factor * f64::from(x);
        entries.iter_mut().zip(row).for_each(|(entry, y)| *entry += x * y);
    }
}

fn transpose(matrix: &mut [f64], n: usize) {
    for row in 0..n {
        for column in 0..row {
            matrix.swap(row * n + column, column * n + row);
        }
    }
}

/// G ← G + weight · x xᵀ.
fn add_square(gram: &mut [f64], vector: impl Iterator<Item = f64>, weight: f64, n: usize) {
    let vector: Vec<f64> = vector.collect();
    for (row, x) in gram.chunks_mut(n).zip(&vector) {
        let x = weight * x;
        row.iter_mut().zip(&vector).for_each(|(entry, y)| *entry += x * y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const N: usize = 5;

    /// Numbers of a token that outlive it.
    struct Numbers {
        decays: Vec<f32>,
        key: Vec<f32>,
        query: Vec<f32>,
        p: Vec<f32>,
        b: Vec<f32>,
        beta: f64,
        size: f64,
    }

    fn numbers(random: &mut StdRng, per_key: bool) -> Numbers {
        let mut vector = |n: usize| -> Vec<f32> { (0..n).map(|_| random.random_range(-0.6..0.6)).collect() };
        let decays = vector(if per_key { N } else { 1 });
        let (key, query, p, b) = (vector(N), vector(N), vector(N), vector(N));
        Numbers {
            decays: decays.iter().map(|x| -x.abs()).collect(),
            key,
            query,
            p,
            b,
            beta: random.random_range(0.0..1.0),
            size: random.random_range(0.1..2.0),
        }
    }

    fn matrix(token: &BlockToken<'_>) -> DMatrix<f64> {
        let column = |values: &[f32]| DMatrix::from_iterator(N, 1, values.iter().map(|&x| f64::from(x)));
        let decays = (0..N).map(|row| f64::from(token.log_decays[row % token.log_decays.len()]).exp());
        let diagonal = DMatrix::from_diagonal(&nalgebra::DVector::from_iterator(N, decays));
        match token.transition {
            Transition::Diagonal => diagonal,
            Transition::LowRank { p, b } => diagonal + column(b) * column(p).transpose(),
            Transition::Delta { beta, key } => {
                (DMatrix::identity(N, N) - column(key) * column(key).transpose() * beta) * diagonal
            }
        }
    }

    #[test]
    fn the_size_is_that_of_the_block_written_out() {
        let mut random = StdRng::seed_from_u64(11);
        for (rule, per_key, reads_first) in [
            (0, false, false),
            (0, true, true),
            (1, false, false),
            (1, true, false),
            (2, true, false),
        ] {
            let all: Vec<Numbers> = (0..19).map(|_| numbers(&mut random, per_key)).collect();
            let tokens: Vec<BlockToken<'_>> = all
                .iter()
                .map(|numbers| BlockToken {
                    log_decays: &numbers.decays,
                    transition: match rule {
                        0 => Transition::Diagonal,
                        1 => Transition::Delta {
                            beta: numbers.beta,
                            key: &numbers.key,
                        },
                        _ => Transition::LowRank {
                            p: &numbers.p,
                            b: &numbers.b,
                        },
                    },
                    key: &numbers.key,
                    size: numbers.size,
                    query: &numbers.query,
                    reads_first,
                })
                .collect();
            let (past, future) = tokens.split_at(11);
            let mut block = OperatorBlock::new(N);
            past.iter().for_each(|token| block.written(token));
            future.iter().for_each(|token| block.read(token));
            // T itself: a unit value written at j, and read at s.
            let entry = |s: usize, j: usize| {
                let mut state = DMatrix::from_iterator(N, 1, past[j].key.iter().map(|&x| f64::from(x)));
                state *= past[j].size;
                past[j + 1..]
                    .iter()
                    .for_each(|token| state = matrix(token) * &state);
                let until = if reads_first { s } else { s + 1 };
                future[..until]
                    .iter()
                    .for_each(|token| state = matrix(token) * &state);
                let query = future[s].query.iter().map(|&x| f64::from(x));
                query.zip(state.iter()).map(|(q, h)| q * h).sum::<f64>()
            };
            let written_out = DMatrix::from_fn(future.len(), past.len(), entry);
            let values = written_out.singular_values();
            let expected = entropy_rank(values.iter().copied()).expect("a block");
            let found = block.effective_size().expect("a block");
            assert!((found - expected).abs() < 1e-6, "rule {rule}: {found} {expected}");
            assert!(found > 1.0 && found <= N as f64);
            let restored = OperatorBlock::from_array(N, &block.to_array());
            assert_eq!(restored.as_ref(), Some(&block));
        }
        assert_eq!(OperatorBlock::new(N).effective_size(), None);
        assert_eq!(OperatorBlock::from_array(N, &[0.0; 51]), None);
    }

    #[test]
    fn a_rank_counts_directions_that_are_alike() {
        assert_eq!(entropy_rank([2.0, 0.0, 0.0].into_iter()), Some(1.0));
        let alike = entropy_rank([0.5; 4].into_iter()).expect("a rank");
        assert!((alike - 4.0).abs() < 1e-12);
        for bad in [0.0, f64::NAN, f64::INFINITY] {
            assert_eq!(entropy_rank([bad].into_iter()), None);
        }
        // Two rows at right angles, of length 1 and 1, in a state of three columns.
        let state = [0.6, 0.8, 0.0, -0.8, 0.6, 0.0];
        let rank = effective_rank(&state, 2, 3).expect("a rank");
        assert!((rank - 2.0).abs() < 1e-6, "{rank}");
        assert_eq!(effective_rank(&[0.0; 6], 2, 3), None);
        assert_eq!(effective_rank(&[f32::NAN, 1.0], 1, 2), None);
    }
}
