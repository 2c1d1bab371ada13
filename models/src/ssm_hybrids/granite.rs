//! Granite 4.0-H: Mamba-2 layers with a few of attention, an MLP after each, experts beside the MLP in the larger ones.
//!
//! ```text
//! r ← m_e embedding(ids)      r ← r + m_r mixer(norm(r)),  r ← r + m_r (MLP(x) + experts(x)) with x = norm(r)      logits = W norm(r) / s
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `embedding_multiplier`, `residual_multiplier`, `logits_scaling` | m_e, m_r, s |
//! | `attention_multiplier` | factor on q·k, in the place of head_dim^(−1/2) |
//! | `layer_types` | `"mamba"` or `"attention"` for every layer (`layers_block_type` in older files) |
//! | `position_embedding_type` | `"nope"` for attention without positions, `"rope"` |
//! | `shared_intermediate_size` | width of the MLP |
//! | `num_local_experts`, `num_experts_per_tok`, `intermediate_size` | experts, how many a token goes to, their width; 0 for none |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `mamba.*` | those of [`Mamba2::read`] |
//! | `self_attn.{q,k,v,o}_proj` | |
//! | `shared_mlp.input_linear`, `output_linear` | rows of the gate, then of the values; and back |
//! | `block_sparse_moe.router.layer`, `input_linear`, `output_linear` | the router; all experts in one tensor each |
//! | `input_layernorm`, `post_attention_layernorm` | |
//!
//! A token goes to the experts of its largest logits, with the softmax over those as weights. Source: IBM's `GraniteMoeHybridForCausalLM`.

use std::sync::Arc;

use serde_json::json;
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig, RowOrder};
use spillway_attention_linear::mixture::{
    Expert, ExpertTensors, Mixture, MixtureConfig, RouterConfig, Scores,
};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mamba2::{Mamba2, Mamba2Config};
use spillway_ssm_core::mixer::Scaled;
use spillway_ssm_core::{Mixer, WeightSource};

use super::{
    Details, EMBEDDING, Frame, attended, attention, details, expect_silu, mamba2, recognised, refuse,
    refuse_quantized,
};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::hybrid::whole;
use crate::layer_types;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::rope::{self, Defaults};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "granitemoehybrid", "architectures": ["GraniteMoeHybridForCausalLM"], "vocab_size": 256,
            "hidden_size": 64, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"],
            "num_attention_heads": 4, "num_key_value_heads": 2, "attention_multiplier": 0.125, "embedding_multiplier": 4.0,
            "residual_multiplier": 0.5, "logits_scaling": 2.0, "position_embedding_type": "nope", "mamba_n_heads": 4,
            "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_expand": 2, "mamba_d_conv": 4,
            "shared_intermediate_size": 96, "intermediate_size": 32, "num_local_experts": 0, "num_experts_per_tok": 0,
            "rms_norm_eps": 1e-05, "tie_word_embeddings": true}"#,
    },
    Preset {
        size: "tiny-experts",
        config: r#"{"model_type": "granitemoehybrid", "architectures": ["GraniteMoeHybridForCausalLM"], "vocab_size": 256,
            "hidden_size": 48, "num_hidden_layers": 2, "layer_types": ["mamba", "attention"],
            "num_attention_heads": 4, "num_key_value_heads": 2, "attention_multiplier": 0.125, "embedding_multiplier": 4.0,
            "residual_multiplier": 0.5, "logits_scaling": 2.0, "position_embedding_type": "rope", "mamba_n_heads": 6,
            "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_expand": 2, "mamba_d_conv": 4,
            "shared_intermediate_size": 64, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-05, "tie_word_embeddings": false}"#,
    },
    Preset {
        size: "350m",
        config: r#"{"model_type": "granitemoehybrid", "architectures": ["GraniteMoeHybridForCausalLM"], "vocab_size": 100352,
            "hidden_size": 768, "num_hidden_layers": 32, "layer_types": ["mamba", "mamba", "mamba", "mamba", "mamba", "mamba",
            "mamba", "mamba", "mamba", "mamba", "attention", "mamba", "mamba", "attention", "mamba", "mamba", "mamba",
            "attention", "mamba", "mamba", "mamba", "mamba", "mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba",
            "mamba", "mamba", "mamba"], "num_attention_heads": 12, "num_key_value_heads": 4, "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0, "residual_multiplier": 0.246, "logits_scaling": 3.0,
            "position_embedding_type": "nope", "mamba_n_heads": 48, "mamba_d_head": 32, "mamba_d_state": 128,
            "mamba_n_groups": 1, "mamba_expand": 2, "mamba_d_conv": 4, "shared_intermediate_size": 2048,
            "num_local_experts": 0, "num_experts_per_tok": 0, "rms_norm_eps": 1e-05, "tie_word_embeddings": true}"#,
    },
];

/// Hugging Face's layout of `GraniteMoeHybridForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "granite_hybrid",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "granitemoehybrid", EMBEDDING),
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
    experts: Option<MixtureConfig>,
    /// Factor m_r on what mixers, MLPs and experts add to the residual stream.
    residual: f32,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| {
        let (norm, details) = ("model.norm", outline(&config));
        config.frame.assemble(loader, norm, details, |loader, layer| {
            block(&config, loader, layer)
        })
    }))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    refuse_quantized(fields)?;
    expect_silu(fields, "hidden_act")?;
    let rms = "\"rmsnorm\"";
    refuse(fields, &[("normalization_function", json!("rmsnorm"), rms)])?;
    let mut frame = Frame::read(fields, 1e-6, false)?;
    frame.embedding_factor = fields.positive_or("embedding_multiplier", 1.0)?;
    frame.logits_factor = 1.0 / fields.positive_or("logits_scaling", 1.0)?;
    let name = match fields.has("layer_types") {
        true => "layer_types",
        false => "layers_block_type",
    };
    let words: [&[&str]; 2] = [&["mamba", "linear_attention"], &["attention", "full_attention"]];
    let attends = layer_types::by_words(fields, name, frame.layers, words)?;
    let model_dim = frame.model_dim;
    let mut softmax = attention(fields, model_dim)?;
    softmax.scale = Some(fields.positive_or("attention_multiplier", 1.0)?);
    softmax.rotary = match fields.text("position_embedding_type")? {
        None | Some("nope") => None,
        Some("rope") => Some(rope::rotary(
            fields,
            softmax.head_dim,
            Defaults::plain(10_000.0, 1.0),
        )?),
        Some(_) => return Err(fields.unsupported("position_embedding_type", "\"nope\" or \"rope\"")),
    };
    Ok(Config {
        attends: attends.unwrap_or_else(|| vec![false; frame.layers]),
        mamba: mamba2(fields, &frame, None)?,
        attention: softmax,
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: fields.dimension_or("shared_intermediate_size", 1024)?,
            up_gate_bias: false,
            down_bias: false,
        },
        experts: experts(fields, model_dim)?,
        residual: fields.positive_or("residual_multiplier", 1.0)?,
        frame,
    })
}

fn experts(fields: &Fields<'_>, model_dim: usize) -> Result<Option<MixtureConfig>, CheckpointError> {
    let count = whole(fields, "num_local_experts", 8)?;
    if count == 0 {
        return Ok(None);
    }
    let chosen = fields.dimension_or("num_experts_per_tok", 2)?;
    if chosen > count {
        let expected = format!("at most num_local_experts = {count}");
        return Err(fields.wrong("num_experts_per_tok", &expected, Some(&chosen.into())));
    }
    Ok(Some(MixtureConfig {
        router: RouterConfig {
            model_dim,
            experts: count,
            chosen,
            scores: Scores::SoftmaxOfChosen,
        },
        expert_dim: model_dim,
        hidden_dim: fields.dimension("intermediate_size")?,
        experts: ExpertTensors::Joined {
            gate_up: "input_linear.weight",
            down: "output_linear.weight",
        },
    }))
}

fn outline(config: &Config) -> Details {
    let mut details = details(&config.mamba, attended(&config.attends));
    details.insert("width of the MLP", config.mlp.hidden_dim.to_string());
    if let Some(experts) = &config.experts {
        let RouterConfig { experts, chosen, .. } = experts.router;
        details.insert("experts", format!("{experts}, {chosen} for a token"));
    }
    details
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
        mixer: Scaled::by(config.residual, mixer),
        channel: Some(Channel {
            norm: config.frame.norm(loader, &name("post_attention_layernorm"))?,
            mixer: Scaled::by(config.residual, channel(config, loader, &name)?),
        }),
    })
}

fn channel(
    config: &Config,
    loader: &mut Loader<'_>,
    name: &impl Fn(&str) -> String,
) -> Result<Arc<dyn Mixer>, ModelError> {
    let names = [
        ("up_proj", "input_linear"),
        ("gate_proj", "input_linear"),
        ("down_proj", "output_linear"),
    ];
    let source = &mut loader.below(name("shared_mlp"), &names);
    let mlp = GatedMlp::read_in_order(config.mlp, RowOrder::GateFirst, source)?;
    let Some(experts) = config.experts else {
        return Ok(Arc::new(mlp));
    };
    let names = [("router", "router.layer")];
    let mixture = Mixture::read(experts, &mut loader.below(name("block_sparse_moe"), &names))?;
    Ok(Arc::new(mixture.with_shared(Expert::Gated(mlp), None)))
}
