//! Zamba2: Mamba-2 layers, into some of which a [block of attention and MLP](super::shared_block) with shared weights leads.
//!
//! | field | meaning |
//! |---|---|
//! | `layers_block_type` | `"mamba"` or `"hybrid"` for every layer; or `hybrid_layer_ids`, the layers of the second kind |
//! | `num_mem_blocks` | different shared blocks n (1), which take turns: hybrid layer j has block j mod n |
//! | `num_attention_heads`, `num_key_value_heads` | heads of 2 · `hidden_size` / `num_attention_heads` |
//! | `use_mem_rope`, `rope_theta` | whether queries and keys are turned by their position (false) |
//! | `intermediate_size`, `add_bias_linear` | width of the MLP; biases of it and of Mamba's projections |
//! | `adapter_rank`, `use_shared_attention_adapter` | rank of the adapters; whether attention has them, too (false) |
//! | `n_mamba_heads`, `mamba_headdim`, `mamba_d_state`, `mamba_ngroups`, `mamba_d_conv`, `mamba_expand` | Mamba-2 |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `input_layernorm`, `mamba.*` | of a plain layer: those of [`Mamba2::read`] |
//! | `mamba_decoder.input_layernorm`, `mamba_decoder.mamba.*`, `linear` | of a hybrid one |
//! | `shared_transformer.*` | of the first n hybrid ones: `input_layernorm`, `self_attn.{q,k,v,o}_proj`, `pre_ff_layernorm`, `feed_forward.gate_up_proj`, `down_proj` |
//! | `shared_transformer.feed_forward.gate_up_proj_adapter_list.J.{0,1}` | the adapter of hybrid layer J |
//! | `shared_transformer.self_attn.linear_{q,k,v}_adapter_list.J.{0,1}` | and those of its attention |
//!
//! Scores are multiplied by (head_dim / 2)^(−1/2); the GELU of the MLP is the exact one. Source: Glorioso et al., *Zamba2* (2411.15242).

use std::sync::Arc;

use serde_json::json;
use spillway_attention_linear::gated_mlp::{GateActivation, GatedMlp, GatedMlpConfig, RowOrder};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mamba2::{GateOrder, GatedNorm, Mamba2, Mamba2Config};
use spillway_ssm_core::{ShortConvConfig, WeightSource};

use super::shared_block::{Adapter, HybridLayer, RmsNorm, SharedBlock};
use super::{
    EMBEDDING, Frame, attended, attention, details, expect_sizes, fresh_gates, recognised, refuse,
    refuse_quantized,
};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::hybrid::layer_list;
use crate::layer_types;
use crate::layout::{Assembly, Has, Layout, Parts, Preset, stored_config};
use crate::loader::Loader;
use crate::network::Block;
use crate::rope::{self, Defaults};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "zamba2", "architectures": ["Zamba2ForCausalLM"], "vocab_size": 256, "hidden_size": 48,
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "hybrid", "hybrid"], "num_mem_blocks": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "use_mem_rope": true, "rope_theta": 10000.0,
        "intermediate_size": 64, "hidden_act": "gelu", "adapter_rank": 6, "use_shared_attention_adapter": true,
        "n_mamba_heads": 6, "mamba_headdim": 16, "mamba_d_state": 16, "mamba_ngroups": 2, "mamba_d_conv": 4,
        "mamba_expand": 2, "rms_norm_eps": 1e-05, "tie_word_embeddings": true}"#,
}];

/// ε of the norm of Mamba's read-out, which no field sets.
const READ_OUT_EPS: f32 = 1e-5;

/// Hugging Face's layout of `Zamba2ForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "zamba2",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "zamba2", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What a configuration file says.
struct Config {
    frame: Frame,
    /// Whether a layer has a shared block.
    hybrid: Vec<bool>,
    mamba: Mamba2Config,
    attention: SoftmaxAttentionConfig,
    mlp: GatedMlpConfig,
    /// Number n of different shared blocks.
    blocks: usize,
    adapter_rank: usize,
    attention_adapters: bool,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    refuse_quantized(fields)?;
    let accepted = [
        ("hidden_act", json!("gelu"), "\"gelu\""),
        (
            "use_long_context",
            json!(false),
            "false (angles that are not rescaled)",
        ),
        ("use_conv_bias", json!(true), "true"),
    ];
    refuse(fields, &accepted)?;
    let frame = Frame::read(fields, 1e-5, true)?;
    let words: [&[&str]; 2] = [&["mamba", "linear_attention"], &["hybrid"]];
    let hybrid = match layer_types::by_words(fields, "layers_block_type", frame.layers, words)? {
        Some(hybrid) => hybrid,
        None => {
            let listed = layer_list(fields, "hybrid_layer_ids", frame.layers)?;
            (0..frame.layers).map(|layer| listed.contains(&layer)).collect()
        }
    };
    let bias = fields.bool_or("add_bias_linear", false)?;
    Ok(Config {
        hybrid,
        mamba: mamba(fields, &frame, bias)?,
        attention: shared_attention(fields, frame.model_dim, fields.bool_or("use_mem_rope", false)?)?,
        mlp: GatedMlpConfig {
            model_dim: frame.model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            up_gate_bias: bias,
            down_bias: bias,
        },
        blocks: fields.dimension_or("num_mem_blocks", 1)?,
        adapter_rank: fields.dimension_or("adapter_rank", 128)?,
        attention_adapters: fields.bool_or("use_shared_attention_adapter", false)?,
        frame,
    })
}

/// Attention over r and e side by side.
pub(super) fn shared_attention(
    fields: &Fields<'_>,
    model_dim: usize,
    turned: bool,
) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    let width = 2 * model_dim;
    let heads = fields.dimension("num_attention_heads")?;
    let given = [
        ("attention_hidden_size", width),
        ("attention_head_dim", width / heads),
    ];
    for (name, own) in given {
        if fields.dimension_or(name, own)? != own {
            let expected = format!("{own}, as hidden_size and num_attention_heads give it");
            return Err(fields.wrong(name, &expected, fields.value(name)));
        }
    }
    let mut config = attention(fields, width)?;
    if fields.has("head_dim") && config.head_dim != width / heads {
        let expected = format!(
            "{}, as hidden_size and num_attention_heads give it",
            width / heads
        );
        return Err(fields.wrong("head_dim", &expected, fields.value("head_dim")));
    }
    (config.query_key_value_bias, config.output_bias) = (false, false);
    config.scale = Some((config.head_dim as f32 / 2.0).powf(-0.5));
    if turned {
        config.rotary = Some(rope::rotary(
            fields,
            config.head_dim,
            Defaults::plain(10_000.0, 1.0),
        )?);
    }
    Ok(config)
}

fn mamba(fields: &Fields<'_>, frame: &Frame, bias: bool) -> Result<Mamba2Config, CheckpointError> {
    let inner = fields.dimension_or("mamba_expand", 2)? * frame.model_dim;
    let num_heads = fields.dimension_or("n_mamba_heads", 8)?;
    let head_dim = fields.dimension_or("mamba_headdim", inner / num_heads)?;
    if num_heads * head_dim != inner {
        let expected = format!("n_mamba_heads · mamba_headdim = mamba_expand · hidden_size = {inner}");
        let found = format!("{num_heads} · {head_dim}");
        return Err(fields.wrong("n_mamba_heads", &expected, Some(&found.into())));
    }
    let mixer = Mamba2Config {
        model_dim: frame.model_dim,
        num_heads,
        head_dim,
        state_dim: fields.dimension_or("mamba_d_state", 64)?,
        num_groups: fields.dimension_or("mamba_ngroups", 1)?,
        conv: ShortConvConfig {
            width: fields.dimension_or("mamba_d_conv", 4)?,
            bias: true,
        },
        projection_bias: bias,
        skip_per_channel: false,
        dt_limit: fields.interval_or("time_step_limit", (0.0, f32::INFINITY))?,
        norm: Some(GatedNorm {
            eps: READ_OUT_EPS,
            order: GateOrder::NormAfterGate,
        }),
        factors: None,
        fresh: fresh_gates(fields)?,
        num_layers: frame.layers,
    };
    expect_sizes(fields, "mamba_ngroups", &mixer)?;
    Ok(mixer)
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let ends = config.frame.ends(loader, EMBEDDING)?;
    let (mut shared, mut blocks, mut hybrids) = (Vec::new(), Vec::new(), 0);
    for (layer, hybrid) in config.hybrid.iter().enumerate() {
        let name = format!("model.layers.{layer}");
        if !hybrid {
            blocks.push(Block {
                norm: config.frame.norm(loader, &format!("{name}.input_layernorm"))?,
                mixer: Arc::new(mamba_layer(config, loader, &name)?),
                channel: None,
            });
            continue;
        }
        if hybrids < config.blocks {
            let name = format!("{name}.shared_transformer");
            let block = Arc::new(shared_block(config, loader, &name)?);
            shared.push((name, block));
        }
        let (place, block) = &shared[hybrids % config.blocks];
        let mixer = hybrid_layer(config, loader, &name, (place.as_str(), block.clone(), hybrids))?;
        blocks.push(Block {
            norm: loader.no_norm(config.frame.model_dim),
            mixer: Arc::new(mixer),
            channel: None,
        });
        hybrids += 1;
    }
    let norm = config.frame.norm(loader, "model.final_layernorm")?;
    let mut details = details(&config.mamba, attended(&config.hybrid));
    details.insert("width of the MLP", config.mlp.hidden_dim.to_string());
    details.insert("shared blocks", config.blocks.to_string());
    Ok(config.frame.parts(ends, blocks, norm, details))
}

fn mamba_layer(config: &Config, loader: &mut Loader<'_>, name: &str) -> Result<Mamba2, ModelError> {
    Mamba2::read(
        config.mamba.clone(),
        &mut loader.below(format!("{name}.mamba"), &[]),
    )
}

fn shared_block(config: &Config, loader: &mut Loader<'_>, name: &str) -> Result<SharedBlock, ModelError> {
    let (width, eps) = (config.frame.model_dim, config.frame.norm_eps);
    let names = [("up_proj", "gate_up_proj"), ("gate_proj", "gate_up_proj")];
    Ok(SharedBlock {
        input_norm: RmsNorm::read(loader, &format!("{name}.input_layernorm"), 2 * width, eps)?,
        attention: SoftmaxAttention::read_to(
            config.attention,
            width,
            &mut loader.below(format!("{name}.self_attn"), &[]),
        )?,
        mlp_norm: RmsNorm::read(loader, &format!("{name}.pre_ff_layernorm"), width, eps)?,
        mlp: GatedMlp::read_in_order(
            config.mlp,
            RowOrder::GateFirst,
            &mut loader.below(format!("{name}.feed_forward"), &names),
        )?
        .with_activation(GateActivation::Gelu),
    })
}

fn hybrid_layer(
    config: &Config,
    loader: &mut Loader<'_>,
    name: &str,
    (place, block, number): (&str, Arc<SharedBlock>, usize),
) -> Result<HybridLayer, ModelError> {
    let (width, rank) = (config.frame.model_dim, config.adapter_rank);
    let list = format!("{place}.feed_forward.gate_up_proj_adapter_list.{number}");
    let mlp_adapter = Adapter::read(loader, &list, [width, rank, 2 * config.mlp.hidden_dim])?;
    let attention_adapters = match config.attention_adapters {
        false => None,
        true => {
            let mut adapter = |letter: &str, rows: usize| {
                let list = format!("{place}.self_attn.linear_{letter}_adapter_list.{number}");
                Adapter::read(loader, &list, [2 * width, rank, rows])
            };
            let (of_query, of_key) = (config.attention.query_width(), config.attention.key_width());
            Some([
                adapter("q", of_query)?,
                adapter("k", of_key)?,
                adapter("v", of_key)?,
            ])
        }
    };
    let decoder = format!("{name}.mamba_decoder");
    Ok(HybridLayer {
        block,
        mlp_adapter: Some(mlp_adapter),
        attention_adapters,
        linear: loader.linear(&format!("{name}.linear"), [width; 2], false)?,
        norm: RmsNorm::read(
            loader,
            &format!("{decoder}.input_layernorm"),
            width,
            config.frame.norm_eps,
        )?,
        mamba: Arc::new(mamba_layer(config, loader, &decoder)?),
    })
}
