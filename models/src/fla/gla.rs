//! GLA: a decay per key row and token, by a projection of low rank.
//!
//! | tensor of `model.layers.N.attn` | shape |
//! |---|---|
//! | `q_proj`, `k_proj` | heads · K × `hidden_size` |
//! | `v_proj`, `g_proj` | heads · V × `hidden_size` |
//! | `gk_proj.0`, `gk_proj.1` (with bias) | 16 × `hidden_size`, heads · K × 16 |
//! | `q_conv1d`, `k_conv1d`, `v_conv1d` with `use_short_conv` | channels × 1 × `conv_size` |
//! | `g_norm_swish_gate` (`g_norm` without gate or `fuse_norm`) | V |
//! | `o_proj` | `hidden_size` × heads · V |
//!
//! With `num_kv_heads` keys, values and decays have that many heads.

use std::sync::Arc;

use attention_linear::gla::{
    Decay, GatedLinearAttention, GatedLinearAttentionConfig, GatedLinearAttentionWeights,
};

use super::mixer::{
    ShortConv, activation, backbone, details, gated_output_projection, heads, query_key_value,
};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset, stored_config};
use crate::loader::Loader;

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "gla", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
            "intermediate_size": 128, "num_heads": 2}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "gla", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4, "tie_word_embeddings": true}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "gla", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4}"#,
    },
    Preset {
        size: "2.7b",
        config: r#"{"model_type": "gla", "hidden_size": 2560, "num_hidden_layers": 32,
            "vocab_size": 32000, "num_heads": 4}"#,
    },
    Preset {
        size: "7b",
        config: r#"{"model_type": "gla", "hidden_size": 4096, "num_hidden_layers": 32,
            "vocab_size": 32000, "num_heads": 32, "num_kv_heads": 8, "expand_k": 1,
            "feature_map": "relu", "use_output_gate": false, "intermediate_size": 14336,
            "norm_eps": 1e-05}"#,
    },
];

/// `GLAForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gla",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gla"),
    config: stored_config,
    load,
    presets: PRESETS,
};

fn load(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let backbone = backbone(fields)?;
    if !fields.bool_or("use_gk", true)? {
        return Err(fields.unsupported("use_gk", "true (a decay of the keys)").into());
    }
    if fields.bool_or("use_gv", false)? {
        return Err(fields
            .unsupported("use_gv", "false (no decay of the values)")
            .into());
    }
    let heads = heads(fields, backbone.model_dim, (0.5, 1.0))?;
    let conv = ShortConv::read(fields, false)?;
    let feature_map = activation(fields)?;
    let output_projection =
        gated_output_projection(fields, &heads, fields.bool_or("use_output_gate", true)?)?;
    let rank = fields.dimension_or("gate_low_rank_dim", 16)?;
    let divisor = fields.positive_or("gate_logit_normalizer", 16.0)?;
    let at_least = clamp_min(fields)?;
    let config = GatedLinearAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        rotary: None,
        sum_normalized: (false, false),
        normalizer_eps: None,
        norm_eps: backbone.norm_eps,
    };
    backbone.assemble(loader, details(&heads), |loader, _, name| {
        let [query, key, value] = query_key_value(loader, name, (config.model_dim, &heads), conv)?;
        let [_, keys, _] = heads.widths();
        let weights = GatedLinearAttentionWeights {
            query,
            key,
            value,
            feature_maps: (feature_map.clone(), feature_map.clone()),
            decay: Decay::PerKey {
                down: loader.linear(&format!("{name}.gk_proj.0"), [rank, config.model_dim], false)?,
                up: loader.linear(&format!("{name}.gk_proj.1"), [keys, rank], true)?,
                divisor,
                at_least,
            },
            output: output_projection.load(loader, name, config.model_dim)?,
        };
        Ok(Arc::new(GatedLinearAttention::new(config.clone(), weights)?))
    })
}

/// The lower bound of log decays.
fn clamp_min(fields: &Fields<'_>) -> Result<Option<f32>, CheckpointError> {
    let Some(value) = fields.value("clamp_min") else {
        return Ok(None);
    };
    match value.as_f64() {
        Some(bound) if bound <= 0.0 => Ok(Some(bound as f32)),
        _ => Err(fields.wrong("clamp_min", "a number that is at most 0", Some(value))),
    }
}
