//! Prefill: products with powers of Ā inside of chunks of tokens (see [`tables`](super::tables) for the formula).
//!
//! A chunk of K tokens costs about K²/2 + 4NK multiply-adds per output where K tokens one after another cost 8NK, without waiting
//! for the state of the token before. What is fed back by a low rank is solved for token by token in the chunk, with vectors over the
//! tokens that follow.

use std::ops::Range;

use pulp::{Simd, WithSimd, c64};

use super::sequential::sequential;
use super::system::discretised;
use super::tables::Tables;
use super::{WIDEST_VECTOR, begin, updates};
use crate::blocks::{BLOCK, block, collect, gather, scatter};
use crate::linear_state_space::channel::{Channel, Discrete};
use crate::linear_state_space::problem::{Inputs, Outputs, Problem, StateSpaceError};
use crate::sequences::Sequences;
use crate::simd::dispatch;
use crate::vector::{Scratch, SharedRows, add_rows, add_scaled};

/// Tokens of a chunk where nobody has a wish: two of the widest vectors.
pub(super) const DEFAULT_SIZE: usize = 32;
/// Tokens, of all sequences together, from which the tables of a channel are worth their making.
pub(super) const WORTH_TABLES: usize = 2048;
/// Tokens of a tile of rows at the least.
const TILE: usize = 256;

/// The recurrence by chunks of `chunk_size` tokens. Where every token has step sizes of its own there are no powers to multiply
/// with, and it is [`sequential`].
///
/// # Errors
/// As for [`sequential`]; [`StateSpaceError::EmptyChunk`] for chunks without a token.
pub fn chunked(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    outputs: &mut Outputs,
) -> Result<(), StateSpaceError> {
    if chunk_size == 0 {
        problem.validate_forward(inputs, outputs)?;
        return Err(StateSpaceError::EmptyChunk);
    }
    if inputs.token_step_size.is_some() {
        return sequential(problem, inputs, outputs);
    }
    problem.validate_forward(inputs, outputs)?;
    let discrete = discretised(problem, inputs);
    begin(inputs, outputs.state);
    if matches!(problem.sequences, Sequences::LeftPadded(_)) {
        outputs.out.fill(0.0);
    }
    let spans = problem.sequences.spans(problem.batch, problem.time);
    let longest = spans.iter().map(|span| span.len()).max().unwrap_or(0);
    let chunk_size = chunk_size.min(longest).max(1);
    let channels = problem.channels;
    let state = SharedRows::new(outputs.state, 2 * channels * problem.state_dim);
    let out = SharedRows::new(outputs.out, problem.outputs * channels);
    collect(channels.div_ceil(BLOCK), updates(problem), |index| {
        let block = block(index, channels);
        let channels = &discrete[block.clone()];
        dispatch(BlockForward {
            problem,
            inputs,
            chunk_size,
            spans: &spans,
            block,
            channels,
            state,
            out,
        });
    });
    Ok(())
}

/// A block of channels through all sequences.
struct BlockForward<'a> {
    problem: &'a Problem<'a>,
    inputs: &'a Inputs<'a>,
    chunk_size: usize,
    spans: &'a [Range<usize>],
    block: Range<usize>,
    channels: &'a [(Channel, Discrete)],
    state: SharedRows<'a>,
    out: SharedRows<'a>,
}

/// Memory of one chunk, in whole vectors.
struct Memory<'a> {
    /// Each y and each s of the tokens, `[outputs, size]`.
    outputs: &'a mut [f32],
    /// The state, and what it becomes.
    x: &'a mut [f32],
    next: &'a mut [f32],
}

impl WithSimd for BlockForward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Problem {
            state_dim,
            outputs,
            rank,
            spectrum,
            ..
        } = *self.problem;
        let (len, chunk) = (2 * state_dim, self.chunk_size);
        let width = len.next_multiple_of(WIDEST_VECTOR);
        let tables: Vec<Tables> = self
            .channels
            .iter()
            .map(|(channel, discrete)| {
                let mut tables = Tables::new(chunk, len, width, outputs, rank);
                tables.fill(discrete, &channel.c, spectrum.weight());
                tables
            })
            .collect();
        let size = chunk.next_multiple_of(WIDEST_VECTOR);
        let of_outputs = (outputs + rank) * size;
        let mut scratch = Scratch::new::<S>((of_outputs + 2 * width) / S::F32_LANES);
        let (y, x) = bytemuck::cast_slice_mut::<_, f32>(scratch.vectors::<S>()).split_at_mut(of_outputs);
        let (x, next) = x.split_at_mut(width);
        let mut memory = Memory { outputs: y, x, next };
        let tile = TILE.div_ceil(chunk) * chunk;
        let mut inputs = vec![0.0; BLOCK * tile];
        let mut reads = vec![0.0; outputs * BLOCK * tile];
        for (sequence, span) in self.spans.iter().enumerate() {
            // SAFETY: this call alone has these channels.
            let state = unsafe {
                self.state
                    .part(sequence, self.block.start * len..self.block.end * len)
            };
            for first in span.clone().step_by(tile) {
                let rows = first..span.end.min(first + tile);
                gather(
                    &self.inputs.input,
                    rows.clone(),
                    self.block.clone(),
                    tile,
                    &mut inputs,
                );
                for (c, tables) in tables.iter().enumerate() {
                    let state = &mut state[c * len..(c + 1) * len];
                    memory.x[..len].copy_from_slice(state);
                    for at in (0..rows.len()).step_by(chunk) {
                        let tokens = at..rows.len().min(at + chunk);
                        let u = &inputs[c * tile..][tokens.clone()];
                        one_chunk(simd, tables, u, &mut memory);
                        let skip = &self.channels[c].0.skip;
                        for (output, skip) in skip.iter().enumerate() {
                            let y = &memory.outputs[output * size..];
                            let reads = &mut reads[(output * BLOCK + c) * tile..][tokens.clone()];
                            for ((read, y), u) in reads.iter_mut().zip(y).zip(u) {
                                *read = y + *skip as f32 * u;
                            }
                        }
                    }
                    state.copy_from_slice(&memory.x[..len]);
                }
                for (output, reads) in reads.chunks_exact(BLOCK * tile).enumerate() {
                    let first = output * self.problem.channels;
                    let columns = first + self.block.start..first + self.block.end;
                    // SAFETY: this call alone has these channels.
                    unsafe { scatter(reads, tile, rows.clone(), columns, &self.out) };
                }
            }
        }
    }
}

/// The outputs of a chunk with inputs `u`, and the state after it.
#[inline(always)]
fn one_chunk<S: Simd>(simd: S, tables: &Tables, u: &[f32], memory: &mut Memory) {
    let Memory { outputs, x, next } = memory;
    let (size, tokens, reads) = (tables.size, u.len(), tables.reads());
    let rank = outputs.len() / size - reads;
    let state = tables.power(0).len();
    for (j, y) in outputs.chunks_exact_mut(size).enumerate() {
        y.fill(0.0);
        add_rows(simd, &x[..state], |i| tables.of_state(j, i), y);
        add_rows(simd, u, |t| tables.kernel(j, 0, t), y);
    }
    let (y, s) = outputs.split_at_mut(reads * size);
    if rank > 0 {
        // Each s is known when those of the tokens before it have had their effect.
        for t in 0..tokens {
            for i in 0..rank {
                let value = s[i * size + t];
                for (k, s) in s.chunks_exact_mut(size).enumerate() {
                    add_scaled(simd, value, tables.kernel(reads + k, 1 + i, t), s);
                }
            }
        }
        for (j, y) in y.chunks_exact_mut(size).enumerate() {
            for (i, s) in s.chunks_exact(size).enumerate() {
                add_rows(simd, &s[..tokens], |t| tables.kernel(j, 1 + i, t), y);
            }
        }
    }
    let powers = tables.power(tokens).chunks_exact(2);
    for ((next, x), power) in next.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(powers) {
        let power = c64::new(f64::from(power[0]), f64::from(power[1]));
        let product = power * c64::new(f64::from(x[0]), f64::from(x[1]));
        (next[0], next[1]) = (product.re as f32, product.im as f32);
    }
    add_rows(simd, u, |t| tables.to_state(0, t, tokens), next);
    for (i, s) in s.chunks_exact(size).enumerate() {
        add_rows(simd, &s[..tokens], |t| tables.to_state(1 + i, t, tokens), next);
    }
    x.copy_from_slice(next);
}
