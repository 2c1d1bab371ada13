//! What the mixers of flash-linear-attention have in common: the fields of heads, of short convolutions, of the output projection.

use spillway_attention_linear::feature_map::FeatureMapKind;
use spillway_attention_linear::heads::Heads;
use spillway_attention_linear::projection::{GateConfig, OutputConfig};
use spillway_ssm_core::ShortConvConfig;

use super::backbone::{Backbone, Details, Names, expanded};
use crate::checkpoint::{CheckpointError, Fields};

/// `num_heads`, `num_kv_heads`, `expand_k` and `expand_v`, of which the last two have other defaults everywhere.
pub(super) fn heads(
    fields: &Fields<'_>,
    model_dim: usize,
    (expand_k, expand_v): (f64, f64),
) -> Result<Heads, CheckpointError> {
    let count = fields.dimension("num_heads")?;
    let shared = fields.dimension_or("num_kv_heads", count)?;
    if !count.is_multiple_of(shared) {
        let expected = format!("a divisor of the {count} heads");
        return Err(fields.wrong("num_kv_heads", &expected, fields.value("num_kv_heads")));
    }
    let dim = |name, default| {
        let width = expanded(fields, name, default, model_dim)?;
        match width.is_multiple_of(count) {
            true => Ok(width / count),
            false => {
                let expected = format!("a ratio that gives a multiple of the {count} heads");
                Err(fields.wrong(name, &expected, Some(&width.into())))
            }
        }
    };
    Ok(Heads {
        query: count,
        key: shared,
        value: shared,
        key_dim: dim("expand_k", expand_k)?,
        value_dim: dim("expand_v", expand_v)?,
    })
}

/// As [`heads`], of a mixer that has as many heads of keys and values as of queries.
pub(super) fn equal_heads(
    fields: &Fields<'_>,
    model_dim: usize,
    ratios: (f64, f64),
) -> Result<Heads, CheckpointError> {
    if fields.has("num_kv_heads") && fields.dimension("num_kv_heads")? != fields.dimension("num_heads")? {
        return Err(fields.unsupported("num_kv_heads", "null (as many heads of keys as of queries)"));
    }
    heads(fields, model_dim, ratios)
}

/// `num_heads`, `num_v_heads` (a multiple of them), `head_dim` and `expand_v`, the width of a value over that of a key; the last two with
/// these defaults.
pub(super) fn grouped_values(
    fields: &Fields<'_>,
    head_dim: usize,
    expand_v: f64,
) -> Result<Heads, CheckpointError> {
    let query = fields.dimension("num_heads")?;
    let value = fields.dimension_or("num_v_heads", query)?;
    if !value.is_multiple_of(query) {
        let expected = format!("a multiple of the {query} heads");
        return Err(fields.wrong("num_v_heads", &expected, Some(&value.into())));
    }
    let key_dim = fields.dimension_or("head_dim", head_dim)?;
    Ok(Heads {
        query,
        key: query,
        value,
        key_dim,
        value_dim: expanded(fields, "expand_v", expand_v, key_dim)?,
    })
}

/// What there is to say about heads.
pub(super) fn details(heads: &Heads) -> Details {
    let mut details = Details::from([
        ("heads", heads.count().to_string()),
        ("width of a key", heads.key_dim.to_string()),
        ("width of a value", heads.value_dim.to_string()),
    ]);
    if heads.key != heads.query {
        details.insert("heads of keys and values", heads.key.to_string());
    } else if heads.query != heads.value {
        details.insert("heads of queries and keys", heads.query.to_string());
    }
    details
}

/// `use_short_conv`, `conv_size` and `conv_bias`; `None` where there are no convolutions.
pub(super) fn short_conv(
    fields: &Fields<'_>,
    default: bool,
) -> Result<Option<ShortConvConfig>, CheckpointError> {
    if !fields.bool_or("use_short_conv", default)? {
        return Ok(None);
    }
    if fields.bool_or("share_conv_kernel", false)? {
        return Err(fields.unsupported("share_conv_kernel", "false (a convolution per projection)"));
    }
    Ok(Some(ShortConvConfig {
        width: fields.dimension_or("conv_size", 4)?,
        bias: fields.bool_or("conv_bias", false)?,
    }))
}

/// The output norm and projection of RetNet, GLA and simple GLA, and the names of their tensors: the norm is stored under another one where it is
/// fused with the gate.
pub(super) fn gated_output(
    fields: &Fields<'_>,
    gate: bool,
) -> Result<(OutputConfig, Names), CheckpointError> {
    let fused = gate && fields.bool_or("fuse_norm", true)?;
    let output = OutputConfig {
        gate: gate.then_some(GateConfig::SILU),
        norm_weight: fields.bool_or("elementwise_affine", true)?,
    };
    let names: Names = match fused {
        true => &[("g_norm", "g_norm_swish_gate")],
        false => &[],
    };
    Ok((output, names))
}

/// `feature_map` where it is one of the activations that have no weights.
pub(super) fn activation(fields: &Fields<'_>) -> Result<FeatureMapKind, CheckpointError> {
    match fields.text("feature_map")? {
        None => Ok(FeatureMapKind::Identity),
        Some("relu") => Ok(FeatureMapKind::Relu),
        Some("swish" | "silu") => Ok(FeatureMapKind::Silu),
        Some("sigmoid") => Ok(FeatureMapKind::Sigmoid),
        Some(_) => Err(fields.unsupported(
            "feature_map",
            "null, \"relu\", \"swish\", \"silu\" or \"sigmoid\"",
        )),
    }
}

/// The default of `hidden_ratio` in all architectures but RetNet.
pub(super) const HIDDEN_RATIO: f64 = 4.0;

/// What a preset of this line begins with.
pub(super) fn backbone(fields: &Fields<'_>) -> Result<Backbone, CheckpointError> {
    Backbone::read(fields, HIDDEN_RATIO)
}
