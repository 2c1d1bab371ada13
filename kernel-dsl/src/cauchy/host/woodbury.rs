//! Woodbury's identity at one node: from Cauchy sums to a generating function, and back.

use crate::complex::Complex64;

/// Sizes, and room for what is formed.
///
/// Sums k come as a matrix `[readouts + rank, columns + rank]`, of C̃ and P* by B (and what stands in its place) and P.
pub(super) struct Woodbury {
    readouts: usize,
    columns: usize,
    rank: usize,
    /// I + g k₁₁, destroyed, and its inverse X.
    matrix: Vec<Complex64>,
    inverse: Vec<Complex64>,
    /// Y = X k₁₀, and its gradient.
    y: Vec<Complex64>,
    by_y: Vec<Complex64>,
}

impl Woodbury {
    pub fn new(readouts: usize, columns: usize, rank: usize) -> Self {
        Self {
            readouts,
            columns,
            rank,
            matrix: vec![Complex64::ZERO; rank * rank],
            inverse: vec![Complex64::ZERO; rank * rank],
            y: vec![Complex64::ZERO; rank * columns],
            by_y: vec![Complex64::ZERO; rank * columns],
        }
    }

    fn stride(&self) -> usize {
        self.columns + self.rank
    }

    /// k₀₀ − g k₀₁ (I + g k₁₁)⁻¹ k₁₀, `[readouts, columns]`.
    pub fn forward(&mut self, k: &[Complex64], g: f64, out: &mut [Complex64]) {
        self.solve(k, g);
        let stride = self.stride();
        for readout in 0..self.readouts {
            let row = &k[readout * stride..(readout + 1) * stride];
            for column in 0..self.columns {
                out[readout * self.columns + column] = row[column] - g * self.correction(row, column);
            }
        }
    }

    /// (k₀₁ Y) of a readout's row of sums and a column.
    fn correction(&self, row: &[Complex64], column: usize) -> Complex64 {
        let mut sum = Complex64::ZERO;
        for (r, k) in row[self.columns..].iter().enumerate() {
            sum += k * self.y[r * self.columns + column];
        }
        sum
    }

    /// The gradients by all sums, of those by the result, and the one by g.
    pub fn backward(&mut self, k: &[Complex64], g: f64, by_out: &[Complex64], by_k: &mut [Complex64]) -> f64 {
        self.solve(k, g);
        let Self {
            readouts,
            columns,
            rank,
            ..
        } = *self;
        let stride = self.stride();
        let mut by_g = 0.0;
        self.by_y.fill(Complex64::ZERO);
        for readout in 0..readouts {
            let row = &k[readout * stride..(readout + 1) * stride];
            for column in 0..columns {
                let by = by_out[readout * columns + column];
                by_k[readout * stride + column] = by;
                by_g -= inner(by, self.correction(row, column));
                for r in 0..rank {
                    self.by_y[r * columns + column] -= g * row[columns + r].conj() * by;
                }
            }
            for r in 0..rank {
                let terms = (0..columns)
                    .map(|column| by_out[readout * columns + column] * self.y[r * columns + column].conj());
                by_k[readout * stride + columns + r] = -g * terms.sum::<Complex64>();
            }
        }
        for r in 0..rank {
            let row = (readouts + r) * stride;
            for column in 0..columns {
                let terms =
                    (0..rank).map(|s| self.inverse[s * rank + r].conj() * self.by_y[s * columns + column]);
                by_k[row + column] = terms.sum();
            }
            for s in 0..rank {
                let terms =
                    (0..columns).map(|column| by_k[row + column] * self.y[s * columns + column].conj());
                let by_matrix = -terms.sum::<Complex64>();
                by_g += inner(by_matrix, k[row + columns + s]);
                by_k[row + columns + s] = g * by_matrix;
            }
        }
        by_g
    }

    /// Computes X = (I + g k₁₁)⁻¹ and Y = X k₁₀ from the sums k at one node.
    fn solve(&mut self, k: &[Complex64], g: f64) {
        let (columns, rank, stride) = (self.columns, self.rank, self.stride());
        self.inverse.fill(Complex64::ZERO);
        for r in 0..rank {
            for s in 0..rank {
                self.matrix[r * rank + s] = g * k[(self.readouts + r) * stride + columns + s];
            }
            self.matrix[r * rank + r] += 1.0;
            self.inverse[r * rank + r] = Complex64::ONE;
        }
        self.invert();
        for r in 0..rank {
            for column in 0..columns {
                let mut sum = Complex64::ZERO;
                for s in 0..rank {
                    sum += self.inverse[r * rank + s] * k[(self.readouts + s) * stride + column];
                }
                self.y[r * columns + column] = sum;
            }
        }
    }

    /// Gauss-Jordan elimination with the largest pivot of a column.
    fn invert(&mut self) {
        let rank = self.rank;
        for pivot in 0..rank {
            let mut best = pivot;
            for row in pivot + 1..rank {
                if self.matrix[row * rank + pivot].norm_sqr() > self.matrix[best * rank + pivot].norm_sqr() {
                    best = row;
                }
            }
            for matrix in [&mut self.matrix, &mut self.inverse] {
                (0..rank).for_each(|col| matrix.swap(pivot * rank + col, best * rank + col));
            }
            let scale = 1.0 / self.matrix[pivot * rank + pivot];
            for matrix in [&mut self.matrix, &mut self.inverse] {
                matrix[pivot * rank..(pivot + 1) * rank]
                    .iter_mut()
                    .for_each(|x| *x *= scale);
            }
            for row in (0..rank).filter(|&row| row != pivot) {
                let factor = self.matrix[row * rank + pivot];
                for matrix in [&mut self.matrix, &mut self.inverse] {
                    for col in 0..rank {
                        let above = matrix[pivot * rank + col];
                        matrix[row * rank + col] -= factor * above;
                    }
                }
            }
        }
    }
}

/// Re(x* y), the real inner product of two complex numbers.
#[inline]
fn inner(x: Complex64, y: Complex64) -> f64 {
    x.re * y.re + x.im * y.im
}
