//! Token by token: each token reads the state once, updates it and reads it out in the same pass.

use std::sync::atomic::{AtomicU64, Ordering};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{dot_of_three, load, store};
use super::{Head, SharedOutput, finish_read_out, worth_threads};
use crate::math;
use crate::recurrence::problem::{Inputs, Problem, ReadOut, RecurrenceError};

/// Keys whose decays are kept on the stack; only larger heads allocate.
const KEYS_ON_STACK: usize = 512;

/// One token: [`sequential`] for `time` = 1, as decoding calls it.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[batch, 1, heads, value_dim]`.
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong or `time` is not 1.
pub fn step(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), RecurrenceError> {
    if problem.time != 1 {
        return Err(RecurrenceError::NotOneToken { found: problem.time });
    }
    sequential(problem, inputs, state, out)
}

/// The recurrence token by token (see [the module](crate::recurrence) for the formula).
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[batch, time, heads, value_dim]`.
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
    for_each_head(problem, inputs, state, out, |head, h, out| {
        match problem.read_out {
            ReadOut::Inclusive => head_tokens::<false, false>(head, f32::INFINITY, h, out),
            ReadOut::Bonus => head_tokens::<true, false>(head, f32::INFINITY, h, out),
        };
    });
    Ok(())
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
        let p = bound[head.head];
        let count = match problem.read_out {
            ReadOut::Inclusive => head_tokens::<false, true>(head, p, h, out),
            ReadOut::Bonus => head_tokens::<true, true>(head, p, h, out),
        };
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
    let out = SharedOutput::new(problem, out);
    let at = |index: usize| Head::at(problem, inputs, index);
    let len = problem.head_state_len();
    if len == 0 {
        (0..problem.batch * problem.heads).for_each(|index| work(at(index), &mut [], out));
    } else if worth_threads(problem) {
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
fn head_tokens<const BONUS: bool, const BOUNDED: bool>(
    head: Head,
    bound: f32,
    state: &mut [f32],
    out: SharedOutput,
) -> u64 {
    let key_dim = head.problem.key_dim;
    let (mut on_stack, mut on_heap);
    let decay = if key_dim <= KEYS_ON_STACK {
        on_stack = [1.0; KEYS_ON_STACK];
        &mut on_stack[..key_dim]
    } else {
        on_heap = vec![1.0; key_dim];
        &mut on_heap[..]
    };
    Arch::new().dispatch(HeadTokens::<BONUS, BOUNDED> {
        head,
        bound,
        decay,
        state,
        out,
    })
}

/// The tokens of one head, to be run inside the widest instruction set.
struct HeadTokens<'a, const BONUS: bool, const BOUNDED: bool> {
    head: Head<'a>,
    bound: f32,
    /// a_t `[key_dim]`.
    decay: &'a mut [f32],
    /// h `[key_dim, value_dim]`.
    state: &'a mut [f32],
    out: SharedOutput<'a>,
}

impl<const BONUS: bool, const BOUNDED: bool> WithSimd for HeadTokens<'_, BONUS, BOUNDED> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        let Self {
            head,
            bound,
            decay,
            state,
            out,
        } = self;
        let skip = head.skip();
        let mut clipped = 0;
        // A clipped state is scaled when it is next read rather than by a pass of its own: the true state is
        // `pending` times what the buffer holds.
        let mut pending = 1.0;
        for t in 0..head.problem.time {
            if t == 0 || !head.decay_is_constant() {
                fill_decay(decay, head.log_decay(t));
            }
            let (query, key, value, step) = (head.query(t), head.key(t), head.value(t), head.step_size(t));
            // SAFETY: one call handles all tokens of this head and sequence, and no other call does.
            let y = unsafe { out.row(head.batch, t, head.head) };
            let token = Token {
                decay,
                pending,
                query,
                key,
                value,
                step,
            };
            let mut norm = token_pass::<S, BONUS, BOUNDED>(simd, &token, state, y);
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
            finish_read_out(y, gain, skip, weight, value);
        }
        if BOUNDED && pending != 1.0 {
            state.iter_mut().for_each(|x| *x *= pending);
        }
        clipped
    }
}

/// a ← exp(ln a), one value spread over all keys where there is only one.
#[inline(always)]
fn fill_decay(decay: &mut [f32], log_decay: &[f32]) {
    match log_decay {
        [] => decay.fill(1.0),
        [one] => decay.fill(math::exp(*one)),
        per_key => decay
            .iter_mut()
            .zip(per_key)
            .for_each(|(a, g)| *a = math::exp(*g)),
    }
}

/// What one token does to a state.
struct Token<'a> {
    decay: &'a [f32],
    pending: f32,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    step: f32,
}

/// Updates the state by one token and sets y ← qᵀh (of the state before, with `BONUS`). With `BOUNDED`, returns ‖h‖.
#[inline(always)]
fn token_pass<S: Simd, const BONUS: bool, const BOUNDED: bool>(
    simd: S,
    token: &Token,
    state: &mut [f32],
    y: &mut [f32],
) -> f32 {
    let lanes = S::F32_LANES;
    let mut squares = simd.splat_f32s(0.0);
    let mut column = 0;
    while y.len() - column >= 4 * lanes {
        squares =
            columns::<S, 4, 1, BONUS, BOUNDED, false>(simd, token, state, y, (column, 4 * lanes), squares);
        column += 4 * lanes;
    }
    while y.len() - column >= 2 * lanes {
        squares =
            columns::<S, 2, 2, BONUS, BOUNDED, false>(simd, token, state, y, (column, 2 * lanes), squares);
        column += 2 * lanes;
    }
    while y.len() - column >= lanes {
        squares = columns::<S, 1, 4, BONUS, BOUNDED, false>(simd, token, state, y, (column, lanes), squares);
        column += lanes;
    }
    if column < y.len() {
        let width = y.len() - column;
        squares = columns::<S, 1, 4, BONUS, BOUNDED, true>(simd, token, state, y, (column, width), squares);
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
    /// Σ q h.
    read_out: [S::f32s; N],
    /// Σ h².
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
            one_key::<S, N, BONUS, BOUNDED, PARTIAL>(simd, token, first + u, row, &v, sums);
        }
    }
    for n in whole..keys {
        let row = &mut state[n * value_dim + column..][..width];
        one_key::<S, N, BONUS, BOUNDED, PARTIAL>(simd, token, n, row, &v, &mut sums[0]);
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
fn one_key<S: Simd, const N: usize, const BONUS: bool, const BOUNDED: bool, const PARTIAL: bool>(
    simd: S,
    token: &Token,
    n: usize,
    row: &mut [f32],
    v: &[S::f32s; N],
    sums: &mut Sums<S, N>,
) {
    let decay = if BOUNDED {
        token.decay[n] * token.pending
    } else {
        token.decay[n]
    };
    let (a, k, q) = (
        simd.splat_f32s(decay),
        simd.splat_f32s(token.key[n]),
        simd.splat_f32s(token.query[n]),
    );
    for (i, &v) in v.iter().enumerate() {
        let before = load::<S, PARTIAL>(simd, row, i);
        let after = simd.mul_add_f32s(a, before, simd.mul_f32s(k, v));
        let read = if BONUS { before } else { after };
        sums.read_out[i] = simd.mul_add_f32s(q, read, sums.read_out[i]);
        if BOUNDED {
            sums.squares[i] = simd.mul_add_f32s(after, after, sums.squares[i]);
        }
        store::<S, PARTIAL>(simd, row, i, after);
    }
}
