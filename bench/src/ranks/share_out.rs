//! Many pieces of work, handed out to whoever is free: the threads of this process, and those of other ranks.
//!
//! Which rank does a piece has no influence on what comes of it: sums in the kernels never depend on what runs beside them, nor
//! on the number of threads. Rank 0 hands out the places of the pieces in a list that every rank has, takes in what comes of
//! them, and hears how far the others have come. When it is asked to stop, all ranks finish the steps under way and save.
//!
//! ```text
//! rank 0                                  rank r
//!   ◄── what next? ─────────────────────────
//!   ─── place, or nothing: now or later ───►
//!   ◄── so far; result of a place; failure ─
//!   ─── stop ──────────────────────────────►
//!   ◄── goodbye ────────────────────────────
//!   ─── end ───────────────────────────────►
//! ```

use crate::context::Context;
use crate::error::ProgramError;
use crate::progress::Progress;
use crate::ranks::queue::Queue;
use crate::stop::Stop;
use crate::terminal::say;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spillway_models::message::shown;
use spillway_models::parallel::{Communicator, ParallelError, Tag};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const REPORT: Tag = Tag::new(64, "reports of its work");
const PLACE: Tag = Tag::new(65, "the next piece of work");
const STOP: Tag = Tag::new(66, "a stop");
const FINISHED: Tag = Tag::new(67, "the end of the work");

/// How often a rank says how far it has come, and looks whether it shall stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the ranks tell rank 0.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// Asks for the place of the next piece.
    Next,
    /// Since the last report, `shown` on the bar and `counted` towards a stop.
    SoFar { shown: u64, counted: u64 },
    /// What came of a piece.
    Done { place: usize, result: Value },
    /// Why a piece, and everything with it, failed.
    Failed(String),
    /// Nothing more comes from this rank.
    Goodbye,
}

/// Who works, and how that is shown.
#[derive(Clone, Copy, Debug)]
pub struct Team<'a> {
    /// What the command shares: the threads, and the ranks to work with.
    pub context: &'a Context,
    /// Threads that a piece is computed with. A rank works on as many pieces at a time as it has threads for.
    pub threads: usize,
    /// Asked on one rank, it stops all.
    pub stop: &'a Stop,
    /// How far all of them have come, on rank 0.
    pub bar: &'a Progress,
}

impl Team<'_> {
    /// Does `work` on the items at the places in `queue`, in its order, as many at a time as there are threads on all ranks;
    /// whether all are done. `work` gives what came of an item, or `None` if it was stopped; on rank 0 `done` hears of it,
    /// from whatever rank. After an item that is stopped, or an error, nothing more is begun.
    ///
    /// Every rank calls this with the same items. On all but rank 0 `queue` is not looked at, and nothing is given of
    /// whether all are done.
    ///
    /// # Errors
    /// The first of `work` or `done`; a stop is asked for then, so that the others end as well.
    pub fn share_out<T: Sync, R: Serialize + DeserializeOwned>(
        &self,
        items: &[T],
        queue: &[usize],
        work: impl Fn(&T) -> Result<Option<R>, ProgramError> + Sync,
        done: impl Fn(&T, R) -> Result<(), ProgramError> + Sync,
    ) -> Result<bool, ProgramError> {
        let done = |item: &T, result: R| done(item, result).map(|()| Vec::new());
        self.share_out_lanes(items, Queue::new(queue), work, done)
    }

    /// As [`Self::share_out`], for pieces in lanes: `done` gives the places of further pieces of the same lane that can be begun now
    /// that this one is done.
    ///
    /// # Errors
    /// As there.
    pub fn share_out_lanes<T: Sync, R: Serialize + DeserializeOwned>(
        &self,
        items: &[T],
        queue: Queue,
        work: impl Fn(&T) -> Result<Option<R>, ProgramError> + Sync,
        done: impl Fn(&T, R) -> Result<Vec<usize>, ProgramError> + Sync,
    ) -> Result<bool, ProgramError> {
        let leading = Leading {
            team: self,
            items,
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            done: &done,
        };
        match self.context.ranks() {
            None => {
                leading.work(&work)?;
                Ok(leading.queue().is_complete())
            }
            Some(ranks) if ranks.rank() == 0 => leading.lead(ranks, &work),
            Some(ranks) => self.help(ranks, items, &work).map(|()| true),
        }
    }

    /// Pieces that this rank works on at a time.
    fn workers(&self) -> usize {
        (self.context.threads() / self.threads.max(1)).max(1)
    }

    /// On a rank other than 0.
    fn help<T: Sync, R: Serialize>(
        &self,
        ranks: &dyn Communicator,
        items: &[T],
        work: &(impl Fn(&T) -> Result<Option<R>, ProgramError> + Sync),
    ) -> Result<(), ProgramError> {
        let ended = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                let result = self.work_for(ranks, items, work);
                ended.store(true, Ordering::Release);
                result
            });
            let mut told = (0, 0);
            while !ended.load(Ordering::Acquire) {
                if !matches!(ranks.poll(STOP, PATIENCE), Ok(None)) {
                    // Asked, or there is nobody left to work for.
                    self.stop.ask();
                }
                // Where nobody hears it, the next wait says why.
                let _ = self.tell_progress(ranks, &mut told);
            }
            let result = working.join();
            let _ = self.tell_progress(ranks, &mut told);
            result.unwrap_or_else(|_| Err(ProgramError::Internal("a piece of work panicked".into())))
        });
        if let Err(error) = &result {
            report(ranks, &Report::Failed(error.to_string()))?;
        }
        report(ranks, &Report::Goodbye)?;
        ranks.receive(0, FINISHED)?;
        result
    }

    fn tell_progress(&self, ranks: &dyn Communicator, told: &mut (u64, u64)) -> Result<(), ParallelError> {
        let now = (self.bar.position(), self.stop.counted());
        let (shown, counted) = (now.0.saturating_sub(told.0), now.1.saturating_sub(told.1));
        *told = now;
        match (shown, counted) {
            (0, 0) => Ok(()),
            _ => report(ranks, &Report::SoFar { shown, counted }),
        }
    }

    fn work_for<T: Sync, R: Serialize>(
        &self,
        ranks: &dyn Communicator,
        items: &[T],
        work: &(impl Fn(&T) -> Result<Option<R>, ProgramError> + Sync),
    ) -> Result<(), ProgramError> {
        let asking = Mutex::new(());
        let next = || -> Result<Option<usize>, ProgramError> {
            // One question at a time, so that every answer finds its thread.
            let _asking = asking.lock().unwrap_or_else(PoisonError::into_inner);
            report(ranks, &Report::Next)?;
            place(&ranks.receive(0, PLACE)?, items.len())
        };
        let one = |place: usize| {
            let Some(result) = work(&items[place])? else {
                return Ok(false);
            };
            let result = serde_json::to_value(&result).map_err(|error| internal(&error))?;
            report(ranks, &Report::Done { place, result })?;
            Ok(true)
        };
        let threads = (self.workers(), self.threads);
        on_threads(threads, self.stop, &next, &one)
    }
}

/// On rank 0, or in the one process.
struct Leading<'a, T, D> {
    team: &'a Team<'a>,
    items: &'a [T],
    queue: Mutex<Queue>,
    /// Whoever waits for a piece is told that one is done.
    changed: Condvar,
    done: &'a D,
}

/// What a rank that asks for a piece is told.
enum Next {
    Piece(usize),
    /// Nothing yet: a piece that is being worked on may bring more.
    Later,
    Nothing,
}

impl<T: Sync, D: Sync> Leading<'_, T, D> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, queue: &mut Queue, rank: usize) -> Next {
        if self.team.stop.is_asked() {
            return Next::Nothing;
        }
        match queue.take(rank) {
            Some(place) => Next::Piece(place),
            None if queue.is_over() => Next::Nothing,
            None => Next::Later,
        }
    }

    /// The next piece for a thread of this process, once it is known whether there is one.
    fn own_next(&self) -> Option<usize> {
        let mut queue = self.queue();
        loop {
            match self.next(&mut queue, 0) {
                Next::Piece(place) => return Some(place),
                Next::Nothing => return None,
                Next::Later => {
                    let waited = self.changed.wait_timeout(queue, PATIENCE);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn finish<R>(&self, place: usize, result: R) -> Result<(), ProgramError>
    where
        D: Fn(&T, R) -> Result<Vec<usize>, ProgramError>,
    {
        let more = (self.done)(&self.items[place], result)?;
        let was_begun = self.queue().finish(place, more);
        self.changed.notify_all();
        match was_begun {
            true => Ok(()),
            false => Err(ProgramError::Internal(format!(
                "piece {place} is done and had not been begun"
            ))),
        }
    }

    /// On the threads of this process.
    fn work<R>(
        &self,
        work: &(impl Fn(&T) -> Result<Option<R>, ProgramError> + Sync),
    ) -> Result<(), ProgramError>
    where
        D: Fn(&T, R) -> Result<Vec<usize>, ProgramError>,
    {
        let one = |place: usize| match work(&self.items[place])? {
            Some(result) => self.finish(place, result).map(|()| true),
            None => {
                self.team.stop.ask();
                Ok(false)
            }
        };
        let workers = self.team.workers().min(self.queue().waiting().max(1));
        let threads = (workers, self.team.threads);
        on_threads(threads, self.team.stop, &|| Ok(self.own_next()), &one)
    }

    fn lead<R: DeserializeOwned>(
        &self,
        ranks: &dyn Communicator,
        work: &(impl Fn(&T) -> Result<Option<R>, ProgramError> + Sync),
    ) -> Result<bool, ProgramError>
    where
        D: Fn(&T, R) -> Result<Vec<usize>, ProgramError>,
    {
        let (own, served) = std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                let served = self.serve::<R>(ranks);
                if let Err(error) = &served {
                    // Said at once: the piece that this rank is at may take minutes.
                    if !self.team.stop.ask() {
                        say(format_args!("spillway: {}; stopping", shown(&error.to_string())));
                    }
                }
                served
            });
            let own = self.work(work);
            let served = serving.join();
            (own, served)
        });
        own?;
        served.unwrap_or_else(|_| Err(ProgramError::Internal("handing out work panicked".into())))?;
        Ok(self.queue().is_complete())
    }

    /// Answers the other ranks until all have said goodbye.
    fn serve<R: DeserializeOwned>(&self, ranks: &dyn Communicator) -> Result<(), ProgramError>
    where
        D: Fn(&T, R) -> Result<Vec<usize>, ProgramError>,
    {
        let others = 1..ranks.size();
        let (mut left, mut stopped, mut failure) = (others.len(), false, None);
        let mut waiting: Vec<usize> = Vec::new();
        while left > 0 {
            if self.team.stop.is_asked() && !stopped {
                stopped = true;
                others
                    .clone()
                    .try_for_each(|to| ranks.send(to, STOP, Vec::new()))?;
            }
            let heard = match ranks.poll(REPORT, PATIENCE)? {
                None => Ok(()),
                Some((from, bytes)) => match read(from, &bytes)? {
                    Report::Next => {
                        waiting.push(from);
                        Ok(())
                    }
                    Report::SoFar { shown, counted } => {
                        self.team.bar.inc(shown);
                        self.team.stop.count(counted);
                        Ok(())
                    }
                    Report::Done { place, result } => self.take_in::<R>(from, place, result),
                    Report::Failed(reason) => Err(ProgramError::Failed(format!("rank {from}: {reason}"))),
                    Report::Goodbye => {
                        left -= 1;
                        self.queue().give_up(from);
                        self.changed.notify_all();
                        Ok(())
                    }
                },
            };
            if let Err(error) = heard {
                // The others are still to save what they have.
                self.team.stop.ask();
                failure.get_or_insert(error);
            }
            waiting = self.answer(ranks, waiting)?;
        }
        others
            .into_iter()
            .try_for_each(|to| ranks.send(to, FINISHED, Vec::new()))?;
        failure.map_or(Ok(()), Err)
    }

    /// Answers those that wait for a piece; those that have to wait on are given back.
    fn answer(&self, ranks: &dyn Communicator, waiting: Vec<usize>) -> Result<Vec<usize>, ProgramError> {
        let mut later = Vec::new();
        for to in waiting {
            let place = match self.next(&mut self.queue(), to) {
                Next::Piece(place) => place as u64,
                Next::Nothing => u64::MAX,
                Next::Later => {
                    later.push(to);
                    continue;
                }
            };
            ranks.send(to, PLACE, place.to_le_bytes().to_vec())?;
        }
        Ok(later)
    }

    fn take_in<R: DeserializeOwned>(
        &self,
        from: usize,
        place: usize,
        result: Value,
    ) -> Result<(), ProgramError>
    where
        D: Fn(&T, R) -> Result<Vec<usize>, ProgramError>,
    {
        if place >= self.items.len() {
            return Err(strange(
                from,
                format!("the result of piece {place} of {}", self.items.len()),
            ));
        }
        let result = serde_json::from_value(result).map_err(|error| strange(from, error.to_string()))?;
        self.finish(place, result)
    }
}

/// Calls `work` on what `next` gives, by so many workers, each a pool of so many threads, until there is nothing more; `work` says
/// whether its piece is done.
///
/// # Errors
/// The first of `next` or `work`; a stop is asked for then.
fn on_threads(
    (workers, threads): (usize, usize),
    stop: &Stop,
    next: &(dyn Fn() -> Result<Option<usize>, ProgramError> + Sync),
    work: &(dyn Fn(usize) -> Result<bool, ProgramError> + Sync),
) -> Result<(), ProgramError> {
    let failure = Mutex::new(None);
    let go_through = || {
        let mut go_on = true;
        while go_on && !stop.is_asked() {
            let worked = next().and_then(|place| place.map_or(Ok(false), work));
            go_on = worked.unwrap_or_else(|error| {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                stop.ask();
                false
            });
        }
    };
    std::thread::scope(|scope| -> Result<(), ProgramError> {
        for _ in 0..workers.max(1) {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads.max(1))
                .build();
            let pool =
                pool.map_err(|error| ProgramError::Failed(format!("cannot start threads: {error}")))?;
            let go_through = &go_through;
            let worker = move || pool.install(go_through);
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, worker) {
                // Those that have started already would go through all of it first.
                stop.ask();
                return Err(ProgramError::Failed(format!("cannot start threads: {error}")));
            }
        }
        Ok(())
    })?;
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

fn report(ranks: &dyn Communicator, report: &Report) -> Result<(), ParallelError> {
    // A report has no maps with keys that are not texts, which is all that could fail.
    ranks.send(0, REPORT, serde_json::to_vec(report).unwrap_or_default())
}

fn read(from: usize, bytes: &[u8]) -> Result<Report, ProgramError> {
    serde_json::from_slice(bytes).map_err(|error| strange(from, error.to_string()))
}

fn place(bytes: &[u8], items: usize) -> Result<Option<usize>, ProgramError> {
    let place = bytes.try_into().map(u64::from_le_bytes);
    match place {
        Ok(u64::MAX) => Ok(None),
        Ok(place) if place < items as u64 => Ok(Some(place as usize)),
        _ => Err(strange(0, format!("{bytes:?} for one of {items} pieces"))),
    }
}

fn strange(from: usize, found: String) -> ProgramError {
    ParallelError::Message {
        what: REPORT.what,
        from,
        expected: "those of this version of the program".into(),
        found,
    }
    .into()
}

fn internal(error: &serde_json::Error) -> ProgramError {
    ProgramError::Internal(format!("JSON: {error}"))
}
