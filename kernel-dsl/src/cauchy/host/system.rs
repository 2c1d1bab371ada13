//! A channel's vectors: products for the Cauchy sums, and what the gradients by products are to the inputs.

#![allow(clippy::needless_range_loop, reason = "several arrays run along the modes")]

use super::super::{Inputs, Problem};
use super::sums::{Backward, Block, Forward, Sums};
use super::woodbury::Woodbury;
use crate::complex::{self, Complex64};
use crate::simd::dispatch;

/// The modes of a channel, and the vectors on both sides of its sums.
pub(super) struct System {
    problem: Problem,
    pub step: f64,
    /// μ = Δλ/2.
    half_rate: Vec<Complex64>,
    /// C̃ of every readout, then P* of every column, `[readouts + rank, modes]`.
    left: Vec<Complex64>,
    /// B, then B′ of every initial state, then P of every column, `[columns + rank, modes]`.
    right: Vec<Complex64>,
    pub sums: Sums,
    woodbury: Woodbury,
    by_left: Vec<Complex64>,
    by_right: Vec<Complex64>,
    by_half_rate: Vec<Complex64>,
    pub by_step: f64,
    by_k: Vec<Complex64>,
}

/// Gradients by what a channel shares with others.
#[derive(Clone, Default)]
pub(super) struct BySystem {
    pub step: f64,
    pub a: Vec<Complex64>,
    pub b: Vec<Complex64>,
    /// Gradient by P, `[rank, modes]`.
    pub p: Vec<Complex64>,
}

impl System {
    pub fn new(problem: &Problem) -> Self {
        let Problem {
            modes,
            rank,
            readouts,
            ..
        } = *problem;
        let (left, right) = (readouts + rank, problem.columns() + rank);
        let zeros = |len: usize| vec![Complex64::ZERO; len];
        Self {
            problem: *problem,
            step: 0.0,
            half_rate: zeros(modes),
            left: zeros(left * modes),
            right: zeros(right * modes),
            sums: Sums::new(modes, left * right),
            woodbury: Woodbury::new(readouts, problem.columns(), rank),
            by_left: zeros(left * modes),
            by_right: zeros(right * modes),
            by_half_rate: zeros(modes),
            by_step: 0.0,
            by_k: zeros(left * right),
        }
    }

    /// Loads the step, modes and vectors of a channel, and forms the products of its sums.
    pub fn set(&mut self, inputs: &Inputs, channel: usize) {
        let Problem {
            modes,
            rank,
            readouts,
            channels,
            batch,
            ..
        } = self.problem;
        self.step = f64::from(inputs.step[channel]);
        let columns = self.problem.columns();
        for n in 0..modes {
            let copy = self.problem.copy_index(channel, n);
            let mu = 0.5 * self.step * complex::at(inputs.a, copy);
            self.half_rate[n] = mu;
            self.sums.modulus[n] = mu.norm();
            self.sums.damping[n] = mu.re;
            self.right[n] = complex::at(inputs.b, copy);
            for readout in 0..readouts {
                let row = inputs.c.row(readout * channels + channel);
                self.left[readout * modes + n] = complex::at(row, n);
            }
            for r in 0..rank {
                let p = complex::at(inputs.p, self.problem.low_rank_index(r, channel, n));
                self.left[(readouts + r) * modes + n] = p.conj();
                self.right[(columns + r) * modes + n] = p;
            }
        }
        for sequence in 0..batch {
            let state = inputs.state.row(sequence * channels + channel);
            for n in 0..modes {
                // s/Δ + λs/2 = (1 + μ) s/Δ.
                let s = complex::at(state, n);
                self.right[(1 + sequence) * modes + n] = (1.0 + self.half_rate[n]) * s / self.step;
            }
            for r in 0..rank {
                let inner = 0.5 * self.project(state, r);
                for n in 0..modes {
                    let p = self.right[(columns + r) * modes + n];
                    self.right[(1 + sequence) * modes + n] -= p * inner;
                }
            }
        }
        self.set_products();
    }

    /// P* s over both members of every pair, 2 Re Σ_n P_n* s_n.
    fn project(&self, state: &[f32], column: usize) -> f64 {
        let modes = self.problem.modes;
        let row = (self.problem.readouts + column) * modes;
        let terms = (0..modes).map(|n| (self.left[row + n] * complex::at(state, n)).re);
        2.0 * terms.sum::<f64>()
    }

    fn set_products(&mut self) {
        let modes = self.problem.modes;
        let mut index = 0;
        for left in self.left.chunks_exact(modes.max(1)) {
            for right in self.right.chunks_exact(modes.max(1)) {
                for n in 0..modes {
                    let v = left[n] * right[n];
                    let mu = self.half_rate[n];
                    self.sums.direct[index] = v.re;
                    self.sums.crossed[index] = v.re * mu.re + v.im * mu.im;
                    index += 1;
                }
            }
        }
    }

    /// All sums at a block of nodes.
    pub fn forward(&mut self, sine: &Block, cosine: &Block) {
        dispatch(Forward {
            sums: &mut self.sums,
            sine,
            cosine,
        });
    }

    /// The sums at a node of the block, `[readouts + rank, columns + rank]`.
    pub fn gather(&self, node: usize, k: &mut [Complex64]) {
        for (k, [re, im]) in k.iter_mut().zip(&self.sums.k) {
            *k = Complex64::new(re[node], im[node]);
        }
    }

    /// The generating function at a node, `[readouts, columns]`, of its sums, and sine and cosine of half its angle.
    pub fn generate(&mut self, k: &[Complex64], (s, c): (f64, f64), out: &mut [Complex64]) {
        self.woodbury.forward(k, self.step * c, out);
        let scale = self.step * Complex64::new(c, s);
        out.iter_mut().for_each(|value| *value *= scale);
    }

    /// Replaces the sums at a node of the block by the gradients by them, of those by the generating function, `[readouts, columns]`,
    /// which become those by what the factor stands before.
    pub fn pull_node(
        &mut self,
        node: usize,
        k: &[Complex64],
        (s, c): (f64, f64),
        result: &mut [Complex64],
        by_result: &mut [Complex64],
    ) {
        let turn = Complex64::new(c, s);
        self.woodbury.forward(k, self.step * c, result);
        for (value, by) in result.iter().zip(by_result.iter_mut()) {
            self.by_step += (by.conj() * turn * value).re;
            *by *= (self.step * turn).conj();
        }
        let by_g = self
            .woodbury
            .backward(k, self.step * c, by_result, &mut self.by_k);
        self.by_step += by_g * c;
        for ([re, im], by) in self.sums.k.iter_mut().zip(&self.by_k) {
            (re[node], im[node]) = (by.re, by.im);
        }
    }

    /// Takes the gradients of a block to products and modes.
    pub fn pull_block(&mut self, sine: &Block, cosine: &Block) {
        dispatch(Backward {
            sums: &mut self.sums,
            sine,
            cosine,
        });
    }

    /// Forgets the gradients of the last channel.
    pub fn clear_gradients(&mut self) {
        self.sums.clear_gradients();
        self.by_left.fill(Complex64::ZERO);
        self.by_right.fill(Complex64::ZERO);
        self.by_half_rate.fill(Complex64::ZERO);
        self.by_step = 0.0;
    }

    /// The gradients by the inputs, when all blocks are done; rows of C̃ and of states are written.
    pub fn finish(
        &mut self,
        inputs: &Inputs,
        channel: usize,
        c: &mut [&mut [f32]],
        state: &mut [&mut [f32]],
    ) -> BySystem {
        let Problem {
            modes,
            rank,
            readouts,
            ..
        } = self.problem;
        let columns = self.problem.columns();
        self.pull_products();
        for (readout, row) in c.iter_mut().enumerate() {
            for n in 0..modes {
                complex::put(row, n, self.by_left[readout * modes + n]);
            }
        }
        for (sequence, out) in state.iter_mut().enumerate() {
            self.pull_state(inputs, channel, sequence, out);
        }
        let mut by = BySystem {
            step: self.by_step,
            a: Vec::with_capacity(modes),
            b: self.by_right[..modes].to_vec(),
            p: Vec::with_capacity(rank * modes),
        };
        for n in 0..modes {
            let rate = complex::at(inputs.a, self.problem.copy_index(channel, n));
            let by_mu = self.by_half_rate[n];
            by.step += 0.5 * (by_mu.conj() * rate).re;
            by.a.push(0.5 * self.step * by_mu);
        }
        for index in 0..rank * modes {
            let (left, right) = (readouts * modes + index, columns * modes + index);
            by.p.push(self.by_left[left].conj() + self.by_right[right]);
        }
        by
    }

    /// Pulls the derivatives by the products v = x y, |μ|² and Re μ back to both sides and μ.
    fn pull_products(&mut self) {
        let modes = self.problem.modes;
        let right_rows = self.right.len() / modes.max(1);
        for n in 0..modes {
            let mu = self.half_rate[n];
            let mut by_mu = 2.0 * self.sums.by_square[n] * mu + self.sums.by_damping[n];
            for i in (n..self.left.len()).step_by(modes) {
                for j in (n..self.right.len()).step_by(modes) {
                    let index = (i / modes * right_rows + j / modes) * modes + n;
                    let by_crossed = self.sums.by_crossed[index];
                    let (x, y) = (self.left[i], self.right[j]);
                    let by_v = self.sums.by_direct[index] + by_crossed * mu;
                    by_mu += by_crossed * x * y;
                    self.by_left[i] += y.conj() * by_v;
                    self.by_right[j] += x.conj() * by_v;
                }
            }
            self.by_half_rate[n] = by_mu;
        }
    }

    /// Pulls the derivative by B′ = (1 + μ) s/Δ − ½ P (P* s) back to s, μ, Δ and P.
    fn pull_state(&mut self, inputs: &Inputs, channel: usize, sequence: usize, out: &mut [f32]) {
        let Problem {
            modes,
            rank,
            readouts,
            channels,
            ..
        } = self.problem;
        let columns = self.problem.columns();
        let state = inputs.state.row(sequence * channels + channel);
        let first = (1 + sequence) * modes;
        let mut by_state: Vec<_> = (0..modes)
            .map(|n| {
                let (by, s) = (self.by_right[first + n], complex::at(state, n));
                let shift = 1.0 + self.half_rate[n];
                self.by_half_rate[n] += s.conj() * by / self.step;
                self.by_step -= (by.conj() * shift * s).re / (self.step * self.step);
                shift.conj() * by / self.step
            })
            .collect();
        for r in 0..rank {
            let inner = self.project(state, r);
            let row = (columns + r) * modes;
            let pairs = (0..modes).map(|n| (self.by_right[first + n].conj() * self.right[row + n]).re);
            // The gradient by P* s = 2 Re Σ P_n* s_n.
            let by_inner = -0.5 * pairs.sum::<f64>();
            for n in 0..modes {
                let s = complex::at(state, n);
                by_state[n] += 2.0 * by_inner * self.left[(readouts + r) * modes + n].conj();
                let by = 2.0 * by_inner * s - 0.5 * inner * self.by_right[first + n];
                self.by_right[row + n] += by;
            }
        }
        for (n, by) in by_state.into_iter().enumerate() {
            complex::put(out, n, by);
        }
    }
}
