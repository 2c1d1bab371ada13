//! Random checkpoints with noise on every weight: fresh norms are all 1 and biases all 0, and would hide a mistake.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_models::checkpoint::StoredTensors;

use crate::moved::write_moved;

/// Writes the tensors of `from` that `kept` wants into the folder `to`, each value moved by up to `noise`.
pub fn disturb(from: &StoredTensors, to: &Path, seed: u64, noise: f32, kept: impl Fn(&str) -> bool) {
    write_moved(from, to, seed, kept, |value, rng| {
        value + rng.random_range(-noise..noise)
    });
}

/// Random tokens.
pub fn ids(seed: u64, count: usize, vocabulary: usize) -> Vec<u32> {
    let mut rng = StdRng::seed_from_u64(seed ^ 1);
    (0..count)
        .map(|_| rng.random_range(0..vocabulary as u32))
        .collect()
}
