//! Views of matrices of f32 inside slices.

use std::marker::PhantomData;
use std::ops::Range;

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

    /// `count` of the columns, from `first` on.
    pub(super) fn columns_from(self, first: usize, count: usize) -> Self {
        assert!(
            first + count <= self.cols,
            "columns {first}.. of {count} in {}",
            self.cols
        );
        let start = (first * self.col_stride).min(self.values.len());
        Self {
            values: &self.values[start..],
            cols: count,
            ..self
        }
    }

    /// Copies `rows` rows from `row` on and `cols` columns from `col` on to the beginning of `into`, row after row.
    pub(super) fn copy_block(
        &self,
        (row, rows): (usize, usize),
        (col, cols): (usize, usize),
        into: &mut [f32],
    ) {
        assert!(row + rows <= self.rows && col + cols <= self.cols && rows * cols <= into.len());
        let (row_stride, col_stride) = (self.row_stride, self.col_stride);
        let at = |r: usize, c: usize| (row + r) * row_stride + (col + c) * col_stride;
        if col_stride == 1 {
            for (r, into) in into.chunks_exact_mut(cols.max(1)).take(rows).enumerate() {
                into.copy_from_slice(&self.values[at(r, 0)..][..cols]);
            }
            return;
        }
        // Along the shorter stride, so that lines are read as a whole.
        for c in 0..cols {
            for r in 0..rows {
                into[r * cols + c] = self.values[at(r, c)];
            }
        }
    }

    /// The first value, and the distances of rows and of columns.
    pub(super) fn raw(&self) -> (*const f32, (isize, isize)) {
        (
            self.values.as_ptr(),
            (self.row_stride as isize, self.col_stride as isize),
        )
    }

    /// The values and the distance of two rows, where a row's values lie one after another.
    pub(super) fn contiguous_rows(&self) -> Option<(&'a [f32], usize)> {
        (self.col_stride == 1).then_some((self.values, self.row_stride))
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

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// `count` of the columns, from `first` on.
    pub(super) fn columns(&mut self, first: usize, count: usize) -> MatrixMut<'_> {
        assert!(
            first + count <= self.cols,
            "columns {first}.. of {count} in {}",
            self.cols
        );
        MatrixMut {
            // A matrix without rows may have no values at all.
            start: self.start.wrapping_add(first),
            cols: count,
            borrow: PhantomData,
            ..*self
        }
    }

    /// The first value, the distances of rows and of columns, and how many of each there are.
    pub(super) fn raw(&mut self) -> (*mut f32, (isize, isize), usize, usize) {
        (self.start, (self.row_stride as isize, 1), self.rows, self.cols)
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
