//! Products with a matrix that lies row by row, and their gradients: for training, where weights change before packing them has
//! paid.
//!
//! ```text
//! out = x Wᵀ + b        x̄ = ḡ W        W̄ = ḡᵀ x        b̄ = Σ_r ḡ_r                ḡ the cotangent of out
//! ```

use rayon::prelude::*;

use super::LinearError;
use super::problem::{OPERATOR, expect_input, validate};
use crate::Rows;
use crate::matrix::{Destination, Matrix, MatrixMut, multiply_packed};
use crate::shape::{Extent, Role, ShapeError};

/// Multiply-adds below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 20;
/// Rows of a result that a thread takes at least, so that blocks stay deep enough for their packing.
const ROWS_PER_THREAD: usize = 16;

/// A weight `[out_features, in_features]`, row-major without gaps.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    values: &'a [f32],
    out_features: usize,
    in_features: usize,
}

impl<'a> Dense<'a> {
    /// A view of these values.
    ///
    /// # Errors
    /// [`LinearError::Shape`] when there are more or fewer of them.
    pub fn new(values: &'a [f32], out_features: usize, in_features: usize) -> Result<Self, LinearError> {
        // No slice is as long as a product that saturates.
        let expected = out_features.saturating_mul(in_features);
        OPERATOR.values("weight", expected, values.len())?;
        Ok(Self {
            values,
            out_features,
            in_features,
        })
    }

    fn matrix(&self) -> Matrix<'a> {
        Matrix::new(self.values, self.out_features, self.in_features, self.in_features)
    }
}

impl Dense<'_> {
    fn validate_backward(
        &self,
        x: &Rows,
        cotangent: &Rows,
        gradients: &Gradients<'_>,
    ) -> Result<(), ShapeError> {
        let (rows, out_features) = (x.rows(), self.out_features);
        expect_input(x, self.in_features)?;
        let expected = Extent::Rows {
            rows,
            cols: out_features,
        };
        OPERATOR.expect(Role::Cotangent, "out", expected, cotangent.into())?;
        if let Some(bias) = &gradients.bias {
            OPERATOR.gradient("bias", out_features, bias)?;
        }
        if let Some(input) = &gradients.input {
            OPERATOR.gradient("input", rows.saturating_mul(self.in_features), input)?;
        }
        if let Some(weight) = &gradients.weight {
            OPERATOR.gradient("weight", self.values.len(), weight)?;
        }
        Ok(())
    }
}

/// Where gradients are written; what is not wanted is not computed. All are overwritten.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Gradient x̄ by the input, `[rows, in_features]`.
    pub input: Option<&'a mut [f32]>,
    /// Gradient W̄ by the weight, `[out_features, in_features]`.
    pub weight: Option<&'a mut [f32]>,
    /// Gradient b̄ by the bias, `[out_features]`.
    pub bias: Option<&'a mut [f32]>,
}

/// `out = x · Wᵀ + bias`, on the threads of the current rayon pool.
///
/// # Shapes
/// `x` `[rows, in_features]`, `bias` `[out_features]`, `out` `[rows, out_features]`; `rows` may be 0.
///
/// # Errors
/// [`LinearError::Shape`] when shapes disagree.
pub fn linear(x: Rows, weight: Dense<'_>, bias: Option<&[f32]>, out: &mut [f32]) -> Result<(), LinearError> {
    let shape = (weight.out_features, weight.in_features);
    validate(&x, shape, bias.map(<[f32]>::len), out.len())?;
    let destination = match bias {
        None => Destination::Overwrite,
        Some(bias) => {
            out.chunks_exact_mut(bias.len().max(1))
                .for_each(|row| row.copy_from_slice(bias));
            Destination::Scale(1.0)
        }
    };
    product(out, destination, of_rows(x), weight.matrix().transposed());
    Ok(())
}

/// The gradients of Σ cotangent ∘ out.
///
/// # Shapes
/// `cotangent` `[rows, out_features]`; the others as in [`linear`].
///
/// # Errors
/// [`LinearError::Shape`] when an input, the cotangent or a gradient is of another shape; nothing is written then.
pub fn backward(
    x: Rows,
    weight: Dense<'_>,
    cotangent: Rows,
    gradients: &mut Gradients<'_>,
) -> Result<(), LinearError> {
    weight.validate_backward(&x, &cotangent, gradients)?;
    if let Some(input) = gradients.input.as_deref_mut() {
        product(input, Destination::Overwrite, of_rows(cotangent), weight.matrix());
    }
    if let Some(of_weight) = gradients.weight.as_deref_mut() {
        product(
            of_weight,
            Destination::Overwrite,
            of_rows(cotangent).transposed(),
            of_rows(x),
        );
    }
    if let Some(bias) = gradients.bias.as_deref_mut() {
        bias.fill(0.0);
        for row in 0..cotangent.rows() {
            bias.iter_mut()
                .zip(cotangent.row(row))
                .for_each(|(sum, g)| *sum += g);
        }
    }
    Ok(())
}

fn of_rows(rows: Rows<'_>) -> Matrix<'_> {
    Matrix::new(rows.data(), rows.rows(), rows.cols(), rows.stride())
}

/// C ← A B, or C + A B, its rows divided among threads.
fn product(c: &mut [f32], destination: Destination, a: Matrix<'_>, b: Matrix<'_>) {
    let (rows, columns, inner) = (a.rows(), b.cols(), b.rows());
    if rows * columns == 0 {
        return;
    }
    if inner == 0 {
        if destination == Destination::Overwrite {
            c.fill(0.0);
        }
        return;
    }
    let threads = match rows * columns * inner < THREADED_WORK {
        true => 1,
        false => rayon::current_num_threads(),
    };
    let block = rows.div_ceil(threads).max(ROWS_PER_THREAD);
    let one = |(index, c): (usize, &mut [f32])| {
        let range = index * block..rows.min((index + 1) * block);
        let mut c = MatrixMut::new(c, range.len(), columns, columns);
        multiply_packed(&mut c, destination, a.row_range(range), b);
    };
    let blocks = c.chunks_mut(block * columns).enumerate();
    match blocks.len() {
        1 => blocks.for_each(one),
        _ => c.par_chunks_mut(block * columns).enumerate().for_each(one),
    }
}
