//! Token by token, a block of channels at a time.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::begin;
use super::system::{Constants, System, discretised, modes_of};
use super::token::advance;
use super::token_steps::discretise;
use crate::blocks::{BLOCK, block, collect, gather, scatter};
use crate::linear_state_space::problem::{
    Inputs, OPERATOR, Outputs, Problem, StateSpaceError, expect_step_sizes,
};
use crate::rows::Rows;
use crate::sequences::Sequences;
use crate::simd::dispatch;
use crate::vector::{Scratch, SharedRows, dot};

/// Tokens of a tile.
const TILE: usize = 64;

/// The recurrence token by token (see [the module](crate::linear_state_space) for the formula).
///
/// # Errors
/// [`StateSpaceError`] when a shape, a choice or a value is wrong; nothing is written then.
pub fn sequential(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), StateSpaceError> {
    problem.validate_forward(inputs, outputs)?;
    let system = System::of(problem, inputs, &discretised(problem, inputs))?;
    begin(inputs, outputs.state);
    let tokens = (&inputs.input, inputs.token_step_size.as_ref());
    let sequences = (&problem.sequences, problem.batch, problem.time);
    walk(&system, tokens, sequences, outputs.state, outputs.out);
    Ok(())
}

impl System {
    /// One token of every sequence.
    ///
    /// # Shapes
    /// `input` and, where the system was made with step sizes per token, `token_step_size` `[batch, channels]`; `state`
    /// `[batch, channels, state_dim, 2]`, read and updated; `out` `[batch, outputs·channels]`, overwritten.
    ///
    /// # Errors
    /// [`StateSpaceError`] when a shape or a step size is wrong; nothing has changed then.
    pub fn step(
        &self,
        input: Rows,
        token_step_size: Option<Rows>,
        state: &mut [f32],
        out: &mut [f32],
    ) -> Result<(), StateSpaceError> {
        let (batch, channels) = (input.rows(), self.channels);
        OPERATOR.rows("input", (batch, channels), &input)?;
        OPERATOR.values("state", 2 * batch * channels * self.state_dim, state.len())?;
        OPERATOR.values("out", batch * self.outputs * channels, out.len())?;
        self.expect_steps(batch, token_step_size.as_ref())?;
        walk(
            self,
            (&input, token_step_size.as_ref()),
            (&Sequences::Equal, batch, 1),
            state,
            out,
        );
        Ok(())
    }

    fn expect_steps(&self, batch: usize, steps: Option<&Rows>) -> Result<(), StateSpaceError> {
        let Some(steps) = steps.filter(|_| self.token_steps) else {
            let (expected, found) = match (self.token_steps, steps) {
                (false, None) => return Ok(()),
                (true, _) => ("a step size per token, as the system was made with", "none"),
                (false, Some(_)) => ("no step size per token, as the system was made without", "one"),
            };
            return Err(StateSpaceError::StepSizes {
                rule: self.rule,
                expected,
                found,
            });
        };
        OPERATOR.rows("token_step_size", (batch, self.channels), steps)?;
        expect_step_sizes(steps, 0..batch)
    }
}

/// Goes through the tokens of every sequence, from states that are updated in place.
fn walk(
    system: &System,
    tokens: (&Rows, Option<&Rows>),
    (sequences, batch, time): (&Sequences, usize, usize),
    state: &mut [f32],
    out: &mut [f32],
) {
    if matches!(sequences, Sequences::LeftPadded(_)) {
        out.fill(0.0);
    }
    let (channels, len) = (system.channels, 2 * system.state_dim);
    let state = SharedRows::new(state, channels * len);
    let out = SharedRows::new(out, system.outputs * channels);
    let blocks = channels.div_ceil(BLOCK);
    let updates = sequences
        .rows(batch, time)
        .saturating_mul(channels * system.state_dim.max(1));
    collect(batch * blocks, updates, |index| {
        let (sequence, block) = (index / blocks, block(index % blocks, channels));
        // SAFETY: every block of every sequence is worked on once, and no two share channels of a sequence.
        let state = unsafe { state.part(sequence, block.start * len..block.end * len) };
        dispatch(Walk {
            system,
            tokens,
            rows: sequences.span(sequence, time),
            block,
            state,
            out,
        });
    });
}

/// A block of channels through the tokens of a sequence.
struct Walk<'a> {
    system: &'a System,
    tokens: (&'a Rows<'a>, Option<&'a Rows<'a>>),
    rows: Range<usize>,
    block: Range<usize>,
    /// States of the block's channels, as pairs, `[block, state_dim, 2]`.
    state: &'a mut [f32],
    out: SharedRows<'a>,
}

impl WithSimd for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            system,
            tokens,
            rows,
            block,
            state,
            out,
        } = self;
        let len = 2 * system.state_dim;
        let padded = len.next_multiple_of(S::F32_LANES);
        // One token reads and writes little else than its constants and its state, so the rest is made no larger than it needs.
        let of_state = if padded == len { 0 } else { padded };
        let of_modes = if system.token_steps { 3 * system.width } else { 0 };
        let mut scratch = Scratch::new::<S>((of_state + of_modes) / S::F32_LANES);
        let (x_scratch, modes) =
            bytemuck::cast_slice_mut::<_, f32>(scratch.vectors::<S>()).split_at_mut(of_state);
        let mut feedback = vec![0.0; system.rank];
        let length = rows.len().clamp(1, TILE);
        let mut runs = vec![0.0; (2 + system.outputs) * BLOCK * length];
        let (inputs, others) = runs.split_at_mut(BLOCK * length);
        let (steps, reads) = others.split_at_mut(BLOCK * length);
        let mut first = rows.start;
        while first < rows.end {
            let tile = first..rows.end.min(first + length);
            gather(tokens.0, tile.clone(), block.clone(), length, inputs);
            if let Some(view) = tokens.1 {
                gather(view, tile.clone(), block.clone(), length, steps);
            }
            for (c, h) in block.clone().enumerate() {
                let run = Run {
                    constants: system.channel(h),
                    system,
                    inputs: &inputs[c * length..][..tile.len()],
                    steps: &steps[c * length..][..tile.len()],
                    stride: BLOCK * length,
                };
                let x = &mut state[c * len..(c + 1) * len];
                if padded == len {
                    run.tokens(simd, (x, &mut feedback), modes, reads, c * length);
                } else {
                    x_scratch[..len].copy_from_slice(x);
                    run.tokens(simd, (x_scratch, &mut feedback), modes, reads, c * length);
                    x.copy_from_slice(&x_scratch[..len]);
                }
            }
            for (output, reads) in reads.chunks_exact(BLOCK * length).enumerate() {
                let columns = output * system.channels + block.start..output * system.channels + block.end;
                // SAFETY: this call alone writes these channels of this sequence.
                unsafe { scatter(reads, length, tile.clone(), columns, &out) };
            }
            first = tile.end;
        }
    }
}

/// A tile of tokens of one channel.
struct Run<'a> {
    constants: Constants<'a>,
    system: &'a System,
    inputs: &'a [f32],
    steps: &'a [f32],
    /// Distance between neighbouring outputs of a token, in values.
    stride: usize,
}

impl Run<'_> {
    /// Leaves the outputs of the tokens in `reads`, from `at` on.
    #[inline(always)]
    fn tokens<S: Simd>(
        &self,
        simd: S,
        (x, feedback): (&mut [f32], &mut [f32]),
        modes: &mut [f32],
        reads: &mut [f32],
        at: usize,
    ) {
        let Constants {
            c,
            feedback: constants,
            skip,
            ..
        } = self.constants;
        let width = self.system.width;
        for (t, &u) in self.inputs.iter().enumerate() {
            let of_token = match self.system.token_steps {
                true => {
                    discretise(
                        simd,
                        self.system.rule,
                        &self.constants.rates(),
                        self.steps[t],
                        modes,
                    );
                    modes_of(modes)
                }
                false => self.constants.modes(),
            };
            if self.system.outputs == 0 {
                advance::<S, false>(simd, (&of_token, &constants), u, (x, feedback), &[]);
                continue;
            }
            let y = advance::<S, true>(simd, (&of_token, &constants), u, (x, feedback), &c[..width]);
            reads[at + t] = y + skip[0] * u;
            for output in 1..self.system.outputs {
                let y = dot(simd, &c[output * width..][..width], x);
                reads[output * self.stride + at + t] = y + skip[output] * u;
            }
        }
    }
}
