//! A mitigation: what is done to a model, as a value that can be written, compared, stored and applied.

use crate::calibrate::Thresholds;
use crate::delta_scale::DeltaScale;
use crate::forget_and_remember::{Forget, ReducedRetentionAndInsertion, Remember};
use crate::reset::{Reset, ResetOverlap};
use crate::state_norm::{StateNorm, Threshold};
use crate::window_by_difference::WindowByDifference;
use crate::window_exact::WindowExact;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use ssm_core::{Chain, Intervention};
use std::sync::Arc;
use thiserror::Error;

/// Interventions in the order in which they act; without any, the model as it is.
///
/// Written and read as text such as `rri:0.9999,0.75+window:8192` (see [`crate::text`]), also by serde; where thresholds have
/// been calibrated, serde writes `{"mitigation": TEXT, "thresholds": [[..], ..]}` instead, so that they are not lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mitigation {
    parts: Vec<Part>,
}

/// One intervention of a mitigation.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// `forget:C`.
    Forget(Forget),
    /// `remember:C`.
    Remember(Remember),
    /// `rri:C,C`.
    ReducedRetentionAndInsertion(ReducedRetentionAndInsertion),
    /// `delta-scale:S`.
    DeltaScale(DeltaScale),
    /// `state-norm:P`.
    StateNorm(StateNorm),
    /// `window:R`.
    WindowByDifference(WindowByDifference),
    /// `window-exact:R`.
    WindowExact(WindowExact),
    /// `reset:N`.
    Reset(Reset),
    /// `reset-overlap:N,M`.
    ResetOverlap(ResetOverlap),
}

/// Two parts of a chain that cannot work together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("mitigations \"{first}\" and \"{second}\" cannot be combined: {reason}")]
pub struct Conflict {
    /// The earlier part.
    pub first: String,
    /// The later part.
    pub second: String,
    /// The cause, and what to do.
    pub reason: &'static str,
}

/// Thresholds were given to a mitigation that has no use for them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("mitigation \"{mitigation}\" takes no calibrated thresholds: expected a state-norm:auto in it")]
pub struct NothingToCalibrate {
    /// The mitigation's text form.
    pub mitigation: String,
}

/// What a part does to the recurrence, for what may be combined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Gates,
    Norm,
    Window,
    Reset,
    ResetOverlap,
}

impl Part {
    /// As the recurrence's chain takes it.
    pub fn intervention(&self) -> Arc<dyn Intervention> {
        match self {
            Self::Forget(part) => Arc::new(*part),
            Self::Remember(part) => Arc::new(*part),
            Self::ReducedRetentionAndInsertion(part) => Arc::new(*part),
            Self::DeltaScale(part) => Arc::new(*part),
            Self::StateNorm(part) => Arc::new(part.clone()),
            Self::WindowByDifference(part) => Arc::new(*part),
            Self::WindowExact(part) => Arc::new(*part),
            Self::Reset(part) => Arc::new(*part),
            Self::ResetOverlap(part) => Arc::new(*part),
        }
    }

    fn role(&self) -> Role {
        match self {
            Self::Forget(_)
            | Self::Remember(_)
            | Self::ReducedRetentionAndInsertion(_)
            | Self::DeltaScale(_) => Role::Gates,
            Self::StateNorm(_) => Role::Norm,
            Self::WindowByDifference(_) | Self::WindowExact(_) => Role::Window,
            Self::Reset(_) => Role::Reset,
            Self::ResetOverlap(_) => Role::ResetOverlap,
        }
    }

    /// Why this part and a later one cannot work together, if so.
    fn conflict(&self, later: &Self) -> Option<&'static str> {
        use Role::{Gates, Norm, Reset, ResetOverlap, Window};
        match (self.role(), later.role()) {
            (Gates, _) | (_, Gates) | (Reset, Reset) => None,
            (Norm, Reset | ResetOverlap) | (Reset | ResetOverlap, Norm) => None,
            (Norm, Norm) => Some("one bound on the state's norm is enough; keep the smaller"),
            (Window, Window) => Some("the shorter window alone decides; keep that one"),
            (Norm, Window) | (Window, Norm) => Some(
                "a clipped state is no sum of what tokens wrote, so no window can be cut out of it; choose one",
            ),
            (Window, Reset | ResetOverlap) | (Reset | ResetOverlap, Window) => Some(
                "both decide which tokens the state holds, and after a reset a window would drop what is gone; choose one",
            ),
            (Reset | ResetOverlap, ResetOverlap) | (ResetOverlap, Reset) => {
                Some("the state that takes over could not tell which reset it is for; choose one")
            }
        }
    }
}

impl Mitigation {
    /// The parts in the order in which they act. State normalisation is moved to the end: it acts on the innermost
    /// recurrence, and its place among the others changes no number.
    ///
    /// # Errors
    /// [`Conflict`] for two parts that cannot work together.
    pub fn new(mut parts: Vec<Part>) -> Result<Self, Conflict> {
        for (index, first) in parts.iter().enumerate() {
            for second in &parts[index + 1..] {
                if let Some(reason) = first.conflict(second) {
                    let (first, second) = (first.intervention().text(), second.intervention().text());
                    return Err(Conflict {
                        first,
                        second,
                        reason,
                    });
                }
            }
        }
        parts.sort_by_key(|part| part.role() == Role::Norm);
        Ok(Self { parts })
    }

    /// The model as it is.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether this changes nothing.
    pub fn is_none(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts, in the order in which they act.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What a model's layers take.
    pub fn chain(&self) -> Chain {
        Chain::new(self.parts.iter().map(Part::intervention).collect())
    }

    /// Whether thresholds have to be calibrated before this can be used.
    pub fn needs_calibration(&self) -> bool {
        let missing = |part: &Part| match part {
            Part::StateNorm(norm) => matches!(norm.threshold, Threshold::Calibrated { recorded: None, .. }),
            _ => false,
        };
        self.parts.iter().any(missing)
    }

    /// This mitigation with the thresholds of its `state-norm:auto`, replacing earlier ones.
    ///
    /// # Errors
    /// [`NothingToCalibrate`] when there is none.
    pub fn calibrated(&self, thresholds: &Thresholds) -> Result<Self, NothingToCalibrate> {
        let mut calibrated = self.clone();
        for part in &mut calibrated.parts {
            if let Part::StateNorm(StateNorm {
                threshold: Threshold::Calibrated { recorded, .. },
                ..
            }) = part
            {
                *recorded = Some(Arc::new(thresholds.clone()));
                return Ok(calibrated);
            }
        }
        Err(NothingToCalibrate {
            mitigation: self.to_string(),
        })
    }

    fn thresholds(&self) -> Option<&Thresholds> {
        self.parts.iter().find_map(|part| match part {
            Part::StateNorm(StateNorm {
                threshold: Threshold::Calibrated { recorded, .. },
                ..
            }) => recorded.as_deref(),
            _ => None,
        })
    }
}

/// What serde reads and writes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Calibrated {
        mitigation: String,
        thresholds: Thresholds,
    },
}

impl Serialize for Mitigation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.to_string();
        let stored = match self.thresholds() {
            None => Stored::Text(text),
            Some(thresholds) => Stored::Calibrated {
                mitigation: text,
                thresholds: thresholds.clone(),
            },
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mitigation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Stored::deserialize(deserializer)? {
            Stored::Text(text) => text.parse().map_err(D::Error::custom),
            Stored::Calibrated {
                mitigation,
                thresholds,
            } => {
                let mitigation: Self = mitigation.parse().map_err(D::Error::custom)?;
                mitigation.calibrated(&thresholds).map_err(D::Error::custom)
            }
        }
    }
}
