//! How a row is measured: losses over all streams, passkeys, speed.

use super::row::{AtLength, Fit, PasskeyScore, Row};
use crate::calibration::{fit_readings, fit_scales};
use crate::context::Context;
use crate::error::ProgramError;
use crate::stop::Stop;
use crate::trial::Trial;
use spillway_models::evaluation::diagnosis::loss::{Grid, LossTally};
use spillway_models::evaluation::diagnosis::run::Run;
use spillway_models::evaluation::diagnosis::stream::Reading;
use spillway_models::evaluation::diagnosis::text::{Stream, Text};
use spillway_models::evaluation::diagnosis::treatment::Treatment;
use spillway_models::evaluation::passkey_text::evaluate::{Answer, Evaluation, evaluate};
use spillway_models::evaluation::passkey_text::prompt::{Case, Template, cases};
use spillway_models::evaluation::quantile::median;
use spillway_models::evaluation::tally::Tally;
use spillway_models::evaluation::wilson;
use spillway_models::{Logits, Model, ModelError, ModelState};
use std::collections::BTreeMap;
use std::time::Instant;

/// Lengths of prompts beyond the training length, in training lengths.
const PASSKEY_FACTORS: [u64; 2] = [4, 16];
/// Depths and prompts at each; and with `--quick`.
const PASSKEY_GRID: [(usize, usize); 2] = [(5, 2), (3, 1)];
/// Tokens of a timed prompt, in training lengths, and at most.
const PREFILL_LENGTHS: u64 = 4;
const PREFILL_MOST: u64 = 2048;
/// Tokens of a timed continuation, and with `--quick`.
const DECODE_TOKENS: [usize; 2] = [64, 16];
/// Repetitions of each timing, after one that is not counted; and with `--quick`.
const REPEATS: [usize; 2] = [3, 1];

/// The passkeys that every row is asked for.
#[derive(Clone, Debug)]
pub struct Passkeys {
    cases: Vec<Case>,
    train_length: u64,
}

impl Passkeys {
    /// Prompts inside and beyond the training length, as far as there is room; `None` without a tokenizer or room for any.
    pub fn new(model: &Model, train_length: u64, longest: u64, quick: bool, seed: u64) -> Option<Self> {
        let template = Template::new(model.tokenizer()).ok()?;
        let (depths, samples) = PASSKEY_GRID[usize::from(quick)];
        let beyond = PASSKEY_FACTORS.iter().map(|factor| factor * train_length);
        let lengths = std::iter::once(train_length).chain(beyond);
        let lengths = lengths.filter(|length| *length <= longest && template.blocks(*length) > 0);
        let cases: Vec<Case> = lengths
            .flat_map(|length| cases(&template, length, depths, samples, seed))
            .collect();
        (!cases.is_empty()).then_some(Self { cases, train_length })
    }

    /// `None` when a stop was asked for.
    fn ask(
        &self,
        bench: &Bench<'_>,
        trial: &Trial,
        progress: &str,
        context: &Context,
    ) -> Result<Option<Vec<PasskeyScore>>, ModelError> {
        let bar = context.progress(self.cases.iter().map(|case| case.length).sum(), "tokens");
        bar.set_message(format!("{progress}: passkeys"));
        let mut on_outcome = |evaluation: &Evaluation| {
            bar.inc(
                evaluation
                    .outcomes
                    .last()
                    .map_or(0, |outcome| outcome.tokens as u64),
            );
            bench.stop.flow()
        };
        let mut evaluation = Evaluation::default();
        let asked = 0..self.cases.len();
        if evaluate(
            bench.model,
            trial.treatment(),
            &self.cases,
            asked,
            &mut evaluation,
            &mut on_outcome,
        )?
        .is_break()
        {
            return Ok(None);
        }
        let outcomes = evaluation.outcomes;
        let mut found: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for outcome in &outcomes {
            let score = found.entry(self.cases[outcome.case].length).or_default();
            score.0 += u64::from(outcome.answer == Answer::Found);
            score.1 += 1;
        }
        let score = |(length, (correct, samples))| PasskeyScore {
            length,
            inside: length <= self.train_length,
            samples,
            correct,
            accuracy: correct as f64 / samples as f64,
            wilson: wilson::interval(correct, samples).into(),
        };
        Ok(Some(found.into_iter().map(score).collect()))
    }
}

/// Steps of a fit, three losses each; and with `--quick`.
const FIT_ITERATIONS: [u32; 2] = [20, 4];

/// What every row is measured with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The model that mitigations are compared on.
    pub model: &'a Model,
    /// The text that is evaluated.
    pub text: &'a Text,
    /// The text that mitigations are fitted on.
    pub calibration: &'a Text,
    /// The streams that losses are averaged over.
    pub streams: &'a [Stream],
    /// Where losses are averaged.
    pub grid: &'a Grid,
    /// The lengths, in training lengths.
    pub factors: &'a [u64],
    /// Training length T of the model, in tokens.
    pub train_length: u64,
    /// What is asked for, if anything.
    pub passkeys: Option<&'a Passkeys>,
    /// Whether `--quick` is given: fewer repetitions of timings, and fewer steps of fits.
    pub quick: bool,
    /// Says when to stop: on a signal, or after a number of tokens.
    pub stop: &'a Stop,
}

impl Bench<'_> {
    /// The row of one trial; `None` when a stop was asked for.
    ///
    /// # Errors
    /// [`ProgramError::Model`] from the model or the mitigation.
    pub fn row(&self, trial: &Trial, progress: &str, context: &Context) -> Result<Option<Row>, ProgramError> {
        let begin = Instant::now();
        let (fitted, fit) = match trial.is_to_be_fitted() {
            true => match self.fit(trial, progress, context) {
                Err(ProgramError::Interrupted) => return Ok(None),
                fitted => fitted.map(|(trial, fit)| (Some(trial), Some(fit)))?,
            },
            false => (None, None),
        };
        let trial = fitted.as_ref().unwrap_or(trial);
        let mut run = Run::new(
            trial.name(),
            trial.treatment().clone(),
            self.streams,
            self.grid,
            None,
        );
        let bar = context.progress(run.tokens_in_all(), "tokens");
        bar.set_message(progress.to_string());
        run.go_on(&Reading {
            model: self.model,
            text: self.text,
            grid: self.grid,
            threads: context.threads(),
            ranks: None,
            watch: &|tokens| {
                bar.inc(tokens);
                self.stop.flow()
            },
        })?;
        drop(bar);
        if !run.is_done() {
            return Ok(None);
        }
        let passkeys = match self.passkeys {
            Some(passkeys) => passkeys.ask(self, trial, progress, context)?,
            None => Some(Vec::new()),
        };
        let Some(passkeys) = passkeys else {
            return Ok(None);
        };
        let waiting = context.waiting(&format!("{progress}: speed"));
        let Some((prefill, decode)) = self.speeds(trial)? else {
            return Ok(None);
        };
        drop(waiting);
        let losses = run.losses(self.grid, |_| true);
        Ok(Some(Row {
            mitigation: run.name.clone(),
            spec: fit.as_ref().map_or(&run.name, |fit| &fit.mitigation).clone(),
            inside: finite(losses.geometric.first().and_then(Tally::mean)),
            cost: None,
            lengths: self.lengths(&losses),
            passkeys,
            prefill_tokens_per_second: prefill,
            decode_tokens_per_second: decode,
            state_bytes: run.state_bytes(),
            counts: run.counts(),
            fit,
            seconds: begin.elapsed().as_secs_f64(),
        }))
    }

    /// Fits on text that is not evaluated.
    fn fit(&self, trial: &Trial, progress: &str, context: &Context) -> Result<(Trial, Fit), ProgramError> {
        let iterations = FIT_ITERATIONS[usize::from(self.quick)];
        let bar = context.progress(fit_readings(iterations), "readings");
        bar.set_message(format!("{progress}: fitting"));
        let mut read = || {
            bar.inc(1);
            self.stop.flow()
        };
        let (mitigation, fitted) = fit_scales(
            self.model,
            self.calibration,
            self.train_length,
            iterations,
            &mut read,
        )?;
        let fit = Fit {
            mitigation: mitigation.to_string(),
            calibration: [fitted.calibration.before, fitted.calibration.after],
            test: [fitted.test.before, fitted.test.after],
        };
        Ok((trial.fitted(&mitigation), fit))
    }

    fn lengths(&self, losses: &LossTally) -> Vec<AtLength> {
        let at = |factor: &u64| {
            let bucket = self.grid.geometric.find(factor * self.train_length - 1);
            let tally = bucket
                .and_then(|bucket| losses.geometric.get(bucket).copied())
                .unwrap_or_default();
            AtLength {
                factor: *factor,
                loss: finite(tally.mean()),
                over_baseline: None,
                standard_error: finite(tally.standard_error()),
                tokens: tally.count(),
            }
        };
        self.factors.iter().map(at).collect()
    }

    /// Tokens per second of a prompt beyond the training length, and of going on from it token by token; `None` when a stop was
    /// asked for.
    fn speeds(&self, trial: &Trial) -> Result<Option<(f64, f64)>, ModelError> {
        let quick = usize::from(self.quick);
        let (repeats, decoded) = (REPEATS[quick], DECODE_TOKENS[quick]);
        let length = (PREFILL_LENGTHS * self.train_length).clamp(1, PREFILL_MOST) as usize;
        let ids = self.text.read(0, length + decoded);
        let (prompt, rest) = ids.split_at(length);
        let mut times = (Vec::new(), Vec::new());
        for repeat in 0..=repeats {
            if self.stop.is_asked() {
                return Ok(None);
            }
            let begin = Instant::now();
            let mut reader = Reader::new(self.model, trial.treatment())?;
            reader.read(prompt)?;
            let prefill = begin.elapsed().as_secs_f64();
            let begin = Instant::now();
            rest.chunks(1).try_for_each(|id| reader.read(id))?;
            if repeat > 0 {
                times.0.push(prefill);
                times.1.push(begin.elapsed().as_secs_f64());
            }
        }
        Ok(Some((per_second(length, times.0), per_second(decoded, times.1))))
    }
}

/// A model that reads on, and starts again where its treatment says so.
struct Reader<'a> {
    model: &'a Model,
    treatment: &'a Treatment,
    state: ModelState,
    position: u64,
}

impl<'a> Reader<'a> {
    fn new(model: &'a Model, treatment: &'a Treatment) -> Result<Self, ModelError> {
        Ok(Self {
            model,
            treatment,
            state: treatment.start(model)?,
            position: 0,
        })
    }

    /// Takes tokens in, with the logits after the last.
    fn read(&mut self, mut ids: &[u32]) -> Result<(), ModelError> {
        while !ids.is_empty() {
            let left = ids.len() as u64;
            let count = self
                .treatment
                .enter(self.model, &mut self.state, self.position, left)?;
            let (now, later) = ids.split_at(count as usize);
            match later {
                [] => drop(self.model.logits(now, &mut self.state, Logits::Last)?),
                _ => self.model.advance(now, &mut self.state)?,
            }
            self.position += count;
            ids = later;
        }
        Ok(())
    }
}

/// Tokens per second, by the median of the seconds.
fn per_second(tokens: usize, mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    tokens as f64 / median(&seconds).max(1e-9)
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}
