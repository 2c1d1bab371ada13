//! `spillway passkey`.

use crate::*;
use serde_json::json;

fn command(out: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command
        .args([
            "passkey",
            "--lengths",
            "300,500",
            "--depths",
            "4",
            "--samples",
            "2",
        ])
        .args(["-q", "--all-lengths", "--out"])
        .arg(out)
        .args(options);
    command
}

fn run(out: &Path, options: &[&str]) -> Output {
    command(out, options).output().expect("the program starts")
}

#[test]
fn grid_files_and_picture_agree() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("deep/report");
    let output = run(&out, &["--mitigation", "none", "--mitigation", "window:64"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        names(&out),
        [
            "found-by-length.svg",
            "passkey-none.svg",
            "passkey-window-64.svg",
            "passkey.csv",
            "passkey.json",
            "report.html"
        ]
    );

    let json: Value =
        serde_json::from_slice(&fs::read(out.join("passkey.json")).expect("file")).expect("JSON");
    assert_eq!((&json["version"], &json["complete"]), (&1.into(), &true.into()));
    let runs = json["runs"].as_array().expect("runs");
    assert_eq!(
        (&runs[0]["mitigation"], &runs[1]["mitigation"]),
        (&"none".into(), &"window:64".into())
    );
    let cells = runs[0]["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 8);
    // 300 bytes have room for 1 block (the passkey's), 500 for 4: 93 + 37 + 62, and 3 · 90 more.
    let real = |cell: &Value| (cell["tokens_min"].as_u64(), cell["tokens_max"].as_u64());
    assert_eq!(real(&cells[0]), (Some(187), Some(187)));
    assert_eq!(real(&cells[7]), (Some(457), Some(457)));
    for cell in cells {
        let number = |name: &str| cell[name].as_f64().expect("a number");
        assert_eq!(number("samples"), 2.0);
        assert!(number("wilson_low") <= number("accuracy") && number("accuracy") <= number("wilson_high"));
    }
    let csv = fs::read_to_string(out.join("passkey.csv")).expect("file");
    assert_eq!(csv.lines().count(), 1 + 2 * 8);
    let svg = fs::read_to_string(out.join("passkey-none.svg")).expect("file");
    assert!(
        svg.starts_with("<svg") && svg.contains("Passkey retrieval"),
        "{svg}"
    );
    let page = page_of(&out, "report.html");
    assert!(page.contains("href=\"passkey-window-64.svg\"") && page.matches("role=\"img\"").count() == 3);
    assert!(page.contains("href=\"found-by-length.svg\"") && page.contains("Passkeys found by"));
    assert!(page.contains("only the last R tokens"), "no glossary in {page}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("mitigation window:64"));
}

#[test]
fn a_mitigation_that_wants_thresholds_is_calibrated_inside_the_training_length() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (out, options) = (folder.path().join("out"), ["--mitigation", "state-norm:auto"]);
    let output = run(&out, &options);
    assert!(output.status.success(), "{output:?}");
    let path = tiny_checkpoint(folder.path());
    let output = run(
        &folder.path().join("second"),
        &[&[path.as_str()][..], &options].concat(),
    );
    refused(&output, 2, &["--train-length", "state-norm:auto"]);
    let options = [&[path.as_str(), "--train-length", "128"][..], &options].concat();
    assert!(run(&folder.path().join("third"), &options).status.success());
}

#[test]
fn a_seed_gives_one_report() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let csv = |name: &str| {
        let out = folder.path().join(name);
        assert!(run(&out, &["--seed", "3"]).status.success());
        fs::read_to_string(out.join("passkey.csv")).expect("file")
    };
    assert_eq!(csv("a"), csv("b"));
}

/// All but the times.
fn answers(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("passkey.json")).expect("passkey.json");
    let lines = text.lines().filter(|line| !line.contains("\"seconds\""));
    lines.map(String::from).collect()
}

#[test]
fn a_run_that_is_stopped_again_and_again_gives_the_answers_of_one_that_is_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let options = ["--mitigation", "none", "--mitigation", "window:64"];
    assert!(run(&whole, &options).status.success());
    let mut times = 0;
    loop {
        let resume: &[&str] = if times == 0 { &[] } else { &["--resume"] };
        let output = run(&parts, &[&options[..], &["--stop-after", "700"], resume].concat());
        if output.status.success() {
            break;
        }
        refused(&output, 1, &["interrupted", "parts", "--resume"]);
        let report = answers(&parts).join("\n");
        assert!(report.contains("\"complete\": false"), "{report}");
        refused(&run(&parts, &options), 2, &["--out", "--resume", "--force"]);
        let other = run(&parts, &[&options[..], &["--seed", "7", "--resume"]].concat());
        refused(&other, 2, &["--seed", "0 as in the interrupted run", "found 7"]);
        times += 1;
        assert!(times < 20, "it never ends");
    }
    assert!(times > 2, "stopped {times} times");
    assert_eq!(answers(&whole), answers(&parts));
    assert_eq!(names(&whole), names(&parts));
    for file in ["passkey.csv", "passkey-window-64.svg"] {
        let read = |out: &Path| fs::read(out.join(file)).expect(file);
        assert!(read(&whole) == read(&parts), "{file} differs");
    }
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_answers() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let specs = ["none", "window:64", "window:48", "forget:0.99"];
    let options: Vec<&str> = specs.iter().flat_map(|spec| ["--mitigation", spec]).collect();
    let mut first = command(&killed, &options);
    // What is saved last is the first mitigation, or more.
    life::kill_when(&mut first, || killed.join("passkey-progress.json").exists());
    assert!(
        killed.join("passkey-progress.json").exists(),
        "it had ended before"
    );
    let went_on = run(&killed, &[&options[..], &["--resume"]].concat());
    let stderr = String::from_utf8_lossy(&went_on.stderr);
    assert!(went_on.status.success(), "{stderr}");
    assert!(run(&whole, &options).status.success());
    assert_eq!(answers(&whole), answers(&killed));
    assert_eq!(names(&whole), names(&killed));
}

#[test]
fn a_run_goes_on_only_with_the_numbers_that_it_began_with() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (out, numbers) = (folder.path().join("out"), folder.path().join("numbers.json"));
    let write = |largest: f64| {
        let site = |layer| json!({ "layer": layer, "first_head": 0, "values": vec![largest; 4] });
        let file = json!({
            "format": "spillway-mitigation", "version": 1, "mitigation": "state-norm:auto",
            "calibrated": [[site(0), site(1)]],
        });
        fs::write(&numbers, file.to_string()).expect("written");
    };
    write(1.5);
    let spec = format!("@{}", numbers.display());
    let stopped = run(&out, &["--mitigation", &spec, "--stop-after", "700"]);
    refused(&stopped, 1, &["interrupted", "--resume"]);
    write(2.5);
    let other = run(&out, &["--mitigation", &spec, "--resume"]);
    refused(
        &other,
        2,
        &["--mitigation", "state-norm:auto", "as in the interrupted run"],
    );
    write(1.5);
    assert!(run(&out, &["--mitigation", &spec, "--resume"]).status.success());
}

#[test]
fn a_model_that_finds_no_passkey_is_not_asked_at_longer_lengths_unless_it_must_be() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    let name = out.to_string_lossy().into_owned();
    let options = [
        "--lengths",
        "300,400,5000000",
        "--depths",
        "2",
        "--samples",
        "2",
        "-q",
    ];
    let text = stdout_of(&[&["passkey", "--out", &name][..], &options].concat());
    let reason =
        "no passkey found in 4 prompts of 300 tokens, which is beyond the training length of 64 tokens";
    assert!(text.contains(reason) && text.contains("--all-lengths"), "{text}");
    let json: Value =
        serde_json::from_slice(&fs::read(out.join("passkey.json")).expect("file")).expect("JSON");
    let run = &json["runs"][0];
    assert!(
        run["stopped"].as_str().is_some_and(|why| why.starts_with(reason)),
        "{run}"
    );
    assert_eq!(run["cells"].as_array().map(Vec::len), Some(2));
    // Inside the training length it is the model that cannot do it.
    let options = [
        "--lengths",
        "300,400",
        "--depths",
        "1",
        "--samples",
        "4",
        "-q",
        "--force",
    ];
    let inside = [
        &["passkey", "--out", &name, "--train-length", "300"][..],
        &options,
    ]
    .concat();
    let text = stdout_of(&inside);
    assert!(text.contains("the model does not do this task"), "{text}");
    let text = stdout_of(&[&inside[..], &["--all-lengths"]].concat());
    assert!(text.contains("at any length"), "{text}");
    // A few misses tell nothing.
    let fewer = options.map(|option| if option == "4" { "3" } else { option });
    let few = [&["passkey", "--out", &name][..], &fewer].concat();
    let json: Value = {
        stdout_of(&few);
        serde_json::from_slice(&fs::read(out.join("passkey.json")).expect("file")).expect("JSON")
    };
    assert_eq!(json["runs"][0]["cells"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_folder_with_something_in_it_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::write(folder.path().join("mine"), "precious").expect("written");
    refused(&run(folder.path(), &[]), 2, &["--out", "exists"]);
    assert_eq!(names(folder.path()), ["mine"]);
    refused(&run(&folder.path().join("mine"), &[]), 1, &["mine"]);
}

#[test]
fn impossible_grids_are_usage_errors_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let fails = |options: &[&str], parts: &[&str]| {
        fails(&[&["passkey", "--out", &out], options].concat(), 2, parts);
        assert!(names(folder.path()).is_empty());
    };
    fails(&["--lengths", "100"], &["--lengths", "at least 220", "found 100"]);
    fails(&["--lengths", "4k..1k"], &["--lengths", "4096..1024"]);
    fails(&["--lengths", ""], &["--lengths"]);
    fails(&["--depths", "0"], &["--depths"]);
    fails(&["--samples", "0"], &["--samples"]);
    fails(&["--train-length", "0"], &["--train-length", "at least 1"]);
    fails(&["--mitigation", "rri:2"], &["--mitigation", "rri:2"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let options = "passkey --lengths 300 --depths 40 --samples 1 -q --out out";
    let output = with_files_of_at_most(1, folder.path(), options);
    refused(&output, 1, &["cannot write", "out/passkey", "too large"]);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
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
    fails(&["passkey", &path], 1, &["tokenizer.json"]);
}

/// Every word and every run of punctuation is a token: 19 in the prefix, 24 in a line of filler, 13 in the passkey's, 9 in
/// the suffix.
#[test]
fn lengths_are_counted_with_the_model_s_own_tokenizer() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = tiny_checkpoint(folder.path());
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "The": 1, "passkey": 2}, "unk_token": "[UNK]"}
    });
    fs::write(Path::new(&path).join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let out = folder.path().join("out");
    let out = out.to_string_lossy().into_owned();
    stdout_of(&[
        "passkey",
        &path,
        "--lengths",
        "100",
        "--depths",
        "3",
        "--samples",
        "1",
        "--out",
        &out,
        "-q",
    ]);
    let json = fs::read(Path::new(&out).join("passkey.json")).expect("file");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let cells = json["runs"][0]["cells"].as_array().expect("cells");
    let real: Vec<_> = cells.iter().map(|cell| cell["tokens_min"].as_u64()).collect();
    assert_eq!(real, [Some(19 + 2 * 24 + 13 + 9); 3]);
}
