//! Attention with bounded-memory control (ABC).
//!
//! The tensors of `model.layers.N.attn` are those of [`AbcAttention::read`], with convolutions, which have no bias, where there is
//! `use_short_conv`. Queries and keys are turned by their position, halves paired and to base 10,000, unless `use_rope` is false.
//! `exapnd_k` and `exapnd_v`, as the published configuration spells two of its arguments, are read where `expand_k` and `expand_v` are not
//! given; `clamp_min` and `clamp_max` are −32 and 32 where they are not. `gate_low_rank_dim` is not looked at: the published layer does not use it.

use std::sync::Arc;

use spillway_attention_linear::abc::{AbcAttention, AbcAttentionConfig};
use spillway_attention_linear::projection::{GateConfig, OutputConfig};
use spillway_ssm_core::ShortConvConfig;
use spillway_ssm_core::operators::rotary::{Pairing, RotaryPlan};

use super::backbone::ratio;
use super::mixer::{backbone, details, equal_heads, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

/// The base of the angles, which is not in the configuration.
const ROTARY_BASE: f32 = 10000.0;

/// What the logits of slots lie between where the configuration does not say.
const BOUND: f32 = 32.0;

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "abc", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
            "intermediate_size": 128, "num_heads": 2, "num_slots": 16}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "abc", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4, "num_slots": 64}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "abc", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "num_heads": 4, "num_slots": 64}"#,
    },
];

/// flash-linear-attention's layout of `ABCForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "abc",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "abc"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let ratios = (ratio(fields, "exapnd_k", 0.5)?, ratio(fields, "exapnd_v", 1.0)?);
    let heads = equal_heads(fields, backbone.model_dim, ratios)?;
    let config = AbcAttentionConfig {
        model_dim: backbone.model_dim,
        heads,
        conv: short_conv(fields, false)?.map(|conv| ShortConvConfig { bias: false, ..conv }),
        rotary: match fields.bool_or("use_rope", true)? {
            true => Some(rotary(fields, heads.key_dim)?),
            false => None,
        },
        slots: match fields.has("num_slots") {
            true => fields.dimension("num_slots")?,
            false => heads.key_dim,
        },
        bounds: bounds(fields)?,
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: Some(GateConfig::SILU),
            norm_weight: fields.bool_or("elementwise_affine", true)?,
        },
    };
    let mut details = details(&heads);
    details.insert("slots of a head", config.slots.to_string());
    Ok(backbone.assembly(details, &[], move |source, _| {
        Ok(Arc::new(AbcAttention::read(config, source)?))
    }))
}

fn rotary(fields: &Fields<'_>, key_dim: usize) -> Result<RotaryPlan, CheckpointError> {
    if !key_dim.is_multiple_of(2) {
        let expected = "a ratio that gives every head an even number of values, which are turned in pairs";
        return Err(fields.wrong("expand_k", expected, Some(&key_dim.into())));
    }
    Ok(RotaryPlan {
        base: ROTARY_BASE,
        rotated_dim: key_dim,
        pairing: Pairing::Halves,
        scaling: None,
    })
}

/// Reads `clamp_min` and `clamp_max`, least and largest value: −32 and 32 where they are not given.
fn bounds(fields: &Fields<'_>) -> Result<(f32, f32), CheckpointError> {
    let bound = |name: &str, default: f32| {
        let Some(value) = fields.value(name) else {
            return Ok(default);
        };
        let bound = value.as_f64().map(|bound| bound as f32);
        let bound = bound.filter(|bound| bound.is_finite());
        bound.ok_or_else(|| fields.wrong(name, "a finite number", Some(value)))
    };
    let (least, most) = (bound("clamp_min", -BOUND)?, bound("clamp_max", BOUND)?);
    match least <= most {
        true => Ok((least, most)),
        false => {
            let expected = format!("at most clamp_max = {most}");
            Err(fields.wrong("clamp_min", &expected, fields.value("clamp_min")))
        }
    }
}
