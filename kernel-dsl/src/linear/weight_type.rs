//! Weight types, and the units in which a panel of the packed layout holds them.

use std::fmt;

/// How the weights of a [`PackedMatrix`](super::PackedMatrix) are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32-bit floats: 4 bytes a weight.
    F32,
    /// The upper half of a 32-bit float, rounded to nearest even: 2 bytes a weight.
    Bf16,
    /// Signed 8-bit integers in blocks of 32 along `in_features`, each block with one bf16 scale: 1.0625 bytes a weight.
    Int8,
    /// Blocks as `Int8` has, but with an f16 scale: those of ggml's format q8_0, 1.0625 bytes a weight. The scale is finer than int8's, and
    /// holds magnitudes from 2⁻²⁴ to 65504.
    Q8_0,
    /// Signed 4-bit integers in blocks of 32 along `in_features`, each block with one f16 scale: 0.5625 bytes a weight.
    Int4,
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightType::F32 => "f32",
            WeightType::Bf16 => "bf16",
            WeightType::Int8 => "int8",
            WeightType::Q8_0 => "q8_0",
            WeightType::Int4 => "int4",
        })
    }
}

/// Output features in a panel.
pub(super) const PANEL: usize = 32;
/// Input features that share a scale in int8, q8_0 and int4.
pub(super) const BLOCK: usize = 32;
/// Bytes of the integers in a unit of 8 bits; the scales follow.
pub(super) const BLOCK_BYTES: usize = BLOCK * PANEL;

/// Bytes of the integers in an int4 unit; the scales follow.
pub(super) const HALF_BYTES: usize = BLOCK * PANEL / 2;

/// The largest magnitude whose scale an f16 holds in int4, as −8.
pub(super) const LARGEST_INT4: f32 = 8.0 * 65504.0;

/// The largest magnitude whose scale an f16 holds in q8_0.
pub(super) const LARGEST_Q8_0: f32 = 127.0 * 65504.0;

impl WeightType {
    /// The largest magnitude of a weight that it holds.
    pub(super) fn largest(self) -> f32 {
        match self {
            WeightType::F32 | WeightType::Bf16 | WeightType::Int8 => f32::MAX,
            WeightType::Q8_0 => LARGEST_Q8_0,
            WeightType::Int4 => LARGEST_INT4,
        }
    }

    /// Input features in a unit.
    pub(super) const fn unit(self) -> usize {
        match self {
            WeightType::F32 => 1,
            WeightType::Bf16 => 2,
            WeightType::Int8 | WeightType::Q8_0 | WeightType::Int4 => BLOCK,
        }
    }

    /// Bytes of a unit of a panel.
    pub(super) const fn unit_bytes(self) -> usize {
        match self {
            WeightType::F32 | WeightType::Bf16 => 4 * PANEL,
            WeightType::Int8 | WeightType::Q8_0 => BLOCK_BYTES + 2 * PANEL,
            WeightType::Int4 => HALF_BYTES + 2 * PANEL,
        }
    }
}
