//! Which operator runs which gates.
//!
//! | gates | operator |
//! |---|---|
//! | a weighted sum with stored decays | [`spillway_kernel_dsl::recurrence`] |
//! | decays that are a constant times the step size, one value column | [`spillway_kernel_dsl::selective_scan`] |
//! | a delta rule | [`spillway_kernel_dsl::delta_rule`] |
//! | a weighted mean | [`spillway_kernel_dsl::wkv4`] |

use crate::chunking::Chunking;
use crate::error::Result;
use crate::gates::{Dims, Erase, Gates, LogDecay, ReadOut};
use crate::operators::delta_rule::delta_rule_over;
use crate::operators::recurrence::recurrence_over;
use crate::operators::selective_scan::{ScanInputs, selective_scan};
use crate::operators::wkv4::wkv4;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;

/// The read-out of valid gates, `[batch, time, heads, value_dim]`; the state is left after the last token of every sequence,
/// its position untouched. Only a weighted sum with stored decays looks at `chunking`.
pub(crate) fn run_gates(
    gates: Gates,
    sequences: &Sequences,
    state: &mut State,
    chunking: Chunking,
) -> Result<Tensor<4>> {
    let dims = gates.dims();
    match (&gates.erase, &gates.read_out, &gates.log_decay) {
        (Erase::Delta(_) | Erase::LowRank { .. }, ..) => delta_rule_over(gates, sequences, state),
        (Erase::None, ReadOut::Mean(_), _) => mean(gates, &dims, sequences, state),
        (Erase::None, ReadOut::Inclusive, LogDecay::PerStep(_)) if dims.value_dim == 1 => {
            scan(gates, &dims, sequences, state)
        }
        (Erase::None, ..) => recurrence_over(gates.with_stored_decay(), sequences, state, chunking),
    }
}

/// The selective scan of gates with one value column per head: heads are channels.
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
