//! The way back from sums over positions to the gradients of a channel, mode by mode.

use super::channel::{Channel, Sums};
use super::{Cotangents, Inputs, Problem};
use crate::complex::{self, Complex64, power};

/// A row over positions that is summed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Summed {
    /// The cotangent of K of a row of C.
    Kernel { readout: usize },
    /// The cotangent of S of an initial state and a row of C.
    Response { sequence: usize, readout: usize },
    /// The input signal of a sequence.
    Signal { sequence: usize },
}

/// Where the sums over the rows of one channel come from.
pub(super) trait PositionSums {
    /// The sums over a row, positions counted from the last where `from_last`.
    fn of(&mut self, row: Summed, from_last: bool) -> &Sums;
}

/// Which cotangents there are, and the cotangent of the states after the signals.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub kernel: bool,
    pub responses: bool,
    pub next_state: Option<&'a [f32]>,
}

impl<'a> Asked<'a> {
    pub fn new(cotangents: &Cotangents<'a>) -> Self {
        Self {
            kernel: cotangents.kernel.is_some(),
            responses: cotangents.state_kernel.is_some(),
            next_state: cotangents.next_state,
        }
    }
}

/// What a channel's backward pass writes, but for the signal.
pub(super) struct Pulled<'a, 'o> {
    pub c: &'a mut [&'o mut [f32]],
    pub state: &'a mut [&'o mut [f32]],
    pub by_mode: Vec<ByMode>,
}

impl<'a, 'o> Pulled<'a, 'o> {
    /// Gradients of a channel, written to its rows of `c` and `state`; those of its modes begin at 0.
    pub fn new(c: &'a mut [&'o mut [f32]], state: &'a mut [&'o mut [f32]], modes: usize) -> Self {
        let by_mode = vec![ByMode::default(); modes];
        Self { c, state, by_mode }
    }
}

/// Gradients of a mode's own numbers.
#[derive(Clone, Copy, Default)]
pub(super) struct ByMode {
    root: Complex64,
    /// Gradient by b̄.
    input_gain: Complex64,
    step: f64,
    a: Complex64,
    b: Complex64,
}

/// Sums over modes that share a step, and over channels that share a copy, channel after channel.
pub(super) fn add_up(
    problem: &Problem,
    by_mode: &[Vec<ByMode>],
    step: &mut [f32],
    a: &mut [f32],
    b: &mut [f32],
) {
    let mut steps = vec![0.0; step.len()];
    let copies = problem.copies * problem.modes;
    let (mut rates, mut gains) = (vec![Complex64::ZERO; copies], vec![Complex64::ZERO; copies]);
    for (channel, modes) in by_mode.iter().enumerate() {
        for (n, mode) in modes.iter().enumerate() {
            steps[problem.step_index(channel, n)] += mode.step;
            rates[problem.copy_index(channel, n)] += mode.a;
            gains[problem.copy_index(channel, n)] += mode.b;
        }
    }
    step.iter_mut()
        .zip(&steps)
        .for_each(|(gradient, &sum)| *gradient = sum as f32);
    for (index, (rate, gain)) in rates.into_iter().zip(gains).enumerate() {
        complex::put(a, index, rate);
        complex::put(b, index, gain);
    }
}

impl Channel<'_> {
    /// Writes the gradients of a channel by C and states, and keeps those of its modes.
    pub fn pull_back(
        &self,
        inputs: &Inputs,
        asked: Asked,
        sums: &mut impl PositionSums,
        pulled: &mut Pulled,
    ) {
        let Problem {
            modes,
            readouts,
            batch,
            ..
        } = *self.problem;
        let mut by_state = vec![Complex64::ZERO; batch * modes];
        for readout in 0..readouts {
            let mut by_c = vec![Complex64::ZERO; modes];
            if asked.kernel {
                self.pull_kernel(sums, Summed::Kernel { readout }, |n, by_weight, slope| {
                    let (c, gain) = (self.c(inputs, readout, n), self.input_gain[n]);
                    by_c[n] += gain.conj() * by_weight;
                    pulled.by_mode[n].input_gain += c.conj() * by_weight;
                    pulled.by_mode[n].root += (c * gain * slope).conj();
                });
            }
            let sequences = if asked.responses { batch } else { 0 };
            for sequence in 0..sequences {
                let row = Summed::Response { sequence, readout };
                self.pull_kernel(sums, row, |n, by_weight, slope| {
                    let c = self.c(inputs, readout, n);
                    let state = self.state(inputs, sequence, n);
                    let root = self.modes[n].root;
                    by_c[n] += (state * root).conj() * by_weight;
                    by_state[sequence * modes + n] += (c * root).conj() * by_weight;
                    pulled.by_mode[n].root +=
                        (c * state * root * slope).conj() + (c * state).conj() * by_weight;
                });
            }
            for (n, by_c) in by_c.iter().enumerate() {
                complex::put(pulled.c[readout], n, *by_c);
            }
        }
        self.pull_states(inputs, asked, sums, &mut by_state, pulled);
        for (n, by) in by_state.iter().enumerate() {
            complex::put(pulled.state[n / modes], n % modes, *by);
        }
        for (n, by) in pulled.by_mode.iter_mut().enumerate() {
            let mode = &self.modes[n];
            by.b = mode.gain.conj() * by.input_gain;
            (by.step, by.a) = mode.pull_back(by.root, self.b(inputs, n).conj() * by.input_gain);
        }
    }

    /// For every mode of a kernel of weights w: the gradient by w, f Ḡ, and what times w is the conjugate of the root's, f G′.
    fn pull_kernel(
        &self,
        sums: &mut impl PositionSums,
        row: Summed,
        mut add: impl FnMut(usize, Complex64, Complex64),
    ) {
        let factor = self.problem.factor();
        for reversed in [false, true] {
            if reversed && !self.any_reversed {
                break;
            }
            let sums = sums.of(row, reversed);
            for (n, mode) in self.modes.iter().enumerate() {
                if mode.reversed == reversed {
                    add(n, factor * sums.value.get(n).conj(), factor * sums.slope.get(n));
                }
            }
        }
    }

    /// Through the states after the signals.
    fn pull_states(
        &self,
        inputs: &Inputs,
        asked: Asked,
        sums: &mut impl PositionSums,
        by_state: &mut [Complex64],
        pulled: &mut Pulled,
    ) {
        let Some(next_state) = asked.next_state else {
            return;
        };
        let Problem {
            channels,
            modes,
            batch,
            length,
            ..
        } = *self.problem;
        for sequence in 0..batch {
            let sums = sums.of(Summed::Signal { sequence }, true);
            for n in 0..modes {
                let by_x = complex::at(next_state, (sequence * channels + self.index) * modes + n);
                let (gain, root) = (self.input_gain[n], self.modes[n].root);
                let by = &mut pulled.by_mode[n];
                by.input_gain += sums.value.get(n).conj() * by_x;
                by.root += (gain * sums.slope.get(n)).conj() * by_x;
                by_state[sequence * modes + n] += power(root, length).conj() * by_x;
                if length > 0 {
                    let slope = length as f64 * power(root, length - 1);
                    by.root += (slope * self.state(inputs, sequence, n)).conj() * by_x;
                }
            }
        }
    }

    /// What a power of mode n weighs in the gradient of a signal, whose positions count from the last.
    pub fn signal_weight(&self, next_state: &[f32], sequence: usize, n: usize) -> Complex64 {
        let row = sequence * self.problem.channels + self.index;
        complex::at(next_state, row * self.problem.modes + n).conj() * self.input_gain[n]
    }
}
