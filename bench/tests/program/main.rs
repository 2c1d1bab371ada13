//! The program from outside: its output, its files, its exit codes, and its one-line errors.

mod audio;
mod bench;
mod capacity;
mod catalogue;
mod chat;
mod compare;
mod convert;
mod doctor;
mod frontier;
mod generate;
mod help;
mod init;
mod inspect;
mod layouts;
mod life;
mod passkey;
mod pull;
mod ranks;
mod recall;
#[cfg(feature = "serve")]
mod serve;
mod shared;
mod speculation;
mod ssm;
mod state_precision;
mod studies;
mod tokens;
mod train;
mod train_compare;
mod train_table;
mod train_task;

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

/// A page that names nothing outside its folder, and whose links all lead to something in it.
#[track_caller]
fn page_of(folder: &Path, name: &str) -> String {
    let page = fs::read_to_string(folder.join(name)).expect("a page");
    let links: Vec<&str> = page
        .split("href=\"")
        .skip(1)
        .filter_map(|link| link.split('"').next())
        .collect();
    assert!(links.len() >= 2, "no links in {name}");
    for link in links {
        assert!(
            folder.join(link).exists(),
            "{name} links to {link}, which is not there"
        );
    }
    for outside in ["http", "src=", "<link", "<script"] {
        assert!(!page.contains(outside), "{outside} in {name}");
    }
    // As a word, because the name of a temporary folder on the page may hold any letters.
    let mut words = page.split(|letter: char| !letter.is_alphanumeric());
    assert!(words.all(|word| word != "NaN"), "NaN in {name}");
    page
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
    let script = format!("ulimit -f {units}; exec '{program}' {arguments}");
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
