//! RWKV-5.2 (`RWKV-5-World-*`, `x052`): BlinkDL's files.

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::rwkv::{Rwkv5, Rwkv5Config};

use super::blinkdl::{self, HEAD_NORM_EPS, Version};
use super::preset;
use super::rwkv4::BLINKDL_CHANNEL;
use super::stored::Storage;
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset};

pub(crate) const BLINKDL: Layout = Layout {
    architecture: "rwkv5",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Five.recognise(checkpoint),
    config: |checkpoint| Version::Five.config(checkpoint),
    parse,
    presets: PRESETS,
};

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

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let shape = blinkdl::head_shape(fields)?;
    let hidden_dim = fields.dimension("dim_ffn")?;
    let details = BTreeMap::from([
        ("head size", shape.key_dim.to_string()),
        ("width of the channel mixer", hidden_dim.to_string()),
    ]);
    Ok(blinkdl::backbone(fields, details)?.assembly(move |loader, plan| {
        let config = Rwkv5Config {
            shape,
            norm_eps: HEAD_NORM_EPS,
            depth: plan.depth,
        };
        let mixer = Rwkv5::read(config, &mut TIME.below(loader, &plan.mixer))?;
        let channel = BLINKDL_CHANNEL.channel_mix(loader, plan, [shape.model_dim, hidden_dim], true)?;
        Ok((Arc::new(mixer), Arc::new(channel)))
    }))
}
