//! Rotary embedding on the CPU: pairs in SIMD lanes, tokens over threads.

use std::ops::Range;

use super::{Pairing, Positions, Problem, RotaryError};
use crate::Rows;
use crate::simd::dispatch;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Values below which a second thread costs more than it brings.
const THREADED_WORK: usize = 1 << 17;
/// Tokens that one task turns. Angles are found anew for each task, and by rotation inside of it.
const TOKENS_PER_TASK: usize = 64;

/// Turns every head of every token by the angles of its position.
///
/// # Shapes
/// `input` and `out` `[rows, heads · head_dim]`. Rows of padding come out as 0.
///
/// # Errors
/// [`RotaryError`] when a shape does not fit; nothing is written then.
pub fn rotary(
    problem: &Problem,
    positions: &Positions,
    input: Rows,
    out: &mut [f32],
) -> Result<(), RotaryError> {
    turn(problem, positions, input, 1.0, out)
}

/// The gradient of [`rotary`] by its input: the cotangent of the output, turned back.
///
/// # Shapes
/// `cotangent` and `gradient` `[rows, heads · head_dim]`. Rows of padding get gradient 0.
///
/// # Errors
/// [`RotaryError`] when a shape does not fit; nothing is written then.
pub fn backward(
    problem: &Problem,
    positions: &Positions,
    cotangent: Rows,
    gradient: &mut [f32],
) -> Result<(), RotaryError> {
    turn(problem, positions, cotangent, -1.0, gradient)
}

fn turn(
    problem: &Problem,
    positions: &Positions,
    input: Rows,
    sign: f64,
    out: &mut [f32],
) -> Result<(), RotaryError> {
    problem.validate(positions, &input, out.len())?;
    let spans = positions.sequences.spans(problem.batch, problem.time);
    let cols = problem.cols();
    if out.is_empty() {
        return Ok(());
    }
    let task = |(task, out): (usize, &mut [f32])| {
        dispatch(Tokens {
            problem,
            positions,
            spans: &spans,
            input,
            sign,
            first: task * TOKENS_PER_TASK,
            out,
        });
    };
    if out.len() < THREADED_WORK {
        out.chunks_mut(TOKENS_PER_TASK * cols).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(TOKENS_PER_TASK * cols)
            .enumerate()
            .for_each(task);
    }
    Ok(())
}

/// Some tokens, from row `first` on.
struct Tokens<'a> {
    problem: &'a Problem,
    positions: &'a Positions<'a>,
    spans: &'a [Range<usize>],
    input: Rows<'a>,
    /// Direction of the turn.
    sign: f64,
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Tokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let problem = self.problem;
        let mut b = self.spans.partition_point(|span| span.end <= self.first);
        let mut angles = None;
        for (row, out) in self.out.chunks_exact_mut(problem.cols()).enumerate() {
            let row = self.first + row;
            while self.spans.get(b).is_some_and(|span| span.end <= row) {
                b += 1;
                angles = None;
            }
            match self.spans.get(b).filter(|span| span.start <= row) {
                None => out.fill(0.0),
                Some(span) => {
                    let angles = angles.get_or_insert_with(|| {
                        Angles::new(problem, self.positions.of(b, span.start, row), self.sign)
                    });
                    out.copy_from_slice(self.input.row(row));
                    for head in out.chunks_exact_mut(problem.head_dim) {
                        angles.turn(problem.pairing, &mut head[..problem.rotary_dim]);
                    }
                    angles.advance();
                }
            }
        }
    }
}

/// cos θ and sin θ of every pair at one position, and of the step to the next.
struct Angles {
    cos: Vec<f64>,
    sin: Vec<f64>,
    step_cos: Vec<f64>,
    step_sin: Vec<f64>,
    /// The first two as f32.
    rounded: [Vec<f32>; 2],
}

impl Angles {
    fn new(problem: &Problem, position: usize, sign: f64) -> Self {
        let frequencies: Vec<f64> = problem.frequencies().map(|f| sign * f).collect();
        let of = |f: fn(f64) -> f64, position: f64| -> Vec<f64> {
            frequencies
                .iter()
                .map(|frequency| f(frequency * position))
                .collect()
        };
        let (cos, sin) = (of(f64::cos, position as f64), of(f64::sin, position as f64));
        Self {
            rounded: [narrowed(&cos), narrowed(&sin)],
            cos,
            sin,
            step_cos: of(f64::cos, 1.0),
            step_sin: of(f64::sin, 1.0),
        }
    }

    /// Moves on to the next position by the sum of angles: 64 steps lose 10⁻¹⁴.
    #[inline(always)]
    fn advance(&mut self) {
        let steps = self.step_cos.iter().zip(&self.step_sin);
        for ((cos, sin), (c, s)) in self.cos.iter_mut().zip(&mut self.sin).zip(steps) {
            (*cos, *sin) = (*cos * c - *sin * s, *sin * c + *cos * s);
        }
        for (rounded, exact) in self.rounded.iter_mut().zip([&self.cos, &self.sin]) {
            rounded.iter_mut().zip(exact).for_each(|(r, &x)| *r = x as f32);
        }
    }

    #[inline(always)]
    fn turn(&self, pairing: Pairing, values: &mut [f32]) {
        let [cos, sin] = &self.rounded;
        match pairing {
            Pairing::Halves => {
                let (left, right) = values.split_at_mut(values.len() / 2);
                for (((a, b), &c), &s) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
            Pairing::Interleaved => {
                let (pairs, _) = values.as_chunks_mut::<2>();
                for (([a, b], &c), &s) in pairs.iter_mut().zip(cos).zip(sin) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
    }
}

fn narrowed(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}
