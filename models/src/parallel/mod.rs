//! One model, one training or one study on several ranks: processes on one machine or many, or threads of one process.
//!
//! A rank is a number below the number of ranks. Ranks exchange messages through a [`Communicator`]; what is built on it
//! knows nothing of what carries them.
//!
//! | module | what is in it |
//! |---|---|
//! | `mod.rs` | [`Communicator`]: messages from rank to rank |
//! | [`threads`] | ranks that are threads of one process |
//! | `mpi` (feature `mpi`) | ranks that are processes under MPI |
//! | [`launch`] | what a launcher says of them |
//! | [`collectives`] | broadcast, gather, exclusive scan, barrier: everything that all ranks do together |
//! | [`reduction`] | sums of many numbers: reduce-scatter, all-gather, all-reduce |
//! | [`ring`] | a sequence longer than one rank's share: the states of the layers go from rank to rank; its gradients are [`crate::train::sequence_parallel`] |
//! | [`scan`] | a recurrence whose tokens lie on several ranks, by its monoid, and its gradients |
//! | [`cost`] | bytes, messages and time of both, and of a step of a training |
//! | [`error`] | [`ParallelError`] |
//!
//! # Failures
//!
//! A rank that fails tells all others ([`Communicator::fail`]), and whatever they wait for then ends in
//! [`ParallelError::Failed`] with its reason. A rank that is killed, or hangs, is silent: after [`Communicator::timeout`]
//! without a sign of life a wait for it ends in [`ParallelError::Silent`]. No wait is longer.
//!
//! # Order of sums
//!
//! Where numbers of several ranks are added, they are added in the order of the ranks, whenever they arrive: the same call
//! gives the same bits.

pub mod collectives;
pub mod cost;
pub mod error;
mod inbox;
pub mod launch;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod reduction;
pub mod ring;
pub mod scan;
pub mod threads;
pub(crate) mod wire;

use std::fmt::Debug;
use std::time::Duration;

pub use error::{ParallelError, Seconds};
pub use threads::Threads;

/// What a message is for. Messages from one rank to another under one tag arrive in the order in which they were sent; a
/// receiver asks for one tag, so those of another do not come between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// Number that tells the tag from others, below [`Tag::RESERVED`].
    pub number: u16,
    /// What the messages carry, for errors.
    pub what: &'static str,
}

impl Tag {
    /// Numbers from here on belong to what carries the messages.
    pub const RESERVED: u16 = 0x4000;

    /// The tag of messages that carry `what`, told from others by `number`.
    pub const fn new(number: u16, what: &'static str) -> Self {
        Self { number, what }
    }
}

/// Messages from rank to rank.
///
/// Every rank has one; all its threads may use it. Sending does not wait for the receiver.
pub trait Communicator: Debug + Send + Sync {
    /// Number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks, this one included.
    fn size(&self) -> usize;

    /// How long a rank that is waited for may be silent before it counts as lost.
    fn timeout(&self) -> Duration;

    /// Sends `message` to rank `to`, which may be this one. The receiver need not wait for it yet.
    ///
    /// # Errors
    /// [`ParallelError::NoSuchRank`]; [`ParallelError::Failed`] when another rank has failed.
    fn send(&self, to: usize, tag: Tag, message: Vec<u8>) -> Result<(), ParallelError>;

    /// The next message of `tag` from rank `from`.
    ///
    /// # Errors
    /// [`ParallelError::NoSuchRank`]; [`ParallelError::Failed`], [`ParallelError::Ended`] or [`ParallelError::Silent`] when
    /// it will not come.
    fn receive(&self, from: usize, tag: Tag) -> Result<Vec<u8>, ParallelError>;

    /// The next message of `tag` from any rank, with its sender, if one is there: the lowest rank's first. Waits for at most
    /// `patience`.
    ///
    /// # Errors
    /// [`ParallelError::Failed`] when another rank has failed; [`ParallelError::Silent`] or [`ParallelError::Ended`] when a
    /// process is lost.
    fn poll(&self, tag: Tag, patience: Duration) -> Result<Option<(usize, Vec<u8>)>, ParallelError>;

    /// Tells all other ranks that this one cannot go on, and why: whatever they wait for ends in [`ParallelError::Failed`].
    fn fail(&self, reason: &str);
}

/// Hands `result` on; if it is an error of this rank's own, all other ranks are told first.
///
/// # Errors
/// That of `result`.
pub fn or_fail<T, E: std::error::Error + AsParallel>(
    ranks: &dyn Communicator,
    result: Result<T, E>,
) -> Result<T, E> {
    if let Err(error) = &result {
        // What another rank has said, it has said to everybody.
        if !matches!(error.as_parallel(), Some(ParallelError::Failed { .. })) {
            ranks.fail(&error.to_string());
        }
    }
    result
}

/// An error that may be one of [`ParallelError`].
pub trait AsParallel {
    /// The one that it is.
    fn as_parallel(&self) -> Option<&ParallelError>;
}

impl AsParallel for ParallelError {
    fn as_parallel(&self) -> Option<&ParallelError> {
        Some(self)
    }
}

impl AsParallel for crate::ModelError {
    fn as_parallel(&self) -> Option<&ParallelError> {
        match self {
            Self::Parallel(error) => Some(error),
            _ => None,
        }
    }
}
