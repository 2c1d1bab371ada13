//! Kernels of diagonal and low-rank systems on the CPU: channels over threads, nodes in SIMD lanes.

mod backward;
mod sums;
mod system;
mod woodbury;

pub use backward::backward;

use std::f64::consts::PI;
use std::sync::Arc;

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use self::sums::{Block, WIDTH};
use self::system::System;
use super::{CauchyError, Inputs, Outputs, Problem};
use crate::channels::{each_channel, rows_by_channel};
use crate::complex::Complex64;

/// Terms of sums below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 15;

/// Writes kernels and responses to initial states (see [`cauchy`](super) for the formulas).
///
/// # Errors
/// [`CauchyError`] when a shape or a step does not fit, or the generating function is not finite; what outputs hold then is not
/// specified.
pub fn kernel(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), CauchyError> {
    problem.validate_forward(inputs, outputs)?;
    if problem.length == 0 {
        return Ok(());
    }
    let nodes = Nodes::new(problem.nodes);
    let (length, channels) = (problem.length, problem.channels);
    let kernel = rows_by_channel(outputs.kernel, length, channels);
    let state_kernel = rows_by_channel(outputs.state_kernel, length, channels);
    let mut parts: Vec<_> = kernel.into_iter().zip(state_kernel).collect();
    each_channel(
        threaded(problem),
        &mut parts,
        || Channel::new(problem, &nodes),
        |channel, scratch, (kernel, state_kernel)| scratch.forward(inputs, channel, kernel, state_kernel),
    )
}

/// Whether there is work for more than one thread.
fn threaded(problem: &Problem) -> bool {
    let work = [problem.channels, problem.modes, problem.nodes];
    work.iter().product::<usize>() >= THREADED_WORK
}

/// Sine and cosine of half of every node's angle in blocks, and the transforms of that many nodes.
struct Nodes {
    blocks: Vec<(Block, Block)>,
    inverse: Arc<dyn ComplexToReal<f64>>,
    forward: Arc<dyn RealToComplex<f64>>,
}

impl Nodes {
    fn new(nodes: usize) -> Self {
        let half = nodes / 2 + 1;
        let angle = |node: usize| match node {
            // Exactly −1: its cosine is what 1 + ω vanishes with.
            node if 2 * node == nodes => (1.0, 0.0),
            node if node < half => (PI * node as f64 / nodes as f64).sin_cos(),
            // Behind the last node, any point that no mode is near to.
            _ => (1.0, 0.0),
        };
        let blocks = (0..half.div_ceil(WIDTH)).map(|block| {
            let (mut sine, mut cosine) = ([0.0; WIDTH], [0.0; WIDTH]);
            for i in 0..WIDTH {
                (sine[i], cosine[i]) = angle(block * WIDTH + i);
            }
            (sine, cosine)
        });
        let mut planner = RealFftPlanner::new();
        Self {
            blocks: blocks.collect(),
            inverse: planner.plan_fft_inverse(nodes),
            forward: planner.plan_fft_forward(nodes),
        }
    }
}

/// A channel's system, and room for what is formed of it.
struct Channel<'p> {
    problem: &'p Problem,
    nodes: &'p Nodes,
    system: System,
    /// Spectra of kernels or of cotangents, `[readouts, columns, half]`.
    spectra: Vec<Complex64>,
    signal: Vec<f64>,
    transform: Vec<Complex64>,
    /// Sums, and a result, at one node.
    k: Vec<Complex64>,
    result: Vec<Complex64>,
}

impl<'p> Channel<'p> {
    fn new(problem: &'p Problem, nodes: &'p Nodes) -> Self {
        let Problem { readouts, rank, .. } = *problem;
        let (columns, half) = (problem.columns(), problem.half());
        let zeros = |len: usize| vec![Complex64::ZERO; len];
        Self {
            problem,
            nodes,
            system: System::new(problem),
            spectra: zeros(readouts * columns * half),
            signal: vec![0.0; problem.nodes],
            transform: zeros(
                nodes
                    .inverse
                    .get_scratch_len()
                    .max(nodes.forward.get_scratch_len()),
            ),
            k: zeros((readouts + rank) * (columns + rank)),
            result: zeros(readouts * columns),
        }
    }

    fn forward(
        &mut self,
        inputs: &Inputs,
        channel: usize,
        kernel: &mut [&mut [f32]],
        state_kernel: &mut [&mut [f32]],
    ) -> Result<(), CauchyError> {
        let Problem { readouts, nodes, .. } = *self.problem;
        let (columns, half) = (self.problem.columns(), self.problem.half());
        self.system.set(inputs, channel);
        for (block, (sine, cosine)) in self.nodes.blocks.iter().enumerate() {
            self.system.forward(sine, cosine);
            for i in 0..WIDTH.min(half - block * WIDTH) {
                let node = block * WIDTH + i;
                self.system.gather(i, &mut self.k);
                let (s, c) = (sine[i], cosine[i]);
                self.system.generate(&self.k, (s, c), &mut self.result);
                if !self.result.iter().all(|value| value.is_finite()) {
                    return Err(CauchyError::Singular { channel, node, nodes });
                }
                for (index, &value) in self.result.iter().enumerate() {
                    self.spectra[index * half + node] = value;
                }
            }
        }
        for (readout, out) in kernel.iter_mut().enumerate() {
            self.write(readout * columns, out)?;
        }
        for (index, out) in state_kernel.iter_mut().enumerate() {
            let (sequence, readout) = (index / readouts, index % readouts);
            self.write(readout * columns + 1 + sequence, out)?;
        }
        Ok(())
    }

    /// The inverse transform of a spectrum, which is used up.
    fn write(&mut self, index: usize, out: &mut [f32]) -> Result<(), CauchyError> {
        let (nodes, half) = (self.problem.nodes, self.problem.half());
        let spectrum = &mut self.spectra[index * half..(index + 1) * half];
        // A real kernel's, up to rounding.
        spectrum[0].im = 0.0;
        if nodes.is_multiple_of(2) {
            spectrum[half - 1].im = 0.0;
        }
        let inverse = &self.nodes.inverse;
        let done = inverse.process_with_scratch(spectrum, &mut self.signal, &mut self.transform);
        done.map_err(|error| transform_error(nodes, &error))?;
        let scale = 1.0 / nodes as f64;
        for (out, &value) in out.iter_mut().zip(&self.signal) {
            *out = (value * scale) as f32;
        }
        Ok(())
    }
}

fn transform_error(nodes: usize, error: &realfft::FftError) -> CauchyError {
    let reason = error.to_string();
    CauchyError::Transform { nodes, reason }
}
