//! RWKV-6 (`RWKV-x060-World-*`): BlinkDL's files, and flash-linear-attention's (`model_type: rwkv6`).
//!
//! | | BlinkDL | flash-linear-attention |
//! |---|---|---|
//! | numbers | tensors' shapes | `config.json` |
//! | narrow layer of the interpolations | `time_maa_w1` `[in, 5 · rank]` | `x_proj.0.linear.weight` `[5 · rank, in]` |
//! | weights from it | `time_maa_w2` `[5, rank, out]`, order w, k, v, r, g | `x_proj.2.weight` `[out, 5 · rank]`, order r, w, k, v, g |
//! | constant weights | `time_maa_{w,k,v,r,g}` | rows of `x_bias` |
//! | decay | `time_decay`, `time_decay_w{1,2}` | `w_proj.linear.lora.{2.bias,0.weight,2.weight}` |
//! | ε of the heads' norm | 64e-5 | `norm_eps`, 1e-5: the same weights give other logits |

use std::collections::BTreeMap;
use std::sync::Arc;

use attention_linear::rwkv::{
    DynamicShift, DynamicWeights, HeadShape, LowRank, LowRankActivation, Rwkv6, Rwkv6Weights,
};
use burn::tensor::Tensor;
use ssm_core::{Linear, Mixer};

use super::blinkdl::{self, HEAD_NORM_EPS, Version};
use super::rwkv5::{BLINKDL_HEADS, HeadNaming, fresh_decay};
use super::{ChannelNaming, LowRankShape, Place, Share, complement, fla, preset, ramp, row};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset};
use crate::loader::{Init, Loader};

pub(super) const BLINKDL: Layout = Layout {
    architecture: "rwkv6",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Six.recognise(checkpoint),
    config: |checkpoint| Version::Six.config(checkpoint),
    load: load_blinkdl,
    presets: BLINKDL_PRESETS,
};

pub(super) const FLA: Layout = Layout {
    architecture: "rwkv6",
    name: "flash-linear-attention",
    recognise: |checkpoint| fla::recognise(checkpoint, "rwkv6", "model.layers.0.attn.x_proj.0.mu"),
    config: |checkpoint| {
        fla::config(
            checkpoint,
            &[
                ("intermediate_size", "model.layers.0.ffn.key.linear.weight"),
                (
                    "gate_low_rank_dim",
                    "model.layers.0.attn.w_proj.linear.lora.0.weight",
                ),
            ],
        )
    },
    load: load_fla,
    presets: FLA_PRESETS,
};

const BLINKDL_PRESETS: &[Preset] = &[
    preset!("rwkv6", "tiny", vocab_size: 256, n_embd: 64, n_layer: 2, dim_att: 64, dim_ffn: 224, head_size: 32,
        mix_rank: 32, decay_rank: 64),
    preset!("rwkv6", "1b6", vocab_size: 65536, n_embd: 2048, n_layer: 24, dim_att: 2048, dim_ffn: 7168,
        head_size: 64, mix_rank: 32, decay_rank: 64),
    preset!("rwkv6", "3b", vocab_size: 65536, n_embd: 2560, n_layer: 32, dim_att: 2560, dim_ffn: 8960,
        head_size: 64, mix_rank: 32, decay_rank: 64),
    preset!("rwkv6", "7b", vocab_size: 65536, n_embd: 4096, n_layer: 32, dim_att: 4096, dim_ffn: 14336,
        head_size: 64, mix_rank: 64, decay_rank: 128),
];

const FLA_PRESETS: &[Preset] = &[
    preset!("rwkv6", "tiny", vocab_size: 256, hidden_size: 64, num_hidden_layers: 2, num_heads: 2, expand_k: 1.0,
        expand_v: 1.0, intermediate_size: 224, proj_low_rank_dim: 32, gate_low_rank_dim: 64),
    preset!("rwkv6", "1b6", vocab_size: 65536, hidden_size: 2048, num_hidden_layers: 24, num_heads: 32, expand_k: 1.0,
        expand_v: 1.0, intermediate_size: 7168, proj_low_rank_dim: 32, gate_low_rank_dim: 64),
    preset!("rwkv6", "3b", vocab_size: 65536, hidden_size: 2560, num_hidden_layers: 32, num_heads: 40, expand_k: 1.0,
        expand_v: 1.0, intermediate_size: 8960, proj_low_rank_dim: 32, gate_low_rank_dim: 64),
    preset!("rwkv6", "7b", vocab_size: 65536, hidden_size: 4096, num_hidden_layers: 32, num_heads: 64, expand_k: 1.0,
        expand_v: 1.0, intermediate_size: 14336, proj_low_rank_dim: 64, gate_low_rank_dim: 128),
];

const BLINKDL_CHANNEL: ChannelNaming = ChannelNaming {
    share: Share::PreviousRow,
    key_shift: "time_maa_k",
    key: "key",
    value: "value",
    receptance: Some(("time_maa_r", "receptance")),
};

const FLA_CHANNEL: ChannelNaming = ChannelNaming {
    share: Share::PreviousVector,
    key_shift: "key.mu",
    key: "key.linear",
    value: "value",
    receptance: Some(("receptance.mu", "receptance.linear")),
};

const FLA_HEADS: HeadNaming = HeadNaming {
    receptance: "r_proj.linear",
    key: "k_proj.linear",
    value: "v_proj.linear",
    gate: "g_proj.linear",
    output: "o_proj",
    bonus: "bonus",
    norm: "g_norm",
};

/// What a configuration says of the mixers.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    heads: HeadShape,
    hidden_dim: usize,
    mix_rank: usize,
    decay_rank: usize,
}

impl Sizes {
    fn details(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("head size", self.heads.key_dim.to_string()),
            ("width of the channel mixer", self.hidden_dim.to_string()),
            ("rank of the interpolations", self.mix_rank.to_string()),
            ("rank of the decay", self.decay_rank.to_string()),
        ])
    }

    fn decay(&self) -> LowRankShape {
        LowRankShape {
            inputs: self.heads.model_dim,
            rank: self.decay_rank,
            outputs: self.heads.keys(),
            activation: LowRankActivation::Tanh,
        }
    }
}

fn load_blinkdl(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let sizes = Sizes {
        heads: blinkdl::head_shape(fields)?,
        hidden_dim: fields.dimension("dim_ffn")?,
        mix_rank: fields.dimension("mix_rank")?,
        decay_rank: fields.dimension("decay_rank")?,
    };
    blinkdl::backbone(fields, sizes.details())?.load(loader, |loader, place| {
        let decay = sizes.decay().read_blinkdl(
            loader,
            [&place.mixer("time_decay_w1"), &place.mixer("time_decay_w2")],
            Some((&place.mixer("time_decay"), fresh_decay(place.depth()))),
        )?;
        let weights = Rwkv6Weights {
            shift: blinkdl_shift(loader, place, &sizes)?,
            decay,
            heads: BLINKDL_HEADS.read(loader, place, &sizes.heads, HEAD_NORM_EPS)?,
        };
        let mixer: Arc<dyn Mixer> = Arc::new(Rwkv6::new(sizes.heads, weights)?);
        let channel = BLINKDL_CHANNEL.read(loader, place, sizes.heads.model_dim, sizes.hidden_dim)?;
        Ok((mixer, channel))
    })
}

fn blinkdl_shift(loader: &mut Loader<'_>, place: &Place, sizes: &Sizes) -> Result<DynamicShift, ModelError> {
    let (width, rank) = (sizes.heads.model_dim, sizes.mix_rank);
    let shares = fresh_shares(place);
    let input = Share::PreviousRow.read(
        loader,
        &place.mixer("time_maa_x"),
        width,
        ramp(place.height(), 0.0),
    )?;
    let down = loader.transposed(&place.mixer("time_maa_w1"), [width, 5 * rank])?;
    // `[5, rank, out]`.
    let stored: Tensor<3> = loader.stored(
        &place.mixer("time_maa_w2"),
        [5, rank, width],
        Init::Uniform(-0.01, 0.01),
    )?;
    let mut weights = |part: usize, letter: &str, share: Init| -> Result<DynamicWeights, ModelError> {
        let matrix = stored.clone().narrow(0, part, 1).reshape([rank, width]);
        let name = place.mixer(&format!("time_maa_{letter}"));
        let bias = row(loader, &name, width, complement(share))?;
        Ok(DynamicWeights {
            part,
            up: Linear::new(loader.pack(matrix.transpose())?, Some(bias))?,
        })
    };
    Ok(DynamicShift {
        decay: weights(0, "w", shares.decay)?,
        key: weights(1, "k", shares.key)?,
        value: weights(2, "v", shares.value)?,
        receptance: weights(3, "r", shares.receptance)?,
        gate: weights(4, "g", shares.gate)?,
        input,
        down: Linear::new(down, None)?,
    })
}

/// The shares of the current token in a fresh layer.
struct FreshShares {
    decay: Init,
    key: Init,
    value: Init,
    receptance: Init,
    gate: Init,
}

fn fresh_shares(place: &Place) -> FreshShares {
    let (depth, height) = (place.depth(), place.height());
    FreshShares {
        decay: ramp(height, 0.0),
        key: ramp(height, 0.0),
        value: ramp(height, 0.3 * depth),
        receptance: ramp(0.5 * height, 0.0),
        gate: ramp(0.5 * height, 0.0),
    }
}

fn load_fla(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let (sizes, eps) = (fla_sizes(fields)?, fla::norm_eps(fields)?);
    fla::backbone(fields, sizes.details())?.load(loader, |loader, place| {
        let offset = fresh_decay(place.depth());
        let decay: LowRank = sizes
            .decay()
            .read_fla(loader, &place.mixer("w_proj.linear"), Some(offset))?;
        let weights = Rwkv6Weights {
            shift: fla_shift(loader, place, &sizes)?,
            decay,
            heads: FLA_HEADS.read(loader, place, &sizes.heads, eps)?,
        };
        let mixer: Arc<dyn Mixer> = Arc::new(Rwkv6::new(sizes.heads, weights)?);
        let channel = FLA_CHANNEL.read(loader, place, sizes.heads.model_dim, sizes.hidden_dim)?;
        Ok((mixer, channel))
    })
}

fn fla_sizes(fields: &Fields<'_>) -> Result<Sizes, CheckpointError> {
    let (model_dim, heads) = (
        fields.dimension("hidden_size")?,
        fields.dimension_or("num_heads", 4)?,
    );
    // As the published code has it, a fraction of a channel is cut off.
    let per_head = |field: &str, default: f32| {
        let channels = (fields.positive_or(field, default)? * model_dim as f32) as usize;
        if channels == 0 || !channels.is_multiple_of(heads) {
            let expected = format!("a part of hidden_size = {model_dim} that {heads} heads share evenly");
            return Err(fields.wrong(field, &expected, fields.value(field)));
        }
        Ok(channels / heads)
    };
    Ok(Sizes {
        heads: HeadShape {
            model_dim,
            heads,
            key_dim: per_head("expand_k", 0.5)?,
            value_dim: per_head("expand_v", 1.0)?,
        },
        hidden_dim: fields.dimension("intermediate_size")?,
        mix_rank: fields.dimension_or("proj_low_rank_dim", 32)?,
        decay_rank: fields.dimension_or("gate_low_rank_dim", 64)?,
    })
}

fn fla_shift(loader: &mut Loader<'_>, place: &Place, sizes: &Sizes) -> Result<DynamicShift, ModelError> {
    let (width, rank) = (sizes.heads.model_dim, sizes.mix_rank);
    let input = Share::PreviousVector.read(
        loader,
        &place.mixer("x_proj.0.mu"),
        width,
        ramp(place.height(), 0.0),
    )?;
    let down = loader.linear(&place.mixer("x_proj.0.linear"), [5 * rank, width], false)?;
    // `[out, 5 · rank]`.
    let stored: Tensor<2> = loader.stored(
        &place.mixer("x_proj.2.weight"),
        [width, 5 * rank],
        Init::Uniform(-0.01, 0.01),
    )?;
    let shares: Tensor<2> = loader.tensor(&place.mixer("x_bias"), [5, width], Init::Uniform(0.0, 1.0))?;
    let mut weights = |part: usize| -> Result<DynamicWeights, ModelError> {
        let matrix = stored.clone().narrow(1, part * rank, rank);
        let bias = shares.clone().narrow(0, part, 1).reshape([width]);
        Ok(DynamicWeights {
            part,
            up: Linear::new(loader.pack(matrix)?, Some(bias))?,
        })
    };
    Ok(DynamicShift {
        receptance: weights(0)?,
        decay: weights(1)?,
        key: weights(2)?,
        value: weights(3)?,
        gate: weights(4)?,
        input,
        down,
    })
}
