//! Random checkpoints in every published layout: the published sizes for benchmarks, tiny ones for tests.
//!
//! Which tensors there are, of what shapes and how they are drawn, is asked of the layout's own reader: what this writes is
//! what that reads.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use serde_json::{Map, Value};

use crate::checkpoint::{
    CheckpointError, Fields, NewFile, NewFolder, TensorPlan, WriteDtype, parse_object, write_safetensors,
};
use crate::error::ModelError;
use crate::layout::{LAYOUTS, Layout, Preset};
use crate::loader::{Asked, Init, Loader};

/// Values made at a time.
const BLOCK: usize = 1 << 16;

/// Every layout of which random checkpoints can be made.
pub fn layouts() -> &'static [&'static Layout] {
    LAYOUTS
}

/// The layouts of an architecture that have presets, the one to take by default first.
pub fn layouts_of(architecture: &str) -> impl Iterator<Item = &'static Layout> {
    LAYOUTS
        .iter()
        .copied()
        .filter(move |layout| layout.architecture == architecture && !layout.presets.is_empty())
}

/// A size of a layout by its name.
pub fn preset(layout: &Layout, size: &str) -> Option<&'static Preset> {
    layout.presets.iter().find(|preset| preset.size == size)
}

/// Writes a random checkpoint with this configuration into a new folder `path`. The same seed gives the same bytes.
///
/// # Errors
/// [`ModelError::Checkpoint`] for a configuration that the layout refuses, when there is something at `path`, or when it
/// cannot be written; nothing is left behind then.
pub fn write_random(
    path: &Path,
    layout: &Layout,
    config: &str,
    dtype: WriteDtype,
    seed: u64,
) -> Result<(), ModelError> {
    let config_path = path.join("config.json");
    let config: Map<String, Value> = parse_object(&config_path, config)?;
    let mut loader = Loader::blank();
    (layout.load)(&Fields::new(&config_path, &config), &mut loader)?;
    write(path, &config, loader.asked(), dtype, seed)?;
    Ok(())
}

fn write(
    path: &Path,
    config: &Map<String, Value>,
    asked: &[Asked],
    dtype: WriteDtype,
    seed: u64,
) -> Result<(), CheckpointError> {
    let folder = NewFolder::create(path)?;
    let config_path = folder.temporary_path().join("config.json");
    let text = format!("{:#}\n", Value::Object(config.clone()));
    std::fs::write(&config_path, text).map_err(CheckpointError::io(path, "writing"))?;
    let plans: Vec<TensorPlan> = asked.iter().map(|tensor| tensor.plan.clone()).collect();
    let by_name: BTreeMap<&str, &Asked> = asked
        .iter()
        .map(|tensor| (tensor.plan.name.as_str(), tensor))
        .collect();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut file = NewFile::create(&folder.temporary_path().join("model.safetensors"))?;
    write_safetensors(path, file.writer(), dtype, &plans, &metadata, |plan, sink| {
        let asked = by_name.get(plan.name.as_str());
        let init = asked.map_or(Init::Zeros, |asked| asked.init);
        let name = asked
            .and_then(|asked| asked.twin.as_deref())
            .unwrap_or(&plan.name);
        let mut rng = StdRng::seed_from_u64(tensor_seed(seed, name));
        let count: usize = plan.shape.iter().product();
        let mut block = Vec::with_capacity(BLOCK.min(count));
        for begin in (0..count).step_by(BLOCK) {
            block.clear();
            draw(init, &mut rng, begin..count.min(begin + BLOCK), count, &mut block);
            sink(&block)?;
        }
        Ok::<(), CheckpointError>(())
    })?;
    file.commit()?;
    folder.commit()
}

/// A seed of its own for every tensor (FNV-1a over the name), and one and the same for tied ones.
fn tensor_seed(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn draw(init: Init, rng: &mut StdRng, range: std::ops::Range<usize>, count: usize, into: &mut Vec<f32>) {
    match init {
        Init::Zeros => into.extend(range.map(|_| 0.0)),
        Init::Ones => into.extend(range.map(|_| 1.0)),
        Init::Constant(value) => into.extend(range.map(|_| value)),
        Init::Uniform(low, high) if low < high => {
            into.extend(range.map(|_| rng.random_range(low..high)));
        }
        Init::Uniform(low, _) => into.extend(range.map(|_| low)),
        Init::Normal(deviation) => {
            into.extend(range.map(|_| deviation * rng.sample::<f32, _>(StandardNormal)));
        }
        Init::Drawn(value) => into.extend(range.map(|_| value(rng))),
        Init::Ramp { from, to, power } => {
            let last = (count.max(2) - 1) as f32;
            into.extend(range.map(|index| from + (to - from) * (index as f32 / last).powf(power)));
        }
        Init::Values(value) => into.extend(range.map(|index| value(index, count))),
    }
}
