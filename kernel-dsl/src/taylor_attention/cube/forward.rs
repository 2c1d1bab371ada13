//! Output and final state.

use cubecl::prelude::*;

use super::operands::{Side, sizes};
use super::prefix::Prefix;
use super::states::Direction;
use super::{Call, Plan, read};
use crate::cube::{Client, DType, DeviceBuffer, Error, address_type, launch_units};
use crate::taylor_attention::problem::{DeviceInputs, DeviceOutputs, Problem};

/// Taylor attention by chunks, behind its prefix (see [`taylor_attention`](crate::taylor_attention) for the formula).
///
/// # Shapes
/// `state` in f32 as [`Problem::state_len`] says, zeros if there is none; see [`DeviceOutputs`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn chunked(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    let plan = Plan::new(client.properties(), problem, inputs)?;
    chunked_by(client, problem, plan, inputs, state)
}

/// [`chunked`] in tiles of the caller's choice.
///
/// # Errors
/// As [`chunked`].
pub fn chunked_by(
    client: &Client,
    problem: &Problem,
    plan: Plan,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    let call = Call::new(client, problem, plan, inputs)?;
    let ReadOut { read, end, .. } = call.read_out(state)?;
    Ok(DeviceOutputs {
        out: normalise(client, problem, &read, inputs.query.dtype())?,
        state: end,
    })
}

/// What the forward pass leaves before the output is divided.
pub(super) struct ReadOut {
    /// ỹ, `[rows, heads, columns]`.
    pub read: DeviceBuffer,
    /// The state before every chunk.
    pub states: DeviceBuffer,
    /// The state after the last token.
    pub end: DeviceBuffer,
}

impl Call<'_> {
    pub(super) fn read_out(&self, state: Option<&DeviceBuffer>) -> Result<ReadOut, Error> {
        let problem = self.problem;
        let prefix = Prefix::of(self.client, problem, self.inputs)?;
        let begin = prefix.map(|prefix| self.begin(&prefix, state)).transpose()?;
        let state = begin.as_ref().or(state);
        let (states, end) = self.states(&self.key, &self.value, state, Direction::Forward)?;
        let read = self.rows(problem.columns(), DType::F32)?;
        let tiles = match self.decays() {
            // The denominator's column has a tile of its own.
            true => self.tiles(problem.value_dim) + problem.columns() - problem.value_dim,
            false => self.tiles(problem.columns()),
        };
        let (total, count, dim) = self.grid(tiles)?;
        if total > 0 {
            read::read::launch(
                self.client,
                count,
                dim,
                address_type(self.client, self.longest())?,
                self.query.panel(),
                self.key.panel(),
                self.value.panel(),
                self.features.launch(),
                sizes(problem),
                self.chunks.chunks(),
                states.arg(),
                self.log_decay().arg(),
                read.arg(),
                problem.columns(),
                total,
                Side::Query,
                self.decays(),
                self.plan.tiling(),
                [self.query.elem(), self.value.elem(), self.plan.operands()],
            );
        }
        Ok(ReadOut { read, states, end })
    }
}

/// y from ỹ: the division by Σ w + ε.
pub(super) fn normalise(
    client: &Client,
    problem: &Problem,
    read: &DeviceBuffer,
    dtype: DType,
) -> Result<DeviceBuffer, Error> {
    let len = read.len() / problem.columns() * problem.value_dim;
    let out = DeviceBuffer::empty(client, len, dtype)?;
    launch_units!(
        normalise_kernel,
        client,
        len,
        read.len(),
        read.arg(),
        out.arg(),
        problem.value_dim,
        problem.normalizer.unwrap_or(0.0),
        len,
        problem.normalizer.is_some(),
        dtype.elem(),
    );
    Ok(out)
}

#[cube(launch, address_type = "dynamic")]
fn normalise_kernel<F: Float>(
    read: &[f32],
    out: &mut [F],
    value_dim: usize,
    eps: f32,
    len: usize,
    #[comptime] normalised: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < len {
        if comptime!(normalised) {
            let row = ABSOLUTE_POS / value_dim * (value_dim + 1);
            let value = read[row + ABSOLUTE_POS % value_dim];
            let mut y = 0.0f32;
            // Rows of padding are 0, their sums of weights too.
            if value != 0.0f32 {
                y = value / (read[row + value_dim] + eps);
            }
            out[ABSOLUTE_POS] = F::cast_from(y);
        } else {
            out[ABSOLUTE_POS] = F::cast_from(read[ABSOLUTE_POS]);
        }
    }
}
