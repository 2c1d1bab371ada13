//! GGUF files from arbitrary bytes: `.ci/fuzz 60 gguf`.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use spillway_models::checkpoint::Header;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse_gguf(Path::new("fuzz"), bytes) {
        let whole = header.tensors.values();
        for tensor in whole.clone().chain(whole.flat_map(|tensor| &tensor.parts)) {
            assert!(tensor.begin <= tensor.end && tensor.end <= bytes.len());
        }
    }
});
