//! The definition in f64: every power formed, every sum taken term by term.

use super::discretization::{Mode, real_inner};
use super::problem::modes_of;
use super::{Cotangents, GradientBuffers, Inputs, Operands, Problem, Results, VandermondeError};
use crate::complex::{self, Complex64, power};

/// Kernels, responses and states.
///
/// # Errors
/// [`VandermondeError::NotFinite`] or [`VandermondeError::Unstable`].
pub fn kernel(problem: &Problem, inputs: &Inputs) -> Result<Results<Vec<f64>, Vec<f64>>, VandermondeError> {
    let Problem {
        channels,
        readouts,
        batch,
        length,
        ..
    } = *problem;
    let mut results = Results {
        kernel: vec![0.0; readouts * channels * length],
        state_kernel: vec![0.0; batch * readouts * channels * length],
        next_state: vec![0.0; problem.state_len()],
    };
    for term in terms(problem, inputs)? {
        let Term { channel, mode, n, .. } = term;
        for r in 0..readouts {
            let row = r * channels + channel;
            let weight = term.c(r) * term.input_gain();
            for l in 0..length {
                let position = mode.position(l, length);
                let value = weight * power(mode.root, position);
                results.kernel[row * length + l] += problem.factor() * value.re;
            }
            for s in 0..batch {
                let row = (s * readouts + r) * channels + channel;
                for l in 0..length {
                    let value = term.c(r) * term.state(s) * power(mode.root, l + 1);
                    results.state_kernel[row * length + l] += problem.factor() * value.re;
                }
            }
        }
        for s in 0..batch {
            let signal = inputs.signal.row(s * channels + channel);
            let mut x = term.state(s);
            for &u in signal {
                x = mode.root * x + term.input_gain() * f64::from(u);
            }
            let index = (s * channels + channel) * problem.modes + n;
            (results.next_state[2 * index], results.next_state[2 * index + 1]) = (x.re, x.im);
        }
    }
    Ok(results)
}

/// Gradients of Σ ⟨cotangent, output⟩ by all inputs.
///
/// # Errors
/// As [`kernel`].
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
) -> Result<GradientBuffers<f64>, VandermondeError> {
    let Problem {
        channels,
        readouts,
        batch,
        length,
        modes,
        ..
    } = *problem;
    let mut gradients: Operands<Vec<f64>, Vec<f64>> = inputs.extents(problem).zeros();
    for term in terms(problem, inputs)? {
        let Term { channel, mode, n, .. } = term;
        let (root, gain) = (mode.root, term.input_gain());
        let (mut by_root, mut by_gain) = (Complex64::ZERO, Complex64::ZERO);
        // The loss sees Re(cotangent* · weight · rootᵖ).
        let slope = |position: usize| match position {
            0 => Complex64::ZERO,
            p => power(root, p - 1) * p as f64,
        };
        for r in 0..readouts {
            let mut by_c = Complex64::ZERO;
            if let Some(kernel) = &cotangents.kernel {
                for (l, &k) in kernel.row(r * channels + channel).iter().enumerate() {
                    let k = problem.factor() * f64::from(k);
                    let p = mode.position(l, length);
                    by_c += k * (gain * power(root, p)).conj();
                    by_gain += k * (term.c(r) * power(root, p)).conj();
                    by_root += k * (term.c(r) * gain * slope(p)).conj();
                }
            }
            for s in 0..batch {
                let Some(responses) = &cotangents.state_kernel else {
                    continue;
                };
                let mut by_state = Complex64::ZERO;
                let row = (s * readouts + r) * channels + channel;
                for (l, &k) in responses.row(row).iter().enumerate() {
                    let k = problem.factor() * f64::from(k);
                    by_c += k * (term.state(s) * power(root, l + 1)).conj();
                    by_state += k * (term.c(r) * power(root, l + 1)).conj();
                    by_root += k * (term.c(r) * term.state(s) * slope(l + 1)).conj();
                }
                add(
                    &mut gradients.state,
                    (s * channels + channel) * modes + n,
                    by_state,
                );
            }
            add(&mut gradients.c, (r * channels + channel) * modes + n, by_c);
        }
        for s in 0..batch {
            let Some(next_state) = cotangents.next_state else {
                continue;
            };
            let index = (s * channels + channel) * modes + n;
            let by_x = complex::at(next_state, index);
            let row = s * channels + channel;
            for (l, &u) in inputs.signal.row(row).iter().enumerate() {
                let p = length - 1 - l;
                gradients.signal[row * length + l] += real_inner(by_x, gain * power(root, p));
                by_gain += f64::from(u) * power(root, p).conj() * by_x;
                by_root += f64::from(u) * (gain * slope(p)).conj() * by_x;
            }
            add(&mut gradients.state, index, power(root, length).conj() * by_x);
            by_root += (term.state(s) * slope(length)).conj() * by_x;
        }
        let (by_step, by_rate) = mode.pull_back(by_root, term.b().conj() * by_gain);
        gradients.step[problem.step_index(channel, n)] += by_step;
        let copy = problem.copy_index(channel, n);
        add(&mut gradients.a, copy, by_rate);
        add(&mut gradients.b, copy, mode.gain.conj() * by_gain);
    }
    Ok(gradients)
}

/// One mode of one channel.
struct Term<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    channel: usize,
    n: usize,
    mode: Mode,
}

impl Term<'_> {
    fn b(&self) -> Complex64 {
        complex::at(self.inputs.b, self.problem.copy_index(self.channel, self.n))
    }

    fn input_gain(&self) -> Complex64 {
        self.mode.gain * self.b()
    }

    fn c(&self, readout: usize) -> Complex64 {
        let index = (readout * self.problem.channels + self.channel) * self.problem.modes + self.n;
        complex::at(self.inputs.c, index)
    }

    fn state(&self, sequence: usize) -> Complex64 {
        let index = (sequence * self.problem.channels + self.channel) * self.problem.modes + self.n;
        complex::at(self.inputs.state, index)
    }
}

impl Mode {
    fn position(&self, l: usize, length: usize) -> usize {
        if self.reversed { length - 1 - l } else { l }
    }
}

fn terms<'a>(problem: &'a Problem, inputs: &'a Inputs) -> Result<Vec<Term<'a>>, VandermondeError> {
    let mut terms = Vec::new();
    for channel in 0..problem.channels {
        let modes = modes_of(problem, inputs.step, inputs.a, channel)?;
        terms.extend(modes.into_iter().enumerate().map(|(n, mode)| Term {
            problem,
            inputs,
            channel,
            n,
            mode,
        }));
    }
    Ok(terms)
}

fn add(values: &mut [f64], index: usize, z: Complex64) {
    values[2 * index] += z.re;
    values[2 * index + 1] += z.im;
}
