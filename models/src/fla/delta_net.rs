//! DeltaNet.
//!
//! The tensors of `model.layers.N.attn` are those of [`DeltaNet::read`]; `g_norm` is `o_norm`. There are convolutions unless
//! `use_short_conv` is false, and a gate with `use_gate`. `use_output_norm` is not looked at: the published layer always has the
//! norm.

use std::sync::Arc;

use spillway_attention_linear::delta_net::{
    DecayConfig, DeltaNet, DeltaNetConfig, QueryKeyActivation, QueryKeyNorm,
};
use spillway_attention_linear::projection::{GateConfig, OutputConfig};

use super::mixer::{backbone, details, equal_heads, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "delta_net", "hidden_size": 64, "num_hidden_layers": 2,
            "vocab_size": 256, "intermediate_size": 128, "num_heads": 2}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "delta_net", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 8}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "delta_net", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 16}"#,
    },
    Preset {
        size: "2.7b",
        config: r#"{"model_type": "delta_net", "hidden_size": 2560, "num_hidden_layers": 32,
            "vocab_size": 32000, "num_heads": 20}"#,
    },
];

/// flash-linear-attention's layout of `DeltaNetForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "delta_net",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "delta_net"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = equal_heads(fields, backbone.model_dim, (1.0, 1.0))?;
    let config = DeltaNetConfig {
        model_dim: backbone.model_dim,
        heads,
        joint: false,
        conv: short_conv(fields, true)?,
        activation: activation(fields)?,
        norm: match fields.text("qk_norm")? {
            None | Some("l2") => QueryKeyNorm::Length,
            Some("sum") => QueryKeyNorm::Sum,
            Some(_) => return Err(fields.unsupported("qk_norm", "\"l2\" or \"sum\"").into()),
        },
        beta: fields.bool_or("use_beta", true)?,
        decay: DecayConfig::None,
        negative_eigenvalues: fields.bool_or("allow_neg_eigval", false)?,
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: fields.bool_or("use_gate", false)?.then_some(GateConfig::SILU),
            norm_weight: true,
        },
    };
    Ok(
        backbone.assembly(details(&heads), &[("g_norm", "o_norm")], move |source, _| {
            Ok(Arc::new(DeltaNet::read(config.clone(), source)?))
        }),
    )
}

fn activation(fields: &Fields<'_>) -> Result<QueryKeyActivation, CheckpointError> {
    match fields.text("qk_activation")? {
        None | Some("silu") => Ok(QueryKeyActivation::Silu),
        Some("relu") => Ok(QueryKeyActivation::Relu),
        Some("elu") => Ok(QueryKeyActivation::EluPlusOne),
        Some("identity") => Ok(QueryKeyActivation::Identity),
        Some(_) => {
            let accepted = "\"silu\", \"relu\", \"elu\" or \"identity\"";
            Err(fields.unsupported("qk_activation", accepted))
        }
    }
}
