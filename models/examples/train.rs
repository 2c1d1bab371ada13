//! Training in twenty lines: any model, from random weights or a checkpoint, on text, tokens or a synthetic task.
//!
//!     cargo run --release -p spillway-models --example train
//!
//! A run in a folder, which goes on after any interruption, is `spillway_models::train::Run` on the same configuration; `spillway train`
//! is that run with a report. The files in `configs/` explain every field.

use spillway_models::train::{TrainConfig, TrainError, Trainer};

const CONFIG: &str = r#"
steps = 60
sequences = 8
length = 16
model = { arch = "gla", size = "tiny" }
data = { kind = "copy", vocab_size = 8 }
optimizer = { learning_rate = 5e-3, clip_norm = 1.0, schedule = { kind = "cosine", warmup_steps = 10 } }
"#;

fn main() -> Result<(), TrainError> {
    let mut trainer = Trainer::new(TrainConfig::parse("copy.toml".as_ref(), CONFIG)?)?;
    let first = trainer.step()?.loss;
    let mut last = first;
    while trainer.steps_done() < trainer.config().steps {
        last = trainer.step()?.loss;
    }
    println!(
        "{} from {first:.2} to {last:.2} nats",
        trainer.model()?.info().architecture
    );
    assert!(
        last < 0.5 * first,
        "the model has learned nothing: from {first} to {last}"
    );
    Ok(())
}
