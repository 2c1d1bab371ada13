//! Gated DeltaNet-2 (GDN-2): Kimi Delta Attention whose erasing has a gate for every key channel, and whose writing one for every value channel.
//!
//! flash-linear-attention has the layer and no model of it: this is that layer in the backbone of the models that it has, under its name as
//! `model_type`. The tensors of `model.layers.N.attn` are those of [`GatedDeltaNet2::read`]; decays and the gate σ(W_gate x) (`g_proj.0`,
//! `g_proj.1` with a bias) are of two factors, as wide as a value between them; `g_norm` is `o_norm`. There are convolutions unless
//! `use_short_conv` is false. V is `expand_v` · `head_dim`; the value heads are `num_v_heads`, a multiple of `num_heads`.

use std::sync::Arc;

use spillway_attention_linear::gated_delta_net2::{GatedDeltaNet2, GatedDeltaNet2Config};
use spillway_attention_linear::projection::{GateActivation, GateConfig, OutputConfig};

use super::mixer::{backbone, details, grouped_values, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "gdn2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "intermediate_size": 128,
        "num_heads": 2, "head_dim": 24}"#,
}];

/// `GatedDeltaNet2` in the backbone of the other models.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gdn2",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gdn2"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = grouped_values(fields, 128, 1.0)?;
    let config = GatedDeltaNet2Config {
        model_dim: backbone.model_dim,
        heads,
        conv: short_conv(fields, true)?,
        decay_rank: heads.value_dim,
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
            Ok(Arc::new(GatedDeltaNet2::read(config, source)?))
        }),
    )
}
