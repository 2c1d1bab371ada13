//! How long a head remembers.
//!
//! A token written at position s is weighted α_{s+1} ⋯ α_t at position t, so with the mean of log α
//!
//! ```text
//! retention time  τ = −1 / mean(log α)        kept over T tokens = exp(T · mean(log α))
//! ```
//!
//! The first token's memory strength at t is exp(Σ_{2 ≤ j ≤ t} log α_j). Everything is summed as logarithms in f64: the products
//! underflow within a few thousand tokens. Where decays differ between the key rows of a head, log α is the mean over its rows.

use serde::{Deserialize, Serialize};

/// How long a head remembers, measured inside the training length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// Mean of log α over the training length.
    pub mean_log_decay: f64,
    /// τ in tokens; absent when nothing is forgotten, or when a delta rule rather adds than takes away.
    pub retention_time: Option<f64>,
    /// Share of a token that is left after the training length.
    pub kept_over_train_length: f64,
}

impl Retention {
    /// Retention of a head with this mean of log α, in a model trained on `train_length` tokens.
    pub fn new(mean_log_decay: f64, train_length: u64) -> Self {
        Self {
            mean_log_decay,
            retention_time: (mean_log_decay < 0.0).then(|| -1.0 / mean_log_decay),
            kept_over_train_length: (train_length as f64 * mean_log_decay).exp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_keeps_half_over_the_training_length() {
        let retention = Retention::new(0.5_f64.ln() / 64.0, 64);
        assert!((retention.kept_over_train_length - 0.5).abs() < 1e-12);
        assert!((retention.retention_time.expect("finite") - 64.0 / 2.0_f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn a_head_without_decay_keeps_everything() {
        let retention = Retention::new(0.0, 2048);
        assert_eq!(
            (retention.retention_time, retention.kept_over_train_length),
            (None, 1.0)
        );
    }
}
