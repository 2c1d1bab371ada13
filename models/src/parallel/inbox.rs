//! The messages that have come to a rank and are not yet taken, whoever carries them.

use std::collections::{BTreeMap, VecDeque};
#[cfg(feature = "mpi")]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Tag;
use super::error::{ParallelError, Seconds};

/// Messages by tag and sender.
#[derive(Debug)]
pub(super) struct Inbox {
    rank: usize,
    size: usize,
    timeout: Duration,
    /// Whether ranks that have nothing to send give signs of life.
    beating: bool,
    state: Mutex<State>,
    arrived: Condvar,
    /// Threads that wait for a message.
    #[cfg(feature = "mpi")]
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct State {
    messages: BTreeMap<(u16, usize), VecDeque<Vec<u8>>>,
    /// When each rank last gave a sign of life.
    heard: Vec<Instant>,
    ended: Vec<bool>,
    failure: Option<ParallelError>,
}

impl Inbox {
    /// An empty inbox of rank `rank` of `size`; `beating` says whether ranks that have nothing to send give signs of life.
    pub(super) fn new(rank: usize, size: usize, timeout: Duration, beating: bool) -> Self {
        Self {
            rank,
            size,
            timeout,
            beating,
            state: Mutex::new(State {
                messages: BTreeMap::new(),
                heard: vec![Instant::now(); size],
                ended: vec![false; size],
                failure: None,
            }),
            arrived: Condvar::new(),
            #[cfg(feature = "mpi")]
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    #[cfg(feature = "mpi")]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, from: usize, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        if let Some(heard) = state.heard.get_mut(from) {
            *heard = Instant::now();
        }
        change(&mut state);
        drop(state);
        self.arrived.notify_all();
    }

    /// A message has come.
    pub(super) fn put(&self, from: usize, tag: u16, message: Vec<u8>) {
        self.change(from, |state| {
            state.messages.entry((tag, from)).or_default().push_back(message);
        });
    }

    /// A rank has given a sign of life. Nobody has to be woken for it.
    #[cfg(feature = "mpi")]
    pub(super) fn heard(&self, from: usize) {
        if let Some(heard) = self.state().heard.get_mut(from) {
            *heard = Instant::now();
        }
    }

    /// A rank sends nothing more.
    pub(super) fn end(&self, from: usize) {
        self.change(from, |state| {
            if let Some(ended) = state.ended.get_mut(from) {
                *ended = true;
            }
        });
    }

    /// Whether every other rank sends nothing more.
    #[cfg(feature = "mpi")]
    pub(super) fn all_ended(&self) -> bool {
        let state = self.state();
        state
            .ended
            .iter()
            .enumerate()
            .all(|(rank, ended)| *ended || rank == self.rank)
    }

    /// Ends every wait for a message, now and later, with `failure`; of several failures the first counts.
    pub(super) fn fail(&self, from: usize, failure: ParallelError) {
        self.change(from, |state| {
            state.failure.get_or_insert(failure);
        });
    }

    /// Refuses ranks that do not exist, and everything after a failure.
    pub(super) fn check(&self, rank: usize) -> Result<(), ParallelError> {
        if rank >= self.size {
            return Err(ParallelError::NoSuchRank {
                rank,
                size: self.size,
            });
        }
        self.state().failure.clone().map_or(Ok(()), Err)
    }

    /// The next message of `tag` from rank `from`, as [`super::Communicator::receive`] gives it.
    pub(super) fn take(&self, from: usize, tag: Tag) -> Result<Vec<u8>, ParallelError> {
        self.check(from)?;
        let begin = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if let Some(message) = state.next(tag, from) {
                return Ok(message);
            }
            let left = self.left(&state, from, begin, tag)?;
            state = self.wait(state, left);
        }
    }

    /// The next message of `tag` from any rank, as [`super::Communicator::poll`] gives it.
    pub(super) fn poll(
        &self,
        tag: Tag,
        patience: Duration,
    ) -> Result<Option<(usize, Vec<u8>)>, ParallelError> {
        let begin = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            for from in 0..self.size {
                if let Some(message) = state.next(tag, from) {
                    return Ok(Some((from, message)));
                }
            }
            if self.beating {
                self.expect_all(&state, begin, tag)?;
            }
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.wait(state, left);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        #[cfg(feature = "mpi")]
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waited = self.arrived.wait_timeout(state, left);
        #[cfg(feature = "mpi")]
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether a thread waits for a message.
    #[cfg(feature = "mpi")]
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// How long rank `from` may still be silent, waited for since `begin`.
    fn left(&self, state: &State, from: usize, begin: Instant, tag: Tag) -> Result<Duration, ParallelError> {
        let (rank, waiting, what) = (from, self.rank, tag.what);
        if state.ended[from] {
            return Err(ParallelError::Ended { rank, waiting, what });
        }
        let silent = state.heard[from].max(begin).elapsed();
        match self.timeout.checked_sub(silent).filter(|left| !left.is_zero()) {
            Some(left) => Ok(left),
            None => Err(ParallelError::Silent {
                rank,
                waiting,
                what,
                seconds: Seconds(self.timeout.as_secs_f64()),
            }),
        }
    }

    /// Whether all other ranks give signs of life; `now` is when the last one must have come at the latest, but for the time
    /// of a wait.
    fn expect_all(&self, state: &State, now: Instant, tag: Tag) -> Result<(), ParallelError> {
        let mut others = (0..self.size).filter(|rank| *rank != self.rank);
        others.try_for_each(|rank| {
            let begin = state.heard[rank].min(now);
            self.left(state, rank, begin, tag).map(drop)
        })
    }
}

impl State {
    fn next(&mut self, tag: Tag, from: usize) -> Option<Vec<u8>> {
        let queue = self.messages.get_mut(&(tag.number, from))?;
        let message = queue.pop_front();
        if queue.is_empty() {
            self.messages.remove(&(tag.number, from));
        }
        message
    }
}
