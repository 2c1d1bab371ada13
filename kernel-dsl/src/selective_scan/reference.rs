//! The definition in f64: one plain loop over tokens, channels and state values. Everything else is tested against it.

use super::problem::{Cotangents, Gradients, Inputs, OPERATOR, Problem, ScanError};

/// The scan in f64, token by token (see [the module](crate::selective_scan) for the formula).
///
/// # Shapes
/// `state` `[batch, channels, state_dim]`, read and updated; `out` `[rows, channels]`, 0 in rows of no sequence.
///
/// # Errors
/// [`ScanError`] when a shape is wrong.
pub fn selective_scan(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f64],
    out: &mut [f64],
) -> Result<(), ScanError> {
    problem.validate_inputs(inputs)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    OPERATOR.values("out", problem.out_len(&inputs.sequences), out.len())?;
    let Problem {
        channels, state_dim, ..
    } = *problem;
    out.fill(0.0);
    for b in 0..problem.batch {
        for row in inputs.sequences.span(b, problem.time) {
            for d in 0..channels {
                let h = &mut state[(b * channels + d) * state_dim..][..state_dim];
                let token = Token::new(problem, inputs, row, d);
                token.update(h);
                out[row * channels + d] = token.ungated(h) * token.gate.map_or(1.0, silu);
            }
        }
    }
    Ok(())
}

/// The gradients in f64, from the states of all tokens.
///
/// With λ_t the derivative of the loss by h_t, ȳ_t = ∂/∂y_t before the gate, and a_t = exp(Δ_t A):
///
/// ```text
/// λ_t  = C_t ȳ_t + a_{t+1} λ_{t+1}                      ∂C_t += ȳ_t h_t              (summed over the group's channels)
/// ∂B_t += λ_t Δ_t u_t                                    ∂u_t  = Δ_t Σ_n λ_t B_t + D ȳ_t
/// ∂Δ_t  = u_t Σ_n λ_t B_t + Σ_n λ_t a_t h_{t-1} A        ∂A   += λ_t a_t h_{t-1} Δ_t
/// ∂D   += ȳ_t u_t                                        ∂z_t  = ō_t y_t SiLU'(z_t),  ȳ_t = ō_t SiLU(z_t)
/// ```
///
/// # Shapes
/// `initial_state` `[batch, channels, state_dim]`; [`Gradients`] has the others.
///
/// # Errors
/// [`ScanError`] when a shape is wrong.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
) -> Result<(), ScanError> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    clear(gradients);
    for b in 0..problem.batch {
        for d in 0..problem.channels {
            channel_backward(problem, inputs, initial_state, cotangents, gradients, (b, d));
        }
    }
    Ok(())
}

fn clear(gradients: &mut Gradients<f64>) {
    gradients.input.fill(0.0);
    gradients.step_size.fill(0.0);
    gradients.a.fill(0.0);
    gradients.b.fill(0.0);
    gradients.c.fill(0.0);
    gradients.state.fill(0.0);
    if let Some(skip) = gradients.skip.as_deref_mut() {
        skip.fill(0.0);
    }
    if let Some(gate) = gradients.gate.as_deref_mut() {
        gate.fill(0.0);
    }
}

/// The gradients of one channel of one sequence.
fn channel_backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
    (b, d): (usize, usize),
) {
    let Problem {
        channels, state_dim, ..
    } = *problem;
    let span = inputs.sequences.span(b, problem.time);
    let of_state = (b * channels + d) * state_dim..(b * channels + d + 1) * state_dim;
    // The state before each token, then the last.
    let mut states = vec![initial_state[of_state.clone()].to_vec()];
    for row in span.clone() {
        let mut h = states[states.len() - 1].clone();
        Token::new(problem, inputs, row, d).update(&mut h);
        states.push(h);
    }
    let mut adjoint = vec![0.0; state_dim];
    if let Some(state) = cotangents.state {
        adjoint = state[of_state.clone()].iter().map(|&x| f64::from(x)).collect();
    }
    for (t, row) in span.enumerate().rev() {
        let token = Token::new(problem, inputs, row, d);
        let (before, after) = (&states[t], &states[t + 1]);
        let out = f64::from(cotangents.out.row(row)[d]);
        let ungated = out * token.gate.map_or(1.0, silu);
        let at = row * channels + d;
        if let (Some(gate), Some(z)) = (gradients.gate.as_deref_mut(), token.gate) {
            gate[at] = out * token.ungated(after) * silu_derivative(z);
        }
        if let Some(skip) = gradients.skip.as_deref_mut() {
            skip[d] += ungated * token.input;
        }
        let (mut by_product, mut by_exponent) = (0.0, 0.0);
        for n in 0..state_dim {
            let group = row * problem.groups * state_dim + token.group * state_dim + n;
            let a = f64::from(token.a[n]);
            let decay = (token.step * a).exp();
            adjoint[n] += ungated * f64::from(token.c[n]);
            gradients.c[group] += ungated * after[n];
            gradients.b[group] += adjoint[n] * token.step * token.input;
            by_product += adjoint[n] * f64::from(token.b[n]);
            let exponent = adjoint[n] * decay * before[n];
            by_exponent += exponent * a;
            gradients.a[d * state_dim + n] += exponent * token.step;
            adjoint[n] *= decay;
        }
        gradients.input[at] = by_product * token.step + token.skip * ungated;
        gradients.step_size[at] = by_product * token.input + by_exponent;
    }
    gradients.state[of_state].copy_from_slice(&adjoint);
}

/// What one channel reads at one token.
struct Token<'a> {
    group: usize,
    input: f64,
    step: f64,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    skip: f64,
    gate: Option<f64>,
}

impl<'a> Token<'a> {
    fn new(problem: &Problem, inputs: &Inputs<'a>, row: usize, d: usize) -> Self {
        let n = problem.state_dim;
        let group = d / problem.channels_per_group();
        Self {
            group,
            input: f64::from(inputs.input.row(row)[d]),
            step: f64::from(inputs.step_size.row(row)[d]),
            a: &inputs.a[d * n..][..n],
            b: &inputs.b.row(row)[group * n..][..n],
            c: &inputs.c.row(row)[group * n..][..n],
            skip: inputs.skip.map_or(0.0, |skip| f64::from(skip[d])),
            gate: inputs.gate.map(|gate| f64::from(gate.row(row)[d])),
        }
    }

    /// h ← exp(Δ A)∘h + Δ u B.
    fn update(&self, h: &mut [f64]) {
        for (n, h) in h.iter_mut().enumerate() {
            *h =
                (self.step * f64::from(self.a[n])).exp() * *h + self.step * self.input * f64::from(self.b[n]);
        }
    }

    /// C·h + D u.
    fn ungated(&self, h: &[f64]) -> f64 {
        let sum: f64 = h.iter().zip(self.c).map(|(h, c)| h * f64::from(*c)).sum();
        sum + self.skip * self.input
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// d/dx x σ(x) = σ(x) (1 + x (1 − σ(x))).
fn silu_derivative(x: f64) -> f64 {
    sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))
}
