//! Jamba: Mamba-1 layers with a few of attention, and after each an MLP or a mixture of experts.
//!
//! ```text
//! r ← r + mixer(norm(r)),  r ← r + MLP or experts(norm(r))
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `attn_layer_period`, `attn_layer_offset` | layers i with i mod period = offset have attention (8, 4), without positions |
//! | `expert_layer_period`, `expert_layer_offset` | and those with experts in the place of an MLP (2, 1) |
//! | `num_experts`, `num_experts_per_tok`, `intermediate_size` | experts (1: MLPs everywhere), how many a token goes to, width of MLP and expert |
//! | `mamba_expand`, `mamba_d_state`, `mamba_d_conv`, `mamba_dt_rank` | Mamba-1; a rank of `"auto"` is the width / 16, rounded up |
//! | `mamba_conv_bias`, `mamba_proj_bias` | biases of the convolution and the projections |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `mamba.*` | those of [`Mamba1::read`], with norms of Δ_raw, B and C that have weights |
//! | `self_attn.{q,k,v,o}_proj` | |
//! | `feed_forward.{gate,up,down}_proj`, or `feed_forward.router`, `feed_forward.experts.E.{gate,up,down}_proj` | |
//! | `input_layernorm`, `pre_ff_layernorm` | |
//!
//! A token goes to the experts of its largest logits; weights are a softmax over all. Source: Lieber et al., *Jamba* (2403.19887).

use std::sync::Arc;

use serde_json::json;
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::mixture::{ExpertTensors, Mixture, MixtureConfig, RouterConfig, Scores};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mamba1::{Mamba1, Mamba1Config, SelectionNorm};
use spillway_ssm_core::{Mixer, ShortConvConfig, WeightSource};

use super::{
    Details, EMBEDDING, Frame, attended, attention, expect_silu, recognised, refuse, refuse_quantized,
};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::hybrid::whole;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::loader::Loader;
use crate::mamba1::{check_sizes, rank};
use crate::mamba2::init::{HUGGING_FACE_STEPS, step_sizes};
use crate::network::{Block, Channel};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "jamba", "architectures": ["JambaForCausalLM"], "vocab_size": 256, "hidden_size": 48,
        "intermediate_size": 48, "num_hidden_layers": 3, "attn_layer_period": 3, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4,
        "mamba_dt_rank": 4, "rms_norm_eps": 1e-06, "tie_word_embeddings": false}"#,
}];

/// Hugging Face's layout of `JambaForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "jamba",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "jamba", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What a configuration file says.
struct Config {
    frame: Frame,
    /// Whether a layer has attention, and whether it has experts.
    layers: Vec<[bool; 2]>,
    mamba: Mamba1Config,
    attention: SoftmaxAttentionConfig,
    mlp: GatedMlpConfig,
    experts: MixtureConfig,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| {
        config.frame.assemble(
            loader,
            "model.final_layernorm",
            outline(&config),
            |loader, layer| block(&config, loader, layer),
        )
    }))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    refuse_quantized(fields)?;
    expect_silu(fields, "hidden_act")?;
    let accepted = [
        ("sliding_window", json!(null), "null (attention sees all tokens)"),
        (
            "mamba_inner_layernorms",
            json!(true),
            "true (norms of the step size, B and C)",
        ),
    ];
    refuse(fields, &accepted)?;
    let frame = Frame::read(fields, 1e-6, false)?;
    let model_dim = frame.model_dim;
    let mut softmax = attention(fields, model_dim)?;
    (softmax.query_key_value_bias, softmax.output_bias) = (false, false);
    let hidden_dim = fields.dimension("intermediate_size")?;
    let experts = fields.dimension_or("num_experts", 16)?;
    let chosen = fields.dimension_or("num_experts_per_tok", 2)?;
    if experts > 1 && chosen > experts {
        let expected = format!("at most num_experts = {experts}");
        return Err(fields.wrong("num_experts_per_tok", &expected, Some(&chosen.into())));
    }
    let attends = every(fields, "attn_layer_period", "attn_layer_offset", (8, 4))?;
    let mixes = every(fields, "expert_layer_period", "expert_layer_offset", (2, 1))?;
    let kind = |layer| [attends(layer), experts > 1 && mixes(layer)];
    Ok(Config {
        layers: (0..frame.layers).map(kind).collect(),
        mamba: mamba(fields, &frame)?,
        attention: softmax,
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim,
            up_gate_bias: false,
            down_bias: false,
        },
        experts: MixtureConfig {
            router: RouterConfig {
                model_dim,
                experts,
                chosen,
                scores: Scores::SoftmaxOfAll,
            },
            expert_dim: model_dim,
            hidden_dim,
            experts: ExpertTensors::Gated(&[]),
        },
        frame,
    })
}

/// Whether a layer is one of those at `offset` in every `period`.
fn every(
    fields: &Fields<'_>,
    period: &str,
    offset: &str,
    (every, first): (usize, usize),
) -> Result<impl Fn(usize) -> bool + use<>, CheckpointError> {
    let (every, first) = (fields.dimension_or(period, every)?, whole(fields, offset, first)?);
    if first >= every {
        let expected = format!("a whole number below {period} = {every}");
        return Err(fields.wrong(offset, &expected, Some(&first.into())));
    }
    Ok(move |layer| layer % every == first)
}

fn mamba(fields: &Fields<'_>, frame: &Frame) -> Result<Mamba1Config, CheckpointError> {
    let mixer = Mamba1Config {
        model_dim: frame.model_dim,
        inner_dim: fields.dimension_or("mamba_expand", 2)? * frame.model_dim,
        state_dim: fields.dimension_or("mamba_d_state", 16)?,
        dt_rank: rank(fields, "mamba_dt_rank", frame.model_dim)?,
        conv: ShortConvConfig {
            width: fields.dimension_or("mamba_d_conv", 4)?,
            bias: fields.bool_or("mamba_conv_bias", true)?,
        },
        projection_bias: fields.bool_or("mamba_proj_bias", false)?,
        selection_norm: Some(SelectionNorm {
            eps: frame.norm_eps,
            weights: true,
        }),
        groups: None,
        fresh_steps: step_sizes(fields, HUGGING_FACE_STEPS)?,
        num_layers: frame.layers,
    };
    check_sizes(fields, &mixer)?;
    Ok(mixer)
}

fn outline(config: &Config) -> Details {
    let m = &config.mamba;
    let attends: Vec<bool> = config.layers.iter().map(|[attends, _]| *attends).collect();
    let layers: Vec<String> = attended(&attends).map(|layer| layer.to_string()).collect();
    let RouterConfig { experts, chosen, .. } = config.experts.router;
    let mut details = Details::from([
        ("channels", m.inner_dim.to_string()),
        ("state per channel", m.state_dim.to_string()),
        ("rank of the step size", m.dt_rank.to_string()),
        ("taps of the convolution", m.conv.width.to_string()),
        ("layers with attention", layers.join(", ")),
        ("width of the MLP", config.mlp.hidden_dim.to_string()),
    ]);
    if experts > 1 {
        details.insert("experts", format!("{experts}, {chosen} for a token"));
    }
    details
}

fn block(config: &Config, loader: &mut Loader<'_>, layer: usize) -> Result<Block, ModelError> {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let [attends, mixes] = config.layers[layer];
    let norm = config.frame.norm(loader, &name("input_layernorm"))?;
    let mixer: Arc<dyn Mixer> = match attends {
        true => Arc::new(SoftmaxAttention::read(
            config.attention,
            &mut loader.below(name("self_attn"), &[]),
        )?),
        false => Arc::new(Mamba1::read(config.mamba, &mut loader.below(name("mamba"), &[]))?),
    };
    let channel_norm = config.frame.norm(loader, &name("pre_ff_layernorm"))?;
    let source = &mut loader.below(name("feed_forward"), &[]);
    let channel: Arc<dyn Mixer> = match mixes {
        true => Arc::new(Mixture::read(config.experts, source)?),
        false => Arc::new(GatedMlp::read(config.mlp, source)?),
    };
    Ok(Block {
        norm,
        mixer,
        channel: Some(Channel {
            norm: channel_norm,
            mixer: channel,
        }),
    })
}
