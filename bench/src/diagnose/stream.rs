//! Runs a model with one mitigation over all streams, in memory that does not grow with their length.
//!
//! Streams are shared among the threads; if there are fewer streams than threads, each gets several, for the kernels. A run can be
//! stopped between two segments and goes on later to the same bits, because segments always start at the same positions.

use super::loss::{Grid, LossTally};
use super::record::SiteRecord;
use super::text::{Stream, Text};
use crate::error::ProgramError;
use crate::progress::Progress;
pub use crate::stop::Stop;
use crate::trial::Trial;
use models::{Model, ModelState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tokens handed to the model at a time.
pub const SEGMENT: u64 = 1024;

/// What one stream has given so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamTally {
    /// Losses so far.
    pub position: u64,
    /// Their means.
    pub losses: LossTally,
    /// Largest memory of the model's state so far, mitigation included, in bytes.
    pub state_bytes: u64,
    /// What the mitigation counted, averaged over layers.
    pub counts: BTreeMap<String, f64>,
    /// What the probe recorded, first recurrence first; empty without a probe and until the stream is done.
    pub records: Vec<SiteRecord>,
}

/// A stream under way: what it has given, and the model's state unless it is done or not begun.
#[derive(Debug)]
pub struct StreamRun {
    /// The stretch of text.
    pub stream: Stream,
    /// What it has given.
    pub tally: StreamTally,
    /// The state to go on from.
    pub state: Option<ModelState>,
}

impl StreamRun {
    /// A stream not yet begun.
    pub fn new(stream: Stream, grid: &Grid) -> Self {
        let tally = StreamTally {
            position: 0,
            losses: LossTally::new(grid),
            state_bytes: 0,
            counts: BTreeMap::new(),
            records: Vec::new(),
        };
        Self {
            stream,
            tally,
            state: None,
        }
    }

    /// Whether all its tokens are read.
    pub fn is_done(&self) -> bool {
        self.tally.position >= self.stream.length
    }
}

/// What every stream of a run shares.
#[derive(Debug)]
pub struct Run<'a> {
    /// The model.
    pub model: &'a Model,
    /// The text.
    pub text: &'a Text,
    /// Where losses are averaged.
    pub grid: &'a Grid,
    /// Threads to share among the streams.
    pub threads: usize,
    /// When to stop.
    pub stop: &'a Stop,
    /// Counts tokens.
    pub progress: &'a Progress,
    /// When to come back, done or not, to be gone on with after saving.
    pub until: Option<Instant>,
}

impl Run<'_> {
    /// Reads on in every stream that is not done, until all are, a stop is asked for, or it is time to come back; gives the time
    /// it took. `trial` gives what is tried in a stream.
    ///
    /// # Errors
    /// The first failure of a stream, in their order.
    pub fn go_on(
        &self,
        streams: &mut [StreamRun],
        trial: &(dyn Fn(&Stream) -> Trial + Sync),
    ) -> Result<Duration, ProgramError> {
        let start = Instant::now();
        let waiting: Vec<&mut StreamRun> = streams.iter_mut().filter(|stream| !stream.is_done()).collect();
        let workers = waiting.len().clamp(1, self.threads.max(1));
        let queue: Vec<Mutex<(&mut StreamRun, Option<ProgramError>)>> = waiting
            .into_iter()
            .map(|stream| Mutex::new((stream, None)))
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(entry) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
                let (stream, failure) = &mut *entry;
                if let Err(error) = self.read(stream, &trial(&stream.stream)) {
                    *failure = Some(error);
                    next.store(queue.len(), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| -> Result<(), ProgramError> {
            for worker in 0..workers {
                // Threads left over by the division go to the first workers.
                let threads = self.threads / workers + usize::from(worker < self.threads % workers);
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads.max(1))
                    .build();
                let pool =
                    pool.map_err(|error| ProgramError::Failed(format!("cannot start threads: {error}")))?;
                if let Err(error) =
                    std::thread::Builder::new().spawn_scoped(scope, move || pool.install(work))
                {
                    // Those that have started already would read all of it first.
                    next.store(queue.len(), Ordering::Relaxed);
                    return Err(ProgramError::Failed(format!("cannot start threads: {error}")));
                }
            }
            Ok(())
        })?;
        let failures = queue
            .into_iter()
            .map(|entry| entry.into_inner().unwrap_or_else(PoisonError::into_inner).1);
        match failures.flatten().next() {
            Some(error) => Err(error),
            None => Ok(start.elapsed()),
        }
    }

    fn is_to_come_back(&self) -> bool {
        self.stop.is_asked() || self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn read(&self, run: &mut StreamRun, trial: &Trial) -> Result<(), ProgramError> {
        if self.is_to_come_back() {
            return Ok(());
        }
        let mut state = match run.state.take() {
            Some(state) => state,
            None => trial.start(self.model)?,
        };
        while !run.is_done() && !self.is_to_come_back() {
            let position = run.tally.position;
            if trial.starts_again_at(position) {
                state = trial.start(self.model)?;
            }
            let count = trial.stretch(position, SEGMENT.min(run.stream.length - position));
            // One id more than is read: the last one's target.
            let ids = self.text.read(run.stream.offset + position, count as usize + 1);
            let losses = self.model.losses(&ids[..count as usize], &ids[1..], &mut state)?;
            run.tally.losses.add(self.grid, position, &losses);
            run.tally.position += count;
            run.tally.state_bytes = run.tally.state_bytes.max(state.bytes() as u64);
            self.progress.inc(count);
            self.stop.count(count);
        }
        run.tally.counts = counts(&state);
        if run.is_done() {
            run.tally.records = records(&mut state);
        } else {
            run.state = Some(state);
        }
        Ok(())
    }
}

/// What the interventions' memories report, averaged over the recurrences.
fn counts(state: &ModelState) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for memory in state.recurrences().flat_map(|recurrence| &recurrence.memories) {
        for (name, value) in memory.report() {
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + value, sum.1 + 1.0);
        }
    }
    sums.into_iter()
        .map(|(name, (sum, count))| (name, sum / count))
        .collect()
}

/// What the probe recorded in each recurrence; nothing without a probe.
pub fn records(state: &mut ModelState) -> Vec<SiteRecord> {
    let memories = state
        .recurrences_mut()
        .flat_map(|recurrence| &mut recurrence.memories);
    memories
        .filter_map(|memory| memory.as_any_mut().downcast_ref::<SiteRecord>().cloned())
        .collect()
}
