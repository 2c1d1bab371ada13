//! The same weights under the names, fields and orientations of other publishers are the same model.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::registry::layouts_of;
use tempfile::TempDir;

use super::rwkv::{Stored, change, ids, layout, load, logits, relative_error, tiny};

/// Whether two checkpoints give the same logits.
#[track_caller]
pub(super) fn expect_same(found: &Path, expected: &Path) {
    let [found, expected] = [found, expected].map(|path| {
        let model = load(path).unwrap_or_else(|error| panic!("{error}"));
        logits(&model, &[&ids(20)])
    });
    let error = relative_error(&found, &expected);
    assert!(error < 1e-6, "the logits are off by {error:.1e}");
}

/// A random model of the tiny size of an architecture's first layout, or of another with this name.
pub(super) fn random(architecture: &str, name: Option<&str>) -> TempDir {
    let layout = layouts_of(architecture).find(|layout| name.is_none_or(|name| layout.name == name));
    tiny(layout.unwrap_or_else(|| panic!("no layout {name:?} of {architecture}")))
}

/// A copy of a model with other names; what is stored may be changed too.
pub(super) fn renamed(folder: &TempDir, mut name: impl FnMut(&str, &mut Stored) -> String) -> TempDir {
    let copy = TempDir::new().unwrap();
    let path = copy.path().join("model");
    fs::create_dir(&path).unwrap();
    for entry in fs::read_dir(folder.path().join("model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
    }
    change(&path, |tensors| {
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(old, mut stored)| (name(&old, &mut stored), stored))
            .collect();
    });
    copy
}

pub(super) fn config(folder: &TempDir) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.path().join("model/config.json")).unwrap()).unwrap()
}

pub(super) fn write_config(folder: &TempDir, config: &Value) {
    fs::write(folder.path().join("model/config.json"), config.to_string()).unwrap();
}

/// BlinkDL's name in Hugging Face's RWKV-5 or 6.
fn hugging_face(name: &str, version: u32) -> String {
    let mut name = match name {
        "head.weight" => return name.into(),
        "emb.weight" => "embeddings.weight".to_string(),
        name => name.replace("blocks.0.ln0", "blocks.0.pre_ln"),
    };
    name = name
        .replace(".att.", ".attention.")
        .replace(".ffn.", ".feed_forward.");
    if version == 5 {
        let long = [
            ("_k", "_key"),
            ("_v", "_value"),
            ("_r", "_receptance"),
            ("_g", "_gate"),
        ];
        for (letter, word) in long {
            if let Some(start) = name.strip_suffix(&format!("time_mix{letter}")) {
                name = format!("{start}time_mix{word}");
            }
        }
    }
    format!("rwkv.{name}")
}

#[test]
fn rwkv_of_hugging_face_is_that_of_blinkdl() {
    for version in [5, 6] {
        let architecture = format!("rwkv{version}");
        let own = tiny(layout(&architecture, "BlinkDL"));
        let other = renamed(&own, |name, _| hugging_face(name, version));
        // Widths that a configuration leaves open are those of the tensors.
        let fields = json!({
            "model_type": architecture, "vocab_size": 256, "hidden_size": 64, "attention_hidden_size": 64,
            "num_hidden_layers": 2, "head_size_divisor": 8, "layer_norm_epsilon": 1e-5, "rescale_every": 6,
            "intermediate_size": null, "tie_word_embeddings": false, "eos_token_id": 0,
        });
        write_config(&other, &fields);
        expect_same(&other.path().join("model"), &own.path().join("model"));
        let model = load(&other.path().join("model")).unwrap();
        assert_eq!(
            (model.info().layout, model.info().eos_ids.as_slice()),
            ("Hugging Face", &[0][..])
        );
    }
}

/// The last two dimensions change places.
fn transpose(stored: &mut Stored) {
    let [.., rows, columns] = stored.shape[..] else {
        panic!("{:?} is no matrix", stored.shape);
    };
    let matrices = stored.bytes.chunks_exact(4 * rows * columns);
    stored.bytes = matrices
        .flat_map(|matrix| {
            let at = |row: usize, column: usize| &matrix[4 * (row * columns + column)..][..4];
            let order = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
            order
                .flat_map(|(row, column)| at(row, column).to_vec())
                .collect::<Vec<_>>()
        })
        .collect();
    let last = stored.shape.len() - 1;
    stored.shape.swap(last - 1, last);
}

/// From `[5, out, rank]` to `[rank, 5, out]`.
fn rank_first(stored: &mut Stored) {
    let [five, outputs, rank] = stored.shape[..] else {
        panic!("{:?} has not three dimensions", stored.shape);
    };
    let mut bytes = Vec::with_capacity(stored.bytes.len());
    for column in 0..rank {
        for row in 0..five * outputs {
            bytes.extend_from_slice(&stored.bytes[4 * (row * rank + column)..][..4]);
        }
    }
    (stored.bytes, stored.shape) = (bytes, vec![rank, five, outputs]);
}

#[test]
fn rwkv_of_ai00_is_that_of_blinkdl() {
    let low_rank = [
        "time_maa_w1",
        "time_maa_w2",
        "time_decay_w1",
        "time_decay_w2",
        ".w1",
        ".w2",
        ".a1",
        ".a2",
        ".g1",
        ".g2",
        ".v1",
        ".v2",
    ];
    for version in 4..=7 {
        let own = tiny(layout(&format!("rwkv{version}"), "BlinkDL"));
        let other = renamed(&own, |name, stored| {
            if low_rank.iter().any(|ending| name.ends_with(ending)) {
                transpose(stored);
            }
            name.replace("time_faaaa", "time_first")
                .replace("time_maa", "time_mix")
        });
        let (folder, file) = (other.path().join("alone"), other.path().join("alone/rwkv.st"));
        fs::create_dir(&folder).unwrap();
        fs::copy(other.path().join("model/model.safetensors"), &file).unwrap();
        for path in [&folder, &file] {
            expect_same(path, &own.path().join("model"));
        }
        if version == 6 {
            // Some tools swap the first two dimensions of what has three.
            change(&file, |tensors| {
                let up = tensors
                    .iter_mut()
                    .filter(|(name, _)| name.ends_with("time_mix_w2"));
                up.for_each(|(_, stored)| rank_first(stored));
            });
            expect_same(&file, &own.path().join("model"));
        }
        let name = load(&file).unwrap().info().layout;
        assert_eq!(name, if version == 4 { "BlinkDL" } else { "Ai00" });
    }
}

#[test]
fn the_transformer_of_flash_linear_attention_is_llama() {
    let llama = random("llama", None);
    let mut fields = config(&llama);
    fields["tie_word_embeddings"] = false.into();
    fields["rms_norm_eps"] = 1e-6.into();
    let llama = renamed(&llama, |name, _| name.into());
    change(&llama.path().join("model"), |tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    write_config(&llama, &fields);
    let other = renamed(&llama, |name, _| {
        name.replace("embed_tokens", "embeddings")
            .replace("self_attn", "attn")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", "mlp_norm")
    });
    let fields = json!({
        "model_type": "transformer", "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "num_kv_heads": 2,
        "intermediate_size": 128, "hidden_act": "swish", "norm_eps": 1e-6, "vocab_size": 256, "qkv_bias": false,
        "qk_norm": false, "window_size": null, "rope_theta": 10000.0, "tie_word_embeddings": false,
    });
    write_config(&other, &fields);
    expect_same(&other.path().join("model"), &llama.path().join("model"));
    write_config(&other, &{
        let mut fields = fields.clone();
        fields["qk_norm"] = true.into();
        fields
    });
    let error = load(&other.path().join("model")).unwrap_err();
    assert!(error.contains("qk_norm"), "{error}");
}

/// Samba's layers are those of the authors' Mamba with attention and MLPs, under other names and apart.
#[test]
fn samba_is_mamba_with_attention_and_mlps() {
    let fields = json!({
        "d_model": 64, "d_intermediate": 256, "n_layer": 3, "vocab_size": 256, "ssm_cfg": {"d_state": 8, "dt_rank": 3},
        "attn_layer_idx": [1], "attn_cfg": {"causal": true, "head_dim": 16, "num_heads": 4, "num_heads_kv": 2,
            "rotary_emb_dim": 16, "qkv_proj_bias": false, "out_proj_bias": false}, "rms_norm": true,
        "pad_vocab_size_multiple": 16, "tie_embeddings": false,
    });
    let folder = TempDir::new().unwrap();
    let layout = layouts_of("mamba1")
        .find(|layout| layout.name.contains("original"))
        .unwrap();
    write_random(
        &folder.path().join("model"),
        layout,
        &fields.to_string(),
        WriteDtype::F32,
        6,
    )
    .unwrap();
    let samba = renamed(&folder, |name, _| {
        let name = name.replace("backbone.embedding.", "backbone.embeddings.");
        match name
            .strip_prefix("backbone.layers.")
            .and_then(|rest| rest.split_once('.'))
        {
            Some((layer, rest)) => {
                let rest = rest.replace("norm2.", "mlp_norm.");
                let rest = match rest.strip_prefix("norm.") {
                    Some(rest) => format!("mixer_norm.{rest}"),
                    None => rest.replace("mlp.fc2", "mlp.down_proj"),
                };
                format!("backbone.layers.{layer}.{rest}")
            }
            None => name,
        }
    });
    change(&samba.path().join("model"), |tensors| {
        let rows = |stored: &Stored, begin: usize, count: usize| {
            let row = stored.bytes.len() / stored.shape[0];
            Stored {
                shape: vec![count, stored.shape[1]],
                bytes: stored.bytes[begin * row..][..count * row].to_vec(),
            }
        };
        for layer in 0..3 {
            let name = |part: &str| format!("backbone.layers.{layer}.{part}.weight");
            let both = tensors.remove(&name("mlp.fc1")).unwrap();
            tensors.insert(name("mlp.up_proj"), rows(&both, 0, 256));
            tensors.insert(name("mlp.gate_proj"), rows(&both, 256, 256));
        }
        let name = |part: &str| format!("backbone.layers.1.mixer.{part}.weight");
        let joint = tensors.remove(&name("in_proj")).unwrap();
        for (part, begin, count) in [("q_proj", 0, 64), ("k_proj", 64, 32), ("v_proj", 96, 32)] {
            tensors.insert(name(part), rows(&joint, begin, count));
        }
        let out = tensors.remove(&name("out_proj")).unwrap();
        tensors.insert(name("o_proj"), out);
    });
    let fields = json!({
        "model_type": "samba", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 256, "state_size": 8, "expand": 2,
        "intermediate_size": 128, "time_step_rank": 3, "conv_kernel": 4, "hidden_ratio": 4, "norm_eps": 1e-5,
        "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": false, "window_size": null, "rope_theta": 10000.0},
        "tie_word_embeddings": false,
    });
    write_config(&samba, &fields);
    expect_same(&samba.path().join("model"), &folder.path().join("model"));
    // A window that reaches back as far as the text changes nothing, and a shorter one does.
    let windowed = |window: u64| {
        let mut fields = fields.clone();
        fields["attn"]["window_size"] = window.into();
        write_config(&samba, &fields);
        logits(&load(&samba.path().join("model")).unwrap(), &[&ids(20)])
    };
    assert!(relative_error(&windowed(20), &windowed(100)) < 1e-6);
    assert!(relative_error(&windowed(3), &windowed(20)) > 1e-4);
}

#[test]
fn attention_in_every_layer_is_the_same_model_whichever_mixer_is_named() {
    let fields = json!({
        "d_model": 64, "d_intermediate": 128, "n_layer": 2, "vocab_size": 256, "ssm_cfg": {}, "attn_layer_idx": [0, 1],
        "attn_cfg": {"causal": true, "head_dim": 16, "num_heads": 4, "rotary_emb_dim": 16, "qkv_proj_bias": false,
            "out_proj_bias": false}, "rms_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true,
    });
    let folder = TempDir::new().unwrap();
    let layout = layouts_of("mamba1")
        .find(|layout| layout.name.contains("original"))
        .unwrap();
    write_random(
        &folder.path().join("model"),
        layout,
        &fields.to_string(),
        WriteDtype::F32,
        5,
    )
    .unwrap();
    let other = renamed(&folder, |name, _| name.into());
    let mut named = fields;
    named["ssm_cfg"] = json!({"layer": "Mamba2"});
    write_config(&other, &named);
    expect_same(&other.path().join("model"), &folder.path().join("model"));
}

/// Its own Mamba and Mamba-2 have the tensors of transformers', and fields of their own.
#[test]
fn mamba_of_flash_linear_attention_is_read_by_its_own_fields() {
    for (architecture, names) in [
        (
            "mamba1",
            &[("layer_norm_epsilon", "norm_eps"), ("time_step_rank", "dt_rank")][..],
        ),
        (
            "mamba2",
            &[
                ("layer_norm_epsilon", "norm_eps"),
                ("time_step_limit", "dt_limit"),
            ][..],
        ),
    ] {
        let own = random(architecture, Some("Hugging Face"));
        let mut fields = config(&own);
        fields["layer_norm_epsilon"] = 0.5.into();
        if architecture == "mamba2" {
            fields["time_step_limit"] = json!([0.0, 0.002]);
        }
        write_config(&own, &fields);
        let plain = random(architecture, Some("Hugging Face"));
        let model = |folder: &TempDir| logits(&load(&folder.path().join("model")).unwrap(), &[&ids(20)]);
        assert!(
            relative_error(&model(&own), &model(&plain)) > 1e-3,
            "the fields make no difference"
        );
        let other = renamed(&own, |name, _| name.into());
        let map = fields.as_object_mut().unwrap();
        for (theirs, flas) in names {
            let value = map.remove(*theirs).unwrap();
            map.insert((*flas).into(), value);
        }
        write_config(&other, &fields);
        expect_same(&other.path().join("model"), &own.path().join("model"));
        fields["layer_norm_epsilon"] = 0.25.into();
        write_config(&other, &fields);
        let error = load(&other.path().join("model")).unwrap_err();
        assert!(
            error.contains("norm_eps") && error.contains("layer_norm_epsilon"),
            "{error}"
        );
    }
    // A gate before the norm, where its file says so.
    let own = random("mamba2", Some("Hugging Face"));
    let mut fields = config(&own);
    let map = fields.as_object_mut().unwrap();
    map.remove("layer_norm_epsilon");
    map.insert("norm_eps".into(), 1e-5.into());
    let outputs: Vec<Vec<f32>> = [false, true]
        .map(|before| {
            fields["norm_before_gate"] = before.into();
            write_config(&own, &fields);
            logits(&load(&own.path().join("model")).unwrap(), &[&ids(20)])
        })
        .into();
    assert!(relative_error(&outputs[0], &outputs[1]) > 1e-3);
}

#[test]
fn presets_of_every_publisher_are_of_the_same_model() {
    let parameters = |architecture: &str, name: &str| {
        let folder = TempDir::new().unwrap();
        let layout = layout(architecture, name);
        let path = folder.path().join("model");
        write_random(
            &path,
            layout,
            preset(layout, "tiny").unwrap().config,
            WriteDtype::F32,
            1,
        )
        .unwrap();
        load(&path).unwrap().info().parameters
    };
    for architecture in ["rwkv4", "rwkv5", "rwkv6"] {
        assert_eq!(
            parameters(architecture, "BlinkDL"),
            parameters(architecture, "Hugging Face"),
            "{architecture}"
        );
    }
}
