//! `spillway state-precision`, and `--state-dtype` of the commands that take a model.

use crate::studies::{results, succeeds};
use crate::*;

const CONFIG: &str = r#"
title = "Three laws"
question = "How far?"
tokens = 3000
key_dim = 4
value_dim = 5
seeds = [0, 1]
tolerated = 0.05
types = ["f32", "bf16", "bf16,rounding=stochastic", "int8,scale=row", "fp8-e4m3"]

[[laws]]
name = "short"
memory = 10

[[laws]]
name = "long"
memory = { from = 10, to = 100000 }

[[laws]]
name = "delta"
beta = 0.5
memory = 1000
"#;

fn folder_with(config: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("precision.toml");
    fs::write(&path, config).expect("written");
    let path = path.to_string_lossy().into_owned();
    (folder, path)
}

fn run(config: &str, out: &Path, options: &[&str]) -> Output {
    let out = out.to_string_lossy().into_owned();
    spillway(&[&["state-precision", config, "--out", &out, "-q"], options].concat())
}

/// The errors of a type under a law at all positions.
fn errors(report: &Value, law: &str, dtype: &str, field: &str) -> Vec<f64> {
    let laws = report["laws"].as_array().expect("laws");
    let law = laws.iter().find(|found| found["law"]["name"] == law).expect(law);
    let types = law["types"].as_array().expect("types");
    let found = types.iter().find(|found| found["name"] == dtype).expect(dtype);
    let errors = found[field].as_array().expect(field);
    errors
        .iter()
        .map(|error| error.as_f64().expect("a number"))
        .collect()
}

#[test]
fn errors_are_those_of_the_types_and_the_theory_holds_where_memories_are_short() {
    let (folder, config) = folder_with(CONFIG);
    let out = folder.path().join("out");
    let said = succeeds(&run(&config, &out, &[]));
    assert!(said.contains("Three laws") && said.contains("bf16"), "{said}");
    assert_eq!(names(&out), crate::studies::FILES);
    let report = results(&out);
    assert_eq!(report["runs"], Value::from(vec![6, 6]));
    let last = |law: &str, dtype: &str, field: &str| *errors(&report, law, dtype, field).last().expect("one");
    for law in ["short", "long", "delta"] {
        // What f32 leaves of its 24 bits after 3,000 tokens, and what 16 and 8 bits leave.
        assert!(last(law, "f32", "state") < 2e-6, "{law}");
        assert!((1e-3..0.2).contains(&last(law, "bf16", "state")), "{law}");
        assert!(
            last(law, "f32", "read_out") < last(law, "bf16", "read_out"),
            "{law}"
        );
        assert!(
            last(law, "bf16", "read_out") < last(law, "fp8-e4m3", "read_out"),
            "{law}"
        );
    }
    for (dtype, field) in [("bf16", "state"), ("bf16,rounding=stochastic", "state")] {
        let (found, predicted) = (last("short", dtype, field), last("short", dtype, "predicted"));
        let ratio = found / predicted;
        assert!((0.5..2.0).contains(&ratio), "{dtype}: {ratio}");
    }
    let page = page_of(&out, "report.html");
    assert!(page.contains("independent roundings") && page.contains("int8,scale=row"));
    let csv = fs::read_to_string(out.join("results.csv")).expect("file");
    // 3 laws, 5 types, positions 16 to 2048 and 3000, and the heading.
    assert_eq!(csv.lines().count(), 3 * 5 * 9 + 1);
}

#[test]
fn an_interrupted_study_goes_on_to_the_same_numbers() {
    let (folder, config) = folder_with(CONFIG);
    let [whole, pieces] = ["whole", "pieces"].map(|name| folder.path().join(name));
    succeeds(&run(&config, &whole, &["--threads", "2"]));
    let stopped = run(&config, &pieces, &["--threads", "1", "--stop-after", "4000"]);
    refused(&stopped, 1, &["--resume"]);
    assert_eq!(results(&pieces)["runs"], Value::from(vec![1, 6]));
    refused(&run(&config, &pieces, &[]), 2, &["--out", "--resume"]);
    succeeds(&run(&config, &pieces, &["--resume"]));
    let values = |out: &Path| fs::read_to_string(out.join("results.csv")).expect("file");
    assert_eq!(values(&whole), values(&pieces));
    let (_other, another) = folder_with(&CONFIG.replace("3000", "3001"));
    refused(
        &run(&another, &pieces, &["--resume"]),
        2,
        &["--resume", "another"],
    );
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_measured() {
    for (from, to, parts) in [
        ("tokens = 3000", "tokens = 5", ["tokens from 16", "found 5"]),
        ("key_dim = 4", "key_dim = 0", ["key_dim from 1", "found 0"]),
        ("tolerated = 0.05", "tolerated = 0", ["tolerated", "found 0"]),
        ("seeds = [0, 1]", "seeds = [1, 1]", ["seeds", "1 twice"]),
        ("seeds = [0, 1]", "seeds = []", ["seeds", "none"]),
        ("\"f32\"", "\"f33\"", ["types", "f33"]),
        ("\"f32\"", "\"f16,chunk=4\"", ["without chunk=", "f16,chunk=4"]),
        (
            "\"f32\"",
            "\"bf16,rounding=nearest\"",
            ["each once", "bf16 twice"],
        ),
        ("memory = 10\n", "memory = -1\n", ["memory", "-1 for short"]),
        ("from = 10,", "from = 1e6,", ["shortest to a longest", "for long"]),
        ("beta = 0.5", "beta = 2", ["beta above 0", "2 for delta"]),
        (
            "name = \"long\"",
            "name = \"short\"",
            ["name of its own", "short twice"],
        ),
        ("question", "questions", ["study of precision", "questions"]),
    ] {
        assert!(CONFIG.contains(from), "{from}");
        let (folder, config) = folder_with(&CONFIG.replacen(from, to, 1));
        let out = folder.path().join("out");
        refused(&run(&config, &out, &[]), 1, &parts);
        assert!(!out.exists(), "{to}");
    }
}

#[test]
fn a_model_generates_with_its_states_in_another_type() {
    let asked = [
        "generate",
        "--prompt",
        "The water",
        "--max-tokens",
        "48",
        "--temperature",
        "1",
        "--seed",
        "3",
    ];
    let with = |options: &[&str]| stdout_of(&[&asked[..], options].concat());
    let plain = with(&[]);
    assert_eq!(with(&["--state-dtype", "f32"]), plain);
    let rounded = with(&["--state-dtype", "fp8-e5m2"]);
    assert_eq!(with(&["--mitigation", "state-dtype:fp8-e5m2"]), rounded);
    assert_ne!(rounded, plain);
    let both = json_of(
        &[
            &asked[..],
            &["--mitigation", "reset:64", "--state-dtype", "bf16", "--json"],
        ]
        .concat(),
    );
    assert_eq!(both["mitigation"], "reset:64+state-dtype:bf16");
    fails(
        &[&asked[..], &["--state-dtype", "fp16"]].concat(),
        2,
        &["--state-dtype", "bf16, f16"],
    );
}

#[test]
fn a_diagnosis_tries_each_type_beside_the_model_alone() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let arguments = [
        "diagnose",
        "--length",
        "256",
        "--streams",
        "1",
        "--out",
        &out,
        "--json",
        "-q",
    ];
    let types = ["--state-dtype", "bf16", "--state-dtype", "int8,scale=row"];
    let json = json_of(&[&arguments[..], &types].concat());
    let text = json.to_string();
    for spec in ["state-dtype:bf16", "state-dtype:int8,scale=row"] {
        assert!(text.contains(spec), "{spec} is not in {text}");
    }
}

const MODELS: &str = r#"
title = "Two models"
tokens = 300
types = ["f32", "bf16", "int8"]

[[models]]
name = "shipped"
runs = [{}, { mitigation = "window:16", truth = "window-exact:16,chunk=1" }]

[[models]]
name = "drawn"
random = { arch = "gla", shape = "tiny", seed = 3 }
tokens = 64
"#;

#[test]
fn models_are_told_from_themselves_with_states_in_f32() {
    let (folder, config) = folder_with(MODELS);
    let out = folder.path().join("out");
    let said = succeeds(&run(&config, &out, &[]));
    assert!(
        said.contains("shipped under window:16 beside window-exact:16,chunk=1"),
        "{said}"
    );
    let report = results(&out);
    assert_eq!(report["runs"], Value::from(vec![3, 3]));
    let types = |model: usize, run: usize| report["models"][model]["runs"][run]["types"].clone();
    let last = |types: &Value, place: usize, field: &str| {
        let course = types[place][field].as_array().expect("a course");
        course.last().and_then(Value::as_f64).expect("a number")
    };
    for (model, tokens) in [(0, 300), (1, 64)] {
        let types = types(model, 0);
        // The same chain but for a type that changes nothing: the same bits.
        assert_eq!(last(&types, 0, "change"), 0.0);
        assert_eq!(types[0]["safe_up_to"], tokens);
        let (bf16, int8) = (last(&types, 1, "change"), last(&types, 2, "change"));
        assert!(0.0 < bf16 && bf16 < int8, "{bf16} {int8}");
        assert!(last(&types, 2, "rise").abs() <= int8);
    }
    // A difference of states in f32 is not the window itself, but near.
    let window = last(&types(0, 1), 0, "change");
    assert!((1e-9..1e-2).contains(&window), "{window}");
}

#[test]
fn models_that_were_interrupted_end_in_the_same_numbers() {
    let (folder, config) = folder_with(MODELS);
    let (whole, parted) = (folder.path().join("whole"), folder.path().join("parted"));
    succeeds(&run(&config, &whole, &["--threads", "1"]));
    let stopped = run(&config, &parted, &["--threads", "1", "--stop-after", "320"]);
    assert!(!stopped.status.success(), "{stopped:?}");
    succeeds(&run(&config, &parted, &["--threads", "1", "--resume"]));
    assert_eq!(results(&whole)["models"], results(&parted)["models"]);
}

#[test]
fn a_study_that_is_killed_goes_on_to_the_same_bytes() {
    let (folder, config) = folder_with(MODELS);
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    succeeds(&run(&config, &whole, &[]));
    let mut first = Command::new(env!("CARGO_BIN_EXE_spillway"));
    first.args(["state-precision", &config, "--threads", "1", "-q", "--out"]);
    first.arg(&killed);
    let kept = |name: &str| killed.join("runs").join(name).exists();
    life::kill_when(&mut first, || kept("model-1-1.json"));
    assert!(
        kept("model-1-1.json") && !kept("model-2-1.json"),
        "it had ended before"
    );
    succeeds(&run(&config, &killed, &["--resume"]));
    let csv = |out: &Path| fs::read(out.join("results.csv")).expect("file");
    assert!(csv(&whole) == csv(&killed));
}

#[test]
fn models_that_cannot_be_asked_are_refused_before_anything_runs() {
    let rwkv4 = "title = \"t\"\ntokens = 16\ntypes = [\"bf16\"]\n[[models]]\nname = \"m\"\nrandom = { arch = \"rwkv4\", shape = \"tiny\" }\n";
    let unknown = rwkv4.replace("rwkv4", "rwkv99");
    let calibrated = "title = \"t\"\ntokens = 16\ntypes = [\"bf16\"]\n[[models]]\nname = \"m\"\nruns = [{ mitigation = \"state-norm:auto\" }]\n";
    let none = "title = \"t\"\ntokens = 16\ntypes = [\"bf16\"]\n";
    let cases = [
        (rwkv4, "maximum"),
        (unknown.as_str(), "rwkv99"),
        (calibrated, "calibrate it"),
        (none, "none"),
    ];
    for (text, named) in cases {
        let (folder, config) = folder_with(text);
        let out = folder.path().join("out");
        let refused = run(&config, &out, &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains(named),
            "{named}: {said}"
        );
        assert!(!out.exists(), "{named}");
    }
}
