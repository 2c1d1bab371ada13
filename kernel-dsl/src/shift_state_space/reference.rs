//! The definition in f64: plain loops over tokens, channels and state values. Everything else is tested against it.

use super::problem::{Cotangents, Gradients, Inputs, Problem, Results, ShiftError};

/// The recurrence in f64, token by token (see [the module](crate::shift_state_space) for the formula).
///
/// # Errors
/// [`ShiftError`] when a shape is wrong.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    outputs: &mut Results<&mut [f64], &mut [f64]>,
) -> Result<(), ShiftError> {
    problem.validate_forward(inputs, outputs)?;
    outputs.out.fill(0.0);
    let Problem {
        channels,
        state_dim: n,
        ..
    } = *problem;
    for b in 0..problem.batch {
        for h in 0..channels {
            let mut state = initial_state(problem, inputs, b, h);
            for row in problem.sequences.span(b, problem.time) {
                let u = f64::from(inputs.input.row(row)[h]);
                state = shifted(problem, inputs, h, &state, u);
                for output in 0..problem.outputs {
                    let at = output * channels + h;
                    let c = &inputs.c[at * n..(at + 1) * n];
                    let y: f64 = c.iter().zip(&state).map(|(c, s)| f64::from(*c) * s).sum();
                    let skip = inputs.skip.map_or(0.0, |skip| f64::from(skip[at]));
                    outputs.out[row * problem.outputs * channels + at] = y + skip * u;
                }
            }
            outputs.state[(b * channels + h) * n..][..n].copy_from_slice(&state);
        }
    }
    Ok(())
}

fn initial_state(problem: &Problem, inputs: &Inputs, b: usize, h: usize) -> Vec<f64> {
    let n = problem.state_dim;
    match inputs.state {
        Some(state) => state[(b * problem.channels + h) * n..][..n]
            .iter()
            .map(|&s| f64::from(s))
            .collect(),
        None => vec![0.0; n],
    }
}

/// shift(s) + B u.
fn shifted(problem: &Problem, inputs: &Inputs, h: usize, state: &[f64], u: f64) -> Vec<f64> {
    let b = &inputs.b[h * problem.state_dim..(h + 1) * problem.state_dim];
    let before = |n: usize| if n == 0 { 0.0 } else { state[n - 1] };
    b.iter()
        .enumerate()
        .map(|(n, b)| before(n) + f64::from(*b) * u)
        .collect()
}

/// The gradients in f64, from the states of all tokens: s̄_t += Cᵀ ȳ_t, ∂C += ȳ_t s_t, ∂B += s̄_t u_t, ∂u_t = B · s̄_t + D ȳ_t, and
/// s̄_{t−1} is s̄_t shifted back.
///
/// # Errors
/// [`ShiftError`] when a shape is wrong.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
) -> Result<(), ShiftError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    gradients.input.fill(0.0);
    gradients.b.fill(0.0);
    gradients.c.fill(0.0);
    if let Some(skip) = &mut gradients.skip {
        skip.fill(0.0);
    }
    for b in 0..problem.batch {
        for h in 0..problem.channels {
            sequence_backward(problem, inputs, cotangents, gradients, (b, h));
        }
    }
    Ok(())
}

fn sequence_backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
    (b, h): (usize, usize),
) {
    let Problem {
        channels,
        state_dim: n,
        ..
    } = *problem;
    let u = |row: usize| f64::from(inputs.input.row(row)[h]);
    let span = problem.sequences.span(b, problem.time);
    let mut states = vec![initial_state(problem, inputs, b, h)];
    for row in span.clone() {
        states.push(shifted(problem, inputs, h, &states[states.len() - 1], u(row)));
    }
    let of_state = (b * channels + h) * n..(b * channels + h + 1) * n;
    let mut adjoint: Vec<f64> = match cotangents.state {
        Some(state) => state[of_state.clone()].iter().map(|&s| f64::from(s)).collect(),
        None => vec![0.0; n],
    };
    for (at, row) in span.enumerate().rev() {
        let mut by_input = 0.0;
        for output in 0..problem.outputs {
            let column = output * channels + h;
            let y = cotangents.out.map_or(0.0, |out| f64::from(out.row(row)[column]));
            for i in 0..n {
                adjoint[i] += f64::from(inputs.c[column * n + i]) * y;
                gradients.c[column * n + i] += states[at + 1][i] * y;
            }
            if let Some(skip) = &mut gradients.skip {
                skip[column] += y * u(row);
            }
            by_input += inputs.skip.map_or(0.0, |skip| f64::from(skip[column])) * y;
        }
        for (i, adjoint) in adjoint.iter().enumerate() {
            by_input += f64::from(inputs.b[h * n + i]) * adjoint;
            gradients.b[h * n + i] += adjoint * u(row);
        }
        gradients.input[row * channels + h] = by_input;
        if n > 0 {
            adjoint.rotate_left(1);
            adjoint[n - 1] = 0.0;
        }
    }
    if let Some(state) = &mut gradients.state {
        state[of_state].copy_from_slice(&adjoint);
    }
}
