//! Learning rates over a training, as functions of the step and the number of steps.
//!
//! With s steps done, the first w steps rise in a straight line, rate = peak · (s + 1) / (w + 1), so that the peak is reached at
//! s = w. From there on
//!
//! ```text
//! rate = peak · ((1 − d) + f d)          f = final fraction,  d = share of the way down, from 0 to 1 at the last step
//! ```
//!
//! | schedule | d, with x the share of the steps since it began to fall |
//! |---|---|
//! | constant | 0 |
//! | linear | x |
//! | cosine | (1 − cos πx) / 2 |
//! | warm-up, stable, decay (WSD) | 0 until the last `decay_steps` steps, then x or √x |
//!
//! Sources: Loshchilov & Hutter, *SGDR* (1608.03983) for the cosine; Hu et al., *MiniCPM* (2404.06395) for WSD; Hägele et al.
//! (2405.18392) for the decay 1 − √x.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::optimizer::OptimizerError;

/// How the learning rate goes over a training. In TOML:
///
/// ```
/// use spillway_models::train::{DecayShape, ScheduleConfig};
///
/// let schedule: ScheduleConfig = toml::from_str(r#"
///     kind = "wsd"
///     warmup_steps = 1000
///     decay_steps = 50000
///     decay = "linear"
/// "#)?;
/// assert_eq!(schedule, ScheduleConfig::Wsd {
///     warmup_steps: 1000,
///     decay_steps: 50_000,
///     decay: DecayShape::Linear,
///     final_fraction: 0.0,
/// });
/// assert_eq!(schedule.rate(5e-4, 1000, 100_000), 5e-4);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// The peak, from the end of the warm-up on.
    Constant {
        /// Steps below the peak at the beginning.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// A straight line from the peak to the end.
    Linear {
        /// Steps below the peak at the beginning.
        #[serde(default)]
        warmup_steps: u64,
        /// Rate of the last step, as a fraction of the peak.
        #[serde(default)]
        final_fraction: f64,
    },
    /// Half a cosine from the peak to the end.
    Cosine {
        /// Steps below the peak at the beginning.
        #[serde(default)]
        warmup_steps: u64,
        /// Rate of the last step, as a fraction of the peak.
        #[serde(default)]
        final_fraction: f64,
    },
    /// Warm-up, stable, decay: the peak, until the last steps fall.
    Wsd {
        /// Steps below the peak at the beginning.
        #[serde(default)]
        warmup_steps: u64,
        /// Steps below the peak at the end.
        decay_steps: u64,
        /// How the rate falls over the last steps.
        #[serde(default)]
        decay: DecayShape,
        /// Rate of the last step, as a fraction of the peak.
        #[serde(default)]
        final_fraction: f64,
    },
}

/// How the rate of WSD falls, with x the share of its last steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecayShape {
    /// In a straight line, 1 − x.
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// As 1 − √x: fast at first.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl Default for ScheduleConfig {
    /// The peak from the first step to the last, without warm-up.
    fn default() -> Self {
        Self::Constant { warmup_steps: 0 }
    }
}

impl ScheduleConfig {
    /// The learning rate of the step that comes after `step` steps, of `steps` altogether. The last step and whatever would come
    /// after it have the final rate.
    pub fn rate(&self, peak: f64, step: u64, steps: u64) -> f64 {
        let warmup = self.warmup_steps();
        if step < warmup {
            return peak * (step as f64 + 1.0) / (warmup as f64 + 1.0);
        }
        let last = steps.saturating_sub(1);
        let down = match self {
            Self::Constant { .. } => 0.0,
            Self::Linear { .. } => share(step, warmup, last),
            Self::Cosine { .. } => (1.0 - (PI * share(step, warmup, last)).cos()) / 2.0,
            Self::Wsd {
                decay_steps, decay, ..
            } => {
                let begin = last.saturating_sub(*decay_steps).max(warmup);
                let x = share(step, begin, last);
                match decay {
                    DecayShape::Linear => x,
                    DecayShape::OneMinusSqrt => x.sqrt(),
                }
            }
        };
        peak * ((1.0 - down) + self.final_fraction() * down)
    }

    /// Steps below the peak at the beginning.
    pub fn warmup_steps(&self) -> u64 {
        match self {
            Self::Constant { warmup_steps }
            | Self::Linear { warmup_steps, .. }
            | Self::Cosine { warmup_steps, .. }
            | Self::Wsd { warmup_steps, .. } => *warmup_steps,
        }
    }

    /// Rate of the last step, as a fraction of the peak.
    fn final_fraction(&self) -> f64 {
        match self {
            Self::Constant { .. } => 1.0,
            Self::Linear { final_fraction, .. }
            | Self::Cosine { final_fraction, .. }
            | Self::Wsd { final_fraction, .. } => *final_fraction,
        }
    }

    /// Checks that a training of `steps` steps can follow this schedule.
    ///
    /// # Errors
    /// [`OptimizerError::Option`] for no steps, a warm-up or decay that does not fit into them, and a final fraction outside
    /// 0 to 1.
    pub fn validate(&self, steps: u64) -> Result<(), OptimizerError> {
        let Some(last) = steps.checked_sub(1) else {
            return Err(OptimizerError::option("steps", "at least 1", steps));
        };
        let fraction = self.final_fraction();
        if !(0.0..=1.0).contains(&fraction) {
            return Err(OptimizerError::option(
                "schedule.final_fraction",
                "a number from 0 to 1",
                fraction,
            ));
        }
        let warmup = self.warmup_steps();
        if warmup > last {
            return Err(OptimizerError::option(
                "schedule.warmup_steps",
                format!("at most {last}, as there are {steps} steps"),
                warmup,
            ));
        }
        match self {
            Self::Wsd { decay_steps, .. } if !(1..=last - warmup).contains(decay_steps) => {
                let expected = format!(
                    "from 1 to {}, as {warmup} of {steps} steps are warm-up and one has the peak",
                    last - warmup
                );
                Err(OptimizerError::option(
                    "schedule.decay_steps",
                    expected,
                    decay_steps,
                ))
            }
            _ => Ok(()),
        }
    }
}

/// How far `step` is on the way from `begin` to `end`, from 0 to 1; 0 where there is no way.
fn share(step: u64, begin: u64, end: u64) -> f64 {
    match end.checked_sub(begin) {
        None | Some(0) => 0.0,
        Some(way) => step.saturating_sub(begin).min(way) as f64 / way as f64,
    }
}
