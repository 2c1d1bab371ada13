//! The container: a header of fields and tensors, then the data.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every length is held against the file before anything is made of it.

use std::collections::BTreeMap;

use super::error::GgufError;

/// More of either no published file has.
const MOST_TENSORS: u64 = 1 << 17;
const MOST_FIELDS: u64 = 1 << 16;
/// Elements of one list: the largest vocabularies have a quarter of a million.
const MOST_ELEMENTS: u64 = 1 << 22;
const MOST_DIMENSIONS: u32 = 4;
/// Where tensors begin, unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// Value of one field in the header of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Whole(i128),
    Real(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

/// What the header of a GGUF file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    /// Outermost dimension first, as everywhere here; the file has them the other way round.
    pub shape: Vec<usize>,
    /// The number of ggml's type.
    pub kind: u32,
    /// Offset of the tensor's first byte, counted from the beginning of the file.
    pub begin: usize,
}

/// What a file says before its data.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Container {
    pub fields: BTreeMap<String, Value>,
    pub tensors: Vec<Entry>,
}

impl Container {
    /// Reads the header of a file that begins with `GGUF`.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut reader = Reader { bytes, at: 4 };
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = within("number of tensors", reader.u64()?, MOST_TENSORS)?;
        let field_count = within("number of fields", reader.u64()?, MOST_FIELDS)?;
        let mut fields = BTreeMap::new();
        for _ in 0..field_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(&key, kind, true)?;
            fields.insert(key, value);
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(reader.entry()?);
        }
        let alignment = match fields.get("general.alignment") {
            Some(Value::Whole(alignment)) => u64::try_from(*alignment).unwrap_or(0),
            _ => ALIGNMENT,
        };
        let alignment = within("alignment", alignment, 1 << 20)?.max(1);
        let data = (reader.at as u64).next_multiple_of(alignment);
        for tensor in &mut tensors {
            let begin = data.saturating_add(tensor.begin as u64);
            tensor.begin = usize::try_from(begin).unwrap_or(usize::MAX);
        }
        Ok(Self { fields, tensors })
    }
}

fn within(what: &'static str, found: u64, limit: u64) -> Result<u64, GgufError> {
    match found <= limit {
        true => Ok(found),
        false => Err(GgufError::Limit { what, limit, found }),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(GgufError::Truncated {
            offset: self.bytes.len(),
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let offset = self.bytes.len();
        self.take(N)?
            .try_into()
            .map_err(|_| GgufError::Truncated { offset })
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        let offset = self.at;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| GgufError::Text { offset })?;
        Ok(text.to_owned())
    }

    /// A value of a type; lists hold no lists.
    fn value(&mut self, key: &str, kind: u32, may_list: bool) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Real(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 if may_list => {
                let kind = self.u32()?;
                let count = within("elements of a list", self.u64()?, MOST_ELEMENTS)?;
                // Grows with what the file really has.
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(key, kind, false)?);
                }
                Value::List(list)
            }
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Real(f64::from_le_bytes(self.array()?)),
            found => {
                return Err(GgufError::ValueType {
                    key: key.into(),
                    found,
                });
            }
        })
    }

    fn entry(&mut self) -> Result<Entry, GgufError> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        within(
            "dimensions of a tensor",
            dimensions.into(),
            MOST_DIMENSIONS.into(),
        )?;
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let kind = self.u32()?;
        let begin = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        Ok(Entry {
            name,
            shape,
            kind,
            begin,
        })
    }
}
