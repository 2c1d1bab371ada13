//! Checkpoints written again with every weight moved a little.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use spillway_models::checkpoint::{StoredTensors, TensorPlan, WriteDtype, write_safetensors};

/// Writes the tensors of `from` that `kept` wants into the folder `to`, each value as `moved` gives it.
pub fn write_moved(
    from: &StoredTensors,
    to: &Path,
    seed: u64,
    kept: impl Fn(&str) -> bool,
    moved: impl Fn(f32, &mut StdRng) -> f32,
) {
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
            sink(&values.map(|value| moved(value, &mut rng)).collect::<Vec<f32>>())
        },
    )
    .unwrap();
}
