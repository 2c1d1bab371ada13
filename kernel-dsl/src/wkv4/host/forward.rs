//! Token by token, channels in the lanes of vectors, the states of a segment in the first cache.

use pulp::{Simd, WithSimd};

use super::sums::{Sums, token};
use super::{Segment, for_each_segment};
use crate::sequences::Sequences;
use crate::simd::dispatch;
use crate::vector::{SharedRows, load_at, store_at};
use crate::wkv4::problem::{Inputs, OPERATOR, Problem, Wkv4Error};

/// Channels of a segment: long enough for whole cache lines of a row to follow each other.
const SEGMENT_CHANNELS: usize = 256;

/// The WKV-4 recurrence over one token of every sequence: [`sequential`] for `time` = 1, as decoding calls it.
///
/// # Shapes
/// `state` `[batch, 3, channels]`, read and updated; `out` `[batch, channels]`.
///
/// # Errors
/// [`Wkv4Error`] when a shape is wrong, a log decay is positive or NaN, or `time` is not 1.
pub fn step(problem: &Problem, inputs: &Inputs, state: &mut [f32], out: &mut [f32]) -> Result<(), Wkv4Error> {
    if problem.time != 1 {
        return Err(Wkv4Error::NotOneToken { found: problem.time });
    }
    sequential(problem, inputs, state, out)
}

/// The recurrence token by token (see [the module](crate::wkv4) for the formula).
///
/// # Shapes
/// `state` `[batch, 3, channels]`, read and updated; `out` `[rows, channels]`, 0 in rows of no sequence.
///
/// # Errors
/// [`Wkv4Error`] when a shape is wrong or a log decay is positive or NaN; then neither `state` nor `out` has changed.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), Wkv4Error> {
    problem.validate(inputs, state, out)?;
    if matches!(inputs.sequences, Sequences::LeftPadded(_)) {
        out.fill(0.0);
    }
    let state = SharedRows::new(state, problem.channels);
    let out = SharedRows::new(out, problem.channels);
    for_each_segment(problem, inputs, SEGMENT_CHANNELS, |segment| {
        dispatch(Tokens {
            segment,
            state,
            out: Some(out),
        });
    });
    Ok(())
}

/// The monoid element of the tokens of each sequence: what they do to any state that comes in (see
/// [`monoid`](crate::wkv4::monoid)).
///
/// # Shapes
/// `log_decay_sum` `[batch, channels]` and `update` `[batch, 3, channels]`, both overwritten.
///
/// # Errors
/// [`Wkv4Error`] when a shape is wrong or a log decay is positive or NaN.
pub fn element(
    problem: &Problem,
    inputs: &Inputs,
    log_decay_sum: &mut [f32],
    update: &mut [f32],
) -> Result<(), Wkv4Error> {
    problem.validate_inputs(inputs)?;
    OPERATOR.values(
        "log_decay_sum",
        problem.batch * problem.channels,
        log_decay_sum.len(),
    )?;
    OPERATOR.values("update", problem.state_len(), update.len())?;
    if problem.channels == 0 {
        return Ok(());
    }
    for (b, sums) in log_decay_sum.chunks_exact_mut(problem.channels).enumerate() {
        let tokens = inputs.sequences.span(b, problem.time).len();
        for (sum, w) in sums.iter_mut().zip(inputs.log_decay) {
            // No token of an infinite decay decays nothing.
            *sum = if tokens == 0 { 0.0 } else { tokens as f32 * w };
        }
    }
    update.copy_from_slice(&problem.empty_state());
    let state = SharedRows::new(update, problem.channels);
    for_each_segment(problem, inputs, SEGMENT_CHANNELS, |segment| {
        dispatch(Tokens {
            segment,
            state,
            out: None,
        });
    });
    Ok(())
}

/// All tokens of a segment; without an output, only its states.
struct Tokens<'a> {
    segment: Segment<'a>,
    state: SharedRows<'a>,
    out: Option<SharedRows<'a>>,
}

/// The three parts of a segment's state, `[channels]` each.
struct State<'a> {
    numerator: &'a mut [f32],
    denominator: &'a mut [f32],
    max: &'a mut [f32],
}

impl WithSimd for Tokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { segment, state, out } = self;
        let (b, channels) = (segment.sequence, segment.channels());
        // SAFETY: each segment is worked on once, and no two share channels of a sequence.
        let mut state = unsafe {
            State {
                numerator: state.part(3 * b, channels.clone()),
                denominator: state.part(3 * b + 1, channels.clone()),
                max: state.part(3 * b + 2, channels),
            }
        };
        for row in segment.span() {
            match out {
                None => tokens::<S, false>(simd, &segment, row, &mut state, &mut []),
                Some(out) => {
                    // SAFETY: as above.
                    let y = unsafe { out.part(row, segment.channels()) };
                    tokens::<S, true>(simd, &segment, row, &mut state, y);
                }
            }
        }
    }
}

/// Updates the states of a segment by one token and, with `READ`, sets y ← o before.
#[inline(always)]
fn tokens<S: Simd, const READ: bool>(
    simd: S,
    segment: &Segment,
    row: usize,
    state: &mut State,
    y: &mut [f32],
) {
    for first in (0..segment.count).step_by(S::F32_LANES) {
        let token = token(simd, segment, row, first);
        let mut sums = Sums::new(
            simd,
            load_at(simd, state.numerator, first),
            load_at(simd, state.denominator, first),
            load_at(simd, state.max, first),
        );
        if READ {
            store_at(simd, y, first, sums.read(simd, &token).out);
        }
        sums.update(simd, &token);
        store_at(simd, state.numerator, first, sums.numerator);
        store_at(simd, state.denominator, first, sums.denominator);
        store_at(simd, state.max, first, sums.max);
    }
}
