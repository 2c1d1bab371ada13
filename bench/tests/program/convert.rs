//! `spillway convert`.

use crate::*;

#[test]
fn a_converted_checkpoint_is_used_like_the_original() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = tiny_checkpoint(folder.path());
    let out = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (wide, narrow) = (out("wide"), out("narrow"));
    let text = stdout_of(&["convert", &path, &wide]);
    assert!(text.contains("tensors") && text.contains("config.json"), "{text}");
    stdout_of(&["convert", &path, &narrow, "--dtype", "bf16"]);
    let generated = |model: &str| stdout_of(&["generate", model, "--prompt", "abc", "--max-tokens", "20"]);
    assert_eq!(generated(&wide), generated(&path));
    assert_eq!(json_of(&["inspect", &narrow, "--json"])["stored_as"][0], "BF16");
    let length = |model: &str| {
        fs::metadata(Path::new(model).join("model.safetensors"))
            .expect("weights")
            .len()
    };
    assert!(length(&narrow) < length(&wide));
}

#[test]
fn an_existing_folder_needs_force_and_the_original_is_never_overwritten() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = tiny_checkpoint(folder.path());
    let out = folder.path().join("out").to_string_lossy().into_owned();
    stdout_of(&["convert", &path, &out]);
    fails(
        &["convert", &path, &out, "--dtype", "bf16"],
        2,
        &["/out", "exists"],
    );
    assert_eq!(json_of(&["inspect", &out, "--json"])["stored_as"][0], "F32");
    stdout_of(&["convert", &path, &out, "--dtype", "bf16", "--force"]);
    assert_eq!(json_of(&["inspect", &out, "--json"])["stored_as"][0], "BF16");
    fails(
        &["convert", &path, &path, "--force"],
        2,
        &["/tiny", "another one"],
    );
    fails(
        &["convert", "/no/such/model", &out, "--force"],
        1,
        &["/no/such/model"],
    );
    fails(&["convert", &path], 2, &["<OUT>"]);
    assert_eq!(names(folder.path()), ["out", "tiny"]);
}

#[test]
fn a_gguf_file_is_written_by_its_ending_or_format_and_used_like_the_original() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = tiny_checkpoint(folder.path());
    let out = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (whole, small, odd) = (out("whole.gguf"), out("small.gguf"), out("named-otherwise"));
    let text = stdout_of(&["convert", &path, &whole]);
    assert!(
        text.contains("tensors of mamba2") && text.contains("no tokenizer"),
        "{text}"
    );
    let written = json_of(&["convert", &path, "--out", &small, "--dtype", "q8_0", "--json"]);
    assert_eq!(written["architecture"], "mamba2");
    stdout_of(&["convert", &path, &odd, "--format", "gguf"]);
    assert_eq!(
        fs::read(&odd).expect("a file").len(),
        fs::read(&whole).expect("a file").len()
    );
    let generated = |model: &str| stdout_of(&["generate", model, "--prompt", "abc", "--max-tokens", "12"]);
    assert_eq!(generated(&whole), generated(&path));
    let stored = json_of(&["inspect", &small, "--json"])["stored_as"].clone();
    assert_eq!(stored, serde_json::json!(["F32", "q8_0"]));
    let kept = |options: &[&str]| {
        json_of(&[&["inspect", &small, "--json"], options].concat())["kept_as"].to_string()
    };
    assert!(kept(&[]).contains("q8_0"), "{}", kept(&[]));
    assert_eq!(kept(&["--dtype", "bf16"]), "\"bf16\"");
    fails(&["convert", &path, &small], 2, &["small.gguf", "exists"]);
    stdout_of(&["convert", &path, &small, "--force"]);
    fails(
        &["convert", &path, &out("folder"), "--dtype", "q4_0"],
        2,
        &["--dtype", "q4_0", "GGUF"],
    );
}

#[test]
fn a_hostile_pickle_is_named_and_not_run() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("model.pth");
    fs::write(&path, b"\x80\x02cposix\nsystem\n").expect("written");
    let out = folder.path().join("out").to_string_lossy().into_owned();
    fails(
        &["convert", &path.to_string_lossy(), &out],
        1,
        &["model.pth", "not a zip archive"],
    );
    assert_eq!(names(folder.path()), ["model.pth"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().expect("temporary folder");
    tiny_checkpoint(folder.path());
    let output = with_files_of_at_most(16, folder.path(), "convert tiny out");
    refused(&output, 1, &["too large"]);
    assert_eq!(names(folder.path()), ["tiny"]);
}
