//! Digits out of noise: a small network of DiffuSSM blocks is trained on the shipped images, and draws two of each class.
//!
//!     cargo run --release -p spillway-models --example diffusion -- FOLDER [STEPS]
//!
//! FOLDER gets a snapshot every 200 steps, from which the next call goes on, and at the end `digits.pgm`.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use spillway_models::tasks::Images;
use spillway_models::train::diffusion::{DiffusionConfig, DiffusionTrainer, SampleOptions, Sampler};
use spillway_models::train::snapshot::Snapshots;

const EVERY: u64 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(
        arguments
            .next()
            .ok_or("expected a folder, and perhaps a number of steps")?,
    );
    let steps: u64 = arguments.next().map_or(Ok(2000), |steps| steps.parse())?;
    let config: DiffusionConfig = toml::from_str(&format!(
        "steps = {steps}\nimages = 32\nmean_decay = 0.995\nnoise_steps = 250\n\
         network = {{ model_dim = 64, inner_dim = 48, factor = 2, layers = 4, state_dim = 16, condition_dim = 64 }}\n\
         optimizer = {{ learning_rate = 2e-3, clip_norm = 1.0, weight_decay = 0.0, schedule = {{ kind = \"cosine\", warmup_steps = 50 }} }}"
    ))?;
    let snapshots = Snapshots::open(&folder)?;
    let mut trainer = DiffusionTrainer::new(config, Images::shipped())?;
    if !snapshots.list()?.is_empty() {
        trainer.restore(&snapshots)?;
    }
    while trainer.steps_done() < steps {
        let step = trainer.step()?;
        if step.step.is_multiple_of(EVERY) || step.step == steps {
            trainer.save(&snapshots)?;
            println!("step {}: {:.3}", step.step, step.loss);
        }
    }
    let options = SampleOptions {
        sampler: Sampler::Ddim(0.0),
        classes: (0..20).map(|image| Some(image / 2)).collect(),
        guidance: 1.5,
        clipped: true,
        seed: 1,
    };
    let images = trainer.sample(50, &options)?.into_data();
    let pixels: Vec<u8> = images
        .iter::<f32>()
        .map(|pixel| (127.5 * (pixel + 1.0)) as u8)
        .collect();
    // A row of twenty images, 8 pixels high.
    let row = |y: usize| {
        pixels
            .chunks(64)
            .flat_map(move |image| image[8 * y..][..8].to_vec())
    };
    let mut file = std::fs::File::create(folder.join("digits.pgm"))?;
    file.write_all(b"P5 160 8 255\n")?;
    (0..8).try_for_each(|y| file.write_all(&row(y).collect::<Vec<u8>>()))?;
    Ok(())
}
