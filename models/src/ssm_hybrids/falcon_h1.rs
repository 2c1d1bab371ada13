//! Falcon-H1: Mamba-2 and attention side by side on one norm in every layer, then an MLP.
//!
//! ```text
//! r ← m_e embedding(ids)                       logits = m_l W norm(r)
//! r ← r + s_o mamba(s_i x) + a_o attention(a_i x) with x = norm(r),  r ← r + m₁ W_down (SiLU(m₀ W_gate x) ∘ W_up x) with x = norm(r)
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `embedding_multiplier`, `lm_head_multiplier`, `mlp_multipliers` | m_e, m_l, \[m₀, m₁\] |
//! | `ssm_in_multiplier`, `ssm_out_multiplier` | s_i, s_o |
//! | `ssm_multipliers` | factors on what Mamba's input projection gives: z, x, B, C, Δ |
//! | `attention_in_multiplier`, `attention_out_multiplier` | a_i, a_o |
//! | `key_multiplier` | factor on the keys |
//! | `mamba_d_ssm` | channels (`mamba_expand` · `hidden_size`) |
//! | `mamba_rms_norm`, `mamba_norm_before_gate` | whether Mamba's read-out is normalised (false), and before its gate (true) |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `mamba.*` | those of [`Mamba2::read`] |
//! | `self_attn.{q,k,v,o}_proj`, `feed_forward.{gate,up,down}_proj` | |
//! | `input_layernorm`, `pre_ff_layernorm` | |
//!
//! Source: Zuo et al., *Falcon-H1* (2507.22448).

use std::sync::Arc;

use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::WeightSource;
use spillway_ssm_core::mamba2::{GateOrder, Mamba2, Mamba2Config};
use spillway_ssm_core::mixer::{Branch, Parallel, Scaled};

use super::{EMBEDDING, Frame, attention, details, expect_silu, mamba2, recognised, refuse_quantized};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::rope::{self, Defaults};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "falcon_h1", "architectures": ["FalconH1ForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "rope_theta": 100000000000.0, "mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_head": 16, "mamba_d_state": 16,
            "mamba_n_groups": 2, "mamba_d_conv": 4, "mamba_rms_norm": false, "embedding_multiplier": 2.0,
            "lm_head_multiplier": 0.5, "mlp_multipliers": [0.9, 1.3], "ssm_in_multiplier": 1.25,
            "ssm_multipliers": [0.7, 1.1, 0.9, 1.2, 0.8], "ssm_out_multiplier": 0.85, "attention_in_multiplier": 0.8,
            "attention_out_multiplier": 1.2, "key_multiplier": 0.6, "rms_norm_eps": 1e-05, "tie_word_embeddings": false}"#,
    },
    Preset {
        size: "0.5b",
        config: r#"{"model_type": "falcon_h1", "architectures": ["FalconH1ForCausalLM"], "vocab_size": 32784,
            "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 64, "rope_theta": 100000000000.0, "mamba_d_ssm": 1536, "mamba_n_heads": 24,
            "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_rms_norm": false,
            "rms_norm_eps": 1e-05, "tie_word_embeddings": false}"#,
    },
];

/// Hugging Face's layout of `FalconH1ForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "falcon_h1",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "falcon_h1", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What a configuration file says.
struct Config {
    frame: Frame,
    mamba: Mamba2Config,
    /// Factors s_i on what Mamba reads and s_o on what it adds.
    mamba_factors: [f32; 2],
    attention: SoftmaxAttentionConfig,
    /// Factors a_i on what attention reads and a_o on what it adds.
    attention_factors: [f32; 2],
    mlp: GatedMlpConfig,
    /// Factors m₀ on the gate of the MLP, W_gate x, and m₁ on what the MLP adds.
    mlp_factors: [f32; 2],
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| {
        let mut details = details(&config.mamba, 0..config.frame.layers);
        details.insert("width of the MLP", config.mlp.hidden_dim.to_string());
        config
            .frame
            .assemble(loader, "model.final_layernorm", details, |loader, layer| {
                block(&config, loader, layer)
            })
    }))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    refuse_quantized(fields)?;
    expect_silu(fields, "hidden_act")?;
    let mut frame = Frame::read(fields, 1e-5, false)?;
    frame.embedding_factor = fields.positive_or("embedding_multiplier", 1.0)?;
    frame.logits_factor = fields.positive_or("lm_head_multiplier", 1.0)?;
    let mut softmax = attention(fields, frame.model_dim)?;
    softmax.rotary = Some(rope::rotary(
        fields,
        softmax.head_dim,
        Defaults::plain(100_000.0, 1.0),
    )?);
    // A factor on the keys is one on every q·k.
    let of_keys = fields.positive_or("key_multiplier", 1.0)?;
    softmax.scale = Some(of_keys * (softmax.head_dim as f32).powf(-0.5));
    let bias = fields.bool_or("mlp_bias", false)?;
    Ok(Config {
        mamba: mamba(fields, &frame)?,
        mamba_factors: [
            fields.positive_or("ssm_in_multiplier", 1.0)?,
            fields.positive_or("ssm_out_multiplier", 1.0)?,
        ],
        attention: softmax,
        attention_factors: [
            fields.positive_or("attention_in_multiplier", 1.0)?,
            fields.positive_or("attention_out_multiplier", 1.0)?,
        ],
        mlp: GatedMlpConfig {
            model_dim: frame.model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            up_gate_bias: bias,
            down_bias: bias,
        },
        mlp_factors: factors(fields, "mlp_multipliers")?,
        frame,
    })
}

fn mamba(fields: &Fields<'_>, frame: &Frame) -> Result<Mamba2Config, CheckpointError> {
    const CHANNELS: &str = "mamba_d_ssm";
    let channels = match fields.has(CHANNELS) {
        true => Some((CHANNELS, fields.dimension(CHANNELS)?)),
        false => None,
    };
    let mut mixer = mamba2(fields, frame, channels)?;
    // The one is for the projection of the input, the other for that to the output.
    if fields.bool_or("projectors_bias", false)? != mixer.projection_bias {
        return Err(fields.unsupported(
            "projectors_bias",
            "the same as mamba_proj_bias (biases of both projections or of none)",
        ));
    }
    if fields.bool_or("mamba_norm_before_gate", true)?
        && let Some(norm) = &mut mixer.norm
    {
        norm.order = GateOrder::NormBeforeGate;
    }
    if !fields.bool_or("mamba_rms_norm", false)? {
        mixer.norm = None;
    }
    mixer.factors = Some(factors(fields, "ssm_multipliers")?);
    Ok(mixer)
}

/// A list of `N` positive numbers; all are 1 where there is none.
fn factors<const N: usize>(fields: &Fields<'_>, name: &str) -> Result<[f32; N], CheckpointError> {
    let Some(value) = fields.value(name) else {
        return Ok([1.0; N]);
    };
    let number = |value: &serde_json::Value| {
        let number = value.as_f64()? as f32;
        Some(number).filter(|number| number.is_finite())
    };
    let list: Option<Vec<f32>> = value
        .as_array()
        .and_then(|list| list.iter().map(number).collect());
    list.and_then(|list| list.try_into().ok())
        .ok_or_else(|| fields.wrong(name, &format!("a list of {N} finite numbers"), Some(value)))
}

fn block(config: &Config, loader: &mut Loader<'_>, layer: usize) -> Result<Block, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let norm = config.frame.norm(loader, &name("input_layernorm"))?;
    let mamba = Mamba2::read(config.mamba.clone(), &mut loader.below(name("mamba"), &[]))?;
    let attention = SoftmaxAttention::read(config.attention, &mut loader.below(name("self_attn"), &[]))?;
    let [mamba_in, mamba_out] = config.mamba_factors;
    let [attention_in, attention_out] = config.attention_factors;
    let mixer = Parallel([
        Branch {
            mixer: Arc::new(mamba),
            input: mamba_in,
            output: mamba_out,
        },
        Branch {
            mixer: Arc::new(attention),
            input: attention_in,
            output: attention_out,
        },
    ]);
    let [of_gate, of_output] = config.mlp_factors;
    let channel_norm = config.frame.norm(loader, &name("pre_ff_layernorm"))?;
    let mlp = GatedMlp::read(config.mlp, &mut loader.below(name("feed_forward"), &[]))?;
    Ok(Block {
        norm,
        mixer: Arc::new(mixer),
        channel: Some(Channel {
            norm: channel_norm,
            mixer: Scaled::by(of_output, Arc::new(mlp.with_gate_factor(of_gate))),
        }),
    })
}
