//! RWKV's vocabulary from arbitrary bytes: `.ci/fuzz 60 vocabulary`.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use spillway_models::tokenizer::RwkvVocabulary;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(vocabulary) = RwkvVocabulary::parse(Path::new("fuzz"), &text) {
        // What is encoded is what is decoded.
        if let Ok(ids) = vocabulary.encode(bytes) {
            let tokens = ids.iter().filter_map(|id| vocabulary.token(*id));
            assert_eq!(tokens.collect::<Vec<_>>().concat(), bytes);
        }
    }
});
