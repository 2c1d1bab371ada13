//! Saved states with arbitrary changes, and arbitrary bytes in their place: `.ci/fuzz 60 state`.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spillway_models::{LoadOptions, Model};

/// The model, a file of its state, and that file's bytes.
static GOOD: LazyLock<(Model, PathBuf, Vec<u8>)> = LazyLock::new(|| {
    let model = Model::shipped(&LoadOptions::default()).expect("a model");
    let state = model.start(&Default::default(), 2).expect("a state");
    let path = std::env::temp_dir().join(format!("spillway-fuzz-{}.safetensors", std::process::id()));
    state.save(&path).expect("written");
    let bytes = std::fs::read(&path).expect("read");
    (model, path, bytes)
});

fuzz_target!(|bytes: &[u8]| {
    let (model, path, good) = &*GOOD;
    let read = |file: &[u8]| {
        std::fs::write(path, file).expect("written");
        if let Ok(state) = model.restore(path, &Default::default()) {
            assert!(state.batch() <= 2);
        }
    };
    read(bytes);
    let mut file = good.clone();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % file.len();
        file[at] = change[2];
    }
    read(&file);
});
