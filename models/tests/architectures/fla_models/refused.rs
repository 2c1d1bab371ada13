//! Configurations that are not supported or contradict themselves, each refused by the field's name.

use serde_json::{Value, json};
use spillway_models::ModelError;
use spillway_models::checkpoint::CheckpointError;

use super::cases::{MODELS, write};

fn refusal(config: Value) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    match write(&folder.path().join("model"), &config, 0) {
        Err(ModelError::Checkpoint(CheckpointError::Unsupported { field, accepted, .. })) => {
            (field, accepted.to_string())
        }
        Err(ModelError::Checkpoint(CheckpointError::Field { field, expected, .. })) => (field, expected),
        Err(other) => panic!("{other}: {config}"),
        Ok(()) => panic!("accepted: {config}"),
    }
}

/// A small configuration of a model with some fields changed.
fn config(model_type: &str, changes: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 4,
        "intermediate_size": 12, "vocab_size": 19
    });
    let changes = changes.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(changes);
    config
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let cases = [
        ("gla", json!({"hidden_act": "relu"}), "hidden_act"),
        ("gla", json!({"attnres_block_size": 2}), "attnres_block_size"),
        ("gla", json!({"use_gk": false}), "use_gk"),
        ("gla", json!({"use_gv": true}), "use_gv"),
        ("gla", json!({"feature_map": "gelu"}), "feature_map"),
        (
            "gla",
            json!({"use_short_conv": true, "share_conv_kernel": true}),
            "share_conv_kernel",
        ),
        ("linear_attn", json!({"feature_map": "rebased"}), "feature_map"),
        ("hgrn", json!({"expand_ratio": 2}), "expand_ratio"),
        (
            "hgrn2",
            json!({"num_heads": null, "expand_ratio": 5}),
            "expand_ratio",
        ),
        ("gsa", json!({"expand_v": 2}), "expand_v"),
        ("gsa", json!({"feature_map": "elu"}), "feature_map"),
        ("abc", json!({"num_kv_heads": 2}), "num_kv_heads"),
        (
            "rebased",
            json!({"num_key_value_heads": 2}),
            "num_key_value_heads",
        ),
        (
            "rebased",
            json!({"normalize": false, "use_gamma": false}),
            "use_gamma",
        ),
        ("delta_net", json!({"qk_norm": "l1"}), "qk_norm"),
        ("delta_net", json!({"qk_activation": "tanh"}), "qk_activation"),
        ("delta_net", json!({"num_kv_heads": 2}), "num_kv_heads"),
        (
            "gated_deltanet",
            json!({"output_gate_activation": "relu"}),
            "output_gate_activation",
        ),
    ];
    for (model_type, changes, field) in cases {
        let (found, accepted) = refusal(config(model_type, changes));
        assert_eq!(found, field);
        assert!(!accepted.is_empty());
    }
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let cases = [
        ("gla", json!({"num_kv_heads": 3}), "num_kv_heads"),
        ("gla", json!({"num_heads": 3}), "expand_k"),
        ("gla", json!({"expand_k": 0}), "expand_k"),
        ("gla", json!({"expand_v": "wide"}), "expand_v"),
        ("gla", json!({"expand_v": 1e9}), "expand_v"),
        ("gla", json!({"clamp_min": 1}), "clamp_min"),
        (
            "gla",
            json!({"gate_logit_normalizer": -1}),
            "gate_logit_normalizer",
        ),
        ("gla", json!({"hidden_size": 0}), "hidden_size"),
        (
            "gla",
            json!({"intermediate_size": null, "hidden_ratio": -1}),
            "hidden_ratio",
        ),
        ("retnet", json!({"expand_k": 0.25}), "expand_k"),
        ("gla", json!({"attn": 3}), "attn"),
        ("gla", json!({"attn": [3]}), "attn"),
        (
            "gla",
            json!({"attn": {"layers": [2], "num_heads": 4}}),
            "attn.layers",
        ),
        ("gla", json!({"attn": {"num_heads": 4}}), "attn.layers"),
        (
            "gla",
            json!({"attn": {"layers": [0, 0], "num_heads": 4}}),
            "attn.layers",
        ),
        (
            "gla",
            json!({"attn": {"layers": [0], "num_heads": 3}}),
            "attn.num_heads",
        ),
        (
            "gla",
            json!({"attn": {"layers": [0], "num_heads": 4, "num_kv_heads": 3}}),
            "attn.num_kv_heads",
        ),
        (
            "gla",
            json!({"attn": {"layers": [0], "num_heads": 4, "window_size": 0}}),
            "attn.window_size",
        ),
        ("gated_deltanet", json!({"num_v_heads": 6}), "num_v_heads"),
        ("kda", json!({"lower_bound": 5}), "lower_bound"),
        ("kda", json!({"safe_gate": true}), "lower_bound"),
        ("abc", json!({"expand_k": 0.25}), "expand_k"),
        ("abc", json!({"clamp_max": "none"}), "clamp_max"),
        ("abc", json!({"clamp_min": 40}), "clamp_min"),
        ("rebased", json!({"num_heads": 3}), "num_heads"),
        ("comba", json!({"num_v_heads": 6}), "num_v_heads"),
        ("gdn2", json!({"num_v_heads": 6}), "num_v_heads"),
        (
            "gated_deltaproduct",
            json!({"num_householder": 0}),
            "num_householder",
        ),
        (
            "gated_deltaproduct",
            json!({"num_householder": 10000000}),
            "num_householder",
        ),
        ("gated_deltanet", json!({"expand_v": 0.1}), "expand_v"),
    ];
    for (model_type, changes, field) in cases {
        let (found, expected) = refusal(config(model_type, changes));
        assert_eq!(found, field, "{expected}");
    }
}

#[test]
fn an_mlp_without_a_width_has_two_thirds_of_the_ratio_rounded_up() {
    let folder = tempfile::tempdir().unwrap();
    for (model_type, width) in [("retnet", 256), ("gla", 512)] {
        let path = folder.path().join(model_type);
        write(
            &path,
            &config(model_type, json!({"intermediate_size": null, "hidden_size": 192})),
            0,
        )
        .unwrap();
        let stored =
            spillway_models::checkpoint::StoredTensors::open(&path.join("model.safetensors")).unwrap();
        let (_, shape, _) = stored.raw("model.layers.0.mlp.up_proj.weight").unwrap();
        assert_eq!(shape, [width, 192], "{model_type}");
    }
}

#[test]
fn every_preset_is_a_configuration_that_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    for model in MODELS {
        let layout = spillway_models::registry::layouts_of(model).next().unwrap();
        assert_eq!(layout.presets[0].size, "tiny", "{model}");
        let tiny = serde_json::from_str(layout.presets[0].config).unwrap();
        write(&folder.path().join(model), &tiny, 0).unwrap();
        for preset in layout.presets {
            let config: Value = serde_json::from_str(preset.config).unwrap();
            assert_eq!(config["model_type"], model, "{}", preset.size);
        }
    }
}
