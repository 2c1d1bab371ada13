//! Half precision at the edge of the kernels: to f32 and back.
//!
//! Kernels on the CPU compute in f32. Widening is exact; narrowing rounds to nearest, ties to even, and keeps NaN what it is.

use crate::simd::dispatch;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Simd, WithSimd};
use thiserror::Error;

/// Source and destination have different lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a conversion of {expected} values needs room for as many, found {found}")]
pub struct LengthError {
    /// Number of values to convert.
    pub expected: usize,
    /// Number of values that the destination has room for.
    pub found: usize,
}

/// bf16 to f32.
///
/// # Errors
/// [`LengthError`] when the lengths differ; nothing is written then.
pub fn widen_bf16(values: &[bf16], out: &mut [f32]) -> Result<(), LengthError> {
    check(values.len(), out.len())?;
    dispatch(Map {
        values,
        out,
        f: |x: bf16| f32::from_bits(u32::from(x.to_bits()) << 16),
    });
    Ok(())
}

/// f16 to f32.
///
/// # Errors
/// [`LengthError`] when the lengths differ; nothing is written then.
pub fn widen_f16(values: &[f16], out: &mut [f32]) -> Result<(), LengthError> {
    check(values.len(), out.len())?;
    values.convert_to_f32_slice(out);
    Ok(())
}

/// f32 to bf16.
///
/// # Errors
/// [`LengthError`] when the lengths differ; nothing is written then.
pub fn narrow_bf16(values: &[f32], out: &mut [bf16]) -> Result<(), LengthError> {
    check(values.len(), out.len())?;
    dispatch(Map {
        values,
        out,
        f: round_to_bf16,
    });
    Ok(())
}

/// f32 to f16. What is beyond 65504 becomes infinite.
///
/// # Errors
/// [`LengthError`] when the lengths differ; nothing is written then.
pub fn narrow_f16(values: &[f32], out: &mut [f16]) -> Result<(), LengthError> {
    check(values.len(), out.len())?;
    out.convert_from_f32_slice(values);
    Ok(())
}

fn check(expected: usize, found: usize) -> Result<(), LengthError> {
    if expected == found {
        Ok(())
    } else {
        Err(LengthError { expected, found })
    }
}

#[inline(always)]
fn round_to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    // Half a unit of the last place that stays, less one if that place is even: ties go to even.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A NaN whose low bits alone are set would round to an infinity: its quiet bit is set instead.
    let kept = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
    bf16::from_bits((kept >> 16) as u16)
}

/// A conversion inside the instruction set in use.
struct Map<'a, A, B, F> {
    values: &'a [A],
    out: &'a mut [B],
    f: F,
}

impl<A: Copy, B, F: Fn(A) -> B> WithSimd for Map<'_, A, B, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (out, &value) in self.out.iter_mut().zip(self.values) {
            *out = (self.f)(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_widening_and_narrowing() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![0.0; bits.len()];
        let halves: Vec<bf16> = bits.iter().map(|&b| bf16::from_bits(b)).collect();
        let mut back = vec![bf16::ZERO; bits.len()];
        widen_bf16(&halves, &mut wide).expect("as long");
        narrow_bf16(&wide, &mut back).expect("as long");
        for ((half, back), wide) in halves.iter().zip(&back).zip(&wide) {
            assert!(half.is_nan() == wide.is_nan() && half.is_nan() == back.is_nan());
            assert!(half.is_nan() || (half.to_bits() == back.to_bits() && half.to_f32() == *wide));
        }
        let halves: Vec<f16> = bits.iter().map(|&b| f16::from_bits(b)).collect();
        let mut back = vec![f16::ZERO; bits.len()];
        widen_f16(&halves, &mut wide).expect("as long");
        narrow_f16(&wide, &mut back).expect("as long");
        for ((half, back), wide) in halves.iter().zip(&back).zip(&wide) {
            assert!(half.is_nan() == wide.is_nan() && half.is_nan() == back.is_nan());
            assert!(half.is_nan() || (half.to_bits() == back.to_bits() && half.to_f32() == *wide));
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_and_ties_to_even() {
        // Around every bf16 of some exponents: the halves of the way up and down, and one f32 to each side of them.
        let values: Vec<f32> = (0x3f00_u32..0x4100)
            .flat_map(|top| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(top << 16 | low)))
            .flat_map(|x| [x, -x])
            .chain([f32::MAX, f32::MIN_POSITIVE, 1e-42, f32::INFINITY, 0.0, -0.0])
            .collect();
        let mut found = vec![bf16::ZERO; values.len()];
        narrow_bf16(&values, &mut found).expect("as long");
        for (&x, found) in values.iter().zip(found) {
            assert_eq!(found.to_bits(), bf16::from_f32(x).to_bits(), "{x}");
        }
        let mut found = [bf16::ZERO];
        narrow_bf16(&[f32::from_bits(0x7f80_0001)], &mut found).expect("as long");
        assert!(found[0].is_nan());
        let (expected, found) = (3, 2);
        assert_eq!(
            narrow_f16(&[0.0; 3], &mut [f16::ZERO; 2]),
            Err(LengthError { expected, found })
        );
    }
}
