//! Tokens on their way through the layers, which may be gone through one by one.

use burn::tensor::Tensor;
use spillway_ssm_core::{Chain, Chunking, Context, Mixer, Prefix, Shared};

use super::Network;
use crate::error::ModelError;
use crate::state::{LayerState, ModelState};

/// The tokens of a call between two layers.
#[derive(Clone)]
pub(crate) struct Passage {
    /// Residual stream r without `update`, `[batch, time, model_dim]`.
    residual: Tensor<3>,
    /// What the last mixer adds to it, which the next norm takes in.
    update: Option<Tensor<3>>,
    shared: Shared,
}

impl Passage {
    /// Every tensor of it, in the order in which [`Passage::map`] comes to them.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor<3>> {
        let Shared {
            value_residual,
            embedded,
        } = &self.shared;
        let others = [&self.update, value_residual, embedded];
        std::iter::once(&self.residual).chain(others.into_iter().flatten())
    }

    /// The same with other tensors of the same shapes.
    pub(crate) fn map(self, mut change: impl FnMut(Tensor<3>) -> Tensor<3>) -> Self {
        let residual = change(self.residual);
        let update = self.update.map(&mut change);
        let value_residual = self.shared.value_residual.map(&mut change);
        let embedded = self.shared.embedded.map(&mut change);
        Self {
            residual,
            update,
            shared: Shared {
                value_residual,
                embedded,
            },
        }
    }
}

/// What is the same in every layer.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    /// The interventions of the model.
    pub(crate) chain: &'a Chain,
    /// Tokens before those at hand, per sequence.
    pub(crate) positions: &'a [u64],
    /// Where the sequences end and their padding begins, where there is any.
    pub(crate) lengths: Option<&'a [usize]>,
    /// The first tokens as a prefix, which every token sees as a whole, where there is one.
    pub(crate) prefix: Option<&'a Prefix>,
}

impl Network {
    /// Embedded tokens, `[batch, time, model_dim]`, before the first layer.
    ///
    /// # Errors
    /// [`ModelError::Count`] for more tokens than a model has places for, [`ModelError::Layer`] from a norm.
    pub(crate) fn enter(&self, embedded: Tensor<3>) -> Result<Passage, ModelError> {
        let embedded = self.embedding.placed(embedded)?;
        let embedded = match &self.embedding_norm {
            Some(norm) => norm.of(embedded)?,
            None => embedded,
        };
        let read = self.mixers().any(Mixer::reads_embedding);
        let shared = Shared {
            embedded: read.then(|| embedded.clone()),
            ..Shared::default()
        };
        Ok(Passage {
            residual: embedded,
            update: None,
            shared,
        })
    }

    /// The tokens of `passage` after layer `layer`, which the model has; `state` is left after the last of them.
    ///
    /// # Errors
    /// [`ModelError::Layer`] from the layer or an intervention.
    pub(crate) fn pass(
        &self,
        layer: usize,
        passage: Passage,
        state: &mut LayerState,
        around: Around<'_>,
    ) -> Result<Passage, ModelError> {
        let Passage {
            residual,
            update,
            mut shared,
        } = passage;
        let block = &self.blocks[layer];
        let mut context = Context {
            chain: around.chain,
            layer,
            chunking: Chunking::Fastest,
            positions: around.positions,
            lengths: around.lengths,
            prefix: around.prefix,
            shared: &mut shared,
        };
        let (sum, normed) = block.norm.of_sum(residual, update)?;
        let mixed = block.mixer.forward(normed, &mut state.mixer, &mut context)?;
        let mixed = self.drop_out(mixed, 2 * layer);
        let (residual, update) = match &block.channel {
            None => (sum, mixed),
            Some(channel) => {
                let (sum, normed) = channel.norm.of_sum(sum, Some(mixed))?;
                let mixed = channel.mixer.forward(normed, &mut state.channel, &mut context)?;
                (sum, self.drop_out(mixed, 2 * layer + 1))
            }
        };
        Ok(Passage {
            residual,
            update: Some(update),
            shared,
        })
    }

    /// The residual stream after the last layer and the last norm, `[batch, time, model_dim]`.
    ///
    /// # Errors
    /// [`ModelError::Layer`] from the norm.
    pub(crate) fn leave(&self, passage: Passage) -> Result<Tensor<3>, ModelError> {
        Ok(self.norm.of_sum(passage.residual, passage.update)?.1)
    }

    /// The residual stream after the last norm, `[batch, time, model_dim]`; the states of the layers are left after the last
    /// token.
    pub(super) fn forward(
        &self,
        embedded: Tensor<3>,
        lengths: Option<&[usize]>,
        state: &mut ModelState,
    ) -> Result<Tensor<3>, ModelError> {
        let time = embedded.dims()[1];
        let mut passage = self.enter(embedded)?;
        let ModelState {
            layers,
            chain,
            positions,
            prefix,
        } = state;
        // A call of no tokens reads no prefix.
        let prefix = if time > 0 { prefix.take() } else { None };
        if let Some(prefix) = &prefix {
            prefix.expect_within(positions.len(), time)?;
        }
        let around = Around {
            chain,
            positions,
            lengths,
            prefix: prefix.as_ref(),
        };
        for (layer, state) in layers.iter_mut().enumerate().take(self.blocks.len()) {
            passage = self.pass(layer, passage, state, around)?;
        }
        self.leave(passage)
    }

    fn drop_out(&self, update: Tensor<3>, place: usize) -> Tensor<3> {
        match &self.dropout {
            None => update,
            Some(dropout) => dropout.of(update, place),
        }
    }
}
