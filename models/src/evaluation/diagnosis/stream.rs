//! Reads streams of text under a treatment, in memory that does not grow with their length.
//!
//! Streams are shared among the threads; if there are fewer streams than threads, each gets several, for the kernels. A run can be
//! stopped between two segments and goes on later to the same bits, because segments always start at the same positions.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::loss::{Grid, LossTally};
use super::record::SiteRecord;
use super::text::{Stream, Text};
use super::treatment::Treatment;
use crate::error::ModelError;
use crate::evaluation::not_finite_are_null;
use crate::model::Model;
use crate::parallel::Communicator;
use crate::state::ModelState;

/// Tokens handed to the model at a time.
pub const SEGMENT: u64 = 1024;

/// What one stream has given so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamTally {
    /// Number of losses so far, and so the position up to which the stream has been read.
    pub position: u64,
    /// Means of the losses so far.
    pub losses: LossTally,
    /// Largest memory of the model's state so far, interventions included, in bytes.
    pub state_bytes: u64,
    /// What the interventions counted, averaged over layers.
    #[serde(deserialize_with = "not_finite_are_null")]
    pub counts: BTreeMap<String, f64>,
    /// What the probe recorded, first recurrence first; empty without a probe and until the stream is done.
    pub records: Vec<SiteRecord>,
}

/// A stream under way: what it has given, and the model's state unless it is done or not begun.
#[derive(Debug)]
pub struct StreamRun {
    /// The range of the text that is read.
    pub stream: Stream,
    /// What the stream has given so far.
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
pub struct Reading<'a> {
    /// The model that reads.
    pub model: &'a Model,
    /// The text that is read.
    pub text: &'a Text,
    /// Where losses are averaged.
    pub grid: &'a Grid,
    /// Threads to share among the streams.
    pub threads: usize,
    /// Ranks that read each stream together, where there are several.
    pub ranks: Option<&'a dyn Communicator>,
    /// Hears how many tokens were read since it was last asked, in any stream, and may break off until later.
    pub watch: &'a (dyn Fn(u64) -> ControlFlow<()> + Sync),
}

impl Reading<'_> {
    /// Reads on in every stream that is not done, until all are or the watch breaks off; gives the time it took. `treatment` says
    /// what a stream is read under.
    ///
    /// # Errors
    /// The first failure of a stream, in their order; [`ModelError::Threads`].
    pub fn go_on(
        &self,
        streams: &mut [StreamRun],
        treatment: &(dyn Fn(&Stream) -> Treatment + Sync),
    ) -> Result<Duration, ModelError> {
        if let Some(ranks) = self.ranks {
            return self.go_on_together(ranks, streams, treatment);
        }
        let start = Instant::now();
        let waiting: Vec<&mut StreamRun> = streams.iter_mut().filter(|stream| !stream.is_done()).collect();
        let workers = waiting.len().clamp(1, self.threads.max(1));
        let queue: Vec<Mutex<(&mut StreamRun, Option<ModelError>)>> = waiting
            .into_iter()
            .map(|stream| Mutex::new((stream, None)))
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(entry) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
                let (stream, failure) = &mut *entry;
                if let Err(error) = self.read(stream, &treatment(&stream.stream)) {
                    *failure = Some(error);
                    next.store(queue.len(), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| -> Result<(), ModelError> {
            for worker in 0..workers {
                // Threads left over by the division go to the first workers.
                let threads = self.threads / workers + usize::from(worker < self.threads % workers);
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads.max(1))
                    .build();
                let pool = pool.map_err(|error| ModelError::Threads(error.to_string()))?;
                if let Err(error) =
                    std::thread::Builder::new().spawn_scoped(scope, move || pool.install(work))
                {
                    // Those that have started already would read all of it first.
                    next.store(queue.len(), Ordering::Relaxed);
                    return Err(ModelError::Threads(error.to_string()));
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

    fn read(&self, run: &mut StreamRun, treatment: &Treatment) -> Result<(), ModelError> {
        if (self.watch)(0).is_break() {
            return Ok(());
        }
        let mut state = match run.state.take() {
            Some(state) => state,
            None => treatment.start(self.model)?,
        };
        while !run.is_done() {
            let position = run.tally.position;
            let left = SEGMENT.min(run.stream.length - position);
            let count = treatment.enter(self.model, &mut state, position, left)?;
            // One id more than is read: the last one's target.
            let ids = self.text.read(run.stream.offset + position, count as usize + 1);
            let losses = self.model.losses(&ids[..count as usize], &ids[1..], &mut state)?;
            run.tally.losses.add(self.grid, position, &losses);
            run.tally.position += count;
            run.tally.state_bytes = run.tally.state_bytes.max(state.bytes() as u64);
            if (self.watch)(count).is_break() {
                break;
            }
        }
        self.put_back(run, state);
        Ok(())
    }

    /// Keeps of the state what is needed later.
    pub(super) fn put_back(&self, run: &mut StreamRun, mut state: ModelState) {
        run.tally.counts = counts(&state);
        if run.is_done() {
            run.tally.records = records(&mut state);
        } else {
            run.state = Some(state);
        }
    }
}

/// What the interventions report, averaged over the recurrences.
fn counts(state: &ModelState) -> BTreeMap<String, f64> {
    let interventions = state
        .recurrences()
        .flat_map(|recurrence| &recurrence.interventions);
    means_by_name(interventions.flat_map(|own| own.report()))
}

/// The mean of the numbers that have one name.
pub(super) fn means_by_name(counts: impl IntoIterator<Item = (String, f64)>) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (name, value) in counts {
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + value, sum.1 + 1.0);
    }
    let mean = |(name, (sum, count))| (name, sum / count);
    sums.into_iter().map(mean).collect()
}

/// What the probe recorded in each recurrence; nothing without a probe.
pub(super) fn records(state: &mut ModelState) -> Vec<SiteRecord> {
    let interventions = state
        .recurrences_mut()
        .flat_map(|recurrence| &mut recurrence.interventions);
    interventions
        .filter_map(|own| own.as_any_mut().downcast_ref::<SiteRecord>().cloned())
        .map(SiteRecord::end)
        .collect()
}
