//! The layouts of today's hybrids: what is refused by the field's name, what may be written in several ways, and what is counted.

use std::path::Path;

use serde_json::{Value, json};
use spillway_models::checkpoint::{CheckpointError, WriteDtype};
use spillway_models::init::{preset, write_random};
use spillway_models::layout::Layout;
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Model, ModelError};
use tempfile::TempDir;

use super::rwkv::{change, ids, load, logits, relative_error};

/// The last layout of an architecture: of Mamba-3, that of flash-linear-attention.
fn layout(architecture: &str) -> &'static Layout {
    let layouts = layouts_of(architecture);
    layouts
        .last()
        .unwrap_or_else(|| panic!("no layout of {architecture}"))
}

fn config(architecture: &str, size: &str, changes: Value) -> Value {
    let text = preset(layout(architecture), size).unwrap().config;
    let mut config: Value = serde_json::from_str(text).unwrap();
    let changes = changes.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(changes);
    config
}

fn write(path: &Path, architecture: &str, config: &Value) -> Result<(), ModelError> {
    write_random(
        path,
        layout(architecture),
        &config.to_string(),
        WriteDtype::F32,
        3,
    )
}

#[test]
fn what_changes_results_and_is_not_followed_is_refused_by_name() {
    let cases = [
        (
            "granite_hybrid",
            json!({"position_embedding_type": "alibi"}),
            "position_embedding_type",
        ),
        (
            "granite_hybrid",
            json!({"normalization_function": "layernorm"}),
            "normalization_function",
        ),
        (
            "granite_hybrid",
            json!({"layer_types": ["mamba", "attention"]}),
            "layer_types",
        ),
        (
            "granite_hybrid",
            json!({"layer_types": ["mamba", "conv", "mamba"]}),
            "layer_types",
        ),
        ("granite_hybrid", json!({"mamba_n_heads": 3}), "mamba_n_heads"),
        (
            "granite_hybrid",
            json!({"num_local_experts": 2, "num_experts_per_tok": 3}),
            "num_experts_per_tok",
        ),
        (
            "granite_hybrid",
            json!({"quantization_config": {}}),
            "quantization_config",
        ),
        ("granite_hybrid", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("bamba", json!({"attn_layer_indices": [3]}), "attn_layer_indices"),
        ("bamba", json!({"sliding_window": 4}), "sliding_window"),
        (
            "bamba",
            json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}),
            "rope_parameters.rope_type",
        ),
        (
            "bamba",
            json!({"partial_rotary_factor": 0.1}),
            "partial_rotary_factor",
        ),
        (
            "falcon_h1",
            json!({"ssm_multipliers": [1.0, 1.0]}),
            "ssm_multipliers",
        ),
        ("falcon_h1", json!({"projectors_bias": true}), "projectors_bias"),
        ("falcon_h1", json!({"mamba_d_ssm": 80}), "mamba_n_heads"),
        (
            "nemotron_h",
            json!({"hybrid_override_pattern": "M-*EX"}),
            "hybrid_override_pattern",
        ),
        (
            "nemotron_h",
            json!({"hybrid_override_pattern": "M-*"}),
            "hybrid_override_pattern",
        ),
        ("nemotron_h", json!({"mlp_hidden_act": "silu"}), "mlp_hidden_act"),
        ("nemotron_h", json!({"topk_group": 3}), "num_experts_per_tok"),
        ("nemotron_h", json!({"mlp_bias": true}), "mlp_bias"),
        ("jamba", json!({"attn_layer_offset": 3}), "attn_layer_offset"),
        ("jamba", json!({"num_experts_per_tok": 5}), "num_experts_per_tok"),
        (
            "jamba",
            json!({"mamba_inner_layernorms": false}),
            "mamba_inner_layernorms",
        ),
        ("zamba", json!({"layers_block_type": null}), "layers_block_type"),
        ("zamba", json!({"n_mamba_heads": 5}), "n_mamba_heads"),
        ("zamba", json!({"hidden_act": "silu"}), "hidden_act"),
        ("zamba2", json!({"use_long_context": true}), "use_long_context"),
        ("zamba2", json!({"attention_head_dim": 12}), "attention_head_dim"),
        ("zamba2", json!({"mamba_headdim": 8}), "n_mamba_heads"),
        ("minimax", json!({"rotary_dim": 8}), "rotary_dim"),
        (
            "minimax",
            json!({"num_experts_per_tok": 4}),
            "num_experts_per_tok",
        ),
        (
            "recurrent_gemma",
            json!({"hidden_activation": "silu"}),
            "hidden_activation",
        ),
        (
            "recurrent_gemma",
            json!({"intermediate_size": 191}),
            "intermediate_size",
        ),
        (
            "recurrent_gemma",
            json!({"block_types": ["mamba"]}),
            "block_types",
        ),
        ("recurrent_gemma", json!({"lru_width": 50}), "lru_width"),
        ("mamba3", json!({"is_mimo": true}), "is_mimo"),
        ("mamba3", json!({"rope_fraction": 0.25}), "rope_fraction"),
        ("mamba3", json!({"num_heads": 5}), "num_heads"),
    ];
    let folder = TempDir::new().unwrap();
    for (architecture, changes, expected) in cases {
        let config = config(architecture, "tiny", changes);
        match write(&folder.path().join("model"), architecture, &config) {
            Err(ModelError::Checkpoint(
                CheckpointError::Unsupported { field, .. } | CheckpointError::Field { field, .. },
            )) => assert_eq!(field, expected, "{architecture}"),
            Err(other) => panic!("{architecture}: {other}"),
            Ok(()) => panic!("{architecture}: {expected} is accepted: {config}"),
        }
    }
}

/// Logits of one folder's weights under another configuration.
#[track_caller]
fn expect_same(folder: &Path, config: &Value) {
    let before = logits(&load(folder).unwrap(), &[&ids(20)]);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let after = logits(
        &load(folder).unwrap_or_else(|error| panic!("{error}")),
        &[&ids(20)],
    );
    let error = relative_error(&after, &before);
    assert!(error < 1e-6, "the logits are off by {error:.1e}");
}

#[test]
fn what_is_written_in_several_ways_is_the_same_model() {
    let same = [
        (
            "bamba",
            json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                "partial_rotary_factor": 0.5}}),
        ),
        (
            "granite_hybrid",
            json!({"layer_types": null, "layers_block_type": ["mamba", "attention", "mamba"]}),
        ),
        (
            "granite_hybrid",
            json!({"layer_types": ["linear_attention", "full_attention", "linear_attention"], "mamba_d_head": "auto"}),
        ),
        (
            "nemotron_h",
            json!({"hybrid_override_pattern": null,
                "layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba"]}),
        ),
        (
            "zamba2",
            json!({"layers_block_type": null, "hybrid_layer_ids": [1, 2, 3]}),
        ),
        (
            "recurrent_gemma",
            json!({"partial_rotary_factor": null, "rope_theta": null,
                "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        ),
        ("jamba", json!({"mamba_dt_rank": 4, "sliding_window": null})),
    ];
    let folder = TempDir::new().unwrap();
    for (index, (architecture, changes)) in same.into_iter().enumerate() {
        let path = folder.path().join(index.to_string());
        write(&path, architecture, &config(architecture, "tiny", json!({}))).unwrap();
        expect_same(&path, &config(architecture, "tiny", changes));
    }
}

#[test]
fn nemotron_h_may_begin_with_either_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    write(&path, "nemotron_h", &config("nemotron_h", "tiny", json!({}))).unwrap();
    let before = logits(&load(&path).unwrap(), &[&ids(20)]);
    change(&path, |tensors| {
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, stored)| (name.replace("backbone.", "model."), stored))
            .collect();
    });
    let after = logits(&load(&path).unwrap(), &[&ids(20)]);
    assert_eq!(before, after);
}

/// A token is multiplied with two of four experts, and with all other matrices.
#[test]
fn only_the_experts_of_a_token_are_counted_among_its_operations() {
    let folder = TempDir::new().unwrap();
    let model = |chosen: usize| {
        let path = folder.path().join(chosen.to_string());
        let config = config(
            "granite_hybrid",
            "tiny-experts",
            json!({"num_experts_per_tok": chosen}),
        );
        write(&path, "granite_hybrid", &config).unwrap();
        Model::load(&path, &LoadOptions::default()).unwrap()
    };
    let (two, four) = (model(2), model(4));
    assert_eq!(two.info().parameters, four.info().parameters);
    // Two layers, two experts fewer, three matrices of 24 × 48 each.
    let fewer = 2 * 2 * 3 * 24 * 48 * 2;
    assert_eq!(four.info().flops_per_token - two.info().flops_per_token, fewer);
}
