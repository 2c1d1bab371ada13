//! Gradients: states kept at chunk boundaries on the way forward, recomputed inside each chunk on the way back.

use pulp::{Simd, WithSimd};

use super::sums::{Read, Sums, Token, shares, token};
use super::{Segment, for_each_segment};
use crate::sequences::Sequences;
use crate::simd::{dispatch, max, mul_add};
use crate::vector::{SharedRows, exp_of_nonpositive, load_at, store_at};
use crate::wkv4::problem::{Cotangents, EMPTY_MAX, Gradients, Inputs, Problem, Wkv4Error};

/// Tokens in a chunk where a caller has no wish: what a chunk recomputes stays in the second cache.
pub const DEFAULT_CHUNK_SIZE: usize = 32;
/// Channels of a segment.
const SEGMENT_CHANNELS: usize = 64;

/// The gradients of a loss by every input, from its cotangents by output and final state.
///
/// With the true sums N_t and M_t (numerator and denominator times e^m), Z_t = M_{t-1} + e^{u+k_t} and cotangents ō:
///
/// ```text
/// ν_{t-1} = e^w ν_t + ō_t / Z_t                 derivative of the loss by N_{t-1}
/// μ_{t-1} = e^w μ_t − ō_t o_t / Z_t             derivative of the loss by M_{t-1}
/// ∂v_t = ō_t e^{u+k_t} / Z_t + e^{k_t} ν_t
/// ∂k_t = ō_t (v_t − o_t) e^{u+k_t} / Z_t + e^{k_t} (ν_t v_t + μ_t)
/// ∂u  += ō_t (v_t − o_t) e^{u+k_t} / Z_t
/// ∂w  += e^w (ν_t N_{t-1} + μ_t M_{t-1})
/// ```
///
/// from ∂o_t/∂N_{t-1} = 1/Z_t, ∂o_t/∂M_{t-1} = −o_t/Z_t, and the transpose of the recurrence. 1/Z_t overflows where keys are
/// very negative, so ν and μ are kept divided by e^p with p_{t-1} = max(p_t + w, −q_t), where Z_t = z_t e^{q_t} and
/// q_t = max(m_{t-1}, u + k_t). Every exponent stays at 0 or below: for each later token s,
/// q_s ≥ m_{s-1} ≥ k_t + (s−1−t) w, and p_t is the largest of (s−1−t) w − q_s, so p_t + k_t ≤ 0; likewise
/// p_t + w + m_{t-1} ≤ 0.
///
/// What the loss wants from the final maximum itself, ρ = ∂m − num ∂num − den ∂den, goes back the way that the larger operand
/// of each m_t = max(m_{t-1} + w, k_t) came from. It is 0 for every loss that sees the state only by N and M.
///
/// # Shapes
/// `initial_state` `[batch, 3, channels]`; [`Gradients`] has the others. Rows of no sequence get 0.
///
/// # Errors
/// [`Wkv4Error`] when a shape is wrong, a log decay is positive or NaN, or `chunk_size` is 0; then no gradient has changed.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    initial_state: &[f32],
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), Wkv4Error> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    if chunk_size == 0 {
        return Err(Wkv4Error::EmptyChunk);
    }
    if matches!(inputs.sequences, Sequences::LeftPadded(_)) {
        gradients.key.fill(0.0);
        gradients.value.fill(0.0);
    }
    let channels = problem.channels;
    // Sums over sequences are left by each in a place of its own and added in order afterwards.
    let mut decay_parts = vec![0.0; problem.batch * channels];
    let mut bonus_parts = vec![0.0; problem.batch * channels];
    let sinks = Sinks {
        key: SharedRows::new(gradients.key, channels),
        value: SharedRows::new(gradients.value, channels),
        state: SharedRows::new(gradients.state, channels),
        log_decay: SharedRows::new(&mut decay_parts, channels),
        bonus: SharedRows::new(&mut bonus_parts, channels),
    };
    for_each_segment(problem, inputs, SEGMENT_CHANNELS, |segment| {
        dispatch(SegmentBackward {
            segment,
            chunk_size,
            initial_state,
            cotangents,
            sinks: &sinks,
        });
    });
    for (sum, parts) in [
        (&mut *gradients.log_decay, &decay_parts),
        (&mut *gradients.bonus, &bonus_parts),
    ] {
        sum.fill(0.0);
        for part in parts.chunks_exact(channels.max(1)) {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
    }
    Ok(())
}

/// Where segments leave their gradients; the state's rows are `[batch, 3]`, those of decay and bonus `[batch]`.
struct Sinks<'a> {
    key: SharedRows<'a>,
    value: SharedRows<'a>,
    state: SharedRows<'a>,
    log_decay: SharedRows<'a>,
    bonus: SharedRows<'a>,
}

/// The gradients of one segment.
struct SegmentBackward<'a> {
    segment: Segment<'a>,
    chunk_size: usize,
    initial_state: &'a [f32],
    cotangents: &'a Cotangents<'a>,
    sinks: &'a Sinks<'a>,
}

/// What runs backward through the tokens for a vector of channels.
#[derive(Clone, Copy)]
struct Adjoint<S: Simd> {
    /// ν and μ, divided by e^exponent.
    numerator: S::f32s,
    denominator: S::f32s,
    exponent: S::f32s,
    /// ρ, what the loss wants from the final maximum itself.
    max: S::f32s,
    /// ∂w and ∂u so far.
    log_decay: S::f32s,
    bonus: S::f32s,
}

/// What a token's gradient needs of the way forward, for a vector of channels.
#[derive(Clone, Copy)]
struct Kept<S: Simd> {
    /// The state before the token.
    before: Sums<S>,
    read: Read<S>,
}

impl WithSimd for SegmentBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (segment, span) = (self.segment, self.segment.span());
        let chunk_size = self.chunk_size.min(span.len()).max(1);
        let mut sums = self.initial_sums(simd);
        let vectors = sums.len();
        // The state before each chunk.
        let mut boundaries = Vec::with_capacity(span.len().div_ceil(chunk_size) * vectors);
        for (t, row) in span.clone().enumerate() {
            if t % chunk_size == 0 {
                boundaries.extend_from_slice(&sums);
            }
            for (v, sums) in sums.iter_mut().enumerate() {
                sums.update(simd, &token(simd, &segment, row, v * S::F32_LANES));
            }
        }
        let mut adjoint = self.final_adjoint(simd, &sums);
        let mut kept = vec![Kept::new(simd); chunk_size * vectors];
        for chunk in (0..span.len().div_ceil(chunk_size)).rev() {
            let first = span.start + chunk * chunk_size;
            let rows = first..span.end.min(first + chunk_size);
            sums.copy_from_slice(&boundaries[chunk * vectors..(chunk + 1) * vectors]);
            for (i, row) in rows.clone().enumerate() {
                for (v, sums) in sums.iter_mut().enumerate() {
                    let token = token(simd, &segment, row, v * S::F32_LANES);
                    kept[i * vectors + v] = Kept {
                        before: *sums,
                        read: sums.read(simd, &token),
                    };
                    sums.update(simd, &token);
                }
            }
            for (i, row) in rows.enumerate().rev() {
                self.row_backward(simd, row, &kept[i * vectors..(i + 1) * vectors], &mut adjoint);
            }
        }
        self.store(simd, &adjoint);
    }
}

impl<S: Simd> Kept<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        let zero = simd.splat_f32s(0.0);
        Self {
            before: Sums::new(simd, zero, zero, zero),
            read: Read {
                out: zero,
                present: zero,
                inverse: zero,
                exponent: zero,
            },
        }
    }
}

impl SegmentBackward<'_> {
    /// Part `part` of the segment's channels in a buffer `[batch, 3, channels]`.
    #[inline(always)]
    fn part<'a>(&self, state: &'a [f32], part: usize) -> &'a [f32] {
        let start = (3 * self.segment.sequence + part) * self.segment.problem.channels;
        &state[start..][self.segment.channels()]
    }

    /// The initial states of all vectors of channels.
    #[inline(always)]
    fn initial_sums<S: Simd>(&self, simd: S) -> Vec<Sums<S>> {
        let vectors = self.segment.count.div_ceil(S::F32_LANES);
        let mut all = Vec::with_capacity(vectors);
        for v in 0..vectors {
            let first = v * S::F32_LANES;
            all.push(Sums::new(
                simd,
                load_at(simd, self.part(self.initial_state, 0), first),
                load_at(simd, self.part(self.initial_state, 1), first),
                load_at(simd, self.part(self.initial_state, 2), first),
            ));
        }
        all
    }

    /// The cotangents of the final state: ν = ∂num e^{−m}, μ = ∂den e^{−m}, ρ.
    #[inline(always)]
    fn final_adjoint<S: Simd>(&self, simd: S, last: &[Sums<S>]) -> Vec<Adjoint<S>> {
        let zero = simd.splat_f32s(0.0);
        let mut all = Vec::with_capacity(last.len());
        for (v, last) in last.iter().enumerate() {
            let mut adjoint = Adjoint {
                numerator: zero,
                denominator: zero,
                exponent: simd.splat_f32s(EMPTY_MAX),
                max: zero,
                log_decay: zero,
                bonus: zero,
            };
            if let Some(state) = self.cotangents.state {
                let first = v * S::F32_LANES;
                let (numerator, denominator, max) = (
                    load_at(simd, self.part(state, 0), first),
                    load_at(simd, self.part(state, 1), first),
                    load_at(simd, self.part(state, 2), first),
                );
                let max = simd.sub_f32s(max, simd.mul_f32s(numerator, last.numerator));
                adjoint.max = simd.sub_f32s(max, simd.mul_f32s(denominator, last.denominator));
                adjoint.exponent = simd.neg_f32s(last.max);
                (adjoint.numerator, adjoint.denominator) = (numerator, denominator);
            }
            all.push(adjoint);
        }
        all
    }

    /// The gradients of one token, and the adjoints from after it to before it.
    #[inline(always)]
    fn row_backward<S: Simd>(&self, simd: S, row: usize, kept: &[Kept<S>], adjoint: &mut [Adjoint<S>]) {
        let segment = self.segment;
        let cotangent = &self.cotangents.out.row(row)[segment.channels()];
        // SAFETY: one call handles all rows of this segment, and no two segments share channels of a sequence.
        let (of_key, of_value) = unsafe {
            (
                self.sinks.key.part(row, segment.channels()),
                self.sinks.value.part(row, segment.channels()),
            )
        };
        for (v, (kept, adjoint)) in kept.iter().zip(adjoint).enumerate() {
            let first = v * S::F32_LANES;
            let token = token(simd, &segment, row, first);
            let out = load_at(simd, cotangent, first);
            let (key, value) = adjoint.pass(simd, &token, kept, out);
            store_at(simd, of_key, first, key);
            store_at(simd, of_value, first, value);
        }
    }

    /// The gradients of decay, bonus and initial state, which belong to no token.
    #[inline(always)]
    fn store<S: Simd>(&self, simd: S, adjoint: &[Adjoint<S>]) {
        let (b, channels) = (self.segment.sequence, self.segment.channels());
        // SAFETY: one call handles this segment, and no two segments share channels of a sequence.
        let [numerator, denominator, max, log_decay, bonus] = unsafe {
            [
                self.sinks.state.part(3 * b, channels.clone()),
                self.sinks.state.part(3 * b + 1, channels.clone()),
                self.sinks.state.part(3 * b + 2, channels.clone()),
                self.sinks.log_decay.part(b, channels.clone()),
                self.sinks.bonus.part(b, channels),
            ]
        };
        for ((v, adjoint), initial) in adjoint.iter().enumerate().zip(self.initial_sums(simd)) {
            let first = v * S::F32_LANES;
            let scale = exp_of_nonpositive(simd, simd.add_f32s(adjoint.exponent, initial.max));
            let (n, d) = (
                simd.mul_f32s(scale, adjoint.numerator),
                simd.mul_f32s(scale, adjoint.denominator),
            );
            let m = mul_add(simd, n, initial.numerator, adjoint.max);
            store_at(simd, numerator, first, n);
            store_at(simd, denominator, first, d);
            store_at(simd, max, first, mul_add(simd, d, initial.denominator, m));
            store_at(simd, log_decay, first, adjoint.log_decay);
            store_at(simd, bonus, first, adjoint.bonus);
        }
    }
}

impl<S: Simd> Adjoint<S> {
    /// Takes the derivatives from after a token to before it; returns ∂k and ∂v. `out` is ō.
    #[inline(always)]
    fn pass(&mut self, simd: S, token: &Token<S>, kept: &Kept<S>, out: S::f32s) -> (S::f32s, S::f32s) {
        let (before, read) = (&kept.before, &kept.read);
        let share = simd.mul_f32s(out, read.present);
        let by_present = simd.mul_f32s(share, simd.sub_f32s(token.value, read.out));
        self.bonus = simd.add_f32s(self.bonus, by_present);
        let weight = exp_of_nonpositive(simd, simd.add_f32s(token.key, self.exponent));
        let value = mul_add(simd, weight, self.numerator, share);
        let by_sums = mul_add(simd, self.numerator, token.value, self.denominator);
        let key = mul_add(simd, weight, by_sums, by_present);
        // In this order no small decay is lost beside two large exponents that cancel.
        let decayed = simd.add_f32s(simd.add_f32s(self.exponent, before.max), token.log_decay);
        let by_sums = mul_add(
            simd,
            self.numerator,
            before.numerator,
            simd.mul_f32s(self.denominator, before.denominator),
        );
        self.log_decay = mul_add(simd, exp_of_nonpositive(simd, decayed), by_sums, self.log_decay);
        let key = self.pass_max(simd, token, before, key);
        // (ν, μ) ← e^w (ν, μ) + (1, −o) ō / Z.
        let later = simd.add_f32s(token.log_decay, self.exponent);
        let (kept, added) = shares(simd, simd.add_f32s(later, read.exponent));
        let added = simd.mul_f32s(added, simd.mul_f32s(out, read.inverse));
        self.numerator = mul_add(simd, kept, self.numerator, added);
        let added = simd.mul_f32s(added, read.out);
        self.denominator = simd.sub_f32s(simd.mul_f32s(kept, self.denominator), added);
        self.exponent = max(simd, later, simd.neg_f32s(read.exponent));
        (key, value)
    }

    /// ρ goes on to the state before where the maximum came from there, adding to ∂w; else it ends in ∂k, which is returned.
    #[inline(always)]
    fn pass_max(&mut self, simd: S, token: &Token<S>, before: &Sums<S>, key: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        let decayed = simd.add_f32s(before.max, token.log_decay);
        let from_state = simd.greater_than_or_equal_f32s(decayed, token.key);
        let passed = simd.select_f32s(from_state, self.max, zero);
        let ended = simd.select_f32s(from_state, zero, self.max);
        self.max = passed;
        self.log_decay = simd.add_f32s(self.log_decay, passed);
        simd.add_f32s(key, ended)
    }
}
