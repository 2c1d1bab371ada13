//! Functions of every value of a tensor, vectorised and on all threads: the activations and gates between matrices.
//!
//! ```
//! use spillway_kernel_dsl::Rows;
//! use spillway_kernel_dsl::pointwise::{Function, gate, map};
//!
//! let mut values = [-2.0, 3.0];
//! map(Function::SquaredRelu, &mut values);
//! assert_eq!(values, [0.0, 9.0]);
//! gate(Function::SquaredRelu, &mut values, Rows::contiguous(&[7.0, 2.0], 1, 2)?)?;
//! assert_eq!(values, [0.0, 36.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::Rows;
use crate::half_precision::LengthError;
use crate::math;
use crate::simd::dispatch;

/// Values that one thread takes at a time; fewer are not worth waking another for.
const BLOCK: usize = 1 << 14;

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// eˣ.
    Exp,
    /// σ(x) = 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// x σ(x), with the logistic function σ of [`Function::Sigmoid`].
    Silu,
    /// tanh(x).
    Tanh,
    /// max(x, 0)².
    SquaredRelu,
    /// x Φ(x), with the distribution function Φ of the standard normal distribution.
    Gelu,
    /// GELU with a tanh in place of Φ.
    GeluTanh,
}

/// x ← f(x) for every value, on the threads of the current rayon pool.
pub fn map(function: Function, values: &mut [f32]) {
    if values.len() <= BLOCK {
        run(function, values, None, Wanted::Value);
    } else {
        values
            .par_chunks_mut(BLOCK)
            .for_each(|values| run(function, values, None, Wanted::Value));
    }
}

/// x ← x · f(g) for every value x and its gate g, on the threads of the current rayon pool.
///
/// # Errors
/// [`LengthError`] when there is not one value per gate; nothing is written then.
pub fn gate(function: Function, values: &mut [f32], gates: Rows) -> Result<(), LengthError> {
    by_rows(values, gates, |values, gates| {
        run(function, values, Some(gates), Wanted::Value)
    })
}

/// c ← c · f′(x) for every cotangent c of f(x), on the threads of the current rayon pool.
///
/// # Errors
/// [`LengthError`] when there is not one cotangent per value; nothing is written then.
pub fn pull_back(function: Function, cotangents: &mut [f32], x: Rows) -> Result<(), LengthError> {
    by_rows(cotangents, x, |values, x| {
        run(function, values, Some(x), Wanted::Derivative)
    })
}

/// `work` on runs of values and on what stands beside them, over threads where that pays.
fn by_rows(
    values: &mut [f32],
    beside: Rows,
    work: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Result<(), LengthError> {
    let count = beside.rows() * beside.cols();
    if values.len() != count {
        return Err(LengthError {
            expected: count,
            found: values.len(),
        });
    }
    let cols = beside.cols().max(1);
    let rows_at_once = (BLOCK / cols).max(1);
    let work = |(block, values): (usize, &mut [f32])| {
        for (row, values) in values.chunks_exact_mut(cols).enumerate() {
            work(values, beside.row(block * rows_at_once + row));
        }
    };
    if count <= BLOCK {
        values.chunks_mut(rows_at_once * cols).enumerate().for_each(work);
    } else {
        values
            .par_chunks_mut(rows_at_once * cols)
            .enumerate()
            .for_each(work);
    }
    Ok(())
}

/// What of a function is taken.
#[derive(Clone, Copy)]
enum Wanted {
    Value,
    Derivative,
}

fn run(function: Function, values: &mut [f32], beside: Option<&[f32]>, wanted: Wanted) {
    match function {
        Function::Exp => apply::<math::Exp>(values, beside, wanted),
        Function::Sigmoid => apply::<math::Sigmoid>(values, beside, wanted),
        Function::Silu => apply::<math::Silu>(values, beside, wanted),
        Function::Tanh => apply::<math::Tanh>(values, beside, wanted),
        Function::SquaredRelu => apply::<SquaredRelu>(values, beside, wanted),
        Function::Gelu => apply::<math::Gelu>(values, beside, wanted),
        Function::GeluTanh => apply::<math::GeluTanh>(values, beside, wanted),
    }
}

/// max(x, 0)².
struct SquaredRelu;

impl math::Function for SquaredRelu {
    #[inline(always)]
    fn at<S: Simd>(_simd: S, x: f32) -> f32 {
        // A comparison rather than `max`, which would drop a NaN.
        let positive = if x < 0.0 { 0.0 } else { x };
        positive * positive
    }

    #[inline(always)]
    fn derivative_at<S: Simd>(_simd: S, x: f32) -> f32 {
        if x < 0.0 { 0.0 } else { 2.0 * x }
    }
}

fn apply<F: math::Function>(values: &mut [f32], beside: Option<&[f32]>, wanted: Wanted) {
    dispatch(Body {
        values,
        beside,
        wanted,
        function: PhantomData::<F>,
    });
}

/// The loop over one block, inside the instruction set in use.
struct Body<'a, F> {
    values: &'a mut [f32],
    /// Where the function is taken; at the values themselves if there is nothing.
    beside: Option<&'a [f32]>,
    wanted: Wanted,
    function: PhantomData<F>,
}

impl<F: math::Function> WithSimd for Body<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.beside, self.wanted) {
            (None, _) => self
                .values
                .iter_mut()
                .for_each(|value| *value = F::at(simd, *value)),
            (Some(beside), Wanted::Value) => self
                .values
                .iter_mut()
                .zip(beside)
                .for_each(|(value, &x)| *value *= F::at(simd, x)),
            (Some(beside), Wanted::Derivative) => self
                .values
                .iter_mut()
                .zip(beside)
                .for_each(|(value, &x)| *value *= F::derivative_at(simd, x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function in f64.
    type Exact = fn(f64) -> f64;

    /// Φ(x) by the series ½ + φ(x) Σ x^(2n+1) / (1·3·…·(2n+1)), in the tail by its continued fraction.
    fn normal_distribution(x: f64) -> f64 {
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x < -3.0 {
            let fraction = (1..200).rev().fold(-x, |below, n| -x + f64::from(n) / below);
            return density / fraction;
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 + density * sum
    }

    #[test]
    fn blocks_are_joined_to_the_whole() {
        // Rows of 311 gates with a gap after each.
        let (rows, cols, stride) = (211, 311, 320);
        let count = rows * cols;
        assert!(count > 3 * BLOCK);
        let values: Vec<f32> = (0..count).map(|i| (i % 977) as f32 / 100.0 - 4.0).collect();
        let factors: Vec<f32> = (0..count).map(|i| (i % 13) as f32).collect();
        let mut gates = vec![f32::NAN; rows * stride];
        for (gates, values) in gates.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
            gates[..cols].copy_from_slice(values);
        }
        let functions: [(Function, Exact); 7] = [
            (Function::Exp, f64::exp),
            (Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (Function::Silu, |x| x / (1.0 + (-x).exp())),
            (Function::Tanh, f64::tanh),
            (Function::SquaredRelu, |x| x.max(0.0).powi(2)),
            (Function::Gelu, |x| x * normal_distribution(x)),
            (Function::GeluTanh, |x| {
                let argument = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                x / (1.0 + (-2.0 * argument).exp())
            }),
        ];
        for (function, exact) in functions {
            let (mut alone, mut gated) = (values.clone(), factors.clone());
            map(function, &mut alone);
            gate(
                function,
                &mut gated,
                Rows::new(&gates, rows, cols, stride).unwrap(),
            )
            .unwrap();
            let mut pulled = factors.clone();
            let beside = Rows::new(&gates, rows, cols, stride).unwrap();
            pull_back(function, &mut pulled, beside).unwrap();
            for ((&x, &y), &pulled) in values.iter().zip(&factors).zip(&pulled) {
                // A difference of fourth order is exact to 1e-11, but where the second derivative jumps.
                let (x, h) = (f64::from(x), 1e-3);
                if function == Function::SquaredRelu && x.abs() < 2.0 * h {
                    continue;
                }
                let difference = |h: f64| (exact(x + h) - exact(x - h)) / (2.0 * h);
                let expected = f64::from(y) * (4.0 * difference(h) - difference(2.0 * h)) / 3.0;
                let bound = 2e-6 * f64::from(y) * (1.0 + x.abs()).max(expected.abs());
                assert!(
                    (f64::from(pulled) - expected).abs() <= bound,
                    "derivative of {function:?} at {x}: {pulled}, expected {expected}"
                );
            }
            for (((&x, &y), &alone), &gated) in values.iter().zip(&factors).zip(&alone).zip(&gated) {
                let expected = exact(f64::from(x));
                // In the tail of the form with a tanh, the rounding of the cubic counts as often as its size.
                let condition = match function {
                    Function::GeluTanh => 1.0 + f64::from(x.abs()),
                    _ => 1.0,
                };
                let bound = 1e-6 * condition * expected.abs().max(1e-3);
                assert!(
                    (f64::from(alone) - expected).abs() <= bound,
                    "{function:?} of {x}: {alone}"
                );
                let (expected, bound) = (expected * f64::from(y), bound * f64::from(y));
                assert!(
                    (f64::from(gated) - expected).abs() <= bound,
                    "{function:?} of {x}: {gated}"
                );
            }
        }
    }

    #[test]
    fn nan_stays_and_missing_gates_are_refused() {
        for function in [
            Function::Exp,
            Function::Sigmoid,
            Function::Silu,
            Function::Tanh,
            Function::SquaredRelu,
            Function::Gelu,
            Function::GeluTanh,
        ] {
            let mut values = [f32::NAN; 3];
            map(function, &mut values);
            assert!(values.iter().all(|value| value.is_nan()), "{function:?}");
            let far = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.0];
            let mut cotangents = [1.0; 6];
            pull_back(function, &mut cotangents, Rows::contiguous(&far, 1, 6).unwrap()).unwrap();
            assert!(cotangents[0].is_nan(), "{function:?}");
            assert!(
                cotangents[1..].iter().all(|value| !value.is_nan()),
                "{function:?}: {cotangents:?}"
            );
        }
        let gates = Rows::contiguous(&[1.0; 2], 1, 2).unwrap();
        assert_eq!(
            gate(Function::Exp, &mut [0.0; 3], gates),
            Err(LengthError {
                expected: 2,
                found: 3
            })
        );
    }
}
