//! What a mitigation with a state of its own is made from: cutting the tokens at hand at absolute positions, so that where a
//! caller splits a sequence never shows; its own state; and reading back what it saved.

use burn::tensor::{Tensor, TensorData};
use spillway_ssm_core::{Error, Gates, InterventionState, State};
use std::any::Any;
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Error>;

/// Runs `each` over the tokens of `gates`, cut at the absolute positions that `next_cut` names, and joins the read-outs.
/// `next_cut(p)` is the first cut after position p; `each` leaves `state.position` after its tokens.
///
/// # Errors
/// Those of `each`.
pub fn in_pieces(
    gates: Gates,
    state: &mut State,
    next_cut: impl Fn(u64) -> u64,
    mut each: impl FnMut(Gates, &mut State) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let dims = gates.dims();
    let mut outputs = Vec::new();
    let mut done = 0;
    while done < dims.time {
        let ahead = next_cut(state.position).saturating_sub(state.position).max(1);
        let left = (dims.time - done) as u64;
        let end = done + ahead.min(left) as usize;
        outputs.push(each(gates.slice(done..end)?, state)?);
        done = end;
    }
    Ok(match outputs.len() {
        0 => Tensor::zeros([dims.batch, 0, dims.heads, dims.value_dim], &gates.value.device()),
        1 => outputs.swap_remove(0),
        _ => Tensor::cat(outputs, 1),
    })
}

/// The first multiple of `step` after `position`.
pub fn next_multiple(position: u64, step: u64) -> u64 {
    (position / step + 1).saturating_mul(step)
}

/// The state that the intervention itself started.
///
/// # Errors
/// [`Error::Value`] for the state of another intervention.
pub fn own_state<M: InterventionState>(own: &mut dyn InterventionState) -> Result<&mut M> {
    own.as_any_mut().downcast_mut::<M>().ok_or_else(of_another)
}

/// As [`own_state`], of other batches.
///
/// # Errors
/// As [`own_state`].
pub fn own_states<'a, M: InterventionState>(states: &[&'a dyn InterventionState]) -> Result<Vec<&'a M>> {
    let own = states.iter().map(|state| {
        let state: &dyn Any = *state;
        state.downcast_ref::<M>().ok_or_else(of_another)
    });
    own.collect()
}

fn of_another() -> Error {
    Error::Value {
        what: "memory of an intervention",
        expected: "the one that this intervention started",
        found: "that of another".into(),
    }
}

/// A saved entry, checked for rank and for batch size, its first dimension; `None` where there is none.
///
/// # Errors
/// [`Error::Saved`] for another shape.
pub fn saved_tensor<const D: usize>(
    saved: &BTreeMap<String, TensorData>,
    name: &str,
    batch: usize,
    device: &burn::tensor::Device,
) -> Result<Option<Tensor<D>>> {
    let Some(data) = saved.get(name) else {
        return Ok(None);
    };
    let shape: Vec<usize> = data.shape().iter().copied().collect();
    if shape.len() != D || shape[0] != batch {
        return Err(Error::Saved {
            what: name.into(),
            expected: format!("{D} dimensions, the first of them {batch}"),
            found: format!("{shape:?}"),
        });
    }
    Ok(Some(Tensor::from_data(data.clone(), device)))
}

/// A saved state of exactly `shape`; `None` where there is none.
///
/// # Errors
/// [`Error::Saved`] for another shape.
pub fn saved_state(
    saved: &BTreeMap<String, TensorData>,
    name: &str,
    shape: [usize; 4],
    device: &burn::tensor::Device,
) -> Result<Option<Tensor<4>>> {
    let found = saved_tensor::<4>(saved, name, shape[0], device)?;
    match &found {
        Some(tensor) if tensor.dims() != shape => Err(Error::Saved {
            what: name.into(),
            expected: format!("{shape:?}"),
            found: format!("{:?}", tensor.dims()),
        }),
        _ => Ok(found),
    }
}

/// A count as it is saved.
pub fn count_data(count: u64) -> TensorData {
    TensorData::new(vec![count as i64], [1])
}

/// A saved count.
///
/// # Errors
/// [`Error::Saved`] for anything else.
pub fn saved_count(saved: &BTreeMap<String, TensorData>, name: &str) -> Result<u64> {
    let wrong = |found: String| Error::Saved {
        what: name.into(),
        expected: "one 64-bit integer of at least 0".into(),
        found,
    };
    let data = saved.get(name).ok_or_else(|| wrong("nothing".into()))?;
    let values = data
        .try_to_vec::<i64>()
        .map_err(|error| wrong(format!("{error:?}")))?;
    match values.as_slice() {
        [count] => u64::try_from(*count).map_err(|_| wrong(count.to_string())),
        some => Err(wrong(format!("{} values", some.len()))),
    }
}
