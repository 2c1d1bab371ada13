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
    fails(
        &["generate", "--prompt", "a", "--mitigation", "state-norm:auto"],
        2,
        &["state-norm:auto"],
    );
}
