//! Converted checkpoints hold what the originals hold, and nothing half-written is left behind.

use crate::archive;

use std::fs;
use std::path::{Path, PathBuf};

use archive::{Described, dictionary, program, pth};
use half::{bf16, f16};
use spillway_models::checkpoint::{Checkpoint, CheckpointError, WriteDtype};
use spillway_models::convert::{ConvertOptions, Converted, convert};
use spillway_models::{LoadOptions, Logits, Model, ModelError};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

const F32: ConvertOptions = ConvertOptions {
    dtype: WriteDtype::F32,
    replace: false,
};
const BF16: ConvertOptions = ConvertOptions {
    dtype: WriteDtype::Bf16,
    replace: false,
};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-mamba2-kjv")
}

fn run(from: &Path, to: &Path, options: ConvertOptions) -> Result<Converted, ModelError> {
    convert(from, to, options, |_, _| {})
}

fn logits(path: &Path) -> Vec<u32> {
    let model = Model::load(path, &LoadOptions::default()).unwrap();
    let vocabulary = model.info().vocab_size as u32;
    let ids: Vec<u32> = (0..50).map(|i| (i * 37 + 5) % vocabulary).collect();
    let logits = if model.network().sees_later_tokens() {
        model.logits_in_place(&ids, 1).unwrap().into_data()
    } else {
        let mut state = model.start(&Chain::default(), 1).unwrap();
        model.logits(&ids, &mut state, Logits::All).unwrap().into_data()
    };
    logits.iter::<f32>().map(f32::to_bits).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn values(path: &Path, name: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let shape = checkpoint.stored(name).unwrap().shape.to_vec();
    checkpoint.tensor(name, &shape).unwrap().to_vec().unwrap()
}

mod golden {
    use super::*;

    fn models() -> Vec<PathBuf> {
        let root = std::env::var_os("GOLDEN_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
            PathBuf::from,
        );
        let entries = fs::read_dir(root.join("models")).unwrap();
        let mut models: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        models.sort();
        assert!(!models.is_empty());
        models
    }

    #[test]
    fn every_layout_converted_to_f32_gives_the_same_logits() {
        for model in models() {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("out");
            run(&model, &out, F32).unwrap();
            assert_eq!(logits(&out), logits(&model), "{}", model.display());
        }
    }

    /// As it is published: one file, no configuration.
    #[test]
    fn files_of_pytorch_without_a_configuration_give_the_same_logits() {
        for model in models().iter().filter(|model| model.join("model.pth").exists()) {
            let folder = TempDir::new().unwrap();
            let (alone, out) = (folder.path().join("model.pth"), folder.path().join("out"));
            fs::copy(model.join("model.pth"), &alone).unwrap();
            let expected = logits(&alone);
            assert_eq!(
                expected,
                logits(&model.join("model.safetensors")),
                "{}",
                model.display()
            );
            let converted = run(&alone, &out, F32).unwrap();
            assert!(converted.derived_config);
            assert_eq!(logits(&out), expected, "{}", model.display());
        }
    }
}

#[test]
fn the_shipped_model_in_f32_is_the_same_and_in_bf16_is_rounded() {
    let folder = TempDir::new().unwrap();
    let [wide, narrow] = ["wide", "narrow"].map(|name| folder.path().join(name));
    let mut last = (0, 0);
    let converted = convert(&shipped(), &wide, F32, |done, total| {
        assert!(last.0 < done && done <= total);
        last = (done, total);
    })
    .unwrap();
    assert_eq!(last, (converted.bytes, converted.bytes));
    // The head is stored though it is the embedding.
    assert_eq!(converted.bytes, 4 * (138_456 + 256 * 64));
    assert_eq!(
        (converted.derived_config, converted.copied.as_slice()),
        (false, &["spillway.json".to_string()][..])
    );
    assert_eq!(
        names(&wide),
        ["config.json", "model.safetensors", "spillway.json"]
    );
    assert_eq!(logits(&wide), logits(&shipped()));

    run(&shipped(), &narrow, BF16).unwrap();
    let model = Model::load(&narrow, &LoadOptions::default()).unwrap();
    assert_eq!(
        (model.info().stored_as.as_slice(), model.info().train_length),
        (&["BF16".to_string()][..], Some(64))
    );
    let name = "backbone.layers.0.mixer.in_proj.weight";
    let rounded: Vec<f32> = values(&shipped(), name)
        .iter()
        .map(|v| bf16::from_f32(*v).to_f32())
        .collect();
    assert_eq!(values(&narrow, name), rounded);
    assert_ne!(values(&narrow, name), values(&shipped(), name));
    assert_eq!(names(folder.path()), ["narrow", "wide"]);
}

/// Half-way between two neighbours in bf16: the first goes down to the even 1, the second up to the even 1 + 2⁻⁶.
const HALF_WAY: [f32; 2] = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];

/// A PyTorch file with a tensor of each kind, and a vocabulary beside it.
fn mixed(folder: &Path) -> PathBuf {
    let halves: Vec<u8> = [1.5f32, -65504.0]
        .iter()
        .flat_map(|v| f16::from_f32(*v).to_le_bytes())
        .collect();
    let singles: Vec<u8> = HALF_WAY.iter().flat_map(|v| v.to_le_bytes()).collect();
    let doubles: Vec<u8> = [0.1f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let whole: Vec<u8> = [i64::MIN, 3].iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = |class, key| Described {
        name: class,
        class,
        key,
        values: 2,
        offset: 0,
        shape: &[2],
        strides: &[1],
    };
    let tensors = [
        tensor("HalfStorage", "0"),
        tensor("FloatStorage", "1"),
        tensor("DoubleStorage", "2"),
        tensor("LongStorage", "3"),
    ];
    let entries: Vec<_> = tensors.iter().map(|t| (t.name, t.pickle())).collect();
    let path = folder.join("any.pth");
    fs::write(
        &path,
        pth(
            &program(&dictionary(&entries)),
            &[&halves, &singles, &doubles, &whole],
        ),
    )
    .unwrap();
    fs::write(folder.join("config.json"), "{\"limit\": Infinity}\n").unwrap();
    fs::write(folder.join("rwkv_vocab_v20230424.txt"), "1 'a' 1\n").unwrap();
    fs::write(folder.join("notes.txt"), "not the model's").unwrap();
    path
}

#[test]
fn types_are_widened_rounded_or_kept() {
    let folder = TempDir::new().unwrap();
    let from = mixed(folder.path());
    let [wide, narrow] = ["wide", "narrow"].map(|name| folder.path().join(name));
    run(&from, &wide, F32).unwrap();
    run(&from, &narrow, BF16).unwrap();
    assert_eq!(values(&wide, "HalfStorage"), [1.5, -65504.0]);
    assert_eq!(values(&wide, "FloatStorage"), HALF_WAY);
    assert_eq!(values(&wide, "DoubleStorage"), [0.1, -2.0]);
    assert_eq!(values(&narrow, "FloatStorage"), [1.0, 1.015_625]);
    for out in [&wide, &narrow] {
        let checkpoint = Checkpoint::open(out).unwrap();
        let stored = checkpoint.stored("LongStorage").unwrap();
        assert_eq!((stored.dtype_name, stored.shape), ("I64", &[2][..]));
        assert_eq!(
            stored.bytes,
            [i64::MIN.to_le_bytes(), 3i64.to_le_bytes()].concat()
        );
        assert_eq!(
            fs::read_to_string(out.join("config.json")).unwrap(),
            "{\"limit\": Infinity}\n"
        );
        assert_eq!(
            names(out),
            ["config.json", "model.safetensors", "rwkv_vocab_v20230424.txt"]
        );
    }
}

#[test]
fn an_existing_folder_is_left_alone_unless_its_files_may_be_replaced() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("config.json"), "old").unwrap();
    fs::write(out.join("mine.txt"), "kept").unwrap();
    let error = run(&shipped(), &out, F32).unwrap_err();
    assert!(
        matches!(error, ModelError::Checkpoint(CheckpointError::Exists { .. })),
        "{error}"
    );
    assert_eq!(fs::read_to_string(out.join("config.json")).unwrap(), "old");

    let replace = ConvertOptions { replace: true, ..F32 };
    run(&shipped(), &out, replace).unwrap();
    assert_eq!(
        names(&out),
        ["config.json", "mine.txt", "model.safetensors", "spillway.json"]
    );
    assert_eq!(logits(&out), logits(&shipped()));
    assert_eq!(names(folder.path()), ["out"]);

    // Neither over a file nor over itself, by whatever name.
    let error = run(&shipped(), &out.join("mine.txt"), replace).unwrap_err();
    assert!(
        matches!(error, ModelError::Checkpoint(CheckpointError::Exists { .. })),
        "{error}"
    );
    let itself = out.join("../out");
    for from in [out.clone(), out.join("model.safetensors")] {
        let error = run(&from, &itself, replace).unwrap_err();
        assert!(
            matches!(error, ModelError::Checkpoint(CheckpointError::OntoItself { .. })),
            "{error}"
        );
    }
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn what_cannot_be_converted_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let from = folder.path().join("model.pth");
    let write = |name: &str, values: [f32; 2]| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Described {
            name,
            class: "FloatStorage",
            key: "0",
            values: 2,
            offset: 0,
            shape: &[2],
            strides: &[1],
        };
        fs::write(
            &from,
            pth(&program(&dictionary(&[(name, tensor.pickle())])), &[&bytes]),
        )
        .unwrap();
    };
    let refused = |options, parts: &[&str]| {
        let message = run(&from, &out, options).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not named in: {message}");
        }
    };
    write("w", [1.0, 2.0]);
    refused(F32, &["config.json", "no such file"]);
    // The one tensor by which BlinkDL's files are known is not a whole model.
    write("blocks.0.ln0.weight", [1.0, 2.0]);
    refused(F32, &["blocks.0.ln0.weight"]);
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    write("w", [1.0, f32::NAN]);
    refused(F32, &["tensor w", "value 1 is NaN"]);
    write("w", [1.0, f32::MAX]);
    refused(BF16, &["tensor w", "3.4028235e38", "beyond the range of bf16"]);
    assert_eq!(names(folder.path()), ["config.json", "model.pth"]);
    run(&from, &out, F32).unwrap();
    assert_eq!(values(&out, "w"), [1.0, f32::MAX]);
    refused(F32, &["out", "exists already"]);
    let missing = run(&folder.path().join("none"), &out, F32)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("no such file"), "{missing}");
}
