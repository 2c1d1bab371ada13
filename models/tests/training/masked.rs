//! A model that reads both ways is pretrained on hidden bytes by its own head, and fine-tuned to tell texts apart.

use std::fs;
use std::path::Path;

use spillway_models::train::run::{CHECKPOINT, TASK};
use spillway_models::train::task::TaskResult;
use spillway_models::train::{Outcome, Run, TrainConfig, Trainer};
use spillway_models::{LoadOptions, Model};
use tempfile::TempDir;

const LENGTH: usize = 24;
const MODEL: &str = "{ arch = \"bigs\", config = { model_type = \"BiGS\", vocab_size = 256, hidden_size = 32, num_hidden_layers = 2, \
                     intermediate_size = 48, num_ssm = 8, max_position_embeddings = 32, type_vocab_size = 1 } }";
/// What stands for a hidden byte.
const HIDDEN: u32 = 0xff;

fn config(folder: &Path, model: &str, task: &str, steps: u64) -> TrainConfig {
    let text = format!(
        "steps = {steps}\nsequences = 16\nlength = {LENGTH}\nbase = {:?}\nmodel = {model}\ntask = {{ {task} }}\n\
         optimizer = {{ learning_rate = 3e-3, clip_norm = 1.0, weight_decay = 0.0, \
         schedule = {{ kind = \"cosine\", warmup_steps = {} }} }}",
        folder.display().to_string(),
        steps.min(11) - 1
    );
    TrainConfig::parse(Path::new("test.toml"), &text).unwrap_or_else(|error| panic!("{error}"))
}

fn evaluate(trainer: &Trainer) -> TaskResult {
    let report = trainer.evaluate_task().unwrap_or_else(|error| panic!("{error}"));
    report.expect("a task").results.remove(0)
}

/// Trains to the end, and where the checkpoint is.
fn trained(config: TrainConfig, folder: &Path) -> (TaskResult, TaskResult, std::path::PathBuf) {
    let mut training = Run::create(config, folder).unwrap_or_else(|error| panic!("{error}"));
    let before = evaluate(training.trainer());
    assert_eq!(training.go_on(&mut ()).expect("trained"), Outcome::Finished);
    (before, evaluate(training.trainer()), folder.join(CHECKPOINT))
}

#[test]
fn hidden_bytes_are_learnt_by_the_models_own_head_and_the_checkpoint_is_fine_tuned() {
    let folder = TempDir::new().expect("a folder");
    // A byte is told by what stands on either side of it.
    let text = "abcdefghijklmnopqrstuvwxyz".repeat(30);
    fs::write(folder.path().join("text"), &text).expect("written");
    let task = "data = { kind = \"masked-tokens\", path = \"text\", masked = 0.2, held_out = 0.2 }, head = \"model\", \
                evaluation = { examples = 40 }";
    let run = folder.path().join("pretrained");
    let (before, after, checkpoint) = trained(config(folder.path(), MODEL, task, 800), &run);
    assert!(!before.is_better_than_chance(), "{before:?}");
    assert!(after.is_better_than_chance() && after.value > 0.8, "{after:?}");
    // What was trained is the model, and nothing beside it.
    assert!(!checkpoint.join(TASK).exists());
    let model = Model::load(&checkpoint, &LoadOptions::default()).expect("a checkpoint");
    let mut ids: Vec<u32> = text.bytes().skip(7).take(LENGTH).map(u32::from).collect();
    let right = std::mem::replace(&mut ids[11], HIDDEN);
    let logits = model.logits_in_place(&ids, 1).expect("logits");
    let row: Vec<f32> = logits.narrow(1, 11, 1).into_data().iter::<f32>().collect();
    let best = (0..row.len())
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
        .expect("logits");
    assert_eq!(best as u32, right);

    // Texts of two classes and several lengths, so that some are padded.
    let line = |class: usize, from: usize, length: usize| {
        let bytes = text.bytes().skip(from).take(length);
        let bytes: String = bytes
            .map(|byte| {
                if class == 0 {
                    byte as char
                } else {
                    byte.to_ascii_uppercase() as char
                }
            })
            .collect();
        format!("{bytes},{class}\n")
    };
    let lines: String = (0..40).map(|n| line(n % 2, n % 26, 4 + n % 20)).collect();
    fs::write(folder.path().join("classes.csv"), format!("text,label\n{lines}")).expect("written");
    let task = "data = { kind = \"text\", path = \"classes.csv\", held_out = 0.25 }, readout = \"mean\", \
                evaluation = { examples = 40 }";
    let pretrained = format!("{{ checkpoint = {:?} }}", checkpoint.display().to_string());
    let run = folder.path().join("classes");
    let (_, after, checkpoint) = trained(config(folder.path(), &pretrained, task, 100), &run);
    assert!(after.value > 0.9, "{after:?}");
    // The head of the classes is beside the model, whose own head is as it was pretrained.
    assert!(checkpoint.join(TASK).exists());
    let fine_tuned = Model::load(&checkpoint, &LoadOptions::default()).expect("a checkpoint");
    assert_ne!(fine_tuned.fingerprint(), model.fingerprint());
}

#[test]
fn the_models_head_answers_with_tokens_alone() {
    let folder = TempDir::new().expect("a folder");
    for (task, found) in [
        (
            "data = { kind = \"delay\", lag = 2, limit = 0.1 }, head = \"model\"",
            "1 values",
        ),
        (
            "data = { kind = \"copying\", tokens = 2, vocab_size = 300 }, head = \"model\"",
            "tokens below",
        ),
    ] {
        let error = Trainer::new(config(folder.path(), MODEL, task, 1))
            .err()
            .expect("refused");
        assert!(error.to_string().contains(found), "{error}");
    }
    let long = "data = { kind = \"copying\", tokens = 2, vocab_size = 9 }";
    let mut long = config(folder.path(), MODEL, long, 1);
    long.length = 40;
    let mut trainer = Trainer::new(long).unwrap_or_else(|error| panic!("{error}"));
    let error = trainer.step().expect_err("no places").to_string();
    assert!(
        error.contains("tokens of a sequence") && error.contains("at most 32"),
        "{error}"
    );
}
