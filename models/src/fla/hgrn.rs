//! HGRN: a gated recurrence of vectors, whose decays have a lower bound that grows from layer to layer.
//!
//! The tensors of `model.layers.N.attn` are those of [`Hgrn::read`], with convolutions where there is `use_short_conv`. With
//! `use_lower_bound` there is `model.lower_bounds`, layers × `hidden_size`.
//!
//! The channels are `expand_ratio` · `hidden_size`. The bounds are normalised as in [`lower_bounds`](super::lower_bounds).

use std::sync::Arc;

use spillway_attention_linear::hgrn::{Hgrn, HgrnConfig};
use spillway_attention_linear::projection::{GateConfig, OutputConfig};

use super::backbone::{Details, expanded};
use super::lower_bounds::LowerBounds;
use super::mixer::{backbone, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "hgrn", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
            "intermediate_size": 128}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "hgrn", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "hgrn", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000}"#,
    },
    Preset {
        size: "2.7b",
        config: r#"{"model_type": "hgrn", "hidden_size": 2560, "num_hidden_layers": 32,
            "vocab_size": 32000}"#,
    },
];

/// flash-linear-attention's layout of `HGRNForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "hgrn",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "hgrn"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let model_dim = backbone.model_dim;
    let channels = expanded(fields, "expand_ratio", 1.0, model_dim)?;
    let bounded = fields.bool_or("use_lower_bound", true)?;
    if bounded && channels != model_dim {
        let accepted = "1 where use_lower_bound is true (there is a bound for each of hidden_size channels)";
        return Err(fields.unsupported("expand_ratio", accepted).into());
    }
    let config = HgrnConfig {
        model_dim,
        channels,
        conv: short_conv(fields, false)?,
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: Some(GateConfig::SILU),
            norm_weight: fields.bool_or("elementwise_affine", true)?,
        },
    };
    let details = Details::from([("channels", channels.to_string())]);
    Ok(Assembly::new(move |loader| {
        let bounds = LowerBounds::read(loader, bounded, [backbone.layers, channels])?;
        backbone.assemble(loader, details.clone(), &[], |source, layer| {
            let bound = bounds.of_layer(source, layer);
            Ok(Arc::new(Hgrn::read(config, bound, source)?))
        })
    }))
}
