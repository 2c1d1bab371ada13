//! Random checkpoints of any configuration.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use spillway_models::checkpoint::{StoredTensors, WriteDtype};
use spillway_models::{LoadOptions, Model, ModelError};
use tempfile::TempDir;

use super::disturbed::{disturb, ids};

pub const VOCABULARY: usize = 19;

/// A configuration and a seed for its weights.
#[derive(Clone, Debug)]
pub struct Case {
    pub config: Value,
    pub seed: u64,
}

/// Fields that any of the models may have, by name: those that a model does not know are left out.
fn options(model_type: &'static str) -> impl Strategy<Value = Map<String, Value>> {
    let either = |a: Value, b: Value| prop_oneof![Just(a), Just(b)].boxed();
    let flag = || either(json!(true), json!(false));
    let one_of = |values: Vec<Value>| proptest::sample::select(values).boxed();
    let names = |names: &[&str]| {
        one_of(
            names
                .iter()
                .map(|name| json!(name))
                .chain([Value::Null])
                .collect(),
        )
    };
    let activations = || names(&["relu", "swish", "silu", "sigmoid"]);
    let ratio = || either(json!(1), json!(0.5));
    let fields: Vec<(&str, BoxedStrategy<Value>)> = match model_type {
        "retnet" => vec![
            ("expand_k", ratio()),
            ("expand_v", ratio()),
            ("feature_map", activations()),
            ("use_output_gate", flag()),
            ("fuse_norm", flag()),
            ("elementwise_affine", flag()),
        ],
        "gla" => vec![
            ("expand_k", ratio()),
            ("expand_v", ratio()),
            ("feature_map", activations()),
            ("use_output_gate", flag()),
            ("fuse_norm", flag()),
            ("use_short_conv", flag()),
            ("conv_bias", flag()),
            ("clamp_min", either(Value::Null, json!(-0.03))),
            ("gate_low_rank_dim", either(json!(16), json!(3))),
            ("gate_logit_normalizer", either(Value::Null, json!(4))),
        ],
        "simple_gla" => vec![
            ("expand_k", ratio()),
            ("expand_v", ratio()),
            ("feature_map", activations()),
            ("use_short_conv", flag()),
            ("conv_size", either(json!(4), json!(2))),
        ],
        "linear_attn" => vec![
            ("expand_k", ratio()),
            ("expand_v", ratio()),
            (
                "feature_map",
                names(&[
                    "elu",
                    "relu",
                    "hedgehog",
                    "t2r",
                    "identity",
                    "dpfp",
                    "elementwise_product",
                ]),
            ),
            ("elementwise_affine", flag()),
        ],
        "hgrn" => vec![
            ("use_short_conv", flag()),
            ("conv_bias", flag()),
            ("use_lower_bound", flag()),
            ("elementwise_affine", flag()),
        ],
        "hgrn2" => vec![
            ("expand_ratio", either(Value::Null, json!(6))),
            ("use_short_conv", flag()),
            ("conv_bias", flag()),
            ("use_lower_bound", flag()),
            ("elementwise_affine", flag()),
        ],
        "gsa" => vec![
            ("expand_k", ratio()),
            ("feature_map", names(&["swish", "relu", "t2r"])),
            ("num_slots", either(json!(3), Value::Null)),
            ("use_short_conv", flag()),
            ("elementwise_affine", flag()),
            ("gate_logit_normalizer", either(json!(8), json!(2))),
        ],
        "abc" => vec![
            ("expand_k", ratio()),
            ("expand_v", ratio()),
            ("num_slots", either(json!(3), Value::Null)),
            ("use_rope", flag()),
            ("use_short_conv", flag()),
            ("elementwise_affine", flag()),
            ("clamp_min", either(Value::Null, json!(-0.2))),
            ("clamp_max", either(Value::Null, json!(0.3))),
        ],
        "rebased" => vec![
            ("feature_dim", either(json!(5), json!(8))),
            ("normalize", flag()),
            ("use_beta", flag()),
            ("eps", either(Value::Null, json!(0.01))),
        ],
        "delta_net" => vec![
            ("expand_k", ratio()),
            ("expand_v", ratio()),
            ("use_gate", flag()),
            ("use_beta", flag()),
            ("use_short_conv", flag()),
            ("allow_neg_eigval", flag()),
            ("qk_activation", names(&["silu", "relu", "elu", "identity"])),
        ],
        grouped => vec![
            ("head_dim", either(json!(4), json!(6))),
            ("expand_v", either(json!(2), json!(0.5))),
            ("num_v_heads", one_of(vec![Value::Null, json!(4), json!(8)])),
            (
                match grouped {
                    "gated_deltanet" => "use_gate",
                    _ => "use_output_gate",
                },
                flag(),
            ),
            ("use_short_conv", flag()),
            ("allow_neg_eigval", flag()),
            ("lower_bound", either(Value::Null, json!(-3.0))),
            ("use_forget_gate", flag()),
            ("num_householder", either(json!(1), json!(3))),
            ("use_inner_decay", flag()),
            ("use_output_correction", flag()),
        ],
    };
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| value.prop_map(move |value| (name.to_string(), value)))
        .collect();
    fields.prop_map(Map::from_iter)
}

/// The architectures.
pub const MODELS: [&str; 15] = [
    "retnet",
    "gla",
    "simple_gla",
    "linear_attn",
    "hgrn",
    "hgrn2",
    "gsa",
    "abc",
    "rebased",
    "delta_net",
    "gated_deltanet",
    "kda",
    "gated_deltaproduct",
    "comba",
    "gdn2",
];

/// Any model with any options.
pub fn cases() -> impl Strategy<Value = Case> {
    let model = proptest::sample::select(&MODELS[..]);
    let options = model.prop_flat_map(|model| options(model).prop_map(move |options| (model, options)));
    (options, 0usize..2, any::<bool>(), 1usize..3, any::<u64>()).prop_map(
        |((model, mut config), shared, tied, layers, seed)| {
            let fixed = json!({
                "model_type": model, "hidden_size": 16, "num_hidden_layers": layers, "num_heads": 4,
                "intermediate_size": 12, "vocab_size": VOCABULARY, "tie_word_embeddings": tied, "eos_token_id": 2
            });
            config.extend(fixed.as_object().unwrap().clone());
            if matches!(model, "retnet" | "gla" | "simple_gla" | "linear_attn" | "gsa") && shared == 1 {
                config.insert("num_kv_heads".into(), json!(2));
            }
            positive_sums(model, &mut config, seed);
            // Half of the models have attention in one of their layers.
            if seed & 8 == 8 {
                let window = if seed & 16 == 16 { json!(3) } else { Value::Null };
                let spec = json!({
                    "layers": [layers - 1], "num_heads": 4, "num_kv_heads": if seed & 32 == 32 { 2 } else { 4 },
                    "qkv_bias": seed & 64 == 64, "window_size": window, "rope_theta": 100.0
                });
                config.insert("attn".into(), spec);
            }
            Case {
                config: Value::Object(config),
                seed,
            }
        },
    )
}

/// Division by a sum is asked for only where features are positive: elsewhere sums come near 0 and nothing can be compared.
fn positive_sums(model: &str, config: &mut Map<String, Value>, seed: u64) {
    let map =
        |config: &Map<String, Value>, name: &str| config.get(name).and_then(Value::as_str).map(String::from);
    if model == "linear_attn" && matches!(map(config, "feature_map").as_deref(), Some("elu" | "hedgehog")) {
        for (bit, name) in ["norm_q", "norm_k", "norm_feature_map"].iter().enumerate() {
            config.insert((*name).into(), json!(seed >> bit & 1 == 1));
        }
    }
    if model == "delta_net" && map(config, "qk_activation").as_deref() == Some("elu") {
        config.insert("qk_norm".into(), json!(if seed & 1 == 1 { "sum" } else { "l2" }));
    }
}

/// The layout of a configuration.
pub fn write(folder: &std::path::Path, config: &Value, seed: u64) -> Result<(), ModelError> {
    let architecture = config["model_type"].as_str().unwrap();
    let layout = spillway_models::registry::layouts_of(architecture)
        .next()
        .unwrap();
    spillway_models::init::write_random(folder, layout, &config.to_string(), WriteDtype::F32, seed)
}

impl Case {
    /// The model, and the folder that it came from.
    pub fn load(&self) -> (TempDir, Model) {
        let folder = tempfile::tempdir().unwrap();
        let drawn = folder.path().join("drawn");
        write(&drawn, &self.config, self.seed).unwrap_or_else(|e| panic!("{e}: {}", self.config));
        std::fs::copy(drawn.join("config.json"), folder.path().join("config.json")).unwrap();
        let stored = StoredTensors::open(&drawn.join("model.safetensors")).unwrap();
        disturb(&stored, folder.path(), self.seed, 0.3, |_| true);
        let model = Model::load(folder.path(), &LoadOptions::default());
        let model = model.unwrap_or_else(|e| panic!("{e}: {}", self.config));
        (folder, model)
    }

    pub fn ids(&self, count: usize) -> Vec<u32> {
        ids(self.seed, count, VOCABULARY)
    }
}
