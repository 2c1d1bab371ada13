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

use attention_linear::rwkv::{HeadShape, LowRank, LowRankActivation, Rwkv7, Rwkv7Weights, TokenShift};
use burn::tensor::Tensor;
use ssm_core::Mixer;

use super::blinkdl::{self, HEAD_NORM_EPS, Version};
use super::{ChannelNaming, LowRankShape, Place, Share, fla, head_norm, preset, projection, ramp, row};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset};
use crate::loader::{Init, Loader};

pub(super) const BLINKDL: Layout = Layout {
    architecture: "rwkv7",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Seven.recognise(checkpoint),
    config: |checkpoint| Version::Seven.config(checkpoint),
    load: load_blinkdl,
    presets: BLINKDL_PRESETS,
};

pub(super) const FLA: Layout = Layout {
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
    load: load_fla,
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
/// Under the root in flash-linear-attention's fused norm.
const FUSED_NORM_EPS: f32 = 1e-6;

const CHANNEL: ChannelNaming = ChannelNaming {
    share: Share::PreviousRow,
    key_shift: "x_k",
    key: "key",
    value: "value",
    receptance: None,
};

const FLA_CHANNEL: ChannelNaming = ChannelNaming {
    share: Share::PreviousVector,
    ..CHANNEL
};

/// In what the layouts differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publication {
    BlinkDl,
    Fla,
}

/// What a configuration says of the mixers.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    publication: Publication,
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
}

fn load_blinkdl(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let decay_rank = fields.dimension("decay_rank")?;
    let sizes = Sizes {
        publication: Publication::BlinkDl,
        heads: blinkdl::head_shape(fields)?,
        hidden_dim: fields.dimension("dim_ffn")?,
        decay_rank,
        rate_rank: fields.dimension("rate_rank")?,
        gate_rank: fields.dimension("gate_rank")?,
        value_rank: fields.dimension_or("value_rank", decay_rank)?,
        norm_eps: HEAD_NORM_EPS,
        removal_eps: REMOVAL_NORM_BOUND * REMOVAL_NORM_BOUND,
    };
    blinkdl::backbone(fields, sizes.details())?.load(loader, |loader, place| {
        let mixer = time_mix(loader, place, &sizes)?;
        Ok((
            mixer,
            CHANNEL.read(loader, place, sizes.heads.model_dim, sizes.hidden_dim)?,
        ))
    })
}

fn load_fla(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let sizes = fla_sizes(fields)?;
    fla::backbone(fields, sizes.details())?.load(loader, |loader, place| {
        let mixer = time_mix(loader, place, &sizes)?;
        Ok((
            mixer,
            FLA_CHANNEL.read(loader, place, sizes.heads.model_dim, sizes.hidden_dim)?,
        ))
    })
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
        publication: Publication::Fla,
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

fn time_mix(loader: &mut Loader<'_>, place: &Place, sizes: &Sizes) -> Result<Arc<dyn Mixer>, ModelError> {
    let shape = sizes.heads;
    let (width, keys, values) = (shape.model_dim, shape.keys(), shape.values());
    let [receptance, key, value, output, norm] = match sizes.publication {
        Publication::BlinkDl => ["receptance", "key", "value", "output", "ln_x"],
        Publication::Fla => ["r_proj", "k_proj", "v_proj", "o_proj", "g_norm"],
    };
    let depth = (place.layer + 1) as f32 / place.layers as f32;
    let mut shift = |part: &str, power: f32| fresh_shift(loader, place, width, part, power);
    let (receptance_shift, decay_shift, key_shift, value_shift, rate_shift, gate_shift) = (
        shift("x_r", 0.2)?,
        shift("x_w", 0.9)?,
        shift("x_k", 0.7)?,
        shift("x_v", 0.7)?,
        shift("x_a", 0.9)?,
        shift("x_g", 0.2)?,
    );
    let weights = Rwkv7Weights {
        receptance_shift,
        decay_shift,
        key_shift,
        value_shift,
        rate_shift,
        gate_shift,
        decay: low_rank(loader, place, sizes, Gate::Decay)?,
        rate: low_rank(loader, place, sizes, Gate::Rate)?,
        gate: low_rank(loader, place, sizes, Gate::Output)?,
        value_residual: value_residual(loader, place, sizes)?,
        receptance: projection(loader, &place.mixer(receptance), [keys, width])?,
        key: projection(loader, &place.mixer(key), [keys, width])?,
        value: projection(loader, &place.mixer(value), [values, width])?,
        output: projection(loader, &place.mixer(output), [width, values])?,
        removal_key: key_vector(loader, place, sizes, "k_k", linear(0.76, 0.66))?,
        rate_on_key: key_vector(loader, place, sizes, "k_a", Init::Constant(1.02))?,
        bonus: loader.tensor(
            &place.mixer("r_k"),
            [shape.heads, shape.key_dim],
            Init::Constant(-0.04),
        )?,
        removal_eps: sizes.removal_eps,
        norm: head_norm(
            loader,
            &place.mixer(norm),
            &shape,
            sizes.norm_eps,
            Init::Constant(depth.powf(0.7)),
        )?,
    };
    Ok(Arc::new(Rwkv7::new(shape, weights)?))
}

fn fresh_shift(
    loader: &mut Loader<'_>,
    place: &Place,
    width: usize,
    part: &str,
    power: f32,
) -> Result<TokenShift, ModelError> {
    let init = ramp(power * place.height(), 0.0);
    Share::PreviousRow.read(loader, &place.mixer(part), width, init)
}

/// A vector over all keys: a row in BlinkDL's files.
fn key_vector(
    loader: &mut Loader<'_>,
    place: &Place,
    sizes: &Sizes,
    part: &str,
    init: Init,
) -> Result<Tensor<1>, ModelError> {
    let (name, keys) = (place.mixer(part), sizes.heads.keys());
    match sizes.publication {
        Publication::BlinkDl => row(loader, &name, keys, init),
        Publication::Fla => loader.vector(&name, keys, init),
    }
}

/// From the first number at the first channel to the second at the last.
fn linear(from: f32, to: f32) -> Init {
    Init::Ramp { from, to, power: 1.0 }
}

/// The low-rank projections of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Decay,
    Rate,
    Value,
    Output,
}

fn low_rank(
    loader: &mut Loader<'_>,
    place: &Place,
    sizes: &Sizes,
    gate: Gate,
) -> Result<LowRank, ModelError> {
    let (keys, values) = (sizes.heads.keys(), sizes.heads.values());
    let decay = Init::Ramp {
        from: -6.5,
        to: -1.5,
        power: 0.85 + place.depth().sqrt(),
    };
    let (letter, rank, outputs, offset, activation) = match gate {
        Gate::Decay => ('w', sizes.decay_rank, keys, Some(decay), LowRankActivation::Tanh),
        Gate::Rate => (
            'a',
            sizes.rate_rank,
            keys,
            Some(linear(-0.39, 0.01)),
            LowRankActivation::None,
        ),
        Gate::Value => (
            'v',
            sizes.value_rank,
            values,
            Some(linear(0.93, 0.53)),
            LowRankActivation::None,
        ),
        Gate::Output => ('g', sizes.gate_rank, values, None, LowRankActivation::Sigmoid),
    };
    let shape = LowRankShape {
        inputs: sizes.heads.model_dim,
        rank,
        outputs,
        activation,
    };
    match sizes.publication {
        Publication::BlinkDl => {
            let name = |index: usize| place.mixer(&format!("{letter}{index}"));
            let zeroth = name(0);
            let offset = offset.map(|init| (zeroth.as_str(), init));
            shape.read_blinkdl(loader, [&name(1), &name(2)], offset)
        }
        Publication::Fla => shape.read_fla(loader, &place.mixer(&format!("{letter}_lora")), offset),
    }
}

/// The first layer has no values of an earlier one; what BlinkDL's files may hold for it is not read by anything.
fn value_residual(
    loader: &mut Loader<'_>,
    place: &Place,
    sizes: &Sizes,
) -> Result<Option<LowRank>, ModelError> {
    if place.layer > 0 {
        return Ok(Some(low_rank(loader, place, sizes, Gate::Value)?));
    }
    if sizes.publication == Publication::BlinkDl {
        for part in ["v0", "v1", "v2"] {
            loader.ignore(&place.mixer(part));
        }
    }
    Ok(None)
}
