//! OLMo-Hybrid: Gated DeltaNet in most layers, attention in every fourth, gated MLPs; norms before the mixers of the former and after those
//! of the latter.
//!
//! ```text
//! Gated DeltaNet   r ← r + mixer(norm(r)),       r ← r + mlp(norm(r))
//! attention        r ← r + norm(attention(r)),   r ← r + norm(mlp(r))
//! ```
//!
//! | tensor of `model.layers.N` | shape |
//! |---|---|
//! | `attention_layer_norm`, `feedforward_layer_norm` | `hidden_size`, of layers with Gated DeltaNet |
//! | `linear_attn.*`, its norm `o_norm` | as in [`DeltaNet::read`]; β is doubled unless `linear_allow_neg_eigval` is false |
//! | `post_attention_layernorm`, `post_feedforward_layernorm` | `hidden_size`, of layers with attention |
//! | `self_attn.{q,k,v,o}_proj`, `q_norm`, `k_norm` | as in [`SoftmaxAttention::read`]; norms over all heads together |
//! | `mlp.{gate,up,down}_proj` | `intermediate_size` × `hidden_size` and back |
//!
//! `layer_types` says which layers are which; without it every fourth has attention, and the last if none would. Without
//! `rope_parameters`, or a `rope_theta` in it, nothing is turned by its position.
//!
//! Source: Ai2, the published configuration and transformers' `olmo_hybrid`; Yang et al., *Gated delta networks* (2412.06464).

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
use crate::normed_output::NormedOutput;
use crate::rope::{self, Defaults};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// ε of the norm of the read-out, whatever `rms_norm_eps` says.
const READ_OUT_EPS: f32 = 1e-5;

/// Hugging Face's layout of `OlmoHybridForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "olmo_hybrid",
    name: "Hugging Face",
    recognise,
    config: stored_config,
    parse,
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "olmo_hybrid", "architectures": ["OlmoHybridForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "linear_key_head_dim": 12, "linear_value_head_dim": 24, "rms_norm_eps": 1e-06, "tie_word_embeddings": false}"#,
    },
    Preset {
        size: "7b",
        config: r#"{"model_type": "olmo_hybrid", "architectures": ["OlmoHybridForCausalLM"], "vocab_size": 100352,
            "hidden_size": 3840, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 30,
            "rms_norm_eps": 1e-06, "tie_word_embeddings": false}"#,
    },
];

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let model_type = checkpoint.config().text("model_type").ok()??;
    (model_type == "olmo_hybrid" && checkpoint.has(EMBEDDING))
        .then(|| format!("model_type {model_type:?}, tensor {EMBEDDING}"))
}

/// What a configuration file says.
struct Config {
    vocab_size: usize,
    num_layers: usize,
    attention_layers: BTreeSet<usize>,
    attention: SoftmaxAttentionConfig,
    recurrence: DeltaNetConfig,
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
    let num_layers = fields.layers("num_hidden_layers")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let norm_eps = fields.positive_or("rms_norm_eps", 1e-6)?;
    let attention = attention(fields, model_dim, norm_eps)?;
    Ok(Config {
        vocab_size,
        num_layers,
        attention_layers: match layer_types::attention_layers(fields, num_layers)? {
            Some(layers) => layers,
            None => attention_layers(num_layers),
        },
        recurrence: DeltaNetConfig {
            model_dim,
            heads: recurrent_heads(fields, model_dim, attention.num_heads)?,
            joint: false,
            conv: Some(ShortConvConfig {
                width: fields.dimension_or("linear_conv_kernel_dim", 4)?,
                bias: false,
            }),
            activation: QueryKeyActivation::Silu,
            norm: LengthNorm::Length,
            beta: true,
            decay: DecayConfig::PerHead,
            negative_eigenvalues: fields.bool_or("linear_allow_neg_eigval", true)?,
            norm_eps: READ_OUT_EPS,
            output: OutputConfig {
                gate: Some(GateConfig::SILU),
                norm_weight: true,
            },
        },
        attention,
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            up_gate_bias: false,
            down_bias: false,
        },
        norm_eps,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// Every fourth layer, or the last where there are fewer.
fn attention_layers(num_layers: usize) -> BTreeSet<usize> {
    let layers = layer_types::every(4, num_layers);
    match layers.is_empty() {
        true => BTreeSet::from([num_layers - 1]),
        false => layers,
    }
}

fn attention(
    fields: &Fields<'_>,
    model_dim: usize,
    eps: f32,
) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    let num_heads = fields.dimension("num_attention_heads")?;
    if !model_dim.is_multiple_of(num_heads) {
        let expected = format!("a divisor of hidden_size = {model_dim}");
        return Err(fields.wrong("num_attention_heads", &expected, Some(&num_heads.into())));
    }
    let groups = fields.dimension_or("num_key_value_heads", num_heads)?;
    if !num_heads.is_multiple_of(groups) {
        let expected = format!("a divisor of the {num_heads} heads");
        return Err(fields.wrong("num_key_value_heads", &expected, Some(&groups.into())));
    }
    let head_dim = model_dim / num_heads;
    let turned = fields
        .object("rope_parameters")?
        .is_some_and(|rope| rope.has("rope_theta"));
    let bias = fields.bool_or("attention_bias", false)?;
    Ok(SoftmaxAttentionConfig {
        model_dim,
        num_heads,
        num_key_value_heads: groups,
        head_dim,
        norm: Some(QueryKeyNorm {
            eps,
            over: NormSpan::AllHeads,
            zero_centred: false,
        }),
        rotary: match turned {
            true => Some(rope::rotary(fields, head_dim, Defaults::plain(10_000.0, 1.0))?),
            false => None,
        },
        window: None,
        scale: None,
        conv: None,
        gate: false,
        query_key_value_bias: bias,
        output_bias: bias,
    })
}

fn recurrent_heads(fields: &Fields<'_>, model_dim: usize, default: usize) -> Result<Heads, CheckpointError> {
    let query = fields.dimension_or("linear_num_key_heads", default)?;
    let value = fields.dimension_or("linear_num_value_heads", default)?;
    if !value.is_multiple_of(query) {
        let expected = format!("a multiple of the {query} heads of keys");
        return Err(fields.wrong("linear_num_value_heads", &expected, Some(&value.into())));
    }
    let three_quarters = (3 * model_dim / (4 * query)).max(1);
    let key_dim = fields.dimension_or("linear_key_head_dim", three_quarters)?;
    let heads = Heads {
        query,
        key: query,
        value,
        key_dim,
        value_dim: fields.dimension_or("linear_value_head_dim", 2 * key_dim)?,
    };
    if heads.widths().iter().any(|width| *width as u64 > MAX_DIMENSION) {
        let expected = format!("heads that are at most {MAX_DIMENSION} wide together");
        return Err(fields.wrong("linear_key_head_dim", &expected, Some(&key_dim.into())));
    }
    Ok(heads)
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
        .map(|layer| match config.attention_layers.contains(&layer) {
            true => attention_block(config, &format!("model.layers.{layer}"), loader),
            false => recurrent_block(config, &format!("model.layers.{layer}"), loader),
        })
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

fn recurrent_block(config: &Config, name: &str, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let (width, eps) = (config.attention.model_dim, config.norm_eps);
    let names = &[("g_norm", "o_norm")];
    Ok(Block {
        norm: loader.rms_norm(&format!("{name}.attention_layer_norm"), width, eps)?,
        mixer: Arc::new(DeltaNet::read(
            config.recurrence.clone(),
            &mut loader.below(format!("{name}.linear_attn"), names),
        )?),
        channel: Some(Channel {
            norm: loader.rms_norm(&format!("{name}.feedforward_layer_norm"), width, eps)?,
            mixer: mlp(config, name, loader)?,
        }),
    })
}

fn attention_block(config: &Config, name: &str, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let (width, eps) = (config.attention.model_dim, config.norm_eps);
    let attention = SoftmaxAttention::read(
        config.attention,
        &mut loader.below(format!("{name}.self_attn"), &[]),
    )?;
    Ok(Block {
        norm: loader.no_norm(width),
        mixer: Arc::new(NormedOutput {
            mixer: Arc::new(attention),
            norm: loader.rms_norm(&format!("{name}.post_attention_layernorm"), width, eps)?,
        }),
        channel: Some(Channel {
            norm: loader.no_norm(width),
            mixer: Arc::new(NormedOutput {
                mixer: mlp(config, name, loader)?,
                norm: loader.rms_norm(&format!("{name}.post_feedforward_layernorm"), width, eps)?,
            }),
        }),
    })
}

fn mlp(config: &Config, name: &str, loader: &mut Loader<'_>) -> Result<Arc<dyn Mixer>, ModelError> {
    let source = &mut loader.below(format!("{name}.mlp"), &[]);
    Ok(Arc::new(GatedMlp::read(config.mlp, source)?))
}

fn outline(config: &Config) -> Outline {
    let heads = &config.recurrence.heads;
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: config.attention.model_dim,
        tied: config.tied,
        eos_ids: config.eos_ids.clone(),
        details: BTreeMap::from([
            (
                "layers with attention",
                layer_types::list(&config.attention_layers),
            ),
            ("heads of attention", config.attention.num_heads.to_string()),
            ("heads of queries and keys", heads.query.to_string()),
            ("heads of values", heads.value.to_string()),
            ("width of a key", heads.key_dim.to_string()),
            ("width of a value", heads.value_dim.to_string()),
            ("width of the MLP", config.mlp.hidden_dim.to_string()),
        ]),
    }
}
