//! Products of matrices that have to be packed: larger than the first caches, or with the right one's rows across memory.
//!
//! From AVX2 on, and with NEON, by the crate gemm with its micro-kernel for the level in use. gemm's own choice asks the processor
//! alone, and below AVX2 it computes one value at a time; there the right matrix is packed here, for our own tiles.

use super::tiles::Product;
use super::view::{Destination, Matrix, MatrixMut};
use crate::simd::{Isa, active};

/// C ← A B, or C ← factor·C + A B, with the instructions in use. Sizes must agree.
pub(super) fn multiply(c: &mut MatrixMut, destination: Destination, a: Matrix, b: Matrix) {
    match active().base() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => by_gemm::avx512(c, destination, a, b),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => by_gemm::avx2(c, destination, a, b),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => by_gemm::neon(c, destination, a, b),
        _ => by_panels(c, destination, a, b),
    }
}

/// Columns of B that are packed together.
const PANEL: usize = 64;
/// Rows of B that are packed together: a panel of them takes a quarter of a second cache of 256 KiB.
const DEPTH: usize = 256;

fn by_panels(c: &mut MatrixMut, destination: Destination, a: Matrix, b: Matrix) {
    let (cols, inner) = (b.cols(), b.rows());
    if inner == 0 {
        // Nothing to pack, but C is still to be scaled.
        return product(c, destination, a, &[], (0, cols), 0);
    }
    let mut panel = vec![0.0; PANEL.min(cols) * DEPTH.min(inner)];
    for first_row in (0..inner).step_by(DEPTH) {
        let depth = DEPTH.min(inner - first_row);
        let destination = match first_row {
            0 => destination,
            _ => Destination::Scale(1.0),
        };
        for first in (0..cols).step_by(PANEL) {
            let width = PANEL.min(cols - first);
            b.copy_block((first_row, depth), (first, width), &mut panel);
            let a = a.columns_from(first_row, depth);
            product(c, destination, a, &panel[..depth * width], (first, width), depth);
        }
    }
}

/// Columns `first..first + width` of C from all of A and a packed panel of `depth` rows.
fn product(
    c: &mut MatrixMut,
    destination: Destination,
    a: Matrix,
    panel: &[f32],
    (first, width): (usize, usize),
    depth: usize,
) {
    assert!(a.cols() == depth && panel.len() == depth * width);
    let product = Product::new(c.columns(first, width), destination, a, (panel, width));
    // SAFETY: A and C are views whose values lie inside of their buffers, C is borrowed exclusively, and the panel has `depth`
    // rows of `width` values by the assertion.
    unsafe { product.run() }
}

/// The crate gemm at a chosen level: what its own entry point does, after the choice.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod by_gemm {
    use gemm_common::Parallelism;
    use gemm_common::gemm::gemm_basic_generic;
    use gemm_common::simd::MixedSimd;

    use super::{Destination, Matrix, MatrixMut};

    /// Defines the product with the micro-kernels of one module of gemm, of `lanes` values a vector.
    macro_rules! at_level {
        ($name:ident, $module:ident, lanes: $lanes:literal, $simd:ident) => {
            pub(super) fn $name(c: &mut MatrixMut, destination: Destination, a: Matrix, b: Matrix) {
                use gemm_f32::microkernel::$module::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
                let Some(simd) = <gemm_common::simd::$simd as MixedSimd<f32, f32, f32, f32>>::try_new()
                else {
                    // gemm knows of fewer processors than we do: none today.
                    return super::by_panels(c, destination, a, b);
                };
                let (read, alpha) = match destination {
                    Destination::Overwrite => (false, 0.0),
                    Destination::Scale(factor) => (true, factor),
                };
                // gemm's tiles are higher than wide: where rows of C are contiguous, Cᵀ = Bᵀ Aᵀ suits them.
                let (start, mut c_strides, rows, cols) = c.raw();
                let (mut left, mut right, mut size) = (a.raw(), b.raw(), (rows, cols));
                if c_strides.1 < c_strides.0 {
                    c_strides = (c_strides.1, c_strides.0);
                    size = (cols, rows);
                    let turned = |(start, (row, col))| (start, (col, row));
                    (left, right) = (turned(right), turned(left));
                }
                let (left, (left_row, left_col)): (*const f32, (isize, isize)) = left;
                let (right, (right_row, right_col)): (*const f32, (isize, isize)) = right;
                // SAFETY: gemm found the instructions. The constructors of `Matrix` and `MatrixMut` made sure that every value
                // lies inside of its buffer, the caller that the sizes agree, and `c` is borrowed exclusively while `a` and `b`
                // are shared.
                unsafe {
                    gemm_basic_generic::<_, f32, $lanes, { MR_DIV_N * $lanes }, NR, MR_DIV_N, H_M, H_N>(
                        simd,
                        size.0,
                        size.1,
                        a.cols(),
                        start,
                        c_strides.1,
                        c_strides.0,
                        read,
                        left,
                        left_col,
                        left_row,
                        right,
                        right_col,
                        right_row,
                        alpha,
                        1.0,
                        false,
                        false,
                        false,
                        |a, b, c| a * b + c,
                        &UKR,
                        &H_UKR,
                        false,
                        Parallelism::None,
                    );
                }
            }
        };
    }

    #[cfg(target_arch = "x86_64")]
    at_level!(avx2, fma, lanes: 8, V3);
    #[cfg(target_arch = "x86_64")]
    at_level!(avx512, avx512f, lanes: 16, V4);
    #[cfg(target_arch = "aarch64")]
    at_level!(neon, neon, lanes: 4, Scalar);
}
