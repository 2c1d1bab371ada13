//! Vandermonde kernels on the CPU: channels over threads, positions in blocks of matrix products.

mod backward;
mod powers;

pub use backward::backward;

use self::powers::Powers;
use super::channel::{Channel, Made, Sums};
use super::{Inputs, Outputs, Problem, VandermondeError};
use crate::channels::{each_channel, rows_by_channel};
use crate::complex::{Complex64, Lanes};

/// Multiply-adds below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 17;

/// Writes kernels, responses to initial states, and the states after the signals (see [`vandermonde`](super) for the formulas).
///
/// A length of 0 leaves states as they are. A channel's memory is O(N + L).
///
/// # Errors
/// [`VandermondeError`] when a shape, a step or a mode does not fit; what outputs hold then is not specified.
pub fn kernel(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), VandermondeError> {
    problem.validate_forward(inputs, outputs)?;
    let Problem {
        channels,
        modes,
        length,
        ..
    } = *problem;
    let mut kernel = rows_by_channel(outputs.kernel, length, channels);
    let mut state_kernel = rows_by_channel(outputs.state_kernel, length, channels);
    let mut next_state = rows_by_channel(outputs.next_state, 2 * modes, channels);
    let parts = kernel.iter_mut().zip(&mut state_kernel).zip(&mut next_state);
    let mut parts: Vec<_> = parts
        .map(|((kernel, state_kernel), next_state)| Written {
            kernel,
            state_kernel,
            next_state,
        })
        .collect();
    each_channel(
        threaded(problem),
        &mut parts,
        || Positions::new(problem, false),
        |index, positions, part| {
            let channel = positions.channel(inputs, index)?;
            positions.forward(inputs, &channel, part);
            Ok(())
        },
    )
}

/// What a channel writes: rows of the kernel by readout, of the response by sequence and readout, states by sequence.
struct Written<'a, 'o> {
    kernel: &'a mut [&'o mut [f32]],
    state_kernel: &'a mut [&'o mut [f32]],
    next_state: &'a mut [&'o mut [f32]],
}

/// Whether there is work for more than one thread.
fn threaded(problem: &Problem) -> bool {
    let rows = problem.readouts * (1 + problem.batch) + problem.batch;
    let work = [problem.channels, problem.modes, problem.length, rows];
    let work = work.iter().fold(1_usize, |product, &n| product.saturating_mul(n));
    work >= THREADED_WORK
}

/// Room for the rows and sums of a channel.
struct Positions<'p> {
    problem: &'p Problem,
    powers: Powers,
    sums: Sums,
    weights: Lanes,
    /// A row from its last position to its first.
    turned: Vec<f32>,
}

impl<'p> Positions<'p> {
    fn new(problem: &'p Problem, with_slopes: bool) -> Self {
        Self {
            problem,
            powers: Powers::new(problem.modes, problem.length, with_slopes),
            sums: Sums::new(problem.modes),
            weights: Lanes::zeros(problem.modes),
            turned: vec![0.0; problem.length],
        }
    }

    /// The modes of a channel, whose powers are those from here on.
    fn channel(&mut self, inputs: &Inputs, index: usize) -> Result<Channel<'p>, VandermondeError> {
        let channel = Channel::new(self.problem, inputs, index)?;
        self.powers.set_roots(channel.modes.iter().map(|mode| mode.root));
        Ok(channel)
    }

    fn forward(&mut self, inputs: &Inputs, channel: &Channel, written: &mut Written) {
        let Problem { readouts, .. } = *self.problem;
        for (readout, out) in written.kernel.iter_mut().enumerate() {
            self.kernel_row(channel, out, |n| {
                channel.weight(inputs, Made::Kernel { readout }, n)
            });
        }
        for (index, out) in written.state_kernel.iter_mut().enumerate() {
            let row = Made::Response {
                sequence: index / readouts,
                readout: index % readouts,
            };
            self.kernel_row(channel, out, |n| channel.weight(inputs, row, n));
        }
        for (sequence, out) in written.next_state.iter_mut().enumerate() {
            let signal = inputs
                .signal
                .row(sequence * self.problem.channels + channel.index);
            turn(signal, &mut self.turned);
            self.powers.sums(&self.turned, &mut self.sums);
            channel.next_state(inputs, sequence, &self.sums, out);
        }
    }

    /// Re Σ_n weight_n ā_n^{p(l)}, where p counts from the end for modes that do.
    fn kernel_row(&mut self, channel: &Channel, out: &mut [f32], weight: impl Fn(usize) -> Complex64) {
        for reversed in [false, true] {
            if reversed && !channel.any_reversed {
                break;
            }
            for (n, mode) in channel.modes.iter().enumerate() {
                let weight = match mode.reversed == reversed {
                    true => weight(n),
                    false => Complex64::ZERO,
                };
                self.weights.set(n, weight);
            }
            match reversed {
                false => self.powers.evaluate(&self.weights, out),
                true => {
                    self.powers.evaluate(&self.weights, &mut self.turned);
                    let pairs = out.iter_mut().zip(self.turned.iter().rev());
                    pairs.for_each(|(out, &value)| *out += value);
                }
            }
        }
    }
}

/// A row from its last position to its first.
fn turn(row: &[f32], turned: &mut [f32]) {
    for (turned, &value) in turned.iter_mut().zip(row.iter().rev()) {
        *turned = value;
    }
}
