//! What all architectures of flash-linear-attention have around their mixers.

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::weights::Below;
use spillway_ssm_core::{Mixer, WeightSource};

use super::EMBEDDING;
use super::hybrid;
use crate::checkpoint::{CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layout::{Assembly, Outline, Parts, eos_ids};
use crate::loader::Loader;
use crate::network::{Block, Channel};

/// What tensors of a mixer are called here, where that is not what the mixer calls them.
pub(super) type Names = &'static [(&'static str, &'static str)];

/// The hidden width of an MLP is a multiple of this, unless the configuration says it itself.
const MLP_MULTIPLE: usize = 256;

/// The sizes outside of the mixers.
#[derive(Clone, Debug)]
pub(super) struct Backbone {
    pub(super) model_dim: usize,
    pub(super) layers: usize,
    /// ε of the norms of the backbone, and of most norms of mixers.
    pub(super) norm_eps: f32,
    mlp_dim: usize,
    vocab_size: usize,
    tied: bool,
    eos_ids: Vec<u32>,
    attention: BTreeMap<usize, SoftmaxAttentionConfig>,
}

/// What the mixer of a layer is read from.
pub(super) type MixerSource<'s, 'a> = Below<'s, Loader<'a>>;

/// Parts of a model's outline that its mixers know.
pub(super) type Details = BTreeMap<&'static str, String>;

impl Backbone {
    /// Reads the fields that all architectures share; `hidden_ratio` is this one's default.
    pub(super) fn read(fields: &Fields<'_>, hidden_ratio: f64) -> Result<Self, CheckpointError> {
        if !matches!(fields.text("hidden_act")?, None | Some("swish" | "silu")) {
            return Err(fields.unsupported("hidden_act", "\"swish\""));
        }
        if fields.has("attnres_block_size") {
            return Err(fields.unsupported("attnres_block_size", "null (residuals are sums)"));
        }
        let model_dim = fields.dimension("hidden_size")?;
        let vocab_size = fields.dimension_or("vocab_size", 32000)?;
        let mlp_dim = match fields.has("intermediate_size") {
            true => fields.dimension("intermediate_size")?,
            false => mlp_dim(fields, model_dim, hidden_ratio)?,
        };
        let layers = fields.layers("num_hidden_layers")?;
        Ok(Self {
            model_dim,
            mlp_dim,
            vocab_size,
            layers,
            attention: hybrid::read(fields, model_dim, layers)?,
            norm_eps: fields.positive_or("norm_eps", 1e-6)?,
            tied: fields.bool_or("tie_word_embeddings", false)?,
            eos_ids: eos_ids(fields, vocab_size)?,
        })
    }

    /// The model, whose layer N has the mixer that `mixer` reads from the tensors below `model.layers.N.attn`, called as `names`
    /// says, or attention.
    pub(super) fn assembly(
        self,
        details: Details,
        names: Names,
        mixer: impl Fn(&mut MixerSource<'_, '_>, usize) -> Result<Arc<dyn Mixer>, ModelError>
        + Send
        + Sync
        + 'static,
    ) -> Assembly {
        Assembly::new(move |loader| self.assemble(loader, details.clone(), names, &mixer))
    }

    /// As [`Backbone::assembly`], from the tensors of this loader.
    pub(super) fn assemble(
        &self,
        loader: &mut Loader<'_>,
        mut details: Details,
        names: Names,
        mut mixer: impl FnMut(&mut MixerSource<'_, '_>, usize) -> Result<Arc<dyn Mixer>, ModelError>,
    ) -> Result<Parts, ModelError> {
        let shape = [self.vocab_size, self.model_dim];
        let embedding = loader.embedding(EMBEDDING, shape)?;
        let head = loader.head("lm_head.weight", &embedding, shape, self.tied)?;
        let mlp = GatedMlpConfig {
            model_dim: self.model_dim,
            hidden_dim: self.mlp_dim,
            up_gate_bias: false,
            down_bias: false,
        };
        let blocks = (0..self.layers).map(|layer| {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            Ok(Block {
                norm: loader.rms_norm(&name("attn_norm"), self.model_dim, self.norm_eps)?,
                mixer: match self.attention.get(&layer) {
                    Some(attention) => {
                        let source = &mut loader.below(name("attn"), &[]);
                        Arc::new(SoftmaxAttention::read(*attention, source)?)
                    }
                    None => mixer(&mut loader.below(name("attn"), names), layer)?,
                },
                channel: Some(Channel {
                    norm: loader.rms_norm(&name("mlp_norm"), self.model_dim, self.norm_eps)?,
                    mixer: Arc::new(GatedMlp::read(mlp, &mut loader.below(name("mlp"), &[]))?),
                }),
            })
        });
        let blocks = blocks.collect::<Result<_, ModelError>>()?;
        details.insert("width of the MLP", self.mlp_dim.to_string());
        if !self.attention.is_empty() {
            let layers: Vec<String> = self.attention.keys().map(usize::to_string).collect();
            details.insert("layers with attention", layers.join(", "));
        }
        Ok(Parts {
            embedding,
            embedding_norm: None,
            blocks,
            norm: loader.rms_norm("model.norm", self.model_dim, self.norm_eps)?,
            head,
            outline: Outline {
                vocab_size: self.vocab_size,
                padded_vocab_size: self.vocab_size,
                model_dim: self.model_dim,
                tied: self.tied,
                eos_ids: self.eos_ids.clone(),
                details,
            },
        })
    }
}

/// The width of an MLP by `hidden_ratio`, which is this where the configuration does not say.
pub(super) fn mlp_dim(
    fields: &Fields<'_>,
    model_dim: usize,
    hidden_ratio: f64,
) -> Result<usize, CheckpointError> {
    let width = model_dim as f64 * ratio(fields, "hidden_ratio", hidden_ratio)? * 2.0 / 3.0;
    let width = (width as usize).next_multiple_of(MLP_MULTIPLE);
    in_range(fields, "hidden_ratio", width)
}

/// A ratio of widths.
pub(super) fn ratio(fields: &Fields<'_>, name: &str, default: f64) -> Result<f64, CheckpointError> {
    let Some(value) = fields.value(name) else {
        return Ok(default);
    };
    let ratio = value.as_f64().filter(|ratio| ratio.is_finite() && *ratio > 0.0);
    ratio.ok_or_else(|| fields.wrong(name, "a positive finite number", Some(value)))
}

/// `width` · the ratio `name`, rounded down.
pub(super) fn expanded(
    fields: &Fields<'_>,
    name: &str,
    default: f64,
    width: usize,
) -> Result<usize, CheckpointError> {
    let expanded = (width as f64 * ratio(fields, name, default)?) as usize;
    in_range(fields, name, expanded)
}

/// A width that can exist.
fn in_range(fields: &Fields<'_>, name: &str, width: usize) -> Result<usize, CheckpointError> {
    if (1..=MAX_DIMENSION).contains(&(width as u64)) {
        return Ok(width);
    }
    let expected = format!("a number that gives a width from 1 to {MAX_DIMENSION}");
    Err(fields.wrong(name, &expected, Some(&width.into())))
}
