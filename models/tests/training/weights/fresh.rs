//! Decay rates and step sizes of fresh models.

use burn::tensor::Device;
use serde_json::{Map, Value, json};
use spillway_models::train::Parameters;

use super::cases::layout;
use super::{SEED, values};

fn drawn(architecture: &str, name: &str, edit: Value, tensor: &str) -> Vec<f32> {
    let layout = layout(architecture, name);
    let mut config: Map<String, Value> = serde_json::from_str(layout.presets[0].config).unwrap();
    config.extend(edit.as_object().unwrap().clone());
    let parameters = Parameters::random(layout, &config, SEED, &Device::flex()).unwrap();
    let parameter = parameters
        .list()
        .iter()
        .find(|p| p.name.ends_with(tensor))
        .unwrap();
    values(&parameter.value)
}

fn softplus(x: f32) -> f64 {
    f64::from(x).exp().ln_1p()
}

fn within(found: impl IntoIterator<Item = f64>, low: f64, high: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    let slack = 1e-6 * high;
    assert!(
        found.iter().all(|v| (low - slack..=high + slack).contains(v)),
        "{found:?}"
    );
    assert!(found.len() == 1 || found.iter().any(|v| *v != found[0]) || low == high);
}

/// A in [1, 2] and Δ in [1e-4, 1e-3] forget slowly.
#[test]
fn decay_rates_and_step_sizes_are_drawn_between_the_ends_of_the_configuration() {
    let slow = json!({"ssm_cfg": {"layer": "Mamba2", "headdim": 8, "A_init_range": [1, 2], "dt_min": 1e-4, "dt_max": 1e-3,
        "dt_init_floor": 1e-5}});
    let rates = drawn("mamba2", "original", slow.clone(), ".A_log");
    within(rates.iter().map(|rate| f64::from(*rate).exp()), 1.0, 2.0);
    let steps = drawn("mamba2", "original", slow, ".dt_bias");
    within(steps.iter().map(|bias| softplus(*bias)), 1e-4, 1e-3);
    let steps = json!({"time_step_min": 2e-3, "time_step_max": 3e-3});
    let found = drawn("mamba2", "Hugging Face", steps.clone(), ".dt_bias");
    within(found.iter().map(|bias| softplus(*bias)), 2e-3, 3e-3);
    let found = drawn("mamba1", "Hugging Face", steps, ".dt_proj.bias");
    within(found.iter().map(|bias| softplus(*bias)), 2e-3, 3e-3);
    let floor = json!({"ssm_cfg": {"dt_min": 1e-3, "dt_max": 2e-3, "dt_init_floor": 0.5}});
    let found = drawn("mamba1", "original", floor, ".dt_proj.bias");
    within(found.iter().map(|bias| softplus(*bias)), 0.5, 0.5);
}

#[test]
fn ends_out_of_order_are_refused_with_their_names() {
    let wrong = [
        (json!({"layer": "Mamba2", "A_init_range": [2, 1]}), "A_init_range"),
        (json!({"layer": "Mamba2", "A_init_range": 3}), "A_init_range"),
        (json!({"layer": "Mamba2", "dt_min": 0.2}), "dt_min"),
        (json!({"layer": "Mamba2", "dt_max": "long"}), "dt_max"),
        (json!({"layer": "Mamba2", "dt_init_floor": -1.0}), "dt_init_floor"),
    ];
    let layout = layout("mamba2", "original");
    for (ssm, field) in wrong {
        let mut config: Map<String, Value> = serde_json::from_str(layout.presets[0].config).unwrap();
        config.insert("ssm_cfg".into(), ssm);
        let error = Parameters::random(layout, &config, SEED, &Device::flex()).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}
