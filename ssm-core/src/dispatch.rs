//! Which operator runs which gates.
//!
//! | gates | operator |
//! |---|---|
//! | a weighted sum with stored decays | [`kernel_dsl::recurrence`] |
//! | decays that are a constant times the step size, one value column | [`kernel_dsl::selective_scan`] |
//! | a delta rule | [`kernel_dsl::delta_rule`] |
//! | a weighted mean | [`kernel_dsl::wkv4`] |

use crate::error::Result;
use crate::gates::{Dims, Erase, Gates, LogDecay, ReadOut};
use crate::operators::delta_rule::{DeltaDecay, DeltaInputs, Transition, delta_rule};
use crate::operators::recurrence::{Chunks, recurrence_over};
use crate::operators::selective_scan::{ScanInputs, selective_scan};
use crate::operators::wkv4::wkv4;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::{Device, Tensor};

/// The read-out of valid gates, `[batch, time, heads, value_dim]`; the state is left after the last token of every sequence,
/// its position untouched. Only a weighted sum with stored decays looks at `chunks`.
pub(crate) fn run_gates(
    gates: Gates,
    sequences: &Sequences,
    state: &mut State,
    chunks: Chunks,
) -> Result<Tensor<4>> {
    let dims = gates.dims();
    match (&gates.erase, &gates.read_out, &gates.log_decay) {
        (Erase::Delta(_) | Erase::LowRank { .. }, ..) => delta(gates, &dims, sequences, state),
        (Erase::None, ReadOut::Mean(_), _) => mean(gates, &dims, sequences, state),
        (Erase::None, ReadOut::Inclusive, LogDecay::PerStep(_)) if dims.value_dim == 1 => {
            scan(gates, &dims, sequences, state)
        }
        (Erase::None, ..) => recurrence_over(gates.with_stored_decay(), sequences, state, chunks),
    }
}

/// One value column per head: heads are channels.
fn scan(gates: Gates, dims: &Dims, sequences: &Sequences, state: &mut State) -> Result<Tensor<4>> {
    let (LogDecay::PerStep(a), Some(step_size)) = (gates.log_decay, gates.step_size) else {
        unreachable!(
            "run_gates comes here with decays per step, and validation asks for a step size beside them"
        );
    };
    let scale = gates.scale;
    let memory = state.take();
    let sequence_count = memory.dims()[0];
    let mut memory = memory.reshape([sequence_count, dims.heads, dims.key_dim]);
    let query = if scale == 1.0 {
        gates.query
    } else {
        gates.query.mul_scalar(scale)
    };
    let inputs = ScanInputs {
        input: gates.value.reshape([dims.batch, dims.time, dims.heads]),
        step_size,
        a,
        b: gates.key,
        c: query,
        skip: gates.skip,
        gate: None,
    };
    let output = selective_scan(inputs, sequences, &mut memory)?;
    state.memory = memory.reshape([sequence_count, dims.heads, dims.key_dim, 1]);
    Ok(output.reshape([dims.batch, dims.time, dims.heads, 1]))
}

fn delta(gates: Gates, dims: &Dims, sequences: &Sequences, state: &mut State) -> Result<Tensor<4>> {
    let gates = gates.with_stored_decay();
    let device = gates.value.device();
    let value = match &gates.step_size {
        Some(step) => gates.value.clone() * step.clone().unsqueeze_dim::<4>(3),
        None => gates.value.clone(),
    };
    let transition = match gates.erase {
        Erase::Delta(beta) => Transition::Delta { beta },
        Erase::LowRank { p, b } => Transition::LowRank { p, b },
        Erase::None => unreachable!("run_gates comes here with something to erase"),
    };
    let inputs = DeltaInputs {
        query: gates.query,
        key: gates.key,
        value,
        transition,
        log_decay: delta_decay(gates.log_decay, dims, &device),
        scale: gates.scale,
    };
    let position = state.position;
    let output = delta_rule(inputs, sequences, state)?;
    state.position = position;
    Ok(match gates.skip {
        None => output,
        Some(skip) => output + gates.value * per_value(skip, dims),
    })
}

/// The delta rule takes decays per token; constants are repeated.
fn delta_decay(decay: LogDecay, dims: &Dims, device: &Device) -> DeltaDecay {
    let (batch, time, heads, key_dim) = (dims.batch, dims.time, dims.heads, dims.key_dim);
    match decay {
        LogDecay::None => DeltaDecay::None,
        LogDecay::PerHeadToken(a) => DeltaDecay::PerHeadToken(a),
        LogDecay::PerKeyToken(a) => DeltaDecay::PerKeyToken(a),
        LogDecay::PerHead(a) => {
            DeltaDecay::PerHeadToken(Tensor::zeros([batch, time, heads], device) + a.unsqueeze::<3>())
        }
        LogDecay::PerKey(a) | LogDecay::PerStep(a) => {
            DeltaDecay::PerKeyToken(Tensor::zeros([batch, time, heads, key_dim], device) + a.unsqueeze::<4>())
        }
    }
}

/// A skip `[heads]` or `[heads · value_dim]` as `[1, 1, heads, value_dim or 1]`.
fn per_value(skip: Tensor<1>, dims: &Dims) -> Tensor<4> {
    let columns = skip.dims()[0] / dims.heads.max(1);
    skip.reshape([1, 1, dims.heads, columns])
}

/// The operator keeps sums apart from one another, `[sequences, 3, channels]`.
fn mean(gates: Gates, dims: &Dims, sequences: &Sequences, state: &mut State) -> Result<Tensor<4>> {
    let (batch, time, channels) = (dims.batch, dims.time, dims.heads);
    let device = gates.value.device();
    let log_decay = match gates.log_decay {
        LogDecay::PerHead(a) => a,
        _ => Tensor::zeros([channels], &device),
    };
    let ReadOut::Mean(bonus) = gates.read_out else {
        unreachable!("run_gates comes here with a mean to read");
    };
    let memory = state.take();
    let sequence_count = memory.dims()[0];
    let mut memory = memory.reshape([sequence_count, channels, 3]).swap_dims(1, 2);
    let output = wkv4(
        log_decay,
        bonus,
        gates.key.reshape([batch, time, channels]),
        gates.value.reshape([batch, time, channels]),
        sequences,
        &mut memory,
    )?;
    state.memory = memory.swap_dims(1, 2).reshape([sequence_count, channels, 1, 3]);
    let output = output.reshape([batch, time, channels, 1]);
    Ok(if gates.scale == 1.0 {
        output
    } else {
        output.mul_scalar(gates.scale)
    })
}
