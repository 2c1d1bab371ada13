//! The definition in f64.

use super::{GateOrder, NormError, Problem};
use crate::Rows;

/// Output `[rows, features]`.
///
/// # Errors
/// [`NormError`] when a shape does not fit.
pub fn gated_rms_norm(
    problem: &Problem,
    x: Rows,
    gate: Option<Rows>,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
) -> Result<Vec<f64>, NormError> {
    problem.validate(&x, gate.as_ref())?;
    let silu = |z: f64| z / (1.0 + (-z).exp());
    let gated = |row: usize, i: usize| gate.map_or(1.0, |gate| silu(f64::from(gate.row(row)[i])));
    let mut out = Vec::with_capacity(problem.rows * problem.features);
    for row in 0..problem.rows {
        let y: Vec<f64> = (0..problem.features)
            .map(|i| match problem.order {
                GateOrder::NormAfterGate => f64::from(x.row(row)[i]) * gated(row, i),
                GateOrder::NormBeforeGate => f64::from(x.row(row)[i]),
            })
            .collect();
        for (i, &value) in y.iter().enumerate() {
            let first = i / problem.group_size * problem.group_size;
            let group = &y[first..first + problem.group_size];
            let mean = group.iter().map(|v| v * v).sum::<f64>() / problem.group_size as f64;
            let normed = value / (mean + f64::from(problem.eps)).sqrt()
                * weight.map_or(1.0, |w| f64::from(w[i]))
                + bias.map_or(0.0, |b| f64::from(b[i]));
            out.push(match problem.order {
                GateOrder::NormAfterGate => normed,
                GateOrder::NormBeforeGate => normed * gated(row, i),
            });
        }
    }
    Ok(out)
}
