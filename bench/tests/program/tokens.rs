//! `spillway tokens`.

use crate::*;

#[test]
fn texts_become_a_file_of_tokens_that_names_its_size() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::create_dir(path("texts")).expect("folder");
    fs::write(path("texts/b.txt"), "one\n\ntwo").expect("written");
    fs::write(path("texts/a.md"), "zero").expect("written");
    fs::write(path("texts/c.png"), "picture").expect("written");
    let out = path("texts.tokens");
    let arguments = [
        "tokens",
        &path("texts"),
        "--out",
        &out,
        "--separator",
        "\n\n",
        "--end-of-text",
        "0",
    ];
    let text = stdout_of(&arguments);
    for part in ["13 tokens of 3 documents", "vocabulary of 256", "/texts.tokens"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // 64 bytes of header, two per token.
    let bytes = fs::read(&out).expect("written");
    assert_eq!(bytes.len(), 64 + 2 * 13);
    let ids = bytes[64..].chunks_exact(2).map(|id| id[0]);
    assert_eq!(ids.collect::<Vec<u8>>(), b"zero\0one\0two\0");

    fails(
        &arguments,
        2,
        &["--out", "/texts.tokens, which exists", "--force"],
    );
    stdout_of(&[&arguments[..], &["--force"]].concat());
    assert_eq!(names(folder.path()), ["texts", "texts.tokens"]);
}

#[test]
fn texts_that_cannot_be_read_are_named_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (text, out) = (path("a.txt"), path("out.tokens"));
    fs::write(&text, b"in the \xFF beginning").expect("written");
    let vocabulary = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"in": 0, "the": 1}, "unk_token": "in"}}"#;
    fs::write(path("tokenizer.json"), vocabulary).expect("written");
    let with_tokenizer = ["--out", &out, "--tokenizer", &path("tokenizer.json")];
    let run = |input: &str| [&["tokens", input], &with_tokenizer[..]].concat().join("\t");
    let arguments = run(&text);
    fails(
        &arguments.split('\t').collect::<Vec<_>>(),
        1,
        &["a.txt", "UTF-8", "0xff", "offset 7"],
    );
    fails(&["tokens", "/no/such.txt", "--out", &out], 1, &["/no/such.txt"]);
    fails(
        &["tokens", &text, "--out", &text, "--force"],
        2,
        &["--out", "one of the inputs"],
    );
    fails(
        &["tokens", &text, "--out", &out, "--end-of-text", "two words"],
        2,
        &["--end-of-text", "9 tokens"],
    );
    fails(
        &["tokens", &text, "--out", &out, "--separator", "x"],
        2,
        &["--end-of-text"],
    );
    fails(&["tokens", &text], 2, &["--out"]);
    assert_eq!(names(folder.path()), ["a.txt", "tokenizer.json"]);
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_written_to_and_never_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().expect("temporary folder");
    let text = folder.path().join("a.txt").to_string_lossy().into_owned();
    fs::write(&text, "abc").expect("written");
    for force in [&[][..], &["--force"]] {
        let arguments = [&["tokens", &text, "--out", "/dev/full"], force].concat();
        fails(&arguments, 1, &["/dev/full", "No space left"]);
        let device = fs::metadata("/dev/full").expect("there").file_type();
        assert!(device.is_char_device());
    }
    let file = folder.path().join("a.tokens");
    let arguments = ["tokens", &text, "--out", &file.to_string_lossy()];
    stdout_of(&arguments);
    // Behind a pipe, and where standard output is itself a file.
    let piped = spillway(&["tokens", &text, "--out", "/dev/stdout", "-q"]);
    assert!(piped.stdout == fs::read(&file).expect("written"));
    let redirected = folder.path().join("redirected");
    let status = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(["tokens", &text, "--out", "/dev/stdout"])
        .stdout(fs::File::create(&redirected).expect("a file"))
        .status();
    assert!(status.expect("started").success());
    assert!(fs::read(&redirected).expect("there") == fs::read(&file).expect("there"));
    assert!(fs::symlink_metadata("/dev/stdout").expect("there").is_symlink());
}
