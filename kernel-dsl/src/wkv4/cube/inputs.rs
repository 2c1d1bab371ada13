//! What WKV-4 reads on a device, validated before anything is launched.

use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
use crate::sequences::Sequences;
use crate::wkv4::problem::{OPERATOR, Problem};

/// What WKV-4 reads on a device; as [`Inputs`](crate::wkv4::Inputs).
///
/// k and v have one type, which the output has too. w and u are f32.
#[derive(Clone, Debug)]
pub struct DeviceInputs<'a> {
    /// w, `[channels]`: 0 or less.
    pub log_decay: DeviceBuffer,
    /// u, `[channels]`.
    pub bonus: DeviceBuffer,
    /// k, `channels` columns; −∞ hides a token.
    pub key: DeviceRows,
    /// v, `channels` columns.
    pub value: DeviceRows,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

impl DeviceInputs<'_> {
    /// Checks every shape and type.
    ///
    /// # Errors
    /// [`Error`], naming the argument, what it needs and what it has.
    pub fn validate(&self, problem: &Problem) -> Result<(), Error> {
        problem.validate_sizes().map_err(Error::problem)?;
        self.sequences.validate(problem.batch, problem.time)?;
        OPERATOR.device_values("log_decay", (problem.channels, DType::F32), &self.log_decay)?;
        OPERATOR.device_values("bonus", (problem.channels, DType::F32), &self.bonus)?;
        let shape = (self.rows(problem), problem.channels);
        OPERATOR.device_rows("key", shape, self.dtype(), &self.key)?;
        OPERATOR.device_rows("value", shape, self.dtype(), &self.value)
    }

    /// Rows of every token view.
    pub(super) fn rows(&self, problem: &Problem) -> usize {
        self.sequences.rows(problem.batch, problem.time)
    }

    /// Type of every token view.
    pub(super) fn dtype(&self) -> DType {
        self.key.dtype()
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, other: usize) -> usize {
        other.max(self.key.buffer().len()).max(self.value.buffer().len())
    }
}
