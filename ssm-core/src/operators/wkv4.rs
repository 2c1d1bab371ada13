//! The recurrence of RWKV-4.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::{Input, Operator, OutputAndState, Spec, operands, run};
use crate::error::Result;
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use burn::tensor::{Device, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::DeviceBuffer;
use spillway_kernel_dsl::wkv4 as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::wkv4::cube as device;

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
    let inputs = Inputs {
        key: key.into(),
        value: value.into(),
        log_decay: log_decay.into(),
        bonus: bonus.into(),
        state: Input::State(state),
    };
    let found = run(Wkv4(sequences.clone()), inputs)?;
    *state = Tensor::from_dispatch(found.state);
    Ok(Tensor::from_dispatch(found.out))
}

operands! {
    /// What WKV-4 reads.
    Inputs { key, value, log_decay, bonus, state }
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
            batch: self.0.count_in(key[0]),
            time: key[1],
            channels: key[2],
        }
    }

    fn hold(&self, inputs: Inputs<FlexTensor>) -> (Held<'_>, FlexTensor) {
        let key = RowTensor::new(inputs.key, 1);
        let held = Held {
            problem: self.problem(&key.dims),
            key,
            value: RowTensor::new(inputs.value, 1),
            log_decay: contiguous(inputs.log_decay),
            bonus: contiguous(inputs.bonus),
            sequences: &self.0,
        };
        (held, inputs.state)
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
    type Inputs = Inputs<()>;
    type Outputs = OutputAndState<()>;

    fn name(&self) -> &'static str {
        "wkv4"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> OutputAndState<Spec> {
        OutputAndState {
            out: inputs.key,
            state: inputs.state,
        }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> OutputAndState<FlexTensor> {
        let (held, state) = self.hold(inputs);
        flex::with_state(state, &held.key.dims, |state, out| {
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
                log_decay: &mut found.log_decay,
                bonus: &mut found.bonus,
                key: &mut found.key,
                value: &mut found.value,
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
        place.outputs(found, &specs.key, &specs.state)
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
            &cube::cotangents(cotangents, 1, specs.key.dtype),
        ));
        let found = Inputs {
            key: found.key,
            value: found.value,
            log_decay: found.log_decay,
            bonus: found.bonus,
            state: found.state,
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}

#[cfg(feature = "cube")]
impl Wkv4 {
    /// The inputs as the kernels take them, key and value in one type, and the state.
    fn hold_on_cube(
        &self,
        inputs: Inputs<CubeTensor>,
    ) -> (kernel::Problem, device::DeviceInputs<'_>, DeviceBuffer) {
        let spec = cube::spec(&inputs.key);
        let held = device::DeviceInputs {
            log_decay: cube::values(inputs.log_decay),
            bonus: cube::values(inputs.bonus),
            key: cube::rows(inputs.key, 1),
            value: cube::rows_as(inputs.value, 1, spec.dtype),
            sequences: self.0.view(),
        };
        (self.problem(&spec.shape), held, cube::values(inputs.state))
    }
}
