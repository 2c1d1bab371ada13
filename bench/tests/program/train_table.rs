//! `spillway train-table`.

use crate::studies::{FILES, Study, results, succeeds};
use crate::*;
use spillway::studies::train_table::config::TableConfig;

const TRAINING: &str = r#"
steps = 6
sequences = 4
length = 14
snapshot_every = 2
dropout = 0.2
model = { arch = "s4", size = "tiny-s4d" }
optimizer = { learning_rate = 1e-3 }

[task]
data = { kind = "selective-copying", tokens = 3, vocab_size = 6 }

[task.evaluation]
every = 3
examples = 50

[[task.evaluation.others]]
name = "longer"
data = { kind = "selective-copying", tokens = 3, vocab_size = 6 }
length = 30
"#;

const TABLE: &str = r#"
title = "Copying"
question = "Who copies?"
training = "training.toml"
set = { "task.evaluation.examples" = 40 }
seeds = [3, 5]

[[arms]]
name = "S4D, as it is"

[[arms]]
name = "Mamba-2"
set = { "model.arch" = "mamba2", "model.size" = "tiny", "optimizer.learning_rate" = 2e-3 }
published = 0.998

[[arms]]
name = "one seed"
seeds = [4]

[[expected]]
arm = "Mamba-2"
at_least = 1.0

[[expected]]
arm = "one seed"
asked = "longer"
at_least = 0.0
at_most = 1.0
"#;

const STUDY: Study = Study {
    command: "train-table",
    name: "table.toml",
    text: TABLE,
    training: TRAINING,
};

#[test]
fn every_arm_is_trained_with_every_seed_and_said_beside_what_was_expected() {
    let (folder, config) = STUDY.folder();
    let out = folder.path().join("out");
    let text = succeeds(&STUDY.run(&config, &out, &["--threads", "2"]));
    for part in [
        "| S4D, as it is | ",
        "| accuracy, longer |",
        "| 99.8 % |",
        "one seed, longer: ",
        "expected at least 0.0 % and at most 100.0 %.",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(names(&out), FILES);
    let runs = [
        "mamba-2-s3",
        "mamba-2-s5",
        "one-seed-s4",
        "s4d-as-it-is-s3",
        "s4d-as-it-is-s5",
    ];
    assert_eq!(names(&out.join("runs")), runs);
    assert_eq!(names(&out.join("figures")), ["course-1.svg", "course.svg"]);
    let report = results(&out);
    assert_eq!(report["trainings"], Value::from(vec![5, 5]));
    let arm = &report["arms"][1];
    assert_eq!(
        (&arm["seeds"], &arm["steps"]),
        (&Value::from(vec![3, 5]), &Value::from(6))
    );
    let points = arm["asked"][0]["points"].as_array().expect("points");
    assert_eq!(points.len(), 3);
    assert_eq!(points[2]["results"][0]["examples"], 40);
    assert_eq!(points[2]["value"]["values"].as_array().expect("values").len(), 2);
    // Each training is that of `spillway train` with the changes and the seed.
    let log = fs::read_to_string(out.join("runs/mamba-2-s5/config.toml")).expect("a configuration");
    assert!(
        log.contains("seed = 5") && log.contains("learning_rate = 0.002"),
        "{log}"
    );
    let unsupported = report["findings"]["unsupported"].to_string();
    assert!(
        unsupported.contains("Mamba-2: ") && unsupported.contains("expected at least 100.0 %"),
        "{unsupported}"
    );
    let csv = fs::read_to_string(out.join("results.csv")).expect("file");
    assert_eq!(csv.lines().count(), 1 + 5 * 3 * 2);
    let page = page_of(&out, "report.html");
    for part in ["Who copies?", "longer", "published", "What the arms change"] {
        assert!(page.contains(part), "no {part:?} on the page");
    }

    // Nothing is left to do, and another configuration is another table.
    let before = report["arms"].clone();
    succeeds(&STUDY.run(&config, &out, &["--resume"]));
    assert_eq!(results(&out)["arms"], before);
    refused(
        &STUDY.run(&config, &out, &[]),
        2,
        &["--out", "exists", "--resume"],
    );
    fs::write(
        folder.path().join("training.toml"),
        TRAINING.replace("steps = 6", "steps = 7"),
    )
    .expect("written");
    refused(
        &STUDY.run(&config, &out, &["--resume"]),
        2,
        &["another configuration", "steps"],
    );
}

#[test]
fn a_table_that_is_stopped_or_killed_goes_on_to_the_same_bits() {
    STUDY.goes_on_to_the_same_bits(
        5,
        &["runs/one-seed-s4/config.toml", "runs/mamba-2-s5/snapshots"],
        &["checkpoint/model.safetensors", "checkpoint/task.safetensors"],
    );
}

#[test]
fn delays_need_no_training() {
    let (folder, config) = STUDY.folder_with(
        r#"
title = "Delays"
seeds = [0, 1]
delay = { length = 256, limit = 0.05, cases = [{ lag = 16, states = 16, step = 0.125 }] }

[[arms]]
name = "LegS"
set = { init = "diag-legs" }

[[arms]]
name = "Real"
set = { init = "diag-real" }

[[expected]]
arm = "LegS"
asked = "lag 16, N 16, Δ 2^-3"
at_most = 0.01

[[expected]]
arm = "Real"
asked = "lag 16, N 16, Δ 2^-3"
at_least = 0.01
"#,
    );
    let out = folder.path().join("out");
    succeeds(&STUDY.run(&config, &out, &[]));
    let report = results(&out);
    assert_eq!(
        report["findings"]["supported"]
            .as_array()
            .expect("sentences")
            .len(),
        2,
        "{report}"
    );
    page_of(&out, "report.html");
    assert!(!out.join("runs").exists());
}

#[test]
fn tables_that_cannot_be_made_are_refused_before_anything_is_trained() {
    for (from, to, parts) in [
        (
            "seeds = [3, 5]",
            "seeds = []",
            &["seeds of S4D", "at least one"][..],
        ),
        ("seeds = [3, 5]", "seeds = [3, 3]", &["seeds of S4D", "each once"]),
        ("title =", "titel =", &["titel", "unknown field"]),
        ("name = \"one seed\"", "name = \"S4D/as it is\"", &["two of"]),
        ("name = \"one seed\"", "name = \"?\"", &["arms.name", "letters"]),
        (
            "arm = \"one seed\"",
            "arm = \"none\"",
            &["expected.arm one of S4D", "found none"],
        ),
        (
            "\"model.size\" = \"tiny\"",
            "\"model.size\" = \"huge\"",
            &["Mamba-2: ", "model.size"],
        ),
        (
            "\"model.size\" = \"tiny\"",
            "\"model.sizes\" = \"tiny\"",
            &["Mamba-2: ", "sizes"],
        ),
        (
            "\"model.size\" = \"tiny\"",
            "\"steps.more\" = 1",
            &["Mamba-2: ", "steps.more", "tables"],
        ),
        (
            "= 40",
            "= 0",
            &["S4D, as it is: ", "task.evaluation.examples", "at least 1"],
        ),
        (
            "\"optimizer.learning_rate\" = 2e-3",
            "\"task.data\" = { kind = \"digits\" }",
            &["Mamba-2: ", "length"],
        ),
        (
            "training = \"training.toml\"",
            "",
            &["one of training and [delay]", "neither"],
        ),
        (
            "training = \"training.toml\"",
            "training = \"none.toml\"",
            &["none.toml"],
        ),
    ] {
        STUDY.is_refused_with(from, to, parts);
    }
    let (folder, _) = STUDY.folder();
    let out = folder.path().join("out");
    refused(&STUDY.run("none.toml", &out, &[]), 1, &["cannot read none.toml"]);
}

#[test]
fn the_tables_of_the_repository_can_be_begun() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/tables");
    for name in names(&folder) {
        let path = folder.join(&name);
        let text = fs::read_to_string(&path).expect("text");
        let command = format!("spillway train-table bench/configs/tables/{name} --out ");
        assert!(text.contains(&command), "{name} does not say how it is used");
        let (table, jobs) = TableConfig::load(&path).unwrap_or_else(|error| panic!("{error}"));
        table
            .try_arms(&path, &jobs)
            .unwrap_or_else(|error| panic!("{error}"));
    }
}
