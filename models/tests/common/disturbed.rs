//! Random checkpoints with noise on every weight: fresh norms are all 1 and biases all 0, and would hide a mistake.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_models::checkpoint::{StoredTensors, TensorPlan, WriteDtype, write_safetensors};

/// Writes the tensors of `from` that `kept` wants into the folder `to`, each value moved by up to `noise`.
pub fn disturb(from: &StoredTensors, to: &Path, seed: u64, noise: f32, kept: impl Fn(&str) -> bool) {
    let plan = |name: &str| TensorPlan {
        name: name.into(),
        shape: from.raw(name).unwrap().1.to_vec(),
    };
    let plans: Vec<TensorPlan> = from.names().filter(|name| kept(name)).map(plan).collect();
    let path = to.join("model.safetensors");
    let mut file = File::create(&path).unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    write_safetensors(
        &path,
        &mut file,
        WriteDtype::F32,
        &plans,
        &BTreeMap::new(),
        |plan, sink| {
            let (_, _, bytes) = from.raw(&plan.name).unwrap();
            let values = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let moved = values.map(|value| value + rng.random_range(-noise..noise));
            sink(&moved.collect::<Vec<f32>>())
        },
    )
    .unwrap();
}

/// Random tokens.
pub fn ids(seed: u64, count: usize, vocabulary: usize) -> Vec<u32> {
    let mut rng = StdRng::seed_from_u64(seed ^ 1);
    (0..count)
        .map(|_| rng.random_range(0..vocabulary as u32))
        .collect()
}
