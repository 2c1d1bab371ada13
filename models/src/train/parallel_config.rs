//! The options of trainings on several ranks.

use serde::{Deserialize, Serialize};

use super::error::TrainError;

/// What the ranks of a training share. By default it is the sequences of every batch.
///
/// ```
/// use spillway_models::train::ParallelConfig;
///
/// let config: ParallelConfig = toml::from_str(r#"
///     sequence = true
///     stretch = 4096
///     recompute = true
/// "#)?;
/// assert_eq!(config.stretch, Some(4096));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelConfig {
    /// Whether every sequence is cut into stretches that are dealt out to the ranks, so that a sequence may be longer than what one
    /// process has memory for. In one process the stretches follow one another. Gradients reach back to the beginning of the sequence
    /// either way.
    pub sequence: bool,
    /// Tokens that a stretch has at most. By default there is one stretch for each rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stretch: Option<usize>,
    /// Whether a rank keeps what every layer of its stretches was given, and runs the layer again in the backward pass, instead of all
    /// that the backward pass of the layer needs: a forward pass more, for the memory of one layer of one stretch.
    pub recompute: bool,
}

impl ParallelConfig {
    /// Whether nothing is asked for.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// [`TrainError::Field`] naming the first field that cannot be used.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        if self.stretch == Some(0) {
            return Err(TrainError::field("parallel.stretch", "at least 1 token", 0));
        }
        if !self.sequence {
            let beside = "none without parallel.sequence = true, which cuts sequences into stretches";
            return match (self.stretch, self.recompute) {
                (Some(tokens), _) => Err(TrainError::field("parallel.stretch", beside, tokens)),
                (None, true) => Err(TrainError::field("parallel.recompute", beside, true)),
                (None, false) => Ok(()),
            };
        }
        Ok(())
    }
}
