//! Samples at another rate, by a windowed sinc.
//!
//! ```text
//! y_n = Σ_k h(n r/r′ − k) x_k / Σ_k h(n r/r′ − k)      h(t) = sinc(c t) cos²(π c t/(2 · 16)),  c = min(1, r′/r),  |c t| < 16
//! ```
//!
//! r is the rate at hand and r′ the one that is wanted. Frequencies that the new rate cannot have are taken off. Sums are in f64.

use std::f64::consts::PI;

/// Zeros of the sinc on either side.
const ZEROS: f64 = 16.0;

/// ⌈n r′/r⌉ samples at the rate `to` of n at the rate `from`, both above 0.
pub fn resampled(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to || samples.is_empty() {
        return samples.to_vec();
    }
    let step = f64::from(from) / f64::from(to);
    let cutoff = (1.0 / step).min(1.0);
    let reach = ZEROS / cutoff;
    let count = (samples.len() as u64 * u64::from(to)).div_ceil(u64::from(from));
    let at = |n: u64| {
        let place = n as f64 * step;
        let first = (place - reach).ceil().max(0.0) as usize;
        let last = ((place + reach).floor() as usize).min(samples.len() - 1);
        let (mut sum, mut weights) = (0.0, 0.0);
        // The last place may be beyond the last sample by less than a step.
        for (k, sample) in samples.iter().enumerate().take(last + 1).skip(first) {
            let weight = taper(cutoff * (place - k as f64));
            sum += weight * f64::from(*sample);
            weights += weight;
        }
        match weights {
            0.0 => 0.0,
            weights => (sum / weights) as f32,
        }
    };
    (0..count).map(at).collect()
}

/// h at c t.
fn taper(t: f64) -> f64 {
    if t.abs() >= ZEROS {
        return 0.0;
    }
    let sinc = match t {
        0.0 => 1.0,
        t => (PI * t).sin() / (PI * t),
    };
    sinc * (PI * t / (2.0 * ZEROS)).cos().powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(frequency: f64, rate: u32, count: usize) -> Vec<f32> {
        let at = |n: usize| (2.0 * PI * frequency * n as f64 / f64::from(rate)).sin() as f32;
        (0..count).map(at).collect()
    }

    /// The largest distance away from both ends.
    fn distance(found: &[f32], expected: &[f32]) -> f32 {
        let inner = 40..found.len() - 40;
        let pairs = found[inner.clone()].iter().zip(&expected[inner]);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_tone_is_the_same_tone_at_another_rate() {
        for (from, to) in [(16_000, 8_000), (8_000, 16_000), (44_100, 16_000)] {
            let found = resampled(&tone(440.0, from, 2 * from as usize / 10), from, to);
            assert_eq!(found.len(), 2 * to as usize / 10);
            let off = distance(&found, &tone(440.0, to, found.len()));
            assert!(off < 1e-4, "{from} to {to}: {off}");
        }
    }

    #[test]
    fn what_the_new_rate_cannot_have_is_taken_off() {
        let found = resampled(&tone(6_000.0, 16_000, 1600), 16_000, 8_000);
        let off = distance(&found, &vec![0.0; found.len()]);
        assert!(off < 3e-4, "{off}");
    }

    #[test]
    fn a_constant_stays_and_nothing_stays_nothing() {
        let found = resampled(&[0.25; 50], 3, 2);
        assert_eq!(found.len(), 34);
        assert!(found.iter().all(|sample| (sample - 0.25).abs() < 1e-6));
        assert!(resampled(&[], 3, 2).is_empty());
        assert_eq!(resampled(&[0.5, 1.0], 7, 7), [0.5, 1.0]);
    }
}
