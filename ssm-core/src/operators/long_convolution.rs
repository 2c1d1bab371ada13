//! Convolution of every channel with a kernel as long as the sequence.

use crate::backend::host::{expect_finite, is_host};
use crate::backend::{Input, Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
use spillway_kernel_dsl::long_convolution as kernel;
pub use spillway_kernel_dsl::long_convolution::{Later, Method};

/// What a long convolution reads.
#[derive(Clone, Debug)]
pub struct LongConvolutionInputs {
    /// u, `[batch, time, channels]`.
    pub input: Tensor<3>,
    /// K, `[multiplicity, channels, taps]`; the first tap meets the token itself.
    pub kernel: Tensor<3>,
    /// K′, in the shape of K, by which an output sees later tokens; and what its first tap meets.
    pub later_kernel: Option<(Later, Tensor<3>)>,
    /// D, the skip from an input to its own outputs, `[multiplicity, channels]`; `None` is 0.
    pub skip: Option<Tensor<2>>,
    /// r, `[batch, time, multiplicity · channels]`: the response to a state before the first token, added to the output.
    pub response: Option<Tensor<3>>,
}

/// `y[t] = Σ_s K[s] u[t − s] + Σ_s K′[s] u[t + o + s] + D u[t] + r[t]` per channel, where tokens outside of the sequence are 0.
///
/// Output m of channel h is column m·channels + h. Taps that reach past the sequence add nothing; they never wrap. The cost grows as
/// time · log time. The convolutional view of a time-invariant state space (Gu, Goel & Ré, 2111.00396, section 2.4).
///
/// # Shapes
/// See [`LongConvolutionInputs`]; the result `[batch, time, multiplicity · channels]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::Value`] for no taps and for a kernel or a skip that is not finite, [`Error::Device`], [`Error::DType`]
/// and [`Error::Kernel`].
pub fn long_convolution(inputs: LongConvolutionInputs, method: Method) -> Result<Tensor<3>> {
    let direction = match &inputs.later_kernel {
        Some((later, _)) => kernel::Direction::Both(*later),
        None => kernel::Direction::Causal,
    };
    let found = convolve(inputs, LongConvolution { direction, method }, None)?;
    Ok(Tensor::from_dispatch(found.out))
}

/// As [`long_convolution`], of one piece of a stream: y and the tail depend on the pieces before through the tail.
///
/// Pieces of any lengths give what the whole gives. A stream has no later kernel.
///
/// # Shapes
/// `tail` `[batch, taps − 1, multiplicity · channels]` in f32: what the pieces so far add to the next outputs, zeros before the first.
///
/// # Errors
/// As [`long_convolution`]; [`Error::Value`] for a later kernel.
pub fn long_convolution_piece(
    inputs: LongConvolutionInputs,
    method: Method,
    tail: &mut Tensor<3>,
) -> Result<Tensor<3>> {
    if inputs.later_kernel.is_some() {
        return Err(Error::Value {
            what: "later kernel of a piece of a stream",
            expected: "none, for later tokens are not known",
            found: "one".into(),
        });
    }
    let direction = kernel::Direction::Streamed;
    let found = convolve(inputs, LongConvolution { direction, method }, Some(&mut *tail))?;
    *tail = Tensor::from_dispatch(found.tail);
    Ok(Tensor::from_dispatch(found.out))
}

fn convolve(
    inputs: LongConvolutionInputs,
    operator: LongConvolution,
    tail: Option<&mut Tensor<3>>,
) -> Result<kernel::Results<burn::backend::DispatchTensor, burn::backend::DispatchTensor>> {
    let LongConvolutionInputs {
        input,
        kernel,
        later_kernel,
        skip,
        response,
    } = inputs;
    let [batch, time, channels] = input.dims();
    let [multiplicity, _, taps] = kernel.dims();
    if taps == 0 {
        return Err(Error::Value {
            what: "taps of a long convolution",
            expected: "at least 1",
            found: "0".into(),
        });
    }
    let (of_kernel, outputs) = ([multiplicity, channels, taps], multiplicity * channels);
    expect_shape("kernel of a long convolution", &of_kernel, &kernel.dims())?;
    if let Some((_, kernel)) = &later_kernel {
        expect_shape("later kernel of a long convolution", &of_kernel, &kernel.dims())?;
    }
    if let Some(skip) = &skip {
        expect_shape(
            "skip of a long convolution",
            &[multiplicity, channels],
            &skip.dims(),
        )?;
    }
    if let Some(response) = &response {
        let expected = [batch, time, outputs];
        expect_shape("response of a long convolution", &expected, &response.dims())?;
    }
    if let Some(tail) = &tail {
        expect_shape(
            "tail of a long convolution",
            &[batch, taps - 1, outputs],
            &tail.dims(),
        )?;
    }
    // A device is not asked, for that would hold it up.
    if is_host([&kernel.device().inner()]) {
        expect_finite("kernel of a long convolution", &kernel)?;
        if let Some((_, kernel)) = &later_kernel {
            expect_finite("later kernel of a long convolution", kernel)?;
        }
        if let Some(skip) = &skip {
            expect_finite("skip of a long convolution", skip)?;
        }
    }
    let inputs = kernel::Operands {
        input: input.into(),
        kernel: kernel.into(),
        later_kernel: later_kernel.map(|(_, kernel)| kernel.into()),
        skip: skip.map(Input::from),
        response: response.map(Input::from),
        tail: tail.map(|tail| Input::State(tail)),
    };
    run(operator, inputs)
}

/// What of a convolution is not a tensor.
#[derive(Debug)]
struct LongConvolution {
    direction: kernel::Direction,
    method: Method,
}

impl LongConvolution {
    fn problem(&self, inputs: &kernel::Operands<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        kernel::Problem {
            batch: inputs.input[0],
            time: inputs.input[1],
            channels: inputs.input[2],
            multiplicity: inputs.kernel[0],
            taps: inputs.kernel[2],
            direction: self.direction,
            method: self.method,
        }
    }

    fn results(&self, inputs: kernel::Operands<Spec, Spec>) -> kernel::Results<Spec, Spec> {
        let dtype = inputs.input.dtype;
        let problem = self.problem(&inputs.map(|_, spec| spec.shape, |_, spec| spec.shape));
        let tail_rows = match problem.direction {
            kernel::Direction::Streamed => problem.taps - 1,
            kernel::Direction::Causal | kernel::Direction::Both(_) => 0,
        };
        let rows = |rows| [problem.batch, rows, problem.outputs()];
        kernel::Results {
            out: Spec::new(rows(problem.time), dtype),
            tail: Spec::new(rows(tail_rows), DType::F32),
        }
    }
}

over_rows! {
    LongConvolution, "long_convolution", kernel;
    inputs<R, V>;
    outputs<R, V>;
    functions: long_convolution, backward;
}
