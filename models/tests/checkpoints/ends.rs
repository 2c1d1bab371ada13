//! Which ids end a text: one or several of `config.json`, those of `generation_config.json` before them, or those that are asked for.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::generation::{Finish, Sampling, generate};
use spillway_models::init::{preset, write_random};
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Model};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

/// A random model whose configuration has these ids.
fn write(folder: &Path, eos: Value) {
    let layout = layouts_of("mamba2")
        .find(|layout| layout.name == "Hugging Face")
        .unwrap();
    let mut config: Value = serde_json::from_str(preset(layout, "tiny").unwrap().config).unwrap();
    config["eos_token_id"] = eos;
    write_random(folder, layout, &config.to_string(), WriteDtype::F32, 1).unwrap();
}

fn load(folder: &Path) -> Model {
    Model::load(folder, &LoadOptions::default()).unwrap()
}

/// The likeliest eight tokens, unless it ends before.
fn greedy(model: &Model) -> (Vec<u32>, Finish) {
    let sampling = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let take = |_: &str| ControlFlow::Continue(());
    let found = generate(model, &mut state, &[1, 2, 3], &sampling, 8, &[], take).unwrap();
    (found.ids, found.finish)
}

#[test]
fn every_id_of_a_list_ends_a_text_and_the_generation_configuration_comes_first() {
    let folder = TempDir::new().unwrap();
    let free = folder.path().join("free");
    write(&free, Value::Null);
    let (ids, finish) = greedy(&load(&free));
    assert_eq!((ids.len(), &finish), (8, &Finish::Length));
    let place = ids
        .iter()
        .position(|id| *id != ids[0])
        .expect("two different tokens");
    let (end, before) = (ids[place], ids[..place].to_vec());
    let other = (0..256).find(|id| !ids.contains(id)).unwrap();
    let ended = (before, Finish::End);

    let list = folder.path().join("list");
    write(&list, json!([other, end]));
    assert_eq!(greedy(&load(&list)), ended);
    let one = folder.path().join("one");
    write(&one, json!(end));
    assert_eq!(greedy(&load(&one)), ended);

    let generation = |folder: &Path, eos: Value| {
        fs::write(
            folder.join("generation_config.json"),
            json!({"eos_token_id": eos}).to_string(),
        )
        .unwrap();
    };
    generation(&free, json!([other, end]));
    assert_eq!(greedy(&load(&free)), ended);
    generation(&one, json!(other));
    assert_eq!(greedy(&load(&one)), (ids.clone(), Finish::Length));
    generation(&one, Value::Null);
    assert_eq!(greedy(&load(&one)), ended);
    generation(&one, json!("</s>"));
    let error = Model::load(&one, &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("generation_config.json") && error.contains("eos_token_id"),
        "{error}"
    );

    let mut asked = load(&list);
    asked.end_at(Vec::new());
    assert_eq!(greedy(&asked), (ids, Finish::Length));
}
