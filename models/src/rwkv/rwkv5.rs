//! RWKV-5.2 (`RWKV-5-World-*`, `x052`): BlinkDL's files, Hugging Face's (`model_type: rwkv5`) and those of Ai00 (`.st`).
//!
//! | | BlinkDL | Hugging Face | Ai00 |
//! |---|---|---|---|
//! | numbers | tensors' shapes | `config.json`, tensors' shapes | tensors' shapes |
//! | interpolations | `time_mix_{k,v,r,g}` | `time_mix_{key,value,receptance,gate}` | as BlinkDL |
//! | bonus | `time_faaaa` | `time_faaaa` | `time_first` |

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::rwkv::{HeadShape, Rwkv5, Rwkv5Config};

use super::blinkdl::{self, HEAD_NORM_EPS, Version};
use super::rwkv4::{BLINKDL_CHANNEL, HUGGING_FACE_STORAGE};
use super::stored::Storage;
use super::{BlockPlan, Mixers, ai00, hugging_face, preset};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset};
use crate::loader::Loader;

pub(crate) const BLINKDL: Layout = Layout {
    architecture: "rwkv5",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Five.recognise(checkpoint),
    config: |checkpoint| Version::Five.config(checkpoint),
    parse: |fields, _| parse_blinkdl(fields, TIME),
    presets: PRESETS,
};

pub(crate) const HUGGING_FACE: Layout = Layout {
    architecture: "rwkv5",
    name: "Hugging Face",
    recognise: |checkpoint| hugging_face::recognise(checkpoint, "rwkv5"),
    config: |checkpoint| hugging_face::config(checkpoint, &hugging_face::DERIVED),
    parse: parse_hugging_face,
    presets: HUGGING_FACE_PRESETS,
};

pub(crate) const AI00: Layout = Layout {
    architecture: "rwkv5",
    name: ai00::NAME,
    recognise: |checkpoint| ai00::recognise(checkpoint, Version::Five),
    config: |checkpoint| ai00::config(checkpoint, Version::Five),
    parse: |fields, _| parse_blinkdl(fields, AI00_TIME),
    presets: &[],
};

const HUGGING_FACE_PRESETS: &[Preset] = &[
    preset!("rwkv5", "tiny", vocab_size: 256, hidden_size: 64, num_hidden_layers: 2, attention_hidden_size: 64,
        intermediate_size: 224, head_size: 16),
    preset!("rwkv5", "1b5", vocab_size: 65536, hidden_size: 2048, num_hidden_layers: 24, attention_hidden_size: 2048,
        intermediate_size: 7168, head_size: 64, eos_token_id: 0),
    preset!("rwkv5", "7b", vocab_size: 65536, hidden_size: 4096, num_hidden_layers: 32, attention_hidden_size: 4096,
        intermediate_size: 14336, head_size: 64, eos_token_id: 0),
];

const PRESETS: &[Preset] = &[
    preset!("rwkv5", "tiny", vocab_size: 256, n_embd: 64, n_layer: 2, dim_att: 64, dim_ffn: 224, head_size: 16),
    preset!("rwkv5", "0.4b", vocab_size: 65536, n_embd: 1024, n_layer: 24, dim_att: 1024, dim_ffn: 3584, head_size: 64),
    preset!("rwkv5", "1b5", vocab_size: 65536, n_embd: 2048, n_layer: 24, dim_att: 2048, dim_ffn: 7168, head_size: 64),
    preset!("rwkv5", "3b", vocab_size: 65536, n_embd: 2560, n_layer: 32, dim_att: 2560, dim_ffn: 8960, head_size: 64),
    preset!("rwkv5", "7b", vocab_size: 65536, n_embd: 4096, n_layer: 32, dim_att: 4096, dim_ffn: 14336, head_size: 64),
];

const TIME: Storage = Storage {
    names: &[
        ("key_shift", "time_mix_k"),
        ("value_shift", "time_mix_v"),
        ("receptance_shift", "time_mix_r"),
        ("gate_shift", "time_mix_g"),
        ("bonus", "time_faaaa"),
    ],
    ..BLINKDL_CHANNEL
};

const HUGGING_FACE_TIME: Storage = Storage {
    names: &[
        ("key_shift", "time_mix_key"),
        ("value_shift", "time_mix_value"),
        ("receptance_shift", "time_mix_receptance"),
        ("gate_shift", "time_mix_gate"),
        ("bonus", "time_faaaa"),
    ],
    ..BLINKDL_CHANNEL
};

const AI00_TIME: Storage = Storage {
    names: &[
        ("key_shift", "time_mix_k"),
        ("value_shift", "time_mix_v"),
        ("receptance_shift", "time_mix_r"),
        ("gate_shift", "time_mix_g"),
        ("bonus", "time_first"),
    ],
    ..BLINKDL_CHANNEL
};

/// The sizes of the mixers.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    heads: HeadShape,
    hidden_dim: usize,
    norm_eps: f32,
}

impl Sizes {
    fn details(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("head size", self.heads.key_dim.to_string()),
            ("width of the channel mixer", self.hidden_dim.to_string()),
        ])
    }

    fn mixers(
        &self,
        loader: &mut Loader<'_>,
        plan: &BlockPlan,
        [time, channel]: [Storage; 2],
    ) -> Result<Mixers, ModelError> {
        let config = Rwkv5Config {
            shape: self.heads,
            norm_eps: self.norm_eps,
            depth: plan.depth,
        };
        let mixer = Rwkv5::read(config, &mut time.below(loader, &plan.mixer))?;
        let channel = channel.channel_mix(loader, plan, [self.heads.model_dim, self.hidden_dim], true)?;
        Ok((Arc::new(mixer), Arc::new(channel)))
    }
}

fn parse_blinkdl(fields: &Fields<'_>, time: Storage) -> Result<Assembly, ModelError> {
    let sizes = Sizes {
        heads: blinkdl::head_shape(fields)?,
        hidden_dim: fields.dimension("dim_ffn")?,
        norm_eps: HEAD_NORM_EPS,
    };
    Ok(blinkdl::backbone(fields, sizes.details())?
        .assembly(move |loader, plan| sizes.mixers(loader, plan, [time, BLINKDL_CHANNEL])))
}

fn parse_hugging_face(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let hugging_face::Mixers {
        heads,
        hidden_dim,
        norm_eps,
    } = hugging_face::mixers(fields)?;
    let sizes = Sizes {
        heads,
        hidden_dim,
        norm_eps,
    };
    Ok(hugging_face::backbone(fields, sizes.details())?
        .assembly(move |loader, plan| sizes.mixers(loader, plan, [HUGGING_FACE_TIME, HUGGING_FACE_STORAGE])))
}
