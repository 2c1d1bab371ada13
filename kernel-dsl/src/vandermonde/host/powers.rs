//! Powers of a channel's roots in two tables, and the two sums over them.

use pulp::{Simd, WithSimd};

use super::super::channel::Sums;
use crate::complex::{Complex64, Lanes};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply_packed};
use crate::simd::dispatch;

/// Blocks that are formed at a time, so that memory does not grow with the length.
const STRIP: usize = 64;
/// Magnitudes below this count as zero: they add nothing, and subnormal numbers would slow every product down.
const NEGLIGIBLE: f64 = 1e-30;

/// Roots ā of N modes, and room for what is formed of them. A position is l = width·j + i.
pub(super) struct Powers {
    width: usize,
    modes: usize,
    root: Lanes,
    /// ā^{width − 1} and ā^width.
    last: Lanes,
    block: Lanes,
    /// Rows i: Re āⁱ, Im āⁱ, and where slopes are wanted Re and Im of i ā^{i−1}.
    within: Vec<f32>,
    row_len: usize,
    /// Rows j of a strip: weights times ā^{width·j}, or sums over the positions of a block.
    strip: Vec<f32>,
    /// What [`Powers::within`] or a strip has come to.
    current: Lanes,
    before: Lanes,
}

impl Powers {
    /// Room for N modes and `length` positions, with or without slopes.
    pub fn new(modes: usize, length: usize, with_slopes: bool) -> Self {
        let width = length.isqrt().next_power_of_two().clamp(16, 256);
        let row_len = if with_slopes { 4 * modes } else { 2 * modes };
        let strip = STRIP.min(length.div_ceil(width));
        Self {
            width,
            modes,
            root: Lanes::zeros(modes),
            last: Lanes::zeros(modes),
            block: Lanes::zeros(modes),
            within: vec![0.0; width * row_len],
            row_len,
            strip: vec![0.0; strip * row_len],
            current: Lanes::zeros(modes),
            before: Lanes::zeros(modes),
        }
    }

    /// Takes the roots of a channel.
    pub fn set_roots(&mut self, roots: impl Iterator<Item = Complex64>) {
        for (n, root) in roots.enumerate() {
            self.root.set(n, root);
        }
        self.current.fill(Complex64::ONE);
        self.before.fill(Complex64::ZERO);
        dispatch(FillTable(self));
        self.last.copy_from(&self.before);
        self.block.copy_from(&self.current);
    }

    /// out_l = Re Σ_n weight_n ā_nˡ.
    pub fn evaluate(&mut self, weights: &Lanes, out: &mut [f32]) {
        if self.modes == 0 {
            return out.fill(0.0);
        }
        let (width, inner) = (self.width, 2 * self.modes);
        self.current.copy_from(weights);
        for out in out.chunks_mut(STRIP * width) {
            let rows = out.len().div_ceil(width);
            dispatch(FillStrip { powers: self, rows });
            let (whole, rest) = out.split_at_mut(out.len() / width * width);
            for (out, first) in [(whole, 0), (rest, rows - 1)] {
                if out.is_empty() {
                    continue;
                }
                let cols = width.min(out.len());
                let count = out.len() / cols;
                let weights = Matrix::new(&self.strip[first * inner..], count, inner, inner);
                let powers = Matrix::new(&self.within, cols, inner, self.row_len).transposed();
                let mut out = MatrixMut::new(out, count, cols, cols);
                multiply_packed(&mut out, Destination::Overwrite, weights, powers);
            }
        }
    }

    /// Forms both sums of a signal; the slopes are 0 where there is no table of them.
    pub fn sums(&mut self, signal: &[f32], sums: &mut Sums) {
        sums.value.fill(Complex64::ZERO);
        sums.slope.fill(Complex64::ZERO);
        if self.modes == 0 {
            return;
        }
        let (width, cols) = (self.width, self.row_len);
        self.current.fill(Complex64::ONE);
        self.before.fill(Complex64::ZERO);
        for (index, signal) in signal.chunks(STRIP * width).enumerate() {
            let (whole, rest) = signal.split_at(signal.len() / width * width);
            let rows = whole.len() / width;
            for (part, first) in [(whole, 0), (rest, rows)] {
                if part.is_empty() {
                    continue;
                }
                let inner = width.min(part.len());
                let signal = Matrix::new(part, part.len() / inner, inner, inner);
                let powers = Matrix::new(&self.within, inner, cols, cols);
                let mut strip = MatrixMut::new(&mut self.strip[first * cols..], signal.rows(), cols, cols);
                multiply_packed(&mut strip, Destination::Overwrite, signal, powers);
            }
            dispatch(AddStrip {
                first: index * STRIP,
                rows: signal.len().div_ceil(width),
                powers: self,
                sums,
            });
        }
    }
}

/// Writes the table within a block, and leaves ā^{width−1} and ā^width.
struct FillTable<'a>(&'a mut Powers);

impl WithSimd for FillTable<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Powers {
            modes,
            root,
            within,
            row_len,
            current,
            before,
            ..
        } = self.0;
        let modes = *modes;
        let with_slopes = *row_len > 2 * modes;
        for (i, row) in within.chunks_exact_mut((*row_len).max(1)).enumerate() {
            let (value, slope) = row.split_at_mut(2 * modes);
            round(current, 1.0, 1.0, value);
            if with_slopes {
                round(before, i as f64, i as f64, slope);
            }
            before.copy_from(current);
            advance(current, root);
        }
    }
}

/// Writes the rows of a strip, with the sign that makes a real product of a complex one, and moves on.
struct FillStrip<'a> {
    powers: &'a mut Powers,
    rows: usize,
}

impl WithSimd for FillStrip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Powers {
            modes,
            block,
            strip,
            current,
            ..
        } = self.powers;
        for row in strip.chunks_exact_mut(2 * *modes).take(self.rows) {
            round(current, 1.0, -1.0, row);
            advance(current, block);
        }
    }
}

/// Adds the rows of a strip, block j times ā^{width·j}, and moves on.
struct AddStrip<'a> {
    first: usize,
    rows: usize,
    powers: &'a mut Powers,
    sums: &'a mut Sums,
}

impl WithSimd for AddStrip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            first,
            rows,
            powers,
            sums,
        } = self;
        let Powers {
            width,
            modes,
            last,
            block,
            strip,
            row_len,
            current,
            before,
            ..
        } = powers;
        let modes = *modes;
        for (row, terms) in strip.chunks_exact(*row_len).take(rows).enumerate() {
            let (value, slope) = terms.split_at(2 * modes);
            add_product(&mut sums.value, current, 1.0, value);
            if !slope.is_empty() {
                // d(ā^{wj} āⁱ)/dā = ā^{wj} (i ā^{i−1}) + (wj ā^{wj−1}) āⁱ.
                add_product(&mut sums.slope, current, 1.0, slope);
                add_product(&mut sums.slope, before, ((first + row) * *width) as f64, value);
                if first + row == 0 {
                    before.copy_from(last);
                } else {
                    advance(before, block);
                }
            }
            advance(current, block);
        }
    }
}

/// x ← x y.
#[inline(always)]
fn advance(x: &mut Lanes, y: &Lanes) {
    let parts = x.re.iter_mut().zip(x.im.iter_mut()).zip(y.re.iter().zip(&y.im));
    for ((re, im), (&c, &s)) in parts {
        (*re, *im) = (*re * c - *im * s, *re * s + *im * c);
    }
}

/// Re x and Im x times a factor each, in f32, all real parts first.
#[inline(always)]
fn round(x: &Lanes, of_re: f64, of_im: f64, into: &mut [f32]) {
    let (re, im) = into.split_at_mut(x.re.len());
    for (parts, factor, into) in [(&x.re, of_re, re), (&x.im, of_im, im)] {
        for (into, &x) in into.iter_mut().zip(parts) {
            let x = factor * x;
            *into = if x.abs() < NEGLIGIBLE { 0.0 } else { x as f32 };
        }
    }
}

/// sum ← sum + factor x y, with all real parts of y first.
#[inline(always)]
fn add_product(sum: &mut Lanes, x: &Lanes, factor: f64, y: &[f32]) {
    let (y_re, y_im) = y.split_at(x.re.len());
    let x = x.re.iter().zip(&x.im);
    let y = y_re.iter().zip(y_im);
    for (((re, im), (&c, &s)), (&a, &b)) in sum.re.iter_mut().zip(sum.im.iter_mut()).zip(x).zip(y) {
        let (a, b) = (factor * f64::from(a), factor * f64::from(b));
        *re += c * a - s * b;
        *im += c * b + s * a;
    }
}
