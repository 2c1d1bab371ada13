//! Linear attention: nothing decays; a feature map of queries and keys, and perhaps a normaliser.
//!
//! The tensors of `model.layers.N.attn` are those of [`GatedLinearAttention::read`]; `g_norm` is `norm`. With `norm_feature_map` a
//! read-out is divided by the sum of the keys that its query meets.

use std::sync::Arc;

use spillway_attention_linear::feature_map::FeatureMapKind;
use spillway_attention_linear::gla::{DecayConfig, GatedLinearAttention, GatedLinearAttentionConfig};
use spillway_attention_linear::projection::OutputConfig;

use super::backbone::{MixerSource, Names};
use super::mixer::{backbone, details, heads};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

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

/// flash-linear-attention's layout of `LinearAttentionForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "linear_attn",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "linear_attn"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = heads(fields, backbone.model_dim, (1.0, 1.0))?;
    let normalized = fields.bool_or("norm_feature_map", false)?;
    let config = GatedLinearAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        conv: None,
        feature_map: feature_map(fields)?,
        feature_map_shared: fields.bool_or("tie_feature_map_qk", false)?,
        decay: DecayConfig::None,
        rotary: None,
        sum_normalized: (fields.bool_or("norm_q", false)?, fields.bool_or("norm_k", false)?),
        normalizer_eps: normalized.then_some(NORMALIZER_EPS),
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: None,
            norm_weight: fields.bool_or("elementwise_affine", true)?,
        },
    };
    Ok(backbone.assembly(details(&heads), NAMES, move |source, _| {
        let names = match config.feature_map_shared {
            true => names_of_shared_map(source),
            false => NAMES,
        };
        let source = &mut source.with_names(names);
        Ok(Arc::new(GatedLinearAttention::read(config.clone(), source)?))
    }))
}

const NAMES: Names = &[("g_norm", "norm")];
const NAMES_WITH_MAP_OF_KEYS: Names = &[("g_norm", "norm"), ("feature_map_q", "feature_map_k")];

/// Tied maps are one module, whose tensors a file may hold under the name of queries or of keys, or under both.
fn names_of_shared_map(source: &mut MixerSource<'_, '_>) -> Names {
    let parts = [
        "layer.weight",
        "layer.bias",
        "layer1.weight",
        "layer1.bias",
        "layer2.weight",
        "layer2.bias",
    ];
    let [of_query, of_key] = ["feature_map_q", "feature_map_k"].map(|map| source.name(map));
    let loader = source.source();
    let has = |map: &str| parts.iter().any(|part| loader.has(&format!("{map}.{part}")));
    let (names, other) = match has(&of_key) && !has(&of_query) {
        true => (NAMES_WITH_MAP_OF_KEYS, of_query),
        false => (NAMES, of_key),
    };
    for part in parts {
        loader.ignore(&format!("{other}.{part}"));
    }
    names
}

fn feature_map(fields: &Fields<'_>) -> Result<FeatureMapKind, CheckpointError> {
    Ok(match fields.text("feature_map")? {
        None | Some("elementwise_product") => FeatureMapKind::Product,
        Some("hedgehog") => FeatureMapKind::Hedgehog,
        Some("t2r") => FeatureMapKind::LinearRelu,
        Some("elu") => FeatureMapKind::EluPlusOne,
        Some("relu") => FeatureMapKind::Relu,
        Some("identity") => FeatureMapKind::Identity,
        Some("dpfp") => FeatureMapKind::Dpfp,
        Some(_) => {
            let accepted =
                "\"elementwise_product\", \"hedgehog\", \"t2r\", \"elu\", \"relu\", \"identity\" or \"dpfp\"";
            return Err(fields.unsupported("feature_map", accepted));
        }
    })
}
