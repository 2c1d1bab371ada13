//! A mitigation: what is done to a model, as a value that can be written, compared, stored and applied.

use crate::calibrate::{Calibration, CalibrationError, Table};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use spillway_ssm_core::{Chain, Intervention};
use std::sync::Arc;
use thiserror::Error;

/// Interventions in the order in which they act; without any, the model as it is.
///
/// Written and read as text such as `rri:0.9999,0.75+window:8192` (see [`crate::text`]), also by serde; where something has
/// been calibrated, serde writes `{"mitigation": TEXT, "calibrated": [TABLE, ..]}` instead, so that it is not lost.
#[derive(Clone, Debug, Default)]
pub struct Mitigation {
    parts: Vec<Arc<dyn Part>>,
}

/// One intervention of a mitigation.
pub trait Part: Intervention {
    /// What the part acts on, which decides what it may be combined with.
    fn role(&self) -> Role;

    /// This part as a [`Calibratable`], for parts that have to be calibrated; `None` for others.
    fn calibratable(&self) -> Option<&dyn Calibratable> {
        None
    }
}

/// A part whose numbers per layer and head come from text inside the training length.
pub trait Calibratable {
    /// The numbers, once calibrated.
    fn table(&self) -> Option<&Table>;

    /// The numbers that a calibration gives.
    ///
    /// # Errors
    /// [`CalibrationError`] when it lacks what they are made from.
    fn derive(&self, calibration: &Calibration) -> Result<Table, CalibrationError>;

    /// The same part with the numbers of `table`.
    fn with_table(&self, table: Table) -> Arc<dyn Part>;
}

/// What a part acts on, for what may be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The gates that a layer computes for its recurrence.
    Gates,
    /// The norm of the state.
    Norm,
    /// Which tokens the state holds: the last ones.
    Window,
    /// Which tokens the state holds: those since a reset.
    Reset,
    /// Which tokens the state holds: those since a reset, and some from before it.
    ResetOverlap,
    /// The state before the first token.
    InitialState,
    /// The type in which the state is stored.
    Storage,
    /// The queries of attention layers.
    Attention,
}

/// Two parts of a chain that cannot work together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("mitigations \"{first}\" and \"{second}\" cannot be combined: {reason}")]
pub struct Conflict {
    /// Text form of the earlier part.
    pub first: String,
    /// Text form of the later part.
    pub second: String,
    /// The cause, and what to do.
    pub reason: &'static str,
}

impl Role {
    /// Why parts of this and of a later role cannot work together, if so.
    fn conflict(self, later: Self) -> Option<&'static str> {
        use Role::{Attention, Gates, InitialState, Norm, Reset, ResetOverlap, Storage, Window};
        match (self, later) {
            (Storage, Storage) => Some("a state is stored in one type; keep one of the two"),
            (Attention, Attention) => {
                Some("both make attention sharper with the position; keep one of the two")
            }
            (Gates | Storage | Attention, _) | (_, Gates | Storage | Attention) | (Reset, Reset) => None,
            (Norm, Reset | ResetOverlap) | (Reset | ResetOverlap, Norm) => None,
            (InitialState, Norm | Reset | ResetOverlap) | (Norm | Reset | ResetOverlap, InitialState) => None,
            (InitialState, InitialState) => Some("there is one initial state; keep one of the two"),
            (InitialState, Window) | (Window, InitialState) => {
                Some("no token wrote the initial state, so no window would ever drop it; choose one")
            }
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
    /// The parts in the order in which they act. What stores states is moved to the end, and state normalisation behind it: they
    /// act on every state that the innermost recurrence leaves, bound it and then store it, wherever they were written.
    ///
    /// # Errors
    /// [`Conflict`] for two parts that cannot work together.
    pub fn new(mut parts: Vec<Arc<dyn Part>>) -> Result<Self, Conflict> {
        for (index, first) in parts.iter().enumerate() {
            for second in &parts[index + 1..] {
                if let Some(reason) = first.role().conflict(second.role()) {
                    return Err(Conflict {
                        first: first.text(),
                        second: second.text(),
                        reason,
                    });
                }
            }
        }
        parts.sort_by_key(|part| match part.role() {
            Role::Norm => 2,
            Role::Storage => 1,
            _ => 0,
        });
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
    pub fn parts(&self) -> &[Arc<dyn Part>] {
        &self.parts
    }

    /// What a model's layers take.
    pub fn chain(&self) -> Chain {
        let as_intervention = |part: &Arc<dyn Part>| -> Arc<dyn Intervention> { part.clone() };
        Chain::new(self.parts.iter().map(as_intervention).collect())
    }

    /// Whether something has to be calibrated before this can be used.
    pub fn needs_calibration(&self) -> bool {
        let mut calibratable = self.parts.iter().filter_map(|part| part.calibratable());
        calibratable.any(|part| part.table().is_none())
    }

    /// Whether some part has numbers that were calibrated, which its text does not say.
    pub fn is_calibrated(&self) -> bool {
        let mut calibratable = self.parts.iter().filter_map(|part| part.calibratable());
        calibratable.any(|part| part.table().is_some())
    }

    /// This mitigation with the numbers that `calibration` gives to each part that wants some, replacing earlier ones; a
    /// mitigation that wants none is given back as it is.
    ///
    /// # Errors
    /// [`CalibrationError`] when the calibration lacks something.
    pub fn calibrated(&self, calibration: &Calibration) -> Result<Self, CalibrationError> {
        self.with_tables(|part| part.derive(calibration).map(Some))
    }

    fn with_tables<E>(
        &self,
        mut table: impl FnMut(&dyn Calibratable) -> Result<Option<Table>, E>,
    ) -> Result<Self, E> {
        let mut parts = self.parts.clone();
        for part in &mut parts {
            let calibrated = match part.calibratable() {
                Some(calibratable) => table(calibratable)?.map(|table| calibratable.with_table(table)),
                None => None,
            };
            if let Some(calibrated) = calibrated {
                *part = calibrated;
            }
        }
        Ok(Self { parts })
    }

    fn tables(&self) -> Vec<Table> {
        let calibratable = self.parts.iter().filter_map(|part| part.calibratable());
        calibratable.filter_map(|part| part.table().cloned()).collect()
    }

    fn stored(&self) -> Stored {
        match self.tables() {
            tables if tables.is_empty() => Stored::Text(self.to_string()),
            calibrated => Stored::Calibrated {
                mitigation: self.to_string(),
                calibrated,
            },
        }
    }
}

/// Whether the two are written alike and calibrated alike.
impl PartialEq for Mitigation {
    fn eq(&self, other: &Self) -> bool {
        self.stored() == other.stored()
    }
}

/// What serde reads and writes.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Calibrated {
        mitigation: String,
        /// Tables of calibrated numbers, one for each part that takes one, in the order of the parts.
        calibrated: Vec<Table>,
    },
}

impl Serialize for Mitigation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.stored().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mitigation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Stored::deserialize(deserializer)? {
            Stored::Text(text) => text.parse().map_err(D::Error::custom),
            Stored::Calibrated {
                mitigation,
                calibrated,
            } => {
                let mitigation: Self = mitigation.parse().map_err(D::Error::custom)?;
                let (found, mut tables) = (calibrated.len(), calibrated.into_iter());
                let calibrated = mitigation.with_tables(|_| tables.next().map(Some).ok_or(()));
                match (calibrated, tables.next()) {
                    (Ok(calibrated), None) => Ok(calibrated),
                    _ => Err(D::Error::custom(format!(
                        "mitigation \"{mitigation}\": expected one table for each part that is calibrated, found {found}"
                    ))),
                }
            }
        }
    }
}
