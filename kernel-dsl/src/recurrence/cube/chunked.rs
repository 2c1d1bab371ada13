//! The chunked form: matrix products over chunks of tokens, in passes that each run over all chunks at once.
//!
//! | pass | cubes | what |
//! |---|---|---|
//! | [`chunk_updates`] | chunk, head, tile of the state | what each chunk adds to the state |
//! | [`pass_states`] | 64 values of a state | the state that each chunk meets |
//! | [`scores`] | chunk, head | how strongly tokens of a chunk read each other |
//! | [`read_values`] | chunk, head, tile of values | the output |

use cubecl::prelude::*;

use super::operands::Variant;
use super::plan::Plan;
use super::read_values::read_values;
use super::scores::{Pairs, scores};
use super::staging::{PanelLaunch, Side, panel};
use super::states::{PASSING_UNITS, chunk_updates, pass_states};
use crate::cube::{
    ChunkTable, Client, DType, DeviceBuffer, DeviceRows, Error, address_type, cubes, token_buffer,
};
use crate::recurrence::problem::{DeviceInputs, DeviceOutputs, Problem};

/// The recurrence by chunks (see [`recurrence`](crate::recurrence) for the formula).
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]` in f32, zeros if there is none; see [`DeviceOutputs`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn chunked(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    plan: &Plan,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    let len = problem.rows(&inputs.sequences) * problem.heads * problem.value_dim;
    let out = token_buffer(client, &inputs.sequences, len, inputs.query.dtype())?;
    let passes = Passes::new(client, problem, inputs, plan)?;
    let (entering, end) = passes.states(state)?;
    let weights = passes.scores()?;
    passes.read(&weights, &entering.states, &out)?;
    Ok(DeviceOutputs { out, state: end })
}

/// What the passes of one call share.
pub(super) struct Passes<'a> {
    pub client: &'a Client,
    pub problem: &'a Problem,
    pub inputs: &'a DeviceInputs<'a>,
    pub plan: &'a Plan,
    pub variant: Variant,
    pub table: ChunkTable,
}

/// What each chunk meets, and its decay.
pub(super) struct Entering {
    /// State that each chunk meets, `[chunks, heads, key_dim, value_dim]`.
    pub states: DeviceBuffer,
    /// Sums of the log decays of each chunk, `[chunks, heads, 1 or key_dim]`.
    pub sums: DeviceBuffer,
}

impl<'a> Passes<'a> {
    pub(super) fn new(
        client: &'a Client,
        problem: &'a Problem,
        inputs: &'a DeviceInputs<'a>,
        plan: &'a Plan,
    ) -> Result<Self, Error> {
        let Problem { batch, time, .. } = *problem;
        let table = ChunkTable::new(client, &inputs.sequences, batch, time, plan.chunk_size())?;
        Ok(Self {
            client,
            problem,
            inputs,
            plan,
            variant: Variant::new(problem, inputs, plan.block()),
            table,
        })
    }

    /// Memory for f32 values, `per_head` for each head of each chunk.
    pub(super) fn per_chunk(&self, per_head: usize) -> Result<DeviceBuffer, Error> {
        DeviceBuffer::empty(
            self.client,
            self.table.count() * self.problem.heads * per_head,
            DType::F32,
        )
    }

    /// Cubes for `tiles` tiles of every head of every chunk.
    pub(super) fn total(&self, tiles: usize) -> usize {
        self.table.count() * self.problem.heads * tiles
    }

    pub(super) fn cube_dim(&self) -> CubeDim {
        CubeDim::new_1d(self.plan.tiling().units() as u32)
    }

    /// The integer that indexes the inputs and buffers of these lengths.
    pub(super) fn address(&self, others: &[&DeviceBuffer]) -> Result<AddressType, Error> {
        let others: Vec<usize> = others.iter().map(|buffer| buffer.len()).collect();
        address_type(self.client, self.inputs.longest(&others))
    }

    /// Types of tokens, gates and operands.
    pub(super) fn types(&self) -> [ElemType; 3] {
        [
            self.inputs.query.dtype(),
            self.inputs.gate_type(),
            self.plan.operands(),
        ]
        .map(DType::elem)
    }

    pub(super) fn keys<F: Float>(&self, rows: &DeviceRows) -> PanelLaunch<F> {
        let Problem {
            heads,
            groups,
            key_dim,
            ..
        } = *self.problem;
        panel(rows.view(), heads / groups, key_dim)
    }

    pub(super) fn values<F: Float>(&self, rows: &DeviceRows) -> PanelLaunch<F> {
        panel(rows.view(), 1, self.problem.value_dim)
    }

    /// The state that each chunk meets, and the one after the last token.
    pub(super) fn states(&self, start: Option<&DeviceBuffer>) -> Result<(Entering, DeviceBuffer), Error> {
        let entering = Entering {
            states: self.per_chunk(self.problem.head_state_len())?,
            sums: self.per_chunk(self.problem.decay_sums_per_head())?,
        };
        self.updates(Side::End, &self.inputs.value, &entering.states, &entering.sums)?;
        let end = self.pass(start, &entering.states, &entering.sums, false)?;
        Ok((entering, end))
    }

    /// What each chunk adds to the state, or, towards its begin, to the gradient of the state.
    pub(super) fn updates(
        &self,
        side: Side,
        y: &DeviceRows,
        updates: &DeviceBuffer,
        sums: &DeviceBuffer,
    ) -> Result<(), Error> {
        let Problem {
            key_dim, value_dim, ..
        } = *self.problem;
        let size = self.plan.chunk_size();
        let total = self.total(key_dim.div_ceil(size) * value_dim.div_ceil(size));
        let (x, scale, variant) = match side {
            Side::Begin => (&self.inputs.query, self.inputs.scale, self.variant.of_reads()),
            Side::End => (&self.inputs.key, 1.0, self.variant.of_steps()),
        };
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            chunk_updates::launch_unchecked(
                self.client,
                cubes(self.client, total)?,
                self.cube_dim(),
                self.address(&[updates, y.buffer()])?,
                self.keys(x),
                self.values(y),
                self.inputs.gates(),
                self.inputs.sizes(self.problem),
                self.table.chunks(),
                updates.arg(),
                sums.arg(),
                scale,
                total,
                side,
                variant,
                self.plan.tiling(),
                self.types(),
            );
        }
        Ok(())
    }

    /// Replaces what each chunk adds by what it meets; the result is what comes after the last one met.
    pub(super) fn pass(
        &self,
        start: Option<&DeviceBuffer>,
        updates: &DeviceBuffer,
        sums: &DeviceBuffer,
        reverse: bool,
    ) -> Result<DeviceBuffer, Error> {
        let total = self.problem.state_len();
        let end = DeviceBuffer::empty(self.client, total, DType::F32)?;
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            pass_states::launch_unchecked(
                self.client,
                cubes(self.client, total.div_ceil(PASSING_UNITS))?,
                CubeDim::new_1d(PASSING_UNITS as u32),
                self.address(&[updates, &end])?,
                self.inputs.sizes(self.problem),
                self.table.sequences(),
                start.unwrap_or(self.inputs.query.buffer()).arg(),
                updates.arg(),
                sums.arg(),
                end.arg(),
                self.variant.of_decays(),
                start.is_some(),
                reverse,
                total,
            );
        }
        Ok(end)
    }

    /// How strongly the tokens of each chunk read each other, `[chunks, heads, size, size]`.
    pub(super) fn scores(&self) -> Result<DeviceBuffer, Error> {
        let size = self.plan.chunk_size();
        let (total, out) = (self.total(1), self.per_chunk(size * size)?);
        // Nothing is written there for tokens.
        let own = DeviceBuffer::empty(self.client, 0, DType::F32)?;
        let terms = DeviceBuffer::empty(self.client, 0, DType::F32)?;
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            scores::launch_unchecked(
                self.client,
                cubes(self.client, total)?,
                self.cube_dim(),
                self.address(&[&out])?,
                self.keys(&self.inputs.query),
                self.keys(&self.inputs.key),
                self.inputs.gates(),
                self.inputs.constants(self.problem),
                self.inputs.sizes(self.problem),
                self.table.chunks(),
                self.inputs.query.buffer().arg(),
                out.arg(),
                own.arg(),
                terms.arg(),
                total,
                Pairs::Tokens,
                self.variant.of_reads(),
                self.plan.tiling(),
                self.types(),
            );
        }
        Ok(out)
    }

    /// Writes the output from the scores of every chunk and the state that it meets.
    fn read(&self, weights: &DeviceBuffer, states: &DeviceBuffer, out: &DeviceBuffer) -> Result<(), Error> {
        let total = self.total(self.problem.value_dim.div_ceil(self.plan.chunk_size()));
        let [tokens, gates, operands] = self.types();
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            read_values::launch_unchecked(
                self.client,
                cubes(self.client, total)?,
                self.cube_dim(),
                self.address(&[weights, states, out])?,
                self.keys(&self.inputs.query),
                self.values(&self.inputs.value),
                self.inputs.gates(),
                self.inputs.constants(self.problem),
                self.inputs.sizes(self.problem),
                self.table.chunks(),
                weights.arg(),
                states.arg(),
                out.arg(),
                self.inputs.scale,
                total,
                Side::Begin,
                self.variant,
                self.plan.tiling(),
                [tokens, gates, operands, tokens],
            );
        }
        Ok(())
    }
}
