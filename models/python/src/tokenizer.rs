//! Text to ids and back.

use pyo3::prelude::*;
use spillway_models::Tokenizer;

use crate::arrays::{Ids, ids_out};
use crate::errors::Failure;

/// Turns text into ids and ids into text: a model's `tokenizer.json`, RWKV's vocabulary, or bytes.
#[pyclass(frozen, module = "spillway", name = "Tokenizer")]
pub struct PyTokenizer {
    inner: Tokenizer,
}

impl PyTokenizer {
    pub fn new(inner: Tokenizer) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl PyTokenizer {
    /// "tokenizer.json", "rwkv_vocab", "bytes", or "none" where the checkpoint has none.
    #[getter]
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    /// Every id that it gives is below it.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    /// The ids of a text: int64 array [time].
    ///
    /// special: with the tokens that the model expects at the beginning of a text, where its tokenizer adds some.
    ///
    /// Raises SpillwayError where the checkpoint has no tokenizer.
    #[pyo3(signature = (text, *, special=false))]
    fn encode<'py>(&self, py: Python<'py>, text: &str, special: bool) -> PyResult<Bound<'py, PyAny>> {
        let ids = py.detach(|| match special {
            true => self.inner.encode_prompt(text),
            false => self.inner.encode(text),
        });
        ids_out(py, &ids.map_err(Failure::from)?)
    }

    /// The text of ids [time]. What is no text, and ids that it does not know, become U+FFFD.
    fn decode(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let any = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let ids = Ids::read_sequence(ids, any, "ids")?;
        Ok(py.detach(|| self.inner.decode(&ids)))
    }

    fn __repr__(&self) -> String {
        format!(
            "Tokenizer('{}', vocab_size={})",
            self.inner.name(),
            self.inner.vocab_size()
        )
    }
}
