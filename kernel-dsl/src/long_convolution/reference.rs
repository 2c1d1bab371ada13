//! The definition in f64.

use super::{Cotangents, Direction, GradientBuffers, Inputs, Later, LongConvolutionError, Problem, Results};

/// Output and tail.
///
/// # Errors
/// [`LongConvolutionError`] when a shape does not fit.
pub fn long_convolution(
    problem: &Problem,
    inputs: &Inputs,
) -> Result<Results<Vec<f64>, Vec<f64>>, LongConvolutionError> {
    problem.validate_inputs(inputs)?;
    let tail_rows = problem.tail_rows();
    let mut results = Results {
        out: vec![0.0; problem.tokens() * problem.outputs()],
        tail: vec![0.0; problem.tail_len()],
    };
    for line in Line::all(problem) {
        for t in 0..problem.time + tail_rows {
            let mut sum = line
                .met(t)
                .map(|(u, tap)| line.input(inputs, u) * line.tap(inputs, tap))
                .sum::<f64>();
            if let (Some(tail), true) = (inputs.tail, t < tail_rows) {
                sum += f64::from(tail[line.tail(t)]);
            }
            if t < problem.time {
                let skip = inputs.skip.map_or(0.0, |skip| f64::from(skip[line.column]));
                let response = inputs
                    .response
                    .map_or(0.0, |rows| f64::from(rows.row(line.row(t))[line.column]));
                results.out[line.out(t)] = sum + skip * line.input(inputs, t) + response;
            } else {
                results.tail[line.tail(t - problem.time)] = sum;
            }
        }
    }
    Ok(results)
}

/// Gradients of ⟨cotangents, results⟩.
///
/// # Errors
/// [`LongConvolutionError`] when a shape does not fit.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
) -> Result<GradientBuffers<f64>, LongConvolutionError> {
    problem.validate_cotangents(inputs, cotangents)?;
    let tail_rows = problem.tail_rows();
    let mut gradients = GradientBuffers::zeros(problem, inputs);
    for line in Line::all(problem) {
        for t in 0..problem.time + tail_rows {
            let cotangent = match t.checked_sub(problem.time) {
                None => cotangents
                    .out
                    .map_or(0.0, |out| f64::from(out.row(line.row(t))[line.column])),
                Some(j) => cotangents.tail.map_or(0.0, |tail| f64::from(tail[line.tail(j)])),
            };
            for (u, tap) in line.met(t) {
                gradients.input[line.place(u)] += cotangent * line.tap(inputs, tap);
                let product = cotangent * line.input(inputs, u);
                match tap {
                    Tap::Kernel(s) => gradients.kernel[line.column * problem.taps + s] += product,
                    Tap::Later(s) => {
                        if let Some(kernel) = &mut gradients.later_kernel {
                            kernel[line.column * problem.taps + s] += product;
                        }
                    }
                }
            }
            if let (Some(tail), true) = (&mut gradients.tail, t < tail_rows) {
                tail[line.tail(t)] += cotangent;
            }
            if t < problem.time {
                if let (Some(by_skip), Some(skip)) = (&mut gradients.skip, inputs.skip) {
                    by_skip[line.column] += cotangent * line.input(inputs, t);
                    gradients.input[line.place(t)] += cotangent * f64::from(skip[line.column]);
                }
                if let Some(response) = &mut gradients.response {
                    response[line.out(t)] = cotangent;
                }
            }
        }
    }
    Ok(gradients)
}

/// A tap of one of the two kernels.
#[derive(Clone, Copy)]
enum Tap {
    Kernel(usize),
    Later(usize),
}

/// One output column of one sequence.
struct Line<'a> {
    problem: &'a Problem,
    b: usize,
    column: usize,
}

impl<'a> Line<'a> {
    fn all(problem: &'a Problem) -> impl Iterator<Item = Self> {
        let outputs = problem.outputs();
        (0..problem.batch * outputs).map(move |i| Self {
            problem,
            b: i / outputs,
            column: i % outputs,
        })
    }

    /// The inputs that output `t` sees, each with its tap.
    fn met(&self, t: usize) -> impl Iterator<Item = (usize, Tap)> {
        let Problem {
            time,
            taps,
            direction,
            ..
        } = *self.problem;
        let past = (0..taps.min(t + 1)).map(move |s| (t - s, Tap::Kernel(s)));
        let shift = usize::from(direction == Direction::Both(Later::Next));
        let later = match direction {
            Direction::Both(_) => taps,
            Direction::Causal | Direction::Streamed => 0,
        };
        let later = (0..later).map(move |s| (t + shift + s, Tap::Later(s)));
        past.chain(later).filter(move |&(u, _)| u < time)
    }

    fn tap(&self, inputs: &Inputs, tap: Tap) -> f64 {
        let base = self.column * self.problem.taps;
        f64::from(match tap {
            Tap::Kernel(s) => inputs.kernel[base + s],
            Tap::Later(s) => inputs.later_kernel.map_or(0.0, |kernel| kernel[base + s]),
        })
    }

    fn row(&self, t: usize) -> usize {
        self.b * self.problem.time + t
    }

    fn input(&self, inputs: &Inputs, t: usize) -> f64 {
        f64::from(inputs.input.row(self.row(t))[self.column % self.problem.channels])
    }

    /// Where the gradient of input `t` lies.
    fn place(&self, t: usize) -> usize {
        self.row(t) * self.problem.channels + self.column % self.problem.channels
    }

    /// Where output `t` lies.
    fn out(&self, t: usize) -> usize {
        self.row(t) * self.problem.outputs() + self.column
    }

    /// Where value `j` of the tail lies.
    fn tail(&self, j: usize) -> usize {
        (self.b * self.problem.tail_rows() + j) * self.problem.outputs() + self.column
    }
}
