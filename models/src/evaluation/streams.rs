//! Loss against position over streams of text of any length.

use std::num::NonZeroU64;

use spillway_ssm_core::Chain;

use super::positions::Buckets;
use super::tally::{BucketLoss, Tally, curve};
use crate::error::ModelError;
use crate::model::Model;

/// Streams that are read side by side: enough to fill matrix products, few enough for their states.
const TOGETHER: usize = 16;
/// Tokens of each stream that go through the model in one call.
const CALL: u64 = 1024;

/// Mean −log p of the next token against its position, over all streams together, from the empty state; with `restart`, from an
/// empty state again after every so many tokens, which is the baseline that never leaves its training length.
///
/// A stream of n ids has n − 1 positions; positions beyond the last bucket are not read. Memory does not grow with the length.
///
/// # Errors
/// As [`Model::losses`].
pub fn loss_by_position(
    model: &Model,
    streams: &[&[u32]],
    buckets: &Buckets,
    restart: Option<NonZeroU64>,
) -> Result<Vec<BucketLoss>, ModelError> {
    let mut tallies = vec![Tally::default(); buckets.len()];
    for streams in streams.chunks(TOGETHER) {
        read(model, streams, buckets, restart, &mut tallies)?;
    }
    Ok(curve(buckets, &tallies))
}

fn read(
    model: &Model,
    streams: &[&[u32]],
    buckets: &Buckets,
    restart: Option<NonZeroU64>,
    tallies: &mut [Tally],
) -> Result<(), ModelError> {
    let end = buckets.edges().last().copied().unwrap_or(0);
    let length = |row: usize| (streams[row].len() as u64).saturating_sub(1).min(end);
    let mut live: Vec<usize> = (0..streams.len()).collect();
    let mut state = model.start(&Chain::default(), live.len())?;
    let mut position = 0;
    loop {
        let places: Vec<usize> = (0..live.len())
            .filter(|place| length(live[*place]) > position)
            .collect();
        if places.len() < live.len() {
            live = places.iter().map(|place| live[*place]).collect();
            state = state.select(&places)?;
        }
        let Some(shortest) = live.iter().map(|row| length(*row)).min() else {
            return Ok(());
        };
        let mut count = CALL.min(shortest - position);
        if let Some(period) = restart {
            if position % period == 0 {
                state = model.start(&Chain::default(), live.len())?;
            }
            count = count.min(period.get() - position % period);
        }
        // Below the length of a stream, which is a usize.
        let (begin, time) = (position as usize, count as usize);
        let piece = |shift: usize| {
            let rows = live.iter();
            rows.flat_map(|row| &streams[*row][begin + shift..begin + shift + time])
                .copied()
                .collect::<Vec<_>>()
        };
        let losses = model.losses_batched(&piece(0), &piece(1), &mut state)?;
        for (index, loss) in losses.iter().enumerate() {
            if let Some(bucket) = buckets.find(position + (index % time) as u64) {
                tallies[bucket].add(f64::from(*loss));
            }
        }
        position += count;
    }
}

/// `count` streams of `length` + 1 ids, spread evenly over a text; fewer, or one that is shorter, from a text that is too short
/// for them to be apart.
pub fn spread(ids: &[u32], count: usize, length: usize) -> Vec<&[u32]> {
    let size = length.saturating_add(1);
    if ids.len() <= size {
        return vec![ids];
    }
    let count = count.clamp(1, ids.len() / size);
    let step = ids.len() / count;
    (0..count)
        .map(|index| &ids[index * step..index * step + size])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn streams_are_apart_and_inside_the_text() {
        let ids: Vec<u32> = (0..100).collect();
        let starts = |count, length| -> Vec<(u32, usize)> {
            spread(&ids, count, length)
                .iter()
                .map(|ids| (ids[0], ids.len()))
                .collect()
        };
        assert_eq!(starts(4, 9), [(0, 10), (25, 10), (50, 10), (75, 10)]);
        assert_eq!(starts(4, 39), [(0, 40), (50, 40)]);
        assert_eq!(starts(4, 99), [(0, 100)]);
        assert_eq!(starts(4, 200), [(0, 100)]);
        assert_eq!(starts(0, 9), [(0, 10)]);
    }
}
