//! Sums of many numbers over the ranks: the sums of a part on each rank, and all of them on every rank.
//!
//! ```text
//!               part of rank 0 │ part of rank 1 │ part of rank 2
//! bucket 0      ▓▓▓▓           │ ▓▓▓▓           │ ▓▓▓▓             one piece of every part
//! bucket 1          ▓▓▓▓       │     ▓▓▓▓       │     ▓▓▓▓
//! bucket 2              ▓▓     │         ▓▓▓    │         ▓▓
//! ```
//!
//! Numbers lie one after another and are cut into consecutive parts, one for each rank ([`Parts`]). [`reduce_scatter`] leaves
//! on every rank the sums of its own part; [`all_gather`] brings every rank's part to all others; [`all_reduce_sum`] is one
//! after the other. With R ranks, n numbers and pieces of p numbers:
//!
//! | function | messages of a rank | bytes that a rank sends |
//! |---|---|---|
//! | [`reduce_scatter`], [`all_gather`] | (R − 1) ⌈n / (R p)⌉ | 4 n (R − 1) / R |
//! | [`all_reduce_sum`] | 2 (R − 1) ⌈n / (R p)⌉ | 8 n (R − 1) / R |
//!
//! Numbers travel in buckets, each with a piece of every part, so that all ranks send and receive the same amount at any time.
//! A bucket is on its way while the one before it is added up. A rank that waits for a bucket has sent the next one and no
//! more, so where parts are about equally long, what a rank holds in messages is bounded whatever n is.

use std::ops::Range;

use super::collectives::{bytes_of, decoded, others, share};
use super::{Communicator, ParallelError, Tag};

const REDUCE: Tag = Tag::new(3, "its part of a sum");
const REDUCED: Tag = Tag::new(4, "a sum");

/// The numbers of a bucket: 64 MiB.
const BUCKET: usize = 1 << 24;
/// The fewest numbers of a piece, however many ranks share a bucket: 4 MiB, which take four times as long as the beginning of a
/// message does on a network of 10 GB/s and 100 µs.
const SHORTEST_PIECE: usize = 1 << 20;

/// Consecutive parts of a row of numbers, one for each rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Where each part begins, and the end of the last one.
    bounds: Vec<usize>,
    piece: usize,
}

impl Parts {
    /// Parts of `count` numbers for `ranks` ranks, in sizes that differ by no more than one.
    pub fn equal(count: usize, ranks: usize) -> Self {
        Self::ending_at((0..ranks).map(|rank| share(count, rank, ranks).end))
    }

    /// One part for each of `ends`, which do not decrease: from the end before, or from 0, to this one.
    pub fn ending_at(ends: impl IntoIterator<Item = usize>) -> Self {
        let mut bounds = vec![0];
        for end in ends {
            let begin = bounds[bounds.len() - 1];
            bounds.push(end.max(begin));
        }
        let ranks = bounds.len() - 1;
        Self {
            bounds,
            piece: (BUCKET / ranks.max(1)).max(SHORTEST_PIECE),
        }
    }

    /// The same parts, sent in pieces of at most `piece` numbers.
    #[must_use]
    pub fn in_pieces_of(self, piece: usize) -> Self {
        let piece = piece.max(1);
        Self { piece, ..self }
    }

    /// Number of parts.
    pub fn ranks(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Places of the numbers that are rank `rank`'s; none for a rank beyond those that there are.
    pub fn part(&self, rank: usize) -> Range<usize> {
        match self.bounds.get(rank..rank + 2) {
            Some([begin, end]) => *begin..*end,
            _ => 0..0,
        }
    }

    /// Number of buckets in which all numbers go out.
    pub fn buckets(&self) -> usize {
        let longest = (0..self.ranks()).map(|rank| self.part(rank).len()).max();
        longest.unwrap_or(0).div_ceil(self.piece)
    }

    /// Places of the numbers of rank `rank` that go out with bucket `bucket`.
    fn piece(&self, rank: usize, bucket: usize) -> Range<usize> {
        let part = self.part(rank);
        let begin = part.end.min(part.start + bucket * self.piece);
        begin..part.end.min(begin + self.piece)
    }
}

/// Numbers that lie one after another, in whatever they are kept.
pub trait Numbers {
    /// The numbers at these places.
    fn read(&self, places: Range<usize>) -> Vec<f32>;

    /// Other numbers for these places, as many as there are of them.
    fn write(&mut self, places: Range<usize>, numbers: &[f32]);
}

impl Numbers for [f32] {
    fn read(&self, places: Range<usize>) -> Vec<f32> {
        self[places].to_vec()
    }

    fn write(&mut self, places: Range<usize>, numbers: &[f32]) {
        self[places].copy_from_slice(numbers);
    }
}

/// Writes the sums over the ranks, ((v₀ + v₁) + v₂) + …, to the places of this rank's own part, in rising order; all other
/// places keep what they have.
///
/// # Errors
/// As [`Communicator::receive`]; [`ParallelError::Message`] when a rank has other parts.
pub fn reduce_scatter<N: Numbers + ?Sized>(
    ranks: &dyn Communicator,
    parts: &Parts,
    numbers: &mut N,
) -> Result<(), ParallelError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let send = |numbers: &N, bucket: usize| -> Result<(), ParallelError> {
        for owner in others(rank, size) {
            let piece = parts.piece(owner, bucket);
            if !piece.is_empty() {
                ranks.send(owner, REDUCE, bytes_of(&numbers.read(piece)))?;
            }
        }
        Ok(())
    };
    by_buckets(parts, numbers, send, |numbers, bucket| {
        let own = parts.piece(rank, bucket);
        if !own.is_empty() {
            let sums = summed(ranks, numbers.read(own.clone()))?;
            numbers.write(own, &sums);
        }
        Ok(())
    })
}

/// Sends each bucket before the one ahead of it is taken in.
fn by_buckets<N: Numbers + ?Sized>(
    parts: &Parts,
    numbers: &mut N,
    send: impl Fn(&N, usize) -> Result<(), ParallelError>,
    take_in: impl Fn(&mut N, usize) -> Result<(), ParallelError>,
) -> Result<(), ParallelError> {
    let buckets = parts.buckets();
    send(numbers, 0)?;
    for bucket in 0..buckets {
        if bucket + 1 < buckets {
            send(numbers, bucket + 1)?;
        }
        take_in(numbers, bucket)?;
    }
    Ok(())
}

/// The sums of `mine` and of what the other ranks have sent, in the order of the ranks.
fn summed(ranks: &dyn Communicator, mine: Vec<f32>) -> Result<Vec<f32>, ParallelError> {
    let (rank, count) = (ranks.rank(), mine.len());
    let mut mine = Some(mine);
    let mut sums: Option<Vec<f32>> = None;
    for from in 0..ranks.size() {
        let theirs = match mine.take_if(|_| from == rank) {
            Some(mine) => mine,
            None => decoded(&ranks.receive(from, REDUCE)?, count, (REDUCE, from))?,
        };
        match &mut sums {
            None => sums = Some(theirs),
            Some(sums) => sums
                .iter_mut()
                .zip(&theirs)
                .for_each(|(sum, value)| *sum += value),
        }
    }
    Ok(sums.unwrap_or_default())
}

/// Writes the numbers that every other rank has in its own part to the places of that part.
///
/// # Errors
/// As [`reduce_scatter`].
pub fn all_gather<N: Numbers + ?Sized>(
    ranks: &dyn Communicator,
    parts: &Parts,
    numbers: &mut N,
) -> Result<(), ParallelError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let send = |numbers: &N, bucket: usize| -> Result<(), ParallelError> {
        let own = parts.piece(rank, bucket);
        if own.is_empty() || size == 1 {
            return Ok(());
        }
        let message = bytes_of(&numbers.read(own));
        others(rank, size).try_for_each(|to| ranks.send(to, REDUCED, message.clone()))
    };
    by_buckets(parts, numbers, send, |numbers, bucket| {
        for owner in others(rank, size) {
            let piece = parts.piece(owner, bucket);
            if !piece.is_empty() {
                let message = ranks.receive(owner, REDUCED)?;
                let theirs: Vec<f32> = decoded(&message, piece.len(), (REDUCED, owner))?;
                numbers.write(piece, &theirs);
            }
        }
        Ok(())
    })
}

/// Replaces every value by its sum over the ranks: ((v₀ + v₁) + v₂) + …, the same bits on all of them.
///
/// # Errors
/// As [`Communicator::receive`]; [`ParallelError::Message`] when a rank has another number of values.
pub fn all_reduce_sum(ranks: &dyn Communicator, values: &mut [f32]) -> Result<(), ParallelError> {
    let parts = Parts::equal(values.len(), ranks.size());
    reduce_scatter(ranks, &parts, values)?;
    all_gather(ranks, &parts, values)
}
