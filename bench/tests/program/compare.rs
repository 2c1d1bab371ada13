//! `spillway compare`.

use crate::*;

const OPTIONS: [&str; 6] = ["--quick", "--longest", "4", "--streams", "1", "-q"];

fn compare(out: &Path, more: &[&str]) -> Output {
    let out = out.to_string_lossy().into_owned();
    spillway(&[&["compare", "--out", &out][..], &OPTIONS, more].concat())
}

fn board(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("leaderboard.json")).expect("file")).expect("JSON")
}

fn losses(row: &Value) -> Vec<f64> {
    let lengths = row["lengths"].as_array().expect("lengths");
    lengths.iter().filter_map(|at| at["loss"].as_f64()).collect()
}

/// Whether the two are the same up to the rounding of decimal numbers.
fn same(a: Option<f64>, b: Option<f64>) -> bool {
    a.zip(b).is_some_and(|(a, b)| (a - b).abs() < 1e-12)
}

fn row<'a>(board: &'a Value, name: &str) -> &'a Value {
    let rows = board["rows"].as_array().expect("rows");
    let found = rows.iter().find(|row| row["mitigation"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {board}"))
}

#[test]
fn rows_are_ranked_and_held_against_the_baseline_at_the_same_tokens() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    let output = compare(&out, &["--mitigation", "window:64", "--mitigation", "forget:0.5"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let board = board(&out);
    let rows = board["rows"].as_array().expect("rows");
    let mut names: Vec<&str> = rows.iter().filter_map(|row| row["mitigation"].as_str()).collect();
    let ranked: Vec<f64> = rows.iter().map(|row| losses(row)[1]).collect();
    assert!(ranked.is_sorted(), "{ranked:?}");
    names.sort_unstable();
    assert_eq!(names, ["forget:0.5", "none", "reset:64", "window:64"]);
    let (alone, baseline) = (row(&board, "none"), row(&board, "reset:64"));
    assert_eq!(alone["cost"], 0.0);
    for row in rows {
        let cost = row["inside"]
            .as_f64()
            .zip(alone["inside"].as_f64())
            .map(|(a, b)| a - b);
        assert!(same(row["cost"].as_f64(), cost), "{row}");
        for (index, at) in row["lengths"].as_array().expect("lengths").iter().enumerate() {
            let over = at["loss"].as_f64().map(|loss| loss - losses(baseline)[index]);
            assert!(same(at["over_baseline"].as_f64(), over), "{at}");
        }
    }
    // A window of the training length is free inside it, a state that halves with every token is not; most of what such a
    // small model knows of the past comes from its short convolutions, though.
    assert!(row(&board, "window:64")["cost"].as_f64().expect("a number").abs() < 1e-3);
    assert!(row(&board, "forget:0.5")["cost"].as_f64().expect("a number") > 0.01);
    let scores = alone["passkeys"].as_array().expect("scores");
    assert!(scores.iter().all(|score| score["samples"] == 3), "{scores:?}");
    let csv = fs::read_to_string(out.join("leaderboard.csv")).expect("a table");
    for text in [page_of(&out, "leaderboard.html"), csv] {
        assert!(text.contains("window:64") && !text.contains("NaN"), "{text}");
    }
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("reset:64 is the baseline"), "{table}");
}

#[test]
fn rows_that_are_there_are_not_measured_again() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    let options = ["--mitigation", "window:64"];
    assert!(compare(&out, &options).status.success());
    let mut half = board(&out);
    let rows = half["rows"].as_array_mut().expect("rows");
    rows.retain(|row| row["mitigation"] != "window:64");
    // A mark that a row measured again would not bear.
    rows[0]["seconds"] = Value::from(12345.5);
    half["complete"] = Value::from(false);
    fs::write(out.join("leaderboard.json"), half.to_string()).expect("written");

    let refusal = compare(&out, &options);
    refused(&refusal, 2, &["--out", "--resume"]);
    let other = compare(&out, &["--mitigation", "window:128", "--resume"]);
    refused(&other, 2, &["--mitigation", "window:64", "window:128"]);
    let resumed = compare(&out, &[&options[..], &["--resume"]].concat());
    assert!(
        resumed.status.success(),
        "{}",
        String::from_utf8_lossy(&resumed.stderr)
    );
    let whole = board(&out);
    assert_eq!(whole["complete"], true);
    assert_eq!(whole["rows"].as_array().map(Vec::len), Some(3));
    assert!(whole["rows"].to_string().contains("12345.5"));
    assert_eq!(losses(row(&whole, "window:64")).len(), 2);
}

#[test]
fn a_model_started_again_forgets_all_it_has() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    assert!(compare(&out, &["--mitigation", "restart:64"]).status.success());
    let board = board(&out);
    let (restart, reset) = (row(&board, "restart:64"), row(&board, "reset:64"));
    // The short convolution keeps a reset model a few tokens ahead.
    let over = losses(restart)[1] - losses(reset)[1];
    assert!((0.0..0.3).contains(&over), "{over}");
    assert_eq!(restart["cost"].as_f64(), Some(0.0));
}

#[test]
fn impossible_comparisons_are_usage_errors_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    for (options, part) in [
        (&["--longest", "3"][..], "power of two"),
        (&["--longest", "1"], "power of two"),
        (&["--train-length", "0"], "--train-length"),
        (&["--mitigation", "nonsense"], "nonsense"),
        (&["--mitigation", "restart:0"], "restart:0"),
        (&["--resume"], "--resume"),
    ] {
        let out_text = out.to_string_lossy().into_owned();
        fails(
            &[&["compare", "-q", "--out", &out_text][..], options].concat(),
            2,
            &[part],
        );
        assert!(names(folder.path()).is_empty(), "{options:?}");
    }
}

/// The lines of a file that say no times, nor speeds, and without the folder's own path before the files that they name.
fn timeless(out: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(out.join(name)).expect(name);
    let text = text.replace(&format!("{}/", out.display()), "OUT/");
    let lines = text
        .lines()
        .filter(|line| !line.contains("\"seconds\"") && !line.contains("tokens_per_second\""));
    lines.map(String::from).collect()
}

#[cfg(unix)]
#[test]
fn a_comparison_that_is_killed_at_any_moment_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let options = [
        "--mitigation",
        "forget:0.97",
        "--mitigation",
        "window:64",
        "--mitigation",
        "state-norm:auto",
        "--mitigation",
        "scales:fit",
    ];
    assert!(compare(&whole, &options).status.success());
    // Killed in the folder while it is empty, then each time that the file has grown by a row.
    let rows = || {
        let text = fs::read(killed.join("leaderboard.json")).unwrap_or_default();
        let board: Value = serde_json::from_slice(&text).unwrap_or_default();
        board["rows"].as_array().map_or(0, Vec::len)
    };
    for least in [0, 1, 2, 4] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command
            .arg("compare")
            .args(OPTIONS)
            .args(options)
            .arg("--out")
            .arg(&killed);
        if killed.exists() {
            command.arg("--resume");
        }
        crate::life::kill_when(&mut command, || killed.exists() && rows() >= least);
    }
    let resumed = compare(&killed, &[&options[..], &["--resume"]].concat());
    assert!(
        resumed.status.success(),
        "{}",
        String::from_utf8_lossy(&resumed.stderr)
    );
    assert_eq!(
        timeless(&whole, "leaderboard.json"),
        timeless(&killed, "leaderboard.json")
    );
    assert_eq!(names(&whole), names(&killed));
}

#[cfg(unix)]
#[test]
fn an_interruption_keeps_the_finished_rows() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["compare", "-q", "--longest", "64", "--streams", "8", "--out"])
        .arg(&out)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let file = out.join("leaderboard.json");
    while !file.exists() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // SAFETY: a signal to a child of this process that has not been waited for; its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    let output = child.wait_with_output().expect("the program ends");
    refused(&output, 1, &["interrupted", "--resume"]);
    let board = board(&out);
    assert_eq!(board["complete"], false);
    assert!(board["rows"].as_array().is_some_and(|rows| !rows.is_empty()));
}
