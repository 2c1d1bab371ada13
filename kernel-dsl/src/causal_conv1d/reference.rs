//! The definition in f64.

use super::{Activation, ConvError, Cotangents, Gradients, Inputs, Problem};
use crate::Rows;

/// Output `[rows, channels]`; `state` `[batch, channels, width − 1]` is read and left after the last token.
///
/// # Errors
/// [`ConvError`] when a shape does not fit.
pub fn causal_conv1d(problem: &Problem, inputs: &Inputs, state: &mut [f64]) -> Result<Vec<f64>, ConvError> {
    let channels = problem.channels;
    let mut out = vec![0.0; inputs.sequences.rows(problem.batch, problem.time) * channels];
    problem.validate(inputs, state.len(), out.len())?;
    for line in Line::all(problem, inputs) {
        let signal = line.signal(state);
        for (t, p) in line.arguments(&signal).into_iter().enumerate() {
            out[line.place(t)] = match problem.activation {
                Activation::None => p,
                Activation::Silu => p * sigmoid(p),
            };
        }
        state[line.state()].copy_from_slice(&signal[line.time()..]);
    }
    Ok(out)
}

/// The gradients in f64, in the order of [`Gradients`].
#[derive(Clone, Debug)]
pub struct GradientsF64 {
    /// Gradient by x, `[rows, channels]`.
    pub input: Vec<f64>,
    /// Gradient by the taps, `[channels, width]`.
    pub weight: Vec<f64>,
    /// Gradient by the bias, `[channels]`, whether there is one or not.
    pub bias: Vec<f64>,
    /// Gradient by the initial state, `[batch, channels, width − 1]`.
    pub state: Vec<f64>,
}

/// Gradients of Σ ⟨cotangent, output⟩ + Σ ⟨cotangent, final state⟩.
///
/// # Errors
/// [`ConvError`] when a shape does not fit.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
) -> Result<GradientsF64, ConvError> {
    let (channels, width) = (problem.channels, problem.width);
    check(problem, inputs, initial_state.len(), cotangents)?;
    let rows = inputs.sequences.rows(problem.batch, problem.time);
    let mut gradients = GradientsF64 {
        input: vec![0.0; rows * channels],
        weight: vec![0.0; channels * width],
        bias: vec![0.0; channels],
        state: vec![0.0; initial_state.len()],
    };
    for line in Line::all(problem, inputs) {
        let signal = line.signal(initial_state);
        let mut by_signal = vec![0.0; signal.len()];
        if let Some(state) = cotangents.state {
            for (sum, &value) in by_signal[line.time()..].iter_mut().zip(&state[line.state()]) {
                *sum += f64::from(value);
            }
        }
        for (t, p) in line.arguments(&signal).into_iter().enumerate() {
            let slope = match problem.activation {
                Activation::None => 1.0,
                Activation::Silu => sigmoid(p) * (1.0 + p * sigmoid(-p)),
            };
            let delta = slope * f64::from(cotangents.out.row(line.first + t)[line.c]);
            gradients.bias[line.c] += delta;
            for j in 0..width {
                gradients.weight[line.c * width + j] += delta * signal[t + j];
                by_signal[t + j] += delta * line.tap(j);
            }
        }
        gradients.state[line.state()].copy_from_slice(&by_signal[..width - 1]);
        for (t, &value) in by_signal[width - 1..].iter().enumerate() {
            gradients.input[line.place(t)] = value;
        }
    }
    Ok(gradients)
}

fn check(problem: &Problem, inputs: &Inputs, state: usize, cotangents: &Cotangents) -> Result<(), ConvError> {
    let rows = inputs.sequences.rows(problem.batch, problem.time);
    let (mut input, mut weight) = (vec![0.0; rows * problem.channels], vec![0.0; inputs.weight.len()]);
    let gradients = Gradients {
        input: &mut input,
        weight: &mut weight,
        bias: None,
        state: &mut vec![0.0; problem.state_len()],
    };
    problem.validate_backward(inputs, state, cotangents, &gradients)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One channel of one sequence.
struct Line<'a> {
    problem: &'a Problem,
    x: Rows<'a>,
    weight: &'a [f32],
    bias: f64,
    b: usize,
    c: usize,
    /// First row of the sequence, and the row after its last.
    first: usize,
    end: usize,
}

impl<'a> Line<'a> {
    fn all(problem: &'a Problem, inputs: &'a Inputs<'a>) -> impl Iterator<Item = Self> {
        let channels = problem.channels;
        (0..problem.batch * channels).map(move |i| {
            let (b, c) = (i / channels, i % channels);
            let span = inputs.sequences.span(b, problem.time);
            Self {
                problem,
                x: inputs.input,
                weight: inputs.weight,
                bias: inputs.bias.map_or(0.0, |bias| f64::from(bias[c])),
                b,
                c,
                first: span.start,
                end: span.end,
            }
        })
    }

    fn time(&self) -> usize {
        self.end - self.first
    }

    fn tap(&self, j: usize) -> f64 {
        f64::from(self.weight[self.c * self.problem.width + j])
    }

    /// Where the value of token `t` lies in `[rows, channels]`.
    fn place(&self, t: usize) -> usize {
        (self.first + t) * self.problem.channels + self.c
    }

    /// Where its state lies.
    fn state(&self) -> std::ops::Range<usize> {
        let (line, columns) = (self.b * self.problem.channels + self.c, self.problem.width - 1);
        line * columns..(line + 1) * columns
    }

    /// The state followed by the inputs.
    fn signal(&self, state: &[f64]) -> Vec<f64> {
        let inputs = (self.first..self.end).map(|row| f64::from(self.x.row(row)[self.c]));
        state[self.state()].iter().copied().chain(inputs).collect()
    }

    /// p of every token.
    fn arguments(&self, signal: &[f64]) -> Vec<f64> {
        let one = |t: usize| {
            (0..self.problem.width)
                .map(|j| self.tap(j) * signal[t + j])
                .sum::<f64>()
        };
        (0..self.time()).map(|t| self.bias + one(t)).collect()
    }
}
