//! Diagnosis as a library: the loss of a model against position, and whether that is a collapse.
//!
//!     cargo run --release -p spillway-models --example diagnosis
//!
//! The shipped model was trained on 64 tokens at a time. Here it reads 4,096 in one go, once with its state carried to the end,
//! once from an empty state every 64 tokens, which is what it can do at best without memory beyond its training length.

use spillway_models::evaluation::collapse::collapse;
use spillway_models::evaluation::positions::Buckets;
use spillway_models::evaluation::streams::{loss_by_position, spread};
use spillway_models::{LoadOptions, Model, ModelError, shipped_text};
use std::num::NonZeroU64;

const TRAIN_LENGTH: u64 = 64;
const LENGTH: u64 = 4096;
/// Twice the perplexity of any position inside the training length is a collapse.
const THRESHOLD: f64 = 2.0;

fn main() -> Result<(), ModelError> {
    // A checkpoint of your own: Model::load(path, &LoadOptions::default()).
    let model = Model::shipped(&LoadOptions::default())?;
    let ids = model.tokenizer().encode(shipped_text())?;
    let streams = spread(&ids, 2, LENGTH as usize);
    let buckets = Buckets::doubling(TRAIN_LENGTH, LENGTH);
    let carried = loss_by_position(&model, &streams, &buckets, None)?;
    let restarted = loss_by_position(&model, &streams, &buckets, NonZeroU64::new(TRAIN_LENGTH))?;

    println!("tokens         carried  restarted every {TRAIN_LENGTH}, nats per token");
    for (carried, restarted) in carried.iter().zip(&restarted) {
        let (start, end) = (carried.start, carried.end);
        println!(
            "{start:5} to {end:5} {:7.2} {:10.2}",
            carried.mean, restarted.mean
        );
    }
    let [found, baseline] = [&carried, &restarted].map(|curve| collapse(curve, TRAIN_LENGTH, THRESHOLD));
    match found.perplexity.for_good {
        Some(position) => println!("collapses from position {position} on"),
        None => println!("does not collapse"),
    }
    assert!(found.in_perplexity(), "the shipped model collapses: {found:?}");
    assert!(
        !baseline.in_perplexity(),
        "the restarted one does not: {baseline:?}"
    );
    Ok(())
}
