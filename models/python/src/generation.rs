//! Generation for Python: how a prompt is continued, and what comes of it.

use std::ops::ControlFlow;

use pyo3::prelude::*;
use pyo3::types::PyBool;
use spillway::stop::Stop;
use spillway_models::generation::{Finish, Generated, Sampling, TakenIn, continue_from};
use spillway_models::{Model, ModelState};

use crate::arrays::{Ids, ids_out};
use crate::errors::Failure;
use crate::run::{advance, last_logits};
use crate::state::PyState;

/// What a model has generated after a prompt.
#[pyclass(frozen, get_all, module = "spillway", name = "Generation")]
pub struct PyGeneration {
    /// The new ids, those of a stop string included: int64 array [time].
    ids: Py<PyAny>,
    /// The new text, without the stop string.
    text: String,
    /// Why it ended: "length", "stop", "end" or "cancelled".
    finish: &'static str,
    /// The stop string that the text came to.
    stop: Option<String>,
    /// The state after the prompt and all new ids.
    state: Py<PyState>,
}

impl PyGeneration {
    pub fn new(py: Python<'_>, generated: Generated, state: Py<PyState>) -> PyResult<Self> {
        let (finish, stop) = match generated.finish {
            Finish::Length => ("length", None),
            Finish::Stop(stop) => ("stop", Some(stop)),
            Finish::End => ("end", None),
            Finish::Cancelled => ("cancelled", None),
        };
        Ok(Self {
            ids: ids_out(py, &generated.ids)?.unbind(),
            text: generated.text,
            finish,
            stop,
            state,
        })
    }
}

#[pymethods]
impl PyGeneration {
    fn __str__(&self) -> String {
        self.text.clone()
    }

    fn __repr__(&self) -> String {
        format!("Generation({:?}, finish='{}')", self.text, self.finish)
    }
}

/// How a prompt is continued.
pub struct Continuation {
    pub sampling: Sampling,
    pub max_tokens: usize,
    pub stop_strings: Vec<String>,
    /// Hears the text piece by piece, and ends it by giving `False`.
    pub on_text: Option<Py<PyAny>>,
}

impl Continuation {
    /// Takes the prompt in and continues it; the state is left after the last new id.
    ///
    /// # Errors
    /// As [`spillway_models::generation::generate`]; [`Failure::Raised`] from the receiver of the text.
    pub fn of(
        &self,
        model: &Model,
        prompt: &Ids,
        state: &mut ModelState,
        stop: &Stop,
    ) -> Result<Generated, Failure> {
        self.sampling.validate()?;
        let logits = last_logits(model, prompt, state, stop)?.squeeze_dim::<2>(1);
        let tokens = prompt.piece(0..prompt.time());
        let after_prompt = state.position();
        let taken_in = TakenIn {
            prompt: &tokens,
            last: &tokens,
            logits,
        };
        let mut raised = None;
        let on_text = |piece: &str| match self.tell(piece) {
            _ if stop.is_asked() => ControlFlow::Break(()),
            Ok(flow) => flow,
            Err(error) => {
                raised = Some(error);
                ControlFlow::Break(())
            }
        };
        let generated = continue_from(
            model,
            state,
            taken_in,
            &self.sampling,
            self.max_tokens,
            &self.stop_strings,
            on_text,
        )?;
        // The last id has been chosen, and read only where another was asked for.
        let read = state.position().saturating_sub(after_prompt);
        if let (Some(last), true) = (generated.ids.last(), read < generated.ids.len() as u64) {
            advance(model, &Ids::of_sequence(vec![*last]), state, &Stop::after(None))?;
        }
        match raised {
            Some(error) => Err(error.into()),
            None if stop.is_asked() => Err(Failure::Interrupted),
            None => Ok(generated),
        }
    }

    fn tell(&self, piece: &str) -> PyResult<ControlFlow<()>> {
        let Some(on_text) = &self.on_text else {
            return Ok(ControlFlow::Continue(()));
        };
        Python::attach(|py| {
            let answer = on_text.call1(py, (piece,))?;
            Ok(match answer.bind(py).is(PyBool::new(py, false)) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })
    }
}
