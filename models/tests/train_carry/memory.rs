//! Memory of a long sequence that is trained on segment by segment.

use std::path::Path;

use spillway_models::train::carry::Backpropagation;
use spillway_models::train::{TrainConfig, Trainer};

use crate::allocator;

/// The most bytes that a step on sequences of so many segments holds at once, beyond what is there between steps.
fn peak(segments: usize, backpropagation: Backpropagation) -> isize {
    let text = format!(
        "steps = 2\nsequences = 2\nlength = {}\n\
         model = {{ arch = \"mamba2\", size = \"tiny\" }}\n\
         data = {{ kind = \"copy\", vocab_size = 6 }}\n\
         optimizer = {{ learning_rate = 1e-3 }}\n\
         carry = {{ segment = 16 }}\n",
        16 * segments
    );
    let mut config = TrainConfig::parse(Path::new("test.toml"), &text).unwrap();
    config.carry.backpropagation = backpropagation;
    // The allocator counts by threads: with one, what it takes and gives back is all there is.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let mut trainer = Trainer::new(config).unwrap();
        // What is made once is made in the first step.
        trainer.step().unwrap();
        let peak = allocator::watch();
        trainer.step().unwrap();
        peak()
    })
}

/// A graph that outlives its segment would make four times the segments take nearly four times the memory, as they do with full
/// back-propagation. What may grow are the ids.
#[test]
fn truncated_backpropagation_holds_one_segment_however_many_there_are() {
    let [short, long] = [4, 16].map(|segments| peak(segments, Backpropagation::Truncated));
    assert!(
        (long as f64) < 1.1 * short as f64,
        "{short} bytes for 4 segments, {long} for 16"
    );
    let [short, long] = [4, 16].map(|segments| peak(segments, Backpropagation::Full));
    assert!(
        long as f64 > 2.0 * short as f64,
        "all gradients: {short} bytes for 4 segments, {long} for 16"
    );
}
