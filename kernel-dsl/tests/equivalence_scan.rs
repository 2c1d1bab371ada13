//! All forms of the selective scan and of WKV-4 compute the same thing, and so do their gradients.

mod support;

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
            ..ProptestConfig::with_cases(200)
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

    /// Fails where `found` is off by more than `allowed` in the relative norm; NaN fails.
    fn check(name: &str, allowed: f64, found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
        let error = relative_error(found, expected);
        let close = error <= allowed;
        prop_assert!(close, "{name} is off by {error:.2e}, allowed {allowed:.2e}");
        Ok(())
    }

    /// Root mean square error that any gradient may have: what rounding leaves of terms of size one that cancel.
    const CANCELLED: f64 = 5e-7;

    /// [`check`] for a gradient, which is a difference of terms of size one and may nearly vanish.
    fn check_gradient(
        name: &str,
        allowed: f64,
        found: &[f32],
        expected: &[f64],
    ) -> Result<(), TestCaseError> {
        let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
        let floor = CANCELLED * (expected.len() as f64).sqrt();
        check(
            name,
            if norm > 0.0 {
                allowed.max(floor / norm)
            } else {
                floor
            },
            found,
            expected,
        )
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
