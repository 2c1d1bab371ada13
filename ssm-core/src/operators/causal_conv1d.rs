//! Depthwise causal convolution over time.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, owned, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use kernel_dsl::causal_conv1d as kernel;
pub use kernel_dsl::causal_conv1d::Activation;
#[cfg(feature = "cube")]
use kernel_dsl::causal_conv1d::cube as device;

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
    let operands = vec![
        Operand::new("input", input),
        Operand::new("weight", weight),
        Operand::optional("bias", bias),
    ];
    let [output] = run(operator, operands, &mut [("state", state)])?;
    Ok(Tensor::from_dispatch(output))
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
            batch: match &self.sequences {
                Sequences::Packed(offsets) => offsets.len().saturating_sub(1),
                Sequences::Equal | Sequences::LeftPadded(_) => input[0],
            },
            time: input[1],
            channels: input[2],
            width,
            activation: self.activation,
        }
    }

    fn hold(&self, inputs: [Option<FlexTensor>; 3]) -> Held {
        let [input, weight, bias] = inputs;
        let (input, weight) = (RowTensor::new(required(input), 1), required(weight));
        let problem = self.problem(&input.dims, flex::shape(&weight)[1]);
        Held {
            input,
            weight: contiguous(weight),
            bias: bias.map(contiguous),
            problem,
        }
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
        input: CubeTensor,
        weight: CubeTensor,
        bias: Option<CubeTensor>,
    ) -> (kernel::Problem, device::DeviceInputs<'_>) {
        let problem = self.problem(&cube::spec(&input).shape, cube::spec(&weight).shape[1]);
        let inputs = device::DeviceInputs {
            input: cube::rows(input, 1),
            weight: cube::values(weight),
            bias: bias.map(cube::values),
            sequences: self.sequences.view(),
        };
        (problem, inputs)
    }
}

impl Operator for CausalConv1d {
    fn name(&self) -> &'static str {
        "causal_conv1d"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        [&inputs[0], &inputs[3]].map(|spec| required(spec.clone())).into()
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [input, weight, bias, state] = first(inputs);
        let held = self.hold([input, weight, bias]);
        let mut state = owned(required(state));
        let mut out = held.input.buffer();
        flex::validated(kernel::causal_conv1d(
            &held.problem,
            &self.view(&held),
            state.storage_mut::<f32>(),
            &mut out,
        ));
        vec![flex::tensor(out, &held.input.dims), state]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [input, weight, bias, state] = first(inputs);
        let held = self.hold([input, weight, bias]);
        let state = contiguous(required(state));
        let [out, after] = first(cotangents);
        let (out, after) = (RowTensor::new(required(out), 1), after.map(contiguous));
        let mut of_input = held.input.buffer();
        let mut of_weight = flex::buffer(&held.weight);
        let mut of_bias = held.bias.as_ref().map(flex::buffer);
        let mut of_state = flex::buffer(&state);
        flex::validated(kernel::backward(
            &held.problem,
            &self.view(&held),
            slice(&state),
            &kernel::Cotangents {
                out: out.view(),
                state: after.as_ref().map(slice),
            },
            &mut kernel::Gradients {
                input: &mut of_input,
                weight: &mut of_weight,
                bias: of_bias.as_deref_mut(),
                state: &mut of_state,
            },
        ));
        vec![
            Some(flex::tensor(of_input, &held.input.dims)),
            Some(flex::like(of_weight, &held.weight)),
            of_bias
                .zip(held.bias)
                .map(|(values, bias)| flex::like(values, &bias)),
            Some(flex::like(of_state, &state)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [input, weight, bias, state] = first(inputs);
        let (input, state) = (required(input), required(state));
        let (place, specs) = (Place::of(&input), [cube::spec(&input), cube::spec(&state)]);
        let (problem, inputs) = self.hold_on_cube(input, required(weight), bias);
        let state = cube::values(state);
        let found = cube::launched(device::causal_conv1d(
            &place.client,
            &problem,
            &inputs,
            Some(&state),
        ));
        vec![
            place.tensor(found.out, &specs[0]),
            place.tensor(found.state, &specs[1]),
        ]
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let specs: Vec<_> = inputs
            .iter()
            .map(|input| input.as_ref().map(cube::spec))
            .collect();
        let [input, weight, bias, state] = first(inputs);
        let (input, has_bias) = (required(input), bias.is_some());
        let (place, dtype) = (Place::of(&input), input.dtype);
        let (problem, inputs) = self.hold_on_cube(input, required(weight), bias);
        let [out, after] = first(cotangents);
        let found = cube::launched(device::backward(
            &place.client,
            &problem,
            &inputs,
            Some(&cube::values(required(state))),
            &device::DeviceCotangents {
                out: cube::rows_as(required(out), 1, dtype),
                state: after.map(cube::values),
            },
        ));
        let gradients = [
            Some(found.input),
            Some(found.weight),
            has_bias.then_some(found.bias),
            Some(found.state),
        ];
        place.tensors(gradients, specs)
    }
}
