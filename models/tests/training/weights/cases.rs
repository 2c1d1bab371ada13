//! The models that are tested: every tiny size of every layout, and what configurations may switch on beyond these.

use burn::tensor::Device;
use serde_json::{Map, Value, json};
use spillway_models::layout::Layout;
use spillway_models::registry::{language_layouts, layouts};
use spillway_models::train::Parameters;

use super::SEED;

/// A model to be trained, and what to call it.
pub struct Case {
    pub name: String,
    pub layout: &'static Layout,
    pub config: Map<String, Value>,
}

impl Case {
    pub fn new(layout: &'static Layout, size: &str, config: &str) -> Self {
        Self {
            name: format!("{} ({}) {size}", layout.architecture, layout.name),
            layout,
            config: serde_json::from_str(config).unwrap(),
        }
    }

    pub fn parameters(&self) -> Parameters {
        Parameters::random(self.layout, &self.config, SEED, &Device::flex())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Every tiny size of every layout of language models.
pub fn tiny() -> Vec<Case> {
    let sizes = language_layouts().flat_map(|layout| {
        let tiny = layout
            .presets
            .iter()
            .filter(|preset| preset.size.starts_with("tiny"));
        tiny.map(move |preset| Case::new(layout, preset.size, preset.config))
    });
    sizes.collect()
}

pub fn layout(architecture: &str, name: &str) -> &'static Layout {
    layouts()
        .iter()
        .find(|layout| layout.architecture == architecture && layout.name.starts_with(name))
        .unwrap_or_else(|| panic!("no layout {architecture} ({name})"))
}

/// What configurations may switch on beyond the tiny sizes.
fn variants() -> Vec<Case> {
    let edits: [(&str, &str, Value); 24] = [
        (
            "mamba2",
            "original",
            json!({"ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 16, "ngroups": 2, "bias": true, "D_has_hdim": true,
            "norm_before_gate": true, "dt_limit": [0.002, 0.2]}, "tie_embeddings": false}),
        ),
        (
            "mamba2",
            "original",
            json!({"ssm_cfg": {"layer": "Mamba2", "d_state": 8, "rmsnorm": false, "conv_bias": false}}),
        ),
        ("mamba1", "original", json!({"rms_norm": false})),
        (
            "llama",
            "Hugging Face",
            json!({"model_type": "mistral", "sliding_window": 7, "attention_bias": true, "mlp_bias": true,
            "tie_word_embeddings": false}),
        ),
        (
            "gla",
            "flash",
            json!({"use_short_conv": true, "conv_bias": true, "num_kv_heads": 1, "feature_map": "relu",
            "attn": {"layers": [1], "num_heads": 2, "window_size": 9}}),
        ),
        ("linear_attn", "flash", json!({"feature_map": "hedgehog"})),
        (
            "linear_attn",
            "flash",
            json!({"feature_map": "dpfp", "norm_q": true, "norm_feature_map": true}),
        ),
        (
            "hgrn",
            "flash",
            json!({"num_hidden_layers": 4, "use_short_conv": true}),
        ),
        (
            "hgrn2",
            "flash",
            json!({"use_short_conv": true, "conv_bias": true}),
        ),
        (
            "delta_net",
            "flash",
            json!({"use_gate": true, "qk_norm": "sum", "qk_activation": "elu"}),
        ),
        ("gsa", "flash", json!({"feature_map": "t2r", "num_kv_heads": 1})),
        (
            "abc",
            "flash",
            json!({"use_short_conv": true, "use_rope": false, "elementwise_affine": false, "clamp_min": -1.5, "clamp_max": 1.5}),
        ),
        ("rebased", "flash", json!({"normalize": false, "use_beta": false})),
        (
            "gdn2",
            "flash",
            json!({"num_v_heads": 4, "use_short_conv": false, "allow_neg_eigval": true}),
        ),
        (
            "kda",
            "flash",
            json!({"lower_bound": -5.0, "num_v_heads": 4, "allow_neg_eigval": true}),
        ),
        (
            "gated_deltaproduct",
            "flash",
            json!({"num_householder": 3, "num_v_heads": 4, "use_forget_gate": false}),
        ),
        (
            "comba",
            "flash",
            json!({"num_v_heads": 4, "use_inner_decay": false}),
        ),
        (
            "qwen3_5",
            "Hugging Face",
            json!({"layer_types": ["full_attention", "linear_attention"], "attention_bias": true, "tie_word_embeddings": false}),
        ),
        (
            "qwen3_next",
            "Hugging Face",
            json!({"mlp_only_layers": [0], "norm_topk_prob": false}),
        ),
        (
            "kimi_linear",
            "Hugging Face",
            json!({"q_lora_rank": 12, "first_k_dense_replace": 0, "num_shared_experts": null, "num_expert_group": 2, "topk_group": 1,
                "num_experts_per_token": 1, "moe_renormalize": false}),
        ),
        (
            "lfm2",
            "Hugging Face",
            json!({"conv_bias": true, "conv_L_cache": 4, "tie_word_embeddings": false}),
        ),
        (
            "lfm2",
            "Hugging Face",
            json!({"layer_types": null, "full_attn_idxs": [1], "block_auto_adjust_ff_dim": true, "block_multiple_of": 32}),
        ),
        (
            "xlstm",
            "Hugging Face",
            json!({"weight_mode": "fused", "use_bias": true, "add_out_norm": false, "qk_dim_factor": 0.25}),
        ),
        (
            "olmo_hybrid",
            "Hugging Face",
            json!({"rope_parameters": {"rope_theta": 10000.0}, "linear_num_key_heads": 2, "linear_allow_neg_eigval": false}),
        ),
    ];
    let variant = |(architecture, name, edit): (&str, &str, Value)| {
        let layout = layout(architecture, name);
        let mut case = Case::new(layout, &edit.to_string(), layout.presets[0].config);
        let edit = edit.as_object().unwrap().clone();
        case.config.extend(edit);
        case
    };
    edits.into_iter().map(variant).collect()
}

pub fn every_case() -> Vec<Case> {
    tiny().into_iter().chain(variants()).collect()
}
