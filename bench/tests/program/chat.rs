//! `spillway chat`.

use crate::*;
use std::io::Write;
use std::process::Stdio;

/// Runs a conversation whose lines come from a pipe.
fn converse(options: &[&str], lines: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args([
            "chat",
            "--template",
            "rwkv",
            "--max-tokens",
            "12",
            "--temperature",
            "0",
        ])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    child.wait_with_output().expect("it ends")
}

fn document(options: &[&str], lines: &str) -> Value {
    let output = converse(&[&["--json"], options].concat(), lines);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("one document")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn the_second_turn_reads_only_what_is_new() {
    let found = document(&[], "And God said\nLet there be\n");
    let turns = found["turns"].as_array().expect("a list");
    let [first, second] = turns.as_slice() else {
        panic!("{found}");
    };
    assert_eq!(first["read_tokens"], first["prompt_tokens"]);
    // "\n\nUser: Let there be\n\nAssistant:", at most a byte more for the answer's last, and the blank around it.
    let new = number(&second["read_tokens"]);
    assert!((32..=36).contains(&new), "{found}");
    assert!(number(&second["prompt_tokens"]) > number(&first["prompt_tokens"]) + 32);
    let roles: Vec<_> = found["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|message| message["role"].as_str().expect("a role").to_owned())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
}

#[test]
fn a_saved_conversation_goes_on_in_another_process_as_in_this_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("talk");
    let file = file.to_str().expect("text");
    let whole = document(&[], "And God said\nLet there be\n");
    document(&[], &format!("And God said\n/save {file}\n"));
    let rest = document(&["--load", file], "Let there be\n");
    assert_eq!(whole["messages"], rest["messages"]);
    assert_eq!(whole["turns"][1], rest["turns"][0]);
}

#[test]
fn what_is_undone_or_said_in_a_fork_leaves_no_trace() {
    let plain = document(&[], "And God said\nLet there be\n");
    let undone = document(&[], "And God said\nWho are you?\n/undo\nLet there be\n");
    assert_eq!(plain["messages"], undone["messages"]);
    let forked = "And God said\n/fork other\nWho are you?\n/switch main\nLet there be\n";
    assert_eq!(plain["messages"], document(&[], forked)["messages"]);
    let list = converse(&["-q"], "And God said\n/fork other\nWho are you?\n/list\n");
    let list = String::from_utf8(list.stdout).expect("text");
    assert!(
        list.ends_with("  main: 2 messages\n* other: 4 messages\n"),
        "{list}"
    );
}

#[test]
fn a_command_that_fails_is_said_and_the_conversation_goes_on() {
    let output = converse(
        &[],
        "/save nowhere\n/load nowhere\n/fork main\n/dance\nAnd God said\n",
    );
    assert!(output.status.success());
    let complaints = String::from_utf8(output.stderr).expect("text");
    for part in [
        "nothing has been said yet",
        "nowhere.json",
        "a name that /list does not have",
        "/help",
    ] {
        assert!(complaints.contains(part), "{part} is not in {complaints}");
    }
    assert!(!output.stdout.is_empty());
}

#[test]
fn a_model_without_a_template_is_refused_with_what_helps() {
    let complaint = String::from_utf8(spillway(&["chat"]).stderr).expect("text");
    assert!(
        complaint.contains("--template") && complaint.contains("not trained to converse"),
        "{complaint}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    let model = model.to_str().expect("text");
    stdout_of(&[
        "init", "--arch", "mamba2", "--shape", "tiny", "--out", model, "-q",
    ]);
    let complaint = String::from_utf8(spillway(&["chat", model]).stderr).expect("text");
    assert!(complaint.contains("rwkv, chatml or zephyr"), "{complaint}");
    // The template of the checkpoint is found, and its own words come where it refuses.
    let config = "{\"chat_template\": \"{{ raise_exception('no ' + messages[0].role) }}\"}";
    fs::write(format!("{model}/tokenizer_config.json"), config).expect("it is written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["chat", model])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(b"hello\n").expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let complaint = String::from_utf8(output.stderr).expect("text");
    assert!(
        complaint.contains("tokenizer_config.json: no user"),
        "{complaint}"
    );
}
