//! Checkpoints written as GGUF are the same models again, and their blocks those of other people's software.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use spillway_models::checkpoint::{
    Checkpoint, GgufDtype, StoredTensors, TensorPlan, WriteDtype, write_safetensors,
};
use spillway_models::convert::{ConvertedGguf, GgufOptions, convert_to_gguf};
use spillway_models::init::write_random;
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Logits, Model, ModelError, WeightType};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

use crate::gguf::{golden, values};

pub(super) fn run(from: &Path, to: &Path, dtype: GgufDtype) -> Result<ConvertedGguf, ModelError> {
    let options = GgufOptions {
        dtype,
        replace: false,
    };
    let mut last = 0;
    convert_to_gguf(from, to, options, |done, total| {
        assert!(last < done && done <= total);
        last = done;
    })
}

fn load(path: &Path) -> Model {
    // What files hold is compared, and not what rounded inputs make of it.
    Model::load(path, &LoadOptions::with_weights(WeightType::F32)).unwrap()
}

/// The logits of the first `vocabulary` tokens, after each of some of them: rows that pad an embedding are tokens in a file.
fn logits(model: &Model, vocabulary: usize) -> Vec<f32> {
    let ids: Vec<u32> = (0..50).map(|i| (i * 37 + 5) % vocabulary as u32).collect();
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let logits = model.logits(&ids, &mut state, Logits::All).unwrap();
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let rows = logits.chunks_exact(model.info().vocab_size);
    rows.flat_map(|row| row[..vocabulary].to_vec()).collect()
}

/// How far the logits of a file are from those of the checkpoint that it was made of.
fn moved(file: &Path, checkpoint: &Path) -> f64 {
    let before = load(checkpoint);
    let vocabulary = before.info().vocab_size;
    distance(&logits(&load(file), vocabulary), &logits(&before, vocabulary))
}

/// ‖a − b‖ / ‖b‖.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.map(|x| x * x).sum::<f64>();
    let differences = sum(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    (differences / sum(&mut b.iter().map(|b| f64::from(*b)))).sqrt()
}

/// A random model of an architecture, its configuration changed by some fields.
pub(super) fn random(folder: &Path, architecture: &str, changes: &[(&str, serde_json::Value)]) -> PathBuf {
    let layout = layouts_of(architecture)
        .find(|layout| layout.name != "original (state-spaces)")
        .unwrap();
    let tiny = layout
        .presets
        .iter()
        .find(|preset| preset.size == "tiny")
        .unwrap();
    let mut config: serde_json::Value = serde_json::from_str(tiny.config).unwrap();
    for (name, value) in changes {
        config[*name] = value.clone();
    }
    let path = folder.join(architecture);
    write_random(&path, layout, &config.to_string(), WriteDtype::F32, 3).unwrap();
    path
}

/// The checkpoints that are written, by llama.cpp's names.
fn models(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let of = |name: &str| golden().join("models").join(name);
    vec![
        ("mamba", of("mamba-hf")),
        ("mamba", of("mamba-original")),
        ("mamba2", of("mamba2-hf")),
        ("mamba2", of("mamba2-original")),
        ("rwkv6", of("rwkv6-blinkdl")),
        ("rwkv7", of("rwkv7-blinkdl")),
        (
            "llama",
            random(
                folder,
                "llama",
                &[("head_dim", json!(24)), ("rope_theta", json!(5e5))],
            ),
        ),
    ]
}

#[test]
fn a_file_in_f32_is_the_same_model_and_holds_the_same_weights() {
    let folder = TempDir::new().unwrap();
    for (index, (architecture, model)) in models(folder.path()).into_iter().enumerate() {
        let name = model.display();
        let to = folder.path().join(format!("{index}.gguf"));
        let converted = run(&model, &to, GgufDtype::F32).unwrap();
        assert_eq!(converted.architecture, architecture, "{name}");
        let (from, read) = (Checkpoint::open(&model).unwrap(), Checkpoint::open(&to).unwrap());
        for tensor in read.names() {
            let before = match tensor {
                "backbone.embeddings.weight" if from.has("backbone.embedding.weight") => {
                    "backbone.embedding.weight"
                }
                tensor => tensor,
            };
            let (found, expected) = (values(&read, tensor), values(&from, before));
            // The file holds -e^{A_log}.
            let bound = if tensor.ends_with("A_log") { 3e-7 } else { 0.0 };
            assert!(distance(&found, &expected) <= bound, "{name}: {tensor}");
        }
        let off = moved(&to, &model);
        assert!(off < 3e-6, "{name}: {off}");
        assert!(converted.tokenizer.is_err(), "{name}: bytes need none");
    }
}

#[test]
fn types_of_fewer_bits_move_logits_by_their_rounding() {
    let folder = TempDir::new().unwrap();
    for (index, (_, model)) in models(folder.path()).into_iter().enumerate() {
        let mut last = 0.0;
        // Each bound is some times what rounding weights of such a type does to the golden models; a wrong order moves logits by all that
        // they are.
        for (dtype, bound) in [
            (GgufDtype::F16, 2e-3),
            (GgufDtype::Bf16, 2e-2),
            (GgufDtype::Q8_0, 4e-2),
            (GgufDtype::Q4_0, 0.6),
        ] {
            let to = folder.path().join(format!("{index}-{}.gguf", dtype.name()));
            run(&model, &to, dtype).unwrap();
            let off = moved(&to, &model);
            assert!(off < bound, "{}, {}: {off}", model.display(), dtype.name());
            assert!(off > 0.0, "{}, {}", model.display(), dtype.name());
            last = off;
        }
        assert!(last > 5e-3, "{}: 4 bits move logits by {last}", model.display());
    }
}

/// Llama 3's positions are a tensor in the file, and four numbers again when it is read.
#[test]
fn rescaled_angles_go_into_the_file_and_come_back() {
    let folder = TempDir::new().unwrap();
    // Of Llama 3.2 and 3.1, and one whose numbers are not whole.
    for (index, (factor, low, high, length, theta)) in [
        (32.0, 1.0, 4.0, 8192.0, 5e5),
        (8.0, 1.0, 4.0, 8192.0, 5e5),
        (6.0, 1.25, 3.7, 100.5, 1e3),
    ]
    .into_iter()
    .enumerate()
    {
        let parameters = json!({"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": length});
        let inner = folder.path().join(index.to_string());
        fs::create_dir(&inner).unwrap();
        let path = random(
            &inner,
            "llama",
            &[("head_dim", json!(64)), ("rope_parameters", parameters)],
        );
        let to = inner.join("llama.gguf");
        run(&path, &to, GgufDtype::F32).unwrap();
        let read = Checkpoint::open(&to).unwrap();
        let config = read.config().object("rope_parameters").unwrap().unwrap();
        if index < 2 {
            assert_eq!(
                config.value("original_max_position_embeddings").unwrap().as_f64(),
                Some(length)
            );
            assert_eq!(config.value("high_freq_factor").unwrap().as_f64(), Some(high));
        }
        let off = moved(&to, &path);
        assert!(off < 3e-6, "{index}: {off}");
    }
}

mod golden_files {
    use super::*;

    /// A model whose embedding is the golden values has the golden blocks in its file.
    #[test]
    fn blocks_are_those_of_the_gguf_package() {
        let file = StoredTensors::open(&golden().join("gguf/quantised.safetensors")).unwrap();
        let (_, shape, bytes) = file.raw("values").unwrap();
        let expected: Vec<f32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let folder = TempDir::new().unwrap();
        let sizes = [
            ("vocab_size", json!(shape[0])),
            ("hidden_size", json!(shape[1])),
            ("intermediate_size", json!(32)),
        ];
        let path = random(folder.path(), "llama", &sizes);
        with_tensor(&path, "model.embed_tokens.weight", &expected);
        for (dtype, name) in [(GgufDtype::Q8_0, "q8_0"), (GgufDtype::Q4_0, "q4_0")] {
            let to = folder.path().join(format!("{name}.gguf"));
            run(&path, &to, dtype).unwrap();
            let written = Checkpoint::open(&to).unwrap();
            let stored = written.stored("model.embed_tokens.weight").unwrap();
            assert_eq!(stored.dtype_name, name);
            let (_, _, blocks) = file.raw(&format!("{name}.blocks")).unwrap();
            assert!(stored.bytes == blocks, "{name}");
        }
    }

    /// llama.cpp's `llama-quantize` made these of the same checkpoints: the same matrices in the same blocks, all else in f32.
    #[test]
    fn files_are_those_of_llama_cpp() {
        for name in ["mamba-hf", "mamba2-hf", "rwkv6-blinkdl", "rwkv7-blinkdl"] {
            let folder = TempDir::new().unwrap();
            let to = folder.path().join("written.gguf");
            run(&golden().join("models").join(name), &to, GgufDtype::Q8_0).unwrap();
            let (ours, theirs) = (
                Checkpoint::open(&to).unwrap(),
                Checkpoint::open(golden().join(format!("gguf/{name}.gguf"))).unwrap(),
            );
            let described = |checkpoint: &Checkpoint| -> BTreeMap<String, (String, Vec<usize>)> {
                let of = |name: &str| {
                    let stored = checkpoint.stored(name).unwrap();
                    (
                        name.to_string(),
                        (stored.dtype_name.to_string(), stored.shape.to_vec()),
                    )
                };
                checkpoint.names().map(of).collect()
            };
            assert_eq!(described(&ours), described(&theirs), "{name}");
            for tensor in ours.names() {
                let same = ours.stored(tensor).unwrap().bytes == theirs.stored(tensor).unwrap().bytes;
                // e^x differs by a unit in the last place between libraries.
                assert!(same || tensor.ends_with("A_log"), "{name}: {tensor}");
            }
        }
    }
}

/// Puts other values into one tensor of a folder.
fn with_tensor(folder: &Path, name: &str, replaced: &[f32]) {
    let before = Checkpoint::open(folder).unwrap();
    let out = rewritten(
        &before,
        |tensor, values| if tensor == name { replaced.to_vec() } else { values },
    );
    fs::write(folder.join("model.safetensors"), out).unwrap();
}

/// The tensors of a checkpoint with other values, as the bytes of a file.
fn rewritten(before: &Checkpoint, change: impl Fn(&str, Vec<f32>) -> Vec<f32>) -> Vec<u8> {
    let plans: Vec<TensorPlan> = before
        .names()
        .map(|name| TensorPlan {
            name: name.into(),
            shape: before.stored(name).unwrap().shape.to_vec(),
        })
        .collect();
    let mut out = Vec::new();
    write_safetensors(
        Path::new("x"),
        &mut out,
        WriteDtype::F32,
        &plans,
        &BTreeMap::new(),
        |plan, sink| sink(&change(&plan.name, values(before, &plan.name))),
    )
    .unwrap();
    out
}

/// Conversions of `Rwkv6ForCausalLM` halve the output matrices every few blocks, and say so in a field.
#[test]
fn weights_that_were_halved_are_whole_again() {
    let folder = TempDir::new().unwrap();
    let model = golden().join("models/rwkv6-blinkdl");
    let before = Checkpoint::open(&model).unwrap();
    let block = |name: &str| {
        name.split('.')
            .nth(1)
            .and_then(|number| number.parse::<i32>().ok())
    };
    let halves = |name: &str| name.ends_with("att.output.weight") || name.ends_with("ffn.value.weight");
    let out = rewritten(&before, |name, values| {
        match block(name).filter(|_| halves(name)) {
            Some(number) => values.iter().map(|value| value / 2_f32.powi(number)).collect(),
            None => values,
        }
    });
    let halved = folder.path().join("halved");
    fs::create_dir(&halved).unwrap();
    fs::write(halved.join("model.safetensors"), out).unwrap();
    let to = folder.path().join("halved.gguf");
    run(&halved, &to, GgufDtype::F32).unwrap();
    let key = b"rwkv6.rescale_every_n_layers";
    let mut bytes = fs::read(&to).unwrap();
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    assert_eq!(bytes[at..at + 8], [4, 0, 0, 0, 0, 0, 0, 0]);
    bytes[at + 4] = 1;
    fs::write(&to, bytes).unwrap();
    let read = Checkpoint::open(&to).unwrap();
    let mut blocks = 0;
    for name in before.names().filter(|name| halves(name)) {
        assert!(values(&read, name) == values(&before, name), "{name}");
        blocks = blocks.max(block(name).unwrap());
    }
    assert!(blocks > 0, "one block is never halved");
}

#[test]
fn what_the_format_has_no_place_for_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let to = folder.path().join("x.gguf");
    let message = |model: &Path| run(model, &to, GgufDtype::F32).unwrap_err().to_string();
    let models = golden().join("models");
    for (model, part) in [
        ("gla-fla", "found gla in the layout of flash-linear-attention"),
        ("rwkv7-fla", "found rwkv7 in the layout of flash-linear-attention"),
        ("falcon_mamba-hf", "epsilon of their own"),
        (
            "mamba-untied-bias-hf",
            "no place for the tensor backbone.layers.0.mixer.in_proj.bias",
        ),
    ] {
        let message = message(&models.join(model));
        assert!(
            message.contains(part) && message.contains("not to be written as GGUF"),
            "{message}"
        );
    }
    let windowed = random(folder.path(), "llama", &[("sliding_window", json!(16))]);
    assert!(message(&windowed).contains("sliding_window"));
    let bounded = random(
        folder.path(),
        "mamba2",
        &[("time_step_limit", json!([0.01, 0.1]))],
    );
    assert!(message(&bounded).contains("bounded to [0.01, 0.1]"));
    assert!(!to.exists());
    let first = models.join("mamba-hf");
    run(&first, &to, GgufDtype::F32).unwrap();
    assert!(message(&first).contains("exists"));
    let replace = GgufOptions {
        dtype: GgufDtype::Q8_0,
        replace: true,
    };
    convert_to_gguf(&first, &to, replace, |_, _| ()).unwrap();
    // Rows of the step size's projection are no whole block, and f16 as llama.cpp's program makes them.
    assert_eq!(Checkpoint::open(&to).unwrap().dtypes(), ["F16", "F32", "q8_0"]);
    let onto_itself = convert_to_gguf(&to, &to, replace, |_, _| ())
        .unwrap_err()
        .to_string();
    assert!(onto_itself.contains("expected another one"), "{onto_itself}");
}
