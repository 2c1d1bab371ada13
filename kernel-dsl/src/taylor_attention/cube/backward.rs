//! Gradients of query, key, value and initial state.

use cubecl::prelude::*;

use super::operands::{Side, Source, sizes};
use super::prefix::Prefix;
use super::states::Direction;
use super::{Call, Plan, keys, read};
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, address_type, launch_units};
use crate::taylor_attention::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, Problem};

/// Gradients of the loss by all that Taylor attention reads, from the cotangents of its output and of its final state.
///
/// The states of chunks are computed again.
///
/// # Shapes
/// `initial_state` in f32 as [`Problem::state_len`] says, zeros if there is none; see [`DeviceGradients`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    initial_state: Option<&DeviceBuffer>,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    let plan = Plan::new(client.properties(), problem, inputs)?;
    backward_by(client, problem, plan, inputs, initial_state, cotangents)
}

/// [`backward`] in tiles of the caller's choice.
///
/// # Errors
/// As [`backward`].
pub fn backward_by(
    client: &Client,
    problem: &Problem,
    plan: Plan,
    inputs: &DeviceInputs,
    initial_state: Option<&DeviceBuffer>,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    problem.validate_on_device(inputs, initial_state, Some(cotangents))?;
    let call = Call::new(client, problem, plan, inputs)?;
    let forward = call.read_out(initial_state)?;
    let by_read = call.cotangent(&forward.read, &cotangents.out)?;
    let by_read = Source::whole(&by_read, problem.heads, problem.columns())?;
    let by_final = cotangents.state.as_ref();
    let (by_states, state) = call.states(&call.query, &by_read, by_final, Direction::Backward)?;
    let query = call.rows(problem.key_dim, DType::F32)?;
    let key = call.rows(problem.key_dim, DType::F32)?;
    let value = call.rows(problem.value_dim, DType::F32)?;
    call.by_keys(Side::Query, &by_read, &forward.states, &query)?;
    call.by_keys(Side::Key, &by_read, &by_states, &key)?;
    call.by_values(&by_read, &by_states, &value)?;
    let [prefix_key, prefix_value] = match Prefix::of(client, problem, inputs)? {
        Some(prefix) => call.pull_back_prefix(&prefix, &state)?.map(Some),
        None => [None, None],
    };
    let log_decay = match call.decays() {
        true => Some(call.by_decay(&forward, &by_read, &by_states, &value)?),
        false => None,
    };
    Ok(DeviceGradients {
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        log_decay,
        state,
    })
}

impl Call<'_> {
    /// The cotangent of ỹ, `[rows, heads, columns]` in f32.
    fn cotangent(&self, read: &DeviceBuffer, by_out: &DeviceRows) -> Result<DeviceBuffer, Error> {
        let problem = self.problem;
        let by_read = DeviceBuffer::empty(self.client, read.len(), DType::F32)?;
        let total = read.len() / problem.columns();
        launch_units!(
            cotangent_kernel,
            self.client,
            total,
            read.len().max(by_out.buffer().len()),
            read.arg(),
            by_out.view(),
            by_read.arg(),
            problem.heads,
            problem.value_dim,
            problem.normalizer.unwrap_or(0.0),
            total,
            problem.normalizer.is_some(),
            by_out.dtype().elem(),
        );
        Ok(by_read)
    }

    fn by_keys(
        &self,
        side: Side,
        by_read: &Source,
        states: &DeviceBuffer,
        out: &DeviceBuffer,
    ) -> Result<(), Error> {
        let (own, other, own_values, other_values) = match side {
            Side::Query => (&self.query, &self.key, by_read, &self.value),
            Side::Key | Side::Prefix => (&self.key, &self.query, &self.value, by_read),
        };
        let (total, count, dim) = self.grid(1)?;
        if total > 0 {
            keys::keys::launch(
                self.client,
                count,
                dim,
                address_type(self.client, self.longest())?,
                own.panel(),
                other.panel(),
                own_values.panel(),
                other_values.panel(),
                self.features.launch(),
                sizes(self.problem),
                self.chunks.chunks(),
                states.arg(),
                self.log_decay().arg(),
                out.arg(),
                total,
                side,
                self.decays(),
                self.plan.tiling(),
                [
                    own.elem(),
                    own_values.elem(),
                    other_values.elem(),
                    self.plan.operands(),
                ],
            );
        }
        Ok(())
    }

    fn by_values(&self, by_read: &Source, by_states: &DeviceBuffer, out: &DeviceBuffer) -> Result<(), Error> {
        let problem = self.problem;
        let (total, count, dim) = self.grid(self.tiles(problem.value_dim))?;
        if total > 0 {
            read::read::launch(
                self.client,
                count,
                dim,
                address_type(self.client, self.longest())?,
                self.key.panel(),
                self.query.panel(),
                by_read.panel(),
                self.features.launch(),
                sizes(problem),
                self.chunks.chunks(),
                by_states.arg(),
                self.log_decay().arg(),
                out.arg(),
                problem.value_dim,
                total,
                Side::Key,
                self.decays(),
                self.plan.tiling(),
                [self.key.elem(), by_read.elem(), self.plan.operands()],
            );
        }
        Ok(())
    }
}

/// \[ȳ/d, −⟨ȳ, ỹ⟩/d²\], d = Σ w + ε, or ȳ itself.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn cotangent_kernel<F: Float>(
    read: &[f32],
    by_out: &RowsView<F>,
    by_read: &mut [f32],
    heads: usize,
    value_dim: usize,
    eps: f32,
    total: usize,
    #[comptime] normalised: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let row = ABSOLUTE_POS / heads;
        let first = ABSOLUTE_POS % heads * value_dim;
        if comptime!(normalised) {
            let base = ABSOLUTE_POS * (value_dim + 1);
            let gain = 1.0f32 / (read[base + value_dim] + eps);
            let mut along = 0.0f32;
            for col in 0..value_dim {
                let cotangent = by_out.at(row, first + col);
                along += cotangent * read[base + col];
                by_read[base + col] = cotangent * gain;
            }
            by_read[base + value_dim] = -along * gain * gain;
        } else {
            for col in 0..value_dim {
                by_read[ABSOLUTE_POS * value_dim + col] = by_out.at(row, first + col);
            }
        }
    }
}
