//! What golden cases of Based and ReBased say.

use spillway_kernel_dsl::taylor_attention::{Expansion, Inputs, Problem};

use super::support::Case;

/// The problem of a case of Based or ReBased.
pub fn problem(case: &Case, expansion: Expansion) -> Problem {
    let key_dim = case.dim("K");
    let normalized = case.scalar_if_any("use_norm").is_none_or(|norm| norm != 0.0);
    let eps = case.scalar_if_any("eps").unwrap_or(1e-6);
    let scale = case.scalar_if_any("scale");
    Problem {
        batch: case.dim("B"),
        time: case.dim("T"),
        prefix: 0,
        heads: case.dim("H"),
        key_dim,
        value_dim: case.dim("V"),
        scale: scale.unwrap_or(1.0 / (key_dim as f64).sqrt()) as f32,
        expansion,
        normalizer: normalized.then_some(eps as f32),
    }
}

/// How much a weight's rounding grows where it is read from the state. Squares (q·k)² that nearly vanish are differences of
/// features as large as |q|²|k|², which the parallel form never sees: the root mean square of Σ |q|²|k|² / Σ (q·k)² over
/// the tokens that read a state. Taylor weights are at least ½, and need no such allowance.
pub fn condition(problem: &Problem, inputs: &Inputs, chunk_size: usize) -> f64 {
    if problem.expansion == Expansion::Taylor {
        return 1.0;
    }
    let (mut squares, mut count) = (0.0, 0.0);
    for row in 0..problem.batch * problem.time {
        let t = row % problem.time;
        if t < chunk_size {
            continue;
        }
        for head in 0..problem.heads {
            let keys = head * problem.key_dim..(head + 1) * problem.key_dim;
            let query = &inputs.query.row(row)[keys.clone()];
            let (mut sizes, mut weights) = (0.0, 0.0);
            for key in (row - t..=row).map(|row| &inputs.key.row(row)[keys.clone()]) {
                sizes += inner(query, query) * inner(key, key);
                weights += inner(query, key).powi(2);
            }
            squares += (sizes / weights).powi(2);
            count += 1.0;
        }
    }
    if count == 0.0 {
        1.0
    } else {
        f64::sqrt(squares / count).max(1.0)
    }
}

fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The state as `[batch, heads, value_dim, D]` with all K² products, and its denominator's sums.
pub fn check_state(case: &Case, form: &str, problem: &Problem, state: &[f32]) {
    if !case.has_output("kv_T") {
        return;
    }
    let (key_dim, columns) = (problem.key_dim, problem.columns());
    // Where each of the K² products lies among the packed ones.
    let mut places: Vec<(usize, f32)> = (0..=key_dim).map(|d| (d, 1.0)).collect();
    for i in 0..key_dim {
        for j in 0..key_dim {
            let (low, high) = (i.min(j), i.max(j));
            let before = low * key_dim - low * low.saturating_sub(1) / 2;
            let factor = if i == j {
                1.0
            } else {
                std::f32::consts::FRAC_1_SQRT_2
            };
            places.push((1 + key_dim + before + high - low, factor));
        }
    }
    let (mut values, mut sums) = (Vec::new(), Vec::new());
    for head in state.chunks_exact(problem.features() * columns) {
        for column in 0..columns {
            let entries = places
                .iter()
                .map(|&(d, factor)| factor * head[d * columns + column]);
            if column < problem.value_dim {
                values.extend(entries);
            } else {
                sums.extend(entries);
            }
        }
    }
    case.check(form, "kv_T", &values);
    if problem.normalizer.is_some() {
        case.check(form, "k_T", &sums);
    }
}
