//! `spillway diagnose`, run as a person would run it.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn spillway(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command
        .arg("diagnose")
        .args(arguments)
        .arg("--out")
        .arg(out)
        .output()
        .expect("the program starts")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn report(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("report.json")).expect("report.json");
    serde_json::from_str(&text).expect("JSON")
}

fn error_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.trim_end().lines().count(), 1, "one line, not: {text}");
    text
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

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

/// The report without what depends on the clock.
/// The report of a folder without what differs from run to run: times, and the folder's own path, which stands before the
/// files that it names.
fn timeless(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("report.json")).expect("report.json");
    let text = text.replace(&format!("{}/", out.display()), "OUT/");
    let mut report: Value = serde_json::from_str(&text).expect("JSON");
    for run in report["runs"].as_array_mut().expect("runs") {
        let run = run.as_object_mut().expect("a run");
        run.remove("seconds");
        run.remove("tokens_per_second");
    }
    report
}

#[test]
fn an_interrupted_diagnosis_goes_on_to_the_same_numbers() {
    let folder = folder();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    let arguments = [
        "--length",
        "3000",
        "--streams",
        "2",
        "--mitigation",
        "window:64",
        "--mitigation",
        "state-norm:auto",
        "--mitigation",
        "reset-overlap:64,32",
    ];
    assert!(spillway(&arguments, &whole).status.success());
    let stop = |tokens| [&arguments[..], &["--stop-after", tokens]].concat();
    let resume = |more: &[&'static str]| [&arguments[..], &["--resume"], more].concat();
    let first = spillway(&stop("2k"), &stopped);
    assert_eq!(first.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&first.stderr).contains("--resume"));
    assert_eq!(report(&stopped)["complete"], false);
    // Interrupted again and again, each time somewhere else: at least one token is read each time.
    let mut times = 0;
    loop {
        times += 1;
        let output = spillway(&resume(&["--stop-after", "9k"]), &stopped);
        if output.status.success() {
            break;
        }
        assert!(times < 20, "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(times > 1, "interrupted more than once");
    assert_eq!(timeless(&whole), timeless(&stopped));
    for name in ["heads.csv", "gates.csv", "loss.csv"] {
        let read = |out: &Path| fs::read(out.join(name)).expect(name);
        assert!(read(&whole) == read(&stopped), "{name} differs");
    }
    assert!(!stopped.join("resume").exists());
}

#[test]
fn an_interrupted_diagnosis_says_what_is_measured_and_what_is_left_and_concludes_nothing() {
    let folder = folder();
    let out = folder.path().join("out");
    let arguments = [
        "--length",
        "2048",
        "--streams",
        "1",
        "--threads",
        "1",
        "--mitigation",
        "reset:32",
        "--mitigation",
        "window:64",
        "--mitigation",
        "forget:0.99",
    ];
    let whole = spillway(&[&arguments[..], &["--stop-after", "1"]].concat(), &out);
    let first = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(
        first.starts_with("Interrupted after") && first.contains("no conclusion yet"),
        "{first}"
    );
    for conclusion in ["ollapse", "Only", "None of", "Cured"] {
        let sentences = first.split("\n\n").next().unwrap_or_default();
        assert!(!sentences.contains(conclusion), "{conclusion} in {sentences}");
    }
    let early = report(&out);
    assert_eq!(
        (&early["complete"], &early["verdict"]["complete"]),
        (&false.into(), &false.into())
    );
    // On into the third run, of which one segment is read.
    let run = &early["remaining"][0];
    let stop = 2.0 * number(&run["tokens_in_all"]) - number(&run["tokens"]) + 1.0;
    let stop = (stop as u64).to_string();
    let output = spillway(
        &[&arguments[..], &["--resume", "--stop-after", &stop]].concat(),
        &out,
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sentences = text.split("\n\n").next().unwrap_or_default();
    assert!(sentences.contains("Measured so far: none"), "{sentences}");
    assert!(
        sentences.contains("Still to be measured: reset:32 ("),
        "{sentences}"
    );
    assert!(sentences.contains("window:64 and forget:0.99"), "{sentences}");
    for conclusion in ["Only", "None of", "Cured"] {
        assert!(!sentences.contains(conclusion), "{conclusion} in {sentences}");
    }
    assert!(text.contains("not known"), "{text}");
    let report = report(&out);
    let left: Vec<&str> = report["remaining"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|run| run["mitigation"].as_str())
        .collect();
    assert_eq!(left, ["reset:32", "window:64", "forget:0.99"]);
    assert_eq!(report["complete"], false);
    let page = fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("no conclusion yet") && page.contains("Still to be measured"));
}

#[cfg(unix)]
#[test]
fn a_diagnosis_that_is_killed_goes_on_to_the_same_report() {
    let folder = folder();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let arguments = [
        "--length",
        "2048",
        "--streams",
        "2",
        "--mitigation",
        "window:64",
        "--mitigation",
        "state-norm:auto",
    ];
    assert!(spillway(&arguments, &whole).status.success());
    let runs = || {
        let text = fs::read(killed.join("resume/progress.json")).unwrap_or_default();
        let progress: Value = serde_json::from_slice(&text).unwrap_or_default();
        progress["runs"].as_array().map_or(0, Vec::len)
    };
    // Killed before anything is saved, and when one run, two, and three are.
    for least in 0..4 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command
            .args(["diagnose", "-q"])
            .args(arguments)
            .arg("--out")
            .arg(&killed);
        if killed.exists() {
            command.arg("--resume");
        }
        let mut child = command
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("the program starts");
        while !(killed.exists() && runs() >= least) && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // It may have ended meanwhile.
        let _ = child.kill();
        child.wait().expect("it ends");
    }
    let output = spillway(&[&arguments[..], &["--resume"]].concat(), &killed);
    // Had it ended before the last kill, there would be nothing to go on with.
    let ended = String::from_utf8_lossy(&output.stderr).contains("--resume: expected");
    assert!(
        output.status.success() || ended,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(timeless(&whole), timeless(&killed));
    let names = |out: &Path| fs::read_dir(out).expect("a folder").count();
    assert_eq!(names(&whole), names(&killed));
}

#[test]
fn progress_that_names_sizes_it_does_not_have_is_refused_before_memory_is_taken() {
    let folder = folder();
    let out = folder.path().join("out");
    let arguments = ["--length", "2048", "--streams", "1", "--mitigation", "window:64"];
    let resume = [&arguments[..], &["--resume"]].concat();
    spillway(&[&arguments[..], &["--stop-after", "3000"]].concat(), &out);
    let path = out.join("resume/progress.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).expect("progress")).expect("JSON");
    let shape = |progress: &Value| progress["runs"][0]["streams"][0]["records"][0]["shape"].clone();
    assert_eq!(shape(&good)["heads"], 4);
    for field in ["heads", "key_dim", "layer"] {
        for count in [5, 1_u64 << 53, u64::MAX] {
            let mut bad = good.clone();
            bad["runs"][0]["streams"][0]["records"][0]["shape"][field] = count.into();
            fs::write(&path, bad.to_string()).expect("written");
            let output = spillway(&resume, &out);
            let line = error_line(&output);
            assert_eq!(output.status.code(), Some(1), "{field} {count}: {line}");
            assert!(line.contains("progress.json"), "{field} {count}: {line}");
        }
    }
    fs::write(&path, good.to_string()).expect("written");
    assert!(spillway(&resume, &out).status.success());
}

#[test]
fn resuming_under_other_options_names_the_difference() {
    let folder = folder();
    let out = folder.path().join("out");
    let arguments = ["--length", "2048", "--streams", "1", "--mitigation", "window:64"];
    spillway(&[&arguments[..], &["--stop-after", "1"]].concat(), &out);
    let other = [
        "--length",
        "4096",
        "--streams",
        "1",
        "--mitigation",
        "window:64",
        "--resume",
    ];
    let output = spillway(&other, &out);
    assert_eq!(output.status.code(), Some(2));
    let line = error_line(&output);
    assert!(
        line.contains("--length") && line.contains("2048") && line.contains("4096"),
        "{line}"
    );
    // Nor is the interrupted diagnosis overwritten by a new one.
    let output = spillway(&arguments, &out);
    assert_eq!(output.status.code(), Some(2));
    assert!(error_line(&output).contains("--resume"));
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

/// Peak resident memory of a run in bytes, as the system counts it.
#[cfg(target_os = "linux")]
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
#[cfg(target_os = "linux")]
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
    let written = |folder: &Path| fs::read_to_string(folder.join("state-norm-auto.json")).expect("numbers");
    let tables =
        |folder: &Path| serde_json::from_str::<Value>(&written(folder)).expect("JSON")["calibrated"].clone();
    assert_eq!(tables(&out), tables(&again));
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
