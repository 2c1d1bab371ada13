//! Tiny random models of every kind of state, ids, and what a state holds.

use std::sync::OnceLock;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::layout::{Layout, Preset};
use spillway_models::registry::layouts_of;
use spillway_models::train::{Batch, Carry, CarryConfig};
use spillway_models::{LoadOptions, Model, ModelState};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

/// Architectures and sizes: a matrix with one decay, with a decay per row, the delta rule with and without a transition of low
/// rank, a weighted mean; attention with and without a window among recurrences, and beside them in one layer.
const KINDS: [(&str, &str); 8] = [
    ("mamba2", "tiny"),
    ("gla", "tiny"),
    ("delta_net", "tiny"),
    ("rwkv7", "tiny"),
    ("rwkv4", "tiny"),
    ("mamba2", "tiny-hybrid"),
    ("based", "tiny"),
    ("falcon_h1", "tiny"),
];

/// Layouts and sizes of all kinds, by name.
pub fn kinds() -> impl Iterator<Item = (String, &'static Layout, &'static Preset)> {
    KINDS.into_iter().map(|(architecture, size)| {
        let mut layouts = layouts_of(architecture);
        let found = layouts.find_map(|layout| Some((layout, preset(layout, size)?)));
        let (layout, preset) = found.unwrap_or_else(|| panic!("no {size} {architecture}"));
        (format!("{architecture} {size}"), layout, preset)
    })
}

/// A random model of every kind.
pub fn models() -> &'static [(String, Model)] {
    static MODELS: OnceLock<Vec<(String, Model)>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        kinds()
            .map(|(name, layout, preset)| {
                let path = folder.path().join(&name);
                write_random(&path, layout, preset.config, WriteDtype::F32, 5).unwrap();
                (name, Model::load(&path, &LoadOptions::default()).unwrap())
            })
            .collect()
    })
}

/// Whether a model of this name has attention beside its recurrences.
pub fn attends(name: &str) -> bool {
    name.contains("hybrid") || name.starts_with("based") || name.starts_with("falcon_h1")
}

pub fn model(name: &str) -> &'static Model {
    let found = models().iter().find(|(found, _)| found == name);
    &found.unwrap().1
}

pub fn start(model: &Model, sequences: usize) -> ModelState {
    model.start(&Chain::default(), sequences).unwrap()
}

pub fn ids(seed: u64, count: usize) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(0..256)).collect()
}

/// Batches of `time` tokens that go on one after another, from as many texts as there are sequences.
pub fn batches(seed: u64, count: usize, sequences: usize, time: usize) -> Vec<Batch> {
    let texts: Vec<Vec<u32>> = (0..sequences)
        .map(|row| ids(seed ^ ((row as u64) << 32), count * time + 1))
        .collect();
    let batch = |index: usize| {
        let piece = |shift: usize| {
            let rows = texts.iter();
            rows.flat_map(|text| text[index * time + shift..][..time].to_vec())
                .collect::<Vec<u32>>()
        };
        Batch {
            sequences,
            time,
            ids: piece(0),
            targets: piece(1),
            weights: None,
            continues: vec![index > 0; sequences],
        }
    };
    (0..count).map(batch).collect()
}

/// One batch through the model, segment by segment: the losses, sequence by sequence.
pub fn step(model: &Model, carry: &mut Carry, batch: &Batch, index: u64) -> Vec<f32> {
    let mut state = carry.begin(start(model, batch.sequences), batch, index).unwrap();
    let mut losses = vec![Vec::new(); batch.sequences];
    for segment in batch.segments(carry.segment(batch)) {
        let found = model
            .losses_batched(&segment.ids(), &segment.targets(), &mut state)
            .unwrap();
        for (row, found) in losses.iter_mut().zip(found.chunks(segment.time())) {
            row.extend_from_slice(found);
        }
        state = carry.between(state).unwrap();
    }
    carry.end(state).unwrap();
    losses.concat()
}

pub fn new(config: &CarryConfig, seed: u64, model: &Model) -> Carry {
    Carry::new(config, seed, &model.info().sites).unwrap()
}

/// Every tensor of a state, bit by bit.
pub fn contents(state: &ModelState) -> Vec<(String, Vec<u8>)> {
    let layers = state.layers.iter().enumerate();
    let parts = layers.flat_map(|(layer, state)| {
        let parts = [("mixer", state.mixer.save()), ("channel", state.channel.save())];
        parts.into_iter().flat_map(move |(part, saved)| {
            saved
                .into_iter()
                .map(move |(name, data)| (format!("{layer}.{part}.{name}"), data.as_bytes().to_vec()))
        })
    });
    parts.collect()
}

/// The same for one sequence.
pub fn row(state: &ModelState, row: usize) -> Vec<(String, Vec<u8>)> {
    contents(&state.select(&[row]).unwrap())
}

/// ‖found − expected‖ / ‖expected‖; NaN does not pass any bound.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let norm: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    match (difference, norm) {
        (0.0, 0.0) => 0.0,
        _ => (difference / norm).sqrt(),
    }
}
