//! SentencePiece's `tokenizer.model` from arbitrary bytes: `.ci/fuzz 60 pieces`.

#![no_main]

use std::path::Path;
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use spillway_models::Tokenizer;

const ROWS: usize = 1 << 16;
static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // Panics of the library are caught, as with `tokenizer.json`.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|cause| eprintln!("{cause}"))));
    if let Ok(tokenizer) = Tokenizer::from_pieces(Path::new("fuzz"), bytes, ROWS)
        && let Ok(ids) = tokenizer.encode_prompt("ab ba, Ab! é中😀 aaaaaaaa\n\n")
    {
        assert!(ids.iter().all(|id| (*id as usize) < ROWS));
        tokenizer.decode(&ids);
    }
});
