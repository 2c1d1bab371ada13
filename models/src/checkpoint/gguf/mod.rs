//! GGUF files, as llama.cpp reads them.
//!
//! | file | what is in it |
//! |---|---|
//! | `container.rs` | the header: fields and tensors |
//! | `names.rs` | names and forms of each architecture |
//! | `config.rs` | what `config.json` would say |
//! | `tokenizer.rs` | what `tokenizer.json` would say |
//! | `error.rs` | every way to be wrong |
//!
//! A file is read as the layout that it was converted from: its tensors have their names, shapes and values again, so that everything
//! behind knows nothing of GGUF. Values of few bits are widened block by block when they are read, and then kept as `--dtype` says.

mod config;
mod container;
mod error;
mod names;
mod tokenizer;

use std::path::Path;

pub use error::GgufError;
pub use tokenizer::EmbeddedTokenizer;

use self::config::Described;
use self::container::{Container, Entry};
use self::names::Form;
use super::blocks::BlockFormat;
use super::error::CheckpointError;
use super::header::{Change, Dtype, Header, TensorInfo};

/// The first bytes of every file.
pub(super) const MAGIC: &[u8] = b"GGUF";

impl Header {
    /// Reads a GGUF file as its layout; `path` is named in errors only.
    ///
    /// # Errors
    /// [`CheckpointError::Gguf`] for each way of being wrong, [`CheckpointError::Overlap`] for tensors that share bytes.
    pub fn parse_gguf(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let header = parse(bytes).map_err(|source| CheckpointError::Gguf {
            path: path.to_path_buf(),
            source,
        })?;
        header.check_overlap(path)?;
        Ok(header)
    }
}

fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    if !bytes.starts_with(MAGIC) {
        return Err(GgufError::Truncated { offset: 0 });
    }
    let container = Container::parse(bytes)?;
    let described = Described::new(&container)?;
    let mut header = Header {
        config: described.config.clone(),
        tokenizer: tokenizer::of(&container.fields),
        ..Header::default()
    };
    for entry in &container.tensors {
        let (name, form) = described.names.of(&entry.name);
        let info = info(entry, bytes.len())?;
        match form {
            Form::Dropped => {}
            Form::Divided(parts) => {
                for (part, info) in parts.iter().zip(divided(entry, &info, parts.len())?) {
                    header.tensors.insert(format!("{name}.{part}"), info);
                }
            }
            _ => {
                let change = form.change(described.heads, described.kv_heads);
                let shape = form.shape(&info.shape, described.head_size);
                let changed = changed(
                    entry,
                    TensorInfo {
                        shape,
                        change,
                        ..info
                    },
                )?;
                header.tensors.insert(name, changed);
            }
        }
    }
    Ok(header)
}

fn wrong(entry: &Entry, reason: impl Into<String>) -> GgufError {
    GgufError::Tensor {
        tensor: entry.name.clone(),
        reason: reason.into(),
    }
}

/// A tensor as it is stored.
fn info(entry: &Entry, available: usize) -> Result<TensorInfo, GgufError> {
    let (dtype, dtype_name) = match entry.kind {
        0 => (Dtype::F32, "F32"),
        1 => (Dtype::F16, "F16"),
        30 => (Dtype::Bf16, "BF16"),
        kind => {
            let format = match kind {
                2 => BlockFormat::Q4_0,
                8 => BlockFormat::Q8_0,
                12 => BlockFormat::Q4K,
                13 => BlockFormat::Q5K,
                14 => BlockFormat::Q6K,
                found => {
                    return Err(GgufError::TensorType {
                        tensor: entry.name.clone(),
                        found,
                    });
                }
            };
            (Dtype::Blocks(format), format.name())
        }
    };
    let count = entry.shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
    let count = count.ok_or_else(|| {
        wrong(
            entry,
            format!("shape {:?} has more values than any file", entry.shape),
        )
    })?;
    if let Dtype::Blocks(format) = dtype {
        let row = entry.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(format.values()) {
            let reason = format!(
                "expected rows of whole blocks of {}, found rows of {row}",
                format.values()
            );
            return Err(wrong(entry, reason));
        }
    }
    let end = dtype
        .bytes_of(count)
        .and_then(|bytes| entry.begin.checked_add(bytes));
    match end.filter(|end| *end <= available) {
        Some(end) => Ok(TensorInfo {
            dtype,
            dtype_name: dtype_name.into(),
            shape: entry.shape.clone(),
            begin: entry.begin,
            end,
            change: Change::None,
        }),
        None => {
            let reason = format!(
                "expected its {count} values of type {dtype_name} from byte {} on within the file's {available} bytes",
                entry.begin
            );
            Err(wrong(entry, reason))
        }
    }
}

/// A stack of rows, one after the other.
fn divided(entry: &Entry, info: &TensorInfo, parts: usize) -> Result<Vec<TensorInfo>, GgufError> {
    let (count, bytes): (usize, _) = (info.shape.iter().product(), info.end - info.begin);
    if !count.is_multiple_of(parts) || !bytes.is_multiple_of(parts) || matches!(info.dtype, Dtype::Blocks(_))
    {
        return Err(wrong(
            entry,
            format!("expected {parts} rows of floats, found shape {:?}", info.shape),
        ));
    }
    let part = |index: usize| TensorInfo {
        shape: Form::Row.shape(&[count / parts], 0),
        begin: info.begin + index * (bytes / parts),
        end: info.begin + (index + 1) * (bytes / parts),
        ..info.clone()
    };
    Ok((0..parts).map(part).collect())
}

/// Checks that a shape in the layout has the values that are stored, and that rows can change places.
fn changed(entry: &Entry, info: TensorInfo) -> Result<TensorInfo, GgufError> {
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    if count(&info.shape) != count(&entry.shape) {
        return Err(wrong(
            entry,
            format!("expected whole heads, found shape {:?}", entry.shape),
        ));
    }
    let Change::Halves { heads } = info.change else {
        return Ok(info);
    };
    match info.shape.as_slice() {
        [rows, _] if heads > 0 && rows.is_multiple_of(2 * heads) => Ok(info),
        shape => Err(wrong(
            entry,
            format!("expected rows of {heads} heads of pairs, found shape {shape:?}"),
        )),
    }
}
