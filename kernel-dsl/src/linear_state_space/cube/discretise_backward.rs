//! Derivatives by Δ, Λ and B from those by Ā and B̄, by the rule that made Ā and B̄ of them.

use cubecl::prelude::*;

use super::operands::{UNITS, Variant, discretise, zeros};
use crate::cube::{Client, DeviceBuffer, Error, address_type, cubes};
use crate::linear_state_space::problem::Rule;

/// The derivatives by Λ, B and Δ of one mode, from those by Ā and B̄.
#[cube]
pub(super) fn pull_back(
    step: f32,
    rate: &Array<f32>,
    mode: &Array<f32>,
    by: &Array<f32>,
    #[comptime] rule: Rule,
) -> Array<f32> {
    let mut found = Array::<f32>::new(5usize);
    if comptime!(rule == Rule::Given) {
        #[unroll]
        for k in 0..4 {
            found[k] = by[k];
        }
        found[4] = 0.0f32;
    } else {
        // Derivatives: of Ā by z, of B̄ by B, of B̄ by z over B; then of B̄ by Δ over B.
        let mut slopes = zeros(8usize);
        if comptime!(rule == Rule::Bilinear) {
            let re = 1.0f32 - 0.5f32 * step * rate[0];
            let im = 0.5f32 * step * rate[1];
            let scale = 1.0f32 / (re * re + im * im);
            let inverse_re = scale * re;
            let inverse_im = scale * im;
            slopes[0] = inverse_re * inverse_re - inverse_im * inverse_im;
            slopes[1] = 2.0f32 * inverse_re * inverse_im;
            slopes[2] = step * inverse_re;
            slopes[3] = step * inverse_im;
            slopes[4] = 0.5f32 * step * slopes[0];
            slopes[5] = 0.5f32 * step * slopes[1];
            slopes[6] = slopes[0];
            slopes[7] = slopes[1];
        } else {
            slopes[0] = mode[0] + 1.0f32;
            slopes[1] = mode[1];
            slopes[2] = step;
            slopes[6] = 1.0f32;
            if comptime!(rule == Rule::ZeroOrderHold) {
                slopes[6] = slopes[0];
                slopes[7] = slopes[1];
                held(step, rate, mode, &mut slopes);
            }
        }
        // By Λ: Δ times the derivatives by z.
        let of_a_re = slopes[0] * by[0] + slopes[1] * by[1];
        let of_a_im = slopes[0] * by[1] - slopes[1] * by[0];
        let z_re = slopes[4] * rate[2] - slopes[5] * rate[3];
        let z_im = slopes[4] * rate[3] + slopes[5] * rate[2];
        found[0] = step * (of_a_re + z_re * by[2] + z_im * by[3]);
        found[1] = step * (of_a_im + z_re * by[3] - z_im * by[2]);
        found[2] = slopes[2] * by[2] + slopes[3] * by[3];
        found[3] = slopes[2] * by[3] - slopes[3] * by[2];
        let step_re = slopes[6] * rate[2] - slopes[7] * rate[3];
        let step_im = slopes[6] * rate[3] + slopes[7] * rate[2];
        found[4] = rate[0] * of_a_re + rate[1] * of_a_im + step_re * by[2] + step_im * by[3];
    }
    found
}

/// (e^z − 1) / z times Δ, and its derivative by z: near 0 by its series Σ k z^{k−1} / (k + 1)!.
#[cube]
fn held(step: f32, rate: &Array<f32>, mode: &Array<f32>, slopes: &mut Array<f32>) {
    let re = step * rate[0];
    let im = step * rate[1];
    let square = re * re + im * im;
    let mut mean_re = 1.0f32;
    let mut mean_im = 0.0f32;
    if square > 0.0f32 {
        mean_re = (mode[0] * re + mode[1] * im) / square;
        mean_im = (mode[1] * re - mode[0] * im) / square;
    }
    slopes[2] = step * mean_re;
    slopes[3] = step * mean_im;
    if square >= 0.5f32 {
        // (e^z − mean) / z.
        let up_re = mode[0] + 1.0f32 - mean_re;
        let up_im = mode[1] - mean_im;
        slopes[4] = step * (up_re * re + up_im * im) / square;
        slopes[5] = step * (up_im * re - up_re * im) / square;
    } else {
        let mut sum_re = 2.505_210_8e-7f32;
        let mut sum_im = 0.0f32;
        #[unroll]
        for k in 0..9u32 {
            let coefficient = comptime!(series_coefficient(9 - k));
            let next_re = sum_re * re - sum_im * im + coefficient;
            sum_im = sum_re * im + sum_im * re;
            sum_re = next_re;
        }
        slopes[4] = step * sum_re;
        slopes[5] = step * sum_im;
    }
}

/// k / (k + 1)!.
fn series_coefficient(k: u32) -> f32 {
    let factorial: f64 = (1..=k + 1).map(f64::from).product();
    (f64::from(k) / factorial) as f32
}

/// Derivatives by Δ, Λ and B of every channel and mode from those by Ā and B̄; where tokens have step sizes, they are those already.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn pull_back_kernel(
    by_modes: &[f32],
    a: &[f32],
    b: &[f32],
    step_size: &[f32],
    by_a: &mut [f32],
    by_b: &mut [f32],
    by_step: &mut [f32],
    state_dim: usize,
    copies: usize,
    total: usize,
    #[comptime] variant: Variant,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let channel = ABSOLUTE_POS / state_dim;
    let at = 2 * (channel % copies * state_dim + ABSOLUTE_POS % state_dim);
    let mut by = Array::<f32>::new(4usize);
    #[unroll]
    for k in 0..4 {
        by[k] = by_modes[4 * ABSOLUTE_POS + k];
    }
    by_step[ABSOLUTE_POS] = 0.0f32;
    if comptime!(!variant.token_steps) {
        let mut step = 1.0f32;
        if comptime!(variant.rule != Rule::Given) {
            step = step_size[channel];
        }
        let mut rate = Array::<f32>::new(4usize);
        rate[0] = a[at];
        rate[1] = a[at + 1];
        rate[2] = b[at];
        rate[3] = b[at + 1];
        let mode = discretise(step, rate[0], rate[1], rate[2], rate[3], variant.rule);
        let found = pull_back(step, &rate, &mode, &by, variant.rule);
        #[unroll]
        for k in 0..4 {
            by[k] = found[k];
        }
        by_step[ABSOLUTE_POS] = found[4];
    }
    by_a[2 * ABSOLUTE_POS] = by[0];
    by_a[2 * ABSOLUTE_POS + 1] = by[1];
    by_b[2 * ABSOLUTE_POS] = by[2];
    by_b[2 * ABSOLUTE_POS + 1] = by[3];
}

/// `out[h] = Σ_n values[h, n]`.
pub(super) fn sum_modes(
    client: &Client,
    values: &DeviceBuffer,
    out: &DeviceBuffer,
    state_dim: usize,
) -> Result<(), Error> {
    if out.is_empty() {
        return Ok(());
    }
    sum_modes_kernel::launch(
        client,
        cubes(client, out.len().div_ceil(UNITS))?,
        CubeDim::new_1d(UNITS as u32),
        address_type(client, values.len().max(out.len()))?,
        values.arg(),
        out.arg(),
        state_dim,
        out.len(),
    );
    Ok(())
}

#[cube(launch, address_type = "dynamic")]
fn sum_modes_kernel(values: &[f32], out: &mut [f32], state_dim: usize, total: usize) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let mut sum = 0.0f32;
    for n in 0..state_dim {
        sum += values[ABSOLUTE_POS * state_dim + n];
    }
    out[ABSOLUTE_POS] = sum;
}
