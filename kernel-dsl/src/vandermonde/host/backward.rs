//! Gradients of Vandermonde kernels on the CPU.

use super::super::channel::{Channel, Sums};
use super::super::pull_back::{Asked, PositionSums, Pulled, Summed, add_up};
use super::super::{Cotangents, Gradients, Inputs, Problem, VandermondeError};
use super::powers::Powers;
use super::{Positions, threaded, turn};
use crate::channels::{each_channel, rows_by_channel};
use crate::complex::Complex64;

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
        .map(|((c, state), signal)| (Pulled::new(c, state, modes), signal))
        .collect();
    each_channel(
        threaded(problem),
        &mut parts,
        || Positions::new(problem, true),
        |index, positions, (pulled, signal)| {
            let channel = positions.channel(inputs, index)?;
            let mut sums = HostSums {
                powers: &mut positions.powers,
                sums: &mut positions.sums,
                turned: &mut positions.turned,
                channel: &channel,
                inputs,
                cotangents,
            };
            channel.pull_back(inputs, Asked::new(cotangents), &mut sums, pulled);
            positions.pull_signals(&channel, cotangents.next_state, signal);
            Ok::<_, VandermondeError>(())
        },
    )?;
    let by_mode: Vec<_> = parts.into_iter().map(|(pulled, _)| pulled.by_mode).collect();
    add_up(problem, &by_mode, gradients.step, gradients.a, gradients.b);
    Ok(())
}

/// Sums by the tables of powers.
struct HostSums<'a> {
    powers: &'a mut Powers,
    sums: &'a mut Sums,
    turned: &'a mut [f32],
    channel: &'a Channel<'a>,
    inputs: &'a Inputs<'a>,
    cotangents: &'a Cotangents<'a>,
}

impl PositionSums for HostSums<'_> {
    fn of(&mut self, row: Summed, from_last: bool) -> &Sums {
        let Problem {
            channels, readouts, ..
        } = *self.channel.problem;
        let (inputs, cotangents, h) = (self.inputs, self.cotangents, self.channel.index);
        // Cotangents that are absent are not asked for.
        let row = match row {
            Summed::Kernel { readout } => cotangents
                .kernel
                .as_ref()
                .map(|rows| rows.row(readout * channels + h)),
            Summed::Response { sequence, readout } => {
                let index = (sequence * readouts + readout) * channels + h;
                cotangents.state_kernel.as_ref().map(|rows| rows.row(index))
            }
            Summed::Signal { sequence } => Some(inputs.signal.row(sequence * channels + h)),
        };
        let row = row.unwrap_or_default();
        match from_last {
            false => self.powers.sums(row, self.sums),
            true => {
                turn(row, self.turned);
                self.powers.sums(self.turned, self.sums);
            }
        }
        self.sums
    }
}

impl Positions<'_> {
    /// The gradients of a channel's signals, which reach the loss through the states after them.
    fn pull_signals(&mut self, channel: &Channel, next_state: Option<&[f32]>, signals: &mut [&mut [f32]]) {
        for (sequence, signal) in signals.iter_mut().enumerate() {
            let Some(next_state) = next_state else {
                signal.fill(0.0);
                continue;
            };
            for n in 0..channel.modes.len() {
                let weight: Complex64 = channel.signal_weight(next_state, sequence, n);
                self.weights.set(n, weight);
            }
            self.powers.evaluate(&self.weights, &mut self.turned);
            turn(&self.turned, signal);
        }
    }
}
