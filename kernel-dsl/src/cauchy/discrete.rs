//! A channel's discrete system: products of rows and columns with Ā at O(r N) each, in f64.

use super::dense::Square;
use super::{CauchyError, Inputs, Problem};
use crate::complex::{self, Complex64};

/// The discrete system of a channel. Rows and columns hold one member of each pair.
pub(super) struct System {
    /// μ = Δλ/2, so that I − ΔA/2 = D + h P P* with D = 1 − μ and h = Δ/2.
    pub half_rate: Vec<Complex64>,
    pub half_step: f64,
    pub low_rank: Vec<Vec<Complex64>>,
    /// (I + h P* D⁻¹ P)⁻¹, real.
    inverse: Vec<f64>,
}

impl System {
    pub fn new(problem: &Problem, inputs: &Inputs, channel: usize) -> Result<Self, CauchyError> {
        let Problem { modes, rank, .. } = *problem;
        let half_step = 0.5 * f64::from(inputs.step[channel]);
        let index = |n| problem.copy_index(channel, n);
        let half_rate: Vec<_> = (0..modes)
            .map(|n| half_step * complex::at(inputs.a, index(n)))
            .collect();
        let column = |r| -> Vec<_> {
            let index = |n| problem.low_rank_index(r, channel, n);
            (0..modes).map(|n| complex::at(inputs.p, index(n))).collect()
        };
        let low_rank: Vec<Vec<_>> = (0..rank).map(column).collect();
        let mut inner = Square::identity(rank);
        for (r, p) in low_rank.iter().enumerate() {
            for (s, q) in low_rank.iter().enumerate() {
                let terms = half_rate.iter().zip(p.iter().zip(q));
                let sum: f64 = terms.map(|(mu, (p, q))| (p.conj() * q / (1.0 - mu)).re).sum();
                *inner.at_mut(r, s) += 2.0 * half_step * sum;
            }
        }
        let mut columns: Vec<_> = (0..rank)
            .map(|r| {
                let mut unit = vec![Complex64::ZERO; rank];
                unit[r] = Complex64::ONE;
                unit
            })
            .collect();
        inner.solve(&mut columns);
        let inverse: Vec<f64> = (0..rank)
            .flat_map(|r| columns.iter().map(move |column| column[r].re))
            .collect();
        let finite = half_rate.iter().all(|mu| (1.0 / (1.0 - mu)).is_finite());
        if !(finite && inverse.iter().all(|x| x.is_finite())) {
            let what = "discrete form";
            return Err(CauchyError::NotFinite { what, channel });
        }
        Ok(Self {
            half_rate,
            half_step,
            low_rank,
            inverse,
        })
    }

    /// x P for a row x: 2 Re Σ_n x_n P_n.
    pub fn project(&self, x: &[Complex64], column: usize) -> f64 {
        let pairs = x.iter().zip(&self.low_rank[column]);
        2.0 * pairs.map(|(x, p)| x.re * p.re - x.im * p.im).sum::<f64>()
    }

    /// P* x for a column x: 2 Re Σ_n P_n* x_n.
    pub fn gather(&self, x: &[Complex64], column: usize) -> f64 {
        let pairs = x.iter().zip(&self.low_rank[column]);
        2.0 * pairs.map(|(x, p)| x.re * p.re + x.im * p.im).sum::<f64>()
    }

    /// c ← c (I − ΔA/2)⁻¹ for the stored half of a row.
    ///
    /// c D⁻¹ − h (c D⁻¹ P) X (P* D⁻¹): the subtraction comes first, and D⁻¹ after it.
    pub fn solve_row(&self, c: &mut [Complex64]) {
        let scaled: Vec<_> = c
            .iter()
            .zip(&self.half_rate)
            .map(|(c, mu)| c / (1.0 - mu))
            .collect();
        let rank = self.low_rank.len();
        let projected: Vec<_> = (0..rank).map(|r| self.project(&scaled, r)).collect();
        for (column, p) in self.low_rank.iter().enumerate() {
            let weights = projected
                .iter()
                .zip(self.inverse.iter().skip(column).step_by(rank));
            let factor = self.half_step * weights.map(|(t, x)| t * x).sum::<f64>();
            c.iter_mut().zip(p).for_each(|(c, p)| *c -= factor * p.conj());
        }
        c.iter_mut()
            .zip(&self.half_rate)
            .for_each(|(c, mu)| *c /= 1.0 - mu);
    }

    /// c ← c (I + ΔA/2) for the stored half of a row.
    fn multiply_row(&self, c: &mut [Complex64]) {
        let rank = self.low_rank.len();
        let projected: Vec<_> = (0..rank).map(|r| self.half_step * self.project(c, r)).collect();
        c.iter_mut()
            .zip(&self.half_rate)
            .for_each(|(c, mu)| *c *= 1.0 + mu);
        for (factor, p) in projected.iter().zip(&self.low_rank) {
            c.iter_mut().zip(p).for_each(|(c, p)| *c -= factor * p.conj());
        }
    }

    /// c ← c Ā = c (I − ΔA/2)⁻¹ (I + ΔA/2), for the stored half of a row.
    pub fn step_row(&self, c: &mut [Complex64]) {
        self.solve_row(c);
        self.multiply_row(c);
    }

    /// x ← Ā x = (I − ΔA/2)⁻¹ (I + ΔA/2) x, for the stored half of a column.
    pub fn step_column(&self, x: &mut [Complex64]) {
        let rank = self.low_rank.len();
        let gathered: Vec<_> = (0..rank).map(|r| self.half_step * self.gather(x, r)).collect();
        x.iter_mut()
            .zip(&self.half_rate)
            .for_each(|(x, mu)| *x *= 1.0 + mu);
        for (factor, p) in gathered.iter().zip(&self.low_rank) {
            x.iter_mut().zip(p).for_each(|(x, p)| *x -= factor * p);
        }
        // D⁻¹ x − h D⁻¹ P X (P* D⁻¹ x).
        let scaled: Vec<_> = x
            .iter()
            .zip(&self.half_rate)
            .map(|(x, mu)| x / (1.0 - mu))
            .collect();
        let gathered: Vec<_> = (0..rank).map(|r| self.gather(&scaled, r)).collect();
        for (row, p) in self.low_rank.iter().enumerate() {
            let weights = gathered.iter().zip(&self.inverse[row * rank..]);
            let factor = self.half_step * weights.map(|(t, x)| t * x).sum::<f64>();
            x.iter_mut().zip(p).for_each(|(x, p)| *x -= factor * p);
        }
        x.iter_mut()
            .zip(&self.half_rate)
            .for_each(|(x, mu)| *x /= 1.0 - mu);
    }

    /// Āᵐ over both members of every pair, by squarings.
    pub fn dense_power(&self, mut exponent: usize) -> Square {
        let modes = self.half_rate.len();
        let size = 2 * modes;
        let mut square = Square::zeros(size);
        for row in 0..size {
            // A row of Ā over pairs is e Ā; the unit row e of a stored mode alone is the mean of a real and an imaginary pair.
            let (n, conjugate) = (row % modes, row >= modes);
            let [mut real, mut imaginary] = [Complex64::ONE, Complex64::I].map(|unit| {
                let mut pair = vec![Complex64::ZERO; modes];
                pair[n] = 0.5 * unit;
                pair
            });
            self.step_row(&mut real);
            self.step_row(&mut imaginary);
            let sign = if conjugate { Complex64::I } else { -Complex64::I };
            for col in 0..modes {
                *square.at_mut(row, col) = real[col] + sign * imaginary[col];
                *square.at_mut(row, modes + col) = real[col].conj() + sign * imaginary[col].conj();
            }
        }
        let mut power = Square::identity(size);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = power.times(&square);
            }
            exponent >>= 1;
            if exponent > 0 {
                square = square.times(&square);
            }
        }
        power
    }
}
