//! Trainings that several ranks share, beside the same in one process.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use spillway_models::parallel::Communicator;
use spillway_models::train::run::follow;
use spillway_models::train::{Event, Observer, ParallelConfig, Run, SnapshotChoice, TrainConfig, Trainer};
use tempfile::TempDir;

use crate::checks::relative_error;

const TRAINING: &str = "\
steps = 6
sequences = 5
length = 12
accumulation = 2
dropout = 0.1
snapshot_every = 3
data = { kind = \"copy\", vocab_size = 6 }
optimizer = { learning_rate = 4e-3, weight_decay = 0.01, clip_norm = 1.0 }
";

/// Losses of two numbers of ranks: gradients are summed over sequences in another order.
const OTHER_ORDER: f64 = 1e-5;

fn weights(trainer: &Trainer) -> Vec<f32> {
    let values = trainer.parameters().list().iter();
    values
        .flat_map(|parameter| parameter.value.to_data().iter::<f32>().collect::<Vec<_>>())
        .collect()
}

/// Stops after so many steps.
struct StopAfter(u64);

impl Observer for StopAfter {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Step(step) if step.step == self.0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn parsed(size: &str, more: &str) -> TrainConfig {
    let text = format!("{TRAINING}\n[model]\narch = \"mamba2\"\nsize = \"{size}\"\n{more}");
    TrainConfig::parse(Path::new("test.toml"), &text).unwrap()
}

/// The configuration of the trainings.
pub fn training() -> TrainConfig {
    parsed("tiny", "")
}

/// A configuration under which the ranks share the tokens of every sequence; attention among recurrences, two sequences.
pub fn long_training() -> TrainConfig {
    TrainConfig {
        sequences: 2,
        ..parsed("tiny-hybrid", "[parallel]\nsequence = true\nstretch = 3\n")
    }
}

/// Trains on in `folder`, or from the beginning where there is nothing, until `stop` steps are done; the weights on rank 0.
pub fn train_on(
    ranks: &Arc<dyn Communicator>,
    config: TrainConfig,
    folder: &Path,
    stop: u64,
) -> Option<Vec<f32>> {
    if ranks.rank() > 0 {
        follow(Arc::clone(ranks), config).unwrap();
        return None;
    }
    let ranks = Some(Arc::clone(ranks));
    let run = match folder.exists() {
        true => Run::resume_on(ranks, config, folder, SnapshotChoice::Latest),
        false => Run::create_on(ranks, config, folder),
    };
    let mut run = run.unwrap();
    run.go_on(&mut StopAfter(stop)).unwrap();
    assert_eq!(run.trainer().steps_done(), stop);
    Some(weights(run.trainer()))
}

/// The weights after six steps in this process alone, of whole sequences.
pub fn trained_alone(config: TrainConfig) -> Vec<f32> {
    let config = TrainConfig {
        parallel: ParallelConfig::default(),
        ..config
    };
    let mut alone = Trainer::new(config).unwrap();
    (0..6).for_each(|_| {
        alone.step().unwrap();
    });
    weights(&alone)
}

/// Refuses weights that differ by more than the order of additions.
pub fn expect_same_weights(found: &[f32], config: TrainConfig, label: &str) {
    let error = relative_error(found, &trained_alone(config));
    assert!(error < OTHER_ORDER, "{label}: weights differ by {error:e}");
}

/// Trainings that are interrupted once, beside the same ones in one process.
pub fn trainings(ranks: &Arc<dyn Communicator>) {
    for (what, config) in [("training", training()), ("long", long_training())] {
        let parent = TempDir::new().unwrap();
        let folder = parent.path().join("run");
        train_on(ranks, config.clone(), &folder, 3);
        if let Some(found) = train_on(ranks, config.clone(), &folder, 6) {
            expect_same_weights(&found, config, &format!("{what} on {} ranks", ranks.size()));
        }
    }
}
