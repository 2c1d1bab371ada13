//! BiGS: [bidirectional gated state spaces](spillway_ssm_core::bigs) in the place of BERT's attention, and a head that fills in hidden tokens.
//!
//! ```text
//! r = LayerNorm(word + place + type 0);  r ← r + mixer(LayerNorm(r)) per layer;  logits = W LayerNorm(GELU(W_t r + b_t)) + b
//! ```
//!
//! Names and fields are those of jxiw/BiGS (`BiGSForMaskedLM`), whose checkpoints have the configuration of Hugging Face's transformers. The
//! pooler of its classifiers is not read: a task has a head of its own.
//!
//! | field | what | default |
//! |---|---|---|
//! | `hidden_size`, `num_hidden_layers`, `vocab_size` | width, layers, ids | |
//! | `intermediate_size` | width of the gate | 3072 |
//! | `num_ssm` | modes of a state space | 64 |
//! | `max_position_embeddings` | tokens of a sequence, at most; `position_embedding_type` is `absolute` | 512 |
//! | `type_vocab_size` | types of tokens, of which the first is read | 2 |
//! | `layer_norm_eps`, `tie_word_embeddings` | | 10⁻¹², true |

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use spillway_ssm_core::bigs::{Bigs, BigsConfig};
use spillway_ssm_core::weights::Init;
use spillway_ssm_core::{Linear, WeightSource};

use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Layout, Outline, Parts, Preset, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Embedding, Head, HeadTransform, Norm};

const EMBEDDINGS: &str = "bigs.embeddings";
const WORDS: &str = "bigs.embeddings.word_embeddings.weight";
const HEAD: &str = "cls.predictions";
/// Standard deviation of fresh embeddings and projections.
const FRESH: f32 = 0.02;

/// The names of jxiw/BiGS.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "bigs",
    name: "jxiw",
    recognise: |checkpoint| {
        let model_type = checkpoint.config().text("model_type").ok()??;
        (model_type == "BiGS" && checkpoint.has(WORDS))
            .then(|| format!("model_type {model_type:?}, tensor {WORDS}"))
    },
    config: stored_config,
    parse: |fields, _| {
        let config = config(fields)?;
        Ok(Assembly::new(move |loader| load(&config, loader)))
    },
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "BiGS", "architectures": ["BiGSForMaskedLM"], "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2,
            "intermediate_size": 96, "num_ssm": 16, "max_position_embeddings": 512, "type_vocab_size": 2}"#,
    },
    Preset {
        size: "large",
        config: r#"{"model_type": "BiGS", "architectures": ["BiGSForMaskedLM"], "vocab_size": 30522, "hidden_size": 1024,
            "num_hidden_layers": 23, "intermediate_size": 3072, "num_ssm": 64, "max_position_embeddings": 512, "type_vocab_size": 2}"#,
    },
];

/// What a configuration says.
struct Config {
    vocab_size: usize,
    layers: usize,
    mixer: BigsConfig,
    /// Tokens of a sequence, at most.
    places: usize,
    types: usize,
    norm_eps: f32,
    tied: bool,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    if !matches!(fields.text("hidden_act")?, None | Some("gelu")) {
        return Err(fields.unsupported("hidden_act", "\"gelu\""));
    }
    if !fields.bool_or("pre_norm", true)? {
        return Err(fields.unsupported("pre_norm", "true, which every published model has"));
    }
    if !matches!(fields.text("position_embedding_type")?, None | Some("absolute")) {
        return Err(fields.unsupported("position_embedding_type", "\"absolute\""));
    }
    Ok(Config {
        vocab_size: fields.dimension("vocab_size")?,
        layers: fields.layers("num_hidden_layers")?,
        mixer: BigsConfig {
            model_dim: fields.dimension("hidden_size")?,
            hidden_dim: fields.dimension_or("intermediate_size", 3072)?,
            modes: fields.dimension_or("num_ssm", 64)?,
        },
        places: fields.dimension_or("max_position_embeddings", 512)?,
        types: fields.dimension_or("type_vocab_size", 2)?,
        norm_eps: fields.positive_or("layer_norm_eps", 1e-12)?,
        tied: fields.bool_or("tie_word_embeddings", true)?,
    })
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let width = config.mixer.model_dim;
    let embedding = embedding(config, loader)?;
    let head = head(config, &embedding, loader)?;
    loader.ignore(&format!("{EMBEDDINGS}.position_ids"));
    loader.ignore_below("bigs.pooler");
    let blocks = (0..config.layers)
        .map(|index| {
            let name = format!("bigs.encoder.layer.{index}");
            Ok(Block {
                norm: norm(config, &name, loader)?,
                mixer: Arc::new(Bigs::read(config.mixer, &mut loader.below(name, &[]))?),
                channel: None,
            })
        })
        .collect::<Result<_, ModelError>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: Some(norm(config, EMBEDDINGS, loader)?),
        blocks,
        norm: loader.no_norm(width),
        head,
    })
}

fn norm(config: &Config, below: &str, loader: &mut Loader<'_>) -> Result<Norm, ModelError> {
    let name = format!("{below}.LayerNorm");
    loader.layer_norm(&name, config.mixer.model_dim, config.norm_eps, true)
}

/// The rows of the ids, and at each place what is added to them: that of the place, and that of the first type.
fn embedding(config: &Config, loader: &mut Loader<'_>) -> Result<Embedding, ModelError> {
    let width = config.mixer.model_dim;
    let words = loader.embedding(WORDS, [config.vocab_size, width])?;
    let types: Tensor<2> = loader.tensor(
        &format!("{EMBEDDINGS}.token_type_embeddings.weight"),
        [config.types, width],
        Init::Normal(FRESH),
    )?;
    let places: Tensor<2> = loader.tensor(
        &format!("{EMBEDDINGS}.position_embeddings.weight"),
        [config.places, width],
        Init::Normal(FRESH),
    )?;
    Ok(words.with_places(places + types.narrow(0, 0, 1)))
}

/// The head, whose bias is a tensor of its own and may be stored a second time below the projection.
fn head(config: &Config, embedding: &Embedding, loader: &mut Loader<'_>) -> Result<Head, ModelError> {
    let width = config.mixer.model_dim;
    let shape = [config.vocab_size, width];
    let name = format!("{HEAD}.decoder");
    let untransformed = loader.head(&format!("{name}.weight"), embedding, shape, config.tied)?;
    let bias = loader.vector(&format!("{HEAD}.bias"), config.vocab_size, Init::Zeros)?;
    loader.ignore(&format!("{name}.bias"));
    let below = format!("{HEAD}.transform");
    Ok(Head {
        projection: Linear::new(untransformed.projection.weight().clone(), Some(bias))?,
        transform: Some(HeadTransform {
            dense: loader.linear_with(
                &format!("{below}.dense"),
                [width, width],
                true,
                Init::Normal(FRESH),
            )?,
            norm: norm(config, &below, loader)?,
        }),
        ..untransformed
    })
}

fn outline(config: &Config) -> Outline {
    let details = BTreeMap::from([
        ("directions", "both: later tokens are read too".into()),
        ("modes of a state space", config.mixer.modes.to_string()),
        ("width of the gate", config.mixer.hidden_dim.to_string()),
        ("tokens of a sequence, at most", config.places.to_string()),
    ]);
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: config.mixer.model_dim,
        tied: config.tied,
        eos_ids: Vec::new(),
        details,
    }
}
