//! The Transformer baseline: softmax attention with rotary positions and gated MLPs, in the layout of `LlamaForCausalLM`.
//!
//! ```text
//! r ← r + attention(RMSNorm(r)),  r ← r + W_down (SiLU(W_gate x) ∘ W_up x) with x = RMSNorm(r)
//! ```
//!
//! | tensor of `model.layers.N` | shape |
//! |---|---|
//! | `self_attn.q_proj` | `num_attention_heads` · `head_dim` × `hidden_size` |
//! | `self_attn.{k,v}_proj` | `num_key_value_heads` · `head_dim` × `hidden_size` |
//! | `self_attn.o_proj` | `hidden_size` × `num_attention_heads` · `head_dim` |
//! | `mlp.{gate,up}_proj`, `mlp.down_proj` | `intermediate_size` × `hidden_size` and back |
//! | `input_layernorm`, `post_attention_layernorm` | `hidden_size` |
//!
//! Mistral's is the same with `sliding_window`, which counts a token's own key. Llama 3.1 and later turn slow pairs more slowly
//! (`rope_type: llama3`, see [`RotaryScaling`](spillway_ssm_core::operators::RotaryScaling)). Source: Touvron et al., *LLaMA* (2302.13971);
//! Jiang et al., *Mistral 7B* (2310.06825).

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::WeightSource;
use spillway_ssm_core::operators::RotaryPlan;

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::rope::{self, Defaults};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// Hugging Face's layout of `LlamaForCausalLM` and `MistralForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "llama",
    name: "Hugging Face",
    recognise,
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What is taken of positions where the configuration does not say.
pub(crate) const POSITIONS: Defaults = Defaults {
    base: 10_000.0,
    share: 1.0,
    llama3: true,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true}"#,
    },
    Preset {
        size: "360m",
        config: r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 50264, "hidden_size": 1024,
            "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true}"#,
    },
];

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let model_type = checkpoint.config().text("model_type").ok()??;
    (matches!(model_type, "llama" | "mistral") && checkpoint.has(EMBEDDING))
        .then(|| format!("model_type {model_type:?}, tensor {EMBEDDING}"))
}

/// What a configuration file says.
struct Config {
    vocab_size: usize,
    num_layers: usize,
    attention: SoftmaxAttentionConfig,
    mlp: GatedMlpConfig,
    norm_eps: f32,
    tied: bool,
    eos_ids: Vec<u32>,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    if !matches!(fields.text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(fields.unsupported("hidden_act", "\"silu\""));
    }
    let model_dim = fields.dimension("hidden_size")?;
    let num_heads = fields.dimension("num_attention_heads")?;
    if !fields.has("head_dim") && !model_dim.is_multiple_of(num_heads) {
        let expected = format!("a divisor of hidden_size = {model_dim}, where head_dim is not given");
        return Err(fields.wrong("num_attention_heads", &expected, Some(&num_heads.into())));
    }
    let groups = fields.dimension_or("num_key_value_heads", num_heads)?;
    if !num_heads.is_multiple_of(groups) {
        let expected = format!("a divisor of the {num_heads} heads");
        return Err(fields.wrong("num_key_value_heads", &expected, Some(&groups.into())));
    }
    let head_dim = fields.dimension_or("head_dim", model_dim / num_heads)?;
    if (num_heads * head_dim) as u64 > MAX_DIMENSION {
        let expected = format!("heads that are at most {MAX_DIMENSION} wide together");
        return Err(fields.wrong("head_dim", &expected, Some(&head_dim.into())));
    }
    let vocab_size = fields.dimension("vocab_size")?;
    let attention_bias = fields.bool_or("attention_bias", false)?;
    let mlp_bias = fields.bool_or("mlp_bias", false)?;
    Ok(Config {
        vocab_size,
        num_layers: fields.layers("num_hidden_layers")?,
        attention: SoftmaxAttentionConfig {
            model_dim,
            num_heads,
            num_key_value_heads: groups,
            head_dim,
            norm: None,
            rotary: Some(rotary(fields, head_dim)?),
            window: match fields.has("sliding_window") {
                true => Some(fields.dimension("sliding_window")? - 1),
                false => None,
            },
            scale: None,
            conv: None,
            gate: false,
            query_key_value_bias: attention_bias,
            output_bias: attention_bias,
        },
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            up_gate_bias: mlp_bias,
            down_bias: mlp_bias,
        },
        norm_eps: fields.positive_or("rms_norm_eps", 1e-6)?,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// Whole heads are turned.
fn rotary(fields: &Fields<'_>, head_dim: usize) -> Result<RotaryPlan, CheckpointError> {
    let plan = rope::rotary(fields, head_dim, POSITIONS)?;
    match plan.rotated_dim == head_dim {
        true => Ok(plan),
        false => Err(fields.unsupported("partial_rotary_factor", "1 (whole heads are turned)")),
    }
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let width = config.attention.model_dim;
    let shape = [config.vocab_size, width];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let head = loader.head("lm_head.weight", &embedding, shape, config.tied)?;
    let blocks = (0..config.num_layers)
        .map(|layer| block(config, layer, loader))
        .collect::<Result<_, _>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.rms_norm("model.norm", width, config.norm_eps)?,
        head,
    })
}

fn outline(config: &Config) -> Outline {
    let a = &config.attention;
    let mut details = BTreeMap::from([
        ("heads", a.num_heads.to_string()),
        ("heads of keys and values", a.num_key_value_heads.to_string()),
        ("head_dim", a.head_dim.to_string()),
        ("width of the MLP", config.mlp.hidden_dim.to_string()),
    ]);
    details.extend(
        a.window
            .map(|window| ("keys back in the window", window.to_string())),
    );
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: a.model_dim,
        tied: config.tied,
        eos_ids: config.eos_ids.clone(),
        details,
    }
}

fn block(config: &Config, layer: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let width = config.attention.model_dim;
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    // A buffer of older files: the angles of one step.
    loader.ignore(&name("self_attn.rotary_emb.inv_freq"));
    Ok(Block {
        norm: loader.rms_norm(&name("input_layernorm"), width, config.norm_eps)?,
        mixer: Arc::new(SoftmaxAttention::read(
            config.attention,
            &mut loader.below(name("self_attn"), &[]),
        )?),
        channel: Some(Channel {
            norm: loader.rms_norm(&name("post_attention_layernorm"), width, config.norm_eps)?,
            mixer: Arc::new(GatedMlp::read(config.mlp, &mut loader.below(name("mlp"), &[]))?),
        }),
    })
}
