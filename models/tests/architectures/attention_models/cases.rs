//! Random checkpoints with attention, of any configuration.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use spillway_models::checkpoint::{StoredTensors, WriteDtype};
use spillway_models::{LoadOptions, Model};
use tempfile::TempDir;

use super::disturbed::{disturb, ids};

pub const VOCABULARY: usize = 19;

/// A configuration of a layout, and a seed for its weights.
#[derive(Clone, Debug)]
pub struct Case {
    pub layout: (&'static str, &'static str),
    pub config: Value,
    pub seed: u64,
}

const ORIGINAL: &str = "original (state-spaces)";

fn case(layout: (&'static str, &'static str)) -> impl Fn((Value, u64)) -> Case {
    move |(config, seed)| Case { layout, config, seed }
}

/// A Transformer, grouped or not, with a window or not.
fn llama() -> impl Strategy<Value = Case> {
    let sizes = (1..3usize, 1..4usize, 1..4usize, 1..5usize);
    let window = prop_oneof![Just(Value::Null), (1..9u64).prop_map(Value::from)];
    let choices = (window, any::<bool>(), any::<bool>(), 0..3usize, any::<u64>());
    (sizes, choices)
        .prop_map(|((groups, shared, pairs, hidden), (window, tied, bias, positions, seed))| {
            let mut config = json!({
                "model_type": if window.is_null() { "llama" } else { "mistral" },
                "vocab_size": VOCABULARY, "hidden_size": 6, "num_hidden_layers": 2, "intermediate_size": hidden,
                "num_attention_heads": groups * shared, "num_key_value_heads": groups, "head_dim": 2 * pairs,
                "rms_norm_eps": 1e-3, "tie_word_embeddings": tied, "attention_bias": bias, "mlp_bias": bias,
                "sliding_window": window,
            });
            // Where older files keep the base, and where newer ones do; rescaled angles, of fast, slow and other pairs.
            match positions {
                0 => config["rope_theta"] = json!(500.0),
                1 => config["rope_parameters"] = json!({"rope_theta": 500.0, "rope_type": "default"}),
                _ => {
                    config["rope_parameters"] = json!({"rope_theta": 500.0, "rope_type": "llama3", "factor": 8.0,
                        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
                }
            }
            (config, seed)
        })
        .prop_map(case(("llama", "Hugging Face")))
}

/// Mamba-1 or Mamba-2 in the original layout, with attention layers and MLPs or without.
fn hybrid(second: bool) -> impl Strategy<Value = Case> {
    let attention = prop::sample::select(vec![json!([]), json!([0]), json!([1]), json!([0, 2])]);
    let sizes = (
        1..3usize,
        1..3usize,
        1..3usize,
        0..2usize,
        prop_oneof![Just(0usize), 1..5usize],
    );
    let choices = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0usize), 1..5usize],
        any::<u64>(),
    );
    (attention, sizes, choices)
        .prop_map(move |(layers, (groups, shared, pairs, extra, conv), (bias, interleaved, mlp, rotary, seed))| {
            let head_dim = 2 * pairs + extra;
            let ssm = match second {
                true => json!({"layer": "Mamba2", "d_state": 3, "headdim": 4, "d_conv": 3}),
                false => json!({"d_state": 3, "d_conv": 3, "bias": bias}),
            };
            let config = json!({
                "d_model": 6, "n_layer": 3, "vocab_size": VOCABULARY, "pad_vocab_size_multiple": 1, "ssm_cfg": ssm,
                "rms_norm": true, "attn_layer_idx": layers, "d_intermediate": if mlp { 5 } else { 0 },
                "attn_cfg": {
                    "causal": true, "num_heads": groups * shared, "num_heads_kv": groups, "head_dim": head_dim,
                    "rotary_emb_dim": 2 * rotary.min(pairs), "rotary_emb_interleaved": interleaved,
                    "rotary_emb_base": 300.0, "d_conv": conv, "qkv_proj_bias": bias, "out_proj_bias": !bias,
                },
            });
            (config, seed)
        })
        .prop_map(case((if second { "mamba2" } else { "mamba1" }, ORIGINAL)))
}

/// Mamba-1 in the layout of `transformers`.
fn mamba() -> impl Strategy<Value = Case> {
    (1..4usize, 1..5usize, 1..5usize, any::<bool>(), any::<bool>(), any::<u64>())
        .prop_map(|(rank, state, taps, bias, tied, seed)| {
            let config = json!({
                "model_type": "mamba", "vocab_size": VOCABULARY, "hidden_size": 6, "num_hidden_layers": 2,
                "intermediate_size": 10, "state_size": state, "time_step_rank": rank, "conv_kernel": taps,
                "layer_norm_epsilon": 1e-5, "use_bias": bias, "use_conv_bias": !bias, "tie_word_embeddings": tied,
            });
            (config, seed)
        })
        .prop_map(case(("mamba1", "Hugging Face")))
}

/// Based, its three mixers in any order.
fn based() -> impl Strategy<Value = Case> {
    let layers = prop::sample::select(vec![[0, 1], [1, 0], [2, 1], [1, 2]]);
    (layers, 1..4usize, 1..12usize, 1..3usize, any::<bool>(), any::<u64>())
        .prop_map(|([taylor, sliding], feature_dim, window, heads, bias, seed)| {
            let mixers = "based.models.mixers";
            let config = json!({
                "model_type": "gpt2", "vocab_size": VOCABULARY, "pad_vocab_size_multiple": 4, "n_embd": 4, "n_layer": 3,
                "n_inner": 5, "rms_norm": true, "activation_function": "swiglu", "layer_norm_epsilon": 1e-5,
                "alt_mixer_layers": [taylor], "alt_mixer_2_layers": [sliding], "mlp_fc1_bias": bias,
                "mlp_fc2_bias": bias, "max_position_embeddings": 0, "tie_word_embeddings": true,
                "mixer": {"_target_": format!("{mixers}.convolution.BaseConv"), "expand_proj": 4, "use_bias": bias},
                "alt_mixer": {
                    "_target_": format!("{mixers}.linear_attention.LinearAttention"),
                    "feature_dim": feature_dim, "num_heads": heads,
                    "feature_map": {"_target_": format!("{mixers}.linear_attention.TaylorExp")},
                },
                "alt_mixer_2": {
                    "_target_": format!("{mixers}.slide_attention.SlidingAttention"),
                    "window_size": window, "num_heads": heads,
                },
            });
            (config, seed)
        })
        .prop_map(case(("based", "HazyResearch")))
}

/// Any of them.
pub fn cases() -> impl Strategy<Value = Case> {
    prop_oneof![llama(), hybrid(false), hybrid(true), mamba(), based()]
}

impl Case {
    /// The model, and the folder that it came from.
    pub fn load(&self) -> (TempDir, Model) {
        let folder = tempfile::tempdir().unwrap();
        let drawn = folder.path().join("drawn");
        let (architecture, name) = self.layout;
        let mut layouts = spillway_models::registry::layouts_of(architecture);
        let layout = layouts.find(|layout| layout.name == name).unwrap();
        spillway_models::init::write_random(
            &drawn,
            layout,
            &self.config.to_string(),
            WriteDtype::F32,
            self.seed,
        )
        .unwrap_or_else(|e| panic!("{e}: {}", self.config));
        std::fs::copy(drawn.join("config.json"), folder.path().join("config.json")).unwrap();
        self.disturb(&drawn, folder.path());
        let model = Model::load(folder.path(), &LoadOptions::default());
        let model = model.unwrap_or_else(|e| panic!("{e}: {}", self.config));
        (folder, model)
    }

    /// A head that is stored though tied stays the embedding.
    fn disturb(&self, from: &Path, to: &Path) {
        let stored = StoredTensors::open(&from.join("model.safetensors")).unwrap();
        let tied = stored
            .names()
            .any(|name| name.contains("embedding.weight") || name.contains("word_embeddings"));
        disturb(&stored, to, self.seed, 0.4, |name| {
            !(tied && name == "lm_head.weight")
        });
    }

    pub fn ids(&self, count: usize) -> Vec<u32> {
        ids(self.seed, count, VOCABULARY)
    }
}
