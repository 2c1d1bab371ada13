//! Losses of a text and generation, on the checkpoint that comes with the crate.

use spillway_models::generation::{Sampling, generate};
use spillway_models::{LoadOptions, Model};
use spillway_ssm_core::Chain;
use std::ops::ControlFlow;

fn main() -> Result<(), spillway_models::ModelError> {
    // A folder with config.json and model.safetensors would do as well: Model::load(path, &options).
    let model = Model::shipped(&LoadOptions::default())?;

    // Losses of a text, with the state carried: nats per token.
    let ids = model
        .tokenizer()
        .encode(&spillway_models::shipped_text()[..2001])?;
    let mut state = model.start(&Chain::default(), 1)?;
    let losses = model.losses(&ids[..2000], &ids[1..], &mut state)?;
    println!(
        "inside the training length {:.2}, at 1,500–2,000 {:.2}",
        mean(&losses[..64]),
        mean(&losses[1500..])
    );

    // Generation, streamed.
    let mut state = model.start(&Chain::default(), 1)?;
    let prompt = model.tokenizer().encode_prompt("And it came to pass")?;
    let options = Sampling {
        temperature: 0.8,
        top_p: Some(0.95),
        seed: 1,
        ..Sampling::greedy()
    };
    generate(
        &model,
        &mut state,
        &prompt,
        &options,
        200,
        &["\n\n".into()],
        |text| {
            print!("{text}");
            ControlFlow::Continue(())
        },
    )?;
    Ok(())
}

fn mean(losses: &[f32]) -> f32 {
    losses.iter().sum::<f32>() / losses.len() as f32
}
