//! What a model computes, a segment at a time: between two of them a stop may be asked for, and the state stands between two tokens. The
//! segments are the model's own, so that the bits are those of one call.

use spillway::stop::Stop;
use spillway_models::budget::{self, product};
use spillway_models::burn::tensor::Tensor;
use spillway_models::model::segments;
use spillway_models::{Logits, Model, ModelState};

use crate::arrays::Ids;
use crate::compute::unless_asked;
use crate::errors::Failure;

/// Logits after every token, `[batch, time, vocab_size]`.
pub fn all_logits(
    model: &Model,
    ids: &Ids,
    state: &mut ModelState,
    stop: &Stop,
) -> Result<Vec<f32>, Failure> {
    let vocab_size = model.info().vocab_size;
    // For a moment they are there twice: here and in Python's array.
    let sizes = [ids.batch(), ids.time(), vocab_size, 2 * size_of::<f32>()];
    let advice = "ask for the last ones, or for losses, or take in fewer tokens at a time";
    budget::ask(
        "the logits after every token",
        product(sizes.map(|size| size as u64)),
        advice,
    )?;
    let row = ids.time() * vocab_size;
    let mut values = vec![0.0; ids.batch() * row];
    for segment in segments(ids.time(), state) {
        unless_asked(stop)?;
        let logits = model.logits_batched(&ids.piece(segment.clone()), state, Logits::All)?;
        let found = floats(logits.narrow(2, 0, vocab_size))?;
        if found.len() == values.len() {
            return Ok(found);
        }
        let length = segment.len() * vocab_size;
        for (sequence, found) in found.chunks(length).enumerate() {
            let begin = sequence * row + segment.start * vocab_size;
            values[begin..begin + length].copy_from_slice(found);
        }
    }
    Ok(values)
}

/// Logits after the last token, `[batch, 1, vocab_size]`.
pub fn last_logits(
    model: &Model,
    ids: &Ids,
    state: &mut ModelState,
    stop: &Stop,
) -> Result<Tensor<3>, Failure> {
    let mut last = 0..0;
    for segment in segments(ids.time(), state) {
        unless_asked(stop)?;
        if segment.end < ids.time() {
            model.advance(&ids.piece(segment), state)?;
        } else {
            last = segment;
        }
    }
    // Of no tokens there are none, which the model says.
    let logits = model.logits_batched(&ids.piece(last), state, Logits::Last)?;
    Ok(logits.narrow(2, 0, model.info().vocab_size))
}

/// Takes the tokens in.
pub fn advance(model: &Model, ids: &Ids, state: &mut ModelState, stop: &Stop) -> Result<(), Failure> {
    for segment in segments(ids.time(), state) {
        unless_asked(stop)?;
        model.advance(&ids.piece(segment), state)?;
    }
    Ok(())
}

/// −log p of every target after the ids up to its own, in nats, `[batch, time]`.
pub fn losses(
    model: &Model,
    ids: &Ids,
    targets: &Ids,
    state: &mut ModelState,
    stop: &Stop,
) -> Result<Vec<f32>, Failure> {
    let time = ids.time();
    let mut losses = vec![0.0; ids.batch() * time];
    for segment in segments(time, state) {
        unless_asked(stop)?;
        let (read, foretold) = (ids.piece(segment.clone()), targets.piece(segment.clone()));
        let found = model.losses_batched(&read, &foretold, state)?;
        for (sequence, found) in found.chunks(segment.len()).enumerate() {
            let begin = sequence * time + segment.start;
            losses[begin..begin + segment.len()].copy_from_slice(found);
        }
    }
    Ok(losses)
}

/// The values of a tensor, without a copy where they lie in a vector already.
pub fn floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Failure> {
    let values = tensor.into_data().convert::<f32>().try_into_vec::<f32>();
    values.map_err(|error| Failure::Internal(format!("values of a tensor: {error}")))
}
