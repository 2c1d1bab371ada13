//! Random checkpoints of S4 models, and what they give.

use std::path::Path;

use serde_json::{Value, json};
use spillway_models::checkpoint::{Checkpoint, WriteDtype};
use spillway_models::init::write_random;
use spillway_models::layout::Layout;
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Logits, Model};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

pub fn layout() -> &'static Layout {
    layouts_of("s4").next().expect("a layout")
}

/// A random checkpoint of a configuration: a tiny one with these fields of the block, and these of the model.
pub fn write(folder: &Path, layer: &Value, model: &Value) {
    let mut config = json!({"model_type": "s4", "d_model": 8, "n_layers": 2, "vocab_size": 16, "layer": {
        "mode": "diag", "d_state": 4}});
    merge(&mut config["layer"], layer);
    merge(&mut config, model);
    write_random(folder, layout(), &config.to_string(), WriteDtype::F32, 5)
        .unwrap_or_else(|error| panic!("{config}: {error}"));
}

pub fn merge(into: &mut Value, from: &Value) {
    for (name, value) in from.as_object().expect("fields") {
        into[name] = value.clone();
    }
}

pub fn load(folder: &Path) -> Model {
    Model::load(folder, &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

pub fn fresh(layer: &Value, model: &Value) -> (TempDir, Model) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model");
    write(&path, layer, model);
    let model = load(&path);
    (folder, model)
}

pub const IDS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

pub fn logits(model: &Model, calls: &[&[u32]]) -> Vec<f32> {
    let mut state = model.start(&Chain::default(), 1).expect("a state");
    let each = calls.iter().flat_map(|ids| {
        let logits = model.logits_batched(ids, &mut state, Logits::All);
        let logits = logits.unwrap_or_else(|error| panic!("{error}"));
        logits.into_data().iter::<f32>().collect::<Vec<_>>()
    });
    each.collect()
}

pub fn close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size: f32 = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
    let off: f32 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f32>()
        .sqrt();
    assert!(size > 0.0 && off <= 3e-5 * size, "{what}: {off:e} of {size:e}");
}

pub fn shape_of(checkpoint: &Checkpoint, name: &str) -> Vec<usize> {
    checkpoint.stored(name).expect(name).shape.to_vec()
}

pub fn read(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let bytes = checkpoint.stored(name).expect(name).bytes;
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}
