//! What Taylor attention reads and gives on a device, validated before anything is launched.

use crate::cube::{DeviceBuffer, DeviceRows, Error, expect_state};
use crate::sequences::Sequences;
use crate::taylor_attention::Problem;
use crate::taylor_attention::problem::OPERATOR;

/// What Taylor attention reads on a device, all of one type; as [`Inputs`](crate::taylor_attention::Inputs).
#[derive(Clone, Debug)]
pub struct DeviceInputs<'a> {
    /// q, `[rows, heads · key_dim]`.
    pub query: DeviceRows,
    /// k, likewise.
    pub key: DeviceRows,
    /// v, `[rows, heads · value_dim]`.
    pub value: DeviceRows,
    /// Which rows belong to which sequence.
    pub sequences: Sequences<'a>,
}

/// Derivatives of the loss by what Taylor attention read, in f32. Rows of padding get 0.
#[derive(Clone, Debug)]
pub struct DeviceGradients {
    /// By q, `[rows, heads, key_dim]`.
    pub query: DeviceBuffer,
    /// By k, likewise.
    pub key: DeviceBuffer,
    /// By v, `[rows, heads, value_dim]`.
    pub value: DeviceBuffer,
    /// By the initial state.
    pub state: DeviceBuffer,
}

impl DeviceInputs<'_> {
    /// Checks every shape and type.
    ///
    /// # Errors
    /// [`Error`], naming the argument, what it needs and what it has.
    pub fn validate(&self, problem: &Problem, state: Option<&DeviceBuffer>) -> Result<(), Error> {
        problem.validate_sizes().map_err(Error::problem)?;
        self.sequences.validate(problem.batch, problem.time)?;
        let rows = self.rows(problem);
        let dtype = self.query.dtype();
        let (keys, values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
        OPERATOR.device_rows("query", (rows, keys), dtype, &self.query)?;
        OPERATOR.device_rows("key", (rows, keys), dtype, &self.key)?;
        OPERATOR.device_rows("value", (rows, values), dtype, &self.value)?;
        expect_state(OPERATOR, problem.state_len(), state)
    }

    /// Rows of every token view.
    pub(super) fn rows(&self, problem: &Problem) -> usize {
        self.sequences.rows(problem.batch, problem.time)
    }
}
