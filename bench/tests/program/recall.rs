//! `spillway recall`.

use crate::*;

fn command(out: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command
        .args([
            "recall",
            "--documents",
            "3",
            "--facts",
            "4",
            "--max-tokens",
            "6",
            "-q",
            "--out",
        ])
        .arg(out)
        .args(options);
    command
}

fn run(out: &Path, options: &[&str]) -> Output {
    command(out, options).output().expect("the program starts")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// A tiny random Transformer++.
fn attention(folder: &Path) -> String {
    let path = folder.join("attention").to_string_lossy().into_owned();
    stdout_of(&["init", "--arch", "transformer", "--shape", "tiny", "--out", &path]);
    path
}

#[test]
fn table_files_and_page_agree() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (out, tiny) = (folder.path().join("out"), tiny_checkpoint(folder.path()));
    let attention = attention(folder.path());
    let models = [tiny.as_str(), attention.as_str()];
    let options = [
        "--task",
        "fda,name-index",
        "--mitigation",
        "none",
        "--mitigation",
        "window:64",
    ];
    let output = run(&out, &[&models[..], &options].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        names(&out),
        [
            "recall-all.svg",
            "recall-answers.jsonl",
            "recall-fda.svg",
            "recall-name-index.svg",
            "recall.csv",
            "recall.json",
            "report.html"
        ]
    );
    let json = read(&out.join("recall.json"));
    assert_eq!((&json["version"], &json["complete"]), (&2.into(), &true.into()));
    assert_eq!(json["attention"], "attention");
    let arms = json["arms"].as_array().expect("arms");
    let named: Vec<_> = arms
        .iter()
        .map(|arm| (&arm["model"], &arm["mitigation"]))
        .collect();
    // Attention has no state that a window could act on.
    assert_eq!(
        named,
        [
            (&"tiny".into(), &"none".into()),
            (&"tiny".into(), &"window:64".into()),
            (&"attention".into(), &"none".into())
        ]
    );
    let forms = json["forms"].as_array().expect("forms").len();
    assert_eq!(forms, 8);
    let cells = json["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 3 * 3 * forms);
    for cell in cells {
        let is_all = cell["task"].is_null();
        assert_eq!(cell["asked"], if is_all { 6 } else { 3 }, "{cell}");
        assert_eq!(cell["gain"].is_null(), cell["form"] == "d-q:1", "{cell}");
        let of_attention = cell["arm"] == 2;
        assert_eq!(
            cell["beyond_attention"].is_null(),
            cell["form"] == "d-q:1" || of_attention,
            "{cell}"
        );
        assert_eq!(cell["over_alone"].is_null(), cell["arm"] != 1, "{cell}");
        let is_repeated = ["d-q:2", "q-d:2", "c-q:2"]
            .iter()
            .any(|form| cell["form"] == *form);
        assert_eq!(cell["over_padding"].is_null(), !is_repeated, "{cell}");
    }
    let tokens = |form: &str| {
        let cell = cells
            .iter()
            .find(|cell| cell["form"] == form && cell["task"] == "fda");
        cell.expect("a cell")["tokens"].as_f64().expect("a number")
    };
    assert_eq!(tokens("q-d:2"), tokens("q-d:2:padded"));
    assert!(tokens("d-q:2") > 1.5 * tokens("d-q:1"));
    let csv = fs::read_to_string(out.join("recall.csv")).expect("file");
    assert_eq!(csv.lines().count(), 1 + cells.len());
    assert!(
        csv.starts_with("model,mitigation,facts,task,form,order,passes,padded,pieces,asked,"),
        "{csv}"
    );
    let answers = fs::read_to_string(out.join("recall-answers.jsonl")).expect("file");
    assert_eq!(answers.lines().count(), 3 * 6 * forms);
    let page = page_of(&out, "report.html");
    assert_eq!(page.matches("role=\"img\"").count(), 3);
    assert!(
        page.contains("beyond attention") && page.contains("only the last R tokens"),
        "{page}"
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        printed.contains("tiny, window:64") && printed.contains("q-d:2:padded"),
        "{printed}"
    );
}

#[test]
fn several_numbers_of_facts_are_asked_and_drawn_apart() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (out, tiny) = (folder.path().join("out"), tiny_checkpoint(folder.path()));
    let asked = |out: &Path, facts: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command
            .args(["recall", &tiny, "--documents", "2", "--max-tokens", "4", "-q"])
            .args(["--order", "q-d-d-q", "--no-padding", "--length", "0"])
            .args(["--facts", facts, "--out"])
            .arg(out);
        command.output().expect("the program starts")
    };
    let output = asked(&out, "8,4,8");
    assert!(output.status.success(), "{output:?}");
    let json = read(&out.join("recall.json"));
    assert_eq!(
        (&json["facts"], &json["documents"]),
        (&Value::from(vec![4, 8]), &4.into())
    );
    let cells = json["cells"].as_array().expect("cells");
    let places: Vec<_> = cells.iter().map(|cell| (&cell["facts"], &cell["form"])).collect();
    let place = |facts: u64, form: &str| (Value::from(facts), Value::from(form));
    let expected =
        [(4, "d-q:1"), (4, "q-d:2"), (8, "d-q:1"), (8, "q-d:2")].map(|(facts, form)| place(facts, form));
    let expected: Vec<_> = expected.iter().map(|(facts, form)| (facts, form)).collect();
    assert_eq!(places, expected);
    assert!(cells.iter().all(|cell| cell["asked"] == 2));
    assert!(cells[0]["tokens"].as_f64() < cells[2]["tokens"].as_f64());
    let pictures: Vec<String> = names(&out)
        .into_iter()
        .filter(|name| name.ends_with(".svg"))
        .collect();
    assert_eq!(
        pictures,
        ["facts-fda-twice.svg", "facts-fda.svg", "recall-fda.svg"]
    );
    let page = page_of(&out, "report.html");
    assert!(page.contains("of 4 and 8 facts") && page.contains("model, facts in a document"));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("in documents of 8 facts"), "{printed}");

    // Each as if it were asked alone.
    let alone = folder.path().join("alone");
    assert!(asked(&alone, "8").status.success());
    let of_eight = read(&alone.join("recall.json"));
    assert_eq!(of_eight["cells"].as_array().map(Vec::as_slice), Some(&cells[2..]));

    let output = asked(&folder.path().join("none"), "4,2");
    refused(&output, 2, &["--facts", "found 2"]);
}

/// All but the times.
fn answers(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("recall.json")).expect("recall.json");
    let lines = text.lines().filter(|line| !line.contains("\"seconds\""));
    lines.map(String::from).collect()
}

#[track_caller]
fn same(whole: &Path, parts: &Path) {
    assert_eq!(answers(whole), answers(parts));
    assert_eq!(names(whole), names(parts));
    for file in ["recall.csv", "recall-answers.jsonl", "recall-fda.svg"] {
        let read = |out: &Path| fs::read(out.join(file)).expect(file);
        assert!(read(whole) == read(parts), "{file} differs");
    }
}

#[test]
fn a_run_that_is_stopped_again_and_again_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let options = [
        "--task",
        "fda,drop",
        "--mitigation",
        "none",
        "--mitigation",
        "window:64",
    ];
    assert!(run(&whole, &options).status.success());
    let mut times = 0;
    loop {
        let resume: &[&str] = if times == 0 { &[] } else { &["--resume"] };
        let output = run(
            &parts,
            &[&options[..], &["--stop-after", "6000"], resume].concat(),
        );
        if output.status.success() {
            break;
        }
        refused(&output, 1, &["interrupted", "parts", "--resume"]);
        assert!(answers(&parts).join("\n").contains("\"complete\": false"));
        refused(&run(&parts, &options), 2, &["--out", "--resume", "--force"]);
        let other = run(&parts, &[&options[..], &["--seed", "7", "--resume"]].concat());
        refused(&other, 2, &["--seed", "0 as in the interrupted run", "found 7"]);
        let other = run(&parts, &[&options[..], &["--passes", "1", "--resume"]].concat());
        refused(&other, 2, &["--passes", "as in the interrupted run"]);
        times += 1;
        assert!(times < 20, "it never ends");
    }
    assert!(times > 1, "stopped {times} times");
    same(&whole, &parts);
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let specs = ["none", "window:64", "window:48", "forget:0.99"];
    let options: Vec<&str> = specs.iter().flat_map(|spec| ["--mitigation", spec]).collect();
    let mut first = command(&killed, &options);
    // What is saved last is the first mitigation, or more.
    life::kill_when(&mut first, || killed.join("recall-progress.json").exists());
    assert!(
        killed.join("recall-progress.json").exists(),
        "it had ended before"
    );
    let went_on = run(&killed, &[&options[..], &["--resume"]].concat());
    let stderr = String::from_utf8_lossy(&went_on.stderr);
    assert!(went_on.status.success(), "{stderr}");
    assert!(run(&whole, &options).status.success());
    same(&whole, &killed);
}

#[test]
fn a_cache_of_prefixes_changes_nothing_but_the_work() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (plain, cached) = (folder.path().join("plain"), folder.path().join("cached"));
    let cache = folder.path().join("cache").to_string_lossy().into_owned();
    assert!(run(&plain, &[]).status.success());
    assert!(run(&cached, &["--prefix-cache", &cache]).status.success());
    let file = "recall-answers.jsonl";
    let read = |out: &Path| fs::read(out.join(file)).expect(file);
    assert!(read(&plain) == read(&cached));
}

#[test]
fn a_data_set_is_read_and_what_is_broken_in_it_named_by_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("fda.jsonl");
    let name = data.to_string_lossy().into_owned();
    let line = |value: &str| serde_json::json!({ "text": format!("A device.\nCode: {value}."), "key": "code", "value": value });
    let text = format!(
        "{}\n{}\n{{\"text\": 1}}\n{}\n",
        line("K123"),
        line("7"),
        line("K456")
    );
    fs::write(&data, text).expect("written");
    let out = folder.path().join("out");
    let options = ["--data", name.as_str(), "--order", "q-d-d-q"];
    let documents = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
        command
            .args(["recall", "--max-tokens", "4", "-q", "--out"])
            .arg(&out)
            .args(options);
        command.output().expect("the program starts")
    };
    refused(&documents(&options), 1, &["fda.jsonl", "line 3", "--skip-broken"]);
    assert!(!out.exists());
    let output = documents(&[&options[..], &["--skip-broken"]].concat());
    assert!(output.status.success(), "{output:?}");
    let json = read(&out.join("recall.json"));
    let counts = [&json["documents"], &json["not_scored"], &json["broken"]];
    assert_eq!(counts, [2, 1, 1]);
    assert_eq!(
        json["forms"],
        serde_json::json!(["d-q:1", "q-d:2", "q-d:2:padded"])
    );
    let more = [&options[..], &["--skip-broken", "--task", "fda,swde", "--force"]].concat();
    refused(&documents(&more), 2, &["--task", "one task for --data"]);
    let missing = folder.path().join("none.jsonl").to_string_lossy().into_owned();
    refused(&documents(&["--data", &missing, "--force"]), 1, &["none.jsonl"]);
    let parquet = folder.path().join("fda.parquet");
    fs::write(&parquet, "PAR1").expect("written");
    let parquet = parquet.to_string_lossy().into_owned();
    refused(&documents(&["--data", &parquet, "--force"]), 1, &["parquet"]);
    fs::write(&data, line("7").to_string()).expect("written");
    refused(
        &documents(&["--data", &name, "--force"]),
        1,
        &["fda.jsonl", "a document to ask about", "none"],
    );
}

#[test]
fn documents_and_training_text_are_written_and_read_again() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (documents, training) = (path("documents.jsonl"), path("training.jsonl"));
    let options = ["--task", "squad", "--documents", "4"];
    stdout_of(&[&["recall", "--write-documents", &documents][..], &options].concat());
    let out = folder.path().join("out");
    let output = run(&out, &["--data", &documents, "--task", "squad", "--order", "q-d"]);
    refused(&output, 2, &["--data", "--facts"]);
    let said = stdout_of(&[&["recall", "--training-text", &training][..], &options].concat());
    assert!(said.contains("20 texts written"), "{said}");
    let text = fs::read_to_string(&training).expect("file");
    let first: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let first = first["text"].as_str().expect("a text");
    // The prompt ends in the cloze, and the answer follows.
    assert!(first.contains(" is ") && first.ends_with('.'), "{first}");
    let tokens = path("tokens");
    stdout_of(&["tokens", &training, "--out", &tokens]);
}

#[test]
fn impossible_questions_are_usage_errors_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let refused = |options: &[&str], parts: &[&str]| {
        fails(&[&["recall", "--out", &out], options].concat(), 2, parts);
        assert!(names(folder.path()).is_empty());
    };
    refused(&["--task", "poems"], &["--task", "poems", "fda, swde"]);
    refused(&["--order", "d-d"], &["--order", "d-d", "q-d-d-q"]);
    refused(&["--passes", "0"], &["--passes", "from 1 to 64", "found 0"]);
    refused(&["--facts", "2"], &["--facts", "from 3", "found 2"]);
    refused(&["--documents", "0"], &["--documents"]);
    refused(&["--max-tokens", "0"], &["--max-tokens", "at least 1"]);
    refused(&["--train-length", "0"], &["--train-length", "at least 1"]);
    refused(&["--mitigation", "rri:2"], &["--mitigation", "rri:2"]);
    refused(&["--mitigation", "restart:64"], &["--mitigation", "restart:64"]);
}

#[test]
fn a_model_without_a_tokenizer_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = tiny_checkpoint(folder.path());
    let config = Path::new(&path).join("config.json");
    let text = fs::read_to_string(&config)
        .expect("config")
        .replace("\"vocab_size\": 256", "\"vocab_size\": 255");
    fs::write(&config, text).expect("written");
    fails(&["recall", &path], 1, &["tokenizer.json"]);
}

#[test]
fn a_short_prompt_is_read_as_asked() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let jrt = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/assets/recall/jrt");
    let based = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/assets/recall/based");
    // So many that some answer changes: the model has learned to pass over padding.
    let asked = |name: &str, options: &[&str]| {
        let out = folder.path().join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args([
                "recall",
                "--documents",
                "40",
                "--facts",
                "8",
                "--max-tokens",
                "12",
                "-q",
            ])
            .args(["--order", "d-q", "--passes", "1", "--no-padding", "--out"])
            .arg(&out)
            .args(options)
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        let answers = fs::read_to_string(out.join("recall-answers.jsonl")).expect("answers");
        (answers, read(&out.join("recall.json")))
    };
    let (as_it_is, report) = asked("default", &[jrt]);
    assert!(report.get("short_prompt").is_none(), "{report}");
    let (named, report) = asked("as-is", &[jrt, "--short-prompt", "as-is"]);
    assert_eq!(report["short_prompt"], "as-is");
    assert_eq!(named, as_it_is);
    let (padded, report) = asked("padded", &[jrt, based, "--short-prompt", "left-pad"]);
    assert_eq!(report["short_prompt"], "left-pad");
    let of_first = |answers: &str| answers.lines().take(40).map(String::from).collect::<Vec<_>>();
    assert_ne!(of_first(&padded), of_first(&as_it_is));
    let page = fs::read_to_string(folder.path().join("padded/report.html")).expect("a page");
    assert!(page.contains("--short-prompt left-pad"));

    for (models, how, expected) in [
        (based, "left-pad", "a model with an encoder"),
        (jrt, "iterate", "left-pad-exact or read-twice"),
    ] {
        let output = run(&folder.path().join("refused"), &[models, "--short-prompt", how]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!folder.path().join("refused").exists(), "nothing is left behind");
    }
}
