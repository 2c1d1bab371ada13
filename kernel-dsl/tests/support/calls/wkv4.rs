//! WKV-4.

use spillway_kernel_dsl::Sequences;
use spillway_kernel_dsl::cube::Error;
use spillway_kernel_dsl::wkv4::Problem;
use spillway_kernel_dsl::wkv4::cube::{DeviceCotangents, DeviceInputs, backward, chunked, sequential, step};

use super::{CallForm, Maker, forms_over_sequences};

/// Tokens of a chunk.
const CHUNK_SIZE: usize = 64;

/// Every form. A step goes on from a state, the others begin without one.
pub const FORMS: &[CallForm<Problem>] = forms_over_sequences!();

fn inputs(make: &Maker, problem: &Problem) -> Result<DeviceInputs<'static>, Error> {
    let rows = problem.batch * problem.time;
    Ok(DeviceInputs {
        log_decay: make.constants(problem.channels)?,
        bonus: make.constants(problem.channels)?,
        key: make.rows(rows, problem.channels)?,
        value: make.rows(rows, problem.channels)?,
        sequences: Sequences::Equal,
    })
}
