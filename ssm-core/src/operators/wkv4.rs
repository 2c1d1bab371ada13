//! The recurrence of RWKV-4.

use crate::backend::{Input, over_sequences, run};
#[cfg(feature = "cube")]
use crate::backend::{Spec, cube};
use crate::error::Result;
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use burn::tensor::{Device, Tensor};
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
    let inputs = kernel::OperandsAndState {
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

/// The recurrence over sequences that lie like this.
#[derive(Debug)]
struct Wkv4(Sequences);

impl Wkv4 {
    fn problem(&self, inputs: &kernel::OperandsAndState<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        let key = &inputs.key;
        kernel::Problem {
            batch: self.0.count_in(key[0]),
            time: key[1],
            channels: key[2],
        }
    }

    /// Key and value in one type.
    #[cfg(feature = "cube")]
    fn types(&self, inputs: &kernel::OperandsAndState<Spec, Spec>) -> cube::Types {
        cube::Types::all(inputs.key.dtype)
    }
}

over_sequences! {
    Wkv4 as wkv, "wkv4", kernel;
    settings: [wkv.0.view()];
    output like key;
    host: {
        forward: |_, problem, inputs, state, out| kernel::sequential(problem, inputs, state, out),
        backward: |_, problem, inputs, state, cotangents, gradients| {
            kernel::backward(problem, inputs, kernel::DEFAULT_CHUNK_SIZE, state, cotangents, gradients)
        },
    }
    device: {
        forward: |_, client, problem, inputs, state| device::forward(client, problem, inputs, state),
        backward: |_, client, problem, inputs, state, cotangents| {
            device::backward(client, problem, inputs, state, cotangents)
        },
    }
}
