//! The product of small matrices, for the sizes of chunks: no packing, everything from the first caches.
//!
//! A tile of 6 rows by 4 (AVX2: 2) vectors of C stays in registers while it passes over the inner dimension: 24 sums in
//! flight, one load of B and a broadcast of A for every 2.4 multiply-adds.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::view::{Destination, Matrix, MatrixMut};
use crate::simd::{dispatch, is_fused, mul_add};

/// Rows of a tile.
const ROWS: usize = 6;

/// C ← factor·C + A B, or A B where `factor` is `None`. B and C have contiguous rows, A any strides.
#[derive(Clone, Copy)]
pub(super) struct Product {
    rows: usize,
    cols: usize,
    inner: usize,
    factor: Option<f32>,
    a: *const f32,
    a_row_stride: usize,
    a_col_stride: usize,
    b: *const f32,
    b_row_stride: usize,
    c: *mut f32,
    c_row_stride: usize,
}

impl Product {
    /// The product of views whose sizes agree; B as its values and the distance of its rows.
    pub(super) fn new(mut c: MatrixMut, destination: Destination, a: Matrix, b: (&[f32], usize)) -> Self {
        let (a_start, (a_row_stride, a_col_stride)) = a.raw();
        let (c_start, (c_row_stride, _), rows, cols) = c.raw();
        Self {
            rows,
            cols,
            inner: a.cols(),
            factor: match destination {
                Destination::Overwrite => None,
                Destination::Scale(factor) => Some(factor),
            },
            a: a_start,
            a_row_stride: a_row_stride as usize,
            a_col_stride: a_col_stride as usize,
            b: b.0.as_ptr(),
            b_row_stride: b.1,
            c: c_start,
            c_row_stride: c_row_stride as usize,
        }
    }

    /// Computes it with the vectors in use.
    ///
    /// # Safety
    /// For the sizes and strides given, all values of A and B can be read and those of C be written, and nothing else
    /// accesses C meanwhile.
    pub(super) unsafe fn run(self) {
        dispatch(self);
    }

    /// Columns `column..column + N·lanes`; with `PARTIAL`, the `width` columns from there on as part of one vector.
    #[inline(always)]
    fn columns<S: Simd, const N: usize, const PARTIAL: bool>(&self, simd: S, column: usize, width: usize) {
        let mut row = 0;
        while self.rows - row >= ROWS {
            self.tile::<S, ROWS, N, PARTIAL>(simd, (row, column), width);
            row += ROWS;
        }
        match self.rows - row {
            5 => self.tile::<S, 5, N, PARTIAL>(simd, (row, column), width),
            4 => self.tile::<S, 4, N, PARTIAL>(simd, (row, column), width),
            3 => self.tile::<S, 3, N, PARTIAL>(simd, (row, column), width),
            2 => self.tile::<S, 2, N, PARTIAL>(simd, (row, column), width),
            1 => self.tile::<S, 1, N, PARTIAL>(simd, (row, column), width),
            _ => {}
        }
    }

    /// The sums of a tile over part of the inner dimension.
    #[inline(always)]
    fn sums<S: Simd, const M: usize, const N: usize, const PARTIAL: bool>(
        &self,
        simd: S,
        (row, column): (usize, usize),
        width: usize,
        inner: Range<usize>,
    ) -> [[S::f32s; N]; M] {
        let mut sums = [[simd.splat_f32s(0.0); N]; M];
        for p in inner {
            let mut b = [simd.splat_f32s(0.0); N];
            for (v, b) in b.iter_mut().enumerate() {
                // SAFETY: row p of B has `width` values from `column` on, which are N vectors or the part of one.
                *b =
                    unsafe { read::<S, PARTIAL>(simd, self.b.add(p * self.b_row_stride + column), v, width) };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: row + r is a row of A and p one of its columns.
                let a = unsafe { *self.a.add((row + r) * self.a_row_stride + p * self.a_col_stride) };
                let a = simd.splat_f32s(a);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = mul_add(simd, a, b, *sum);
                }
            }
        }
        sums
    }

    /// `M` rows by `N` vectors.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize, const PARTIAL: bool>(
        &self,
        simd: S,
        (row, column): (usize, usize),
        width: usize,
    ) {
        let mut sums =
            self.sums::<S, M, N, PARTIAL>(simd, (row, column), width, 0..self.inner.min(depth::<S>()));
        let mut first = depth::<S>();
        while first < self.inner {
            let inner = first..self.inner.min(first.saturating_add(depth::<S>()));
            let more = self.sums::<S, M, N, PARTIAL>(simd, (row, column), width, inner);
            for (sums, more) in sums.iter_mut().zip(more) {
                for (sum, more) in sums.iter_mut().zip(more) {
                    *sum = simd.add_f32s(*sum, more);
                }
            }
            first = first.saturating_add(depth::<S>());
        }
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: row + r is a row of C, with `width` values from `column` on that nothing else accesses.
            let c = unsafe { self.c.add((row + r) * self.c_row_stride + column) };
            for (v, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe {
                    let sum = match self.factor {
                        None => sum,
                        Some(factor) => {
                            let before = read::<S, PARTIAL>(simd, c, v, width);
                            mul_add(simd, simd.splat_f32s(factor), before, sum)
                        }
                    };
                    write::<S, PARTIAL>(simd, c, v, width, sum);
                }
            }
        }
    }
}

/// Terms that one sum takes before it is added to the others.
///
/// Where a multiply-add rounds twice, hundreds of terms in one sum would lose a digit that a fused one keeps.
#[inline(always)]
fn depth<S: Simd>() -> usize {
    if is_fused::<S>() { usize::MAX } else { 64 }
}

impl WithSimd for Product {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = S::F32_LANES;
        let mut column = 0;
        if lanes >= 16 {
            while self.cols - column >= 4 * lanes {
                self.columns::<S, 4, false>(simd, column, 4 * lanes);
                column += 4 * lanes;
            }
        }
        while self.cols - column >= 2 * lanes {
            self.columns::<S, 2, false>(simd, column, 2 * lanes);
            column += 2 * lanes;
        }
        if self.cols - column >= lanes {
            self.columns::<S, 1, false>(simd, column, lanes);
            column += lanes;
        }
        if column < self.cols {
            self.columns::<S, 1, true>(simd, column, self.cols - column);
        }
    }
}

/// Vector `index` from `start` on; with `PARTIAL`, the `width` values there with zeros behind.
///
/// # Safety
/// These values can be read.
#[inline(always)]
unsafe fn read<S: Simd, const PARTIAL: bool>(
    simd: S,
    start: *const f32,
    index: usize,
    width: usize,
) -> S::f32s {
    // SAFETY: as the caller promises.
    unsafe {
        if PARTIAL {
            simd.partial_load_f32s(std::slice::from_raw_parts(start, width))
        } else {
            start.cast::<S::f32s>().add(index).read_unaligned()
        }
    }
}

/// The inverse of [`read`].
///
/// # Safety
/// These values can be written, and nothing else accesses them.
#[inline(always)]
unsafe fn write<S: Simd, const PARTIAL: bool>(
    simd: S,
    start: *mut f32,
    index: usize,
    width: usize,
    x: S::f32s,
) {
    // SAFETY: as the caller promises.
    unsafe {
        if PARTIAL {
            simd.partial_store_f32s(std::slice::from_raw_parts_mut(start, width), x);
        } else {
            start.cast::<S::f32s>().add(index).write_unaligned(x);
        }
    }
}
