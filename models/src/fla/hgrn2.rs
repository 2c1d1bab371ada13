//! HGRN-2: HGRN with a state of keys and values, whose keys are one minus the decay.
//!
//! The tensors of `model.layers.N.attn` are those of [`Hgrn2::read`], with convolutions where there is `use_short_conv`. With
//! `use_lower_bound` there is `model.lower_bounds`, layers × heads · K.
//!
//! K is `expand_ratio`, V is `hidden_size` / heads. Of `num_heads` and `expand_ratio` one may be null: their product is then
//! `hidden_size`. The bounds are normalised as in [`lower_bounds`](super::lower_bounds). The norm of the read-out has ε = 10⁻⁵ whatever `norm_eps` is.

use std::sync::Arc;

use spillway_attention_linear::hgrn2::{Hgrn2, Hgrn2Config};
use spillway_attention_linear::projection::OutputConfig;

use super::backbone::Details;
use super::lower_bounds::LowerBounds;
use super::mixer::{backbone, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "hgrn2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
            "intermediate_size": 128, "num_heads": 2, "expand_ratio": 32}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "hgrn2", "hidden_size": 1024, "num_hidden_layers": 24,
            "vocab_size": 32000, "expand_ratio": 128}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "hgrn2", "hidden_size": 2048, "num_hidden_layers": 24,
            "vocab_size": 32000, "expand_ratio": 128}"#,
    },
];

/// ε of the norm of the read-out, which no field sets.
const READ_OUT_EPS: f32 = 1e-5;

/// flash-linear-attention's layout of `HGRN2ForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "hgrn2",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "hgrn2"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let model_dim = backbone.model_dim;
    let (num_heads, key_dim) = heads(fields, model_dim)?;
    let keys = num_heads * key_dim;
    let config = Hgrn2Config {
        model_dim,
        num_heads,
        key_dim,
        value_dim: model_dim / num_heads,
        conv: short_conv(fields, false)?,
        norm_eps: READ_OUT_EPS,
        output: OutputConfig {
            gate: None,
            norm_weight: fields.bool_or("elementwise_affine", true)?,
        },
    };
    let bounded = fields.bool_or("use_lower_bound", true)?;
    let details = Details::from([
        ("heads", num_heads.to_string()),
        ("width of a key", key_dim.to_string()),
        ("width of a value", config.value_dim.to_string()),
    ]);
    Ok(Assembly::new(move |loader| {
        let bounds = LowerBounds::read(loader, bounded, [backbone.layers, keys])?;
        backbone.assemble(loader, details.clone(), &[], |source, layer| {
            let bound = bounds.of_layer(source, layer);
            Ok(Arc::new(Hgrn2::read(config, bound, source)?))
        })
    }))
}

/// The number of heads, and K.
fn heads(fields: &Fields<'_>, model_dim: usize) -> Result<(usize, usize), CheckpointError> {
    let shared = |name: &str, count: usize| match model_dim.is_multiple_of(count) {
        true => Ok(model_dim / count),
        false => {
            let expected = format!("a divisor of hidden_size {model_dim}");
            Err(fields.wrong(name, &expected, fields.value(name)))
        }
    };
    let given = |name| match fields.has(name) {
        true => fields.dimension(name).map(Some),
        false => Ok(None),
    };
    let (num_heads, key_dim) = match (given("num_heads")?, given("expand_ratio")?) {
        (Some(heads), Some(ratio)) => (heads, ratio),
        (Some(heads), None) => (heads, shared("num_heads", heads)?),
        (None, ratio) => {
            let ratio = ratio.unwrap_or(128);
            (shared("expand_ratio", ratio)?, ratio)
        }
    };
    shared("num_heads", num_heads)?;
    Ok((num_heads, key_dim))
}
