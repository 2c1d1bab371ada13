//! One representative of every operator, forward and backward, against its definition in f64.

mod layers;
mod recurrences;
mod state_spaces;

use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::linear::WeightType;

use super::ssm_kernel::{Diagonal, LowRank};
use super::support::relative_error;
use super::tokenwise::random;
use layers::{convolution, norm, product, softmax, step_sizes, training_product};
use recurrences::{delta_rule, recurrence, scan, taylor, wkv};
use state_spaces::{long_convolution, long_convolution_nd, shift, state_space};

/// What is wrong, where something is.
type Outcome = Result<(), String>;

/// An operator's name and its check.
type Check = (&'static str, fn() -> Outcome);

/// Every operator.
pub fn all() -> Vec<Check> {
    vec![
        ("recurrence, a decay per head and token", || {
            recurrence(DecayKind::PerHeadToken)
        }),
        ("recurrence, a decay per key and token", || {
            recurrence(DecayKind::PerKeyToken)
        }),
        ("recurrence, a constant decay per key", || {
            recurrence(DecayKind::PerKey)
        }),
        ("delta rule, no decay", || delta_rule(0)),
        ("delta rule, a decay per head", || delta_rule(1)),
        ("delta rule, a low-rank transition with decays per key", || {
            delta_rule(5)
        }),
        ("selective scan", scan),
        ("WKV-4", wkv),
        ("linear state space, diagonal", || state_space(0, false)),
        ("linear state space, diagonal with a step size per token", || {
            state_space(0, true)
        }),
        ("linear state space, low rank", || state_space(2, false)),
        ("shift state space", shift),
        ("Taylor attention", taylor),
        ("softmax attention", softmax),
        ("causal convolution", convolution),
        ("long convolution", long_convolution),
        ("long convolution over several axes", long_convolution_nd),
        ("gated norm", norm),
        ("step size", step_sizes),
        ("Vandermonde kernel", || Diagonal::large().check_host()),
        ("Cauchy kernel", || LowRank::large().check_host()),
        ("linear, f32", || product(WeightType::F32)),
        ("linear, bf16", || product(WeightType::Bf16)),
        ("linear, int8", || product(WeightType::Int8)),
        ("linear, q8_0", || product(WeightType::Q8_0)),
        ("linear, int4", || product(WeightType::Int4)),
        ("linear for training", training_product),
    ]
}

fn close(what: &str, found: &[f32], expected: &[f64], allowed: f64) -> Outcome {
    let error = relative_error(found, expected);
    // Written so that NaN fails.
    if error <= allowed {
        Ok(())
    } else {
        Err(format!("{what} is off by {error:.2e}, allowed {allowed:.2e}"))
    }
}

/// 1e-6·√(tokens + 1) forward and 2e-6·√(tokens + 1) backward, the bounds of the equivalence tests.
fn allowed(time: usize, backward: bool) -> f64 {
    (if backward { 2e-6 } else { 1e-6 }) * (time as f64 + 1.0).sqrt()
}

/// Seeded values around `middle`.
fn around(seed: u64, len: usize, middle: f32, scale: f32) -> Vec<f32> {
    random(seed, len, scale).iter().map(|x| middle + x).collect()
}
