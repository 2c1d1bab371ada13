//! Models: loaded, and asked.

use std::path::PathBuf;
use std::str::FromStr;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use spillway::model_args::LoadingArgs;
use spillway::values::Dtype;
use spillway_models::device::DeviceChoice;
use spillway_models::generation::Sampling;
use spillway_models::{LoadOptions, Model};

use crate::arrays::{Ids, floats_out, plain};
use crate::compute::compute;
use crate::errors::Failure;
use crate::generation::{Continuation, PyGeneration};
use crate::mitigation;
use crate::run;
use crate::state::PyState;
use crate::tokenizer::PyTokenizer;

/// A recurrent language model, ready to run. `spillway.load(path)` gives one.
///
/// ids are integers of any width, [time] or [batch, time], below `vocab_size`: a NumPy array, a list, a tensor on the CPU. Without a state a
/// call begins at an empty one; with one it goes on from there, and the state moves on.
#[pyclass(frozen, module = "spillway", name = "Model")]
pub struct PyModel {
    /// Boxed: its tensors are aligned to cache lines, which Python's objects are not.
    inner: Box<Model>,
    loading: LoadingArgs,
}

/// Loads a checkpoint in any layout that Spillway reads: a folder with config.json and weights, or a .safetensors, .pth or .gguf file.
///
/// dtype: how matrices are kept: "f32", "bf16", "int8" or "int4"; without it those of a GGUF file in the file's own types, all others as f32.
/// device: "cpu", or "wgpu:N" or "cuda:N" where the package was built with them.
/// tokenizer: a tokenizer.json or rwkv_vocab*.txt, where it is not beside the weights.
///
/// Raises OSError for a file that cannot be read, SpillwayError naming what is wrong with it, MemoryError for a model too large.
#[pyfunction]
#[pyo3(signature = (path, *, dtype=None, device="cpu", tokenizer=None))]
pub fn load(
    py: Python<'_>,
    path: PathBuf,
    dtype: Option<&str>,
    device: &str,
    tokenizer: Option<PathBuf>,
) -> PyResult<PyModel> {
    open(py, Some(path), dtype, device, tokenizer)
}

/// The small model that comes with Spillway: a byte-level Mamba-2 of 138,456 weights, trained on the King James Bible in windows of 64
/// bytes. It collapses on longer texts.
#[pyfunction]
#[pyo3(signature = (*, dtype=None, device="cpu"))]
pub fn shipped(py: Python<'_>, dtype: Option<&str>, device: &str) -> PyResult<PyModel> {
    open(py, None, dtype, device, None)
}

/// The text that comes with Spillway: 400,000 bytes of the King James Bible, held out of the shipped model's training.
#[pyfunction]
pub fn shipped_text() -> &'static str {
    spillway_models::shipped_text()
}

fn open(
    py: Python<'_>,
    path: Option<PathBuf>,
    dtype: Option<&str>,
    device: &str,
    tokenizer: Option<PathBuf>,
) -> PyResult<PyModel> {
    let loading = LoadingArgs {
        dtype: dtype.map(read_dtype).transpose()?,
        device: DeviceChoice::from_str(device).map_err(|error| wrong_device(&error))?,
        tokenizer,
    };
    let options = LoadOptions {
        tokenizer: loading.tokenizer.clone(),
        device: loading.device.open().map_err(|error| wrong_device(&error))?,
        ..LoadOptions::with_weights(loading.weights())
    };
    let inner = compute(py, |_| {
        Ok(match &path {
            Some(path) => Model::load(path, &options)?,
            None => Model::shipped(&options)?,
        })
    })?;
    Ok(PyModel {
        inner: Box::new(inner),
        loading,
    })
}

fn wrong_device(error: &spillway_models::device::DeviceError) -> PyErr {
    PyValueError::new_err(format!("device: {error}"))
}

fn read_dtype(written: &str) -> PyResult<Dtype> {
    let all = [Dtype::F32, Dtype::Bf16, Dtype::Int8, Dtype::Int4];
    let found = all.into_iter().find(|dtype| dtype.to_string() == written);
    found.ok_or_else(|| {
        PyValueError::new_err(format!(
            "dtype: expected f32, bf16, int8 or int4, found {written}"
        ))
    })
}

impl PyModel {
    pub fn inner(&self) -> &Model {
        &self.inner
    }

    /// Arguments that the model was loaded with.
    pub fn loading(&self) -> &LoadingArgs {
        &self.loading
    }

    fn read(&self, ids: &Bound<'_, PyAny>, name: &str) -> PyResult<Ids> {
        Ids::read(ids, self.inner.info().vocab_size, name)
    }

    /// The state that a call goes on from: the one given, or that before the first token of `batch` sequences.
    fn begin<'py>(
        &self,
        py: Python<'py>,
        state: Option<Bound<'py, PyState>>,
        named: Option<&Bound<'py, PyAny>>,
        batch: usize,
    ) -> PyResult<Bound<'py, PyState>> {
        let mitigation = mitigation::given(named)?;
        let chain = mitigation.chain();
        if let Some(state) = state {
            let identity = named.map(|_| chain.identity());
            state
                .get()
                .expect(self.inner.fingerprint(), identity.as_deref(), batch)?;
            return Ok(state);
        }
        let state = compute(py, |_| {
            mitigation::expect_possible(&mitigation, &self.inner)?;
            Ok(self.inner.start(&chain, batch)?)
        })?;
        Bound::new(py, PyState::new(state, self.inner.fingerprint()))
    }

    /// The ids of a prompt: a text, with what the model expects at the beginning of one if it begins there, or ids.
    fn prompt(&self, py: Python<'_>, prompt: &Bound<'_, PyAny>, begins: bool, name: &str) -> PyResult<Ids> {
        let Ok(text) = prompt.extract::<String>() else {
            return self.read(prompt, name);
        };
        let tokenizer = self.inner.tokenizer();
        let ids = py.detach(|| match begins {
            true => tokenizer.encode_prompt(&text),
            false => tokenizer.encode(&text),
        });
        Ok(Ids::of_sequence(ids.map_err(Failure::from)?))
    }
}

#[pymethods]
impl PyModel {
    /// Everything there is to know about the model without running it: a dict, as `spillway inspect --json` has it.
    #[getter]
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(plain(py, self.inner.info())?)
    }

    /// Name of the folder or file.
    #[getter]
    fn name(&self) -> &str {
        &self.inner.info().name
    }

    /// Name of the architecture, such as "mamba2" or "rwkv7".
    #[getter]
    fn architecture(&self) -> &'static str {
        self.inner.info().architecture
    }

    /// Ids are below it.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.info().vocab_size
    }

    /// Tokens that the model was trained on, where spillway.json beside the weights says so.
    #[getter]
    fn train_length(&self) -> Option<u64> {
        self.inner.info().train_length
    }

    /// The ids that end a text.
    #[getter]
    fn eos_ids(&self) -> Vec<u32> {
        self.inner.info().eos_ids.clone()
    }

    /// Tokens of a prompt that the model's encoder reads both ways; 0 for a model without one.
    #[getter]
    fn encoder_length(&self) -> usize {
        self.inner.encoder_length()
    }

    /// A hash of everything that decides what the model computes, 32 hexadecimal digits.
    #[getter]
    fn fingerprint(&self) -> &str {
        self.inner.fingerprint()
    }

    /// Text to ids and back.
    #[getter]
    fn tokenizer(&self) -> PyTokenizer {
        PyTokenizer::new(self.inner.tokenizer().clone())
    }

    /// The state before the first token of `batch` sequences.
    ///
    /// Raises ValueError for a mitigation that cannot work with the model, MemoryError for more sequences than there is memory for.
    #[pyo3(signature = (*, batch=1, mitigation=None))]
    fn start<'py>(
        &self,
        py: Python<'py>,
        batch: usize,
        mitigation: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyState>> {
        if batch == 0 {
            return Err(PyValueError::new_err("batch: expected at least 1, found 0"));
        }
        self.begin(py, None, mitigation, batch)
    }

    /// The state in a file that `State.save` wrote. Going on from it gives the same bits.
    ///
    /// Raises OSError for a file that cannot be read, SpillwayError for one of another model or mitigation.
    #[pyo3(signature = (path, *, mitigation=None))]
    fn restore(
        &self,
        py: Python<'_>,
        path: PathBuf,
        mitigation: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyState> {
        let mitigation = mitigation::given(mitigation)?;
        let state = compute(py, |_| {
            mitigation::expect_possible(&mitigation, &self.inner)?;
            Ok(self.inner.restore(&path, &mitigation.chain())?)
        })?;
        Ok(PyState::new(state, self.inner.fingerprint()))
    }

    /// Logits after every token, float32 [time, vocab_size] or [batch, time, vocab_size]; with last=True after the last token alone,
    /// [vocab_size] or [batch, vocab_size].
    ///
    /// Raises ValueError for ids of another shape or beyond the vocabulary, and for a state of another model or number of sequences;
    /// MemoryError for more logits than there is memory for.
    #[pyo3(signature = (ids, state=None, *, mitigation=None, last=false))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        state: Option<Bound<'py, PyState>>,
        mitigation: Option<&Bound<'py, PyAny>>,
        last: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ids = self.read(ids, "ids")?;
        let state = self.begin(py, state, mitigation, ids.batch())?;
        let values = state.get().advance(py, |state, stop| match last {
            true => run::floats(run::last_logits(&self.inner, &ids, state, stop)?),
            false => run::all_logits(&self.inner, &ids, state, stop),
        })?;
        let mut shape = ids.shape().to_vec();
        if last {
            shape.pop();
        }
        shape.push(self.inner.info().vocab_size);
        floats_out(py, &values, &shape)
    }

    /// −log p of every token but the first after those before it, in nats: float32 [time - 1] or [batch, time - 1]. The state is left before
    /// the last token, so that the next call begins with it.
    ///
    /// targets: of the same shape as ids; −log p of each after all ids up to its place, [time] or [batch, time]. The state is left after the
    /// last id.
    ///
    /// Raises ValueError as `logits` does. Memory does not grow with the number of tokens.
    #[pyo3(signature = (ids, targets=None, state=None, *, mitigation=None))]
    fn loss<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        targets: Option<&Bound<'py, PyAny>>,
        state: Option<Bound<'py, PyState>>,
        mitigation: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ids = self.read(ids, "ids")?;
        let (ids, targets) = match targets {
            Some(targets) => (ids, self.read(targets, "targets")?),
            None => ids.shifted("ids")?,
        };
        if ids.shape() != targets.shape() {
            return Err(PyValueError::new_err(format!(
                "targets: expected the shape of ids, {:?}, found {:?}",
                ids.shape(),
                targets.shape()
            )));
        }
        let state = self.begin(py, state, mitigation, ids.batch())?;
        let losses = state.get().advance(py, |state, stop| {
            run::losses(&self.inner, &ids, &targets, state, stop)
        })?;
        floats_out(py, &losses, ids.shape())
    }

    /// Takes a prompt in, a str or ids, and gives the state after it: a new one, or the one given. A model with an encoder reads the beginning
    /// of a prompt both ways.
    ///
    /// Raises ValueError as `logits` does.
    #[pyo3(signature = (prompt, state=None, *, mitigation=None))]
    fn prefill<'py>(
        &self,
        py: Python<'py>,
        prompt: &Bound<'py, PyAny>,
        state: Option<Bound<'py, PyState>>,
        mitigation: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyState>> {
        let begins = begins(state.as_ref())?;
        let prompt = self.prompt(py, prompt, begins, "prompt")?;
        let state = self.begin(py, state, mitigation, prompt.batch())?;
        state.get().advance(py, |state, stop| {
            if begins {
                self.inner.begin_prompt(prompt.time(), state);
            }
            run::advance(&self.inner, &prompt, state, stop)
        })?;
        Ok(state)
    }

    /// Continues a prompt, a str or ids [time], by at most `max_tokens` tokens.
    ///
    /// temperature: 0 takes the likeliest token, always; otherwise tokens are drawn, the same ones from the same seed.
    /// top_k, top_p: only the likeliest ids, so many of them, or those whose probabilities just reach this sum.
    /// repetition_penalty: divides what speaks for ids that were there before.
    /// stop: a str or several, at which the text ends without them.
    /// on_text: is called with each piece of new text of whole characters; returning False ends the text.
    ///
    /// Raises ValueError for an empty prompt and for options out of range.
    #[pyo3(signature = (
        prompt, *, max_tokens=256, temperature=0.0, top_k=None, top_p=None, repetition_penalty=1.0, seed=0, stop=None, state=None,
        mitigation=None, on_text=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords, each with a default")]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        prompt: &Bound<'py, PyAny>,
        max_tokens: usize,
        temperature: f32,
        top_k: Option<usize>,
        top_p: Option<f32>,
        repetition_penalty: f32,
        seed: u64,
        stop: Option<&Bound<'py, PyAny>>,
        state: Option<Bound<'py, PyState>>,
        mitigation: Option<&Bound<'py, PyAny>>,
        on_text: Option<Py<PyAny>>,
    ) -> PyResult<PyGeneration> {
        let continuation = Continuation {
            sampling: Sampling {
                repetition_penalty,
                temperature,
                top_k,
                top_p,
                seed,
            },
            max_tokens,
            stop_strings: strings(stop, "stop")?,
            on_text,
        };
        let begins = begins(state.as_ref())?;
        let prompt = self.prompt(py, prompt, begins, "prompt")?;
        if prompt.shape().len() > 1 {
            return Err(PyValueError::new_err(format!(
                "prompt: expected one sequence, an array [time], found shape {:?}",
                prompt.shape()
            )));
        }
        let state = self.begin(py, state, mitigation, 1)?;
        let generated = state.get().advance(py, |state, stop| {
            if begins {
                self.inner.begin_prompt(prompt.time(), state);
            }
            continuation.of(&self.inner, &prompt, state, stop)
        })?;
        PyGeneration::new(py, generated, state.unbind())
    }

    fn __repr__(&self) -> String {
        let info = self.inner.info();
        format!(
            "Model('{}', {}, {} parameters kept as {})",
            info.name, info.architecture, info.parameters, info.kept_as
        )
    }
}

/// Whether a prompt is the beginning of what the state has read.
fn begins(state: Option<&Bound<'_, PyState>>) -> PyResult<bool> {
    state.map_or(Ok(true), |state| state.get().is_new())
}

/// The strings of an argument that takes one or several.
///
/// # Errors
/// `TypeError` for anything else.
pub fn strings(given: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Vec<String>> {
    let Some(given) = given else {
        return Ok(Vec::new());
    };
    if let Ok(one) = given.extract::<String>() {
        return Ok(vec![one]);
    }
    given
        .extract::<Vec<String>>()
        .map_err(|_| PyTypeError::new_err(format!("{name}: expected a str or a list of them")))
}
