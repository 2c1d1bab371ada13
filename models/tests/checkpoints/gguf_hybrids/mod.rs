//! Hybrids in GGUF files, laid out as the conversions of llama.cpp do: the same tensors as in the checkpoint, and its logits.
//!
//! Names are those of the Python package gguf (`tests/golden/gguf/names.json`); orders and what is multiplied into weights follow the
//! conversions' description in `conversion.rs`.

pub(super) mod conversion;
mod fields;
pub(super) mod file;

use std::fs;
use std::path::{Path, PathBuf};

use spillway_models::checkpoint::Checkpoint;
use tempfile::TempDir;

use crate::gguf::{self, golden, values};
use conversion::{Source, converted};

/// How far the logits of a file are from those of the golden model, relative to their size.
fn error(file: &Path, model: &str) -> f64 {
    let expected = golden().join("models").join(model).join("expected.safetensors");
    gguf::error(file, &expected)
}

/// Writes a golden model as a file of an architecture.
fn write(folder: &Path, model: &str, architecture: &str) -> (Source, PathBuf) {
    let source = Source::open(&golden(), model, architecture);
    let path = folder.join(format!("{model}.gguf"));
    fs::write(&path, converted(&source).bytes()).unwrap();
    (source, path)
}

/// What is in f32 on both sides: all but A, of which the file has -e^{A_log}, and norms, of which it has 1 + w.
fn same_tensors(source: &Source, path: &Path) {
    let read = Checkpoint::open(path).unwrap();
    let (found, expected): (Vec<&str>, Vec<&str>) =
        (read.names().collect(), source.checkpoint.names().collect());
    assert_eq!(found, expected, "{}", path.display());
    for name in found {
        assert_eq!(
            read.stored(name).unwrap().shape,
            source.checkpoint.stored(name).unwrap().shape,
            "{name}"
        );
        let bound = match name {
            _ if name.ends_with("A_log") => 1e-6,
            _ if name.ends_with("norm.weight") => 2e-7,
            _ => 0.0,
        };
        for (found, expected) in values(&read, name).iter().zip(values(&source.checkpoint, name)) {
            assert!(
                (found - expected).abs() <= bound,
                "{}: {name}: {found} and not {expected}",
                path.display()
            );
        }
    }
}

#[test]
fn files_of_hybrids_hold_the_tensors_of_their_checkpoints() {
    let folder = TempDir::new().unwrap();
    for (model, architecture) in [
        ("jamba-hf", "jamba"),
        ("granitemoehybrid-dense-hf", "granitehybrid"),
        ("granitemoehybrid-moe-hf", "granitehybrid"),
        ("nemotron_h-hf", "nemotron_h_moe"),
        ("qwen3_next-hf", "qwen3next"),
        ("qwen3_5-text-hf", "qwen35"),
        ("kimi_linear-hf", "kimi-linear"),
    ] {
        let (source, path) = write(folder.path(), model, architecture);
        same_tensors(&source, &path);
    }
}

/// Granite's mixture is not among them: its step sizes are bounded, for which the format has no field.
#[test]
fn golden_hybrids_have_their_logits() {
    let folder = TempDir::new().unwrap();
    for (model, architecture) in [
        ("jamba-hf", "jamba"),
        ("falcon_h1-hf", "falcon-h1"),
        ("falcon_h1-norm-hf", "falcon-h1"),
        ("granitemoehybrid-dense-hf", "granitehybrid"),
        ("nemotron_h-hf", "nemotron_h_moe"),
        ("qwen3_next-hf", "qwen3next"),
        ("qwen3_5-text-hf", "qwen35"),
        ("qwen3_5_moe-text-hf", "qwen35moe"),
        ("kimi_linear-hf", "kimi-linear"),
    ] {
        let (_, path) = write(folder.path(), model, architecture);
        let error = error(&path, model);
        assert!(error < 1e-5, "{model}: {error}");
    }
}

#[test]
fn heads_that_do_not_go_with_the_tensors_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for (model, architecture, field, value, message) in [
        ("qwen3_5-text-hf", "qwen35", "ssm.group_count", 1, "blk.0."),
        (
            "qwen3_5-text-hf",
            "qwen35",
            "ssm.group_count",
            3,
            "multiple of ssm.group_count",
        ),
        ("qwen3_5-text-hf", "qwen35", "ssm.state_size", 17, "blk.0."),
        (
            "qwen3_next-hf",
            "qwen3next",
            "ssm.group_count",
            4,
            "rows of queries, keys and values",
        ),
        (
            "granitemoehybrid-dense-hf",
            "granitehybrid",
            "attention.head_count",
            5,
            "rows of 5 heads of pairs",
        ),
        (
            "kimi_linear-hf",
            "kimi-linear",
            "attention.key_length_mla",
            3,
            "at least rope.dimension_count",
        ),
        (
            "kimi_linear-hf",
            "kimi-linear",
            "expert_gating_func",
            1,
            "sigmoids",
        ),
        ("jamba-hf", "jamba", "ssm.inner_size", 97, "multiple of the width"),
    ] {
        let source = Source::open(&golden(), model, architecture);
        let mut file = converted(&source);
        file.set(&format!("{architecture}.{field}"), file::Value::Whole(value));
        let path = folder.path().join("wrong.gguf");
        fs::write(&path, file.bytes()).unwrap();
        let found = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(found.contains(message), "{model}, {field} {value}: {found}");
    }
    // One of two tensors that belong together is missing.
    let mut file = converted(&Source::open(&golden(), "kimi_linear-hf", "kimi-linear"));
    file.tensors
        .retain(|tensor| tensor.name != "blk.3.attn_v_b.weight");
    let path = folder.path().join("half.gguf");
    fs::write(&path, file.bytes()).unwrap();
    let found = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(
        found.contains("blk.3.attn_k_b.weight") && found.contains("found one"),
        "{found}"
    );
}
