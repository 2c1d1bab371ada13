//! Softmax attention within blocks: every token attends to those of its own block that are not later.
//!
//! ```text
//! q, k, v = W_q x, W_k x, W_v x;  q, k perhaps turned by their positions
//! out = W_out Σ_j softmax_j(q_t·k_j / √d) v_j          ⌊j/W⌋ = ⌊t/W⌋, j ≤ t
//! ```
//!
//! It costs no more per token at any length, and carries the keys and values of the block begun. Source: Mehta et al. (2206.13947),
//! whose hybrid has such layers with W = 512.

use crate::blocks::{Aligned, in_blocks, within_blocks};
use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{Context, KeyValueCache, Mixer, MixerState};
use spillway_ssm_core::operators::{RotaryPlan, rotary, split_to_heads};
use spillway_ssm_core::{Chain, Error, Linear, Result, WeightSource};

/// The shape of a mixer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockAttentionConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads; a divisor of `model_dim`.
    pub num_heads: usize,
    /// W, tokens of a block.
    pub window: usize,
    /// How queries and keys are turned by their position.
    pub rotary: Option<RotaryPlan>,
}

impl BlockAttentionConfig {
    fn head_dim(&self) -> usize {
        self.model_dim / self.num_heads
    }

    fn validate(&self) -> Result<()> {
        let sizes = [self.model_dim, self.num_heads, self.window];
        expect::positive("dimensions of an attention within blocks", &sizes)?;
        if !self.model_dim.is_multiple_of(self.num_heads) {
            return Err(Error::Value {
                what: "heads of an attention within blocks",
                expected: "a divisor of the width",
                found: format!("{} of {}", self.num_heads, self.model_dim),
            });
        }
        match &self.rotary {
            Some(plan) => plan.validate(self.head_dim()),
            None => Ok(()),
        }
    }
}

/// A mixer of softmax attention within blocks.
#[derive(Clone, Debug)]
pub struct BlockAttention {
    config: BlockAttentionConfig,
    /// The rows of queries, then those of keys, then those of values. One product reads all.
    query_key_value: Linear,
    out: Linear,
}

impl BlockAttention {
    /// The mixer of the weights of `source`: `q_proj`, `k_proj`, `v_proj` and `o_proj`, all `model_dim` × `model_dim` without biases.
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0, heads that do not divide the width and a rotation that does not fit; the source's for a
    /// tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: BlockAttentionConfig, source: &mut S) -> Result<Self, S::Error> {
        config.validate().map_err(S::Error::from)?;
        let width = config.model_dim;
        let rows = ["q_proj", "k_proj", "v_proj"].map(|name| (name, width));
        Ok(Self {
            config,
            query_key_value: source.stacked(&rows, width, false)?,
            out: source.linear("o_proj", [width, width], false)?,
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> BlockAttentionConfig {
        self.config
    }

    fn aligned(&self, call: Aligned<'_>, state: &mut MixerState) -> Result<Tensor<3>> {
        let Aligned {
            input,
            positions,
            cut,
        } = call;
        let (heads, dim) = (self.config.num_heads, self.config.head_dim());
        let [batch, time, width] = input.dims();
        let joined = self.query_key_value.forward(input)?;
        let [mut query, mut key, value] = split_to_heads(joined, [(heads, dim); 3])?;
        if let Some(plan) = &self.config.rotary {
            query = rotary(query, positions, plan)?;
            key = rotary(key, positions, plan)?;
        }
        let scale = (dim as f32).powf(-0.5);
        let read = within_blocks([query, key, value], scale, &cut, state.attention()?)?;
        self.out.forward(read.reshape([batch, time, width]))
    }
}

impl Mixer for BlockAttention {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let dims = [self.config.head_dim(); 2];
        MixerState::Attention(KeyValueCache::empty(
            batch,
            self.config.num_heads,
            dims,
            None,
            device,
        ))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let window = self.config.window;
        in_blocks(window, input, state, context.positions, |call, state| {
            self.aligned(call, state)
        })
    }
}
