//! The container, written: fields, what tensors there are, then their values, each at a multiple of 32 bytes.

use std::io::Write;
use std::path::Path;

use half::{bf16, f16};

use crate::checkpoint::blocks::BlockFormat;
use crate::checkpoint::error::CheckpointError;

const VERSION: u32 = 3;
const ALIGNMENT: usize = 32;

/// The types in which a GGUF file is written. Vectors, and the matrices that its readers want in full, are f32 in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision, rounded to nearest even.
    F16,
    /// The upper half of a single, rounded to nearest even.
    Bf16,
    /// 8 bits, a scale for 32 values.
    Q8_0,
    /// 4 bits, a scale for 32 values.
    Q4_0,
}

impl GgufDtype {
    /// ggml's number of the type.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 30,
            Self::Q8_0 => 8,
            Self::Q4_0 => 2,
        }
    }

    /// The type's usual name, such as `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// llama.cpp's number of a file that is mostly of this type.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 32,
            Self::Q8_0 => 7,
            Self::Q4_0 => 2,
        }
    }

    pub(crate) fn blocks(self) -> Option<BlockFormat> {
        match self {
            Self::Q8_0 => Some(BlockFormat::Q8_0),
            Self::Q4_0 => Some(BlockFormat::Q4_0),
            _ => None,
        }
    }

    /// This type, or half precision where rows of so many values are not whole blocks.
    pub(crate) fn of_rows(self, row: usize) -> Self {
        match self.blocks() {
            Some(format) if !row.is_multiple_of(format.values()) => Self::F16,
            _ => self,
        }
    }

    fn bytes(self, values: usize) -> usize {
        match self.blocks() {
            Some(format) => values / format.values() * format.bytes(),
            None if self == Self::F32 => 4 * values,
            None => 2 * values,
        }
    }

    /// Values of whole rows as they are stored; `path` and `tensor` are named in errors.
    fn encode(
        self,
        path: &Path,
        tensor: &str,
        values: &[f32],
        raw: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        raw.clear();
        let beyond = |value: f32| CheckpointError::Range {
            path: path.to_path_buf(),
            tensor: tensor.into(),
            value,
            dtype: self.name(),
        };
        match self {
            Self::F32 => raw.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => {
                for value in values {
                    let rounded = f16::from_f32(*value);
                    if rounded.is_infinite() {
                        return Err(beyond(*value));
                    }
                    raw.extend(rounded.to_le_bytes());
                }
            }
            Self::Bf16 => {
                for value in values {
                    let rounded = bf16::from_f32(*value);
                    if rounded.is_infinite() {
                        return Err(beyond(*value));
                    }
                    raw.extend(rounded.to_le_bytes());
                }
            }
            Self::Q8_0 | Self::Q4_0 => {
                if let Some(format) = self.blocks()
                    && let Err(value) = format.write(values, raw)
                {
                    return Err(beyond(value));
                }
            }
        }
        Ok(())
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Field {
    Whole(u32),
    Real(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Wholes(Vec<i32>),
    Reals(Vec<f32>),
}

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub name: String,
    /// The tensor's shape, outermost dimension first; the file has dimensions the other way round.
    pub shape: Vec<usize>,
    pub dtype: GgufDtype,
}

impl Plan {
    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.shape.iter().product())
    }
}

/// Takes consecutive values, whole rows at a time.
pub(crate) type Sink<'a> = dyn FnMut(&[f32]) -> Result<(), CheckpointError> + 'a;

/// Writes a file into `out`; `path` is named in errors, and `values` is called once for each tensor, in order.
///
/// # Errors
/// [`CheckpointError::Io`] when `out` fails, [`CheckpointError::Range`] for values beyond their type, [`CheckpointError::ByteCount`] for a tensor
/// with another number of values than its shape has, and whatever `values` returns.
pub(crate) fn write_container(
    path: &Path,
    out: &mut dyn Write,
    fields: &[(String, Field)],
    tensors: &[Plan],
    mut values: impl FnMut(&Plan, &mut Sink<'_>) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let io = |error| CheckpointError::io(path, "writing")(error);
    let mut header = header(fields, tensors);
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&header).map_err(io)?;
    let mut raw = Vec::new();
    for plan in tensors {
        let mut written = 0;
        values(plan, &mut |block| {
            plan.dtype.encode(path, &plan.name, block, &mut raw)?;
            written += raw.len();
            out.write_all(&raw).map_err(io)
        })?;
        if written != plan.bytes() {
            return Err(CheckpointError::ByteCount {
                path: path.to_path_buf(),
                tensor: plan.name.clone(),
                stored: format!("{:?} {:?}", plan.dtype, plan.shape),
                expected: plan.bytes().to_string(),
                found: written as u64,
            });
        }
        let padding = written.next_multiple_of(ALIGNMENT) - written;
        out.write_all(&[0; ALIGNMENT][..padding]).map_err(io)?;
    }
    out.flush().map_err(io)
}

fn header(fields: &[(String, Field)], tensors: &[Plan]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((fields.len() as u64).to_le_bytes());
    for (key, value) in fields {
        text(&mut out, key);
        put(&mut out, value);
    }
    let mut at = 0_u64;
    for plan in tensors {
        text(&mut out, &plan.name);
        out.extend((plan.shape.len() as u32).to_le_bytes());
        for size in plan.shape.iter().rev() {
            out.extend((*size as u64).to_le_bytes());
        }
        out.extend(plan.dtype.number().to_le_bytes());
        out.extend(at.to_le_bytes());
        at += plan.bytes().next_multiple_of(ALIGNMENT) as u64;
    }
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value behind the number of its type.
fn put(out: &mut Vec<u8>, value: &Field) {
    let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(9_u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Field::Whole(number) => {
            out.extend(4_u32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Field::Real(number) => {
            out.extend(6_u32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Field::Bool(value) => {
            out.extend(7_u32.to_le_bytes());
            out.push(u8::from(*value));
        }
        Field::Text(value) => {
            out.extend(8_u32.to_le_bytes());
            text(out, value);
        }
        Field::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|value| text(out, value));
        }
        Field::Wholes(numbers) => {
            list(out, 5, numbers.len());
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Field::Reals(numbers) => {
            list(out, 6, numbers.len());
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
    }
}
