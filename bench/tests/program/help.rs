//! Help texts and the command line itself.

use crate::*;

#[test]
fn every_subcommand_explains_itself_with_an_example() {
    let general = stdout_of(&["--help"]);
    for asked in [&["help"][..], &["help", "--help"], &["help", "-h"]] {
        assert_eq!(stdout_of(asked), general, "{asked:?}");
    }
    for name in [
        "passkey",
        "recall",
        "compare",
        "train",
        "train-compare",
        "train-table",
        "capacity",
        "frontier",
        "state-precision",
        "ssm",
        "generate",
        "pull",
        "inspect",
        "init",
        "convert",
        "tokens",
        "mitigations",
        "doctor",
        "completions",
        "man",
        "bench",
    ] {
        assert!(general.contains(&format!("\n  {name} ")), "{general}");
        let help = stdout_of(&[name, "--help"]);
        assert!(
            help.contains("Example") && help.contains(&format!("  spillway {name}")),
            "{help}"
        );
    }
    assert!(!general.contains("bench-one"), "{general}");
    assert!(stdout_of(&["--version"]).starts_with("spillway "));
}

#[test]
fn a_wrong_command_line_is_one_line_and_exit_code_two() {
    fails(&["drain"], 2, &["drain"]);
    fails(&["inspect", "--bogus"], 2, &["--bogus"]);
    fails(
        &["inspect", "--threads", "0"],
        2,
        &["--threads", "from 1", "found 0"],
    );
    fails(
        &["inspect", "--threads", "1,2"],
        2,
        &["--threads", "one number", "found 1,2"],
    );
    fails(&["inspect", "--dtype", "f64"], 2, &["f64", "--dtype", "bf16"]);
    assert_eq!(spillway(&[]).status.code(), Some(2));
}

#[test]
fn completions_and_manual_pages_name_every_command_and_option() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout_of(&["completions", shell]);
        for word in [
            "diagnose",
            "mitigations",
            "prompt-file",
            "train-compare",
            "train-table",
        ] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let page = stdout_of(&["man"]);
    assert!(
        page.contains(".TH spillway") && page.contains("spillway\\-diagnose"),
        "{page}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    stdout_of(&["man", "--out", &folder.path().to_string_lossy(), "-q"]);
    let written = names(folder.path());
    assert!(
        written.contains(&"spillway-generate.1".to_string()) && written.len() > 15,
        "{written:?}"
    );
    let generate = fs::read_to_string(folder.path().join("spillway-generate.1")).expect("a page");
    assert!(generate.contains("prompt\\-file"), "{generate}");
    fails(&["completions", "tcsh"], 2, &["tcsh", "bash"]);
    fails(&["man", "--json"], 2, &["--json"]);
}

#[test]
fn json_is_one_document_on_standard_output_in_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (text, model) = (out("text.txt"), out("model"));
    fs::write(&text, "In the beginning\n".repeat(64)).expect("written");
    for arguments in [
        &["init", "--arch", "mamba2", "--shape", "tiny", "--out", &model][..],
        &["init", "--list"],
        &["convert", &model, &out("converted")],
        &["tokens", &text, "--out", &out("text.tokens")],
        &["inspect"],
        &["generate", "--prompt", "a", "--max-tokens", "2"],
        &[
            "diagnose",
            "--length",
            "256",
            "--streams",
            "1",
            "--mitigation",
            "none",
            "--out",
            &out("diagnosis"),
        ],
        &[
            "compare",
            "--quick",
            "--longest",
            "2",
            "--streams",
            "1",
            "--mitigation",
            "none",
            "--out",
            &out("comparison"),
        ],
        &[
            "passkey",
            "--lengths",
            "300",
            "--depths",
            "1",
            "--samples",
            "1",
            "--out",
            &out("passkey"),
        ],
        &[
            "recall",
            "--documents",
            "2",
            "--facts",
            "3",
            "--no-padding",
            "--out",
            &out("recall"),
        ],
        &[
            "recall",
            "--documents",
            "2",
            "--training-text",
            &out("training.jsonl"),
        ],
        &["mitigations"],
        &["ssm", "--length", "64", "--states", "4"],
        &["ssm", "--length", "64", "--states", "4", "--out", &out("systems")],
    ] {
        let json = json_of(&[arguments, &["--json"]].concat());
        assert!(json.is_object(), "{arguments:?}");
        for file in json["files"].as_array().into_iter().flatten() {
            let path = file.as_str().expect("a path");
            assert!(Path::new(path).exists(), "{arguments:?}: {path}");
        }
        if let Some(folder) = json.get("folder") {
            assert!(
                Path::new(folder.as_str().expect("a path")).is_dir(),
                "{arguments:?}"
            );
        }
    }
}
