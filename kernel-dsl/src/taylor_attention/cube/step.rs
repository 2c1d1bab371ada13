//! Taylor attention over one token: the state is read and written once.

use cubecl::prelude::*;

use super::forward::{chunked, normalise};
use super::operands::{DeviceTable, Panel, Sizes, Source, Table, sizes};
use crate::cube::{Client, DType, DeviceBuffer, Error, SequenceTable, address_type, cubes};
use crate::taylor_attention::problem::{AttentionError, DeviceInputs, DeviceOutputs, Problem};

/// Units of a cube, one column of a state each.
const UNITS: usize = 32;

/// Taylor attention over one token of every sequence.
///
/// # Shapes
/// As for [`chunked`](super::chunked), with `time = 1`.
///
/// # Errors
/// As for [`chunked`](super::chunked); [`AttentionError::NotOneToken`] for other lengths.
pub fn step(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<DeviceOutputs, Error> {
    if problem.time != 1 {
        return Err(Error::problem(AttentionError::NotOneToken {
            found: problem.time,
        }));
    }
    problem.validate_on_device(inputs, state, None)?;
    if inputs.prefix_key.is_some() {
        return chunked(client, problem, inputs, state);
    }
    let len = problem.rows(&inputs.sequences) * problem.heads * problem.columns();
    let read = DeviceBuffer::zeros(client, len, DType::F32)?;
    let end = DeviceBuffer::empty(client, problem.state_len(), DType::F32)?;
    let table = DeviceTable::new(client, &problem.feature_map())?;
    let spans = SequenceTable::new(client, &inputs.sequences, problem.batch, problem.time)?;
    let total = problem.batch * problem.heads * problem.columns().div_ceil(UNITS);
    if total > 0 {
        step_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, end.len().max(inputs.value.buffer().len()))?,
            Source::new(&inputs.query, problem.key_dim).panel(),
            Source::new(&inputs.key, problem.key_dim).panel(),
            Source::new(&inputs.value, problem.value_dim).panel(),
            table.launch(),
            sizes(problem),
            spans.arg(),
            state.unwrap_or(table.any()).arg(),
            inputs.log_decay.as_ref().unwrap_or(table.any()).arg(),
            end.arg(),
            read.arg(),
            total,
            state.is_some(),
            inputs.log_decay.is_some(),
            inputs.query.dtype().elem(),
        );
    }
    Ok(DeviceOutputs {
        out: normalise(client, problem, &read, inputs.query.dtype())?,
        state: end,
    })
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
fn step_kernel<F: Float>(
    query: &Panel<F>,
    key: &Panel<F>,
    value: &Panel<F>,
    table: &Table,
    sizes: &Sizes,
    spans: &[u32],
    start: &[f32],
    log_decay: &[f32],
    end: &mut [f32],
    read: &mut [f32],
    total: usize,
    #[comptime] has_start: bool,
    #[comptime] decays: bool,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= total {
        terminate!();
    }
    let tiles = sizes.columns.div_ceil(UNITS);
    let head = CUBE_POS / tiles % sizes.heads;
    let sequence = CUBE_POS / tiles / sizes.heads;
    let col = CUBE_POS % tiles * UNITS + UNIT_POS as usize;
    let row = spans[2 * sequence] as usize;
    let present = row < spans[2 * sequence + 1] as usize;
    if col < sizes.columns {
        let base = (sequence * sizes.heads + head) * sizes.features * sizes.columns + col;
        let mut v = 0.0f32;
        let mut x = 0.0f32;
        let mut kept = 1.0f32;
        if comptime!(decays) {
            if present && col < sizes.value_dim {
                kept = log_decay[head].exp();
            }
        }
        if present {
            v = value.at(row, head, col);
            for i in 0..sizes.key_dim {
                x += query.at(row, head, i) * key.at(row, head, i);
            }
            x *= sizes.scale;
        }
        // The token's own weight comes from q·k, where features could lose its digits.
        let mut sum = ((sizes.c2 * x + sizes.c1) * x + sizes.c0) * v;
        for d in 0..sizes.features {
            let mut h = 0.0f32;
            if comptime!(has_start) {
                h = start[base + d * sizes.columns];
                if comptime!(decays) {
                    h *= kept;
                }
            }
            if present {
                sum += table.feature::<F>(query, row, head, d) * h;
                h += table.feature::<F>(key, row, head, d) * v;
            }
            end[base + d * sizes.columns] = h;
        }
        if present {
            read[(row * sizes.heads + head) * sizes.columns + col] = sum;
        }
    }
}
