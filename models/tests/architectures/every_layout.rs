//! What must hold for every layout there is, on random checkpoints of it, drawn over depths, vocabularies and seeds.
//!
//! A layout added to the registry is tested here without another line.

use crate::common;

mod equivalence {
    use std::path::Path;

    use burn::tensor::Tensor;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use spillway_models::checkpoint::WriteDtype;
    use spillway_models::init::{preset, write_random};
    use spillway_models::layout::Layout;
    use spillway_models::registry::language_layouts;
    use spillway_models::{LoadOptions, Logits, Model, ModelState};
    use spillway_ssm_core::Chain;
    use tempfile::TempDir;

    use super::common::relative_error;

    /// Two f32 computations of the same thing, through a few random layers.
    const REORDERED: f64 = 2e-5;

    /// A tiny configuration with another depth and vocabulary, by the names that each family of layouts has for them.
    fn config(layout: &Layout, depth: usize, vocabulary: usize) -> String {
        let text = preset(layout, "tiny")
            .unwrap_or_else(|| panic!("{} ({}) has no tiny preset", layout.architecture, layout.name))
            .config;
        let mut config: Value = serde_json::from_str(text).unwrap();
        for field in ["n_layer", "num_hidden_layers"] {
            // Lists of special layers name layers of the preset's own depth.
            if config.get(field).is_some() && !has_lists_of_layers(&config) {
                config[field] = json!(depth);
            }
        }
        config["vocab_size"] = json!(vocabulary);
        config.to_string()
    }

    fn has_lists_of_layers(config: &Value) -> bool {
        let filled = |field: &str| {
            config
                .get(field)
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty())
        };
        let lists = [
            "attn_layer_idx",
            "attn_layer_indices",
            "alt_mixer_layers",
            "value_dim",
            "layer_types",
            "layers_block_type",
        ];
        lists.into_iter().any(filled)
            || config.pointer("/attn/layers").is_some()
            || config.get("hybrid_override_pattern").is_some()
            || config.get("linear_attn_config").is_some()
    }

    fn load(layout: &Layout, config: &str, seed: u64) -> Model {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model");
        write_random(&path, layout, config, WriteDtype::F32, seed)
            .unwrap_or_else(|error| panic!("{} ({}): {error}", layout.architecture, layout.name));
        load_folder(&path)
    }

    fn load_folder(path: &Path) -> Model {
        Model::load(path, &LoadOptions::default()).unwrap()
    }

    fn values(tensor: Tensor<3>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// Logits of all tokens, taken in calls of these lengths and one for the rest, and the state after them.
    fn run(model: &Model, ids: &[u32], calls: &[usize]) -> (Vec<f32>, ModelState) {
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let (mut logits, mut rest) = (Vec::new(), ids);
        for call in calls.iter().chain([&usize::MAX]) {
            let (now, later) = rest.split_at((*call).min(rest.len()));
            logits.extend(values(
                model.logits_batched(now, &mut state, Logits::All).unwrap(),
            ));
            rest = later;
        }
        (logits, state)
    }

    fn saved(state: &ModelState) -> Vec<f64> {
        let parts = state
            .layers
            .iter()
            .flat_map(|layer| [&layer.mixer, &layer.channel]);
        let entries = parts.flat_map(|part| part.save().into_values());
        entries
            .flat_map(|data| data.iter::<f64>().collect::<Vec<_>>())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2407), ..ProptestConfig::with_cases(6) })]

        /// A prompt in one call, token by token, and in any mixture of calls: the same logits and the same state.
        #[test]
        fn prefill_is_decode_is_any_mixture_in_every_layout(
            seed in any::<u64>(),
            depth in 1usize..4,
            vocabulary in 20usize..300,
            time in 1usize..150,
            calls in prop::collection::vec(0usize..70, 0..6),
        ) {
            for layout in language_layouts() {
                let model = load(layout, &config(layout, depth, vocabulary), seed);
                let ids: Vec<u32> = (0..time as u64)
                    .map(|i| ((seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 33) as u32 % vocabulary as u32)
                    .collect();
                let (expected, state) = run(&model, &ids, &vec![1; time]);
                let norm = expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                prop_assert!(norm.is_finite() && norm > 0.0);
                for calls in [&[][..], &calls] {
                    let (found, after) = run(&model, &ids, calls);
                    let error = relative_error(found, expected.iter().map(|v| f64::from(*v)));
                    prop_assert!(error <= REORDERED, "{} ({}): logits {error:e}", layout.architecture, layout.name);
                    let error = relative_error(saved(&after).into_iter().map(|v| v as f32), saved(&state));
                    prop_assert!(error <= REORDERED, "{} ({}): states {error:e}", layout.architecture, layout.name);
                    prop_assert_eq!(after.position(), time as u64);
                }
            }
        }
    }
}

mod registry {
    use spillway_models::registry::{layouts, written_layouts};

    #[test]
    fn every_layout_has_sizes_and_a_name_of_its_own() {
        let mut names: Vec<_> = layouts()
            .iter()
            .map(|layout| (layout.architecture, layout.name))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two layouts of one name");
        for layout in written_layouts() {
            let sizes: Vec<&str> = layout.presets.iter().map(|preset| preset.size).collect();
            assert!(
                sizes.contains(&"tiny"),
                "{} ({})",
                layout.architecture,
                layout.name
            );
            for preset in layout.presets {
                let config: Result<serde_json::Value, _> = serde_json::from_str(preset.config);
                assert!(
                    config.is_ok(),
                    "{} ({}) {}",
                    layout.architecture,
                    layout.name,
                    preset.size
                );
            }
        }
    }
}
