//! The selective scan of Mamba.

use crate::backend::{Input, over_sequences, run};
#[cfg(feature = "cube")]
use crate::backend::{Spec, cube};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use burn::tensor::Tensor;
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
    /// D, the skip from u to its own output, `[channels]`; `None` is 0.
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
    let operands = kernel::OperandsAndState {
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
    fn problem(&self, inputs: &kernel::OperandsAndState<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        let (input, b) = (&inputs.input, &inputs.b);
        kernel::Problem {
            batch: self.0.count_in(input[0]),
            time: input[1],
            channels: input[2],
            state_dim: b[3],
            groups: b[2],
        }
    }

    /// Tokens in the type of u.
    #[cfg(feature = "cube")]
    fn types(&self, inputs: &kernel::OperandsAndState<Spec, Spec>) -> cube::Types {
        cube::Types::all(inputs.input.dtype)
    }
}

over_sequences! {
    SelectiveScan as scan, "selective_scan", kernel;
    settings: [scan.0.view()];
    output like input;
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
