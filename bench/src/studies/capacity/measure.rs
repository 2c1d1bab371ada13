//! What is asked of a trained model: its loss far beyond the training length, and passkeys.

use super::config::{Plan, SweepConfig};
use super::result::{Bucket, Forgetting, PairsCell, PairsRecall, Recall, RecallCell, StateSize};
use super::task::{ForgettingConfig, PairsConfig, RecallConfig, Task};
use crate::error::ProgramError;
use crate::studies::results::distinct;
use rand::SeedableRng;
use rand::rngs::StdRng;
use spillway_models::evaluation::answers::answers;
use spillway_models::evaluation::passkey::{Question, passkey, questions};
use spillway_models::evaluation::positions::Buckets;
use spillway_models::evaluation::tally::{Tally, curve};
use spillway_models::train::data::{DataConfig, PairsInFiller, PasskeyLite};
use spillway_models::train::{Batch, TrainError, Trainer};
use spillway_models::{Model, Tokenizer};
use spillway_ssm_core::Chain;
use std::path::Path;

/// Tokens handed to the model at a time.
const SEGMENT: usize = 1024;
/// Training lengths that are read at least.
const LEAST_LENGTHS: u64 = 4;
/// Seed of evaluation data that is drawn; no training has it by chance.
const SEED: u64 = 0x7365_6564_0f65_7661;

/// A stream with its targets.
struct Stream {
    ids: Vec<u32>,
    targets: Vec<u32>,
    /// Empty if all are 1.
    weights: Vec<f32>,
}

/// Tries whatever the trainings will need, so that nothing of it is wrong after hours of training: the data of each task, the held-out
/// data, the passkeys, and a model of each size.
///
/// # Errors
/// [`ProgramError`] for data that cannot be read, sizes that no model has, and lengths without room for a passkey.
pub fn check(config: &SweepConfig, path: &Path) -> Result<(), ProgramError> {
    let plans = config.plans();
    for (index, task) in config.tasks.iter().enumerate() {
        let failed = |name: &str, error: TrainError| ProgramError::Failed(format!("{name}: {error}"));
        let mut sizes: Vec<StateSize> = Vec::new();
        let mut longest: Option<&Plan> = None;
        for plan in plans.iter().filter(|plan| plan.task == index) {
            if !sizes.contains(&plan.state) {
                sizes.push(plan.state);
                for leg in config.legs(plan) {
                    let train_config = config.train_config(path, plan, &leg, None)?;
                    Trainer::new(train_config).map_err(|error| failed(&plan.name, error))?;
                }
            }
            if longest.is_none_or(|longest| plan.train_length > longest.train_length) {
                longest = Some(plan);
            }
        }
        let Some(longest) = longest else { continue };
        if let (Some(forgetting), Some(leg)) = (task.forgetting, config.legs(longest).last()) {
            let train_config = config.train_config(path, longest, leg, None)?;
            let trainer = Trainer::new(train_config).map_err(|error| failed(&longest.name, error))?;
            let length = forgetting.tokens.max(LEAST_LENGTHS * longest.train_length);
            let base = trainer.config().base();
            streams(
                task,
                base,
                trainer.tokenizer(),
                (forgetting.streams, length, longest.train_length),
            )?;
        }
        if let Some(recall) = &task.recall {
            recall_questions(recall)?;
        }
        if let (Some(pairs), Some(data)) = (&task.pairs, task.pairs_in_filler()) {
            for (length, count) in pairs_asked(pairs, longest.train_length) {
                // One question is enough to tell whether there are such sequences.
                pairs_batch(data, (length, count), 1)?;
            }
        }
    }
    Ok(())
}

/// Reads `config.streams` streams of held-out data from an empty state, and compares losses beyond the training length with those inside:
/// in one bucket inside it and half octaves beyond, each the mean over the targets that weigh something.
///
/// Texts go on in the order of their documents. Sequences of a synthetic task, each as long as the training length, follow one another.
///
/// # Errors
/// [`ProgramError`] for data that cannot be read, or the model's own.
pub fn forgetting(
    model: &Model,
    task: &Task,
    base: &Path,
    config: ForgettingConfig,
    train_length: u64,
) -> Result<Forgetting, ProgramError> {
    let length = config.tokens.max(LEAST_LENGTHS * train_length);
    let buckets = Buckets::geometric(train_length, length);
    let streams = streams(
        task,
        base,
        model.tokenizer(),
        (config.streams, length, train_length),
    )?;
    let mut tallies = vec![Tally::default(); buckets.len()];
    for stream in &streams {
        read(model, stream, &buckets, &mut tallies)?;
    }
    let finite = |loss: f64| loss.is_finite().then_some(loss);
    let buckets: Vec<Bucket> = curve(&buckets, &tallies)
        .iter()
        .map(|bucket| Bucket {
            start: bucket.start,
            end: bucket.end,
            loss: finite(bucket.mean),
        })
        .collect();
    let inside = |bucket: &&Bucket| bucket.start < train_length;
    // A loss that is no number is worse than every number.
    let rank = |bucket: &&Bucket| bucket.loss.unwrap_or(f64::INFINITY);
    let largest = |buckets: Vec<&Bucket>| {
        buckets
            .into_iter()
            .max_by(|a, b| rank(a).total_cmp(&rank(b)))
            .copied()
    };
    let within = largest(buckets.iter().filter(inside).collect());
    let beyond = largest(buckets.iter().filter(|bucket| !inside(bucket)).collect());
    Ok(Forgetting {
        streams: streams.len(),
        inside: within.and_then(|bucket| bucket.loss),
        worst: beyond.and_then(|bucket| bucket.loss),
        worst_at: beyond.map_or(0, |bucket| bucket.end),
        buckets,
    })
}

fn streams(
    task: &Task,
    base: &Path,
    tokenizer: &Tokenizer,
    (count, length, train_length): (usize, u64, u64),
) -> Result<Vec<Stream>, ProgramError> {
    let failed = |error: spillway_models::train::data::DataError| {
        ProgramError::Failed(format!("evaluation data: {error}"))
    };
    let held_out = task.held_out();
    let (data, time) = match &held_out {
        Some(held_out) => (held_out, length),
        None => (&task.data, train_length),
    };
    let time = usize::try_from(time).unwrap_or(usize::MAX);
    let mut source = data.open(base, count, time, tokenizer, SEED).map_err(failed)?;
    let mut streams: Vec<Stream> = Vec::new();
    for _ in 0..length.div_ceil(time as u64) {
        let batch = source.next().map_err(failed)?;
        for row in 0..batch.sequences {
            let place = row * batch.time..(row + 1) * batch.time;
            if streams.len() <= row {
                streams.push(Stream {
                    ids: Vec::new(),
                    targets: Vec::new(),
                    weights: Vec::new(),
                });
            }
            let stream = &mut streams[row];
            stream.ids.extend(&batch.ids[place.clone()]);
            stream.targets.extend(&batch.targets[place.clone()]);
            stream
                .weights
                .extend(batch.weights.iter().flat_map(|weights| &weights[place.clone()]));
        }
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    for stream in &mut streams {
        stream.ids.truncate(length);
        stream.targets.truncate(length);
    }
    Ok(streams)
}

fn read(
    model: &Model,
    stream: &Stream,
    buckets: &Buckets,
    tallies: &mut [Tally],
) -> Result<(), ProgramError> {
    let mut state = model.start(&Chain::default(), 1)?;
    let mut position = 0;
    for (ids, targets) in stream.ids.chunks(SEGMENT).zip(stream.targets.chunks(SEGMENT)) {
        let losses = model.losses(ids, targets, &mut state)?;
        for (index, loss) in (position..).zip(losses) {
            let weighs = stream.weights.get(index).is_none_or(|weight| *weight > 0.0);
            if weighs && let Some(bucket) = buckets.find(index as u64) {
                tallies[bucket].add(f64::from(loss));
            }
        }
        position += ids.len();
    }
    Ok(())
}

/// Asks for passkeys at every length and depth, the same ones of every model.
///
/// # Errors
/// [`ProgramError`] for lengths that are too short, or the model's own.
pub fn recall(model: &Model, config: &RecallConfig) -> Result<Recall, ProgramError> {
    let questions = recall_questions(config)?;
    let report = passkey(model, &questions)?;
    let depth_row = |depth: Option<f64>| (depth.unwrap_or(0.0) * config.depths as f64).floor() as usize;
    let cells = report.cells.iter().map(|cell| RecallCell {
        length: cell.length,
        depth: depth_row(cell.depth),
        correct: cell.correct,
        samples: cell.samples,
    });
    Ok(Recall {
        cells: cells.collect(),
    })
}

fn recall_questions(config: &RecallConfig) -> Result<Vec<Question>, ProgramError> {
    let task = PasskeyLite::default();
    let prompt = |length: u64, depth: f64, number: u64| {
        let mut rng = StdRng::seed_from_u64(SEED ^ number);
        let prompt = task.prompt(usize::try_from(length).unwrap_or(usize::MAX), depth, &mut rng)?;
        Ok((prompt.ids, prompt.answer.to_vec()))
    };
    let questions = questions(&config.lengths, config.depths, config.samples, prompt);
    questions.map_err(|error: spillway_models::train::data::DataError| {
        ProgramError::Failed(format!("tasks.recall: {error}"))
    })
}

/// Asks for every key of sequences of each number of pairs, at each length that has room for them, the same ones of every model that is
/// trained at one length; `None` where the task does not ask for pairs.
///
/// # Errors
/// [`ProgramError`] for sequences that cannot be made, or the model's own.
pub fn pairs(model: &Model, task: &Task, train_length: u64) -> Result<Option<PairsRecall>, ProgramError> {
    let (Some(config), Some(data)) = (&task.pairs, task.pairs_in_filler()) else {
        return Ok(None);
    };
    let mut cells = Vec::new();
    for (length, count) in pairs_asked(config, train_length) {
        let batch = pairs_batch(data, (length, count), config.questions)?;
        let answered = answers(model, &Chain::default(), &batch, 0)?;
        cells.push(PairsCell {
            length,
            pairs: count,
            correct: answered.right,
            questions: answered.asked,
            sequences: answered.sequences,
            whole: answered.whole,
        });
    }
    Ok(Some(PairsRecall { cells }))
}

/// (length, number of pairs), the shortest length first and the fewest pairs of each first: every one for which there is room.
fn pairs_asked(config: &PairsConfig, train_length: u64) -> Vec<(u64, usize)> {
    let mut counts = config.counts.clone();
    counts.sort_unstable();
    counts.dedup();
    let mut asked = Vec::new();
    for length in distinct(config.lengths.iter().copied().chain([train_length])) {
        let room = PairsInFiller::room(usize::try_from(length).unwrap_or(usize::MAX));
        let fitting = counts.iter().filter(|count| **count <= room);
        asked.extend(fitting.map(|count| (length, *count)));
    }
    asked
}

/// As many sequences of `count` pairs in `length` tokens as at least `questions` questions take.
fn pairs_batch(
    data: &PairsInFiller,
    (length, count): (u64, usize),
    questions: usize,
) -> Result<Batch, ProgramError> {
    let failed = |error: spillway_models::train::data::DataError| {
        ProgramError::Failed(format!("tasks.pairs, {count} pairs in {length} tokens: {error}"))
    };
    let (sequences, time) = (
        questions.div_ceil(count),
        usize::try_from(length).unwrap_or(usize::MAX),
    );
    let asking = DataConfig::PairsInFiller(data.asking(count));
    // Drawn sequences need neither files nor a tokenizer.
    let source = asking.open(Path::new(""), sequences, time, &Tokenizer::bytes(), SEED);
    source.and_then(|mut source| source.next()).map_err(failed)
}
