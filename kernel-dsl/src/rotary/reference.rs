//! The definition in f64.

use super::{Positions, Problem, RotaryError};
use crate::Rows;

/// Output `[rows, heads, head_dim]`.
///
/// # Errors
/// [`RotaryError`] when a shape does not fit.
pub fn rotary(problem: &Problem, positions: &Positions, input: Rows) -> Result<Vec<f64>, RotaryError> {
    turn(problem, positions, input, 1.0)
}

/// The gradient of Σ ⟨cotangent, output⟩ by the input: the transpose of the rotation.
///
/// # Errors
/// [`RotaryError`] when a shape does not fit.
pub fn backward(problem: &Problem, positions: &Positions, cotangent: Rows) -> Result<Vec<f64>, RotaryError> {
    turn(problem, positions, cotangent, -1.0)
}

fn turn(problem: &Problem, positions: &Positions, input: Rows, sign: f64) -> Result<Vec<f64>, RotaryError> {
    let cols = problem.cols();
    let mut out = vec![0.0; input.rows() * cols];
    problem.validate(positions, &input, out.len())?;
    for b in 0..problem.batch {
        let span = positions.sequences.span(b, problem.time);
        for row in span.clone() {
            let position = positions.of(b, span.start, row) as f64;
            for head in 0..problem.heads {
                let x = &input.row(row)[head * problem.head_dim..][..problem.head_dim];
                let out = &mut out[row * cols + head * problem.head_dim..][..problem.head_dim];
                out.iter_mut().zip(x).for_each(|(out, &x)| *out = f64::from(x));
                for (j, frequency) in problem.frequencies().enumerate() {
                    let (i, k) = problem.pair(j);
                    let (sin, cos) = (sign * position * frequency).sin_cos();
                    let (a, b) = (f64::from(x[i]), f64::from(x[k]));
                    out[i] = a * cos - b * sin;
                    out[k] = b * cos + a * sin;
                }
            }
        }
    }
    Ok(out)
}
