//! Views of matrices, and their product: our own where rows of the right one are contiguous, else by `gemm`, which packs.

use std::marker::PhantomData;
use std::ops::Range;

use gemm::Parallelism;

use super::product::Product;

/// A read-only matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `cols` contiguous values, `row_stride` apart.
    pub(crate) fn new(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert_fits(values.len(), rows, cols, row_stride);
        Self {
            values,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Some of the rows.
    pub(crate) fn row_range(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "rows {range:?} of {}",
            self.rows
        );
        let start = (range.start * self.row_stride).min(self.values.len());
        Self {
            values: &self.values[start..],
            rows: range.len(),
            ..self
        }
    }

    /// The same values with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        let Self {
            values,
            rows,
            cols,
            row_stride,
            col_stride,
        } = self;
        Self {
            values,
            rows: cols,
            cols: rows,
            row_stride: col_stride,
            col_stride: row_stride,
        }
    }
}

/// A matrix that can be written. Its rows may lie between values that belong to others.
pub(crate) struct MatrixMut<'a> {
    start: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> MatrixMut<'a> {
    /// `rows` rows of `cols` contiguous values, `row_stride` apart.
    pub(crate) fn new(values: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert_fits(values.len(), rows, cols, row_stride);
        Self {
            start: values.as_mut_ptr(),
            rows,
            cols,
            row_stride,
            borrow: PhantomData,
        }
    }

    /// Copies rows that lie one after another.
    pub(crate) fn copy_from(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.rows * self.cols, "values of a matrix");
        for (i, row) in values.chunks_exact(self.cols.max(1)).enumerate() {
            self.row(i).copy_from_slice(row);
        }
    }

    /// Adds rows that lie one after another.
    pub(crate) fn add(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.rows * self.cols, "values of a matrix");
        for (i, row) in values.chunks_exact(self.cols.max(1)).enumerate() {
            self.row(i).iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }

    fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: both constructors made sure that every row lies inside of the buffer, which is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.row_stride), self.cols) }
    }

    /// As [`MatrixMut::new`], from where its first value lies.
    ///
    /// # Safety
    /// For as long as the matrix lives, its `rows·cols` values are valid and nothing else accesses them.
    pub(crate) unsafe fn from_start(start: *mut f32, rows: usize, cols: usize, row_stride: usize) -> Self {
        Self {
            start,
            rows,
            cols,
            row_stride,
            borrow: PhantomData,
        }
    }
}

fn assert_fits(len: usize, rows: usize, cols: usize, row_stride: usize) {
    let needed = if rows == 0 {
        0
    } else {
        (rows - 1) * row_stride + cols
    };
    assert!(
        needed <= len && (rows < 2 || cols <= row_stride),
        "{rows}×{cols} at {row_stride} in {len} values"
    );
}

/// What the product does with the values that the destination holds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Destination {
    /// C ← A B.
    Overwrite,
    /// C ← factor·C + A B.
    Scale(f32),
}

/// C ← A B, or C ← factor·C + A B.
pub(crate) fn multiply(c: &mut MatrixMut, destination: Destination, a: Matrix, b: Matrix) {
    if b.col_stride == 1 {
        assert_agree(c, &a, &b);
        let product = Product {
            rows: c.rows,
            cols: c.cols,
            inner: a.cols,
            factor: match destination {
                Destination::Overwrite => None,
                Destination::Scale(factor) => Some(factor),
            },
            a: a.values.as_ptr(),
            a_row_stride: a.row_stride,
            a_col_stride: a.col_stride,
            b: b.values.as_ptr(),
            b_row_stride: b.row_stride,
            c: c.start,
            c_row_stride: c.row_stride,
        };
        // SAFETY: as for `gemm` below.
        return unsafe { product.run() };
    }
    multiply_packed(c, destination, a, b);
}

/// As [`multiply`], for matrices that are larger than the first caches: by `gemm` whatever their strides.
pub(crate) fn multiply_packed(c: &mut MatrixMut, destination: Destination, a: Matrix, b: Matrix) {
    assert_agree(c, &a, &b);
    let (read, alpha) = match destination {
        Destination::Overwrite => (false, 0.0),
        Destination::Scale(factor) => (true, factor),
    };
    // SAFETY: both constructors of `Matrix` and `MatrixMut` made sure that every value lies inside of its buffer, the
    // sizes agree by the assertion above, and `c` is borrowed exclusively while `a` and `b` are shared.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.start,
            1,
            c.row_stride as isize,
            read,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            alpha,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

fn assert_agree(c: &MatrixMut, a: &Matrix, b: &Matrix) {
    assert!(
        a.rows == c.rows && b.cols == c.cols && a.cols == b.rows,
        "sizes of a matrix product"
    );
}
