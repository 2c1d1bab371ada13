//! A whole model: an embedding, a list of blocks on a residual stream, a norm, a head.
//!
//! ```text
//! r ← embedding(ids)        per block: r ← r + mixer(norm(r)),  r ← r + channel(norm(r))        logits = W_head · norm(r)
//! ```
//!
//! Where norms stand after mixers ([`Residual::Normed`]) it is r ← norm(r + mixer(r)), and the last of them is the norm before the head.
//!
//! Mixer and channel mixer of a block are any [`Mixer`]s; models that mix attention and recurrences are lists like any other.

mod passage;

use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use spillway_ssm_core::operators::add_rms_norm;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic, gated_norm};
use spillway_ssm_core::operators::pointwise::{gelu, tanh};
use spillway_ssm_core::{Chain, Linear, Mixer, Site, Weight};

use crate::dropout::Dropout;
use crate::error::ModelError;
use crate::state::{LayerState, ModelState};

pub(crate) use passage::{Around, Passage};

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Nothing: its input is its output, whatever weight and bias there are.
    Identity,
    /// The root of the mean square.
    Rms,
    /// The standard deviation, after the mean has been taken off.
    Layer,
}

/// A norm over the residual stream.
#[derive(Clone, Debug)]
pub struct Norm {
    /// What is divided by.
    pub kind: NormKind,
    /// Weight, the factor on every normalised channel, `[model_dim]`.
    pub weight: Tensor<1>,
    /// Bias, added to every channel after the weight's factor, `[model_dim]`.
    pub bias: Option<Tensor<1>>,
    /// Added to the mean square or the variance.
    pub eps: f32,
    /// What goes on beside the mixer.
    pub residual: Residual,
}

/// What of a norm of r goes on beside the mixer that reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// r itself: the norm stands before a mixer.
    #[default]
    Sum,
    /// The norm of r: it stands after the mixer before, r ← norm(r + mixer(r)).
    Normed,
    /// Nothing: what the mixer gives takes the place of r, r ← mixer(norm(r)).
    Nothing,
}

impl Norm {
    /// What goes on of residual + update, and its norm.
    fn of_sum(
        &self,
        residual: Tensor<3>,
        update: Option<Tensor<3>>,
    ) -> Result<(Tensor<3>, Tensor<3>), ModelError> {
        if let (NormKind::Rms, None, Residual::Sum) = (self.kind, &self.bias, self.residual) {
            return Ok(add_rms_norm(residual, update, self.weight.clone(), self.eps)?);
        }
        let sum = match update {
            Some(update) => residual + update,
            None => residual,
        };
        let normed = self.of(sum.clone())?;
        match self.residual {
            Residual::Sum => Ok((sum, normed)),
            Residual::Normed => Ok((normed.clone(), normed)),
            Residual::Nothing => Ok((normed.zeros_like(), normed)),
        }
    }

    /// The same norm, its result multiplied by `factor`: where the head gives logits times a constant, the norm before it can.
    pub(crate) fn scaled(self, factor: f32) -> Self {
        match factor == 1.0 {
            true => self,
            false => Self {
                weight: self.weight.mul_scalar(factor),
                bias: self.bias.map(|bias| bias.mul_scalar(factor)),
                ..self
            },
        }
    }

    /// The norm of `[batch, time, model_dim]`.
    ///
    /// # Errors
    /// [`ModelError::Layer`] when the width is another.
    pub fn of(&self, input: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        Ok(self.normed(input)?)
    }

    /// As [`Norm::of`], for use within a layer.
    pub(crate) fn normed(&self, input: Tensor<3>) -> spillway_ssm_core::Result<Tensor<3>> {
        let plan = NormPlan {
            statistic: match self.kind {
                NormKind::Identity => return Ok(input),
                NormKind::Rms => Statistic::MeanSquare,
                NormKind::Layer => Statistic::Variance,
            },
            eps: self.eps,
            group_size: input.dims()[2],
            order: GateOrder::NormAfterGate,
        };
        let weights = NormWeights {
            gate: None,
            weight: Some(self.weight.clone()),
            bias: self.bias.clone(),
        };
        gated_norm(input, weights, plan)
    }
}

/// A mixer and the norm before it.
#[derive(Clone, Debug)]
pub struct Channel {
    /// The norm before the mixer.
    pub norm: Norm,
    /// The channel mixer, which reads the norm's result.
    pub mixer: Arc<dyn Mixer>,
}

/// A block of a model.
#[derive(Clone, Debug)]
pub struct Block {
    /// The norm before the sequence mixer.
    pub norm: Norm,
    /// The sequence mixer, which reads the norm's result.
    pub mixer: Arc<dyn Mixer>,
    /// The channel mixer, where the architecture has one.
    pub channel: Option<Channel>,
}

/// The rows of the ids.
#[derive(Clone, Debug)]
pub struct Embedding {
    pub(crate) name: String,
    pub(crate) rows: Weight,
    /// What rows are multiplied by where they enter the residual stream, which a tied head knows nothing of.
    pub(crate) factor: f32,
    /// What is added at each place of a sequence that is read whole, `[places, model_dim]`.
    pub(crate) places: Option<Tensor<2>>,
}

impl Embedding {
    /// The same embedding, its rows multiplied by `factor` where they enter the residual stream.
    pub(crate) fn scaled(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// The same embedding with `places`, `[places, model_dim]`, added to the rows of a sequence, which begins with the first.
    pub(crate) fn with_places(self, places: Tensor<2>) -> Self {
        Self {
            places: Some(places),
            ..self
        }
    }

    /// `[batch, time, model_dim]` with what is added at each place.
    ///
    /// # Errors
    /// [`ModelError::Count`] for sequences of more tokens than there are places.
    fn placed(&self, embedded: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let time = embedded.dims()[1];
        match &self.places {
            None => Ok(embedded),
            Some(places) if time > places.dims()[0] => Err(ModelError::Count {
                what: "tokens of a sequence",
                expected: format!("at most {}, for which the model has places", places.dims()[0]),
                found: time,
            }),
            Some(_) if time == 0 => Ok(embedded),
            Some(places) => Ok(embedded + places.clone().narrow(0, 0, time).unsqueeze_dim::<3>(0)),
        }
    }

    /// Rows of the ids, `[ids, model_dim]`, before `factor`; there is at least one id.
    fn of(&self, ids: &[u32], device: &Device) -> Result<Tensor<2>, ModelError> {
        let (count, width) = (ids.len(), self.rows.in_features());
        match &self.rows {
            Weight::Packed(packed) => {
                let mut rows = vec![0.0; count * width];
                for (id, row) in ids.iter().zip(rows.chunks_exact_mut(width)) {
                    packed.row(*id as usize, row)?;
                }
                Ok(Tensor::from_data(TensorData::new(rows, [count, width]), device))
            }
            Weight::Dense(dense) => {
                let vocab_size = dense.dims()[0];
                if let Some(index) = ids.iter().position(|id| *id as usize >= vocab_size) {
                    let id = ids[index];
                    return Err(ModelError::Id {
                        index,
                        id,
                        vocab_size,
                    });
                }
                let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device);
                Ok(dense.clone().select(0, ids).cast(DType::F32))
            }
        }
    }
}

/// The head: from the last norm's result to logits, through a transform and a soft cap where there are any.
#[derive(Clone, Debug)]
pub struct Head {
    pub(crate) projection: Linear,
    /// c, where logits l are c tanh(l / c).
    pub(crate) soft_cap: Option<f32>,
    /// What comes before the projection.
    pub(crate) transform: Option<HeadTransform>,
}

/// norm(GELU(W x + b)), before the projection to logits.
#[derive(Clone, Debug)]
pub struct HeadTransform {
    pub(crate) dense: Linear,
    pub(crate) norm: Norm,
}

impl From<Linear> for Head {
    fn from(projection: Linear) -> Self {
        Self {
            projection,
            soft_cap: None,
            transform: None,
        }
    }
}

impl Head {
    /// `[batch, time, model_dim]` to `[batch, time, padded_vocab_size]`.
    fn forward(&self, normed: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let normed = match &self.transform {
            None => normed,
            Some(transform) => transform.norm.of(gelu(transform.dense.forward(normed)?))?,
        };
        let logits = self.projection.forward(normed)?;
        Ok(match self.soft_cap {
            None => logits,
            Some(cap) => tanh(logits.div_scalar(cap)).mul_scalar(cap),
        })
    }
}

/// A whole model: embedding, blocks, last norm and head, on one device.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) embedding: Embedding,
    pub(crate) embedding_norm: Option<Norm>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    pub(crate) head: Head,
    pub(crate) device: Device,
    /// Dropout of what mixers add to the residual stream, while the network is trained.
    pub(crate) dropout: Option<Dropout>,
}

impl Network {
    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Memory taken by the embedding, in bytes.
    pub fn embedding_bytes(&self) -> u64 {
        match &self.embedding.rows {
            Weight::Packed(packed) => packed.bytes() as u64,
            Weight::Dense(dense) => (dense.dims().iter().product::<usize>() * dense.dtype().size()) as u64,
        }
    }

    /// The sites of every layer where interventions may act, sequence mixers' only, layer by layer.
    pub fn sites(&self) -> Vec<Site> {
        let blocks = self.blocks.iter().enumerate();
        blocks
            .flat_map(|(layer, block)| block.mixer.sites(layer))
            .collect()
    }

    /// The states before the first token.
    pub(crate) fn start(&self, chain: &Chain, batch: usize) -> Vec<LayerState> {
        let start = |(layer, block): (usize, &Block)| LayerState {
            mixer: block.mixer.start(layer, batch, chain, &self.device),
            channel: match &block.channel {
                Some(channel) => channel.mixer.start(layer, batch, chain, &self.device),
                None => spillway_ssm_core::MixerState::Stateless,
            },
        };
        self.blocks.iter().enumerate().map(start).collect()
    }

    /// Every mixer, sequence and channel.
    pub(crate) fn mixers(&self) -> impl Iterator<Item = &dyn Mixer> {
        self.blocks.iter().flat_map(|block| {
            let channel = block.channel.as_ref().map(|channel| channel.mixer.as_ref());
            std::iter::once(block.mixer.as_ref()).chain(channel)
        })
    }

    /// The embeddings of `ids`, `[batch, time, model_dim]`; `ids` holds `batch · time` of them, sequence by sequence.
    ///
    /// # Errors
    /// [`ModelError::Packing`] or [`ModelError::Id`] for an id that has no row.
    pub(crate) fn embed(&self, ids: &[u32], batch: usize) -> Result<Tensor<3>, ModelError> {
        let shape = [batch, ids.len() / batch.max(1), self.embedding.rows.in_features()];
        // Burn reads a length of 0 in a new shape as the old one.
        Ok(match ids.is_empty() {
            true => Tensor::zeros(shape, &self.device),
            false => {
                let rows = self.embedding.of(ids, &self.device)?.reshape(shape);
                match self.embedding.factor == 1.0 {
                    true => rows,
                    false => rows.mul_scalar(self.embedding.factor),
                }
            }
        })
    }

    /// Refuses whatever can be wrong with `ids`, which hold the sequences of `state` one after another, before the state is
    /// touched; the number of tokens per sequence.
    ///
    /// # Errors
    /// [`ModelError::State`] for a state of another model, [`ModelError::Count`] when the ids do not divide into sequences of
    /// one length, [`ModelError::Id`] beyond the vocabulary.
    pub(crate) fn check(
        &self,
        ids: &[u32],
        state: &ModelState,
        vocab_size: usize,
    ) -> Result<usize, ModelError> {
        self.check_layers(state)?;
        let batch = state.batch();
        if !ids.len().is_multiple_of(batch.max(1)) || (batch == 0 && !ids.is_empty()) {
            return Err(ModelError::Count {
                what: "ids",
                expected: format!("{batch} sequences of one length"),
                found: ids.len(),
            });
        }
        expect_ids(ids.iter().enumerate(), vocab_size)?;
        Ok(ids.len() / batch.max(1))
    }

    /// Takes in `ids` that [`Network::check`] has found good: the residual stream after the last norm, `[batch, time,
    /// model_dim]`; `state` moves on. Whatever runs or trains a model comes through here.
    ///
    /// # Errors
    /// [`ModelError::Layer`] from a layer or an intervention. The state is not to be used then.
    pub(crate) fn advance(&self, ids: &[u32], state: &mut ModelState) -> Result<Tensor<3>, ModelError> {
        let embedded = self.embed(ids, state.batch())?;
        self.advance_embedded(embedded, None, state)
    }

    /// As [`Network::advance`] of vectors in the place of ids, `[batch, time, model_dim]`, for a state of as many sequences and of this
    /// network's layers. `lengths` says where the sequences end and their padding begins, where there is any.
    ///
    /// # Errors
    /// As [`Network::advance`].
    pub(crate) fn advance_embedded(
        &self,
        embedded: Tensor<3>,
        lengths: Option<&[usize]>,
        state: &mut ModelState,
    ) -> Result<Tensor<3>, ModelError> {
        let time = embedded.dims()[1] as u64;
        let normed = self.forward(embedded, lengths, state)?;
        state.positions.iter_mut().for_each(|position| *position += time);
        Ok(normed)
    }

    /// Tokens of a prompt that its layers were made to read both ways: the most of any layer; 0 where none has an encoder.
    pub fn encoder_length(&self) -> usize {
        self.mixers().map(Mixer::encoder_length).max().unwrap_or(0)
    }

    /// Refuses to foretell tokens that a layer has seen.
    ///
    /// # Errors
    /// [`ModelError::SeesLater`].
    pub(crate) fn expect_causal(&self) -> Result<(), ModelError> {
        let seeing = |block: &Block| block.mixer.sees_later_tokens();
        match self.blocks.iter().position(seeing) {
            Some(layer) => Err(ModelError::SeesLater { layer }),
            None => Ok(()),
        }
    }

    /// Refuses a state of other layers.
    ///
    /// # Errors
    /// [`ModelError::State`].
    pub(crate) fn check_layers(&self, state: &ModelState) -> Result<(), ModelError> {
        let (expected, found) = (self.blocks.len(), state.layers.len());
        match expected == found {
            true => Ok(()),
            false => Err(ModelError::State {
                what: "number of layers",
                expected: expected.to_string(),
                found: found.to_string(),
            }),
        }
    }

    /// Logits over the padded vocabulary, `[batch, time, padded_vocab_size]`.
    ///
    /// # Errors
    /// [`ModelError::SeesLater`] where a layer has seen the tokens that are to be foretold.
    pub(crate) fn logits(&self, normed: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        self.expect_causal()?;
        self.head.forward(normed)
    }

    /// Whether a layer sees later tokens, so that logits are of the tokens where they stand and not of the next ones.
    pub fn sees_later_tokens(&self) -> bool {
        self.mixers().any(Mixer::sees_later_tokens)
    }

    /// What the head gives for `[batch, time, model_dim]`, whatever it is asked.
    pub(crate) fn answers(&self, normed: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        self.head.forward(normed)
    }
}

/// Refuses ids, each beside its index, that are beyond the vocabulary.
///
/// # Errors
/// [`ModelError::Id`].
pub(crate) fn expect_ids<'a>(
    mut ids: impl Iterator<Item = (usize, &'a u32)>,
    vocab_size: usize,
) -> Result<(), ModelError> {
    match ids.find(|(_, id)| **id as usize >= vocab_size) {
        None => Ok(()),
        Some((index, &id)) => Err(ModelError::Id {
            index,
            id,
            vocab_size,
        }),
    }
}
