//! RWKV in all its layouts: without a configuration, from PyTorch files, split anywhere, and with files that are wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::layout::Layout;
use spillway_models::registry::written_layouts;
use spillway_models::{LoadOptions, Logits, Model};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

/// Every layout of every version.
fn rwkv_layouts() -> impl Iterator<Item = &'static Layout> {
    written_layouts().filter(|layout| layout.architecture.starts_with("rwkv"))
}

pub(super) fn layout(architecture: &str, name: &str) -> &'static Layout {
    let found = rwkv_layouts().find(|layout| layout.architecture == architecture && layout.name == name);
    found.unwrap_or_else(|| panic!("no layout {name} of {architecture}"))
}

/// A random model of the tiny size.
pub(super) fn tiny(layout: &Layout) -> TempDir {
    let folder = TempDir::new().unwrap();
    let config = preset(layout, "tiny").unwrap().config;
    write_random(&folder.path().join("model"), layout, config, WriteDtype::F32, 3).unwrap();
    folder
}

pub(super) fn load(folder: &Path) -> Result<Model, String> {
    Model::load(folder, &LoadOptions::default()).map_err(|error| error.to_string())
}

pub(super) fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 37 + 11) % 256).collect()
}

/// Logits after every token, the tokens given in pieces.
pub(super) fn logits(model: &Model, pieces: &[&[u32]]) -> Vec<f32> {
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let mut found = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        let logits = model.logits(piece, &mut state, Logits::All).unwrap();
        found.extend(logits.into_data().iter::<f32>());
    }
    found
}

pub(super) fn relative_error(found: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(found.len(), reference.len());
    let pairs = || {
        found
            .iter()
            .zip(reference)
            .map(|(a, b)| (f64::from(*a), f64::from(*b)))
    };
    let difference: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
    (difference / pairs().map(|(_, b)| b * b).sum::<f64>()).sqrt()
}

/// A tensor in f32.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl Stored {
    fn of(shape: &[usize], value: f32) -> Self {
        let count = shape.iter().product();
        Self {
            shape: shape.to_vec(),
            bytes: vec![value; count]
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::from(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Changes the tensors of a model in a folder, or in a file.
pub(super) fn change(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, Stored>)) {
    let path = match folder.is_dir() {
        true => folder.join("model.safetensors"),
        false => folder.to_path_buf(),
    };
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
        (name, Stored { shape, bytes })
    };
    let mut tensors = file.tensors().into_iter().map(stored).collect();
    change(&mut tensors);
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
}

mod golden {
    use super::*;
    use std::path::PathBuf;

    /// The published form: one `.pth`, nothing beside it.
    #[test]
    fn a_pth_file_alone_gives_the_logits_of_the_tensors_beside_it() {
        let given = std::env::var_os("GOLDEN_DIR").map(PathBuf::from);
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let root = given.as_ref().unwrap_or(&own);
        for version in 4..=7 {
            let published = root.join(format!("models/rwkv{version}-blinkdl"));
            // A folder that someone else gave need not have one.
            if given.is_some() && !published.join("model.pth").is_file() {
                continue;
            }
            let folder = TempDir::new().unwrap();
            let file = folder.path().join("RWKV-some-name.pth");
            std::fs::copy(published.join("model.pth"), &file).unwrap();
            let (alone, beside) = (load(&file).unwrap(), load(&published).unwrap());
            assert_eq!(alone.info().architecture, format!("rwkv{version}"));
            let ids = ids(20);
            assert_eq!(
                logits(&alone, &[&ids]),
                logits(&beside, &[&ids]),
                "version {version}"
            );
        }
    }
}

mod equivalence {
    use super::*;

    #[test]
    fn splitting_the_tokens_anywhere_changes_nothing() {
        for layout in rwkv_layouts() {
            let folder = tiny(layout);
            let model = load(&folder.path().join("model")).unwrap();
            let ids = ids(40);
            let whole = logits(&model, &[&ids]);
            assert!(whole.iter().all(|logit| logit.is_finite()));
            for split in [1, 2, 17, 39] {
                let (before, after) = ids.split_at(split);
                let error = relative_error(&logits(&model, &[before, after]), &whole);
                assert!(
                    error <= 2e-6,
                    "{} ({}) split at {split}: {error:e}",
                    layout.architecture,
                    layout.name
                );
            }
            let tokens: Vec<&[u32]> = ids.chunks(1).collect();
            let error = relative_error(&logits(&model, &tokens), &whole);
            assert!(
                error <= 2e-6,
                "{} ({}) token by token: {error:e}",
                layout.architecture,
                layout.name
            );
        }
    }

    /// A model whose early tokens are of no consequence would pass the test above without a state.
    #[test]
    fn an_early_token_changes_late_logits() {
        for layout in rwkv_layouts() {
            let folder = tiny(layout);
            let model = load(&folder.path().join("model")).unwrap();
            let (ids, mut other) = (ids(24), ids(24));
            other[3] ^= 1;
            let last = |ids: &[u32]| logits(&model, &[ids])[23 * 256..].to_vec();
            let error = relative_error(&last(&other), &last(&ids));
            assert!(
                error > 1e-6,
                "{} ({}): {error:e}",
                layout.architecture,
                layout.name
            );
        }
    }
}

#[test]
fn blinkdl_files_need_no_configuration() {
    for version in ["rwkv4", "rwkv5", "rwkv6", "rwkv7"] {
        let folder = tiny(layout(version, "BlinkDL"));
        let path = folder.path().join("model");
        let with = logits(&load(&path).unwrap(), &[&ids(10)]);
        std::fs::remove_file(path.join("config.json")).unwrap();
        let model = load(&path).unwrap();
        assert_eq!(logits(&model, &[&ids(10)]), with);
        assert_eq!(
            (model.info().architecture, model.info().layout),
            (version, "BlinkDL")
        );
        assert_eq!((model.info().layers, model.info().model_dim), (2, 64));
    }
}

#[test]
fn what_layer_0_of_rwkv7_holds_of_a_value_residual_is_not_read() {
    let folder = tiny(layout("rwkv7", "BlinkDL"));
    let path = folder.path().join("model");
    let without = logits(&load(&path).unwrap(), &[&ids(10)]);
    change(&path, |tensors| {
        for part in ["v0", "v1", "v2"] {
            let like = tensors[&format!("blocks.1.att.{part}")].shape.clone();
            tensors.insert(format!("blocks.0.att.{part}"), Stored::of(&like, 0.5));
        }
    });
    assert_eq!(logits(&load(&path).unwrap(), &[&ids(10)]), without);
}

/// Changes a tiny BlinkDL model and expects a refusal that names all of `parts`.
#[track_caller]
fn refused(version: &str, change_tensors: impl FnOnce(&mut BTreeMap<String, Stored>), parts: &[&str]) {
    let folder = tiny(layout(version, "BlinkDL"));
    let path = folder.path().join("model");
    change(&path, change_tensors);
    let error = load(&path).unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not named in: {error}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let remove =
        |name: &'static str| move |tensors: &mut BTreeMap<String, Stored>| drop(tensors.remove(name));
    let name = "blocks.1.att.value.weight";
    refused("rwkv4", remove(name), &[name, "missing", "[64, 64]"]);
    let name = "blocks.0.ffn.key.weight";
    refused("rwkv5", remove(name), &[name, "missing"]);
    let name = "blocks.0.att.time_decay_w1";
    refused("rwkv6", remove(name), &[name, "missing"]);
    let name = "blocks.1.att.v1";
    refused("rwkv7", remove(name), &[name, "missing"]);
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    let name = "blocks.1.att.time_mix_k";
    let flat = |tensors: &mut BTreeMap<String, Stored>| {
        tensors.insert(name.into(), Stored::of(&[64], 0.5));
    };
    refused("rwkv4", flat, &[name, "[1, 1, 64]", "[64]"]);
    let name = "blocks.0.att.key.weight";
    let cube = |tensors: &mut BTreeMap<String, Stored>| {
        tensors.insert(name.into(), Stored::of(&[8, 8, 64], 0.5));
    };
    refused("rwkv7", cube, &[name, "2 dimensions", "[8, 8, 64]"]);
    let uneven = |tensors: &mut BTreeMap<String, Stored>| {
        tensors.insert("blocks.0.att.time_faaaa".into(), Stored::of(&[2, 24], 0.5));
    };
    refused("rwkv5", uneven, &["head_size", "divisor of dim_att = 64", "24"]);
}

#[test]
fn versions_that_are_not_implemented_are_named() {
    let first = |tensors: &mut BTreeMap<String, Stored>| {
        for layer in 0..2 {
            let stored = tensors.remove(&format!("blocks.{layer}.att.time_faaaa")).unwrap();
            tensors.insert(format!("blocks.{layer}.att.time_first"), stored);
        }
    };
    refused("rwkv5", first, &["RWKV-5.0 or 5.1", "RWKV-5.2"]);
    let deep = |tensors: &mut BTreeMap<String, Stored>| {
        tensors.insert("blocks.0.ffn.s_emb.weight".into(), Stored::of(&[256, 32], 0.1));
    };
    refused(
        "rwkv7",
        deep,
        &["blocks.0.ffn.s_emb.weight", "deep embedding", "x070"],
    );
    let unknown = |tensors: &mut BTreeMap<String, Stored>| {
        tensors.insert("blocks.0.att.novel".into(), Stored::of(&[64], 0.1));
    };
    refused("rwkv6", unknown, &["blocks.0.att.novel"]);
}

#[test]
fn configurations_that_are_not_implemented_are_named() {
    let cases = [
        ("rwkv7", r#""attn": {"layers": [0]}"#, "attention"),
        ("rwkv6", r#""hidden_act": "silu""#, "sqrelu"),
        ("rwkv7", r#""value_dim": [64, 128]"#, "value_dim"),
        ("rwkv6", r#""expand_k": 0.3"#, "expand_k"),
        ("rwkv7", r#""num_heads": 4"#, "num_heads"),
    ];
    for (version, field, named) in cases {
        let layout = layout(version, "flash-linear-attention");
        let folder = tiny(layout);
        let path = folder.path().join("model");
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path.join("config.json")).unwrap()).unwrap();
        let mut config = config.as_object().unwrap().clone();
        let added: serde_json::Value = serde_json::from_str(&format!("{{{field}}}")).unwrap();
        config.extend(added.as_object().unwrap().clone());
        std::fs::write(
            path.join("config.json"),
            serde_json::Value::Object(config).to_string(),
        )
        .unwrap();
        let error = load(&path).unwrap_err();
        assert!(error.contains(named), "{named:?} is not named in: {error}");
    }
}

/// What flash-linear-attention's configurations may leave open is in the shapes.
#[test]
fn open_fields_are_taken_from_the_tensors() {
    for version in ["rwkv6", "rwkv7"] {
        let folder = tiny(layout(version, "flash-linear-attention"));
        let path = folder.path().join("model");
        let with = logits(&load(&path).unwrap(), &[&ids(10)]);
        let text = std::fs::read_to_string(path.join("config.json")).unwrap();
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        for field in [
            "intermediate_size",
            "decay_low_rank_dim",
            "gate_low_rank_dim",
            "a_low_rank_dim",
            "v_low_rank_dim",
        ] {
            config.insert(field.into(), serde_json::Value::Null);
        }
        std::fs::write(
            path.join("config.json"),
            serde_json::Value::Object(config).to_string(),
        )
        .unwrap();
        assert_eq!(logits(&load(&path).unwrap(), &[&ids(10)]), with);
    }
}
