//! What a model does inside its training length, per layer and head: the record that calibrated mitigations take their
//! numbers from.
//!
//! An [`Observer`](crate::Observer) is put into a model's chain, text is read from an empty state up to the training length in calls of a few
//! tokens, and [`Observer::calibration`](crate::Observer::calibration) sums up:
//!
//! | statistic | of | for |
//! |---|---|---|
//! | quantile of ‖hₜ‖ over the samples, one after every call | a head | `state-norm:auto` |
//! | √mean of ‖h_T‖² over the segments' last samples | a head | `fitted-noise` |
//! | mean of −log aₜ, of the key row that forgets most slowly | a head | `cap-mean`, `delta-filter` |
//! | distribution of the step sizes Δₜ | a head | `delta-filter` |
//! | distribution of ‖Δₜ‖₂ over the heads | a recurrence | `decimate` |
//!
//! Calibrate on text that is not the text of the evaluation, with the plain model, that is, with nothing but the observer in
//! the chain. Norms fluctuate: short calls miss fewer maxima.

use crate::histogram::Histogram;
use serde::{Deserialize, Serialize};
use spillway_ssm_core::{Incompatible, Intervention, Site};
use std::collections::BTreeMap;
use thiserror::Error;

/// Why a calibration, or numbers from it, cannot be had.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum CalibrationError {
    /// No state was recorded.
    #[error("no calibration without recorded states: read text with the observer in the model's chain first")]
    Empty,
    /// A number is infinite, not a number, or negative.
    #[error("layer {layer}, head {head}: expected a finite number of at least 0, found {found}")]
    NotFinite {
        /// Index of the layer.
        layer: usize,
        /// Index of the head.
        head: usize,
        /// The number that was found.
        found: f32,
    },
    /// The quantile is no share.
    #[error("quantile: expected a number from 0 to 1, found {0}")]
    Quantile(f64),
}

/// What was observed of a model inside its training length, by recurrence and head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Tokens of the longest segment: the training length, where the text went so far.
    pub tokens: u64,
    /// Every recurrence, by layer and first head.
    pub sites: Vec<SiteStatistics>,
}

/// What was observed in one recurrence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteStatistics {
    /// Index of the layer.
    pub layer: usize,
    /// Heads of the layer's earlier recurrences.
    pub first_head: usize,
    /// Statistics of every head of the recurrence, in order.
    pub heads: Vec<HeadStatistics>,
    /// √Σ_heads Δₜ² of every token; empty in a layer without step size.
    pub step_norms: Histogram,
}

/// What was observed in one head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadStatistics {
    /// The quantile of ‖h‖ that was asked for.
    pub norm: f32,
    /// Root mean square of ‖h‖ at the segments' ends.
    pub final_norm: f32,
    /// Mean of −log a per token, of the key row where it is least: 1 / the head's memory length.
    pub forgetting: f32,
    /// Δ of every token; empty in a layer without step size.
    pub step_sizes: Histogram,
}

impl Calibration {
    /// A table of one number per head.
    ///
    /// # Errors
    /// [`CalibrationError::NotFinite`].
    pub fn table(
        &self,
        number: impl Fn(&SiteStatistics, &HeadStatistics) -> f32,
    ) -> Result<Table, CalibrationError> {
        Table::new(self.sites.iter().map(|site| Row {
            layer: site.layer,
            first_head: site.first_head,
            values: site.heads.iter().map(|head| number(site, head)).collect(),
        }))
    }
}

/// A finite number of at least 0 for every head of every recurrence of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Row>", into = "Vec<Row>")]
pub struct Table(BTreeMap<(usize, usize), Vec<f32>>);

/// The numbers of one recurrence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Index of the layer.
    pub layer: usize,
    /// Heads of the layer's earlier recurrences.
    pub first_head: usize,
    /// One number per head of the recurrence.
    pub values: Vec<f32>,
}

impl Table {
    /// A table of these rows; of two for the same recurrence, the later one.
    ///
    /// # Errors
    /// [`CalibrationError::NotFinite`].
    pub fn new(rows: impl IntoIterator<Item = Row>) -> Result<Self, CalibrationError> {
        let mut table = BTreeMap::new();
        for row in rows {
            let wrong = |number: &f32| !(number.is_finite() && *number >= 0.0);
            if let Some(head) = row.values.iter().position(wrong) {
                return Err(CalibrationError::NotFinite {
                    layer: row.layer,
                    head: row.first_head + head,
                    found: row.values[head],
                });
            }
            table.insert((row.layer, row.first_head), row.values);
        }
        Ok(Self(table))
    }

    /// The numbers of a recurrence, one per head; `None` when the table is of another model.
    pub fn of(&self, site: &Site) -> Option<&[f32]> {
        let values = self.0.get(&(site.layer, site.first_head))?;
        (values.len() == site.heads).then_some(values.as_slice())
    }
}

/// The numbers that `part` needs at `site`.
pub(crate) fn numbers<'a>(
    part: &dyn Intervention,
    table: Option<&'a Table>,
    site: &Site,
) -> Result<&'a [f32], Incompatible> {
    let incompatible = |reason: &str| Incompatible {
        intervention: part.text(),
        layer: site.layer,
        reason: reason.into(),
    };
    let table = table.ok_or_else(|| {
        incompatible("its numbers are not known yet: calibrate it on text inside the training length")
    })?;
    table.of(site).ok_or_else(|| {
        incompatible(
            "it was calibrated for another model, whose layers and heads are others; calibrate it on this one",
        )
    })
}

impl TryFrom<Vec<Row>> for Table {
    type Error = CalibrationError;

    fn try_from(rows: Vec<Row>) -> Result<Self, CalibrationError> {
        Self::new(rows)
    }
}

impl From<Table> for Vec<Row> {
    fn from(table: Table) -> Self {
        let row = |((layer, first_head), values)| Row {
            layer,
            first_head,
            values,
        };
        table.0.into_iter().map(row).collect()
    }
}
