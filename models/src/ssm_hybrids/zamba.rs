//! Zamba: Mamba-1 layers, into some of which one [block of attention and MLP](super::shared_block) with shared weights leads.
//!
//! | field | meaning |
//! |---|---|
//! | `layers_block_type` | `"mamba"` or `"hybrid"` for every layer |
//! | `num_attention_heads`, `num_key_value_heads` | heads of 2 · `hidden_size` / `num_attention_heads`, without positions |
//! | `intermediate_size` | width of the MLP |
//! | `n_mamba_heads` | groups G of channels, each with a W_x, W_Δ, B and C of its own |
//! | `mamba_expand`, `mamba_d_state`, `mamba_d_conv`, `mamba_dt_rank`, `mamba_conv_bias`, `mamba_proj_bias` | Mamba-1 |
//!
//! | tensor of `model.layers.N` | |
//! |---|---|
//! | `input_layernorm`, `mamba.*` | of a plain layer |
//! | `mamba_decoder.input_layernorm`, `mamba_decoder.mamba.*`, `linear` | of a hybrid one |
//! | `shared_transf.*` | of the first hybrid one: `input_layernorm`, `self_attn.{q,k,v,o}_proj`, `pre_ff_layernorm`, `feed_forward.{gate,up,down}_proj` |
//!
//! | tensor of `mamba` | shape, with w = channels / G |
//! |---|---|
//! | `in_proj` | rows of x and z by turns: x₀, z₀, x₁, z₁, … |
//! | `x_proj_weight`, `dt_proj_weight`, `dt_proj_bias` | G × (rank + 2 N) × w, G × w × rank, G × w |
//! | `A_log`, `D` | G × w × N, G × w |
//! | `conv1d`, `out_proj` | as in Mamba-1 |
//!
//! Scores are multiplied by (head_dim / 2)^(−1/2); the GELU of the MLP is the exact one. Source: Glorioso et al., *Zamba* (2405.16712).

use std::sync::Arc;

use burn::tensor::Tensor;
use serde_json::json;
use spillway_attention_linear::gated_mlp::{GateActivation, GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mamba1::{Mamba1, Mamba1Config};
use spillway_ssm_core::weights::Below;
use spillway_ssm_core::{Init, Linear, ShortConvConfig, WeightSource};

use super::shared_block::{HybridLayer, RmsNorm, SharedBlock};
use super::zamba2::shared_attention;
use super::{Details, EMBEDDING, Frame, attended, expect_silu, recognised, refuse, refuse_quantized};
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layer_types;
use crate::layout::{Assembly, Has, Layout, Parts, Preset, stored_config};
use crate::loader::Loader;
use crate::mamba1::{check_sizes, rank};
use crate::mamba2::init::{HUGGING_FACE_STEPS, step_sizes};
use crate::network::Block;

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "zamba", "architectures": ["ZambaForCausalLM"], "vocab_size": 256, "hidden_size": 48,
        "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"], "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 64, "hidden_act": "gelu", "n_mamba_heads": 2, "mamba_expand": 2,
        "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_dt_rank": 4, "rms_norm_eps": 1e-05, "tie_word_embeddings": true}"#,
}];

/// Hugging Face's layout of `ZambaForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "zamba",
    name: "Hugging Face",
    recognise: |checkpoint| recognised(checkpoint, "zamba", EMBEDDING),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What a configuration file says.
struct Config {
    frame: Frame,
    /// Whether a layer has the shared block.
    hybrid: Vec<bool>,
    mamba: Mamba1Config,
    attention: SoftmaxAttentionConfig,
    mlp: GatedMlpConfig,
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    const LAYERS: &str = "layers_block_type";
    refuse_quantized(fields)?;
    expect_silu(fields, "hidden_mamba_act")?;
    refuse(fields, &[("hidden_act", json!("gelu"), "\"gelu\"")])?;
    let frame = Frame::read(fields, 1e-5, true)?;
    let words: [&[&str]; 2] = [&["mamba", "linear_attention"], &["hybrid"]];
    let hybrid = layer_types::by_words(fields, LAYERS, frame.layers, words)?
        .ok_or_else(|| fields.wrong(LAYERS, "a word for every layer", None))?;
    let mamba = Mamba1Config {
        model_dim: frame.model_dim,
        inner_dim: fields.dimension_or("mamba_expand", 2)? * frame.model_dim,
        state_dim: fields.dimension_or("mamba_d_state", 16)?,
        dt_rank: rank(fields, "mamba_dt_rank", frame.model_dim)?,
        conv: ShortConvConfig {
            width: fields.dimension_or("mamba_d_conv", 4)?,
            bias: fields.bool_or("mamba_conv_bias", true)?,
        },
        projection_bias: fields.bool_or("mamba_proj_bias", false)?,
        selection_norm: None,
        groups: Some(fields.dimension_or("n_mamba_heads", 2)?),
        fresh_steps: step_sizes(fields, HUGGING_FACE_STEPS)?,
        num_layers: frame.layers,
    };
    check_sizes(fields, &mamba)?;
    if !mamba.inner_dim.is_multiple_of(mamba.groups.unwrap_or(1)) {
        let expected = format!("a divisor of mamba_expand · hidden_size = {}", mamba.inner_dim);
        return Err(fields.wrong("n_mamba_heads", &expected, fields.value("n_mamba_heads")));
    }
    Ok(Config {
        hybrid,
        attention: shared_attention(fields, frame.model_dim, false)?,
        mlp: GatedMlpConfig {
            model_dim: frame.model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            up_gate_bias: false,
            down_bias: false,
        },
        mamba,
        frame,
    })
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let ends = config.frame.ends(loader, EMBEDDING)?;
    let (mut shared, mut blocks) = (None, Vec::new());
    for (layer, hybrid) in config.hybrid.iter().enumerate() {
        let name = format!("model.layers.{layer}");
        blocks.push(match *hybrid {
            false => Block {
                norm: config.frame.norm(loader, &format!("{name}.input_layernorm"))?,
                mixer: Arc::new(mamba_layer(config, loader, &name)?),
                channel: None,
            },
            true => {
                let block = match &shared {
                    Some(block) => Arc::clone(block),
                    None => {
                        let block = shared_block(config, loader, &format!("{name}.shared_transf"))?;
                        shared.insert(Arc::new(block)).clone()
                    }
                };
                Block {
                    norm: loader.no_norm(config.frame.model_dim),
                    mixer: Arc::new(hybrid_layer(config, loader, &name, block)?),
                    channel: None,
                }
            }
        });
    }
    let norm = config.frame.norm(loader, "model.final_layernorm")?;
    Ok(config.frame.parts(ends, blocks, norm, outline(config)))
}

fn outline(config: &Config) -> Details {
    let m = &config.mamba;
    let layers: Vec<String> = attended(&config.hybrid).map(|layer| layer.to_string()).collect();
    Details::from([
        ("channels", m.inner_dim.to_string()),
        ("groups of channels", m.groups.unwrap_or(1).to_string()),
        ("state per channel", m.state_dim.to_string()),
        ("rank of the step size", m.dt_rank.to_string()),
        ("taps of the convolution", m.conv.width.to_string()),
        ("layers with attention", layers.join(", ")),
        ("width of the MLP", config.mlp.hidden_dim.to_string()),
    ])
}

/// What Mamba's tensors are called here.
const MAMBA_NAMES: &[(&str, &str)] = &[
    ("x_proj.weight", "x_proj_weight"),
    ("dt_proj.weight", "dt_proj_weight"),
    ("dt_proj.bias", "dt_proj_bias"),
];

fn mamba_layer(config: &Config, loader: &mut Loader<'_>, name: &str) -> Result<Mamba1, ModelError> {
    let tensors = loader.below(format!("{name}.mamba"), MAMBA_NAMES);
    Mamba1::read(config.mamba, &mut Interleaved(tensors))
}

fn shared_block(config: &Config, loader: &mut Loader<'_>, name: &str) -> Result<SharedBlock, ModelError> {
    let (width, eps) = (config.frame.model_dim, config.frame.norm_eps);
    Ok(SharedBlock {
        input_norm: RmsNorm::read(loader, &format!("{name}.input_layernorm"), 2 * width, eps)?,
        attention: SoftmaxAttention::read_to(
            config.attention,
            width,
            &mut loader.below(format!("{name}.self_attn"), &[]),
        )?,
        mlp_norm: RmsNorm::read(loader, &format!("{name}.pre_ff_layernorm"), width, eps)?,
        mlp: GatedMlp::read(config.mlp, &mut loader.below(format!("{name}.feed_forward"), &[]))?
            .with_activation(GateActivation::Gelu),
    })
}

fn hybrid_layer(
    config: &Config,
    loader: &mut Loader<'_>,
    name: &str,
    block: Arc<SharedBlock>,
) -> Result<HybridLayer, ModelError> {
    let (width, eps) = (config.frame.model_dim, config.frame.norm_eps);
    let decoder = format!("{name}.mamba_decoder");
    Ok(HybridLayer {
        block,
        mlp_adapter: None,
        attention_adapters: None,
        linear: loader.linear(&format!("{name}.linear"), [width; 2], false)?,
        norm: RmsNorm::read(loader, &format!("{decoder}.input_layernorm"), width, eps)?,
        mamba: Arc::new(mamba_layer(config, loader, &decoder)?),
    })
}

/// Mamba's tensors, of which `in_proj` has the rows of x and z by turns.
struct Interleaved<'s, 'a>(Below<'s, Loader<'a>>);

impl WeightSource for Interleaved<'_, '_> {
    type Error = ModelError;

    fn linear_with(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        init: Init,
    ) -> Result<Linear, ModelError> {
        if name != "in_proj" {
            return self.0.linear_with(name, shape, bias, init);
        }
        let [rows, columns] = shape;
        let stored: Tensor<2> = {
            let name = self.0.name("in_proj.weight");
            self.0.source().stored(&name, shape, init)?
        };
        let in_order = stored.reshape([rows / 2, 2, columns]).swap_dims(0, 1);
        let weight = self.0.source().pack(in_order.reshape(shape))?;
        let bias = match bias {
            false => None,
            true => {
                let stored = self.0.vector("in_proj.bias", rows, Init::Zeros)?;
                Some(stored.reshape([rows / 2, 2]).swap_dims(0, 1).reshape([rows]))
            }
        };
        Ok(Linear::new(weight, bias)?)
    }

    fn stacked(
        &mut self,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        self.0.stacked(parts, in_features, bias)
    }

    fn matrices(&mut self, name: &str, shape: [usize; 3]) -> Result<Vec<Linear>, ModelError> {
        self.0.matrices(name, shape)
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, ModelError> {
        self.0.tensor(name, shape, init)
    }
}
