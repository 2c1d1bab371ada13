//! A `tokenizer.json` from arbitrary bytes: `.ci/fuzz 60 tokenizer`.
//!
//! The input is a whole file, and in the place of every part of a good one. What is read must encode every text without a panic.

#![no_main]

use std::path::Path;
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use spillway_models::Tokenizer;

const ROWS: usize = 1 << 16;
static QUIET: Once = Once::new();

fn read(text: &str) {
    if let Ok(tokenizer) = Tokenizer::from_json(Path::new("fuzz"), text, ROWS) {
        if let Ok(ids) = tokenizer.encode_prompt("ab ba, Ab! é中\u{200D}😀 aaaaaaaaaaaaaaaa\n\n") {
            assert!(ids.iter().all(|id| (*id as usize) < ROWS));
            tokenizer.decode(&ids);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    // Panics of the library are caught, and are no findings: the hook of the fuzzer would end the process first. One that is
    // not caught ends it all the same.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|cause| eprintln!("{cause}"))));
    let text = String::from_utf8_lossy(bytes);
    read(&text);
    for part in [
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "added_tokens",
        "truncation",
    ] {
        read(&format!(
            r#"{{"version":"1.0","model":{{"type":"BPE","vocab":{{"a":0,"b":1,"ab":2," ":3}},"merges":[["a","b"]]}},"{part}":{text}}}"#
        ));
    }
    read(&format!(r#"{{"version":"1.0","model":{text}}}"#));
});
