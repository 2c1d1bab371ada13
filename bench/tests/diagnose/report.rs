//! What a finished diagnosis reports.

use super::{folder, number, report, spillway};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_shipped_model_collapses_and_a_window_cures_it() {
    let folder = folder();
    let out = folder.path().join("out");
    let output = spillway(
        &[
            "--length",
            "8192",
            "--streams",
            "4",
            "--mitigation",
            "window:64",
            "--mitigation",
            "remember:0.75",
        ],
        &out,
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report = report(&out);
    assert_eq!(report["format"], "spillway-diagnosis");
    assert_eq!(
        (&report["version"], &report["complete"]),
        (&Value::from(1), &Value::from(true))
    );
    assert_eq!(report["train_length"], 64);
    assert_eq!(report["verdict"]["collapsed"], true);
    let onset = number(&report["verdict"]["onset"]);
    assert!((362.0..=5000.0).contains(&onset), "onset {onset}");
    assert!(number(&report["verdict"]["ratio"]) > 2.0);

    let runs = report["runs"].as_array().expect("runs");
    let names: Vec<&str> = runs.iter().filter_map(|run| run["mitigation"].as_str()).collect();
    assert_eq!(names, ["none", "reset:64", "window:64", "remember:0.75"]);
    let (alone, window) = (&runs[0], &runs[2]);
    assert!(
        (number(&alone["inside"]) - 1.5).abs() < 0.15,
        "{}",
        alone["inside"]
    );
    assert!(number(&alone["beyond"]) > 2.0);
    assert_eq!(window["verdict"]["collapsed"], false);
    assert!(number(&window["excess_removed"]) > 0.9);
    assert!(number(&window["price"]).abs() < 0.02);
    // Scaling what is written is no forgetting: most of the excess stays.
    assert!(number(&runs[3]["excess_removed"]) < 0.7);
    let summary = String::from_utf8_lossy(&output.stdout);
    assert!(
        summary.contains("Collapses at t =") && summary.contains("Cured by window:64"),
        "{summary}"
    );
}

#[test]
fn the_report_keeps_its_promises() {
    let folder = folder();
    let out = folder.path().join("out");
    assert!(
        spillway(
            &[
                "--length",
                "1024",
                "--streams",
                "2",
                "--mitigation",
                "forget:0.99"
            ],
            &out
        )
        .status
        .success()
    );
    let report = report(&out);
    for run in report["runs"].as_array().expect("runs") {
        assert!(number(&run["tokens_per_second"]) > 0.0);
        assert!(number(&run["state_bytes"]) >= 4.0 * 65536.0);
        for loss in ["loss", "loss_fixed", "loss_inside"] {
            let buckets = run[loss].as_array().expect("buckets");
            assert_eq!(buckets[0]["start"], 0);
            for pair in buckets.windows(2) {
                assert_eq!(pair[0]["end"], pair[1]["start"]);
            }
            for bucket in buckets {
                let (mean, perplexity) = (number(&bucket["mean"]), number(&bucket["perplexity"]));
                assert!((0.0..10.0).contains(&mean) && (perplexity - mean.exp()).abs() < 1e-9 * perplexity);
            }
        }
        let last = run["loss"]
            .as_array()
            .and_then(|buckets| buckets.last())
            .expect("a bucket");
        assert_eq!(last["end"], 1024);
    }
    assert_eq!(report["heads"].as_array().map(Vec::len), Some(8));
    let kept = number(&report["heads"][0]["kept_over_train_length"]);
    assert!((0.5..1.0).contains(&kept), "{kept}");
    for name in [
        "loss.csv",
        "mitigations.csv",
        "heads.csv",
        "retention.csv",
        "gates.csv",
    ] {
        let text = fs::read_to_string(out.join(name)).expect(name);
        let columns = text.lines().next().map(|line| line.split(',').count());
        assert!(text.lines().count() > 2 && columns > Some(4), "{name}");
    }
    let page = fs::read_to_string(out.join("report.html")).expect("report.html");
    assert!(
        page.matches("role=\"img\"").count() >= 6,
        "pictures are inside the page"
    );
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("<link"));
    let links: Vec<&str> = page
        .split("href=\"")
        .skip(1)
        .filter_map(|link| link.split('"').next())
        .collect();
    assert!(
        links.contains(&"report.json") && links.iter().all(|link| out.join(link).exists()),
        "{links:?}"
    );
    // Where it comes from, the mitigations that it speaks of, and numbers that agree with their nouns.
    for part in [
        "spillway diagnose --length 1024",
        "--mitigation forget:0.99",
        "multiply every decay",
        "original",
    ] {
        assert!(page.contains(part), "no {part:?} in the page");
    }
    assert!(!page.contains("1 heads") && !page.contains("1 streams") && !page.contains("1 layers"));
    assert!(!out.join("resume").exists());
}

#[test]
fn a_model_that_does_not_collapse_is_said_not_to() {
    let folder = folder();
    let out = folder.path().join("out");
    // So short a text does not fill the state.
    let output = spillway(&["--length", "512", "--mitigation", "window:64"], &out);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report = report(&out);
    assert_eq!(report["verdict"]["collapsed"], false, "{}", report["verdict"]);
    assert_eq!(report["verdict"]["onset"], Value::Null);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("Does not collapse up to 512 tokens"));
}

#[test]
fn a_text_shorter_than_the_stream_is_read_again_and_the_report_says_so() {
    let folder = folder();
    let text = folder.path().join("short.txt");
    fs::write(&text, "In the beginning God created the heaven and the earth. ").expect("written");
    let out = folder.path().join("out");
    let path = text.to_str().expect("a path");
    assert!(
        spillway(
            &["--text", path, "--length", "512", "--mitigation", "window:64"],
            &out
        )
        .status
        .success()
    );
    let report = report(&out);
    assert_eq!(
        (&report["text"]["tokens"], &report["text"]["repeats"]),
        (&Value::from(55), &Value::from(true))
    );
    let summary = report["summary"].as_array().expect("sentences");
    assert!(
        summary
            .iter()
            .any(|sentence| sentence.as_str().is_some_and(|s| s.contains("over and over")))
    );
}

#[test]
fn the_command_that_a_diagnosis_ends_with_works_when_pasted() {
    let folder = folder();
    let out = folder.path().join("out folder");
    let output = spillway(
        &[
            "--length",
            "8192",
            "--streams",
            "2",
            "--mitigation",
            "state-norm:auto",
        ],
        &out,
    );
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let command = printed
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("Try it:  "));
    let command = command.unwrap_or_else(|| panic!("no command at the end of {printed}"));
    assert!(command.contains("state-norm-auto.json"), "{command}");
    let report = report(&out);
    assert_eq!(report["try"], command);
    let spec = report["runs"][2]["spec"].as_str().expect("a spec");
    assert!(spec.starts_with('@') && Path::new(&spec[1..]).is_file(), "{spec}");
    assert_eq!(report["runs"][0]["spec"], "none");
    let pasted = Command::new("sh")
        .args(["-c", &format!("{command} --max-tokens 8 -q")])
        .output();
    let pasted = pasted.expect("a shell");
    assert!(
        pasted.status.success(),
        "{}",
        String::from_utf8_lossy(&pasted.stderr)
    );
    assert!(pasted.stdout.len() >= 8);

    // Other commands take it too, with the numbers that it has.
    let again = folder.path().join("again");
    let output = spillway(
        &[
            "--length",
            "256",
            "--streams",
            "1",
            "--text",
            "newlines",
            "--mitigation",
            spec,
        ],
        &again,
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let written =
        |folder: &Path| fs::read_to_string(folder.join("mitigations/state-norm-auto.json")).expect("numbers");
    let tables =
        |folder: &Path| serde_json::from_str::<Value>(&written(folder)).expect("JSON")["calibrated"].clone();
    assert_eq!(tables(&out), tables(&again));

    // A diagnosis in its place takes the numbers away that it has none of.
    let output = spillway(
        &[
            "--length",
            "256",
            "--streams",
            "1",
            "--text",
            "newlines",
            "--mitigation",
            "window:64",
            "--force",
        ],
        &again,
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(again.join("report.json").is_file() && !again.join("mitigations").exists());
}
