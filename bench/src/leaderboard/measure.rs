//! How a row is measured: the losses of every stream and the passkeys part by part, and the speed by itself.

use super::row::{AtLength, Fit, PasskeyScore, Row};
use crate::calibration::{fit_length, fit_readings, fit_scales};
use crate::error::ProgramError;
use crate::stop::Stop;
use crate::trial::Trial;
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::diagnosis::loss::{Grid, LossTally};
use spillway_models::evaluation::diagnosis::run::Run;
use spillway_models::evaluation::diagnosis::stream::{Reading, StreamTally};
use spillway_models::evaluation::diagnosis::text::{Stream, Text};
use spillway_models::evaluation::diagnosis::treatment::Treatment;
use spillway_models::evaluation::passkey_text::evaluate::{Answer, Evaluation, evaluate};
use spillway_models::evaluation::passkey_text::prompt::{Case, Template, cases};
use spillway_models::evaluation::quantile::median;
use spillway_models::evaluation::tally::Tally;
use spillway_models::evaluation::wilson;
use spillway_models::{Logits, Model, ModelError, ModelState};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
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

    /// Tokens of all prompts together.
    fn tokens(&self) -> u64 {
        self.cases.iter().map(|case| case.length).sum()
    }

    /// `None` when a stop was asked for. `watch` hears of the tokens of each prompt.
    fn ask(
        &self,
        model: &Model,
        trial: &Trial,
        watch: Watch<'_>,
    ) -> Result<Option<Vec<PasskeyScore>>, ModelError> {
        let mut on_outcome = |evaluation: &Evaluation| {
            let last = evaluation.outcomes.last();
            watch(last.map_or(0, |outcome| self.cases[outcome.case].length))
        };
        let mut evaluation = Evaluation::default();
        let (treatment, asked) = (trial.treatment(), 0..self.cases.len());
        let flow = evaluate(
            model,
            treatment,
            &self.cases,
            asked,
            &mut evaluation,
            &mut on_outcome,
        )?;
        if flow.is_break() {
            return Ok(None);
        }
        let mut found: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for outcome in &evaluation.outcomes {
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

/// Hears how many tokens have been read since it was last asked, and says whether to go on.
pub type Watch<'a> = &'a (dyn Fn(u64) -> ControlFlow<()> + Sync);

/// A part of a row that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The losses of one stream, by its index.
    Losses(usize),
    /// The passkeys.
    Passkeys,
    /// Everything, of a mitigation whose numbers are fitted first.
    Fitted,
}

/// What came of a part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Found {
    /// Of [`Part::Losses`].
    Losses(StreamTally),
    /// Of [`Part::Passkeys`].
    Passkeys(Vec<PasskeyScore>),
    /// Of [`Part::Fitted`].
    Fitted {
        /// The numbers.
        fit: Fit,
        /// The losses of every stream.
        losses: Vec<StreamTally>,
        /// The passkeys.
        passkeys: Vec<PasskeyScore>,
    },
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
    /// The parts that a row is measured in.
    pub fn parts(&self, trial: &Trial) -> Vec<Part> {
        if trial.is_to_be_fitted() {
            return vec![Part::Fitted];
        }
        let losses = (0..self.streams.len()).map(Part::Losses);
        losses.chain(self.passkeys.map(|_| Part::Passkeys)).collect()
    }

    /// Tokens that a part reads.
    pub fn tokens(&self, part: Part) -> u64 {
        let passkeys = self.passkeys.map_or(0, Passkeys::tokens);
        match part {
            Part::Losses(stream) => self.streams[stream].length,
            Part::Passkeys => passkeys,
            Part::Fitted => {
                let streams: u64 = self.streams.iter().map(|stream| stream.length).sum();
                streams + passkeys + fit_readings(self.fit_iterations()) * self.fit_length()
            }
        }
    }

    /// Measures a part of a row on so many threads; `None` when `watch` broke off.
    ///
    /// # Errors
    /// [`ProgramError::Model`] from the model or the mitigation.
    pub fn part(
        &self,
        trial: &Trial,
        part: Part,
        threads: usize,
        watch: Watch<'_>,
    ) -> Result<Option<Found>, ProgramError> {
        Ok(match part {
            Part::Losses(stream) => self.losses(trial, stream, threads, watch)?.map(Found::Losses),
            Part::Passkeys => self.ask(trial, watch)?.map(Found::Passkeys),
            Part::Fitted => match self.fitted(trial, threads, watch) {
                Err(ProgramError::Interrupted) => None,
                found => found?,
            },
        })
    }

    fn losses(
        &self,
        trial: &Trial,
        stream: usize,
        threads: usize,
        watch: Watch<'_>,
    ) -> Result<Option<StreamTally>, ModelError> {
        let mut run = self.run(trial);
        let treatments = run.treatments();
        let stream = &mut run.streams[stream..=stream];
        let reading = Reading {
            model: self.model,
            text: self.text,
            grid: self.grid,
            threads,
            ranks: None,
            watch,
        };
        reading.go_on(stream, &treatments)?;
        let done = stream.iter().find(|run| run.is_done());
        Ok(done.map(|run| run.tally.clone()))
    }

    fn ask(&self, trial: &Trial, watch: Watch<'_>) -> Result<Option<Vec<PasskeyScore>>, ModelError> {
        match self.passkeys {
            Some(passkeys) => passkeys.ask(self.model, trial, watch),
            None => Ok(Some(Vec::new())),
        }
    }

    /// Fits, and measures everything with the numbers that were found.
    fn fitted(&self, trial: &Trial, threads: usize, watch: Watch<'_>) -> Result<Option<Found>, ProgramError> {
        let (trial, fit) = self.fit(trial, watch)?;
        let mut losses = Vec::new();
        for stream in 0..self.streams.len() {
            let Some(tally) = self.losses(&trial, stream, threads, watch)? else {
                return Ok(None);
            };
            losses.push(tally);
        }
        let passkeys = self.ask(&trial, watch)?;
        Ok(passkeys.map(|passkeys| Found::Fitted {
            fit,
            losses,
            passkeys,
        }))
    }

    /// All streams of a row, of which nothing is read.
    fn run(&self, trial: &Trial) -> Run {
        Run::new(
            trial.name(),
            trial.treatment().clone(),
            self.streams,
            self.grid,
            None,
        )
    }

    /// The row of one trial from what came of all its parts, which took so many seconds; without speeds.
    pub fn row(&self, trial: &Trial, parts: Vec<(Part, Found)>, seconds: f64) -> Row {
        let mut run = self.run(trial);
        let (mut scores, mut fitted) = (Vec::new(), None);
        for (part, found) in parts {
            match found {
                Found::Losses(tally) => {
                    if let Part::Losses(stream) = part {
                        run.streams[stream].tally = tally;
                    }
                }
                Found::Passkeys(passkeys) => scores = passkeys,
                Found::Fitted {
                    fit,
                    losses,
                    passkeys,
                } => {
                    let streams = run.streams.iter_mut().zip(losses);
                    streams.for_each(|(stream, tally)| stream.tally = tally);
                    (scores, fitted) = (passkeys, Some(fit));
                }
            }
        }
        let losses = run.losses(self.grid, |_| true);
        Row {
            mitigation: run.name.clone(),
            spec: fitted.as_ref().map_or(&run.name, |fit| &fit.mitigation).clone(),
            inside: finite(losses.geometric.first().and_then(Tally::mean)),
            cost: None,
            lengths: self.lengths(&losses),
            passkeys: scores,
            prefill_tokens_per_second: None,
            decode_tokens_per_second: None,
            state_bytes: run.state_bytes(),
            counts: run.counts(),
            fit: fitted,
            seconds,
        }
    }

    /// Fits on text that is not evaluated.
    fn fit(&self, trial: &Trial, watch: Watch<'_>) -> Result<(Trial, Fit), ProgramError> {
        let length = self.fit_length();
        let (mitigation, fitted) = fit_scales(
            self.model,
            self.calibration,
            self.train_length,
            self.fit_iterations(),
            &mut || watch(length),
        )?;
        let fit = Fit {
            mitigation: mitigation.to_string(),
            calibration: [fitted.calibration.before, fitted.calibration.after],
            test: [fitted.test.before, fitted.test.after],
        };
        Ok((trial.fitted(&mitigation), fit))
    }

    fn fit_iterations(&self) -> u32 {
        FIT_ITERATIONS[usize::from(self.quick)]
    }

    /// Tokens of one of its readings.
    fn fit_length(&self) -> u64 {
        fit_length(self.calibration, self.train_length)
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

    /// Tokens per second of a prompt beyond the training length, and of going on from it token by token, on all threads of the pool;
    /// `None` when a stop was asked for. Nothing else must run meanwhile.
    ///
    /// # Errors
    /// [`ModelError`] from the model or the treatment.
    pub fn speeds(&self, treatment: &Treatment) -> Result<Option<(f64, f64)>, ModelError> {
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
            let mut reader = Reader::new(self.model, treatment)?;
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
