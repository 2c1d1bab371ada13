//! How much memory a diagnosis takes.
#![cfg(target_os = "linux")]

use super::folder;
use std::fs;
use std::process::Command;

/// Peak resident memory of a run in bytes, as the system counts it.
fn peak_memory(length: &str) -> u64 {
    let folder = folder();
    let out = folder.path().join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command
        .args([
            "diagnose",
            "--streams",
            "1",
            "--mitigation",
            "window:64",
            // Each thread may get some 5 MB of its own from the allocator, or not.
            "--threads",
            "1",
            "--length",
            length,
            "--out",
        ])
        .arg(&out);
    let mut child = command
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("a child").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(1024 * kilobytes.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    peak
}

#[test]
fn memory_does_not_grow_with_the_length() {
    // Huge pages count as a whole, and the system gives some more of them in one run than in another.
    let least = |length| (0..3).map(|_| peak_memory(length)).min().unwrap_or(0);
    let (short, long) = (least("8k"), least("64k"));
    assert!(short > 0);
    // 56 K more tokens would be 14 MB already as one number per element of a layer's input.
    assert!(
        long < short + (6 << 20),
        "{short} bytes for 8k tokens, {long} for 64k"
    );
}
