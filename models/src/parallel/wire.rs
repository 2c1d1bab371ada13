//! The state of a layer as bytes, and back.
//!
//! The form is that of a saved state ([`crate::ModelState::save`]), of one layer: safetensors with the names `mixer.NAME`
//! and `channel.NAME`. What is taken up from it goes on to the same bits.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, serialize};
use spillway_ssm_core::{Chain, Site};

use super::{ParallelError, Tag};
use crate::error::ModelError;
use crate::state::LayerState;
use crate::state::file::TYPES;

const PARTS: [&str; 2] = ["mixer.", "channel."];

/// What a layer carries, as bytes.
///
/// # Errors
/// [`ModelError::Parallel`] for a memory of a type that the form does not have.
pub(crate) fn to_bytes(state: &LayerState, tag: Tag, rank: usize) -> Result<Vec<u8>, ModelError> {
    let parts = [state.mixer.save(), state.channel.save()];
    let entries: BTreeMap<String, TensorData> = PARTS
        .into_iter()
        .zip(parts)
        .flat_map(|(part, entries)| {
            let entries = entries.into_iter();
            entries.map(move |(name, data)| (format!("{part}{name}"), data))
        })
        .collect();
    let views = entries.iter().map(|(name, data)| {
        let wrong = |found: String| message(tag, rank, format!("{name} of a type that states have"), found);
        let dtype = TYPES.iter().find(|(kept, _)| *kept == data.dtype());
        let (_, dtype) = dtype.ok_or_else(|| wrong(format!("{:?}", data.dtype())))?;
        let view = TensorView::new(*dtype, data.shape().to_vec(), data.as_bytes());
        Ok((name, view.map_err(|error| wrong(error.to_string()))?))
    });
    let views = views.collect::<Result<Vec<_>, ModelError>>()?;
    serialize(views, None)
        .map_err(|error| message(tag, rank, "a state that can be written".into(), error.to_string()))
}

/// Takes up what [`to_bytes`] gave after `position` tokens. `fresh` has been started by the same layer, at `sites`, for as
/// many sequences.
///
/// # Errors
/// [`ModelError::Parallel`] for bytes that are no state of this layer.
pub(crate) fn take_up(
    fresh: &mut LayerState,
    bytes: &[u8],
    (sites, chain): (&[Site], &Chain),
    position: u64,
    (tag, from): (Tag, usize),
) -> Result<(), ModelError> {
    let wrong = |expected: &str, found: String| message(tag, from, expected.into(), found);
    let tensors = SafeTensors::deserialize(bytes);
    let tensors = tensors.map_err(|error| wrong("the state of a layer", error.to_string()))?;
    let mut parts = [BTreeMap::new(), BTreeMap::new()];
    for (name, view) in tensors.iter() {
        let part = PARTS
            .iter()
            .position(|part| name.starts_with(part))
            .ok_or_else(|| wrong("entries of a mixer or a channel mixer", name.into()))?;
        let dtype = TYPES.iter().find(|(_, stored)| *stored == view.dtype());
        let (dtype, _) = dtype.ok_or_else(|| wrong("a type that states have", view.dtype().to_string()))?;
        let data = TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), *dtype);
        let data = data.map_err(|error| wrong("a tensor of its own size", error.to_string()))?;
        parts[part].insert(name[PARTS[part].len()..].to_string(), data);
    }
    let [mixer, channel] = parts;
    let restored = fresh.mixer.restore(&mixer, sites, chain, position);
    restored
        .and_then(|()| fresh.channel.restore(&channel, &[], chain, position))
        .map_err(|error| wrong("the state of this layer", error.to_string()))
}

fn message(tag: Tag, from: usize, expected: String, found: String) -> ModelError {
    let what = tag.what;
    ModelError::Parallel(ParallelError::Message {
        what,
        from,
        expected,
        found,
    })
}
