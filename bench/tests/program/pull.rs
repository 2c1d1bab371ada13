//! `spillway pull`, and names on a hub in the place of paths, without a hub: what a cache has, and what it has not.

use crate::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Runs where nothing may be fetched, with this cache.
fn offline(cache: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .env("HF_HUB_CACHE", cache)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the program starts")
}

/// A cache that has `some/model`, as other tools leave it there.
fn cache_with_a_model(folder: &Path) {
    let model = tiny_checkpoint(folder);
    let repository = folder.join("models--some--model");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).expect("a folder");
    for name in names(Path::new(&model)) {
        fs::copy(Path::new(&model).join(&name), snapshot.join(&name)).expect("copied");
    }
    fs::create_dir_all(repository.join("refs")).expect("a folder");
    fs::write(repository.join("refs/main"), COMMIT).expect("written");
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("output is JSON")
}

#[test]
fn a_name_on_a_hub_stands_for_what_the_cache_has_in_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    cache_with_a_model(folder.path());
    let found = json(&offline(folder.path(), &["pull", "some/model", "--json", "-q"]));
    assert_eq!(found["commit"], COMMIT);
    let path = found["path"].as_str().expect("a path").to_string();
    assert!(path.ends_with(COMMIT), "{path}");
    let inspected = json(&offline(
        folder.path(),
        &["inspect", "hf:some/model", "--json", "-q"],
    ));
    let plainly = json_of(&["inspect", &path, "--json", "-q"]);
    assert_eq!(inspected, plainly);
    assert!(inspected.to_string().contains("\"model\""), "{inspected}");
    let named = format!("hf:some/model@{COMMIT}");
    for arguments in [
        &["generate", "hf:some/model", "--ids", "1,2", "--draft", &named][..],
        &["convert", "hf:some/model", "converted"],
        &["recall", "hf:some/model", "hf:other/model"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args(arguments)
            .arg("-q")
            .current_dir(folder.path())
            .env("HF_HUB_CACHE", folder.path())
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .expect("the program starts");
        match arguments[0] {
            "recall" => refused(&output, 1, &["other/model", "HF_HUB_OFFLINE"]),
            _ => assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
}

#[test]
fn what_cannot_be_had_is_one_line_that_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(
        &offline(folder.path(), &["pull", "some/model"]),
        1,
        &["some/model", "HF_HUB_OFFLINE", "revision main"],
    );
    refused(
        &offline(folder.path(), &["inspect", "hf:some/model@v2"]),
        1,
        &["some/model@v2", "revision v2"],
    );
    for name in ["some", "some/model/more", "../model"] {
        refused(&offline(folder.path(), &["pull", name]), 2, &["OWNER/NAME", name]);
    }
    refused(
        &offline(folder.path(), &["inspect", "hf:some"]),
        2,
        &["OWNER/NAME", "hf:some"],
    );
}
