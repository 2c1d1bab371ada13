//! Training a model that reads the beginning of its sequences both ways.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};
use spillway_models::Logits;
use spillway_models::evaluation::answers::{Answered, answers};
use spillway_models::train::data::{DataError, Source};
use spillway_models::train::{Batch, TrainConfig, TrainError, Trainer};
use spillway_ssm_core::{Chain, Prefix};

const MODEL: &str = "arch = \"jrt\"\nsize = \"tiny\"";
const ENCODER: &str = "encoder = { length = 12, mask_id = 255 }";

fn parse(model: &str, encoder: &str, more: &str) -> Result<TrainConfig, TrainError> {
    let text = format!(
        "steps = 60\nsequences = 4\nlength = 24\nseed = 5\n\
         data = {{ kind = \"copy\", vocab_size = 6 }}\n\
         optimizer = {{ learning_rate = 4e-3 }}\n{encoder}\n{more}\n[model]\n{model}\n"
    );
    TrainConfig::parse(Path::new("test.toml"), &text)
}

fn trainer(model: &str, encoder: &str, more: &str) -> Result<Trainer, TrainError> {
    Trainer::new(parse(model, encoder, more)?)
}

/// The same batch for ever.
struct Same(Batch);

impl Source for Same {
    fn next(&mut self) -> Result<Batch, DataError> {
        Ok(self.0.clone())
    }

    fn position(&self) -> Value {
        json!(0)
    }

    fn seek(&mut self, _: &Value) -> Result<(), DataError> {
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        200
    }
}

fn batch() -> Batch {
    let id = |index: usize| (index as u32).wrapping_mul(2_654_435_761) >> 25;
    Batch {
        sequences: 4,
        time: 24,
        ids: (0..96).map(id).collect(),
        targets: (1..97).map(id).collect(),
        weights: None,
        continues: vec![false; 4],
    }
}

/// −log p of every target, from logits of a model that has read the prefix.
fn losses(trainer: &Trainer, batch: &Batch, prefix: usize) -> Vec<f64> {
    let model = trainer.model().unwrap();
    let mut state = model.start(&Chain::default(), batch.sequences).unwrap();
    state.read_both_ways(Prefix::new(prefix));
    let logits = model.logits_batched(&batch.ids, &mut state, Logits::All).unwrap();
    let width = logits.dims()[2];
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let rows = logits.chunks(width).zip(&batch.targets);
    let loss = |(row, target): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        sum.ln() - f64::from(row[*target as usize])
    };
    rows.map(loss).collect()
}

#[test]
fn the_loss_is_that_of_next_tokens_and_a_quarter_of_that_of_hidden_ones() {
    let config = parse(MODEL, ENCODER, "").unwrap();
    let encoder = config.encoder.unwrap();
    let hidden = encoder.hide(batch(), config.seed, 0);
    let mut trainer = Trainer::with(config, &Device::flex(), Some(Box::new(Same(batch())))).unwrap();
    let of_tokens = losses(&trainer, &hidden, 12);
    let mean = |counts: &dyn Fn(usize) -> bool| {
        let counted: Vec<f64> = (0..96).filter(|at| counts(*at)).map(|at| of_tokens[at]).collect();
        assert!(!counted.is_empty());
        counted.iter().sum::<f64>() / counted.len() as f64
    };
    let next = mean(&|at| at % 24 >= 12);
    let masked = mean(&|at| hidden.ids[at] == 255);
    let expected = (next + 0.25 * masked) / 1.25;
    let found = trainer.step().unwrap().loss;
    assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
}

#[test]
fn a_model_with_an_encoder_learns_to_copy_what_it_has_read_both_ways() {
    let mut trainer = trainer(MODEL, ENCODER, "").unwrap();
    let encoders = |trainer: &Trainer| -> Vec<f32> {
        let list = trainer.parameters().list().iter();
        let own = list.filter(|parameter| parameter.name.contains("_enc."));
        own.flat_map(|parameter| parameter.value.to_data().iter::<f32>().collect::<Vec<_>>())
            .collect()
    };
    let before = encoders(&trainer);
    let losses: Vec<f64> = (0..60).map(|_| trainer.step().unwrap().loss).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[55..]));
    assert!(last < 0.7 * first, "from {first} to {last}");
    let after = encoders(&trainer);
    assert_eq!(before.len(), 4 * (8 + 16) * 64);
    assert!(before.iter().zip(&after).filter(|(a, b)| a != b).count() > before.len() / 2);
}

#[test]
fn what_an_encoder_cannot_be_trained_on_is_refused_by_name() {
    let error = |model: &str, encoder: &str, more: &str| {
        let result = trainer(model, encoder, more);
        result.err().expect("it cannot be trained").to_string()
    };
    let found = error("arch = \"based\"\nsize = \"tiny\"", ENCODER, "");
    assert!(found.contains("encoder") && found.contains("jrt"), "{found}");
    let found = error(MODEL, "encoder = { length = 12, mask_id = 256 }", "");
    assert!(
        found.contains("encoder.mask_id") && found.contains("256"),
        "{found}"
    );
    let found = error(MODEL, "encoder = { length = 24, mask_id = 255 }", "");
    assert!(found.contains("encoder.length"), "{found}");
    let found = error(MODEL, ENCODER, "carry = { carry = true }");
    assert!(found.contains("carry.carry"), "{found}");
    let found = error(MODEL, ENCODER, "carry = { segment = 8 }");
    assert!(found.contains("carry.segment"), "{found}");
}

#[test]
fn segments_behind_the_prefix_change_nothing() {
    let first = |more: &str| trainer(MODEL, ENCODER, more).unwrap().step().unwrap();
    let (whole, cut) = (first(""), first("carry = { segment = 16 }"));
    assert!((whole.loss - cut.loss).abs() < 1e-5);
    assert!((whole.gradient_norm - cut.gradient_norm).abs() < 1e-4 * whole.gradient_norm);
}

/// What [`answers`] counts, by the logits of one sequence at a time.
fn counted(trainer: &Trainer, batch: &Batch, prefix: usize) -> Answered {
    let model = trainer.model().unwrap();
    let weights = batch.weights.as_ref().unwrap();
    let mut found = Answered::default();
    for row in 0..batch.sequences {
        let range = row * batch.time..(row + 1) * batch.time;
        let mut state = model.start(&Chain::default(), 1).unwrap();
        if model.encoder_length() > 0 {
            state.read_both_ways(Prefix::new(prefix));
        }
        let logits = model
            .logits(&batch.ids[range.clone()], &mut state, Logits::All)
            .unwrap();
        let width = logits.dims()[1];
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let behind = |token: &usize| model.encoder_length() == 0 || *token >= prefix;
        let asked: Vec<usize> = (0..batch.time)
            .filter(|token| weights[range.start + token] > 0.0 && behind(token))
            .collect();
        let is_right = |token: &&usize| {
            let row = &logits[**token * width..(**token + 1) * width];
            let best = (0..width).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            best == Some(batch.targets[range.start + **token] as usize)
        };
        let right = asked.iter().filter(is_right).count();
        found.asked += asked.len() as u64;
        found.right += right as u64;
        found.sequences += u64::from(!asked.is_empty());
        found.whole += u64::from(!asked.is_empty() && right == asked.len());
    }
    found
}

#[test]
fn answers_that_are_counted_in_batches_are_those_of_one_sequence_at_a_time() {
    // More sequences than logits are made for at a time. Ids of four tokens, and a model that has seen them for a while, so that
    // some answers are right; every seventh target follows from nothing, so that some are wrong.
    let ids: Vec<u32> = (0..700 * 24u32)
        .map(|i| i.wrapping_mul(2_654_435_761) >> 30)
        .collect();
    let target = |(i, id): (usize, &u32)| match i % 7 {
        0 => (i as u32).wrapping_mul(2_246_822_519) >> 30,
        _ => (id + 1) % 4,
    };
    let batch = Batch {
        sequences: 700,
        time: 24,
        targets: ids.iter().enumerate().map(target).collect(),
        weights: Some(
            (0..ids.len())
                .map(|i| if i % 5 == 0 { 1.0 } else { 0.0 })
                .collect(),
        ),
        ids,
        continues: vec![false; 700],
    };
    for (model, encoder) in [(MODEL, ENCODER), ("arch = \"gla\"\nsize = \"tiny\"", "")] {
        let trained = Batch {
            sequences: 4,
            ids: batch.ids[..96].to_vec(),
            targets: batch.targets[..96].to_vec(),
            weights: None,
            continues: vec![false; 4],
            ..batch
        };
        let config = parse(model, encoder, "").unwrap();
        let mut trainer = Trainer::with(config, &Device::flex(), Some(Box::new(Same(trained)))).unwrap();
        for _ in 0..8 {
            trainer.step().unwrap();
        }
        let model = trainer.model().unwrap();
        let found = answers(&model, &Chain::default(), &batch, 12).unwrap();
        assert_eq!(found, counted(&trainer, &batch, 12));
        assert!(found.right > 0 && found.right < found.asked, "{found:?}");
        assert_eq!(found.asked, if encoder.is_empty() { 3360 } else { 1680 });
    }
}
