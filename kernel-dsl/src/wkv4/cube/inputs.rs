//! What WKV-4 reads on a device, validated before anything is launched.

use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
use crate::sequences::Sequences;
use crate::wkv4::problem::Problem;

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

/// Derivatives of a loss by what WKV-4 gives; as [`Cotangents`](crate::wkv4::Cotangents).
#[derive(Clone, Debug)]
pub struct DeviceCotangents {
    /// By the output, `channels` columns, in the type of the inputs.
    pub out: DeviceRows,
    /// By the final state, `[batch, 3, channels]` in f32; `None` where the loss does not see it.
    pub state: Option<DeviceBuffer>,
}

impl DeviceInputs<'_> {
    /// Checks every shape and type.
    ///
    /// # Errors
    /// [`Error`], naming the argument, what it needs and what it has.
    pub fn validate(&self, problem: &Problem) -> Result<(), Error> {
        problem.validate_sizes().map_err(Error::problem)?;
        self.sequences.validate(problem.batch, problem.time)?;
        self.log_decay.expect("log_decay", problem.channels, DType::F32)?;
        self.bonus.expect("bonus", problem.channels, DType::F32)?;
        let rows = self.rows(problem);
        self.key.expect("key", rows, problem.channels)?;
        self.value.expect("value", rows, problem.channels)?;
        self.value.expect_type("value", self.dtype())
    }

    /// Checks shapes and types of the cotangents.
    pub(super) fn validate_cotangents(
        &self,
        problem: &Problem,
        cotangents: &DeviceCotangents,
    ) -> Result<(), Error> {
        let argument = "the cotangent of out";
        cotangents
            .out
            .expect(argument, self.rows(problem), problem.channels)?;
        cotangents.out.expect_type(argument, self.dtype())?;
        expect_state("the cotangent of state", problem, cotangents.state.as_ref())
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

/// Checks a state, if there is one.
pub(super) fn expect_state(
    argument: &'static str,
    problem: &Problem,
    state: Option<&DeviceBuffer>,
) -> Result<(), Error> {
    state.map_or(Ok(()), |state| {
        state.expect(argument, problem.state_len(), DType::F32)
    })
}
