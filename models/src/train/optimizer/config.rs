//! The options of the optimiser.

use serde::{Deserialize, Serialize};

use super::{GroupConfig, OptimizerError};
use crate::train::schedule::ScheduleConfig;

/// The largest gradient norm whose square is an f32: 2⁶⁴ − 2⁴⁰, the largest f32 below √(2¹²⁸).
pub(super) const NORM_LIMIT: f64 = 18_446_742_974_197_923_840.0;

/// AdamW and its learning rates.
///
/// Only the learning rate has to be given; β = (0.9, 0.95), ε = 1e-8, λ = 0.1, no clipping and a constant rate are what the other
/// fields are without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// η at its peak.
    pub learning_rate: f64,
    /// β₁ and β₂, how much of the moments stays from step to step.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// ε, added to the root of the second moment.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// λ, for the parameters that [decay](super::decays).
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// The largest norm of all gradients together; they are scaled down to it. Without it, they are taken as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Ends of the names of further parameters that do not decay, as whole parts: `embedding.weight`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_decay: Vec<String>,
    /// Parameters with an η or a λ of their own; each is of the first group that names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupConfig>,
    /// How η goes over the training.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.95]
}

fn default_eps() -> f64 {
    1e-8
}

fn default_weight_decay() -> f64 {
    0.1
}

impl OptimizerConfig {
    /// The defaults, with this learning rate.
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            betas: default_betas(),
            eps: default_eps(),
            weight_decay: default_weight_decay(),
            clip_norm: None,
            no_decay: Vec::new(),
            groups: Vec::new(),
            schedule: ScheduleConfig::default(),
        }
    }

    /// The learning rate of the step that comes after `step` of `steps`.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        self.schedule.rate(self.learning_rate, step, steps)
    }

    /// Checks every number, and the schedule for a training of `steps` steps.
    ///
    /// # Errors
    /// [`OptimizerError::Option`], naming the field.
    pub fn validate(&self, steps: u64) -> Result<(), OptimizerError> {
        let positive = |value: f64| value.is_finite() && value as f32 > 0.0;
        let check = |option, expected: &str, good: bool, found: f64| match good {
            true => Ok(()),
            false => Err(OptimizerError::option(option, expected, found)),
        };
        let rate = self.learning_rate;
        check("learning_rate", "a positive number", positive(rate), rate)?;
        for (option, beta) in [("betas[0]", self.betas[0]), ("betas[1]", self.betas[1])] {
            // As f32, in which the moments are computed.
            let good = (0.0..1.0).contains(&(beta as f32));
            check(option, "from 0 to below 1", good, beta)?;
        }
        check("eps", "a positive number", positive(self.eps), self.eps)?;
        let decay = self.weight_decay;
        let good = decay >= 0.0 && decay * rate < 1.0;
        check(
            "weight_decay",
            "at least 0, and below 1 / learning_rate",
            good,
            decay,
        )?;
        if let Some(norm) = self.clip_norm {
            let good = positive(norm) && norm <= NORM_LIMIT;
            check("clip_norm", "a positive number up to 1.8e19", good, norm)?;
        }
        let of_all = (self.learning_rate, self.weight_decay);
        self.groups.iter().try_for_each(|group| group.validate(of_all))?;
        self.schedule.validate(steps)
    }
}
