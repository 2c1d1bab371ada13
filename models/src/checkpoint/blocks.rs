//! Values that are stored in blocks of few bits with common scales, as GGUF files have them.
//!
//! | format | values | bytes | value |
//! |---|---|---|---|
//! | q8_0 | 32 | 34 | d q, q of 8 bits |
//! | q4_0 | 32 | 18 | d (q − 8), q of 4 bits |
//! | q4_K | 256 | 144 | d s_j q − m t_j, with scales s and t of 6 bits for 32 values each |
//! | q5_K | 256 | 176 | the same with q of 5 bits |
//! | q6_K | 256 | 210 | d s_j (q − 32), with scales s of 8 bits for 16 values each |
//!
//! d and m are f16. Source: the formats of ggml, <https://github.com/ggml-org/ggml>.

use half::f16;

/// A format of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFormat {
    /// 8 bits, a scale for 32 values.
    Q8_0,
    /// 4 bits, a scale for 32 values.
    Q4_0,
    /// 4 bits, a scale and an offset for 32 values.
    Q4K,
    /// 5 bits, a scale and an offset for 32 values.
    Q5K,
    /// 6 bits, a scale for 16 values.
    Q6K,
}

impl BlockFormat {
    /// Values of a block.
    pub fn values(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The format's usual name, such as `q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4K => "q4_K",
            Self::Q5K => "q5_K",
            Self::Q6K => "q6_K",
        }
    }

    /// The values of whole blocks, appended.
    pub(crate) fn read(self, blocks: &[u8], values: &mut Vec<f32>) {
        for block in blocks.chunks_exact(self.bytes()) {
            match self {
                Self::Q8_0 => {
                    let d = scale(block, 0);
                    values.extend(block[2..].iter().map(|&q| d * f32::from(q.cast_signed())));
                }
                Self::Q4_0 => {
                    let d = scale(block, 0);
                    let value = |q: u8| d * (f32::from(q) - 8.0);
                    values.extend(block[2..].iter().map(|q| value(q & 15)));
                    values.extend(block[2..].iter().map(|q| value(q >> 4)));
                }
                Self::Q4K => nested(block, None, &block[16..], values),
                Self::Q5K => nested(block, Some(&block[16..48]), &block[48..], values),
                Self::Q6K => six_bits(block, values),
            }
        }
    }
}

impl BlockFormat {
    /// Blocks of values, appended to `out`; of the last values those that fill no block are left out.
    ///
    /// | format | d | q |
    /// |---|---|---|
    /// | q8_0 | the largest magnitude / 127 | x / d, rounded to nearest, halves away from zero |
    /// | q4_0 | −x* / 8, x* the first value of the largest magnitude | ⌊x / d + 8.5⌋, at most 15 |
    ///
    /// d is a single where q is computed, and f16 in the file, as in ggml.
    ///
    /// # Errors
    /// A value whose scale is beyond f16, and one of a block in a format that is only read.
    pub(super) fn write(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
        for block in values.chunks_exact(self.values()) {
            let largest = block
                .iter()
                .fold(0.0_f32, |largest, value| match value.abs() > largest.abs() {
                    true => *value,
                    false => largest,
                });
            let d = match self {
                Self::Q8_0 => largest.abs() / 127.0,
                Self::Q4_0 => largest / -8.0,
                _ => return Err(largest),
            };
            let stored = f16::from_f32(d);
            if stored.is_infinite() {
                return Err(largest);
            }
            // Of a scale that is zero or nearly so every value is zero.
            let inverse = Some(1.0 / d).filter(|inverse| inverse.is_finite()).unwrap_or(0.0);
            out.extend(stored.to_le_bytes());
            match self {
                Self::Q8_0 => out.extend(
                    block
                        .iter()
                        .map(|x| ((x * inverse).round() as i8).cast_unsigned()),
                ),
                _ => {
                    let four = |x: f32| ((x * inverse + 8.5) as u8).min(15);
                    let (low, high) = block.split_at(16);
                    out.extend(
                        low.iter()
                            .zip(high)
                            .map(|(low, high)| four(*low) | (four(*high) << 4)),
                    );
                }
            }
        }
        Ok(())
    }
}

/// The f16 at a place.
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// q4_K and q5_K: d, m, twelve bytes with eight pairs (s, t) of 6 bits, fifth bits where there are any, and four bits of each value.
fn nested(block: &[u8], fifth: Option<&[u8]>, fours: &[u8], values: &mut Vec<f32>) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    let packed = &block[4..16];
    let pair = |j: usize| match j < 4 {
        true => (packed[j] & 63, packed[j + 4] & 63),
        // The upper two bits lie above the first four pairs.
        false => (
            (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        ),
    };
    for group in 0..8 {
        let (s, t) = pair(group);
        let (factor, offset) = (d * f32::from(s), m * f32::from(t));
        let (shift, fours) = (4 * (group % 2), &fours[group / 2 * 32..][..32]);
        values.extend(fours.iter().enumerate().map(|(i, four)| {
            let high = fifth.map_or(0, |fifth| ((fifth[i] >> group) & 1) << 4);
            factor * f32::from(((four >> shift) & 15) | high) - offset
        }));
    }
}

/// q6_K: lower four bits of 256 values, their upper two, sixteen scales, d.
fn six_bits(block: &[u8], values: &mut Vec<f32>) {
    let d = scale(block, 208);
    for half in 0..2 {
        let (fours, twos) = (&block[64 * half..][..64], &block[128 + 32 * half..][..32]);
        let scales = &block[192 + 8 * half..][..8];
        for part in 0..4 {
            let fours = &fours[32 * (part % 2)..][..32];
            values.extend((0..32).map(|i| {
                let low = (fours[i] >> (4 * (part / 2))) & 15;
                let high = (twos[i] >> (2 * part)) & 3;
                let scale = f32::from(scales[2 * part + i / 16].cast_signed());
                d * scale * (f32::from(low | (high << 4)) - 32.0)
            }));
        }
    }
}
