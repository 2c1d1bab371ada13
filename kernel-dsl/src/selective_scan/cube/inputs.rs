//! What a selective scan reads on a device, validated before anything is launched.

use crate::cube::{DType, DeviceBuffer, DeviceRows, Error};
use crate::selective_scan::problem::{OPERATOR, Problem};
use crate::sequences::Sequences;

/// What a selective scan reads on a device; as [`Inputs`](crate::selective_scan::Inputs).
///
/// u, Δ, B, C and z have one type, which the output has too. A and D are f32.
#[derive(Clone, Debug)]
pub struct DeviceInputs<'a> {
    /// u, `channels` columns.
    pub input: DeviceRows,
    /// Δ, `channels` columns, after its softplus.
    pub step_size: DeviceRows,
    /// A, `[channels, state_dim]`, negative.
    pub a: DeviceBuffer,
    /// B, `groups·state_dim` columns.
    pub b: DeviceRows,
    /// C, `groups·state_dim` columns.
    pub c: DeviceRows,
    /// D, `[channels]`: y_t += D∘u_t.
    pub skip: Option<DeviceBuffer>,
    /// z, `channels` columns: y_t is multiplied by SiLU(z_t).
    pub gate: Option<DeviceRows>,
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
            channels,
            state_dim,
            groups,
            ..
        } = *problem;
        let (rows, dtype) = (self.rows(problem), self.dtype());
        let check = |operand, view, columns| OPERATOR.device_rows(operand, (rows, columns), dtype, view);
        check("input", &self.input, channels)?;
        check("step_size", &self.step_size, channels)?;
        check("b", &self.b, groups * state_dim)?;
        check("c", &self.c, groups * state_dim)?;
        OPERATOR.device_values("a", (channels * state_dim, DType::F32), &self.a)?;
        if let Some(skip) = &self.skip {
            OPERATOR.device_values("skip", (channels, DType::F32), skip)?;
        }
        match &self.gate {
            Some(gate) => check("gate", gate, channels),
            None => Ok(()),
        }
    }

    /// Rows of every token view.
    pub(super) fn rows(&self, problem: &Problem) -> usize {
        self.sequences.rows(problem.batch, problem.time)
    }

    /// Type of every token view.
    pub(super) fn dtype(&self) -> DType {
        self.input.dtype()
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, others: &[usize]) -> usize {
        let gate = self.gate.as_ref().map_or(0, |rows| rows.buffer().len());
        let views = [&self.input, &self.step_size, &self.b, &self.c].map(|rows| rows.buffer().len());
        let all = views.into_iter().chain([gate]).chain(others.iter().copied());
        all.fold(0, usize::max)
    }
}
