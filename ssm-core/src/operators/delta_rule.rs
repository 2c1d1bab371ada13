//! The delta rule: DeltaNet, Gated DeltaNet, KDA and RWKV-7.

use crate::backend::{Input, over_sequences, run};
#[cfg(feature = "cube")]
use crate::backend::{Spec, cube};
use crate::error::Result;
use crate::gates::{Dims, Erase, Gates, LogDecay};
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::{Device, Tensor};
use spillway_kernel_dsl::DecayKind;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::delta_rule::cube as device;
use spillway_kernel_dsl::delta_rule::{self as kernel, Transition, TransitionKind};

/// The read-out of valid gates that erase; `state` is left after the last token of every sequence, its position untouched. See
/// [`Erase`] and [`spillway_kernel_dsl::delta_rule`].
///
/// Sources: Yang et al., *Parallelizing linear transformers with the delta rule* (2406.06484) and *Gated delta networks*
/// (2412.06464); Peng et al., *RWKV-7* (2503.14456).
///
/// # Shapes
/// Result `[batch, time, heads, value_dim]`; the state's memory `[sequences, heads, key_dim, value_dim]`.
///
/// # Errors
/// [`Error::Sequences`](crate::Error::Sequences), [`Error::Device`](crate::Error::Device),
/// [`Error::DType`](crate::Error::DType) and [`Error::Kernel`](crate::Error::Kernel).
pub(crate) fn delta_rule_over(gates: Gates, sequences: &Sequences, state: &mut State) -> Result<Tensor<4>> {
    let gates = gates.with_stored_decay();
    let dims = gates.dims();
    let written = match &gates.step_size {
        Some(step) => gates.value.clone() * step.clone().unsqueeze_dim::<4>(3),
        None => gates.value.clone(),
    };
    let transition = match gates.erase {
        Erase::Delta(beta) => Transition::Delta { beta: beta.into() },
        Erase::LowRank { p, b } => Transition::LowRank {
            p: p.into(),
            b: b.into(),
        },
        Erase::None => unreachable!("gates that erase nothing are a weighted sum's"),
    };
    let (decay, log_decay) = decay_per_token(gates.log_decay, &dims, &gates.value.device());
    let operator = DeltaRule {
        transition: transition.kind(),
        decay,
        scale: gates.scale,
        sequences: sequences.clone(),
    };
    let operands = kernel::OperandsAndState {
        query: gates.query.into(),
        key: gates.key.into(),
        value: written.into(),
        transition,
        log_decay: log_decay.into(),
        state: Input::State(&mut state.memory),
    };
    let found = run(operator, operands)?;
    state.memory = Tensor::from_dispatch(found.state);
    let output = Tensor::from_dispatch(found.out);
    Ok(match gates.skip {
        None => output,
        Some(skip) => output + gates.value * per_value(skip, &dims),
    })
}

/// The kernel takes decays per token; constants are repeated.
fn decay_per_token<'a>(decay: LogDecay, dims: &Dims, device: &Device) -> (DecayKind, Option<Input<'a>>) {
    let (batch, time, heads, key_dim) = (dims.batch, dims.time, dims.heads, dims.key_dim);
    let per_head = |a: Tensor<3>| (DecayKind::PerHeadToken, Some(a.into()));
    let per_key = |a: Tensor<4>| (DecayKind::PerKeyToken, Some(a.into()));
    match decay {
        LogDecay::None => (DecayKind::None, None),
        LogDecay::PerHeadToken(a) => per_head(a),
        LogDecay::PerKeyToken(a) => per_key(a),
        LogDecay::PerHead(a) => per_head(Tensor::zeros([batch, time, heads], device) + a.unsqueeze::<3>()),
        LogDecay::PerKey(a) | LogDecay::PerStep(a) => {
            per_key(Tensor::zeros([batch, time, heads, key_dim], device) + a.unsqueeze::<4>())
        }
    }
}

/// A skip `[heads]` or `[heads · value_dim]` as `[1, 1, heads, value_dim or 1]`.
fn per_value(skip: Tensor<1>, dims: &Dims) -> Tensor<4> {
    let columns = skip.dims()[0] / dims.heads.max(1);
    skip.reshape([1, 1, dims.heads, columns])
}

/// What of a delta rule is not a tensor.
#[derive(Debug)]
struct DeltaRule {
    transition: TransitionKind,
    decay: DecayKind,
    scale: f32,
    sequences: Sequences,
}

impl DeltaRule {
    fn problem(&self, inputs: &kernel::OperandsAndState<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        let (key, value) = (&inputs.key, &inputs.value);
        kernel::Problem {
            batch: self.sequences.count_in(key[0]),
            time: key[1],
            heads: value[2],
            groups: key[2],
            key_dim: key[3],
            value_dim: value[3],
            transition: self.transition,
            decay: self.decay,
        }
    }

    /// Tokens in the value's type; β and the log decays have one type.
    #[cfg(feature = "cube")]
    fn types(&self, inputs: &kernel::OperandsAndState<Spec, Spec>) -> cube::Types {
        let tokens = inputs.value.dtype;
        let gates = match (inputs.log_decay.as_ref().either(), &inputs.transition) {
            (Some(gate), _) | (None, Transition::Delta { beta: gate }) => gate.dtype,
            (None, Transition::LowRank { .. }) => tokens,
        };
        cube::Types { tokens, gates }
    }
}

over_sequences! {
    DeltaRule as rule, "delta_rule", kernel;
    settings: [rule.scale, rule.sequences.view()];
    output like value;
    host: {
        forward: |_, problem, inputs, state, out| match kernel::preferred_chunk_size(problem) {
            None => kernel::sequential(problem, inputs, state, out),
            Some(size) => kernel::chunked(problem, inputs, size, state, out),
        },
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
