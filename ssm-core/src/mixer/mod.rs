//! What a layer of a model is: something that maps `[batch, time, model_dim]` to the same shape and carries a state.
//!
//! Sequence mixers (Mamba, RWKV's time mixing, attention) and channel mixers (gated MLPs, RWKV's channel mixing) are the same
//! thing here: either may carry something from token to token. A model is a list of blocks of them, in any mixture.

mod combined;
mod place;
mod prefix;
mod rows;
mod state;

use crate::chunking::Chunking;
use crate::error::Result;
use crate::intervention::{Chain, Site};
pub use crate::key_value_cache::KeyValueCache;
use burn::tensor::{Device, Tensor};
pub use combined::{Branch, Parallel, Scaled};
pub use prefix::{Padding, Prefix, PrefixMask};
pub use rows::{cat_rows, select_rows};
pub use state::{MixerState, RecurrentState};
use std::fmt::Debug;

/// A layer of a block, sequence mixer or channel mixer.
///
/// Prefill, one decoded token and anything between are the same call, from any state, with the same result however the tokens
/// are split among calls. The exception are layers that read whole sequences: they carry nothing, and refuse a call with tokens before it.
pub trait Mixer: Debug + Send + Sync {
    /// Where interventions may act, one per recurrence, in the order of [`RecurrentState::recurrences`]; none by default.
    fn sites(&self, _layer: usize) -> Vec<Site> {
        Vec::new()
    }

    /// What is carried before the first token of `batch` sequences.
    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState;

    /// `[batch, time, model_dim]` to the same shape; `state` is left after the last token.
    ///
    /// # Errors
    /// [`crate::Error`] when input or state do not fit, or from an intervention.
    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>>;

    /// Whether what it gives for a token depends on later ones: such a layer reads whole sequences, carries nothing, and no next token
    /// can be foretold from it.
    fn sees_later_tokens(&self) -> bool {
        false
    }

    /// Whether it reads [`Shared::embedded`].
    fn reads_embedding(&self) -> bool {
        false
    }

    /// Tokens of the prefix that it was made to read both ways, where [`Context::prefix`] gives one; 0 for a layer that has no
    /// encoder. Any other number of tokens is read as well.
    fn encoder_length(&self) -> usize {
        0
    }

    /// Multiplications and additions of one decoded token beside those of matrices.
    fn flops_per_token(&self) -> u64 {
        0
    }

    /// Bytes by which the state grows with every token.
    fn cache_bytes_per_token(&self) -> u64 {
        0
    }
}

/// What a layer may know beside its input and state.
#[derive(Debug)]
pub struct Context<'a> {
    /// The interventions of the model.
    pub chain: &'a Chain,
    /// Index of the block, from 0.
    pub layer: usize,
    /// How recurrences are computed.
    pub chunking: Chunking,
    /// Tokens before the first one at hand, per sequence: where rotary positions and key-value caches stand.
    pub positions: &'a [u64],
    /// Tokens of each sequence before its padding, where there is any: what a layer that sees later tokens must not look beyond.
    pub lengths: Option<&'a [usize]>,
    /// The prefix that the tokens at hand begin with, where there is one.
    pub prefix: Option<&'a Prefix>,
    /// What earlier layers left for later ones in this call.
    pub shared: &'a mut Shared,
}

impl Context<'_> {
    /// The queries `[batch, time, heads, head_dim]` of attention over all earlier tokens, multiplied by what the
    /// interventions [say](Chain::attention_scale); the same bits where none of them acts on attention.
    pub fn scaled_queries(&self, query: Tensor<4>) -> Tensor<4> {
        let [batch, time, ..] = query.dims();
        if batch * time == 0 || self.chain.acting_on_attention().is_none() {
            return query;
        }
        let tokens = self
            .positions
            .iter()
            .flat_map(|&start| (0..time as u64).map(move |token| start.saturating_add(token)));
        let scales: Vec<f32> = tokens
            .map(|position| self.chain.attention_scale(position).unwrap_or(1.0) as f32)
            .collect();
        let scales = Tensor::<1>::from_floats(scales.as_slice(), &query.device());
        query * scales.reshape([batch, time, 1, 1])
    }
}

/// What a layer leaves for later layers, for the same tokens.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// The values of the first layer, `[batch, time, channels]`, which RWKV-7 mixes into those of the others.
    pub value_residual: Option<Tensor<3>>,
    /// What the first layer was given, `[batch, time, model_dim]`, where a layer [reads it](Mixer::reads_embedding).
    pub embedded: Option<Tensor<3>>,
}
