//! Block-State Transformers: [layers](spillway_attention_linear::block_state) of attention within blocks and to the states of a state space, and
//! an MLP after each; some layers may be without a state space.
//!
//! Neither code nor checkpoints of the authors are public, so that names and fields are ours:
//!
//! | tensor | what |
//! |---|---|
//! | `embedding.weight`, `head.weight` | embedding, head where it is not the embedding |
//! | `layers.N.ln1`, `layers.N.ln2`, `ln_f` (`.weight`, `.bias`) | norms before the mixer, the MLP and the head |
//! | `layers.N.{q, k, v, qc, kc, vc, o}.weight` | both attentions; `qc`, `kc` and `vc` where there is a state space |
//! | `layers.N.ssm.*`, `.heads`, `.down.I`, `.up.I` | what the contexts come from |
//! | `layers.N.{fc1, fc2}.{weight,bias}` | the MLP |
//!
//! | field | what | default |
//! |---|---|---|
//! | `d_model`, `n_layer`, `vocab_size`, `num_heads` | width, layers, ids, heads | |
//! | `window` | W, tokens of a block | 512 |
//! | `contexts`, `num_contexts` | `SH`, `MH` or `MF`; how many contexts a block has of the last two | `SH`, 32 |
//! | `kernel` | `structured`, a diagonal state space, or `free` | `structured` |
//! | `d_state`, `dt_min`, `dt_max` | N and fresh step sizes of the one | 16, 0.001, 0.1 |
//! | `taps` | taps of the other | W |
//! | `attn_layer_idx` | layers without a state space, from 0 | none |
//! | `rotary_emb_dim` | features of a head that positions turn in these | 0 |
//! | `d_inner` | width of the MLP | 4 · `d_model` |
//! | `tie_word_embeddings` | | false |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spillway_attention_linear::block_attention::{BlockAttention, BlockAttentionConfig};
use spillway_attention_linear::block_state::{BlockState, BlockStateConfig, Contexts};
use spillway_attention_linear::mlp::{Mlp, MlpActivation, MlpConfig};
use spillway_ssm_core::channel_filter::FilterKind;
use spillway_ssm_core::state_space::init::StepRange;
use spillway_ssm_core::{Mixer, WeightSource};

use crate::budget::product;
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::gss::block_attention;
use crate::hybrid::layer_list;
use crate::layout::{Assembly, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};
use crate::state::ask_for_states;

const EMBEDDING: &str = "embedding.weight";
const HEAD: &str = "head.weight";
const NORM_EPS: f32 = 1e-5;
/// Contexts that a block may have, where it has not one per token.
const MAX_CONTEXTS: usize = 4096;

/// Layout of Block-State Transformers, with names of tensors and fields that are this project's own.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "bst",
    name: "Spillway",
    recognise: |checkpoint| {
        let ours = checkpoint.config().text("model_type").ok()? == Some("bst") && checkpoint.has(EMBEDDING);
        ours.then(|| format!("model_type \"bst\", tensor {EMBEDDING}"))
    },
    config: stored_config,
    parse: |fields, _| {
        let config = config(fields)?;
        expect_memory(&config)?;
        Ok(Assembly::new(move |loader| load(&config, loader)))
    },
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "bst", "d_model": 64, "n_layer": 2, "vocab_size": 256, "num_heads": 4, "window": 8, "contexts": "SH",
            "d_inner": 128, "attn_layer_idx": [0], "rotary_emb_dim": 8}"#,
    },
    Preset {
        size: "tiny-mf-free",
        config: r#"{"model_type": "bst", "d_model": 64, "n_layer": 2, "vocab_size": 256, "num_heads": 4, "window": 8, "contexts": "MF",
            "num_contexts": 3, "kernel": "free", "taps": 12, "d_inner": 128}"#,
    },
    Preset {
        size: "12x1024-sh",
        config: r#"{"model_type": "bst", "d_model": 1024, "n_layer": 12, "vocab_size": 32000, "num_heads": 8, "window": 512,
            "contexts": "SH", "attn_layer_idx": [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11], "rotary_emb_dim": 128}"#,
    },
];

/// What a configuration says.
struct Config {
    vocab_size: usize,
    num_layers: usize,
    mixer: BlockStateConfig,
    attention_layers: BTreeSet<usize>,
    attention: BlockAttentionConfig,
    mlp: MlpConfig,
    tied: bool,
    eos_ids: Vec<u32>,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let model_dim = fields.dimension("d_model")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let num_layers = fields.layers("n_layer")?;
    let attention = block_attention(fields, model_dim)?;
    Ok(Config {
        vocab_size,
        num_layers,
        mixer: BlockStateConfig {
            model_dim,
            num_heads: attention.num_heads,
            window: attention.window,
            contexts: contexts(fields, model_dim)?,
            filter: filter(fields, attention.window)?,
        },
        attention_layers: layer_list(fields, "attn_layer_idx", num_layers)?,
        attention,
        mlp: MlpConfig {
            model_dim,
            hidden_dim: fields.dimension_or("d_inner", 4 * model_dim)?,
            activation: MlpActivation::Gelu,
            bias: true,
        },
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// Reads the fields `contexts` and `num_contexts`: where a block's contexts come from, and how many there are.
fn contexts(fields: &Fields<'_>, model_dim: usize) -> Result<Contexts, CheckpointError> {
    let count = fields.dimension_or("num_contexts", 32)?;
    if count > MAX_CONTEXTS {
        let expected = format!("a whole number from 1 to {MAX_CONTEXTS}");
        return Err(fields.wrong("num_contexts", &expected, Some(&count.into())));
    }
    match fields.text("contexts")? {
        None | Some("SH") => Ok(Contexts::SingleHead),
        Some("MH") => Ok(Contexts::MultiHead(count)),
        Some("MF") if model_dim.is_multiple_of(2) => Ok(Contexts::MultiFilter(count)),
        Some("MF") => {
            let expected = "an even number, where each of several filters has half the width";
            Err(fields.wrong("d_model", expected, Some(&model_dim.into())))
        }
        Some(_) => Err(fields.unsupported("contexts", "\"SH\", \"MH\" or \"MF\"")),
    }
}

/// `kernel` and what belongs to it.
fn filter(fields: &Fields<'_>, window: usize) -> Result<FilterKind, CheckpointError> {
    match fields.text("kernel")? {
        None | Some("structured") => {
            let state_dim = fields.dimension_or("d_state", 16)?;
            if !state_dim.is_multiple_of(2) {
                return Err(fields.wrong("d_state", "an even number", Some(&state_dim.into())));
            }
            let steps = StepRange {
                min: f64::from(fields.positive_or("dt_min", 1e-3)?),
                max: f64::from(fields.positive_or("dt_max", 1e-1)?),
            };
            Ok(FilterKind::StateSpace { state_dim, steps })
        }
        Some("free") => Ok(FilterKind::Free(fields.dimension_or("taps", window)?)),
        Some(_) => Err(fields.unsupported("kernel", "\"structured\" or \"free\"")),
    }
}

/// Asks for the memory of what contexts take, which no tensor of the model has the size of.
fn expect_memory(config: &Config) -> Result<(), ModelError> {
    let contexts = match config.mixer.contexts {
        Contexts::SingleHead => 2 * config.mixer.window,
        Contexts::MultiHead(count) | Contexts::MultiFilter(count) => count,
    };
    // Keys and values of each in f32.
    let sizes = [config.num_layers, contexts, config.mixer.model_dim, 8];
    ask_for_states(product(sizes.map(|size| size as u64)), 1)
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let width = config.mixer.model_dim;
    let shape = [config.vocab_size, width];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let head = loader.head(HEAD, &embedding, shape, config.tied)?;
    let blocks = (0..config.num_layers)
        .map(|layer| block(config, layer, loader))
        .collect::<Result<_, _>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.layer_norm("ln_f", width, NORM_EPS, true)?,
        head,
    })
}

/// What a layer without a state space calls the tensors of its attention.
const ATTENTION_NAMES: &[(&str, &str)] =
    &[("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "o")];

fn block(config: &Config, layer: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let (width, name) = (config.mixer.model_dim, format!("layers.{layer}"));
    let mixer: Arc<dyn Mixer> = match config.attention_layers.contains(&layer) {
        true => {
            let source = &mut loader.below(name.clone(), ATTENTION_NAMES);
            Arc::new(BlockAttention::read(config.attention, source)?)
        }
        false => Arc::new(BlockState::read(
            config.mixer,
            &mut loader.below(name.clone(), &[]),
        )?),
    };
    let mlp = Mlp::read(config.mlp, &mut loader.below(name.clone(), &[]))?;
    Ok(Block {
        norm: loader.layer_norm(&format!("{name}.ln1"), width, NORM_EPS, true)?,
        mixer,
        channel: Some(Channel {
            norm: loader.layer_norm(&format!("{name}.ln2"), width, NORM_EPS, true)?,
            mixer: Arc::new(mlp),
        }),
    })
}

fn outline(config: &Config) -> Outline {
    let mixer = &config.mixer;
    let contexts = match mixer.contexts {
        Contexts::SingleHead => "those of the tokens of the block before".into(),
        Contexts::MultiHead(count) => format!("{count} heads of the state before the block"),
        Contexts::MultiFilter(count) => format!("{count} filters of the state before the block"),
    };
    let kernel = match mixer.filter {
        FilterKind::StateSpace { state_dim, .. } => format!("a state space of {state_dim} per channel"),
        FilterKind::Free(taps) => format!("{taps} free taps per channel"),
    };
    let mut details = BTreeMap::from([
        ("heads", mixer.num_heads.to_string()),
        ("tokens of a block", mixer.window.to_string()),
        ("contexts", contexts),
        ("kernel", kernel),
        ("width of the MLP", config.mlp.hidden_dim.to_string()),
    ]);
    if !config.attention_layers.is_empty() {
        let layers: Vec<String> = config.attention_layers.iter().map(usize::to_string).collect();
        details.insert("layers without a state space", layers.join(", "));
    }
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: mixer.model_dim,
        tied: config.tied,
        eos_ids: config.eos_ids.clone(),
        details,
    }
}
