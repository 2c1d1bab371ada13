//! GGUF files are read as the checkpoints that they were made of.

use std::fs;
use std::path::{Path, PathBuf};

use spillway_models::checkpoint::{Checkpoint, Header, StoredTensors, WriteDtype};
use spillway_models::convert::{ConvertOptions, convert};
use spillway_models::{LoadOptions, Logits, Model, WeightType};
use spillway_ssm_core::Chain;

pub(super) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A tensor of f32 or f64 values, or of ids.
pub(super) fn numbers(file: &StoredTensors, name: &str) -> Vec<f64> {
    let (dtype, _, bytes) = file.raw(name).unwrap();
    match dtype {
        "F32" => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect(),
        "F64" => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect(),
        "I64" => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b) as f64)
            .collect(),
        other => panic!("{name} is {other}"),
    }
}

/// The values of a tensor of a checkpoint.
pub(super) fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let shape = checkpoint
        .stored(name)
        .unwrap_or_else(|| panic!("{name}"))
        .shape
        .to_vec();
    checkpoint.tensor(name, &shape).unwrap().to_vec().unwrap()
}

/// How far a model's logits are from those of a file, relative to their size, in the first sequence.
pub(super) fn error(model: &Path, expected: &Path) -> f64 {
    error_kept_as(model, expected, WeightType::F32)
}

/// The same of a model whose matrices are kept in a type, or as the file has them.
pub(super) fn error_kept_as(model: &Path, expected: &Path, weights: impl Into<Option<WeightType>>) -> f64 {
    let file = StoredTensors::open(expected).unwrap();
    let (_, shape, _) = file.raw("input_ids").unwrap();
    let time = shape[1];
    let ids: Vec<u32> = numbers(&file, "input_ids")[..time]
        .iter()
        .map(|id| *id as u32)
        .collect();
    let model = Model::load(model, &LoadOptions::with_weights(weights)).unwrap();
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let found = model.logits(&ids, &mut state, Logits::All).unwrap();
    let found: Vec<f32> = found.into_data().iter::<f32>().collect();
    let expected = &numbers(&file, "logits")[..found.len()];
    let differences: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum();
    (differences / expected.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

mod golden_files {
    use super::*;

    #[test]
    fn blocks_have_the_values_that_the_gguf_package_reads() {
        let file = StoredTensors::open(&golden().join("gguf/blocks.safetensors")).unwrap();
        for (kind, name) in [(8, "q8_0"), (2, "q4_0"), (12, "q4_K"), (13, "q5_K"), (14, "q6_K")] {
            let (_, _, blocks) = file.raw(&format!("{name}.blocks")).unwrap();
            let expected = numbers(&file, &format!("{name}.values"));
            let path = tempfile::tempdir().unwrap();
            let path = path.path().join("model.gguf");
            fs::write(&path, file_of(kind, &[expected.len() as u64], blocks)).unwrap();
            let checkpoint = Checkpoint::open(&path).unwrap();
            let found = checkpoint
                .tensor("odd", &[expected.len()])
                .unwrap()
                .to_vec()
                .unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                let off = (f64::from(*found) - expected).abs();
                // Where a product and an offset cancel, an ulp of the product is left.
                assert!(
                    off <= 1e-6 * expected.abs() + 1e-5,
                    "{name}: {found} and not {expected}"
                );
            }
        }
    }

    /// Weights of 8 bits move the logits by what their rounding does, no more than `golden.rs` allows for int8; a name or an order that is
    /// wrong, by all that they are.
    #[test]
    fn models_have_the_logits_of_their_checkpoints() {
        for name in ["mamba-hf", "mamba2-hf", "rwkv6-blinkdl", "rwkv7-blinkdl"] {
            let model = golden().join(format!("gguf/{name}.gguf"));
            let error = error(
                &model,
                &golden().join(format!("models/{name}/expected.safetensors")),
            );
            assert!(error < 4e-2, "{name}: {error}");
        }
        let error = error(
            &golden().join("gguf/llama.gguf"),
            &golden().join("gguf/llama.safetensors"),
        );
        assert!(error < 2e-2, "llama: {error}");
    }
}

/// A file of one tensor that no architecture knows, of a shape whose outermost dimension comes first.
pub(super) fn file_of(kind: u32, shape: &[u64], data: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = [
        &b"GGUF"[..],
        &3_u32.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &2_u64.to_le_bytes(),
    ]
    .concat();
    let sizes: Vec<u8> = shape.iter().rev().flat_map(|size| size.to_le_bytes()).collect();
    for (key, kind, value) in [
        ("general.architecture", 8_u32, text("rwkv6")),
        ("general.alignment", 4, 64_u32.to_le_bytes().to_vec()),
    ] {
        bytes.extend([&text(key)[..], &kind.to_le_bytes(), &value].concat());
    }
    bytes.extend(
        [
            &text("odd")[..],
            &(shape.len() as u32).to_le_bytes(),
            &sizes,
            &kind.to_le_bytes(),
            &[0; 8],
        ]
        .concat(),
    );
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    bytes.extend(data);
    bytes
}

#[test]
fn damaged_files_are_refused_by_name_and_never_read_beyond_their_end() {
    let whole = fs::read(golden().join("gguf/llama.gguf")).unwrap();
    let refused = |bytes: &[u8]| {
        Header::parse_gguf(Path::new("a.gguf"), bytes)
            .unwrap_err()
            .to_string()
    };
    for length in (4..2000).step_by(7).chain([whole.len() - 1]) {
        assert!(refused(&whole[..length]).starts_with("a.gguf: GGUF"), "{length}");
    }
    for (kind, len, message) in [
        (99, 32, "type 99 is not read"),
        (8, 33, "rows of whole blocks of 32"),
        (0, 0, "at least one value"),
        (0, 1 << 62, "bytes"),
        (0, 1000, "within the file's"),
    ] {
        let message_found = refused(&file_of(kind, &[len], &[0; 34]));
        assert!(message_found.contains(message), "{message_found}");
    }
    let mut version = whole.clone();
    version[4] = 1;
    assert!(refused(&version).contains("GGUF version 1"));
    let mut count = whole;
    count[8..16].fill(0xff);
    assert!(refused(&count).contains("number of tensors"));
}

#[test]
fn a_gguf_file_converts_to_the_layout_that_it_is_read_as() {
    let folder_of = tempfile::tempdir().unwrap();
    let to = folder_of.path().join("converted");
    let from = golden().join("gguf/mamba2-hf.gguf");
    let options = ConvertOptions {
        dtype: WriteDtype::F32,
        replace: false,
    };
    convert(&from, &to, options, |_, _| ()).unwrap();
    let ids: Vec<u32> = (0..20).map(|i| i * 11 % 256).collect();
    let logits = |path: &Path| {
        let model = Model::load(path, &LoadOptions::with_weights(WeightType::F32)).unwrap();
        let logits = model
            .logits(&ids, &mut model.start(&Chain::default(), 1).unwrap(), Logits::All)
            .unwrap();
        logits.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    assert_eq!(logits(&from), logits(&to));
}
