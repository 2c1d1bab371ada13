//! RWKV-5.2 (`RWKV-5-World-*`, `x052`): BlinkDL's files.

use std::collections::BTreeMap;
use std::sync::Arc;

use attention_linear::rwkv::{GatedHeads, HeadShape, Rwkv5, Rwkv5Weights};
use ssm_core::Mixer;

use super::blinkdl::{self, HEAD_NORM_EPS, Version};
use super::rwkv4::BLINKDL_CHANNEL;
use super::{Place, Share, head_norm, preset, projection, ramp};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset};
use crate::loader::{Init, Loader};

pub(super) const BLINKDL: Layout = Layout {
    architecture: "rwkv5",
    name: "BlinkDL",
    recognise: |checkpoint| Version::Five.recognise(checkpoint),
    config: |checkpoint| Version::Five.config(checkpoint),
    load,
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[
    preset!("rwkv5", "tiny", vocab_size: 256, n_embd: 64, n_layer: 2, dim_att: 64, dim_ffn: 224, head_size: 16),
    preset!("rwkv5", "0.4b", vocab_size: 65536, n_embd: 1024, n_layer: 24, dim_att: 1024, dim_ffn: 3584, head_size: 64),
    preset!("rwkv5", "1b5", vocab_size: 65536, n_embd: 2048, n_layer: 24, dim_att: 2048, dim_ffn: 7168, head_size: 64),
    preset!("rwkv5", "3b", vocab_size: 65536, n_embd: 2560, n_layer: 32, dim_att: 2560, dim_ffn: 8960, head_size: 64),
    preset!("rwkv5", "7b", vocab_size: 65536, n_embd: 4096, n_layer: 32, dim_att: 4096, dim_ffn: 14336, head_size: 64),
];

fn load(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let shape = blinkdl::head_shape(fields)?;
    let hidden_dim = fields.dimension("dim_ffn")?;
    let details = BTreeMap::from([
        ("head size", shape.key_dim.to_string()),
        ("width of the channel mixer", hidden_dim.to_string()),
    ]);
    blinkdl::backbone(fields, details)?.load(loader, |loader, place| {
        let mixer = time_mix(loader, place, shape)?;
        Ok((
            mixer,
            BLINKDL_CHANNEL.read(loader, place, shape.model_dim, hidden_dim)?,
        ))
    })
}

fn time_mix(loader: &mut Loader<'_>, place: &Place, shape: HeadShape) -> Result<Arc<dyn Mixer>, ModelError> {
    let (depth, height) = (place.depth(), place.height());
    let mut shift = |part: &str, init| {
        let name = place.mixer(part);
        Share::CurrentRow.read(loader, &name, shape.model_dim, init)
    };
    let weights = Rwkv5Weights {
        key_shift: shift("time_mix_k", ramp(height, 0.0))?,
        value_shift: shift("time_mix_v", ramp(height, 0.3 * depth))?,
        receptance_shift: shift("time_mix_r", ramp(0.5 * height, 0.0))?,
        gate_shift: shift("time_mix_g", ramp(0.5 * height, 0.0))?,
        heads: BLINKDL_HEADS.read(loader, place, &shape, HEAD_NORM_EPS)?,
        time_decay: loader.tensor(
            &place.mixer("time_decay"),
            [shape.heads, shape.key_dim],
            fresh_decay(depth),
        )?,
    };
    Ok(Arc::new(Rwkv5::new(shape, weights)?))
}

/// time_decay of a fresh layer of version 5 or 6: from slow to fast over the channels.
pub(super) fn fresh_decay(depth: f32) -> Init {
    Init::Ramp {
        from: -6.0,
        to: -1.0,
        power: 0.7 + 1.3 * depth,
    }
}

/// The bonus of a fresh layer of version 5 or 6, falling over the channels.
fn fresh_bonus(depth: f32) -> Init {
    Init::Ramp {
        from: depth,
        to: 0.0,
        power: 1.0,
    }
}

/// Where a layout keeps what versions 5 and 6 have in common.
pub(super) struct HeadNaming {
    pub(super) receptance: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) gate: &'static str,
    pub(super) output: &'static str,
    pub(super) bonus: &'static str,
    pub(super) norm: &'static str,
}

pub(super) const BLINKDL_HEADS: HeadNaming = HeadNaming {
    receptance: "receptance",
    key: "key",
    value: "value",
    gate: "gate",
    output: "output",
    bonus: "time_faaaa",
    norm: "ln_x",
};

impl HeadNaming {
    pub(super) fn read(
        &self,
        loader: &mut Loader<'_>,
        place: &Place,
        shape: &HeadShape,
        norm_eps: f32,
    ) -> Result<GatedHeads, ModelError> {
        let (width, keys, values) = (shape.model_dim, shape.keys(), shape.values());
        let mut matrix = |part: &str, shape| projection(loader, &place.mixer(part), shape);
        Ok(GatedHeads {
            receptance: matrix(self.receptance, [keys, width])?,
            key: matrix(self.key, [keys, width])?,
            value: matrix(self.value, [values, width])?,
            gate: matrix(self.gate, [values, width])?,
            output: matrix(self.output, [width, values])?,
            bonus: loader.tensor(
                &place.mixer(self.bonus),
                [shape.heads, shape.key_dim],
                fresh_bonus(place.depth()),
            )?,
            norm: head_norm(loader, &place.mixer(self.norm), shape, norm_eps, Init::Ones)?,
        })
    }
}
