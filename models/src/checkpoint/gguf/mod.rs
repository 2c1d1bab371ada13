//! GGUF files, as llama.cpp reads them.
//!
//! | file | what is in it |
//! |---|---|
//! | `container.rs` | the header: fields and tensors |
//! | `names.rs`, `hybrid_names.rs`, `conversion.rs` | names of each architecture, and how its tensors become those of a layout |
//! | `assemble.rs` | the layout's tensors, of those in the file |
//! | `fields.rs`, `described.rs`, `config.rs`, `hybrids.rs` | what `config.json` would say |
//! | `rope_factors.rs` | Llama 3's positions |
//! | `tokenizer.rs` | what `tokenizer.json` would say, or RWKV's vocabulary |
//! | `write.rs` | the container, written |
//! | `error.rs` | every way to be wrong |
//!
//! A file is read as the layout that it was converted from: its tensors have their names, shapes and values again, so that everything
//! behind knows nothing of GGUF. Matrices are kept in the file's types, or as is asked for: see `checkpoint/kept.rs`.

mod assemble;
mod config;
mod container;
pub(crate) mod conversion;
mod described;
mod error;
mod fields;
mod hybrid_names;
mod hybrids;
pub(crate) mod names;
mod rope_factors;
pub(crate) mod tokenizer;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::GgufError;
pub use tokenizer::EmbeddedTokenizer;
pub use write::GgufDtype;

use self::container::{Container, Entry};
use self::described::Described;
use super::blocks::BlockFormat;
use super::error::CheckpointError;
use super::header::{Change, Dtype, Header, TensorInfo};

/// Where tensors lie and in what form, by the tensors' names.
type Tensors = BTreeMap<String, TensorInfo>;

/// The first bytes of every file.
pub(super) const MAGIC: &[u8] = b"GGUF";

impl Header {
    /// Reads a GGUF file as its layout; `path` is named in errors only.
    ///
    /// # Errors
    /// [`CheckpointError::Gguf`] for each way of being wrong, [`CheckpointError::Overlap`] for tensors that share bytes.
    pub fn parse_gguf(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let wrong = |source| CheckpointError::Gguf {
            path: path.to_path_buf(),
            source,
        };
        if !bytes.starts_with(MAGIC) {
            return Err(wrong(GgufError::Truncated { offset: 0 }));
        }
        let container = Container::parse(bytes).map_err(wrong)?;
        let mut stored = Self::default();
        for entry in &container.tensors {
            let info = info(entry, bytes.len()).map_err(wrong)?;
            stored.tensors.insert(entry.name.clone(), info);
        }
        stored.check_overlap(path)?;
        let described = Described::new(&container, &stored.tensors, bytes).map_err(wrong)?;
        let tensors = assemble::tensors(&described, &stored.tensors).map_err(wrong)?;
        Ok(Self {
            tensors,
            tokenizer: tokenizer::of(&container.fields),
            config: described.config,
            ..Self::default()
        })
    }
}

/// A tensor as it is stored.
fn info(entry: &Entry, available: usize) -> Result<TensorInfo, GgufError> {
    let wrong = |reason: String| GgufError::Tensor {
        tensor: entry.name.clone(),
        reason,
    };
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
    let count =
        count.ok_or_else(|| wrong(format!("shape {:?} has more values than any file", entry.shape)))?;
    // With that, no dimension is 0, and none larger than the file: what is divided by them and made of them stays whole.
    if count == 0 {
        return Err(wrong(format!(
            "expected at least one value, found shape {:?}",
            entry.shape
        )));
    }
    if let Dtype::Blocks(format) = dtype {
        let row = entry.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(format.values()) {
            return Err(wrong(format!(
                "expected rows of whole blocks of {}, found rows of {row}",
                format.values()
            )));
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
            parts: Vec::new(),
        }),
        None => Err(wrong(format!(
            "expected its {count} values of type {dtype_name} from byte {} on within the file's {available} bytes",
            entry.begin
        ))),
    }
}
