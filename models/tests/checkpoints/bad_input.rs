//! Configurations that contradict themselves, their weights, or what is implemented: each is refused by name.

use crate::common;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use spillway_models::checkpoint::{TensorPlan, WriteDtype, write_safetensors};
use spillway_models::{LoadOptions, Logits, Model, ModelError};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

use common::Case;

fn case(hugging_face: bool) -> Case {
    Case {
        hugging_face,
        model_dim: 8,
        layers: 2,
        groups: 2,
        heads_per_group: 1,
        head_dim: 4,
        state_dim: 3,
        conv_width: 4,
        norm_before_gate: false,
        gated_norm: true,
        dt_limit: None,
        projection_bias: true,
        conv_bias: true,
        skip_per_channel: false,
        tied: true,
        vocab_size: 16,
        seed: 1,
    }
}

/// The message that a checkpoint with changed fields gives: one line that names `config.json` or the weights.
fn refusal(case: &Case, changes: &[(&str, Value)]) -> String {
    let folder = TempDir::new().unwrap();
    case.write(folder.path());
    let mut config = case.config();
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let fields = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.into(), value.clone()),
        };
    }
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let message = Model::load(folder.path(), &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    assert!(
        message.contains("config.json") || message.contains("model.safetensors"),
        "no file in: {message}"
    );
    message
}

#[track_caller]
fn expect(message: String, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not named in: {message}");
    }
}

#[test]
fn fields_of_the_original_layout_are_checked() {
    let refusal = |pointer: &str, value: Value| refusal(&case(false), &[(pointer, value)]);
    expect(
        refusal("/d_model", json!("big")),
        &["d_model", "whole number", "string \"big\""],
    );
    expect(refusal("/d_model", json!(0)), &["d_model", "from 1", "number 0"]);
    expect(refusal("/d_model", json!(8.5)), &["d_model", "number 8.5"]);
    expect(refusal("/n_layer", json!(-2)), &["n_layer", "number -2"]);
    expect(
        refusal("/vocab_size", json!(1u64 << 60)),
        &["vocab_size", "16777216"],
    );
    expect(refusal("/vocab_size", Value::Null), &["vocab_size", "nothing"]);
    expect(
        refusal("/tie_embeddings", json!("yes")),
        &["tie_embeddings", "true or false"],
    );
    expect(
        refusal("/ssm_cfg", json!([])),
        &["ssm_cfg", "an object", "array of 0"],
    );
    expect(
        refusal("/ssm_cfg/layer", json!("Mamba1")),
        &["ssm_cfg.layer", "Mamba1", "accepted: \"Mamba2\""],
    );
    expect(
        refusal("/ssm_cfg/layer", Value::Null),
        &["ssm_cfg.layer", "nothing"],
    );
    expect(
        refusal("/ssm_cfg/headdim", json!(3)),
        &["ssm_cfg.headdim", "a divisor of expand · d_model = 8"],
    );
    expect(
        refusal("/ssm_cfg/ngroups", json!(3)),
        &["ssm_cfg.ngroups", "a divisor of the 2 heads"],
    );
    expect(
        refusal("/ssm_cfg/d_ssm", json!(4)),
        &["ssm_cfg.d_ssm", "number 4"],
    );
    expect(
        refusal("/ssm_cfg/dt_limit", json!([1.0])),
        &["ssm_cfg.dt_limit", "low < high"],
    );
    expect(
        refusal("/ssm_cfg/dt_limit", json!([0.5, 0.1])),
        &["ssm_cfg.dt_limit", "low < high"],
    );
    expect(
        refusal("/attn_layer_idx", json!([300])),
        &["attn_layer_idx", "a list of layers from 0 to"],
    );
    expect(
        refusal("/attn_layer_idx", json!([0])),
        &["attn_cfg", "as there are attention layers"],
    );
    expect(
        refusal("/d_intermediate", json!(-1)),
        &["d_intermediate", "a whole number from 0", "number -1"],
    );
    expect(
        refusal("/rms_norm", json!(false)),
        &["rms_norm", "LayerNorm is not implemented"],
    );
    expect(refusal("/n_layer", Value::Null), &["n_layer", "found nothing"]);
    expect(
        refusal("/model_type", json!("llama")),
        &["unknown layout", "model_type \"llama\""],
    );
    expect(
        refusal("/model_type", json!("mamba2")),
        &["unknown layout", "backbone.embedding.weight"],
    );
}

#[test]
fn fields_of_the_hugging_face_layout_are_checked() {
    let refusal = |pointer: &str, value: Value| refusal(&case(true), &[(pointer, value)]);
    expect(refusal("/hidden_size", Value::Null), &["hidden_size", "nothing"]);
    expect(
        refusal("/num_heads", json!(4)),
        &["num_heads", "expand · hidden_size = 8"],
    );
    expect(
        refusal("/n_groups", json!(4)),
        &["n_groups", "a divisor of the 2 heads"],
    );
    expect(
        refusal("/hidden_act", json!("gelu")),
        &["hidden_act", "gelu", "accepted: \"silu\""],
    );
    expect(
        refusal("/layer_norm_epsilon", json!(-1e-5)),
        &["layer_norm_epsilon", "a positive finite number"],
    );
    expect(
        refusal("/layer_norm_epsilon", json!("NaN")),
        &["layer_norm_epsilon", "a positive finite number"],
    );
    expect(
        refusal("/time_step_limit", json!("Infinity")),
        &["time_step_limit", "low < high"],
    );
    expect(
        refusal("/eos_token_id", json!(-1)),
        &["eos_token_id", "number -1"],
    );
    expect(
        refusal("/norm_before_gate", json!(1)),
        &["norm_before_gate", "true or false"],
    );
    expect(
        refusal("/model_type", json!(3)),
        &["model_type", "a string", "number 3"],
    );
}

#[test]
fn configurations_must_match_their_weights() {
    let refusal = |pointer: &str, value: Value| refusal(&case(false), &[(pointer, value)]);
    expect(
        refusal("/n_layer", json!(3)),
        &["backbone.layers.2.", "is missing"],
    );
    expect(refusal("/n_layer", json!(1)), &["backbone.layers.1.", "no place"]);
    expect(
        refusal("/vocab_size", json!(17)),
        &["backbone.embedding.weight", "shape [24, 8], found [16, 8]"],
    );
    expect(
        refusal("/tie_embeddings", json!(false)),
        &["lm_head.weight is missing", "[16, 8]"],
    );
    expect(
        refusal("/ssm_cfg/d_state", json!(4)),
        &["backbone.layers.0.mixer.", "shape", "found"],
    );
    expect(
        refusal("/ssm_cfg/bias", json!(false)),
        &["in_proj.bias", "no place", "mamba2 (original (state-spaces))"],
    );
    expect(
        refusal("/ssm_cfg/rmsnorm", json!(false)),
        &["mixer.norm.weight", "no place", "with this configuration"],
    );
    expect(
        refusal("/ssm_cfg/D_has_hdim", json!(true)),
        &["mixer.D", "shape [8], found [2]"],
    );
}

#[test]
fn a_tied_head_that_differs_and_weights_that_are_not_finite_are_refused() {
    let untied = Case {
        tied: false,
        ..case(false)
    };
    let message = refusal(&untied, &[("/tie_embeddings", json!(true))]);
    expect(
        message,
        &["ties lm_head.weight to backbone.embedding.weight", "differ"],
    );
    let folder = TempDir::new().unwrap();
    case(true).write(folder.path());
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let message = Model::load(folder.path(), &LoadOptions::default())
        .unwrap_err()
        .to_string();
    expect(
        message,
        &[
            "model.safetensors",
            "tensor backbone.layers.1.mixer.norm.weight",
            "value 7 is inf",
        ],
    );
}

#[test]
fn calls_that_cannot_be_answered_are_refused_before_the_state_moves() {
    let (_folder, model) = case(false).load();
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let error = |error: ModelError| error.to_string();
    let too_large = model.logits(&[3, 16], &mut state, Logits::All).unwrap_err();
    assert!(matches!(
        too_large,
        ModelError::Id {
            index: 1,
            id: 16,
            vocab_size: 16
        }
    ));
    assert!(matches!(
        model.logits(&[], &mut state, Logits::Last),
        Err(ModelError::EmptyPrompt)
    ));
    expect(
        error(model.losses(&[1, 2], &[3], &mut state).unwrap_err()),
        &["targets", "2, one per id", "found 1"],
    );
    expect(
        error(model.losses(&[1], &[16], &mut state).unwrap_err()),
        &["below the vocabulary size 16", "found 16"],
    );
    assert_eq!(state.position(), 0);
    let mut pair = model.start(&Chain::default(), 2).unwrap();
    expect(
        error(model.logits(&[1], &mut pair, Logits::All).unwrap_err()),
        &["this model has 1, found 2"],
    );
    expect(
        error(
            model
                .logits_batched(&[1, 2, 3], &mut pair, Logits::All)
                .unwrap_err(),
        ),
        &["2 sequences", "found 3"],
    );
    expect(
        error(model.tokenizer().encode("a").unwrap_err().into()),
        &["no tokenizer.json", "vocabulary of 16"],
    );
}

#[test]
fn saved_states_of_other_models_are_refused() {
    let (folder, model) = case(false).load();
    let (_other_folder, other) = Case {
        state_dim: 2,
        ..case(false)
    }
    .load();
    let path = folder.path().join("state");
    other.start(&Chain::default(), 1).unwrap().save(&path).unwrap();
    let restore = || model.restore(&path, &Chain::default()).unwrap_err().to_string();
    expect(
        restore(),
        &[
            "state",
            "layers.0.mixer.taps.0",
            "F32 [1, 20, 3]",
            "F32 [1, 16, 3]",
        ],
    );
    fs::copy(folder.path().join("model.safetensors"), &path).unwrap();
    expect(restore(), &["state", "version", "expected 2, found nothing"]);
    fs::remove_file(&path).unwrap();
    expect(restore(), &["state", "no such file"]);
    fs::write(&path, "short").unwrap();
    expect(restore(), &["state", "truncated"]);
    // A header's length that begins as gzip archives do, and nothing after it.
    fs::write(&path, 0x8B1F_u64.to_le_bytes()).unwrap();
    expect(restore(), &["state", "truncated"]);
    fs::write(&path, "What was told so far.\n").unwrap();
    let error = restore();
    assert!(!error.contains("weights"), "{error}");
    expect(
        error,
        &["state", "a saved file", "plain text", "the file that was saved"],
    );
    let error = model
        .start(&Chain::default(), 1)
        .unwrap()
        .save(Path::new("no/folder/state"))
        .unwrap_err();
    expect(error.to_string(), &["no/folder/state", "creating failed"]);
}

#[test]
fn a_saved_state_after_more_tokens_than_any_text_has_is_refused() {
    let (folder, model) = case(false).load();
    let path = folder.path().join("state");
    model.start(&Chain::default(), 1).unwrap().save(&path).unwrap();
    let saved = fs::read(&path).unwrap();
    let (length, rest) = saved.split_at(8);
    let (header, tensors) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header = String::from_utf8(header.to_vec()).unwrap();
    let changed = header.replace(r#""positions":"0""#, r#""positions":"18446744073709551615""#);
    assert_ne!(changed, header);
    let length = (changed.len() as u64).to_le_bytes();
    fs::write(&path, [&length[..], changed.as_bytes(), tensors].concat()).unwrap();
    expect(
        model.restore(&path, &Chain::default()).unwrap_err().to_string(),
        &[
            "state",
            "positions",
            "below 9007199254740992",
            "18446744073709551615",
        ],
    );
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = TempDir::new().unwrap();
    case(true).write(folder.path());
    let load = || Model::load(folder.path(), &LoadOptions::default());
    let write = |text: &str| fs::write(folder.path().join("tokenizer.json"), text).unwrap();
    write("{");
    expect(
        load().unwrap_err().to_string(),
        &["tokenizer.json", "not a tokenizer"],
    );
    let vocabulary = |extra: &str| {
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{{"type":"Whitespace"}},"post_processor":null,"decoder":null,
            "model":{{"type":"WordLevel","vocab":{{"in":0,"the":1,"beginning":2{extra}}},"unk_token":"in"}}}}"#
        )
    };
    write(&vocabulary(r#","far":16"#));
    expect(
        load().unwrap_err().to_string(),
        &["tokenizer.json", "vocabulary size 16", "found id 16"],
    );
    write(&vocabulary(""));
    let model = load().unwrap();
    assert_eq!(model.tokenizer().encode("in the beginning").unwrap(), [0, 1, 2]);
    assert_eq!(model.tokenizer().decode(&[1, 2]), "the beginning");
    let mut stream = model.tokenizer().stream();
    let pieces: Vec<String> = [1, 2, 0].into_iter().map(|id| stream.push(id)).collect();
    assert_eq!(pieces.concat() + &stream.finish(), "the beginning in");
}

#[test]
fn an_unreadable_plan_is_an_error_and_not_a_panic() {
    let plans = [TensorPlan {
        name: "w".into(),
        shape: vec![2],
    }];
    let result: Result<(), ModelError> = write_safetensors(
        Path::new("w"),
        &mut Vec::new(),
        WriteDtype::F32,
        &plans,
        &Default::default(),
        |_, _| Err(ModelError::EmptyPrompt),
    );
    assert!(matches!(result, Err(ModelError::EmptyPrompt)));
}

#[test]
fn states_that_no_machine_has_room_for_are_refused_before_they_are_made() {
    let (_folder, model) = case(false).load();
    let refused = |batch: usize| model.start(&Chain::default(), batch).unwrap_err();
    assert!(matches!(refused(usize::MAX), ModelError::Budget(_)));
    expect(
        refused(1 << 50).to_string(),
        &["the states of 1125899906842624 sequences need", "fewer sequences"],
    );
}

#[test]
fn what_lies_in_the_place_of_weights_is_named() {
    let folder = TempDir::new().unwrap();
    case(true).write(folder.path());
    let refused = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        Model::load(folder.path(), &LoadOptions::default())
            .unwrap_err()
            .to_string()
    };
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    expect(
        refused("model.safetensors", pointer),
        &["model.safetensors", "a Git LFS pointer", "git lfs pull"],
    );
    expect(
        refused("model.safetensors", "<!DOCTYPE html>\n<html>"),
        &["an HTML page", "/resolve/"],
    );
    expect(
        refused("model.safetensors", "# A model\n\nIt is good.\n"),
        &["a file of weights", "plain text"],
    );
    expect(
        refused("config.json", pointer),
        &["config.json", "a Git LFS pointer"],
    );
}
