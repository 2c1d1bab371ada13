//! Gated slot attention.
//!
//! | tensor of `model.layers.N.attn` | shape |
//! |---|---|
//! | `q_proj`, `k_proj` | heads · K × `hidden_size` |
//! | `v_proj` | heads · V × `hidden_size` |
//! | `f_proj` | heads · `num_slots` × `hidden_size` |
//! | `feature_map.layer` with `feature_map` \[t2r\] | K × K |
//! | `q_conv1d`, `k_conv1d`, `v_conv1d` with `use_short_conv` | channels × 1 × `conv_size` |
//! | `g_norm` | `hidden_size` |
//! | `o_proj` | `hidden_size` × heads · V |
//!
//! With `num_kv_heads` keys, values and slots have that many heads. `use_norm`, `use_output_gate`, `clamp_min` and `clamp_max` are
//! not looked at: the published layer does not use them. Scores are not divided by √K.

use std::sync::Arc;

use attention_linear::feature_map::FeatureMap;
use attention_linear::gsa::{GatedSlotAttention, GatedSlotAttentionConfig, GatedSlotAttentionWeights};

use super::mixer::{OutputProjection, ShortConv, backbone, details, heads, query_key_value};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset, stored_config};
use crate::loader::Loader;

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

/// `GSAForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gsa",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gsa"),
    config: stored_config,
    load,
    presets: PRESETS,
};

fn load(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let backbone = backbone(fields)?;
    let heads = heads(fields, backbone.model_dim, (1.0, 1.0))?;
    let conv = ShortConv::read(fields, false)?;
    if heads.read_out_width() != backbone.model_dim {
        let accepted = "1 (the norm of the read-out has hidden_size weights)";
        return Err(fields.unsupported("expand_v", accepted).into());
    }
    let output_projection = OutputProjection {
        width: heads.read_out_width(),
        group: heads.read_out_width(),
        gated: false,
        norm: fields.bool_or("elementwise_affine", true)?.then_some("g_norm"),
    };
    let config = GatedSlotAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        slots: match fields.has("num_slots") {
            true => fields.dimension("num_slots")?,
            false => heads.key_dim,
        },
        divisor: fields.positive_or("gate_logit_normalizer", 8.0)?,
        scale: 1.0,
        norm_eps: READ_OUT_EPS,
    };
    let mut details = details(&heads);
    details.insert("slots of a head", config.slots.to_string());
    backbone.assemble(loader, details, |loader, _, name| {
        let [query, key, value] = query_key_value(loader, name, (config.model_dim, &heads), conv)?;
        let forget = [heads.key * config.slots, config.model_dim];
        let weights = GatedSlotAttentionWeights {
            query,
            key,
            value,
            feature_map: feature_map(fields, loader, name, heads.key_dim)?,
            forget: loader.linear(&format!("{name}.f_proj"), forget, false)?,
            output: output_projection.load(loader, name, config.model_dim)?,
        };
        Ok(Arc::new(GatedSlotAttention::new(config, weights)?))
    })
}

fn feature_map(
    fields: &Fields<'_>,
    loader: &mut Loader<'_>,
    name: &str,
    dim: usize,
) -> Result<FeatureMap, ModelError> {
    Ok(match fields.text("feature_map")? {
        None | Some("swish") => FeatureMap::Silu,
        Some("relu") => FeatureMap::Relu,
        Some("t2r") => {
            let layer = format!("{name}.feature_map.layer");
            FeatureMap::LinearRelu(loader.linear(&layer, [dim, dim], false)?)
        }
        Some(_) => {
            return Err(fields
                .unsupported("feature_map", "\"swish\", \"relu\" or \"t2r\"")
                .into());
        }
    })
}
