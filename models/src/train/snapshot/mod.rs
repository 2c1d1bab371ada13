//! Snapshots: everything that a training needs to go on as if it had never stopped, in one file.
//!
//! A file appears under its name when it is complete and on the disk; the two latest are kept. A file that is damaged, cut off,
//! foreign or of another training is refused with what is wrong about it. Nothing falls back by itself: the one before the latest
//! is read when it is asked for.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`Snapshot`]; [`Snapshots`], the folder that they are kept in |
//! | `file.rs` | the file form |
//! | `error.rs` | [`SnapshotError`] |

mod error;
mod file;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData};
use serde_json::Value;

pub use error::SnapshotError;

use super::parameters::Parameter;
use crate::checkpoint::CheckpointError;
use crate::output;
use crate::state::fingerprint::Fingerprint;

/// Number of snapshots that are kept: the latest, and the one before.
const KEPT: usize = 2;
const PREFIX: &str = "snapshot-";
const EXTENSION: &str = ".safetensors";

/// A training between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Number of steps done.
    pub step: u64,
    /// Number of tokens read in these steps.
    pub tokens: u64,
    /// The text of the configuration. Training goes on only with the same.
    pub config: String,
    /// Where the data go on.
    pub data: Value,
    /// What else there is to remember, of others' own forms. Fractions may lose their last bit in JSON; whole numbers and texts
    /// do not.
    pub other: Value,
    /// The f32 masters by their published names and in their published shapes, in the order of the list.
    pub parameters: Vec<(String, TensorData)>,
    /// Moments and their counts by name, as [`Optimizer::tensors`](super::Optimizer::tensors) gives them.
    pub optimizer: BTreeMap<String, TensorData>,
    /// States carried into the next step, by the carrier's own names.
    pub carried: BTreeMap<String, TensorData>,
}

/// Moments and their counts by name, fetched one after another while a snapshot is written.
pub trait Moments {
    /// Type and shape of every entry.
    fn entries(&self) -> BTreeMap<String, (DType, Vec<usize>)>;

    /// One of these entries; `None` for another name.
    ///
    /// # Errors
    /// [`SnapshotError::Parallel`] where parts of it lie on other ranks, which do not give them.
    fn fetch(&self, name: &str) -> Result<Option<Cow<'_, TensorData>>, SnapshotError>;
}

impl Moments for BTreeMap<String, TensorData> {
    fn entries(&self) -> BTreeMap<String, (DType, Vec<usize>)> {
        let entry =
            |(name, data): (&String, &TensorData)| (name.clone(), (data.dtype(), data.shape().to_vec()));
        self.iter().map(entry).collect()
    }

    fn fetch(&self, name: &str) -> Result<Option<Cow<'_, TensorData>>, SnapshotError> {
        Ok(self.get(name).map(Cow::Borrowed))
    }
}

/// Which snapshot of a folder is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// The snapshot after the most steps.
    #[default]
    Latest,
    /// The snapshot before the newest.
    Previous,
}

impl Snapshot {
    /// The bytes of its file, but for the moments, which are not for every rank.
    ///
    /// # Errors
    /// As [`Snapshots::write`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, SnapshotError> {
        let (_folder, path) = elsewhere()?;
        file::write(&path, self, &BTreeMap::new())?;
        Ok(fs::read(&path).map_err(CheckpointError::io(&path, "reading"))?)
    }

    /// The snapshot whose bytes [`Snapshot::to_bytes`] gave, without moments, and a name for it in errors.
    ///
    /// # Errors
    /// As [`Snapshots::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, PathBuf), SnapshotError> {
        let (_folder, path) = elsewhere()?;
        fs::write(&path, bytes).map_err(CheckpointError::io(&path, "writing"))?;
        Ok((file::read(&path)?, path))
    }

    /// The masters of a list of parameters, as [`Snapshot::parameters`] has them.
    pub fn masters(parameters: &[Parameter]) -> Vec<(String, TensorData)> {
        let master = |parameter: &Parameter| {
            let data = parameter.value.to_data();
            // A view of the same values: a parameter has as many as its shape says.
            let shaped = match parameter.shape.iter().product::<usize>() == data.num_elements() {
                true => {
                    let (bytes, _, dtype) = data.into_parts();
                    TensorData::from_bytes(bytes, parameter.shape.clone(), dtype)
                }
                false => data,
            };
            (parameter.name.clone(), shaped)
        };
        parameters.iter().map(master).collect()
    }

    /// Puts the masters back into a list of parameters, to the bit; `path` is the snapshot's file, for errors.
    ///
    /// # Errors
    /// [`SnapshotError::Entry`] for parameters of other names, numbers or shapes. Nothing has been changed then.
    pub fn restore_masters(&self, path: &Path, parameters: &mut [Parameter]) -> Result<(), SnapshotError> {
        let (expected, found) = (parameters.len(), self.parameters.len());
        if expected != found {
            let expected = format!("{expected}, as the model has");
            return Err(SnapshotError::entry(
                path,
                "number of parameters",
                expected,
                found,
            ));
        }
        for (parameter, (name, data)) in parameters.iter().zip(&self.parameters) {
            if *name != parameter.name {
                return Err(SnapshotError::entry(path, "parameter", &parameter.name, name));
            }
            if data.dtype() != DType::F32 || *data.shape().as_slice() != *parameter.shape {
                let expected = format!("F32 {:?}", parameter.shape);
                let found = format!("{:?} {:?}", data.dtype(), data.shape().as_slice());
                return Err(SnapshotError::entry(path, name, expected, found));
            }
        }
        for (parameter, (_, data)) in parameters.iter_mut().zip(&self.parameters) {
            let (bytes, _, dtype) = data.clone().into_parts();
            let flat = TensorData::from_bytes(bytes, [data.num_elements()], dtype);
            parameter.value = Tensor::from_data(flat, &parameter.value.device());
        }
        Ok(())
    }

    /// Refuses the snapshot of a training with another configuration; `path` is its file, for errors.
    ///
    /// # Errors
    /// [`SnapshotError::OtherConfiguration`], with the first line that differs.
    pub fn expect_config(&self, path: &Path, config: &str) -> Result<(), SnapshotError> {
        if self.config == config {
            return Ok(());
        }
        let (mut ours, mut theirs) = (config.split('\n'), self.config.split('\n'));
        let mut line = 1;
        loop {
            match (ours.next(), theirs.next()) {
                (Some(ours), Some(theirs)) if ours == theirs => line += 1,
                (ours, theirs) => {
                    return Err(SnapshotError::OtherConfiguration {
                        path: path.into(),
                        line,
                        expected: ours.unwrap_or("the end").into(),
                        found: theirs.unwrap_or("the end").into(),
                    });
                }
            }
        }
    }
}

/// A file that nobody else knows of, as long as its folder is there.
fn elsewhere() -> Result<(tempfile::TempDir, PathBuf), SnapshotError> {
    let parent = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(CheckpointError::io(&parent, "creating a folder in"))?;
    let path = folder.path().join(format!("{PREFIX}of-rank-0{EXTENSION}"));
    Ok((folder, path))
}

/// A hash of a configuration's text, in hexadecimal.
pub fn config_hash(config: &str) -> String {
    let mut hash = Fingerprint::new();
    hash.text(config);
    format!("{:032x}", hash.digest())
}

/// A folder of snapshots of one training. Other files may lie in it.
#[derive(Clone, Debug)]
pub struct Snapshots {
    folder: PathBuf,
}

impl Snapshots {
    /// The snapshots in `folder`, which is made if need be. What a writer that was killed has left half-written is removed, so
    /// only one training at a time may have a folder.
    ///
    /// # Errors
    /// [`SnapshotError::File`] when the folder cannot be made, read or written.
    pub fn open(folder: &Path) -> Result<Self, SnapshotError> {
        fs::create_dir_all(folder).map_err(CheckpointError::io(folder, "creating"))?;
        let snapshots = Self {
            folder: folder.into(),
        };
        output::sweep(folder);
        Ok(snapshots)
    }

    /// Steps and files, the earliest first.
    ///
    /// # Errors
    /// [`SnapshotError::File`] when the folder cannot be read.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, SnapshotError> {
        let step = |name: &str| name.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?.parse().ok();
        let names = self.names()?;
        let found = names
            .iter()
            .filter_map(|name| Some((step(name)?, self.folder.join(name))));
        let mut found: Vec<(u64, PathBuf)> = found.collect();
        found.sort();
        Ok(found)
    }

    /// The file of a snapshot after `step` steps.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:09}{EXTENSION}"))
    }

    /// Writes a snapshot, and when it is on the disk removes all but it and the one before. Snapshots of later steps are of a
    /// future that training has gone back from, and removed, too.
    ///
    /// # Errors
    /// [`SnapshotError::File`] when it cannot be written, [`SnapshotError::Entry`] for tensors of a type that the form does not
    /// have. All earlier snapshots are there then.
    pub fn write(&self, snapshot: &Snapshot) -> Result<PathBuf, SnapshotError> {
        self.write_with(snapshot, &snapshot.optimizer)
    }

    /// As [`Snapshots::write`], with these moments in the place of the snapshot's own.
    ///
    /// # Errors
    /// As there, and those of [`Moments::fetch`].
    pub fn write_with(&self, snapshot: &Snapshot, moments: &dyn Moments) -> Result<PathBuf, SnapshotError> {
        let path = self.path(snapshot.step);
        file::write(&path, snapshot, moments)?;
        self.sync()?;
        let all = self.list()?;
        let (later, mut until_now): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(step, _)| *step > snapshot.step);
        until_now.truncate(until_now.len().saturating_sub(KEPT));
        for (_, old) in later.iter().chain(&until_now) {
            self.remove(old)?;
        }
        Ok(path)
    }

    /// Reads a snapshot made with this configuration, and says which file it was.
    ///
    /// # Errors
    /// [`SnapshotError::None`] when there is none; why it cannot be used otherwise, within [`SnapshotError::Latest`] if there is
    /// one before it.
    pub fn read(&self, choice: SnapshotChoice, config: &str) -> Result<(Snapshot, PathBuf), SnapshotError> {
        let mut all = self.list()?;
        let found = all.len();
        let latest = all.pop();
        let previous = all.pop();
        let (wanted, expected) = match choice {
            SnapshotChoice::Latest => (latest, "a snapshot of a training"),
            SnapshotChoice::Previous => (previous.clone(), "two snapshots of a training"),
        };
        let Some((step, path)) = wanted else {
            let folder = self.folder.clone();
            return Err(SnapshotError::None {
                folder,
                expected,
                found,
            });
        };
        let snapshot = file::read(&path).and_then(|snapshot| match snapshot.step == step {
            true => Ok(snapshot),
            false => Err(SnapshotError::entry(
                &path,
                "step",
                format!("{step}, as its name says"),
                snapshot.step,
            )),
        });
        let snapshot = match (snapshot, previous) {
            (Err(source), Some((_, previous))) if choice == SnapshotChoice::Latest => {
                let source = Box::new(source);
                return Err(SnapshotError::Latest { source, previous });
            }
            (snapshot, _) => snapshot?,
        };
        snapshot.expect_config(&path, config)?;
        Ok((snapshot, path))
    }

    /// Makes the names in the folder durable.
    fn sync(&self) -> Result<(), SnapshotError> {
        // Elsewhere folders cannot be opened as files.
        #[cfg(unix)]
        fs::File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(CheckpointError::io(&self.folder, "writing"))?;
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let listing = || CheckpointError::io(&self.folder, "listing");
        let entries = fs::read_dir(&self.folder).map_err(listing())?;
        let names = entries.map(|entry| {
            Ok(entry
                .map_err(listing())?
                .file_name()
                .to_string_lossy()
                .into_owned())
        });
        names.collect()
    }

    fn remove(&self, path: &Path) -> Result<(), SnapshotError> {
        Ok(fs::remove_file(path).map_err(CheckpointError::io(path, "removing"))?)
    }
}
