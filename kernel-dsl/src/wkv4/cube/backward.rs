//! Backward: gradients from the states and their derivatives at chunk boundaries.
//!
//! With the true sums N_t and M_t (numerator and denominator times e^max), Z_t = M_{t-1} + e^{u+k_t} and ō_t the derivative
//! by the output:
//!
//! ```text
//! ν_{t-1} = e^w ν_t + ō_t / Z_t          μ_{t-1} = e^w μ_t − ō_t o_t / Z_t          derivatives by N_{t-1}, M_{t-1}
//! ∂v_t = ō_t e^{u+k_t} / Z_t + e^{k_t} ν_t
//! ∂k_t = ō_t (v_t − o_t) e^{u+k_t} / Z_t + e^{k_t} (ν_t v_t + μ_t)
//! ∂u += ō_t (v_t − o_t) e^{u+k_t} / Z_t          ∂w += e^w (ν_t N_{t-1} + μ_t M_{t-1})
//! ```
//!
//! (ν, μ) runs backwards by the law that (N, M) runs forwards by, and is kept with an exponent of its own for the same
//! reason. That exponent is the largest of w(s−t−1) − q_s over the later reads s, whose own exponent q_s is at least every
//! k_t + w(s−1−t): no exponential here has a positive exponent. What the loss wants from the state's maximum itself, ρ,
//! goes the way that the larger operand of each m_t = max(m_{t-1} + w, k_t) came from.

use cubecl::prelude::*;

use super::forward::chunk_states;
use super::operands::{LEAST_LOG_DECAY, Wkv, combine, empty, load, store};
use crate::cube::partial::sum_partials;
use crate::cube::view::RowsView;
use crate::cube::{
    ChunkTable, Client, DType, DeviceBuffer, Error, Limits, address_type, cubes, token_buffer,
};
use crate::wkv4::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, Problem};

/// Units of a cube.
const UNITS: usize = 32;

/// The gradients of [`forward`](super::forward), with one state per chunk of 32 tokens in memory.
///
/// # Shapes
/// `initial_state` `[batch, 3, channels]` in f32, empty if there is none; [`DeviceGradients`] has the others.
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
    let tokens = (Limits::of(client).shared_memory / (12 * UNITS)).clamp(1, 32);
    let table = ChunkTable::new(client, &inputs.sequences, problem.batch, problem.time, tokens)?;
    let (states, end) = chunk_states(client, problem, inputs, &table, initial_state)?;
    let per_chunk = |parts| DeviceBuffer::empty(client, table.count() * parts * problem.channels, DType::F32);
    let sweep = Sweep {
        states,
        adjoints: per_chunk(4)?,
        by_key: token_buffer(
            client,
            &inputs.sequences,
            problem.rows(&inputs.sequences) * problem.channels,
            DType::F32,
        )?,
        by_value: token_buffer(
            client,
            &inputs.sequences,
            problem.rows(&inputs.sequences) * problem.channels,
            DType::F32,
        )?,
        by_decay: per_chunk(1)?,
        by_bonus: per_chunk(1)?,
        table,
        tokens,
    };
    sweep.launch(client, problem, inputs, cotangents, true)?;
    let state = sweep.pass(client, problem, inputs, (initial_state, &end), cotangents)?;
    sweep.launch(client, problem, inputs, cotangents, false)?;
    let sum = |partial: &DeviceBuffer| {
        let out = DeviceBuffer::empty(client, problem.channels, DType::F32)?;
        sum_partials(client, partial, &out, sweep.table.count(), problem.channels)?;
        Ok::<_, Error>(out)
    };
    Ok(DeviceGradients {
        log_decay: sum(&sweep.by_decay)?,
        bonus: sum(&sweep.by_bonus)?,
        key: sweep.by_key,
        value: sweep.by_value,
        state,
    })
}

/// The chunks, and what goes into and comes out of a sweep over them.
struct Sweep {
    table: ChunkTable,
    /// Tokens of a chunk.
    tokens: usize,
    /// The state that each chunk begins with, `[chunks, 3, channels]`.
    states: DeviceBuffer,
    /// (ν, μ, exponent, ρ) that each chunk ends with, `[chunks, 4, channels]`.
    adjoints: DeviceBuffer,
    by_key: DeviceBuffer,
    by_value: DeviceBuffer,
    /// Partial sums, `[chunks, channels]`.
    by_decay: DeviceBuffer,
    by_bonus: DeviceBuffer,
}

impl Sweep {
    fn launch(
        &self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        cotangents: &DeviceCotangents,
        summary: bool,
    ) -> Result<(), Error> {
        let units = self.table.count() * problem.channels;
        if units == 0 {
            return Ok(());
        }
        let longest = self.adjoints.len().max(cotangents.out.buffer().len());
        sweep_kernel::launch(
            client,
            cubes(client, units.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, inputs.longest(longest))?,
            inputs.wkv(problem, self.table.chunks(), self.table.count()),
            cotangents.out.view(),
            self.states.arg(),
            self.adjoints.arg(),
            self.by_key.arg(),
            self.by_value.arg(),
            self.by_decay.arg(),
            self.by_bonus.arg(),
            self.tokens,
            summary,
            inputs.dtype().elem(),
        );
        Ok(())
    }

    /// Turns what each chunk adds to the derivatives into those that it ends with; gives those by the initial states.
    fn pass(
        &self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        (initial, end): (Option<&DeviceBuffer>, &DeviceBuffer),
        cotangents: &DeviceCotangents,
    ) -> Result<DeviceBuffer, Error> {
        let by_state = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
        let units = problem.batch * problem.channels;
        if units > 0 {
            pass_kernel::launch(
                client,
                cubes(client, units.div_ceil(UNITS))?,
                CubeDim::new_1d(UNITS as u32),
                address_type(client, self.adjoints.len().max(by_state.len()))?,
                self.adjoints.arg(),
                inputs.log_decay.arg(),
                self.table.chunks(),
                self.table.sequences(),
                cotangents.state.as_ref().unwrap_or(&inputs.bonus).arg(),
                initial.unwrap_or(&inputs.bonus).arg(),
                end.arg(),
                by_state.arg(),
                problem.channels,
                units,
                cotangents.state.is_some(),
                initial.is_some(),
            );
        }
        Ok(by_state)
    }
}

/// Sweeps one chunk from its last token to its first. A summary begins with no derivative and gives what the chunk adds, and 1
/// where the maximum came through the chunk by decay alone, else 0; otherwise all gradients of the chunk's tokens.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn sweep_kernel<F: Float>(
    wkv: &Wkv<F>,
    cotangent: &RowsView<F>,
    states: &[f32],
    adjoints: &mut [f32],
    by_key: &mut [f32],
    by_value: &mut [f32],
    by_decay: &mut [f32],
    by_bonus: &mut [f32],
    #[comptime] tokens: usize,
    #[comptime] summary: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= wkv.units {
        terminate!();
    }
    let place = wkv.place(3usize);
    let channels = wkv.channels;
    let channel = place.channel;
    let decay = wkv.log_decay_at(channel);
    // The state before each token; a unit touches its own only.
    let mut trail = Shared::<[f32]>::new_slice(comptime!(3 * tokens * UNITS));
    let unit = UNIT_POS as usize;
    let mut state = load(states, place.segment, channels, channel, 3usize);
    for row in place.start..place.end {
        let at = (row - place.start) * 3 * UNITS + unit;
        trail[at] = state[0];
        trail[at + UNITS] = state[1];
        trail[at + 2 * UNITS] = state[2];
        wkv.advance(&mut state, row, channel);
    }
    let mut by_max = 1.0f32;
    let mut adjoint = empty();
    if comptime!(!summary) {
        let offset = place.segment * 4 * channels + channel;
        adjoint[0] = adjoints[offset];
        adjoint[1] = adjoints[offset + channels];
        adjoint[2] = adjoints[offset + 2 * channels];
        by_max = adjoints[offset + 3 * channels];
    }
    let mut sum_decay = 0.0f32;
    let mut sum_bonus = 0.0f32;
    for later in place.start..place.end {
        let row = place.end + place.start - 1 - later;
        let at = (row - place.start) * 3 * UNITS + unit;
        state[0] = trail[at];
        state[1] = trail[at + UNITS];
        state[2] = trail[at + 2 * UNITS];
        let read = wkv.read(&state, row, channel);
        let out = cotangent.at(row, channel);
        let key = wkv.key_at(row, channel);
        let decayed = state[2] + decay >= key;
        if comptime!(!summary) {
            let value = wkv.value.at(row, channel);
            let by_present = out * read[1] * (value - read[0]);
            let kept = (key + adjoint[2]).exp();
            let max_by_key = select(decayed, 0.0f32, by_max);
            by_value[row * channels + channel] = out * read[1] + kept * adjoint[0];
            by_key[row * channels + channel] =
                by_present + kept * (adjoint[0] * value + adjoint[1]) + max_by_key;
            sum_bonus += by_present;
            let passed = (decay + adjoint[2] + state[2]).exp();
            sum_decay += passed * (adjoint[0] * state[0] + adjoint[1] * state[1]) + by_max - max_by_key;
        }
        by_max = select(decayed, by_max, 0.0f32);
        combine(
            &mut adjoint,
            decay,
            out * read[2],
            -out * read[2] * read[0],
            -read[3],
        );
    }
    if comptime!(summary) {
        store(adjoints, &adjoint, place.segment, channels, channel, 4usize);
        adjoints[(place.segment * 4 + 3) * channels + channel] = by_max;
    } else {
        by_decay[place.segment * channels + channel] = sum_decay;
        by_bonus[place.segment * channels + channel] = sum_bonus;
    }
}

/// An exclusive scan over the chunks of each sequence from the last to the first, in place.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn pass_kernel(
    adjoints: &mut [f32],
    log_decay: &[f32],
    chunks: &[u32],
    sequences: &[u32],
    cotangent: &[f32],
    initial: &[f32],
    end: &[f32],
    by_state: &mut [f32],
    channels: usize,
    units: usize,
    #[comptime] has_cotangent: bool,
    #[comptime] has_initial: bool,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let sequence = ABSOLUTE_POS / channels;
    let channel = ABSOLUTE_POS % channels;
    let decay = max(log_decay[channel], LEAST_LOG_DECAY);
    let first = if comptime!(has_initial) {
        load(initial, sequence, channels, channel, 3usize)
    } else {
        empty()
    };
    let mut adjoint = empty();
    let mut by_max = 0.0f32;
    if comptime!(has_cotangent) {
        let last = load(end, sequence, channels, channel, 3usize);
        let offset = sequence * 3 * channels + channel;
        adjoint[0] = cotangent[offset];
        adjoint[1] = cotangent[offset + channels];
        adjoint[2] = -last[2];
        by_max = cotangent[offset + 2 * channels] - adjoint[0] * last[0] - adjoint[1] * last[1];
    }
    let begin = sequences[2 * sequence] as usize;
    let after = sequences[2 * sequence + 1] as usize;
    for later in begin..after {
        let chunk = after + begin - 1 - later;
        // All values are in registers before any is overwritten.
        let offset = chunk * 4 * channels + channel;
        let n = adjoints[offset];
        let d = adjoints[offset + channels];
        let m = adjoints[offset + 2 * channels];
        let kept = adjoints[offset + 3 * channels];
        store(adjoints, &adjoint, chunk, channels, channel, 4usize);
        adjoints[offset + 3 * channels] = by_max;
        by_max *= kept;
        let tokens = f32::cast_from(chunks[3 * chunk + 1] - chunks[3 * chunk]);
        combine(&mut adjoint, decay * tokens, n, d, m);
    }
    let scale = (adjoint[2] + first[2]).exp();
    adjoint[0] *= scale;
    adjoint[1] *= scale;
    adjoint[2] = by_max + adjoint[0] * first[0] + adjoint[1] * first[1];
    store(by_state, &adjoint, sequence, channels, channel, 3usize);
}
