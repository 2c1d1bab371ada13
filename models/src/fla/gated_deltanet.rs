//! Gated DeltaNet.
//!
//! | tensor of `model.layers.N.attn` | shape |
//! |---|---|
//! | `q_proj`, `k_proj` | `num_heads` · `head_dim` × `hidden_size` |
//! | `v_proj`, `g_proj` unless `use_gate` is false | value heads · V × `hidden_size` |
//! | `a_proj`, `b_proj` | value heads × `hidden_size` |
//! | `A_log`, `dt_bias` | value heads |
//! | `q_conv1d`, `k_conv1d`, `v_conv1d` unless `use_short_conv` is false | channels × 1 × `conv_size` |
//! | `o_norm` | V |
//! | `o_proj` | `hidden_size` × value heads · V |
//!
//! V is `expand_v` · `head_dim`; the value heads are `num_v_heads`, a multiple of `num_heads`.

use std::sync::Arc;

use attention_linear::delta_net::{
    DeltaDecay, DeltaNet, DeltaNetConfig, DeltaNetWeights, QueryKeyActivation, QueryKeyNorm,
};
use attention_linear::heads::Heads;

use super::backbone::expanded;
use super::mixer::{OutputProjection, ShortConv, backbone, details, query_key_value};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Layout, Parts, Preset, stored_config};
use crate::loader::{Init, Loader, StepSizes};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "gated_deltanet", "hidden_size": 64, "num_hidden_layers": 2,
            "vocab_size": 256, "intermediate_size": 128, "num_heads": 2, "head_dim": 24}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "gated_deltanet", "hidden_size": 1024, "num_hidden_layers": 21,
            "vocab_size": 32000, "num_heads": 6, "head_dim": 128}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "gated_deltanet", "hidden_size": 2048, "num_hidden_layers": 21,
            "vocab_size": 32000, "num_heads": 6, "head_dim": 256}"#,
    },
];

/// `GatedDeltaNetForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gated_deltanet",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gated_deltanet"),
    config: stored_config,
    load,
    presets: PRESETS,
};

fn load(fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let backbone = backbone(fields)?;
    let heads = heads(fields)?;
    let conv = ShortConv::read(fields, true)?;
    if !matches!(
        fields.text("output_gate_activation")?,
        None | Some("swish" | "silu")
    ) {
        return Err(fields.unsupported("output_gate_activation", "\"swish\"").into());
    }
    let output_projection = OutputProjection {
        width: heads.read_out_width(),
        group: heads.value_dim,
        gated: fields.bool_or("use_gate", true)?,
        norm: Some("o_norm"),
    };
    let config = DeltaNetConfig {
        model_dim: backbone.model_dim,
        heads,
        activation: QueryKeyActivation::Silu,
        norm: QueryKeyNorm::Length,
        negative_eigenvalues: fields.bool_or("allow_neg_eigval", false)?,
        norm_eps: backbone.norm_eps,
    };
    backbone.assemble(loader, details(&heads), |loader, _, name| {
        let [query, key, value] = query_key_value(loader, name, (config.model_dim, &heads), conv)?;
        let (count, per_head) = (heads.value, [heads.value, config.model_dim]);
        let weights = DeltaNetWeights {
            query,
            key,
            value,
            beta: Some(loader.linear(&format!("{name}.b_proj"), per_head, false)?),
            decay: Some(DeltaDecay {
                step: loader.linear(&format!("{name}.a_proj"), per_head, false)?,
                bias: loader.vector(
                    &format!("{name}.dt_bias"),
                    count,
                    Init::StepBias(StepSizes::default()),
                )?,
                a_log: loader.vector(&format!("{name}.A_log"), count, LOG_RATE)?,
            }),
            output: output_projection.load(loader, name, config.model_dim)?,
        };
        Ok(Arc::new(DeltaNet::new(config.clone(), weights)?))
    })
}

fn heads(fields: &Fields<'_>) -> Result<Heads, CheckpointError> {
    let query = fields.dimension("num_heads")?;
    let value = fields.dimension_or("num_v_heads", query)?;
    if !value.is_multiple_of(query) {
        let expected = format!("a multiple of the {query} heads");
        return Err(fields.wrong("num_v_heads", &expected, Some(&value.into())));
    }
    let key_dim = fields.dimension_or("head_dim", 256)?;
    Ok(Heads {
        query,
        key: query,
        value,
        key_dim,
        value_dim: expanded(fields, "expand_v", 2.0, key_dim)?,
    })
}

/// ln of a rate that is uniform up to 16.
const LOG_RATE: Init = Init::LogOfUniform(f32::MIN_POSITIVE, 16.0);
