//! One configuration of `spillway bench`, measured in a process of its own, so that its peak memory is its own.

use crate::context::Context;
use crate::costs::Costs;
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use crate::process::{cpu_seconds, peak_memory_bytes};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::quantile::median;
use spillway_models::{Logits, Model, ModelError, PromptReading, budget};
use spillway_ssm_core::Chain;
use std::time::Instant;

/// Length of the prompt that engines are compared by, and how many of its last logits are kept; `peers/engine.py` has the
/// same numbers.
const FINGERPRINT: (usize, usize) = (32, 64);

/// What the parent process passes on.
#[derive(Debug, Args)]
pub struct BenchOneArgs {
    /// The model to measure.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Lengths in tokens of the prompts whose prefill is timed, with commas between
    #[arg(long, value_delimiter = ',')]
    pub prefill: Vec<usize>,
    /// Number of tokens whose decoding is timed; 0 measures none
    #[arg(long)]
    pub decode: usize,
    /// Repetitions of each measurement, after one that is not counted
    #[arg(long)]
    pub repeats: usize,
}

/// A repeated measurement: tokens, and the seconds that each repetition took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Tokens of one repetition.
    pub tokens: usize,
    /// Wall-clock time of each repetition.
    pub seconds: Vec<f64>,
    /// Processor time of each repetition, all threads together; `None` where the system does not tell.
    pub cpu_seconds: Vec<Option<f64>>,
}

impl Measured {
    /// Tokens per second of every repetition, the slowest first.
    pub fn speeds(&self) -> Vec<f64> {
        let speeds = self.seconds.iter();
        let mut speeds: Vec<f64> = speeds.map(|seconds| self.tokens as f64 / seconds).collect();
        speeds.sort_by(f64::total_cmp);
        speeds
    }

    /// Median of the repetitions' speeds, in tokens per second.
    pub fn tokens_per_second(&self) -> f64 {
        median(&self.speeds())
    }
}

/// What one configuration gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Child {
    /// Time to load the model, its files being in the page cache or not as it happens.
    pub load_seconds: f64,
    /// Timing of prefill, one for each prompt length.
    pub prefill: Vec<Measured>,
    /// Timing of decoding, token by token; `None` where none was asked for.
    pub decode: Option<Measured>,
    /// Largest resident memory of the process, `None` where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// Memory taken by the weights.
    pub weight_bytes: u64,
    /// Memory taken by the state.
    pub state_bytes: u64,
    /// The least a token costs.
    pub costs: Costs,
    /// The first logits after a fixed prompt: engines that compute the same function agree here.
    pub fingerprint: Vec<f32>,
}

/// Measures and prints JSON for the parent.
///
/// # Errors
/// [`ProgramError::Model`] for a checkpoint that cannot be used.
pub fn run(args: &BenchOneArgs, context: &Context) -> Result<(), ProgramError> {
    let begin = Instant::now();
    let model = args.model.load()?;
    let load_seconds = begin.elapsed().as_secs_f64();
    let prefill = args
        .prefill
        .iter()
        .map(|length| prefill(&model, *length, args.repeats));
    let prefill = prefill.collect::<Result<Vec<_>, _>>()?;
    let decode = match args.decode {
        0 => None,
        tokens => Some(decode(&model, tokens, args.repeats)?),
    };
    context.print_json(&Child {
        load_seconds,
        prefill,
        decode,
        peak_memory_bytes: peak_memory_bytes(),
        weight_bytes: model.info().weight_bytes,
        state_bytes: model.info().state_bytes,
        costs: Costs::of(&model),
        fingerprint: fingerprint(&model)?,
    })
}

/// The first logits after a prompt that depends on the size of the vocabulary alone.
fn fingerprint(model: &Model) -> Result<Vec<f32>, ModelError> {
    let (tokens, kept) = FINGERPRINT;
    let id = |index| ((7919 * index + 13) % model.info().vocab_size) as u32;
    let ids: Vec<u32> = (0..tokens).map(id).collect();
    let mut state = model.start(&Chain::default(), 1)?;
    let logits = model.logits(&ids, &mut state, Logits::Last)?;
    Ok(logits.into_data().iter::<f32>().take(kept).collect())
}

/// Random ids: what is read does not matter, that every token's row is somewhere else in the embedding does.
fn random_ids(model: &Model, count: usize) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(1);
    (0..count)
        .map(|_| random.random_range(0..model.info().vocab_size) as u32)
        .collect()
}

fn ask_for_ids(count: usize) -> Result<(), ModelError> {
    let bytes = budget::product([count as u64, 4]);
    Ok(budget::ask(
        "the ids of a prompt",
        bytes,
        "measure with fewer tokens",
    )?)
}

/// A prompt from the empty state, with the logits after its last token.
///
/// # Errors
/// The model's.
pub fn prefill(model: &Model, length: usize, repeats: usize) -> Result<Measured, ModelError> {
    ask_for_ids(length)?;
    let ids = random_ids(model, length);
    repeat(length, repeats, || {
        let mut state = model.start(&Chain::default(), 1)?;
        let reading = PromptReading::default();
        model.read_prompt(&ids, &reading, &mut state).map(drop)
    })
}

/// Token by token, each with its logits, from the empty state.
///
/// # Errors
/// The model's.
pub fn decode(model: &Model, tokens: usize, repeats: usize) -> Result<Measured, ModelError> {
    ask_for_ids(tokens)?;
    let ids = random_ids(model, tokens);
    repeat(tokens, repeats, || {
        let mut state = model.start(&Chain::default(), 1)?;
        ids.iter()
            .try_for_each(|id| model.logits(&[*id], &mut state, Logits::Last).map(drop))
    })
}

/// Times `work` after one run that is not counted: it warms caches and threads.
fn repeat(
    tokens: usize,
    repeats: usize,
    mut work: impl FnMut() -> Result<(), ModelError>,
) -> Result<Measured, ModelError> {
    work()?;
    let mut measured = Measured {
        tokens,
        seconds: Vec::new(),
        cpu_seconds: Vec::new(),
    };
    for _ in 0..repeats {
        let (begin, cpu) = (Instant::now(), cpu_seconds());
        work()?;
        measured.seconds.push(begin.elapsed().as_secs_f64());
        measured
            .cpu_seconds
            .push(cpu.zip(cpu_seconds()).map(|(before, after)| after - before));
    }
    Ok(measured)
}
