//! The loop that reads prompts and decodes the batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use burn::tensor::Tensor;
use spillway_ssm_core::Chain;

use super::job::{Ending, Event, Job};
use super::metrics::Metrics;
use super::row::Row;
use crate::error::ModelError;
use crate::generation::Finish;
use crate::model::{Logits, Model};
use crate::state::{Mark, Marks, ModelState};

/// Tokens of a prompt that are read between two steps of a batch, and where there is none.
const PIECE: usize = 256;
const PIECE_ALONE: usize = 4096;

/// Limits of an engine: sequences side by side, jobs that wait, bytes of kept states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences that are decoded side by side.
    pub rows: usize,
    /// Jobs that wait; more are refused.
    pub queue: usize,
    /// Bytes of states that are kept to go on from.
    pub kept_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            rows: 16,
            queue: 64,
            kept_bytes: 1 << 30,
        }
    }
}

/// Hands jobs to an engine. The engine ends when every one of them is gone and all jobs are done.
#[derive(Clone, Debug)]
pub struct Submitter {
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
    hurry: Arc<AtomicBool>,
}

/// Why a job is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many wait as may.
    #[error("too many requests wait; try again later")]
    Full,
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

impl Submitter {
    /// Puts a job into the queue.
    ///
    /// # Errors
    /// [`Refused`], at once.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        Metrics::add(&self.metrics.queued, 1);
        let sent = self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Full,
            TrySendError::Disconnected(_) => Refused::Ended,
        });
        if sent.is_err() {
            self.metrics.queued.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    /// What the engine has done and is doing.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Ends every job at its next token, those that wait too.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }
}

/// Runs jobs on one model: reads their prompts, and decodes their sequences as a batch.
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m Model,
    chain: Chain,
    rows: usize,
    jobs: Receiver<Job>,
    marks: Marks,
    metrics: Arc<Metrics>,
    hurry: Arc<AtomicBool>,
}

/// A prompt that waits to be read, or is.
struct Reading {
    job: Job,
    /// How far the prompt is read; `None` until its turn comes, as a prompt before it may leave the state that it goes on from.
    begun: Option<Begun>,
}

/// How far a prompt has been read.
struct Begun {
    state: ModelState,
    /// Number of ids that the state has read.
    read: usize,
    /// Number of ids that it had read when the job began, kept from an earlier one.
    kept: usize,
}

/// Sequences that are decoded side by side, and their states as rows of one.
#[derive(Default)]
struct Batch<'m> {
    rows: Vec<Row<'m>>,
    state: Option<ModelState>,
}

impl<'m> Engine<'m> {
    /// An engine of a model with interventions, and what hands jobs to it. Under an intervention that acts at positions sequences
    /// are decoded one by one.
    pub fn new(model: &'m Model, chain: Chain, options: EngineOptions) -> (Self, Submitter) {
        let (sender, jobs) = sync_channel(options.queue);
        let metrics = Arc::new(Metrics::default());
        let hurry = Arc::new(AtomicBool::new(false));
        let rows = match chain.looking_at_positions() {
            Some(_) => 1,
            None => options.rows.max(1),
        };
        let engine = Self {
            model,
            chain,
            rows,
            jobs,
            marks: Marks::new(options.kept_bytes),
            metrics: metrics.clone(),
            hurry: hurry.clone(),
        };
        let submitter = Submitter {
            jobs: sender,
            metrics,
            hurry,
        };
        (engine, submitter)
    }

    /// Works until every [`Submitter`] is gone and all jobs are done.
    pub fn run(mut self) {
        let mut reading = VecDeque::new();
        let mut batch = Batch::default();
        loop {
            let going = self.take_jobs(&mut reading, batch.rows.len());
            if !going && reading.is_empty() && batch.rows.is_empty() {
                return;
            }
            self.read_piece(&mut reading, &mut batch);
            self.step(&mut batch);
            Metrics::set(&self.metrics.reading, reading.len());
            Metrics::set(&self.metrics.rows, batch.rows.len());
            Metrics::set(&self.metrics.kept_bytes, self.marks.bytes());
        }
    }

    /// Takes jobs while there is room; waits where there is nothing else to do. False when no more will come.
    fn take_jobs(&mut self, reading: &mut VecDeque<Reading>, rows: usize) -> bool {
        while reading.len() + rows < self.rows {
            let is_idle = reading.is_empty() && rows == 0;
            let job = match is_idle {
                true => self.jobs.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.jobs.try_recv(),
            };
            match job {
                Ok(job) => {
                    self.metrics.queued.fetch_sub(1, Ordering::Relaxed);
                    Metrics::add(&self.metrics.jobs, 1);
                    reading.push_back(Reading { job, begun: None });
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// The state that a job goes on from.
    fn start(&mut self, job: &Job) -> Result<Begun, ModelError> {
        if job.ids.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        self.model.check_ids(&job.ids)?;
        job.sampling.validate()?;
        let fits = |mark: &&Mark| mark.ids.len() < job.ids.len() && job.ids.starts_with(&mark.ids);
        let given = job.from.as_ref().filter(fits);
        // An encoder reads a prompt's beginning as a whole: with one, two prompts share nothing.
        let kept = self.marks.longest(&job.ids);
        let kept = kept.filter(|_| self.model.encoder_length() == 0);
        let longest = given.into_iter().chain(kept).max_by_key(|mark| mark.ids.len());
        let (kept, state) = match longest {
            Some(mark) => (mark.ids.len(), mark.state.clone()),
            None => (0, self.model.start(&self.chain, 1)?),
        };
        Ok(Begun {
            state,
            read: kept,
            kept,
        })
    }

    /// Reads a piece of the prompt that came first; a prompt that is read becomes a row.
    fn read_piece(&mut self, reading: &mut VecDeque<Reading>, batch: &mut Batch<'m>) {
        let Some(Reading { mut job, begun }) = reading.pop_front() else {
            return;
        };
        if self.hurry.load(Ordering::Relaxed) {
            return self.fail(&mut job, "the engine ends");
        }
        let begun = match begun {
            Some(begun) => Ok(begun),
            None => self.start(&job),
        };
        let piece = if batch.rows.is_empty() { PIECE_ALONE } else { PIECE };
        match begun.and_then(|begun| self.read_on(&job, begun, piece)) {
            Ok((begun, None)) => reading.push_front(Reading {
                job,
                begun: Some(begun),
            }),
            Ok((begun, Some(logits))) => self.join(job, begun, logits, batch),
            Err(error) => self.fail(&mut job, &error.to_string()),
        }
    }

    /// Reads as many tokens; the logits after the last of the prompt.
    fn read_on(
        &mut self,
        job: &Job,
        mut begun: Begun,
        piece: usize,
    ) -> Result<(Begun, Option<Tensor<2>>), ModelError> {
        let before_last = job.ids.len() - 1;
        let mut piece = piece;
        if begun.read == 0 {
            self.model.begin_prompt(job.ids.len(), &mut begun.state);
            piece = piece.max(self.model.encoder_length());
            if self.model.encoder_length() > before_last {
                let logits = self.model.logits(&job.ids, &mut begun.state, Logits::Last)?;
                return Ok((begun, Some(logits)));
            }
        }
        let end = before_last.min(begun.read + piece);
        if end > begun.read {
            self.model.advance(&job.ids[begun.read..end], &mut begun.state)?;
            begun.read = end;
        }
        if end < before_last {
            return Ok((begun, None));
        }
        // Without the last token, which leaves logits to be had for the same prompt again.
        self.marks.keep(Mark {
            ids: job.ids[..before_last].into(),
            state: begun.state.clone(),
        });
        let logits = self
            .model
            .logits(&job.ids[before_last..], &mut begun.state, Logits::Last)?;
        Ok((begun, Some(logits)))
    }

    /// Chooses the first token of a sequence, and puts it into the batch.
    fn join(&mut self, mut job: Job, begun: Begun, logits: Tensor<2>, batch: &mut Batch<'m>) {
        let Begun { state, kept, .. } = begun;
        let (prompt_tokens, read_tokens) = (job.ids.len(), job.ids.len() - kept);
        Metrics::add(&self.metrics.prompt_tokens, prompt_tokens);
        Metrics::add(&self.metrics.read_tokens, read_tokens);
        let read = Event::Read {
            prompt_tokens,
            read_tokens,
        };
        if !(job.events)(read) {
            Metrics::add(&self.metrics.cancelled, 1);
            return;
        }
        // Its sampling was validated when the job began.
        let Ok(mut row) = Row::new(self.model, job) else {
            return;
        };
        let mut logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        match row.take(&mut logits, &self.model.info().eos_ids) {
            Ok(None) => {
                let joined = match &batch.state {
                    None => Ok(state),
                    Some(others) => ModelState::cat(&[others, &state]),
                };
                match joined {
                    Ok(state) => {
                        batch.state = Some(state);
                        batch.rows.push(row);
                    }
                    Err(error) => self.fail_row(row, &error),
                }
            }
            Ok(Some(finish)) => self.end(row, finish, state),
            Err(error) => self.fail_row(row, &error),
        }
    }

    /// Every sequence of the batch by one token; those that end leave.
    fn step(&mut self, batch: &mut Batch<'m>) {
        let Some(state) = &mut batch.state else {
            return;
        };
        let ids: Vec<u32> = batch.rows.iter().map(Row::last).collect();
        let logits = match self.model.decode_batch(&ids, state) {
            Ok(logits) => logits,
            Err(error) => {
                let rows = std::mem::take(batch).rows;
                rows.into_iter().for_each(|row| self.fail_row(row, &error));
                return;
            }
        };
        Metrics::add(&self.metrics.steps, 1);
        let mut logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let width = logits.len() / ids.len().max(1);
        let hurry = self.hurry.load(Ordering::Relaxed);
        let ends = &self.model.info().eos_ids;
        let outcomes: Vec<_> = batch
            .rows
            .iter_mut()
            .zip(logits.chunks_exact_mut(width.max(1)))
            .map(|(row, logits)| match hurry {
                true => Ok(Some(Finish::Cancelled)),
                false => row.take(logits, ends),
            })
            .collect();
        self.leave(batch, outcomes);
    }

    /// Takes the sequences that end out of the batch.
    fn leave(&mut self, batch: &mut Batch<'m>, outcomes: Vec<Result<Option<Finish>, ModelError>>) {
        if outcomes.iter().all(|outcome| matches!(outcome, Ok(None))) {
            return;
        }
        let Batch { rows, state } = std::mem::take(batch);
        let Some(state) = state else {
            return;
        };
        let mut staying = Vec::new();
        for (index, (row, outcome)) in rows.into_iter().zip(outcomes).enumerate() {
            match outcome {
                Ok(None) => {
                    staying.push(index);
                    batch.rows.push(row);
                }
                Ok(Some(finish)) => match state.select(&[index]) {
                    Ok(own) => self.end(row, finish, own),
                    Err(error) => self.fail_row(row, &error),
                },
                Err(error) => self.fail_row(row, &error),
            }
        }
        if staying.is_empty() {
            return;
        }
        match state.select(&staying) {
            Ok(state) => batch.state = Some(state),
            Err(error) => {
                let rows = std::mem::take(batch).rows;
                rows.into_iter().for_each(|row| self.fail_row(row, &error));
            }
        }
    }

    fn end(&mut self, mut row: Row<'m>, finish: Finish, state: ModelState) {
        Metrics::add(&self.metrics.new_tokens, row.new_tokens());
        if finish == Finish::Cancelled {
            Metrics::add(&self.metrics.cancelled, 1);
        }
        let mark = row.mark(state, &finish);
        self.marks.keep(mark.clone());
        let new_tokens = row.new_tokens();
        row.tell(Event::Finished(Ending {
            finish,
            new_tokens,
            mark,
        }));
    }

    fn fail_row(&mut self, mut row: Row<'m>, error: &ModelError) {
        Metrics::add(&self.metrics.failures, 1);
        row.tell(Event::Failed(error.to_string()));
    }

    fn fail(&mut self, job: &mut Job, reason: &str) {
        Metrics::add(&self.metrics.failures, 1);
        (job.events)(Event::Failed(reason.to_owned()));
    }
}
