//! RWKV-4 (`rwkv-4-pile-*`, `rwkv-4-world-*`): BlinkDL's files, and Hugging Face's (`model_type: rwkv`).
//!
//! | | BlinkDL | Hugging Face |
//! |---|---|---|
//! | numbers | tensors' shapes | `config.json` |
//! | time mixing, channel mixing | `blocks.N.att`, `blocks.N.ffn` | `rwkv.blocks.N.attention`, `rwkv.blocks.N.feed_forward` |
//! | interpolations | `time_mix_{k,v,r}` | `time_mix_{key,value,receptance}` |
//! | norm of the embedding | `blocks.0.ln0` | `rwkv.blocks.0.pre_ln` |
//! | ε | 1e-5 | `layer_norm_epsilon`; code that runs the model halves the residual stream every `rescale_every` blocks |

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::rwkv::{Rwkv4, Rwkv4Config};

use super::blinkdl::{self, Version};
use super::stored::{LowRankStorage, Share, Storage};
use super::{Backbone, BlockPlan, Mixers, hugging_face, preset};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::loader::Loader;

pub(crate) const BLINKDL: Layout = Layout {
    architecture: "rwkv4",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Four.recognise(checkpoint),
    config: |checkpoint| Version::Four.config(checkpoint),
    parse: parse_blinkdl,
    presets: BLINKDL_PRESETS,
};

pub(crate) const HUGGING_FACE: Layout = Layout {
    architecture: "rwkv4",
    name: "Hugging Face",
    recognise: |checkpoint| hugging_face::recognise(checkpoint, "rwkv"),
    config: stored_config,
    parse: parse_hugging_face,
    presets: HUGGING_FACE_PRESETS,
};

const BLINKDL_PRESETS: &[Preset] = &[
    preset!("rwkv4", "tiny", vocab_size: 256, n_embd: 64, n_layer: 2, dim_att: 64, dim_ffn: 256),
    preset!("rwkv4", "169m", vocab_size: 50277, n_embd: 768, n_layer: 12, dim_att: 768, dim_ffn: 3072),
    preset!("rwkv4", "430m", vocab_size: 50277, n_embd: 1024, n_layer: 24, dim_att: 1024, dim_ffn: 4096),
    preset!("rwkv4", "1b5", vocab_size: 50277, n_embd: 2048, n_layer: 24, dim_att: 2048, dim_ffn: 8192),
    preset!("rwkv4", "3b", vocab_size: 50277, n_embd: 2560, n_layer: 32, dim_att: 2560, dim_ffn: 10240),
    preset!("rwkv4", "7b", vocab_size: 50277, n_embd: 4096, n_layer: 32, dim_att: 4096, dim_ffn: 16384),
];

const HUGGING_FACE_PRESETS: &[Preset] = &[
    preset!("rwkv", "tiny", vocab_size: 256, hidden_size: 64, num_hidden_layers: 2),
    preset!("rwkv", "169m", vocab_size: 50277, hidden_size: 768, num_hidden_layers: 12, eos_token_id: 0),
    preset!("rwkv", "430m", vocab_size: 50277, hidden_size: 1024, num_hidden_layers: 24, eos_token_id: 0),
    preset!("rwkv", "1b5", vocab_size: 50277, hidden_size: 2048, num_hidden_layers: 24, eos_token_id: 0),
    preset!("rwkv", "3b", vocab_size: 50277, hidden_size: 2560, num_hidden_layers: 32, eos_token_id: 0),
    preset!("rwkv", "7b", vocab_size: 50277, hidden_size: 4096, num_hidden_layers: 32, eos_token_id: 0),
];

const BLINKDL_TIME: Storage = Storage {
    names: &[
        ("key_shift", "time_mix_k"),
        ("value_shift", "time_mix_v"),
        ("receptance_shift", "time_mix_r"),
    ],
    ..BLINKDL_CHANNEL
};

/// The channel mixer of BlinkDL's versions 4 and 5.
pub(super) const BLINKDL_CHANNEL: Storage = Storage {
    names: &[("key_shift", "time_mix_k"), ("receptance_shift", "time_mix_r")],
    rows: &[],
    share: Share::CurrentRow,
    low_rank: LowRankStorage::BlinkDl,
};

/// Time mixers, and the channel mixers of versions 4 and 5.
pub(super) const HUGGING_FACE_STORAGE: Storage = Storage {
    names: &[
        ("key_shift", "time_mix_key"),
        ("value_shift", "time_mix_value"),
        ("receptance_shift", "time_mix_receptance"),
    ],
    ..BLINKDL_CHANNEL
};

/// The sizes of the mixers.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    model_dim: usize,
    channels: usize,
    hidden_dim: usize,
}

impl Sizes {
    fn details(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("channels", self.channels.to_string()),
            ("width of the channel mixer", self.hidden_dim.to_string()),
        ])
    }

    fn mixers(
        &self,
        loader: &mut Loader<'_>,
        plan: &BlockPlan,
        [time, channel]: [Storage; 2],
    ) -> Result<Mixers, ModelError> {
        let config = Rwkv4Config {
            model_dim: self.model_dim,
            channels: self.channels,
            depth: plan.depth,
        };
        let mixer = Rwkv4::read(config, &mut time.below(loader, &plan.mixer))?;
        let channel = channel.channel_mix(loader, plan, [self.model_dim, self.hidden_dim], true)?;
        Ok((Arc::new(mixer), Arc::new(channel)))
    }
}

fn parse_blinkdl(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let sizes = Sizes {
        model_dim: fields.dimension("n_embd")?,
        channels: fields.dimension("dim_att")?,
        hidden_dim: fields.dimension("dim_ffn")?,
    };
    let backbone = blinkdl::backbone(fields, sizes.details())?;
    Ok(backbone.assembly(move |loader, plan| sizes.mixers(loader, plan, [BLINKDL_TIME, BLINKDL_CHANNEL])))
}

fn parse_hugging_face(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let (sizes, backbone) = of_hugging_face(fields)?;
    Ok(backbone.assembly(move |loader, plan| sizes.mixers(loader, plan, [HUGGING_FACE_STORAGE; 2])))
}

fn of_hugging_face(fields: &Fields<'_>) -> Result<(Sizes, Backbone), CheckpointError> {
    let model_dim = fields.dimension("hidden_size")?;
    let sizes = Sizes {
        model_dim,
        channels: fields.dimension_or("attention_hidden_size", model_dim)?,
        hidden_dim: fields.dimension_or("intermediate_size", 4 * model_dim)?,
    };
    Ok((sizes, hugging_face::backbone(fields, sizes.details())?))
}
