//! Ranks that are threads of one process.
//!
//! They are what tests run on, and what stands in for any carrier of messages that is not there. Nothing is copied: a
//! message is handed over.

use std::sync::Arc;
use std::time::Duration;

use super::inbox::Inbox;
use super::{Communicator, ParallelError, Tag};

/// One of several ranks in one process; a clone is the same rank. When the last clone is dropped it has ended: whoever waits
/// for it is told.
///
/// ```
/// use std::time::Duration;
/// use spillway_models::parallel::{Communicator, Tag, Threads};
///
/// const GREETING: Tag = Tag::new(1, "a greeting");
/// let ranks = Threads::group(2, Duration::from_secs(10));
/// ranks[0].send(1, GREETING, b"hello".to_vec())?;
/// assert_eq!(ranks[1].receive(0, GREETING)?, b"hello");
/// # Ok::<(), spillway_models::parallel::ParallelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Threads(Arc<End>);

/// A rank's end of the lines to all others.
#[derive(Debug)]
struct End {
    rank: usize,
    inboxes: Arc<[Inbox]>,
}

impl Threads {
    /// `size` ranks, in their order; a wait for one of them ends after `timeout`.
    pub fn group(size: usize, timeout: Duration) -> Vec<Self> {
        let inboxes: Arc<[Inbox]> = (0..size)
            .map(|rank| Inbox::new(rank, size, timeout, false))
            .collect();
        let end = |rank| End {
            rank,
            inboxes: Arc::clone(&inboxes),
        };
        (0..size).map(|rank| Self(Arc::new(end(rank)))).collect()
    }

    /// A rank by itself, which can only send to itself.
    pub fn alone() -> Self {
        // Whatever it sends itself is there at once; the time is for what it has not sent.
        let inboxes = Arc::new([Inbox::new(0, 1, Duration::from_secs(1), false)]);
        Self(Arc::new(End { rank: 0, inboxes }))
    }

    /// What `work` gives on each of `size` ranks, each a thread, in their order; [`ParallelError::Ended`] for a rank that
    /// panicked.
    pub fn run<T: Send, E: From<ParallelError> + Send>(
        size: usize,
        timeout: Duration,
        work: impl Fn(&Self) -> Result<T, E> + Sync,
    ) -> Vec<Result<T, E>> {
        let ranks = Self::group(size, timeout);
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = ranks
                .into_iter()
                .map(|rank| scope.spawn(move || work(&rank)))
                .collect();
            let ended = |rank| ParallelError::Ended {
                rank,
                waiting: rank,
                what: "its result",
            };
            threads
                .into_iter()
                .enumerate()
                .map(|(rank, thread)| thread.join().unwrap_or_else(|_| Err(ended(rank).into())))
                .collect()
        })
    }

    fn own(&self) -> &Inbox {
        &self.0.inboxes[self.0.rank]
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.0.rank
    }

    fn size(&self) -> usize {
        self.0.inboxes.len()
    }

    fn timeout(&self) -> Duration {
        self.own().timeout()
    }

    fn send(&self, to: usize, tag: Tag, message: Vec<u8>) -> Result<(), ParallelError> {
        self.own().check(to)?;
        self.0.inboxes[to].put(self.0.rank, tag.number, message);
        Ok(())
    }

    fn receive(&self, from: usize, tag: Tag) -> Result<Vec<u8>, ParallelError> {
        self.own().take(from, tag)
    }

    fn poll(&self, tag: Tag, patience: Duration) -> Result<Option<(usize, Vec<u8>)>, ParallelError> {
        self.own().poll(tag, patience)
    }

    fn fail(&self, reason: &str) {
        self.0.fail(reason);
    }
}

impl End {
    fn fail(&self, reason: &str) {
        let others = self.inboxes.iter().filter(|inbox| inbox.rank() != self.rank);
        others.for_each(|inbox| {
            let (rank, reason) = (self.rank, reason.to_string());
            inbox.fail(rank, ParallelError::Failed { rank, reason });
        });
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail("its thread panicked");
        }
        self.inboxes.iter().for_each(|inbox| inbox.end(self.rank));
    }
}
