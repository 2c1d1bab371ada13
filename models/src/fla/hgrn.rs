//! HGRN: a gated recurrence of vectors, whose decays have a lower bound that grows from layer to layer.
//!
//! The tensors of `model.layers.N.attn` are those of [`Hgrn::read`], with convolutions where there is `use_short_conv`. With
//! `use_lower_bound` there is `model.lower_bounds`, layers × `hidden_size`.
//!
//! The channels are `expand_ratio` · `hidden_size`. With p the softmax of the lower bounds over the layers, the bound of layer n is
//! p₁ + … + pₙ, and 0 in layer 0.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use spillway_attention_linear::hgrn::{Hgrn, HgrnConfig};
use spillway_attention_linear::projection::OutputConfig;
use spillway_ssm_core::Init;

use super::backbone::{Details, expanded};
use super::mixer::{backbone, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset, stored_config};
use crate::loader::Loader;

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

/// `HGRNForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "hgrn",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "hgrn"),
    config: stored_config,
    load,
    presets: PRESETS,
};

fn load(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
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
            gate: true,
            norm_weight: fields.bool_or("elementwise_affine", true)?,
        },
    };
    let bounds = match bounded {
        true => {
            let raw = loader.stored("model.lower_bounds", [backbone.layers, channels], Init::Zeros)?;
            lower_bounds(raw)
        }
        false => vec![None; backbone.layers],
    };
    let details = Details::from([("channels", channels.to_string())]);
    backbone.assemble(loader, details, &[], |source, layer| {
        let bound = bounds.get(layer).cloned().flatten();
        let bound = bound.map(|bound| source.source().place(bound));
        Ok(Arc::new(Hgrn::read(config, bound, source)?))
    })
}

/// The bounds of every layer, from rows `[layers, channels]` that are not normalised yet; none in layer 0.
pub(super) fn lower_bounds(raw: Tensor<2>) -> Vec<Option<Tensor<1>>> {
    let [layers, channels] = raw.dims();
    let shares = softmax(raw, 0);
    let mut sum: Option<Tensor<1>> = None;
    let mut bounds = vec![None];
    for layer in 1..layers {
        let share = shares.clone().narrow(0, layer, 1).reshape([channels]);
        sum = Some(match sum {
            Some(sum) => sum + share,
            None => share,
        });
        bounds.push(sum.clone());
    }
    bounds
}
