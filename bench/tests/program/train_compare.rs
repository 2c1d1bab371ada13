//! `spillway train-compare`.

use crate::*;
use spillway_models::train::{TrainConfig, Trainer};
use spillway_ssm_core::Chain;
use std::path::PathBuf;

const CONFIG: &str = r#"
steps = 4
sequences = 4
length = 8

[model]
arch = "mamba2"
size = "tiny"

[data]
kind = "text"
paths = ["text.txt"]

[evaluation_data]
kind = "text"
paths = ["text.txt"]
order = "documents"

[optimizer]
learning_rate = 3e-3

[evaluation]
every = 2
length = 8
streams = 2
restarted = true
"#;

/// Settings that make an arm of [`CONFIG`].
type Changes<'a> = &'a [(&'a str, &'a str)];

const LONGER: Changes = &[
    ("sequences = 4", "sequences = 2"),
    ("length = 8\n\n", "length = 16\n\n"),
    ("length = 8\nstreams", "length = 4\nstreams"),
];
const PASSED: Changes = &[("[evaluation]", "[carry]\ncarry = true\n\n[evaluation]")];

/// A folder with a text, configurations and trainings.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let lines = (0..120).map(|line| format!("{line} and {} make {}.\n", line % 7, line + line % 7));
        fs::write(folder.path().join("text.txt"), lines.collect::<String>()).expect("written");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command.args(arguments).current_dir(self.folder.path());
        command.output().expect("the program starts")
    }

    /// Trains `name-seed` for each seed.
    fn train(&self, name: &str, changes: &[Changes], seeds: &[&str]) {
        let mut text = CONFIG.to_string();
        for (from, to) in changes.iter().copied().flatten() {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        fs::write(self.path("config.toml"), text).expect("written");
        for seed in seeds {
            let out = format!("{name}-{seed}");
            let output = self.run(&["train", "config.toml", "--seed", seed, "--out", &out, "-q"]);
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    fn compare(&self, runs: &[&str]) -> Output {
        self.run(&[&["train-compare", "--out", "out"][..], runs].concat())
    }

    fn results(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("out/results.json")).expect("results")).expect("JSON")
    }

    /// Mean loss of a training's last evaluation at positions from `start` to `end`.
    fn loss(&self, run: &str, field: &str, start: u64, end: u64) -> f64 {
        let log = fs::read_to_string(self.path(run).join("log.jsonl")).expect("a log");
        let mut events = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let last = events
            .rfind(|event| event["event"] == "evaluation")
            .expect("an evaluation");
        let (mut sum, mut tokens) = (0.0, 0.0);
        for bucket in last[field].as_array().expect("buckets") {
            let number = |name: &str| bucket[name].as_f64().expect("a number");
            if number("start") >= start as f64 && number("end") <= end as f64 {
                sum += number("mean") * number("tokens");
                tokens += number("tokens");
            }
        }
        sum / tokens
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
}

#[test]
fn four_combinations_of_two_settings_are_compared_seed_by_seed() {
    let setup = Setup::new();
    for (name, changes) in [
        ("short-fresh", &[][..]),
        ("long-fresh", &[LONGER]),
        ("short-passed", &[PASSED]),
        ("long-passed", &[LONGER, PASSED]),
    ] {
        setup.train(name, changes, &["1", "2"]);
    }
    // As a shell lists them: another arm would come first.
    let runs = [
        "long-fresh-1",
        "long-fresh-2",
        "long-passed-1",
        "long-passed-2",
        "short-fresh-1",
        "short-fresh-2",
        "short-passed-1",
        "short-passed-2",
    ];
    let output = setup.compare(&[&runs[..], &["--reference", "short-fresh"]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let results = setup.results();
    let arms = results["arms"].as_array().expect("arms");
    let names: Vec<&str> = arms.iter().filter_map(|arm| arm["name"].as_str()).collect();
    assert_eq!(
        names,
        ["short-fresh", "long-fresh", "long-passed", "short-passed"]
    );
    // Of 0, 4, 8, 16, 32, 64 and 0, 8, 16, 32, 64.
    assert_eq!(
        results["ranges"],
        serde_json::json!([[0, 8], [8, 16], [16, 32], [32, 64]])
    );

    let far = |arm: &str, seed: u32| setup.loss(&format!("{arm}-{seed}"), "positions", 32, 64);
    let end = arms[1]["points"]
        .as_array()
        .expect("points")
        .last()
        .expect("a point");
    assert_eq!(
        (end["step"].as_u64(), end["tokens"].as_u64()),
        (Some(4), Some(128))
    );
    near(number(&end["losses"][3]["values"][1]), far("long-fresh", 2));
    let emptied = setup.loss("long-fresh-2", "restarted", 32, 64);
    near(
        number(&end["excess"]["values"][1]),
        far("long-fresh", 2) - emptied,
    );

    let of_far = |all: &str| -> Vec<Value> {
        let all = results[all].as_array().expect("a list").iter();
        all.filter(|one| one["measure"] == "far").cloned().collect()
    };
    let difference = of_far("differences")
        .into_iter()
        .find(|one| one["arm"] == "long-fresh" && one["from"] == "short-fresh");
    let by_seed = [1, 2].map(|seed| far("long-fresh", seed) - far("short-fresh", seed));
    let mean = (by_seed[0] + by_seed[1]) / 2.0;
    let difference = difference.expect("a difference");
    near(number(&difference["difference"]["mean"]), mean);
    // t s / √2 with s = |a − b| / √2 and t(1) = 12.7062047.
    let half = 12.706_204_736_174_7 * (by_seed[0] - by_seed[1]).abs() / 2.0;
    near(number(&difference["difference"]["interval"][1]), mean + half);

    let factorial = &results["factorial"];
    let fields: Vec<&str> = [0, 1]
        .iter()
        .filter_map(|index| factorial["factors"][index]["field"].as_str())
        .collect();
    assert_eq!(fields, ["length", "carry.carry"]);
    assert_eq!(
        factorial["arms"],
        serde_json::json!(["short-fresh", "long-fresh", "short-passed", "long-passed"])
    );
    let interaction = |seed| {
        far("long-passed", seed) - far("short-passed", seed) - far("long-fresh", seed)
            + far("short-fresh", seed)
    };
    let effects = results["factorial"]["effects"].as_array().expect("effects");
    let effect = effects
        .iter()
        .find(|effect| effect["measure"] == "far")
        .expect("an effect");
    near(
        number(&effect["interaction"]["mean"]),
        (interaction(1) + interaction(2)) / 2.0,
    );

    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("Every training read 128 tokens."), "{printed}");
    assert!(
        printed.contains("Trainings of one seed began with the same weights."),
        "{printed}"
    );
    let page = page_of(&setup.path("out"), "report.html");
    assert!(page.matches("role=\"img\"").count() >= 2, "{page}");
    let markdown = fs::read_to_string(setup.path("out/RESULTS.md")).expect("a page");
    for picture in names_of(&setup.path("out/figures")) {
        assert!(markdown.contains(&format!("figures/{picture}")), "{picture}");
    }
    let csv = fs::read_to_string(setup.path("out/results.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 1 + 4 * 2 * 3, "{csv}");
}

fn names_of(folder: &Path) -> Vec<String> {
    let names = names(folder);
    assert!(!names.is_empty());
    names
}

#[test]
fn training_on_is_compared_with_the_model_before() {
    let setup = Setup::new();
    setup.train("first", &[], &["1"]);
    let on: Changes = &[(
        "arch = \"mamba2\"\nsize = \"tiny\"",
        "checkpoint = \"first-1/checkpoint\"",
    )];
    setup.train("on", &[on], &["1", "2", "3"]);
    let output = setup.compare(&["on-1", "on-2", "on-3"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        printed.contains("on, after training against before: "),
        "{printed}"
    );
    let results = setup.results();
    assert!(results["factorial"].is_null() && results["differences"] == serde_json::json!([]));
    // All begin with what the first training ended with.
    let values = &results["arms"][0]["points"][0]["losses"][0]["values"];
    for index in 0..3 {
        near(number(&values[index]), setup.loss("first-1", "positions", 0, 4));
    }
}

#[test]
fn a_seed_on_the_command_line_is_that_of_the_training() {
    let setup = Setup::new();
    setup.train("run", &[], &["5", "6"]);
    let config = fs::read_to_string(setup.path("run-5/config.toml")).expect("a configuration");
    assert!(config.contains("seed = 5\n"), "{config}");
    let summary = fs::read_to_string(setup.path("run-5/summary.json")).expect("a summary");
    assert!(
        summary.contains("spillway train config.toml --seed 5 --out run-5"),
        "{summary}"
    );
    let weights =
        |run: &str| fs::read(setup.path(run).join("checkpoint/model.safetensors")).expect("weights");
    assert!(weights("run-5") != weights("run-6"), "the same weights");
    let output = setup.run(&["train", "config.toml", "--out", "run-5", "--resume"]);
    refused(&output, 2, &["seed: expected 5, found 0"]);
}

#[test]
fn trainings_that_cannot_be_compared_are_one_line_and_leave_nothing_behind() {
    let setup = Setup::new();
    setup.train("run", &[], &["1"]);
    setup.train(
        "none",
        &[&[
            (
                "[evaluation_data]\nkind = \"text\"\npaths = [\"text.txt\"]\norder = \"documents\"\n",
                "",
            ),
            (
                "[evaluation]\nevery = 2\nlength = 8\nstreams = 2\nrestarted = true\n",
                "",
            ),
        ]],
        &["1"],
    );
    fs::copy(setup.path("text.txt"), setup.path("other.txt")).expect("copied");
    let other: Changes = &[("paths = [\"text.txt\"]\norder", "paths = [\"other.txt\"]\norder")];
    setup.train("other", &[other], &["1"]);
    setup.train(
        "near",
        &[&[("length = 8\nstreams", "length = 1\nstreams")]],
        &["1"],
    );
    setup.train("few", &[&[("streams = 2", "streams = 1")]], &["1"]);
    setup.train("rwkv", &[&[("\"mamba2\"", "\"rwkv7\"")]], &["1"]);
    let log = fs::read_to_string(setup.path("rwkv-1/log.jsonl")).expect("a log");
    fs::write(
        setup.path("rwkv-1/log.jsonl"),
        log.replacen("\"vocab_size\":256", "\"vocab_size\":50280", 1),
    )
    .expect("written");
    assert!(log.contains("\"vocab_size\":256"), "{log}");
    let output = setup.run(&[
        "train",
        "config.toml",
        "--seed",
        "9",
        "--out",
        "half-9",
        "--stop-after",
        "1",
    ]);
    assert_eq!(output.status.code(), Some(1));
    fs::create_dir(setup.path("empty")).expect("created");
    fs::create_dir(setup.path("sub")).expect("created");
    setup.train("sub/run", &[LONGER], &["1"]);
    let before = names(setup.folder.path());
    for (runs, code, parts) in [
        (
            &["empty"][..],
            2,
            &["RUN", "the folder of a training", "config.toml", "empty"][..],
        ),
        (&["nowhere"], 2, &["RUN", "config.toml", "nowhere"]),
        (
            &["run-1", "half-9"],
            1,
            &["half-9", "a finished training", "1 of 4 steps", "--resume"],
        ),
        (&["run-1", "none-1"], 1, &["none-1", "evaluations", "found none"]),
        (
            &["run-1", "run-1"],
            2,
            &["each training once", "both with seed 1"],
        ),
        (&["run-1", "other-1"], 2, &["text.txt", "other.txt", "in other-1"]),
        (
            &["run-1", "rwkv-1"],
            2,
            &["a vocabulary of 256", "50280 in rwkv-1"],
        ),
        (
            &["run-1", "near-1"],
            2,
            &["positions beyond 8", "evaluation.length"],
        ),
        (
            &["run-1", "few-1"],
            2,
            &["8 tokens at positions 0 to 4", "4 in few-1"],
        ),
        (
            &["run-1", "sub/run-1"],
            2,
            &["two configurations called run that differ in evaluation.length"],
        ),
        (
            &["run-1", "--reference", "ran"],
            2,
            &["--reference", "one of run", "found ran"],
        ),
        (&[], 2, &["RUN"]),
    ] {
        refused(&setup.compare(runs), code, parts);
        assert_eq!(names(setup.folder.path()), before, "{runs:?}");
    }
    fs::create_dir(setup.path("out")).expect("created");
    fs::write(setup.path("out/kept"), "").expect("written");
    refused(&setup.compare(&["run-1"]), 2, &["--out", "out exists"]);
}

/// The arms of a study must differ in what it is about, and in nothing else.
#[test]
fn the_arms_of_a_study_read_as_many_tokens_and_differ_only_in_what_is_studied() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/training");
    for (study, reference, arms) in [
        ("length-and-state", "short-fresh.toml", 4),
        ("progress", "slow.toml", 2),
        ("train-longer", "t64.toml", 5),
    ] {
        let load = |name: &str| TrainConfig::load(&configs.join(study).join(name)).expect("a configuration");
        let first = load(reference);
        let found = names(&configs.join(study));
        assert_eq!(found.len(), arms, "{found:?}");
        for name in found {
            let config = load(&name);
            let tokens = |config: &TrainConfig| (config.steps, config.tokens_per_step());
            assert_eq!(tokens(&config), tokens(&first), "{name}");
            let reach = |config: &TrainConfig| {
                config
                    .evaluation
                    .as_ref()
                    .map(|evaluation| evaluation.length * config.length as u64)
            };
            assert_eq!(reach(&config), reach(&first), "{name}");
            for difference in first.differences(&config) {
                let field = difference.field.as_str();
                let known = [
                    "length",
                    "sequences",
                    "evaluation.length",
                    "carry.carry",
                    "carry.reset_probability",
                ];
                let initial = study == "progress" && field.starts_with("model.config.ssm_cfg.");
                assert!(initial || known.contains(&field), "{name}: {field}");
            }
        }
    }
}

/// The models that may take the place of a study's: all of them can be begun, and their recurrent states are equally large.
#[test]
fn the_models_beside_the_studies_have_states_of_one_size() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/training");
    let models = names(&configs.join("architectures"));
    assert!(models.len() > 5, "{models:?}");
    for name in models {
        let text = fs::read_to_string(configs.join("architectures").join(&name)).expect("a file");
        let model: toml::Value = toml::from_str(&text).expect("a table");
        let arm = configs.join("length-and-state/short-passed.toml");
        let config = TrainConfig::load_changed(&arm, &[("model".into(), model)]);
        let config = config.unwrap_or_else(|error| panic!("{name}: {error}"));
        let trainer = Trainer::new(config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let model = trainer.model().expect("a model");
        let state = model.start(&Chain::default(), 1).expect("a state");
        let bytes: usize = state.recurrences().map(|site| site.bytes()).sum();
        assert_eq!(bytes, 2 * 8192 * 4, "{name}");
    }
}
