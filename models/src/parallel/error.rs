//! Why ranks cannot go on together.

use thiserror::Error;

/// Why a rank cannot go on with the others. Every variant names the rank that is at fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParallelError {
    /// A message to or from a rank that does not exist.
    #[error("rank: expected one below {size}, found {rank}")]
    NoSuchRank {
        /// The rank asked for.
        rank: usize,
        /// Number of ranks that there are.
        size: usize,
    },
    /// A rank that is waited for gives no sign of life.
    #[error(
        "rank {rank} has given no sign of life for {seconds:.1} s, while rank {waiting} waits for {what} from it: it was killed, hangs, or cannot be \
         reached"
    )]
    Silent {
        /// The rank that is silent.
        rank: usize,
        /// The rank that waits.
        waiting: usize,
        /// What is waited for.
        what: &'static str,
        /// The time after which a rank counts as lost, as text that can be compared.
        seconds: Seconds,
    },
    /// A rank that is waited for has ended.
    #[error("rank {rank} has ended, while rank {waiting} waits for {what} from it")]
    Ended {
        /// The rank that has ended.
        rank: usize,
        /// The rank that waits.
        waiting: usize,
        /// What is waited for.
        what: &'static str,
    },
    /// Another rank has failed, and says why.
    #[error("rank {rank} failed: {reason}")]
    Failed {
        /// The rank that failed.
        rank: usize,
        /// The error of that rank, as text.
        reason: String,
    },
    /// A message that is not what belongs there.
    #[error("{what} from rank {from}: expected {expected}, found {found}")]
    Message {
        /// What the message carries.
        what: &'static str,
        /// The rank that sent the message.
        from: usize,
        /// What would have been accepted.
        expected: String,
        /// What the message held instead.
        found: String,
    },
    /// Ranks that were not started alike.
    #[error(
        "{what}: expected {expected}, as rank 0 has it, found {found} on rank {rank}: start every rank with the same program, files and options"
    )]
    Differs {
        /// What should be the same.
        what: String,
        /// What rank 0 has, as text.
        expected: String,
        /// What rank `rank` has instead, as text.
        found: String,
        /// The first rank that has another.
        rank: usize,
    },
    /// A call of MPI that failed.
    #[error("MPI: {call}: {reason}")]
    Mpi {
        /// The call that failed: `MPI_Init_thread`.
        call: &'static str,
        /// Why the call failed.
        reason: String,
    },
}

/// A number of seconds in an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub f64);

impl Eq for Seconds {}

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
