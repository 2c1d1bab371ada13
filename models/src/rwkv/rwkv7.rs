//! RWKV-7 (`RWKV-x070-World-*`, `rwkv7-g1*`): BlinkDL's files, and flash-linear-attention's (`model_type: rwkv7`).
//!
//! | | BlinkDL | flash-linear-attention |
//! |---|---|---|
//! | numbers | tensors' shapes | `config.json` |
//! | low-rank gates | `{w,a,v}{0,1,2}`, `g{1,2}`, stored as `[in, out]` | `{w,a,v,g}_lora.lora.{0,2}`, stored as `[out, in]` |
//! | layer 0 | may hold `v0`, `v1` and `v2`, which nothing reads | has none |
//! | ε of the heads' norm | 64e-5 | head size · `norm_eps` |
//! | ε under the root of the removal key's L2 norm | 1e-24 (a bound of 1e-12 on the norm) | 1e-6 with `fuse_norm`, else the same |

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::rwkv::{HeadShape, Rwkv7, Rwkv7Config};

use super::blinkdl::{self, HEAD_NORM_EPS, Version};
use super::stored::{LowRankStorage, Share, Storage};
use super::{BlockPlan, Mixers, ai00, fla, preset};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset};
use crate::loader::Loader;

pub(crate) const BLINKDL: Layout = Layout {
    architecture: "rwkv7",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Seven.recognise(checkpoint),
    config: |checkpoint| Version::Seven.config(checkpoint),
    parse: |fields, _| parse_blinkdl(fields, [BLINKDL_TIME, BLINKDL_CHANNEL]),
    presets: BLINKDL_PRESETS,
};

/// BlinkDL's tensors, with matrices of low rank as `[out, in]`.
pub(crate) const AI00: Layout = Layout {
    architecture: "rwkv7",
    name: ai00::NAME,
    recognise: |checkpoint| ai00::recognise(checkpoint, Version::Seven),
    config: |checkpoint| ai00::config(checkpoint, Version::Seven),
    parse: |fields, _| parse_blinkdl(fields, [AI00_TIME, AI00_CHANNEL]),
    presets: &[],
};

pub(crate) const FLA: Layout = Layout {
    architecture: "rwkv7",
    name: "flash-linear-attention",
    recognise: |checkpoint| fla::recognise(checkpoint, "rwkv7", "model.layers.0.attn.w_lora.lora.0.weight"),
    config: |checkpoint| {
        fla::config(
            checkpoint,
            &[
                ("intermediate_size", "model.layers.0.ffn.key.weight"),
                ("decay_low_rank_dim", "model.layers.0.attn.w_lora.lora.0.weight"),
                ("a_low_rank_dim", "model.layers.0.attn.a_lora.lora.0.weight"),
                ("gate_low_rank_dim", "model.layers.0.attn.g_lora.lora.0.weight"),
                ("v_low_rank_dim", "model.layers.1.attn.v_lora.lora.0.weight"),
            ],
        )
    },
    parse: parse_fla,
    presets: FLA_PRESETS,
};

const BLINKDL_PRESETS: &[Preset] = &[
    preset!("rwkv7", "tiny", vocab_size: 256, n_embd: 64, n_layer: 2, dim_att: 64, dim_ffn: 256, head_size: 32,
        decay_rank: 32, rate_rank: 32, value_rank: 32, gate_rank: 32),
    preset!("rwkv7", "0.1b", vocab_size: 65536, n_embd: 768, n_layer: 12, dim_att: 768, dim_ffn: 3072, head_size: 64,
        decay_rank: 64, rate_rank: 64, value_rank: 32, gate_rank: 128),
    preset!("rwkv7", "0.4b", vocab_size: 65536, n_embd: 1024, n_layer: 24, dim_att: 1024, dim_ffn: 4096, head_size: 64,
        decay_rank: 64, rate_rank: 64, value_rank: 32, gate_rank: 128),
    preset!("rwkv7", "1.5b", vocab_size: 65536, n_embd: 2048, n_layer: 24, dim_att: 2048, dim_ffn: 8192, head_size: 64,
        decay_rank: 96, rate_rank: 96, value_rank: 64, gate_rank: 256),
    preset!("rwkv7", "2.9b", vocab_size: 65536, n_embd: 2560, n_layer: 32, dim_att: 2560, dim_ffn: 10240, head_size: 64,
        decay_rank: 96, rate_rank: 96, value_rank: 64, gate_rank: 320),
];

const FLA_PRESETS: &[Preset] = &[
    preset!("rwkv7", "tiny", vocab_size: 256, hidden_size: 64, num_hidden_layers: 2, head_dim: 32,
        intermediate_size: 256, decay_low_rank_dim: 32, a_low_rank_dim: 32, v_low_rank_dim: 32, gate_low_rank_dim: 32),
    preset!("rwkv7", "0.1b", vocab_size: 65536, hidden_size: 768, num_hidden_layers: 12, head_dim: 64,
        intermediate_size: 3072, decay_low_rank_dim: 64, a_low_rank_dim: 64, v_low_rank_dim: 32, gate_low_rank_dim: 128),
    preset!("rwkv7", "0.4b", vocab_size: 65536, hidden_size: 1024, num_hidden_layers: 24, head_dim: 64,
        intermediate_size: 4096, decay_low_rank_dim: 64, a_low_rank_dim: 64, v_low_rank_dim: 32, gate_low_rank_dim: 128),
    preset!("rwkv7", "1.5b", vocab_size: 65536, hidden_size: 2048, num_hidden_layers: 24, head_dim: 64,
        intermediate_size: 8192, decay_low_rank_dim: 96, a_low_rank_dim: 96, v_low_rank_dim: 64, gate_low_rank_dim: 256),
    preset!("rwkv7", "2.9b", vocab_size: 65536, hidden_size: 2560, num_hidden_layers: 32, head_dim: 64,
        intermediate_size: 10240, decay_low_rank_dim: 96, a_low_rank_dim: 96, v_low_rank_dim: 64, gate_low_rank_dim: 320),
];

/// Below this the L2 norm of a removal key counts as this, in BlinkDL's code; its square, under the root, does the same.
const REMOVAL_NORM_BOUND: f32 = 1e-12;
/// ε under the root of a removal key's L2 norm, in flash-linear-attention's fused norm.
const FUSED_NORM_EPS: f32 = 1e-6;

const BLINKDL_TIME: Storage = Storage {
    names: &[
        ("w.offset", "w0"),
        ("w.down", "w1"),
        ("w.up", "w2"),
        ("a.offset", "a0"),
        ("a.down", "a1"),
        ("a.up", "a2"),
        ("v.offset", "v0"),
        ("v.down", "v1"),
        ("v.up", "v2"),
        ("g.down", "g1"),
        ("g.up", "g2"),
    ],
    rows: &["k_k", "k_a"],
    ..BLINKDL_CHANNEL
};

const BLINKDL_CHANNEL: Storage = Storage {
    names: CHANNEL_NAMES,
    rows: &[],
    share: Share::PreviousRow,
    low_rank: LowRankStorage::BlinkDl,
};

const AI00_TIME: Storage = Storage {
    low_rank: LowRankStorage::Ai00 { rank_first: false },
    ..BLINKDL_TIME
};

const AI00_CHANNEL: Storage = Storage {
    low_rank: LowRankStorage::Ai00 { rank_first: false },
    ..BLINKDL_CHANNEL
};

const FLA_TIME: Storage = Storage {
    names: &[
        ("w.down", "w_lora.lora.0"),
        ("w.up", "w_lora.lora.2"),
        ("a.down", "a_lora.lora.0"),
        ("a.up", "a_lora.lora.2"),
        ("v.down", "v_lora.lora.0"),
        ("v.up", "v_lora.lora.2"),
        ("g.down", "g_lora.lora.0"),
        ("g.up", "g_lora.lora.2"),
        ("receptance", "r_proj"),
        ("key", "k_proj"),
        ("value", "v_proj"),
        ("output", "o_proj"),
        ("ln_x", "g_norm"),
    ],
    rows: &[],
    share: Share::PreviousRow,
    low_rank: LowRankStorage::Fla,
};

const FLA_CHANNEL: Storage = Storage {
    names: CHANNEL_NAMES,
    rows: &[],
    share: Share::PreviousVector,
    low_rank: LowRankStorage::Fla,
};

const CHANNEL_NAMES: &[(&str, &str)] = &[("key_shift", "x_k")];

/// What a configuration says of the mixers.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    heads: HeadShape,
    hidden_dim: usize,
    decay_rank: usize,
    rate_rank: usize,
    gate_rank: usize,
    /// Not looked at in a model of one layer.
    value_rank: usize,
    norm_eps: f32,
    removal_eps: f32,
}

impl Sizes {
    fn details(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("head size", self.heads.key_dim.to_string()),
            ("width of the channel mixer", self.hidden_dim.to_string()),
            ("rank of the decay", self.decay_rank.to_string()),
            ("rank of the learning rate", self.rate_rank.to_string()),
            ("rank of the gate", self.gate_rank.to_string()),
            ("rank of the value residual", self.value_rank.to_string()),
        ])
    }

    fn mixers(
        &self,
        loader: &mut Loader<'_>,
        plan: &BlockPlan,
        [time, channel]: [Storage; 2],
    ) -> Result<Mixers, ModelError> {
        let config = Rwkv7Config {
            shape: self.heads,
            decay_rank: self.decay_rank,
            rate_rank: self.rate_rank,
            gate_rank: self.gate_rank,
            value_rank: self.value_rank,
            norm_eps: self.norm_eps,
            removal_eps: self.removal_eps,
            depth: plan.depth,
        };
        let mixer = Rwkv7::read(config, &mut time.below(loader, &plan.mixer))?;
        let channel = channel.channel_mix(loader, plan, [self.heads.model_dim, self.hidden_dim], false)?;
        Ok((Arc::new(mixer), Arc::new(channel)))
    }
}

fn parse_blinkdl(fields: &Fields<'_>, storage: [Storage; 2]) -> Result<Assembly, ModelError> {
    let decay_rank = fields.dimension("decay_rank")?;
    let sizes = Sizes {
        heads: blinkdl::head_shape(fields)?,
        hidden_dim: fields.dimension("dim_ffn")?,
        decay_rank,
        rate_rank: fields.dimension("rate_rank")?,
        gate_rank: fields.dimension("gate_rank")?,
        value_rank: fields.dimension_or("value_rank", decay_rank)?,
        norm_eps: HEAD_NORM_EPS,
        removal_eps: REMOVAL_NORM_BOUND * REMOVAL_NORM_BOUND,
    };
    Ok(
        blinkdl::backbone(fields, sizes.details())?.assembly(move |loader, plan| {
            if plan.depth.layer == 0 {
                // The first layer has no values of an earlier one; what files may hold for it is not read by anything.
                for part in ["v0", "v1", "v2"] {
                    loader.ignore(&format!("{}.{part}", plan.mixer));
                }
            }
            sizes.mixers(loader, plan, storage)
        }),
    )
}

fn parse_fla(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let sizes = fla_sizes(fields)?;
    Ok(fla::backbone(fields, sizes.details())?
        .assembly(move |loader, plan| sizes.mixers(loader, plan, [FLA_TIME, FLA_CHANNEL])))
}

fn fla_sizes(fields: &Fields<'_>) -> Result<Sizes, CheckpointError> {
    let model_dim = fields.dimension("hidden_size")?;
    let head_dim = fields.dimension_or("head_dim", 64)?;
    if !model_dim.is_multiple_of(head_dim) {
        let expected = format!("a divisor of hidden_size = {model_dim}");
        return Err(fields.wrong("head_dim", &expected, fields.value("head_dim")));
    }
    let heads = model_dim / head_dim;
    if fields.dimension_or("num_heads", heads)? != heads {
        let expected = format!("hidden_size / head_dim = {heads}");
        return Err(fields.wrong("num_heads", &expected, fields.value("num_heads")));
    }
    let decay_rank = fields.dimension("decay_low_rank_dim")?;
    let fused = fields.bool_or("fuse_norm", true)?;
    Ok(Sizes {
        heads: HeadShape {
            model_dim,
            heads,
            key_dim: head_dim,
            value_dim: fla_value_dim(fields, model_dim, heads)?,
        },
        hidden_dim: fields.dimension("intermediate_size")?,
        decay_rank,
        rate_rank: fields.dimension("a_low_rank_dim")?,
        gate_rank: fields.dimension("gate_low_rank_dim")?,
        value_rank: fields.dimension_or("v_low_rank_dim", decay_rank)?,
        norm_eps: head_dim as f32 * fla::norm_eps(fields)?,
        removal_eps: match fused {
            true => FUSED_NORM_EPS,
            false => REMOVAL_NORM_BOUND * REMOVAL_NORM_BOUND,
        },
    })
}

/// Columns of a head's state: from `value_dim`, one number or the same number for every layer.
fn fla_value_dim(fields: &Fields<'_>, model_dim: usize, heads: usize) -> Result<usize, CheckpointError> {
    let values = match fields.value("value_dim").and_then(|value| value.as_array()) {
        None => Some(fields.dimension_or("value_dim", model_dim)?),
        Some(list) => {
            let first = list.first().and_then(|value| value.as_u64());
            let uniform = list.iter().all(|value| value.as_u64() == first);
            first
                .filter(|_| uniform)
                .and_then(|first| usize::try_from(first).ok())
        }
    };
    match values {
        Some(values) if values > 0 && values.is_multiple_of(heads) => Ok(values / heads),
        _ => Err(fields.unsupported("value_dim", "one number, which the heads divide, for all layers")),
    }
}
