//! Products of matrices of f32, on which every form by chunks rests: our own tiles where rows of the right one are contiguous, else
//! packed first.

mod packed;
mod tiles;
mod view;

pub(crate) use view::{Destination, Matrix, MatrixMut};

use tiles::Product;

/// C ← A B, or C ← factor·C + A B.
pub(crate) fn multiply(c: &mut MatrixMut, destination: Destination, a: Matrix, b: Matrix) {
    let Some(rows) = b.contiguous_rows() else {
        return multiply_packed(c, destination, a, b);
    };
    assert_agree(c, &a, &b);
    let cols = c.cols();
    let product = Product::new(c.columns(0, cols), destination, a, rows);
    // SAFETY: both constructors of `Matrix` and `MatrixMut` made sure that every value lies inside of its buffer, the
    // sizes agree by the assertion above, and `c` is borrowed exclusively while `a` and `b` are shared.
    unsafe { product.run() }
}

/// As [`multiply`], for matrices that are larger than the first caches, whatever their strides.
pub(crate) fn multiply_packed(c: &mut MatrixMut, destination: Destination, a: Matrix, b: Matrix) {
    assert_agree(c, &a, &b);
    packed::multiply(c, destination, a, b);
}

fn assert_agree(c: &MatrixMut, a: &Matrix, b: &Matrix) {
    assert!(
        a.rows() == c.rows() && b.cols() == c.cols() && a.cols() == b.rows(),
        "sizes of a matrix product"
    );
}
