//! Random checkpoints: written, loaded and generated from, each the same for the same seed.

use crate::common;

use std::fs;
use std::ops::ControlFlow;

use spillway_models::checkpoint::WriteDtype;
use spillway_models::generation::{Finish, Sampling, generate};
use spillway_models::init::{preset, write_random};
use spillway_models::layout::{Layout, Preset};
use spillway_models::registry::layouts_of;
use spillway_models::{LoadOptions, Logits, Model, ModelError};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

/// A small Mamba-2 in the layout of the original code.
fn tiny() -> (&'static Layout, &'static Preset) {
    let layout = layouts_of("mamba2").next().unwrap();
    (layout, preset(layout, "tiny").unwrap())
}

#[test]
fn random_checkpoints_can_be_loaded_and_are_the_same_for_the_same_seed() {
    let folder = TempDir::new().unwrap();
    let (layout, tiny) = tiny();
    let write = |name: &str, dtype, seed| {
        write_random(&folder.path().join(name), layout, tiny.config, dtype, seed).unwrap()
    };
    write("a", WriteDtype::F32, 1);
    write("b", WriteDtype::F32, 1);
    write("c", WriteDtype::F32, 2);
    write("d", WriteDtype::Bf16, 1);
    let weights = |name: &str| fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert!(weights("a") == weights("b"));
    assert!(weights("a") != weights("c"));
    for (name, dtype) in [("a", "F32"), ("d", "BF16")] {
        let model = Model::load(&folder.path().join(name), &LoadOptions::default()).unwrap();
        assert_eq!(model.info().stored_as, [dtype]);
        let ids: Vec<u32> = (0..64).collect();
        let losses = model
            .losses(&ids, &ids, &mut model.start(&Chain::default(), 1).unwrap())
            .unwrap();
        let mean = losses.iter().sum::<f32>() / 64.0;
        // An untrained model knows next to nothing: log 256 = 5.55.
        assert!((mean - 5.55).abs() < 1.0, "{mean}");
    }
    let error = write_random(&folder.path().join("a"), layout, tiny.config, WriteDtype::F32, 1).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert!(preset(layout, "7t").is_none());
}

#[test]
fn generation_streams_stops_and_repeats_itself_for_the_same_seed() {
    let model = Model::shipped(&LoadOptions::default()).unwrap();
    let prompt = model.tokenizer().encode("And it came to pass").unwrap();
    let run = |sampling: &Sampling, stop: &[String]| {
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let mut streamed = String::new();
        let generated = generate(&model, &mut state, &prompt, sampling, 60, stop, |piece| {
            streamed.push_str(piece);
            ControlFlow::Continue(())
        });
        let generated = generated.unwrap();
        assert_eq!(streamed, generated.text);
        generated
    };
    let warm = Sampling {
        temperature: 0.9,
        top_k: Some(40),
        top_p: Some(0.95),
        seed: 3,
        ..Sampling::greedy()
    };
    let first = run(&warm, &[]);
    assert_eq!((first.ids.len(), first.finish.clone()), (60, Finish::Length));
    assert_eq!(first, run(&warm, &[]));
    assert_ne!(first.ids, run(&Sampling { seed: 4, ..warm }, &[]).ids);
    let stop = first.text.get(10..14).unwrap().to_string();
    let stopped = run(&warm, std::slice::from_ref(&stop));
    assert_eq!(stopped.text, first.text[..first.text.find(&stop).unwrap()]);
    assert_eq!(stopped.finish, Finish::Stop(stop));
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let cancel = |_: &str| ControlFlow::Break(());
    let cancelled = generate(&model, &mut state, &prompt, &warm, 60, &[], cancel).unwrap();
    assert_eq!((cancelled.ids.len(), cancelled.finish), (1, Finish::Cancelled));
    let none = generate(&model, &mut state, &[], &warm, 60, &[], |_| {
        ControlFlow::Continue(())
    });
    assert!(matches!(none, Err(ModelError::EmptyPrompt)));
}

/// Weights that are bf16 already are exact in bf16: keeping them so rounds what is multiplied with them to bf16, and nothing else.
#[test]
fn bf16_weights_kept_as_bf16_lose_what_rounding_their_inputs_costs() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    let (layout, tiny) = tiny();
    write_random(&path, layout, tiny.config, WriteDtype::Bf16, 5).unwrap();
    let ids: Vec<u32> = (0..100).map(|i| (i * 37) % 256).collect();
    let logits = |weights| {
        let model = Model::load(&path, &LoadOptions::with_weights(weights)).unwrap();
        let logits = model
            .logits(&ids, &mut model.start(&Chain::default(), 1).unwrap(), Logits::All)
            .unwrap();
        logits.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    let expected = logits(spillway_models::WeightType::F32);
    let error = common::relative_error(
        logits(spillway_models::WeightType::Bf16),
        expected.into_iter().map(f64::from),
    );
    assert!((1e-5..=5e-3).contains(&error), "relative error {error:e}");
}
