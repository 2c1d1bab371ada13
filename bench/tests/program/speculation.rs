//! `spillway generate --speculate` and `--draft`.

use crate::*;

const PROMPT: &str = "And God said, Let there be light: and there was light. And God said, Let there be ";
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/assets/tiny-mamba2-kjv");

fn json(options: &[&str]) -> Value {
    let fixed = [
        "generate",
        "--prompt",
        PROMPT,
        "--max-tokens",
        "40",
        "--json",
        "-q",
    ];
    json_of(&[&fixed, options].concat())
}

#[test]
fn drafts_change_nothing_but_the_time_that_it_takes() {
    for choice in [
        &["--temperature", "0"][..],
        &["--temperature", "0.8", "--seed", "4"],
    ] {
        let plain = json(choice);
        assert!(plain["speculation"].is_null());
        for drafts in [
            &["--speculate", "lookup"][..],
            &["--speculate", "lookup:2"],
            &["--draft", SHIPPED, "--draft-tokens", "3"],
        ] {
            let found = json(&[choice, drafts].concat());
            for field in ["ids", "text", "finish", "prompt_ids"] {
                assert_eq!(found[field], plain[field], "{field} with {drafts:?}");
            }
            let count = |name: &str| found["speculation"][name].as_u64().expect("a number");
            let (calls, drafted, accepted) = (count("calls"), count("drafted"), count("accepted"));
            // Every call gives what was accepted of its draft and a token more; the last token needs none.
            assert_eq!(calls + accepted, 39, "{drafts:?}");
            assert!(accepted <= drafted);
            if drafts[0] == "--draft" {
                // It drafts for itself.
                assert_eq!((calls, accepted), (10, 29));
            }
            assert!(found["speculation"]["speed_up"].as_f64().expect("a number") > 0.0);
        }
    }
}

#[test]
fn drafts_go_together_with_a_cache_of_prefixes_and_with_mitigations() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().to_string_lossy().into_owned();
    let options = [
        "--temperature",
        "0",
        "--mitigation",
        "window:16",
        "--prefix-cache",
        &cache,
    ];
    let plain = json(&options);
    let found = json(&[&options[..], &["--speculate", "lookup:3"]].concat());
    assert_eq!(found["ids"], plain["ids"]);
}

#[test]
fn what_came_of_drafts_is_said_beside_the_text() {
    let output = spillway(&[
        "generate",
        "--prompt",
        PROMPT,
        "--max-tokens",
        "12",
        "--temperature",
        "0",
        "--speculate",
        "lookup",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("drafted tokens accepted, in"),
        "{said}"
    );
}

#[test]
fn impossible_drafts_are_refused() {
    let generate = |options: &[&str], parts: &[&str]| {
        fails(&[&["generate", "--prompt", "a"], options].concat(), 2, parts);
    };
    for wrong in ["look", "lookup:0", "lookup:x", "lookup:1000"] {
        generate(&["--speculate", wrong], &["--speculate", "lookup:K", wrong]);
    }
    generate(
        &["--speculate", "lookup", "--draft", SHIPPED],
        &["--speculate", "--draft"],
    );
    generate(&["--speculate", "lookup", "--draft-tokens", "3"], &["--draft"]);
    fails(
        &["generate", "--prompt", "a", "--draft", "no/such"],
        1,
        &["no/such"],
    );
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("jrt").to_string_lossy().into_owned();
    stdout_of(&["init", "--arch", "jrt", "--shape", "tiny", "--out", &model]);
    fails(
        &["generate", &model, "--ids", "1,2", "--speculate", "lookup"],
        2,
        &["--speculate", "causally", "encoder"],
    );
}
