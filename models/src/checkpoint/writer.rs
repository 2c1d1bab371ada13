//! Writing safetensors: values streamed in blocks, to a temporary name that becomes the real one when all is written
//! ([`crate::output`]).
//!
//! Whatever goes wrong on the way (a full disk, an interrupted source of values), nothing half-written is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

use super::error::CheckpointError;
use super::json::to_text;
use crate::output::{NewFile, NewFolder};

/// The types in which tensors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDtype {
    /// IEEE single precision.
    F32,
    /// The upper half of a single, rounded to nearest even.
    Bf16,
}

/// A tensor to be written: the header needs all of these before the first value.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// Name of the tensor in the file.
    pub name: String,
    /// Shape of the tensor, outermost dimension first.
    pub shape: Vec<usize>,
}

impl WriteDtype {
    /// Name of the type in the safetensors format, and the bytes of a value.
    fn name_and_width(self) -> (&'static str, usize) {
        match self {
            Self::F32 => ("F32", 4),
            Self::Bf16 => ("BF16", 2),
        }
    }
}

/// A tensor of any type, to be written from its bytes.
#[derive(Clone, Debug)]
pub(crate) struct StoredPlan {
    /// Name of the tensor in the file.
    pub(crate) name: String,
    /// The type's name in the format.
    pub(crate) dtype: String,
    /// Shape of the tensor, outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// Bytes of its values.
    pub(crate) bytes: usize,
}

impl StoredPlan {
    /// A tensor of floats.
    pub(crate) fn floats(name: &str, shape: &[usize], dtype: WriteDtype) -> Self {
        let (dtype, width) = dtype.name_and_width();
        Self {
            name: name.into(),
            dtype: dtype.into(),
            shape: shape.to_vec(),
            bytes: shape.iter().product::<usize>() * width,
        }
    }
}

/// Puts values into `raw` as they are stored; `path` and `tensor` are named in errors.
///
/// # Errors
/// [`CheckpointError::Range`] for a finite value that bfloat16 rounds to infinity.
pub(crate) fn encode(
    path: &Path,
    tensor: &str,
    dtype: WriteDtype,
    values: &[f32],
    raw: &mut Vec<u8>,
) -> Result<(), CheckpointError> {
    raw.clear();
    match dtype {
        WriteDtype::F32 => raw.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        WriteDtype::Bf16 => {
            for value in values {
                let rounded = bf16::from_f32(*value);
                if rounded.is_infinite() && value.is_finite() {
                    return Err(CheckpointError::Range {
                        path: path.to_path_buf(),
                        tensor: tensor.into(),
                        value: *value,
                        dtype: "bf16",
                    });
                }
                raw.extend(rounded.to_le_bytes());
            }
        }
    }
    Ok(())
}

/// Writes a safetensors file into `out`; `path` is named in errors.
///
/// `values` is called once per tensor, in order, with the tensor and a sink that takes consecutive blocks of its values.
///
/// # Errors
/// [`CheckpointError::Io`] when the sink fails, [`CheckpointError::ByteCount`] when a tensor got more or fewer values than
/// its shape has, [`CheckpointError::Range`] for a value that bfloat16 does not reach, and whatever `values` returns.
pub fn write_safetensors<E: From<CheckpointError>>(
    path: &Path,
    out: &mut dyn Write,
    dtype: WriteDtype,
    tensors: &[TensorPlan],
    metadata: &BTreeMap<String, String>,
    mut values: impl FnMut(&TensorPlan, &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>) -> Result<(), E>,
) -> Result<(), E> {
    let stored = tensors
        .iter()
        .map(|t| StoredPlan::floats(&t.name, &t.shape, dtype));
    let mut plans = tensors.iter();
    let mut raw = Vec::new();
    write_stored(
        path,
        out,
        &stored.collect::<Vec<_>>(),
        metadata,
        |stored, sink| {
            // One of each, in the same order.
            let Some(plan) = plans.next() else {
                return Ok(());
            };
            values(plan, &mut |block| {
                encode(path, &stored.name, dtype, block, &mut raw)?;
                sink(&raw)
            })
        },
    )
}

/// Makes `folder` a checkpoint in f32 or bf16: `config.json`, `model.safetensors`, and further files of text by name.
///
/// # Errors
/// As [`write_safetensors`] and [`NewFolder::commit`]; nothing is left behind then.
pub(crate) fn write_folder(
    folder: NewFolder,
    config: &Map<String, Value>,
    dtype: WriteDtype,
    tensors: &[TensorPlan],
    texts: &[(&str, String)],
    values: impl FnMut(
        &TensorPlan,
        &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let config = ("config.json", to_text(config));
    for (name, text) in std::iter::once(&config).chain(texts) {
        let path = folder.temporary_path().join(name);
        fs::write(path, text).map_err(CheckpointError::io(folder.path(), "writing"))?;
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut file = NewFile::create(&folder.temporary_path().join("model.safetensors"))?;
    write_safetensors(folder.path(), file.writer(), dtype, tensors, &metadata, values)?;
    file.commit()?;
    Ok(folder.commit()?)
}

/// Takes consecutive blocks of a tensor's bytes.
type ByteSink<'a> = dyn FnMut(&[u8]) -> Result<(), CheckpointError> + 'a;

/// [`write_safetensors`] for tensors of any types, from their bytes.
///
/// # Errors
/// As there.
pub(crate) fn write_stored<E: From<CheckpointError>>(
    path: &Path,
    out: &mut dyn Write,
    tensors: &[StoredPlan],
    metadata: &BTreeMap<String, String>,
    mut bytes: impl FnMut(&StoredPlan, &mut ByteSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    out.write_all(&header(tensors, metadata))
        .map_err(CheckpointError::io(path, "writing"))?;
    for tensor in tensors {
        let mut count = 0;
        bytes(tensor, &mut |block| {
            count += block.len();
            out.write_all(block).map_err(CheckpointError::io(path, "writing"))
        })?;
        if count != tensor.bytes {
            return Err(CheckpointError::ByteCount {
                path: path.to_path_buf(),
                tensor: tensor.name.clone(),
                stored: format!("{} {:?}", tensor.dtype, tensor.shape),
                expected: tensor.bytes.to_string(),
                found: count as u64,
            }
            .into());
        }
    }
    out.flush().map_err(CheckpointError::io(path, "writing"))?;
    Ok(())
}

/// Length and JSON, padded with blanks so that the data begin at a multiple of eight, as other readers like it.
fn header(tensors: &[StoredPlan], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut map = Map::new();
    if !metadata.is_empty() {
        let texts = metadata.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str())));
        map.insert("__metadata__".into(), Value::Object(texts.collect()));
    }
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes;
        map.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out
}
