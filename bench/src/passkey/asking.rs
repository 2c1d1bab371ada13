//! Asking every prompt under every mitigation, shared out among the ranks, and writing what comes of it.
//!
//! A piece of the work is one prompt under one mitigation. Prompts of one mitigation go on from one state that walks along the filler, so they
//! are a lane of the queue: a rank stays with a mitigation until all its prompts are handed out.

use super::report::{PasskeysReport, Run, VERSION};
use super::resume::{self, Saved, Settings};
use super::{PasskeyArgs, files};
use crate::answers::{Keeping, SavedRun, Timed};
use crate::context::{Context, Progress};
use crate::error::ProgramError;
use crate::output::OutputFolder;
use crate::ranks::queue::Queue;
use crate::ranks::share_out::Team;
use crate::stop::Stop;
use crate::trial::Trial;
use spillway_models::Model;
use spillway_models::evaluation::passkey_text::evaluate::{Answer, Asked, Asker, Evaluation, Outcome, order};
use spillway_models::evaluation::passkey_text::prompt::Case;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Prompts of the shortest length that have to go wrong before longer ones are not asked: a model that answers every other one
/// misses so many by chance once in sixteen times.
const TELLING: usize = 4;

/// One prompt under one mitigation.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Index of the mitigation.
    trial: usize,
    /// Index of the stage: 0 of the shortest length, 1 of the others.
    stage: usize,
    /// Place in the order of the stage.
    place: usize,
}

/// What all prompts are asked with.
pub struct Asking<'a> {
    args: &'a PasskeyArgs,
    context: &'a Context,
    stop: &'a Stop,
    model: &'a Model,
    train_length: Option<u64>,
    trials: &'a [Trial],
    cases: &'a [Case],
    /// Indices of the prompts of each stage, in the order in which they are asked.
    stages: [Vec<usize>; 2],
    pieces: Vec<Piece>,
}

impl<'a> Asking<'a> {
    /// The model with the training length that is marked, the mitigations, and the prompts, of ascending lengths.
    pub fn new(
        args: &'a PasskeyArgs,
        context: &'a Context,
        stop: &'a Stop,
        (model, train_length): (&'a Model, Option<u64>),
        (trials, cases): (&'a [Trial], &'a [Case]),
    ) -> Self {
        let shortest = cases.first().map_or(0, |case| case.length);
        let first = cases.partition_point(|case| case.length == shortest);
        let stages = [0..first, first..cases.len()].map(|range| order(cases, range));
        let pieces = (0..trials.len()).flat_map(|trial| {
            let stages = stages.iter().enumerate();
            stages.flat_map(move |(stage, order)| {
                (0..order.len()).map(move |place| Piece { trial, stage, place })
            })
        });
        let pieces = pieces.collect();
        Self {
            args,
            context,
            stop,
            model,
            train_length,
            trials,
            cases,
            stages,
            pieces,
        }
    }

    /// On a rank other than 0: asks what rank 0 hands out.
    ///
    /// # Errors
    /// [`ProgramError`] from the model, and from the other ranks.
    pub fn help(&self) -> Result<(), ProgramError> {
        let bar = self.context.progress(0, "tokens");
        self.share_out(Queue::default(), &bar, |_, _| Ok(Vec::new()))?;
        Ok(())
    }

    /// On rank 0, or in one process: asks whatever has not been asked, and writes all files after each mitigation; incomplete after a
    /// stop.
    ///
    /// # Errors
    /// [`ProgramError`] from the model, for files that cannot be written, and from the other ranks; the answers so far are saved then.
    pub fn all(
        &'a self,
        saved: &mut Saved,
        out: &mut OutputFolder,
    ) -> Result<PasskeysReport<'a>, ProgramError> {
        let keeping = Keeping::new(saved, self.trials.len(), (out, resume::FILE));
        let bar = self.bar(keeping.runs());
        let missing = keeping.runs().iter().enumerate();
        let lanes: Vec<Vec<usize>> = missing
            .map(|(trial, run)| self.missing(trial, &run.evaluation))
            .collect();
        let mut leading = Leading {
            asking: self,
            keeping,
            report: self.report(),
        };
        leading.settle()?;
        let leading = Mutex::new(leading);
        let outcome = self.share_out(Queue::of_lanes(lanes), &bar, |piece, asked| {
            let mut leading = leading.lock().unwrap_or_else(PoisonError::into_inner);
            leading.take_in(piece, asked, &bar)
        });
        drop(bar);
        let mut leading = leading.into_inner().unwrap_or_else(PoisonError::into_inner);
        let saved = leading.keeping.save();
        // The first error is the one to report.
        outcome?;
        saved?;
        leading.end()?;
        Ok(leading.report)
    }

    fn share_out(
        &self,
        queue: Queue,
        bar: &Progress,
        done: impl Fn(&Piece, Timed<Asked>) -> Result<Vec<usize>, ProgramError> + Sync,
    ) -> Result<bool, ProgramError> {
        let team = Team {
            context: self.context,
            // A prompt is read with all of them.
            threads: self.context.threads(),
            stop: self.stop,
            bar,
        };
        let held: Mutex<Option<((usize, usize), Asker<'_>)>> = Mutex::default();
        let work = |piece: &Piece| {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            let (at, trial) = ((piece.trial, piece.stage), &self.trials[piece.trial]);
            let (_, asker) = match held.take() {
                Some(kept) if kept.0 == at => held.insert(kept),
                _ => {
                    bar.set_message(trial.name().to_string());
                    let order = &self.stages[piece.stage];
                    held.insert((at, Asker::new(self.model, trial.treatment(), self.cases, order)?))
                }
            };
            let asked = Timed::of(|| asker.ask(piece.place))?;
            let tokens = asked.found.outcome.tokens as u64;
            bar.inc(tokens);
            self.stop.count(tokens);
            Ok(Some(asked))
        };
        team.share_out_lanes(&self.pieces, queue, work, done)
    }

    /// How far all mitigations together have come.
    fn bar(&self, runs: &[SavedRun<Evaluation>]) -> Progress {
        let all: u64 = self.cases.iter().map(|case| case.length).sum();
        let is_left_out = |run: &&SavedRun<Evaluation>| self.hopeless(&run.evaluation).is_some();
        let left_out = runs.iter().filter(is_left_out).count() as u64 * self.longer();
        let done = runs.iter().map(|run| run.evaluation.prompt_tokens()).sum();
        let all = all * runs.len() as u64 - left_out;
        self.context.progress_from(done, all, "tokens")
    }

    /// Tokens of all prompts but the shortest.
    fn longer(&self) -> u64 {
        self.stages[1].iter().map(|case| self.cases[*case].length).sum()
    }

    /// The places of the pieces that are to be done next under a mitigation: of the shortest length, and when these are done the others,
    /// unless nothing was found.
    fn missing(&self, trial: usize, evaluation: &Evaluation) -> Vec<usize> {
        let stage = match (self.is_told(evaluation), self.hopeless(evaluation)) {
            (false, _) => 0,
            (true, None) => 1,
            (true, Some(_)) => return Vec::new(),
        };
        let answered: BTreeSet<usize> = evaluation.outcomes.iter().map(|outcome| outcome.case).collect();
        let pieces = self.pieces.iter().enumerate().filter(|(_, piece)| {
            let case = self.stages[piece.stage][piece.place];
            (piece.trial, piece.stage) == (trial, stage) && !answered.contains(&case)
        });
        pieces.map(|(place, _)| place).collect()
    }

    /// The outcomes of the shortest length.
    fn of_shortest<'e>(&self, evaluation: &'e Evaluation) -> impl Iterator<Item = &'e Outcome> {
        let first = self.stages[0].len();
        let outcomes = evaluation.outcomes.iter();
        outcomes.filter(move |outcome| outcome.case < first)
    }

    /// Whether all prompts of the shortest length are answered.
    fn is_told(&self, evaluation: &Evaluation) -> bool {
        self.of_shortest(evaluation).count() == self.stages[0].len()
    }

    fn is_complete(&self, evaluation: &Evaluation) -> bool {
        evaluation.outcomes.len() == self.cases.len() || self.hopeless(evaluation).is_some()
    }

    /// Why it is no use to ask longer prompts: none of the shortest was answered, and they were enough to tell.
    fn hopeless(&self, evaluation: &Evaluation) -> Option<String> {
        let told = self.stages[0].len();
        let is_last = self.stages[1].is_empty();
        let found = |outcome: &Outcome| outcome.answer == Answer::Found;
        if self.args.all_lengths || is_last || told < TELLING || !self.is_told(evaluation) {
            return None;
        }
        if self.of_shortest(evaluation).any(found) {
            return None;
        }
        let shortest = self.cases.first().map_or(0, |case| case.length);
        let place = match self.train_length {
            None => String::new(),
            Some(length) if shortest <= length => {
                format!(", within the training length of {length} tokens: the model does not do this task")
            }
            Some(length) => format!(", which is beyond the training length of {length} tokens"),
        };
        Some(format!(
            "no passkey found in {told} prompts of {shortest} tokens{place}; longer ones are not asked (--all-lengths asks them)"
        ))
    }

    /// Without runs.
    fn report(&'a self) -> PasskeysReport<'a> {
        PasskeysReport {
            version: VERSION,
            model: self.model.info(),
            train_length: self.train_length,
            seed: self.args.seed,
            complete: false,
            lengths: &self.args.lengths.0,
            depths: usize::from(self.args.depths),
            samples: usize::from(self.args.samples),
            runs: Vec::new(),
        }
    }

    fn run(&self, trial: usize, saved: &SavedRun<Evaluation>) -> Run {
        let evaluation = &saved.evaluation;
        let run = Run::new(
            self.trials[trial].name().to_string(),
            self.cases,
            evaluation,
            usize::from(self.args.depths),
            saved.seconds,
            self.is_complete(evaluation),
        );
        Run {
            stopped: self.hopeless(evaluation),
            ..run
        }
    }
}

/// The answers and the report, which are rank 0's.
struct Leading<'a, 'k> {
    asking: &'a Asking<'a>,
    keeping: Keeping<'k, Settings, Evaluation>,
    report: PasskeysReport<'a>,
}

impl Leading<'_, '_> {
    /// Takes an answer in; gives the pieces that can be done because of it.
    fn take_in(
        &mut self,
        piece: &Piece,
        asked: Timed<Asked>,
        bar: &Progress,
    ) -> Result<Vec<usize>, ProgramError> {
        let (trial, asking) = (piece.trial, self.asking);
        self.keeping
            .take_in(trial, asked.seconds, |evaluation| evaluation.add(asked.found))?;
        let evaluation = &self.keeping.runs()[trial].evaluation;
        let more = match piece.stage == 0 && asking.is_told(evaluation) {
            true => asking.missing(trial, evaluation),
            false => Vec::new(),
        };
        if piece.stage == 0 && asking.hopeless(evaluation).is_some() {
            let left = bar.length().unwrap_or(0).saturating_sub(asking.longer());
            bar.set_length(left);
        }
        self.settle()?;
        Ok(more)
    }

    /// Prints and writes the mitigations that are complete, in their order.
    fn settle(&mut self) -> Result<(), ProgramError> {
        while let Some(run) = self.next().filter(|run| self.asking.is_complete(&run.evaluation)) {
            let run = self.asking.run(self.report.runs.len(), run);
            self.push(run)?;
        }
        Ok(())
    }

    fn next(&self) -> Option<&SavedRun<Evaluation>> {
        self.keeping.runs().get(self.report.runs.len())
    }

    /// Prints and writes what there is of all others that have begun, or of the first of them.
    fn end(&mut self) -> Result<(), ProgramError> {
        let mut runs = self.keeping.runs().iter();
        let begun = runs.rposition(|run| !run.evaluation.outcomes.is_empty());
        let last = begun.unwrap_or(0).max(self.report.runs.len());
        while self.report.runs.len() <= last {
            let Some(run) = self.next() else { break };
            let run = self.asking.run(self.report.runs.len(), run);
            self.push(run)?;
        }
        Ok(())
    }

    fn push(&mut self, run: Run) -> Result<(), ProgramError> {
        self.keeping.save()?;
        files::print_run(self.asking.context, &run)?;
        self.report.runs.push(run);
        let is_whole = self.report.runs.len() == self.asking.trials.len();
        self.report.complete = is_whole && self.report.runs.iter().all(|run| run.complete);
        let (_, folder) = self.keeping.with_folder();
        files::write(&self.report, folder, self.asking.context)
    }
}
