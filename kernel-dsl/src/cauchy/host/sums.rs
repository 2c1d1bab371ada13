//! Cauchy sums over modes, and their gradients, at a block of nodes in SIMD lanes of f64.

#![allow(
    clippy::needless_range_loop,
    reason = "blocks of several arrays run along the same nodes"
)]

use pulp::{Simd, WithSimd};

use crate::simd::mul_add_f64;

/// Nodes of a block: two of the widest vectors.
pub(super) const WIDTH: usize = 16;

/// Values at the nodes of a block.
pub(super) type Block = [f64; WIDTH];

/// Modes and products of a channel, and room for what they come to at a block of nodes.
pub(super) struct Sums {
    modes: usize,
    /// |μ| and Re μ.
    pub modulus: Vec<f64>,
    pub damping: Vec<f64>,
    /// Re v and Re(v μ*), `[products, modes]`, and in the backward pass the gradients by them.
    pub direct: Vec<f64>,
    pub crossed: Vec<f64>,
    pub by_direct: Vec<f64>,
    pub by_crossed: Vec<f64>,
    /// Gradients by |μ|² and Re μ.
    pub by_square: Vec<f64>,
    pub by_damping: Vec<f64>,
    /// c e_r, c e_i, s e_r, s e_i of every mode, for e = 1/D.
    basis: Vec<[Block; 4]>,
    /// Real and imaginary parts of every product's sum, or their gradients.
    pub k: Vec<[Block; 2]>,
    /// The gradients times c and times s.
    scaled: Vec<[Block; 4]>,
}

impl Sums {
    pub fn new(modes: usize, products: usize) -> Self {
        let zeros = |len: usize| vec![0.0; len];
        Self {
            modes,
            modulus: zeros(modes),
            damping: zeros(modes),
            direct: zeros(products * modes),
            crossed: zeros(products * modes),
            by_direct: zeros(products * modes),
            by_crossed: zeros(products * modes),
            by_square: zeros(modes),
            by_damping: zeros(modes),
            basis: vec![[[0.0; WIDTH]; 4]; modes],
            k: vec![[[0.0; WIDTH]; 2]; products],
            scaled: vec![[[0.0; WIDTH]; 4]; products],
        }
    }

    /// Forgets the gradients of the last channel.
    pub fn clear_gradients(&mut self) {
        for gradients in [
            &mut self.by_direct,
            &mut self.by_crossed,
            &mut self.by_square,
            &mut self.by_damping,
        ] {
            gradients.fill(0.0);
        }
    }
}

/// Writes the sums of all products at the nodes with these sines and cosines of half angles.
pub(super) struct Forward<'a> {
    pub sums: &'a mut Sums,
    pub sine: &'a Block,
    pub cosine: &'a Block,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sums, sine, cosine } = self;
        fill_basis(sums, sine, cosine);
        let modes = sums.modes;
        for (p, k) in sums.k.iter_mut().enumerate() {
            let direct = &sums.direct[p * modes..(p + 1) * modes];
            let crossed = &sums.crossed[p * modes..(p + 1) * modes];
            let [re, im] = k;
            let re = S::as_mut_simd_f64s(re).0;
            let im = S::as_mut_simd_f64s(im).0;
            for first in (0..re.len()).step_by(2) {
                let pair = product::<S>(simd, &sums.basis, direct, crossed, first);
                for (v, (x, y)) in pair.into_iter().enumerate() {
                    re[first + v] = x;
                    im[first + v] = y;
                }
            }
        }
    }
}

/// Two vectors of Σ_n (i s a − c b) e, from the vector `first` of the block on.
#[inline(always)]
fn product<S: Simd>(
    simd: S,
    basis: &[[Block; 4]],
    direct: &[f64],
    crossed: &[f64],
    first: usize,
) -> [(S::f64s, S::f64s); 2] {
    let zero = simd.splat_f64s(0.0);
    // Two sums for each part, so that no addition waits for the one before.
    let (mut by_cosine, mut by_sine) = ([[zero; 2]; 2], [[zero; 2]; 2]);
    for ((basis, &a), &b) in basis.iter().zip(direct).zip(crossed) {
        let [cr, ci, sr, si] = basis;
        let (a, b) = (simd.splat_f64s(a), simd.splat_f64s(b));
        for v in 0..2 {
            let at = |block: &Block| S::as_simd_f64s(block).0[first + v];
            by_cosine[0][v] = mul_add_f64(simd, b, at(cr), by_cosine[0][v]);
            by_cosine[1][v] = mul_add_f64(simd, b, at(ci), by_cosine[1][v]);
            by_sine[0][v] = mul_add_f64(simd, a, at(sr), by_sine[0][v]);
            by_sine[1][v] = mul_add_f64(simd, a, at(si), by_sine[1][v]);
        }
    }
    let mut sums = [(zero, zero); 2];
    for v in 0..2 {
        let re = simd.neg_f64s(simd.add_f64s(by_cosine[0][v], by_sine[1][v]));
        sums[v] = (re, simd.sub_f64s(by_sine[0][v], by_cosine[1][v]));
    }
    sums
}

/// c e and s e of every mode, e = 1/D for D = (c|μ| − s)(c|μ| + s) − 2isc Re μ.
#[inline(always)]
fn fill_basis(sums: &mut Sums, sine: &Block, cosine: &Block) {
    let modes = sums.modulus.iter().zip(&sums.damping);
    for (basis, (&modulus, &damping)) in sums.basis.iter_mut().zip(modes) {
        for i in 0..WIDTH {
            let (s, c) = (sine[i], cosine[i]);
            let re = (c * modulus - s) * (c * modulus + s);
            let im = -2.0 * s * c * damping;
            let inverse = 1.0 / (re * re + im * im);
            let (e_re, e_im) = (re * inverse, -im * inverse);
            basis[0][i] = c * e_re;
            basis[1][i] = c * e_im;
            basis[2][i] = s * e_re;
            basis[3][i] = s * e_im;
        }
    }
}

/// Adds the gradients by all products and modes, of those by the sums in `k`, at a block whose basis is in place.
pub(super) struct Backward<'a> {
    pub sums: &'a mut Sums,
    pub sine: &'a Block,
    pub cosine: &'a Block,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sums, sine, cosine } = self;
        let modes = sums.modes;
        for (scaled, [re, im]) in sums.scaled.iter_mut().zip(&sums.k) {
            for i in 0..WIDTH {
                scaled[0][i] = cosine[i] * re[i];
                scaled[1][i] = cosine[i] * im[i];
                scaled[2][i] = sine[i] * re[i];
                scaled[3][i] = sine[i] * im[i];
            }
        }
        let mut by_e = [[0.0; WIDTH]; 2];
        for n in 0..modes {
            by_e.iter_mut().for_each(|block| block.fill(0.0));
            for p in 0..sums.k.len() {
                let index = p * modes + n;
                let weights = (sums.direct[index], sums.crossed[index]);
                let found = pull_product(
                    simd,
                    &sums.basis[n],
                    &sums.k[p],
                    &sums.scaled[p],
                    weights,
                    &mut by_e,
                );
                sums.by_direct[index] += found.0;
                sums.by_crossed[index] += found.1;
            }
            let found = pull_denominator(sums.modulus[n], sums.damping[n], sine, cosine, &by_e);
            sums.by_square[n] += found.0;
            sums.by_damping[n] += found.1;
        }
    }
}

/// The gradients by Re v and Re(v μ*) of one product and mode; adds those by e.
#[inline(always)]
fn pull_product<S: Simd>(
    simd: S,
    [cr, ci, sr, si]: &[Block; 4],
    [re, im]: &[Block; 2],
    [c_re, c_im, s_re, s_im]: &[Block; 4],
    (a, b): (f64, f64),
    [by_re, by_im]: &mut [Block; 2],
) -> (f64, f64) {
    let zero = simd.splat_f64s(0.0);
    let (a, b) = (simd.splat_f64s(a), simd.splat_f64s(b));
    let minus_b = simd.neg_f64s(b);
    let (mut plus, mut minus, mut crossed) = (zero, zero, [zero; 2]);
    let by_re = S::as_mut_simd_f64s(by_re).0;
    let by_im = S::as_mut_simd_f64s(by_im).0;
    for v in 0..by_re.len() {
        let at = |block: &Block| S::as_simd_f64s(block).0[v];
        // s (τ_i e_r − τ_r e_i), −c (τ_r e_r + τ_i e_i).
        plus = mul_add_f64(simd, at(im), at(sr), plus);
        minus = mul_add_f64(simd, at(re), at(si), minus);
        crossed[0] = mul_add_f64(simd, at(re), at(cr), crossed[0]);
        crossed[1] = mul_add_f64(simd, at(im), at(ci), crossed[1]);
        // −b c τ_r + a s τ_i, −a s τ_r − b c τ_i.
        by_re[v] = mul_add_f64(simd, minus_b, at(c_re), mul_add_f64(simd, a, at(s_im), by_re[v]));
        let turned = mul_add_f64(simd, a, at(s_re), simd.mul_f64s(b, at(c_im)));
        by_im[v] = simd.sub_f64s(by_im[v], turned);
    }
    (
        simd.reduce_sum_f64s(simd.sub_f64s(plus, minus)),
        -simd.reduce_sum_f64s(simd.add_f64s(crossed[0], crossed[1])),
    )
}

/// The gradients by |μ|² and Re μ of one mode, of those by e = 1/D.
#[inline(always)]
fn pull_denominator(
    modulus: f64,
    damping: f64,
    sine: &Block,
    cosine: &Block,
    [by_re, by_im]: &[Block; 2],
) -> (f64, f64) {
    let (mut by_square, mut by_damping) = ([0.0; WIDTH], [0.0; WIDTH]);
    for i in 0..WIDTH {
        let (s, c) = (sine[i], cosine[i]);
        let re = (c * modulus - s) * (c * modulus + s);
        let im = -2.0 * s * c * damping;
        let inverse = 1.0 / (re * re + im * im);
        let (e_re, e_im) = (re * inverse, -im * inverse);
        // −(e²)* ē.
        let (square_re, square_im) = (e_re * e_re - e_im * e_im, 2.0 * e_re * e_im);
        by_square[i] = -(square_re * by_re[i] + square_im * by_im[i]) * c * c;
        by_damping[i] = (square_re * by_im[i] - square_im * by_re[i]) * 2.0 * s * c;
    }
    (by_square.iter().sum(), by_damping.iter().sum())
}
