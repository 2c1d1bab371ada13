//! Checkpoints fetched from a hub that runs in the test.

mod server;

use std::fs;
use std::path::{Path, PathBuf};

use spillway_models::checkpoint::WriteDtype;
use spillway_models::hub::{HubError, Pulled, Reference, Settings, Token, find, pull, resolve};
use spillway_models::init::{preset, write_random};
use spillway_models::registry::written_layouts;
use spillway_models::{LoadOptions, Model};
use tempfile::TempDir;

use server::{COMMIT, Contents, Server, hash};

/// A tiny checkpoint, and what else a repository has.
fn repository() -> Contents {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    let layout = written_layouts().next().unwrap();
    let tiny = preset(layout, "tiny").unwrap();
    write_random(&path, layout, tiny.config, WriteDtype::F32, 7).unwrap();
    let mut contents = Contents::default();
    for entry in fs::read_dir(&path).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        contents.files.insert(name, fs::read(&path).unwrap());
    }
    contents
        .files
        .insert("README.md".into(), b"nothing to load".to_vec());
    contents.files.insert("onnx/config.json".into(), b"{}".to_vec());
    contents
}

fn settings(server: &Server, cache: &Path) -> Settings {
    Settings {
        endpoint: server.endpoint.clone(),
        cache: cache.to_path_buf(),
        token: None,
        offline: false,
    }
}

fn model() -> Reference {
    "some/model".parse().unwrap()
}

fn pulled(settings: &Settings) -> Result<Pulled, HubError> {
    pull(settings, &model(), &mut |_, _, _| {})
}

fn repository_in(cache: &Path) -> PathBuf {
    cache.join("models--some--model")
}

fn blob(cache: &Path, bytes: &[u8]) -> PathBuf {
    repository_in(cache).join("blobs").join(hash(bytes))
}

fn incomplete(cache: &Path, bytes: &[u8]) -> PathBuf {
    repository_in(cache)
        .join("blobs")
        .join(format!("{}.incomplete", hash(bytes)))
}

/// Everything is there, as the server has it.
#[track_caller]
fn is_whole(found: &Pulled, contents: &Contents) {
    for file in &found.files {
        let bytes = fs::read(found.path.join(&file.name)).unwrap();
        assert!(bytes == contents.files[&file.name], "{}", file.name);
        assert_eq!(file.bytes, bytes.len() as u64);
    }
    assert!(found.files.iter().any(|file| file.name == "model.safetensors"));
}

#[test]
fn a_checkpoint_is_fetched_once_and_loads_under_its_repository_s_name() {
    let (cache, contents) = (TempDir::new().unwrap(), repository());
    let server = Server::start(contents.clone());
    let settings = settings(&server, cache.path());
    let mut seen = Vec::new();
    let found = pull(&settings, &model(), &mut |name, done, total| {
        seen.push((name.to_string(), done, total));
    })
    .unwrap();
    is_whole(&found, &contents);
    assert_eq!(found.commit, COMMIT);
    let names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
    assert!(!names.contains(&"README.md") && !names.contains(&"onnx/config.json"));
    assert!(found.files.iter().all(|file| file.fetched == file.bytes));
    let weights = &contents.files["model.safetensors"];
    let size = weights.len() as u64;
    assert_eq!(seen.last(), Some(&("model.safetensors".to_string(), size, size)));
    // As other tools have it.
    let folder = repository_in(cache.path());
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let snapshot = folder.join("snapshots").join(COMMIT);
    assert_eq!(found.path, snapshot);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(snapshot.join("model.safetensors")).unwrap(),
        Path::new(&format!("../../blobs/{}", hash(weights)))
    );
    assert!(!incomplete(cache.path(), weights).exists());
    let loaded = Model::load(&found.path, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.info().name, "model");
    // Again: the list of files, and nothing else.
    server.requests.lock().unwrap().clear();
    let sent = server.sent();
    let again = pulled(&settings).unwrap();
    assert_eq!(
        (again.path.clone(), again.commit.clone()),
        (found.path, found.commit)
    );
    assert!(again.files.iter().all(|file| file.fetched == 0));
    assert_eq!(server.requests.lock().unwrap().len(), 1);
    assert_eq!(server.sent(), sent);
    // Nothing at all is asked for what is there.
    assert_eq!(
        resolve(&settings, &model(), &mut |_, _, _| {}).unwrap().path,
        again.path
    );
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[test]
fn the_token_goes_to_the_endpoint_and_nowhere_else() {
    let cache = TempDir::new().unwrap();
    let server = Server::start(Contents {
        token: Some("secret".into()),
        ..repository()
    });
    let mut settings = settings(&server, cache.path());
    let error = pulled(&settings).unwrap_err();
    assert!(
        matches!(
            &error,
            HubError::Unauthorized {
                status: 401,
                had_token: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    settings.token = Some(Token("wrong".into()));
    let error = pulled(&settings).unwrap_err();
    assert!(
        matches!(&error, HubError::Unauthorized { had_token: true, .. }),
        "{error}"
    );
    settings.token = Some(Token("secret".into()));
    pulled(&settings).unwrap();
    let elsewhere = server.elsewhere.lock().unwrap();
    assert!(!elsewhere.is_empty());
    assert!(elsewhere.iter().all(|request| request.authorization.is_none()));
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let (cache, contents) = (TempDir::new().unwrap(), repository());
    let weights = &contents.files["model.safetensors"];
    let cut = weights.len() / 5 + 1;
    let server = Server::start(Contents {
        cut: Some(cut),
        ..contents.clone()
    });
    is_whole(&pulled(&settings(&server, cache.path())).unwrap(), &contents);
    let ranges: Vec<Option<String>> = server
        .gets("model.safetensors")
        .into_iter()
        .map(|request| request.range)
        .collect();
    let expected: Vec<Option<String>> = (0..5)
        .map(|part| (part > 0).then(|| format!("bytes={}-", part * cut)))
        .collect();
    assert_eq!(ranges, expected);
}

#[test]
fn what_an_interrupted_run_has_left_is_gone_on_from() {
    let (cache, contents) = (TempDir::new().unwrap(), repository());
    let weights = &contents.files["model.safetensors"];
    let left = incomplete(cache.path(), weights);
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, &weights[..1500]).unwrap();
    let server = Server::start(contents.clone());
    let found = pulled(&settings(&server, cache.path())).unwrap();
    is_whole(&found, &contents);
    let file = found
        .files
        .iter()
        .find(|file| file.name == "model.safetensors")
        .unwrap();
    assert_eq!(file.fetched, weights.len() as u64 - 1500);
    let gets = server.gets("model.safetensors");
    assert_eq!(gets.len(), 1);
    assert_eq!(gets[0].range.as_deref(), Some("bytes=1500-"));
    assert!(!left.exists());
}

#[test]
fn a_server_that_knows_no_ranges_is_begun_with_again() {
    let (cache, contents) = (TempDir::new().unwrap(), repository());
    let weights = &contents.files["model.safetensors"];
    let left = incomplete(cache.path(), weights);
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, &weights[..1500]).unwrap();
    let server = Server::start(Contents {
        ignores_ranges: true,
        ..contents.clone()
    });
    is_whole(&pulled(&settings(&server, cache.path())).unwrap(), &contents);
}

#[test]
fn a_connection_that_brings_nothing_is_given_up_and_what_came_stays() {
    let (cache, contents) = (TempDir::new().unwrap(), repository());
    let weights = &contents.files["model.safetensors"];
    let left = incomplete(cache.path(), weights);
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, &weights[..1000]).unwrap();
    let server = Server::start(Contents {
        cut: Some(0),
        ..contents.clone()
    });
    let settings = settings(&server, cache.path());
    let error = pulled(&settings).unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
    assert_eq!(fs::read(&left).unwrap(), &weights[..1000]);
    assert!(matches!(
        find(&settings, &model()),
        Err(HubError::NotCached { .. })
    ));
}

#[test]
fn contents_of_another_hash_are_refused_and_removed() {
    let (cache, contents) = (TempDir::new().unwrap(), repository());
    let server = Server::start(Contents {
        damaged: true,
        ..contents.clone()
    });
    let settings = settings(&server, cache.path());
    let error = pulled(&settings).unwrap_err();
    let HubError::Checksum { expected, found, .. } = &error else {
        panic!("{error}");
    };
    assert_ne!(expected, found);
    assert!(matches!(
        find(&settings, &model()),
        Err(HubError::NotCached { .. })
    ));
    assert!(!repository_in(cache.path()).join("snapshots").exists());
    // What an earlier run has left may be damaged too.
    let weights = &contents.files["model.safetensors"];
    let left = incomplete(cache.path(), weights);
    fs::write(&left, [b'?'; 100]).unwrap();
    server.change(|contents| contents.damaged = false);
    assert!(matches!(
        pulled(&settings).unwrap_err(),
        HubError::Checksum { .. }
    ));
    assert!(!left.exists() && !blob(cache.path(), weights).exists());
    is_whole(&pulled(&settings).unwrap(), &contents);
}

#[test]
fn what_is_not_there_is_said_so() {
    let cache = TempDir::new().unwrap();
    let server = Server::start(repository());
    let settings = settings(&server, cache.path());
    let pull = |text: &str| pull(&settings, &text.parse().unwrap(), &mut |_, _, _| {}).unwrap_err();
    for text in ["some/other", "some/model@v2"] {
        let error = pull(text);
        assert!(matches!(&error, HubError::NotFound { .. }), "{error}");
    }
    let error = pull("some/model:other.pth");
    assert!(matches!(&error, HubError::NoWeights { .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    let nobody = Settings {
        endpoint: "http://127.0.0.1:1".into(),
        ..settings.clone()
    };
    let error = pulled(&nobody).unwrap_err();
    assert!(matches!(&error, HubError::Connection { .. }), "{error}");
    server.change(|contents| contents.files.retain(|name, _| name == "README.md"));
    assert!(matches!(
        pulled(&settings).unwrap_err(),
        HubError::NoWeights { .. }
    ));
    assert!(!repository_in(cache.path()).exists());
}

#[test]
fn offline_it_is_what_the_cache_has_or_an_error_that_says_so() {
    let (cache, contents) = (TempDir::new().unwrap(), repository());
    let server = Server::start(contents.clone());
    let online = settings(&server, cache.path());
    let offline = Settings {
        offline: true,
        ..online.clone()
    };
    let get = |settings: &Settings| pull(settings, &model(), &mut |_, _, _| {});
    let error = get(&offline).unwrap_err();
    assert!(matches!(&error, HubError::Offline { .. }), "{error}");
    assert!(
        error.to_string().contains("HF_HUB_OFFLINE") && error.to_string().contains("revision main"),
        "{error}"
    );
    assert!(server.requests.lock().unwrap().is_empty());
    get(&online).unwrap();
    let asked = server.requests.lock().unwrap().len();
    is_whole(&get(&offline).unwrap(), &contents);
    is_whole(
        &resolve(&offline, &model(), &mut |_, _, _| {}).unwrap(),
        &contents,
    );
    let commit = format!("some/model@{COMMIT}").parse().unwrap();
    assert_eq!(find(&offline, &commit).unwrap().commit, COMMIT);
    assert_eq!(server.requests.lock().unwrap().len(), asked);
    // A part of it is not it.
    fs::remove_file(blob(cache.path(), &contents.files["model.safetensors"])).unwrap();
    assert!(matches!(get(&offline).unwrap_err(), HubError::Offline { .. }));
    is_whole(&get(&online).unwrap(), &contents);
}

#[test]
fn shards_come_with_their_index_and_none_is_left_out() {
    let (cache, mut contents) = (TempDir::new().unwrap(), repository());
    let weights = contents.files.remove("model.safetensors").unwrap();
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    contents
        .files
        .insert("model.safetensors.index.json".into(), index.into());
    contents.files.insert("one.safetensors".into(), weights.clone());
    let server = Server::start(contents.clone());
    let settings = settings(&server, cache.path());
    let error = pulled(&settings).unwrap_err();
    assert!(error.to_string().contains("two.safetensors"), "{error}");
    server.change(|contents| {
        contents
            .files
            .insert("two.safetensors".into(), weights[..3000].to_vec());
    });
    let found = pulled(&settings).unwrap();
    let names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
    assert!(
        names.ends_with(&[
            "model.safetensors.index.json",
            "one.safetensors",
            "two.safetensors"
        ]),
        "{names:?}"
    );
    let mut cached = find(&settings, &model()).unwrap().files;
    cached.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(cached.len(), names.len());
    fs::remove_file(found.path.join("two.safetensors")).unwrap();
    let missing = find(&settings, &model()).unwrap_err().to_string();
    assert!(missing.contains("two.safetensors"), "{missing}");
}

#[test]
fn names_that_lead_out_of_the_cache_are_no_files_of_a_repository() {
    let (cache, mut contents) = (TempDir::new().unwrap(), repository());
    contents.listed = ["../config.json", "/elsewhere/x.pth", "a/../../y", ""]
        .map(String::from)
        .to_vec();
    let server = Server::start(contents.clone());
    is_whole(&pulled(&settings(&server, cache.path())).unwrap(), &contents);
    let asked = server.requests.lock().unwrap();
    assert!(asked.iter().all(|request| !request.path.contains("..")));
}
