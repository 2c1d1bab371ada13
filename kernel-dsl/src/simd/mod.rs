//! One choice of vector instructions for every kernel on the CPU.
//!
//! Kernels are compiled several times, once for each level, and [`dispatch`] runs the copy of the level in use. That is the
//! most capable one that the processor has, or a lower one: the environment variable [`VARIABLE`] caps it when the process
//! begins to compute, [`set_active`] afterwards. No way leads above what the processor has.
//!
//! | level | vectors of f32 | multiply-add | the same kernels, and |
//! |---|---|---|---|
//! | `portable` | 4, made by the compiler | rounds twice | |
//! | `neon` | 4 | fused | |
//! | `sse4.2` | 4 | rounds twice | |
//! | `avx2` | 8 | fused | |
//! | `avx2+vnni` | 8 | fused | the dot product of bytes, for int8 and int4 weights |
//! | `avx512` | 16 | fused | |
//! | `avx512+vnni` | 16 | fused | the dot product of bytes, for int8 and int4 weights |
//! | `avx512+bf16` | 16 | fused | that, and the dot product of bf16 pairs, for bf16 weights (on Intel for few rows only) |
//!
//! ```
//! use spillway_kernel_dsl::simd::{Isa, active, from_environment};
//!
//! let isa = from_environment()?;
//! assert_eq!(active(), isa);
//! assert!(isa <= Isa::detect());
//! # Ok::<(), spillway_kernel_dsl::simd::IsaError>(())
//! ```

mod components;
mod isa;

use std::any::TypeId;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU8, Ordering};

use pulp::{Simd, WithSimd};

pub use components::{Component, components};
pub use isa::{Isa, IsaError};

/// The environment variable that caps the level: one of the names of [`Isa`], such as `portable`, `avx2` or `avx512`.
pub const VARIABLE: &str = "SPILLWAY_ISA";

/// The vectors of [`Isa::Portable`]: arrays that the compiler maps to what the target guarantees.
type Portable = pulp::Scalar128b;

/// The level in use, as its number; [`UNSET`] until it is first asked for.
static ACTIVE: AtomicU8 = AtomicU8::new(UNSET);
const UNSET: u8 = u8::MAX;

/// The level that [`VARIABLE`] asks for, or the best that this processor has where it is not set (or empty).
///
/// A program calls this when it starts, to report a value that cannot be used; kernels themselves go on with the best level
/// then.
///
/// # Errors
/// [`IsaError`] when the variable holds no name of a level, or one that this processor cannot run.
pub fn from_environment() -> Result<Isa, IsaError> {
    asked(std::env::var_os(VARIABLE).as_deref())
}

/// The level that a value of [`VARIABLE`] asks for.
fn asked(value: Option<&OsStr>) -> Result<Isa, IsaError> {
    match value {
        None => Ok(Isa::detect()),
        Some(value) if value.is_empty() => Ok(Isa::detect()),
        Some(value) => usable(value.to_string_lossy().parse()?),
    }
}

/// The level in use.
#[inline(always)]
pub fn active() -> Isa {
    let number = ACTIVE.load(Ordering::Relaxed);
    if number == UNSET {
        return first_use();
    }
    Isa::ALL[usize::from(number)]
}

/// Takes the level from the environment.
#[cold]
fn first_use() -> Isa {
    let isa = from_environment().unwrap_or_else(|_| Isa::detect());
    // Another thread may have come first, with a choice of its own.
    match ACTIVE.compare_exchange(UNSET, isa as u8, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => isa,
        Err(number) => Isa::ALL[usize::from(number)],
    }
}

/// Makes another level the one in use, for the whole process, and returns the one before; for tests and measurements.
///
/// Calls that are under way may take the rest of their steps at the new level.
///
/// # Errors
/// [`IsaError::Unavailable`] when this processor cannot run it; nothing changes then.
pub fn set_active(isa: Isa) -> Result<Isa, IsaError> {
    let isa = usable(isa)?;
    let before = active();
    ACTIVE.store(isa as u8, Ordering::Relaxed);
    Ok(before)
}

fn usable(isa: Isa) -> Result<Isa, IsaError> {
    if isa.is_available() {
        Ok(isa)
    } else {
        Err(IsaError::Unavailable { isa })
    }
}

/// Runs an operation compiled for the level in use.
///
/// This is the only way by which kernels of this crate come to their vectors. It costs a load and a jump.
#[inline(always)]
pub fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    match dispatch_to_vectors(op) {
        Ok(output) => output,
        Err(op) => Simd::vectorize(pulp::Scalar128b, op),
    }
}

/// As [`dispatch`], with single numbers for vectors at the portable level: for operations as large as a Fourier transform, of which arrays of
/// four numbers, each for itself, took the compiler more than five minutes.
#[inline(always)]
pub(crate) fn dispatch_large<Op: WithSimd>(op: Op) -> Op::Output {
    match dispatch_to_vectors(op) {
        Ok(output) => output,
        Err(op) => Simd::vectorize(pulp::Scalar::new(), op),
    }
}

/// As [`dispatch`], and the operation itself at the portable level, which has no vectors.
#[inline(always)]
fn dispatch_to_vectors<Op: WithSimd>(op: Op) -> Result<Op::Output, Op> {
    match active() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => {
            // SAFETY: only available levels become active, and these are available where V4 is.
            Ok(Simd::vectorize(unsafe { pulp::x86::V4::new_unchecked() }, op))
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => {
            // SAFETY: only available levels become active, and these are available where V3 is.
            Ok(Simd::vectorize(unsafe { pulp::x86::V3::new_unchecked() }, op))
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Sse42 => {
            // SAFETY: only available levels become active, and this is available where V2 is.
            Ok(Simd::vectorize(unsafe { pulp::x86::V2::new_unchecked() }, op))
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => {
            // SAFETY: only available levels become active, and this is available where Neon is.
            Ok(Simd::vectorize(
                unsafe { pulp::aarch64::Neon::new_unchecked() },
                op,
            ))
        }
        _ => Err(op),
    }
}

/// Whether a multiply-add is one instruction, which rounds once.
///
/// Elsewhere pulp, like [`f32::mul_add`], calls a library routine for every value to round once all the same.
#[inline(always)]
pub(crate) fn is_fused<S: Simd>() -> bool {
    cfg!(any(target_arch = "aarch64", target_feature = "fma")) || S::F32_LANES >= 8
}

/// a·b + c, rounded once where that is one instruction, else twice.
#[inline(always)]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that knows when it is an instruction"
)]
pub(crate) fn mul_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    if is_fused::<S>() {
        simd.mul_add_f32s(a, b, c)
    } else {
        simd.add_f32s(simd.mul_f32s(a, b), c)
    }
}

/// a·b + c as by [`mul_add`], on vectors of f64.
#[inline(always)]
pub(crate) fn mul_add_f64<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
    if is_fused::<S>() {
        simd.mul_add_f64s(a, b, c)
    } else {
        simd.add_f64s(simd.mul_f64s(a, b), c)
    }
}

/// [`mul_add`] of single values, for loops that the compiler vectorises.
#[inline(always)]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that knows when it is an instruction"
)]
pub(crate) fn mul_add_one<S: Simd>(_simd: S, a: f32, b: f32, c: f32) -> f32 {
    if is_fused::<S>() {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// The larger of two, lane by lane; `b` where that is NaN.
#[inline(always)]
pub(crate) fn max<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
    if is_portable::<S>() {
        // `f32::max`, which pulp takes here, would drop a NaN, and costs more for it.
        simd.select_f32s(simd.greater_than_f32s(a, b), a, b)
    } else {
        simd.max_f32s(a, b)
    }
}

/// The smaller of two, lane by lane; `b` where that is NaN.
#[inline(always)]
pub(crate) fn min<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
    if is_portable::<S>() {
        simd.select_f32s(simd.less_than_f32s(a, b), a, b)
    } else {
        simd.min_f32s(a, b)
    }
}

#[inline(always)]
fn is_portable<S: Simd>() -> bool {
    TypeId::of::<S>() == TypeId::of::<Portable>() || TypeId::of::<S>() == TypeId::of::<pulp::Scalar>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_caps_but_never_raises() {
        let of = |value: &str| asked(Some(OsStr::new(value)));
        assert_eq!(asked(None), Ok(Isa::detect()));
        assert_eq!(of(""), Ok(Isa::detect()));
        for isa in Isa::ALL {
            let expected = match isa.is_available() {
                true => Ok(isa),
                false => Err(IsaError::Unavailable { isa }),
            };
            assert_eq!(of(isa.name()), expected);
        }
        assert!(matches!(of("fastest"), Err(IsaError::Unknown { .. })));
    }
}
