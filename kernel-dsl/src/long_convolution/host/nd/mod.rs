//! Convolutions over several axes on the CPU: channels in SIMD lanes, blocks of channels over threads.

mod fourier;
mod lanes;
mod per_axis;

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::share_channels;
use crate::long_convolution::nd::{Cotangents, Gradients, Inputs, LongConvolutionNdError, Outputs, Problem};
use crate::simd::dispatch_large;
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
    over_channels(problem, |channels| {
        dispatch_large(ForwardTask { forward, channels })
    });
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
    over_channels(problem, |channels| {
        dispatch_large(BackwardTask { backward, channels })
    });
    Ok(())
}

fn over_channels(problem: &Problem, task: impl Fn(Range<usize>) + Send + Sync) {
    let images = problem.batch.saturating_mul(problem.channels);
    share_channels(
        problem.channels,
        problem.per_axis_cost().saturating_mul(images),
        task,
    );
}

/// Some channels.
struct ForwardTask<'a> {
    forward: Forward<'a>,
    channels: Range<usize>,
}

impl WithSimd for ForwardTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.forward.problem.is_per_axis() {
            true => per_axis::forward(simd, &self.forward, self.channels),
            false => fourier::forward(simd, &self.forward, self.channels),
        }
    }
}

struct BackwardTask<'a> {
    backward: Backward<'a>,
    channels: Range<usize>,
}

impl WithSimd for BackwardTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.backward.problem.is_per_axis() {
            true => per_axis::backward(simd, &self.backward, self.channels),
            false => fourier::backward(simd, &self.backward, self.channels),
        }
    }
}
