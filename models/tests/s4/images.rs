//! Classifiers of images: trained at one resolution, asked at others, and refused where there is no image.

use serde_json::{Value, json};
use spillway_models::train::run::CHECKPOINT;
use spillway_models::train::task::TaskResult;
use spillway_models::train::{Outcome, Run, TrainConfig, Trainer};
use spillway_models::{LoadOptions, Model};
use std::path::Path;
use tempfile::TempDir;

/// A training of 300 steps on digits of 4 × 4 pixels, which are asked at 8 × 8 as well.
fn config(layer: &str, length: usize) -> TrainConfig {
    let text = format!(
        "steps = 300\nsequences = 16\nlength = {length}\n\
         optimizer = {{ learning_rate = 1e-2, weight_decay = 0.0, schedule = {{ kind = \"cosine\", warmup_steps = 10 }} }}\n\
         [model]\narch = \"s4\"\n\
         [model.config]\nmodel_type = \"s4\"\nd_model = 16\nn_layers = 2\nvocab_size = 16\nlayer = {layer}\n\
         [task]\ndata = {{ kind = \"digits\", side = 4 }}\n\
         [task.evaluation]\nexamples = 200\n\
         others = [{{ name = \"twice the resolution\", data = {{ kind = \"digits\" }}, length = 64 }}]\n"
    );
    TrainConfig::parse(Path::new("test.toml"), &text).unwrap_or_else(|error| panic!("{error}"))
}

const S4ND: &str = "{ mode = \"diag\", d_state = 8, bidirectional = true, axes = [4, 4], dt_min = 0.1, dt_max = 1.0, bandlimit = 1.0 }";
const WINDOW: &str = "{ mode = \"conv\", l_max = 3, axes = [4, 4] }";

fn results(trainer: &Trainer) -> Vec<TaskResult> {
    let report = trainer.evaluate_task().unwrap_or_else(|error| panic!("{error}"));
    report.expect("a task").results
}

#[test]
fn a_classifier_of_images_learns_and_reads_them_at_twice_the_resolution() {
    let folder = TempDir::new().expect("a folder");
    let run = folder.path().join("run");
    let mut training = Run::create(config(S4ND, 16), &run).expect("a run");
    assert_eq!(training.go_on(&mut ()).expect("trained"), Outcome::Finished);
    let learnt = results(training.trainer());
    assert_eq!(learnt.len(), 2);
    for result in &learnt {
        assert!(result.is_better_than_chance(), "{result:?}");
    }
    let model = Model::load(&run.join(CHECKPOINT), &LoadOptions::default()).expect("a model");
    let details = &model.info().details;
    assert_eq!(details["axes of an image"], "4 × 4");
    assert_eq!(details["band limit"], "1");
}

#[test]
fn a_window_in_the_place_of_state_spaces_learns_too() {
    let mut trainer = Trainer::new(config(WINDOW, 16)).unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..300 {
        trainer.step().unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(results(&trainer)[0].is_better_than_chance());
}

#[test]
fn the_block_of_convnext_learns_too() {
    let layer = S4ND.replace("bandlimit = 1.0", "block = \"convnext\"");
    let mut trainer = Trainer::new(config(&layer, 16)).unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..300 {
        trainer.step().unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(results(&trainer)[0].is_better_than_chance());
}

#[test]
fn the_same_seed_trains_images_to_the_same_bits() {
    let losses = |threads: usize| {
        let mut config = config(S4ND, 16);
        config.threads = Some(threads);
        let mut trainer = Trainer::new(config).unwrap_or_else(|error| panic!("{error}"));
        let step = |_| {
            trainer
                .step()
                .unwrap_or_else(|error| panic!("{error}"))
                .loss
                .to_bits()
        };
        (0..3).map(step).collect::<Vec<_>>()
    };
    assert_eq!(losses(1), losses(2));
}

#[test]
fn a_task_whose_examples_are_no_images_of_the_axes_is_refused() {
    let layer = S4ND.replace("[4, 4]", "[4, 6]");
    let mut trainer = Trainer::new(config(&layer, 16)).unwrap_or_else(|error| panic!("{error}"));
    let error = trainer.step().expect_err("no image").to_string();
    assert!(
        error.contains("found 16 for axes in the proportions [4, 6]"),
        "{error}"
    );
}

#[test]
fn axes_that_are_none_are_refused_with_their_field() {
    let refused = |layer: &Value| {
        let folder = TempDir::new().expect("a folder");
        let mut config = json!({"model_type": "s4", "d_model": 8, "n_layers": 1, "vocab_size": 16, "layer": {
            "mode": "diag", "d_state": 4, "bidirectional": true, "axes": [4, 4]}});
        super::support::merge(&mut config["layer"], layer);
        let dtype = spillway_models::checkpoint::WriteDtype::F32;
        let layout = super::support::layout();
        let written = spillway_models::init::write_random(
            &folder.path().join("model"),
            layout,
            &config.to_string(),
            dtype,
            5,
        );
        written.expect_err("no model").to_string()
    };
    for (layer, words) in [
        (json!({"axes": []}), ["layer.axes", "1 to 3 numbers of pixels"]),
        (
            json!({"axes": [2, 2, 2, 2]}),
            ["layer.axes", "1 to 3 numbers of pixels"],
        ),
        (json!({"axes": [4, 0]}), ["layer.axes", "each at least 1"]),
        (json!({"axes": "4x4"}), ["layer.axes", "list"]),
        (json!({"causal_axes": [2]}), ["layer.causal_axes", "from 0 to 1"]),
        (
            json!({"causal_axes": [0], "tie_axes": true}),
            ["layer.causal_axes", "all axes or none"],
        ),
        (json!({"bandlimit": 0.0}), ["layer.bandlimit", "positive"]),
        (json!({"trank": 0}), ["layer.trank", "1"]),
        (json!({"gate": 2}), ["layer.gate", "where there are axes"]),
        (json!({"block": "resnet"}), ["layer.block", "convnext"]),
        (
            json!({"block": "convnext", "channels": 2}),
            ["layer.channels", "1, where block"],
        ),
        (json!({"disc": "dss"}), ["layer.disc", "where there are axes"]),
        (
            json!({"mode": "conv", "l_max": 4, "bidirectional": false}),
            ["layer.l_max", "an odd number"],
        ),
    ] {
        let error = refused(&layer);
        for word in words {
            assert!(error.contains(word), "{layer}: {error}");
        }
    }
}
