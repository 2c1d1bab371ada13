//! Vandermonde kernels on the CPU: channels over threads, positions in blocks of matrix products.

mod backward;
mod powers;

pub use backward::backward;

use self::powers::{Powers, Sums};
use super::discretization::{Mode, modes_of};
use super::{Inputs, Outputs, Problem, VandermondeError};
use crate::channels::{each_channel, rows_by_channel};
use crate::complex::{self, Complex64, Lanes, power};

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
        || Channel::new(problem, false),
        |channel, scratch, part| {
            scratch.set_modes(inputs, channel)?;
            scratch.forward(inputs, channel, part);
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

/// A channel's modes, and room for its sums.
struct Channel<'p> {
    problem: &'p Problem,
    modes: Vec<Mode>,
    /// b̄ of every mode.
    input_gain: Vec<Complex64>,
    any_reversed: bool,
    powers: Powers,
    sums: Sums,
    weights: Lanes,
    /// A signal or kernel from its last position to its first.
    turned: Vec<f32>,
}

impl<'p> Channel<'p> {
    fn new(problem: &'p Problem, with_slopes: bool) -> Self {
        Self {
            problem,
            modes: Vec::new(),
            input_gain: Vec::new(),
            any_reversed: false,
            powers: Powers::new(problem.modes, problem.length, with_slopes),
            sums: Sums::new(problem.modes),
            weights: Lanes::zeros(problem.modes),
            turned: vec![0.0; problem.length],
        }
    }

    fn set_modes(&mut self, inputs: &Inputs, channel: usize) -> Result<(), VandermondeError> {
        self.modes = modes_of(self.problem, inputs.step, inputs.a, channel)?;
        self.any_reversed = self.modes.iter().any(|mode| mode.reversed);
        self.powers.set_roots(self.modes.iter().map(|mode| mode.root));
        let gains = self.modes.iter().enumerate().map(|(n, mode)| {
            let b = complex::at(inputs.b, self.problem.copy_index(channel, n));
            mode.gain * b
        });
        self.input_gain = gains.collect();
        Ok(())
    }

    /// C of a readout and mode.
    fn c(&self, inputs: &Inputs, channel: usize, readout: usize, n: usize) -> Complex64 {
        let row = readout * self.problem.channels + channel;
        complex::at(inputs.c, row * self.problem.modes + n)
    }

    /// The initial state of a sequence and mode.
    fn state(&self, inputs: &Inputs, channel: usize, sequence: usize, n: usize) -> Complex64 {
        let row = sequence * self.problem.channels + channel;
        complex::at(inputs.state, row * self.problem.modes + n)
    }

    /// A row of the signal, from its last position to its first.
    fn turn(&mut self, row: &[f32]) {
        for (turned, &value) in self.turned.iter_mut().zip(row.iter().rev()) {
            *turned = value;
        }
    }

    fn forward(&mut self, inputs: &Inputs, channel: usize, written: &mut Written) {
        let Problem { readouts, modes, .. } = *self.problem;
        for (r, out) in written.kernel.iter_mut().enumerate() {
            self.kernel_row(out, |channel_, n| {
                channel_.c(inputs, channel, r, n) * channel_.input_gain[n]
            });
        }
        for (index, out) in written.state_kernel.iter_mut().enumerate() {
            let (sequence, r) = (index / readouts, index % readouts);
            self.kernel_row(out, |channel_, n| {
                let state = channel_.state(inputs, channel, sequence, n);
                channel_.c(inputs, channel, r, n) * state * channel_.modes[n].root
            });
        }
        for (sequence, out) in written.next_state.iter_mut().enumerate() {
            self.turn(inputs.signal.row(sequence * self.problem.channels + channel));
            self.powers.sums(&self.turned, &mut self.sums);
            for n in 0..modes {
                let carried =
                    power(self.modes[n].root, self.problem.length) * self.state(inputs, channel, sequence, n);
                complex::put(out, n, carried + self.input_gain[n] * self.sums.value.get(n));
            }
        }
    }

    /// f Re Σ_n weight_n ā_n^{p(l)}, where p counts from the end for modes that do.
    fn kernel_row(&mut self, out: &mut [f32], weight: impl Fn(&Self, usize) -> Complex64) {
        for reversed in [false, true] {
            if reversed && !self.any_reversed {
                break;
            }
            for n in 0..self.modes.len() {
                let counts = self.modes[n].reversed == reversed;
                let weight = match counts {
                    true => self.problem.factor() * weight(self, n),
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
