//! The system of one channel in f64: continuous as it is given, and discrete as a diagonal with a low-rank feedback.

use pulp::c64;

use super::discretise::Mode;
use super::problem::{Gradients, Inputs, Problem, Rule};

/// Δ, Λ, B, C, P and D of one channel, or derivatives by them.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    /// 1 where there is none of the channel.
    pub step: f64,
    pub a: Vec<c64>,
    pub b: Vec<c64>,
    /// C of every output, `[outputs, state_dim]`.
    pub c: Vec<c64>,
    /// Columns of P, `[rank, state_dim]`.
    pub p: Vec<c64>,
    pub skip: Vec<f64>,
}

fn complex(values: &[f32]) -> impl Iterator<Item = c64> {
    let pairs = values.chunks_exact(2);
    pairs.map(|pair| c64::new(f64::from(pair[0]), f64::from(pair[1])))
}

impl Channel {
    /// The system of channel `h`.
    pub(super) fn of(problem: &Problem, inputs: &Inputs, h: usize) -> Self {
        let (n, copy) = (problem.state_dim, h % problem.copies);
        let of_copy = |values: &[f32]| complex(&values[2 * n * copy..][..2 * n]).collect::<Vec<_>>();
        let mut c = Vec::with_capacity(problem.outputs * n);
        for output in 0..problem.outputs {
            c.extend(complex(
                &inputs.c[2 * n * (output * problem.channels + h)..][..2 * n],
            ));
        }
        let mut p = Vec::with_capacity(problem.rank * n);
        for k in 0..problem.rank {
            let values = inputs.low_rank.unwrap_or_default();
            p.extend(complex(&values[2 * n * (k * problem.copies + copy)..][..2 * n]));
        }
        let skip = |output: usize| {
            inputs
                .skip
                .map_or(0.0, |skip| f64::from(skip[output * problem.channels + h]))
        };
        Self {
            step: inputs.step_size.map_or(1.0, |steps| f64::from(steps[h])),
            a: of_copy(inputs.a),
            b: of_copy(inputs.b),
            c,
            p,
            skip: (0..problem.outputs).map(skip).collect(),
        }
    }

    /// No derivative by anything.
    pub(super) fn zeros(problem: &Problem) -> Self {
        let zeros = |count| vec![c64::new(0.0, 0.0); count * problem.state_dim];
        Self {
            step: 0.0,
            a: zeros(1),
            b: zeros(1),
            c: zeros(problem.outputs),
            p: zeros(problem.rank),
            skip: vec![0.0; problem.outputs],
        }
    }

    /// Adds derivatives by Δ, Λ, B and P.
    pub(super) fn add(&mut self, other: &Self) {
        self.step += other.step;
        for (sum, term) in [
            (&mut self.a, &other.a),
            (&mut self.b, &other.b),
            (&mut self.p, &other.p),
        ] {
            sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
        }
    }
}

/// Writes the derivatives of all channels, those of a copy summed over the channels that share it.
pub(super) fn write_gradients<T>(
    problem: &Problem,
    channels: &[Channel],
    gradients: &mut Gradients<T>,
    round: fn(f64) -> T,
) {
    let (n, copies) = (problem.state_dim, problem.copies);
    let write = |values: &mut [T], at: usize, source: &mut dyn Iterator<Item = c64>| {
        for (pair, value) in values[2 * n * at..][..2 * n].chunks_exact_mut(2).zip(source) {
            pair[0] = round(value.re);
            pair[1] = round(value.im);
        }
    };
    for copy in 0..copies {
        let mut sum = Channel::zeros(problem);
        channels
            .iter()
            .skip(copy)
            .step_by(copies)
            .for_each(|channel| sum.add(channel));
        write(gradients.a, copy, &mut sum.a.iter().copied());
        write(gradients.b, copy, &mut sum.b.iter().copied());
        if let Some(low_rank) = &mut gradients.low_rank {
            for k in 0..problem.rank {
                write(low_rank, k * copies + copy, &mut sum.p[k * n..].iter().copied());
            }
        }
    }
    for (h, channel) in channels.iter().enumerate() {
        for output in 0..problem.outputs {
            let at = output * problem.channels + h;
            write(gradients.c, at, &mut channel.c[output * n..].iter().copied());
            if let Some(skip) = &mut gradients.skip {
                skip[at] = round(channel.skip[output]);
            }
        }
        if let Some(step) = &mut gradients.step_size {
            step[h] = round(channel.step);
        }
    }
}

/// The discrete system of one channel, or derivatives by it:
///
/// ```text
/// s_k = 2 Re(E_k · x_{t−1})          x_t = Ā ∘ x_{t−1} − Σ_k F_k s_k + B̄ u_t
/// ```
///
/// With i = 1 / (1 − ΔΛ/2), U = i∘P and W = (1 + Δ/2 P* i P)⁻¹, which is real, the bilinear rule gives E = i∘P̄, F = Δ U W and
/// Ā = 2i − 1: it says x_t = −x_{t−1} + 2R (x_{t−1} + Δ/2 B u_t), whose resolvent R = (1 − Δ/2 (Λ − P P*))⁻¹ is i − Δ/2 U W P* i by
/// Woodbury's identity. A step costs O(N r) in this form as in that of the literature, with one product by a diagonal less.
#[derive(Clone, Debug)]
pub(super) struct Discrete {
    pub modes: Vec<Mode>,
    /// E_k of every rank k, by which s_k is read from the state, `[rank, state_dim]`.
    pub read: Vec<c64>,
    /// F_k of every rank k, by which s_k is written to the state, `[rank, state_dim]`.
    pub write: Vec<c64>,
}

/// What E and F are made of.
struct LowRank {
    /// i = 1 / (1 − ΔΛ/2), `[state_dim]`.
    inverse: Vec<c64>,
    /// U = i∘P, `[rank, state_dim]`.
    u: Vec<c64>,
    /// P* i P, `[rank, rank]`.
    s: Vec<f64>,
    /// W = (1 + Δ/2 P* i P)⁻¹, which is real, `[rank, rank]`.
    w: Vec<f64>,
}

fn real_inner(a: &[c64], b: &[c64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.re * b.re + a.im * b.im).sum()
}

fn scaled_add(sum: &mut [c64], factor: f64, term: &[c64]) {
    sum.iter_mut()
        .zip(term)
        .for_each(|(sum, term)| *sum += term * factor);
}

impl LowRank {
    fn of(channel: &Channel) -> Self {
        let n = channel.a.len();
        let inverse: Vec<c64> = channel
            .a
            .iter()
            .map(|a| (1.0 - a * (0.5 * channel.step)).inv())
            .collect();
        let rank = channel.p.len() / n.max(1);
        let u: Vec<c64> = channel
            .p
            .iter()
            .enumerate()
            .map(|(at, p)| p * inverse[at % n])
            .collect();
        let mut s = vec![0.0; rank * rank];
        for (at, s) in s.iter_mut().enumerate() {
            *s = 2.0 * real_inner(&channel.p[at / rank * n..][..n], &u[at % rank * n..][..n]);
        }
        let mut w: Vec<f64> = s.iter().map(|s| 0.5 * channel.step * s).collect();
        (0..rank).for_each(|k| w[k * rank + k] += 1.0);
        Self {
            inverse,
            u,
            s,
            w: inverted(w, rank),
        }
    }
}

/// The inverse of a matrix `[size, size]` by elimination. Those of stable systems have a symmetric part of at least 1.
pub(super) fn inverted(mut matrix: Vec<f64>, size: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; size * size];
    (0..size).for_each(|k| inverse[k * size + k] = 1.0);
    for column in 0..size {
        let magnitude = |row: usize, matrix: &[f64]| matrix[row * size + column].abs();
        let mut pivot = column;
        for row in column + 1..size {
            if magnitude(row, &matrix) > magnitude(pivot, &matrix) {
                pivot = row;
            }
        }
        for k in 0..size {
            matrix.swap(pivot * size + k, column * size + k);
            inverse.swap(pivot * size + k, column * size + k);
        }
        let scale = 1.0 / matrix[column * size + column];
        for k in 0..size {
            matrix[column * size + k] *= scale;
            inverse[column * size + k] *= scale;
        }
        for row in (0..size).filter(|&row| row != column) {
            let factor = matrix[row * size + column];
            for k in 0..size {
                matrix[row * size + k] -= factor * matrix[column * size + k];
                inverse[row * size + k] -= factor * inverse[column * size + k];
            }
        }
    }
    inverse
}

impl Discrete {
    pub(super) fn of(rule: Rule, channel: &Channel) -> Self {
        let modes = channel.a.iter().zip(&channel.b);
        let mut modes: Vec<Mode> = modes.map(|(a, b)| rule.mode(channel.step, *a, *b)).collect();
        if channel.p.is_empty() {
            return Self {
                modes,
                read: Vec::new(),
                write: Vec::new(),
            };
        }
        let (n, low_rank) = (channel.a.len(), LowRank::of(channel));
        let rank = channel.p.len() / n;
        let read: Vec<c64> = channel
            .p
            .iter()
            .enumerate()
            .map(|(at, p)| p.conj() * low_rank.inverse[at % n])
            .collect();
        let mut write = vec![c64::new(0.0, 0.0); rank * n];
        for j in 0..rank {
            for i in 0..rank {
                let factor = channel.step * low_rank.w[i * rank + j];
                scaled_add(&mut write[j * n..][..n], factor, &low_rank.u[i * n..][..n]);
            }
        }
        for (k, sigma) in feedback_of_input(channel, &read).into_iter().enumerate() {
            for (mode, f) in modes.iter_mut().zip(&write[k * n..]) {
                mode.input -= f * sigma;
            }
        }
        Self { modes, read, write }
    }

    /// Derivatives by Δ, Λ, B and P from those by the discrete system.
    pub(super) fn pull_back(&self, rule: Rule, channel: &Channel, cotangent: &Self) -> Channel {
        let n = channel.a.len();
        let mut found = Channel {
            step: 0.0,
            ..channel.clone()
        };
        for (i, by_mode) in cotangent.modes.iter().enumerate() {
            let (a, b) = (channel.a[i], channel.b[i]);
            // Without the feedback of the input: the rule of the diagonal.
            let mode = rule.mode(channel.step, a, b);
            let gradient = rule.pull_back(channel.step, (a, b), &mode, by_mode);
            found.step += gradient.step;
            (found.a[i], found.b[i]) = (gradient.a, gradient.b);
        }
        if n > 0 && !channel.p.is_empty() {
            self.pull_back_low_rank(channel, cotangent, &mut found);
        }
        found
    }

    fn pull_back_low_rank(&self, channel: &Channel, cotangent: &Self, found: &mut Channel) {
        let (n, step) = (channel.a.len(), channel.step);
        let rank = channel.p.len() / n;
        let part = |k: usize| k * n..(k + 1) * n;
        let low_rank = LowRank::of(channel);
        let by_input: Vec<c64> = cotangent.modes.iter().map(|mode| mode.input).collect();
        let (mut by_read, mut by_write) = (cotangent.read.clone(), cotangent.write.clone());
        // B̄ = Δ i B − Σ_k F_k σ_k with σ_k = Δ Re(E_k · B).
        for (k, sigma) in feedback_of_input(channel, &self.read).into_iter().enumerate() {
            let by_sigma = -real_inner(&self.write[part(k)], &by_input);
            scaled_add(&mut by_write[part(k)], -sigma, &by_input);
            found.step += by_sigma * sigma / step;
            for i in 0..n {
                by_read[k * n + i] += channel.b[i].conj() * (by_sigma * step);
                found.b[i] += self.read[k * n + i].conj() * (by_sigma * step);
            }
        }
        // F_j = Δ Σ_i U_i W_ij.
        let mut by_u = vec![c64::new(0.0, 0.0); rank * n];
        let mut by_w = vec![0.0; rank * rank];
        for j in 0..rank {
            found.step += real_inner(&self.write[part(j)], &by_write[part(j)]) / step;
            for i in 0..rank {
                let w = low_rank.w[i * rank + j];
                scaled_add(&mut by_u[part(i)], step * w, &by_write[part(j)]);
                by_w[i * rank + j] = step * real_inner(&low_rank.u[part(i)], &by_write[part(j)]);
            }
        }
        let by_matrix = of_inverse(&low_rank.w, &by_w, rank);
        // 1 + Δ/2 S with S_ij = 2 Re(P̄_i · U_j).
        let mut by_p = vec![c64::new(0.0, 0.0); rank * n];
        for (at, by) in by_matrix.iter().enumerate() {
            let (i, j) = (at / rank, at % rank);
            found.step += 0.5 * by * low_rank.s[at];
            scaled_add(&mut by_p[part(i)], step * by, &low_rank.u[part(j)]);
            scaled_add(&mut by_u[part(j)], step * by, &channel.p[part(i)]);
        }
        // U = i P, E = i P̄ and i = 1 / (1 − ΔΛ/2).
        for at in 0..rank * n {
            let (i, p) = (low_rank.inverse[at % n], channel.p[at]);
            by_p[at] += i.conj() * by_u[at] + i * by_read[at].conj();
            let by_inverse = p.conj() * by_u[at] + p * by_read[at];
            let slope = i * i * 0.5;
            found.a[at % n] += (slope * step).conj() * by_inverse;
            found.step += ((slope * channel.a[at % n]).conj() * by_inverse).re;
        }
        found.p = by_p;
    }
}

/// σ_k = Δ Re(E_k · B): what the input of a token feeds back at once.
fn feedback_of_input(channel: &Channel, read: &[c64]) -> Vec<f64> {
    let n = channel.b.len();
    let sum = |read: &[c64]| read.iter().zip(&channel.b).map(|(e, b)| (e * b).re).sum::<f64>();
    read.chunks_exact(n.max(1))
        .map(|read| channel.step * sum(read))
        .collect()
}

/// The derivative by a matrix, −Wᵀ W̄ Wᵀ, from that by its inverse W.
fn of_inverse(w: &[f64], by_w: &[f64], rank: usize) -> Vec<f64> {
    let mut result = vec![0.0; rank * rank];
    for (at, result) in result.iter_mut().enumerate() {
        let (i, j) = (at / rank, at % rank);
        for k in 0..rank {
            for l in 0..rank {
                *result -= w[k * rank + i] * by_w[k * rank + l] * w[j * rank + l];
            }
        }
    }
    result
}
