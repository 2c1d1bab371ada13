//! Sums of sinusoids or of chirps: signals in continuous time, which can be sampled at any rate.

use std::f64::consts::TAU;

use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::TaskError;

/// Random signals of time τ, of variance 1 in the mean over phases:
///
/// ```text
/// u(τ) = √(2/K) Σ_k sin(φ_k + 2π (f_k τ + ½ s_k τ²)),      f_k ~ U[lowest, highest],   φ_k ~ U[0, 2π)
/// ```
///
/// τ is counted in steps of the training's sampling rate, and step t of a sequence is at τ = `rate`·t: at rate 2 every other sample is
/// there. s_k = 0 for sinusoids; for chirps the frequency goes from f_k to another one of the same band over the sequence.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Waves {
    /// Number K of sinusoids, or chirps, in a signal.
    pub components: usize,
    /// Lowest frequency, in cycles per training step.
    pub lowest: f64,
    /// Highest frequency, in cycles per training step; at most ½ of a cycle per step at any rate.
    pub highest: f64,
    /// Whether the frequencies change over the sequence.
    pub chirps: bool,
    /// Standard deviation of the noise in what is read; what is answered has none.
    pub noise: f64,
    /// Training steps from one sample to the next.
    pub rate: f64,
}

impl Default for Waves {
    fn default() -> Self {
        Self {
            components: 3,
            lowest: 0.01,
            highest: 0.1,
            chirps: false,
            noise: 0.0,
            rate: 1.0,
        }
    }
}

/// One signal u(τ), drawn from [`Waves`].
pub(super) struct Wave {
    /// Phase, frequency and its slope.
    components: Vec<[f64; 3]>,
    rate: f64,
}

impl Waves {
    /// # Errors
    /// [`TaskError::Option`], naming what is out of range.
    pub(super) fn check(&self) -> Result<(), TaskError> {
        if self.components == 0 {
            return Err(TaskError::option("waves.components", "at least 1", 0));
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(TaskError::option("waves.rate", "a positive number", self.rate));
        }
        let highest = 0.5 / self.rate.max(1.0);
        if !(self.lowest >= 0.0 && self.lowest <= self.highest && self.highest <= highest) {
            let expected = format!("0 ≤ lowest ≤ highest ≤ {highest}, half a cycle per sample");
            let found = format!("{} and {}", self.lowest, self.highest);
            return Err(TaskError::option("waves.highest", expected, found));
        }
        if !(self.noise.is_finite() && self.noise >= 0.0) {
            return Err(TaskError::option("waves.noise", "a number from 0 on", self.noise));
        }
        Ok(())
    }

    /// A signal whose chirps take `length` samples.
    pub(super) fn draw(&self, length: usize, rng: &mut StdRng) -> Wave {
        let frequency = |rng: &mut StdRng| match self.lowest < self.highest {
            true => rng.random_range(self.lowest..self.highest),
            false => self.lowest,
        };
        let duration = length.max(1) as f64 * self.rate;
        let component = |_| {
            let (phase, from) = (rng.random_range(0.0..TAU), frequency(rng));
            let slope = match self.chirps {
                true => (frequency(rng) - from) / duration,
                false => 0.0,
            };
            [phase, from, slope]
        };
        Wave {
            components: (0..self.components).map(component).collect(),
            rate: self.rate,
        }
    }

    /// What is read of a signal: `length` samples with noise.
    pub(super) fn read(&self, wave: &Wave, length: usize, rng: &mut StdRng) -> Vec<f32> {
        let sample = |time: usize| {
            let noise: f64 = match self.noise > 0.0 {
                true => self.noise * rng.sample::<f64, _>(StandardNormal),
                false => 0.0,
            };
            (wave.at(time as f64 * self.rate) + noise) as f32
        };
        (0..length).map(sample).collect()
    }
}

impl Wave {
    /// The signal u(τ) at τ = `time`, in training steps.
    pub(super) fn at(&self, time: f64) -> f64 {
        let component = |[phase, frequency, slope]: &[f64; 3]| {
            // Whole cycles off first: τ may be long.
            let cycles = frequency * time + 0.5 * slope * time * time;
            (phase + TAU * (cycles - cycles.floor())).sin()
        };
        let sum: f64 = self.components.iter().map(component).sum();
        sum * (2.0 / self.components.len() as f64).sqrt()
    }

    /// u at the time of sample `step`, and `ahead` training steps later.
    pub(super) fn sample(&self, step: usize, ahead: f64) -> f32 {
        self.at(step as f64 * self.rate + ahead) as f32
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn another_rate_takes_other_samples_of_the_same_signal() {
        for chirps in [false, true] {
            let training = Waves {
                chirps,
                ..Waves::default()
            };
            let coarse = Waves {
                rate: 2.0,
                ..training.clone()
            };
            let rng = || StdRng::seed_from_u64(5);
            let (fine, coarse_wave) = (training.draw(64, &mut rng()), coarse.draw(32, &mut rng()));
            let (fine, coarse) = (
                training.read(&fine, 64, &mut rng()),
                coarse.read(&coarse_wave, 32, &mut rng()),
            );
            for step in 0..32 {
                assert!((fine[2 * step] - coarse[step]).abs() < 1e-5, "step {step}");
            }
        }
    }

    #[test]
    fn the_variance_is_1_and_frequencies_stay_in_their_band() {
        let waves = Waves {
            components: 2,
            lowest: 0.05,
            highest: 0.1,
            chirps: true,
            ..Waves::default()
        };
        let mut square = 0.0;
        for seed in 0..200 {
            let wave = waves.draw(100, &mut StdRng::seed_from_u64(seed));
            for [_, from, slope] in &wave.components {
                let to = from + slope * 100.0;
                assert!((0.05..=0.1).contains(from) && (0.0499..=0.1001).contains(&to));
            }
            square += (0..100).map(|t| wave.at(f64::from(t)).powi(2)).sum::<f64>() / 2e4;
        }
        assert!((square - 1.0).abs() < 0.1, "variance {square}");
        assert!(
            Waves {
                highest: 0.3,
                rate: 2.0,
                ..waves.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            Waves {
                components: 0,
                ..waves.clone()
            }
            .check()
            .is_err()
                && waves.check().is_ok()
        );
    }
}
