//! Random checkpoints in every published layout: the published sizes for benchmarks, tiny ones for tests.
//!
//! Which tensors there are, of what shapes and how they are drawn, is asked of the layout's own reader: what this writes is
//! what that reads.

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value};

use crate::checkpoint::{Fields, TensorPlan, WriteDtype, parse_object, write_folder};
use crate::error::ModelError;
use crate::layout::{Layout, Preset};
use crate::loader::{Asked, Loader, draw};
use crate::output::{NewFolder, OutputError};

/// Values made at a time.
const BLOCK: usize = 1 << 16;

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
    write(path, layout, config, (dtype, seed), NewFolder::create)
}

/// As [`write_random`]; in a folder that is there already, files of the same names are replaced, and the others stay.
///
/// # Errors
/// As there; [`CheckpointError::InUse`](crate::checkpoint::CheckpointError::InUse) when another process writes in the folder.
pub fn write_random_over(
    path: &Path,
    layout: &Layout,
    config: &str,
    dtype: WriteDtype,
    seed: u64,
) -> Result<(), ModelError> {
    write(path, layout, config, (dtype, seed), NewFolder::replace)
}

fn write(
    path: &Path,
    layout: &Layout,
    config: &str,
    (dtype, seed): (WriteDtype, u64),
    begin: impl FnOnce(&Path) -> Result<NewFolder, OutputError>,
) -> Result<(), ModelError> {
    let config_path = path.join("config.json");
    let config: Map<String, Value> = parse_object(&config_path, config)?;
    let mut loader = Loader::blank();
    layout.load(&Fields::new(&config_path, &config), &mut loader)?;
    let asked = loader.asked();
    let plans: Vec<TensorPlan> = asked.iter().map(|tensor| tensor.plan.clone()).collect();
    let mut next = asked.iter();
    let folder = begin(path)?;
    write_folder(folder, &config, dtype, &plans, &[], |_, sink| match next.next() {
        Some(asked) => for_each_block(asked, seed, sink),
        // There is a plan for each that was asked for, in the same order.
        None => Ok(()),
    })?;
    Ok(())
}

/// The values of a fresh tensor, in blocks. The same seed gives the same ones.
pub(crate) fn for_each_block<E>(
    asked: &Asked,
    seed: u64,
    mut sink: impl FnMut(&[f32]) -> Result<(), E>,
) -> Result<(), E> {
    let name = asked.twin.as_ref().unwrap_or(&asked.plan.name);
    let mut rng = StdRng::seed_from_u64(tensor_seed(seed, name));
    let count: usize = asked.plan.shape.iter().product();
    let mut block = Vec::with_capacity(BLOCK.min(count));
    for begin in (0..count).step_by(BLOCK) {
        block.clear();
        let range = begin..count.min(begin + BLOCK);
        draw(&asked.init, &mut rng, range, count, &mut block);
        sink(&block)?;
    }
    Ok(())
}

/// A seed of its own for every tensor (FNV-1a over the name), and one and the same for tied ones.
fn tensor_seed(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
