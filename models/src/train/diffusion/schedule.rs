//! The noise schedule: how much noise there is at every step, and what follows from it.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

use crate::train::error::TrainError;

/// How β grows from the first step to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseKind {
    /// Linearly, from 0.1/T to 20/T: 10⁻⁴ to 0.02 at T = 1000 (Ho et al.).
    #[default]
    Linear,
    /// So that ᾱ_t = cos²((t/T + 0.008)/1.008 · π/2), up to a constant (Nichol & Dhariwal).
    Cosine,
}

/// The most that β is.
const MOST: f64 = 0.999;

/// The noise of one step t of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Noise {
    /// What the network is told: the step of the schedule that this one was taken from, from 0.
    pub(super) time: f64,
    /// β_t, the variance of the noise that comes in at step t.
    pub(super) beta: f64,
    /// ᾱ_t, the product of 1 − β up to t.
    pub(super) kept: f64,
    /// ᾱ of the step before; 1 before the first.
    pub(super) kept_before: f64,
    /// ln β̃_t with β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t), the variance of x_{t−1} where x_0 is known; at the first step, where it is 0,
    /// that of the second.
    pub(super) log_posterior: f64,
}

impl Noise {
    /// The factors of x_0 and x_t in the mean of x_{t−1} where both are known.
    pub(super) fn posterior_mean(&self) -> [f64; 2] {
        let Self {
            beta,
            kept,
            kept_before,
            ..
        } = *self;
        [
            beta * kept_before.sqrt() / (1.0 - kept),
            (1.0 - kept_before) * (1.0 - beta).sqrt() / (1.0 - kept),
        ]
    }
}

/// The noise of every step, the first of which has the least.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    steps: Vec<Noise>,
}

impl NoiseSchedule {
    /// A schedule of `count` steps.
    ///
    /// # Errors
    /// [`TrainError::Field`] for fewer than 2.
    pub fn new(kind: NoiseKind, count: usize) -> Result<Self, TrainError> {
        if !(2..=1 << 20).contains(&count) {
            return Err(TrainError::field("noise_steps", "from 2 to 1048576", count));
        }
        let share = |t: usize| t as f64 / count as f64;
        let kept = |t: usize| ((share(t) + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        let beta = |t: usize| match kind {
            NoiseKind::Linear => {
                let (first, last) = (0.1 / count as f64, 20.0 / count as f64);
                first + (last - first) * t as f64 / (count - 1) as f64
            }
            NoiseKind::Cosine => 1.0 - kept(t + 1) / kept(t),
        };
        let mut product = 1.0;
        let all = (0..count).map(|t| {
            product *= 1.0 - beta(t).min(MOST);
            (t, product)
        });
        Ok(Self::of(&all.collect::<Vec<_>>()))
    }

    /// Every so many of its steps, as a schedule of `count` that the same network answers. The last step stays the last.
    ///
    /// # Errors
    /// [`TrainError::Field`] for fewer than 2, and for more than there are.
    pub fn spaced(&self, count: usize) -> Result<Self, TrainError> {
        let all = self.steps.len();
        if !(2..=all).contains(&count) {
            return Err(TrainError::field(
                "sampling steps",
                format!("from 2 to {all}"),
                count,
            ));
        }
        let chosen = (0..count).map(|i| {
            let t = (i * (all - 1) + (count - 1) / 2) / (count - 1);
            (t, self.steps[t].kept)
        });
        Ok(Self::of(&chosen.collect::<Vec<_>>()))
    }

    /// The steps at these times with these ᾱ.
    fn of(kept: &[(usize, f64)]) -> Self {
        let before = |i: usize| i.checked_sub(1).map_or(1.0, |i| kept[i].1);
        let step = |i: usize| {
            let (time, now) = kept[i];
            let beta = 1.0 - now / before(i);
            Noise {
                time: time as f64,
                beta,
                kept: now,
                kept_before: before(i),
                log_posterior: (beta * (1.0 - before(i)) / (1.0 - now)).ln(),
            }
        };
        let mut steps: Vec<Noise> = (0..kept.len()).map(step).collect();
        steps[0].log_posterior = steps[1].log_posterior;
        Self { steps }
    }

    /// Number T of steps in the schedule.
    pub fn count(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn step(&self, index: usize) -> &Noise {
        &self.steps[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn betas_are_those_of_the_papers_and_their_products_fall() {
        let linear = NoiseSchedule::new(NoiseKind::Linear, 1000).unwrap();
        assert!((linear.step(0).beta - 1e-4).abs() < 1e-15 && (linear.step(999).beta - 0.02).abs() < 1e-12);
        let cosine = NoiseSchedule::new(NoiseKind::Cosine, 1000).unwrap();
        let share = (0.5_f64 + 0.008) / 1.008;
        let start = (0.008_f64 / 1.008 * FRAC_PI_2).cos().powi(2);
        let half = (share * FRAC_PI_2).cos().powi(2) / start;
        assert!((cosine.step(499).kept - half).abs() < 1e-12);
        for schedule in [&linear, &cosine] {
            for t in 1..1000 {
                let (now, before) = (schedule.step(t), schedule.step(t - 1));
                assert!(now.kept < before.kept && now.kept_before == before.kept);
                assert!(now.log_posterior < now.beta.ln());
                let [of_image, of_noisy] = now.posterior_mean();
                // Without noise x_t = √ᾱ_t x_0 leads to √ᾱ_{t−1} x_0.
                let mean = of_image + of_noisy * now.kept.sqrt();
                assert!((mean - now.kept_before.sqrt()).abs() < 1e-9, "{t}: {mean}");
            }
        }
        assert!(linear.step(999).kept < 1e-4);
    }

    #[test]
    fn a_part_of_the_steps_keeps_their_products_and_both_ends() {
        let all = NoiseSchedule::new(NoiseKind::Linear, 100).unwrap();
        for count in [2, 7, 50, 100] {
            let some = all.spaced(count).unwrap();
            assert_eq!(some.count(), count);
            assert_eq!(some.step(0).kept, all.step(0).kept);
            assert_eq!(some.step(count - 1).kept, all.step(99).kept);
            let product: f64 = (0..count).map(|i| 1.0 - some.step(i).beta).product();
            assert!((product / all.step(99).kept - 1.0).abs() < 1e-9);
        }
        assert_eq!(all.spaced(100).unwrap().step(42).kept, all.step(42).kept);
        assert!(all.spaced(1).is_err() && all.spaced(101).is_err());
        assert!(NoiseSchedule::new(NoiseKind::Linear, 1).is_err());
    }
}
