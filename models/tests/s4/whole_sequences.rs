//! Models that read whole sequences: they answer tasks, go on from their checkpoints, and foretell nothing.

use std::fs;
use std::path::Path;

use serde_json::json;
use spillway_models::Logits;
use spillway_models::train::run::{CHECKPOINT, TASK};
use spillway_models::train::task::TaskResult;
use spillway_models::train::{Outcome, Run, TrainConfig, Trainer};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

use super::support::{IDS, fresh};

#[test]
fn a_model_that_sees_later_tokens_foretells_nothing() {
    let (folder, model) = fresh(&json!({"bidirectional": true}), &json!({}));
    let mut state = model.start(&Chain::default(), 1).expect("a state");
    for error in [
        model
            .logits(&IDS, &mut state, Logits::Last)
            .expect_err("logits")
            .to_string(),
        model
            .losses(&IDS[1..], &IDS[..8], &mut state)
            .expect_err("losses")
            .to_string(),
    ] {
        assert!(
            error.contains("bidirectional") && error.contains("table [task]"),
            "{error}"
        );
    }
    let path = folder.path().join("model");
    let text = format!(
        "steps = 1\nsequences = 1\nlength = 8\nmodel = {{ checkpoint = {:?} }}\noptimizer = {{ learning_rate = 1e-3 }}\n\
         data = {{ kind = \"copy\", vocab_size = 16 }}",
        path.display().to_string()
    );
    let config = TrainConfig::parse(Path::new("test.toml"), &text).expect("a configuration");
    let error = Trainer::new(config).err().expect("refused").to_string();
    assert!(error.contains("bidirectional"), "{error}");
}

#[test]
fn a_state_of_dss_that_depends_on_the_length_cannot_be_gone_on_from() {
    let (_folder, model) = fresh(&json!({"disc": "dss"}), &json!({}));
    let mut state = model.start(&Chain::default(), 1).expect("a state");
    model
        .logits(&IDS, &mut state, Logits::Last)
        .expect("a whole sequence");
    let error = model
        .logits(&[1], &mut state, Logits::Last)
        .expect_err("no state")
        .to_string();
    assert!(
        error.contains("DSS-softmax without l_max reads whole sequences"),
        "{error}"
    );
}

fn task_config(model: &str, task: &str, steps: u64) -> TrainConfig {
    let text = format!(
        "steps = {steps}\nsequences = 16\nlength = 14\nmodel = {model}\ntask = {{ {task} }}\n\
         optimizer = {{ learning_rate = 1e-2, weight_decay = 0.0, schedule = {{ kind = \"cosine\", warmup_steps = 10 }} }}"
    );
    TrainConfig::parse(Path::new("test.toml"), &text).unwrap_or_else(|error| panic!("{error}"))
}

fn evaluate(trainer: &Trainer) -> TaskResult {
    let report = trainer.evaluate_task().unwrap_or_else(|error| panic!("{error}"));
    report.expect("a task").results.remove(0)
}

const BOTH_WAYS: &str = "{ arch = \"s4\", config = { model_type = \"s4\", d_model = 32, n_layers = 2, vocab_size = 16, prenorm = false, \
                         layer = { mode = \"diag\", d_state = 16, bidirectional = true, dt_min = 0.01, dt_max = 0.5 } } }";

#[test]
fn a_bidirectional_classifier_learns_and_its_checkpoint_goes_on_with_its_head() {
    let folder = TempDir::new().expect("a folder");
    let run = folder.path().join("run");
    let task = "data = { kind = \"copying\", tokens = 3, vocab_size = 6 }, evaluation = { examples = 100 }";
    let mut training = Run::create(task_config(BOTH_WAYS, task, 120), &run).expect("a run");
    assert_eq!(training.go_on(&mut ()).expect("trained"), Outcome::Finished);
    let learnt = evaluate(training.trainer());
    assert!(learnt.is_better_than_chance(), "{learnt:?}");

    let path = run.join(CHECKPOINT);
    let from = |task: &str| {
        let model = format!("{{ checkpoint = {:?} }}", path.display().to_string());
        Trainer::new(task_config(&model, task, 60))
    };
    let again = from(task).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(evaluate(&again), learnt);
    let other = "data = { kind = \"copying\", tokens = 3, vocab_size = 5 }";
    let error = from(other).err().expect("another head").to_string();
    assert!(error.contains(TASK) && error.contains("task.head"), "{error}");
    fs::write(path.join(TASK), []).expect("written");
    let error = from(task).err().expect("an empty file").to_string();
    assert!(error.contains(TASK), "{error}");
    fs::remove_file(path.join(TASK)).expect("removed");
    assert_ne!(evaluate(&from(task).expect("a fresh head")), learnt);
}

#[test]
fn padding_changes_nothing_for_a_model_that_sees_later_tokens() {
    let folder = TempDir::new().expect("a folder");
    fs::write(
        folder.path().join("texts.csv"),
        "text,label\nab,0\nabcdef,1\nabcd,0\nfedc,1\n",
    )
    .expect("written");
    let model = "{ arch = \"s4\", config = { model_type = \"s4\", d_model = 8, n_layers = 2, vocab_size = 256, layer = { \
                 mode = \"diag\", d_state = 8, bidirectional = true, dt_min = 0.01, dt_max = 0.5 } } }";
    let first = |length: usize| {
        let text = format!(
            "steps = 1\nsequences = 8\nlength = {length}\nbase = {:?}\nmodel = {model}\noptimizer = {{ learning_rate = 1e-3 }}\n\
             task = {{ data = {{ kind = \"text\", path = \"texts.csv\", held_out = 0.25 }} }}",
            folder.path().display().to_string()
        );
        let config =
            TrainConfig::parse(Path::new("test.toml"), &text).unwrap_or_else(|error| panic!("{error}"));
        let mut trainer = Trainer::new(config).unwrap_or_else(|error| panic!("{error}"));
        trainer.step().unwrap_or_else(|error| panic!("{error}")).loss
    };
    let (short, long) = (first(6), first(40));
    assert!((short - long).abs() < 1e-5 * short, "{short} and {long}");
}
