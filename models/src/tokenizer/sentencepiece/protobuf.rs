//! Fields of a protocol buffer, as far as `tokenizer.model` needs them. Source: the encoding guide of Protocol Buffers.
//!
//! A message is a list of fields: a varint of number and wire type, then a varint (0), eight bytes (1), a length and so many bytes (2), or
//! four bytes (5). Groups (3, 4) went out of use before SentencePiece was written and are refused.

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// A whole number or a truth value.
    Varint(u64),
    /// Four bytes, little-endian: an f32, or a whole number of fixed width.
    Four([u8; 4]),
    /// Eight bytes, little-endian: an f64, or a whole number of fixed width.
    Eight([u8; 8]),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order; after an error there are no more.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.cut())?;
            self.at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!(
            "a number of more than 64 bits before byte {} of a message",
            self.at
        ))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count)
            .ok()
            .and_then(|count| self.at.checked_add(count));
        let taken = end
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| self.cut())?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N as u64)?;
        taken.try_into().map_err(|_| self.cut())
    }

    fn cut(&self) -> String {
        format!("a message ends within a field, at byte {}", self.at)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Eight(self.array()?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Four(self.array()?),
            wire => {
                return Err(format!(
                    "field {} has wire type {wire}, which there is not",
                    key >> 3
                ));
            }
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}
