//! How a state is stored: the type of its numbers, what shares a scale, and how numbers are rounded to the type.
//!
//! A float with p bits of significand and least exponent e rounds x to a multiple of its quantum,
//!
//! ```text
//! q(x) = 2^(max(⌊log₂|x|⌋, e) − p + 1)          x ← q · r(x / q)
//! ```
//!
//! and an integer with scale s, x ← s · r(x / s). r is the nearest whole number, ties to even, or stochastic: up with a probability equal
//! to the fraction that is cut off, so that E[r(x)] = x (Croci et al., *Stochastic rounding: implementation, error analysis and
//! applications*, Royal Society Open Science 2022).
//!
//! | type | p | e | largest | what is beyond it |
//! |---|---|---|---|---|
//! | `bf16` | 8 | −126 | 3.39e38 | becomes infinite |
//! | `f16` | 11 | −14 | 65504 | becomes infinite |
//! | `fp8-e4m3` | 4 | −6 | 448 | becomes the largest |
//! | `fp8-e5m2` | 3 | −14 | 57344 | becomes the largest |
//! | `int8` | | | 127 s | cannot be: s is the largest of its block over 127 |
//!
//! The 8-bit floats are those of the Open Compute Project (*OFP8*, 2023), with conversions that saturate.

use crate::random::Bits;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// Rows and columns of a tile of a head's state that shares a scale.
pub const TILE: usize = 16;

/// The type of a stored number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 32 bits: what states are computed in, so nothing is rounded.
    F32,
    /// 16 bits, 8 of them significand.
    Bf16,
    /// 16 bits, 11 of them significand.
    F16,
    /// 8 bits, 4 of them significand.
    Fp8E4m3,
    /// 8 bits, 3 of them significand.
    Fp8E5m2,
    /// Whole numbers from −127 to 127, times a scale.
    Int8,
}

/// What of a head's state shares a scale, an f32: the largest of its numbers over the largest number of the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Nothing: numbers are stored as they are.
    None,
    /// The whole state of a head.
    Head,
    /// A row of it: the values under one key.
    Row,
    /// A tile of [`TILE`] keys and [`TILE`] values, less at the edges.
    Tile,
}

/// The names that are written.
const TYPES: [(&str, ElementType); 6] = [
    ("f32", ElementType::F32),
    ("bf16", ElementType::Bf16),
    ("f16", ElementType::F16),
    ("fp8-e4m3", ElementType::Fp8E4m3),
    ("fp8-e5m2", ElementType::Fp8E5m2),
    ("int8", ElementType::Int8),
];
const SCALES: [(&str, Scale); 4] = [
    ("none", Scale::None),
    ("head", Scale::Head),
    ("row", Scale::Row),
    ("tile", Scale::Tile),
];

impl FromStr for ElementType {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let known = TYPES.iter().find(|(known, _)| *known == name);
        known.map(|(_, element)| *element).ok_or(())
    }
}

impl Display for ElementType {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let name = TYPES.iter().find(|(_, element)| element == self);
        formatter.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for Scale {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let known = SCALES.iter().find(|(known, _)| *known == name);
        known.map(|(_, scale)| *scale).ok_or(())
    }
}

impl Display for Scale {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let name = SCALES.iter().find(|(_, scale)| scale == self);
        formatter.write_str(name.map_or("", |(name, _)| name))
    }
}

/// A binary floating-point type.
struct Float {
    /// p, the hidden bit included.
    significand: i32,
    /// e, that of the least normal number.
    least_exponent: i32,
    largest: f64,
    saturates: bool,
}

const BF16: Float = Float {
    significand: 8,
    least_exponent: -126,
    // (2 − 2⁻⁷) 2¹²⁷
    largest: 3.389_531_389_251_535_5e38,
    saturates: false,
};
const F16: Float = Float {
    significand: 11,
    least_exponent: -14,
    largest: 65504.0,
    saturates: false,
};
const FP8_E4M3: Float = Float {
    significand: 4,
    least_exponent: -6,
    largest: 448.0,
    saturates: true,
};
const FP8_E5M2: Float = Float {
    significand: 3,
    least_exponent: -14,
    largest: 57344.0,
    saturates: true,
};

/// The largest whole number of 8 bits whose negative is one too.
const LARGEST_INT8: f64 = 127.0;

/// How numbers become numbers of a type.
#[derive(Clone, Debug)]
pub enum Rounding {
    /// To the nearest number of the type, ties to even.
    Nearest,
    /// Up or down by draws, so that the expectation is the number itself.
    Stochastic(Draws),
}

/// The draws of stochastic rounding, one for each number of a head's state, by its place in rows.
#[derive(Clone, Debug)]
pub struct Draws(Bits);

impl Draws {
    /// The draws of a head's state after the token at `position`; other numbers, other draws. They do not depend on the batch: the same
    /// sequence is rounded alike in any company.
    pub fn new(seed: u64, layer: u64, head: u64, position: u64) -> Self {
        Self(Bits::new(&[seed, layer, head, position]))
    }
}

impl Rounding {
    /// r(x), the whole number that x is rounded to.
    fn whole(&mut self, x: f64) -> f64 {
        match self {
            Self::Nearest => x.round_ties_even(),
            Self::Stochastic(Draws(bits)) => {
                let below = x.floor();
                below + f64::from(u8::from(bits.uniform() <= x - below))
            }
        }
    }
}

impl Float {
    /// The number of this float that x becomes; NaN stays NaN.
    fn round(&self, x: f64, rounding: &mut Rounding) -> f64 {
        let beyond = |sign: f64| {
            if self.saturates {
                self.largest
            } else {
                f64::INFINITY
            }
            .copysign(sign)
        };
        if x.is_infinite() {
            return beyond(x);
        }
        // Numbers come as f32, or as one over an f32 scale: below the least exponent of an f64's normal numbers is far below e.
        let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let quantum = power_of_two(exponent.max(self.least_exponent) - self.significand + 1);
        let rounded = rounding.whole(x / quantum) * quantum;
        match rounded.abs() > self.largest {
            true => beyond(x),
            false => rounded,
        }
    }
}

/// 2^n, for the exponents of an f64's normal numbers.
fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// How a head's state is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The type of its numbers.
    pub element: ElementType,
    /// What shares a scale; something for [`ElementType::Int8`], and nothing for floats of 16 and 32 bits.
    pub scale: Scale,
}

impl Storage {
    /// Numbers of a type with the scale that it has where none is named: a head's for whole numbers, none for floats.
    pub fn new(element: ElementType) -> Self {
        let scale = match element {
            ElementType::Int8 => Scale::Head,
            _ => Scale::None,
        };
        Self { element, scale }
    }

    /// The scales that numbers of a type may have.
    pub fn scales(element: ElementType) -> &'static [Scale] {
        match element {
            ElementType::F32 | ElementType::Bf16 | ElementType::F16 => &[Scale::None],
            ElementType::Fp8E4m3 | ElementType::Fp8E5m2 => {
                &[Scale::None, Scale::Head, Scale::Row, Scale::Tile]
            }
            ElementType::Int8 => &[Scale::Head, Scale::Row, Scale::Tile],
        }
    }

    /// Bits that a state of `keys` × `values` numbers takes, scales included.
    pub fn bits(self, keys: usize, values: usize) -> usize {
        let number = match self.element {
            ElementType::F32 => 32,
            ElementType::Bf16 | ElementType::F16 => 16,
            ElementType::Fp8E4m3 | ElementType::Fp8E5m2 | ElementType::Int8 => 8,
        };
        let scales = match self.scale {
            Scale::None => 0,
            Scale::Head => 1,
            Scale::Row => keys,
            Scale::Tile => keys.div_ceil(TILE) * values.div_ceil(TILE),
        };
        number * keys * values + 32 * scales
    }

    /// Whether storing changes nothing.
    pub fn is_exact(self) -> bool {
        self.element == ElementType::F32
    }

    /// A head's state as it is read back after it was stored.
    ///
    /// With a scale, a block in which something is not finite becomes NaN as a whole, and one whose scale is below the least f32 becomes 0.
    ///
    /// # Shapes
    /// `state` `[keys, values]`, row-major, with `values` columns.
    pub fn store(self, state: &mut [f32], values: usize, rounding: &mut Rounding) {
        if self.is_exact() {
            return;
        }
        match self.scale {
            Scale::None => state
                .iter_mut()
                .for_each(|x| *x = self.rounded(f64::from(*x), rounding) as f32),
            Scale::Head => self.store_block([state], rounding),
            Scale::Row => state
                .chunks_mut(values.max(1))
                .for_each(|row| self.store_block([row], rounding)),
            Scale::Tile => self.store_tiles(state, values, rounding),
        }
    }

    fn store_tiles(self, state: &mut [f32], values: usize, rounding: &mut Rounding) {
        for rows in state.chunks_mut(TILE * values.max(1)) {
            for first in (0..values).step_by(TILE) {
                let last = (first + TILE).min(values);
                let tile = rows.chunks_mut(values).map(|row| &mut row[first..last]);
                self.store_block(tile, rounding);
            }
        }
    }

    /// Numbers that share a scale.
    fn store_block<'a>(self, block: impl IntoIterator<Item = &'a mut [f32]>, rounding: &mut Rounding) {
        let mut block: Vec<&mut [f32]> = block.into_iter().collect();
        let numbers = || block.iter().flat_map(|row| row.iter().copied());
        let largest = numbers().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let finite = numbers().all(f32::is_finite);
        let scale = f64::from((f64::from(largest) / self.largest()) as f32);
        let each = |x: &mut f32| {
            *x = match (finite, scale > 0.0) {
                (false, _) => f32::NAN,
                (true, false) => 0.0,
                (true, true) => (self.rounded(f64::from(*x) / scale, rounding) * scale) as f32,
            }
        };
        block.iter_mut().flat_map(|row| row.iter_mut()).for_each(each);
    }

    /// The largest number of the type.
    fn largest(self) -> f64 {
        match self.float() {
            Some(float) => float.largest,
            None => LARGEST_INT8,
        }
    }

    /// The number of the type that x becomes.
    fn rounded(self, x: f64, rounding: &mut Rounding) -> f64 {
        match (self.float(), self.element) {
            (Some(float), _) => float.round(x, rounding),
            (None, ElementType::Int8) => rounding.whole(x).clamp(-LARGEST_INT8, LARGEST_INT8),
            (None, _) => x,
        }
    }

    fn float(self) -> Option<&'static Float> {
        match self.element {
            ElementType::Bf16 => Some(&BF16),
            ElementType::F16 => Some(&F16),
            ElementType::Fp8E4m3 => Some(&FP8_E4M3),
            ElementType::Fp8E5m2 => Some(&FP8_E5M2),
            ElementType::F32 | ElementType::Int8 => None,
        }
    }
}

#[cfg(test)]
mod tests;
