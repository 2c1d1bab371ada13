//! A GGUF file, put together byte by byte.

/// A field.
#[derive(Clone, Debug)]
pub enum Value {
    Whole(u32),
    Real(f32),
    Bool(bool),
    Text(String),
    Wholes(Vec<u32>),
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
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor
                .shape
                .iter()
                .rev()
                .for_each(|size| out.extend((*size as u64).to_le_bytes()));
            out.extend(0_u32.to_le_bytes());
            out.extend(at.to_le_bytes());
            at += (4 * tensor.values.len() as u64).next_multiple_of(32);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        for tensor in &self.tensors {
            out.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out
    }
}
