//! Gradients of input, gate, weight and bias.

use super::{TASK_WORK, THREADED_WORK, add, dot, multiply, normalise, sum};
use crate::Rows;
use crate::gated_norm::{GateOrder, Gradients, Inputs, NormError, Problem, Statistic};
use crate::math;
use crate::simd::{dispatch, mul_add_one};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Gradients of the loss by all that [`gated_norm`](super::gated_norm) reads, from the cotangent of its output.
///
/// Sums over rows are taken in an order that does not depend on the number of threads.
///
/// # Shapes
/// `cotangent` `[rows, features]`, the rest as in [`Inputs`] and [`Gradients`].
///
/// # Errors
/// [`NormError`] when a shape does not fit; nothing is written then.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangent: Rows,
    gradients: &mut Gradients,
) -> Result<(), NormError> {
    problem.validate_backward(inputs, cotangent, gradients)?;
    let features = problem.features;
    if features == 0 {
        return Ok(());
    }
    let rows = (TASK_WORK / features).max(1);
    let mut gates: Vec<Option<&mut [f32]>> = match &mut gradients.gate {
        Some(gate) => gate.chunks_mut(rows * features).map(Some).collect(),
        None => Vec::new(),
    };
    gates.resize_with(problem.rows.div_ceil(rows), || None);
    let task = |(i, (input, gate)): (usize, (&mut [f32], Option<&mut [f32]>))| {
        let mut sums = vec![0.0; 2 * features];
        dispatch(PullBack {
            problem,
            inputs,
            cotangent,
            first: i * rows,
            input,
            gate,
            sums: &mut sums,
        });
        sums
    };
    let parts: Vec<Vec<f32>> = if problem.len() < THREADED_WORK {
        let chunks = gradients.input.chunks_mut(rows * features);
        chunks.zip(gates).enumerate().map(task).collect()
    } else {
        let chunks = gradients.input.par_chunks_mut(rows * features);
        chunks.zip(gates).enumerate().map(task).collect()
    };
    let sums = [&mut gradients.weight, &mut gradients.bias];
    for (i, gradient) in sums.into_iter().enumerate() {
        if let Some(gradient) = gradient {
            gradient.fill(0.0);
            for part in &parts {
                add(gradient, &part[i * features..(i + 1) * features]);
            }
        }
    }
    Ok(())
}

/// Some rows, from `first` on.
struct PullBack<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    cotangent: Rows<'a>,
    first: usize,
    /// x̄ of the rows.
    input: &'a mut [f32],
    /// z̄ of the rows.
    gate: Option<&'a mut [f32]>,
    /// The gradients of weight and bias from these rows, `[2, features]`.
    sums: &'a mut [f32],
}

/// What one row needs besides its gradients.
struct Scratch {
    /// Normed features n = (y − μ) r of the row, `[features]`.
    normed: Vec<f32>,
    /// SiLU(z) of the row, or ones where there is no gate, `[features]`.
    silu: Vec<f32>,
    /// r of each group.
    scales: Vec<f32>,
}

impl WithSimd for PullBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let features = self.problem.features;
        let mut scratch = Scratch {
            normed: vec![0.0; features],
            silu: vec![1.0; features],
            scales: vec![0.0; features / self.problem.group_size],
        };
        for row in 0..self.input.len() / features {
            self.row(simd, row, &mut scratch);
        }
    }
}

impl PullBack<'_> {
    /// The gradients of one row. `gradient` holds in turn the cotangents of the output, of the affine part, of n, of y and of x.
    #[inline(always)]
    fn row<S: Simd>(&mut self, simd: S, row: usize, scratch: &mut Scratch) {
        let Self { problem, inputs, .. } = *self;
        let (features, index) = (problem.features, self.first + row);
        let Scratch { normed, silu, scales } = scratch;
        let x = inputs.input.row(index);
        let gate = inputs.gate.as_ref().map(|gate| gate.row(index));
        let columns = row * features..(row + 1) * features;
        let gradient = &mut self.input[columns.clone()];
        let mut gate_gradient = self.gate.as_deref_mut().map(|gate| &mut gate[columns]);
        let gates_first = problem.order == GateOrder::NormAfterGate;

        normed.copy_from_slice(x);
        if let Some(gate) = gate {
            silu.iter_mut()
                .zip(gate)
                .for_each(|(out, &z)| *out = math::silu(simd, z));
            if gates_first {
                multiply(normed, silu);
            }
        }
        for (group, scale) in normed.chunks_exact_mut(problem.group_size).zip(scales.iter_mut()) {
            *scale = normalise(simd, problem, group);
        }

        gradient.copy_from_slice(self.cotangent.row(index));
        if let (false, Some(gate)) = (gates_first, gate) {
            if let Some(out) = &mut gate_gradient {
                out.copy_from_slice(normed);
                affine(inputs, out);
                multiply(out, gradient);
                multiply_by_silu_derivative(simd, out, gate);
            }
            multiply(gradient, silu);
        }
        add_sums(simd, gradient, normed, self.sums);
        if let Some(weight) = inputs.weight {
            multiply(gradient, weight);
        }
        let groups = gradient.chunks_exact_mut(problem.group_size);
        let normed = normed.chunks_exact(problem.group_size);
        for ((gradient, normed), &scale) in groups.zip(normed).zip(scales.iter()) {
            pull_back_norm(simd, problem, scale, normed, gradient);
        }
        if let (true, Some(gate)) = (gates_first, gate) {
            if let Some(out) = &mut gate_gradient {
                out.copy_from_slice(gradient);
                multiply(out, x);
                multiply_by_silu_derivative(simd, out, gate);
            }
            multiply(gradient, silu);
        }
    }
}

/// n ← n ∘ weight + bias.
#[inline(always)]
fn affine(inputs: &Inputs, normed: &mut [f32]) {
    if let Some(weight) = inputs.weight {
        multiply(normed, weight);
    }
    if let Some(bias) = inputs.bias {
        add(normed, bias);
    }
}

/// Adds the gradients of weight and bias.
#[inline(always)]
fn add_sums<S: Simd>(simd: S, gradient: &[f32], normed: &[f32], sums: &mut [f32]) {
    let (weight, bias) = sums.split_at_mut(gradient.len());
    for ((sum, &g), &n) in weight.iter_mut().zip(gradient).zip(normed) {
        *sum = mul_add_one(simd, g, n, *sum);
    }
    add(bias, gradient);
}

/// ḡ ← r (ḡ − mean(ḡ) − n ⟨ḡ ∘ n⟩) for one group.
#[inline(always)]
fn pull_back_norm<S: Simd>(simd: S, problem: &Problem, scale: f32, normed: &[f32], gradient: &mut [f32]) {
    let along = dot(simd, gradient, normed) * problem.statistic.weight(normed.len()) as f32;
    let mean = match problem.statistic {
        Statistic::Variance => sum(gradient) / normed.len() as f32,
        Statistic::MeanSquare | Statistic::SumOfSquares => 0.0,
    };
    for (gradient, &n) in gradient.iter_mut().zip(normed) {
        *gradient = scale * (*gradient - mean - n * along);
    }
}

#[inline(always)]
fn multiply_by_silu_derivative<S: Simd>(simd: S, out: &mut [f32], gate: &[f32]) {
    for (out, &gate) in out.iter_mut().zip(gate) {
        *out *= math::silu_derivative(simd, gate);
    }
}
