//! Attention over a fixed number of memory slots: gated slot attention (GSA) and attention with bounded memory (ABC).
//!
//! ```text
//! K_t = K_{t-1} diag(e^{g_t}) + k_t s_tᵀ        p_t = softmax(K^{-1/2} · K_tᵀ q_t)            K ∈ R^{K×M}, M slots
//! V_t = diag(e^{g_t}) V_{t-1} + s_t v_tᵀ        y_t = V_tᵀ p_t                               V ∈ R^{M×V}
//! ```
//!
//! Both are the recurrence. In the first the decay belongs to the columns of the state, so every slot is a head with a column
//! of its own, and all slots of a head share query and key; the second decays per key. GSA takes s and g from its layer
//! (Zhang et al., *Gated Slot Attention*, 2409.07146, equations 6 to 8); ABC ([`abc`]) writes with a softmax over all tokens
//! so far, whose running denominator is the decay (Peng et al., *ABC*, 2110.02488).

use crate::gla::log_sigmoid;
use crate::heads::{Heads, repeat};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, RecurrentState};
use spillway_ssm_core::operators::pointwise::sigmoid;
use spillway_ssm_core::{Chunking, Error, Gates, LogDecay, Result, State, recurrence};

/// What attention over slots carries.
#[derive(Clone, Debug)]
pub struct SlotState {
    /// K, `[batch, heads, key_dim, slots]`.
    pub keys: Tensor<4>,
    /// V, `[batch, heads, slots, value_dim]`.
    pub values: Tensor<4>,
    /// Tokens seen since the state was empty.
    pub position: u64,
}

impl SlotState {
    /// The state before the first token.
    pub fn zeros(shape: SlotShape, device: &Device) -> Self {
        let SlotShape {
            batch,
            heads,
            key_dim,
            slots,
            value_dim,
        } = shape;
        Self {
            keys: Tensor::zeros([batch, heads, key_dim, slots], device),
            values: Tensor::zeros([batch, heads, slots, value_dim], device),
            position: 0,
        }
    }
}

/// Sizes of a [`SlotState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotShape {
    /// Number of sequences.
    pub batch: usize,
    /// Number of heads, each with memories of its own.
    pub heads: usize,
    /// Width of queries and keys.
    pub key_dim: usize,
    /// M, the number of memory slots of a head.
    pub slots: usize,
    /// Width of values.
    pub value_dim: usize,
}

/// What a layer computes for its slots.
#[derive(Clone, Debug)]
pub struct SlotGates {
    /// q, `[batch, time, query_heads, key_dim]`; several query heads may share a memory.
    pub query: Tensor<4>,
    /// k, `[batch, time, heads, key_dim]`.
    pub key: Tensor<4>,
    /// v, `[batch, time, heads, value_dim]`.
    pub value: Tensor<4>,
    /// s, how much is written to each slot, `[batch, time, heads, slots]`.
    pub write: Tensor<4>,
    /// g, `[batch, time, heads, slots]`.
    pub log_decay: Tensor<4>,
}

/// Gated slot attention; `state` is left after the last token.
///
/// # Shapes
/// Result `[batch, time, query_heads, value_dim]`; query head j reads the memory of head j / (query_heads / heads).
///
/// # Errors
/// [`Error::Groups`] when heads do not divide the query heads, and whatever the recurrence refuses.
pub fn gated_slot_attention(
    gates: SlotGates,
    state: &mut SlotState,
    chunking: Chunking,
) -> Result<Tensor<4>> {
    let query_heads = gates.query.dims()[2];
    let [batch, time, heads, key_dim] = gates.key.dims();
    let slots = gates.write.dims()[3];
    if heads == 0 || !query_heads.is_multiple_of(heads) {
        return Err(Error::Groups {
            heads: query_heads,
            groups: heads,
        });
    }
    // Query heads that share a memory each keep a copy of it while they run.
    let share = query_heads / heads;
    let gates = gates.spread(share);

    let keys = repeat(state.keys.clone(), 1, share).swap_dims(2, 3).reshape([
        batch,
        query_heads * slots,
        key_dim,
        1,
    ]);
    let mut keys = at(keys, state.position);
    let scores = recurrence(gates.scores((key_dim as f32).powf(-0.5)), &mut keys, chunking)?;

    let mut values = at(repeat(state.values.clone(), 1, share), state.position);
    let output = recurrence(gates.reads(scores), &mut values, chunking)?;

    let keys = keys.memory.reshape([batch, query_heads, slots, key_dim]);
    state.keys = first_of_each(keys.swap_dims(2, 3), share);
    state.values = first_of_each(values.memory, share);
    state.position = state.position.saturating_add(time as u64);
    Ok(output)
}

impl SlotGates {
    /// A memory for every query head, the same for `share` neighbours.
    pub(crate) fn spread(self, share: usize) -> Self {
        Self {
            query: self.query,
            key: repeat(self.key, 2, share),
            value: repeat(self.value, 2, share),
            write: repeat(self.write, 2, share),
            log_decay: repeat(self.log_decay, 2, share),
        }
    }

    /// The recurrence over keys, whose read-out `[batch, time, heads · slots, 1]` is what each slot scores: every slot is a
    /// head with one column.
    pub(crate) fn scores(&self, scale: f32) -> Gates {
        let [batch, time, heads, slots] = self.write.dims();
        let columns = heads * slots;
        let value = self.write.clone().reshape([batch, time, columns, 1]);
        Gates {
            log_decay: LogDecay::PerHeadToken(self.log_decay.clone().reshape([batch, time, columns])),
            scale,
            ..plain(self.query.clone(), self.key.clone(), value)
        }
    }

    /// The recurrence over values, read with the softmax of `scores`.
    pub(crate) fn reads(self, scores: Tensor<4>) -> Gates {
        let probabilities = softmax(scores.reshape(self.write.dims()), 3);
        Gates {
            log_decay: LogDecay::PerKeyToken(self.log_decay),
            ..plain(probabilities, self.write, self.value)
        }
    }
}

/// Where interventions act on attention over slots: the memory of keys, in which every slot is a head, and that of values.
pub(crate) fn sites(heads: &Heads, slots: usize, layer: usize) -> [Site; 2] {
    let keys = Site {
        heads: heads.query * slots,
        value_dim: 1,
        ..heads.site(layer)
    };
    let values = Site {
        first_head: keys.heads,
        key_dim: slots,
        per_key_decay: true,
        ..heads.site(layer)
    };
    [keys, values]
}

/// y, the read-out of a layer's two recurrences, whose memories are those of [`sites`]; `[batch, time, heads, value_dim]`.
///
/// # Errors
/// Whatever the recurrence or an intervention refuses.
pub(crate) fn read_out(
    gates: SlotGates,
    scale: f32,
    [keys, values]: [Site; 2],
    state: &mut RecurrentState,
    context: &Context<'_>,
) -> Result<Tensor<4>> {
    let (chain, chunking) = (context.chain, context.chunking);
    let scores = chain.run(&keys, gates.scores(scale), state.recurrence(0)?, chunking)?;
    chain.run(&values, gates.reads(scores), state.recurrence(1)?, chunking)
}

/// Six per element of both memories.
pub(crate) fn flops_per_token(sites: &[Site]) -> u64 {
    let of_site = |site: &Site| 6 * (site.heads * site.key_dim * site.value_dim) as u64;
    sites.iter().map(of_site).sum()
}

/// What attention with bounded memory carries.
#[derive(Clone, Debug)]
pub struct AbcState {
    /// The memories of keys and values.
    pub slots: SlotState,
    /// z = ln Σ e^s over the tokens so far, `[batch, heads, slots]`; `None` before the first token.
    pub log_normalizer: Option<Tensor<3>>,
}

/// Attention with bounded memory: slots are written with the weights of a softmax over all tokens so far.
///
/// ```text
/// z_t = ln Σ_{j ≤ t} e^{s_j}        written: e^{s_t − z_t} = σ(s_t − z_{t-1})        g_t = z_{t-1} − z_t = ln σ(z_{t-1} − s_t)
/// ```
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, key_dim]`, `value` and result `[batch, time, heads, value_dim]`, `logits` s
/// `[batch, time, heads, slots]`.
///
/// # Errors
/// As [`gated_slot_attention`].
pub fn abc(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    logits: Tensor<4>,
    state: &mut AbcState,
    chunking: Chunking,
) -> Result<Tensor<4>> {
    let [batch, time, heads, slots] = logits.dims();
    if time == 0 {
        return Ok(value);
    }
    let mut normalizer = match state.log_normalizer.take() {
        Some(normalizer) => normalizer,
        None => nothing_written([batch, heads, slots], &logits.device()),
    };
    let [write, log_decay] = softmax_writes(logits, &mut normalizer)?;
    state.log_normalizer = Some(normalizer);
    let gates = SlotGates {
        query,
        key,
        value,
        write,
        log_decay,
    };
    gated_slot_attention(gates, &mut state.slots, chunking)
}

/// What stands for z before the first token: finite, so that a state can be saved and no difference is one of infinities.
const NOTHING_WRITTEN: f32 = -1e30;

/// z before the first token, `[batch, heads, slots]`.
pub(crate) fn nothing_written(shape: [usize; 3], device: &Device) -> Tensor<3> {
    Tensor::full(shape, NOTHING_WRITTEN, device)
}

/// How much is written to each slot, σ(s_t − z_{t−1}), and the log decay, ln σ(z_{t−1} − s_t), `[batch, time, heads, slots]`, of one token
/// or more; `normalizer`, z before the first of them, `[batch, heads, slots]`, is left after the last.
///
/// These are e^{s_t − z_t} and z_{t−1} − z_t without a difference of two sums, which after many tokens is all rounding.
pub(crate) fn softmax_writes(logits: Tensor<4>, normalizer: &mut Tensor<3>) -> Result<[Tensor<4>; 2]> {
    let shape @ [batch, time, heads, slots] = logits.dims();
    let before = normalizer.clone().unsqueeze_dim::<4>(1);
    let sums = log_cumulative_sum(Tensor::cat(vec![before, logits.clone()], 1));
    *normalizer = sums.clone().narrow(1, time, 1).squeeze_dim(1);
    let earlier = sums.narrow(1, 0, time);
    // Nothing has been written that could decay.
    let empty = earlier.clone().lower_elem(NOTHING_WRITTEN / 2.0);
    let above = logits - earlier;
    let rows = above.clone().reshape([batch, time, heads * slots]);
    let log_decay = log_sigmoid(rows.neg(), 1.0)?.reshape(shape);
    Ok([sigmoid(above), log_decay.mask_fill(empty, 0.0)])
}

/// ln Σ_{j ≤ t} e^{x_j} over axis 1, by doubling: log₂ T sums of two, none of which can overflow.
fn log_cumulative_sum(x: Tensor<4>) -> Tensor<4> {
    let time = x.dims()[1];
    let mut sum = x;
    let mut reach = 1;
    while reach < time {
        let later = sum.clone().narrow(1, reach, time - reach);
        let earlier = sum.clone().narrow(1, 0, time - reach);
        // A constant for the gradient: the sum does not depend on it.
        let largest = later.clone().max_pair(earlier.clone()).detach();
        let joined = ((later - largest.clone()).exp() + (earlier - largest.clone()).exp()).log() + largest;
        sum = Tensor::cat(vec![sum.narrow(1, 0, reach), joined], 1);
        reach *= 2;
    }
    sum
}

fn plain(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Gates {
    Gates::new(query, key, value)
}

fn at(memory: Tensor<4>, position: u64) -> State {
    State { memory, position }
}

/// The first head of every `share` neighbours on axis 1.
fn first_of_each(x: Tensor<4>, share: usize) -> Tensor<4> {
    if share == 1 {
        return x;
    }
    let [batch, heads, rows, cols] = x.dims();
    x.reshape([batch, heads / share, share, rows, cols])
        .narrow(2, 0, 1)
        .squeeze_dim(2)
}
