//! The options of carrying.

use serde::{Deserialize, Serialize};

use crate::error::ModelError;

/// How sequences start, and how far gradients reach. The default is training as usual: every sequence by itself, in one piece.
///
/// ```
/// use spillway_models::train::carry::{Backpropagation, CarryConfig, Initial};
///
/// let config: CarryConfig = toml::from_str(r#"
///     carry = true
///     segment = 512
///     backpropagation = "truncated"
///     reset_probability = 0.1
/// "#)?;
/// assert_eq!(config.backpropagation, Backpropagation::Truncated);
/// assert_eq!(config.initial, Initial::Zero);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CarryConfig {
    /// Whether a sequence starts from the final state of the same row of the batch before.
    pub carry: bool,
    /// Whether a row starts anew where it does not go on with the text of the batch before.
    pub restart_documents: bool,
    /// Tokens that go through the model at a time; the whole sequence by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<usize>,
    /// Whether gradients go through the states between the segments of a batch.
    pub backpropagation: Backpropagation,
    /// The probability, for every sequence of every batch, to start from the empty state whatever else is configured.
    pub reset_probability: f64,
    /// What a sequence starts from that takes up no state.
    pub initial: Initial,
}

/// How far gradients reach within a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backpropagation {
    /// Gradients reach back to the beginning of the sequence.
    #[default]
    Full,
    /// Gradients reach back to the beginning of the segment.
    Truncated,
}

/// What a sequence starts from that takes up no state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Initial {
    /// The empty state, as if nothing had been read.
    #[default]
    Zero,
    /// Values around 0. For a weighted mean (RWKV-4): a mean around 0 of the weight of one token with key 0.
    Noise {
        /// Standard deviation of the noise.
        deviation: f64,
    },
    /// Values with the mean and the deviation that final states had, head by head; the empty state until there has been one.
    Fitted {
        /// What remains of mean and deviation after every batch, when the newest come in.
        #[serde(default = "usual_momentum")]
        momentum: f64,
    },
}

fn usual_momentum() -> f64 {
    0.9
}

impl CarryConfig {
    /// # Errors
    /// [`ModelError::Option`] naming the first number that is out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        let expect = |holds: bool, option, expected, found: f64| match holds {
            true => Ok(()),
            false => Err(ModelError::Option {
                option,
                expected,
                found: found.to_string(),
            }),
        };
        expect(self.segment != Some(0), "carry.segment", "at least 1 token", 0.0)?;
        let p = self.reset_probability;
        let probability = (0.0..=1.0).contains(&p);
        expect(probability, "carry.reset_probability", "a number from 0 to 1", p)?;
        match self.initial {
            Initial::Zero => Ok(()),
            Initial::Noise { deviation } => expect(
                deviation.is_finite() && deviation >= 0.0,
                "carry.initial.deviation",
                "0 or a positive number",
                deviation,
            ),
            Initial::Fitted { momentum } => expect(
                (0.0..1.0).contains(&momentum),
                "carry.initial.momentum",
                "a number from 0 to below 1",
                momentum,
            ),
        }
    }
}
