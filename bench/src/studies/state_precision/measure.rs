//! Measures one law with its state in every type, against its truth in f64.

use super::config::{Law, PrecisionConfig};
use super::theory::{contraction, growth};
use crate::error::ProgramError;
use crate::stop::Stop;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use spillway_kernel_dsl::{DecayKind, LogDecay, Rows, Sequences, delta_rule, recurrence};
use spillway_mitigations::state_dtype::StateDtype;
use std::fmt::Display;

/// Tokens that are drawn at a time.
const SEGMENT: usize = 256;

/// What a law with one seed gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// Every position at which states were compared.
    pub positions: Vec<u64>,
    /// √((1 − ρ^t)/(1 − ρ)) at each.
    pub growth: Vec<f64>,
    /// The types, in the order of the configuration.
    pub types: Vec<TypeErrors>,
}

/// A type's errors; what is no number is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeErrors {
    /// ε: ‖round(S) − S‖ / ‖S‖ of the true state, the root of the mean of the squares over positions.
    pub rounding: Option<f64>,
    /// ‖Ŝ − S‖ / ‖S‖ at each position.
    pub state: Vec<Option<f64>>,
    /// √(Σ‖ŷ − y‖² / Σ‖y‖²) over the tokens from half of each position to it.
    pub read_out: Vec<Option<f64>>,
}

/// Sums of squares over tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Squares {
    error: f64,
    whole: f64,
}

impl Squares {
    fn of(found: &[f32], truth: &[f64]) -> Self {
        let pairs = found.iter().zip(truth);
        pairs.fold(Self::default(), |sums, (found, truth)| Self {
            error: sums.error + (f64::from(*found) - truth).powi(2),
            whole: sums.whole + truth.powi(2),
        })
    }

    fn add(&mut self, other: Self) {
        self.error += other.error;
        self.whole += other.whole;
    }

    fn relative(self) -> Option<f64> {
        let relative = (self.error / self.whole).sqrt();
        relative.is_finite().then_some(relative)
    }
}

/// A segment of what is read and written. Queries and values are uniform with variance 1, keys of length 1 in random directions.
struct Segment {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Segment {
    fn draw(random: &mut StdRng, config: &PrecisionConfig, tokens: usize) -> Self {
        let mut numbers = |count: usize| -> Vec<f32> {
            let draw = |_| (2.0 * random.random::<f64>() - 1.0) * 3f64.sqrt();
            (0..count).map(draw).map(|number| number as f32).collect()
        };
        let query = numbers(tokens * config.key_dim);
        let mut key = numbers(tokens * config.key_dim);
        let value = numbers(tokens * config.value_dim);
        for key in key.chunks_mut(config.key_dim) {
            let norm = key
                .iter()
                .map(|x| x * x)
                .sum::<f32>()
                .sqrt()
                .max(f32::MIN_POSITIVE);
            key.iter_mut().for_each(|x| *x /= norm);
        }
        Self { query, key, value }
    }
}

/// A law with its sizes: the true state, and one head for each type.
struct Run<'a> {
    config: &'a PrecisionConfig,
    law: &'a Law,
    dtypes: &'a [StateDtype],
    log_decay: Vec<f32>,
    truth: Vec<f64>,
    /// The state as each type stores it, `[types, key_dim, value_dim]`.
    stored: Vec<f32>,
}

/// Measures a law with a seed; nothing after a stop. `seen` is told how many tokens are done.
///
/// # Errors
/// [`ProgramError::Internal`] for shapes that do not fit.
pub fn measure(
    config: &PrecisionConfig,
    dtypes: &[StateDtype],
    (law, seed): (&Law, u64),
    stop: &Stop,
    seen: impl Fn(u64),
) -> Result<Option<Measured>, ProgramError> {
    let begun = std::time::Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut run = Run::new(config, law, dtypes);
    let mut courses = vec![Course::default(); dtypes.len()];
    let (positions, rho) = (PrecisionConfig::positions(config.tokens), run.contraction());
    let (mut growths, mut done) = (Vec::new(), 0u64);
    for position in &positions {
        courses
            .iter_mut()
            .for_each(|course| course.window = Squares::default());
        while done < *position {
            if stop.is_asked() {
                return Ok(None);
            }
            let tokens = (position - done).min(SEGMENT as u64) as usize;
            let segment = Segment::draw(&mut random, config, tokens);
            run.read(&segment, done, &mut courses, position / 2)?;
            done += tokens as u64;
            seen(tokens as u64);
            stop.count(tokens as u64);
        }
        growths.push(growth(&rho, &run.held(), *position));
        run.compare(*position, &mut courses);
    }
    Ok(Some(Measured {
        seconds: begun.elapsed().as_secs_f64(),
        positions,
        growth: growths,
        types: courses.into_iter().map(Course::errors).collect(),
    }))
}

/// What is collected of one type.
#[derive(Clone, Debug, Default)]
struct Course {
    window: Squares,
    rounding: Vec<Squares>,
    state: Vec<Option<f64>>,
    read_out: Vec<Option<f64>>,
}

impl Course {
    fn errors(self) -> TypeErrors {
        let each = self.rounding.iter().map(|squares| squares.error / squares.whole);
        let mean = each.sum::<f64>() / self.rounding.len().max(1) as f64;
        TypeErrors {
            rounding: Some(mean.sqrt()).filter(|error| error.is_finite()),
            state: self.state,
            read_out: self.read_out,
        }
    }
}

impl<'a> Run<'a> {
    fn new(config: &'a PrecisionConfig, law: &'a Law, dtypes: &'a [StateDtype]) -> Self {
        let size = config.key_dim * config.value_dim;
        let log_decay = law.log_decays(config.key_dim);
        Self {
            config,
            law,
            dtypes,
            log_decay: log_decay.iter().map(|log| *log as f32).collect(),
            truth: vec![0.0; size],
            stored: vec![0.0; size * dtypes.len()],
        }
    }

    /// ρ of the decays as they are, in f32.
    fn contraction(&self) -> Vec<f64> {
        let logs: Vec<f64> = self.log_decay.iter().map(|log| f64::from(*log)).collect();
        contraction(&logs, self.law.beta)
    }

    /// ‖row‖² of the true state.
    fn held(&self) -> Vec<f64> {
        let rows = self.truth.chunks(self.config.value_dim);
        rows.map(|row| row.iter().map(|x| x * x).sum()).collect()
    }

    /// Takes a segment in, whose first token is `first`; read-outs count from `counted` on.
    fn read(
        &mut self,
        segment: &Segment,
        first: u64,
        courses: &mut [Course],
        counted: u64,
    ) -> Result<(), ProgramError> {
        let (keys, values) = (self.config.key_dim, self.config.value_dim);
        let tokens = segment.key.len() / keys;
        let mut expected = vec![0.0f64; tokens * values];
        let mut truth = std::mem::take(&mut self.truth);
        self.with_truth(segment, &mut truth, &mut expected)?;
        self.truth = truth;
        let mut found = vec![0.0f32; self.dtypes.len() * values];
        for token in 0..tokens {
            let own = Segment {
                query: segment.query[token * keys..][..keys].to_vec(),
                key: segment.key[token * keys..][..keys].to_vec(),
                value: segment.value[token * values..][..values].repeat(self.dtypes.len()),
            };
            self.step(&own, &mut found)?;
            let position = first + token as u64;
            self.store(position);
            if position >= counted {
                let truth = &expected[token * values..][..values];
                for (course, found) in courses.iter_mut().zip(found.chunks(values)) {
                    course.window.add(Squares::of(found, truth));
                }
            }
        }
        Ok(())
    }

    /// Every type's state as it is read back after the token at `position`.
    fn store(&mut self, position: u64) {
        let (size, values) = (self.truth.len(), self.config.value_dim);
        for (dtype, state) in self.dtypes.iter().zip(self.stored.chunks_mut(size)) {
            dtype
                .storage
                .store(state, values, &mut dtype.rounding(0, 0, position));
        }
    }

    /// Compares states after so many tokens.
    fn compare(&self, position: u64, courses: &mut [Course]) {
        let (size, values) = (self.truth.len(), self.config.value_dim);
        let states = self.dtypes.iter().zip(self.stored.chunks(size));
        for ((dtype, state), course) in states.zip(courses) {
            let mut once: Vec<f32> = self.truth.iter().map(|x| *x as f32).collect();
            // Another draw than the one that the state itself was stored with.
            dtype
                .storage
                .store(&mut once, values, &mut dtype.rounding(0, 1, position));
            course.rounding.push(Squares::of(&once, &self.truth));
            course.state.push(Squares::of(state, &self.truth).relative());
            course.read_out.push(course.window.relative());
        }
    }

    /// The definition in f64 over a segment.
    fn with_truth(&self, segment: &Segment, state: &mut [f64], out: &mut [f64]) -> Result<(), ProgramError> {
        let tokens = segment.key.len() / self.config.key_dim;
        match self.law.beta {
            None => self.sum(segment, 1, tokens, |problem, inputs| {
                recurrence::reference::recurrence(problem, inputs, state, out)
            }),
            Some(beta) => self.delta(segment, 1, (tokens, beta), |problem, inputs| {
                delta_rule::reference::delta_rule(problem, inputs, state, out)
            }),
        }
    }

    /// The f32 kernel of one token, on all types' states at once.
    fn step(&mut self, token: &Segment, out: &mut [f32]) -> Result<(), ProgramError> {
        let mut stored = std::mem::take(&mut self.stored);
        let heads = self.dtypes.len();
        let result = match self.law.beta {
            None => self.sum(token, heads, 1, |problem, inputs| {
                recurrence::step(problem, inputs, &mut stored, out)
            }),
            Some(beta) => self.delta(token, heads, (1, beta), |problem, inputs| {
                delta_rule::step(problem, inputs, &mut stored, out)
            }),
        };
        self.stored = stored;
        result
    }

    fn sum<E: Display>(
        &self,
        segment: &Segment,
        heads: usize,
        tokens: usize,
        call: impl FnOnce(&recurrence::Problem, &recurrence::Inputs) -> Result<(), E>,
    ) -> Result<(), ProgramError> {
        let (keys, values) = (self.config.key_dim, self.config.value_dim);
        let problem = recurrence::Problem {
            batch: 1,
            time: tokens,
            heads,
            groups: 1,
            key_dim: keys,
            value_dim: values,
            decay: DecayKind::PerKey,
            read_out: recurrence::ReadOut::Inclusive,
        };
        let decays = self.log_decay.repeat(heads);
        let inputs = recurrence::Inputs {
            query: rows(&segment.query, tokens, keys)?,
            key: rows(&segment.key, tokens, keys)?,
            value: rows(&segment.value, tokens, heads * values)?,
            log_decay: LogDecay::Constant(&decays),
            step_size: None,
            bonus: None,
            skip: None,
            scale: 1.0,
            sequences: Sequences::Equal,
        };
        call(&problem, &inputs).map_err(internal)
    }

    fn delta<E: Display>(
        &self,
        segment: &Segment,
        heads: usize,
        (tokens, beta): (usize, f64),
        call: impl FnOnce(&delta_rule::Problem, &delta_rule::Inputs) -> Result<(), E>,
    ) -> Result<(), ProgramError> {
        let (keys, values) = (self.config.key_dim, self.config.value_dim);
        let problem = delta_rule::Problem {
            batch: 1,
            time: tokens,
            heads,
            groups: 1,
            key_dim: keys,
            value_dim: values,
            transition: delta_rule::TransitionKind::Delta,
            decay: DecayKind::PerKeyToken,
        };
        let decays = self.log_decay.repeat(heads * tokens);
        let betas = vec![beta as f32; heads * tokens];
        let inputs = delta_rule::Inputs {
            query: rows(&segment.query, tokens, keys)?,
            key: rows(&segment.key, tokens, keys)?,
            value: rows(&segment.value, tokens, heads * values)?,
            transition: delta_rule::Transition::Delta {
                beta: rows(&betas, tokens, heads)?,
            },
            log_decay: LogDecay::Token(rows(&decays, tokens, heads * keys)?),
            scale: 1.0,
            sequences: Sequences::Equal,
        };
        call(&problem, &inputs).map_err(internal)
    }
}

fn rows(values: &[f32], rows: usize, columns: usize) -> Result<Rows<'_>, ProgramError> {
    Rows::contiguous(values, rows, columns).map_err(internal)
}

fn internal(error: impl Display) -> ProgramError {
    ProgramError::Internal(error.to_string())
}
