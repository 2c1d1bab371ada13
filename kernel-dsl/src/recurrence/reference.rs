//! The definition in f64: one plain loop over tokens, heads, keys and values. Everything else is tested against it.

mod backward;
mod normalized;

pub use backward::backward;
pub use normalized::{normalized, normalized_backward};

use super::problem::{Inputs, OPERATOR, Problem, ReadOut, RecurrenceError};
use crate::decay::{DecayScope, LogDecay};

/// The recurrence in f64, token by token (see [the module](crate::recurrence) for the formula).
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`, zeros in rows that
/// belong to no sequence.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong.
pub fn recurrence(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f64],
    out: &mut [f64],
) -> Result<(), RecurrenceError> {
    let free = vec![f32::INFINITY; problem.heads];
    recurrence_bounded(problem, inputs, &free, state, out).map(|_| ())
}

/// The recurrence in f64 whose states are held below a Frobenius norm of `bound[head]` after every token:
/// h ← h · min(1, p / ‖h‖). Returns how many (token, head) pairs were clipped.
///
/// # Shapes
/// As for [`recurrence`]; `bound` `[heads]`, `+inf` for a free head.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or a bound is negative or NaN.
pub fn recurrence_bounded(
    problem: &Problem,
    inputs: &Inputs,
    bound: &[f32],
    state: &mut [f64],
    out: &mut [f64],
) -> Result<u64, RecurrenceError> {
    problem.validate_inputs(inputs)?;
    problem.check_bound(bound)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    OPERATOR.values("out", problem.out_len(inputs.sequences), out.len())?;
    let Problem {
        batch,
        time,
        heads,
        value_dim,
        ..
    } = *problem;
    let mut clipped = 0;
    out.fill(0.0);
    for b in 0..batch {
        for row in inputs.sequences.span(b, time) {
            for head in 0..heads {
                let h =
                    &mut state[(b * heads + head) * problem.head_state_len()..][..problem.head_state_len()];
                let y = &mut out[(row * heads + head) * value_dim..][..value_dim];
                let at = (row, head);
                skip(problem, inputs, at, y);
                if problem.read_out == ReadOut::Bonus {
                    read(problem, inputs, at, h, y);
                }
                update(problem, inputs, at, h);
                clipped += u64::from(clip(h, f64::from(bound[head])));
                if problem.read_out == ReadOut::Inclusive {
                    read(problem, inputs, at, h, y);
                }
            }
        }
    }
    Ok(clipped)
}

/// Writes the skip of one head at one token: y ← D∘v.
fn skip(problem: &Problem, inputs: &Inputs, (row, head): (usize, usize), y: &mut [f64]) {
    let value = &inputs.value.row(row)[head * problem.value_dim..];
    for (p, y) in y.iter_mut().enumerate() {
        *y = skip_of(problem, inputs, head, p) * f64::from(value[p]);
    }
}

/// D of value `p` of one head, 0 without a skip.
fn skip_of(problem: &Problem, inputs: &Inputs, head: usize, p: usize) -> f64 {
    inputs.skip.map_or(0.0, |skip| {
        f64::from(if skip.len() == problem.heads {
            skip[head]
        } else {
            skip[head * problem.value_dim + p]
        })
    })
}

/// h ← a∘h + k (δ v)ᵀ.
fn update(problem: &Problem, inputs: &Inputs, (row, head): (usize, usize), h: &mut [f64]) {
    let Problem {
        key_dim, value_dim, ..
    } = *problem;
    let key = &inputs.key.row(row)[problem.group_of(head) * key_dim..];
    let value = &inputs.value.row(row)[head * value_dim..];
    let step = inputs
        .step_size
        .map_or(1.0, |steps| f64::from(steps.row(row)[head]));
    for n in 0..key_dim {
        let decay = log_decay(problem, inputs, (row, head), n).exp();
        for p in 0..value_dim {
            let x = &mut h[n * value_dim + p];
            *x = decay * *x + f64::from(key[n]) * step * f64::from(value[p]);
        }
    }
}

/// h ← h · min(1, p / ‖h‖); whether that changed h.
fn clip(h: &mut [f64], bound: f64) -> bool {
    let norm = h.iter().map(|x| x * x).sum::<f64>().sqrt();
    let exceeds = norm > bound;
    if exceeds {
        h.iter_mut().for_each(|x| *x *= bound / norm);
    }
    exceeds
}

/// y += scale · qᵀ h; with a bonus, y += scale · qᵀ (h + (u∘k)(δ v)ᵀ).
fn read(problem: &Problem, inputs: &Inputs, (row, head): (usize, usize), h: &[f64], y: &mut [f64]) {
    let Problem {
        key_dim, value_dim, ..
    } = *problem;
    let query = &inputs.query.row(row)[problem.group_of(head) * key_dim..];
    let key = &inputs.key.row(row)[problem.group_of(head) * key_dim..];
    let value = &inputs.value.row(row)[head * value_dim..];
    let step = inputs
        .step_size
        .map_or(1.0, |steps| f64::from(steps.row(row)[head]));
    for n in 0..key_dim {
        let q = f64::from(inputs.scale) * f64::from(query[n]);
        let bonus = inputs
            .bonus
            .map_or(0.0, |u| f64::from(u[head * key_dim + n]) * f64::from(key[n]));
        for p in 0..value_dim {
            y[p] += q * (h[n * value_dim + p] + bonus * step * f64::from(value[p]));
        }
    }
}

/// ln a of key `n` of one head at one token.
fn log_decay(problem: &Problem, inputs: &Inputs, (row, head): (usize, usize), n: usize) -> f64 {
    let index = match problem.decay.scope() {
        DecayScope::None => 0,
        DecayScope::Head => head,
        DecayScope::Key => head * problem.key_dim + n,
    };
    match inputs.log_decay {
        LogDecay::None => 0.0,
        LogDecay::Constant(values) => f64::from(values[index]),
        LogDecay::Token(rows) => f64::from(rows.row(row)[index]),
    }
}
