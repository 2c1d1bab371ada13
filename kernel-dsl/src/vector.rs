//! SIMD vectors of f32: loads and stores, exponentials, and rows whose columns different threads write.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::Simd;

use crate::aligned::AlignedBytes;
use crate::rows::Rows;
use crate::simd::{max, min, mul_add};

/// The first vector of `values`; with `PARTIAL`, all of `values` (at most a vector) with zeros behind.
#[inline(always)]
pub(crate) fn load<S: Simd, const PARTIAL: bool>(simd: S, values: &[f32]) -> S::f32s {
    if PARTIAL {
        simd.partial_load_f32s(values)
    } else {
        S::as_simd_f32s(values).0[0]
    }
}

/// The inverse of [`load`].
#[inline(always)]
pub(crate) fn store<S: Simd, const PARTIAL: bool>(simd: S, values: &mut [f32], x: S::f32s) {
    if PARTIAL {
        simd.partial_store_f32s(values, x)
    } else {
        S::as_mut_simd_f32s(values).0[0] = x
    }
}

/// The vector from `first` on; where `values` ends before it does, zeros behind.
#[inline(always)]
pub(crate) fn load_at<S: Simd>(simd: S, values: &[f32], first: usize) -> S::f32s {
    match values.get(first..first + S::F32_LANES) {
        Some(whole) => load::<S, false>(simd, whole),
        None => load::<S, true>(simd, &values[first..]),
    }
}

/// The inverse of [`load_at`].
#[inline(always)]
pub(crate) fn store_at<S: Simd>(simd: S, values: &mut [f32], first: usize, x: S::f32s) {
    match values.get_mut(first..first + S::F32_LANES) {
        Some(whole) => store::<S, false>(simd, whole, x),
        None => store::<S, true>(simd, &mut values[first..], x),
    }
}

/// Some columns of a row. Always inlined, unlike [`Rows::row`]: a call would spill every vector register.
#[inline(always)]
pub(crate) fn part<'a>(rows: &Rows<'a>, row: usize, columns: Range<usize>) -> &'a [f32] {
    let start = row * rows.stride();
    &rows.data()[start + columns.start..start + columns.end]
}

/// Asks for the cache line that lies 2,048 values behind the beginning of `values`, for kernels that compute too long on a line
/// for the processor to look ahead to the next ones by itself. There need not be anything.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        /// How far ahead of its use memory that streams by is asked for, in f32s.
        const AHEAD: usize = 2048;
        // SAFETY: every x86-64 processor has the instruction, and it accepts any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<f32>().wrapping_add(AHEAD).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Adding this number rounds an f32 of magnitude below 2²² to an integer, held in the low bits.
const ROUND: f32 = 12_582_912.0;

/// x in the parts of 2ˣ = 2ⁿ (1 + r q), for x clamped to `−126 ..= highest`.
struct Parts<S: Simd> {
    /// n + [`ROUND`], whose low bits are n.
    rounded: S::f32s,
    /// x − n, at most ½ in magnitude.
    r: S::f32s,
    /// (2ʳ − 1) / r, interpolated at Chebyshev nodes with a relative error of 10⁻⁸.
    q: S::f32s,
}

impl<S: Simd> Parts<S> {
    #[inline(always)]
    fn new(simd: S, x: S::f32s, highest: f32) -> Self {
        let constant = |value| simd.splat_f32s(value);
        // In this order x86 hands a NaN on.
        let x = min(simd, constant(highest), max(simd, constant(-126.0), x));
        let rounded = simd.add_f32s(x, constant(ROUND));
        let r = simd.sub_f32s(x, simd.sub_f32s(rounded, constant(ROUND)));
        let mut q = constant(1.545_316_3e-4);
        q = mul_add(simd, q, r, constant(1.339_086_3e-3));
        q = mul_add(simd, q, r, constant(9.618_083e-3));
        q = mul_add(simd, q, r, constant(5.550_357e-2));
        q = mul_add(simd, q, r, constant(2.402_265e-1));
        q = mul_add(simd, q, r, constant(6.931_472e-1));
        Self { rounded, r, q }
    }
}

/// 2ˣ with a relative error below 1.2·10⁻⁷ (measured, see the tests); +∞ from x = 128 on, 2⁻¹²⁶ instead of anything less,
/// NaN for NaN.
///
/// Unlike [`exp`](crate::math::exp) it has no subnormal results, so that n can be added to the exponent's bits.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let Parts { rounded, r, q } = Parts::new(simd, x, 128.0);
    let two_to_r = mul_add(simd, q, r, simd.splat_f32s(1.0));
    let n = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(two_to_r), n))
}

/// 2ˣ − 1, with a relative error below 2.5·10⁻⁷ for x ≤ 0 (measured, see the tests): exact where 2ˣ itself would have lost
/// all digits beside 1. Above 127 it stays at 2¹²⁷; NaN for NaN.
#[inline(always)]
pub(crate) fn exp2_m1<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let Parts { rounded, r, q } = Parts::new(simd, x, 127.0);
    let biased = simd.add_f32s(rounded, simd.splat_f32s(127.0));
    let scale = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(biased), simd.splat_u32s(23));
    let scale = simd.transmute_f32s_u32s(scale);
    let scale_m1 = simd.sub_f32s(scale, simd.splat_f32s(1.0));
    mul_add(simd, scale, simd.mul_f32s(r, q), scale_m1)
}

/// eˣ for x ≤ 0, as 2 to the x·log₂ e, with a relative error below 1.2·10⁻⁷·(1 + |x|); 0 below 2⁻¹²⁶.
#[inline(always)]
pub(crate) fn exp_of_nonpositive<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let x = simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E));
    let vanishes = simd.less_than_f32s(x, simd.splat_f32s(-126.0));
    simd.select_f32s(vanishes, simd.splat_f32s(0.0), exp2(simd, x))
}

/// a · b over the length of `b`.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = S::as_simd_f32s(&a[..b.len()]);
    let (b, b_tail) = S::as_simd_f32s(b);
    let (a_fours, a_rest) = a.as_chunks::<4>();
    let (b_fours, b_rest) = b.as_chunks::<4>();
    let mut sums = [simd.splat_f32s(0.0); 4];
    for (a, b) in a_fours.iter().zip(b_fours) {
        for i in 0..4 {
            sums[i] = mul_add(simd, a[i], b[i], sums[i]);
        }
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        sums[0] = mul_add(simd, *a, *b, sums[0]);
    }
    if !b_tail.is_empty() {
        let (a, b) = (load::<S, true>(simd, a_tail), load::<S, true>(simd, b_tail));
        sums[1] = mul_add(simd, a, b, sums[1]);
    }
    let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    simd.reduce_sum_f32s(sum)
}

/// y ← y + factor x over the length of `y`.
#[inline(always)]
pub(crate) fn add_scaled<S: Simd>(simd: S, factor: f32, x: &[f32], y: &mut [f32]) {
    let factor = simd.splat_f32s(factor);
    let (x, x_tail) = S::as_simd_f32s(&x[..y.len()]);
    let (y, y_tail) = S::as_mut_simd_f32s(y);
    for (y, x) in y.iter_mut().zip(x) {
        *y = mul_add(simd, factor, *x, *y);
    }
    if !y_tail.is_empty() {
        let sum = mul_add(
            simd,
            factor,
            load::<S, true>(simd, x_tail),
            load::<S, true>(simd, y_tail),
        );
        store::<S, true>(simd, y_tail, sum);
    }
}

/// y += Σ_i factors_i row(i), for rows as long as `y`, which fills whole vectors.
#[inline(always)]
pub(crate) fn add_rows<'a, S: Simd>(
    simd: S,
    factors: &[f32],
    row: impl Fn(usize) -> &'a [f32],
    y: &mut [f32],
) {
    let mut first = 0;
    while first < y.len() {
        let vectors = (y.len() - first) / S::F32_LANES;
        first += match vectors {
            4.. => add_columns::<S, 4>(simd, factors, &row, first, y),
            2.. => add_columns::<S, 2>(simd, factors, &row, first, y),
            _ => add_columns::<S, 1>(simd, factors, &row, first, y),
        };
    }
}

/// `N` vectors of columns, with two sums each in flight; gives how many columns that is.
#[inline(always)]
fn add_columns<'a, S: Simd, const N: usize>(
    simd: S,
    factors: &[f32],
    row: &impl Fn(usize) -> &'a [f32],
    first: usize,
    y: &mut [f32],
) -> usize {
    let columns = first..first + N * S::F32_LANES;
    let y = &mut S::as_mut_simd_f32s(&mut y[columns.clone()])
        .0
        .as_chunks_mut::<N>()
        .0[0];
    let mut sums = [*y, [simd.splat_f32s(0.0); N]];
    for (i, factor) in factors.iter().enumerate() {
        let row = &S::as_simd_f32s(&row(i)[columns.clone()]).0.as_chunks::<N>().0[0];
        let factor = simd.splat_f32s(*factor);
        let sums = &mut sums[i & 1];
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum = mul_add(simd, factor, *x, *sum);
        }
    }
    for ((y, a), b) in y.iter_mut().zip(sums[0]).zip(sums[1]) {
        *y = simd.add_f32s(a, b);
    }
    N * S::F32_LANES
}

/// Vectors of zeros that begin on a cache line, to be viewed by [`Scratch::vectors`].
pub(crate) struct Scratch(AlignedBytes);

impl Scratch {
    /// Room for `count` vectors of `S`. Like [`Vec`], it panics where no such buffer can exist.
    pub(crate) fn new<S: Simd>(count: usize) -> Self {
        let bytes = count
            .checked_mul(size_of::<S::f32s>())
            .and_then(AlignedBytes::zeroed);
        // Validated problems have no operand of that size, and scratch is a part of one.
        Self(bytes.expect("scratch is smaller than the inputs"))
    }

    /// All of the buffer, as vectors of `S`.
    #[inline(always)]
    pub(crate) fn vectors<S: Simd>(&mut self) -> &mut [S::f32s] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Contiguous rows whose columns different threads write.
///
/// The columns of one thread lie between those of the others, so that no split into slices exists that gives each its
/// own; the accessor is unsafe instead.
#[derive(Clone, Copy)]
pub(crate) struct SharedRows<'a> {
    start: *mut f32,
    len: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives as long as this value, and every access goes through
// `part`, whose callers promise that no two threads touch the same columns of the same row.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    /// Rows of `cols` values.
    pub(crate) fn new(values: &'a mut [f32], cols: usize) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
            cols,
            borrow: PhantomData,
        }
    }

    /// Columns `columns` of row `row`.
    ///
    /// # Safety
    /// While the slice lives, nothing else may access these columns of this row.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        let offset = row * self.cols + columns.start;
        assert!(
            columns.end <= self.cols && columns.start <= columns.end && offset + columns.len() <= self.len
        );
        // SAFETY: the assertion keeps the part inside of the buffer, and the caller keeps others away from it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), columns.len()) }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Simd, WithSimd};

    use super::*;
    use crate::simd::dispatch;

    /// Function whose errors are measured.
    #[derive(Clone, Copy)]
    enum Function {
        Exp2,
        Exp2M1,
    }

    struct InPlace<'a>(Function, &'a mut [f32]);

    impl WithSimd for InPlace<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for first in (0..self.1.len()).step_by(S::F32_LANES) {
                let x = load_at(simd, self.1, first);
                let y = match self.0 {
                    Function::Exp2 => exp2(simd, x),
                    Function::Exp2M1 => exp2_m1(simd, x),
                };
                store_at(simd, self.1, first, y);
            }
        }
    }

    fn of(function: Function, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        dispatch(InPlace(function, &mut values));
        values
    }

    /// Largest relative error over `x`.
    fn worst(function: Function, x: &[f32], exact: fn(f64) -> f64) -> f64 {
        let errors = x
            .iter()
            .zip(of(function, x))
            .map(|(x, y)| (f64::from(y) / exact(f64::from(*x)) - 1.0).abs());
        errors.fold(0.0, |worst, error| if error <= worst { worst } else { error })
    }

    #[test]
    fn powers_of_two_stay_within_their_error_bounds() {
        let x: Vec<f32> = (-125_999..127_000).map(|i| i as f32 * 1e-3 + 1e-7).collect();
        let error = worst(Function::Exp2, &x, f64::exp2);
        assert!(error < 1.2e-7, "{error:e}");
        let mut x: Vec<f32> = (1..126_000).map(|i| i as f32 * -1e-3).collect();
        x.extend((1..2000).map(|i| -(i as f32 * -0.01).exp()));
        let exact = |x: f64| (x * std::f64::consts::LN_2).exp_m1();
        let error = worst(Function::Exp2M1, &x, exact);
        assert!(error < 2.5e-7, "{error:e}");
    }

    #[test]
    fn powers_of_two_saturate() {
        let ends = [0.0, f32::INFINITY, 128.0, 1e30, -126.0, -1e30, f32::NEG_INFINITY];
        let (most, least) = (f32::INFINITY, f32::MIN_POSITIVE);
        assert_eq!(
            of(Function::Exp2, &ends),
            [1.0, most, most, most, least, least, least]
        );
        let most = 127.0_f32.exp2();
        assert_eq!(
            of(Function::Exp2M1, &ends),
            [0.0, most, most, most, -1.0, -1.0, -1.0]
        );
        for function in [Function::Exp2, Function::Exp2M1] {
            assert!(of(function, &[f32::NAN; 17]).iter().all(|y| y.is_nan()));
        }
    }
}
