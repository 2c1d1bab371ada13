//! All forms of the selective scan and of WKV-4 compute the same thing, and so do their gradients.

use crate::support;

mod equivalence {
    mod layout;
    mod selective_scan;
    mod wkv4;

    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::support::relative_error;

    fn config() -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(200))
        }
    }

    /// `len` values in `range`.
    fn random(seed: u64, len: usize, range: std::ops::Range<f32>) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..len).map(|_| rng.random_range(range.clone())).collect()
    }

    fn widened(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&v| f64::from(v)).collect()
    }

    /// Root mean square that expected values count with at least: sums of terms of size one that cancel keep their rounding.
    const SMALLEST: f64 = 0.25;

    /// Fails where `found` is off by more than `allowed` in the relative norm; NaN fails.
    fn check(name: &str, allowed: f64, found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
        let square: f64 = expected.iter().map(|e| e * e).sum();
        let norm = square.sqrt().max(SMALLEST * (expected.len() as f64).sqrt());
        // The helper gives the plain error where the expected values are all 0.
        let scale = if square == 0.0 { 1.0 } else { square.sqrt() };
        let error = relative_error(found, expected) * scale / norm.max(f64::MIN_POSITIVE);
        let close = error <= allowed;
        prop_assert!(close, "{name} is off by {error:.2e}, allowed {allowed:.2e}");
        Ok(())
    }

    /// What `work` gives on `threads` threads.
    fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a few threads").install(work)
    }

    /// The derivative of `loss` by each of `values`, by central differences.
    fn differences(values: &[f32], mut loss: impl FnMut(&[f32]) -> f64) -> Vec<f32> {
        let mut changed = values.to_vec();
        let mut derivatives = Vec::with_capacity(values.len());
        for (i, &value) in values.iter().enumerate() {
            let mut at = |x: f32| {
                changed[i] = x;
                (loss(&changed), f64::from(x))
            };
            let ((above, high), (below, low)) = (at(value + 1e-5), at(value - 1e-5));
            derivatives.push(((above - below) / (high - low)) as f32);
            changed[i] = value;
        }
        derivatives
    }
}
