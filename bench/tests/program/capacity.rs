//! `spillway capacity`.

use crate::studies::results;
use crate::*;
use std::path::PathBuf;

/// Two sizes by two lengths of a text, one training on passkeys and two on pairs, of which one widens its state; a few steps each.
const CONFIG: &str = r#"
name = "tiny"
seeds = [0]
lengths = [16, 32]
tokens_per_step = 64

[states]
d_state = [4, 8]
layers = [1]
model_dim = [16]
head_dim = 8

[bootstrap]
resamples = 50

[training]
steps = 6
snapshot_every = 2

[training.optimizer]
learning_rate = 1e-2

[[tasks]]
name = "text"
initialisation = "slow"
data = { kind = "text", paths = ["book.txt"], held_out = 0.25 }
forgetting = { streams = 2, tokens = 128 }

[[tasks]]
name = "keys"
vocab_size = 64
lengths = [32]
d_state = [4]
data = { kind = "passkey-lite" }
recall = { lengths = [16, 32], depths = 2, samples = 2 }

[[tasks]]
name = "pairs"
initialisation = { geometric = { shortest = 2 } }
vocab_size = 32
lengths = [32]
d_state = [8]
data = { kind = "pairs-in-filler", pairs = [1, 4], keys = 8, values = 8 }
pairs = { counts = [1, 4, 8], lengths = [16, 64], questions = 8 }

[[tasks]]
name = "widened"
vocab_size = 32
lengths = [32]
d_state = [8]
expansion = { from = 4 }
against = "pairs"
data = { kind = "pairs-in-filler", pairs = [1, 4], keys = 8, values = 8 }
pairs = { counts = [1, 4, 8], lengths = [16, 64], questions = 8 }
"#;

/// The folder with the configuration and its text.
fn folder(config: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let text = "In the beginning God created the heaven and the earth. ".repeat(40);
    fs::write(folder.path().join("book.txt"), text).expect("written");
    let path = folder.path().join("tiny.toml");
    fs::write(&path, config).expect("written");
    let path = path.to_string_lossy().into_owned();
    (folder, path)
}

/// Every training without its times, which are all that may differ.
fn without_times(out: &Path) -> Vec<Value> {
    let mut runs = results(out)["runs"].as_array().expect("runs").clone();
    runs.iter_mut().for_each(|run| run["seconds"] = Value::Null);
    runs
}

fn sweep(config: &str, out: &Path, options: &[&str]) -> Output {
    let out = out.to_string_lossy().into_owned();
    spillway(&[&["capacity", config, "--out", &out, "-q"], options].concat())
}

#[test]
fn a_sweep_that_is_stopped_and_resumed_gives_the_bits_of_one_that_is_not() {
    let (folder, config) = folder(CONFIG);
    let whole = folder.path().join("whole");
    let output = sweep(&config, &whole, &["--threads", "2"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        names(&whole),
        [
            "RESULTS.md",
            "figures",
            "pairs.csv",
            "report.html",
            "results.csv",
            "results.json",
            "runs",
            "sweep.json"
        ]
    );
    assert_eq!(names(&whole.join("runs")).len(), 7);
    assert_eq!(names(&whole.join("runs/text-d16-l1-n4-t16-s0")), ["result.json"]);

    let pieces = folder.path().join("pieces");
    refused(
        &sweep(&config, &pieces, &["--threads", "1", "--stop-after", "9"]),
        1,
        &["--resume"],
    );
    let unfinished = results(&pieces);
    assert_eq!(unfinished["runs"].as_array().expect("runs").len(), 1);
    assert!(
        unfinished["findings"]["unsupported"][0]
            .as_str()
            .expect("text")
            .contains("1 of 7")
    );
    refused(
        &sweep(&config, &pieces, &["--threads", "1"]),
        2,
        &["--out", "exists"],
    );
    // The last training widens its state after 39 of 42 steps: stopped before that, and after it.
    for steps in ["29", "3"] {
        let stopped = sweep(
            &config,
            &pieces,
            &["--threads", "1", "--resume", "--stop-after", steps],
        );
        refused(&stopped, 1, &["--resume"]);
    }
    let output = sweep(&config, &pieces, &["--threads", "1", "--resume"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(without_times(&whole), without_times(&pieces));

    report_holds_what_was_measured(&whole);
    figures_are_drawn_again(&config, &whole);
    another_configuration_is_refused(&folder.path().join("tiny.toml"), &whole);
}

fn report_holds_what_was_measured(out: &Path) {
    let report = results(out);
    let run = &report["runs"][0];
    assert_eq!((&run["elements"], &run["tokens"]), (&128.into(), &384.into()));
    let buckets = run["forgetting"]["buckets"].as_array().expect("buckets");
    assert_eq!(
        (&buckets[0]["end"], &buckets[buckets.len() - 1]["end"]),
        (&16.into(), &128.into())
    );
    let loss = buckets[0]["loss"].as_f64().expect("a finite loss");
    assert!((1.0..7.0).contains(&loss), "{loss}");
    assert!(run["recall"].is_null());
    let keys = report["runs"]
        .as_array()
        .expect("runs")
        .iter()
        .find(|run| run["task"] == "keys");
    let cells = keys.expect("trained")["recall"]["cells"]
        .as_array()
        .expect("cells")
        .clone();
    assert_eq!(cells.len(), 4);
    assert!(cells.iter().all(|cell| cell["samples"] == 2));
    let csv = fs::read_to_string(out.join("results.csv")).expect("file");
    assert_eq!(csv.lines().count(), 1 + 7);
    pairs_are_asked_and_a_widened_state_has_had_all_steps(&report);
    // Two tasks; 1 and 4 pairs in 16 and 32 tokens, 1, 4 and 8 in 32 and 64.
    let csv = fs::read_to_string(out.join("pairs.csv")).expect("file");
    assert_eq!(csv.lines().count(), 1 + 2 * (2 + 3 + 3));
    let page = fs::read_to_string(out.join("RESULTS.md")).expect("file");
    for part in [
        "What they do not support",
        "The published line T_forget",
        "T_forget by perplexity, task text",
        "Pairs held at 90 %, task pairs, T = 32",
        "Task widened against pairs",
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
}

fn pairs_are_asked_and_a_widened_state_has_had_all_steps(report: &Value) {
    let runs = report["runs"].as_array().expect("runs");
    for task in ["pairs", "widened"] {
        let run = runs.iter().find(|run| run["task"] == task).expect("trained");
        assert_eq!((&run["steps"], &run["tokens"]), (&6.into(), &384.into()));
        assert_eq!(run["state"]["d_state"], 8);
        let cells = run["pairs"]["cells"].as_array().expect("cells");
        let asked = |cell: &Value| {
            ["length", "pairs", "questions", "sequences"].map(|field| cell[field].as_u64().expect("a number"))
        };
        let asked: Vec<[u64; 4]> = cells.iter().map(asked).collect();
        let expected = [(16, [1, 4].as_slice()), (32, &[1, 4, 8]), (64, &[1, 4, 8])];
        let expected = expected
            .iter()
            .flat_map(|(length, counts)| counts.iter().map(|count| [*length, *count, 8, 8 / *count]));
        assert!(asked.iter().copied().eq(expected), "{asked:?}");
    }
}

fn figures_are_drawn_again(config: &str, out: &Path) {
    let before = page_of(out, "report.html");
    let figures = names(&out.join("figures"));
    fs::remove_dir_all(out.join("figures")).expect("removed");
    fs::remove_file(out.join("report.html")).expect("removed");
    let output = sweep(config, out, &["--figures-only"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(names(&out.join("figures")), figures);
    assert!(
        figures.contains(&"thresholds-beside-published.svg".to_string()),
        "{figures:?}"
    );
    assert_eq!(fs::read_to_string(out.join("report.html")).expect("file"), before);
}

fn another_configuration_is_refused(path: &PathBuf, out: &Path) {
    fs::write(path, CONFIG.replace("steps = 6", "steps = 7")).expect("written");
    let path = path.to_string_lossy().into_owned();
    refused(
        &sweep(&path, out, &["--resume"]),
        1,
        &["result.json", "training.steps", "7", "6"],
    );
}

#[test]
fn configurations_that_cannot_be_used_are_refused_before_anything_is_trained() {
    for (from, to, parts) in [
        ("seeds = [0]", "seeds = []", &["seeds", "at least one"][..]),
        ("name = \"tiny\"", "names = \"tiny\"", &["names", "unknown field"]),
        (
            "tokens_per_step = 64",
            "tokens_per_step = 60",
            &["divide tokens_per_step = 60", "found 16"],
        ),
        ("steps = 6", "steps = 0", &["text-d16", "steps", "at least 1"]),
        (
            "steps = 6",
            "steps = 6\nlength = 3",
            &["[training]", "found length"],
        ),
        ("steps = 6", "steps = 6\nhurry = true", &["hurry"]),
        (
            "held_out = 0.25",
            "held_out = 0.0",
            &["evaluation_data", "held_out", "neither in task text"],
        ),
        (
            "forgetting = { streams = 2, tokens = 128 }",
            "",
            &["none of them in task text"],
        ),
        ("name = \"keys\"", "name = \"Keys!\"", &["tasks.name", "Keys!"]),
        ("name = \"keys\"", "name = \"text\"", &["two of text"]),
        (
            "from = 4",
            "from = 9",
            &["expansion.from", "at most", "8", "found 9"],
        ),
        ("from = 4", "share = 1.0", &["expansion.share", "between 0 and 1"]),
        (
            "against = \"pairs\"",
            "against = \"text\"",
            &["widened against text"],
        ),
        ("shortest = 2", "shortest = 0", &["geometric", "above 0"]),
        ("questions = 8", "questions = 0", &["tasks.pairs", "at least 1"]),
        (
            "questions = 8",
            "questions = 8, accuracy = 0.4",
            &["tasks.pairs.accuracy", "above 0.48", "8 values", "found 0.4"],
        ),
        (
            "recall = { lengths = [16, 32], depths = 2, samples = 2 }",
            "pairs = { counts = [1], lengths = [16], questions = 1 }",
            &["pairs-in-filler", "task keys"],
        ),
    ] {
        let (folder, config) = folder(&CONFIG.replace(from, to));
        let out = folder.path().join("out");
        refused(&sweep(&config, &out, &[]), 1, &[&["tiny.toml"], parts].concat());
        assert!(!out.exists(), "{to}");
    }
}

#[test]
fn missing_files_and_folders_are_named() {
    let (folder, config) = folder(CONFIG);
    let out = folder.path().join("out");
    refused(&sweep("none.toml", &out, &[]), 1, &["cannot read none.toml"]);
    refused(
        &sweep(&config, &out, &["--figures-only"]),
        2,
        &["--out", "results of trainings"],
    );
    fs::remove_file(folder.path().join("book.txt")).expect("removed");
    refused(&sweep(&config, &out, &[]), 1, &["book.txt"]);
    assert!(!out.exists());
}

#[test]
fn what_only_the_end_of_a_training_needs_is_tried_before_the_first() {
    for (from, to, parts) in [
        (
            "forgetting = { streams = 2, tokens = 128 }",
            "forgetting = { streams = 2, tokens = 128 }\nevaluation_data = { kind = \"text\", paths = [\"none.txt\"] }",
            &["none.txt"][..],
        ),
        (
            "recall = { lengths = [16, 32]",
            "recall = { lengths = [2, 32]",
            &["tasks.recall"],
        ),
        (
            "counts = [1, 4, 8]",
            "counts = [1, 9]",
            &["tasks.pairs", "at least 9"],
        ),
        ("head_dim = 8", "head_dim = 7", &["head"]),
    ] {
        let (folder, config) = folder(&CONFIG.replace(from, to));
        let out = folder.path().join("out");
        refused(&sweep(&config, &out, &[]), 1, parts);
        assert!(!out.exists(), "{to}");
    }
}

#[cfg(unix)]
#[test]
fn a_sweep_that_is_killed_at_any_moment_gives_the_bits_of_one_that_is_not() {
    let (folder, config) = folder(CONFIG);
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    assert!(sweep(&config, &whole, &["--threads", "1"]).status.success());
    // When the first training has a folder, when it has a result, and when the third has its first snapshot.
    for file in [
        "runs/text-d16-l1-n4-t16-s0/train/config.toml",
        "runs/text-d16-l1-n4-t16-s0/result.json",
        "runs/text-d16-l1-n8-t16-s0/train/snapshots",
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command.args(["capacity", &config, "-q", "--threads", "1"]);
        if killed.exists() {
            command.arg("--resume");
        }
        command.arg("--out");
        crate::life::kill_when(command.arg(&killed), || killed.join(file).exists());
    }
    let output = sweep(&config, &killed, &["--threads", "1", "--resume"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(without_times(&whole), without_times(&killed));
    assert_eq!(names(&whole), names(&killed));
    assert_eq!(names(&whole.join("runs")), names(&killed.join("runs")));
}
