//! Gradients of Vandermonde kernels on the CPU.

use super::super::{Cotangents, Gradients, Inputs, Problem, VandermondeError};
use super::{Channel, threaded};
use crate::channels::{each_channel, rows_by_channel};
use crate::complex::{self, Complex64, power};

/// Gradients of Σ ⟨cotangent, output⟩ by all that [`kernel`](super::kernel) reads.
///
/// Sums over channels that share a copy of A and B run in f64, channel after channel, so that the number of threads does not change a
/// bit of them.
///
/// # Errors
/// [`VandermondeError`] when a shape, a step or a mode does not fit; what gradients hold then is not specified.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), VandermondeError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    let Problem {
        channels,
        modes,
        length,
        ..
    } = *problem;
    let mut c = rows_by_channel(gradients.c, 2 * modes, channels);
    let mut state = rows_by_channel(gradients.state, 2 * modes, channels);
    let mut signal = rows_by_channel(gradients.signal, length, channels);
    let parts = c.iter_mut().zip(&mut state).zip(&mut signal);
    let mut parts: Vec<_> = parts
        .map(|((c, state), signal)| Pulled {
            c,
            state,
            signal,
            by_mode: vec![ByMode::default(); modes],
        })
        .collect();
    each_channel(
        threaded(problem),
        &mut parts,
        || Channel::new(problem, true),
        |channel, scratch, part| {
            scratch.set_modes(inputs, channel)?;
            scratch.backward(inputs, cotangents, channel, part);
            Ok::<_, VandermondeError>(())
        },
    )?;
    let by_mode: Vec<_> = parts.into_iter().map(|part| part.by_mode).collect();
    add_up(problem, &by_mode, gradients);
    Ok(())
}

/// What a channel's backward pass writes.
struct Pulled<'a, 'o> {
    c: &'a mut [&'o mut [f32]],
    state: &'a mut [&'o mut [f32]],
    signal: &'a mut [&'o mut [f32]],
    by_mode: Vec<ByMode>,
}

/// Gradients of a mode's own numbers.
#[derive(Clone, Copy, Default)]
struct ByMode {
    root: Complex64,
    /// By b̄.
    input_gain: Complex64,
    step: f64,
    a: Complex64,
    b: Complex64,
}

/// Sums over modes that share a step, and over channels that share a copy.
fn add_up(problem: &Problem, by_mode: &[Vec<ByMode>], gradients: &mut Gradients) {
    let mut step = vec![0.0; gradients.step.len()];
    let copies = problem.copies * problem.modes;
    let (mut a, mut b) = (vec![Complex64::ZERO; copies], vec![Complex64::ZERO; copies]);
    for (channel, modes) in by_mode.iter().enumerate() {
        for (n, mode) in modes.iter().enumerate() {
            step[problem.step_index(channel, n)] += mode.step;
            a[problem.copy_index(channel, n)] += mode.a;
            b[problem.copy_index(channel, n)] += mode.b;
        }
    }
    gradients
        .step
        .iter_mut()
        .zip(&step)
        .for_each(|(g, &sum)| *g = sum as f32);
    for (index, (a, b)) in a.into_iter().zip(b).enumerate() {
        complex::put(gradients.a, index, a);
        complex::put(gradients.b, index, b);
    }
}

impl Channel<'_> {
    fn backward(&mut self, inputs: &Inputs, cotangents: &Cotangents, channel: usize, pulled: &mut Pulled) {
        let Problem {
            channels,
            modes,
            readouts,
            batch,
            ..
        } = *self.problem;
        let mut by_state = vec![Complex64::ZERO; batch * modes];
        for r in 0..readouts {
            let row = r * channels + channel;
            let mut by_c = vec![Complex64::ZERO; modes];
            if let Some(kernel) = &cotangents.kernel {
                self.pull_kernel(kernel.row(row), |self_, n, by_weight, root| {
                    let (c, gain) = (self_.c(inputs, channel, r, n), self_.input_gain[n]);
                    by_c[n] += gain.conj() * by_weight;
                    pulled.by_mode[n].input_gain += c.conj() * by_weight;
                    pulled.by_mode[n].root += (c * gain * root).conj();
                });
            }
            if let Some(responses) = &cotangents.state_kernel {
                for sequence in 0..batch {
                    let row = sequence * readouts * channels + row;
                    self.pull_kernel(responses.row(row), |self_, n, by_weight, root| {
                        let c = self_.c(inputs, channel, r, n);
                        let state = self_.state(inputs, channel, sequence, n);
                        let a_bar = self_.modes[n].root;
                        by_c[n] += (state * a_bar).conj() * by_weight;
                        by_state[sequence * modes + n] += (c * a_bar).conj() * by_weight;
                        pulled.by_mode[n].root +=
                            (c * state * a_bar * root).conj() + (c * state).conj() * by_weight;
                    });
                }
            }
            for (n, by_c) in by_c.iter().enumerate() {
                complex::put(pulled.c[r], n, *by_c);
            }
        }
        self.pull_states(inputs, cotangents, channel, &mut by_state, pulled);
        for (n, by) in by_state.iter().enumerate() {
            complex::put(pulled.state[n / modes], n % modes, *by);
        }
        for (n, by) in pulled.by_mode.iter_mut().enumerate() {
            let b = complex::at(inputs.b, self.problem.copy_index(channel, n));
            let mode = &self.modes[n];
            by.b = mode.gain.conj() * by.input_gain;
            (by.step, by.a) = mode.pull_back(by.root, b.conj() * by.input_gain);
        }
    }

    /// For every mode of a kernel of weights w: the gradient by w, f Ḡ, and what times w is the conjugate of the root's, f G′.
    fn pull_kernel(&mut self, cotangent: &[f32], mut add: impl FnMut(&Self, usize, Complex64, Complex64)) {
        let factor = self.problem.factor();
        for reversed in [false, true] {
            if reversed && !self.any_reversed {
                break;
            }
            match reversed {
                false => self.powers.sums(cotangent, &mut self.sums),
                true => {
                    self.turn(cotangent);
                    self.powers.sums(&self.turned, &mut self.sums);
                }
            }
            for n in 0..self.modes.len() {
                if self.modes[n].reversed == reversed {
                    let by_weight = factor * self.sums.value.get(n).conj();
                    add(self, n, by_weight, factor * self.sums.slope.get(n));
                }
            }
        }
    }

    /// Through the states after the signals.
    fn pull_states(
        &mut self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        channel: usize,
        by_state: &mut [Complex64],
        pulled: &mut Pulled,
    ) {
        let Problem {
            channels,
            modes,
            batch,
            length,
            ..
        } = *self.problem;
        let Some(next_state) = cotangents.next_state else {
            pulled.signal.iter_mut().for_each(|row| row.fill(0.0));
            return;
        };
        for sequence in 0..batch {
            let row = sequence * channels + channel;
            self.turn(inputs.signal.row(row));
            self.powers.sums(&self.turned, &mut self.sums);
            for n in 0..modes {
                let by_x = complex::at(next_state, row * modes + n);
                let (gain, root) = (self.input_gain[n], self.modes[n].root);
                let by = &mut pulled.by_mode[n];
                by.input_gain += self.sums.value.get(n).conj() * by_x;
                by.root += (gain * self.sums.slope.get(n)).conj() * by_x;
                by_state[sequence * modes + n] += power(root, length).conj() * by_x;
                if length > 0 {
                    let slope = length as f64 * power(root, length - 1);
                    let state = complex::at(inputs.state, row * modes + n);
                    pulled.by_mode[n].root += (slope * state).conj() * by_x;
                }
                self.weights.set(n, by_x.conj() * gain);
            }
            if let Some(signal) = pulled.signal.get_mut(sequence) {
                self.powers.evaluate(&self.weights, &mut self.turned);
                let pairs = signal.iter_mut().zip(self.turned.iter().rev());
                pairs.for_each(|(signal, &value)| *signal = value);
            }
        }
    }
}
