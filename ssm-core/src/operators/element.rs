//! The monoid element of a segment of tokens.

use crate::backend::flex;
use crate::backend::host::{from_host, is_host};
use crate::chunking::Chunking;
use crate::element::{Element, Transition};
use crate::error::Result;
use crate::gates::{Dims, Gates, LogDecay};
use crate::operators::recurrence::{Held, Recurrence, recurrence_over};
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::{Device, Tensor};
use spillway_kernel_dsl::recurrence;

/// The element of gates whose shapes have been validated. On the CPU queries are not looked at; elsewhere the update is what
/// the recurrence leaves when it starts from nothing.
pub(crate) fn element(gates: &Gates, chunk_size: usize) -> Result<Element> {
    if is_host(&gates.devices()) {
        return Ok(on_host(gates, chunk_size));
    }
    let (dims, device) = (gates.dims(), gates.value.device());
    let mut state = State::zeros(&dims, &device);
    recurrence_over(
        gates.clone(),
        &Sequences::Equal,
        &mut state,
        Chunking::Chunked { chunk_size },
    )?;
    Ok(Element {
        transition: Transition::Decay(sum_of_log_decays(&gates.log_decay, &dims, &device)),
        update: state.memory,
    })
}

/// Σ log a over the tokens of a segment that has some; decays per step are not stored, and not summed here.
pub(crate) fn sum_of_log_decays(log_decay: &LogDecay, dims: &Dims, device: &Device) -> Tensor<3> {
    let Dims {
        batch,
        time,
        heads,
        key_dim,
        ..
    } = *dims;
    match log_decay.clone() {
        LogDecay::None => Tensor::zeros([batch, heads, 1], device),
        LogDecay::PerHead(a) => (a * time as f32).reshape([1, heads, 1]).repeat_dim(0, batch),
        LogDecay::PerKey(a) | LogDecay::PerStep(a) => (a * time as f32)
            .reshape([1, heads, key_dim])
            .repeat_dim(0, batch),
        LogDecay::PerHeadToken(a) => a.sum_dim(1).reshape([batch, heads, 1]),
        LogDecay::PerKeyToken(a) => a.sum_dim(1).reshape([batch, heads, key_dim]),
    }
}

fn on_host(gates: &Gates, chunk_size: usize) -> Element {
    let operator = Recurrence::of(gates, &Sequences::Equal, Chunking::Chunked { chunk_size });
    let held = Held::on_host(&operator, gates.clone());
    let p = &held.problem;
    let decay_rows = p.decay_sums_per_head();
    let mut sums = vec![0.0; p.batch * p.heads * decay_rows];
    let mut update = vec![0.0; p.state_len()];
    flex::validated(recurrence::element(
        p,
        &held.inputs(),
        chunk_size,
        &mut sums,
        &mut update,
    ));
    let (sums_shape, update_shape) = (
        [p.batch, p.heads, decay_rows],
        [p.batch, p.heads, p.key_dim, p.value_dim],
    );
    Element {
        transition: Transition::Decay(from_host(flex::tensor(sums, &sums_shape))),
        update: from_host(flex::tensor(update, &update_shape)),
    }
}
