//! Batches: what is in them, in which order they come, that they can be gone back to, and how bad data is refused.

mod audio;
mod bad_input;
mod mixtures;
mod positions;
mod tasks;
mod text;
mod token_files;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use spillway_models::Tokenizer;
use spillway_models::train::Batch;
use spillway_models::train::data::{
    CompositionalMqar, CopyTask, DataConfig, Example, ForgettingMqar, InductionHeads, Mqar, PairsInFiller,
    PasskeyLite, SetDisjointness, Source, Task, TextConfig, TokenFile, TokenWriter, batches, examples,
};
use tempfile::TempDir;

fn config(value: Value) -> DataConfig {
    serde_json::from_value(value).unwrap()
}

fn open(folder: &Path, value: Value, rows: usize, time: usize, seed: u64) -> Box<dyn Source> {
    config(value)
        .open(folder, rows, time, &Tokenizer::bytes(), seed)
        .unwrap()
}

fn take(source: &mut dyn Source, count: usize) -> Vec<Batch> {
    batches(source).take(count).collect::<Result<_, _>>().unwrap()
}

#[track_caller]
fn holds(message: &str, parts: &[&str]) {
    assert!(!message.contains('\n'), "more than one line: {message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

/// The message of data that cannot be opened.
#[track_caller]
fn refused(folder: &Path, value: Value, (rows, time): (usize, usize), parts: &[&str]) {
    let opened = config(value).open(folder, rows, time, &Tokenizer::bytes(), 0);
    holds(&opened.err().expect("refused").to_string(), parts);
}

/// A file of the tokens 0, 1, 2, …, so that every token tells where it is from.
fn counting(folder: &Path, count: u32) -> Value {
    let mut writer = TokenWriter::create(&folder.join("counting.tokens"), count as usize, None).unwrap();
    let ids: Vec<u32> = (0..count).collect();
    for piece in ids.chunks(97) {
        writer.push(piece).unwrap();
    }
    writer.finish(1).unwrap();
    json!({"kind": "tokens", "path": "counting.tokens"})
}

fn with(mut config: Value, fields: Value) -> Value {
    config
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    config
}

/// The first tokens of the sequences of some batches.
fn starts(batches: &[Batch]) -> Vec<u32> {
    let sequences = batches.iter().flat_map(|batch| batch.ids.chunks(batch.time));
    sequences.map(|ids| ids[0]).collect()
}
