//! Measuring all rows, shared out among the ranks, and timing them afterwards.
//!
//! A piece of the work is the losses of one stream, or the passkeys, of one mitigation; the parts of a mitigation are a lane of the queue.
//! Speeds tell something only of a machine that does nothing else, so they are measured last: by rank 0, while the others wait.

use super::files;
use super::measure::{Bench, Found, Part};
use super::row::{Leaderboard, Row};
use crate::answers::Timed;
use crate::context::{Context, Progress};
use crate::error::ProgramError;
use crate::mitigation_file;
use crate::output::OutputFolder;
use crate::ranks::queue::Queue;
use crate::ranks::share_out::Team;
use crate::trial::Trial;
use spillway_mitigations::Mitigation;
use spillway_models::evaluation::diagnosis::treatment::Treatment;
use std::sync::{Mutex, PoisonError};

/// A part of the row of one mitigation.
#[derive(Clone, Copy, Debug)]
struct Piece {
    trial: usize,
    part: Part,
}

/// What all rows are measured with.
pub struct Sharing<'a> {
    bench: &'a Bench<'a>,
    trials: &'a [Trial],
    context: &'a Context,
    pieces: Vec<Piece>,
}

impl<'a> Sharing<'a> {
    /// The rows of these mitigations.
    pub fn new(bench: &'a Bench<'a>, trials: &'a [Trial], context: &'a Context) -> Self {
        let pieces = trials.iter().enumerate().flat_map(|(trial, tried)| {
            let parts = bench.parts(tried).into_iter();
            parts.map(move |part| Piece { trial, part })
        });
        Self {
            pieces: pieces.collect(),
            bench,
            trials,
            context,
        }
    }

    /// On a rank other than 0: measures what rank 0 hands out.
    ///
    /// # Errors
    /// [`ProgramError`] from the model, and from the other ranks.
    pub fn help(&self) -> Result<(), ProgramError> {
        let bar = self.context.progress(0, "tokens");
        self.share_out(Queue::default(), &bar, |_, _| Ok(()))?;
        Ok(())
    }

    /// On rank 0, or in one process: measures the rows that are missing, and then the speeds; writes all files after each row. Whether
    /// everything is measured.
    ///
    /// # Errors
    /// [`ProgramError`] from the model, for files that cannot be written, and from the other ranks.
    pub fn measure(&self, board: &mut Leaderboard, folder: &mut OutputFolder) -> Result<bool, ProgramError> {
        let lanes = self.lanes(board);
        let tokens = lanes
            .iter()
            .flatten()
            .map(|place| self.bench.tokens(self.pieces[*place].part));
        let bar = self.context.progress(tokens.sum(), "tokens");
        let rows = Mutex::new(Rows {
            sharing: self,
            begun: self.trials.iter().map(|_| Begun::default()).collect(),
            board,
            folder,
        });
        let measured = self.share_out(Queue::of_lanes(lanes), &bar, |piece, found| {
            let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
            rows.take_in(*piece, found)
        })?;
        drop(bar);
        let Rows { board, folder, .. } = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(measured && self.time(board, folder)?)
    }

    /// The places of the parts of every row that is missing, row by row. What is fitted takes the longest, and nobody can help: among several
    /// ranks it begins first.
    fn lanes(&self, board: &Leaderboard) -> Vec<Vec<usize>> {
        let is_missing = |trial: &&usize| board.row(self.trials[**trial].name()).is_none();
        let all: Vec<usize> = (0..self.trials.len()).collect();
        let mut missing: Vec<usize> = all.iter().filter(is_missing).copied().collect();
        if self.context.ranks().is_some() {
            missing.sort_by_key(|trial| !self.trials[*trial].is_to_be_fitted());
        }
        let lane = |trial: usize| {
            let pieces = self.pieces.iter().enumerate();
            let pieces = pieces.filter(|(_, piece)| piece.trial == trial);
            pieces.map(|(place, _)| place).collect()
        };
        missing.into_iter().map(lane).collect()
    }

    fn share_out(
        &self,
        queue: Queue,
        bar: &Progress,
        done: impl Fn(&Piece, Timed<Found>) -> Result<(), ProgramError> + Sync,
    ) -> Result<bool, ProgramError> {
        let (context, bench) = (self.context, self.bench);
        // As many streams at a time as there are threads for.
        let threads = (context.threads() / bench.streams.len().max(1)).max(1);
        let team = Team {
            context,
            threads,
            stop: bench.stop,
            bar,
        };
        let work = |piece: &Piece| {
            let trial = &self.trials[piece.trial];
            let number = piece.trial + 1;
            bar.set_message(format!("{number} of {}: {}", self.trials.len(), trial.name()));
            let watch = |tokens: u64| {
                bar.inc(tokens);
                bench.stop.flow()
            };
            let measured = Timed::of(|| bench.part(trial, piece.part, threads, &watch))?;
            Ok(measured.found.map(|found| Timed {
                found,
                seconds: measured.seconds,
            }))
        };
        let done = |piece: &Piece, found| done(piece, found).map(|()| Vec::new());
        team.share_out_lanes(&self.pieces, queue, work, done)
    }

    /// Measures the speeds of the rows that have none; whether all have some.
    fn time(&self, board: &mut Leaderboard, folder: &mut OutputFolder) -> Result<bool, ProgramError> {
        let untimed = self.trials.iter().filter(|trial| {
            let row = board.row(trial.name());
            row.is_some_and(|row| !row.is_timed())
        });
        let untimed: Vec<&Trial> = untimed.collect();
        let bar = self.context.progress(untimed.len() as u64, "mitigations");
        for trial in untimed {
            bar.set_message(format!("{}: speed", trial.name()));
            let Some(row) = board.row(trial.name()) else {
                continue;
            };
            let treatment = treatment(trial, row)?;
            let Timed { found, seconds } = Timed::of(|| self.bench.speeds(&treatment))?;
            let Some((prefill, decode)) = found else {
                return Ok(false);
            };
            if let Some(row) = board.row_mut(trial.name()) {
                row.prefill_tokens_per_second = Some(prefill);
                row.decode_tokens_per_second = Some(decode);
                row.seconds += seconds;
            }
            files::write(board, folder)?;
            folder.keep();
            bar.inc(1);
        }
        Ok(true)
    }
}

/// What a row was measured under: with the numbers that were fitted, if any were.
fn treatment(trial: &Trial, row: &Row) -> Result<Treatment, ProgramError> {
    let Some(fit) = &row.fit else {
        return Ok(trial.treatment().clone());
    };
    let mitigation: Mitigation = fit
        .mitigation
        .parse()
        .map_err(|error| ProgramError::Failed(format!("{}: {error}", trial.name())))?;
    Ok(trial.fitted(&mitigation).treatment().clone())
}

/// The rows as they come together, on rank 0.
struct Rows<'a, 'b> {
    sharing: &'a Sharing<'a>,
    begun: Vec<Begun>,
    board: &'b mut Leaderboard,
    folder: &'b mut OutputFolder,
}

/// A row of which some parts are there.
#[derive(Default)]
struct Begun {
    parts: Vec<(Part, Found)>,
    seconds: f64,
}

impl Rows<'_, '_> {
    /// Takes a part in, and writes all files if its row is whole.
    fn take_in(&mut self, piece: Piece, found: Timed<Found>) -> Result<(), ProgramError> {
        let Sharing { bench, trials, .. } = *self.sharing;
        let trial = &trials[piece.trial];
        let begun = &mut self.begun[piece.trial];
        begun.parts.push((piece.part, found.found));
        begun.seconds += found.seconds;
        if begun.parts.len() < bench.parts(trial).len() {
            return Ok(());
        }
        let Begun { parts, seconds } = std::mem::take(begun);
        let mut row = bench.row(trial, parts, seconds);
        if trial.mitigation().is_calibrated() {
            let text = bench.calibration.name();
            mitigation_file::write(self.folder, trial.mitigation(), &bench.model.info().name, text)?;
            row.spec = mitigation_file::spec(trial.mitigation(), self.folder.path());
        }
        self.board.add(row);
        files::write(self.board, self.folder)?;
        self.folder.keep();
        Ok(())
    }
}
