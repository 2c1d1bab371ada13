//! Texts that are given as a str, as ids, or as a file.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyString;
use spillway_models::Model;
use spillway_models::evaluation::diagnosis::text::Text;

use crate::arrays::Ids;
use crate::compute::compute;
use crate::errors::Failure;

/// The text of an argument: none for the one that comes with Spillway, a str, ids, or the path of a file.
///
/// # Errors
/// `ValueError` for fewer than two tokens; as [`Ids::read`]; `OSError` for a file that cannot be read.
pub fn text(py: Python<'_>, given: Option<&Bound<'_, PyAny>>, model: &Model) -> PyResult<Text> {
    let file = |path: Option<String>| compute(py, move |_| Ok(spillway::text::open(path.as_deref(), model)?));
    let Some(given) = given else {
        return Ok(file(None)?);
    };
    let ids = if given.is_instance_of::<PyString>() {
        let text = given.extract::<String>()?;
        let ids = py.detach(|| model.tokenizer().encode(&text));
        ids.map_err(Failure::from)?
    } else if given.hasattr("__fspath__")? {
        // With its folder, so that it is no word such as `random`.
        let path = Path::new(".").join(given.extract::<PathBuf>()?);
        return Ok(file(Some(path.to_string_lossy().into_owned()))?);
    } else {
        Ids::read_sequence(given, model.info().vocab_size, "text")?
    };
    Ok(Text::new("the text given", ids).map_err(Failure::from)?)
}
