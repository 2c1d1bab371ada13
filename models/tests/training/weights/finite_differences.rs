//! Gradients of every parameter against differences of the packed model's loss.

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use spillway_models::train::{Batch, Parameters};

use super::cases::{Case, every_case};
use super::{SEED, TIME, batch, gradients, losses, norm, values};

/// Directions per tensor.
const DIRECTIONS: u64 = 2;
/// What a step should change the loss by: large against the rounding of the loss, small against the 266 nats of it.
const CHANGE: f64 = 0.1;
/// The rounding of one token's loss in f32, in units of the last place. The losses of a model of leaves and of the packed one
/// differ by up to 25.
const ROUNDING: f64 = 32.0 / (1 << 24) as f64;

/// Tensors that the loss does not depend on, by the ends of their names, and why.
const WITHOUT_INFLUENCE: [(&str, &str); 3] = [
    (
        "e_score_correction_bias",
        "it says which experts are chosen, and nothing of what they are worth",
    ),
    (
        "proj_k_enc.weight",
        "an encoder reads where a prefix is declared alone; training/encoder.rs does",
    ),
    ("proj_v_enc.weight", "the same"),
];

pub(super) fn without_influence(name: &str) -> bool {
    WITHOUT_INFLUENCE.iter().any(|(end, _)| name.ends_with(end))
}

/// The model with fresh gates that show within a few tokens: Mamba's steps are so small at first that they hardly matter to a
/// short text. Where tokens choose among experts, a step makes some choose others and the loss jumps: there they go to all.
fn visible(mut case: Case) -> Case {
    let edit = match (case.layout.architecture, case.layout.name) {
        ("retnet", _) => json!({"norm_eps": 1e-3}),
        ("mamba1", "Hugging Face") | ("zamba" | "samba", _) => {
            json!({"time_step_min": 0.3, "time_step_max": 3.0})
        }
        ("jamba", _) => json!({"time_step_min": 0.3, "time_step_max": 3.0, "num_experts_per_tok": 4}),
        ("minimax", _) => json!({"num_experts_per_tok": 3}),
        ("nemotron_h", _) => json!({"num_experts_per_tok": 4}),
        ("granite_hybrid", _) if case.config["num_local_experts"] == 4 => json!({"num_experts_per_tok": 4}),
        ("qwen3_5_moe" | "qwen3_next", _) => json!({"num_experts_per_tok": 4}),
        ("kimi_linear", _) => {
            json!({"num_experts_per_token": 4, "num_expert_group": 1, "topk_group": 1})
        }
        ("mamba1", _) => json!({"ssm_cfg": {"dt_min": 0.3, "dt_max": 3.0}}),
        _ => json!({}),
    };
    case.config.extend(edit.as_object().unwrap().clone());
    case
}

/// ±1 for every element.
fn direction(length: usize, salt: u64) -> Vec<f32> {
    let mut word = salt | 1;
    let sign = |_| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        if word & 1 == 0 { 1.0 } else { -1.0 }
    };
    (0..length).map(sign).collect()
}

/// Losses with parameter `index` moved by `step` along `direction`.
fn moved(parameters: &mut Parameters, index: usize, direction: &[f32], step: f64, batch: &Batch) -> Vec<f64> {
    let parameter = &mut parameters.list_mut()[index];
    let kept = parameter.value.clone();
    let moved: Vec<f32> = values(&kept)
        .iter()
        .zip(direction)
        .map(|(value, sign)| (f64::from(*value) + step * f64::from(*sign)) as f32)
        .collect();
    parameter.value = Tensor::from_data(TensorData::new(moved, [direction.len()]), &Device::flex());
    let losses = losses(parameters, batch);
    parameters.list_mut()[index].value = kept;
    losses
}

/// Central differences at a step and at twice the step, joined so that the error is of the fourth order (Richardson).
fn derivative(parameters: &mut Parameters, index: usize, direction: &[f32], step: f64, batch: &Batch) -> f64 {
    let mut central = |step: f64| {
        let up = moved(parameters, index, direction, step, batch);
        let down = moved(parameters, index, direction, -step, batch);
        let differences = up.iter().zip(&down).map(|(up, down)| up - down);
        differences.sum::<f64>() / (2.0 * step)
    };
    (4.0 * central(step) - central(2.0 * step)) / 3.0
}

/// How far to go: CHANGE of the loss if the derivative is `slope`, yet not beyond 0.6 of what the values are.
fn step(values: &[f32], slope: f64) -> f64 {
    let scale = norm(values) / (values.len() as f64).sqrt();
    let most = 0.6 * if scale > 0.0 { scale } else { 1.0 };
    (CHANGE / slope.abs().max(f64::MIN_POSITIVE)).min(most)
}

/// How far the gradient of a parameter is from the differences along directions of signs: the root of the mean square.
fn error(parameters: &mut Parameters, (index, gradient): (usize, &[f32]), step: f64, batch: &Batch) -> f64 {
    let mut sum = 0.0;
    for salt in 0..DIRECTIONS {
        let direction = direction(gradient.len(), SEED + 97 * salt + 1009 * index as u64);
        let expected: f64 = gradient
            .iter()
            .zip(&direction)
            .map(|(g, sign)| f64::from(g * sign))
            .sum();
        let numeric = derivative(parameters, index, &direction, step, batch);
        sum += (numeric - expected).powi(2);
    }
    (sum / DIRECTIONS as f64).sqrt()
}

/// The bound on an error is that of rounding, over the step, and 1 % for what is left of curvature. Long steps are tried first,
/// as kinks (a ReLU that opens) and curvature show in them, and rounding in short ones. RetNet's norm of heads is curved the most:
/// the read-out of a first token is a value times one score, and turns over within √ε where the score passes 0. Long steps are off
/// by a tenth of its gradients, a third of them by less than 1 %; `fla_models/gradients.rs` has its equations in f64. Half the gradient is the most that
/// rounding may come to.
fn compare(cases: impl Iterator<Item = Case>) {
    let (mut wrong, mut weak) = (Vec::new(), Vec::new());
    for case in cases.map(visible) {
        let (mut parameters, batch) = (case.parameters(), batch(200));
        let base = losses(&parameters, &batch);
        let rounding = ROUNDING * base.iter().map(|loss| loss * loss).sum::<f64>().sqrt();
        let (_, found) = gradients(&parameters, &batch, TIME, &Device::flex());
        for (index, gradient) in found.into_iter().enumerate() {
            let parameter = parameters.list()[index].clone();
            let name = format!("{}: {}", case.name, parameter.name);
            if without_influence(&parameter.name) {
                assert!(gradient.is_none_or(|gradient| norm(&gradient) == 0.0), "{name}");
                continue;
            }
            let gradient = gradient.unwrap_or_else(|| panic!("{name} got no gradient"));
            assert_eq!(
                gradient.len(),
                parameter.shape.iter().product::<usize>(),
                "{name}"
            );
            // The derivative along a direction of signs is about as large as the gradient is long.
            let size = norm(&gradient);
            let first = step(&values(&parameter.value), size);
            let mut tried = Vec::new();
            for step in [first, first / 3.0, first / 9.0, first / 27.0, first / 81.0] {
                let error = error(&mut parameters, (index, &gradient), step, &batch);
                let bound = 0.01 * size + rounding / step;
                tried.push((step, error / size, bound / size));
                if error <= bound {
                    break;
                }
            }
            let (step, error, bound) = tried[tried.len() - 1];
            if error > bound || error.is_nan() {
                wrong.push(format!(
                    "{name}: gradient of {size:e}, (step, error, bound): {tried:?}"
                ));
            } else if rounding / step > 0.5 * size {
                weak.push(name);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Fresh gates of the bounded form lie where σ is nearly 0, and so do their gradients; `fla_models/gradients.rs` has them in f64.
    weak.retain(|name| !(name.starts_with("kda") && name.contains("lower_bound")));
    assert!(weak.is_empty(), "too small to be told from rounding: {weak:#?}");
}

// Two halves, which run side by side: nothing else in this program takes as long.

#[test]
fn gradients_are_directional_derivatives_of_the_packed_models_loss() {
    compare(every_case().into_iter().step_by(2));
}

#[test]
fn gradients_of_the_other_models_are_as_well() {
    compare(every_case().into_iter().skip(1).step_by(2));
}
