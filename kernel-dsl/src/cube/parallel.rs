//! Whether a scan over tokens goes by chunks.

use super::{Client, Limits};

/// Tokens of a chunk of a forward pass: a chunk's state is read and written once for as many.
const CHUNK_SIZE: usize = 128;

/// Units above which more of them make no call faster: 2048 on each of 128 multiprocessors.
const ENOUGH_UNITS: usize = 1 << 18;

/// Tokens of a chunk for a scan of `units` independent states, or `None` where walking each sequence as a whole is as fast.
///
/// Chunks cost every token twice and pass every chunk's state on; they pay where the states are too few to fill the device.
pub(crate) fn preferred_chunk_size(client: &Client, units: usize, time: usize) -> Option<usize> {
    let worthwhile = time >= 2 * CHUNK_SIZE && 2 * units <= ENOUGH_UNITS && !Limits::of(client).software;
    worthwhile.then_some(CHUNK_SIZE)
}
