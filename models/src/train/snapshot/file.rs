//! The file form of a snapshot: safetensors, with these texts in its metadata.
//!
//! | name | text |
//! |---|---|
//! | `format` | `spillway-training` |
//! | `version` | of this form |
//! | `checksum` | XXH3 with 128 bits, in hexadecimal, of the whole file with zeros in the place of these digits |
//! | `snapshot` | JSON: step, tokens, configuration and its hash, positions, names and shapes of the parameters in their order |
//!
//! Tensors are called `parameters.NAME`, `optimizer.ENTRY` and `carried.ENTRY`.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Moments, Snapshot, SnapshotError, config_hash};
use crate::checkpoint::{CheckpointError, StoredPlan, StoredTensors, write_stored};
use crate::input;
use crate::output::NewFile;
use crate::state::file::TYPES;
use crate::state::fingerprint::Fingerprint;

const FORMAT: &str = "spillway-training";
const VERSION: &str = "1";
const PARAMETERS: &str = "parameters.";
const OPTIMIZER: &str = "optimizer.";
const CARRIED: &str = "carried.";
/// What precedes the digits of the checksum in the header. Inside any text of the header its quotes would be escaped.
const BEFORE_CHECKSUM: &[u8] = br#""checksum":""#;
/// The digits before they are known.
const NO_CHECKSUM: &str = "00000000000000000000000000000000";

/// The entry `snapshot` of the metadata, as JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    step: u64,
    tokens: u64,
    config_hash: String,
    config: String,
    data: Value,
    other: Value,
    parameters: Vec<(String, Vec<usize>)>,
}

/// Writes a snapshot with these moments; the file appears when it is complete and on the disk, or not at all.
pub(super) fn write(path: &Path, snapshot: &Snapshot, moments: &dyn Moments) -> Result<(), SnapshotError> {
    let (entries, plans) = entries(path, snapshot, moments)?;
    let metadata = BTreeMap::from([
        ("format".to_string(), FORMAT.to_string()),
        ("version".to_string(), VERSION.to_string()),
        ("checksum".to_string(), NO_CHECKSUM.to_string()),
        ("snapshot".to_string(), header(path, snapshot)?),
    ]);
    let mut file = NewFile::create(path)?;
    let mut out = Hashing {
        out: file.writer(),
        hash: Fingerprint::new(),
        place: None,
    };
    // One of each plan, in the same order.
    let mut next = entries.iter();
    write_stored::<SnapshotError>(path, &mut out, &plans, &metadata, |_, sink| {
        match next.next() {
            Some(Entry::Here(data)) => sink(data.as_bytes())?,
            Some(Entry::Moment(name)) => {
                // What is not there is an error of the number of bytes.
                if let Some(data) = moments.fetch(name)? {
                    sink(data.as_bytes())?;
                }
            }
            None => {}
        }
        Ok(())
    })?;
    let (digits, place) = (format!("{:032x}", out.hash.digest()), out.place);
    let Some(place) = place else {
        return Err(SnapshotError::entry(path, "checksum", "one place for it", "none"));
    };
    let out = file.writer();
    out.seek(SeekFrom::Start(place.start as u64))
        .and_then(|_| out.write_all(digits.as_bytes()))
        .map_err(CheckpointError::io(path, "writing"))?;
    Ok(file.commit()?)
}

/// What a tensor of the file is written from.
enum Entry<'a> {
    Here(&'a TensorData),
    Moment(String),
}

/// Every tensor in the order of the file, and how it is stored.
fn entries<'a>(
    path: &Path,
    snapshot: &'a Snapshot,
    moments: &dyn Moments,
) -> Result<(Vec<Entry<'a>>, Vec<StoredPlan>), SnapshotError> {
    let (mut entries, mut plans) = (Vec::new(), Vec::new());
    let mut add = |prefix: &str, name: &str, (dtype, shape): (DType, Vec<usize>), entry: Entry<'a>| {
        plans.push(plan(path, format!("{prefix}{name}"), dtype, shape)?);
        entries.push(entry);
        Ok::<_, SnapshotError>(())
    };
    let form = |data: &TensorData| (data.dtype(), data.shape().to_vec());
    for (name, data) in &snapshot.parameters {
        add(PARAMETERS, name, form(data), Entry::Here(data))?;
    }
    for (name, form) in moments.entries() {
        add(OPTIMIZER, &name, form, Entry::Moment(name.clone()))?;
    }
    for (name, data) in &snapshot.carried {
        add(CARRIED, name, form(data), Entry::Here(data))?;
    }
    Ok((entries, plans))
}

fn plan(path: &Path, name: String, dtype: DType, shape: Vec<usize>) -> Result<StoredPlan, SnapshotError> {
    let known = TYPES.iter().find(|(known, _)| *known == dtype);
    let Some((_, stored)) = known else {
        let expected = "a type that snapshots have";
        return Err(SnapshotError::entry(path, name, expected, format!("{dtype:?}")));
    };
    Ok(StoredPlan {
        name,
        dtype: stored.to_string(),
        bytes: shape.iter().product::<usize>() * dtype.size(),
        shape,
    })
}

fn header(path: &Path, snapshot: &Snapshot) -> Result<String, SnapshotError> {
    let shapes = snapshot.parameters.iter();
    let header = Header {
        step: snapshot.step,
        tokens: snapshot.tokens,
        config_hash: config_hash(&snapshot.config),
        config: snapshot.config.clone(),
        data: snapshot.data.clone(),
        other: snapshot.other.clone(),
        parameters: shapes
            .map(|(name, data)| (name.clone(), data.shape().to_vec()))
            .collect(),
    };
    let text = serde_json::to_string(&header);
    text.map_err(|e| SnapshotError::entry(path, "snapshot", "what JSON can say", e))
}

/// Hashes what it hands on, of which the first piece is the whole header.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    hash: Fingerprint,
    /// Where in the file the digits of the checksum are.
    place: Option<Range<usize>>,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.place.is_none() {
            self.place = checksum_place(bytes);
        }
        self.hash.bytes(bytes);
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads a snapshot. The whole file is read before it is checked, not mapped: nobody can change it between check and use.
pub(super) fn read(path: &Path) -> Result<Snapshot, SnapshotError> {
    let bytes = input::read(path, u64::MAX).map_err(CheckpointError::io(path, "reading"))?;
    let found = checksum(&bytes);
    let file =
        StoredTensors::from_bytes(path, bytes).map_err(|source| SnapshotError::Unreadable { source })?;
    expect_whole(path, &file, found)?;
    let header: Header = serde_json::from_str(file.metadata("snapshot").unwrap_or_default())
        .map_err(|e| SnapshotError::entry(path, "snapshot", "its JSON", e))?;
    let stored = Stored { path, file: &file };
    let parameters = header.parameters.into_iter().map(|(name, shape)| {
        let data = stored.data(&format!("{PARAMETERS}{name}"))?;
        match data.shape().as_slice() == shape {
            true => Ok((name, data)),
            false => Err(SnapshotError::entry(
                path,
                name,
                format!("{shape:?}"),
                format!("{:?}", data.shape().as_slice()),
            )),
        }
    });
    Ok(Snapshot {
        step: header.step,
        tokens: header.tokens,
        config: header.config,
        data: header.data,
        other: header.other,
        parameters: parameters.collect::<Result<_, _>>()?,
        optimizer: stored.below(OPTIMIZER)?,
        carried: stored.below(CARRIED)?,
    })
}

/// Refuses other files, other versions, and files that are not as they were written.
fn expect_whole(path: &Path, file: &StoredTensors, found: Option<u128>) -> Result<(), SnapshotError> {
    match file.metadata("format") {
        Some(FORMAT) => {}
        other => {
            let found = other.map_or_else(
                || "no format of its own".into(),
                |name| format!("format {name:?}"),
            );
            return Err(SnapshotError::Foreign {
                path: path.into(),
                found,
            });
        }
    }
    match file.metadata("version") {
        Some(VERSION) => {}
        other => {
            return Err(SnapshotError::Version {
                path: path.into(),
                expected: VERSION,
                found: other.unwrap_or("none").into(),
            });
        }
    }
    let expected = file.metadata("checksum");
    let found = found.map(|found| format!("{found:032x}"));
    match (expected, found) {
        (Some(expected), Some(found)) if expected == found => Ok(()),
        (expected, found) => Err(SnapshotError::Damaged {
            path: path.into(),
            expected: expected.unwrap_or("none").into(),
            found: found.unwrap_or_else(|| "no place for one".into()),
        }),
    }
}

/// The checksum of a file's bytes as they are, if there is exactly one place for it.
fn checksum(bytes: &[u8]) -> Option<u128> {
    let place = checksum_place(bytes)?;
    let mut hash = Fingerprint::new();
    hash.bytes(&bytes[..place.start]);
    hash.bytes(NO_CHECKSUM.as_bytes());
    hash.bytes(&bytes[place.end..]);
    Some(hash.digest())
}

/// Where the digits are.
fn checksum_place(bytes: &[u8]) -> Option<Range<usize>> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let mut windows = header.windows(BEFORE_CHECKSUM.len()).enumerate();
    let mut places = windows.by_ref().filter(|(_, window)| *window == BEFORE_CHECKSUM);
    let (Some((at, _)), None) = (places.next(), places.next()) else {
        return None;
    };
    let start = 8 + at + BEFORE_CHECKSUM.len();
    let end = start + NO_CHECKSUM.len();
    (end <= 8 + header.len()).then_some(start..end)
}

/// A file being read.
struct Stored<'a> {
    path: &'a Path,
    file: &'a StoredTensors,
}

impl Stored<'_> {
    fn below(&self, prefix: &str) -> Result<BTreeMap<String, TensorData>, SnapshotError> {
        let names = self
            .file
            .names()
            .filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        names
            .map(|(name, short)| Ok((short.to_string(), self.data(name)?)))
            .collect()
    }

    fn data(&self, name: &str) -> Result<TensorData, SnapshotError> {
        let wrong = |expected: &str, found: String| SnapshotError::entry(self.path, name, expected, found);
        let Some((dtype, shape, bytes)) = self.file.raw(name) else {
            return Err(wrong("a tensor", "none".into()));
        };
        let Some((dtype, _)) = TYPES.iter().find(|(_, stored)| stored.to_string() == dtype) else {
            return Err(wrong("a type that snapshots have", dtype.into()));
        };
        let data = TensorData::try_from_bytes_vec(bytes.to_vec(), shape.to_vec(), *dtype);
        data.map_err(|e| wrong("a tensor of its own size", e.to_string()))
    }
}
