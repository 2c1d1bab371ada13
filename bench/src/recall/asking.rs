//! Asking every model everything, shared out among the ranks, and writing what comes of it.
//!
//! A piece of the work is a group of documents that are asked about together, under one mitigation of one model. Pieces of one model are a
//! lane of the queue: a rank stays with the model that it has loaded.

use super::RecallArgs;
use super::questions::Questions;
use super::report::{self, ArmReport, RecallReport};
use super::resume::{self, Saved, Settings};
use super::subjects::Subject;
use super::{figures, page, report::VERSION};
use crate::answers::{Keeping, SavedRun, Timed};
use crate::context::{Context, Progress};
use crate::error::ProgramError;
use crate::kit::picture::Figure;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;
use crate::ranks::queue::Queue;
use crate::ranks::share_out::Team;
use crate::stop::Stop;
use crate::trial::NONE;
use spillway_models::evaluation::recall::evaluate::{Evaluation, Plan, ask, groups};
use spillway_models::evaluation::recall::prompt::PromptForm;
use spillway_models::evaluation::recall::summary::{self, Answers, table};
use spillway_models::{Model, ModelError, PrefixCache, PrefixCacheOptions};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// What all models are asked with.
pub struct Asking<'a> {
    /// Options of the command line.
    pub args: &'a RecallArgs,
    /// What the command shares: printing and progress.
    pub context: &'a Context,
    /// The documents that are asked about.
    pub questions: &'a Questions,
    /// The kinds of prompts.
    pub forms: &'a [PromptForm],
    /// The models that are asked, each with its mitigations.
    pub subjects: &'a [Subject],
    /// Says when to stop: on a signal, or after a number of tokens.
    pub stop: &'a Stop,
}

/// A model under a mitigation.
#[derive(Clone, Copy, Debug)]
struct Arm {
    /// Index of the model.
    subject: usize,
    /// Index of the mitigation among those of the model.
    trial: usize,
}

/// A group of documents, asked about under one arm.
#[derive(Clone, Copy, Debug)]
struct Piece {
    arm: usize,
    group: usize,
}

impl Asking<'_> {
    /// On a rank other than 0: asks what rank 0 hands out. `loaded` is the only model, if it is loaded already.
    ///
    /// # Errors
    /// [`ProgramError`] from a model, and from the other ranks.
    pub fn help(&self, loaded: Option<Model>) -> Result<(), ProgramError> {
        let bar = self.context.progress(0, "prompts");
        let groups = groups(&self.questions.documents);
        let work = Work::new(self, &groups, loaded);
        work.share_out(Queue::default(), &bar, |_, _| Ok(()))?;
        Ok(())
    }

    /// On rank 0, or in one process: asks whatever has not been asked, and writes all files after each model and mitigation; incomplete after
    /// a stop. `loaded` is the only model, if it is loaded already.
    ///
    /// # Errors
    /// [`ProgramError`] from a model, for files that cannot be written, and from the other ranks; the answers so far are saved then.
    pub fn all(
        &self,
        loaded: Option<Model>,
        saved: &mut Saved,
        out: &mut OutputFolder,
    ) -> Result<RecallReport<'_>, ProgramError> {
        let groups = groups(&self.questions.documents);
        let work = Work::new(self, &groups, loaded);
        let keeping = Keeping::new(saved, work.arms.len(), (out, resume::FILE));
        let (done, all) = (keeping.runs(), work.prompts() * work.arms.len());
        let done: usize = done.iter().map(|run| run.evaluation.outcomes.len()).sum();
        let bar = self.context.progress_from(done as u64, all as u64, "prompts");
        let queue = work.queue(keeping.runs());
        let keeping = Mutex::new(keeping);
        let outcome = work.share_out(queue, &bar, |piece, answers| {
            let mut keeping = keeping.lock().unwrap_or_else(PoisonError::into_inner);
            keeping.take_in(piece.arm, answers.seconds, |evaluation| {
                evaluation.add(answers.found)
            })?;
            if keeping.runs()[piece.arm].evaluation.outcomes.len() == work.prompts() {
                keeping.save()?;
                self.write(&self.report(keeping.runs(), false), &mut keeping)?;
            }
            Ok(())
        });
        drop(bar);
        let mut keeping = keeping.into_inner().unwrap_or_else(PoisonError::into_inner);
        let saved = keeping.save();
        // The first error is the one to report.
        let complete = outcome?;
        saved?;
        let report = self.report(keeping.runs(), complete);
        self.context.print(report::text(&report))?;
        self.write(&report, &mut keeping)?;
        Ok(report)
    }

    fn cache(&self) -> Result<Option<PrefixCache>, ProgramError> {
        let Some(folder) = &self.args.prefix_cache else {
            return Ok(None);
        };
        let options = PrefixCacheOptions {
            limit_bytes: self.args.prefix_cache_limit.saturating_mul(1 << 20),
            ..PrefixCacheOptions::default()
        };
        let cache = PrefixCache::open(folder, options).map_err(ModelError::from)?;
        Ok(Some(cache))
    }

    /// What is known so far.
    fn report(&self, runs: &[SavedRun<Evaluation>], complete: bool) -> RecallReport<'_> {
        let (mut arms, mut reports) = (Vec::new(), Vec::new());
        // Up to the last that has begun.
        let begun = runs.iter().rposition(|run| !run.evaluation.outcomes.is_empty());
        let runs = &runs[..runs.len().min(begun.unwrap_or(0) + 1)];
        let reference = self.reference();
        let named = self.subjects.iter().enumerate().flat_map(|(index, subject)| {
            let trials = subject.trials.iter();
            trials.map(move |trial| (index, subject, trial))
        });
        for ((index, subject, trial), run) in named.zip(runs) {
            let against = reference.filter(|_| !subject.is_attention);
            let is_there = |arm: &usize| *arm < runs.len();
            let alone = self.alone(index).filter(|_| trial.name() != NONE);
            arms.push(summary::Arm {
                evaluation: &run.evaluation,
                against: against.filter(is_there),
                alone: alone.filter(is_there),
            });
            reports.push(ArmReport {
                model: subject.name.clone(),
                index,
                mitigation: trial.name().into(),
                is_attention: subject.is_attention,
                computed_tokens: run.evaluation.computed_tokens,
                prompt_tokens: run.evaluation.prompt_tokens(),
                seconds: run.seconds,
            });
        }
        let cells = table(&Answers {
            documents: &self.questions.documents,
            facts: &self.questions.facts,
            forms: self.forms,
            arms: &arms,
            seed: self.args.seed,
        });
        let source = match &self.args.data {
            Some(path) => path.display().to_string(),
            None => "generated".into(),
        };
        RecallReport {
            version: VERSION,
            complete,
            models: self.subjects.iter().map(|subject| &subject.info).collect(),
            attention: reference
                .and_then(|arm| reports.get(arm))
                .map(|arm| arm.model.clone()),
            data: source,
            seed: self.args.seed,
            documents: self.questions.documents.len(),
            not_scored: self.questions.not_scored,
            broken: self.questions.broken,
            facts: self.questions.numbers_of_facts(),
            length: self.args.cut_length(),
            answer_tokens: self.args.max_tokens,
            forms: self.forms,
            short_prompt: self.args.short_prompt,
            arms: reports,
            cells,
        }
    }

    /// The arm of the model at this index under no mitigation.
    fn alone(&self, index: usize) -> Option<usize> {
        let subjects = self.subjects.iter().enumerate();
        let mut arms = subjects.flat_map(|(place, subject)| {
            let trials = subject.trials.iter();
            trials.map(move |trial| place == index && trial.name() == NONE)
        });
        arms.position(|is_it| is_it)
    }

    /// The first arm that has attention alone.
    fn reference(&self) -> Option<usize> {
        let mut arms = self
            .subjects
            .iter()
            .flat_map(|subject| subject.trials.iter().map(|_| subject.is_attention));
        arms.position(|is_attention| is_attention)
    }

    fn write(
        &self,
        report: &RecallReport<'_>,
        keeping: &mut Keeping<'_, Settings, Evaluation>,
    ) -> Result<(), ProgramError> {
        let figures = figures::figures(report);
        let (runs, out) = keeping.with_folder();
        for (name, figure) in &figures {
            let svg = Figure::file(figure);
            out.write(name, |file| file.write_all(svg.as_bytes()))?;
        }
        let made = Provenance::here(self.context.threads());
        let made = match self.subjects {
            [subject] => made.of(&subject.info),
            _ => made,
        };
        let page = page::page(report, &figures, &made);
        out.write("report.html", |file| file.write_all(page.as_bytes()))?;
        out.write(report::CSV, |file| report::write_csv(report, file))?;
        out.write(report::ANSWERS, |file| {
            let evaluations = runs.iter().map(|run| &run.evaluation);
            report::write_answers(report, evaluations, &self.questions.documents, file)
        })?;
        out.write_json(report::JSON, report)?;
        out.keep();
        Ok(())
    }
}

/// What a rank works with: the pieces, and the model that it is at.
struct Work<'a> {
    asking: &'a Asking<'a>,
    groups: &'a [Vec<usize>],
    arms: Vec<Arm>,
    pieces: Vec<Piece>,
    /// The model with its index.
    model: Mutex<Option<(usize, Model)>>,
}

impl<'a> Work<'a> {
    fn new(asking: &'a Asking<'a>, groups: &'a [Vec<usize>], loaded: Option<Model>) -> Self {
        let subjects = asking.subjects.iter().enumerate();
        let arms = subjects.flat_map(|(subject, model)| {
            let trials = 0..model.trials.len();
            trials.map(move |trial| Arm { subject, trial })
        });
        let arms: Vec<Arm> = arms.collect();
        let pieces = (0..arms.len()).flat_map(|arm| (0..groups.len()).map(move |group| Piece { arm, group }));
        Self {
            asking,
            groups,
            pieces: pieces.collect(),
            arms,
            model: Mutex::new(loaded.map(|model| (0, model))),
        }
    }

    /// Number of prompts under each arm.
    fn prompts(&self) -> usize {
        self.asking.questions.documents.len() * self.asking.forms.len()
    }

    /// What has not been asked, model by model.
    fn queue(&self, runs: &[SavedRun<Evaluation>]) -> Queue {
        let answered: Vec<BTreeSet<usize>> = runs
            .iter()
            .map(|run| {
                run.evaluation
                    .outcomes
                    .iter()
                    .map(|outcome| outcome.document)
                    .collect()
            })
            .collect();
        let is_missing = |piece: &Piece| {
            let mut group = self.groups[piece.group].iter();
            !group.all(|document| answered[piece.arm].contains(document))
        };
        let lane = |subject: usize| {
            let pieces = self.pieces.iter().enumerate();
            let pieces = pieces.filter(|(_, piece)| self.arms[piece.arm].subject == subject);
            pieces
                .filter(|(_, piece)| is_missing(piece))
                .map(|(place, _)| place)
                .collect()
        };
        Queue::of_lanes((0..self.asking.subjects.len()).map(lane))
    }

    fn share_out(
        &self,
        queue: Queue,
        bar: &Progress,
        done: impl Fn(&Piece, Timed<Evaluation>) -> Result<(), ProgramError> + Sync,
    ) -> Result<bool, ProgramError> {
        let Asking { context, stop, .. } = *self.asking;
        let team = Team {
            context,
            // Prompts are read with all of them.
            threads: context.threads(),
            stop,
            bar,
        };
        let cache = self.asking.cache()?;
        let work = |piece: &Piece| {
            let answers = Timed::of(|| self.ask(*piece, cache.as_ref(), bar))?;
            let outcomes = &answers.found.outcomes;
            bar.inc(outcomes.len() as u64);
            stop.count(outcomes.iter().map(|outcome| outcome.tokens as u64).sum());
            Ok(Some(answers))
        };
        let done = |piece: &Piece, answers| done(piece, answers).map(|()| Vec::new());
        team.share_out_lanes(&self.pieces, queue, work, done)
    }

    fn ask(
        &self,
        piece: Piece,
        cache: Option<&PrefixCache>,
        bar: &Progress,
    ) -> Result<Evaluation, ProgramError> {
        let asking = self.asking;
        let arm = self.arms[piece.arm];
        let subject = &asking.subjects[arm.subject];
        let trial = &subject.trials[arm.trial];
        let mut held = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, model) = match held.take() {
            Some(kept) if kept.0 == arm.subject => held.insert(kept),
            other => {
                // Two models need not fit into memory.
                drop(other);
                held.insert((arm.subject, subject.args.load()?))
            }
        };
        bar.set_message(match trial.name() {
            NONE => subject.name.clone(),
            mitigation => format!("{}, {mitigation}", subject.name),
        });
        let plan = Plan {
            length: asking.args.cut_length(),
            answer_tokens: asking.args.max_tokens,
            cache,
            reading: subject.reading.unwrap_or_default(),
            ..Plan::new(&asking.questions.documents, asking.forms, 0)
        };
        let chain = trial.treatment().chain();
        Ok(ask(model, chain, &plan, &self.groups[piece.group])?)
    }
}
