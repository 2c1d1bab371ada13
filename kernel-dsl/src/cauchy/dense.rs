//! Small complex matrices, row by row, for systems that are not large enough to be clever about.

use crate::complex::Complex64;

/// A square complex matrix, `[size, size]` row by row.
#[derive(Clone, Debug)]
pub(super) struct Square {
    pub size: usize,
    pub values: Vec<Complex64>,
}

impl Square {
    pub fn zeros(size: usize) -> Self {
        Self {
            size,
            values: vec![Complex64::ZERO; size * size],
        }
    }

    pub fn identity(size: usize) -> Self {
        let mut matrix = Self::zeros(size);
        (0..size).for_each(|i| *matrix.at_mut(i, i) = Complex64::ONE);
        matrix
    }

    pub fn at(&self, row: usize, col: usize) -> Complex64 {
        self.values[row * self.size + col]
    }

    pub fn at_mut(&mut self, row: usize, col: usize) -> &mut Complex64 {
        &mut self.values[row * self.size + col]
    }

    /// x I + y A.
    pub fn shifted(&self, x: Complex64, y: Complex64) -> Self {
        let mut matrix = self.clone();
        matrix.values.iter_mut().for_each(|value| *value *= y);
        (0..self.size).for_each(|i| *matrix.at_mut(i, i) += x);
        matrix
    }

    pub fn transposed(&self) -> Self {
        let mut matrix = Self::zeros(self.size);
        for row in 0..self.size {
            for col in 0..self.size {
                *matrix.at_mut(col, row) = self.at(row, col);
            }
        }
        matrix
    }

    /// Product A x of this matrix A and a vector.
    pub fn apply(&self, x: &[Complex64]) -> Vec<Complex64> {
        let rows = self.values.chunks_exact(self.size.max(1));
        rows.map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum())
            .collect()
    }

    /// A ← A + factor x yᵀ.
    pub fn add_outer(&mut self, factor: Complex64, x: &[Complex64], y: &[Complex64]) {
        for (row, x) in self.values.chunks_exact_mut(self.size.max(1)).zip(x) {
            let pairs = row.iter_mut().zip(y);
            pairs.for_each(|(sum, y)| *sum += factor * x * y);
        }
    }

    pub fn times(&self, other: &Self) -> Self {
        let mut product = Self::zeros(self.size);
        for row in 0..self.size {
            for inner in 0..self.size {
                let factor = self.at(row, inner);
                for col in 0..self.size {
                    *product.at_mut(row, col) += factor * other.at(inner, col);
                }
            }
        }
        product
    }

    /// The columns x of A x = b for all columns b, which are replaced: elimination with the largest pivot of a column.
    pub fn solve(mut self, columns: &mut [Vec<Complex64>]) {
        let size = self.size;
        for pivot in 0..size {
            let rows = pivot..size;
            let best = rows.max_by(|&i, &j| self.at(i, pivot).norm().total_cmp(&self.at(j, pivot).norm()));
            let best = best.unwrap_or(pivot);
            for col in 0..size {
                self.values.swap(pivot * size + col, best * size + col);
            }
            columns.iter_mut().for_each(|column| column.swap(pivot, best));
            let inverse = 1.0 / self.at(pivot, pivot);
            for row in pivot + 1..size {
                let factor = self.at(row, pivot) * inverse;
                for col in pivot..size {
                    let above = self.at(pivot, col);
                    *self.at_mut(row, col) -= factor * above;
                }
                for column in columns.iter_mut() {
                    let above = column[pivot];
                    column[row] -= factor * above;
                }
            }
        }
        for column in columns.iter_mut() {
            for row in (0..size).rev() {
                let known: Complex64 = (row + 1..size).map(|col| self.at(row, col) * column[col]).sum();
                column[row] = (column[row] - known) / self.at(row, row);
            }
        }
    }
}
