//! The program from outside: its output, its files, its exit codes, and its one-line errors.

mod bench;
mod capacity;
mod compare;
mod convert;
mod generate;
mod help;
mod init;
mod inspect;
mod layouts;
mod passkey;
mod tokens;
mod train;
mod train_compare;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn spillway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// The standard output of a run that must succeed.
fn stdout_of(arguments: &[&str]) -> String {
    let output = spillway(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("output is text")
}

fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout_of(arguments)).expect("output is JSON")
}

/// A run that must fail with this exit code and one line on standard error that holds all of `parts`.
#[track_caller]
fn fails(arguments: &[&str], code: i32, parts: &[&str]) {
    refused(&spillway(arguments), code, parts);
}

#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(
        stderr.starts_with("spillway: ") && stderr.lines().count() == 1,
        "not one line: {stderr}"
    );
    for part in parts {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("readable folder");
    let name =
        |entry: Result<fs::DirEntry, _>| entry.expect("entry").file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Runs in `folder` with a limit on the size of files, in units of 512 or 1024 bytes. It stands for a full disk: both make a
/// write fail half-way.
#[cfg(unix)]
fn with_files_of_at_most(units: usize, folder: &Path, arguments: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_spillway");
    // Without the trap the signal would end the program before it sees the error.
    let script = format!("trap '' XFSZ; ulimit -f {units}; exec '{program}' {arguments}");
    Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder)
        .output()
        .expect("a shell")
}

/// A tiny random checkpoint.
fn tiny_checkpoint(folder: &Path) -> String {
    let path = folder.join("tiny").to_string_lossy().into_owned();
    stdout_of(&["init", "--arch", "mamba2", "--shape", "tiny", "--out", &path]);
    path
}
