//! Comba.
//!
//! The tensors of `model.layers.N.attn` are those of [`Comba::read`]; `g_norm` is `o_norm`. There are convolutions unless `use_short_conv` is
//! false, and a gate σ(W_gate x) unless `use_output_gate` is. `use_inner_decay` and `use_output_correction` say whether there are `decay` and
//! `D`; `correction_factor` is where D begins. V is `expand_v` · `head_dim`; the value heads are `num_v_heads`, a multiple of `num_heads`.

use std::sync::Arc;

use spillway_attention_linear::comba::{Comba, CombaConfig};
use spillway_attention_linear::projection::{GateActivation, GateConfig, OutputConfig};

use super::mixer::{backbone, details, grouped_values, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "comba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "intermediate_size": 128,
        "num_heads": 2, "head_dim": 24}"#,
}];

/// flash-linear-attention's layout of `CombaForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "comba",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "comba"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = grouped_values(fields, 256, 2.0)?;
    let gate = GateConfig {
        activation: GateActivation::Sigmoid,
        ..GateConfig::SILU
    };
    let config = CombaConfig {
        model_dim: backbone.model_dim,
        heads,
        conv: short_conv(fields, true)?,
        inner_decay: fields.bool_or("use_inner_decay", true)?,
        output_correction: fields.bool_or("use_output_correction", true)?,
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: fields.bool_or("use_output_gate", true)?.then_some(gate),
            norm_weight: true,
        },
    };
    Ok(
        backbone.assembly(details(&heads), &[("g_norm", "o_norm")], move |source, _| {
            Ok(Arc::new(Comba::read(config.clone(), source)?))
        }),
    )
}
