//! Token by token, with the states of a segment of channels in the first cache.
//!
//! Long inputs keep channels in the lanes of vectors and walk the state values in a loop, so that no sum runs across
//! lanes; states and A are transposed once on the way in and once on the way out. A few tokens (decoding) keep the state
//! values in the lanes instead, as they lie in memory: each state is then read once and written once.

use pulp::{Simd, WithSimd};

use super::{SEGMENT_CHANNELS, Segment, Segments};
use crate::math;
use crate::selective_scan::problem::{Inputs, OPERATOR, Problem, ScanError};
use crate::sequences::Sequences;
use crate::simd::{dispatch, mul_add, mul_add_one};
use crate::vector::{Scratch, SharedRows, exp2_m1, load, prefetch, store};

/// Tokens from which transposing the states pays.
const LONG: usize = 4;

/// The selective scan over one token of every sequence: [`sequential`] for `time` = 1, as decoding calls it.
///
/// # Shapes
/// `state` `[batch, channels, state_dim]`, read and updated; `out` `[batch, channels]`.
///
/// # Errors
/// [`ScanError`] when a shape is wrong or `time` is not 1.
pub fn step(problem: &Problem, inputs: &Inputs, state: &mut [f32], out: &mut [f32]) -> Result<(), ScanError> {
    if problem.time != 1 {
        return Err(ScanError::NotOneToken { found: problem.time });
    }
    sequential(problem, inputs, state, out)
}

/// The scan token by token (see [the module](crate::selective_scan) for the formula).
///
/// # Shapes
/// `state` `[batch, channels, state_dim]`, read and updated; `out` `[rows, channels]`, 0 in rows of no sequence.
///
/// # Errors
/// [`ScanError`] when a shape is wrong; then neither `state` nor `out` has changed.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), ScanError> {
    problem.validate(inputs, state, out)?;
    if matches!(inputs.sequences, Sequences::LeftPadded(_)) {
        out.fill(0.0);
    }
    let state = SharedRows::new(state, problem.channels * problem.state_dim);
    let out = SharedRows::new(out, problem.channels);
    Segments::new(problem, inputs).for_each(|segment| {
        // SAFETY: each segment is worked on once, and no two share channels of a sequence.
        let state = unsafe { state.part(segment.sequence, segment.state_values()) };
        if segment.span().len() < LONG {
            dispatch(Short { segment, state, out });
        } else {
            dispatch(Long {
                segment,
                state,
                out: Some(out),
            });
        }
    });
    Ok(())
}

/// The monoid element (ΣΔ, U) of the tokens of each sequence: what they do to any state that comes in (see
/// [`monoid`](crate::selective_scan::monoid)).
///
/// # Shapes
/// `step_size_sum` `[batch, channels]` and `update` `[batch, channels, state_dim]`, both overwritten.
///
/// # Errors
/// [`ScanError`] when a shape is wrong.
pub fn element(
    problem: &Problem,
    inputs: &Inputs,
    step_size_sum: &mut [f32],
    update: &mut [f32],
) -> Result<(), ScanError> {
    problem.validate_inputs(inputs)?;
    OPERATOR.values(
        "step_size_sum",
        problem.batch * problem.channels,
        step_size_sum.len(),
    )?;
    OPERATOR.values("update", problem.state_len(), update.len())?;
    update.fill(0.0);
    step_size_sum.fill(0.0);
    let update = SharedRows::new(update, problem.channels * problem.state_dim);
    let sums = SharedRows::new(step_size_sum, problem.channels);
    Segments::new(problem, inputs).for_each(|segment| {
        // SAFETY: each segment is worked on once, and no two share channels of a sequence.
        let (state, sums) = unsafe {
            (
                update.part(segment.sequence, segment.state_values()),
                sums.part(segment.sequence, segment.channels()),
            )
        };
        for row in segment.span() {
            for (sum, step) in sums.iter_mut().zip(segment.step_size(row)) {
                *sum += step;
            }
        }
        dispatch(Long {
            segment,
            state,
            out: None,
        });
    });
    Ok(())
}

/// A segment with channels in the lanes; without an output, only its states.
struct Long<'a> {
    segment: Segment<'a>,
    state: &'a mut [f32],
    out: Option<SharedRows<'a>>,
}

impl WithSimd for Long<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { segment, state, out } = self;
        let values = segment.count.div_ceil(S::F32_LANES) * segment.problem.state_dim;
        let mut scratch = Scratch::new::<S>(2 * values);
        let (a, h) = scratch.vectors::<S>().split_at_mut(values);
        transpose_in::<S>(segment.a(), segment.problem.state_dim, a);
        transpose_in::<S>(state, segment.problem.state_dim, h);
        for row in segment.span() {
            match out {
                None => token::<S, false>(simd, &segment, row, (a, h), &mut []),
                Some(out) => {
                    // SAFETY: one call handles all rows of this segment, and no other call does.
                    let y = unsafe { out.part(row, segment.channels()) };
                    token::<S, true>(simd, &segment, row, (a, h), y);
                    finish(simd, &segment, row, y);
                }
            }
        }
        transpose_out::<S>(h, segment.problem.state_dim, state);
    }
}

/// Updates the states of a segment by one token and, with `READ`, sets y ← C·h.
#[inline(always)]
pub(super) fn token<S: Simd, const READ: bool>(
    simd: S,
    segment: &Segment,
    row: usize,
    (a, h): (&[S::f32s], &mut [S::f32s]),
    y: &mut [f32],
) {
    let n = segment.problem.state_dim;
    let token = Token {
        input: segment.input(row),
        step: segment.step_size(row),
        b: segment.b(row),
        c: segment.c(row),
    };
    let whole = segment.count / S::F32_LANES;
    for v in 0..whole {
        let vector = (&a[v * n..(v + 1) * n], &mut h[v * n..(v + 1) * n]);
        vector_token::<S, READ, false>(simd, &token, v * S::F32_LANES, vector, y);
    }
    if whole * S::F32_LANES < segment.count {
        let vector = (&a[whole * n..(whole + 1) * n], &mut h[whole * n..(whole + 1) * n]);
        vector_token::<S, READ, true>(simd, &token, whole * S::F32_LANES, vector, y);
    }
}

/// What a segment reads at one token.
struct Token<'a> {
    input: &'a [f32],
    step: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
}

/// [`token`] for one vector of channels from `first` on.
#[inline(always)]
fn vector_token<S: Simd, const READ: bool, const PARTIAL: bool>(
    simd: S,
    token: &Token,
    first: usize,
    (a, h): (&[S::f32s], &mut [S::f32s]),
    y: &mut [f32],
) {
    let step = load::<S, PARTIAL>(simd, &token.step[first..]);
    let product = simd.mul_f32s(step, load::<S, PARTIAL>(simd, &token.input[first..]));
    let exponent = simd.mul_f32s(step, simd.splat_f32s(std::f32::consts::LOG2_E));
    let mut sum = simd.splat_f32s(0.0);
    for (((h, a), b), c) in h.iter_mut().zip(a).zip(token.b).zip(token.c) {
        let change = exp2_m1(simd, simd.mul_f32s(exponent, *a));
        *h = updated(simd, change, *h, (product, simd.splat_f32s(*b)));
        if READ {
            sum = mul_add(simd, *h, simd.splat_f32s(*c), sum);
        }
    }
    if READ {
        store::<S, PARTIAL>(simd, &mut y[first..], sum);
    }
}

/// a h + Δ u B as h + (a − 1) h + Δ u B, from the change a − 1.
///
/// A decay near 1 that were rounded by itself would be off in the same direction at every token of the same Δ: a memory of
/// 10⁵ tokens by 5·10⁻⁴. Its distance from 1 has all its digits.
#[inline(always)]
fn updated<S: Simd>(simd: S, change: S::f32s, h: S::f32s, (product, b): (S::f32s, S::f32s)) -> S::f32s {
    mul_add(simd, change, h, mul_add(simd, product, b, h))
}

/// y ← (y + D∘u) SiLU(z).
#[inline(always)]
fn finish<S: Simd>(simd: S, segment: &Segment, row: usize, y: &mut [f32]) {
    if let Some(skip) = segment.skip() {
        for ((y, d), u) in y.iter_mut().zip(skip).zip(segment.input(row)) {
            *y = mul_add_one(simd, *d, *u, *y);
        }
    }
    if let Some(gate) = segment.gate(row) {
        for (y, z) in y.iter_mut().zip(gate) {
            *y *= math::silu(simd, *z);
        }
    }
}

/// `[channels, n]` to vectors `[channels / lanes, n]` whose lanes are channels; lanes without a channel stay as they are.
#[inline(always)]
pub(super) fn transpose_in<S: Simd>(rows: &[f32], n: usize, vectors: &mut [S::f32s]) {
    if n == 0 {
        return;
    }
    let values: &mut [f32] = bytemuck::cast_slice_mut(vectors);
    for (channel, row) in rows.chunks_exact(n).enumerate() {
        let start = channel / S::F32_LANES * n * S::F32_LANES + channel % S::F32_LANES;
        for (x, row) in values[start..].iter_mut().step_by(S::F32_LANES).zip(row) {
            *x = *row;
        }
    }
}

/// The inverse of [`transpose_in`].
#[inline(always)]
pub(super) fn transpose_out<S: Simd>(vectors: &[S::f32s], n: usize, rows: &mut [f32]) {
    if n == 0 {
        return;
    }
    let values: &[f32] = bytemuck::cast_slice(vectors);
    for (channel, row) in rows.chunks_exact_mut(n).enumerate() {
        let start = channel / S::F32_LANES * n * S::F32_LANES + channel % S::F32_LANES;
        for (x, row) in values[start..].iter().step_by(S::F32_LANES).zip(row) {
            *row = *x;
        }
    }
}

/// A segment with state values in the lanes.
struct Short<'a> {
    segment: Segment<'a>,
    state: &'a mut [f32],
    out: SharedRows<'a>,
}

impl WithSimd for Short<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { segment, state, out } = self;
        let (n, count) = (segment.problem.state_dim, segment.count);
        let (mut exponents, mut products) = ([0.0; SEGMENT_CHANNELS], [0.0; SEGMENT_CHANNELS]);
        for row in segment.span() {
            let factors = exponents.iter_mut().zip(&mut products);
            for ((exponent, product), (step, input)) in
                factors.zip(segment.step_size(row).iter().zip(segment.input(row)))
            {
                (*exponent, *product) = (step * std::f32::consts::LOG2_E, step * input);
            }
            // SAFETY: one call handles all rows of this segment, and no other call does.
            let y = unsafe { out.part(row, segment.channels()) };
            let channels = Channels {
                factors: (&exponents[..count], &products[..count]),
                a: segment.a(),
                h: state,
                b: segment.b(row),
                c: segment.c(row),
                y,
            };
            // The state sizes of published models fill one or two vectors.
            if n == S::F32_LANES {
                channels.of_whole_vectors::<S, 1>(simd);
            } else if n == 2 * S::F32_LANES {
                channels.of_whole_vectors::<S, 2>(simd);
            } else {
                channels.of_any_size(simd);
            }
            finish(simd, &segment, row, y);
        }
    }
}

/// Channels at one token, updated by h ← 2^(exponent A) h + product B and read by y ← C·h.
struct Channels<'a> {
    /// Δ log₂ e and Δ u, `[channels]` each.
    factors: (&'a [f32], &'a [f32]),
    /// A of the channels, `[channels, state_dim]` as their states h.
    a: &'a [f32],
    h: &'a mut [f32],
    /// B of the token, `[state_dim]` as its C.
    b: &'a [f32],
    c: &'a [f32],
    /// Read-outs y of the channels, `[channels]`.
    y: &'a mut [f32],
}

impl Channels<'_> {
    /// States that fill `W` vectors each.
    ///
    /// Sums over lanes come after those of a block of channels: a processor that looks some hundred instructions ahead then
    /// works on twice as many exponentials at a time.
    #[inline(always)]
    fn of_whole_vectors<S: Simd, const W: usize>(self, simd: S) {
        const BLOCK: usize = 16;
        let (a, _) = S::as_simd_f32s(self.a).0.as_chunks::<W>();
        let (h, _) = S::as_mut_simd_f32s(self.h).0.as_chunks_mut::<W>();
        let b = S::as_simd_f32s(self.b).0.as_chunks::<W>().0[0];
        let c = S::as_simd_f32s(self.c).0.as_chunks::<W>().0[0];
        let factors = self.factors.0.chunks(BLOCK).zip(self.factors.1.chunks(BLOCK));
        let states = a.chunks(BLOCK).zip(h.chunks_mut(BLOCK));
        for ((y, (a, h)), (exponents, products)) in self.y.chunks_mut(BLOCK).zip(states).zip(factors) {
            let mut sums = [simd.splat_f32s(0.0); BLOCK];
            let channels = a.iter().zip(h).zip(exponents.iter().zip(products));
            for (((a, h), (exponent, product)), sum) in channels.zip(&mut sums) {
                let (exponent, product) = (simd.splat_f32s(*exponent), simd.splat_f32s(*product));
                prefetch(h);
                for i in 0..W {
                    let change = exp2_m1(simd, simd.mul_f32s(exponent, a[i]));
                    h[i] = updated(simd, change, h[i], (product, b[i]));
                    *sum = mul_add(simd, h[i], c[i], *sum);
                }
            }
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = simd.reduce_sum_f32s(sum);
            }
        }
    }

    /// States of any size.
    #[inline(always)]
    fn of_any_size<S: Simd>(mut self, simd: S) {
        let whole = self.b.len() / S::F32_LANES * S::F32_LANES;
        for channel in 0..self.y.len() {
            let mut sum = simd.splat_f32s(0.0);
            for at in (0..whole).step_by(S::F32_LANES) {
                sum = self.vector::<S, false>(simd, channel, at, sum);
            }
            if whole < self.b.len() {
                sum = self.vector::<S, true>(simd, channel, whole, sum);
            }
            self.y[channel] = simd.reduce_sum_f32s(sum);
        }
    }

    /// Updates one vector of state values of a channel, from `at` on, and adds C∘h to `sum`.
    #[inline(always)]
    fn vector<S: Simd, const PARTIAL: bool>(
        &mut self,
        simd: S,
        channel: usize,
        at: usize,
        sum: S::f32s,
    ) -> S::f32s {
        let n = self.b.len();
        let values = channel * n + at..(channel + 1) * n;
        let (a, h) = (&self.a[values.clone()], &mut self.h[values]);
        let exponent = simd.mul_f32s(
            simd.splat_f32s(self.factors.0[channel]),
            load::<S, PARTIAL>(simd, a),
        );
        let product = simd.splat_f32s(self.factors.1[channel]);
        let added = (product, load::<S, PARTIAL>(simd, &self.b[at..]));
        let after = updated(simd, exp2_m1(simd, exponent), load::<S, PARTIAL>(simd, h), added);
        store::<S, PARTIAL>(simd, h, after);
        mul_add(simd, after, load::<S, PARTIAL>(simd, &self.c[at..]), sum)
    }
}
