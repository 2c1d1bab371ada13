//! The file form of a state.
//!
//! It is safetensors: `layers.N.mixer.NAME` and `layers.N.channel.NAME`, with the names that [`MixerState::save`] gives; its
//! metadata hold the version of this form, the positions, the chain, and the number of layers.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{DType, TensorData};
use safetensors::tensor::{Dtype, TensorView, serialize};
use spillway_ssm_core::{Chain, MixerState, Site};

use super::ModelState;
use crate::checkpoint::{CheckpointError, StoredPlan, StoredTensors, write_stored};
use crate::error::ModelError;
use crate::output::NewFile;

/// Version of the file form.
const VERSION: &str = "2";

/// More tokens than any text has, and few enough that positions can be counted on from there.
const MOST_TOKENS: u64 = 1 << 53;

/// What a saved state is held against: the model that goes on with it.
pub(crate) struct Owner<'a> {
    /// The sites of every layer, first layer first.
    pub(crate) sites: Vec<Vec<Site>>,
    /// The state before the first token of so many sequences.
    pub(crate) start: &'a dyn Fn(usize) -> Result<ModelState, ModelError>,
}

impl ModelState {
    /// Writes everything needed to go on later. The file appears under its name when it is complete, or not at all.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] when it cannot be written, [`ModelError::SavedState`] for a memory of a type that the file
    /// form does not have.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let entries = entries(self);
        let mut tensors: Vec<(&String, &TensorData)> = entries.iter().collect();
        // The widest first, so that every value lies at a multiple of its size.
        tensors.sort_by_key(|(_, data)| std::cmp::Reverse(data.dtype().size()));
        let plans = tensors.iter().map(|(name, data)| {
            let view = view(path, name, data)?;
            Ok(StoredPlan {
                name: (*name).clone(),
                dtype: view.dtype().to_string(),
                shape: view.shape().to_vec(),
                bytes: view.data().len(),
            })
        });
        let plans = plans.collect::<Result<Vec<_>, ModelError>>()?;
        let metadata: BTreeMap<String, String> = metadata(self).into_iter().collect();
        let mut file = NewFile::create(path)?;
        let mut next = tensors.iter();
        write_stored(path, file.writer(), &plans, &metadata, |_, sink| {
            // One of each, in the same order.
            match next.next() {
                Some((_, data)) => sink(data.as_bytes()),
                None => Ok(()),
            }
        })?;
        Ok(file.commit()?)
    }

    /// The bytes of the file that [`ModelState::save`] writes; `path` is for errors.
    pub(crate) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, ModelError> {
        let entries = entries(self);
        let bytes = serialize(views(path, &entries)?, Some(metadata(self)));
        Ok(bytes.map_err(|e| CheckpointError::io(path, "writing")(std::io::Error::other(e)))?)
    }

    /// Reads what [`ModelState::save`] wrote into an open file, for the model that `owner` describes; `path` is for errors.
    pub(crate) fn read(
        path: &Path,
        file: &StoredTensors,
        chain: &Chain,
        owner: &Owner<'_>,
    ) -> Result<Self, ModelError> {
        let saved = Saved { path, file };
        saved.expect("version", VERSION)?;
        saved.expect("chain", &chain.text())?;
        saved.expect("layers", &owner.sites.len().to_string())?;
        let positions = saved.positions()?;
        saved.expect_batch(positions.len())?;
        let position = positions.iter().copied().max().unwrap_or(0);
        let mut state = (owner.start)(positions.len())?;
        for (layer, (sites, state)) in owner.sites.iter().zip(&mut state.layers).enumerate() {
            let restore = |part: &str, state: &mut MixerState, sites: &[Site]| {
                let prefix = format!("layers.{layer}.{part}.");
                let entries = saved.below(&prefix)?;
                let result = state.restore(&entries, sites, chain, position);
                result.map_err(|error| saved.does_not_fit(&prefix, error))
            };
            restore("mixer", &mut state.mixer, sites)?;
            restore("channel", &mut state.channel, &[])?;
        }
        state.positions = positions;
        Ok(state)
    }
}

/// Every tensor of a state by its name in the file.
pub(crate) fn entries(state: &ModelState) -> BTreeMap<String, TensorData> {
    let mut entries = BTreeMap::new();
    for (layer, state) in state.layers.iter().enumerate() {
        for (part, state) in [("mixer", &state.mixer), ("channel", &state.channel)] {
            let saved = state.save().into_iter();
            entries.extend(saved.map(|(name, data)| (format!("layers.{layer}.{part}.{name}"), data)));
        }
    }
    entries
}

fn metadata(state: &ModelState) -> HashMap<String, String> {
    HashMap::from([
        ("version".to_string(), VERSION.to_string()),
        ("positions".to_string(), list(&state.positions)),
        ("layers".to_string(), state.layers.len().to_string()),
        ("chain".to_string(), state.chain.text()),
    ])
}

fn views<'a>(
    path: &Path,
    entries: &'a BTreeMap<String, TensorData>,
) -> Result<Vec<(&'a String, TensorView<'a>)>, ModelError> {
    let views = entries.iter();
    views
        .map(|(name, data)| Ok((name, view(path, name, data)?)))
        .collect()
}

fn list(numbers: &[u64]) -> String {
    let texts: Vec<String> = numbers.iter().map(u64::to_string).collect();
    texts.join(",")
}

/// A saved state being read.
struct Saved<'a> {
    path: &'a Path,
    file: &'a StoredTensors,
}

impl Saved<'_> {
    fn wrong(&self, what: &str, expected: impl Into<String>, found: impl Into<String>) -> ModelError {
        let (path, what) = (self.path.to_path_buf(), what.to_string());
        ModelError::SavedState {
            path,
            what,
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn expect(&self, entry: &str, expected: &str) -> Result<(), ModelError> {
        match self.file.metadata(entry) {
            Some(found) if found == expected => Ok(()),
            found => Err(self.wrong(entry, expected, found.unwrap_or("nothing"))),
        }
    }

    fn positions(&self) -> Result<Vec<u64>, ModelError> {
        let found = self.file.metadata("positions").unwrap_or("nothing");
        let numbers: Result<Vec<u64>, _> = found.split(',').map(str::parse).collect();
        match numbers {
            Ok(numbers) if numbers.iter().all(|&position| position < MOST_TOKENS) => Ok(numbers),
            Ok(_) => Err(self.wrong("positions", format!("numbers below {MOST_TOKENS}"), found)),
            Err(_) => Err(self.wrong("positions", "whole numbers, one per sequence", found)),
        }
    }

    /// A batch of a damaged file must not be started: every tensor says how many sequences there are.
    fn expect_batch(&self, batch: usize) -> Result<(), ModelError> {
        // What interventions remember need not be one row per sequence.
        let mut names = self.file.names().filter(|name| !name.contains(".interventions."));
        let first = names.next().and_then(|name| self.file.raw(name));
        match first.and_then(|(_, shape, _)| shape.first().copied()) {
            Some(found) if found != batch && found != 1 => Err(self.wrong(
                "positions",
                format!("one per sequence of the tensors, {found}"),
                batch.to_string(),
            )),
            _ => Ok(()),
        }
    }

    fn below(&self, prefix: &str) -> Result<BTreeMap<String, TensorData>, ModelError> {
        let names = self.file.names().filter(|name| name.starts_with(prefix));
        names
            .map(|name| Ok((name[prefix.len()..].to_string(), self.data(name)?)))
            .collect()
    }

    /// `error`, with the file and the entry's whole name where it is about an entry that does not fit.
    fn does_not_fit(&self, prefix: &str, error: spillway_ssm_core::Error) -> ModelError {
        match error {
            spillway_ssm_core::Error::Saved {
                what,
                expected,
                found,
            } => self.wrong(&format!("{prefix}{what}"), expected, found),
            other => other.into(),
        }
    }

    fn data(&self, name: &str) -> Result<TensorData, ModelError> {
        let Some((dtype, shape, bytes)) = self.file.raw(name) else {
            return Err(self.wrong(name, "a tensor", "nothing"));
        };
        let Some((dtype, _)) = TYPES.iter().find(|(_, stored)| stored.to_string() == dtype) else {
            return Err(self.wrong(name, "a type that states have", dtype));
        };
        let data = TensorData::try_from_bytes_vec(bytes.to_vec(), shape.to_vec(), *dtype);
        data.map_err(|e| self.wrong(name, "a tensor of its own size", e.to_string()))
    }
}

/// The tensor types that a state may have, and their names in the file.
pub(crate) const TYPES: [(DType, Dtype); 7] = [
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::U64, Dtype::U64),
    (DType::U32, Dtype::U32),
    (DType::U8, Dtype::U8),
];

fn view<'a>(path: &Path, name: &str, data: &'a TensorData) -> Result<TensorView<'a>, ModelError> {
    let wrong = |found: String| ModelError::SavedState {
        path: path.to_path_buf(),
        what: name.to_string(),
        expected: "a type that states have".into(),
        found,
    };
    let dtype = TYPES.iter().find(|(kept, _)| *kept == data.dtype());
    let (_, dtype) = dtype.ok_or_else(|| wrong(format!("{:?}", data.dtype())))?;
    TensorView::new(*dtype, data.shape().to_vec(), data.as_bytes()).map_err(|e| wrong(e.to_string()))
}
