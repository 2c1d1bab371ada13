//! What `spillway diagnose` finds, as a dict.

use pyo3::prelude::*;
use spillway::context::{Context, Printing};
use spillway::diagnose::{DiagnoseArgs, measure};
use spillway::model_args::ModelArgs;

use crate::arrays::plain;
use crate::compute::{compute, threads};
use crate::model::{PyModel, strings};

/// Finds out where a model collapses on long texts, in which heads, and what cures it: what `spillway diagnose` writes into report.json, as a
/// dict. Its fields are described in bench/docs/report.md; `try` is None.
///
/// text: a str, ids [time], a path of a text file, or None for the text that comes with Spillway.
/// length: tokens to read in one go, at least twice the training length.
/// train_length: tokens that the model was trained on; what the checkpoint says unless given, else 2048.
/// mitigations: text forms to try, a str or a list; by default a set that is scaled to the training length.
/// streams: places of the text to start reading at; by default 1 to 8, fewer the larger the model.
/// seed: start at random places, drawn by it.
/// threshold: factor in perplexity that counts as collapse.
/// progress: say on standard error how far it has come.
///
/// Raises ValueError for an option that is impossible and for a mitigation that cannot work with the model.
#[pyfunction]
#[pyo3(signature = (
    model, text=None, *, length=65_536, train_length=None, mitigations=None, streams=None, seed=None, threshold=2.0, progress=false
))]
#[expect(clippy::too_many_arguments, reason = "keywords, each with a default")]
pub fn diagnose<'py>(
    py: Python<'py>,
    model: &PyModel,
    text: Option<&Bound<'py, PyAny>>,
    length: u64,
    train_length: Option<u64>,
    mitigations: Option<&Bound<'py, PyAny>>,
    streams: Option<u64>,
    seed: Option<u64>,
    threshold: f64,
    progress: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let args = DiagnoseArgs {
        model: ModelArgs {
            checkpoint: None,
            loading: model.loading().clone(),
        },
        text: None,
        prompt: None,
        length,
        train_length,
        mitigation: strings(mitigations, "mitigations")?,
        state_dtype: Vec::new(),
        out: None,
        force: false,
        streams,
        seed,
        threshold,
        resume: false,
        stop_after: None,
    };
    let text = crate::text::text(py, text, model.inner())?;
    let printing = Printing {
        quiet: !progress,
        json: false,
    };
    let context = Context::within(threads()?, printing);
    let report = compute(py, |stop| {
        Ok(measure(model.inner().clone(), text, &args, stop, &context)?)
    })?;
    Ok(plain(py, &report)?)
}
