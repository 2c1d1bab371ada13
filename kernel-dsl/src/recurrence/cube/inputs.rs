//! What the recurrence reads on a device, validated before anything is launched.

use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
use crate::decay::LogDecay;
use crate::recurrence::problem::{OPERATOR, Problem, ReadOut, RecurrenceError};
use crate::sequences::Sequences;

/// What a recurrence reads on a device; as [`Inputs`](crate::recurrence::Inputs).
///
/// Query, key and value have one type, which the output has too. Log decays and step sizes have one type, which may be
/// another. Bonus and skip are f32.
#[derive(Clone, Debug)]
pub struct DeviceInputs<'a> {
    /// q, `groups·key_dim` columns.
    pub query: DeviceRows,
    /// k, `groups·key_dim` columns.
    pub key: DeviceRows,
    /// v, `heads·value_dim` columns.
    pub value: DeviceRows,
    /// ln a, in the form that [`Problem::decay`] names.
    pub log_decay: LogDecay<DeviceBuffer, DeviceRows>,
    /// δ, `heads` columns; `None` is 1.
    pub step_size: Option<DeviceRows>,
    /// u, `[heads, key_dim]`; present if and only if the read-out is [`ReadOut::Bonus`].
    pub bonus: Option<DeviceBuffer>,
    /// D, `[heads]` or `[heads·value_dim]`.
    pub skip: Option<DeviceBuffer>,
    /// Factor on the query.
    pub scale: f32,
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
        let Problem {
            heads,
            groups,
            key_dim,
            value_dim,
            ..
        } = *problem;
        let rows = self.rows(problem);
        let dtype = self.query.dtype();
        OPERATOR.device_rows("query", (rows, groups * key_dim), dtype, &self.query)?;
        OPERATOR.device_rows("key", (rows, groups * key_dim), dtype, &self.key)?;
        OPERATOR.device_rows("value", (rows, heads * value_dim), dtype, &self.value)?;
        self.validate_log_decay(problem, rows)?;
        if let Some(step_size) = &self.step_size {
            OPERATOR.device_rows("step_size", (rows, heads), self.gate_type(), step_size)?;
        }
        self.validate_constants(problem)
    }

    /// Rows of every token view.
    pub(super) fn rows(&self, problem: &Problem) -> usize {
        self.sequences.rows(problem.batch, problem.time)
    }

    /// Type of the log decays and step sizes.
    pub(super) fn gate_type(&self) -> DType {
        match (&self.log_decay, &self.step_size) {
            (LogDecay::Token(rows), _) => rows.dtype(),
            (LogDecay::Constant(values), _) => values.dtype(),
            (LogDecay::None, Some(step_size)) => step_size.dtype(),
            (LogDecay::None, None) => DType::F32,
        }
    }

    fn validate_log_decay(&self, problem: &Problem, rows: usize) -> Result<(), Error> {
        let form = self.log_decay.expect_form(OPERATOR.0, problem.decay);
        form.map_err(Error::problem)?;
        let per_token = problem.heads * problem.decay.values_per_head(problem.key_dim);
        match &self.log_decay {
            LogDecay::None => Ok(()),
            LogDecay::Constant(values) => {
                OPERATOR.device_values("log_decay", (per_token, values.dtype()), values)
            }
            LogDecay::Token(view) => OPERATOR.device_rows("log_decay", (rows, per_token), view.dtype(), view),
        }
    }

    fn validate_constants(&self, problem: &Problem) -> Result<(), Error> {
        let Problem {
            heads,
            key_dim,
            value_dim,
            ..
        } = *problem;
        match (problem.read_out, &self.bonus) {
            (ReadOut::Inclusive, None) => {}
            (ReadOut::Inclusive, Some(bonus)) => {
                return Err(Error::problem(RecurrenceError::BonusUnused {
                    found: bonus.len(),
                }));
            }
            (ReadOut::Bonus, None) => {
                return Err(Error::problem(RecurrenceError::BonusMissing {
                    expected: heads * key_dim,
                }));
            }
            (ReadOut::Bonus, Some(bonus)) => {
                OPERATOR.device_values("bonus", (heads * key_dim, DType::F32), bonus)?;
            }
        }
        let Some(skip) = &self.skip else {
            return Ok(());
        };
        let (per_head, per_value) = (heads, heads * value_dim);
        if skip.len() != per_head && skip.len() != per_value {
            return Err(Error::problem(RecurrenceError::SkipLength {
                per_head,
                per_value,
                found: skip.len(),
            }));
        }
        OPERATOR.device_values("skip", (skip.len(), DType::F32), skip)
    }
}
