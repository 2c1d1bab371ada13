//! The definition in f64.

use super::{Inputs, Problem, SoftmaxError};

/// Output `[batch · time, heads, value_dim]`, from a cache that is left as it is.
///
/// # Errors
/// [`SoftmaxError`] when a shape does not fit.
pub fn softmax_attention(
    problem: &Problem,
    inputs: &Inputs,
    keys: &[f32],
    values: &[f32],
) -> Result<Vec<f64>, SoftmaxError> {
    let (heads, groups, value_dim) = (problem.heads, problem.groups, problem.value_dim);
    let mut out = vec![0.0; problem.batch * problem.time * heads * value_dim];
    problem.validate(inputs, keys.len(), values.len(), out.len())?;
    for (row, out) in out.chunks_exact_mut(heads * value_dim).enumerate() {
        let (b, t) = (row / problem.time, row % problem.time);
        let length = inputs.lengths[b];
        for (head, out) in out.chunks_exact_mut(value_dim).enumerate() {
            let group = head / (heads / groups);
            let query = &inputs.query.row(row)[head * problem.key_dim..][..problem.key_dim];
            let scores: Vec<(usize, f64)> = problem
                .visible(length + t)
                .map(|j| {
                    let key = stored(problem, inputs, keys, (b, group, j), problem.key_dim, true);
                    let product: f64 = query
                        .iter()
                        .zip(key)
                        .map(|(&q, &k)| f64::from(q) * f64::from(k))
                        .sum();
                    (j, f64::from(problem.scale) * product)
                })
                .collect();
            let highest = scores.iter().fold(f64::NEG_INFINITY, |m, (_, s)| m.max(*s));
            let sum: f64 = scores.iter().map(|(_, s)| (s - highest).exp()).sum();
            for (j, score) in scores {
                let weight = (score - highest).exp() / sum;
                let value = stored(problem, inputs, values, (b, group, j), value_dim, false);
                for (y, &v) in out.iter_mut().zip(value) {
                    *y += weight * f64::from(v);
                }
            }
        }
    }
    Ok(out)
}

/// Key or value of token `j`: in the cache, or among the tokens at hand.
fn stored<'a>(
    problem: &Problem,
    inputs: &Inputs<'a>,
    cache: &'a [f32],
    (b, group, j): (usize, usize, usize),
    dim: usize,
    key: bool,
) -> &'a [f32] {
    match j.checked_sub(inputs.lengths[b]) {
        None => &cache[((b * problem.groups + group) * problem.capacity + j) * dim..][..dim],
        Some(t) => {
            let rows = if key { inputs.key } else { inputs.value };
            &rows.row(b * problem.time + t)[group * dim..][..dim]
        }
    }
}
