//! Token by token: a cube for each (sequence, head, tile of value columns), its state in registers.
//!
//! Unit (s, p) of a cube holds the rows `s·R .. (s + 1)·R` of column p of the state. At every token the cube stages q, k
//! and a in shared memory, each unit updates its rows and reads them out, and the partial read-outs are added in the order
//! of s, so that the same call gives the same bits.

use cubecl::prelude::*;

use super::operands::{Constants, Gates, Sizes, Tokens, Variant};
use crate::cube::{
    Client, DType, DeviceBuffer, Error, Limits, SequenceTable, address_type, cubes, token_buffer,
};
use crate::recurrence::problem::{DeviceInputs, DeviceOutputs, Problem, RecurrenceError};

/// How many values a cube of the sequential form holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    /// Rows of the state in one unit.
    rows: usize,
    /// Units along the rows: `rows · slices ≥ key_dim`.
    slices: usize,
    /// Columns of the state.
    columns: usize,
}

impl Tile {
    /// Few rows per unit while there are units left, because they are unrolled.
    fn new(problem: &Problem, limits: &Limits) -> Result<Self, Error> {
        let units = limits.units.min(256);
        let columns = problem.value_dim.next_power_of_two().clamp(1, 32).min(units);
        let most_slices = (units / columns).max(1);
        let rows = problem.key_dim.div_ceil(most_slices).next_power_of_two().max(8);
        let tile = Self {
            rows,
            slices: problem.key_dim.div_ceil(rows).max(1),
            columns,
        };
        let bytes = 4 * (4 * tile.rows * tile.slices + tile.slices * tile.columns);
        if bytes > limits.shared_memory {
            return Err(Error::TooLarge {
                what: "the shared memory of the sequential variant, which grows with key_dim, in bytes",
                limit: limits.shared_memory as u64,
                found: bytes as u64,
            });
        }
        Ok(tile)
    }

    fn units(self) -> usize {
        self.slices * self.columns
    }
}

/// The recurrence over one token of every sequence.
///
/// # Shapes
/// As for [`sequential`], with `time = 1`.
///
/// # Errors
/// As for [`sequential`]; [`RecurrenceError::NotOneToken`] for other lengths.
pub fn step(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    if problem.time != 1 {
        return Err(Error::problem(RecurrenceError::NotOneToken {
            found: problem.time,
        }));
    }
    sequential(client, problem, inputs, state)
}

/// The recurrence token by token (see [`recurrence`](crate::recurrence) for the formula).
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]` in f32, zeros if there is none; see [`DeviceOutputs`] for the results.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn sequential(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    problem.validate_on_device(inputs, state, None)?;
    let tile = Tile::new(problem, &Limits::of(client))?;
    let len = problem.rows(&inputs.sequences) * problem.heads * problem.value_dim;
    let out = token_buffer(client, &inputs.sequences, len, inputs.query.dtype())?;
    let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    let tiles = problem.value_dim.div_ceil(tile.columns);
    let total = problem.batch * problem.heads * tiles;
    if total == 0 {
        return Ok(DeviceOutputs { out, state: end });
    }
    let table = SequenceTable::new(client, &inputs.sequences, problem.batch, problem.time)?;
    // SAFETY: the shapes were validated, and the kernel stays inside of them.
    unsafe {
        sequential_kernel::launch_unchecked(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(tile.units() as u32),
            address_type(client, inputs.longest(&[end.len(), out.len()]))?,
            inputs.tokens(),
            inputs.gates(),
            inputs.constants(problem),
            inputs.sizes(problem),
            state.unwrap_or(inputs.query.buffer()).arg(),
            end.arg(),
            out.arg(),
            table.arg(),
            total,
            // Blocks are for chunks.
            Variant::new(problem, inputs, 0),
            state.is_some(),
            tile,
            [inputs.query.dtype().elem(), inputs.gate_type().elem()],
        );
    }
    Ok(DeviceOutputs { out, state: end })
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn sequential_kernel<F: Float, G: Float>(
    tokens: &Tokens<F>,
    gates: &Gates<G>,
    constants: &Constants,
    sizes: &Sizes,
    start: &[f32],
    end: &mut [f32],
    out: &mut [F],
    table: &[u32],
    total: usize,
    #[comptime] variant: Variant,
    #[comptime] has_state: bool,
    #[comptime] tile: Tile,
    #[define(F, G)] _types: [ElemType; 2],
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let columns = comptime!(tile.columns);
    let rows = comptime!(tile.rows);
    let staged = comptime!(tile.rows * tile.slices);
    let units = comptime!(tile.slices * tile.columns);
    let unrolled = comptime!(tile.rows <= 16);
    let (key_dim, value_dim) = (sizes.key_dim, sizes.value_dim);
    let tiles = value_dim.div_ceil(columns);
    let head = CUBE_POS / tiles % sizes.heads;
    let sequence = CUBE_POS / tiles / sizes.heads;
    let group = head / sizes.heads_per_group;
    let unit = UNIT_POS as usize;
    let slice = unit / columns;
    let first = slice * rows;
    let p = CUBE_POS % tiles * columns + unit % columns;
    let base = (sequence * sizes.heads + head) * key_dim * value_dim + p;

    let mut query = Shared::<[f32]>::new_slice(staged);
    let mut key = Shared::<[f32]>::new_slice(staged);
    let mut decay = Shared::<[f32]>::new_slice(staged);
    let mut bonus = Shared::<[f32]>::new_slice(staged);
    let mut partial = Shared::<[f32]>::new_slice(units);

    let mut state = Array::<f32>::new(rows);
    #[unroll(unrolled)]
    for r in 0..rows {
        let mut h = 0.0f32;
        if comptime!(has_state) {
            if first + r < key_dim && p < value_dim {
                h = start[base + (first + r) * value_dim];
            }
        }
        state[r] = h;
    }
    let begin = table[2 * sequence] as usize;
    let stop = table[2 * sequence + 1] as usize;
    for t in begin..stop {
        let mut n = unit;
        while n < staged {
            let mut q = 0.0f32;
            let mut k = 0.0f32;
            let mut a = 0.0f32;
            let mut b = 0.0f32;
            if n < key_dim {
                q = sizes.scale * tokens.query.at(t, group * key_dim + n);
                k = tokens.key.at(t, group * key_dim + n);
                a = exp_minus_one(gates.log_decay(sizes, t, head, n, variant));
                if comptime!(variant.bonus) {
                    b = constants.bonus[head * key_dim + n] * k;
                }
            }
            query[n] = q;
            key[n] = k;
            decay[n] = a;
            bonus[n] = b;
            n += units;
        }
        sync_cube();
        let mut v = 0.0f32;
        if p < value_dim {
            v = tokens.value.at(t, head * value_dim + p);
        }
        let update = v * gates.step_size(t, head, variant);
        let mut sum = 0.0f32;
        #[unroll(unrolled)]
        for r in 0..rows {
            let n = first + r;
            let before = state[r];
            let after = (before + decay[n] * before) + key[n] * update;
            if comptime!(variant.bonus) {
                sum += query[n] * (before + bonus[n] * update);
            } else {
                sum += query[n] * after;
            }
            state[r] = after;
        }
        partial[unit] = sum;
        sync_cube();
        if slice == 0 && p < value_dim {
            let mut y = constants.skip(head, p, variant) * v;
            for s in 0..comptime!(tile.slices) {
                y += partial[s * columns + unit];
            }
            out[(t * sizes.heads + head) * value_dim + p] = F::cast_from(y);
        }
    }
    #[unroll(unrolled)]
    for r in 0..rows {
        if first + r < key_dim && p < value_dim {
            end[base + (first + r) * value_dim] = state[r];
        }
    }
}

/// eˣ − 1 for x ≤ 0. A state that is multiplied by eˣ at every token loses what the rounding of eˣ loses, again and again;
/// added to itself this many times, it does not.
#[cube]
fn exp_minus_one(x: f32) -> f32 {
    let mut result = x.exp() - 1.0f32;
    if x > -0.5f32 {
        let mut series = 1.0f32 + x / 8.0f32;
        series = 1.0f32 + x / 7.0f32 * series;
        series = 1.0f32 + x / 6.0f32 * series;
        series = 1.0f32 + x / 5.0f32 * series;
        series = 1.0f32 + x / 4.0f32 * series;
        series = 1.0f32 + x / 3.0f32 * series;
        series = 1.0f32 + x / 2.0f32 * series;
        result = x * series;
    }
    result
}
