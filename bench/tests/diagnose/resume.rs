//! Diagnoses that are interrupted, killed and gone on with.

use super::{error_line, folder, number, report, spillway};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

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
