//! Independent channels over threads, where the channel is what changes fastest from row to row.

use rayon::prelude::*;

/// The rows of each channel; rows without values are none.
pub(crate) fn rows_by_channel<T>(values: &mut [T], row_len: usize, channels: usize) -> Vec<Vec<&mut [T]>> {
    let mut rows: Vec<Vec<&mut [T]>> = (0..channels).map(|_| Vec::new()).collect();
    for (index, row) in values.chunks_exact_mut(row_len.max(1)).enumerate() {
        rows[index % channels].push(row);
    }
    rows
}

/// Runs a function on every channel with what it writes, over threads where `threaded`; the first error by channel comes back.
///
/// A thread makes its scratch once.
pub(crate) fn each_channel<P: Send, S, E: Send>(
    threaded: bool,
    parts: &mut [P],
    scratch: impl Fn() -> S + Sync + Send,
    run: impl Fn(usize, &mut S, &mut P) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    if !threaded {
        let mut scratch = scratch();
        let mut parts = parts.iter_mut().enumerate();
        return parts.try_for_each(|(channel, part)| run(channel, &mut scratch, part));
    }
    let results: Vec<_> = parts
        .par_iter_mut()
        .enumerate()
        .map_init(scratch, |scratch, (channel, part)| run(channel, scratch, part))
        .collect();
    results.into_iter().collect()
}
