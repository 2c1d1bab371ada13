//! Forward: a cube goes through the tokens of a channel of a sequence, chunk by chunk, with modes in its units.

use cubecl::prelude::*;

use super::low_rank;
use super::operands::{
    System, SystemLaunch, Variant, longest, max_one, modes, sum_of_units, validate, zeros,
};
use crate::cube::{
    ChunkTable, Client, DType, DeviceBuffer, Error, Limits, address_type, cubes, token_buffer,
};
use crate::linear_state_space::problem::{DeviceInputs, DeviceOutputs, Problem};

/// The recurrence (see [`linear_state_space`](crate::linear_state_space) for the formula).
///
/// # Errors
/// [`Error`] when a shape, a type or a choice is wrong, or when the device cannot run it.
pub fn forward(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<DeviceOutputs, Error> {
    validate(problem, inputs)?;
    if problem.rank > 0 {
        return low_rank::forward(client, problem, inputs);
    }
    let walk = Walk::new(client, problem, inputs)?;
    let out = token_buffer(
        client,
        &problem.sequences,
        problem.out_len(),
        inputs.input.dtype(),
    )?;
    let state = walk.run(client, problem, inputs, Some(&out), None)?;
    Ok(DeviceOutputs { out, state })
}

/// What both directions begin with.
pub(super) struct Walk {
    pub variant: Variant,
    pub table: ChunkTable,
    pub modes: DeviceBuffer,
}

impl Walk {
    pub(super) fn new(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<Self, Error> {
        let variant = Variant::new(problem, inputs, &Limits::of(client));
        Ok(Self {
            variant,
            table: ChunkTable::new(
                client,
                &problem.sequences,
                problem.batch,
                problem.time,
                variant.tokens,
            )?,
            modes: modes(client, problem, inputs, variant)?,
        })
    }

    pub(super) fn system<F: Float>(&self, problem: &Problem, inputs: &DeviceInputs) -> SystemLaunch<F> {
        SystemLaunch::new(
            inputs.input.view(),
            // What is absent is not read.
            inputs.token_step_size.as_ref().unwrap_or(&inputs.input).view(),
            self.modes.arg(),
            inputs.c.arg(),
            inputs.skip.as_ref().unwrap_or(&inputs.c).arg(),
            self.table.chunks(),
            self.table.sequences(),
            problem.channels,
            problem.state_dim,
            problem.batch * problem.channels,
        )
    }

    /// Goes through all tokens, and gives the states after the last ones. Writes the outputs, where they are wanted, and the states
    /// before each chunk, `[chunks, channels, state_dim, 2]`.
    pub(super) fn run(
        &self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        out: Option<&DeviceBuffer>,
        boundaries: Option<&DeviceBuffer>,
    ) -> Result<DeviceBuffer, Error> {
        let state = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
        let total = problem.batch * problem.channels;
        if total == 0 {
            return Ok(state);
        }
        let sizes = [out, boundaries, Some(&state)].map(|buffer| buffer.map_or(0, DeviceBuffer::len));
        // A state of no mode leaves outputs of D alone; kernels index modes, of which there is then one of zeros.
        let pass = Pass {
            initial: inputs.state.is_some(),
            read: out.is_some() && problem.outputs > 0,
            keep: boundaries.is_some(),
        };
        let spare = DeviceBuffer::empty(client, 1, DType::F32)?;
        let spare_out = DeviceBuffer::empty(client, 1, inputs.input.dtype())?;
        walk_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(self.variant.units as u32),
            address_type(client, longest(inputs, &sizes))?,
            self.system(problem, inputs),
            inputs.state.as_ref().unwrap_or(&inputs.c).arg(),
            state.arg(),
            boundaries.unwrap_or(&spare).arg(),
            out.filter(|_| pass.read).unwrap_or(&spare_out).arg(),
            pass,
            self.variant,
            inputs.input.dtype().elem(),
        );
        Ok(state)
    }
}

/// What a walk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pass {
    /// Whether it begins with given states, not with zeros.
    initial: bool,
    /// Whether it reads out.
    read: bool,
    /// Whether it keeps the states before each chunk.
    keep: bool,
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn walk_kernel<F: Float>(
    system: &System<F>,
    initial: &[f32],
    last: &mut [f32],
    boundaries: &mut [f32],
    out: &mut [F],
    #[comptime] pass: Pass,
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= system.cubes {
        terminate!();
    }
    let sequence = CUBE_POS / system.channels;
    let channel = CUBE_POS % system.channels;
    let rates = system.load_modes(channel, variant);
    let c = system.load_c(channel, variant);
    let mut x = if comptime!(pass.initial) {
        system.load(initial, CUBE_POS, variant)
    } else {
        zeros(comptime!(2 * variant.modes))
    };
    // What each unit adds to each output of each token.
    let mut shared = Shared::<[f32]>::new_slice(comptime!(max_one(
        variant.outputs * variant.tokens * variant.units
    )));
    let unit = UNIT_POS as usize;
    for chunk in system.sequences[2 * sequence]..system.sequences[2 * sequence + 1] {
        let chunk = chunk as usize;
        if comptime!(pass.keep) {
            system.store(boundaries, chunk * system.channels + channel, &x, variant);
        }
        let start = system.chunks[3 * chunk] as usize;
        let end = system.chunks[3 * chunk + 1] as usize;
        for row in start..end {
            let modes = system.at_token(&rates, row, channel, variant);
            system.advance(&modes, system.input.at(row, channel), &mut x, variant);
            if comptime!(pass.read) {
                #[unroll]
                for o in 0..comptime!(variant.outputs) {
                    let mut sum = 0.0f32;
                    #[unroll]
                    for i in 0..comptime!(variant.modes) {
                        let at = 2 * (o * comptime!(variant.modes) + i);
                        sum += c[at] * x[2 * i] - c[at + 1] * x[2 * i + 1];
                    }
                    shared[((row - start) * comptime!(variant.outputs) + o) * comptime!(variant.units)
                        + unit] = sum;
                }
            }
        }
        if comptime!(pass.read) {
            sync_cube();
            let mut index = unit;
            while index < (end - start) * comptime!(variant.outputs) {
                let row = start + index / comptime!(max_one(variant.outputs));
                let column = index % comptime!(max_one(variant.outputs)) * system.channels + channel;
                let mut y = sum_of_units(&shared, index * comptime!(variant.units), variant);
                if comptime!(variant.skip) {
                    y += system.skip[column] * system.input.at(row, channel);
                }
                out[row * comptime!(variant.outputs) * system.channels + column] = F::cast_from(y);
                index += comptime!(variant.units);
            }
            sync_cube();
        }
    }
    system.store(last, CUBE_POS, &x, variant);
}
