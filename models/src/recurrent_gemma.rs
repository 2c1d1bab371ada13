//! RecurrentGemma: real-gated linear recurrent units with local attention now and then, and an MLP after each.
//!
//! ```text
//! r ← bf16(√d) embedding(ids)       r ← r + mixer(norm(r)),  r ← r + MLP(norm(r))       logits = c tanh(W norm(r) / c)
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `block_types` | `"recurrent"` and `"attention"` in turns, repeated to the last layer |
//! | `lru_width`, `conv1d_width` | channels (`hidden_size`), taps of the convolution |
//! | `num_attention_heads`, `num_key_value_heads`, `head_dim`, `attention_bias` | heads, which are the blocks of the recurrent gates as well |
//! | `attention_window_size` | tokens that attention sees, a token's own among them |
//! | `rope_theta`, `partial_rotary_factor` | positions of attention: half a head is turned |
//! | `intermediate_size` | twice the width of the MLP |
//! | `logits_soft_cap` | c |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `temporal_block.*` | those of [`RgLru::read`], or `{q,k,v}_proj` and `o_proj` with a bias |
//! | `mlp_block.{gate,up,down}_proj` | with biases |
//! | `temporal_pre_norm`, `channel_pre_norm` | norms multiply by 1 + their weights |
//!
//! Source: Botev et al., *RecurrentGemma* (2404.07839); De et al., *Griffin* (2402.19427).

use std::sync::Arc;

use serde_json::json;
use spillway_attention_linear::gated_mlp::{GateActivation, GatedMlp, GatedMlpConfig};
use spillway_attention_linear::rg_lru::{RgLru, RgLruConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::{Mixer, ShortConvConfig, WeightSource};

use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Parts, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::rope::{self, Defaults};
use crate::ssm_hybrids::{
    Details, EMBEDDING, Frame, attended, attention, recognised, refuse, refuse_quantized,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"], "vocab_size": 256,
            "hidden_size": 48, "num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"],
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 12, "attention_window_size": 16, "lru_width": 48,
            "conv1d_width": 4, "intermediate_size": 192, "logits_soft_cap": 30.0, "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-06, "tie_word_embeddings": true}"#,
    },
    Preset {
        size: "2b",
        config: r#"{"model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"], "vocab_size": 256000,
            "hidden_size": 2560, "num_hidden_layers": 26, "block_types": ["recurrent", "recurrent", "attention"],
            "num_attention_heads": 10, "num_key_value_heads": 1, "head_dim": 256, "attention_window_size": 2048,
            "lru_width": 2560, "conv1d_width": 4, "intermediate_size": 15360, "logits_soft_cap": 30.0, "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-06, "tie_word_embeddings": true}"#,
    },
];

/// Hugging Face's layout of `RecurrentGemmaForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "recurrent_gemma",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "recurrent_gemma", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What a configuration file says.
struct Config {
    frame: Frame,
    /// Whether a layer has attention.
    attends: Vec<bool>,
    recurrent: RgLruConfig,
    attention: SoftmaxAttentionConfig,
    mlp: GatedMlpConfig,
    /// Soft cap c of the logits l, c tanh(l / c).
    soft_cap: f32,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    refuse_quantized(fields)?;
    let gelu = json!("gelu_pytorch_tanh");
    refuse(fields, &[("hidden_activation", gelu, "\"gelu_pytorch_tanh\"")])?;
    let mut frame = Frame::read(fields, 1e-6, true)?;
    // The factor is a bfloat16 in the published code, whatever the weights are.
    frame.embedding_factor = bfloat16((frame.model_dim as f32).sqrt());
    let mut softmax = attention(fields, frame.model_dim)?;
    softmax.output_bias = true;
    softmax.window = Some(fields.dimension_or("attention_window_size", 2048)? - 1);
    softmax.rotary = Some(rope::rotary(
        fields,
        softmax.head_dim,
        Defaults::plain(10_000.0, 0.5),
    )?);
    let channels = fields.dimension_or("lru_width", frame.model_dim)?;
    if !channels.is_multiple_of(softmax.num_heads) {
        let expected = format!("a multiple of the {} heads", softmax.num_heads);
        return Err(fields.wrong("lru_width", &expected, Some(&channels.into())));
    }
    let doubled = fields.dimension("intermediate_size")?;
    if !doubled.is_multiple_of(2) {
        return Err(fields.wrong("intermediate_size", "an even number", Some(&doubled.into())));
    }
    Ok(Config {
        attends: attends(fields, frame.layers)?,
        recurrent: RgLruConfig {
            model_dim: frame.model_dim,
            channels,
            blocks: softmax.num_heads,
            conv: ShortConvConfig {
                width: fields.dimension_or("conv1d_width", 4)?,
                bias: true,
            },
        },
        attention: softmax,
        mlp: GatedMlpConfig {
            model_dim: frame.model_dim,
            hidden_dim: doubled / 2,
            up_gate_bias: true,
            down_bias: true,
        },
        soft_cap: fields.positive_or("logits_soft_cap", 30.0)?,
        frame,
    })
}

/// The nearest number of 8 significant bits, of two the one whose last bit is 0.
fn bfloat16(value: f32) -> f32 {
    let bits = value.to_bits();
    let last = (bits >> 16) & 1;
    f32::from_bits((bits + 0x7fff + last) & 0xffff_0000)
}

/// Whether a layer has attention.
fn attends(fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    const NAME: &str = "block_types";
    let Some(value) = fields.value(NAME) else {
        return Ok((0..layers).map(|layer| layer % 3 == 2).collect());
    };
    let kind = |word: &serde_json::Value| match word.as_str()? {
        "recurrent" => Some(false),
        "attention" => Some(true),
        _ => None,
    };
    let turns: Option<Vec<bool>> = value.as_array().and_then(|list| list.iter().map(kind).collect());
    match turns.filter(|turns| !turns.is_empty()) {
        Some(turns) => Ok(turns.into_iter().cycle().take(layers).collect()),
        None => Err(fields.wrong(NAME, "a list of \"recurrent\" and \"attention\"", Some(value))),
    }
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let (embedding, mut head) = config.frame.ends(loader, EMBEDDING)?;
    head.soft_cap = Some(config.soft_cap);
    let blocks = (0..config.frame.layers).map(|layer| block(config, loader, layer));
    let blocks = blocks.collect::<Result<_, ModelError>>()?;
    let norm =
        loader.zero_centred_rms_norm("model.final_norm", config.frame.model_dim, config.frame.norm_eps)?;
    Ok(config
        .frame
        .parts((embedding, head), blocks, norm, outline(config)))
}

fn outline(config: &Config) -> Details {
    let layers: Vec<String> = attended(&config.attends).map(|layer| layer.to_string()).collect();
    let window = config.attention.window.unwrap_or_default();
    Details::from([
        ("channels", config.recurrent.channels.to_string()),
        ("taps of the convolution", config.recurrent.conv.width.to_string()),
        ("layers with attention", layers.join(", ")),
        ("keys back in the window", window.to_string()),
        ("width of the MLP", config.mlp.hidden_dim.to_string()),
    ])
}

fn block(config: &Config, loader: &mut Loader<'_>, layer: usize) -> Result<Block, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let input_norm = loader.zero_centred_rms_norm(
        &name("temporal_pre_norm"),
        config.frame.model_dim,
        config.frame.norm_eps,
    )?;
    let source = &mut loader.below(name("temporal_block"), &[]);
    let mixer: Arc<dyn Mixer> = match config.attends[layer] {
        true => Arc::new(SoftmaxAttention::read(config.attention, source)?),
        false => Arc::new(RgLru::read(config.recurrent, source)?),
    };
    let channel_norm = loader.zero_centred_rms_norm(
        &name("channel_pre_norm"),
        config.frame.model_dim,
        config.frame.norm_eps,
    )?;
    let mlp = GatedMlp::read(config.mlp, &mut loader.below(name("mlp_block"), &[]))?;
    Ok(Block {
        norm: input_norm,
        mixer,
        channel: Some(Channel {
            norm: channel_norm,
            mixer: Arc::new(mlp.with_activation(GateActivation::GeluTanh)),
        }),
    })
}
