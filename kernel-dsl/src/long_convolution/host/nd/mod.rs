//! Convolutions over several axes on the CPU: channels in SIMD lanes, blocks of channels over threads.

mod fourier;
mod grid;
mod lanes;
mod per_axis;

use std::ops::Range;

use pulp::Simd;

use super::{Pass, share_channels};
use crate::long_convolution::nd::{Cotangents, Gradients, Inputs, LongConvolutionNdError, Outputs, Problem};
use crate::vector::SharedRows;
use lanes::{Backward, Forward};

/// Convolves every channel with its kernels over all axes.
///
/// # Errors
/// [`LongConvolutionNdError`] when a shape does not fit; nothing is written then.
pub fn long_convolution(
    problem: &Problem,
    inputs: &Inputs,
    outputs: &mut Outputs,
) -> Result<(), LongConvolutionNdError> {
    problem.validate_forward(inputs, outputs)?;
    let forward = Forward {
        problem,
        inputs,
        out: SharedRows::new(outputs.out, problem.outputs()),
    };
    share_channels(problem.channels, work(problem), forward);
    Ok(())
}

/// Gradients of the loss by all that [`long_convolution`] reads.
///
/// # Errors
/// [`LongConvolutionNdError`] when a shape does not fit; nothing is written then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), LongConvolutionNdError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    let backward = Backward {
        problem,
        inputs,
        cotangents,
        input: SharedRows::new(gradients.input, problem.channels),
        kernel: SharedRows::new(gradients.kernel, problem.axes.lags()),
        skip: gradients
            .skip
            .as_deref_mut()
            .map(|skip| SharedRows::new(skip, problem.outputs())),
    };
    share_channels(problem.channels, work(problem), backward);
    Ok(())
}

/// Multiply-adds of a whole convolution.
fn work(problem: &Problem) -> usize {
    let images = problem.batch.saturating_mul(problem.channels);
    problem.per_axis_cost().saturating_mul(images)
}

impl Pass for Forward<'_> {
    #[inline(always)]
    fn over<S: Simd>(&self, simd: S, channels: Range<usize>) {
        match self.problem.is_per_axis() {
            true => per_axis::forward(simd, self, channels),
            false => fourier::forward(simd, self, channels),
        }
    }
}

impl Pass for Backward<'_> {
    #[inline(always)]
    fn over<S: Simd>(&self, simd: S, channels: Range<usize>) {
        match self.problem.is_per_axis() {
            true => per_axis::backward(simd, self, channels),
            false => fourier::backward(simd, self, channels),
        }
    }
}
