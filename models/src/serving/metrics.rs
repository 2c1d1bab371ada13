//! What an engine has done and is doing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts, all since the engine began but for those that say *now*.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Jobs that the engine has taken from the queue.
    pub jobs: AtomicU64,
    /// Jobs that ended because they could not be done.
    pub failures: AtomicU64,
    /// Jobs whose receiver went away before their end.
    pub cancelled: AtomicU64,
    /// Tokens of the prompts that have been read, those that a kept state had read included.
    pub prompt_tokens: AtomicU64,
    /// Tokens of the prompts that had to be read: `prompt_tokens` but for those that a kept state had read.
    pub read_tokens: AtomicU64,
    /// Tokens generated for jobs that have ended without a failure.
    pub new_tokens: AtomicU64,
    /// Steps of the batch.
    pub steps: AtomicU64,
    /// Jobs that wait to be taken, now.
    pub queued: AtomicU64,
    /// Prompts that are being read, now.
    pub reading: AtomicU64,
    /// Sequences in the batch, now.
    pub rows: AtomicU64,
    /// Bytes of kept states, now.
    pub kept_bytes: AtomicU64,
}

impl Metrics {
    pub(super) fn add(counter: &AtomicU64, by: usize) {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }

    pub(super) fn set(counter: &AtomicU64, to: usize) {
        counter.store(to as u64, Ordering::Relaxed);
    }

    /// Every count with its name and whether it only grows.
    pub fn all(&self) -> [(&'static str, bool, u64); 11] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("jobs", true, read(&self.jobs)),
            ("failures", true, read(&self.failures)),
            ("cancelled", true, read(&self.cancelled)),
            ("prompt_tokens", true, read(&self.prompt_tokens)),
            ("read_tokens", true, read(&self.read_tokens)),
            ("new_tokens", true, read(&self.new_tokens)),
            ("steps", true, read(&self.steps)),
            ("queued", false, read(&self.queued)),
            ("reading", false, read(&self.reading)),
            ("rows", false, read(&self.rows)),
            ("kept_bytes", false, read(&self.kept_bytes)),
        ]
    }
}
