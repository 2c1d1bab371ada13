//! Configuration and safetensors header from arbitrary bytes: `.ci/fuzz 60 checkpoint`.
//!
//! The input is the safetensors file; its JSON is read as a configuration, too.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use spillway_models::checkpoint::{Fields, Header, parse_object};
use spillway_models::mamba2::{Config, Publication};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(Path::new("fuzz"), bytes) {
        for tensor in header.tensors.values() {
            assert!(tensor.begin <= tensor.end && tensor.end <= bytes.len());
        }
    }
    let text = String::from_utf8_lossy(bytes.get(8..).unwrap_or_default());
    if let Ok(map) = parse_object(Path::new("fuzz"), &text) {
        let fields = Fields::new(Path::new("fuzz"), &map);
        for publication in [Publication::Original, Publication::HuggingFace] {
            if let Ok(config) = Config::parse(&fields, publication, || false) {
                assert!(config.padded_vocab_size >= config.vocab_size);
            }
        }
    }
});
