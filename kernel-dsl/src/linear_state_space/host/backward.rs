//! Gradients: states kept at the beginnings of chunks on the way forward, computed again inside each chunk on the way back.

use std::ops::Range;

use pulp::{Simd, WithSimd, c64};

use super::backward_token::{Seen, Sums, read_back, retreat};
use super::convolved_backward;
use super::system::{System, discretised, modes_of};
use super::token::{Modes, advance};
use super::token_steps::discretise;
use super::updates;
use crate::blocks::{BLOCK, block, collect, gather, scatter};
use crate::linear_state_space::channel::{Channel, Discrete, write_gradients};
use crate::linear_state_space::discretise::Mode;
use crate::linear_state_space::problem::{Cotangents, Gradients, Inputs, Problem, StateSpaceError};
use crate::sequences::Sequences;
use crate::simd::dispatch;
use crate::vector::SharedRows;

/// Tokens in a chunk where a caller has no wish: the states that a chunk computes again stay in the first caches.
pub const DEFAULT_CHUNK_SIZE: usize = 64;

/// The gradients of a loss by every input, from its cotangents by output and final state (see
/// [the module](crate::linear_state_space) for the formulas).
///
/// Each thread keeps one state per `chunk_size` tokens and those of one chunk; states of all tokens never exist. Several sequences that
/// begin without a state, and of whose last states no cotangent asks anything, share one kernel and one such pass.
///
/// # Errors
/// [`StateSpaceError`] when a shape, a choice or a value is wrong or `chunk_size` is 0; no gradient has changed then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), StateSpaceError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    if chunk_size == 0 {
        return Err(StateSpaceError::EmptyChunk);
    }
    let discrete = discretised(problem, inputs);
    if convolved_backward::applies(problem, inputs, cotangents) {
        let of_impulse =
            |problem: &Problem, inputs: &Inputs, cotangents: &Cotangents, gradients: &mut Gradients| {
                recurrent(problem, inputs, chunk_size, cotangents, gradients, &discrete)
            };
        return convolved_backward::backward(problem, inputs, cotangents, gradients, &discrete, of_impulse);
    }
    recurrent(problem, inputs, chunk_size, cotangents, gradients, &discrete)
}

/// The gradients by the recurrence.
fn recurrent(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    cotangents: &Cotangents,
    gradients: &mut Gradients,
    discrete: &[(Channel, Discrete)],
) -> Result<(), StateSpaceError> {
    let system = System::of(problem, inputs, discrete)?;
    if matches!(problem.sequences, Sequences::LeftPadded(_)) {
        gradients.input.fill(0.0);
        if let Some(steps) = &mut gradients.token_step_size {
            steps.fill(0.0);
        }
    }
    let channels = problem.channels;
    // A thread works on all sequences of its channels, so that sums over them need no other.
    let sinks = Sinks {
        input: SharedRows::new(gradients.input, channels),
        steps: gradients
            .token_step_size
            .as_deref_mut()
            .map(|steps| SharedRows::new(steps, channels)),
        state: gradients
            .state
            .as_deref_mut()
            .map(|state| SharedRows::new(state, 2 * channels * problem.state_dim)),
    };
    let blocks = collect(channels.div_ceil(BLOCK), updates(problem), |index| {
        let block = block(index, channels);
        let channels = &discrete[block.clone()];
        dispatch(BlockBackward {
            problem,
            inputs,
            cotangents,
            system: &system,
            chunk_size,
            sinks: &sinks,
            block,
            channels,
        })
    });
    let found: Vec<Channel> = blocks.into_iter().flatten().collect();
    write_gradients(problem, &found, gradients, |value| value as f32);
    Ok(())
}

/// Where blocks leave the gradients of tokens and states.
struct Sinks<'a> {
    input: SharedRows<'a>,
    steps: Option<SharedRows<'a>>,
    state: Option<SharedRows<'a>>,
}

/// The gradients of a block of channels.
struct BlockBackward<'a> {
    problem: &'a Problem<'a>,
    inputs: &'a Inputs<'a>,
    cotangents: &'a Cotangents<'a>,
    system: &'a System,
    chunk_size: usize,
    sinks: &'a Sinks<'a>,
    block: Range<usize>,
    channels: &'a [(Channel, Discrete)],
}

/// Derivatives by the constants of a channel, as far as they have come.
struct Found {
    sums: Sums,
    /// Derivatives by D, and by Δ, Λ and B where every token has a step size of its own.
    by_token: Channel,
}

/// Memory of one block, for any sequence.
struct Memory {
    /// Tokens of a chunk.
    chunk: usize,
    /// u, Δ and ȳ of every output, `[.., BLOCK, chunk]` each, and the gradients by u and Δ.
    inputs: Vec<f32>,
    steps: Vec<f32>,
    reads: Vec<f32>,
    by_inputs: Vec<f32>,
    by_steps: Vec<f32>,
    /// The states of a chunk and the one before it, `[chunk + 1, padded]`.
    states: Vec<f32>,
    /// Feedback s of every token and rank, `[chunk, rank]`.
    feedback: Vec<f32>,
    by_feedback: Vec<f32>,
    /// The modes of every token of a chunk, where each has its own, `[chunk, 3, width]`.
    modes: Vec<f32>,
}

impl Memory {
    fn new(job: &BlockBackward, chunk: usize, padded: usize) -> Self {
        let (outputs, rank) = (job.problem.outputs, job.problem.rank);
        let of_steps = usize::from(job.system.token_steps);
        Self {
            chunk,
            inputs: vec![0.0; BLOCK * chunk],
            steps: vec![0.0; of_steps * BLOCK * chunk],
            reads: vec![0.0; outputs * BLOCK * chunk],
            by_inputs: vec![0.0; BLOCK * chunk],
            by_steps: vec![0.0; of_steps * BLOCK * chunk],
            states: vec![0.0; (chunk + 1) * padded],
            feedback: vec![0.0; chunk * rank],
            by_feedback: vec![0.0; rank],
            modes: vec![0.0; of_steps * chunk * 3 * job.system.width],
        }
    }
}

impl WithSimd for BlockBackward<'_> {
    type Output = Vec<Channel>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<Channel> {
        let Self { problem, system, .. } = self;
        let mut found: Vec<Found> = self
            .channels
            .iter()
            .map(|_| Found {
                sums: Sums::new(system.width, problem.outputs, problem.rank),
                by_token: Channel::zeros(problem),
            })
            .collect();
        let padded = (2 * problem.state_dim).next_multiple_of(S::F32_LANES);
        let spans = problem.sequences.spans(problem.batch, problem.time);
        let longest = spans.iter().map(|span| span.len()).max().unwrap_or(0);
        let mut memory = Memory::new(&self, self.chunk_size.min(longest).max(1), padded);
        for (sequence, span) in spans.into_iter().enumerate() {
            self.sequence(simd, (sequence, span), padded, &mut memory, &mut found);
        }
        let channels = self.channels.iter().zip(found);
        channels
            .map(|((channel, discrete), found)| self.finish(channel, discrete, found))
            .collect()
    }
}

impl BlockBackward<'_> {
    /// Turns the sums over tokens into the derivatives by the constants of the channel.
    fn finish(&self, channel: &Channel, discrete: &Discrete, found: Found) -> Channel {
        let Found { sums, mut by_token } = found;
        let cotangent = sums.finish(self.problem, &mut by_token);
        if self.system.token_steps {
            return by_token;
        }
        let gradient = discrete.pull_back(self.problem.rule, channel, &cotangent);
        Channel {
            c: by_token.c,
            skip: by_token.skip,
            ..gradient
        }
    }

    #[inline(always)]
    fn sequence<S: Simd>(
        &self,
        simd: S,
        (sequence, span): (usize, Range<usize>),
        padded: usize,
        memory: &mut Memory,
        found: &mut [Found],
    ) {
        let len = 2 * self.problem.state_dim;
        let size = memory.chunk;
        let at = |c: usize| (sequence * self.problem.channels + self.block.start + c) * len;
        let of_block = self.block.len() * padded;
        let chunks = span.len().div_ceil(size);
        // The states before each chunk.
        let mut boundaries = vec![0.0; chunks.max(1) * of_block];
        let mut adjoints = vec![0.0; of_block];
        for c in 0..self.block.len() {
            if let Some(state) = self.inputs.state {
                boundaries[c * padded..][..len].copy_from_slice(&state[at(c)..][..len]);
            }
            if let Some(state) = self.cotangents.state {
                adjoints[c * padded..][..len].copy_from_slice(&state[at(c)..][..len]);
            }
        }
        let rows = |index: usize| span.start + index * size..span.end.min(span.start + (index + 1) * size);
        for index in 1..chunks {
            self.gather_inputs(rows(index - 1), memory);
            let (before, after) = boundaries.split_at_mut(index * of_block);
            let before = &before[(index - 1) * of_block..];
            for c in 0..self.block.len() {
                let begin = &before[c * padded..][..padded];
                self.recompute(simd, c, size, begin, memory);
                after[c * padded..][..padded].copy_from_slice(&memory.states[size * padded..]);
            }
        }
        for index in (0..chunks).rev() {
            let rows = rows(index);
            self.gather_inputs(rows.clone(), memory);
            self.gather_cotangents(rows.clone(), memory);
            for (c, found) in found.iter_mut().enumerate() {
                let begin = &boundaries[index * of_block + c * padded..][..padded];
                self.recompute(simd, c, rows.len(), begin, memory);
                self.go_back(
                    simd,
                    c,
                    rows.len(),
                    &mut adjoints[c * padded..][..padded],
                    memory,
                    found,
                );
            }
            // SAFETY: this call alone writes these channels.
            unsafe {
                scatter(
                    &memory.by_inputs,
                    size,
                    rows.clone(),
                    self.block.clone(),
                    &self.sinks.input,
                )
            };
            if let Some(steps) = &self.sinks.steps {
                // SAFETY: as before.
                unsafe { scatter(&memory.by_steps, size, rows, self.block.clone(), steps) };
            }
        }
        if let Some(state) = &self.sinks.state {
            // SAFETY: as before.
            let state = unsafe { state.part(sequence, self.block.start * len..self.block.end * len) };
            for c in 0..self.block.len() {
                state[c * len..(c + 1) * len].copy_from_slice(&adjoints[c * padded..][..len]);
            }
        }
    }

    #[inline(always)]
    fn gather_inputs(&self, rows: Range<usize>, memory: &mut Memory) {
        gather(
            &self.inputs.input,
            rows.clone(),
            self.block.clone(),
            memory.chunk,
            &mut memory.inputs,
        );
        if let Some(steps) = &self.inputs.token_step_size {
            gather(steps, rows, self.block.clone(), memory.chunk, &mut memory.steps);
        }
    }

    #[inline(always)]
    fn gather_cotangents(&self, rows: Range<usize>, memory: &mut Memory) {
        let Some(out) = &self.cotangents.out else {
            return;
        };
        for (output, reads) in memory.reads.chunks_exact_mut(BLOCK * memory.chunk).enumerate() {
            let first = output * self.problem.channels;
            let columns = first + self.block.start..first + self.block.end;
            gather(out, rows.clone(), columns, memory.chunk, reads);
        }
    }

    /// The states of the first `tokens` tokens of the chunk in memory, from the one before.
    #[inline(always)]
    fn recompute<S: Simd>(&self, simd: S, c: usize, tokens: usize, begin: &[f32], memory: &mut Memory) {
        let (padded, rank, width) = (begin.len(), self.problem.rank, self.system.width);
        let constants = self.system.channel(self.block.start + c);
        memory.states[..padded].copy_from_slice(begin);
        for t in 0..tokens {
            let at = c * memory.chunk + t;
            if self.system.token_steps {
                let modes = &mut memory.modes[t * 3 * width..][..3 * width];
                discretise(
                    simd,
                    self.system.rule,
                    &constants.rates(),
                    memory.steps[at],
                    modes,
                );
            }
            memory
                .states
                .copy_within(t * padded..(t + 1) * padded, (t + 1) * padded);
            let modes = match self.system.token_steps {
                true => modes_of(&memory.modes[t * 3 * width..][..3 * width]),
                false => constants.modes(),
            };
            let state = &mut memory.states[(t + 1) * padded..][..padded];
            let feedback = &mut memory.feedback[t * rank..(t + 1) * rank];
            advance::<S, false>(
                simd,
                (&modes, &constants.feedback),
                memory.inputs[at],
                (state, feedback),
                &[],
            );
        }
    }

    /// The chunk in memory backward, whose states have been computed again.
    #[inline(always)]
    fn go_back<S: Simd>(
        &self,
        simd: S,
        c: usize,
        tokens: usize,
        adjoint: &mut [f32],
        memory: &mut Memory,
        found: &mut Found,
    ) {
        let (padded, rank, width) = (adjoint.len(), self.problem.rank, self.system.width);
        let constants = self.system.channel(self.block.start + c);
        let stride = BLOCK * memory.chunk;
        for t in (0..tokens).rev() {
            let at = c * memory.chunk + t;
            let seen = Seen {
                u: memory.inputs[at],
                reads: memory.reads.get(at..).unwrap_or_default(),
                stride,
                before: &memory.states[t * padded..][..padded],
                after: &memory.states[(t + 1) * padded..][..padded],
                feedback: &memory.feedback[t * rank..(t + 1) * rank],
            };
            read_back(simd, &constants, &seen, adjoint, &mut found.sums);
            let modes = match self.system.token_steps {
                true => modes_of(&memory.modes[t * 3 * width..][..3 * width]),
                false => constants.modes(),
            };
            if self.system.token_steps {
                let step = memory.steps[at];
                memory.by_steps[at] = self.by_token(c, step, &modes, &seen, adjoint, &mut found.by_token);
            }
            let by_feedback = &mut memory.by_feedback[..];
            let parts = (&modes, &constants);
            let mut by_input = retreat(simd, parts, &seen, adjoint, &mut found.sums, by_feedback);
            for (output, y) in seen.reads.iter().step_by(stride).enumerate() {
                by_input += y * constants.skip[output];
                found.by_token.skip[output] += f64::from(*y) * f64::from(seen.u);
            }
            memory.by_inputs[at] = by_input;
        }
        found.sums.flush();
    }

    /// Adds the derivatives by Λ and B on the way of a token with a step size of its own, and gives that by the step size.
    fn by_token(
        &self,
        c: usize,
        step: f32,
        modes: &Modes,
        seen: &Seen,
        adjoint: &[f32],
        found: &mut Channel,
    ) -> f32 {
        let (channel, _) = &self.channels[c];
        let complex =
            |values: &[f32], n: usize| c64::new(f64::from(values[2 * n]), f64::from(values[2 * n + 1]));
        let mut by_step = 0.0;
        for n in 0..channel.a.len() {
            let mode = Mode {
                change: c64::new(f64::from(modes.re[2 * n]), f64::from(modes.im[2 * n + 1])),
                input: complex(modes.input, n),
            };
            let by = complex(adjoint, n);
            let cotangent = Mode {
                change: by * complex(seen.before, n).conj(),
                input: by * f64::from(seen.u),
            };
            let of = (channel.a[n], channel.b[n]);
            let gradient = self
                .problem
                .rule
                .pull_back(f64::from(step), of, &mode, &cotangent);
            by_step += gradient.step;
            found.a[n] += gradient.a;
            found.b[n] += gradient.b;
        }
        by_step as f32
    }
}
