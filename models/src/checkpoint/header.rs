//! The header of a safetensors file: eight bytes of length (little-endian), that many bytes of JSON, then the data.
//!
//! Format: <https://github.com/huggingface/safetensors>. Parsed here rather than by the `safetensors` crate, because each
//! way of being wrong has to name the file, the tensor, what was expected and what was found.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::MAX_HEADER_BYTES;
use super::blocks::BlockFormat;
use super::error::CheckpointError;
use super::gguf::EmbeddedTokenizer;
use super::json::{describe, parse_object};

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Matrices are multiplied in IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// IEEE double precision, rounded to single when read.
    F64,
    /// Blocks of values of few bits.
    Blocks(BlockFormat),
    /// Known to the format, but not a weight type that is read: its width in bits is kept to check the byte count.
    Other(u32),
}

impl Dtype {
    /// Reads the header's name for a type.
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "F64" => Self::F64,
            "I64" | "U64" | "C64" => Self::Other(64),
            "I32" | "U32" => Self::Other(32),
            "I16" | "U16" => Self::Other(16),
            "BOOL" | "I8" | "U8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E5M2FNUZ" | "F8_E4M3FNUZ" => {
                Self::Other(8)
            }
            "F6_E2M3" | "F6_E3M2" => Self::Other(6),
            "F4" => Self::Other(4),
            _ => return None,
        })
    }

    /// Width of one value in bits; in blocks, with its share of the scales and rounded down.
    pub fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::F64 => 64,
            Self::Blocks(format) => (8 * format.bytes() / format.values()) as u32,
            Self::Other(bits) => bits,
        }
    }

    /// Bytes of so many values, of whole blocks where there are blocks; `None` where they are more than there can be.
    pub fn bytes_of(self, values: usize) -> Option<usize> {
        match self {
            Self::Blocks(format) => (values / format.values()).checked_mul(format.bytes()),
            other => values
                .checked_mul(other.bits() as usize)
                .map(|bits| bits.div_ceil(8)),
        }
    }
}

/// What is done with stored values to have those of the layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// Nothing is done: stored values are those of the layout.
    #[default]
    None,
    /// ln(−x): A_log of a stored A.
    LogOfNegative,
    /// x − 1: the distance from one of the weight of a norm.
    MinusOne,
    /// 2^n x: what a file has divided so that half precision holds the residual stream.
    Doubled {
        /// Exponent n of the factor 2^n.
        times: i32,
    },
    /// The last two dimensions change places.
    Transposed,
    /// Rows `[heads, pairs, 2]` become `[heads, 2, pairs]`: rotary embeddings of neighbours become those of halves.
    Halves {
        /// Number of heads; the rows of each are put in another order by themselves.
        heads: usize,
    },
    /// Columns `[copies, heads, width]` of every row become `[heads, copies, width]`: heads of values in the order of the heads of keys
    /// that they share.
    ColumnsByHead {
        /// Number of heads of keys.
        heads: usize,
        /// Heads of values for each of them.
        copies: usize,
        /// Columns of a head of values.
        width: usize,
    },
}

/// Where one tensor lies, and in what form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type in which the values are stored.
    pub dtype: Dtype,
    /// The type's name in the file.
    pub dtype_name: String,
    /// Stored shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// First byte, counted from the beginning of the file.
    pub begin: usize,
    /// Offset just past the tensor's last byte, counted from the beginning of the file.
    pub end: usize,
    /// What is done with the values; the shape is that after it.
    pub change: Change,
    /// The parts of a tensor that is put together of several, whose values follow each other; they have no parts themselves, and what is
    /// said of type and place above says nothing then. Empty for all others.
    pub parts: Vec<TensorInfo>,
}

/// The tensors of one file by name, and the free-form metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Where every tensor of the file lies and in what form, by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The texts under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// What the file itself says of the model, in the terms of `config.json`.
    pub config: Map<String, Value>,
    /// The tokenizer that the file brings.
    pub tokenizer: Option<EmbeddedTokenizer>,
}

impl Header {
    /// Reads the header of a whole file's bytes; `path` is named in errors only.
    ///
    /// # Errors
    /// A variant of [`CheckpointError`] for each way of being wrong: the file or header truncated, the header too long, not
    /// JSON, a field of the wrong type, offsets outside the file, a byte count that is not the shape's, tensors overlapping.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let truncated = |expected| CheckpointError::Truncated {
            path: path.to_path_buf(),
            expected,
            found: bytes.len() as u64,
        };
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated(8))?;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES {
            let (path, limit) = (path.to_path_buf(), MAX_HEADER_BYTES);
            return Err(CheckpointError::HeaderTooLong {
                path,
                found: length,
                limit,
            });
        }
        // At most 10^8, so it fits every usize.
        let (text, data) = rest
            .split_at_checked(length as usize)
            .ok_or_else(|| truncated(8 + length))?;
        let text = std::str::from_utf8(text).map_err(|e| CheckpointError::Json {
            path: path.to_path_buf(),
            reason: e.to_string(),
        })?;
        let data_begin = 8 + length as usize;
        let mut header = Self::default();
        for (name, entry) in parse_object(path, text)? {
            if name == "__metadata__" {
                header.metadata = metadata(path, &entry)?;
            } else {
                let info = tensor_info(path, &name, &entry, data_begin, data.len())?;
                header.tensors.insert(name, info);
            }
        }
        header.check_overlap(path)?;
        Ok(header)
    }

    /// No two tensors share a byte.
    pub(super) fn check_overlap(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut by_begin: Vec<_> = self.tensors.iter().filter(|(_, t)| t.begin < t.end).collect();
        by_begin.sort_by_key(|(_, t)| t.begin);
        for pair in by_begin.windows(2) {
            if let [(first, a), (second, b)] = pair
                && b.begin < a.end
            {
                let (first, second) = ((*first).clone(), (*second).clone());
                return Err(CheckpointError::Overlap {
                    path: path.to_path_buf(),
                    first,
                    second,
                });
            }
        }
        Ok(())
    }
}

/// `__metadata__` maps names to texts; `null` is none of them.
fn metadata(path: &Path, entry: &Value) -> Result<BTreeMap<String, String>, CheckpointError> {
    let wrong = |field: String, expected: &str, found: &Value| CheckpointError::Field {
        path: path.to_path_buf(),
        field,
        expected: expected.into(),
        found: describe(found),
    };
    if entry.is_null() {
        return Ok(BTreeMap::new());
    }
    let map = entry
        .as_object()
        .ok_or_else(|| wrong("__metadata__".into(), "an object", entry))?;
    map.iter()
        .map(|(name, value)| {
            let text = value
                .as_str()
                .ok_or_else(|| wrong(format!("__metadata__.{name}"), "a string", value))?;
            Ok((name.clone(), text.to_string()))
        })
        .collect()
}

/// One entry `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, checked against the `available` data bytes.
fn tensor_info(
    path: &Path,
    name: &str,
    entry: &Value,
    data_begin: usize,
    available: usize,
) -> Result<TensorInfo, CheckpointError> {
    let wrong = |field: &str, expected: &str| {
        let found = match (field, entry) {
            ("", _) => describe(entry),
            _ => entry.get(field).map_or_else(|| "nothing".into(), describe),
        };
        let field = if field.is_empty() {
            name.to_string()
        } else {
            format!("{name}.{field}")
        };
        CheckpointError::Field {
            path: path.to_path_buf(),
            field,
            expected: expected.into(),
            found,
        }
    };
    if !entry.is_object() {
        return Err(wrong("", "an object with dtype, shape and data_offsets"));
    }
    let dtype_name = entry
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("dtype", "a string such as \"F32\""))?;
    let dtype = Dtype::parse(dtype_name).ok_or_else(|| CheckpointError::Dtype {
        path: path.to_path_buf(),
        tensor: name.into(),
        found: dtype_name.into(),
    })?;
    let shape =
        whole_numbers(entry.get("shape")).ok_or_else(|| wrong("shape", "an array of whole numbers"))?;
    let offsets = whole_numbers(entry.get("data_offsets"));
    let Some([begin, end]) = offsets.as_deref() else {
        return Err(wrong("data_offsets", "an array of two whole numbers"));
    };
    let (begin, end) = (*begin, *end);
    if begin > end || end > available as u64 {
        let (path, tensor) = (path.to_path_buf(), name.to_string());
        return Err(CheckpointError::Offsets {
            path,
            tensor,
            begin,
            end,
            available: available as u64,
        });
    }
    let bits = shape
        .iter()
        .try_fold(u64::from(dtype.bits()), |n, d| n.checked_mul(*d));
    if bits.map(|b| b.div_ceil(8)) != Some(end - begin) {
        return Err(CheckpointError::ByteCount {
            path: path.to_path_buf(),
            tensor: name.to_string(),
            stored: format!("{dtype_name} {shape:?}"),
            expected: bits.map_or_else(|| "over 2^61".into(), |b| b.div_ceil(8).to_string()),
            found: end - begin,
        });
    }
    // Both offsets lie inside a byte slice in memory. A dimension may be any u64 where another one is 0.
    let shape = shape
        .iter()
        .map(|d| usize::try_from(*d).unwrap_or(usize::MAX))
        .collect();
    let (begin, end) = (data_begin + begin as usize, data_begin + end as usize);
    Ok(TensorInfo {
        dtype,
        dtype_name: dtype_name.to_string(),
        shape,
        begin,
        end,
        change: Change::None,
        parts: Vec::new(),
    })
}

fn whole_numbers(value: Option<&Value>) -> Option<Vec<u64>> {
    value?.as_array()?.iter().map(Value::as_u64).collect()
}
