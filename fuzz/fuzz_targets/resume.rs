//! What interrupted commands go on from, from arbitrary bytes: `.ci/fuzz 60 resume`.

#![no_main]

use std::path::Path;

use spillway::{diagnose, leaderboard, mitigation_file, passkey, recall, studies};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (path, text) = (Path::new("fuzz"), String::from_utf8_lossy(bytes));
    if let Ok(progress) = diagnose::resume::Progress::parse(path, &text) {
        // What was read can be written and read again.
        let written = serde_json::to_string(&progress).expect("JSON");
        diagnose::resume::Progress::parse(path, &written).expect("what was written");
    }
    let _ = passkey::resume::Saved::parse(path, &text);
    let _ = recall::resume::Saved::parse(path, &text);
    let _ = leaderboard::row::Saved::parse(path, &text);
    let _ = mitigation_file::parse(path, bytes);
    let _ = serde_json::from_str::<studies::capacity::result::RunResult>(&text);
});
