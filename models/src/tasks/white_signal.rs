//! White noise up to a frequency, and nothing above it.
//!
//! ```text
//! n = ⌈L/2⌉ + 1 coefficients c_k of a real Fourier transform, frequency k / (2 (n − 1) Δ)
//! c_k ~ (σ/√2) (N(0,1) + i N(0,1)),  σ = 0.5;   c_0 = c_{n−1} = 0;   c_k = 0 above the limit, a share z of all n
//! c ← c · √(2 (n − 1)) / √(1 − z);    u = irfft(c);    u ← u − u_0
//! ```
//!
//! Every part of the band has the same power, and the whole signal has power σ² before its first sample is taken off, whatever the
//! limit. Source: the white signal of the Nengo simulator (Bekolay et al., 2014), which Voelker et al. (*Legendre Memory Units*,
//! 2019) and Gu et al. (*How to Train Your HiPPO*, 2206.12037) measure delays with.

use std::f64::consts::TAU;

use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;

use super::error::TaskError;

/// σ, whose square is the power of the signal before its first sample is taken off.
const POWER: f64 = 0.5;

/// `length` samples of white noise up to `limit`, in cycles per sample, from 0 to ½. The first sample is 0.
pub fn white_signal(length: usize, limit: f64, rng: &mut StdRng) -> Vec<f32> {
    let count = length.div_ceil(2) + 1;
    let period = 2 * (count - 1);
    let mut coefficients = Vec::with_capacity(count);
    for index in 0..count {
        let [re, im]: [f64; 2] = [(); 2].map(|()| rng.sample(StandardNormal));
        let kept = index > 0 && index + 1 < count && index as f64 / period as f64 <= limit;
        coefficients.push(if kept { [re, im] } else { [0.0; 2] });
    }
    let above = (0..count).filter(|index| *index as f64 / period as f64 > limit);
    let share = above.count() as f64 / count as f64;
    // irfft divides by the period, and adds each coefficient and its conjugate.
    let scale = POWER / 2f64.sqrt() * 2.0 / ((period as f64) * (1.0 - share)).sqrt();
    let mut signal = vec![0.0; length];
    for (index, [re, im]) in coefficients.iter().enumerate() {
        if *re == 0.0 && *im == 0.0 {
            continue;
        }
        // e^(iωt) by multiplication: in f64 the error after a million steps is 1e-10.
        let (step_im, step_re) = (TAU * index as f64 / period as f64).sin_cos();
        let (mut at_re, mut at_im) = (1.0, 0.0);
        for value in &mut signal {
            *value += scale * (re * at_re - im * at_im);
            (at_re, at_im) = (
                at_re * step_re - at_im * step_im,
                at_re * step_im + at_im * step_re,
            );
        }
    }
    let first = signal.first().copied().unwrap_or(0.0);
    signal.iter().map(|value| (value - first) as f32).collect()
}

/// Refuses a limit that is no frequency.
pub(super) fn expect_limit(limit: f64, length: usize) -> Result<(), TaskError> {
    let least = 1.0 / length.max(1) as f64;
    match limit >= least && limit <= 0.5 {
        true => Ok(()),
        false => Err(TaskError::option(
            "limit",
            format!("{least} (1 / length) to 0.5 cycles per step"),
            limit,
        )),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// |Σ u_t e^(−iωt)|² / L at `cycles` per sample.
    fn power(signal: &[f32], cycles: f64) -> f64 {
        let (mut re, mut im) = (0.0, 0.0);
        for (time, value) in signal.iter().enumerate() {
            let (sin, cos) = (TAU * cycles * time as f64).sin_cos();
            re += f64::from(*value) * cos;
            im -= f64::from(*value) * sin;
        }
        (re * re + im * im) / signal.len() as f64
    }

    #[test]
    fn there_is_nothing_above_the_limit_and_the_power_does_not_depend_on_it() {
        for limit in [0.05, 0.1, 0.4] {
            let mut variance = 0.0;
            for seed in 0..40 {
                let signal = white_signal(512, limit, &mut StdRng::seed_from_u64(seed));
                assert_eq!(signal[0], 0.0);
                for bin in (512.0 * limit) as usize + 1..256 {
                    let power = power(&signal, bin as f64 / 512.0);
                    assert!(power < 1e-9, "limit {limit}, bin {bin}: {power}");
                }
                let mean = signal.iter().map(|v| f64::from(*v)).sum::<f64>() / 512.0;
                variance += signal.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 512.0 / 40.0;
            }
            // 0.25, less what the constant and the coefficient at half the sampling rate would have had.
            assert!(
                (variance - 0.25).abs() < 0.03,
                "limit {limit}: variance {variance}"
            );
        }
    }

    #[test]
    fn odd_and_short_signals_have_their_length() {
        for length in [0, 1, 2, 3, 7, 101] {
            let signal = white_signal(length, 0.5, &mut StdRng::seed_from_u64(1));
            assert_eq!(signal.len(), length);
            assert!(signal.iter().all(|value| value.is_finite()));
        }
    }
}
