//! Gradients of kernels of diagonal and low-rank systems on the CPU.

use super::super::{CauchyError, Cotangents, Gradients, Inputs, Problem};
use super::sums::WIDTH;
use super::system::BySystem;
use super::{Channel, Nodes, threaded, transform_error};
use crate::channels::{each_channel, rows_by_channel};
use crate::complex::{self, Complex64};

/// Gradients of Σ ⟨cotangent, output⟩ by all that [`kernel`](super::kernel) reads.
///
/// Sums over channels that share a copy of A, B and P run in f64, channel after channel, so that the number of threads does not change a
/// bit of them.
///
/// # Errors
/// [`CauchyError`] when a shape or a step does not fit, or the generating function is not finite; what gradients hold then is not
/// specified.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), CauchyError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    let Problem {
        channels,
        modes,
        length,
        ..
    } = *problem;
    let mut by_system = vec![BySystem::default(); channels];
    if length == 0 {
        gradients.c.fill(0.0);
        gradients.state.fill(0.0);
    } else {
        let nodes = Nodes::new(problem.nodes);
        let c = rows_by_channel(gradients.c, 2 * modes, channels);
        let state = rows_by_channel(gradients.state, 2 * modes, channels);
        let parts = c.into_iter().zip(state).zip(&mut by_system);
        let mut parts: Vec<_> = parts.collect();
        each_channel(
            threaded(problem),
            &mut parts,
            || Channel::new(problem, &nodes),
            |channel, scratch, ((c, state), by)| {
                **by = scratch.backward(inputs, cotangents, channel, c, state)?;
                Ok::<_, CauchyError>(())
            },
        )?;
    }
    add_up(problem, &by_system, gradients);
    Ok(())
}

/// Sums over channels that share a copy.
fn add_up(problem: &Problem, by_system: &[BySystem], gradients: &mut Gradients) {
    let copies = problem.copies * problem.modes;
    let zeros = |len: usize| vec![Complex64::ZERO; len];
    let (mut a, mut b, mut p) = (zeros(copies), zeros(copies), zeros(problem.rank * copies));
    for (channel, by) in by_system.iter().enumerate() {
        gradients.step[channel] = by.step as f32;
        for (n, (by_a, by_b)) in by.a.iter().zip(&by.b).enumerate() {
            a[problem.copy_index(channel, n)] += by_a;
            b[problem.copy_index(channel, n)] += by_b;
        }
        for (index, by_p) in by.p.iter().enumerate() {
            let (column, n) = (index / problem.modes, index % problem.modes);
            p[problem.low_rank_index(column, channel, n)] += by_p;
        }
    }
    let sums = [
        (a, &mut *gradients.a),
        (b, &mut *gradients.b),
        (p, &mut *gradients.p),
    ];
    for (sums, into) in sums {
        sums.into_iter()
            .enumerate()
            .for_each(|(index, sum)| complex::put(into, index, sum));
    }
}

impl Channel<'_> {
    fn backward(
        &mut self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        channel: usize,
        c: &mut [&mut [f32]],
        state: &mut [&mut [f32]],
    ) -> Result<BySystem, CauchyError> {
        let (nodes, half) = (self.problem.nodes, self.problem.half());
        self.system.set(inputs, channel);
        self.system.clear_gradients();
        self.read_cotangents(cotangents, channel)?;
        let mut by_result = vec![Complex64::ZERO; self.result.len()];
        for (block, (sine, cosine)) in self.nodes.blocks.iter().enumerate() {
            self.system.forward(sine, cosine);
            let count = WIDTH.min(half - block * WIDTH);
            for i in 0..count {
                let node = block * WIDTH + i;
                for (index, by) in by_result.iter_mut().enumerate() {
                    *by = self.spectra[index * half + node];
                }
                self.system.gather(i, &mut self.k);
                let at = (sine[i], cosine[i]);
                self.system
                    .pull_node(i, &self.k, at, &mut self.result, &mut by_result);
                if !self.result.iter().all(|value| value.is_finite()) {
                    return Err(CauchyError::Singular { channel, node, nodes });
                }
            }
            for [re, im] in &mut self.system.sums.k {
                re[count..].fill(0.0);
                im[count..].fill(0.0);
            }
            self.system.pull_block(sine, cosine);
        }
        Ok(self.system.finish(inputs, channel, c, state))
    }

    /// The gradients by all spectra.
    fn read_cotangents(&mut self, cotangents: &Cotangents, channel: usize) -> Result<(), CauchyError> {
        let Problem {
            channels,
            readouts,
            batch,
            nodes,
            length,
            ..
        } = *self.problem;
        let (columns, half) = (self.problem.columns(), self.problem.half());
        let nodes_ = nodes as f64;
        for readout in 0..readouts {
            for column in 0..=batch {
                let row = readout * channels + channel;
                let cotangent = match column {
                    0 => cotangents.kernel.as_ref().map(|view| view.row(row)),
                    _ => {
                        let row = (column - 1) * readouts * channels + row;
                        cotangents.state_kernel.as_ref().map(|view| view.row(row))
                    }
                };
                let index = readout * columns + column;
                let spectrum = &mut self.spectra[index * half..(index + 1) * half];
                let Some(cotangent) = cotangent else {
                    spectrum.fill(Complex64::ZERO);
                    continue;
                };
                self.signal[length..].fill(0.0);
                let pairs = self.signal.iter_mut().zip(cotangent);
                pairs.for_each(|(into, &value)| *into = f64::from(value) / nodes_);
                let forward = &self.nodes.forward;
                let done = forward.process_with_scratch(&mut self.signal, spectrum, &mut self.transform);
                done.map_err(|error| transform_error(nodes, &error))?;
                // All but the real nodes stand for their conjugates too.
                let last = if nodes.is_multiple_of(2) { half - 1 } else { half };
                if half > 1 {
                    spectrum[1..last].iter_mut().for_each(|value| *value *= 2.0);
                }
            }
        }
        Ok(())
    }
}
