//! The mixer of the Block-State Transformer: attention within blocks, and to what a state space has made of the blocks before.
//!
//! ```text
//! y = S(h)                                         over the whole sequence, whatever its blocks
//! self_t  = Σ_j softmax_j(q_t·k_j / √d) v_j        j in the block of t, j ≤ t
//! cross_t = Σ_i softmax_i(q′_t·k′_i / √d) v′_i      k′, v′ = W_kc c, W_vc c of the contexts c of t's block
//! out = W_o [self_t; cross_t]
//! ```
//!
//! | contexts of block n | |
//! |---|---|
//! | single head ([`Contexts::SingleHead`]) | y at the W tokens of block n − 1 |
//! | multi-head ([`Contexts::MultiHead`]) | S projections of y at the last token of block n − 1 |
//! | multi-filter ([`Contexts::MultiFilter`]) | at that token, W_up,i S_i(W_down,i h) of S filters |
//!
//! The first block has no contexts, and cross_t = 0 there. The filter is a diagonal state space or a kernel of free taps
//! ([`FilterKind`]). Every block of a prompt is computed at once; from token to token it carries the filter's state, the keys and values of the
//! block begun, and those of its contexts. Source: Pilault et al., *Block-State Transformers* (2306.09539), section 3. The authors' code is not
//! public; positions, and keys of the block before beside a token's own, are left out here.

mod context;

use crate::blocks::{Aligned, Cut, apart, in_blocks, together, within_blocks};
use crate::expect;
use burn::tensor::{Device, Tensor};
use context::{ContextSource, Made, cross};
use spillway_ssm_core::channel_filter::FilterKind;
use spillway_ssm_core::mixer::{Context, KeyValueCache, Mixer, MixerState, RecurrentState};
use spillway_ssm_core::operators::split_to_heads;
use spillway_ssm_core::{Chain, Error, Linear, Result, WeightSource};

/// Where the keys and values of the contexts of the block begun are carried.
const CURRENT: usize = 0;
/// Where those that its tokens so far leave for the next block are, where all tokens do.
const BEGUN: usize = 1;

/// Where the contexts of a block come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contexts {
    /// SH: outputs of one filter at every token of the block before.
    SingleHead,
    /// MH: so many projections of the outputs at its last token.
    MultiHead(usize),
    /// MF: outputs of so many filters at its last token, each of half the width.
    MultiFilter(usize),
}

/// The shape of a mixer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockStateConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of either attention; a divisor of `model_dim`.
    pub num_heads: usize,
    /// W, tokens of a block.
    pub window: usize,
    /// Where the contexts of a block come from.
    pub contexts: Contexts,
    /// What the sequence is filtered by.
    pub filter: FilterKind,
}

impl BlockStateConfig {
    fn head_dim(&self) -> usize {
        self.model_dim / self.num_heads
    }

    /// Contexts of a block.
    fn contexts(&self) -> usize {
        match self.contexts {
            Contexts::SingleHead => self.window,
            Contexts::MultiHead(count) | Contexts::MultiFilter(count) => count,
        }
    }

    fn validate(&self) -> Result<()> {
        let sizes = [self.model_dim, self.num_heads, self.window, self.contexts()];
        expect::positive("dimensions of a block-state layer", &sizes)?;
        let halves = matches!(self.contexts, Contexts::MultiFilter(_));
        let fits = self.model_dim.is_multiple_of(self.num_heads);
        if fits && (!halves || self.model_dim.is_multiple_of(2)) {
            return Ok(());
        }
        Err(Error::Value {
            what: "width of a block-state layer",
            expected: "a multiple of the heads, and an even number where there are several filters",
            found: format!("{} with {} heads", self.model_dim, self.num_heads),
        })
    }
}

/// A mixer of the Block-State Transformer: attention within blocks, and to contexts of the block before.
#[derive(Clone, Debug)]
pub struct BlockState {
    config: BlockStateConfig,
    /// The rows of q, k, v, then those of q′. One product reads all.
    queries: Linear,
    /// The rows of k′, then those of v′.
    of_contexts: Linear,
    out: Linear,
    source: ContextSource,
}

impl BlockState {
    /// The mixer of the weights of `source`, with D = `model_dim` and S contexts; matrices have no biases:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q`, `k`, `v`, `qc`, `kc`, `vc` | D × D |
    /// | `o` | D × 2D |
    /// | `ssm.NAME`, single and multi-head | as [`ChannelFilter::read`](spillway_ssm_core::channel_filter::ChannelFilter::read) of D channels |
    /// | `heads`, multi-head | S · D × D, the rows of the first context first |
    /// | `down.I`, `ssm.I.NAME`, `up.I`, multi-filter | D/2 × D, a filter of D/2 channels, D × D/2 |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0, or a width that does not divide; the source's for a tensor that is missing or of another
    /// shape.
    pub fn read<S: WeightSource>(config: BlockStateConfig, source: &mut S) -> Result<Self, S::Error> {
        config.validate().map_err(S::Error::from)?;
        let width = config.model_dim;
        Ok(Self {
            config,
            queries: source.stacked(&["q", "k", "v", "qc"].map(|name| (name, width)), width, false)?,
            of_contexts: source.stacked(&["kc", "vc"].map(|name| (name, width)), width, false)?,
            out: source.linear("o", [width, 2 * width], false)?,
            source: ContextSource::read(&config, source)?,
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> BlockStateConfig {
        self.config
    }

    /// The mixer's output for sequences that stand at one place of their blocks.
    fn aligned(&self, call: Aligned<'_>, state: &mut MixerState) -> Result<Tensor<3>> {
        let Aligned { input, cut, .. } = call;
        let (heads, dim) = (self.config.num_heads, self.config.head_dim());
        let [batch, time, width] = input.dims();
        let [filter, contexts, cache] = state.parts::<3>()?;
        let joined = self.queries.forward(input.clone())?;
        let [query, key, value, query_of_contexts] = split_to_heads(joined, [(heads, dim); 4])?;
        let scale = (dim as f32).powf(-0.5);
        let own = within_blocks([query, key, value], scale, &cut, cache.attention()?)?;
        let contexts = contexts.recurrent()?;
        let filtered = self.source.filtered(input, filter.recurrent()?)?;
        let made = self.made(filtered, &cut, contexts)?;
        let across = self.across(query_of_contexts, &cut, made, contexts)?;
        let read = Tensor::cat(vec![own, across], 2).reshape([batch, time, 2 * width]);
        self.out.forward(read)
    }

    /// What the blocks that end in a call leave for those behind them, from the outputs of the filter.
    fn made(&self, filtered: Tensor<3>, cut: &Cut, state: &mut RecurrentState) -> Result<Made> {
        let pairs = |contexts| self.of_contexts.forward(contexts);
        match self.config.contexts {
            Contexts::SingleHead => Ok(Made::of_all_tokens(pairs(filtered)?, cut, state.carried(BEGUN)?)),
            _ => {
                let last = Made::of_last_tokens(filtered, cut);
                last.map(|outputs| pairs(self.source.contexts(outputs)?))
            }
        }
    }

    /// Attention to the contexts of every token's block; `state` is left with those of the block begun.
    fn across(
        &self,
        query: Tensor<4>,
        cut: &Cut,
        made: Made,
        state: &mut RecurrentState,
    ) -> Result<Tensor<4>> {
        let (heads, scale) = (self.config.num_heads, (self.config.head_dim() as f32).powf(-0.5));
        let current = state.carried(CURRENT)?;
        let mut found = Vec::new();
        if cut.head > 0 {
            let head = query.clone().narrow(1, 0, cut.head);
            found.push(cross(head, current.clone(), heads, scale));
        }
        if let Some(ended) = made.begun {
            *current = ended;
        }
        if let Some(blocks) = made.blocks {
            let whole = query.clone().narrow(1, cut.head, cut.blocks * cut.window);
            let (before, after) = shifted(current.clone(), blocks, cut.blocks);
            found.push(together(cross(apart(whole, cut), before, heads, scale), cut));
            *current = after;
        }
        if cut.tail > 0 {
            let tail = query.narrow(1, cut.before_tail(), cut.tail);
            found.push(cross(tail, current.clone(), heads, scale));
        }
        Ok(Tensor::cat(found, 1))
    }
}

/// The contexts of every block, and those of the next, from the contexts of the first and what every block leaves.
fn shifted(first: Tensor<3>, left: Tensor<3>, blocks: usize) -> (Tensor<3>, Tensor<3>) {
    let [batch, count, width] = first.dims();
    let left = left.reshape([batch, blocks, count, width]);
    let after = left
        .clone()
        .narrow(1, blocks - 1, 1)
        .reshape([batch, count, width]);
    let before = match blocks {
        1 => first,
        _ => {
            let earlier = left.narrow(1, 0, blocks - 1);
            let all = Tensor::cat(vec![first.unsqueeze_dim(1), earlier], 1);
            all.reshape([batch * blocks, count, width])
        }
    };
    (before, after)
}

impl Mixer for BlockState {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        let config = &self.config;
        let pairs = |count: usize| Tensor::zeros([batch, count, 2 * config.model_dim], device);
        // Keys and values of no context: whatever attends to them reads 0.
        let mut carried = vec![pairs(config.contexts())];
        if config.contexts == Contexts::SingleHead {
            carried.push(pairs(config.window));
        }
        let cache = KeyValueCache::empty(batch, config.num_heads, [config.head_dim(); 2], None, device);
        MixerState::Several(vec![
            MixerState::Recurrent(self.source.start(batch, device)),
            MixerState::Recurrent(RecurrentState {
                carried,
                ..RecurrentState::default()
            }),
            MixerState::Attention(cache),
        ])
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

    fn flops_per_token(&self) -> u64 {
        self.source.flops_per_token()
    }
}
