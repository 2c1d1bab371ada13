//! Matrices of GGUF files at their own width: to the bit where the file's blocks are kept, within a stated error where they are not, in
//! models whose layouts move rows, columns and heads.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use spillway_models::checkpoint::{Checkpoint, StoredTensors};
use spillway_models::loader::Loader;
use spillway_models::{LoadOptions, Logits, Model, WeightType};
use spillway_ssm_core::weights::Init;
use spillway_ssm_core::{Chain, Linear, Weight};
use tempfile::TempDir;

use crate::common::relative_error;
use crate::gguf::{error_kept_as, file_of, golden, numbers, values};
use crate::gguf_hybrids::conversion::{Source, converted};
use crate::gguf_hybrids::file::Matrices;

/// Golden models without a choice of experts, which a small error may change, and the architectures of their files.
const DENSE: [(&str, &str); 5] = [
    ("falcon_h1-hf", "falcon-h1"),
    ("granitemoehybrid-dense-hf", "granitehybrid"),
    ("jamba-hf", "jamba"),
    ("kimi_linear-hf", "kimi-linear"),
    ("qwen3_5-text-hf", "qwen35"),
];

/// Those with experts.
const EXPERTS: [(&str, &str); 4] = [
    ("granitemoehybrid-moe-hf", "granitehybrid"),
    ("nemotron_h-hf", "nemotron_h_moe"),
    ("qwen3_next-hf", "qwen3next"),
    ("qwen3_5_moe-text-hf", "qwen35moe"),
];

/// A golden model as a file whose matrices are in blocks.
fn write(folder: &Path, (model, architecture): (&str, &str), matrices: Matrices) -> PathBuf {
    let mut file = converted(&Source::open(&golden(), model, architecture));
    file.matrices = matrices;
    let path = folder.join(format!("{model}-{matrices:?}.gguf"));
    fs::write(&path, file.bytes()).unwrap();
    path
}

/// A matrix as a model packs it when no type is asked for.
fn packed(checkpoint: &Checkpoint, name: &str, shape: [usize; 2]) -> (WeightType, Vec<f32>) {
    let mut loader = Loader::new(checkpoint, None, Device::flex());
    let Weight::Packed(packed) = loader.matrix(name, shape, Init::Zeros).unwrap() else {
        panic!("{name} is not packed");
    };
    let mut found = vec![f32::NAN; shape[0] * shape[1]];
    for (index, row) in found.chunks_exact_mut(shape[1]).enumerate() {
        packed.row(index, row).unwrap();
    }
    (packed.weight_type(), found)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

/// Half a step of 8 bits for the largest of each 32, and what a scale in f16 is off.
fn within_half_a_step(found: &[f32], expected: &[f32], width: usize, what: &str) {
    for (found, expected) in found.chunks(width).zip(expected.chunks(width)) {
        for (found, expected) in found.chunks(32).zip(expected.chunks(32)) {
            let bound = 0.004 * largest(expected) + 3e-8;
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= bound,
                    "{what}: {found} for {expected}"
                );
            }
        }
    }
}

/// How far a product may be off whose factors are rounded to 8 bits in blocks: half a step of each.
fn half_steps(x: &[f32], w: &[f64]) -> f64 {
    let blocks = x.chunks(32).zip(w.chunks(32));
    let each = blocks.map(|(x, w)| {
        let x = || x.iter().map(|x| f64::from(x.abs()));
        let w = || w.iter().map(|w| w.abs());
        let step = |largest: f64| largest / 254.0 * 1.01;
        step(x().fold(0.0, f64::max)) * w().sum::<f64>() * 1.01
            + step(w().fold(0.0, f64::max)) * x().sum::<f64>()
    });
    each.sum::<f64>() + 1e-6
}

#[test]
fn matrices_of_whole_blocks_have_the_values_of_the_file_to_the_bit() {
    let folder = TempDir::new().unwrap();
    let (mut exact, mut rounded) = ([0; 2], 0);
    for model in DENSE.into_iter().chain(EXPERTS) {
        for (index, (matrices, own)) in [
            (Matrices::Q8_0, WeightType::Q8_0),
            (Matrices::Q4_0, WeightType::Int4),
        ]
        .into_iter()
        .enumerate()
        {
            let path = write(folder.path(), model, matrices);
            let checkpoint = Checkpoint::open(&path).unwrap();
            for name in checkpoint.names() {
                let &[rows, columns] = checkpoint.stored(name).unwrap().shape else {
                    continue;
                };
                let (kept, found) = packed(&checkpoint, name, [rows, columns]);
                let (expected, what) = (
                    values(&checkpoint, name),
                    format!("{model:?} {matrices:?} {name}"),
                );
                match kept {
                    _ if kept == own && kept == WeightType::Int4 => {
                        assert!(found == expected, "{what}");
                        exact[index] += 1;
                    }
                    WeightType::Q8_0 => {
                        within_half_a_step(&found, &expected, columns, &what);
                        let to_the_bit = found == expected;
                        exact[index] += usize::from(to_the_bit && kept == own);
                        rounded += usize::from(!to_the_bit);
                    }
                    WeightType::F32 => assert!(found == expected, "{what}"),
                    other => panic!("{what} is kept as {other}"),
                }
            }
        }
    }
    // Columns of heads narrower than a block, and keys of latent attention, which lie transposed.
    assert!((1..=30).contains(&rounded), "{rounded} matrices are rounded");
    assert!(
        exact.iter().all(|exact| *exact > 50),
        "{exact:?} matrices are exact"
    );
}

#[test]
fn models_at_their_own_width_have_the_logits_of_their_values() {
    let folder = TempDir::new().unwrap();
    let ids: Vec<u32> = (0..60).map(|i| (i * 37 + 5) % 256).collect();
    let logits = |path: &Path, weights: Option<WeightType>| {
        let model = Model::load(path, &LoadOptions::with_weights(weights)).unwrap();
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let logits = model.logits(&ids, &mut state, Logits::All).unwrap();
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        (logits, model.info().clone())
    };
    for model in DENSE {
        for matrices in [Matrices::Q8_0, Matrices::Q4_0] {
            let path = write(folder.path(), model, matrices);
            let (expected, of_floats) = logits(&path, Some(WeightType::F32));
            let (found, own) = logits(&path, None);
            let error = relative_error(found, expected.into_iter().map(f64::from));
            // Inputs of products are rounded to 8 bits; an order that is wrong would cost all.
            assert!(error < 3e-2, "{model:?} {matrices:?}: {error}");
            let width = if matrices == Matrices::Q8_0 {
                "q8_0"
            } else {
                "int4"
            };
            assert!(own.kept_as.contains(width), "{model:?}: {}", own.kept_as);
            assert_eq!(of_floats.kept_as, "f32");
            assert!(own.weight_bytes < of_floats.weight_bytes, "{model:?}");
        }
    }
}

#[test]
fn files_of_llama_cpp_are_computed_at_their_own_width() {
    for name in ["mamba-hf", "mamba2-hf", "rwkv6-blinkdl", "rwkv7-blinkdl"] {
        let path = golden().join(format!("gguf/{name}.gguf"));
        let expected = golden().join(format!("models/{name}/expected.safetensors"));
        let error = error_kept_as(&path, &expected, None);
        assert!(error < 4e-2, "{name}: {error}");
        let info = |weights: Option<WeightType>| {
            let model = Model::load(&path, &LoadOptions::with_weights(weights)).unwrap();
            model.info().clone()
        };
        let own = info(None);
        assert!(own.kept_as.contains("q8_0"), "{name}: {}", own.kept_as);
        assert!(
            own.weight_bytes < info(Some(WeightType::F32)).weight_bytes / 2,
            "{name}"
        );
        // What is asked for goes before what the file has.
        assert_eq!(info(Some(WeightType::Bf16)).kept_as, "bf16");
    }
    let path = golden().join("gguf/llama.gguf");
    // Its own logits are of products with inputs in 8 bits too.
    let error = error_kept_as(&path, &golden().join("gguf/llama.safetensors"), None);
    assert!(error < 2e-2, "llama: {error}");
}

/// q4_K, q5_K and q6_K: the error of the weights, and that of a product with inputs rounded to 8 bits.
#[test]
fn k_quants_are_kept_in_eight_bits_within_half_a_percent() {
    let file = StoredTensors::open(&golden().join("gguf/blocks.safetensors")).unwrap();
    let folder = TempDir::new().unwrap();
    for (kind, name) in [(12, "q4_K"), (13, "q5_K"), (14, "q6_K")] {
        let (_, _, blocks) = file.raw(&format!("{name}.blocks")).unwrap();
        let expected = numbers(&file, &format!("{name}.values"));
        let (rows, columns) = (expected.len() / 256, 256);
        let path = folder.path().join(format!("{name}.gguf"));
        fs::write(&path, file_of(kind, &[rows as u64, columns as u64], blocks)).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let (kept, found) = packed(&checkpoint, "odd", [rows, columns]);
        assert_eq!(kept, WeightType::Q8_0);
        let floats: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
        within_half_a_step(&found, &floats, columns, name);
        let error = relative_error(found, expected.iter().copied());
        assert!(error < 6e-3, "{name}: {error}");

        let mut loader = Loader::new(&checkpoint, None, Device::flex());
        let weight = loader.matrix("odd", [rows, columns], Init::Zeros).unwrap();
        let x: Vec<f32> = (0..3 * columns)
            .map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0)
            .collect();
        let input = Tensor::<3>::from_data(TensorData::new(x.clone(), [1, 3, columns]), &Device::flex());
        let out = Linear::new(weight, None).unwrap().forward(input).unwrap();
        let out = out.into_data().iter::<f32>().collect::<Vec<_>>();
        for (x, out) in x.chunks(columns).zip(out.chunks(rows)) {
            for (w, out) in expected.chunks(columns).zip(out) {
                let truth: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * w).sum();
                let (error, bound) = ((f64::from(*out) - truth).abs(), half_steps(x, w));
                assert!(
                    error <= bound,
                    "{name}: {out} for {truth}, and {bound} is allowed"
                );
            }
        }
    }
}
