//! `spillway generate`.

use crate::*;

const PROMPT: &str = "And God said, Let there be ";

#[test]
fn greedy_text_does_not_depend_on_the_seed_and_drawn_text_does() {
    let text = |options: &[&str]| {
        stdout_of(
            &[
                &["generate", "--prompt", PROMPT, "--max-tokens", "24", "-q"],
                options,
            ]
            .concat(),
        )
    };
    let greedy = text(&["--temperature", "0"]);
    assert_eq!(greedy, text(&["--temperature", "0", "--seed", "5"]));
    assert_eq!(greedy, text(&["--top-k", "1"]));
    assert_eq!(text(&["--seed", "1"]), text(&["--seed", "1"]));
    assert_ne!(text(&["--seed", "1"]), text(&["--seed", "2"]));
    assert_ne!(
        greedy,
        text(&["--temperature", "0", "--repetition-penalty", "1.5"])
    );
}

#[test]
fn ids_and_text_of_one_prompt_give_one_continuation() {
    let ids = PROMPT
        .bytes()
        .map(|byte| byte.to_string())
        .collect::<Vec<_>>()
        .join(",");
    let json = |name: &str, value: &str| {
        json_of(&[
            "generate",
            name,
            value,
            "--max-tokens",
            "8",
            "--temperature",
            "0",
            "--json",
        ])
    };
    let (from_text, from_ids) = (json("--prompt", PROMPT), json("--ids", &ids));
    assert_eq!(from_text["ids"], from_ids["ids"]);
    assert_eq!(from_text["text"], from_ids["text"]);
    assert_eq!(from_text["finish"], "length");
    assert_eq!(from_text["ids"].as_array().map(Vec::len), Some(8));
    assert_eq!(from_text["mitigation"], "none");
}

#[test]
fn a_prompt_read_twice_is_the_prompt_its_line_s_end_and_the_prompt() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().to_string_lossy().into_owned();
    let json = |prompt: &str, more: &[&str]| {
        let options = [
            "generate",
            "--prompt",
            prompt,
            "--max-tokens",
            "8",
            "--temperature",
            "0",
            "--json",
            "-q",
        ];
        json_of(&[&options[..], more].concat())
    };
    let twice = json(PROMPT, &["--read-twice"]);
    let written = json(&format!("{PROMPT}\n{PROMPT}"), &[]);
    assert_eq!(
        (&twice["prompt_ids"], &twice["ids"]),
        (&written["prompt_ids"], &written["ids"])
    );
    assert_eq!(twice["prompt_tokens"], 2 * PROMPT.len() + 1);
    let cached = json(PROMPT, &["--read-twice", "--prefix-cache", &cache]);
    assert_eq!(
        (&twice["prompt_ids"], &twice["text"]),
        (&cached["prompt_ids"], &cached["text"])
    );
}

#[test]
fn a_stop_string_ends_the_text_and_is_not_part_of_it() {
    let options = [
        "generate",
        "--prompt",
        PROMPT,
        "--temperature",
        "0",
        "--json",
        "--stop",
        "e",
    ];
    let json = json_of(&options);
    assert_eq!((&json["finish"], &json["stop"]), (&"stop".into(), &"e".into()));
    assert!(!json["text"].as_str().expect("text").contains('e'));
}

#[test]
fn a_mitigation_acts_in_generation() {
    let prompt = PROMPT.repeat(20);
    let json = |options: &[&str]| {
        let fixed = [
            "generate",
            "--prompt",
            &prompt,
            "--max-tokens",
            "32",
            "--temperature",
            "0",
            "--json",
        ];
        json_of(&[&fixed, options].concat())
    };
    let (plain, forgetting) = (json(&[]), json(&["--mitigation", "forget:0.5"]));
    assert_eq!(forgetting["mitigation"], "forget:0.5");
    assert_ne!(plain["ids"], forgetting["ids"]);
    assert_eq!(plain["ids"], json(&["--mitigation", "window:1000000"])["ids"]);
}

#[test]
fn a_prompt_seen_before_is_continued_alike_from_its_states() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let prompt = PROMPT.repeat(24);
    let options = [
        "generate",
        "--prompt",
        &prompt,
        "--max-tokens",
        "8",
        "--repetition-penalty",
        "1.3",
    ];
    let plain = stdout_of(&options);
    let run = || spillway(&[&options[..], &["--prefix-cache", path]].concat());
    for found in ["0 of 648 prompt tokens found", "512 of 648 prompt tokens found"] {
        let output = run();
        assert_eq!(String::from_utf8_lossy(&output.stdout), plain);
        let remarks = String::from_utf8_lossy(&output.stderr);
        assert!(remarks.contains(found), "{remarks}");
    }
    for file in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::write(file.unwrap().path(), "SPILLPFX, or is it?").unwrap();
    }
    let output = run();
    assert_eq!(String::from_utf8_lossy(&output.stdout), plain);
    let remarks = String::from_utf8_lossy(&output.stderr);
    assert!(
        remarks.contains("0 of 648 prompt tokens found") && remarks.contains("not used"),
        "{remarks}"
    );
    fails(
        &["generate", "--prompt", "a", "--prefix-cache-limit", "1"],
        2,
        &["--prefix-cache"],
    );
}

#[test]
fn impossible_requests_are_usage_errors() {
    fails(&["generate"], 2, &["--prompt"]);
    fails(
        &["generate", "--prompt", ""],
        2,
        &["--prompt", "at least one token"],
    );
    fails(&["generate", "--ids", ""], 2, &["--ids", "at least one token"]);
    fails(&["generate", "--ids", "1,2,256"], 2, &["--ids", "256"]);
    fails(&["generate", "--ids", "1,x"], 2, &["--ids", "x"]);
    fails(
        &["generate", "--prompt", "a", "--ids", "1"],
        2,
        &["--prompt", "--ids"],
    );
    fails(
        &["generate", "--prompt", "a", "--temperature=-1"],
        2,
        &["temperature", "-1"],
    );
    fails(
        &["generate", "--prompt", "a", "--temperature", "NaN"],
        2,
        &["temperature"],
    );
    fails(
        &["generate", "--prompt", "a", "--top-p", "1.5"],
        2,
        &["top-p", "1.5"],
    );
    fails(&["generate", "--prompt", "a", "--top-k", "0"], 2, &["top-k", "0"]);
    fails(
        &["generate", "--prompt", "a", "--max-tokens", "0"],
        2,
        &["--max-tokens"],
    );
    fails(
        &["generate", "--prompt", "a", "--mitigation", "dam:3"],
        2,
        &["--mitigation", "dam"],
    );
    fails(
        &["generate", "--prompt", "a", "--mitigation", "window:0"],
        2,
        &["--mitigation", "window"],
    );
}

#[test]
fn a_mitigation_that_is_calibrated_calibrates_on_the_shipped_text_or_on_another() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("lower.txt");
    fs::write(&text, PROMPT.to_lowercase().repeat(40)).unwrap();
    let text = text.to_string_lossy();
    let prompt = PROMPT.repeat(12);
    let fixed = [
        "generate",
        "--prompt",
        &prompt,
        "--max-tokens",
        "16",
        "--temperature",
        "0",
        "-q",
    ];
    let plain = stdout_of(&fixed);
    for spec in [
        "state-norm:auto",
        "cap-mean:16",
        "delta-filter:4096",
        "decimate:0.25",
        "fitted-noise:8",
    ] {
        let with = |more: &[&str]| stdout_of(&[&fixed[..], &["--mitigation", spec], more].concat());
        let shipped = with(&[]);
        assert_ne!(shipped, plain, "{spec}");
        assert_eq!(shipped, with(&[]), "{spec}");
        assert!(
            with(&["--calibrate", &text, "--train-length", "32"]).ends_with('\n'),
            "{spec}"
        );
    }
    let checkpoint = tiny_checkpoint(folder.path());
    let of_another = [
        "generate",
        &checkpoint,
        "--ids",
        "1",
        "--max-tokens",
        "2",
        "--mitigation",
        "state-norm:auto",
    ];
    fails(&of_another, 2, &["state-norm:auto", "--calibrate FILE", "@FILE"]);
    stdout_of(
        &[
            &of_another[..],
            &["--calibrate", "random", "--train-length", "16"],
        ]
        .concat(),
    );
    let unneeded = ["--mitigation", "window:64", "--calibrate", &text];
    fails(
        &[&["generate", "--prompt", "a"][..], &unneeded].concat(),
        2,
        &["--calibrate", "window:64"],
    );
    fails(
        &["generate", "--prompt", "a", "--calibrate", &text],
        2,
        &["--mitigation"],
    );
    for (spec, instead) in [("restart:64", "reset:64"), ("scales:fit", "spillway compare")] {
        fails(
            &["generate", "--prompt", "a", "--mitigation", spec],
            2,
            &[spec, instead],
        );
    }
}

#[test]
fn a_prompt_of_any_length_is_one_prompt_whether_typed_piped_or_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let words = "In the beginning é ".repeat(3000) + "\n";
    let path = folder.path().join("prompt.txt");
    fs::write(&path, &words).unwrap();
    let path = path.to_string_lossy();
    let options = [
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--repetition-penalty",
        "1.2",
        "--json",
    ];
    let typed = json_of(&[&["generate", "--prompt", &words][..], &options].concat());
    assert_eq!(typed["prompt_tokens"], words.len());
    assert_eq!(typed["prompt_ids"].as_array().unwrap().len(), words.len());
    let in_file = json_of(&[&["generate", "--prompt-file", &path][..], &options].concat());
    let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args([&["generate", "--prompt", "-"][..], &options].concat())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), words.as_bytes()).unwrap();
    let piped: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    for other in [in_file, piped] {
        for field in ["prompt_ids", "ids", "text"] {
            assert_eq!(other[field], typed[field], "{field}");
        }
    }
    let none = folder.path().join("none.txt");
    fs::write(&none, "").unwrap();
    fails(
        &["generate", "-f", &none.to_string_lossy()],
        2,
        &["--prompt-file", "at least one token"],
    );
    fails(&["generate", "-f", "no/such.txt"], 1, &["no/such.txt"]);
    fails(
        &["generate", "-f", &path, "--prompt", "a"],
        2,
        &["--prompt", "--prompt-file"],
    );
}

#[test]
fn an_encoder_reads_a_short_prompt_as_it_is_asked_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("jrt").to_string_lossy().into_owned();
    stdout_of(&["init", "--arch", "jrt", "--shape", "tiny", "--out", &model]);
    let long: Vec<String> = (1..30).map(|id| id.to_string()).collect();
    let (short, long) = ("1,2,3", long.join(","));
    let json = |ids: &str, options: &[&str]| {
        let fixed = [
            "generate",
            &model,
            "--ids",
            ids,
            "--temperature",
            "0",
            "--json",
            "-q",
        ];
        json_of(&[&fixed[..], &["--max-tokens", "6"], options].concat())
    };
    for how in ["left-pad", "left-pad-exact", "read-twice", "iterate", "as-is"] {
        let options = ["--short-prompt", how, "--pad-id", "32"];
        let found = json(short, &options);
        assert_eq!(found["prompt_tokens"], 3, "{how}");
        assert_eq!(found["ids"].as_array().map(Vec::len), Some(6), "{how}");
        // The encoder has more than enough of a long one.
        assert_eq!(
            json(&long, &options)["ids"],
            json(&long, &["--short-prompt", "as-is"])["ids"]
        );
    }
    let padded = ["--short-prompt", "left-pad", "--pad-id", "32"];
    let said = |options: &[&str]| {
        let fixed = ["generate", &model, "--ids", short, "--max-tokens", "1"];
        let output = spillway(&[&fixed[..], options].concat());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&padded).contains("behind 13 tokens 32 of padding"));
    assert!(said(&["--short-prompt", "read-twice"]).contains("16 tokens reads the 3 of the prompt twice"));
    assert!(said(&["--encoder-length", "0"]).contains("the encoder reads nothing"));
    assert!(said(&["--encoder-length", "2"]).contains("the encoder reads the first 2 tokens"));
    let cache = folder.path().join("cache").to_string_lossy().into_owned();
    let cached = ["--prefix-cache", &cache];
    assert_eq!(
        json(short, &[&padded[..], &cached].concat())["ids"],
        json(short, &padded)["ids"]
    );
    assert_eq!(json(&long, &cached)["ids"], json(&long, &[])["ids"]);
    fails(
        &["generate", "--prompt", "a", "--encoder-length", "4"],
        2,
        &["--encoder-length", "jrt"],
    );
    fails(
        &["generate", &model, "--ids", short, "--pad-id", "256"],
        2,
        &["--pad-id", "256"],
    );
    fails(
        &["generate", &model, "--ids", short, "--short-prompt", "sideways"],
        2,
        &["--short-prompt", "sideways"],
    );
}
