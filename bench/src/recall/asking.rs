//! Asking every model everything, and writing what comes of it.

use super::RecallArgs;
use super::questions::Questions;
use super::report::{self, ArmReport, RecallReport};
use super::resume::{self, Saved};
use super::subjects::Subject;
use super::{figures, page, report::VERSION};
use crate::answers::Keeping;
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::picture::Figure;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;
use crate::stop::Stop;
use crate::trial::{NONE, Trial};
use spillway_models::evaluation::recall::evaluate::{Evaluation, Plan, evaluate};
use spillway_models::evaluation::recall::prompt::PromptForm;
use spillway_models::evaluation::recall::summary::{Answers, Arm, table};
use spillway_models::{Model, ModelError, PrefixCache, PrefixCacheOptions};

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

/// A model under a mitigation, and its place among the saved runs.
struct Turn<'a> {
    model: &'a Model,
    subject: &'a Subject,
    trial: &'a Trial,
    arm: usize,
}

impl Asking<'_> {
    /// Asks whatever has not been asked, and writes all files after each model and mitigation; incomplete after a stop. `loaded` is
    /// the only model, if it is loaded already.
    ///
    /// # Errors
    /// [`ProgramError`] from a model, and for files that cannot be written.
    pub fn all(
        &self,
        loaded: &mut Option<Model>,
        saved: &mut Saved,
        out: &mut OutputFolder,
    ) -> Result<RecallReport<'_>, ProgramError> {
        let cache = self.cache()?;
        let plan = Plan {
            length: self.args.cut_length(),
            answer_tokens: self.args.max_tokens,
            cache: cache.as_ref(),
            ..Plan::new(&self.questions.documents, self.forms, 0)
        };
        let (mut arm, mut goes_on) = (0, true);
        for subject in self.subjects {
            let model = match loaded.take() {
                Some(model) => model,
                None => subject.args.load()?,
            };
            for trial in &subject.trials {
                if !goes_on {
                    break;
                }
                let before = saved.runs.get(arm).map_or(0, |run| run.evaluation.outcomes.len());
                let turn = Turn {
                    model: &model,
                    subject,
                    trial,
                    arm,
                };
                goes_on = self.one(&turn, &plan, saved, out)?;
                if saved.runs[arm].evaluation.outcomes.len() > before || !goes_on {
                    saved.save(out, resume::FILE)?;
                    self.write(&self.report(saved, false), saved, out)?;
                }
                arm += 1;
            }
        }
        let report = self.report(saved, goes_on);
        self.context.print(report::text(&report))?;
        self.write(&report, saved, out)?;
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

    /// Whether everything has been asked.
    fn one(
        &self,
        turn: &Turn<'_>,
        plan: &Plan<'_>,
        saved: &mut Saved,
        out: &mut OutputFolder,
    ) -> Result<bool, ProgramError> {
        let Turn {
            subject, trial, arm, ..
        } = *turn;
        let (mut keeping, mut evaluation) = Keeping::begin(saved, arm, (out, resume::FILE), self.stop);
        let mut asked = evaluation.outcomes.len();
        let bar = self
            .context
            .progress_from(asked as u64, plan.prompts() as u64, "prompts");
        bar.set_message(match trial.name() {
            NONE => subject.name.clone(),
            mitigation => format!("{}, {mitigation}", subject.name),
        });
        let mut on_group = |evaluation: &Evaluation| {
            let new = &evaluation.outcomes[asked..];
            bar.inc(new.len() as u64);
            asked = evaluation.outcomes.len();
            keeping.heard(evaluation, new.iter().map(|outcome| outcome.tokens as u64).sum())
        };
        // A stop may have been asked for between two mitigations.
        let mut flow = self.stop.flow();
        if flow.is_continue() {
            let chain = trial.treatment().chain();
            let plan = Plan {
                reading: subject.reading.unwrap_or_default(),
                ..*plan
            };
            flow = evaluate(turn.model, chain, &plan, &mut evaluation, &mut on_group)?;
        }
        // The last group may be the one at which it was to stop.
        let is_whole = evaluation.outcomes.len() == plan.prompts();
        keeping.end(evaluation)?;
        Ok(flow.is_continue() || is_whole)
    }

    /// What is known so far.
    fn report(&self, saved: &Saved, complete: bool) -> RecallReport<'_> {
        let (mut arms, mut reports) = (Vec::new(), Vec::new());
        let reference = self.reference();
        let named = self.subjects.iter().enumerate().flat_map(|(index, subject)| {
            let trials = subject.trials.iter();
            trials.map(move |trial| (index, subject, trial))
        });
        for ((index, subject, trial), run) in named.zip(&saved.runs) {
            let against = reference.filter(|_| !subject.is_attention);
            let is_there = |arm: &usize| *arm < saved.runs.len();
            let alone = self.alone(index).filter(|_| trial.name() != NONE);
            arms.push(Arm {
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
        saved: &Saved,
        out: &mut OutputFolder,
    ) -> Result<(), ProgramError> {
        let figures = figures::figures(report);
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
            let evaluations = saved.runs.iter().map(|run| &run.evaluation);
            report::write_answers(report, evaluations, &self.questions.documents, file)
        })?;
        out.write_json(report::JSON, report)?;
        out.keep();
        Ok(())
    }
}
