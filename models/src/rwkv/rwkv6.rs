//! RWKV-6 (`RWKV-x060-World-*`): BlinkDL's files, and flash-linear-attention's and Hugging Face's (`model_type: rwkv6` both).
//!
//! | | BlinkDL | flash-linear-attention |
//! |---|---|---|
//! | numbers | tensors' shapes | `config.json` |
//! | narrow layer of the interpolations | `time_maa_w1` `[in, 5 · rank]` | `x_proj.0.linear.weight` `[5 · rank, in]` |
//! | weights from it | `time_maa_w2` `[5, rank, out]`, order w, k, v, r, g | `x_proj.2.weight` `[out, 5 · rank]`, order r, w, k, v, g |
//! | constant weights | `time_maa_{w,k,v,r,g}` | rows of `x_bias` |
//! | decay | `time_decay`, `time_decay_w{1,2}` | `w_proj.linear.lora.{2.bias,0.weight,2.weight}` |
//! | ε of the heads' norm | 64e-5 | `norm_eps`, 1e-5: the same weights give other logits |
//!
//! Hugging Face's has BlinkDL's tensors below `rwkv.blocks.N.attention` and `.feed_forward`, and `head_size_divisor` d for an ε of 1e-5 d².
//! Ai00's files (`.st`) have BlinkDL's with `time_mix` for `time_maa`, `time_first` for `time_faaaa`, and matrices of low rank as
//! `[out, in]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::rwkv::{HeadShape, Rwkv6, Rwkv6Config};

use super::blinkdl::{self, HEAD_NORM_EPS, Version};
use super::stored::{LowRankStorage, Share, Storage};
use super::{BlockPlan, Mixers, ai00, fla, hugging_face, preset};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset};
use crate::loader::Loader;

pub(crate) const BLINKDL: Layout = Layout {
    architecture: "rwkv6",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Six.recognise(checkpoint),
    config: |checkpoint| Version::Six.config(checkpoint),
    parse: |fields, _| parse_blinkdl(fields, [BLINKDL_TIME, BLINKDL_CHANNEL]),
    presets: BLINKDL_PRESETS,
};

pub(crate) const AI00: Layout = Layout {
    architecture: "rwkv6",
    name: ai00::NAME,
    recognise: |checkpoint| ai00::recognise(checkpoint, Version::Six),
    config: |checkpoint| ai00::config(checkpoint, Version::Six),
    parse: |fields, _| {
        let low_rank = LowRankStorage::Ai00 {
            rank_first: fields.bool_or(ai00::RANK_FIRST, false)?,
        };
        parse_blinkdl(
            fields,
            [
                Storage {
                    low_rank,
                    ..AI00_TIME
                },
                AI00_CHANNEL,
            ],
        )
    },
    presets: &[],
};

pub(crate) const HUGGING_FACE: Layout = Layout {
    architecture: "rwkv6",
    name: "Hugging Face",
    recognise: |checkpoint| hugging_face::recognise(checkpoint, "rwkv6"),
    config: |checkpoint| {
        let mut derived = hugging_face::DERIVED.to_vec();
        derived.extend([
            ("decay_rank", "attention.time_decay_w1", 1),
            // Of one of the five interpolations.
            ("mix_rank", "attention.time_maa_w2", 1),
        ]);
        hugging_face::config(checkpoint, &derived)
    },
    parse: parse_hugging_face,
    presets: HUGGING_FACE_PRESETS,
};

pub(crate) const FLA: Layout = Layout {
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
    parse: parse_fla,
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

/// The ranks are no fields of the published configurations, whose code has them from the width; here nothing is left open.
const HUGGING_FACE_PRESETS: &[Preset] = &[
    preset!("rwkv6", "tiny", vocab_size: 256, hidden_size: 64, num_hidden_layers: 2, attention_hidden_size: 64,
        intermediate_size: 224, head_size: 32, mix_rank: 32, decay_rank: 64),
    preset!("rwkv6", "1b6", vocab_size: 65536, hidden_size: 2048, num_hidden_layers: 24, attention_hidden_size: 2048,
        intermediate_size: 7168, head_size: 64, mix_rank: 32, decay_rank: 64, eos_token_id: 0),
    preset!("rwkv6", "7b", vocab_size: 65536, hidden_size: 4096, num_hidden_layers: 32, attention_hidden_size: 4096,
        intermediate_size: 14336, head_size: 64, mix_rank: 64, decay_rank: 128, eos_token_id: 0),
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

const BLINKDL_TIME: Storage = Storage {
    names: &[
        ("decay.offset", "time_decay"),
        ("decay.down", "time_decay_w1"),
        ("decay.up", "time_decay_w2"),
        ("shift.input", "time_maa_x"),
        ("shift.down", "time_maa_w1"),
        ("shift.up", "time_maa_w2"),
        ("shift.w", "time_maa_w"),
        ("shift.k", "time_maa_k"),
        ("shift.v", "time_maa_v"),
        ("shift.r", "time_maa_r"),
        ("shift.g", "time_maa_g"),
        ("bonus", "time_faaaa"),
    ],
    ..BLINKDL_CHANNEL
};

const BLINKDL_CHANNEL: Storage = Storage {
    names: &[("key_shift", "time_maa_k"), ("receptance_shift", "time_maa_r")],
    rows: &[],
    share: Share::PreviousRow,
    low_rank: LowRankStorage::BlinkDl,
};

const AI00_TIME: Storage = Storage {
    names: &[
        ("decay.offset", "time_decay"),
        ("decay.down", "time_decay_w1"),
        ("decay.up", "time_decay_w2"),
        ("shift.input", "time_mix_x"),
        ("shift.down", "time_mix_w1"),
        ("shift.up", "time_mix_w2"),
        ("shift.w", "time_mix_w"),
        ("shift.k", "time_mix_k"),
        ("shift.v", "time_mix_v"),
        ("shift.r", "time_mix_r"),
        ("shift.g", "time_mix_g"),
        ("bonus", "time_first"),
    ],
    ..AI00_CHANNEL
};

const AI00_CHANNEL: Storage = Storage {
    names: &[("key_shift", "time_mix_k"), ("receptance_shift", "time_mix_r")],
    rows: &[],
    share: Share::PreviousRow,
    low_rank: LowRankStorage::Ai00 { rank_first: false },
};

const FLA_TIME: Storage = Storage {
    names: &[
        ("decay.down", "w_proj.linear.lora.0"),
        ("decay.up", "w_proj.linear.lora.2"),
        ("shift.input", "x_proj.0.mu"),
        ("shift.down", "x_proj.0.linear"),
        ("shift.up", "x_proj.2.weight"),
        ("shift.offsets", "x_bias"),
        ("receptance", "r_proj.linear"),
        ("key", "k_proj.linear"),
        ("value", "v_proj.linear"),
        ("gate", "g_proj.linear"),
        ("output", "o_proj"),
        ("ln_x", "g_norm"),
    ],
    ..FLA_CHANNEL
};

const FLA_CHANNEL: Storage = Storage {
    names: &[
        ("key_shift", "key.mu"),
        ("key", "key.linear"),
        ("receptance_shift", "receptance.mu"),
        ("receptance", "receptance.linear"),
    ],
    rows: &[],
    share: Share::PreviousVector,
    low_rank: LowRankStorage::Fla,
};

/// What a configuration says of the mixers.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    heads: HeadShape,
    hidden_dim: usize,
    mix_rank: usize,
    decay_rank: usize,
    norm_eps: f32,
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

    fn mixers(
        &self,
        loader: &mut Loader<'_>,
        plan: &BlockPlan,
        [time, channel]: [Storage; 2],
    ) -> Result<Mixers, ModelError> {
        let config = Rwkv6Config {
            shape: self.heads,
            mix_rank: self.mix_rank,
            decay_rank: self.decay_rank,
            norm_eps: self.norm_eps,
            depth: plan.depth,
        };
        let mixer = Rwkv6::read(config, &mut time.below(loader, &plan.mixer))?;
        let channel = channel.channel_mix(loader, plan, [self.heads.model_dim, self.hidden_dim], true)?;
        Ok((Arc::new(mixer), Arc::new(channel)))
    }
}

fn parse_blinkdl(fields: &Fields<'_>, storage: [Storage; 2]) -> Result<Assembly, ModelError> {
    let sizes = Sizes {
        heads: blinkdl::head_shape(fields)?,
        hidden_dim: fields.dimension("dim_ffn")?,
        mix_rank: fields.dimension("mix_rank")?,
        decay_rank: fields.dimension("decay_rank")?,
        norm_eps: HEAD_NORM_EPS,
    };
    Ok(blinkdl::backbone(fields, sizes.details())?
        .assembly(move |loader, plan| sizes.mixers(loader, plan, storage)))
}

fn parse_hugging_face(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let hugging_face::Mixers {
        heads,
        hidden_dim,
        norm_eps,
    } = hugging_face::mixers(fields)?;
    // As the published code has it.
    let [mix_rank, decay_rank] = match heads.model_dim == 4096 {
        true => [64, 128],
        false => [32, 64],
    };
    let sizes = Sizes {
        heads,
        hidden_dim,
        mix_rank: fields.dimension_or("mix_rank", mix_rank)?,
        decay_rank: fields.dimension_or("decay_rank", decay_rank)?,
        norm_eps,
    };
    Ok(hugging_face::backbone(fields, sizes.details())?
        .assembly(move |loader, plan| sizes.mixers(loader, plan, [BLINKDL_TIME, BLINKDL_CHANNEL])))
}

fn parse_fla(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let sizes = fla_sizes(fields)?;
    Ok(fla::backbone(fields, sizes.details())?
        .assembly(move |loader, plan| sizes.mixers(loader, plan, [FLA_TIME, FLA_CHANNEL])))
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
        norm_eps: fla::norm_eps(fields)?,
    })
}
