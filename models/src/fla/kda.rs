//! Kimi Delta Attention (KDA): Gated DeltaNet with a decay for every key row.
//!
//! The tensors of `model.layers.N.attn` are those of [`DeltaNet::read`] with a decay per key row in two factors (`f_proj.0`, `f_proj.1`) and a
//! gate σ(W_gate x) in two (`g_proj.0`, `g_proj.1` with a bias), both as wide as a value between them; `g_norm` is `o_norm`. With
//! `lower_bound` ln a lies between it and 0 (`safe_gate`). There are convolutions unless `use_short_conv` is false. V is `expand_v` ·
//! `head_dim`; the value heads are `num_v_heads`, a multiple of `num_heads`.

use std::sync::Arc;

use spillway_attention_linear::delta_net::{
    DecayConfig, DeltaNet, DeltaNetConfig, QueryKeyActivation, QueryKeyNorm,
};
use spillway_attention_linear::projection::{GateActivation, GateConfig, OutputConfig};

use super::mixer::{backbone, details, grouped_values, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "kda", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "intermediate_size": 128,
        "num_heads": 2, "head_dim": 24}"#,
}];

/// flash-linear-attention's layout of `KDAForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "kda",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "kda"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = grouped_values(fields, 128, 1.0)?;
    let config = DeltaNetConfig {
        model_dim: backbone.model_dim,
        heads,
        joint: false,
        conv: short_conv(fields, true)?,
        activation: QueryKeyActivation::Silu,
        norm: QueryKeyNorm::Length,
        beta: true,
        decay: DecayConfig::PerKey {
            rank: Some(heads.value_dim),
            lower_bound: lower_bound(fields)?,
        },
        negative_eigenvalues: fields.bool_or("allow_neg_eigval", false)?,
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: Some(GateConfig {
                activation: GateActivation::Sigmoid,
                rank: Some(heads.value_dim),
                bias: true,
            }),
            norm_weight: true,
        },
    };
    Ok(
        backbone.assembly(details(&heads), &[("g_norm", "o_norm")], move |source, _| {
            Ok(Arc::new(DeltaNet::read(config.clone(), source)?))
        }),
    )
}

/// `lower_bound`, a number below 0, which `safe_gate` needs.
fn lower_bound(fields: &Fields<'_>) -> Result<Option<f32>, CheckpointError> {
    let value = fields.value("lower_bound");
    let bound = value
        .and_then(serde_json::Value::as_f64)
        .map(|bound| bound as f32)
        .filter(|bound| bound.is_finite() && *bound < 0.0);
    match (value, bound) {
        (None, _) if fields.bool_or("safe_gate", false)? => {
            Err(fields.wrong("lower_bound", "a number below 0, as there is a safe gate", None))
        }
        (Some(_), None) => Err(fields.wrong("lower_bound", "a number below 0", value)),
        (_, bound) => Ok(bound),
    }
}
