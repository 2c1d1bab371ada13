//! Backward: gradients from the states and their derivatives at chunk boundaries.
//!
//! With dy the derivative by y (that of the output times SiLU(z)) and λ_t the derivative by h_t, complete once C_t dy_t is
//! added:
//!
//! ```text
//! λ_t = e^{Δ_{t+1} A}∘λ_{t+1} + C_t dy_t
//! du = Δ B·λ + D dy      dΔ = λ·(A∘e^{Δ A}∘h_{t-1} + u B)      dB = Σ_d Δ u λ      dC = Σ_d dy h_t
//! dA = Σ_t Δ e^{Δ A}∘h_{t-1}∘λ      dD = Σ_t u dy      dz = dout (C·h + D u) SiLU'(z)
//! ```
//!
//! λ runs backwards by the law that h runs forwards by, with the same decays. So the forward passes over chunks give the
//! state that each chunk begins with, the same passes from the back give the derivative that each chunk ends with, and then
//! all chunks go at once. Sums over channels, chunks and sequences leave through partial sums, added in a fixed order.

use cubecl::prelude::*;

use super::forward::Chunks;
use super::gradients::{PartsLaunch, TokensLaunch, gradients};
use super::operands::{Scan, Variant, zeros};
use super::plan::Tile;
use crate::cube::partial::sum_partials;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, Error, Limits, address_type, cubes, token_buffer};
use crate::selective_scan::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, Problem};

/// The gradients of [`forward`](super::forward), with one state per chunk in memory: 32 tokens, fewer where a device has
/// little shared memory.
///
/// # Shapes
/// `initial_state` `[batch, channels, state_dim]` in f32, zeros if there is none; [`DeviceGradients`] has the others.
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
    problem.validate_on_device(inputs, initial_state, Some(cotangents))?;
    let tile = Tile::new(problem, &Limits::of(client));
    let chunks = Chunks::new(client, problem, inputs, tile.chunk_size())?;
    let (states, _) = chunks.states(client, problem, inputs, initial_state)?;
    let adjoints = DeviceBuffer::empty(client, states.len(), DType::F32)?;
    let count = chunks.table.count();
    let total = DeviceInputs::cubes(problem, tile, count);
    let longest = inputs.longest(&[states.len(), cotangents.out.buffer().len()]);
    if total > 0 {
        summarise_adjoint::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(tile.units as u32),
            address_type(client, longest)?,
            inputs.scan(problem, chunks.table.chunks(), total),
            cotangents.out.view(),
            adjoints.arg(),
            inputs.variant(tile, 3),
            inputs.dtype().elem(),
        );
    }
    let state = chunks.pass(
        client,
        problem,
        inputs,
        &adjoints,
        cotangents.state.as_ref(),
        true,
    )?;
    let buffers = Buffers::new(client, problem, inputs, tile, count)?;
    if total > 0 {
        gradients::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(tile.units as u32),
            address_type(client, longest.max(buffers.b.len()))?,
            inputs.scan(problem, chunks.table.chunks(), total),
            cotangents.out.view(),
            states.arg(),
            adjoints.arg(),
            buffers.tokens(),
            buffers.parts(),
            inputs.variant(tile, 3),
            inputs.dtype().elem(),
        );
    }
    buffers.sum(client, problem, inputs, count, state)
}

/// What the last pass writes: gradients per token and channel, and partial sums of the others.
struct Buffers {
    input: DeviceBuffer,
    step_size: DeviceBuffer,
    gate: DeviceBuffer,
    /// Terms of dB, and of dC, one for each tile of channels, `[rows, groups, tiles, state_dim]`.
    b: DeviceBuffer,
    c: DeviceBuffer,
    /// Terms of dA, one for each chunk, `[chunks, channels, state_dim]`.
    a: DeviceBuffer,
    /// Terms of dD, one for each chunk, `[chunks, channels]`.
    skip: DeviceBuffer,
    /// Tiles of the channels of a group.
    tiles: usize,
}

impl Buffers {
    fn new(
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        tile: Tile,
        chunks: usize,
    ) -> Result<Self, Error> {
        let token = |columns| {
            token_buffer(
                client,
                &inputs.sequences,
                problem.rows(&inputs.sequences) * columns,
                DType::F32,
            )
        };
        let constant = |len| DeviceBuffer::empty(client, len, DType::F32);
        let tiles = problem.channels_per_group().div_ceil(tile.units);
        let columns = problem.groups * tiles * problem.state_dim;
        Ok(Self {
            input: token(problem.channels)?,
            step_size: token(problem.channels)?,
            gate: token(if inputs.gate.is_some() {
                problem.channels
            } else {
                0
            })?,
            b: token(columns)?,
            c: token(columns)?,
            a: constant(chunks * problem.channels * problem.state_dim)?,
            skip: constant(if inputs.skip.is_some() {
                chunks * problem.channels
            } else {
                0
            })?,
            tiles,
        })
    }

    fn tokens(&self) -> TokensLaunch {
        TokensLaunch::new(self.input.arg(), self.step_size.arg(), self.gate.arg())
    }

    fn parts(&self) -> PartsLaunch {
        PartsLaunch::new(self.a.arg(), self.b.arg(), self.c.arg(), self.skip.arg())
    }

    /// Adds up the partial sums.
    fn sum(
        self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        chunks: usize,
        state: DeviceBuffer,
    ) -> Result<DeviceGradients, Error> {
        let sum = |partial: &DeviceBuffer, parts, size, len| {
            let out = DeviceBuffer::empty(client, len, DType::F32)?;
            sum_partials(client, partial, &out, parts, size)?;
            Ok::<_, Error>(out)
        };
        let (size, rows) = (problem.state_dim, problem.rows(&inputs.sequences));
        let constants = problem.channels * size;
        let per_token = rows * problem.groups * size;
        let over_tiles = |partial: DeviceBuffer| match self.tiles {
            1 => Ok(partial),
            tiles => sum(&partial, tiles, size, per_token),
        };
        Ok(DeviceGradients {
            a: sum(&self.a, chunks, constants, constants)?,
            skip: match inputs.skip {
                Some(_) => Some(sum(&self.skip, chunks, problem.channels, problem.channels)?),
                None => None,
            },
            b: over_tiles(self.b)?,
            c: over_tiles(self.c)?,
            gate: inputs.gate.is_some().then_some(self.gate),
            input: self.input,
            step_size: self.step_size,
            state,
        })
    }
}

/// What the tokens of each chunk add to the derivative by the state that the chunk begins with.
#[cube(launch, address_type = "dynamic")]
fn summarise_adjoint<F: Float>(
    scan: &Scan<F>,
    cotangent: &RowsView<F>,
    updates: &mut [f32],
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= scan.cubes {
        terminate!();
    }
    let place = scan.place(variant);
    if !place.active {
        terminate!();
    }
    for t in 0..scan.state_dim.div_ceil(comptime!(variant.tile.state)) {
        let first = t * comptime!(variant.tile.state);
        let a = scan.load(&scan.a, place.constants, first, variant);
        let mut adjoint = zeros(variant);
        for back in place.start..place.end {
            let row = place.end + place.start - 1 - back;
            let step = scan.step_size.at(row, place.channel);
            let dy = cotangent.at(row, place.channel) * scan.silu_of_gate(row, place.channel, variant);
            #[unroll]
            for i in 0..comptime!(variant.tile.state) {
                let c = scan.c_at(row, place.group, first + i, variant);
                adjoint[i] = (step * a[i]).exp() * (adjoint[i] + c * dy);
            }
        }
        scan.store(updates, &adjoint, place.states, first, variant);
    }
}
