//! Every model memorises a tiny batch: no layer keeps its weights from learning.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;
use spillway_models::train::data::{DataError, Source};
use spillway_models::train::model_config::ModelConfig;
use spillway_models::train::{Batch, TrainConfig, Trainer};

use super::cases::{Case, every_case};

/// Nats per token, of which guessing among the four tokens costs ln 4 = 1.39.
const LEARNT: f64 = 0.05;
/// Most models need 15 to 60; features that are a softmax of both signs (Hedgehog), which are nearly equal at first, need 470 by the
/// roundings of a processor with AVX-512 and 1,690 by those of one with AVX2.
const STEPS: usize = 4000;
const SEQUENCES: usize = 2;
const TIME: usize = 12;
const TOKENS: u32 = 4;

/// Two sequences of four tokens, none of which tells the next; what was read does, as the sequences begin differently. The first
/// two tokens of each differ: after nothing but repetitions of one token, a mean over them is what it was after the first.
const TEXT: [[u32; TIME + 1]; SEQUENCES] = [
    [0, 2, 1, 1, 3, 0, 3, 2, 2, 0, 1, 3, 1],
    [1, 3, 0, 2, 2, 1, 0, 0, 3, 1, 2, 3, 2],
];

fn batch() -> Batch {
    let rows = |shift: usize| {
        TEXT.iter()
            .flat_map(|row| row[shift..][..TIME].to_vec())
            .collect()
    };
    Batch {
        sequences: SEQUENCES,
        time: TIME,
        ids: rows(0),
        targets: rows(1),
        weights: None,
        continues: vec![false; SEQUENCES],
    }
}

/// The same batch again and again.
struct Same;

impl Source for Same {
    fn next(&mut self) -> Result<Batch, DataError> {
        Ok(batch())
    }

    fn position(&self) -> Value {
        Value::Null
    }

    fn seek(&mut self, _: &Value) -> Result<(), DataError> {
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        TOKENS as usize
    }
}

/// A training of this case. The size and the data only fill their places.
fn trainer(case: &Case) -> Trainer {
    let text = format!(
        "steps = {STEPS}\nsequences = {SEQUENCES}\nlength = {TIME}\n\
         model = {{ arch = \"{}\", size = \"tiny\" }}\n\
         data = {{ kind = \"copy\" }}\n\
         optimizer = {{ learning_rate = 1e-2, weight_decay = 0.0, clip_norm = 1.0 }}\n",
        case.layout.architecture
    );
    let mut config = TrainConfig::parse(Path::new("test.toml"), &text).unwrap();
    config.model = ModelConfig {
        arch: Some(case.layout.architecture.into()),
        layout: Some(case.layout.name.into()),
        config: Some(case.config.clone()),
        ..ModelConfig::default()
    };
    Trainer::with(config, &Device::flex(), Some(Box::new(Same)))
        .unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

/// Nats per token of the best guess by the last token alone.
fn without_memory() -> f64 {
    let batch = batch();
    let (mut pairs, mut tokens) = (BTreeMap::new(), BTreeMap::new());
    for pair in batch.ids.iter().zip(&batch.targets) {
        *pairs.entry(pair).or_insert(0.0) += 1.0;
        *tokens.entry(pair.0).or_insert(0.0) += 1.0;
    }
    let surprise = |((id, _), count): (&(&u32, &u32), &f64)| -count * (count / tokens[id]).ln();
    pairs.iter().map(surprise).sum::<f64>() / batch.ids.len() as f64
}

#[test]
fn every_model_memorises_a_batch() {
    let guess = without_memory();
    assert!(guess > 1.0, "{guess} nats can be had without memory");
    for case in every_case() {
        let mut trainer = trainer(&case);
        let mut step = || {
            let event = trainer.step();
            event
                .unwrap_or_else(|error| panic!("{}: {error}", case.name))
                .loss
        };
        let first = step();
        assert!(first > guess, "{}: begins with {first} nats", case.name);
        let mut last = first;
        for _ in 1..STEPS {
            last = step();
            if last < LEARNT {
                break;
            }
        }
        // NaN is not learnt.
        assert!(last < LEARNT, "{}: {last} nats are left of {first}", case.name);
    }
}
