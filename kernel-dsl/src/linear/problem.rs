//! Weight types, and everything that can be wrong with a call.

use std::fmt;

use thiserror::Error;

use super::PackedMatrix;
use crate::{Rows, simd::Isa};

/// How the weights of a [`PackedMatrix`] are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32-bit floats: 4 bytes a weight.
    F32,
    /// The upper half of a 32-bit float, rounded to nearest even: 2 bytes a weight.
    Bf16,
    /// Signed 8-bit integers in blocks of 32 along `in_features`, each block with one bf16 scale: 1.0625 bytes a weight.
    Int8,
    /// The same with an f16 scale, which are the blocks of ggml's format q8_0: 1.0625 bytes a weight. The scale is finer than int8's, and
    /// holds magnitudes from 2⁻²⁴ to 65504.
    Q8_0,
    /// Signed 4-bit integers in blocks of 32 along `in_features`, each block with one f16 scale: 0.5625 bytes a weight.
    Int4,
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightType::F32 => "f32",
            WeightType::Bf16 => "bf16",
            WeightType::Int8 => "int8",
            WeightType::Q8_0 => "q8_0",
            WeightType::Int4 => "int4",
        })
    }
}

impl WeightType {
    /// The largest magnitude of a weight that it holds.
    fn largest(self) -> f32 {
        match self {
            WeightType::F32 | WeightType::Bf16 | WeightType::Int8 => f32::MAX,
            WeightType::Q8_0 => super::builder::LARGEST_Q8_0,
            WeightType::Int4 => super::int4::LARGEST,
        }
    }
}

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
        /// Rows given.
        found: usize,
    },
    /// A dense weight of more or fewer values than its shape has.
    #[error("a weight matrix [{out_features}, {in_features}], found {found} values")]
    MatrixLength {
        /// Rows of the weight matrix.
        out_features: usize,
        /// Columns of the weight matrix.
        in_features: usize,
        /// Values found.
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
        /// Bytes found.
        found: usize,
    },
    /// A row that the matrix does not have.
    #[error("weight row {found} of a matrix of {out_features} rows")]
    RowIndex {
        /// Rows of the weight matrix.
        out_features: usize,
        /// Row asked for.
        found: usize,
    },
    /// A buffer for one weight row has another length.
    #[error("a weight row has {expected} values, the buffer {found}")]
    RowLength {
        /// Columns of the weight matrix.
        expected: usize,
        /// Length of the buffer.
        found: usize,
    },
    /// The input is not as wide as the weight rows.
    #[error("the weight takes {expected} input features, the input has {found} columns")]
    InputFeatures {
        /// Columns of the weight matrix.
        expected: usize,
        /// Columns of the input.
        found: usize,
    },
    /// The bias has another length than the output.
    #[error("a bias for {expected} output features, found {found} values")]
    BiasLength {
        /// Rows of the weight matrix.
        expected: usize,
        /// Length of the bias.
        found: usize,
    },
    /// The output buffer has another length than the product.
    #[error("an output of {rows} rows of {out_features} needs {expected} values, found {found}")]
    OutLength {
        /// Rows of the input.
        rows: usize,
        /// Rows of the weight matrix.
        out_features: usize,
        /// Values needed.
        expected: usize,
        /// Values found.
        found: usize,
    },
    /// Instructions that this processor does not have were asked for.
    #[error("this processor cannot run {isa} code; it can run {}", Isa::detect())]
    Unavailable {
        /// What was asked for.
        isa: Isa,
    },
}

/// Checks every shape of a call.
pub(super) fn validate(
    x: &Rows,
    weight: &PackedMatrix,
    bias: Option<&[f32]>,
    out: &[f32],
) -> Result<(), LinearError> {
    let (out_features, in_features) = (weight.out_features(), weight.in_features());
    if x.cols() != in_features {
        return Err(LinearError::InputFeatures {
            expected: in_features,
            found: x.cols(),
        });
    }
    if let Some(bias) = bias
        && bias.len() != out_features
    {
        return Err(LinearError::BiasLength {
            expected: out_features,
            found: bias.len(),
        });
    }
    let expected = x.rows().saturating_mul(out_features);
    if out.len() != expected {
        return Err(LinearError::OutLength {
            rows: x.rows(),
            out_features,
            expected,
            found: out.len(),
        });
    }
    Ok(())
}
