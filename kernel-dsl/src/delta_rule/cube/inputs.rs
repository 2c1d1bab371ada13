//! What a delta rule reads on a device, validated before anything is launched.

use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
use crate::decay::LogDecay;
use crate::delta_rule::problem::{DeltaRuleError, OPERATOR, Problem, TransitionKind};
use crate::sequences::Sequences;

/// What a transition reads beside decay and key, on a device; as [`Transition`](crate::delta_rule::Transition).
#[derive(Clone, Debug)]
pub enum DeviceTransition {
    /// (I − β k kᵀ) diag(a), and the update β k vᵀ.
    Delta {
        /// β, `heads` columns, in the type of the log decays.
        beta: DeviceRows,
    },
    /// diag(a) + b pᵀ, and the update k vᵀ.
    LowRank {
        /// p, `groups·key_dim` columns, in the type of the key.
        p: DeviceRows,
        /// b, `groups·key_dim` columns, in the type of the key.
        b: DeviceRows,
    },
}

/// What a delta rule reads on a device; as [`Inputs`](crate::delta_rule::Inputs).
///
/// q, k, v, p and b have one type, which the output has too. Log decays and β have one type, which may be another.
#[derive(Clone, Debug)]
pub struct DeviceInputs<'a> {
    /// q, `groups·key_dim` columns.
    pub query: DeviceRows,
    /// k, `groups·key_dim` columns.
    pub key: DeviceRows,
    /// v, `heads·value_dim` columns.
    pub value: DeviceRows,
    /// β, or p and b, as [`Problem::transition`] names.
    pub transition: DeviceTransition,
    /// ln a, in the form that [`Problem::decay`] names.
    pub log_decay: LogDecay<DeviceBuffer, DeviceRows>,
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
        let (rows, on_keys) = (self.rows(problem), problem.groups * problem.key_dim);
        let check =
            |operand, view, columns, dtype| OPERATOR.device_rows(operand, (rows, columns), dtype, view);
        let (dtype, gates) = (self.dtype(), self.gate_type());
        check("query", &self.query, on_keys, dtype)?;
        check("key", &self.key, on_keys, dtype)?;
        check("value", &self.value, problem.heads * problem.value_dim, dtype)?;
        let wrong_form = |found| {
            let expected = problem.transition;
            Err(Error::problem(DeltaRuleError::TransitionForm { expected, found }))
        };
        match (&self.transition, problem.transition) {
            (DeviceTransition::Delta { beta }, TransitionKind::Delta) => {
                check("beta", beta, problem.heads, gates)?;
            }
            (DeviceTransition::LowRank { p, b }, TransitionKind::LowRank) => {
                check("p", p, on_keys, dtype)?;
                check("b", b, on_keys, dtype)?;
            }
            (DeviceTransition::Delta { .. }, _) => return wrong_form(TransitionKind::Delta),
            (DeviceTransition::LowRank { .. }, _) => return wrong_form(TransitionKind::LowRank),
        }
        let form = self.log_decay.expect_form(OPERATOR.0, problem.decay);
        form.map_err(Error::problem)?;
        match self.log_decay.token() {
            None => Ok(()),
            Some(log_decay) => check("log_decay", log_decay, problem.decay_columns(), gates),
        }
    }

    /// Rows of every token view.
    pub(super) fn rows(&self, problem: &Problem) -> usize {
        self.sequences.rows(problem.batch, problem.time)
    }

    /// Type of query, key and value.
    pub(super) fn dtype(&self) -> DType {
        self.query.dtype()
    }

    /// Type of log decays and β.
    pub(super) fn gate_type(&self) -> DType {
        match (&self.transition, self.log_decay.token()) {
            (DeviceTransition::Delta { beta }, _) => beta.dtype(),
            (DeviceTransition::LowRank { .. }, Some(log_decay)) => log_decay.dtype(),
            (DeviceTransition::LowRank { .. }, None) => DType::F32,
        }
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, other: usize) -> usize {
        let (first, second) = match &self.transition {
            DeviceTransition::Delta { beta } => (beta, beta),
            DeviceTransition::LowRank { p, b } => (p, b),
        };
        let views = [&self.query, &self.key, &self.value, first, second];
        let all = views
            .into_iter()
            .chain(self.log_decay.token())
            .map(|rows| rows.buffer().len());
        all.fold(other, usize::max)
    }
}
