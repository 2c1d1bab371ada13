//! Mamba-2 language models: an embedding, blocks of RMSNorm and [mixer](spillway_ssm_core::mamba2) on a residual stream, a norm, a head.
//!
//! ```text
//! r ← embedding(ids)        per block: r ← r + mixer(RMSNorm(r))        logits = W_head · RMSNorm(r)
//! ```
//!
//! Source: Dao & Gu, *Transformers are SSMs* (2405.21060). Two published layouts are read, see [`layout`]:
//! the original one (`state-spaces/mamba2-*`) and Hugging Face's (`Mamba2ForCausalLM`).

pub(crate) mod init;
pub mod layout;

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_ssm_core::mamba2::{Mamba2, Mamba2Config};
use spillway_ssm_core::{Mixer, WeightSource};

use crate::checkpoint::{Checkpoint, Fields};
use crate::error::ModelError;
use crate::hybrid::Hybrid;
use crate::layout::{Assembly, Has, Layout, Outline, Parts, stored_config};
use crate::loader::Loader;
use crate::network::Block;
pub use layout::Publication;
pub use spillway_ssm_core::mamba2::FreshGates;

/// The authors' own layout.
pub(crate) const ORIGINAL: Layout = Layout {
    architecture: "mamba2",
    name: Publication::Original.name(),
    recognise: |checkpoint| recognise(checkpoint, Publication::Original),
    config: stored_config,
    parse: |fields, has| parse(fields, has, Publication::Original),
    presets: init::ORIGINAL,
};

/// The layout of `transformers`.
pub(crate) const HUGGING_FACE: Layout = Layout {
    architecture: "mamba2",
    name: Publication::HuggingFace.name(),
    recognise: |checkpoint| recognise(checkpoint, Publication::HuggingFace),
    config: stored_config,
    parse: |fields, has| parse(fields, has, Publication::HuggingFace),
    presets: init::HUGGING_FACE,
};

/// Judged by the tensors, and by whether there is a `model_type`; what the configuration says beside that is checked when it is
/// read, field by field.
/// In place of a tensor's name.
const NO_MIXER: &str = "none of a mixer, ssm_cfg.layer \"Mamba2\"";

fn recognise(checkpoint: &Checkpoint, publication: Publication) -> Option<String> {
    let fields = checkpoint.config();
    let embedding = publication.embedding_name();
    let ssm = fields.object("ssm_cfg").ok().flatten();
    if ssm.is_some_and(|ssm| matches!(ssm.text("layer"), Ok(Some("Mamba3")))) {
        // Its tensors have the marks below as well.
        return None;
    }
    // A model whose every layer has attention holds no tensor of the mixer.
    let mark = match checkpoint.names().find(|name| name.ends_with(".mixer.dt_bias")) {
        Some(step_bias) => step_bias,
        None if fields.object("ssm_cfg").ok()??.text("layer").ok()? == Some("Mamba2") => NO_MIXER,
        None => return None,
    };
    let config = match (publication, fields.value("model_type")) {
        (Publication::HuggingFace, Some(model_type)) => model_type
            .as_str()
            .is_none_or(|name| name == "mamba2")
            .then(|| format!("model_type {model_type}"))?,
        (Publication::Original, None) => "no model_type".into(),
        _ => return None,
    };
    checkpoint
        .has(embedding)
        .then(|| format!("tensors {embedding} and {mark}, {config}"))
}

/// What a configuration file says, whichever layout it is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The layout it came in.
    pub publication: Publication,
    /// Ids that the tokenizer may give.
    pub vocab_size: usize,
    /// Rows of the embedding: the vocabulary rounded up.
    pub padded_vocab_size: usize,
    /// Number of blocks, each with one mixer.
    pub num_layers: usize,
    /// The mixer of every block.
    pub mixer: Mamba2Config,
    /// ε of the norms between blocks.
    pub norm_eps: f32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Attention layers and MLPs, which the original layout may have.
    pub hybrid: Hybrid,
    /// The id that ends a text, where the configuration has one.
    pub eos_ids: Vec<u32>,
}

fn parse(fields: &Fields<'_>, has: Has<'_>, publication: Publication) -> Result<Assembly, ModelError> {
    let config = Config::parse(fields, publication, || has(layout::HEAD))?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let (m, publication) = (&config.mixer, config.publication);
    let shape = [config.padded_vocab_size, m.model_dim];
    let embedding = loader.embedding(publication.embedding_name(), shape)?;
    let head = match publication {
        Publication::Original => {
            loader.head_stored_though_tied(layout::HEAD, &embedding, shape, config.tied)?
        }
        Publication::HuggingFace => loader.head(layout::HEAD, &embedding, shape, config.tied)?,
    };
    let blocks = (0..config.num_layers)
        .map(|layer| block(config, layer, loader))
        .collect::<Result<_, _>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.rms_norm("backbone.norm_f", m.model_dim, config.norm_eps)?,
        head,
    })
}

fn outline(config: &Config) -> Outline {
    let m = &config.mixer;
    let mut details = BTreeMap::from([
        ("taps of the convolution", m.conv.width.to_string()),
        (
            "bounds of the step size",
            format!("{} to {}", m.dt_limit.0, m.dt_limit.1),
        ),
    ]);
    details.extend(config.hybrid.details());
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.padded_vocab_size,
        model_dim: m.model_dim,
        tied: config.tied,
        eos_ids: config.eos_ids.clone(),
        details,
    }
}

fn block(config: &Config, layer: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let width = config.mixer.model_dim;
    let name = format!("backbone.layers.{layer}");
    let norm = |loader: &mut Loader<'_>, name: &str| loader.rms_norm(name, width, config.norm_eps);
    let mixer_name = format!("{name}.mixer");
    let mixer: Arc<dyn Mixer> = match config.hybrid.attention(loader, layer, &mixer_name)? {
        Some(attention) => Arc::new(attention),
        None => Arc::new(Mamba2::read(
            config.mixer.clone(),
            &mut loader.below(mixer_name, &[]),
        )?),
    };
    Ok(Block {
        norm: norm(loader, &format!("{name}.norm"))?,
        mixer,
        channel: config.hybrid.channel(loader, &name, width, norm)?,
    })
}
