//! Everything that can be wrong with a call.

use thiserror::Error;

use super::WeightType;
use crate::shape::{Extent, Operator, Role, ShapeError};
use crate::{Rows, simd::Isa};

/// The operator's name in its errors.
pub(super) const OPERATOR: Operator = Operator("linear");

/// Why weights cannot be packed, or a product cannot be formed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum LinearError {
    /// A weight matrix without weights.
    #[error("a weight matrix needs at least one row and one column, found [{out_features}, {in_features}]")]
    EmptyMatrix {
        /// Rows of the weight matrix.
        out_features: usize,
        /// Columns of the weight matrix.
        in_features: usize,
    },
    /// The packed matrix would not fit the address space.
    #[error(
        "a {weight_type} weight matrix [{out_features}, {in_features}] is larger than memory can address"
    )]
    TooLarge {
        /// Rows of the weight matrix.
        out_features: usize,
        /// Columns of the weight matrix.
        in_features: usize,
        /// Storage type.
        weight_type: WeightType,
    },
    /// A slice of weights that does not end with a row.
    #[error("rows of {in_features} weights: found {found} values, which is not a whole number of rows")]
    PartialRow {
        /// Columns of the weight matrix.
        in_features: usize,
        /// Length of the slice.
        found: usize,
    },
    /// More or fewer weight rows than the matrix has.
    #[error("a weight matrix of {expected} rows: found {found}")]
    RowCount {
        /// Rows of the weight matrix.
        expected: usize,
        /// Number of weight rows given.
        found: usize,
    },
    /// Integers have no way to say infinity or NaN.
    #[error("weight [{row}, {col}] is {value}; weights of 8 or 4 bits must be finite")]
    NonFinite {
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// A block would need a scale that no f16 holds.
    #[error(
        "weight [{row}, {col}] is {value}; {weight_type} weights must have a magnitude of at most {}",
        .weight_type.largest()
    )]
    TooLargeForScale {
        /// Storage type.
        weight_type: WeightType,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// Blocks of weights for a matrix that has another grid.
    #[error("a {weight_type} weight matrix takes no blocks of {format}; expected one of {expected}")]
    BlockFormat {
        /// Storage type.
        weight_type: WeightType,
        /// The format of the blocks.
        format: &'static str,
        /// The storage types that take them.
        expected: &'static str,
    },
    /// Bytes that are no whole rows of whole blocks.
    #[error(
        "rows of {in_features} weights in blocks of 32, {block_bytes} bytes each: found {found} bytes, which are no whole \
         rows of whole blocks"
    )]
    PartialBlocks {
        /// Columns of the weight matrix.
        in_features: usize,
        /// Bytes of a block.
        block_bytes: usize,
        /// Number of bytes given.
        found: usize,
    },
    /// A row that the matrix does not have.
    #[error("weight row {found} of a matrix of {out_features} rows")]
    RowIndex {
        /// Rows of the weight matrix.
        out_features: usize,
        /// Index of the row asked for.
        found: usize,
    },
    /// An operand has another shape than the weight and the input say.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Instructions that this processor does not have were asked for.
    #[error("this processor cannot run {isa} code; it can run {}", Isa::detect())]
    Unavailable {
        /// What was asked for.
        isa: Isa,
    },
}

/// Checks every shape of a product with a weight matrix `[out_features, in_features]`, the bias and the output by their lengths.
pub(super) fn validate(
    x: &Rows,
    (out_features, in_features): (usize, usize),
    bias: Option<usize>,
    out: usize,
) -> Result<(), ShapeError> {
    expect_input(x, in_features)?;
    OPERATOR.values("bias", out_features, bias.unwrap_or(out_features))?;
    OPERATOR.values("out", x.rows().saturating_mul(out_features), out)
}

/// Checks that rows of the input are as wide as rows of the weight.
pub(super) fn expect_input(x: &Rows, in_features: usize) -> Result<(), ShapeError> {
    let expected = Extent::Rows {
        rows: x.rows(),
        cols: in_features,
    };
    OPERATOR.expect(Role::Value, "input", expected, x.into())
}
