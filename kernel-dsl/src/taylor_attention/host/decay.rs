//! The numerator's decay inside of a chunk: powers of γ, on all columns but the denominator's.

use crate::taylor_attention::Problem;

/// γ⁰, γ¹, … of a head.
#[derive(Default)]
pub(super) struct Decay {
    /// ln γ; `None` where nothing decays.
    log: Option<f32>,
    powers: Vec<f32>,
}

impl Decay {
    /// The powers for chunks of up to `longest` tokens.
    pub fn new(log: Option<f32>, longest: usize) -> Self {
        let power = |log: f32| move |n: usize| (f64::from(log) * n as f64).exp() as f32;
        let powers = log.map(|log| (0..=longest).map(power(log)).collect());
        Self {
            log,
            powers: powers.unwrap_or_default(),
        }
    }

    /// Whether the head's numerator decays.
    pub fn is_some(&self) -> bool {
        self.log.is_some()
    }

    /// γⁿ, n up to the longest chunk.
    pub fn power(&self, n: usize) -> f32 {
        self.powers.get(n).copied().unwrap_or(1.0)
    }

    /// Multiplies the value columns of row i of `[rows, columns]` by γ to the power of `exponent(i)`.
    pub fn scale_rows(&self, problem: &Problem, rows: &mut [f32], exponent: impl Fn(usize) -> usize) {
        if !self.is_some() {
            return;
        }
        for (i, row) in rows.chunks_exact_mut(problem.columns()).enumerate() {
            let factor = self.power(exponent(i));
            row[..problem.value_dim].iter_mut().for_each(|x| *x *= factor);
        }
    }

    /// Multiplies W_ij, i down, by γ^{i−j} up to the diagonal.
    pub fn scale_weights(&self, count: usize, weights: &mut [f32]) {
        if !self.is_some() {
            return;
        }
        for (i, row) in weights.chunks_exact_mut(count.max(1)).enumerate() {
            for (j, weight) in row[..=i].iter_mut().enumerate() {
                *weight *= self.power(i - j);
            }
        }
    }
}
