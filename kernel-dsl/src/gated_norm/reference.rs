//! The definition in f64.

use super::{GateOrder, Gradients, Inputs, NormError, Problem, Statistic};
use crate::Rows;

/// Output `[rows, features]`.
///
/// # Errors
/// [`NormError`] when a shape does not fit.
pub fn gated_norm(problem: &Problem, inputs: &Inputs) -> Result<Vec<f64>, NormError> {
    problem.validate(inputs)?;
    let mut out = Vec::with_capacity(problem.len());
    for row in 0..problem.rows {
        let Row {
            silu, normed, affine, ..
        } = Row::new(problem, inputs, row);
        out.extend((0..normed.len()).map(|i| match problem.order {
            GateOrder::NormAfterGate => affine[i],
            GateOrder::NormBeforeGate => affine[i] * silu[i],
        }));
    }
    Ok(out)
}

/// The gradients in f64, in the order of [`Gradients`]; those of absent inputs are those of a gate with SiLU(z) = 1, a weight
/// of 1 and a bias of 0.
#[derive(Clone, Debug)]
pub struct GradientsF64 {
    /// Gradient by x, `[rows, features]`.
    pub input: Vec<f64>,
    /// Gradient by z, `[rows, features]`.
    pub gate: Vec<f64>,
    /// Gradient by the weight, `[features]`.
    pub weight: Vec<f64>,
    /// Gradient by the bias, `[features]`.
    pub bias: Vec<f64>,
}

/// Gradients of Σ ⟨cotangent, output⟩.
///
/// # Errors
/// [`NormError`] when a shape does not fit.
pub fn backward(problem: &Problem, inputs: &Inputs, cotangent: Rows) -> Result<GradientsF64, NormError> {
    let mut input = vec![0.0; problem.len()];
    let asked = Gradients {
        input: &mut input,
        gate: None,
        weight: None,
        bias: None,
    };
    problem.validate_backward(inputs, cotangent, &asked)?;
    let features = problem.features;
    let mut gradients = GradientsF64 {
        input: Vec::with_capacity(problem.len()),
        gate: Vec::with_capacity(problem.len()),
        weight: vec![0.0; features],
        bias: vec![0.0; features],
    };
    for index in 0..problem.rows {
        let row = Row::new(problem, inputs, index);
        let gates_first = problem.order == GateOrder::NormAfterGate;
        let by_affine: Vec<f64> = (0..features)
            .map(|i| f64::from(cotangent.row(index)[i]) * if gates_first { 1.0 } else { row.silu[i] })
            .collect();
        let by_normed: Vec<f64> = (0..features).map(|i| by_affine[i] * row.weight[i]).collect();
        for (i, &by_affine) in by_affine.iter().enumerate() {
            gradients.weight[i] += by_affine * row.normed[i];
            gradients.bias[i] += by_affine;
            let by_y = row.pull_back(problem, &by_normed, i);
            let x = f64::from(inputs.input.row(index)[i]);
            let (by_x, by_silu) = if gates_first {
                (by_y * row.silu[i], by_y * x)
            } else {
                (by_y, f64::from(cotangent.row(index)[i]) * row.affine[i])
            };
            gradients.input.push(by_x);
            gradients.gate.push(by_silu * row.silu_derivative[i]);
        }
    }
    Ok(gradients)
}

/// One row on its way through the norm.
struct Row {
    silu: Vec<f64>,
    silu_derivative: Vec<f64>,
    weight: Vec<f64>,
    /// Normed features n = (y − μ) r, `[features]`.
    normed: Vec<f64>,
    /// n ∘ weight + bias.
    affine: Vec<f64>,
    /// r of each feature's group.
    scale: Vec<f64>,
}

impl Row {
    fn new(problem: &Problem, inputs: &Inputs, row: usize) -> Self {
        let features = problem.features;
        let gate = |i: usize| inputs.gate.map(|gate| f64::from(gate.row(row)[i]));
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let silu: Vec<f64> = (0..features)
            .map(|i| gate(i).map_or(1.0, |z| z * sigmoid(z)))
            .collect();
        let derivative = |z: f64| sigmoid(z) * (1.0 + z * sigmoid(-z));
        let silu_derivative = (0..features).map(|i| gate(i).map_or(0.0, derivative)).collect();
        let y: Vec<f64> = (0..features)
            .map(|i| match problem.order {
                GateOrder::NormAfterGate => f64::from(inputs.input.row(row)[i]) * silu[i],
                GateOrder::NormBeforeGate => f64::from(inputs.input.row(row)[i]),
            })
            .collect();
        let (mut normed, mut scale) = (Vec::new(), Vec::new());
        for group in y.chunks_exact(problem.group_size) {
            let size = group.len() as f64;
            let mean = match problem.statistic {
                Statistic::Variance => group.iter().sum::<f64>() / size,
                Statistic::MeanSquare | Statistic::SumOfSquares => 0.0,
            };
            let squares: f64 = group.iter().map(|y| (y - mean).powi(2)).sum();
            let statistic = squares * problem.statistic.weight(group.len());
            let r = 1.0 / (statistic + f64::from(problem.eps)).sqrt();
            normed.extend(group.iter().map(|y| (y - mean) * r));
            scale.extend(group.iter().map(|_| r));
        }
        let weight: Vec<f64> = (0..features)
            .map(|i| inputs.weight.map_or(1.0, |w| f64::from(w[i])))
            .collect();
        let bias = |i: usize| inputs.bias.map_or(0.0, |bias| f64::from(bias[i]));
        let affine = (0..features).map(|i| normed[i] * weight[i] + bias(i)).collect();
        Self {
            silu,
            silu_derivative,
            weight,
            normed,
            affine,
            scale,
        }
    }

    /// ȳ of feature `i`, by the Jacobian of its group: ∂n_j/∂y_i = r (1_{ij} − μ′) − n_j n_i w.
    fn pull_back(&self, problem: &Problem, by_normed: &[f64], i: usize) -> f64 {
        let first = i / problem.group_size * problem.group_size;
        let weight = problem.statistic.weight(problem.group_size);
        let of_mean = match problem.statistic {
            Statistic::Variance => weight,
            Statistic::MeanSquare | Statistic::SumOfSquares => 0.0,
        };
        (first..first + problem.group_size)
            .map(|j| {
                let own = if i == j { 1.0 } else { 0.0 };
                by_normed[j] * self.scale[i] * (own - of_mean - weight * self.normed[j] * self.normed[i])
            })
            .sum()
    }
}
