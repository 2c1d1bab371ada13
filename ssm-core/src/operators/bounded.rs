//! The recurrence whose states are clipped to a norm after every token.

use crate::backend::flex::{self, contiguous, owned, slice};
use crate::backend::host::{expect_host, from_host, host};
use crate::chunking::Chunking;
use crate::error::Result;
use crate::gates::Gates;
use crate::operators::recurrence::{Held, Recurrence};
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
use spillway_kernel_dsl::recurrence;

const OPERATION: &str = "the recurrence with bounded states";

/// The read-out and the number of clipped (token, head) pairs; shapes have been validated.
pub(crate) fn recurrence_bounded(
    gates: Gates,
    state: &mut State,
    bound: &Tensor<1>,
) -> Result<(Tensor<4>, u64)> {
    let devices = gates.devices();
    expect_host(
        OPERATION,
        devices.iter().chain([&bound.device(), &state.memory.device()]),
    )?;
    let operator = Recurrence::of(&gates, &Sequences::Equal, Chunking::Sequential);
    let held = Held::on_host(&operator, gates);
    let bound = contiguous(host(bound.clone()));
    let mut memory = owned(host(state.take()));
    let mut out = held.out_buffer();
    let clipped = flex::validated(recurrence::sequential_bounded(
        &held.problem,
        &held.inputs(),
        slice(&bound),
        memory.storage_mut::<f32>(),
        &mut out,
    ));
    state.memory = from_host(memory);
    Ok((from_host(flex::tensor(out, held.out_shape())), clipped))
}
