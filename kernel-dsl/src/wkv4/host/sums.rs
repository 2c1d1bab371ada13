//! What one token does to the state of a vector of channels.

use pulp::Simd;

use super::Segment;
use crate::simd::{self, mul_add};
use crate::vector::{exp_of_nonpositive, load_at};
use crate::wkv4::problem::EMPTY_MAX;

/// The state of a vector of channels: N and M divided by e^max.
#[derive(Clone, Copy)]
pub(super) struct Sums<S: Simd> {
    pub(super) numerator: S::f32s,
    pub(super) denominator: S::f32s,
    pub(super) max: S::f32s,
}

/// What a vector of channels reads at one token.
#[derive(Clone, Copy)]
pub(super) struct Token<S: Simd> {
    /// Log decays w of the channels.
    pub(super) log_decay: S::f32s,
    /// Bonuses u of the channels.
    pub(super) bonus: S::f32s,
    pub(super) key: S::f32s,
    pub(super) value: S::f32s,
}

/// What a vector of channels from `first` on reads at one token.
#[inline(always)]
pub(super) fn token<S: Simd>(simd: S, segment: &Segment, row: usize, first: usize) -> Token<S> {
    Token {
        log_decay: load_at(simd, segment.log_decay(), first),
        bonus: load_at(simd, segment.bonus(), first),
        key: load_at(simd, segment.key(row), first),
        value: load_at(simd, segment.value(row), first),
    }
}

/// What a token's read gives: o, and what its gradient needs.
#[derive(Clone, Copy)]
pub(super) struct Read<S: Simd> {
    pub(super) out: S::f32s,
    /// The present token's share e^{u+k} / Z.
    pub(super) present: S::f32s,
    /// 1 / z, or 0 where no token has any weight, with Z = z e^q.
    pub(super) inverse: S::f32s,
    /// q = max(m, u + k), the exponent taken out of Z.
    pub(super) exponent: S::f32s,
}

/// (e^{a−m}, e^{b−m}) with m = max(a, b), from d = a − b: one of the two is 1.
#[inline(always)]
pub(super) fn shares<S: Simd>(simd: S, d: S::f32s) -> (S::f32s, S::f32s) {
    let (one, zero) = (simd.splat_f32s(1.0), simd.splat_f32s(0.0));
    let smaller = exp_of_nonpositive(simd, simd.neg_f32s(simd.abs_f32s(d)));
    let first = simd.greater_than_or_equal_f32s(d, zero);
    (
        simd.select_f32s(first, one, smaller),
        simd.select_f32s(first, smaller, one),
    )
}

impl<S: Simd> Sums<S> {
    /// A state as a caller gives it: its maximum is raised to [`EMPTY_MAX`].
    #[inline(always)]
    pub(super) fn new(simd: S, numerator: S::f32s, denominator: S::f32s, max: S::f32s) -> Self {
        Self {
            numerator,
            denominator,
            max: simd::max(simd, simd.splat_f32s(EMPTY_MAX), max),
        }
    }

    /// o = (N + e^{u+k} v) / (M + e^{u+k}), 0 where the denominator is 0.
    #[inline(always)]
    pub(super) fn read(&self, simd: S, token: &Token<S>) -> Read<S> {
        let present = simd.add_f32s(token.bonus, token.key);
        let (past, share) = shares(simd, simd.sub_f32s(self.max, present));
        let z = mul_add(simd, past, self.denominator, share);
        let zero = simd.splat_f32s(0.0);
        let inverse = simd.div_f32s(simd.splat_f32s(1.0), z);
        let inverse = simd.select_f32s(simd.equal_f32s(z, zero), zero, inverse);
        let sum = mul_add(simd, past, self.numerator, simd.mul_f32s(share, token.value));
        Read {
            out: simd.mul_f32s(sum, inverse),
            present: simd.mul_f32s(share, inverse),
            inverse,
            exponent: simd::max(simd, self.max, present),
        }
    }

    /// (N, M) ← e^w (N, M) + e^k (v, 1).
    #[inline(always)]
    pub(super) fn update(&mut self, simd: S, token: &Token<S>) {
        let decayed = simd.add_f32s(self.max, token.log_decay);
        // A decay of −∞ must not leave a difference of two infinities behind a key of −∞.
        let empty = simd.splat_f32s(EMPTY_MAX);
        let forgets = simd.less_than_f32s(decayed, empty);
        let decayed = simd::max(simd, empty, decayed);
        let (past, present) = shares(simd, simd.sub_f32s(decayed, token.key));
        let past = simd.select_f32s(forgets, simd.splat_f32s(0.0), past);
        let added = simd.mul_f32s(present, token.value);
        self.numerator = mul_add(simd, past, self.numerator, added);
        self.denominator = mul_add(simd, past, self.denominator, present);
        self.max = simd::max(simd, decayed, token.key);
    }
}
