//! What the mixers of flash-linear-attention have in common: heads, projections with short convolutions, the way out.

use attention_linear::feature_map::FeatureMap;
use attention_linear::heads::Heads;
use attention_linear::projection::{BranchWeights, OutputWeights};

use super::backbone::{Backbone, Details, expanded};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::loader::{Init, Loader};
use crate::short_conv::short_conv;

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

/// The short convolutions of a mixer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortConv {
    width: usize,
    bias: bool,
}

impl ShortConv {
    /// `use_short_conv`, `conv_size` and `conv_bias`; `None` where there are none.
    pub(super) fn read(fields: &Fields<'_>, default: bool) -> Result<Option<Self>, CheckpointError> {
        if !fields.bool_or("use_short_conv", default)? {
            return Ok(None);
        }
        if fields.bool_or("share_conv_kernel", false)? {
            return Err(fields.unsupported("share_conv_kernel", "false (a convolution per projection)"));
        }
        Ok(Some(Self {
            width: fields.dimension_or("conv_size", 4)?,
            bias: fields.bool_or("conv_bias", false)?,
        }))
    }
}

/// `NAME_proj` and, with convolutions, `NAME_conv1d`.
pub(super) fn branch(
    loader: &mut Loader<'_>,
    name: &str,
    [channels, model_dim]: [usize; 2],
    conv: Option<ShortConv>,
) -> Result<BranchWeights, ModelError> {
    let linear = loader.linear(&format!("{name}_proj"), [channels, model_dim], false)?;
    let conv = match conv {
        None => None,
        Some(ShortConv { width, bias }) => Some(short_conv(
            loader,
            &format!("{name}_conv1d"),
            [channels, width],
            bias,
        )?),
    };
    Ok(BranchWeights { linear, conv })
}

/// The branches to queries, keys and values below `name`.
pub(super) fn query_key_value(
    loader: &mut Loader<'_>,
    name: &str,
    (model_dim, heads): (usize, &Heads),
    conv: Option<ShortConv>,
) -> Result<[BranchWeights; 3], ModelError> {
    let [q, k, v] = heads.widths();
    Ok([
        branch(loader, &format!("{name}.q"), [q, model_dim], conv)?,
        branch(loader, &format!("{name}.k"), [k, model_dim], conv)?,
        branch(loader, &format!("{name}.v"), [v, model_dim], conv)?,
    ])
}

/// The way out of a recurrence.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputProjection {
    /// Features of the read-out.
    pub(super) width: usize,
    /// Features that share a norm.
    pub(super) group: usize,
    /// Whether there is `g_proj`.
    pub(super) gated: bool,
    /// The norm's name, where it has a weight.
    pub(super) norm: Option<&'static str>,
}

impl OutputProjection {
    pub(super) fn load(
        self,
        loader: &mut Loader<'_>,
        name: &str,
        model_dim: usize,
    ) -> Result<OutputWeights, ModelError> {
        Ok(OutputWeights {
            gate: match self.gated {
                true => Some(loader.linear(&format!("{name}.g_proj"), [self.width, model_dim], false)?),
                false => None,
            },
            norm: match self.norm {
                Some(norm) => {
                    Some(loader.vector(&format!("{name}.{norm}.weight"), self.group, Init::Ones)?)
                }
                None => None,
            },
            out: loader.linear(&format!("{name}.o_proj"), [model_dim, self.width], false)?,
        })
    }
}

/// The way out of RetNet, GLA and simple GLA, whose norm is stored under another name where it is fused with the gate.
pub(super) fn gated_output_projection(
    fields: &Fields<'_>,
    heads: &Heads,
    gated: bool,
) -> Result<OutputProjection, CheckpointError> {
    let fused = gated && fields.bool_or("fuse_norm", true)?;
    let affine = fields.bool_or("elementwise_affine", true)?;
    Ok(OutputProjection {
        width: heads.read_out_width(),
        group: heads.value_dim,
        gated,
        norm: affine.then_some(if fused { "g_norm_swish_gate" } else { "g_norm" }),
    })
}

/// `feature_map` where it is one of the activations that have no weights.
pub(super) fn activation(fields: &Fields<'_>) -> Result<FeatureMap, CheckpointError> {
    match fields.text("feature_map")? {
        None => Ok(FeatureMap::Identity),
        Some("relu") => Ok(FeatureMap::Relu),
        Some("swish" | "silu") => Ok(FeatureMap::Silu),
        Some("sigmoid") => Ok(FeatureMap::Sigmoid),
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
