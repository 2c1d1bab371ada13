//! Gated slot attention.
//!
//! The tensors of `model.layers.N.attn` are those of [`GatedSlotAttention::read`], with convolutions where there is
//! `use_short_conv`. With `num_kv_heads` keys, values and slots have that many heads. `use_norm`, `use_output_gate`, `clamp_min` and
//! `clamp_max` are not looked at: the published layer does not use them. Scores are not divided by √K.

use std::sync::Arc;

use spillway_attention_linear::feature_map::FeatureMapKind;
use spillway_attention_linear::gsa::{GatedSlotAttention, GatedSlotAttentionConfig};
use spillway_attention_linear::projection::OutputConfig;

use super::mixer::{backbone, details, heads, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

/// ε of the norm of the read-out: the default of the peer's fused norm and projection, which `norm_eps` does not reach.
const READ_OUT_EPS: f32 = 1e-5;

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "gsa", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
            "intermediate_size": 128, "num_heads": 2, "num_slots": 16}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "gsa", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4, "num_slots": 64}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "gsa", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4, "num_slots": 64}"#,
    },
    Preset {
        size: "2.7b",
        config: r#"{"model_type": "gsa", "hidden_size": 2560, "num_hidden_layers": 32,
            "vocab_size": 32000, "num_heads": 5, "num_slots": 64}"#,
    },
];

/// flash-linear-attention's layout of `GSAForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gsa",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gsa"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = heads(fields, backbone.model_dim, (1.0, 1.0))?;
    if heads.read_out_width() != backbone.model_dim {
        let accepted = "1 (the norm of the read-out has hidden_size weights)";
        return Err(fields.unsupported("expand_v", accepted).into());
    }
    let config = GatedSlotAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        conv: short_conv(fields, false)?,
        feature_map: feature_map(fields)?,
        slots: match fields.has("num_slots") {
            true => fields.dimension("num_slots")?,
            false => heads.key_dim,
        },
        divisor: fields.positive_or("gate_logit_normalizer", 8.0)?,
        scale: 1.0,
        norm_eps: READ_OUT_EPS,
        output: OutputConfig {
            gate: None,
            norm_weight: fields.bool_or("elementwise_affine", true)?,
        },
    };
    let mut details = details(&heads);
    details.insert("slots of a head", config.slots.to_string());
    Ok(backbone.assembly(details, &[], move |source, _| {
        Ok(Arc::new(GatedSlotAttention::read(config, source)?))
    }))
}

fn feature_map(fields: &Fields<'_>) -> Result<FeatureMapKind, CheckpointError> {
    match fields.text("feature_map")? {
        None | Some("swish") => Ok(FeatureMapKind::Silu),
        Some("relu") => Ok(FeatureMapKind::Relu),
        Some("t2r") => Ok(FeatureMapKind::LinearRelu),
        Some(_) => Err(fields.unsupported("feature_map", "\"swish\", \"relu\" or \"t2r\"")),
    }
}
