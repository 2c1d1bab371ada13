//! PyTorch files: a zip archive of a pickle, which says what tensors there are, and of their bytes.
//!
//! | entry | what it holds |
//! |---|---|
//! | `NAME/data.pkl` | a dictionary from name to (storage, offset, shape, strides), as a pickle |
//! | `NAME/data/KEY` | the values of storage KEY |
//! | `NAME/byteorder` | `little`; absent in older files |
//!
//! A pickle is a program for a machine that can call any Python function. The one in `pickle.rs` knows the instructions and
//! the names that a dictionary of tensors needs, and refuses everything else by name and offset; what the few names stand for
//! is done in `calls.rs`, and nothing is run. Values are
//! read in place like those of a safetensors file. `archive.rs` reads the archive's directory.

mod archive;
mod calls;
mod error;
mod pickle;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::error::CheckpointError;
use super::header::{Change, Header, TensorInfo};
use archive::Archive;
pub use error::PthError;
use value::View;

/// The largest pickle that is read. A model of 10,000 tensors needs 2 MB.
const MAX_PICKLE_BYTES: usize = 16 << 20;
/// Most bytes that the tensors may have together, in multiples of the file's. Two names of one tensor, as of tied embeddings, are usual.
const MAX_SHARING: u64 = 4;

impl Header {
    /// Reads the names and places of the tensors in a PyTorch file, given all its bytes; `path` is named in errors only.
    ///
    /// Nothing in the file is run: the pickle may build tensors and dictionaries, and what else it asks for is refused.
    ///
    /// # Errors
    /// [`CheckpointError::Pth`] with one [`PthError`] for each way of being wrong.
    pub fn parse_pth(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        parse(bytes).map_err(|source| CheckpointError::Pth {
            path: path.to_path_buf(),
            source,
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Header, PthError> {
    if !Archive::is_one(bytes) {
        return Err(PthError::NotAnArchive);
    }
    let archive = Archive::parse(bytes)?;
    let pickle = archive.folder_of("data.pkl");
    let folder = pickle.ok_or_else(|| PthError::EntryMissing {
        entry: "data.pkl".into(),
    })?;
    if let Some(range) = archive.entry(&format!("{folder}byteorder"))
        && &bytes[range.clone()] != b"little"
    {
        let found = bytes[range].iter().take(40).copied().collect::<Vec<_>>();
        return Err(PthError::ByteOrder {
            found: String::from_utf8_lossy(&found).into_owned(),
        });
    }
    // `folder_of` found it.
    let range = archive.entry(&format!("{folder}data.pkl")).unwrap_or_default();
    if range.len() > MAX_PICKLE_BYTES {
        return Err(PthError::Limit {
            what: "length in bytes",
            limit: MAX_PICKLE_BYTES,
            offset: MAX_PICKLE_BYTES,
        });
    }
    let mut tensors = BTreeMap::new();
    for (name, view) in pickle::tensors(&bytes[range])? {
        let entry = format!("{folder}data/{}", view.storage.key);
        let Some(storage) = archive.entry(&entry) else {
            return Err(PthError::EntryMissing { entry });
        };
        tensors.insert(name.to_string(), place(name, &view, &entry, &storage)?);
    }
    check_shared(&tensors, bytes.len())?;
    Ok(Header {
        tensors,
        ..Header::default()
    })
}

/// Refuses a file whose tensors together have many times its bytes, because they share them: read, each would have its own.
fn check_shared(tensors: &BTreeMap<String, TensorInfo>, file: usize) -> Result<(), PthError> {
    let together: u64 = tensors
        .values()
        .map(|tensor| (tensor.end - tensor.begin) as u64)
        .sum();
    if together <= MAX_SHARING * file as u64 {
        return Ok(());
    }
    Err(PthError::Shared {
        tensors: tensors.len(),
        together,
        file: file as u64,
    })
}

/// Where the values of a view lie in the file, given the bytes of its storage.
fn place(name: &str, view: &View<'_>, entry: &str, storage: &Range<usize>) -> Result<TensorInfo, PthError> {
    let available = view.storage.values;
    let width = u64::from(view.storage.dtype.bits() / 8);
    let needed = available.checked_mul(width);
    if needed != Some(storage.len() as u64) {
        return Err(PthError::StorageBytes {
            tensor: name.into(),
            storage: entry.into(),
            values: available,
            expected: needed.map_or_else(|| "over 2^64".into(), |n| n.to_string()),
            found: storage.len() as u64,
        });
    }
    let count = view.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let end = count.and_then(|n| n.checked_add(view.offset));
    let (Some(count), Some(_)) = (count, end.filter(|end| *end <= available)) else {
        return Err(PthError::OutsideStorage {
            tensor: name.into(),
            shape: view.shape.clone(),
            offset: view.offset,
            available,
        });
    };
    if count > 1 && !is_row_major(&view.shape, &view.strides) {
        return Err(PthError::Strided {
            tensor: name.into(),
            shape: view.shape.clone(),
            strides: view.strides.clone(),
        });
    }
    // All values lie in the storage, which lies in a slice in memory. A dimension may be any u64 where another one is 0.
    let dimension = |d: &u64| usize::try_from(*d).unwrap_or(usize::MAX);
    let begin = storage.start + (view.offset * width) as usize;
    Ok(TensorInfo {
        dtype: view.storage.dtype,
        dtype_name: view.storage.dtype_name.into(),
        shape: view.shape.iter().map(dimension).collect(),
        begin,
        end: begin + (count * width) as usize,
        change: Change::None,
        parts: Vec::new(),
    })
}

/// Whether each stride is the number of values behind it; that of a dimension of 1 says nothing.
fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    let mut behind = 1u64;
    shape.iter().zip(strides).rev().all(|(size, stride)| {
        let fits = *size == 1 || *stride == behind;
        behind = behind.saturating_mul(*size);
        fits
    })
}
