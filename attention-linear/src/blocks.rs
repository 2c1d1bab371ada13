//! Sequences cut into blocks of W tokens, of which each attends within itself.
//!
//! Token t is in block ⌊t/W⌋, at t mod W of it. A call begins anywhere: it has a *head*, which ends the block begun before, whole blocks,
//! which are computed side by side, and a *tail*, which begins a block. The cache holds the keys and values of the block begun.

use crate::expect;
use burn::tensor::Tensor;
use spillway_ssm_core::operators::softmax_attention;
use spillway_ssm_core::{KeyValueCache, MixerState, Result};

/// How the tokens of a call are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// W, the number of tokens of a block.
    pub(crate) window: usize,
    /// Tokens of the block begun before the call.
    pub(crate) begun: usize,
    /// Tokens of the call that belong to it.
    pub(crate) head: usize,
    /// Whole blocks after these.
    pub(crate) blocks: usize,
    /// Tokens of the call after the whole blocks, which begin another block.
    pub(crate) tail: usize,
}

impl Cut {
    /// The cut of `time` tokens behind the first `position`.
    pub(crate) fn at(position: u64, window: usize, time: usize) -> Self {
        let begun = place(position, window);
        let head = match begun {
            0 => 0,
            _ => (window - begun).min(time),
        };
        Self {
            window,
            begun,
            head,
            blocks: (time - head) / window,
            tail: (time - head) % window,
        }
    }

    /// Whether the block begun before the call ends in it.
    pub(crate) fn ends_begun(&self) -> bool {
        self.begun > 0 && self.begun + self.head == self.window
    }

    /// Tokens before the tail.
    pub(crate) fn before_tail(&self) -> usize {
        self.head + self.blocks * self.window
    }
}

/// Where a token stands in its block.
fn place(position: u64, window: usize) -> usize {
    (position % window as u64) as usize
}

/// Whole blocks as sequences of their own: `[batch, blocks · W, heads, dim]` to `[batch · blocks, W, heads, dim]`.
pub(crate) fn apart<const D: usize>(tokens: Tensor<D>, cut: &Cut) -> Tensor<D> {
    let mut shape = tokens.dims();
    (shape[0], shape[1]) = (shape[0] * cut.blocks, cut.window);
    tokens.reshape(shape)
}

/// The inverse of [`apart`]: `[batch · blocks, W, heads, dim]` to `[batch, blocks · W, heads, dim]`.
pub(crate) fn together<const D: usize>(blocks: Tensor<D>, cut: &Cut) -> Tensor<D> {
    let mut shape = blocks.dims();
    (shape[0], shape[1]) = (shape[0] / cut.blocks, cut.window * cut.blocks);
    blocks.reshape(shape)
}

/// Causal attention of every token to those of its block, `[batch, time, heads, head_dim]`.
///
/// # Errors
/// As [`softmax_attention`].
pub(crate) fn within_blocks(
    [query, key, value]: [Tensor<4>; 3],
    scale: f32,
    cut: &Cut,
    cache: &mut KeyValueCache,
) -> Result<Tensor<4>> {
    let [batch, time, _, key_dim] = query.dims();
    let [_, _, groups, value_dim] = value.dims();
    let device = query.device();
    let empty = |batch| KeyValueCache::empty(batch, groups, [key_dim, value_dim], None, &device);
    let piece = |first: usize, length: usize| {
        [&query, &key, &value].map(|tokens| match length == time {
            true => tokens.clone(),
            false => tokens.clone().narrow(1, first, length),
        })
    };
    let mut found = Vec::new();
    if cut.head > 0 {
        let [query, key, value] = piece(0, cut.head);
        found.push(softmax_attention(query, key, value, scale, cache)?);
    }
    if cut.ends_begun() {
        *cache = empty(batch);
    }
    if cut.blocks > 0 {
        let tokens = piece(cut.head, cut.blocks * cut.window);
        let [query, key, value] = tokens.map(|tokens| apart(tokens, cut));
        let mut of_blocks = empty(batch * cut.blocks);
        let read = softmax_attention(query, key, value, scale, &mut of_blocks)?;
        found.push(together(read, cut));
    }
    if cut.tail > 0 {
        let [query, key, value] = piece(cut.before_tail(), cut.tail);
        found.push(softmax_attention(query, key, value, scale, cache)?);
    }
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            found.push(last);
            Ok(Tensor::cat(found, 1))
        }
        (None, _) => {
            let [_, _, heads, _] = query.dims();
            Ok(Tensor::zeros([batch, 0, heads, value_dim], &device))
        }
    }
}

/// The sequences of a call that stand at one place of their blocks.
pub(crate) struct Aligned<'a> {
    /// The mixer's input for these sequences, `[sequences, time, model_dim]`, at least one token.
    pub(crate) input: Tensor<3>,
    /// Tokens before the call, per sequence.
    pub(crate) positions: &'a [u64],
    /// How the tokens of these sequences are cut into blocks.
    pub(crate) cut: Cut,
}

/// `run` on all sequences of a call at once, or on one after another where they stand at different places of their blocks.
///
/// # Errors
/// [`spillway_ssm_core::Error::Shape`] where there is not one position per sequence; those of `run`.
pub(crate) fn in_blocks(
    window: usize,
    input: Tensor<3>,
    state: &mut MixerState,
    positions: &[u64],
    mut run: impl FnMut(Aligned<'_>, &mut MixerState) -> Result<Tensor<3>>,
) -> Result<Tensor<3>> {
    let [batch, time, _] = input.dims();
    expect::shape("positions of sequences in blocks", &[batch], &[positions.len()])?;
    let Some(&first) = positions.first().filter(|_| time > 0) else {
        return Ok(input);
    };
    let one_place = |position: &u64| place(*position, window) == place(first, window);
    if positions.iter().all(one_place) {
        let cut = Cut::at(first, window, time);
        return run(
            Aligned {
                input,
                positions,
                cut,
            },
            state,
        );
    }
    let (mut found, mut states) = (Vec::new(), Vec::new());
    for (row, position) in positions.iter().enumerate() {
        let mut own = state.select(&[row])?;
        let alone = Aligned {
            input: input.clone().narrow(0, row, 1),
            positions: std::slice::from_ref(position),
            cut: Cut::at(*position, window, time),
        };
        found.push(run(alone, &mut own)?);
        states.push(own);
    }
    *state = MixerState::cat(&states.iter().collect::<Vec<_>>())?;
    Ok(Tensor::cat(found, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_cut_where_blocks_end() {
        for window in 1..6 {
            for begun in 0..2 * window as u64 {
                for time in 0..17 {
                    let cut = Cut::at(begun, window, time);
                    assert_eq!(cut.head + cut.blocks * window + cut.tail, time);
                    assert!(cut.tail < window && cut.begun + cut.head <= window);
                    // A block that is not ended takes all there is.
                    assert!(cut.begun == 0 || cut.ends_begun() || cut.head == time, "{cut:?}");
                }
            }
        }
    }
}
