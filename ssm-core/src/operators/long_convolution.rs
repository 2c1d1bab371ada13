//! Convolution of every channel with a kernel as long as the sequence.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::{In, Input, Operator, Out, Spec, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::long_convolution as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::long_convolution::cube as device;
pub use spillway_kernel_dsl::long_convolution::{Form, Later};

/// What a long convolution reads.
#[derive(Clone, Debug)]
pub struct LongConvolutionInputs {
    /// u, `[batch, time, channels]`.
    pub input: Tensor<3>,
    /// K, `[multiplicity, channels, taps]`; the first tap meets the token itself.
    pub kernel: Tensor<3>,
    /// K′, in the shape of K, by which an output sees later tokens; and what its first tap meets.
    pub later_kernel: Option<(Later, Tensor<3>)>,
    /// D, `[multiplicity, channels]`.
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
/// [`Error::Shape`], [`Error::Value`] for no taps, [`Error::Device`], [`Error::DType`] and [`Error::Kernel`].
pub fn long_convolution(inputs: LongConvolutionInputs, form: Form) -> Result<Tensor<3>> {
    let direction = match &inputs.later_kernel {
        Some((later, _)) => kernel::Direction::Both(*later),
        None => kernel::Direction::Causal,
    };
    let found = convolve(inputs, LongConvolution { direction, form }, None)?;
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
    form: Form,
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
    let found = convolve(inputs, LongConvolution { direction, form }, Some(&mut *tail))?;
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
    form: Form,
}

impl LongConvolution {
    /// The kernel's problem for inputs `[batch, time, channels]` and kernels `[multiplicity, channels, taps]`.
    fn problem(&self, input: &[usize], of_kernel: &[usize]) -> kernel::Problem {
        kernel::Problem {
            batch: input[0],
            time: input[1],
            channels: input[2],
            multiplicity: of_kernel[0],
            taps: of_kernel[2],
            direction: self.direction,
            form: self.form,
        }
    }

    /// What the results are like.
    fn specs(problem: &kernel::Problem, dtype: DType) -> kernel::Results<Spec, Spec> {
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

/// Inputs on the CPU as the kernels read them.
fn held(inputs: kernel::Operands<FlexTensor, FlexTensor>) -> kernel::Operands<RowTensor, FlexTensor> {
    inputs.map(
        |_, tensor| RowTensor::new(tensor, 1),
        |_, tensor| contiguous(tensor),
    )
}

impl Operator for LongConvolution {
    type Inputs = kernel::Operands<(), ()>;
    type Outputs = kernel::Results<(), ()>;

    fn name(&self) -> &'static str {
        "long_convolution"
    }

    fn outputs(&self, inputs: In<Self, Spec>) -> Out<Self, Spec> {
        let problem = self.problem(&inputs.input.shape, &inputs.kernel.shape);
        Self::specs(&problem, inputs.input.dtype)
    }

    fn forward_flex(&self, inputs: In<Self, FlexTensor>) -> Out<Self, FlexTensor> {
        let problem = self.problem(&flex::shape(&inputs.input), &flex::shape(&inputs.kernel));
        let inputs = held(inputs);
        let specs = Self::specs(&problem, DType::F32);
        let zeros = |spec: &Spec| vec![0.0; spec.shape.iter().product()];
        let mut found = kernel::Results {
            out: zeros(&specs.out),
            tail: zeros(&specs.tail),
        };
        let views = inputs
            .as_ref()
            .map(|_, rows| rows.view(), |_, values| slice(values));
        flex::validated(kernel::long_convolution(
            &problem,
            &views,
            &mut found.as_written(),
        ));
        flex::tensors_of::<Self::Outputs>(found, specs)
    }

    fn backward_flex(
        &self,
        inputs: In<Self, FlexTensor>,
        cotangents: Out<Self, Option<FlexTensor>>,
    ) -> In<Self, FlexTensor> {
        let shapes = flex::shapes::<Self::Inputs>(&inputs);
        let mut found = flex::buffers::<Self::Inputs>(&inputs);
        let problem = self.problem(&shapes.input, &shapes.kernel);
        let inputs = held(inputs);
        let cotangents = cotangents.map(
            |_, tensor| tensor.map(|tensor| RowTensor::new(tensor, 1)),
            |_, tensor| tensor.map(contiguous),
        );
        flex::validated(kernel::backward(
            &problem,
            &inputs
                .as_ref()
                .map(|_, rows| rows.view(), |_, values| slice(values)),
            &cotangents.as_ref().map(
                |_, rows| rows.as_ref().map(RowTensor::view),
                |_, values| values.as_ref().map(slice),
            ),
            &mut found.as_written(),
        ));
        flex::tensors::<Self::Inputs>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: In<Self, CubeTensor>) -> Out<Self, CubeTensor> {
        let (place, specs) = (Place::of(&inputs.input), cube::specs::<Self::Inputs>(&inputs));
        let (problem, dtype) = (
            self.problem(&specs.input.shape, &specs.kernel.shape),
            specs.input.dtype,
        );
        let inputs = held_on_cube(inputs, dtype);
        let found = cube::launched(device::long_convolution(&place.client, &problem, &inputs));
        place.tensors::<Self::Outputs>(found, Self::specs(&problem, dtype))
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: In<Self, CubeTensor>,
        cotangents: Out<Self, Option<CubeTensor>>,
    ) -> In<Self, CubeTensor> {
        let (place, specs) = (Place::of(&inputs.input), cube::specs::<Self::Inputs>(&inputs));
        let (problem, dtype) = (
            self.problem(&specs.input.shape, &specs.kernel.shape),
            specs.input.dtype,
        );
        let inputs = held_on_cube(inputs, dtype);
        let cotangents = cotangents.map(
            |_, tensor| tensor.map(|tensor| cube::rows_as(tensor, 1, dtype)),
            |_, tensor| tensor.map(cube::values),
        );
        let found = cube::launched(device::backward(&place.client, &problem, &inputs, &cotangents));
        place.tensors::<Self::Inputs>(found, specs)
    }
}

/// Inputs on a device as the kernels read them.
#[cfg(feature = "cube")]
fn held_on_cube(inputs: kernel::Operands<CubeTensor, CubeTensor>, dtype: DType) -> kernel::DeviceInputs {
    inputs.map(
        |_, tensor| cube::rows_as(tensor, 1, dtype),
        |_, tensor| cube::values(tensor),
    )
}
