//! RetNet: one constant decay per head, queries and keys turned by their position.
//!
//! The tensors of `model.layers.N.attn` are those of [`GatedLinearAttention::read`]; `g_norm` is `g_norm_swish_gate`, unless there
//! is no gate or `fuse_norm` is false. `use_short_conv` is not looked at: the published code does not hand it to this model's
//! layers.

use std::sync::Arc;

use spillway_attention_linear::gla::{DecayConfig, GatedLinearAttention, GatedLinearAttentionConfig};
use spillway_ssm_core::operators::rotary::{Pairing, RotaryPlan};

use super::backbone::Backbone;
use super::mixer::{activation, details, gated_output, heads};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

/// The base of the angles, which is not in the configuration.
const ROTARY_BASE: f32 = 10000.0;

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "retnet", "hidden_size": 64, "num_hidden_layers": 2,
            "vocab_size": 256, "intermediate_size": 128, "num_heads": 2}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "retnet", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "retnet", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 8}"#,
    },
    Preset {
        size: "2.7b",
        config: r#"{"model_type": "retnet", "hidden_size": 2560, "num_hidden_layers": 32,
            "vocab_size": 32000, "num_heads": 10}"#,
    },
];

/// flash-linear-attention's layout of `RetNetForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "retnet",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "retnet"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = Backbone::read(fields, 2.0)?;
    let heads = heads(fields, backbone.model_dim, (1.0, 2.0))?;
    let feature_map = activation(fields)?;
    let (output, names) = gated_output(fields, fields.bool_or("use_output_gate", true)?)?;
    if !heads.key_dim.is_multiple_of(2) {
        let expected = "a ratio that gives every head an even number of values, which are turned in pairs";
        return Err(fields
            .wrong("expand_k", expected, Some(&heads.key_dim.into()))
            .into());
    }
    let config = GatedLinearAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        conv: None,
        feature_map,
        feature_map_shared: false,
        decay: DecayConfig::Constant,
        rotary: Some(RotaryPlan {
            base: ROTARY_BASE,
            rotated_dim: heads.key_dim,
            pairing: Pairing::Halves,
            scaling: None,
        }),
        sum_normalized: (false, false),
        normalizer_eps: None,
        norm_eps: backbone.norm_eps,
        output,
    };
    Ok(backbone.assembly(details(&heads), names, move |source, _| {
        Ok(Arc::new(GatedLinearAttention::read(config.clone(), source)?))
    }))
}
