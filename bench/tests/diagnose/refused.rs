//! Options, texts and folders that are refused.

use super::{error_line, folder, spillway};
use std::fs;

#[test]
fn impossible_options_are_one_line_and_leave_nothing_behind() {
    let folder = folder();
    for (arguments, code, word) in [
        (&["--length", "100"][..], 2, "--length"),
        (&["--train-length", "0"], 2, "--train-length"),
        (&["--streams", "0"], 2, "--streams"),
        (&["--threshold", "0.5"], 2, "--threshold"),
        (&["--mitigation", "forget:2"], 2, "forget:2"),
        (&["--mitigation", "nonsense"], 2, "nonsense"),
        (&["--resume"], 2, "--resume"),
        (&["--text", "no/such/file.txt"], 1, "no/such/file.txt"),
        (&["no/such/checkpoint"], 1, "no/such/checkpoint"),
    ] {
        let out = folder.path().join("out");
        let output = spillway(arguments, &out);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let line = error_line(&output);
        assert!(line.contains(word), "{arguments:?}: {line}");
        assert!(!out.exists(), "{arguments:?} left something behind");
    }
}

#[test]
fn an_empty_text_and_an_existing_folder_are_refused() {
    let folder = folder();
    let empty = folder.path().join("empty.txt");
    fs::write(&empty, "").expect("written");
    let output = spillway(
        &["--text", empty.to_str().expect("a path")],
        &folder.path().join("out"),
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(error_line(&output).contains("expected at least 2 tokens, found 0"));
    // The folder of the test itself holds a file.
    let output = spillway(&["--length", "128"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(empty.exists());
}

#[test]
fn a_prompt_is_no_text_to_diagnose() {
    let folder = folder();
    let output = spillway(&["--prompt", "book.txt"], &folder.path().join("out"));
    assert_eq!(output.status.code(), Some(2));
    let line = error_line(&output);
    assert!(
        line.contains("--prompt") && line.contains("--text FILE"),
        "{line}"
    );
}
