//! Depthwise causal convolution over time.

use crate::backend::{Input, over_sequences, run};
#[cfg(feature = "cube")]
use crate::backend::{Spec, cube};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use burn::tensor::Tensor;
use spillway_kernel_dsl::causal_conv1d as kernel;
pub use spillway_kernel_dsl::causal_conv1d::Activation;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::causal_conv1d::cube as device;

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
    let inputs = kernel::OperandsAndState {
        input: input.into(),
        weight: weight.into(),
        bias: bias.map(Input::from),
        state: Input::State(state),
    };
    let found = run(operator, inputs)?;
    *state = Tensor::from_dispatch(found.state);
    Ok(Tensor::from_dispatch(found.out))
}

/// What of a convolution is not a tensor.
#[derive(Debug)]
struct CausalConv1d {
    activation: Activation,
    sequences: Sequences,
}

impl CausalConv1d {
    fn problem(&self, inputs: &kernel::OperandsAndState<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        let input = &inputs.input;
        kernel::Problem {
            batch: self.sequences.count_in(input[0]),
            time: input[1],
            channels: input[2],
            width: inputs.weight[1],
            activation: self.activation,
        }
    }

    #[cfg(feature = "cube")]
    fn types(&self, inputs: &kernel::OperandsAndState<Spec, Spec>) -> cube::Types {
        cube::Types::all(inputs.input.dtype)
    }
}

over_sequences! {
    CausalConv1d as conv, "causal_conv1d", kernel;
    settings: [conv.sequences.view()];
    output like input;
    host: {
        forward: |_, problem, inputs, state, out| kernel::causal_conv1d(problem, inputs, state, out),
        backward: |_, problem, inputs, state, cotangents, gradients| {
            kernel::backward(problem, inputs, state, cotangents, gradients)
        },
    }
    device: {
        forward: |_, client, problem, inputs, state| device::causal_conv1d(client, problem, inputs, state),
        backward: |_, client, problem, inputs, state, cotangents| {
            device::backward(client, problem, inputs, state, cotangents)
        },
    }
}
