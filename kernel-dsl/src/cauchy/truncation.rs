//! The readout C̃ = C(I − Ā^M) that a kernel of M positions needs, from C and back.
//!
//! A kernel cut at M positions has the generating function C(I − Ā^M)(I − Āω)⁻¹B̄ at the M-th roots of unity, so that C̃ holds all that
//! the cut costs. Checkpoints of S4 store C̃ for their length `l_kernel`; a recurrence needs C. All of it runs in f64.
//!
//! Backward of [`truncate`]. Let t be the cotangent of C̃, h = Δ/2, c_k = C Āᵏ a row and w_j = Āʲ t* a column. From (I − hA)Ā = I + hA
//! comes dĀ = (I − hA)⁻¹ d(hA) (I + Ā), so that with e_k = c_k (I − hA)⁻¹ and f_j = w_j + w_{j+1} the loss changes by
//!
//! ```text
//! ½ Re (dC (t* − w_M)) − ½ Re Σ_k e_k d(hA) f_{M−1−k}                    over both members of every pair
//! ```
//!
//! Rows c_k are formed forward and needed backward: every √M-th is kept, and those between are formed again.

use rayon::prelude::*;

use super::discrete::System;
use super::problem::OPERATOR;
use super::reference::doubled;
use super::{CauchyError, Inputs, Problem};
use crate::complex::{self, Complex64};

/// C̃ = C(I − Ā^M) for `inputs.c` = C and M = `problem.nodes`. Time is O(M N) for a row.
///
/// # Shapes
/// `out` `[readouts · channels, modes]`, complex.
///
/// # Errors
/// [`CauchyError`] when a shape or a step does not fit, or a mode grows beyond all numbers.
pub fn truncate(problem: &Problem, inputs: &Inputs, out: &mut [f32]) -> Result<(), CauchyError> {
    carried(problem, inputs, out, |c, carried| c - carried)
}

/// C̃ of 2M positions, C̃(I + Ā^M), for `inputs.c` = C̃ of M = `problem.nodes`. Time is O(M N) for a row.
///
/// # Shapes
/// `out` `[readouts · channels, modes]`, complex.
///
/// # Errors
/// As [`truncate`].
pub fn extend(problem: &Problem, inputs: &Inputs, out: &mut [f32]) -> Result<(), CauchyError> {
    carried(problem, inputs, out, |c, carried| c + carried)
}

/// C of `inputs.c` = C̃ = C(I − Ā^M) and M = `problem.nodes`, by elimination in a matrix of 2N rows.
///
/// Modes that hardly decay within M positions make it ill-conditioned: by |1 − ā^M|, which is about MΔ|λ| where that is small.
///
/// # Shapes
/// `out` `[readouts · channels, modes]`, complex.
///
/// # Errors
/// As [`truncate`], and [`CauchyError::NotFinite`] where a mode does not decay at all.
pub fn restore(problem: &Problem, inputs: &Inputs, out: &mut [f32]) -> Result<(), CauchyError> {
    each_channel(problem, inputs, out, |system, rows| {
        let power = system.dense_power(problem.nodes);
        let remainder = power.shifted(Complex64::ONE, -Complex64::ONE).transposed();
        remainder.solve(rows);
    })
}

fn carried(
    problem: &Problem,
    inputs: &Inputs,
    out: &mut [f32],
    combine: fn(Complex64, Complex64) -> Complex64,
) -> Result<(), CauchyError> {
    each_channel(problem, inputs, out, |system, rows| {
        for row in rows {
            let mut moved = row[..problem.modes].to_vec();
            (0..problem.nodes).for_each(|_| system.step_row(&mut moved));
            let pairs = row.iter_mut().zip(moved);
            pairs.for_each(|(c, moved)| *c = combine(*c, moved));
        }
    })
}

/// Replaces the rows of C of every channel, each with its conjugates behind it.
fn each_channel(
    problem: &Problem,
    inputs: &Inputs,
    out: &mut [f32],
    change: impl Fn(&System, &mut [Vec<Complex64>]) + Sync,
) -> Result<(), CauchyError> {
    problem.validate_inputs(inputs)?;
    let Problem {
        channels,
        modes,
        readouts,
        ..
    } = *problem;
    OPERATOR.values("the changed c", 2 * readouts * channels * modes, out.len())?;
    let changed: Result<Vec<_>, _> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let system = System::new(problem, inputs, channel)?;
            let rows = (0..readouts).map(|r| doubled(inputs.c.row(r * channels + channel)));
            let mut rows: Vec<_> = rows.collect();
            change(&system, &mut rows);
            match rows.iter().flatten().all(|c| c.is_finite()) {
                true => Ok(rows),
                false => Err(CauchyError::NotFinite {
                    what: "readout",
                    channel,
                }),
            }
        })
        .collect();
    for (channel, rows) in changed?.into_iter().enumerate() {
        for (r, row) in rows.into_iter().enumerate() {
            let first = (r * channels + channel) * modes;
            let stored = row.into_iter().take(modes).enumerate();
            stored.for_each(|(n, c)| complex::put(out, first + n, c));
        }
    }
    Ok(())
}

/// Derivatives of the loss by what [`truncate`] reads, overwritten.
#[derive(Debug)]
pub struct TruncationGradients<'a> {
    /// Derivative by Δ, `[channels]`.
    pub step: &'a mut [f32],
    /// Derivative by λ, complex `[copies, modes]`.
    pub a: &'a mut [f32],
    /// Derivative by P, complex `[rank, copies, modes]`.
    pub p: &'a mut [f32],
    /// Derivative by C, complex `[readouts · channels, modes]`.
    pub c: &'a mut [f32],
}

/// Gradients of Σ ⟨cotangent, C̃⟩ by all that [`truncate`] reads. Time is O(M N) for a row, memory O(√M N).
///
/// # Shapes
/// `cotangent` `[readouts · channels, modes]`, complex.
///
/// # Errors
/// As [`truncate`].
pub fn truncate_backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangent: &[f32],
    gradients: &mut TruncationGradients,
) -> Result<(), CauchyError> {
    problem.validate_inputs(inputs)?;
    let Problem {
        channels,
        modes,
        rank,
        copies,
        readouts,
        ..
    } = *problem;
    let row_len = 2 * modes;
    let rows = readouts * channels;
    OPERATOR.cotangent("the truncated c", rows * row_len, Some(cotangent))?;
    OPERATOR.gradient("step", channels, gradients.step)?;
    OPERATOR.gradient("a", copies * row_len, gradients.a)?;
    OPERATOR.gradient("p", rank * copies * row_len, gradients.p)?;
    OPERATOR.gradient("c", rows * row_len, gradients.c)?;
    let pulled: Result<Vec<_>, CauchyError> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let system = System::new(problem, inputs, channel)?;
            let mut by = BySystem::new(modes, rank);
            let rows = (0..readouts).map(|readout| {
                let row = readout * channels + channel;
                let cotangent = &cotangent[row * row_len..(row + 1) * row_len];
                pull_row(&system, inputs.c.row(row), cotangent, problem.nodes, &mut by)
            });
            let rows: Vec<_> = rows.collect();
            Ok((rows, by))
        })
        .collect();
    let zeros = |len: usize| vec![Complex64::ZERO; len];
    let (mut a, mut p) = (zeros(copies * modes), zeros(rank * copies * modes));
    for (channel, (rows, by)) in pulled?.into_iter().enumerate() {
        for (readout, row) in rows.into_iter().enumerate() {
            let first = (readout * channels + channel) * modes;
            let row = row.into_iter().enumerate();
            row.for_each(|(n, c)| complex::put(gradients.c, first + n, c));
        }
        gradients.step[channel] = by.step as f32;
        for n in 0..modes {
            a[problem.copy_index(channel, n)] += by.a[n];
            for column in 0..rank {
                p[problem.low_rank_index(column, channel, n)] += by.p[column * modes + n];
            }
        }
    }
    for (sums, into) in [(a, &mut *gradients.a), (p, &mut *gradients.p)] {
        let sums = sums.into_iter().enumerate();
        sums.for_each(|(index, sum)| complex::put(into, index, sum));
    }
    Ok(())
}

/// Gradients by what the readouts of a channel share.
struct BySystem {
    step: f64,
    a: Vec<Complex64>,
    p: Vec<Complex64>,
}

impl BySystem {
    fn new(modes: usize, rank: usize) -> Self {
        Self {
            step: 0.0,
            a: vec![Complex64::ZERO; modes],
            p: vec![Complex64::ZERO; rank * modes],
        }
    }

    /// Adds what −½ Re (e d(hA) f) gives, of a row e and a column f over both members of every pair.
    fn add(&mut self, system: &System, e: &[Complex64], f: &[Complex64]) {
        let h = system.half_step;
        for (n, (e, f)) in e.iter().zip(f).enumerate() {
            let product = e * f;
            self.a[n] -= h * product.conj();
            // h λ = μ, and h = Δ/2.
            self.step -= 0.5 * (product * system.half_rate[n]).re / h;
        }
        let modes = e.len();
        for column in 0..system.low_rank.len() {
            let (left, right) = (system.project(e, column), system.gather(f, column));
            self.step += 0.25 * left * right;
            let by = &mut self.p[column * modes..(column + 1) * modes];
            for (by, (e, f)) in by.iter_mut().zip(e.iter().zip(f)) {
                *by += h * (right * e.conj() + left * f);
            }
        }
    }
}

/// The gradient by a row of C; adds those by the system.
fn pull_row(
    system: &System,
    c: &[f32],
    cotangent: &[f32],
    nodes: usize,
    by: &mut BySystem,
) -> Vec<Complex64> {
    let modes = system.half_rate.len();
    let read = |values: &[f32]| -> Vec<_> { (0..modes).map(|n| complex::at(values, n)).collect() };
    let stride = nodes.isqrt().max(1);
    let mut row = read(c);
    let mut kept = Vec::with_capacity(nodes.div_ceil(stride));
    for k in 0..nodes {
        if k % stride == 0 {
            kept.push(row.clone());
        }
        system.step_row(&mut row);
    }
    let cotangent = read(cotangent);
    let mut column: Vec<_> = cotangent.iter().map(Complex64::conj).collect();
    for (index, first) in kept.into_iter().enumerate().rev() {
        let count = stride.min(nodes - index * stride);
        let mut rows = vec![first];
        for k in 1..count {
            let mut next = rows[k - 1].clone();
            system.step_row(&mut next);
            rows.push(next);
        }
        for row in rows.iter_mut().rev() {
            system.solve_row(row);
            let mut sum = column.clone();
            system.step_column(&mut column);
            sum.iter_mut().zip(&column).for_each(|(sum, w)| *sum += w);
            by.add(system, row, &sum);
        }
    }
    let pairs = cotangent.iter().zip(&column);
    pairs.map(|(t, w)| t - w.conj()).collect()
}
