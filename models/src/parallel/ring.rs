//! A sequence that is longer than one rank's share: the state of every layer goes from rank to rank.
//!
//! The tokens are cut into stretches, dealt out to the ranks in turn. A rank takes its stretch through the model layer by
//! layer: it waits for the state in which the stretch before has left the layer, runs the layer over its own tokens, sends
//! the state on, and goes to the next layer. So rank r works on layer l while rank r + 1 works on layer l − 1:
//!
//! ```text
//!            time ─►
//! rank 0    l₀ l₁ l₂ l₃ l₀ l₁ l₂ l₃            stretches 0 and 2
//! rank 1       l₀ l₁ l₂ l₃ l₀ l₁ l₂ l₃         stretches 1 and 3
//! ```
//!
//! Nothing is computed that one process would not compute, and nothing depends on what a layer is: recurrences of every
//! kind, convolutions, token shifts, caches of attention and whatever mitigations remember all travel in [`LayerState`].
//! Stretches are whole segments, the ones that one process cuts a text into, so that the result is the same, bit for bit,
//! for any number of ranks.
//!
//! With R ranks, L layers and m stretches for each, R ≤ L, the share of the time in which a rank works is
//!
//! ```text
//! m L / (m L + R − 1)
//! ```
//!
//! and with more ranks than layers it is L / R at best. Each layer's state crosses between ranks once for every stretch but
//! the last: constant bytes for recurrences; for full attention all keys and values before the stretch. See [`super::cost`].

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};

use super::collectives::{agree, bytes_of};
use super::{Communicator, Tag, or_fail, wire};
use crate::budget::{self, product};
use crate::error::ModelError;
use crate::model::{Logits, Model, segments};
use crate::network::{Around, Passage};
use crate::state::fingerprint::Fingerprint;
use crate::state::{LayerState, ModelState};

const LAYER: Tag = Tag::new(16, "the state of a layer");
const FINAL: Tag = Tag::new(17, "the final state of a layer");
const RESULT: Tag = Tag::new(18, "what the model gives for its tokens");

/// Segments that a stretch has at most, unless asked: what a rank holds of the residual stream does not grow with the text.
const MOST_SEGMENTS: usize = 16;

/// Ranks that read one text together. All of them call the same method with the same arguments.
///
/// The state that the text starts from is that of rank 0, and so is the state after it. On the other ranks only its shape
/// counts: sequences, positions and interventions, which go on as on rank 0; what their layers hold afterwards is not to be
/// used without rank 0.
///
/// ```
/// use std::time::Duration;
/// use spillway_models::parallel::Threads;
/// use spillway_models::parallel::ring::Ring;
/// use spillway_models::{LoadOptions, Model, ModelError};
/// use spillway_ssm_core::Chain;
///
/// let model = Model::shipped(&LoadOptions::default())?;
/// let ids: Vec<u32> = b"In the beginning ".iter().cycle().take(1025).map(|byte| u32::from(*byte)).collect();
/// let (ids, targets) = (&ids[..1024], &ids[1..]);
/// let together = Threads::run(3, Duration::from_secs(60), |ranks| -> Result<_, ModelError> {
///     let mut state = model.start(&Chain::default(), 1)?;
///     Ring::new(ranks).losses(&model, ids, targets, &mut state)
/// });
/// let together = together.into_iter().next().expect("rank 0")?;
/// let mut state = model.start(&Chain::default(), 1)?;
/// assert_eq!(together, Some(model.losses(ids, targets, &mut state)?));
/// # Ok::<(), ModelError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    ranks: &'a dyn Communicator,
    most_segments: NonZeroUsize,
}

/// What one segment gives.
type Read = (Range<usize>, Vec<f32>);

impl<'a> Ring<'a> {
    /// Stretches of at most 4096 tokens.
    pub fn new(ranks: &'a dyn Communicator) -> Self {
        Self {
            ranks,
            most_segments: NonZeroUsize::new(MOST_SEGMENTS).unwrap_or(NonZeroUsize::MIN),
        }
    }

    /// Stretches of at most so many segments of 256 tokens. Short ones let all ranks begin early; long ones send fewer states.
    #[must_use]
    pub fn with_segments(self, most_segments: NonZeroUsize) -> Self {
        Self {
            most_segments,
            ..self
        }
    }

    /// [`Model::losses_batched`] by all ranks; the losses are on rank 0, and `None` elsewhere.
    ///
    /// # Errors
    /// As there; [`ModelError::Parallel`] when another rank fails, is lost, or was started otherwise.
    pub fn losses(
        &self,
        model: &Model,
        ids: &[u32],
        targets: &[u32],
        state: &mut ModelState,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        or_fail(self.ranks, self.all_losses(model, ids, targets, state))
    }

    fn all_losses(
        &self,
        model: &Model,
        ids: &[u32],
        targets: &[u32],
        state: &mut ModelState,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let (time, batch) = (model.check_losses(ids, targets, state)?, state.batch());
        self.agree(model, &[ids, targets], state)?;
        let read = self.go_round(model, ids, state, |segment, normed| {
            let mut losses = vec![0.0; batch * segment.len()];
            for (row, losses) in losses.chunks_mut(segment.len()).enumerate() {
                let targets = &targets[row * time + segment.start..row * time + segment.end];
                model.losses_of(normed.clone().narrow(0, row, 1), targets, losses)?;
            }
            Ok(losses)
        })?;
        Ok(read.map(|read| {
            let mut losses = vec![0.0; ids.len()];
            for (segment, found) in read {
                for (row, found) in found.chunks(segment.len()).enumerate() {
                    losses[row * time + segment.start..row * time + segment.end].copy_from_slice(found);
                }
            }
            losses
        }))
    }

    /// [`Model::logits_batched`] by all ranks; the logits are on rank 0, and `None` elsewhere.
    ///
    /// # Errors
    /// As there; [`ModelError::Parallel`] when another rank fails, is lost, or was started otherwise.
    pub fn logits(
        &self,
        model: &Model,
        ids: &[u32],
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Option<Tensor<3>>, ModelError> {
        or_fail(self.ranks, self.all_logits(model, ids, state, which))
    }

    fn all_logits(
        &self,
        model: &Model,
        ids: &[u32],
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Option<Tensor<3>>, ModelError> {
        let (time, batch) = (model.check(ids, state)?, state.batch());
        let width = model.info().padded_vocab_size;
        if time == 0 && which == Logits::Last {
            return Err(ModelError::EmptyPrompt);
        }
        if which == Logits::All && self.ranks.rank() == 0 {
            let values = [ids.len() as u64, width as u64, 4];
            let advice = "ask for those after the last token, or for losses";
            budget::ask("the logits after every token", product(values), advice)?;
        }
        self.agree(model, &[ids], state)?;
        let read = self.go_round(model, ids, state, |segment, normed| {
            let normed = match which {
                Logits::All => normed,
                Logits::Last if segment.end == time => normed.narrow(1, segment.len() - 1, 1),
                Logits::Last => return Ok(Vec::new()),
            };
            let logits = model.network().logits(normed)?.into_data();
            Ok(logits.iter::<f32>().collect())
        })?;
        let tensor = |values: Vec<f32>| {
            let tokens = values.len() / (batch * width);
            Tensor::<3>::from_data(TensorData::new(values, [batch, tokens, width]), model.device())
        };
        Ok(read.map(|read| {
            let parts = read.into_iter().map(|(_, values)| values);
            let parts: Vec<Tensor<3>> = parts.filter(|values| !values.is_empty()).map(tensor).collect();
            match parts.is_empty() {
                true => Tensor::zeros([batch, 0, width], model.device()),
                false => Tensor::cat(parts, 1),
            }
        }))
    }

    /// [`Model::advance`] by all ranks.
    ///
    /// # Errors
    /// As there; [`ModelError::Parallel`] when another rank fails, is lost, or was started otherwise.
    pub fn advance(&self, model: &Model, ids: &[u32], state: &mut ModelState) -> Result<(), ModelError> {
        let advanced = model.check(ids, state).and_then(|_| {
            self.agree(model, &[ids], state)?;
            self.go_round(model, ids, state, |_, _| Ok(Vec::new())).map(drop)
        });
        or_fail(self.ranks, advanced)
    }

    /// Refuses ranks with another model, other interventions, other ids or another place.
    fn agree(&self, model: &Model, lists: &[&[u32]], state: &ModelState) -> Result<(), ModelError> {
        let mut hash = Fingerprint::new();
        for ids in lists {
            hash.bytes(&(ids.len() as u64).to_le_bytes());
            hash.bytes(bytemuck::cast_slice(ids));
        }
        let (positions, prefix) = (state.positions(), state.prefix());
        agree(self.ranks, "model", model.fingerprint())?;
        agree(self.ranks, "interventions", &state.chain().identity())?;
        let tokens = format!("{:032x} from {positions:?} on, prefix {prefix:?}", hash.digest());
        Ok(agree(self.ranks, "tokens", &tokens)?)
    }

    /// Takes `ids` through the model; `read` makes of what the layers give for a segment, `[batch, segment, model_dim]`,
    /// what is wanted of it. On rank 0, everything that was read, in the order of the text.
    fn go_round(
        &self,
        model: &Model,
        ids: &[u32],
        state: &mut ModelState,
        mut read: impl FnMut(&Range<usize>, Tensor<3>) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Option<Vec<Read>>, ModelError> {
        model.network().expect_causal()?;
        let time = ids.len() / state.batch().max(1);
        let all: Vec<Range<usize>> = segments(time, state).collect();
        let plan = Plan::new(&all, self.ranks.size(), self.most_segments);
        let (rank, mut own) = (self.ranks.rank(), VecDeque::new());
        let fresh = model.network().start(&state.chain, state.batch());
        let going = Going {
            ring: self,
            model,
            ids,
            plan: &plan,
            fresh: &fresh,
        };
        for turn in (rank..plan.turns()).step_by(self.ranks.size()) {
            let given = going.stretch(turn, state, &mut read)?;
            match rank {
                0 => own.extend(given),
                _ => {
                    let mut given = given.iter();
                    given.try_for_each(|values| self.ranks.send(0, RESULT, bytes_of(values)))?;
                }
            }
            if going.plan.is_last(turn) && rank != 0 {
                for layer in &state.layers {
                    self.ranks.send(0, FINAL, wire::to_bytes(layer, FINAL, rank)?)?;
                }
            }
        }
        going.end(state, time as u64)?;
        match rank {
            0 => self.collect(&plan, own).map(Some),
            _ => Ok(None),
        }
    }

    /// On rank 0: what all ranks have read.
    fn collect(&self, plan: &Plan<'_>, mut own: VecDeque<Vec<f32>>) -> Result<Vec<Read>, ModelError> {
        let mut read = Vec::new();
        for turn in 0..plan.turns() {
            let from = plan.owner(turn);
            for segment in plan.stretch(turn) {
                let given = match from {
                    0 => own.pop_front().unwrap_or_default(),
                    _ => bytemuck::pod_collect_to_vec(&self.ranks.receive(from, RESULT)?),
                };
                read.push((segment.clone(), given));
            }
        }
        Ok(read)
    }
}

/// Which segments of a text each rank reads: stretches of `each` segments, dealt out in turn.
struct Plan<'a> {
    segments: &'a [Range<usize>],
    /// Segments of a stretch.
    each: usize,
    ranks: usize,
}

impl<'a> Plan<'a> {
    /// Stretches that differ as little as can be, as many for each rank.
    fn new(segments: &'a [Range<usize>], ranks: usize, most: NonZeroUsize) -> Self {
        let rounds = segments.len().div_ceil(ranks.saturating_mul(most.get())).max(1);
        Self {
            segments,
            each: segments.len().div_ceil(ranks * rounds).max(1),
            ranks,
        }
    }

    fn turns(&self) -> usize {
        self.segments.len().div_ceil(self.each)
    }

    fn stretch(&self, turn: usize) -> &'a [Range<usize>] {
        let end = self.segments.len().min((turn + 1) * self.each);
        &self.segments[turn * self.each..end]
    }

    fn owner(&self, turn: usize) -> usize {
        turn % self.ranks
    }

    fn is_last(&self, turn: usize) -> bool {
        turn + 1 == self.turns()
    }
}

/// One text on its way through a model's layers, over the ranks of a ring.
struct Going<'a> {
    ring: &'a Ring<'a>,
    model: &'a Model,
    ids: &'a [u32],
    plan: &'a Plan<'a>,
    /// The states before the first token, which others are taken up in.
    fresh: &'a [LayerState],
}

impl Going<'_> {
    /// Takes one stretch through all layers, and reads what they give, segment by segment.
    fn stretch(
        &self,
        turn: usize,
        state: &mut ModelState,
        read: &mut impl FnMut(&Range<usize>, Tensor<3>) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let (network, segments) = (self.model.network(), self.plan.stretch(turn));
        let mut passages = segments
            .iter()
            .map(|segment| network.enter(network.embed(&self.rows(segment, state.batch()), state.batch())?))
            .collect::<Result<Vec<Passage>, ModelError>>()?;
        for layer in 0..self.fresh.len() {
            self.incoming(turn, layer, state)?;
            let through = segments.iter().zip(passages);
            let through = through.map(|(segment, passage)| self.pass(layer, segment, passage, state));
            passages = through.collect::<Result<_, _>>()?;
            self.outgoing(turn, layer, state)?;
        }
        let given = segments.iter().zip(passages);
        given
            .map(|(segment, passage)| read(segment, network.leave(passage)?))
            .collect()
    }

    fn rows(&self, segment: &Range<usize>, batch: usize) -> Vec<u32> {
        let time = self.ids.len() / batch.max(1);
        let rows = (0..batch).flat_map(|row| &self.ids[row * time + segment.start..row * time + segment.end]);
        rows.copied().collect()
    }

    fn pass(
        &self,
        layer: usize,
        segment: &Range<usize>,
        passage: Passage,
        state: &mut ModelState,
    ) -> Result<Passage, ModelError> {
        let positions: Vec<u64> = state
            .positions
            .iter()
            .map(|position| position + segment.start as u64)
            .collect();
        let prefix = state.prefix.as_ref().filter(|_| segment.start == 0);
        if let Some(prefix) = prefix {
            prefix.expect_within(positions.len(), segment.len())?;
        }
        let around = Around {
            chain: &state.chain,
            positions: &positions,
            lengths: None,
            prefix,
        };
        self.model
            .network()
            .pass(layer, passage, &mut state.layers[layer], around)
    }

    /// The state in which the stretch before has left the layer.
    fn incoming(&self, turn: usize, layer: usize, state: &mut ModelState) -> Result<(), ModelError> {
        if turn == 0 || self.plan.ranks == 1 {
            return Ok(());
        }
        let start = self.plan.stretch(turn).first().map_or(0, |segment| segment.start);
        let position = state.position() + start as u64;
        self.take_up((LAYER, self.plan.owner(turn - 1)), (layer, position), state)
    }

    fn take_up(
        &self,
        from: (Tag, usize),
        (layer, position): (usize, u64),
        state: &mut ModelState,
    ) -> Result<(), ModelError> {
        let bytes = self.ring.ranks.receive(from.1, from.0)?;
        let mut fresh = self.fresh[layer].clone();
        let sites = self.model.network().blocks()[layer].mixer.sites(layer);
        wire::take_up(&mut fresh, &bytes, (&sites, &state.chain), position, from)?;
        state.layers[layer] = fresh;
        Ok(())
    }

    fn outgoing(&self, turn: usize, layer: usize, state: &ModelState) -> Result<(), ModelError> {
        if self.plan.is_last(turn) || self.plan.ranks == 1 {
            return Ok(());
        }
        let bytes = wire::to_bytes(&state.layers[layer], LAYER, self.ring.ranks.rank())?;
        Ok(self.ring.ranks.send(self.plan.owner(turn + 1), LAYER, bytes)?)
    }

    /// Brings the final state to rank 0, and the positions of all ranks forward.
    fn end(&self, state: &mut ModelState, time: u64) -> Result<(), ModelError> {
        let last = self
            .plan
            .turns()
            .checked_sub(1)
            .map_or(0, |last| self.plan.owner(last));
        if self.ring.ranks.rank() == 0 && last != 0 {
            let position = state.position() + time;
            for layer in 0..self.fresh.len() {
                self.take_up((FINAL, last), (layer, position), state)?;
            }
        }
        state.positions.iter_mut().for_each(|position| *position += time);
        if time > 0 {
            state.prefix = None;
        }
        Ok(())
    }
}
