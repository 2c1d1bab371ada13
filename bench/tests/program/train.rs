//! `spillway train`.

use crate::*;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A folder with a text, and a configuration that trains on it.
struct Setup {
    folder: tempfile::TempDir,
}

const CONFIG: &str = r#"
seed = 3
steps = 24
sequences = 3
length = 16
accumulation = 2
snapshot_every = 1

[model]
arch = "mamba2"
size = "tiny"

[data]
kind = "text"
paths = ["text.txt"]
order = "ORDER"
held_out = 0.2

[optimizer]
learning_rate = 3e-3
clip_norm = 1.0
schedule = { kind = "wsd", warmup_steps = 4, decay_steps = 8 }

[carry]
carry = true
segment = 8
backpropagation = "truncated"
reset_probability = 0.2
initial = { kind = "fitted" }

[evaluation]
every = 8
length = 4
streams = 2
"#;

impl Setup {
    fn new(order: &str) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let lines = (0..120).map(|line| format!("{line} and {} make {}.\n", line % 7, line + line % 7));
        fs::write(folder.path().join("text.txt"), lines.collect::<String>()).expect("written");
        let setup = Self { folder };
        setup.configure(&CONFIG.replace("ORDER", order));
        setup
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("config.toml"), text).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command
            .arg("train")
            .arg(self.path("config.toml"))
            .arg("--out")
            .arg(self.path(out))
            .args(more);
        command
    }

    fn train(&self, out: &str, more: &[&str]) -> Output {
        self.command(out, more).output().expect("the program starts")
    }

    fn finish(&self, out: &str, more: &[&str]) {
        let output = self.train(out, more);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("checkpoint/model.safetensors")).expect("a checkpoint")
    }

    /// The log without times.
    fn log(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("log.jsonl")).expect("a log");
        let timeless = |line: &str| {
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            for field in ["seconds", "started", "tokens_per_second"] {
                line.as_object_mut().expect("an object").remove(field);
            }
            line
        };
        text.lines().map(timeless).collect()
    }
}

/// Kills it as no program can prevent.
fn kill_after(mut child: Child, delay: Duration) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < delay {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("killed");
    child.wait().expect("a child");
    true
}

/// Trains in `out`, killed again and again at moments that differ, until it is finished; how often it was killed. `whole` is what
/// the training takes on this machine without that.
fn train_killed_often(setup: &Setup, out: &str, seed: u64, whole: Duration) -> u32 {
    let (mut random, mut kills) = (seed, 0);
    loop {
        let resume: &[&str] = if setup.path(out).exists() {
            &["--resume"]
        } else {
            &[]
        };
        let mut command = setup.command(out, resume);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // Three times before the end even on a machine that has become twice as fast; and later and later, so that it comes to
        // an end on one that has become slower.
        let share = (random >> 33) as f64 / (1u64 << 31) as f64 / 8.0 + f64::from(kills) / 16.0;
        let delay = whole.mul_f64(share);
        if kill_after(child, delay) {
            kills += 1;
            continue;
        }
        setup.finish(out, &["--resume"]);
        return kills;
    }
}

fn killing_changes_nothing(order: &str) {
    let setup = Setup::new(order);
    let begin = Instant::now();
    setup.finish("whole", &[]);
    let kills = train_killed_often(&setup, "killed", order.len() as u64, begin.elapsed());
    assert!(kills >= 3, "killed only {kills} times");
    assert!(
        setup.weights("whole") == setup.weights("killed"),
        "other weights after {kills} kills"
    );
    assert_eq!(setup.log("whole"), setup.log("killed"));
    let left = names(&setup.path("killed"));
    let expected = [
        "checkpoint",
        "config.toml",
        "log.jsonl",
        "report.html",
        "snapshots",
        "summary.json",
    ];
    assert_eq!(left, expected, "half-written files are left");
}

#[test]
fn killing_a_training_on_shuffled_windows_changes_no_bit_of_it() {
    killing_changes_nothing("shuffled");
}

#[test]
fn killing_a_training_on_documents_in_order_changes_no_bit_of_it() {
    killing_changes_nothing("documents");
}

#[test]
fn stopping_and_resuming_and_the_number_of_threads_change_no_bit() {
    let setup = Setup::new("documents");
    setup.finish("whole", &["--threads", "1"]);
    let output = setup.train("parts", &["--stop-after", "5", "--threads", "2"]);
    refused_in_the_last_line(&output, 1, &["interrupted after 5 of 24 steps", "--resume"]);
    assert!(setup.path("parts/report.html").exists());
    refused(
        &setup.train("parts", &[]),
        2,
        &["parts, which exists", "--resume", "--force"],
    );
    let output = setup.train("parts", &["--resume", "--stop-after", "9", "--threads", "2"]);
    refused_in_the_last_line(&output, 1, &["interrupted after 14 of 24 steps"]);
    setup.finish("parts", &["--resume", "--threads", "2"]);
    assert!(setup.weights("whole") == setup.weights("parts"), "other weights");
    assert_eq!(setup.log("whole"), setup.log("parts"));
}

/// As [`refused`], after the remarks of a training that was stopped.
#[track_caller]
fn refused_in_the_last_line(output: &Output, code: i32, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("spillway: ") && parts.iter().all(|part| last.contains(part)),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_says_how_to_go_on() {
    let setup = Setup::new("shuffled");
    setup.configure(
        &CONFIG
            .replace("ORDER", "shuffled")
            .replace("steps = 24", "steps = 100000"),
    );
    let mut command = setup.command("out", &[]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let begin = Instant::now();
    while !setup.path("out").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    // SAFETY: the child has not been waited for, so its number is still its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = child.wait_with_output().expect("output");
    refused_in_the_last_line(&output, 1, &["interrupted after", "--resume"]);
    let steps = setup
        .log("out")
        .iter()
        .filter(|line| line["event"] == "step")
        .count();
    let summary = fs::read_to_string(setup.path("out/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(
        (&summary["steps"], &summary["complete"]),
        (&Value::from(steps), &Value::from(false))
    );
}

#[test]
fn everything_else_can_use_what_was_trained() {
    let setup = Setup::new("shuffled");
    setup.finish("out", &[]);
    let checkpoint = setup.path("out/checkpoint").to_string_lossy().into_owned();
    let info = json_of(&["inspect", &checkpoint, "--json"]);
    assert_eq!(info["train_length"], 16, "{info}");
    let diagnosis = setup.path("diagnosis").to_string_lossy().into_owned();
    stdout_of(&[
        "diagnose",
        &checkpoint,
        "--length",
        "64",
        "--streams",
        "1",
        "--out",
        &diagnosis,
    ]);
    // Training goes on from it, and `config.toml` of a run is a configuration like any other.
    let more = CONFIG
        .replace("ORDER", "shuffled")
        .replace("steps = 24", "steps = 2")
        .replace(
            "arch = \"mamba2\"\nsize = \"tiny\"",
            "checkpoint = \"out/checkpoint\"",
        );
    setup.configure(
        &more
            .replace("decay_steps = 8", "decay_steps = 1")
            .replace("warmup_steps = 4", "warmup_steps = 0"),
    );
    setup.finish("more", &[]);
    fs::copy(setup.path("more/config.toml"), setup.path("config.toml")).expect("copied");
    setup.finish("again", &[]);
    assert!(setup.weights("more") == setup.weights("again"), "other weights");

    let page = page_of(&setup.path("out"), "report.html");
    assert!(
        page.matches("role=\"img\"").count() >= 5,
        "pictures are inside the page"
    );
    assert!(
        page.contains("spillway train") && page.contains("learning_rate = 0.003"),
        "{page}"
    );
}

#[test]
fn a_configuration_that_cannot_be_used_is_one_line_and_leaves_nothing_behind() {
    let setup = Setup::new("shuffled");
    let good = CONFIG.replace("ORDER", "shuffled");
    let cases: [(&str, &str, &[&str]); 17] = [
        (
            "seed = 3",
            "sead = 3",
            &["config.toml", "line 2", "sead", "expected one of", "seed"],
        ),
        (
            "steps = 24",
            "steps = \"many\"",
            &["config.toml", "line 3", "steps", "many", "a whole number"],
        ),
        ("steps = 24", "", &["config.toml", "missing", "steps"]),
        ("steps = 24", "steps = 24 24", &["config.toml", "line 3"]),
        (
            "steps = 24",
            "steps = 0",
            &["steps: expected at least 1, found 0"],
        ),
        (
            "sequences = 3",
            "sequences = 0",
            &["sequences: expected at least 1, found 0"],
        ),
        (
            "length = 16",
            "length = 0",
            &["length: expected at least 1, found 0"],
        ),
        (
            "length = 16",
            "length = 100000",
            &["text.txt", "expected at least 100001 tokens", "found"],
        ),
        ("text.txt", "no.txt", &["no.txt", "No such file"]),
        (
            "size = \"tiny\"",
            "size = \"huge\"",
            &["model.size", "tiny", "huge"],
        ),
        (
            "arch = \"mamba2\"",
            "arch = \"perceptron\"",
            &["model.arch", "mamba2", "perceptron"],
        ),
        ("size = \"tiny\"", "", &["model", "model.size", "none"]),
        (
            "arch = \"mamba2\"\nsize = \"tiny\"",
            "checkpoint = \"none\"",
            &["none"],
        ),
        (
            "learning_rate = 3e-3",
            "learning_rate = -1.0",
            &["learning_rate", "positive", "-1"],
        ),
        (
            "reset_probability = 0.2",
            "reset_probability = 2",
            &["reset_probability", "0 to 1", "2"],
        ),
        ("every = 8", "every = 0", &["evaluation.every", "at least 1"]),
        ("seed = 3", "device = \"abacus\"", &["device", "abacus", "cpu"]),
    ];
    for (from, to, parts) in cases {
        assert!(good.contains(from), "{from}");
        setup.configure(&good.replacen(from, to, 1));
        refused(&setup.train("out", &[]), 1, parts);
        assert_eq!(names(setup.folder.path()), ["config.toml", "text.txt"], "{to}");
    }
    setup.configure(&good);
    refused(
        &setup.train("out", &["--resume"]),
        2,
        &["out", "a training to resume", "config.toml"],
    );
    refused(&setup.train("out", &["--previous"]), 2, &["--resume"]);
    fails(&["train"], 2, &["CONFIG.toml"]);
    fails(&["train", "no.toml"], 1, &["no.toml", "No such file"]);
}

#[test]
fn ids_beyond_the_models_vocabulary_are_refused() {
    let setup = Setup::new("shuffled");
    let data = "kind = \"copy\"\nvocab_size = 300\n";
    let good = CONFIG.replace("ORDER", "shuffled");
    let (before, rest) = good.split_once("[data]\n").expect("data");
    let (_, after) = rest.split_once("\n\n").expect("a table after it");
    let (after, _) = after.split_once("[evaluation]").expect("an evaluation");
    setup.configure(&format!("{before}[data]\n{data}\n{after}"));
    refused(&setup.train("out", &[]), 1, &["data", "below", "256", "300"]);
}

#[test]
fn resuming_under_another_configuration_names_what_differs() {
    let setup = Setup::new("shuffled");
    setup.train("out", &["--stop-after", "1"]);
    let good = CONFIG.replace("ORDER", "shuffled");
    setup.configure(
        &good
            .replace("learning_rate = 3e-3", "learning_rate = 4e-3")
            .replace("seed = 3", "seed = 4"),
    );
    let output = setup.train("out", &["--resume"]);
    refused(
        &output,
        2,
        &[
            "optimizer.learning_rate: expected 0.003, found 0.004",
            "seed: expected 3, found 4",
        ],
    );
    // What changes no bit may change.
    setup.configure(&good.replace("snapshot_every = 1", "snapshot_every = 5\nthreads = 1"));
    setup.finish("out", &["--resume"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_ends_the_training_with_its_last_snapshot_whole() {
    let setup = Setup::new("shuffled");
    let output = with_files_of_at_most(16, setup.folder.path(), "train config.toml --out out");
    refused(&output, 1, &["too large"]);
    assert_eq!(names(setup.folder.path()), ["config.toml", "text.txt"]);
    setup.train("out", &["--stop-after", "2"]);
    let output = with_files_of_at_most(16, setup.folder.path(), "train config.toml --out out --resume");
    refused_in_the_last_line(&output, 1, &["too large"]);
    setup.finish("out", &["--resume"]);
    setup.finish("whole", &[]);
    assert!(setup.weights("whole") == setup.weights("out"), "other weights");
}

#[test]
fn timed_steps_are_those_of_the_training_and_leave_nothing_behind() {
    let setup = Setup::new("shuffled");
    setup.finish("run", &[]);
    let timed = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command.current_dir(setup.folder.path());
        command.args(["train", "config.toml", "--time", "3"]).args(more);
        command.output().expect("the program starts")
    };
    let before = fs::read_dir(setup.folder.path()).expect("a folder").count();
    let output = timed(&[]);
    let json = timed(&["--json"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("median of 3 steps of 96 tokens") && said.contains("peak memory"),
        "{said}"
    );
    assert_eq!(
        fs::read_dir(setup.folder.path()).expect("a folder").count(),
        before,
        "something was written"
    );
    let found: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(found["version"], 1);
    assert_eq!(found["tokens_per_step"], 96);
    let memory = |field: &str| found[field].as_u64().expect("Linux tells");
    assert!(memory("peak_memory_bytes") >= memory("memory_before_bytes"));
    let log = setup.log("run");
    let trained = log.iter().filter(|line| line["event"] == "step").take(4);
    let timed = found["steps"].as_array().expect("steps");
    assert_eq!(timed.len(), 4, "one that is not counted, and three that are");
    for (timed, trained) in timed.iter().zip(trained) {
        for field in ["step", "loss", "gradient_norm", "learning_rate", "tokens"] {
            assert_eq!(timed[field], trained[field], "{field}");
        }
        let parts = timed["seconds"].as_object().expect("seconds by parts");
        assert!(
            parts
                .values()
                .all(|seconds| seconds.as_f64().expect("seconds") >= 0.0)
        );
    }
    for wrong in [
        &["--time", "0"][..],
        &["--time", "2", "--resume"],
        &["--time", "2", "--out", "x"],
    ] {
        fails(&[&["train", "config.toml"], wrong].concat(), 2, &["--"]);
    }
}
