//! The configuration of a training from arbitrary bytes: `.ci/fuzz 60 train_config`.
//!
//! What is read can be written, and reads as the same.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use spillway_models::train::TrainConfig;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(config) = TrainConfig::parse(Path::new("fuzz"), &text) {
        assert!(config.tokens_per_step().checked_mul(config.steps).is_some());
        if let Ok(written) = config.to_toml() {
            let again = TrainConfig::parse(Path::new("fuzz"), &written).expect("what was written");
            assert!(config.differences(&again).is_empty(), "{written}");
        }
    }
});
