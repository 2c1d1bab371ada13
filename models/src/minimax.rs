//! MiniMax-01: lightning attention with a layer of softmax attention now and then, and a mixture of experts after each.
//!
//! ```text
//! h = norm(r),  r ← α_m h + β_m mixer(h)            h = norm(r),  r ← α_e h + β_e experts(h)
//! ```
//!
//! What goes on beside a mixer is its normalised input.
//!
//! | field | meaning |
//! |---|---|
//! | `layer_types` | `"linear_attention"` or `"full_attention"` for every layer (every second one has softmax attention) |
//! | `linear_attn_alpha_factor`, `_beta_factor`, `full_attn_…`, `mlp_…` | α and β of lightning attention, softmax attention and experts |
//! | `num_attention_heads`, `num_key_value_heads`, `head_dim` | heads; those of keys and values in softmax attention; their width |
//! | `rope_theta`, `partial_rotary_factor` | positions of softmax attention |
//! | `num_local_experts`, `num_experts_per_tok`, `intermediate_size` | experts, how many a token goes to, their width |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `self_attn.{qkv_proj,norm,output_gate,out_proj}` | lightning attention: those of [`LightningAttention::read`] |
//! | `self_attn.{q,k,v,o}_proj` | softmax attention |
//! | `block_sparse_moe.gate`, `experts.E.{w1,w3,w2}` | the router; of an expert, W_gate, W_up and W_down |
//! | `input_layernorm`, `post_attention_layernorm` | |
//!
//! A token goes to the experts of its largest logits, with the softmax over those as weights. As α y has the RMSNorm with ε that y
//! has with ε / α², blocks are computed with α = 1, β / α, and such an ε in the norm that follows. Source: MiniMax, *MiniMax-01* (2501.08313).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use spillway_attention_linear::lightning_attn::{LightningAttention, LightningAttentionConfig};
use spillway_attention_linear::mixture::{ExpertTensors, Mixture, MixtureConfig, RouterConfig, Scores};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mixer::Scaled;
use spillway_ssm_core::{Mixer, WeightSource};

use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layer_types;
use crate::layout::{Assembly, Has, Layout, Parts, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel, Norm, Residual};
use crate::rope::{self, Defaults};
use crate::ssm_hybrids::{
    EMBEDDING, Frame, attended, attention, expect_silu, recognised, refuse, refuse_quantized,
};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "minimax", "architectures": ["MiniMaxForCausalLM"], "vocab_size": 256, "hidden_size": 64,
        "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 1000000.0,
        "intermediate_size": 48, "num_local_experts": 3, "num_experts_per_tok": 2, "linear_attn_alpha_factor": 1.3,
        "linear_attn_beta_factor": 0.9, "full_attn_alpha_factor": 1.5, "full_attn_beta_factor": 1.1, "mlp_alpha_factor": 1.2,
        "mlp_beta_factor": 0.8, "rms_norm_eps": 1e-05, "tie_word_embeddings": false}"#,
}];

/// ε of the norm of lightning attention's read-out, which no field sets.
const READ_OUT_EPS: f32 = 1e-6;

/// Hugging Face's layout of `MiniMaxForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "minimax",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "minimax", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// Factors α, on the normalised input that is kept, and β, on what the mixer adds.
#[derive(Clone, Copy)]
struct Factors {
    kept: f32,
    added: f32,
}

/// What a configuration file says.
struct Config {
    frame: Frame,
    /// Whether a layer has softmax attention.
    attends: Vec<bool>,
    lightning: LightningAttentionConfig,
    attention: SoftmaxAttentionConfig,
    experts: MixtureConfig,
    of_lightning: Factors,
    of_attention: Factors,
    of_experts: Factors,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    refuse_quantized(fields)?;
    expect_silu(fields, "hidden_act")?;
    let all = "null (attention sees all tokens)";
    refuse(fields, &[("sliding_window", json!(null), all)])?;
    let frame = Frame::read(fields, 1e-5, false)?;
    let words: [&[&str]; 2] = [&["linear_attention"], &["full_attention"]];
    let attends = layer_types::by_words(fields, "layer_types", frame.layers, words)?;
    let mut softmax = attention(fields, frame.model_dim)?;
    (softmax.query_key_value_bias, softmax.output_bias) = (false, false);
    softmax.rotary = Some(rope::rotary(
        fields,
        softmax.head_dim,
        Defaults::plain(10_000.0, 1.0),
    )?);
    if let Some(plan) = softmax.rotary
        && fields.dimension_or("rotary_dim", plan.rotated_dim)? != plan.rotated_dim
    {
        let expected = format!(
            "{}, as head_dim and partial_rotary_factor give it",
            plan.rotated_dim
        );
        return Err(fields.wrong("rotary_dim", &expected, fields.value("rotary_dim")));
    }
    let factors = |name: &str| {
        Ok::<_, CheckpointError>(Factors {
            kept: fields.positive_or(&format!("{name}_alpha_factor"), 1.0)?,
            added: fields.positive_or(&format!("{name}_beta_factor"), 1.0)?,
        })
    };
    Ok(Config {
        attends: attends.unwrap_or_else(|| (0..frame.layers).map(|layer| layer % 2 == 1).collect()),
        lightning: LightningAttentionConfig {
            model_dim: frame.model_dim,
            num_heads: softmax.num_heads,
            head_dim: softmax.head_dim,
            num_layers: frame.layers,
            norm_eps: READ_OUT_EPS,
        },
        attention: softmax,
        experts: experts(fields, frame.model_dim)?,
        of_lightning: factors("linear_attn")?,
        of_attention: factors("full_attn")?,
        of_experts: factors("mlp")?,
        frame,
    })
}

fn experts(fields: &Fields<'_>, model_dim: usize) -> Result<MixtureConfig, CheckpointError> {
    let count = fields.dimension_or("num_local_experts", 8)?;
    let chosen = fields.dimension_or("num_experts_per_tok", 2)?;
    if chosen > count {
        let expected = format!("at most num_local_experts = {count}");
        return Err(fields.wrong("num_experts_per_tok", &expected, Some(&chosen.into())));
    }
    Ok(MixtureConfig {
        router: RouterConfig {
            model_dim,
            experts: count,
            chosen,
            scores: Scores::SoftmaxOfChosen,
        },
        expert_dim: model_dim,
        hidden_dim: fields.dimension("intermediate_size")?,
        experts: ExpertTensors::Gated(&[("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")]),
    })
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let ends = config.frame.ends(loader, EMBEDDING)?;
    // α of what stands before a norm; nothing does before the first.
    let mut before = 1.0;
    let mut blocks = Vec::with_capacity(config.frame.layers);
    for layer in 0..config.frame.layers {
        blocks.push(block(config, loader, layer, before)?);
        before = config.of_experts.kept;
    }
    let norm = norm(config, loader, "model.norm", before)?;
    let layers: Vec<String> = attended(&config.attends).map(|layer| layer.to_string()).collect();
    let RouterConfig { experts, chosen, .. } = config.experts.router;
    let details = BTreeMap::from([
        ("heads", config.lightning.num_heads.to_string()),
        ("width of a head", config.lightning.head_dim.to_string()),
        ("layers with attention", layers.join(", ")),
        ("experts", format!("{experts}, {chosen} for a token")),
        ("width of an expert", config.experts.hidden_dim.to_string()),
    ]);
    Ok(config.frame.parts(ends, blocks, norm, details))
}

/// A norm behind a sum that was to be multiplied by α and is not.
fn norm(config: &Config, loader: &mut Loader<'_>, name: &str, alpha: f32) -> Result<Norm, ModelError> {
    let norm = config.frame.norm(loader, name)?;
    Ok(Norm {
        eps: norm.eps / (alpha * alpha),
        residual: Residual::Normed,
        ..norm
    })
}

fn block(config: &Config, loader: &mut Loader<'_>, layer: usize, before: f32) -> Result<Block, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let input_norm = norm(config, loader, &name("input_layernorm"), before)?;
    let source = &mut loader.below(name("self_attn"), &[]);
    let (mixer, factors): (Arc<dyn Mixer>, _) = match config.attends[layer] {
        true => (
            Arc::new(SoftmaxAttention::read(config.attention, source)?),
            config.of_attention,
        ),
        false => (
            Arc::new(LightningAttention::read(config.lightning, layer, source)?),
            config.of_lightning,
        ),
    };
    let channel_norm = norm(config, loader, &name("post_attention_layernorm"), factors.kept)?;
    let names = [("router", "gate")];
    let experts = Mixture::read(
        config.experts,
        &mut loader.below(name("block_sparse_moe"), &names),
    )?;
    Ok(Block {
        norm: input_norm,
        mixer: Scaled::by(factors.added / factors.kept, mixer),
        channel: Some(Channel {
            norm: channel_norm,
            mixer: Scaled::by(
                config.of_experts.added / config.of_experts.kept,
                Arc::new(experts),
            ),
        }),
    })
}
