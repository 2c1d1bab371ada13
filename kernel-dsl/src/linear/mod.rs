//! The linear map of a layer, with its weights packed once for every use.
//!
//! ```text
//! out[r, n] = Σ_k x[r, k] · W[n, k] + bias[n]
//! ```
//!
//! One row is a matrix-vector product, bound by how fast the weights arrive from memory; many rows are a matrix product,
//! bound by multiply-adds. Both read the same [`PackedMatrix`]: panels of 32 output features, contiguous along
//! `in_features`, so that a panel is one sequential stream whatever the number of rows, and no second copy is needed.
//! Weights stay in their type in memory. bf16 weights are multiplied with inputs rounded to bf16, as on every device with
//! instructions for it, and summed in f32, which costs a relative error of about 0.2 % of the output; int8 weights are multiplied
//! with inputs rounded to 8 bits per row and block of 32 features, which costs about 0.5 %. q8_0 and int4 weights are multiplied with the same
//! inputs; what int4 costs is the rounding of the weights themselves, about 8 %. Blocks of ggml's formats q8_0 and q4_0 are taken
//! [as they are](Builder::push_q8_0). Weights that training changes with every
//! step are not worth packing: [`dense`] multiplies with them as they lie, and has the gradients.
//!
//! ```
//! use spillway_kernel_dsl::{Rows, linear::{PackedMatrix, WeightType, linear}};
//!
//! let weight = PackedMatrix::pack(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, WeightType::F32)?;
//! let x = Rows::contiguous(&[1.0, 0.0, -1.0], 1, 3)?;
//! let mut out = [0.0; 2];
//! linear(x, &weight, None, &mut out)?;
//! assert_eq!(out, [-2.0, -2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
pub mod dense;
mod ggml;
mod host;
mod int4;
mod packed;
mod problem;
pub mod reference;
mod weight_type;

pub use builder::Builder;
pub(crate) use host::fma_burst;
pub use packed::PackedMatrix;
pub use problem::LinearError;
pub use weight_type::WeightType;

use crate::{Rows, simd::Isa};

/// `out = x · Wᵀ + bias`, on the threads of the current rayon pool.
///
/// The result does not depend on the number of threads.
///
/// # Shapes
/// `x` `[rows, in_features]`, `bias` `[out_features]`, `out` `[rows, out_features]`; `rows` may be 0.
///
/// # Errors
/// [`LinearError::Shape`] when shapes disagree.
pub fn linear(
    x: Rows,
    weight: &PackedMatrix,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), LinearError> {
    linear_with(crate::simd::active(), x, weight, bias, out)
}

/// [`linear`] with chosen instructions, so that every path can be compared on one machine.
///
/// # Errors
/// As [`linear`], and [`LinearError::Unavailable`] when this processor cannot run `isa`.
pub fn linear_with(
    isa: Isa,
    x: Rows,
    weight: &PackedMatrix,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), LinearError> {
    if !isa.is_available() {
        return Err(LinearError::Unavailable { isa });
    }
    let shape = (weight.out_features(), weight.in_features());
    problem::validate(&x, shape, bias.map(<[f32]>::len), out.len())?;
    host::linear(isa, x, weight, bias, out);
    Ok(())
}
