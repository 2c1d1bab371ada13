//! A GGUF file, put together byte by byte.

use half::f16;

/// A field.
#[derive(Clone, Debug)]
pub enum Value {
    Whole(u32),
    Real(f32),
    Bool(bool),
    Text(String),
    Wholes(Vec<u32>),
}

/// How matrices of whole blocks of 32 are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Matrices {
    #[default]
    F32,
    Q8_0,
    Q4_0,
}

/// A tensor of singles.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

#[derive(Clone, Debug, Default)]
pub struct File {
    pub fields: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
    pub matrices: Matrices,
}

impl Matrices {
    /// The type's number, and the values in it.
    fn stored(self, tensor: &Tensor) -> (u32, Vec<u8>) {
        let width = tensor.shape.last().copied().unwrap_or(1);
        let whole = tensor.shape.len() > 1 && width.is_multiple_of(32) && !tensor.name.contains("norm");
        let blocks = tensor.values.chunks(32);
        match self {
            Self::Q8_0 if whole => (8, blocks.flat_map(q8_0).collect()),
            Self::Q4_0 if whole => (2, blocks.flat_map(q4_0).collect()),
            _ => (
                0,
                tensor
                    .values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            ),
        }
    }
}

/// d = the largest magnitude / 127, then the nearest integers.
fn q8_0(block: &[f32]) -> Vec<u8> {
    let scale = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let bytes = block
        .iter()
        .map(|x| ((x * inverse).round() as i8).cast_unsigned());
    f16::from_f32(scale)
        .to_le_bytes()
        .into_iter()
        .chain(bytes)
        .collect()
}

/// d = −w / 8 with w the value of the largest magnitude, then ⌊x / d + 8.5⌋.
fn q4_0(block: &[f32]) -> Vec<u8> {
    let larger = |a: f32, &b: &f32| if b.abs() > a.abs() { b } else { a };
    let scale = block.iter().fold(0.0, larger) / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let four = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    let (low, high) = block.split_at(16);
    let bytes = low
        .iter()
        .zip(high)
        .map(|(low, high)| four(*low) | (four(*high) << 4));
    f16::from_f32(scale)
        .to_le_bytes()
        .into_iter()
        .chain(bytes)
        .collect()
}

impl File {
    pub fn set(&mut self, key: &str, value: Value) {
        self.fields.retain(|(name, _)| name != key);
        self.fields.push((key.into(), value));
    }

    pub fn bytes(&self) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.fields.len() as u64).to_le_bytes());
        for (key, value) in &self.fields {
            out.extend(text(key));
            let (kind, value) = match value {
                Value::Whole(number) => (4_u32, number.to_le_bytes().to_vec()),
                Value::Real(number) => (6, number.to_le_bytes().to_vec()),
                Value::Bool(value) => (7, vec![u8::from(*value)]),
                Value::Text(value) => (8, text(value)),
                Value::Wholes(numbers) => {
                    let mut list = [
                        4_u32.to_le_bytes().to_vec(),
                        (numbers.len() as u64).to_le_bytes().to_vec(),
                    ]
                    .concat();
                    list.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
                    (9, list)
                }
            };
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut at = 0_u64;
        let stored: Vec<_> = self
            .tensors
            .iter()
            .map(|tensor| self.matrices.stored(tensor))
            .collect();
        for (tensor, (kind, data)) in self.tensors.iter().zip(&stored) {
            out.extend(text(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor
                .shape
                .iter()
                .rev()
                .for_each(|size| out.extend((*size as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(at.to_le_bytes());
            at += (data.len() as u64).next_multiple_of(32);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        for (_, data) in &stored {
            out.extend(data);
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out
    }
}
