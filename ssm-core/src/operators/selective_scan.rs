//! The selective scan of Mamba.

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
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::DeviceBuffer;
use spillway_kernel_dsl::selective_scan as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::selective_scan::cube as device;

/// What a selective scan reads.
#[derive(Clone, Debug)]
pub struct ScanInputs {
    /// u, `[batch, time, channels]`.
    pub input: Tensor<3>,
    /// Δ after its softplus, `[batch, time, channels]`.
    pub step_size: Tensor<3>,
    /// A, negative, `[channels, state_dim]`.
    pub a: Tensor<2>,
    /// B, `[batch, time, groups, state_dim]`.
    pub b: Tensor<4>,
    /// C, `[batch, time, groups, state_dim]`.
    pub c: Tensor<4>,
    /// D, `[channels]`.
    pub skip: Option<Tensor<1>>,
    /// z, `[batch, time, channels]`.
    pub gate: Option<Tensor<3>>,
}

/// h_t = exp(Δ_t A) ∘ h_{t−1} + Δ_t B_t u_t and y_t = (C_t · h_t + D u_t) ∘ SiLU(z_t) per channel; `state` is left after the
/// last token of every sequence. The decays exp(Δ A), one per token, channel and state value, are never stored.
///
/// Source: Gu & Dao, *Mamba* (2312.00752), algorithm 2.
///
/// # Shapes
/// Result `[batch, time, channels]`; `state` `[sequences, channels, state_dim]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::Groups`], [`Error::Sequences`], [`Error::Device`] and [`Error::DType`].
pub fn selective_scan(inputs: ScanInputs, sequences: &Sequences, state: &mut Tensor<3>) -> Result<Tensor<3>> {
    validate(&inputs, sequences, state)?;
    let operands = Inputs {
        input: inputs.input.into(),
        step_size: inputs.step_size.into(),
        a: inputs.a.into(),
        b: inputs.b.into(),
        c: inputs.c.into(),
        state: Input::State(state),
        skip: inputs.skip.map(Input::from),
        gate: inputs.gate.map(Input::from),
    };
    let found = run(SelectiveScan(sequences.clone()), operands)?;
    *state = Tensor::from_dispatch(found.state);
    Ok(Tensor::from_dispatch(found.out))
}

operands! {
    /// What a selective scan reads.
    Inputs { input, step_size, a, b, c, state; optional skip, gate }
}

fn validate(inputs: &ScanInputs, sequences: &Sequences, state: &Tensor<3>) -> Result<()> {
    let [batch, time, channels] = inputs.input.dims();
    let [_, _, groups, state_dim] = inputs.b.dims();
    let count = sequences.count(batch, time)?;
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(Error::Groups {
            heads: channels,
            groups,
        });
    }
    let tokens = [batch, time, channels];
    let of_groups = [batch, time, groups, state_dim];
    expect_shape("step_size", &tokens, &inputs.step_size.dims())?;
    expect_shape("A", &[channels, state_dim], &inputs.a.dims())?;
    expect_shape("B", &of_groups, &inputs.b.dims())?;
    expect_shape("C", &of_groups, &inputs.c.dims())?;
    if let Some(skip) = &inputs.skip {
        expect_shape("D", &[channels], &skip.dims())?;
    }
    if let Some(gate) = &inputs.gate {
        expect_shape("gate", &tokens, &gate.dims())?;
    }
    expect_shape("state", &[count, channels, state_dim], &state.dims())
}

/// The scan over sequences that lie like this.
#[derive(Debug)]
struct SelectiveScan(Sequences);

impl SelectiveScan {
    fn problem(&self, input: &[usize], b: &[usize]) -> kernel::Problem {
        kernel::Problem {
            batch: self.0.count_in(input[0]),
            time: input[1],
            channels: input[2],
            state_dim: b[3],
            groups: b[2],
        }
    }

    fn hold(&self, inputs: Inputs<FlexTensor>) -> (Held<'_>, FlexTensor) {
        let (input, b) = (RowTensor::new(inputs.input, 1), RowTensor::new(inputs.b, 2));
        let held = Held {
            problem: self.problem(&input.dims, &b.dims),
            input,
            step_size: RowTensor::new(inputs.step_size, 1),
            a: contiguous(inputs.a),
            b,
            c: RowTensor::new(inputs.c, 2),
            skip: inputs.skip.map(contiguous),
            gate: inputs.gate.map(|gate| RowTensor::new(gate, 1)),
            sequences: &self.0,
        };
        (held, inputs.state)
    }
}

/// The inputs on the CPU.
struct Held<'a> {
    input: RowTensor,
    step_size: RowTensor,
    a: FlexTensor,
    b: RowTensor,
    c: RowTensor,
    skip: Option<FlexTensor>,
    gate: Option<RowTensor>,
    problem: kernel::Problem,
    sequences: &'a Sequences,
}

impl Held<'_> {
    fn view(&self) -> kernel::Inputs<'_> {
        kernel::Inputs {
            input: self.input.view(),
            step_size: self.step_size.view(),
            a: slice(&self.a),
            b: self.b.view(),
            c: self.c.view(),
            skip: self.skip.as_ref().map(slice),
            gate: self.gate.as_ref().map(RowTensor::view),
            sequences: self.sequences.view(),
        }
    }
}

impl Operator for SelectiveScan {
    type Inputs = Inputs<()>;
    type Outputs = OutputAndState<()>;

    fn name(&self) -> &'static str {
        "selective_scan"
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
            kernel::sequential(&held.problem, &held.view(), state, out)
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
            &held.view(),
            kernel::DEFAULT_CHUNK_SIZE,
            slice(&state),
            &cotangents.view(),
            &mut kernel::Gradients {
                input: &mut found.input,
                step_size: &mut found.step_size,
                a: &mut found.a,
                b: &mut found.b,
                c: &mut found.c,
                skip: found.skip.as_deref_mut(),
                gate: found.gate.as_deref_mut(),
                state: &mut found.state,
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> OutputAndState<CubeTensor> {
        let (place, specs) = (Place::of(&inputs.state), cube::specs::<Inputs<()>>(&inputs));
        let (problem, inputs, state) = self.hold_on_cube(inputs);
        let found = cube::launched(device::forward(&place.client, &problem, &inputs, Some(&state)));
        place.outputs(found, &specs.input, &specs.state)
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: OutputAndState<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        let (place, specs) = (Place::of(&inputs.state), cube::specs::<Inputs<()>>(&inputs));
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
            step_size: found.step_size,
            a: found.a,
            b: found.b,
            c: found.c,
            state: found.state,
            skip: found.skip,
            gate: found.gate,
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}

#[cfg(feature = "cube")]
impl SelectiveScan {
    /// The inputs as the kernels take them, tokens in the type of u, and the state.
    fn hold_on_cube(
        &self,
        inputs: Inputs<CubeTensor>,
    ) -> (kernel::Problem, device::DeviceInputs<'_>, DeviceBuffer) {
        let spec = cube::spec(&inputs.input);
        let problem = self.problem(&spec.shape, &cube::spec(&inputs.b).shape);
        let held = device::DeviceInputs {
            input: cube::rows(inputs.input, 1),
            step_size: cube::rows_as(inputs.step_size, 1, spec.dtype),
            a: cube::values(inputs.a),
            b: cube::rows_as(inputs.b, 2, spec.dtype),
            c: cube::rows_as(inputs.c, 2, spec.dtype),
            skip: inputs.skip.map(cube::values),
            gate: inputs.gate.map(|gate| cube::rows_as(gate, 1, spec.dtype)),
            sequences: self.0.view(),
        };
        (problem, held, cube::values(inputs.state))
    }
}
