//! The recurrence of RWKV-4.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, owned, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::Result;
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use burn::tensor::{Device, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use kernel_dsl::wkv4 as kernel;
#[cfg(feature = "cube")]
use kernel_dsl::wkv4::cube as device;

/// The state before the first token, `[sequences, 3, channels]`: no weight yet, and a maximum below every key.
pub fn wkv4_state(sequences: usize, channels: usize, device: &Device) -> Tensor<3> {
    let sums = Tensor::zeros([sequences, 2, channels], device);
    let maxima = Tensor::full([sequences, 1, channels], kernel::EMPTY_MAX, device);
    Tensor::cat(vec![sums, maxima], 1)
}

/// The weighted mean of all values so far, per channel:
///
/// ```text
/// y_t = (Σ_{i<t} e^{(t−1−i) w + k_i} v_i + e^{u + k_t} v_t) / (Σ_{i<t} e^{(t−1−i) w + k_i} + e^{u + k_t})
/// ```
///
/// `state` is left after the last token of every sequence: numerators, denominators (both divided by e^max) and maxima. Source:
/// Peng et al., *RWKV* (2305.13048), equation 16.
///
/// # Shapes
/// `key`, `value` and result `[batch, time, channels]`; `log_decay` w (0 or less; models store time_decay with
/// w = −exp(time_decay)) and `bonus` u `[channels]`; `state` `[sequences, 3, channels]`, from [`wkv4_state`].
///
/// # Errors
/// [`crate::Error`]: `Shape`, `Sequences`, `Device` and `DType`.
pub fn wkv4(
    log_decay: Tensor<1>,
    bonus: Tensor<1>,
    key: Tensor<3>,
    value: Tensor<3>,
    sequences: &Sequences,
    state: &mut Tensor<3>,
) -> Result<Tensor<3>> {
    let [batch, time, channels] = key.dims();
    let count = sequences.count(batch, time)?;
    expect_shape("value", &key.dims(), &value.dims())?;
    expect_shape("log_decay", &[channels], &log_decay.dims())?;
    expect_shape("bonus", &[channels], &bonus.dims())?;
    expect_shape("state", &[count, 3, channels], &state.dims())?;
    let operands = vec![
        Operand::new("key", key),
        Operand::new("value", value),
        Operand::new("log_decay", log_decay),
        Operand::new("bonus", bonus),
    ];
    let [output] = run(Wkv4(sequences.clone()), operands, &mut [("state", state)])?;
    Ok(Tensor::from_dispatch(output))
}

/// The recurrence over sequences that lie like this.
#[derive(Debug)]
struct Wkv4(Sequences);

/// The inputs on the CPU.
struct Held<'a> {
    key: RowTensor,
    value: RowTensor,
    log_decay: FlexTensor,
    bonus: FlexTensor,
    problem: kernel::Problem,
    sequences: &'a Sequences,
}

impl Wkv4 {
    fn problem(&self, key: &[usize]) -> kernel::Problem {
        kernel::Problem {
            batch: match &self.0 {
                Sequences::Packed(offsets) => offsets.len().saturating_sub(1),
                Sequences::Equal | Sequences::LeftPadded(_) => key[0],
            },
            time: key[1],
            channels: key[2],
        }
    }

    fn hold(&self, inputs: [Option<FlexTensor>; 4]) -> Held<'_> {
        let [key, value, log_decay, bonus] = inputs.map(required);
        let key = RowTensor::new(key, 1);
        Held {
            problem: self.problem(&key.dims),
            key,
            value: RowTensor::new(value, 1),
            log_decay: contiguous(log_decay),
            bonus: contiguous(bonus),
            sequences: &self.0,
        }
    }
}

impl Held<'_> {
    fn view(&self) -> kernel::Inputs<'_> {
        kernel::Inputs {
            log_decay: slice(&self.log_decay),
            bonus: slice(&self.bonus),
            key: self.key.view(),
            value: self.value.view(),
            sequences: self.sequences.view(),
        }
    }
}

impl Operator for Wkv4 {
    fn name(&self) -> &'static str {
        "wkv4"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        [&inputs[0], &inputs[4]].map(|spec| required(spec.clone())).into()
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [key, value, log_decay, bonus, state] = first(inputs);
        let held = self.hold([key, value, log_decay, bonus]);
        let mut state = owned(required(state));
        let mut out = held.key.buffer();
        flex::validated(kernel::sequential(
            &held.problem,
            &held.view(),
            state.storage_mut::<f32>(),
            &mut out,
        ));
        vec![flex::tensor(out, &held.key.dims), state]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [key, value, log_decay, bonus, state] = first(inputs);
        let held = self.hold([key, value, log_decay, bonus]);
        let state = contiguous(required(state));
        let [out, after] = first(cotangents);
        let (out, after) = (RowTensor::new(required(out), 1), after.map(contiguous));
        let (mut of_key, mut of_value) = (held.key.buffer(), held.value.buffer());
        let (mut of_decay, mut of_bonus) = (flex::buffer(&held.log_decay), flex::buffer(&held.bonus));
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
                log_decay: &mut of_decay,
                bonus: &mut of_bonus,
                key: &mut of_key,
                value: &mut of_value,
                state: &mut of_state,
            },
        ));
        vec![
            Some(flex::tensor(of_key, &held.key.dims)),
            Some(flex::tensor(of_value, &held.key.dims)),
            Some(flex::like(of_decay, &held.log_decay)),
            Some(flex::like(of_bonus, &held.bonus)),
            Some(flex::like(of_state, &state)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [key, value, log_decay, bonus, state] = first(inputs);
        let state = required(state);
        let (place, state_spec) = (Place::of(&state), cube::spec(&state));
        let (spec, problem, inputs) = self.hold_on_cube([key, value, log_decay, bonus]);
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
        let [key, value, log_decay, bonus, state] = first(inputs);
        let state = required(state);
        let place = Place::of(&state);
        let (spec, problem, inputs) = self.hold_on_cube([key, value, log_decay, bonus]);
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
        let gradients = [found.key, found.value, found.log_decay, found.bonus, found.state].map(Some);
        place.tensors(gradients, specs)
    }
}

#[cfg(feature = "cube")]
impl Wkv4 {
    /// The inputs as the kernels take them, key and value in one type, and what the output is like.
    fn hold_on_cube(
        &self,
        inputs: [Option<CubeTensor>; 4],
    ) -> (Spec, kernel::Problem, device::DeviceInputs<'_>) {
        let [key, value, log_decay, bonus] = inputs.map(required);
        let spec = cube::spec(&key);
        let inputs = device::DeviceInputs {
            log_decay: cube::values(log_decay),
            bonus: cube::values(bonus),
            key: cube::rows(key, 1),
            value: cube::rows_as(value, 1, spec.dtype),
            sequences: self.0.view(),
        };
        let problem = self.problem(&spec.shape);
        (spec, problem, inputs)
    }
}
