//! Token by token, a block of channels at a time.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{begin, updates};
use crate::blocks::{BLOCK, block, collect, gather, scatter};
use crate::sequences::Sequences;
use crate::shift_state_space::problem::{Inputs, OPERATOR, Outputs, Problem, ShiftError};
use crate::simd::dispatch;
use crate::vector::{SharedRows, dot};

/// Tokens of a tile.
const TILE: usize = 64;

/// The shift system over one token of every sequence, on a state that is updated in place; the state of the inputs is not read.
///
/// # Shapes
/// `state` `[batch, channels, state_dim]`, `out` `[batch, outputs·channels]`.
///
/// # Errors
/// [`ShiftError`] when a shape is wrong or there is not one token for every sequence; nothing has changed then.
pub fn step(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), ShiftError> {
    problem.validate_inputs(inputs)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    OPERATOR.values("out", problem.out_len(), out.len())?;
    let each_one = (0..problem.batch).all(|b| problem.sequences.span(b, problem.time).len() == 1);
    if !each_one {
        return Err(ShiftError::NotOneToken {
            time: problem.time,
            rows: problem.rows(),
        });
    }
    walk(problem, inputs, state, out);
    Ok(())
}

/// The recurrence token by token (see [the module](crate::shift_state_space) for the formula).
///
/// # Errors
/// [`ShiftError`] when a shape is wrong; nothing is written then.
pub fn sequential(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), ShiftError> {
    problem.validate_forward(inputs, outputs)?;
    begin(inputs, outputs.state);
    walk(problem, inputs, outputs.state, outputs.out);
    Ok(())
}

fn walk(problem: &Problem, inputs: &Inputs, state: &mut [f32], out: &mut [f32]) {
    if matches!(problem.sequences, Sequences::LeftPadded(_)) {
        out.fill(0.0);
    }
    let Problem {
        batch,
        channels,
        outputs,
        state_dim,
        ..
    } = *problem;
    let state = SharedRows::new(state, channels * state_dim);
    let out = SharedRows::new(out, outputs * channels);
    let blocks = channels.div_ceil(BLOCK);
    collect(batch * blocks, updates(problem), |index| {
        let (sequence, block) = (index / blocks, block(index % blocks, channels));
        // SAFETY: every block of every sequence is worked on once, and no two share channels of a sequence.
        let state = unsafe { state.part(sequence, block.start * state_dim..block.end * state_dim) };
        let rows = problem.sequences.span(sequence, problem.time);
        dispatch(Walk {
            problem,
            inputs,
            rows,
            block,
            state,
            out,
        });
    });
}

/// A block of channels through the tokens of a sequence.
struct Walk<'a> {
    problem: &'a Problem<'a>,
    inputs: &'a Inputs<'a>,
    rows: Range<usize>,
    block: Range<usize>,
    /// States s of the block's channels, `[block, state_dim]`.
    state: &'a mut [f32],
    out: SharedRows<'a>,
}

impl WithSimd for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            problem,
            inputs,
            rows,
            block,
            state,
            out,
        } = self;
        let Problem {
            channels,
            outputs,
            state_dim: n,
            ..
        } = *problem;
        // One place before the values, so that those before a token lie one behind where they are added to.
        let mut before = vec![0.0; n + 1];
        let mut u = [0.0; BLOCK * TILE];
        let mut reads = vec![0.0; outputs * BLOCK * TILE];
        let mut first = rows.start;
        while first < rows.end {
            let tile = first..rows.end.min(first + TILE);
            gather(&inputs.input, tile.clone(), block.clone(), TILE, &mut u);
            for (c, h) in block.clone().enumerate() {
                let state = &mut state[c * n..(c + 1) * n];
                let b = &inputs.b[h * n..(h + 1) * n];
                for (t, &u) in u[c * TILE..][..tile.len()].iter().enumerate() {
                    before[1..].copy_from_slice(state);
                    for ((after, before), b) in state.iter_mut().zip(&before).zip(b) {
                        *after = before + b * u;
                    }
                    for output in 0..outputs {
                        let at = output * channels + h;
                        let skip = inputs.skip.map_or(0.0, |skip| skip[at]);
                        let y = dot(simd, &inputs.c[at * n..(at + 1) * n], state);
                        reads[(output * BLOCK + c) * TILE + t] = y + skip * u;
                    }
                }
            }
            for (output, reads) in reads.chunks_exact(BLOCK * TILE).enumerate() {
                let columns = output * channels + block.start..output * channels + block.end;
                // SAFETY: this call alone writes these channels of this sequence.
                unsafe { scatter(reads, TILE, tile.clone(), columns, &out) };
            }
            first = tile.end;
        }
    }
}
