//! Linear attention: nothing decays; a feature map of queries and keys, and perhaps a normaliser.
//!
//! | tensor of `model.layers.N.attn` | shape |
//! |---|---|
//! | `q_proj`, `k_proj` | heads · K × `hidden_size` |
//! | `v_proj` | heads · V × `hidden_size` |
//! | `norm` | V |
//! | `o_proj` | `hidden_size` × heads · V |
//!
//! and, below `feature_map_q` and `feature_map_k`, by `feature_map`:
//!
//! | `feature_map` | tensors |
//! |---|---|
//! | `elementwise_product` (the default) | `layer1`, `layer2` K × K, with biases |
//! | `hedgehog` | `layer` K × K, with bias |
//! | `t2r` | `layer` K × K |
//! | `elu`, `relu`, `identity`, `dpfp` | |
//!
//! With `norm_feature_map` a read-out is divided by the sum of the keys that its query meets.

use std::sync::Arc;

use attention_linear::feature_map::FeatureMap;
use attention_linear::gla::{
    Decay, GatedLinearAttention, GatedLinearAttentionConfig, GatedLinearAttentionWeights,
};

use super::mixer::{OutputProjection, backbone, details, heads, query_key_value};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset, stored_config};
use crate::loader::Loader;

/// ε of the normaliser, which is not in the configuration.
const NORMALIZER_EPS: f32 = 1e-10;

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "linear_attn", "hidden_size": 64, "num_hidden_layers": 2,
            "vocab_size": 256, "intermediate_size": 128, "num_heads": 2, "feature_map": "elu",
            "norm_feature_map": true}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "linear_attn", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "linear_attn", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4}"#,
    },
];

/// `LinearAttentionForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "linear_attn",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "linear_attn"),
    config: stored_config,
    load,
    presets: PRESETS,
};

fn load(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let backbone = backbone(fields)?;
    let heads = heads(fields, backbone.model_dim, (1.0, 1.0))?;
    let tied = fields.bool_or("tie_feature_map_qk", false)?;
    let output_projection = OutputProjection {
        width: heads.read_out_width(),
        group: heads.value_dim,
        gated: false,
        norm: fields.bool_or("elementwise_affine", true)?.then_some("norm"),
    };
    let normalized = fields.bool_or("norm_feature_map", false)?;
    let config = GatedLinearAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        rotary: None,
        sum_normalized: (fields.bool_or("norm_q", false)?, fields.bool_or("norm_k", false)?),
        normalizer_eps: normalized.then_some(NORMALIZER_EPS),
        norm_eps: backbone.norm_eps,
    };
    backbone.assemble(loader, details(&heads), |loader, _, name| {
        let [query, key, value] = query_key_value(loader, name, (config.model_dim, &heads), None)?;
        let weights = GatedLinearAttentionWeights {
            query,
            key,
            value,
            feature_maps: feature_maps(fields, loader, name, heads.key_dim, tied)?,
            decay: Decay::None,
            output: output_projection.load(loader, name, config.model_dim)?,
        };
        Ok(Arc::new(GatedLinearAttention::new(config.clone(), weights)?))
    })
}

/// The maps of queries and of keys; tied ones are one module, whose tensors a file may hold under either name or both.
fn feature_maps(
    fields: &Fields<'_>,
    loader: &mut Loader<'_>,
    name: &str,
    dim: usize,
    tied: bool,
) -> Result<(FeatureMap, FeatureMap), ModelError> {
    let (of_query, of_key) = (format!("{name}.feature_map_q"), format!("{name}.feature_map_k"));
    if !tied {
        let query = feature_map(fields, loader, &of_query, dim)?;
        return Ok((query, feature_map(fields, loader, &of_key, dim)?));
    }
    let parts = [
        "layer.weight",
        "layer.bias",
        "layer1.weight",
        "layer1.bias",
        "layer2.weight",
        "layer2.bias",
    ];
    let has = |loader: &Loader<'_>, map: &str| parts.iter().any(|part| loader.has(&format!("{map}.{part}")));
    let (read, other) = match has(loader, &of_key) && !has(loader, &of_query) {
        true => (of_key, of_query),
        false => (of_query, of_key),
    };
    for part in parts {
        loader.ignore(&format!("{other}.{part}"));
    }
    let map = feature_map(fields, loader, &read, dim)?;
    Ok((map.clone(), map))
}

fn feature_map(
    fields: &Fields<'_>,
    loader: &mut Loader<'_>,
    name: &str,
    dim: usize,
) -> Result<FeatureMap, ModelError> {
    let mut layer = |part: &str, bias| loader.linear(&format!("{name}.{part}"), [dim, dim], bias);
    Ok(match fields.text("feature_map")? {
        None | Some("elementwise_product") => {
            FeatureMap::Product(layer("layer1", true)?, layer("layer2", true)?)
        }
        Some("hedgehog") => FeatureMap::Hedgehog(layer("layer", true)?),
        Some("t2r") => FeatureMap::LinearRelu(layer("layer", false)?),
        Some("elu") => FeatureMap::EluPlusOne,
        Some("relu") => FeatureMap::Relu,
        Some("identity") => FeatureMap::Identity,
        Some("dpfp") => FeatureMap::Dpfp,
        Some(_) => {
            let accepted =
                "\"elementwise_product\", \"hedgehog\", \"t2r\", \"elu\", \"relu\", \"identity\" or \"dpfp\"";
            return Err(fields.unsupported("feature_map", accepted).into());
        }
    })
}
