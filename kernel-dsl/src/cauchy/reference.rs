//! The definition in f64: dense matrices over both members of every pair, and a Fourier sum term by term.

use std::f64::consts::TAU;

use super::dense::Square;
use super::{CauchyError, Cotangents, GradientBuffers, Inputs, Operands, Problem, Results};
use crate::complex::{self, Complex64};

/// Kernels and responses.
///
/// # Errors
/// [`CauchyError`] when a shape or a step does not fit.
pub fn kernel(problem: &Problem, inputs: &Inputs) -> Result<Results<Vec<f64>>, CauchyError> {
    problem.validate_inputs(inputs)?;
    let Problem {
        channels,
        readouts,
        batch,
        nodes,
        length,
        ..
    } = *problem;
    let mut results = Results {
        kernel: vec![0.0; readouts * channels * length],
        state_kernel: vec![0.0; batch * readouts * channels * length],
    };
    for channel in 0..channels {
        let system = System::new(problem, inputs, channel);
        for node in 0..nodes {
            let omega = root_of_unity(node, nodes);
            let mut columns = system.columns.clone();
            system.resolvent(omega).solve(&mut columns);
            for readout in 0..readouts {
                let c = doubled(inputs.c.row(readout * channels + channel));
                for (index, x) in columns.iter().enumerate() {
                    let value = 2.0 * system.step * dot(&c, x);
                    let row = readout * channels + channel;
                    let out = match index {
                        0 => &mut results.kernel[row * length..],
                        _ => &mut results.state_kernel[((index - 1) * readouts * channels + row) * length..],
                    };
                    for (l, out) in out.iter_mut().take(length).enumerate() {
                        *out += (value * root_of_unity(node * l, nodes).conj()).re / nodes as f64;
                    }
                }
            }
        }
    }
    Ok(results)
}

/// C̃ = C(I − Ā^M), step by step with dense matrices, complex `[readouts · channels, modes]`.
///
/// # Errors
/// As [`kernel`].
pub fn truncate(problem: &Problem, inputs: &Inputs) -> Result<Vec<f64>, CauchyError> {
    problem.validate_inputs(inputs)?;
    let Problem {
        channels,
        readouts,
        modes,
        nodes,
        ..
    } = *problem;
    let mut out = Vec::with_capacity(2 * readouts * channels * modes);
    for row in 0..readouts * channels {
        let system = System::new(problem, inputs, row % channels);
        let half = Complex64::from(0.5 * system.step);
        let (less, more) = (
            system.a.shifted(Complex64::ONE, -half),
            system.a.shifted(Complex64::ONE, half),
        );
        let c = doubled(inputs.c.row(row));
        let mut carried = vec![c.clone()];
        for _ in 0..nodes {
            less.transposed().solve(&mut carried);
            carried[0] = more.transposed().apply(&carried[0]);
        }
        let pairs = c.iter().zip(&carried[0]).take(modes);
        out.extend(pairs.flat_map(|(c, carried)| [(c - carried).re, (c - carried).im]));
    }
    Ok(out)
}

/// Gradients of Σ ⟨cotangent, output⟩ by all inputs.
///
/// # Errors
/// As [`kernel`].
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
) -> Result<GradientBuffers<f64>, CauchyError> {
    problem.validate_inputs(inputs)?;
    let Problem {
        channels,
        readouts,
        batch,
        modes,
        nodes,
        ..
    } = *problem;
    let mut gradients: Operands<Vec<f64>, Vec<f64>> = inputs.extents(problem).zeros();
    for channel in 0..channels {
        let system = System::new(problem, inputs, channel);
        let size = 2 * modes;
        let mut by_a = Square::zeros(size);
        let mut by_columns = vec![vec![Complex64::ZERO; size]; 1 + batch];
        let mut by_step = 0.0;
        for node in 0..nodes {
            let omega = root_of_unity(node, nodes);
            let resolvent = system.resolvent(omega);
            let mut columns = system.columns.clone();
            resolvent.clone().solve(&mut columns);
            for readout in 0..readouts {
                let row = readout * channels + channel;
                let c = doubled(inputs.c.row(row));
                let mut left = vec![c.clone()];
                resolvent.transposed().solve(&mut left);
                let z = &left[0];
                for (index, x) in columns.iter().enumerate() {
                    let cotangent = match index {
                        0 => cotangents.kernel.as_ref().map(|k| k.row(row)),
                        _ => {
                            let row = (index - 1) * readouts * channels + row;
                            cotangents.state_kernel.as_ref().map(|k| k.row(row))
                        }
                    };
                    let Some(cotangent) = cotangent else {
                        continue;
                    };
                    let terms = cotangent.iter().enumerate();
                    let by_value: Complex64 = terms
                        .map(|(l, &k)| f64::from(k) * root_of_unity(node * l, nodes))
                        .sum();
                    let by_value = by_value / nodes as f64;
                    by_step += inner(by_value, 2.0 * dot(&c, x));
                    let scaled = 2.0 * system.step * by_value;
                    let by_c: Vec<_> = x.iter().map(|x| x.conj() * scaled).collect();
                    add_halves(&mut gradients.c[row * size..], &by_c);
                    let moved = dot(z, &system.a.apply(x));
                    by_step += inner(scaled, (1.0 + omega) * moved);
                    let factor = (system.step * (1.0 + omega)).conj() * scaled;
                    by_a.add_outer(factor, &conjugated(z), &conjugated(x));
                    let sums = by_columns[index].iter_mut().zip(z);
                    sums.for_each(|(sum, z)| *sum += z.conj() * scaled);
                }
            }
        }
        // B′ = s/Δ + A s/2.
        for (sequence, by) in by_columns.iter().skip(1).enumerate() {
            let row = sequence * channels + channel;
            let state = doubled(inputs.state.row(row));
            by_a.add_outer(Complex64::from(0.5), by, &conjugated(&state));
            let pairs = by.iter().zip(&state);
            by_step -= pairs.map(|(by, s)| inner(*by, *s)).sum::<f64>() / system.step.powi(2);
            let moved = system.a.transposed().apply(&conjugated(by));
            let pairs = by.iter().zip(moved);
            let by_state: Vec<_> = pairs
                .map(|(by, moved)| by / system.step + 0.5 * moved.conj())
                .collect();
            add_halves(&mut gradients.state[row * size..], &by_state);
        }
        gradients.step[channel] += by_step;
        add_halves(
            &mut gradients.b[2 * problem.copy_index(channel, 0)..],
            &by_columns[0],
        );
        let by_rates: Vec<_> = (0..size).map(|i| by_a.at(i, i)).collect();
        add_halves(&mut gradients.a[2 * problem.copy_index(channel, 0)..], &by_rates);
        for (column, p) in system.low_rank.iter().enumerate() {
            let (rows, columns) = (by_a.apply(p), by_a.transposed().apply(&conjugated(p)));
            let pairs = rows.iter().zip(columns);
            let by: Vec<_> = pairs.map(|(row, column)| -(row + column.conj())).collect();
            let start = 2 * problem.low_rank_index(column, channel, 0);
            add_halves(&mut gradients.p[start..], &by);
        }
    }
    Ok(gradients)
}

/// The system of one channel, over both members of every pair.
struct System {
    step: f64,
    a: Square,
    low_rank: Vec<Vec<Complex64>>,
    /// B, and s/Δ + A s/2 for every initial state.
    columns: Vec<Vec<Complex64>>,
}

impl System {
    fn new(problem: &Problem, inputs: &Inputs, channel: usize) -> Self {
        let Problem {
            modes,
            rank,
            batch,
            channels,
            ..
        } = *problem;
        let step = f64::from(inputs.step[channel]);
        let start = 2 * problem.copy_index(channel, 0);
        let part = |values: &[f32], start: usize| doubled(&values[start..start + 2 * modes]);
        let column = |r| part(inputs.p, 2 * problem.low_rank_index(r, channel, 0));
        let low_rank: Vec<_> = (0..rank).map(column).collect();
        let mut a = Square::zeros(2 * modes);
        for (i, rate) in part(inputs.a, start).into_iter().enumerate() {
            *a.at_mut(i, i) = rate;
        }
        for p in &low_rank {
            for (i, x) in p.iter().enumerate() {
                for (j, y) in p.iter().enumerate() {
                    *a.at_mut(i, j) -= x * y.conj();
                }
            }
        }
        let mut columns = vec![part(inputs.b, start)];
        for sequence in 0..batch {
            let state = doubled(inputs.state.row(sequence * channels + channel));
            let moved = a.apply(&state);
            let pairs = state.iter().zip(moved);
            columns.push(pairs.map(|(s, moved)| s / step + 0.5 * moved).collect());
        }
        Self {
            step,
            a,
            low_rank,
            columns,
        }
    }

    /// 2(1 − ω) − Δ(1 + ω) A.
    fn resolvent(&self, omega: Complex64) -> Square {
        self.a.shifted(2.0 * (1.0 - omega), -self.step * (1.0 + omega))
    }
}

/// Root of unity e^{−2πi k/n}.
fn root_of_unity(k: usize, n: usize) -> Complex64 {
    Complex64::cis(-TAU * (k % n) as f64 / n as f64)
}

/// Stored modes, and then their conjugates.
pub(super) fn doubled(values: &[f32]) -> Vec<Complex64> {
    let modes = values.len() / 2;
    let stored = (0..modes).map(|n| complex::at(values, n));
    let conjugates = (0..modes).map(|n| complex::at(values, n).conj());
    stored.chain(conjugates).collect()
}

/// Adds the gradient of stored modes, of those by them and by their conjugates.
fn add_halves(values: &mut [f64], by: &[Complex64]) {
    let (stored, conjugates) = by.split_at(by.len() / 2);
    for ((value, x), y) in values.chunks_exact_mut(2).zip(stored).zip(conjugates) {
        let sum = x + y.conj();
        value[0] += sum.re;
        value[1] += sum.im;
    }
}

fn conjugated(x: &[Complex64]) -> Vec<Complex64> {
    x.iter().map(Complex64::conj).collect()
}

/// Σ x y, the inner product of two vectors without conjugation.
fn dot(x: &[Complex64], y: &[Complex64]) -> Complex64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Re(x* y), the real inner product of two complex numbers.
fn inner(x: Complex64, y: Complex64) -> f64 {
    (x.conj() * y).re
}
