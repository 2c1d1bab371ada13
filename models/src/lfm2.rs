//! LFM2: gated short convolutions in most layers, attention in some, gated MLPs.
//!
//! | field | meaning |
//! |---|---|
//! | `layer_types` | `"conv"` or `"full_attention"` for every layer |
//! | `full_attn_idxs` | without it, the layers with attention; without both, every layer has it |
//! | `conv_L_cache`, `conv_bias` | taps of the convolutions (3); whether these and their projections have biases |
//! | `num_attention_heads`, `num_key_value_heads` | heads; those of keys and values |
//! | `block_ff_dim`, `intermediate_size` | the width that an MLP begins from; the first counts where both are given |
//! | `block_auto_adjust_ff_dim` | whether the MLP has 2/3 of it, times `block_ffn_dim_multiplier`, rounded up to a multiple of `block_multiple_of` (true; 1; 256) |
//! | `theta`, `rope_theta`, `rope_parameters` | base of the angles, 10⁶ without |
//! | `tie_embedding`, `tie_word_embeddings` | whether the head is the embedding (true) |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `operator_norm`, `ffn_norm` | RMSNorms with ε `norm_eps` |
//! | `conv.{in_proj,conv,out_proj}` | of layers without attention: those of [`GatedShortConv::read`] |
//! | `self_attn.{q,k,v}_proj`, `out_proj`, `q_layernorm`, `k_layernorm` | of the others; a norm of every head before it is turned |
//! | `feed_forward.{w1,w3,w2}` | W_gate, W_up and W_down |
//!
//! The last norm is `model.embedding_norm`. Source: Liquid AI, *LFM2 technical report* (2511.23404), and transformers' `lfm2`.

use std::sync::Arc;

use serde_json::Value;
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::gated_short_conv::{GatedShortConv, GatedShortConvConfig};
use spillway_attention_linear::softmax_attention::{
    NormSpan, QueryKeyNorm, SoftmaxAttention, SoftmaxAttentionConfig,
};
use spillway_ssm_core::{Mixer, ShortConvConfig, WeightSource};

use crate::checkpoint::{CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layer_types;
use crate::layout::{Assembly, Has, Layout, Parts, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::rope::{self, Defaults};
use crate::ssm_hybrids::{Details, EMBEDDING, Frame, attended, attention, recognised};

/// The base of the angles where the configuration does not say.
const ROTARY_BASE: f32 = 1_000_000.0;

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "intermediate_size": 128, "block_auto_adjust_ff_dim": false, "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"], "num_attention_heads": 4, "num_key_value_heads": 2}"#,
    },
    Preset {
        size: "350m",
        config: r#"{"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "vocab_size": 65536, "hidden_size": 1024,
            "block_ff_dim": 6656, "num_hidden_layers": 16, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "num_attention_heads": 16,
            "num_key_value_heads": 8, "eos_token_id": 7}"#,
    },
    Preset {
        size: "1.2b",
        config: r#"{"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "vocab_size": 65536, "hidden_size": 2048,
            "block_ff_dim": 12288, "num_hidden_layers": 16, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "num_attention_heads": 32,
            "num_key_value_heads": 8, "eos_token_id": 7}"#,
    },
];

/// Hugging Face's layout of `Lfm2ForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "lfm2",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "lfm2", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What a configuration file says.
struct Config {
    frame: Frame,
    /// Whether each of the layers has attention.
    layers: Vec<bool>,
    attention: SoftmaxAttentionConfig,
    conv: GatedShortConvConfig,
    mlp: GatedMlpConfig,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let mut frame = Frame::read(fields, 1e-5, true)?;
    frame.norm_eps = fields.positive_or("norm_eps", 1e-5)?;
    frame.tied = fields.bool_or("tie_embedding", frame.tied)?;
    let model_dim = frame.model_dim;
    let attention = attention(fields, model_dim)?;
    let base = fields.positive_or("theta", ROTARY_BASE)?;
    Ok(Config {
        layers: layers(fields, frame.layers)?,
        attention: SoftmaxAttentionConfig {
            norm: Some(QueryKeyNorm {
                eps: frame.norm_eps,
                over: NormSpan::Head,
                zero_centred: false,
            }),
            rotary: Some(rope::rotary(
                fields,
                attention.head_dim,
                Defaults::plain(base, 1.0),
            )?),
            // The published code gives attention none, whatever the field of other models says.
            query_key_value_bias: false,
            output_bias: false,
            ..attention
        },
        conv: GatedShortConvConfig {
            model_dim,
            conv: ShortConvConfig {
                width: fields.dimension_or("conv_L_cache", 3)?,
                bias: fields.bool_or("conv_bias", false)?,
            },
        },
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: mlp_dim(fields)?,
            up_gate_bias: false,
            down_bias: false,
        },
        frame,
    })
}

/// Whether each layer has attention.
fn layers(fields: &Fields<'_>, count: usize) -> Result<Vec<bool>, CheckpointError> {
    let words: [&[&str]; 2] = [&["conv"], &["full_attention"]];
    if let Some(layers) = layer_types::by_words(fields, "layer_types", count, words)? {
        return Ok(layers);
    }
    let Some(value) = fields.value("full_attn_idxs") else {
        return Ok(vec![true; count]);
    };
    let index = |value: &Value| {
        let index = usize::try_from(value.as_u64()?).ok()?;
        (index < count).then_some(index)
    };
    let indices: Option<Vec<usize>> = value.as_array().and_then(|list| list.iter().map(index).collect());
    match indices {
        Some(indices) => Ok((0..count).map(|layer| indices.contains(&layer)).collect()),
        None => {
            let expected = format!("a list of layers from 0 to {}", count.saturating_sub(1));
            Err(fields.wrong("full_attn_idxs", &expected, Some(value)))
        }
    }
}

/// Hidden units of an MLP.
fn mlp_dim(fields: &Fields<'_>) -> Result<usize, CheckpointError> {
    let width = match fields.has("block_ff_dim") {
        true => fields.dimension("block_ff_dim")?,
        false => fields.dimension("intermediate_size")?,
    };
    if !fields.bool_or("block_auto_adjust_ff_dim", true)? {
        return Ok(width);
    }
    let factor = fields.positive_or("block_ffn_dim_multiplier", 1.0)?;
    let multiple = fields.dimension_or("block_multiple_of", 256)?;
    let width = (f64::from(factor) * (2 * width / 3) as f64) as usize;
    let width = width.next_multiple_of(multiple);
    match (1..=MAX_DIMENSION).contains(&(width as u64)) {
        true => Ok(width),
        false => {
            let expected = format!("a factor that gives a width from 1 to {MAX_DIMENSION}");
            Err(fields.wrong("block_ffn_dim_multiplier", &expected, Some(&factor.into())))
        }
    }
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let layers: Vec<String> = attended(&config.layers).map(|layer| layer.to_string()).collect();
    let details = Details::from([
        ("layers with attention", layers.join(", ")),
        ("taps of the convolutions", config.conv.conv.width.to_string()),
        ("heads of attention", config.attention.num_heads.to_string()),
        ("width of the MLP", config.mlp.hidden_dim.to_string()),
    ]);
    config
        .frame
        .assemble(loader, "model.embedding_norm", details, |loader, layer| {
            block(config, layer, loader)
        })
}

fn block(config: &Config, layer: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let mixer: Arc<dyn Mixer> = match config.layers[layer] {
        true => {
            let names = &[
                ("o_proj", "out_proj"),
                ("q_norm", "q_layernorm"),
                ("k_norm", "k_layernorm"),
            ];
            let source = &mut loader.below(name("self_attn"), names);
            Arc::new(SoftmaxAttention::read(config.attention, source)?)
        }
        false => {
            let source = &mut loader.below(name("conv"), &[]);
            Arc::new(GatedShortConv::read(config.conv, source)?)
        }
    };
    let names = &[("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")];
    let mlp = GatedMlp::read(config.mlp, &mut loader.below(name("feed_forward"), names))?;
    Ok(Block {
        norm: config.frame.norm(loader, &name("operator_norm"))?,
        mixer,
        channel: Some(Channel {
            norm: config.frame.norm(loader, &name("ffn_norm"))?,
            mixer: Arc::new(mlp),
        }),
    })
}
