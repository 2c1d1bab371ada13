//! Mitigations by their text form, and with the numbers that calibration gives them.
//!
//! In a circle with [`model`](crate::model): a model runs under a mitigation, and a mitigation is calibrated on a model.

use std::path::Path;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use spillway::calibration::Calibrator;
use spillway::model_args::train_length;
use spillway::trial::Trial;
use spillway_mitigations::{Mitigation, registry};
use spillway_models::Model;

use crate::arrays::plain;
use crate::compute::compute;
use crate::errors::Failure;
use crate::model::PyModel;

/// What is done to a model so that it does not collapse: "window:2048", "rri:0.9999,0.75+window:2048", "@FILE" with what `spillway diagnose`
/// calibrated, or "none".
///
/// Wherever a mitigation is taken, its text will do; a value is needed for those that are calibrated.
#[pyclass(frozen, eq, module = "spillway", name = "Mitigation")]
#[derive(PartialEq)]
pub struct PyMitigation {
    inner: Mitigation,
}

/// The mitigation of an argument: none, a text, or a value.
///
/// # Errors
/// `ValueError` for a text that is none, `OSError` and `SpillwayError` for the file behind an `@`, `TypeError` for anything else.
pub fn given(mitigation: Option<&Bound<'_, PyAny>>) -> PyResult<Mitigation> {
    let Some(mitigation) = mitigation else {
        return Ok(Mitigation::none());
    };
    if let Ok(value) = mitigation.cast::<PyMitigation>() {
        return Ok(value.get().inner.clone());
    }
    match mitigation.extract::<String>() {
        Ok(text) => Ok(parse(&text)?),
        Err(_) => Err(PyTypeError::new_err(format!(
            "mitigation: expected its text or a Mitigation, found {}",
            mitigation.get_type().name()?
        ))),
    }
}

fn parse(text: &str) -> Result<Mitigation, Failure> {
    match text.strip_prefix('@') {
        Some(path) => Ok(spillway::mitigation_file::read(Path::new(path))?),
        None => Ok(text.parse()?),
    }
}

/// # Errors
/// [`Failure::Value`] where the mitigation cannot work with the model, with the reason and what would.
pub fn expect_possible(mitigation: &Mitigation, model: &Model) -> Result<(), Failure> {
    let refused = match mitigation.needs_calibration() {
        true => Some("its numbers come from text: give Mitigation(...).calibrated(model, text)".to_string()),
        false => Trial::of(mitigation).refusal(model),
    };
    match refused {
        Some(reason) => Err(Failure::Value(format!("mitigation {mitigation}: {reason}"))),
        None => Ok(()),
    }
}

#[pymethods]
impl PyMitigation {
    #[new]
    fn new(text: &str) -> PyResult<Self> {
        Ok(Self { inner: parse(text)? })
    }

    /// Whether its numbers come from text and it has none yet.
    #[getter]
    fn needs_calibration(&self) -> bool {
        self.inner.needs_calibration()
    }

    /// The same mitigation with the numbers that the model has inside its training length on a text.
    ///
    /// text: a str, ids [time], a path of a text file, or None for the text that comes with Spillway.
    /// train_length: tokens that the model was trained on; what the checkpoint says unless given.
    ///
    /// Raises ValueError for a text of fewer than two tokens.
    #[pyo3(signature = (model, text=None, *, train_length=None))]
    fn calibrated(
        &self,
        py: Python<'_>,
        model: &PyModel,
        text: Option<&Bound<'_, PyAny>>,
        train_length: Option<u64>,
    ) -> PyResult<Self> {
        let text = crate::text::text(py, text, model.inner())?;
        let model = model.inner();
        let (length, _) = self::train_length(train_length, model).map_err(Failure::from)?;
        let inner = compute(py, |_| {
            Ok(Calibrator::new(model, &text, length).calibrate(&self.inner)?)
        })?;
        Ok(Self { inner })
    }

    fn __str__(&self) -> String {
        self.inner.to_string()
    }

    fn __repr__(&self) -> String {
        let numbers = if self.inner.is_calibrated() {
            ", calibrated"
        } else {
            ""
        };
        format!("Mitigation('{}'{numbers})", self.inner)
    }
}

/// Every mitigation that there is: a list of dicts with name, syntax, summary, parameters, the models it works on, and an example.
#[pyfunction]
pub fn mitigations(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(plain(py, &registry::forms())?)
}
