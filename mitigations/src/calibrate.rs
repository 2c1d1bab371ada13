//! Thresholds for state normalisation, from norms that the states have inside the training length.
//!
//! ```text
//! p_{layer, head} = quantile of ‖h_t‖_F over the recorded t ≤ T_train
//! ```
//!
//! The quantile 1 is the largest recorded norm. Record on text that is not the text of the evaluation, from position 0 up to
//! the training length, after every few tokens: the norms fluctuate, and a sparse record misses their maximum.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use ssm_core::State;
use thiserror::Error;

/// The largest norms of the states of every head of every layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<f32>>", into = "Vec<Vec<f32>>")]
pub struct Thresholds(Vec<Vec<f32>>);

/// Why thresholds cannot be had.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum CalibrationError {
    /// No state was recorded.
    #[error("no thresholds without recorded states: observe the states inside the training length first")]
    Empty,
    /// The states of two observations belong to different models.
    #[error(
        "observation {observation}: expected states of {expected} layers like the first one's, found {found}"
    )]
    Layers {
        /// Which observation, from 0.
        observation: usize,
        /// Layers of the first observation.
        expected: usize,
        /// Layers of this one.
        found: usize,
    },
    /// Two observations of a layer have different numbers of heads.
    #[error("layer {layer}: expected a state of {expected} heads like the first one, found {found}")]
    Heads {
        /// Index of the layer.
        layer: usize,
        /// Heads of the first observation.
        expected: usize,
        /// Heads of this one.
        found: usize,
    },
    /// A norm is infinite, not a number, or negative.
    #[error("layer {layer}, head {head}: expected a finite norm of at least 0, found {found}")]
    NotFinite {
        /// Index of the layer.
        layer: usize,
        /// Index of the head.
        head: usize,
        /// The norm.
        found: f32,
    },
    /// The quantile is no share.
    #[error("quantile: expected a number from 0 to 1, found {0}")]
    Quantile(f64),
    /// The device did not give the norms back.
    #[error("the norms of layer {layer} cannot be read from the device: {reason}")]
    Unreadable {
        /// Index of the layer.
        layer: usize,
        /// What the device said.
        reason: String,
    },
}

impl Thresholds {
    /// Thresholds `[layer][head]`.
    ///
    /// # Errors
    /// [`CalibrationError::NotFinite`].
    pub fn new(layers: Vec<Vec<f32>>) -> Result<Self, CalibrationError> {
        for (layer, heads) in layers.iter().enumerate() {
            let wrong = |norm: &f32| !(norm.is_finite() && *norm >= 0.0);
            if let Some(head) = heads.iter().position(wrong) {
                return Err(CalibrationError::NotFinite {
                    layer,
                    head,
                    found: heads[head],
                });
            }
        }
        // A head that never held anything gets the smallest number instead of 0: 0/0 would be no number.
        let floor = |norm: f32| norm.max(f32::MIN_POSITIVE);
        Ok(Self(
            layers
                .into_iter()
                .map(|heads| heads.into_iter().map(floor).collect())
                .collect(),
        ))
    }

    /// The thresholds, `[layer][head]`.
    pub fn layers(&self) -> &[Vec<f32>] {
        &self.0
    }
}

impl TryFrom<Vec<Vec<f32>>> for Thresholds {
    type Error = CalibrationError;

    fn try_from(layers: Vec<Vec<f32>>) -> Result<Self, CalibrationError> {
        Self::new(layers)
    }
}

impl From<Thresholds> for Vec<Vec<f32>> {
    fn from(thresholds: Thresholds) -> Self {
        thresholds.0
    }
}

/// The norms recorded so far.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use mitigations::calibrate::Calibration;
/// use ssm_core::State;
///
/// // A model of one layer with two heads, observed at two positions.
/// let mut calibration = Calibration::default();
/// for size in [1.0, 3.0] {
///     let memory = Tensor::full([1, 2, 4, 4], size, &Device::flex());
///     calibration.observe([&State { memory, position: 1 }])?;
/// }
/// assert_eq!(calibration.thresholds(1.0)?.layers(), [vec![12.0, 12.0]]);
/// # Ok::<(), mitigations::calibrate::CalibrationError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// `[layer][head][record]`.
    norms: Vec<Vec<Vec<f32>>>,
    observations: usize,
}

impl Calibration {
    /// Records the norm of every head of every layer's state, batch rows as separate records.
    ///
    /// # Errors
    /// [`CalibrationError::Layers`] and [`CalibrationError::Heads`] when the states differ in shape from those of the first
    /// observation, [`CalibrationError::NotFinite`], [`CalibrationError::Unreadable`].
    pub fn observe<'a>(
        &mut self,
        layers: impl IntoIterator<Item = &'a State>,
    ) -> Result<(), CalibrationError> {
        let layers: Vec<&State> = layers.into_iter().collect();
        if self.observations > 0 && layers.len() != self.norms.len() {
            return Err(CalibrationError::Layers {
                observation: self.observations,
                expected: self.norms.len(),
                found: layers.len(),
            });
        }
        self.norms.resize_with(layers.len(), Vec::new);
        for (layer, (state, records)) in layers.into_iter().zip(&mut self.norms).enumerate() {
            record(layer, state, records)?;
        }
        self.observations += 1;
        Ok(())
    }

    /// The quantile of the recorded norms per layer and head; 1 is the largest.
    ///
    /// # Errors
    /// [`CalibrationError::Empty`], [`CalibrationError::Quantile`].
    pub fn thresholds(&self, quantile: f64) -> Result<Thresholds, CalibrationError> {
        if !(0.0..=1.0).contains(&quantile) {
            return Err(CalibrationError::Quantile(quantile));
        }
        if self.observations == 0 {
            return Err(CalibrationError::Empty);
        }
        let of_head = |records: &Vec<f32>| {
            let mut sorted = records.clone();
            sorted.sort_by(f32::total_cmp);
            let rank = (quantile * (sorted.len() as f64 - 1.0)).ceil() as usize;
            sorted.get(rank).copied().unwrap_or_default()
        };
        Thresholds::new(
            self.norms
                .iter()
                .map(|heads| heads.iter().map(of_head).collect())
                .collect(),
        )
    }
}

fn record(layer: usize, state: &State, records: &mut Vec<Vec<f32>>) -> Result<(), CalibrationError> {
    let [_, heads, _, _] = state.memory.dims();
    if records.is_empty() {
        records.resize_with(heads, Vec::new);
    }
    if records.len() != heads {
        return Err(CalibrationError::Heads {
            layer,
            expected: records.len(),
            found: heads,
        });
    }
    let unreadable = |reason: String| CalibrationError::Unreadable { layer, reason };
    let data = frobenius_norms(&state.memory)
        .try_into_data()
        .map_err(|error| unreadable(error.to_string()))?;
    let norms = data
        .try_to_vec::<f32>()
        .map_err(|error| unreadable(format!("{error:?}")))?;
    for (index, norm) in norms.into_iter().enumerate() {
        let head = index % heads;
        if !norm.is_finite() {
            return Err(CalibrationError::NotFinite {
                layer,
                head,
                found: norm,
            });
        }
        records[head].push(norm);
    }
    Ok(())
}

/// ‖h‖_F of every head, `[batch, heads]`.
pub(crate) fn frobenius_norms(memory: &Tensor<4>) -> Tensor<2> {
    let [batch, heads, _, _] = memory.dims();
    let squares = memory.clone() * memory.clone();
    squares.sum_dim(3).sum_dim(2).reshape([batch, heads]).sqrt()
}
