//! The prefix on a device: where it lies, and its gradients.

use super::operands::{Side, Source, sizes};
use super::{Call, keys, read};
use crate::cube::{
    ChunkTable, Client, DType, DeviceBuffer, Error, SequenceTable, address_type, cubes, token_buffer,
};
use crate::taylor_attention::problem::{DeviceInputs, Problem};
use cubecl::prelude::*;

/// Keys and values of a prefix.
pub(super) struct Prefix {
    pub key: Source,
    pub value: Source,
    /// The rows of every sequence's.
    pub spans: SequenceTable,
}

impl Prefix {
    /// The prefix of a call, if it has one.
    pub fn of(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<Option<Self>, Error> {
        let (Some(key), Some(value)) = (&inputs.prefix_key, &inputs.prefix_value) else {
            return Ok(None);
        };
        let sequences = Problem::prefix_sequences(inputs.prefix_padding);
        Ok(Some(Self {
            key: Source::new(key, problem.key_dim),
            value: Source::new(value, problem.value_dim),
            spans: SequenceTable::new(client, &sequences, problem.batch, problem.prefix)?,
        }))
    }
}

impl Call<'_> {
    /// The gradients of the keys and values of a prefix, from the cotangent of the state after it.
    pub(super) fn pull_back_prefix(
        &self,
        prefix: &Prefix,
        by_state: &DeviceBuffer,
    ) -> Result<[DeviceBuffer; 2], Error> {
        let (client, problem) = (self.client, self.problem);
        let sequences = Problem::prefix_sequences(self.inputs.prefix_padding);
        let rows = problem.batch * problem.prefix * problem.heads;
        let buffer = |dim: usize| token_buffer(client, &sequences, rows * dim, DType::F32);
        let (by_key, by_value) = (buffer(problem.key_dim)?, buffer(problem.value_dim)?);
        let chunks = ChunkTable::new(
            client,
            &sequences,
            problem.batch,
            problem.prefix,
            self.plan.tiling().size,
        )?;
        let places = chunks.count() * problem.heads;
        if places == 0 {
            return Ok([by_key, by_value]);
        }
        let longest = self.longest().max(by_state.len());
        let units = CubeDim::new_1d(self.plan.tiling().units() as u32);
        keys::keys::launch(
            client,
            cubes(client, places)?,
            units,
            address_type(client, longest)?,
            prefix.key.panel(),
            prefix.key.panel(),
            prefix.value.panel(),
            prefix.value.panel(),
            self.features.launch(),
            sizes(problem),
            chunks.chunks(),
            by_state.arg(),
            self.log_decay().arg(),
            by_key.arg(),
            places,
            Side::Prefix,
            false,
            self.plan.tiling(),
            [
                prefix.key.elem(),
                prefix.value.elem(),
                prefix.value.elem(),
                self.plan.operands(),
            ],
        );
        let total = places * self.tiles(problem.value_dim);
        read::read::launch(
            client,
            cubes(client, total)?,
            units,
            address_type(client, longest)?,
            prefix.key.panel(),
            prefix.key.panel(),
            prefix.value.panel(),
            self.features.launch(),
            sizes(problem),
            chunks.chunks(),
            by_state.arg(),
            self.log_decay().arg(),
            by_value.arg(),
            problem.value_dim,
            total,
            Side::Prefix,
            false,
            self.plan.tiling(),
            [prefix.key.elem(), prefix.value.elem(), self.plan.operands()],
        );
        Ok([by_key, by_value])
    }
}
