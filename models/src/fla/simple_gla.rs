//! Simple GLA: a decay per head and token.
//!
//! The tensors of `model.layers.N.attn` are those of [`GatedLinearAttention::read`]; `g_norm` is `g_norm_swish_gate`, unless
//! `fuse_norm` is false. There are convolutions unless `use_short_conv` is false.
//!
//! flash-linear-attention has this mixer as a layer, not as a model; the layout is that of its other models around it, with the
//! layer's own names and defaults.

use std::sync::Arc;

use spillway_attention_linear::gla::{DecayConfig, GatedLinearAttention, GatedLinearAttentionConfig};

use super::mixer::{activation, backbone, details, gated_output, heads, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "simple_gla", "hidden_size": 64, "num_hidden_layers": 2,
            "vocab_size": 256, "intermediate_size": 128, "num_heads": 2}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "simple_gla", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "simple_gla", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4}"#,
    },
];

/// Layout of a model of Simple GLA: that of flash-linear-attention's other models, around its layer of this name.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "simple_gla",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "simple_gla"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = heads(fields, backbone.model_dim, (1.0, 1.0))?;
    let (output, names) = gated_output(fields, true)?;
    let config = GatedLinearAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        conv: short_conv(fields, true)?,
        feature_map: activation(fields)?,
        feature_map_shared: false,
        decay: DecayConfig::PerHead {
            divisor: fields.positive_or("gate_logit_normalizer", 16.0)?,
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
