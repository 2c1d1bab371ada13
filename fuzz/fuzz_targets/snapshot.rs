//! Snapshots of a training with arbitrary changes: `.ci/fuzz 60 snapshot`.
//!
//! The checksum is made to fit, as somebody would who wants the file to be read.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spillway_models::train::snapshot::Snapshots;
use spillway_models::train::{SnapshotChoice, TrainConfig, Trainer};
use xxhash_rust::xxh3::xxh3_128;

const CONFIG: &str = r#"
    steps = 1
    sequences = 1
    length = 16
    model = { arch = "gla", size = "tiny" }
    data = { kind = "repeat", token = 1 }
    optimizer = { learning_rate = 1e-3 }
"#;
const BEFORE: &[u8] = br#""checksum":""#;
const DIGITS: usize = 32;

/// The folder, the file in it, and its bytes as they were written.
static GOOD: LazyLock<(Snapshots, PathBuf, Vec<u8>)> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("spillway-fuzz-{}", std::process::id()));
    let snapshots = Snapshots::open(&folder).expect("a folder");
    let config = TrainConfig::parse("fuzz".as_ref(), CONFIG).expect("a configuration");
    let snapshot = Trainer::new(config)
        .expect("a training")
        .snapshot()
        .expect("a snapshot");
    let path = snapshots.write(&snapshot).expect("written");
    let bytes = std::fs::read(&path).expect("read");
    (snapshots, path, bytes)
});

fuzz_target!(|bytes: &[u8]| {
    let (snapshots, path, good) = &*GOOD;
    let mut file = good.clone();
    for change in bytes.chunks_exact(4) {
        // The header is what is read; most of the file are numbers.
        let place = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize;
        let length = file.len();
        file[place % length.min(1 << 14)] = change[3];
    }
    if let Some(at) = file.windows(BEFORE.len()).position(|window| window == BEFORE) {
        let digits = at + BEFORE.len()..at + BEFORE.len() + DIGITS;
        if digits.end <= file.len() {
            file[digits.clone()].fill(b'0');
            let checksum = format!("{:032x}", xxh3_128(&file));
            file[digits].copy_from_slice(checksum.as_bytes());
        }
    }
    std::fs::write(path, &file).expect("written");
    let _ = snapshots.read(SnapshotChoice::Latest, "");
});
