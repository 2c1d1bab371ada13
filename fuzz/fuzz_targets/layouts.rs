//! Configurations of every layout from arbitrary bytes: `.ci/fuzz 60 layouts`.
//!
//! The weights are an empty file, so that every layout reads its whole configuration and stops at its first tensor.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway_models::LoadOptions;
use spillway_models::checkpoint::Checkpoint;
use spillway_models::registry::layouts;
use spillway_models::loader::Loader;

/// A safetensors file without tensors.
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let Ok(checkpoint) = Checkpoint::from_static("fuzz", &text, EMPTY) else {
        return;
    };
    let options = LoadOptions::default();
    for layout in layouts() {
        let _ = (layout.recognise)(&checkpoint);
        let _ = (layout.config)(&checkpoint);
        let mut loader = Loader::new(&checkpoint, options.weights, options.device.clone());
        assert!(
            layout.load(&checkpoint.config(), &mut loader).is_err(),
            "there are no tensors"
        );
    }
});
