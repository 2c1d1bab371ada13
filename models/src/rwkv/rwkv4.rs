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

use attention_linear::rwkv::{Rwkv4, Rwkv4Weights};
use ssm_core::Mixer;

use super::blinkdl::{self, Version};
use super::{Backbone, ChannelNaming, Naming, Place, Share, preset, projection, ramp};
use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset, eos_id, stored_config};
use crate::loader::{Init, Loader};

pub(super) const BLINKDL: Layout = Layout {
    architecture: "rwkv4",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Four.recognise(checkpoint),
    config: |checkpoint| Version::Four.config(checkpoint),
    load: load_blinkdl,
    presets: BLINKDL_PRESETS,
};

pub(super) const HUGGING_FACE: Layout = Layout {
    architecture: "rwkv4",
    name: "Hugging Face",
    recognise,
    config: stored_config,
    load: load_hugging_face,
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

const HUGGING_FACE_NAMING: Naming = Naming {
    embedding: "rwkv.embeddings.weight",
    blocks: "rwkv.blocks",
    embedding_norm: "pre_ln",
    mixer_norm: "ln1",
    mixer: "attention",
    channel_norm: "ln2",
    channel: "feed_forward",
    norm: "rwkv.ln_out",
    head: "head.weight",
};

/// The interpolations of key, value and receptance in a time mixer.
type ShiftNames = [&'static str; 3];

/// The channel mixer of BlinkDL's versions 4 and 5.
pub(super) const BLINKDL_CHANNEL: ChannelNaming = ChannelNaming {
    share: Share::CurrentRow,
    key_shift: "time_mix_k",
    key: "key",
    value: "value",
    receptance: Some(("time_mix_r", "receptance")),
};

const HUGGING_FACE_CHANNEL: ChannelNaming = ChannelNaming {
    key_shift: "time_mix_key",
    receptance: Some(("time_mix_receptance", "receptance")),
    ..BLINKDL_CHANNEL
};

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let is_rwkv = checkpoint.config().text("model_type").ok()? == Some("rwkv");
    let embedding = HUGGING_FACE_NAMING.embedding;
    (is_rwkv && checkpoint.has(embedding)).then(|| format!("model_type \"rwkv\", tensor {embedding}"))
}

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
}

fn load_blinkdl(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let sizes = Sizes {
        model_dim: fields.dimension("n_embd")?,
        channels: fields.dimension("dim_att")?,
        hidden_dim: fields.dimension("dim_ffn")?,
    };
    let backbone = blinkdl::backbone(fields, sizes.details())?;
    let shifts = ["time_mix_k", "time_mix_v", "time_mix_r"];
    backbone.load(loader, |loader, place| {
        let mixer = time_mix(loader, place, &sizes, shifts)?;
        Ok((
            mixer,
            BLINKDL_CHANNEL.read(loader, place, sizes.model_dim, sizes.hidden_dim)?,
        ))
    })
}

fn load_hugging_face(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let (sizes, backbone) = hugging_face(fields)?;
    let shifts = ["time_mix_key", "time_mix_value", "time_mix_receptance"];
    backbone.load(loader, |loader, place| {
        let mixer = time_mix(loader, place, &sizes, shifts)?;
        Ok((
            mixer,
            HUGGING_FACE_CHANNEL.read(loader, place, sizes.model_dim, sizes.hidden_dim)?,
        ))
    })
}

fn hugging_face(fields: &Fields<'_>) -> Result<(Sizes, Backbone), CheckpointError> {
    let model_dim = fields.dimension("hidden_size")?;
    let sizes = Sizes {
        model_dim,
        channels: fields.dimension_or("attention_hidden_size", model_dim)?,
        hidden_dim: fields.dimension_or("intermediate_size", 4 * model_dim)?,
    };
    let vocab_size = fields.dimension("vocab_size")?;
    let rescale_every = match fields.value("rescale_every").and_then(|value| value.as_u64()) {
        Some(0) => 0,
        _ => fields.dimension_or("rescale_every", 6)?,
    };
    let backbone = Backbone {
        naming: &HUGGING_FACE_NAMING,
        vocab_size,
        model_dim,
        layers: fields.layers("num_hidden_layers")?,
        eps: fields.positive_or("layer_norm_epsilon", 1e-5)?,
        rescale_every,
        norm_bias: true,
        embedding_norm: true,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_id: eos_id(fields, vocab_size)?,
        details: sizes.details(),
    };
    Ok((sizes, backbone))
}

fn time_mix(
    loader: &mut Loader<'_>,
    place: &Place,
    sizes: &Sizes,
    [key, value, receptance]: ShiftNames,
) -> Result<Arc<dyn Mixer>, ModelError> {
    let (width, channels) = (sizes.model_dim, sizes.channels);
    let (depth, height) = (place.depth(), place.height());
    let mut shift = |part: &str, init: Init| {
        let name = place.mixer(part);
        Share::CurrentRow.read(loader, &name, width, init)
    };
    let (key_shift, value_shift, receptance_shift) = (
        shift(key, ramp(height, 0.0))?,
        shift(value, ramp(height, 0.3 * depth))?,
        shift(receptance, ramp(0.5 * height, 0.0))?,
    );
    let decay = Init::Ramp {
        from: -5.0,
        to: 3.0,
        power: 0.7 + 1.3 * depth,
    };
    let mut matrix = |part: &str| projection(loader, &place.mixer(part), [channels, width]);
    let (key, value, receptance) = (matrix("key")?, matrix("value")?, matrix("receptance")?);
    let weights = Rwkv4Weights {
        receptance_shift,
        key_shift,
        value_shift,
        receptance,
        key,
        value,
        output: projection(loader, &place.mixer("output"), [width, channels])?,
        time_decay: loader.vector(&place.mixer("time_decay"), channels, decay)?,
        bonus: loader.vector(&place.mixer("time_first"), channels, Init::Values(fresh_bonus))?,
    };
    Ok(Arc::new(Rwkv4::new(weights)?))
}

/// ln 0.3, shifted by −½, 0 and ½ in turn.
fn fresh_bonus(channel: usize, _channels: usize) -> f32 {
    0.3f32.ln() + 0.5 * (((channel + 1) % 3) as f32 - 1.0)
}
