//! The selective scan of Mamba.

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
use kernel_dsl::selective_scan as kernel;
#[cfg(feature = "cube")]
use kernel_dsl::selective_scan::cube as device;

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
    let ScanInputs {
        input,
        step_size,
        a,
        b,
        c,
        skip,
        gate,
    } = inputs;
    let operands = vec![
        Operand::new("input", input),
        Operand::new("step_size", step_size),
        Operand::new("A", a),
        Operand::new("B", b),
        Operand::new("C", c),
        Operand::optional("D", skip),
        Operand::optional("gate", gate),
    ];
    let operator = SelectiveScan(sequences.clone());
    let [output] = run(operator, operands, &mut [("state", state)])?;
    Ok(Tensor::from_dispatch(output))
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
            batch: match &self.0 {
                Sequences::Packed(offsets) => offsets.len().saturating_sub(1),
                Sequences::Equal | Sequences::LeftPadded(_) => input[0],
            },
            time: input[1],
            channels: input[2],
            state_dim: b[3],
            groups: b[2],
        }
    }

    fn hold(&self, inputs: [Option<FlexTensor>; 7]) -> Held<'_> {
        let [input, step_size, a, b, c, skip, gate] = inputs;
        let (input, b) = (RowTensor::new(required(input), 1), RowTensor::new(required(b), 2));
        Held {
            problem: self.problem(&input.dims, &b.dims),
            input,
            step_size: RowTensor::new(required(step_size), 1),
            a: contiguous(required(a)),
            b,
            c: RowTensor::new(required(c), 2),
            skip: skip.map(contiguous),
            gate: gate.map(|gate| RowTensor::new(gate, 1)),
            sequences: &self.0,
        }
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
    fn name(&self) -> &'static str {
        "selective_scan"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        [&inputs[0], &inputs[7]].map(|spec| required(spec.clone())).into()
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [input, step_size, a, b, c, skip, gate, state] = first(inputs);
        let held = self.hold([input, step_size, a, b, c, skip, gate]);
        let mut state = owned(required(state));
        let mut out = held.input.buffer();
        flex::validated(kernel::sequential(
            &held.problem,
            &held.view(),
            state.storage_mut::<f32>(),
            &mut out,
        ));
        vec![flex::tensor(out, &held.input.dims), state]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [input, step_size, a, b, c, skip, gate, state] = first(inputs);
        let held = self.hold([input, step_size, a, b, c, skip, gate]);
        let state = contiguous(required(state));
        let [out, after] = first(cotangents);
        let (out, after) = (RowTensor::new(required(out), 1), after.map(contiguous));
        let (mut of_input, mut of_step) = (held.input.buffer(), held.step_size.buffer());
        let (mut of_a, mut of_b, mut of_c) = (flex::buffer(&held.a), held.b.buffer(), held.c.buffer());
        let mut of_skip = held.skip.as_ref().map(flex::buffer);
        let mut of_gate = held.gate.as_ref().map(RowTensor::buffer);
        let mut of_state = flex::buffer(&state);
        flex::validated(kernel::backward(
            &held.problem,
            &held.view(),
            kernel::DEFAULT_CHUNK_SIZE,
            slice(&state),
            &kernel::Cotangents {
                out: out.view(),
                state: after.as_ref().map(slice),
            },
            &mut kernel::Gradients {
                input: &mut of_input,
                step_size: &mut of_step,
                a: &mut of_a,
                b: &mut of_b,
                c: &mut of_c,
                skip: of_skip.as_deref_mut(),
                gate: of_gate.as_deref_mut(),
                state: &mut of_state,
            },
        ));
        vec![
            Some(flex::tensor(of_input, &held.input.dims)),
            Some(flex::tensor(of_step, &held.input.dims)),
            Some(flex::like(of_a, &held.a)),
            Some(flex::tensor(of_b, &held.b.dims)),
            Some(flex::tensor(of_c, &held.b.dims)),
            of_skip.map(|values| flex::tensor(values, &[held.problem.channels])),
            of_gate.map(|values| flex::tensor(values, &held.input.dims)),
            Some(flex::like(of_state, &state)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [input, step_size, a, b, c, skip, gate, state] = first(inputs);
        let state = required(state);
        let (place, state_spec) = (Place::of(&state), cube::spec(&state));
        let (spec, problem, inputs) = self.hold_on_cube([input, step_size, a, b, c, skip, gate]);
        let state = cube::values(state);
        let found = cube::launched(device::forward(&place.client, &problem, &inputs, Some(&state)));
        vec![
            place.tensor(found.out, &spec),
            place.tensor(found.state, &state_spec),
        ]
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let specs: Vec<_> = inputs
            .iter()
            .map(|input| input.as_ref().map(cube::spec))
            .collect();
        let [input, step_size, a, b, c, skip, gate, state] = first(inputs);
        let state = required(state);
        let place = Place::of(&state);
        let (spec, problem, inputs) = self.hold_on_cube([input, step_size, a, b, c, skip, gate]);
        let [out, after] = first(cotangents);
        let found = cube::launched(device::backward(
            &place.client,
            &problem,
            &inputs,
            Some(&cube::values(state)),
            &device::DeviceCotangents {
                out: cube::rows_as(required(out), 1, spec.dtype),
                state: after.map(cube::values),
            },
        ));
        let gradients = [
            Some(found.input),
            Some(found.step_size),
            Some(found.a),
            Some(found.b),
            Some(found.c),
            found.skip,
            found.gate,
            Some(found.state),
        ];
        place.tensors(gradients, specs)
    }
}

#[cfg(feature = "cube")]
impl SelectiveScan {
    /// The inputs as the kernels take them, tokens in the type of u, and what the output is like.
    fn hold_on_cube(
        &self,
        inputs: [Option<CubeTensor>; 7],
    ) -> (Spec, kernel::Problem, device::DeviceInputs<'_>) {
        let [input, step_size, a, b, c, skip, gate] = inputs;
        let (input, b) = (required(input), required(b));
        let spec = cube::spec(&input);
        let problem = self.problem(&spec.shape, &cube::spec(&b).shape);
        let inputs = device::DeviceInputs {
            input: cube::rows(input, 1),
            step_size: cube::rows_as(required(step_size), 1, spec.dtype),
            a: cube::values(required(a)),
            b: cube::rows_as(b, 2, spec.dtype),
            c: cube::rows_as(required(c), 2, spec.dtype),
            skip: skip.map(cube::values),
            gate: gate.map(|gate| cube::rows_as(gate, 1, spec.dtype)),
            sequences: self.0.view(),
        };
        (spec, problem, inputs)
    }
}
