//! Blocks of channels: how operators whose states live in one channel for many tokens share out their work.
//!
//! Rows hold channels side by side. So work goes by blocks of channels that fill a cache line of a row, and within a block by tiles
//! of tokens, which are turned into one run of tokens per channel first.

use std::ops::Range;

use rayon::prelude::*;

use crate::rows::Rows;
use crate::vector::{SharedRows, part};

/// Updates of state values (tokens times channels times values) from which a call pays for waking other threads.
const WORTH_THREADS: usize = 1 << 16;
/// Channels of a block: a cache line of a row, so that no two threads write to one line.
pub(crate) const BLOCK: usize = 16;

/// The channels of a block.
pub(crate) fn block(index: usize, channels: usize) -> Range<usize> {
    index * BLOCK..channels.min((index + 1) * BLOCK)
}

/// What `work` gives for each of `count` parts, in their order; on all threads where so many updates pay for them.
pub(crate) fn collect<T: Send>(
    count: usize,
    updates: usize,
    work: impl Fn(usize) -> T + Send + Sync,
) -> Vec<T> {
    match updates >= WORTH_THREADS && count > 1 && rayon::current_num_threads() > 1 {
        true => (0..count).into_par_iter().map(work).collect(),
        false => (0..count).map(work).collect(),
    }
}

/// The values of some columns in some rows, a run of `length` per column.
#[inline(always)]
pub(crate) fn gather(
    view: &Rows,
    rows: Range<usize>,
    columns: Range<usize>,
    length: usize,
    runs: &mut [f32],
) {
    for (t, row) in rows.enumerate() {
        for (run, value) in runs[t..]
            .iter_mut()
            .step_by(length)
            .zip(part(view, row, columns.clone()))
        {
            *run = *value;
        }
    }
}

/// The inverse of [`gather`].
///
/// # Safety
/// Nothing else may access these columns of these rows meanwhile.
#[inline(always)]
pub(crate) unsafe fn scatter(
    runs: &[f32],
    length: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &SharedRows,
) {
    for (t, row) in rows.enumerate() {
        // SAFETY: the caller keeps others away.
        let values = unsafe { out.part(row, columns.clone()) };
        for (value, run) in values.iter_mut().zip(runs[t..].iter().step_by(length)) {
            *value = *run;
        }
    }
}
