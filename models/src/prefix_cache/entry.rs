//! The file form of one entry of a prefix cache.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SPILLPFX` |
//! | 4 | the version of this form, little-endian like all numbers here |
//! | 16 | checksum of all other bytes, those before and those behind: XXH3 with 128 bits |
//! | 8 + n | n, and the text that says for which model, chain and chunk length the entry is |
//! | 8 + 4m | m, and the ids of the tokens that the state has seen |
//! | the rest | the state, as [`ModelState::save`] writes it |
//!
//! Text and ids are compared as they are, so that two prompts of one hash are never taken for each other.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use spillway_ssm_core::Chain;

use crate::checkpoint::{CheckpointError, StoredTensors};
use crate::error::{ModelError, PrefixCacheError};
use crate::model::Model;
use crate::output::NewFile;
use crate::state::ModelState;
use crate::state::fingerprint::Fingerprint;
use crate::{budget, input};

const MAGIC: &[u8; 8] = b"SPILLPFX";
const VERSION: u32 = 1;
/// Bytes of magic (8), version (4) and checksum (16), with which an entry begins.
const HEADER_BYTES: usize = 28;

/// For what an entry is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose<'a> {
    /// Model, chain and chunk length, in words.
    pub(super) text: &'a str,
    /// The tokens that the state has seen.
    pub(super) ids: &'a [u32],
}

/// Makes the bytes of an entry.
pub(super) fn to_bytes(
    path: &Path,
    purpose: Purpose<'_>,
    state: &ModelState,
) -> Result<Vec<u8>, PrefixCacheError> {
    let state = state.to_bytes(path).map_err(|source| of_state(path, source))?;
    let mut bytes =
        Vec::with_capacity(HEADER_BYTES + 16 + purpose.text.len() + 4 * purpose.ids.len() + state.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend((purpose.text.len() as u64).to_le_bytes());
    bytes.extend(purpose.text.as_bytes());
    bytes.extend((purpose.ids.len() as u64).to_le_bytes());
    bytes.extend(purpose.ids.iter().flat_map(|id| id.to_le_bytes()));
    bytes.extend(state);
    let checksum = checksum(&bytes);
    bytes[12..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Writes an entry; it appears when it is complete, or not at all. What a power failure leaves of it is known by its checksum.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), PrefixCacheError> {
    let mut file = NewFile::create(path)?;
    file.writer()
        .write_all(bytes)
        .map_err(CheckpointError::io(path, "writing"))?;
    Ok(file.commit_unsynced()?)
}

/// Reads an entry and gives its state back.
///
/// # Errors
/// A variant of [`PrefixCacheError`] for each way of not being the entry that is looked for.
pub(super) fn read(
    path: &Path,
    purpose: Purpose<'_>,
    chain: &Chain,
    model: &Model,
) -> Result<ModelState, PrefixCacheError> {
    let bytes = verified(path)?;
    let cut_off = || PrefixCacheError::Damaged {
        path: path.into(),
        expected: "of a whole entry".into(),
        found: format!("{} bytes", bytes.len()),
    };
    let (text, rest) = section(&bytes[HEADER_BYTES..], 1).ok_or_else(cut_off)?;
    if text != purpose.text.as_bytes() {
        return Err(PrefixCacheError::Foreign {
            path: path.into(),
            what: "made for",
            expected: purpose.text.into(),
            found: String::from_utf8_lossy(text).into_owned(),
        });
    }
    let (ids, state) = section(rest, 4).ok_or_else(cut_off)?;
    let ids = ids.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id));
    if !ids.clone().eq(purpose.ids.iter().copied()) {
        return Err(PrefixCacheError::Foreign {
            path: path.into(),
            what: "tokens",
            expected: format!("the {} looked for", purpose.ids.len()),
            found: format!("{} others", ids.len()),
        });
    }
    let seen = purpose.ids.len() as u64;
    let file = StoredTensors::from_bytes(path, state.to_vec())?;
    let state = model
        .restored(path, &file, chain)
        .map_err(|source| of_state(path, source))?;
    if state.positions() != [seen] {
        return Err(PrefixCacheError::Foreign {
            path: path.into(),
            what: "positions of the state",
            expected: seen.to_string(),
            found: format!("{:?}", state.positions()),
        });
    }
    Ok(state)
}

/// The bytes of a file that is an entry and undamaged. It is read before it is checked, not mapped: nobody can change it
/// between the check and the use.
fn verified(path: &Path) -> Result<Vec<u8>, PrefixCacheError> {
    let (mut file, metadata) = input::open(path).map_err(CheckpointError::io(path, "opening"))?;
    let mut bytes = Vec::new();
    // A foreign file of any size is known by its beginning.
    (&file)
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(CheckpointError::io(path, "reading"))?;
    let header = bytes.split_at_checked(8).filter(|(magic, _)| magic == MAGIC);
    let Some((_, rest)) = header else {
        let start = &bytes[..bytes.len().min(8)];
        return Err(PrefixCacheError::NotAnEntry {
            path: path.into(),
            found: format!("\"{}\"", start.escape_ascii()),
        });
    };
    let damaged = |expected: String, found: String| PrefixCacheError::Damaged {
        path: path.into(),
        expected,
        found,
    };
    let (Some(version), Some(expected)) = (
        rest.first_chunk::<4>(),
        rest.get(4..).and_then(<[u8]>::first_chunk::<16>),
    ) else {
        return Err(damaged(
            "behind the version".into(),
            format!("{} bytes", bytes.len()),
        ));
    };
    let (version, expected) = (u32::from_le_bytes(*version), u128::from_le_bytes(*expected));
    if version != VERSION {
        return Err(PrefixCacheError::Version {
            path: path.into(),
            expected: VERSION,
            found: version,
        });
    }
    // The bytes, and the state that is made of them.
    let needed = metadata.len().checked_mul(2);
    budget::ask(
        "the states of a cached prompt",
        needed,
        "use a cache of a smaller model",
    )
    .map_err(|error| {
        CheckpointError::io(path, "reading")(std::io::Error::new(ErrorKind::OutOfMemory, error))
    })?;
    file.read_to_end(&mut bytes)
        .map_err(CheckpointError::io(path, "reading"))?;
    let found = checksum(&bytes);
    if found != expected {
        return Err(damaged(format!("{expected:032x}"), format!("{found:032x}")));
    }
    Ok(bytes)
}

/// Hash of a whole entry but for the place of the checksum itself.
fn checksum(entry: &[u8]) -> u128 {
    let mut hash = Fingerprint::new();
    hash.bytes(&entry[..12]);
    hash.bytes(&entry[HEADER_BYTES..]);
    hash.digest()
}

/// A number of items of `width` bytes, and what comes behind them.
fn section(bytes: &[u8], width: u64) -> Option<(&[u8], &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*count).checked_mul(width)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn of_state(path: &Path, source: ModelError) -> PrefixCacheError {
    PrefixCacheError::State {
        path: path.into(),
        source: Box::new(source),
    }
}
