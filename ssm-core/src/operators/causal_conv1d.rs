//! Depthwise causal convolution over time.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::{Input, Operator, OutputAndState, Spec, operands, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::causal_conv1d as kernel;
pub use spillway_kernel_dsl::causal_conv1d::Activation;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::causal_conv1d::cube as device;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::DeviceBuffer;

/// y_t = act(bias + Σ_j weight_j ∘ x_{t+j−(W−1)}) per channel; `state` is left after the last token of every sequence.
///
/// The convolution before the recurrence of Mamba and its kin (Gu & Dao, *Mamba*, 2312.00752, section 3.4).
///
/// # Shapes
/// `input` and result `[batch, time, channels]`; `weight` `[channels, width]`, the last tap meeting the current token;
/// `bias` `[channels]`; `state` `[sequences, channels, width − 1]`: the last inputs of every sequence, oldest first.
///
/// # Errors
/// [`Error::Shape`], [`Error::Sequences`], [`Error::Value`] for no taps, [`Error::Device`] and [`Error::DType`].
pub fn causal_conv1d(
    input: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
    sequences: &Sequences,
    state: &mut Tensor<3>,
) -> Result<Tensor<3>> {
    let [batch, time, channels] = input.dims();
    let [_, width] = weight.dims();
    if width == 0 {
        return Err(Error::Value {
            what: "taps of a causal convolution",
            expected: "at least 1",
            found: "0".into(),
        });
    }
    let count = sequences.count(batch, time)?;
    expect_shape(
        "weight of a causal convolution",
        &[channels, width],
        &weight.dims(),
    )?;
    if let Some(bias) = &bias {
        expect_shape("bias of a causal convolution", &[channels], &bias.dims())?;
    }
    expect_shape(
        "state of a causal convolution",
        &[count, channels, width - 1],
        &state.dims(),
    )?;
    let operator = CausalConv1d {
        activation,
        sequences: sequences.clone(),
    };
    let inputs = Inputs {
        input: input.into(),
        weight: weight.into(),
        bias: bias.map(Input::from),
        state: Input::State(state),
    };
    let found = run(operator, inputs)?;
    *state = Tensor::from_dispatch(found.state);
    Ok(Tensor::from_dispatch(found.out))
}

operands! {
    /// What a convolution reads.
    Inputs { input, weight, state; optional bias }
}

/// What of a convolution is not a tensor.
#[derive(Debug)]
struct CausalConv1d {
    activation: Activation,
    sequences: Sequences,
}

/// The inputs on the CPU.
struct Held {
    input: RowTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    problem: kernel::Problem,
}

impl CausalConv1d {
    /// The kernel's problem for inputs `[batch, time, channels]`.
    fn problem(&self, input: &[usize], width: usize) -> kernel::Problem {
        kernel::Problem {
            batch: self.sequences.count_in(input[0]),
            time: input[1],
            channels: input[2],
            width,
            activation: self.activation,
        }
    }

    fn hold(&self, inputs: Inputs<FlexTensor>) -> (Held, FlexTensor) {
        let input = RowTensor::new(inputs.input, 1);
        let held = Held {
            problem: self.problem(&input.dims, flex::shape(&inputs.weight)[1]),
            input,
            weight: contiguous(inputs.weight),
            bias: inputs.bias.map(contiguous),
        };
        (held, inputs.state)
    }

    fn view<'a>(&'a self, held: &'a Held) -> kernel::Inputs<'a> {
        kernel::Inputs {
            input: held.input.view(),
            weight: slice(&held.weight),
            bias: held.bias.as_ref().map(slice),
            sequences: self.sequences.view(),
        }
    }
}

#[cfg(feature = "cube")]
impl CausalConv1d {
    fn hold_on_cube(
        &self,
        inputs: Inputs<CubeTensor>,
    ) -> (kernel::Problem, device::DeviceInputs<'_>, DeviceBuffer) {
        let width = cube::spec(&inputs.weight).shape[1];
        let problem = self.problem(&cube::spec(&inputs.input).shape, width);
        let held = device::DeviceInputs {
            input: cube::rows(inputs.input, 1),
            weight: cube::values(inputs.weight),
            bias: inputs.bias.map(cube::values),
            sequences: self.sequences.view(),
        };
        (problem, held, cube::values(inputs.state))
    }
}

impl Operator for CausalConv1d {
    type Inputs = Inputs<()>;
    type Outputs = OutputAndState<()>;

    fn name(&self) -> &'static str {
        "causal_conv1d"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> OutputAndState<Spec> {
        OutputAndState {
            out: inputs.input,
            state: inputs.state,
        }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> OutputAndState<FlexTensor> {
        let (held, state) = self.hold(inputs);
        flex::with_state(state, &held.input.dims, |state, out| {
            kernel::causal_conv1d(&held.problem, &self.view(&held), state, out)
        })
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: OutputAndState<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let shapes = flex::shapes::<Inputs<()>>(&inputs);
        let mut found = flex::buffers::<Inputs<()>>(&inputs);
        let (held, state) = self.hold(inputs);
        let state = contiguous(state);
        let cotangents = flex::HeldCotangents::new(cotangents, 1);
        flex::validated(kernel::backward(
            &held.problem,
            &self.view(&held),
            slice(&state),
            &cotangents.view(),
            &mut kernel::Gradients {
                input: &mut found.input,
                weight: &mut found.weight,
                bias: found.bias.as_deref_mut(),
                state: &mut found.state,
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> OutputAndState<CubeTensor> {
        let (place, specs) = (Place::of(&inputs.input), cube::specs::<Inputs<()>>(&inputs));
        let (problem, inputs, state) = self.hold_on_cube(inputs);
        let found = cube::launched(device::causal_conv1d(
            &place.client,
            &problem,
            &inputs,
            Some(&state),
        ));
        place.outputs(found, &specs.input, &specs.state)
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: OutputAndState<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        let (place, specs) = (Place::of(&inputs.input), cube::specs::<Inputs<()>>(&inputs));
        let (problem, inputs, state) = self.hold_on_cube(inputs);
        let found = cube::launched(device::backward(
            &place.client,
            &problem,
            &inputs,
            Some(&state),
            &cube::cotangents(cotangents, 1, specs.input.dtype),
        ));
        let found = Inputs {
            input: found.input,
            weight: found.weight,
            // There is one whether there is a bias or not.
            bias: Some(found.bias),
            state: found.state,
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}
