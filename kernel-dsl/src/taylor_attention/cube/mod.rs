//! Taylor attention on a device: the same mathematics as CubeCL kernels, chunk by chunk.
//!
//! | kernel | what it computes |
//! |---|---|
//! | `sum` | Σ φ(k′) ṽ′ᵀ over a prefix, behind what a sequence begins with |
//! | `updates` | φ(K)ᵀ Ṽ, what each chunk adds to the state; or φ(Q)ᵀ Ȳ, its adjoint |
//! | `pass` | the state before every chunk; or, in reverse, the cotangent after it |
//! | `read` | W Ṽ + φ(Q) S, the output before it is divided; or Wᵀ Ȳ + φ(K) S̄, the gradient of the values |
//! | `keys` | the gradients of queries and of keys |
//! | `decay_of_chunk`, `decay_of_head` | the gradient of ln γ |
//!
//! Features exist for one tile of tokens and features at a time, in shared memory. Products are of tiles, in registers or, where all that is
//! read is bf16, on tensor cores ([`Plan`]); sums and states are f32, and no sum is formed by atomics: the same call gives the same bits
//! on the same device.

mod backward;
mod decay;
mod forward;
mod keys;
mod operands;
mod plan;
mod prefix;
mod read;
mod states;
mod step;

pub use super::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
pub use backward::{backward, backward_by};
pub use forward::{chunked, chunked_by};
pub use plan::Plan;
pub use step::step;

use self::operands::Source;
use crate::cube::{ChunkTable, Client, DType, DeviceBuffer, Error, cubes, token_buffer};
use crate::taylor_attention::Problem;
use cubecl::prelude::*;

/// The parts of a call that its kernels share.
struct Call<'a> {
    client: &'a Client,
    problem: &'a Problem,
    inputs: &'a DeviceInputs<'a>,
    plan: Plan,
    chunks: ChunkTable,
    features: operands::DeviceTable,
    query: Source,
    key: Source,
    value: Source,
}

impl<'a> Call<'a> {
    fn new(
        client: &'a Client,
        problem: &'a Problem,
        plan: Plan,
        inputs: &'a DeviceInputs,
    ) -> Result<Self, Error> {
        let (batch, time, sequences) = (problem.batch, problem.time, &inputs.sequences);
        Ok(Self {
            client,
            problem,
            inputs,
            plan,
            chunks: ChunkTable::new(client, sequences, batch, time, plan.chunk_size())?,
            features: operands::DeviceTable::new(client, &problem.feature_map())?,
            query: Source::new(&inputs.query, problem.key_dim),
            key: Source::new(&inputs.key, problem.key_dim),
            value: Source::new(&inputs.value, problem.value_dim),
        })
    }

    /// Memory for token rows of `cols` values per head; zeros where some rows belong to no sequence.
    fn rows(&self, cols: usize, dtype: DType) -> Result<DeviceBuffer, Error> {
        let len = self.problem.rows(&self.inputs.sequences) * self.problem.heads * cols;
        token_buffer(self.client, &self.inputs.sequences, len, dtype)
    }

    /// Memory for the state before, or the cotangent after, every chunk.
    fn chunk_states(&self) -> Result<DeviceBuffer, Error> {
        let len = self.chunks.count() * self.problem.heads * self.problem.head_state_len();
        DeviceBuffer::empty(self.client, len, DType::F32)
    }

    /// Cubes and units of a launch with `tiles` cubes for every (chunk, head).
    fn grid(&self, tiles: usize) -> Result<(usize, CubeCount, CubeDim), Error> {
        let total = self.chunks.count() * self.problem.heads * tiles;
        Ok((
            total,
            cubes(self.client, total.max(1))?,
            CubeDim::new_1d(self.plan.tiling().units() as u32),
        ))
    }

    /// Tiles of a length.
    fn tiles(&self, len: usize) -> usize {
        len.div_ceil(self.plan.chunk_size())
    }

    /// Whether the numerator decays.
    fn decays(&self) -> bool {
        self.inputs.log_decay.is_some()
    }

    /// ln γ, or some buffer where nothing decays.
    fn log_decay(&self) -> &DeviceBuffer {
        self.inputs.log_decay.as_ref().unwrap_or(self.features.any())
    }

    /// Values of the largest buffer that a kernel indexes.
    fn longest(&self) -> usize {
        let inputs = [&self.inputs.query, &self.inputs.key, &self.inputs.value];
        let prefix = [&self.inputs.prefix_key, &self.inputs.prefix_value];
        let states = self.chunks.count() * self.problem.heads * self.problem.head_state_len();
        let rows = self.problem.rows(&self.inputs.sequences) * self.problem.heads;
        let widest = self.problem.columns().max(self.problem.key_dim);
        let inputs = inputs.into_iter().chain(prefix.into_iter().flatten());
        inputs
            .map(|rows| rows.buffer().len())
            .fold(states.max(rows * widest), usize::max)
    }
}
