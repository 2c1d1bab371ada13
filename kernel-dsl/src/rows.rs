//! A read-only view of token rows inside a wider buffer.
//!
//! Projections write several quantities side by side in one row (`z | x | B | C | Δ`); each kernel reads its own columns
//! through a view, so that nothing is copied in between.

use thiserror::Error;

/// `rows` rows of `cols` contiguous values, whose beginnings lie `stride` values apart.
///
/// # Shapes
/// Row `i` is `data[i·stride .. i·stride + cols]`. For batched tokens row `b·time + t` is token `t` of sequence `b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// Why a view cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RowsError {
    /// The stride is shorter than a row, so that rows would overlap.
    #[error("rows of {cols} values need a stride of at least {cols}, found {stride}")]
    Overlap {
        /// Values in a row.
        cols: usize,
        /// Distance between the beginnings of two rows.
        stride: usize,
    },
    /// The buffer ends before the last row does.
    #[error("{rows} rows of {cols} values at stride {stride} need {expected} values, found {found}")]
    TooShort {
        /// Number of rows in the view.
        rows: usize,
        /// Values in a row.
        cols: usize,
        /// Distance between the beginnings of two rows.
        stride: usize,
        /// Values that the view needs.
        expected: usize,
        /// Values that the buffer has.
        found: usize,
    },
}

impl<'a> Rows<'a> {
    /// A view whose rows lie `stride` values apart.
    ///
    /// # Errors
    /// [`RowsError`] when rows overlap or the buffer is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Result<Self, RowsError> {
        if rows > 1 && stride < cols {
            return Err(RowsError::Overlap { cols, stride });
        }
        let expected = match rows {
            0 => 0,
            _ => (rows - 1).saturating_mul(stride).saturating_add(cols),
        };
        if data.len() < expected {
            return Err(RowsError::TooShort {
                rows,
                cols,
                stride,
                expected,
                found: data.len(),
            });
        }
        Ok(Self {
            data,
            rows,
            cols,
            stride,
        })
    }

    /// A view of rows that lie one after another without gaps.
    ///
    /// # Errors
    /// [`RowsError::TooShort`] when `data` holds fewer than `rows · cols` values.
    pub fn contiguous(data: &'a [f32], rows: usize, cols: usize) -> Result<Self, RowsError> {
        Self::new(data, rows, cols, cols)
    }

    /// Number of rows in the view.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Distance between the beginnings of two rows, in values.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `index`. Panics when `index` is not below [`Rows::rows`], as slice indexing does.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        let start = index * self.stride;
        &self.data[start..start + self.cols]
    }

    /// The values from the beginning of row 0 on, for code that walks by [`Rows::stride`] itself.
    #[inline]
    pub fn data(&self) -> &'a [f32] {
        self.data
    }
}
