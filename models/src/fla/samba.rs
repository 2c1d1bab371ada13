//! Samba, as flash-linear-attention has it: Mamba-1 and attention in a window by turns, an MLP after each.
//!
//! ```text
//! r ← r + mixer(norm(r)),  r ← r + W_down (SiLU(W_gate x) ∘ W_up x) with x = norm(r)
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `attn` | the layers with attention, see [`hybrid`](super::hybrid); where there is none, every second layer with 18 heads and a window of 2048 |
//! | `state_size`, `conv_kernel`, `time_step_rank`, `use_bias` | Mamba-1, whose convolution has a bias |
//! | `expand`, `intermediate_size` | its channels: the second, or the first (2) times the width |
//! | `hidden_ratio` | width of the MLP as in its kin; `intermediate_size` says nothing of it |
//!
//! | tensor of `backbone.layers.N` | |
//! |---|---|
//! | `mixer.*` | those of [`Mamba1::read`], or `{q,k,v,o}_proj` |
//! | `mlp.{gate,up,down}_proj`, `mixer_norm`, `mlp_norm` | |
//!
//! Source: Ren et al., *Samba* (2406.07522), and the layers of flash-linear-attention's `samba`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mamba1::{Mamba1, Mamba1Config};
use spillway_ssm_core::{Mixer, ShortConvConfig, WeightSource};

use super::backbone::{Details, mlp_dim};
use super::{NAME, hybrid};
use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::mamba1::{check_sizes, rank};
use crate::mamba2::init::{HUGGING_FACE_STEPS, step_sizes};
use crate::network::{Block, Channel};

const EMBEDDING: &str = "backbone.embeddings.weight";

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "samba", "architectures": ["SambaForCausalLM"], "vocab_size": 256, "hidden_size": 48,
            "num_hidden_layers": 2, "state_size": 16, "expand": 2, "conv_kernel": 4, "time_step_rank": 4, "hidden_ratio": 4,
            "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": false, "window_size": 16,
            "rope_theta": 10000.0}, "norm_eps": 1e-05, "tie_word_embeddings": false}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "samba", "architectures": ["SambaForCausalLM"], "vocab_size": 32000, "hidden_size": 2304,
            "num_hidden_layers": 18, "state_size": 16, "expand": 2, "conv_kernel": 4, "time_step_rank": 144, "hidden_ratio": 4,
            "attn": {"layers": [1, 3, 5, 7, 9, 11, 13, 15, 17], "num_heads": 18, "num_kv_heads": 18, "qkv_bias": false,
            "window_size": 2048, "rope_theta": 10000.0}, "norm_eps": 1e-05, "tie_word_embeddings": false}"#,
    },
];

/// flash-linear-attention's layout of `SambaForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "samba",
    name: NAME,
    recognise,
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let said = checkpoint.config().text("model_type").ok()??;
    (said == "samba" && checkpoint.has(EMBEDDING)).then(|| format!("model_type {said:?}, tensor {EMBEDDING}"))
}

/// What a configuration file says.
struct Config {
    vocab_size: usize,
    layers: usize,
    mamba: Mamba1Config,
    attention: BTreeMap<usize, SoftmaxAttentionConfig>,
    mlp: GatedMlpConfig,
    norm_eps: f32,
    tied: bool,
    eos_ids: Vec<u32>,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    if !matches!(fields.text("hidden_act")?, None | Some("swish" | "silu")) {
        return Err(fields.unsupported("hidden_act", "\"swish\""));
    }
    let model_dim = fields.dimension("hidden_size")?;
    let layers = fields.layers("num_hidden_layers")?;
    let vocab_size = fields.dimension_or("vocab_size", 32000)?;
    Ok(Config {
        vocab_size,
        layers,
        mamba: mamba(fields, model_dim, layers)?,
        attention: attention(fields, model_dim, layers)?,
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: mlp_dim(fields, model_dim, 4.0)?,
            up_gate_bias: false,
            down_bias: false,
        },
        norm_eps: fields.positive_or("norm_eps", 1e-5)?,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

fn attention(
    fields: &Fields<'_>,
    model_dim: usize,
    layers: usize,
) -> Result<BTreeMap<usize, SoftmaxAttentionConfig>, CheckpointError> {
    if fields.has("attn") {
        return hybrid::read(fields, model_dim, layers);
    }
    let odd: Vec<usize> = (1..layers).step_by(2).collect();
    let attn = json!({"layers": odd, "num_heads": 18, "window_size": 2048});
    let (path, whole) = (
        fields.path(),
        serde_json::Map::from_iter([("attn".to_string(), attn)]),
    );
    hybrid::read(&Fields::new(&path, &whole), model_dim, layers)
}

fn mamba(fields: &Fields<'_>, model_dim: usize, layers: usize) -> Result<Mamba1Config, CheckpointError> {
    let mixer = Mamba1Config {
        model_dim,
        inner_dim: match fields.has("intermediate_size") {
            true => fields.dimension("intermediate_size")?,
            false => fields.dimension_or("expand", 2)? * model_dim,
        },
        state_dim: fields.dimension_or("state_size", 16)?,
        dt_rank: rank(fields, "time_step_rank", model_dim)?,
        conv: ShortConvConfig {
            width: fields.dimension_or("conv_kernel", 4)?,
            bias: true,
        },
        projection_bias: fields.bool_or("use_bias", false)?,
        selection_norm: None,
        groups: None,
        fresh_steps: step_sizes(fields, HUGGING_FACE_STEPS)?,
        num_layers: layers,
    };
    check_sizes(fields, &mixer)?;
    Ok(mixer)
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let width = config.mamba.model_dim;
    let shape = [config.vocab_size, width];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let head = loader.head("lm_head.weight", &embedding, shape, config.tied)?;
    let blocks = (0..config.layers).map(|layer| block(config, layer, loader));
    let blocks = blocks.collect::<Result<_, ModelError>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.rms_norm("backbone.norm_f", width, config.norm_eps)?,
        head,
    })
}

fn outline(config: &Config) -> Outline {
    let m = &config.mamba;
    let layers: Vec<String> = config.attention.keys().map(usize::to_string).collect();
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: m.model_dim,
        tied: config.tied,
        eos_ids: config.eos_ids.clone(),
        details: Details::from([
            ("channels", m.inner_dim.to_string()),
            ("state per channel", m.state_dim.to_string()),
            ("rank of the step size", m.dt_rank.to_string()),
            ("taps of the convolution", m.conv.width.to_string()),
            ("layers with attention", layers.join(", ")),
            ("width of the MLP", config.mlp.hidden_dim.to_string()),
        ]),
    }
}

fn block(config: &Config, layer: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let (width, eps) = (config.mamba.model_dim, config.norm_eps);
    let name = |part: &str| format!("backbone.layers.{layer}.{part}");
    let norm = loader.rms_norm(&name("mixer_norm"), width, eps)?;
    let source = &mut loader.below(name("mixer"), &[]);
    let mixer: Arc<dyn Mixer> = match config.attention.get(&layer) {
        Some(attention) => Arc::new(SoftmaxAttention::read(*attention, source)?),
        None => Arc::new(Mamba1::read(config.mamba, source)?),
    };
    Ok(Block {
        norm,
        mixer,
        channel: Some(Channel {
            norm: loader.rms_norm(&name("mlp_norm"), width, eps)?,
            mixer: Arc::new(GatedMlp::read(config.mlp, &mut loader.below(name("mlp"), &[]))?),
        }),
    })
}
