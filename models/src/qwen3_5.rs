//! Qwen3.5 and Qwen3.6, dense: Gated DeltaNet in most layers, gated attention in every fourth, gated MLPs.
//!
//! ```text
//! r ← r + mixer(norm(r)),  r ← r + W_down (SiLU(W_gate x) ∘ W_up x) with x = norm(r)         norm(r) = RMSNorm(r) ∘ (1 + w)
//! ```
//!
//! | tensor of `model.layers.N` | shape |
//! |---|---|
//! | `linear_attn.in_proj_qkv`, `linear_attn.conv1d` | rows of queries, keys, values × `hidden_size`; as many × 1 × taps |
//! | `linear_attn.in_proj_z`, the gate | `linear_num_value_heads` · `linear_value_head_dim` × `hidden_size` |
//! | `linear_attn.in_proj_b`, `in_proj_a`, β and decay | `linear_num_value_heads` × `hidden_size` |
//! | `linear_attn.A_log`, `dt_bias`; `norm`; `out_proj` | as in [`DeltaNet::read`]; this norm has the plain weight |
//! | `self_attn.q_proj` | of every head its query, then its gate: 2 · `num_attention_heads` · `head_dim` × `hidden_size` |
//! | `self_attn.{k,v}_proj`, `o_proj`; `q_norm`, `k_norm` | as in [`SoftmaxAttention::read`]; norms over a head, 1 + w |
//! | `mlp.{gate,up,down}_proj`; `input_layernorm`, `post_attention_layernorm` | as in Llama |
//!
//! `layer_types` says which layers are which; without it every `full_attention_interval`-th (4) has attention. A head's first quarter is
//! turned by its position (`partial_rotary_factor`).
//!
//! Checkpoints with vision (`model_type: qwen3_5`) have the fields under `text_config` and the tensors under `model.language_model`; of
//! these the model of text is read. `model.visual` and `mtp`, the layer that foretells a second token, are left out.
//!
//! Sources: Qwen Team, the published configurations and transformers' `qwen3_5`; Yang et al., *Gated delta networks* (2412.06464); Qiu et
//! al., *Gated attention for large language models* (2505.06708).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spillway_attention_linear::delta_net::{
    DecayConfig, DeltaNet, DeltaNetConfig, QueryKeyActivation, QueryKeyNorm as LengthNorm,
};
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::heads::Heads;
use spillway_attention_linear::projection::{GateConfig, OutputConfig};
use spillway_attention_linear::softmax_attention::{
    NormSpan, QueryKeyNorm, SoftmaxAttention, SoftmaxAttentionConfig,
};
use spillway_ssm_core::{Mixer, ShortConvConfig, WeightSource};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layer_types;
use crate::layout::{Assembly, Has, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::rope::{self, Defaults};

/// Hugging Face's layout of `Qwen3_5ForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "qwen3_5",
    name: "Hugging Face",
    recognise,
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// `Qwen3_5ForConditionalGeneration`, of which the model of text is read.
pub(crate) const WITH_VISION: Layout = Layout {
    architecture: "qwen3_5",
    name: "Hugging Face, with vision",
    recognise: recognise_with_vision,
    config: stored_config,
    parse: parse_with_vision,
    presets: &[],
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "full_attention_interval": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16, "tie_word_embeddings": true,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25}}"#,
    },
    Preset {
        size: "0.8b",
        config: r#"{"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"], "vocab_size": 248320, "hidden_size": 1024,
            "intermediate_size": 3584, "num_hidden_layers": 24, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256,
            "linear_num_key_heads": 16, "linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "tie_word_embeddings": true,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25}}"#,
    },
];

/// Where the tensors are, and what is left out.
pub(crate) const TEXT: &str = "model";
pub(crate) const TEXT_BESIDE_VISION: &str = "model.language_model";
pub(crate) const VISION: &str = "model.visual";
const NEXT_TOKENS: &str = "mtp";

/// What these layouts call the tensors of Gated DeltaNet.
const RECURRENCE_NAMES: &[(&str, &str)] = &[
    ("qkv_proj", "in_proj_qkv"),
    ("qkv_conv1d", "conv1d"),
    ("g_proj", "in_proj_z"),
    ("b_proj", "in_proj_b"),
    ("a_proj", "in_proj_a"),
    ("g_norm", "norm"),
    ("o_proj", "out_proj"),
];

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    recognised(checkpoint, "qwen3_5_text", TEXT)
}

fn recognise_with_vision(checkpoint: &Checkpoint) -> Option<String> {
    recognised(checkpoint, "qwen3_5", TEXT_BESIDE_VISION)
}

/// Why a checkpoint has a layout of this type: the configuration says so, and the embedding is where it should be.
pub(crate) fn recognised(checkpoint: &Checkpoint, model_type: &str, prefix: &str) -> Option<String> {
    let said = checkpoint.config().text("model_type").ok()??;
    let embedding = format!("{prefix}.embed_tokens.weight");
    (said == model_type && checkpoint.has(&embedding))
        .then(|| format!("model_type {model_type:?}, tensor {embedding}"))
}

/// What a configuration file says of everything but the channel mixers.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) model_dim: usize,
    pub(crate) num_layers: usize,
    pub(crate) attention_layers: BTreeSet<usize>,
    pub(crate) attention: SoftmaxAttentionConfig,
    pub(crate) recurrence: DeltaNetConfig,
    pub(crate) norm_eps: f32,
    pub(crate) tied: bool,
    pub(crate) eos_ids: Vec<u32>,
}

/// Reads the fields that Qwen3.5 and Qwen3-Next have in common.
pub(crate) fn config(fields: &Fields<'_>, tied: bool) -> Result<Config, CheckpointError> {
    if !matches!(fields.text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(fields.unsupported("hidden_act", "\"silu\""));
    }
    if fields.bool_or("use_sliding_window", false)? {
        return Err(fields.unsupported("use_sliding_window", "false (attention over all tokens)"));
    }
    let model_dim = fields.dimension("hidden_size")?;
    let norm_eps = fields.positive_or("rms_norm_eps", 1e-6)?;
    let num_layers = fields.layers("num_hidden_layers")?;
    let vocab_size = fields.dimension("vocab_size")?;
    Ok(Config {
        vocab_size,
        model_dim,
        num_layers,
        attention_layers: match layer_types::attention_layers(fields, num_layers)? {
            Some(layers) => layers,
            None => layer_types::every(fields.dimension_or("full_attention_interval", 4)?, num_layers),
        },
        attention: attention(fields, model_dim, norm_eps)?,
        recurrence: DeltaNetConfig {
            model_dim,
            heads: recurrent_heads(fields)?,
            joint: true,
            conv: Some(ShortConvConfig {
                width: fields.dimension_or("linear_conv_kernel_dim", 4)?,
                bias: false,
            }),
            activation: QueryKeyActivation::Silu,
            norm: LengthNorm::Length,
            beta: true,
            decay: DecayConfig::PerHead,
            negative_eigenvalues: false,
            norm_eps,
            output: OutputConfig {
                gate: Some(GateConfig::SILU),
                norm_weight: true,
            },
        },
        norm_eps,
        tied,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

fn attention(
    fields: &Fields<'_>,
    model_dim: usize,
    eps: f32,
) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    if !fields.bool_or("attn_output_gate", true)? {
        return Err(fields.unsupported("attn_output_gate", "true (attention with a gate)"));
    }
    let num_heads = fields.dimension("num_attention_heads")?;
    let groups = fields.dimension_or("num_key_value_heads", num_heads)?;
    if !num_heads.is_multiple_of(groups) {
        let expected = format!("a divisor of the {num_heads} heads");
        return Err(fields.wrong("num_key_value_heads", &expected, Some(&groups.into())));
    }
    let head_dim = fields.dimension_or("head_dim", 256)?;
    // Each factor is at most 2^24, so this stays below 2^50.
    if (2 * num_heads * head_dim) as u64 > MAX_DIMENSION {
        let expected = format!("heads that are at most {MAX_DIMENSION} wide together, with their gates");
        return Err(fields.wrong("head_dim", &expected, Some(&head_dim.into())));
    }
    let bias = fields.bool_or("attention_bias", false)?;
    Ok(SoftmaxAttentionConfig {
        model_dim,
        num_heads,
        num_key_value_heads: groups,
        head_dim,
        norm: Some(QueryKeyNorm {
            eps,
            over: NormSpan::Head,
            zero_centred: true,
        }),
        rotary: Some(rope::rotary(fields, head_dim, Defaults::plain(10_000.0, 0.25))?),
        window: None,
        scale: None,
        conv: None,
        gate: true,
        query_key_value_bias: bias,
        output_bias: bias,
    })
}

/// The heads of the recurrence: neighbouring value heads share queries and keys.
pub(crate) fn recurrent_heads(fields: &Fields<'_>) -> Result<Heads, CheckpointError> {
    let query = fields.dimension_or("linear_num_key_heads", 16)?;
    let value = fields.dimension_or("linear_num_value_heads", 32)?;
    if !value.is_multiple_of(query) {
        let expected = format!("a multiple of the {query} heads of keys");
        return Err(fields.wrong("linear_num_value_heads", &expected, Some(&value.into())));
    }
    let heads = Heads {
        query,
        key: query,
        value,
        key_dim: fields.dimension_or("linear_key_head_dim", 128)?,
        value_dim: fields.dimension_or("linear_value_head_dim", 128)?,
    };
    if heads.widths().iter().sum::<usize>() as u64 > MAX_DIMENSION {
        let expected = format!("heads that give at most {MAX_DIMENSION} queries, keys and values");
        return Err(fields.wrong("linear_value_head_dim", &expected, Some(&heads.value_dim.into())));
    }
    Ok(heads)
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    assembly(fields, fields.bool_or("tie_word_embeddings", false)?, TEXT)
}

fn parse_with_vision(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let (text, tied) = text_of(fields)?;
    assembly(&text, tied, TEXT_BESIDE_VISION)
}

/// The fields of the model of text beside vision, and whether its head is its embedding.
pub(crate) fn text_of<'a>(fields: &Fields<'a>) -> Result<(Fields<'a>, bool), CheckpointError> {
    let text = fields
        .object("text_config")?
        .ok_or_else(|| fields.wrong("text_config", "an object", None))?;
    let tied = text.bool_or("tie_word_embeddings", false)?;
    Ok((text, fields.bool_or("tie_word_embeddings", tied)?))
}

fn assembly(fields: &Fields<'_>, tied: bool, prefix: &'static str) -> Result<Assembly, ModelError> {
    let config = config(fields, tied)?;
    let mlp = GatedMlpConfig {
        model_dim: config.model_dim,
        hidden_dim: fields.dimension("intermediate_size")?,
        up_gate_bias: false,
        down_bias: false,
    };
    Ok(Assembly::new(move |loader| {
        loader.ignore_below(VISION);
        let mut parts = config.load(loader, prefix, recurrence, |loader, name, _| {
            let mlp = GatedMlp::read(mlp, &mut loader.below(format!("{name}.mlp"), &[]))?;
            Ok(Arc::new(mlp))
        })?;
        let details = &mut parts.outline.details;
        details.insert("width of the MLP", mlp.hidden_dim.to_string());
        Ok(parts)
    }))
}

/// The Gated DeltaNet of the layer whose tensors are below `name`.
pub(crate) fn recurrence(
    loader: &mut Loader<'_>,
    name: &str,
    config: &DeltaNetConfig,
) -> Result<DeltaNet, ModelError> {
    let source = &mut loader.below(format!("{name}.linear_attn"), RECURRENCE_NAMES);
    DeltaNet::read(config.clone(), source)
}

impl Config {
    /// The model of the tensors below `prefix`. `recurrence` and `channel` read the mixers of a layer, whose tensors are below the name
    /// that they are given.
    pub(crate) fn load(
        &self,
        loader: &mut Loader<'_>,
        prefix: &str,
        recurrence: impl Fn(&mut Loader<'_>, &str, &DeltaNetConfig) -> Result<DeltaNet, ModelError>,
        channel: impl Fn(&mut Loader<'_>, &str, usize) -> Result<Arc<dyn Mixer>, ModelError>,
    ) -> Result<Parts, ModelError> {
        loader.ignore_below(NEXT_TOKENS);
        let (width, eps) = (self.model_dim, self.norm_eps);
        let shape = [self.vocab_size, width];
        let embedding = loader.embedding(&format!("{prefix}.embed_tokens.weight"), shape)?;
        let head = loader.head("lm_head.weight", &embedding, shape, self.tied)?;
        let block = |layer: usize| {
            let name = format!("{prefix}.layers.{layer}");
            Ok(Block {
                norm: loader.zero_centred_rms_norm(&format!("{name}.input_layernorm"), width, eps)?,
                mixer: match self.attention_layers.contains(&layer) {
                    true => {
                        let source = &mut loader.below(format!("{name}.self_attn"), &[]);
                        Arc::new(SoftmaxAttention::read(self.attention, source)?)
                    }
                    false => Arc::new(recurrence(loader, &name, &self.recurrence)?),
                },
                channel: Some(Channel {
                    norm: loader.zero_centred_rms_norm(
                        &format!("{name}.post_attention_layernorm"),
                        width,
                        eps,
                    )?,
                    mixer: channel(loader, &name, layer)?,
                }),
            })
        };
        let blocks = (0..self.num_layers)
            .map(block)
            .collect::<Result<_, ModelError>>()?;
        Ok(Parts {
            embedding,
            embedding_norm: None,
            blocks,
            norm: loader.zero_centred_rms_norm(&format!("{prefix}.norm"), width, eps)?,
            head,
            outline: self.outline(),
        })
    }

    fn outline(&self) -> Outline {
        let heads = &self.recurrence.heads;
        Outline {
            vocab_size: self.vocab_size,
            padded_vocab_size: self.vocab_size,
            model_dim: self.model_dim,
            tied: self.tied,
            eos_ids: self.eos_ids.clone(),
            details: BTreeMap::from([
                ("layers with attention", layer_types::list(&self.attention_layers)),
                ("heads of attention", self.attention.num_heads.to_string()),
                ("heads of queries and keys", heads.query.to_string()),
                ("heads of values", heads.value.to_string()),
                ("width of a key", heads.key_dim.to_string()),
                ("width of a value", heads.value_dim.to_string()),
            ]),
        }
    }
}
