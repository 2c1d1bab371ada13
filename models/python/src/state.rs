//! What a model carries from token to token, as a value of Python.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use spillway::stop::Stop;
use spillway_models::ModelState;

use crate::compute::compute;
use crate::errors::Failure;

/// A state, unless it is being moved on.
enum Slot {
    Whole(ModelState),
    /// A call of another thread has it.
    Taken,
    /// A call failed between two layers.
    Torn,
}

/// What a model carries from token to token: of one sequence, or of a batch.
///
/// Calls that take a state move it on; a fork stays where it is. Forks share their memory until one of the two moves on. A state belongs to
/// the model and to the mitigation that it was started with.
#[pyclass(frozen, module = "spillway", name = "State")]
pub struct PyState {
    slot: Mutex<Slot>,
    /// Fingerprint of the model that the state belongs to.
    fingerprint: String,
}

impl PyState {
    pub fn new(state: ModelState, fingerprint: &str) -> Self {
        Self {
            slot: Mutex::new(Slot::Whole(state)),
            fingerprint: fingerprint.into(),
        }
    }

    /// # Errors
    /// `ValueError` for a state of another model, chain of interventions or number of sequences.
    pub fn expect(&self, fingerprint: &str, chain: Option<&str>, batch: usize) -> PyResult<()> {
        let refused = |message: String| Err(PyValueError::new_err(message));
        if self.fingerprint != fingerprint {
            return refused("state: expected one of this model, found another model's".into());
        }
        let (own, sequences) = self.look(|state| (state.chain().identity(), state.batch()))?;
        if chain.is_some_and(|chain| chain != own) {
            return refused(
                "mitigation: expected that of the state, or none named: a state keeps what it was started with".into(),
            );
        }
        if sequences != batch {
            return refused(format!(
                "ids: expected {sequences} sequences as in the state, found {batch}"
            ));
        }
        Ok(())
    }

    /// Whether nothing has been read.
    ///
    /// # Errors
    /// `ValueError` for a state that cannot be used.
    pub fn is_new(&self) -> PyResult<bool> {
        self.look(|state| state.position() == 0)
    }

    /// Moves the state on. After a failure or an interruption it is where the last whole segment left it; a call that failed between two
    /// layers leaves nothing that can be used.
    ///
    /// # Errors
    /// Those of `job`; `ValueError` for a state that cannot be used.
    pub fn advance<T: Send>(
        &self,
        py: Python<'_>,
        job: impl FnOnce(&mut ModelState, &Stop) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        let mut state = match std::mem::replace(&mut *self.lock(), Slot::Taken) {
            Slot::Whole(state) => state,
            other => {
                let refused = unusable(&other);
                *self.lock() = other;
                return Err(refused);
            }
        };
        let result = compute(py, |stop| job(&mut state, stop));
        *self.lock() = match &result {
            Err(failure) if failure.tears_the_state() => Slot::Torn,
            _ => Slot::Whole(state),
        };
        Ok(result?)
    }

    /// Looks at the state as it is.
    ///
    /// # Errors
    /// `ValueError` for a state that cannot be used.
    fn look<T>(&self, look: impl FnOnce(&ModelState) -> T) -> PyResult<T> {
        match &*self.lock() {
            Slot::Whole(state) => Ok(look(state)),
            other => Err(unusable(other)),
        }
    }

    /// Nobody computes while holding it, so that it is free at once.
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy(&self) -> PyResult<Self> {
        Ok(Self::new(self.look(ModelState::clone)?, &self.fingerprint))
    }
}

fn unusable(slot: &Slot) -> PyErr {
    PyValueError::new_err(match slot {
        Slot::Torn => {
            "state: a call that moved it on failed on the way; go on from a fork made before, or from a saved state"
        }
        _ => "state: another thread is moving it on; give every thread a fork of its own",
    })
}

#[pymethods]
impl PyState {
    /// Tokens read, by the sequence that has read most.
    #[getter]
    fn position(&self) -> PyResult<u64> {
        self.look(ModelState::position)
    }

    /// Tokens read, sequence by sequence.
    #[getter]
    fn positions(&self) -> PyResult<Vec<u64>> {
        self.look(|state| state.positions().to_vec())
    }

    /// Number of sequences whose state this is.
    #[getter]
    fn batch(&self) -> PyResult<usize> {
        self.look(ModelState::batch)
    }

    /// Memory taken, in bytes, what mitigations remember included.
    #[getter]
    fn nbytes(&self) -> PyResult<usize> {
        self.look(ModelState::bytes)
    }

    /// Text form of the mitigation that it was started with; "none" without one.
    #[getter]
    fn mitigation(&self) -> PyResult<String> {
        self.look(|state| state.chain().text())
    }

    /// A state that goes its own way from here. Costs no memory until one of the two moves on.
    fn fork(&self) -> PyResult<Self> {
        self.copy()
    }

    /// Writes everything that is needed to go on later, to the bit: `model.restore(path)`. The file is whole or absent.
    ///
    /// Raises OSError where it cannot be written.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let state = self.look(ModelState::clone)?;
        Ok(compute(py, move |_| Ok(state.save(&path)?))?)
    }

    /// The states of these sequences of the batch, in this order; one may be taken several times.
    ///
    /// Raises ValueError for a sequence that is not there.
    fn select(&self, py: Python<'_>, rows: Vec<usize>) -> PyResult<Self> {
        let state = self.look(ModelState::clone)?;
        let selected = compute(py, move |_| Ok(state.select(&rows)?))?;
        Ok(Self::new(selected, &self.fingerprint))
    }

    /// One batch of the sequences of all states, in their order.
    ///
    /// Raises ValueError for no states, states of different models or mitigations, and sequences of different lengths under a mitigation
    /// that acts at positions.
    #[staticmethod]
    fn cat(py: Python<'_>, states: Vec<Bound<'_, Self>>) -> PyResult<Self> {
        let fingerprint = states
            .first()
            .map_or("", |state| state.get().fingerprint.as_str());
        if states.iter().any(|state| state.get().fingerprint != fingerprint) {
            return Err(PyValueError::new_err(
                "states: expected those of one model, found several models'",
            ));
        }
        let parts = states.iter().map(|state| state.get().look(ModelState::clone));
        let parts = parts.collect::<PyResult<Vec<ModelState>>>()?;
        let joined = compute(py, move |_| {
            Ok(ModelState::cat(&parts.iter().collect::<Vec<_>>())?)
        })?;
        Ok(Self::new(joined, fingerprint))
    }

    fn __copy__(&self) -> PyResult<Self> {
        self.copy()
    }

    fn __deepcopy__(&self, _memo: &Bound<'_, PyAny>) -> PyResult<Self> {
        self.copy()
    }

    fn __repr__(&self) -> String {
        let written = self.look(|state| {
            let positions: Vec<String> = state.positions().iter().map(u64::to_string).collect();
            format!(
                "State(positions=[{}], mitigation='{}', nbytes={})",
                positions.join(", "),
                state.chain().text(),
                state.bytes()
            )
        });
        written.unwrap_or_else(|_| "State(unusable)".into())
    }
}
