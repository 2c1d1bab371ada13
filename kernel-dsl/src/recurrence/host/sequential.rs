//! Token by token: each token reads the state once, updates it and reads it out in the same pass.

use std::sync::atomic::{AtomicU64, Ordering};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{dot_of_three, load, store};
use super::{Head, SharedOutput, clear_padding, finish_read_out, worth_threads};
use crate::math;
use crate::recurrence::problem::{Inputs, Problem, ReadOut, RecurrenceError};
use crate::sequences::Sequences;
use crate::simd::{dispatch, mul_add};

/// Keys whose decays are kept on the stack; only larger heads allocate.
const KEYS_ON_STACK: usize = 512;

/// The recurrence over one token: [`sequential`] for `time` = 1, as decoding calls it. Padded or packed sequences may have one token or none.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or a sequence does not have one token.
pub fn step(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), RecurrenceError> {
    problem.validate(inputs, state, out)?;
    check_one_token(problem, inputs)?;
    run(problem, inputs, state, out);
    Ok(())
}

/// Checks that every sequence has one token, or that unequal ones have no more.
pub(in crate::recurrence) fn check_one_token(
    problem: &Problem,
    inputs: &Inputs,
) -> Result<(), RecurrenceError> {
    let longest = match inputs.sequences {
        Sequences::Equal => problem.time,
        Sequences::LeftPadded(_) | Sequences::Packed(_) => (0..problem.batch)
            .map(|b| inputs.sequences.span(b, problem.time).len())
            .fold(1, usize::max),
    };
    match longest {
        1 => Ok(()),
        found => Err(RecurrenceError::NotOneToken { found }),
    }
}

/// The recurrence token by token (see [the module](crate::recurrence) for the formula).
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong; then neither `state` nor `out` has changed.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), RecurrenceError> {
    problem.validate(inputs, state, out)?;
    run(problem, inputs, state, out);
    Ok(())
}

fn run(problem: &Problem, inputs: &Inputs, state: &mut [f32], out: &mut [f32]) {
    for_each_head(problem, inputs, state, out, |head, h, out| {
        head_tokens(head, None, h, out);
    });
}

/// The recurrence with states held below a Frobenius norm of p = `bound[head]`: after every token
/// h ← h · min(1, p / ‖h‖). Returns how many (token, head) pairs were clipped.
///
/// The inclusive read-out of a token reads its own clipped state, the bonus read-out the clipped state of the token
/// before.
///
/// # Shapes
/// As for [`sequential`]; `bound` `[heads]`, `+inf` for a head that is left free.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or a bound is negative or NaN; then nothing has changed.
pub fn sequential_bounded(
    problem: &Problem,
    inputs: &Inputs,
    bound: &[f32],
    state: &mut [f32],
    out: &mut [f32],
) -> Result<u64, RecurrenceError> {
    problem.validate(inputs, state, out)?;
    problem.check_bound(bound)?;
    let clipped = AtomicU64::new(0);
    for_each_head(problem, inputs, state, out, |head, h, out| {
        let count = head_tokens(head, Some(bound[head.head]), h, out);
        clipped.fetch_add(count, Ordering::Relaxed);
    });
    Ok(clipped.into_inner())
}

/// Runs `work` on every head of every sequence with that head's state, on all threads where it pays.
fn for_each_head(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
    work: impl Fn(Head, &mut [f32], SharedOutput) + Sync,
) {
    clear_padding(problem, inputs, problem.heads * problem.value_dim, out);
    let out = SharedOutput::new(problem, out);
    let at = |index: usize| Head::at(problem, inputs, index);
    let len = problem.head_state_len();
    if len == 0 {
        (0..problem.batch * problem.heads).for_each(|index| work(at(index), &mut [], out));
    } else if worth_threads(problem, inputs) {
        state
            .par_chunks_exact_mut(len)
            .enumerate()
            .for_each(|(index, h)| work(at(index), h, out));
    } else {
        state
            .chunks_exact_mut(len)
            .enumerate()
            .for_each(|(index, h)| work(at(index), h, out));
    }
}

/// All tokens of one head; returns how many were clipped.
fn head_tokens(head: Head, bound: Option<f32>, state: &mut [f32], out: SharedOutput) -> u64 {
    let key_dim = head.problem.key_dim;
    let (mut on_stack, mut on_heap);
    let decays = if key_dim <= KEYS_ON_STACK {
        on_stack = [0.0; 2 * KEYS_ON_STACK];
        &mut on_stack[..2 * key_dim]
    } else {
        on_heap = vec![0.0; 2 * key_dim];
        &mut on_heap[..]
    };
    let (decay, decay_rest) = decays.split_at_mut(key_dim);
    let bonus = head.problem.read_out == ReadOut::Bonus;
    let constant = head.problem.decay.is_constant();
    let tokens = Tokens {
        head,
        bound: bound.unwrap_or(f32::INFINITY),
        decay,
        decay_rest,
        state,
        out,
    };
    match (bonus, bound.is_some(), constant) {
        (false, false, false) => tokens.run::<false, false, false>(),
        (false, false, true) => tokens.run::<false, false, true>(),
        (false, true, false) => tokens.run::<false, true, false>(),
        (false, true, true) => tokens.run::<false, true, true>(),
        (true, false, false) => tokens.run::<true, false, false>(),
        (true, false, true) => tokens.run::<true, false, true>(),
        (true, true, false) => tokens.run::<true, true, false>(),
        (true, true, true) => tokens.run::<true, true, true>(),
    }
}

/// The tokens of one head.
struct Tokens<'a> {
    head: Head<'a>,
    bound: f32,
    /// Room for the decays a_t of a token, `[key_dim]`.
    decay: &'a mut [f32],
    /// What rounding took off a_t, `[key_dim]`; used where decays are constant.
    decay_rest: &'a mut [f32],
    /// State h of the head, `[key_dim, value_dim]`, updated in place.
    state: &'a mut [f32],
    out: SharedOutput<'a>,
}

impl Tokens<'_> {
    fn run<const BONUS: bool, const BOUNDED: bool, const CONSTANT: bool>(self) -> u64 {
        dispatch(Variant::<BONUS, BOUNDED, CONSTANT>(self))
    }
}

/// [`Tokens`] to be run inside the widest instruction set: read out with a bonus, with bounded states, with constant
/// decays.
///
/// A constant decay that is off by half a unit in the last place is off in the same direction at every token, so that a
/// memory of 10⁴ tokens would be off by 3·10⁻⁴. It is therefore kept in two parts; decays that change err at random and
/// do without.
struct Variant<'a, const BONUS: bool, const BOUNDED: bool, const CONSTANT: bool>(Tokens<'a>);

impl<const BONUS: bool, const BOUNDED: bool, const CONSTANT: bool> WithSimd
    for Variant<'_, BONUS, BOUNDED, CONSTANT>
{
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        let Tokens {
            head,
            bound,
            decay,
            decay_rest,
            state,
            out,
        } = self.0;
        let skip = head.skip();
        let mut clipped = 0;
        // A clipped state is scaled when it is next read rather than by a pass of its own: the true state is
        // `pending` times what the buffer holds.
        let mut pending = 1.0;
        for t in 0..head.time {
            if CONSTANT && t == 0 {
                fill_decay_in_two_parts(simd, decay, decay_rest, head.log_decay(t));
            } else if !CONSTANT {
                fill_decay(simd, decay, head.log_decay(t));
            }
            let (query, key, value, step) = (head.query(t), head.key(t), head.value(t), head.step_size(t));
            // SAFETY: one call handles all tokens of this head and sequence, and no other call does.
            let y = unsafe { out.row(&head, t) };
            let token = Token {
                decay,
                decay_rest,
                pending,
                query,
                key,
                value,
                step,
            };
            let mut norm = token_pass::<S, BONUS, BOUNDED, CONSTANT>(simd, &token, state, y);
            let read_factor = pending;
            if BOUNDED {
                if !norm.is_finite() {
                    // Squares overflow f32 from 1e19 on; the norm itself may not.
                    norm = state.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
                }
                let exceeds = norm > bound;
                pending = if exceeds { bound / norm } else { 1.0 };
                clipped += u64::from(exceeds);
            }
            let (gain, weight) = if BONUS {
                let present = dot_of_three(simd, query, head.bonus(), key);
                (
                    head.inputs.scale * read_factor,
                    head.inputs.scale * present * step,
                )
            } else {
                (head.inputs.scale * pending, 0.0)
            };
            finish_read_out(simd, y, gain, skip, weight, value);
        }
        if BOUNDED && pending != 1.0 {
            state.iter_mut().for_each(|x| *x *= pending);
        }
        clipped
    }
}

/// a ← exp(ln a), one value spread over all keys where there is only one.
#[inline(always)]
pub(super) fn fill_decay<S: Simd>(simd: S, decay: &mut [f32], log_decay: &[f32]) {
    match log_decay {
        [] => decay.fill(1.0),
        [one] => decay.fill(math::exp(simd, *one)),
        per_key => decay
            .iter_mut()
            .zip(per_key)
            .for_each(|(a, g)| *a = math::exp(simd, *g)),
    }
}

/// [`fill_decay`], and what rounding took off.
#[inline(always)]
pub(super) fn fill_decay_in_two_parts<S: Simd>(
    simd: S,
    decay: &mut [f32],
    rest: &mut [f32],
    log_decay: &[f32],
) {
    if let [one] = log_decay {
        let (a, r) = math::exp_in_two_parts(simd, *one);
        decay.fill(a);
        rest.fill(r);
    } else {
        for ((a, r), g) in decay.iter_mut().zip(rest).zip(log_decay) {
            (*a, *r) = math::exp_in_two_parts(simd, *g);
        }
    }
}

/// What one token does to a state.
struct Token<'a> {
    decay: &'a [f32],
    decay_rest: &'a [f32],
    pending: f32,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    step: f32,
}

/// Updates the state by one token and sets y ← qᵀh (of the state before, with `BONUS`). With `BOUNDED`, returns ‖h‖.
#[inline(always)]
fn token_pass<S: Simd, const BONUS: bool, const BOUNDED: bool, const CONSTANT: bool>(
    simd: S,
    token: &Token,
    state: &mut [f32],
    y: &mut [f32],
) -> f32 {
    let lanes = S::F32_LANES;
    let mut squares = simd.splat_f32s(0.0);
    let mut column = 0;
    while y.len() - column >= 4 * lanes {
        squares = columns::<S, 4, 1, BONUS, BOUNDED, CONSTANT, false>(
            simd,
            token,
            state,
            y,
            (column, 4 * lanes),
            squares,
        );
        column += 4 * lanes;
    }
    while y.len() - column >= 2 * lanes {
        squares = columns::<S, 2, 2, BONUS, BOUNDED, CONSTANT, false>(
            simd,
            token,
            state,
            y,
            (column, 2 * lanes),
            squares,
        );
        column += 2 * lanes;
    }
    while y.len() - column >= lanes {
        squares = columns::<S, 1, 4, BONUS, BOUNDED, CONSTANT, false>(
            simd,
            token,
            state,
            y,
            (column, lanes),
            squares,
        );
        column += lanes;
    }
    if column < y.len() {
        let width = y.len() - column;
        squares = columns::<S, 1, 4, BONUS, BOUNDED, CONSTANT, true>(
            simd,
            token,
            state,
            y,
            (column, width),
            squares,
        );
    }
    if BOUNDED {
        simd.reduce_sum_f32s(squares).sqrt()
    } else {
        0.0
    }
}

/// Running sums over the keys, for `N` vectors of columns.
#[derive(Clone, Copy)]
struct Sums<S: Simd, const N: usize> {
    /// Σ q h over the keys: what each column reads out, before the scale.
    read_out: [S::f32s; N],
    /// Σ h² over the keys, of each column of the new state.
    squares: [S::f32s; N],
}

/// [`token_pass`] for `N` vectors of columns, with `U` keys at once so that enough additions are in flight.
#[inline(always)]
fn columns<
    S: Simd,
    const N: usize,
    const U: usize,
    const BONUS: bool,
    const BOUNDED: bool,
    const CONSTANT: bool,
    const PARTIAL: bool,
>(
    simd: S,
    token: &Token,
    state: &mut [f32],
    y: &mut [f32],
    (column, width): (usize, usize),
    squares: S::f32s,
) -> S::f32s {
    let value_dim = y.len();
    let zero = simd.splat_f32s(0.0);
    let step = simd.splat_f32s(token.step);
    let value = &token.value[column..column + width];
    let mut v = [zero; N];
    for (i, v) in v.iter_mut().enumerate() {
        *v = simd.mul_f32s(load::<S, PARTIAL>(simd, value, i), step);
    }
    let mut sums = [Sums::<S, N> {
        read_out: [zero; N],
        squares: [zero; N],
    }; U];
    let keys = token.decay.len();
    let whole = keys - keys % U;
    for first in (0..whole).step_by(U) {
        for (u, sums) in sums.iter_mut().enumerate() {
            let row = &mut state[(first + u) * value_dim + column..][..width];
            one_key::<S, N, BONUS, BOUNDED, CONSTANT, PARTIAL>(simd, token, first + u, row, &v, sums);
        }
    }
    for n in whole..keys {
        let row = &mut state[n * value_dim + column..][..width];
        one_key::<S, N, BONUS, BOUNDED, CONSTANT, PARTIAL>(simd, token, n, row, &v, &mut sums[0]);
    }
    let y = &mut y[column..column + width];
    let mut squares = squares;
    for i in 0..N {
        let mut read_out = sums[0].read_out[i];
        for other in &sums[1..] {
            read_out = simd.add_f32s(read_out, other.read_out[i]);
        }
        store::<S, PARTIAL>(simd, y, i, read_out);
        if BOUNDED {
            for sums in &sums {
                squares = simd.add_f32s(squares, sums.squares[i]);
            }
        }
    }
    squares
}

/// Updates one row of the state, h ← a h + k v, and adds what it contributes to the sums.
///
/// A function that is always inlined rather than a closure: a closure that stays a call of its own would be compiled
/// without the instructions that the caller was dispatched for, which made this loop 50 times slower.
#[inline(always)]
fn one_key<
    S: Simd,
    const N: usize,
    const BONUS: bool,
    const BOUNDED: bool,
    const CONSTANT: bool,
    const PARTIAL: bool,
>(
    simd: S,
    token: &Token,
    n: usize,
    row: &mut [f32],
    v: &[S::f32s; N],
    sums: &mut Sums<S, N>,
) {
    let pending = if BOUNDED { token.pending } else { 1.0 };
    let decay = token.decay[n] * pending;
    let rest = simd.splat_f32s(if CONSTANT {
        token.decay_rest[n] * pending
    } else {
        0.0
    });
    let (a, k, q) = (
        simd.splat_f32s(decay),
        simd.splat_f32s(token.key[n]),
        simd.splat_f32s(token.query[n]),
    );
    for (i, &v) in v.iter().enumerate() {
        let before = load::<S, PARTIAL>(simd, row, i);
        let added = simd.mul_f32s(k, v);
        let added = if CONSTANT {
            mul_add(simd, rest, before, added)
        } else {
            added
        };
        let after = mul_add(simd, a, before, added);
        let read = if BONUS { before } else { after };
        sums.read_out[i] = mul_add(simd, q, read, sums.read_out[i]);
        if BOUNDED {
            sums.squares[i] = mul_add(simd, after, after, sums.squares[i]);
        }
        store::<S, PARTIAL>(simd, row, i, after);
    }
}
