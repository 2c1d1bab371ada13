//! Hybrids of delta rules and attention in the names of their publishers: where fields and tensors may be, and what is refused.

use serde_json::{Value, json};

use super::publishers::{config, expect_same, random, renamed, write_config};
use super::rwkv::{Stored, change, load};

#[test]
fn of_a_checkpoint_with_vision_the_model_of_text_is_read() {
    let text = random("qwen3_5", None);
    let other = renamed(&text, |name, _| {
        name.replacen("model.", "model.language_model.", 1)
    });
    change(&other.path().join("model"), |tensors| {
        let some: Stored = tensors.values().next().unwrap().clone();
        for name in ["model.visual.blocks.0.attn.qkv.weight", "mtp.fc.weight"] {
            tensors.insert(name.into(), some.clone());
        }
    });
    let fields = json!({
        "model_type": "qwen3_5", "text_config": config(&text), "vision_config": {"depth": 1}, "tie_word_embeddings": true,
    });
    write_config(&other, &fields);
    let found = other.path().join("model");
    expect_same(&found, &text.path().join("model"));
    assert_eq!(load(&found).unwrap().info().layout, "Hugging Face, with vision");
    change(&found, |tensors| {
        let some = tensors.values().next().unwrap().clone();
        tensors.insert("model.audio.weight".into(), some);
    });
    let error = load(&found).err().unwrap_or_default();
    assert!(error.contains("model.audio.weight"), "{error}");
}

#[test]
fn older_files_have_their_rotation_outside_of_rope_parameters() {
    let newer = random("qwen3_5", None);
    let older = renamed(&newer, |name, _| name.into());
    let mut fields = config(&newer);
    fields["rope_parameters"] = Value::Null;
    fields["rope_theta"] = json!(10_000_000.0);
    fields["partial_rotary_factor"] = json!(0.25);
    fields["layer_types"] = json!(["linear_attention", "full_attention"]);
    fields["full_attention_interval"] = Value::Null;
    write_config(&older, &fields);
    expect_same(&older.path().join("model"), &newer.path().join("model"));
}

#[test]
fn what_is_not_supported_or_contradicts_itself_is_refused_by_name() {
    let scaled = |kind: &str| json!({"rope_parameters": {"rope_type": kind, "rope_theta": 1e4}});
    let cases = [
        ("qwen3_5", scaled("yarn"), "rope_parameters.rope_type"),
        (
            "qwen3_5",
            json!({"rope_parameters": {"partial_rotary_factor": 0.3}}),
            "rope_parameters.partial_rotary_factor",
        ),
        ("qwen3_5", json!({"attn_output_gate": false}), "attn_output_gate"),
        (
            "qwen3_5",
            json!({"use_sliding_window": true}),
            "use_sliding_window",
        ),
        ("qwen3_5", json!({"hidden_act": "relu"}), "hidden_act"),
        (
            "qwen3_5",
            json!({"num_key_value_heads": 3}),
            "num_key_value_heads",
        ),
        (
            "qwen3_5",
            json!({"linear_num_value_heads": 3}),
            "linear_num_value_heads",
        ),
        (
            "qwen3_5",
            json!({"linear_key_head_dim": 16777216}),
            "linear_value_head_dim",
        ),
        ("qwen3_5", json!({"head_dim": 16777216}), "head_dim"),
        (
            "qwen3_5",
            json!({"layer_types": ["linear_attention"]}),
            "layer_types",
        ),
        (
            "qwen3_5",
            json!({"layer_types": ["linear_attention", "sliding_attention"]}),
            "layer_types",
        ),
        ("olmo_hybrid", scaled("llama3"), "rope_parameters.rope_type"),
        ("olmo_hybrid", json!({"hidden_act": "gelu"}), "hidden_act"),
        (
            "olmo_hybrid",
            json!({"num_attention_heads": 5}),
            "num_attention_heads",
        ),
        (
            "olmo_hybrid",
            json!({"linear_num_value_heads": 6}),
            "linear_num_value_heads",
        ),
        (
            "olmo_hybrid",
            json!({"linear_key_head_dim": 16777216}),
            "linear_key_head_dim",
        ),
    ];
    for (architecture, changes, field) in cases {
        let model = random(architecture, None);
        let mut fields = config(&model);
        let changes = changes.as_object().unwrap().clone();
        fields.as_object_mut().unwrap().extend(changes);
        write_config(&model, &fields);
        let error = load(&model.path().join("model")).err();
        let error = error.unwrap_or_else(|| panic!("{architecture}, {field}: accepted"));
        assert!(error.contains(field), "{architecture}, {field}: {error}");
    }
}
