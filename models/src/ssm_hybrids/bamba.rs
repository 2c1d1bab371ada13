//! Bamba: Mamba-2 layers with a few of attention, an MLP after each.
//!
//! ```text
//! r ← r + mixer(norm(r)),  r ← r + MLP(norm(r))
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `attn_layer_indices` | the layers with attention |
//! | `rope_theta`, `partial_rotary_factor` | positions: the first half of a head is turned |
//! | `mamba_*`, `time_step_limit` | see `mamba2` in [`super`] |
//! | `intermediate_size`, `mlp_bias` | the MLP |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `mamba.*` | those of [`Mamba2::read`] |
//! | `self_attn.{q,k,v,o}_proj`, `feed_forward.{gate,up,down}_proj` | |
//! | `input_layernorm`, `pre_ff_layernorm` | |
//!
//! Source: IBM, Princeton, CMU and UIUC's `BambaForCausalLM`.

use std::sync::Arc;

use serde_json::json;
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mamba2::{Mamba2, Mamba2Config};
use spillway_ssm_core::{Mixer, WeightSource};

use super::{
    EMBEDDING, Frame, attended, attention, details, expect_silu, mamba2, recognised, refuse, refuse_quantized,
};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::hybrid::layer_list;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::rope::{self, Defaults};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "bamba", "architectures": ["BambaForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 3, "attn_layer_indices": [1], "num_attention_heads": 4,
            "num_key_value_heads": 2, "rope_theta": 10000.0, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16,
            "mamba_n_groups": 2, "mamba_expand": 2, "mamba_d_conv": 4, "rms_norm_eps": 1e-05,
            "tie_word_embeddings": false}"#,
    },
    Preset {
        size: "9b",
        config: r#"{"model_type": "bamba", "architectures": ["BambaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
            "intermediate_size": 14336, "num_hidden_layers": 32, "attn_layer_indices": [9, 18, 27], "num_attention_heads": 32,
            "num_key_value_heads": 8, "rope_theta": 10000.0, "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 128,
            "mamba_n_groups": 1, "mamba_expand": 2, "mamba_d_conv": 4, "rms_norm_eps": 1e-05,
            "tie_word_embeddings": false}"#,
    },
];

/// Hugging Face's layout of `BambaForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "bamba",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "bamba", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What a configuration file says.
struct Config {
    frame: Frame,
    /// Whether a layer has attention.
    attends: Vec<bool>,
    mamba: Mamba2Config,
    attention: SoftmaxAttentionConfig,
    mlp: GatedMlpConfig,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| {
        let mut details = details(&config.mamba, attended(&config.attends));
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
    let all = "null (attention sees all tokens)";
    refuse(fields, &[("sliding_window", json!(null), all)])?;
    let frame = Frame::read(fields, 1e-5, false)?;
    let listed = layer_list(fields, "attn_layer_indices", frame.layers)?;
    let mut softmax = attention(fields, frame.model_dim)?;
    softmax.rotary = Some(rope::rotary(
        fields,
        softmax.head_dim,
        Defaults::plain(10_000.0, 0.5),
    )?);
    let bias = fields.bool_or("mlp_bias", false)?;
    Ok(Config {
        attends: (0..frame.layers).map(|layer| listed.contains(&layer)).collect(),
        mamba: mamba2(fields, &frame, None)?,
        attention: softmax,
        mlp: GatedMlpConfig {
            model_dim: frame.model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            up_gate_bias: bias,
            down_bias: bias,
        },
        frame,
    })
}

fn block(config: &Config, loader: &mut Loader<'_>, layer: usize) -> Result<Block, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let norm = config.frame.norm(loader, &name("input_layernorm"))?;
    let mixer: Arc<dyn Mixer> = match config.attends[layer] {
        true => Arc::new(SoftmaxAttention::read(
            config.attention,
            &mut loader.below(name("self_attn"), &[]),
        )?),
        false => Arc::new(Mamba2::read(
            config.mamba.clone(),
            &mut loader.below(name("mamba"), &[]),
        )?),
    };
    Ok(Block {
        norm,
        mixer,
        channel: Some(Channel {
            norm: config.frame.norm(loader, &name("pre_ff_layernorm"))?,
            mixer: Arc::new(GatedMlp::read(
                config.mlp,
                &mut loader.below(name("feed_forward"), &[]),
            )?),
        }),
    })
}
