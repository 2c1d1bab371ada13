//! Ids that come as whatever NumPy makes an array of, and numbers that go out as its arrays; both through Python's buffers.

use std::borrow::Cow;
use std::ops::Range;

use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::Serialize;

use crate::errors::Failure;

/// Sequences of one length, one after another.
#[derive(Debug)]
pub struct Ids {
    values: Vec<u32>,
    /// As it came: `[time]` or `[batch, time]`.
    shape: Vec<usize>,
}

impl Ids {
    /// The ids of one sequence, shape `[time]`.
    pub fn of_sequence(values: Vec<u32>) -> Self {
        let shape = vec![values.len()];
        Self { values, shape }
    }

    /// Reads integers of any width, `[time]` or `[batch, time]`, all of them below `vocab_size`. `name` is the argument's.
    ///
    /// # Errors
    /// `TypeError` for what holds no integers, `ValueError` for another shape or an id that there is not.
    pub fn read(given: &Bound<'_, PyAny>, vocab_size: usize, name: &str) -> PyResult<Self> {
        let numpy = given.py().import("numpy")?;
        let array = numpy.call_method1("asarray", (given,))?;
        let shape: Vec<usize> = array.getattr("shape")?.extract()?;
        let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
        let is_empty = shape.contains(&0);
        // Of nothing, NumPy makes an array of floats.
        if !is_empty && kind != "i" && kind != "u" {
            return Err(not_integers(name, &array, &kind)?);
        }
        if !matches!(shape.as_slice(), [_] | [(1..), _]) {
            return Err(PyValueError::new_err(format!(
                "{name}: expected an array [time] or [batch, time] of at least one sequence, found shape {shape:?}"
            )));
        }
        let vocabulary = Vocabulary {
            name,
            size: vocab_size,
            shape: &shape,
        };
        let values = match kind.as_str() {
            _ if is_empty => Vec::new(),
            "u" => vocabulary.read::<u64>(&numpy, &array, "uint64")?,
            _ => vocabulary.read::<i64>(&numpy, &array, "int64")?,
        };
        Ok(Self { values, shape })
    }

    /// The ids of the one sequence that there is, without those of a batch.
    ///
    /// # Errors
    /// `ValueError` for a batch.
    pub fn read_sequence(given: &Bound<'_, PyAny>, vocab_size: usize, name: &str) -> PyResult<Vec<u32>> {
        let ids = Self::read(given, vocab_size, name)?;
        match ids.shape.len() {
            1 => Ok(ids.values),
            _ => Err(PyValueError::new_err(format!(
                "{name}: expected one sequence, an array [time], found shape {:?}",
                ids.shape
            ))),
        }
    }

    /// Number of sequences: `batch`, or 1 for a shape `[time]`.
    pub fn batch(&self) -> usize {
        match self.shape.as_slice() {
            [batch, _] => *batch,
            _ => 1,
        }
    }

    /// Number of tokens in each sequence.
    pub fn time(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// `[time]` or `[batch, time]`, as it came.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tokens of `range` of every sequence, one after another.
    pub fn piece(&self, range: Range<usize>) -> Cow<'_, [u32]> {
        let time = self.time();
        match self.batch() {
            1 => Cow::Borrowed(&self.values[range]),
            batch => {
                let rows =
                    (0..batch).map(|row| &self.values[row * time + range.start..row * time + range.end]);
                Cow::Owned(rows.collect::<Vec<_>>().concat())
            }
        }
    }

    /// All but the last token of every sequence, and all but the first: what is read, and what is to be foretold.
    ///
    /// # Errors
    /// `ValueError` for sequences without a token.
    pub fn shifted(&self, name: &str) -> PyResult<(Self, Self)> {
        let Some(time) = self.time().checked_sub(1) else {
            return Err(PyValueError::new_err(format!(
                "{name}: expected at least one token, found none"
            )));
        };
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = time;
        }
        let part = |range| Self {
            values: self.piece(range).into_owned(),
            shape: shape.clone(),
        };
        Ok((part(0..time), part(1..time + 1)))
    }
}

/// What ids may be.
struct Vocabulary<'a> {
    name: &'a str,
    size: usize,
    shape: &'a [usize],
}

impl Vocabulary<'_> {
    /// The ids of an array of integers, read as `T`, which NumPy calls `dtype`.
    fn read<T: Element + TryInto<u32> + ToString>(
        &self,
        numpy: &Bound<'_, PyModule>,
        array: &Bound<'_, PyAny>,
        dtype: &str,
    ) -> PyResult<Vec<u32>> {
        let wide = numpy.call_method1("ascontiguousarray", (array, dtype))?;
        let values = PyBuffer::<T>::get(&wide)?.to_vec(array.py())?;
        let ids = values.into_iter().enumerate().map(|(index, value)| {
            let id = value
                .try_into()
                .ok()
                .filter(|id: &u32| (*id as usize) < self.size);
            id.ok_or_else(|| self.refused(index, &value.to_string()))
        });
        ids.collect()
    }

    fn refused(&self, index: usize, found: &str) -> PyErr {
        let place = match self.shape {
            [_, time] => format!("[{}, {}]", index / time, index % time),
            _ => format!("[{index}]"),
        };
        PyValueError::new_err(format!(
            "{}{place}: expected an id from 0 to {}, found {found}",
            self.name,
            self.size.saturating_sub(1)
        ))
    }
}

fn not_integers(name: &str, array: &Bound<'_, PyAny>, kind: &str) -> PyResult<PyErr> {
    let advice = match kind {
        "U" | "S" => "; model.tokenizer.encode makes ids of a text",
        _ => "",
    };
    Ok(PyTypeError::new_err(format!(
        "{name}: expected integers, found an array of {}{advice}",
        array.getattr("dtype")?.str()?
    )))
}

/// Numbers as an array of float32.
///
/// # Errors
/// `ValueError` for a shape of another number of values.
pub fn floats_out<'py>(py: Python<'py>, values: &[f32], shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    out(py, values, shape, "float32")
}

/// Ids as Python's packages have them, an array of int64.
///
/// # Errors
/// None that could be mended from outside.
pub fn ids_out<'py>(py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyAny>> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    out(py, &ids, &[ids.len()], "int64")
}

/// An array of this shape whose type NumPy calls `dtype`.
fn out<'py, T: Element>(
    py: Python<'py>,
    values: &[T],
    shape: &[usize],
    dtype: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let array = py
        .import("numpy")?
        .call_method1("empty", (PyTuple::new(py, shape)?, dtype))?;
    if !values.is_empty() {
        PyBuffer::<T>::get(&array)?.copy_from_slice(py, values)?;
    }
    Ok(array)
}

/// What `value` is in JSON, as Python's own reader gives it; numbers that are not finite are `None`.
///
/// # Errors
/// [`Failure::Internal`] for what cannot be written.
pub fn plain<'py>(py: Python<'py>, value: &impl Serialize) -> Result<Bound<'py, PyAny>, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Internal(format!("JSON: {error}")))?;
    Ok(py.import("json")?.call_method1("loads", (text,))?)
}
