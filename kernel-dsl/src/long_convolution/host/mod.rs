//! Long convolutions on the CPU: channels in SIMD lanes, blocks of channels over threads.

mod butterfly;
mod direct;
mod fft;
mod fourier;
mod lanes;
pub(super) mod nd;

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Cotangents, Gradients, Inputs, LongConvolutionError, Outputs, Problem};
use crate::Rows;
use crate::simd::dispatch_large;
use crate::vector::SharedRows;
use lanes::{Backward, Forward};

/// Channels that are not shared out further: the lanes of the widest vectors.
const CHANNELS_PER_BLOCK: usize = 16;
/// Tasks that a thread gets, if there are enough blocks.
const TASKS_PER_THREAD: usize = 4;
/// Multiply-adds below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 18;

/// Convolves every channel with its kernels.
///
/// # Errors
/// [`LongConvolutionError`] when a shape does not fit; nothing is written then.
pub fn long_convolution(
    problem: &Problem,
    inputs: &Inputs,
    outputs: &mut Outputs,
) -> Result<(), LongConvolutionError> {
    problem.validate_forward(inputs, outputs)?;
    let forward = Forward {
        problem,
        reach: problem.reach(),
        inputs,
        out: SharedRows::new(outputs.out, problem.outputs()),
        tail: SharedRows::new(outputs.tail, problem.outputs()),
    };
    share_channels(problem.channels, work(problem), forward);
    Ok(())
}

/// Gradients of the loss by all that [`long_convolution`] reads.
///
/// # Errors
/// [`LongConvolutionError`] when a shape does not fit; nothing is written then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), LongConvolutionError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    let outputs = problem.outputs();
    if let Some(response) = gradients.response.as_deref_mut() {
        copy_rows(cotangents.out, response, outputs);
    }
    if let Some(tail) = gradients.tail.as_deref_mut() {
        pull_back_tail(problem, cotangents, tail);
    }
    let backward = Backward {
        problem,
        reach: problem.reach(),
        inputs,
        cotangents,
        input: SharedRows::new(gradients.input, problem.channels),
        kernel: SharedRows::new(gradients.kernel, problem.taps),
        later_kernel: gradients
            .later_kernel
            .as_deref_mut()
            .map(|kernel| SharedRows::new(kernel, problem.taps)),
        skip: gradients
            .skip
            .as_deref_mut()
            .map(|skip| SharedRows::new(skip, outputs)),
    };
    share_channels(problem.channels, work(problem), backward);
    Ok(())
}

/// Multiply-adds of a whole convolution.
fn work(problem: &Problem) -> usize {
    let taps = match problem.is_direct() {
        true => problem.taps,
        // What the passes of a transform cost, at least.
        false => 16,
    };
    [problem.tokens(), problem.outputs(), taps]
        .into_iter()
        .fold(1, usize::saturating_mul)
}

/// A pass over channels, none of which needs another one.
trait Pass: Copy + Send + Sync {
    /// The pass over some of the channels.
    fn over<S: Simd>(&self, simd: S, channels: Range<usize>);
}

/// Runs a pass over all channels, which are `work` multiply-adds together, by tasks of several channels each.
///
/// There are a few for each thread: more would share the work more evenly, but each needs scratch of its own.
fn share_channels(channels: usize, work: usize, pass: impl Pass) {
    let task = |channels| dispatch_large(Task { pass, channels });
    if work < THREADED_WORK || rayon::current_num_threads() == 1 {
        return task(0..channels);
    }
    let blocks = channels.div_ceil(CHANNELS_PER_BLOCK);
    let per_task = blocks.div_ceil(TASKS_PER_THREAD * rayon::current_num_threads()) * CHANNELS_PER_BLOCK;
    (0..channels.div_ceil(per_task))
        .into_par_iter()
        .map(|i| i * per_task..((i + 1) * per_task).min(channels))
        .for_each(task);
}

/// A pass over some channels.
struct Task<P> {
    pass: P,
    channels: Range<usize>,
}

impl<P: Pass> WithSimd for Task<P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.pass.over(simd, self.channels);
    }
}

impl Pass for Forward<'_> {
    #[inline(always)]
    fn over<S: Simd>(&self, simd: S, channels: Range<usize>) {
        match self.problem.is_direct() {
            true => direct::forward(simd, self, channels),
            false => fourier::forward(simd, self, channels),
        }
    }
}

impl Pass for Backward<'_> {
    #[inline(always)]
    fn over<S: Simd>(&self, simd: S, channels: Range<usize>) {
        match self.problem.is_direct() {
            true => direct::backward(simd, self, channels),
            false => fourier::backward(simd, self, channels),
        }
    }
}

/// The last piece of a stream's cotangents becomes the gradient of the tail before it.
fn pull_back_tail(problem: &Problem, cotangents: &Cotangents, gradient: &mut [f32]) {
    let (time, tail_rows, outputs) = (problem.time, problem.tail_rows(), problem.outputs());
    for (row, gradient) in gradient.chunks_exact_mut(outputs.max(1)).enumerate() {
        let (b, t) = (row / tail_rows, row % tail_rows);
        let found = match t.checked_sub(time) {
            None => cotangents.out.map(|out| out.row(b * time + t)),
            Some(j) => cotangents.tail.map(|tail| {
                let row = b * tail_rows + j;
                &tail[row * outputs..(row + 1) * outputs]
            }),
        };
        match found {
            Some(found) => gradient.copy_from_slice(found),
            None => gradient.fill(0.0),
        }
    }
}

/// Rows one after another; zeros where there are none.
fn copy_rows(from: Option<Rows>, to: &mut [f32], cols: usize) {
    match from {
        None => to.fill(0.0),
        Some(from) => {
            let rows = to.chunks_exact_mut(cols.max(1)).enumerate();
            rows.for_each(|(row, to)| to.copy_from_slice(from.row(row)));
        }
    }
}
