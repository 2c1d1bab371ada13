//! What all ranks do together, each calling the same function.
//!
//! With R ranks and messages of M bytes each:
//!
//! | function | messages one after another | bytes that a rank sends |
//! |---|---|---|
//! | [`broadcast`] | ⌈log₂ R⌉ | at most ⌈log₂ R⌉ M |
//! | [`gather`] | 1 | M |
//! | [`join`] | 1 + ⌈log₂ R⌉ | at most M + ⌈log₂ R⌉ R M |
//! | [`all_sum`] | 1 + ⌈log₂ R⌉ | at most (1 + ⌈log₂ R⌉) M |
//! | [`exclusive_scan`], [`exclusive_scan_reversed`] | ⌈log₂ R⌉ | ⌈log₂ R⌉ M |
//! | [`barrier`] | ⌈log₂ R⌉ | 0 |
//!
//! Sums are in the order of the ranks, whatever arrives first.

use std::ops::Range;

use super::{Communicator, ParallelError, Tag};

const BROADCAST: Tag = Tag::new(1, "a broadcast");
const GATHER: Tag = Tag::new(2, "what is gathered");
const SCAN: Tag = Tag::new(5, "the element of a scan");
const BARRIER: Tag = Tag::new(6, "a sign that it has come as far");

/// The `message` of rank `root`, on every rank; what the others give is not looked at.
///
/// # Errors
/// As [`Communicator::receive`].
pub fn broadcast(ranks: &dyn Communicator, root: usize, message: Vec<u8>) -> Result<Vec<u8>, ParallelError> {
    let size = ranks.size();
    // Counted from the root: place p hears from the place without p's highest bit.
    let place = (ranks.rank() + size - root % size) % size;
    let rank = |place: usize| (place + root) % size;
    let mut message = message;
    let mut step = 1;
    if place > 0 {
        step = 1 << place.ilog2();
        message = ranks.receive(rank(place - step), BROADCAST)?;
        step *= 2;
    }
    while place + step < size {
        ranks.send(rank(place + step), BROADCAST, message.clone())?;
        step *= 2;
    }
    Ok(message)
}

/// Every rank's message, in their order, on rank 0; `None` elsewhere.
///
/// # Errors
/// As [`Communicator::receive`].
pub fn gather(ranks: &dyn Communicator, message: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, ParallelError> {
    ranks.send(0, GATHER, message)?;
    match ranks.rank() {
        0 => (0..ranks.size())
            .map(|from| ranks.receive(from, GATHER))
            .collect::<Result<_, _>>()
            .map(Some),
        _ => Ok(None),
    }
}

/// Every rank's message, one after another in their order, on every rank.
///
/// # Errors
/// As [`Communicator::receive`].
pub fn join(ranks: &dyn Communicator, message: Vec<u8>) -> Result<Vec<u8>, ParallelError> {
    let all = gather(ranks, message)?;
    broadcast(ranks, 0, all.unwrap_or_default().concat())
}

/// Goes on when every rank has come here.
///
/// # Errors
/// As [`Communicator::receive`].
pub fn barrier(ranks: &dyn Communicator) -> Result<(), ParallelError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let mut step = 1;
    while step < size {
        ranks.send((rank + step) % size, BARRIER, Vec::new())?;
        ranks.receive((rank + size - step) % size, BARRIER)?;
        step *= 2;
    }
    Ok(())
}

/// Replaces each of a few numbers by its sum over the ranks: ((v₀ + v₁) + v₂) + …, the same bits on all of them. Rank 0 adds; for
/// many numbers see [`reduction`](super::reduction).
///
/// # Errors
/// As [`Communicator::receive`]; [`ParallelError::Message`] when a rank has another number of values.
pub fn all_sum(ranks: &dyn Communicator, values: &mut [f64]) -> Result<(), ParallelError> {
    let count = values.len();
    if let Some(all) = gather(ranks, bytemuck::cast_slice(values).to_vec())? {
        values.fill(0.0);
        for (from, message) in all.iter().enumerate() {
            let theirs: Vec<f64> = decoded(message, count, (GATHER, from))?;
            values
                .iter_mut()
                .zip(theirs)
                .for_each(|(sum, value)| *sum += value);
        }
    }
    let sums = broadcast(ranks, 0, bytemuck::cast_slice(values).to_vec())?;
    values.copy_from_slice(&decoded::<f64>(&sums, count, (BROADCAST, 0))?);
    Ok(())
}

/// Something that goes from rank to rank.
pub trait Carried: Sized {
    /// The value as bytes, for [`Carried::from_bytes`].
    fn to_bytes(&self) -> Vec<u8>;

    /// What [`Carried::to_bytes`] gave.
    ///
    /// # Errors
    /// What was expected and what was found, for bytes that are something else.
    fn from_bytes(bytes: &[u8]) -> Result<Self, (String, String)>;
}

/// m₀ ∘ m₁ ∘ … ∘ m_{r−1} on rank r, of the m of every rank and an associative ∘ that need not commute: `compose(earlier,
/// later)`. `None` on rank 0.
///
/// In round i a rank sends what it has composed of the last 2^i ranks to the one 2^i further on: ⌈log₂ R⌉ rounds (Hillis and
/// Steele, "Data parallel algorithms", 1986).
///
/// # Errors
/// As [`Communicator::receive`], [`ParallelError::Message`] for what is no element, and those of `compose`.
pub fn exclusive_scan<T: Carried, E: From<ParallelError>>(
    ranks: &dyn Communicator,
    mine: T,
    compose: impl Fn(&T, &T) -> Result<T, E>,
) -> Result<Option<T>, E> {
    scan_in_order(ranks, mine, compose, |rank| rank)
}

/// As [`exclusive_scan`] in the reverse order of the ranks: m_{R−1} ∘ m_{R−2} ∘ … ∘ m_{r+1} on rank r; `None` on the last rank.
///
/// # Errors
/// As there.
pub fn exclusive_scan_reversed<T: Carried, E: From<ParallelError>>(
    ranks: &dyn Communicator,
    mine: T,
    compose: impl Fn(&T, &T) -> Result<T, E>,
) -> Result<Option<T>, E> {
    let size = ranks.size();
    scan_in_order(ranks, mine, compose, |rank| size - 1 - rank)
}

/// The exclusive scan in which each rank has the place `order(rank)`, and each place the rank `order(place)`.
fn scan_in_order<T: Carried, E: From<ParallelError>>(
    ranks: &dyn Communicator,
    mine: T,
    compose: impl Fn(&T, &T) -> Result<T, E>,
    order: impl Fn(usize) -> usize,
) -> Result<Option<T>, E> {
    let (place, size) = (order(ranks.rank()), ranks.size());
    let (mut before, mut until_here) = (None, mine);
    let mut step = 1;
    while step < size {
        if place + step < size {
            ranks.send(order(place + step), SCAN, until_here.to_bytes())?;
        }
        if place >= step {
            let from = order(place - step);
            let element = T::from_bytes(&ranks.receive(from, SCAN)?).map_err(|(expected, found)| {
                ParallelError::Message {
                    what: SCAN.what,
                    from,
                    expected,
                    found,
                }
            })?;
            until_here = compose(&element, &until_here)?;
            before = Some(match &before {
                None => element,
                Some(before) => compose(&element, before)?,
            });
        }
        step *= 2;
    }
    Ok(before)
}

/// Refuses ranks that have another text than rank 0.
///
/// # Errors
/// [`ParallelError::Differs`] on every rank, of the first rank that has another; as [`Communicator::receive`].
pub fn agree(ranks: &dyn Communicator, what: &str, text: &str) -> Result<(), ParallelError> {
    let all = gather(ranks, text.as_bytes().to_vec())?;
    // What rank 0 has, then the first rank with another and what that has.
    let verdict = all.and_then(|all| {
        let rank = all.iter().position(|other| *other != all[0])?;
        Some([&(rank as u64).to_le_bytes()[..], &all[rank]].concat())
    });
    let expected = broadcast(ranks, 0, text.as_bytes().to_vec())?;
    let verdict = broadcast(ranks, 0, verdict.unwrap_or_default())?;
    let Some((rank, found)) = verdict.split_first_chunk::<8>() else {
        return Ok(());
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(ParallelError::Differs {
        what: what.into(),
        expected: text(&expected),
        found: text(found),
        rank: u64::from_le_bytes(*rank) as usize,
    })
}

/// Indices of those of `count` things that are rank `rank`'s, of `size` ranks: one range each, in lengths that differ by no more
/// than one.
pub fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    let (each, more) = (count / size, count % size);
    let start = rank * each + rank.min(more);
    start..start + each + usize::from(rank < more)
}

/// All ranks but `rank`.
pub(super) fn others(rank: usize, size: usize) -> impl Iterator<Item = usize> {
    // The next one first, so that not all send to the same rank at once.
    (1..size).map(move |step| (rank + step) % size)
}

/// `count` numbers that rank `from` has sent under `tag`.
pub(crate) fn decoded_numbers(
    ranks: &dyn Communicator,
    from: usize,
    tag: Tag,
    count: usize,
) -> Result<Vec<f32>, ParallelError> {
    decoded(&ranks.receive(from, tag)?, count, (tag, from))
}

pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// `count` numbers of a message under a tag from a rank.
pub(crate) fn decoded<T: bytemuck::Pod>(
    bytes: &[u8],
    count: usize,
    (tag, from): (Tag, usize),
) -> Result<Vec<T>, ParallelError> {
    match bytes.len() == count * size_of::<T>() {
        true => Ok(bytemuck::pod_collect_to_vec(bytes)),
        false => Err(ParallelError::Message {
            what: tag.what,
            from,
            expected: format!("{count} numbers of {} bytes", size_of::<T>()),
            found: format!("{} bytes", bytes.len()),
        }),
    }
}
