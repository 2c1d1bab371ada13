//! Starting a model again, or its attention layers alone, at regular positions.

use spillway_models::checkpoint::WriteDtype;
use spillway_models::evaluation::diagnosis::treatment::Treatment;
use spillway_models::init::{preset, write_random};
use spillway_models::registry::language_layouts;
use spillway_models::{LoadOptions, Logits, Model, ModelState};
use tempfile::TempDir;

use crate::common::relative_error;
use crate::disturbed::ids;

const PERIOD: u64 = 8;
const VOCABULARY: usize = 64;
/// Two f32 computations of the same thing, through a few random layers.
const REORDERED: f64 = 2e-5;

/// Every tiny language model whose name begins so, of any layout.
fn tiny(architecture: &str) -> impl Iterator<Item = (String, Model)> {
    let layouts = language_layouts().filter(move |layout| layout.architecture.starts_with(architecture));
    layouts.map(|layout| {
        let name = format!("{} ({})", layout.architecture, layout.name);
        let tiny = preset(layout, "tiny").expect("a tiny preset");
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model");
        write_random(&path, layout, tiny.config, WriteDtype::F32, 5).unwrap();
        (name, Model::load(&path, &LoadOptions::default()).unwrap())
    })
}

/// Logits of every token, read under a treatment from the first one on, and the state after the last.
fn read(model: &Model, treatment: &Treatment, ids: &[u32]) -> (Vec<f32>, ModelState) {
    let mut state = treatment.start(model).unwrap();
    let (mut logits, mut position) = (Vec::new(), 0);
    while position < ids.len() {
        let left = (ids.len() - position) as u64;
        let count = treatment.enter(model, &mut state, position as u64, left).unwrap() as usize;
        let found = model.logits(&ids[position..position + count], &mut state, Logits::All);
        logits.extend(found.unwrap().into_data().iter::<f32>());
        position += count;
    }
    (logits, state)
}

fn recurrent_states(state: &ModelState) -> Vec<Vec<f32>> {
    let values = |state: &spillway_ssm_core::State| state.memory.to_data().iter::<f32>().collect();
    state.recurrences().map(|site| values(&site.state)).collect()
}

fn attends(state: &ModelState) -> bool {
    let mut layers = state.layers.iter();
    layers.any(|layer| layer.mixer.attends() || layer.channel.attends())
}

#[test]
fn a_model_of_attention_alone_starts_again_as_its_attention_does() {
    // Rotary positions are relative: it does not matter where attention starts.
    for (name, model) in tiny("llama") {
        let ids = ids(3, 29, VOCABULARY);
        let (whole, _) = read(&model, &Treatment::restart(PERIOD), &ids);
        let (attention, _) = read(&model, &Treatment::restart_attention(PERIOD), &ids);
        let (plain, _) = read(&model, &Treatment::default(), &ids);
        let error = relative_error(attention, whole.iter().map(|value| f64::from(*value)));
        assert!(error <= REORDERED, "{name}: {error:e}");
        let change = relative_error(plain, whole.iter().map(|value| f64::from(*value)));
        assert!(
            change > 1e-3,
            "{name}: a restart changes the logits by {change:e}"
        );
    }
}

#[test]
fn recurrences_of_a_hybrid_go_on_while_its_attention_starts_again() {
    let mut hybrids = 0;
    for (name, model) in tiny("") {
        let ids = ids(7, PERIOD as usize, VOCABULARY);
        let treatment = Treatment::restart_attention(PERIOD);
        let (_, mut state) = read(&model, &treatment, &ids);
        if !attends(&state) || model.info().sites.is_empty() {
            continue;
        }
        hybrids += 1;
        let (before, bytes) = (recurrent_states(&state), state.bytes());
        treatment.enter(&model, &mut state, PERIOD, 1).unwrap();
        assert_eq!(recurrent_states(&state), before, "{name}");
        assert_eq!(state.position(), PERIOD, "{name}");
        assert!(before.iter().flatten().any(|value| *value != 0.0), "{name}");
        let fresh = treatment.start(&model).unwrap();
        assert!(state.bytes() < bytes, "{name}: keys and values are still there");
        assert_eq!(state.bytes(), fresh.bytes(), "{name}");
    }
    assert!(hybrids >= 10, "only {hybrids} hybrids were tried");
}
