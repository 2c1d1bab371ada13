//! GLA: a decay per key row and token, by a projection of low rank.
//!
//! The tensors of `model.layers.N.attn` are those of [`GatedLinearAttention::read`]; `g_norm` is `g_norm_swish_gate`, unless there
//! is no gate or `fuse_norm` is false. There are convolutions with `use_short_conv`. With `num_kv_heads` keys, values and decays
//! have that many heads.

use std::sync::Arc;

use spillway_attention_linear::gla::{DecayConfig, GatedLinearAttention, GatedLinearAttentionConfig};

use super::mixer::{activation, backbone, details, gated_output, heads, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

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

/// flash-linear-attention's layout of `GLAForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gla",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gla"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
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
    let (output, names) = gated_output(fields, fields.bool_or("use_output_gate", true)?)?;
    let config = GatedLinearAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        conv: short_conv(fields, false)?,
        feature_map: activation(fields)?,
        feature_map_shared: false,
        decay: DecayConfig::PerKey {
            rank: fields.dimension_or("gate_low_rank_dim", 16)?,
            divisor: fields.positive_or("gate_logit_normalizer", 16.0)?,
            at_least: clamp_min(fields)?,
        },
        rotary: None,
        sum_normalized: (false, false),
        normalizer_eps: None,
        norm_eps: backbone.norm_eps,
        output,
    };
    Ok(backbone.assembly(details(&heads), names, move |source, _| {
        Ok(Arc::new(GatedLinearAttention::read(config.clone(), source)?))
    }))
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
