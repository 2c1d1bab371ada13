//! Backward: one sweep back over every head, chunk by chunk, from the states at chunk boundaries.
//!
//! With G the derivative by S_t, complete once scale·q_t dy_tᵀ is added, and S = S_{t−1}:
//!
//! ```text
//! dq_t = scale·S_t dy_t
//! low rank   S_t = a∘S + b uᵀ + k vᵀ,  u = Sᵀp        du = Gᵀb   dk = G v   dv = Gᵀk   db = G u   dp = S du
//!                                                     d ln a = a∘Σ_v G∘S    dS = a∘G + p duᵀ
//! delta      S_t = R + β k eᵀ,  R = a∘S,  e = v − Rᵀk   de = β Gᵀk   dβ = kᵀG e   dk = β G e − R de   dv = de
//!                                                     dR = G − k deᵀ   d ln a = Σ_v dR∘R   dS = a∘dR
//! ```
//!
//! Sums over keys stay inside of a cube. Sums over values leave it as partial sums, one per tile of columns, which are
//! added in a fixed order together with those of the heads that share a group.

use cubecl::prelude::*;

use super::forward::{Keep, walk};
use super::operands::Variant;
use super::plan::{Tile, backward_chunk_size};
use super::sweep::{PartsLaunch, sweep};
use super::token_buffer;
use crate::cube::partial::sum_partials;
use crate::cube::{ChunkTable, Client, DType, DeviceBuffer, Error, Limits, address_type, cubes};
use crate::decay::{DecayScope, LogDecay};
use crate::delta_rule::problem::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceTransitionGradients, Problem, TransitionKind,
};

/// The gradients of [`forward`](super::forward), with about 2 √time states of each head in memory.
///
/// # Shapes
/// `initial_state` `[batch, heads, key_dim, value_dim]` in f32, zeros if there is none; [`DeviceGradients`] has the others.
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
    let tile = Tile::backward(problem, &Limits::of(client))?;
    let tokens = backward_chunk_size(problem.time);
    let table = ChunkTable::new(client, &inputs.sequences, problem.batch, problem.time, tokens)?;
    let len = table.count() * problem.heads * problem.head_state_len();
    let states = DeviceBuffer::empty(client, len, DType::F32)?;
    walk(
        client,
        problem,
        inputs,
        tile,
        &table,
        initial_state,
        Keep::States(&states),
    )?;
    let total = problem.batch * problem.heads * tile.tiles(problem);
    // Everything that a unit keeps of the tokens of one chunk: its part of the state before each, and what was read of it.
    let trail = DeviceBuffer::empty(
        client,
        total * tokens * (tile.rows + 1) * tile.units(),
        DType::F32,
    )?;
    let buffers = Buffers::new(client, problem, inputs, tile)?;
    let state = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    if total > 0 && problem.key_dim > 0 {
        let by_end = super::state_or_zeros(client, problem, cotangents.state.as_ref())?;
        let longest = states.len().max(trail.len()).max(buffers.query.len());
        sweep::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(tile.units() as u32),
            address_type(client, inputs.longest(longest.max(cotangents.out.buffer().len())))?,
            inputs.tokens(),
            inputs.gates(),
            inputs.sizes(problem, total),
            cotangents.out.view(),
            by_end.arg(),
            states.arg(),
            trail.arg(),
            buffers.parts(),
            state.arg(),
            table.chunks(),
            table.sequences(),
            tokens,
            Variant::new(problem, tile),
            [inputs.dtype().elem(), inputs.gate_type().elem()],
        );
    }
    buffers.sum(client, problem, inputs, tile, state)
}

/// What the sweep writes: the gradient of v, and partial sums of the others.
struct Buffers {
    value: DeviceBuffer,
    /// Terms of dq, one for each tile of columns, `[rows, heads, tiles, key_dim]`; likewise for k, p, b and ln a.
    query: DeviceBuffer,
    key: DeviceBuffer,
    p: DeviceBuffer,
    b: DeviceBuffer,
    log_decay: DeviceBuffer,
    /// Terms of dβ, one for each value column, `[rows, heads, value_dim]`.
    beta: DeviceBuffer,
}

impl Buffers {
    fn new(client: &Client, problem: &Problem, inputs: &DeviceInputs, tile: Tile) -> Result<Self, Error> {
        let on_values = problem.heads * problem.value_dim;
        let on_keys = problem.heads * tile.tiles(problem) * problem.key_dim;
        let token = |used: bool, columns: usize| {
            token_buffer(
                client,
                problem,
                inputs,
                if used { columns } else { 0 },
                DType::F32,
            )
        };
        let delta = problem.transition == TransitionKind::Delta;
        Ok(Self {
            value: token(true, on_values)?,
            query: token(true, on_keys)?,
            key: token(true, on_keys)?,
            p: token(!delta, on_keys)?,
            b: token(!delta, on_keys)?,
            log_decay: token(problem.decay.scope() != DecayScope::None, on_keys)?,
            beta: token(delta, on_values)?,
        })
    }

    fn parts(&self) -> PartsLaunch {
        PartsLaunch::new(
            self.value.arg(),
            self.query.arg(),
            self.key.arg(),
            self.p.arg(),
            self.b.arg(),
            self.log_decay.arg(),
            self.beta.arg(),
        )
    }

    /// Adds up the partial sums.
    fn sum(
        self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        tile: Tile,
        state: DeviceBuffer,
    ) -> Result<DeviceGradients, Error> {
        let (rows, tiles) = (problem.rows(&inputs.sequences), tile.tiles(problem));
        let sum = |partial: DeviceBuffer, parts: usize, size: usize, columns: usize| {
            if parts == 1 {
                return Ok(partial);
            }
            let out = DeviceBuffer::empty(client, rows * columns, DType::F32)?;
            sum_partials(client, &partial, &out, parts, size)?;
            Ok::<_, Error>(out)
        };
        let (heads, key_dim) = (problem.heads, problem.key_dim);
        let shared = |partial| {
            sum(
                partial,
                heads / problem.groups * tiles,
                key_dim,
                problem.groups * key_dim,
            )
        };
        Ok(DeviceGradients {
            query: shared(self.query)?,
            key: shared(self.key)?,
            value: self.value,
            transition: match problem.transition {
                TransitionKind::Delta => DeviceTransitionGradients::Delta {
                    beta: sum(self.beta, problem.value_dim, 1, heads)?,
                },
                TransitionKind::LowRank => DeviceTransitionGradients::LowRank {
                    p: shared(self.p)?,
                    b: shared(self.b)?,
                },
            },
            log_decay: match problem.decay.scope() {
                DecayScope::None => LogDecay::None,
                DecayScope::Head => LogDecay::Token(sum(self.log_decay, tiles * key_dim, 1, heads)?),
                DecayScope::Key => LogDecay::Token(sum(self.log_decay, tiles, key_dim, heads * key_dim)?),
            },
            state,
        })
    }
}
