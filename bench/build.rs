//! What `spillway doctor` says of the build: the compiler, and the commit where somebody knows it. Nothing fails here.

use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SPILLWAY_COMMIT");
    if let Some(rustc) = rustc() {
        println!("cargo::rustc-env=SPILLWAY_RUSTC={rustc}");
    }
    if let Some(commit) = commit() {
        println!("cargo::rustc-env=SPILLWAY_COMMIT={commit}");
    }
}

/// `rustc 1.95.0 (59807616e 2026-04-14)`.
fn rustc() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?)
        .arg("--version")
        .output()
        .ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    Some(line.trim().to_string()).filter(|line| !line.is_empty() && !line.contains('\n'))
}

/// What the builder says, else what `cargo package` has written beside a published crate. A working tree's own commit is left
/// alone: it would be wrong as soon as something is edited, and every commit would build the program again.
fn commit() -> Option<String> {
    let given = env::var("SPILLWAY_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    given.or_else(|| {
        let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
        let (_, rest) = text.split_once("\"sha1\"")?;
        let hash: String = rest.chars().filter(char::is_ascii_hexdigit).take(40).collect();
        (hash.len() == 40).then_some(hash)
    })
}
