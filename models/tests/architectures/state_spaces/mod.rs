//! Gated state space models and Block-State Transformers: the equations in f64, what shapes say, and what is refused.

mod reference;

use std::fs;

use serde_json::{Value, json};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Logits, Model};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

use super::common::relative_error;
use super::publishers::expect_same;
use reference::Weights;

/// A random model of a tiny size with other fields.
fn random(architecture: &str, edit: &Value) -> Result<TempDir, String> {
    let layout = layouts_of(architecture).next().unwrap();
    let mut config: Value = serde_json::from_str(preset(layout, "tiny").unwrap().config).unwrap();
    for (name, value) in edit.as_object().unwrap() {
        config[name] = value.clone();
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    write_random(&path, layout, &config.to_string(), WriteDtype::F32, 3)
        .map_err(|error| error.to_string())?;
    Ok(folder)
}

const IDS: [u32; 19] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8];

fn compare(architecture: &str, edit: &Value, equations: fn(&Weights, &[u32]) -> Vec<Vec<f64>>) {
    let folder = random(architecture, edit).unwrap();
    let path = folder.path().join("model");
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let found = model.logits(&IDS, &mut state, Logits::All).unwrap();
    let found: Vec<f32> = found.into_data().iter::<f32>().collect();
    let expected = equations(&Weights::open(&path), &IDS).concat();
    let error = relative_error(found, expected);
    assert!(error < 5e-6, "{architecture} {edit}: {error:e}");
}

#[test]
fn gated_state_space_models_are_their_equations() {
    let narrow = json!({"d_model": 16, "dss_kernel_H": 6, "dss_kernel_N": 4, "attn_layer_idx": [0],
        "attn_cfg": {"num_heads": 2, "window": 5, "rotary_emb_dim": 0}});
    for edit in [json!({}), narrow] {
        compare("gss", &edit, reference::gss);
    }
}

#[test]
fn block_state_transformers_are_their_equations() {
    let small = |edit: Value| {
        let mut all = json!({"d_model": 16, "num_heads": 2, "window": 4, "d_inner": 24, "rotary_emb_dim": 4, "d_state": 6});
        all.as_object_mut()
            .unwrap()
            .extend(edit.as_object().unwrap().clone());
        all
    };
    for edit in [
        json!({}),
        small(json!({"contexts": "SH", "kernel": "free", "taps": 7, "attn_layer_idx": []})),
        small(json!({"contexts": "MH", "num_contexts": 3})),
        small(json!({"contexts": "MF", "num_contexts": 2, "attn_layer_idx": []})),
        small(json!({"contexts": "MF", "num_contexts": 3, "kernel": "free", "taps": 25})),
    ] {
        compare("bst", &edit, reference::bst);
    }
}

#[test]
fn a_file_of_gated_state_spaces_without_a_configuration_is_read_by_its_shapes() {
    let edit = json!({"d_model": 16, "dss_kernel_H": 6, "dss_kernel_N": 4, "dim_expansion_factor": 3, "n_layer": 3,
        "attn_layer_idx": [], "attn_cfg": null});
    let (with, without) = (random("gss", &edit).unwrap(), random("gss", &edit).unwrap());
    fs::write(without.path().join("model/config.json"), "{}").unwrap();
    expect_same(&without.path().join("model"), &with.path().join("model"));
}

#[test]
fn what_does_not_fit_is_refused_by_field() {
    let cases = [
        ("gss", json!({"attn_cfg": null}), "attn_cfg"),
        ("gss", json!({"attn_layer_idx": [2]}), "attn_layer_idx"),
        ("gss", json!({"attn_cfg": {"num_heads": 3}}), "num_heads"),
        (
            "gss",
            json!({"dim_expansion_factor": 16_000_000}),
            "dim_expansion_factor",
        ),
        ("bst", json!({"num_heads": 7}), "num_heads"),
        ("bst", json!({"rotary_emb_dim": 3}), "rotary_emb_dim"),
        ("bst", json!({"contexts": "XH"}), "contexts"),
        (
            "bst",
            json!({"contexts": "MF", "d_model": 63, "num_heads": 1, "rotary_emb_dim": 0}),
            "d_model",
        ),
        ("bst", json!({"num_contexts": 5000}), "num_contexts"),
        ("bst", json!({"kernel": "learnt"}), "kernel"),
        ("bst", json!({"d_state": 5}), "d_state"),
        (
            "bst",
            json!({"window": 16_000_000, "d_model": 16_000_000, "num_heads": 4}),
            "memory",
        ),
        ("bigs", json!({"hidden_act": "relu"}), "hidden_act"),
        ("bigs", json!({"pre_norm": false}), "pre_norm"),
        (
            "bigs",
            json!({"position_embedding_type": "relative_key"}),
            "position_embedding_type",
        ),
    ];
    for (architecture, edit, field) in cases {
        let error = random(architecture, &edit).err().unwrap_or_default();
        assert!(error.contains(field), "{architecture} {edit}: {error:?}");
    }
}
