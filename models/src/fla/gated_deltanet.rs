//! Gated DeltaNet.
//!
//! The tensors of `model.layers.N.attn` are those of [`DeltaNet::read`]; `g_norm` is `o_norm`. There are convolutions unless
//! `use_short_conv` is false, and a gate unless `use_gate` is. V is `expand_v` · `head_dim`; the value heads are `num_v_heads`, a
//! multiple of `num_heads`.

use std::sync::Arc;

use spillway_attention_linear::delta_net::{
    DecayConfig, DeltaNet, DeltaNetConfig, QueryKeyActivation, QueryKeyNorm,
};
use spillway_attention_linear::projection::{GateConfig, OutputConfig};

use super::mixer::{backbone, details, grouped_values, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "gated_deltanet", "hidden_size": 64, "num_hidden_layers": 2,
            "vocab_size": 256, "intermediate_size": 128, "num_heads": 2, "head_dim": 24}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "gated_deltanet", "hidden_size": 1024, "num_hidden_layers": 21,
            "vocab_size": 32000, "num_heads": 6, "head_dim": 128}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "gated_deltanet", "hidden_size": 2048, "num_hidden_layers": 21,
            "vocab_size": 32000, "num_heads": 6, "head_dim": 256}"#,
    },
];

/// flash-linear-attention's layout of `GatedDeltaNetForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gated_deltanet",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gated_deltanet"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = grouped_values(fields, 256, 2.0)?;
    if !matches!(
        fields.text("output_gate_activation")?,
        None | Some("swish" | "silu")
    ) {
        return Err(fields.unsupported("output_gate_activation", "\"swish\"").into());
    }
    let config = DeltaNetConfig {
        model_dim: backbone.model_dim,
        heads,
        joint: false,
        conv: short_conv(fields, true)?,
        activation: QueryKeyActivation::Silu,
        norm: QueryKeyNorm::Length,
        beta: true,
        decay: DecayConfig::PerHead,
        negative_eigenvalues: fields.bool_or("allow_neg_eigval", false)?,
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: fields.bool_or("use_gate", true)?.then_some(GateConfig::SILU),
            norm_weight: true,
        },
    };
    Ok(
        backbone.assembly(details(&heads), &[("g_norm", "o_norm")], move |source, _| {
            Ok(Arc::new(DeltaNet::read(config.clone(), source)?))
        }),
    )
}
