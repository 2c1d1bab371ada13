//! The norm of every row, forward.

use super::{TASK_WORK, THREADED_WORK, add, multiply, multiply_by_silu, normalise};
use crate::gated_norm::problem::OPERATOR;
use crate::gated_norm::{GateOrder, Inputs, NormError, Problem};
use crate::simd::dispatch;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// The norm of every row, gated by SiLU(gate) when there is a gate.
///
/// # Shapes
/// `out` `[rows, features]`, the rest as in [`Inputs`].
///
/// # Errors
/// [`NormError`] when a shape does not fit; nothing is written then.
pub fn gated_norm(problem: &Problem, inputs: &Inputs, out: &mut [f32]) -> Result<(), NormError> {
    problem.validate(inputs)?;
    OPERATOR.values("out", problem.len(), out.len())?;
    let features = problem.features;
    if features == 0 {
        return Ok(());
    }
    let task = |first: usize, out: &mut [f32]| {
        dispatch(Gated {
            problem,
            inputs,
            first,
            out,
        });
    };
    if out.len() < THREADED_WORK {
        task(0, out);
    } else {
        let rows = (TASK_WORK / features).max(1);
        out.par_chunks_mut(rows * features)
            .enumerate()
            .for_each(|(i, out)| task(i * rows, out));
    }
    Ok(())
}

struct Gated<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { problem, inputs, .. } = self;
        for (row, out) in self.out.chunks_exact_mut(problem.features).enumerate() {
            let row = self.first + row;
            let gate = inputs.gate.as_ref().map(|gate| gate.row(row));
            out.copy_from_slice(inputs.input.row(row));
            if let (GateOrder::NormAfterGate, Some(gate)) = (problem.order, gate) {
                multiply_by_silu(simd, out, gate);
            }
            for out in out.chunks_exact_mut(problem.group_size) {
                normalise(simd, problem, out);
            }
            if let Some(weight) = inputs.weight {
                multiply(out, weight);
            }
            if let Some(bias) = inputs.bias {
                add(out, bias);
            }
            if let (GateOrder::NormBeforeGate, Some(gate)) = (problem.order, gate) {
                multiply_by_silu(simd, out, gate);
            }
        }
    }
}
