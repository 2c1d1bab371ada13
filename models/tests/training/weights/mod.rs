//! A model of leaves is the model of the packed weights, and its gradients are those of its loss, in every layout.
//!
//! A layout added to the registry is tested here without another line.

mod cases;
mod files;
mod finite_differences;
mod fresh;
mod loss;
mod network;
mod overfit;

use crate::devices;

use burn::tensor::{Device, Tensor};
use spillway_models::tokenizer::Tokenizer;
use spillway_models::train::{Batch, Leaves, Parameters, Precision};
use spillway_models::{Logits, Model};
use spillway_ssm_core::Chain;

const SEED: u64 = 2407;
const SEQUENCES: usize = 2;
const TIME: usize = 24;

fn batch(vocabulary: u32) -> Batch {
    let ids = |salt: u64| -> Vec<u32> {
        (0..(SEQUENCES * TIME) as u64)
            .map(|i| ((salt ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 33) as u32 % vocabulary)
            .collect()
    };
    Batch {
        sequences: SEQUENCES,
        time: TIME,
        ids: ids(7),
        targets: ids(11),
        weights: None,
        continues: vec![false; SEQUENCES],
    }
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// ‖found − expected‖ / ‖expected‖; NaN does not compare as small.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    match norm(expected) {
        0.0 => norm(&difference),
        expected => norm(&difference) / expected,
    }
}

fn packed(parameters: &Parameters) -> Model {
    parameters.model(Tokenizer::bytes()).unwrap()
}

/// Logits of a model for the batch, `[sequences, time, padded_vocab_size]`.
fn logits(model: &Model, batch: &Batch) -> Vec<f32> {
    let mut state = model.start(&Chain::default(), batch.sequences).unwrap();
    values(&model.logits_batched(&batch.ids, &mut state, Logits::All).unwrap())
}

/// Losses of all targets, sequence by sequence, by the packed model.
fn losses(parameters: &Parameters, batch: &Batch) -> Vec<f64> {
    let model = packed(parameters);
    let rows = batch
        .ids
        .chunks_exact(batch.time)
        .zip(batch.targets.chunks_exact(batch.time));
    rows.flat_map(|(ids, targets)| {
        let mut state = model.start(&Chain::default(), 1).unwrap();
        model.losses(ids, targets, &mut state).unwrap()
    })
    .map(f64::from)
    .collect()
}

fn leaves(parameters: &Parameters, device: &Device) -> Leaves {
    parameters.leaves(&device.clone().autodiff(), Precision::F32)
}

/// The loss summed over segments of this length, and the gradient of every parameter.
fn gradients(
    parameters: &Parameters,
    batch: &Batch,
    segment: usize,
    device: &Device,
) -> (f64, Vec<Option<Vec<f32>>>) {
    let leaves = leaves(parameters, device);
    let network = leaves.network().unwrap();
    let mut state = network.start(batch.sequences);
    let losses = batch
        .segments(segment)
        .map(|segment| network.loss(&segment, &mut state).unwrap().0);
    let loss = losses.reduce(|sum, loss| sum + loss).unwrap();
    let value = f64::from(values(&loss)[0]);
    let found = leaves.gradients(&mut loss.backward());
    assert_eq!(found.len(), parameters.list().len());
    let found = found.iter().map(|gradient| gradient.as_ref().map(values));
    (value, found.collect())
}
