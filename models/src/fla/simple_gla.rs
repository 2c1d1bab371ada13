//! Simple GLA: a decay per head and token.
//!
//! | tensor of `model.layers.N.attn` | shape |
//! |---|---|
//! | `q_proj`, `k_proj` | heads · K × `hidden_size` |
//! | `v_proj`, `g_proj` | heads · V × `hidden_size` |
//! | `gk_proj` (with bias) | heads × `hidden_size` |
//! | `q_conv1d`, `k_conv1d`, `v_conv1d` unless `use_short_conv` is false | channels × 1 × `conv_size` |
//! | `g_norm_swish_gate` (`g_norm` without `fuse_norm`) | V |
//! | `o_proj` | `hidden_size` × heads · V |
//!
//! flash-linear-attention has this mixer as a layer, not as a model; the layout is that of its other models around it, with the
//! layer's own names and defaults.

use std::sync::Arc;

use attention_linear::gla::{
    Decay, GatedLinearAttention, GatedLinearAttentionConfig, GatedLinearAttentionWeights,
};

use super::mixer::{
    ShortConv, activation, backbone, details, gated_output_projection, heads, query_key_value,
};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset, stored_config};
use crate::loader::Loader;

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

/// `SimpleGLAForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "simple_gla",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "simple_gla"),
    config: stored_config,
    load,
    presets: PRESETS,
};

fn load(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let backbone = backbone(fields)?;
    let heads = heads(fields, backbone.model_dim, (1.0, 1.0))?;
    let conv = ShortConv::read(fields, true)?;
    let feature_map = activation(fields)?;
    let output_projection = gated_output_projection(fields, &heads, true)?;
    let divisor = fields.positive_or("gate_logit_normalizer", 16.0)?;
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
        let gate = [heads.query, config.model_dim];
        let weights = GatedLinearAttentionWeights {
            query,
            key,
            value,
            feature_maps: (feature_map.clone(), feature_map.clone()),
            decay: Decay::PerHead {
                gate: loader.linear(&format!("{name}.gk_proj"), gate, true)?,
                divisor,
            },
            output: output_projection.load(loader, name, config.model_dim)?,
        };
        Ok(Arc::new(GatedLinearAttention::new(config.clone(), weights)?))
    })
}
