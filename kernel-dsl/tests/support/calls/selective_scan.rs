//! The selective scan.

use spillway_kernel_dsl::Sequences;
use spillway_kernel_dsl::cube::Error;
use spillway_kernel_dsl::selective_scan::Problem;
use spillway_kernel_dsl::selective_scan::cube::{
    DeviceCotangents, DeviceInputs, backward, chunked, sequential, step,
};

use super::{CallForm, Maker, forms_over_sequences};

/// Tokens of a chunk.
const CHUNK_SIZE: usize = 64;

/// Every form, gated and with a skip as in Mamba. A step goes on from a state, the others begin without one.
pub const FORMS: &[CallForm<Problem>] = forms_over_sequences!();

fn inputs(make: &Maker, problem: &Problem) -> Result<DeviceInputs<'static>, Error> {
    let rows = problem.batch * problem.time;
    let Problem {
        channels,
        state_dim,
        groups,
        ..
    } = *problem;
    Ok(DeviceInputs {
        input: make.rows(rows, channels)?,
        step_size: make.rows(rows, channels)?,
        a: make.constants(channels * state_dim)?,
        b: make.rows(rows, groups * state_dim)?,
        c: make.rows(rows, groups * state_dim)?,
        skip: Some(make.constants(channels)?),
        gate: Some(make.rows(rows, channels)?),
        sequences: Sequences::Equal,
    })
}
