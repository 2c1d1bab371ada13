//! Hybrids of Mamba layers and attention in the layouts of `transformers`, and what they have in common.
//!
//! | module | model | its recurrent layers |
//! |---|---|---|
//! | `granite` | Granite 4.0-H, dense or with experts | Mamba-2 |
//! | `falcon_h1` | Falcon-H1, both kinds side by side in every layer | Mamba-2 |
//! | `bamba` | Bamba | Mamba-2 |
//! | `nemotron_h` | Nemotron-H, with experts or without | Mamba-2 |
//! | `jamba` | Jamba, with experts or without | Mamba-1 |
//! | `zamba`, `zamba2` | Zamba and Zamba2, whose attention has shared weights (`shared_block`) | Mamba-1, Mamba-2 |
//!
//! | in this file | |
//! |---|---|
//! | `Frame` | the fields and tensors around the blocks |
//! | `attention` | softmax attention, without positions |
//! | `mamba2` | the fields of Mamba-2 that begin with `mamba_` |
//! | `refuse` | fields whose values would change results and are not followed |

pub(crate) mod bamba;
pub(crate) mod falcon_h1;
pub(crate) mod granite;
pub(crate) mod jamba;
pub(crate) mod nemotron_h;
mod shared_block;
pub(crate) mod zamba;
pub(crate) mod zamba2;

use std::collections::BTreeMap;

use serde_json::Value;
use spillway_attention_linear::softmax_attention::SoftmaxAttentionConfig;
use spillway_ssm_core::ShortConvConfig;
use spillway_ssm_core::mamba2::{FreshGates, GateOrder, GatedNorm, Mamba2Config};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layout::{Outline, Parts, eos_ids};
use crate::loader::Loader;
use crate::mamba2::init::{HUGGING_FACE_STEPS, step_sizes};
use crate::network::{Block, Embedding, Head, Norm};

/// What there is to say about a model, by name.
pub(crate) type Details = BTreeMap<&'static str, String>;

/// Where most of these models keep the embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Where most of these models keep the head.
pub(crate) const HEAD: &str = "lm_head.weight";

/// Why a checkpoint is one of this `model_type`, if it is.
pub(crate) fn recognised(checkpoint: &Checkpoint, model_type: &str, embedding: &str) -> Option<String> {
    let found = checkpoint.config().text("model_type").ok()?? == model_type;
    (found && checkpoint.has(embedding)).then(|| format!("model_type {model_type:?}, tensor {embedding}"))
}

/// The sizes and tensors around the blocks.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) vocab_size: usize,
    pub(crate) model_dim: usize,
    pub(crate) layers: usize,
    pub(crate) norm_eps: f32,
    pub(crate) tied: bool,
    /// Factor on the rows of the embedding.
    pub(crate) embedding_factor: f32,
    /// Factor on the logits.
    pub(crate) logits_factor: f32,
    eos_ids: Vec<u32>,
}

impl Frame {
    /// `vocab_size`, `hidden_size`, `num_hidden_layers`, `rms_norm_eps`, `tie_word_embeddings`, `eos_token_id`; `eps` and `tied` are what is taken
    /// where the file does not say.
    pub(crate) fn read(fields: &Fields<'_>, eps: f32, tied: bool) -> Result<Self, CheckpointError> {
        let vocab_size = fields.dimension("vocab_size")?;
        Ok(Self {
            vocab_size,
            model_dim: fields.dimension("hidden_size")?,
            layers: fields.layers("num_hidden_layers")?,
            norm_eps: fields.positive_or("rms_norm_eps", eps)?,
            tied: fields.bool_or("tie_word_embeddings", tied)?,
            embedding_factor: 1.0,
            logits_factor: 1.0,
            eos_ids: eos_ids(fields, vocab_size)?,
        })
    }

    /// An RMSNorm over the residual stream.
    pub(crate) fn norm(&self, loader: &mut Loader<'_>, name: &str) -> Result<Norm, ModelError> {
        loader.rms_norm(name, self.model_dim, self.norm_eps)
    }

    /// The embedding called `name` and the head.
    pub(crate) fn ends(&self, loader: &mut Loader<'_>, name: &str) -> Result<(Embedding, Head), ModelError> {
        let shape = [self.vocab_size, self.model_dim];
        let embedding = loader.embedding(name, shape)?;
        let head = loader.head(HEAD, &embedding, shape, self.tied)?;
        Ok((embedding.scaled(self.embedding_factor), head))
    }

    /// The model of blocks that `block` reads by their number, its last norm called `norm`.
    pub(crate) fn assemble(
        &self,
        loader: &mut Loader<'_>,
        norm: &str,
        details: Details,
        mut block: impl FnMut(&mut Loader<'_>, usize) -> Result<Block, ModelError>,
    ) -> Result<Parts, ModelError> {
        let (embedding, head) = self.ends(loader, EMBEDDING)?;
        let blocks = (0..self.layers).map(|layer| block(loader, layer));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let norm = self.norm(loader, norm)?;
        Ok(self.parts((embedding, head), blocks, norm, details))
    }

    pub(crate) fn parts(
        &self,
        (embedding, head): (Embedding, Head),
        blocks: Vec<Block>,
        norm: Norm,
        details: Details,
    ) -> Parts {
        Parts {
            embedding,
            embedding_norm: None,
            blocks,
            norm: norm.scaled(self.logits_factor),
            head,
            outline: Outline {
                vocab_size: self.vocab_size,
                padded_vocab_size: self.vocab_size,
                model_dim: self.model_dim,
                tied: self.tied,
                eos_ids: self.eos_ids.clone(),
                details,
            },
        }
    }
}

/// Refuses fields that are given with another value than the one named, which is all that is implemented.
pub(crate) fn refuse(
    fields: &Fields<'_>,
    accepted: &[(&str, Value, &'static str)],
) -> Result<(), CheckpointError> {
    let same = |found: &Value, accepted: &Value| {
        found == accepted || (found.is_number() && found.as_f64() == accepted.as_f64())
    };
    let mut wrong = accepted
        .iter()
        .filter(|(name, value, _)| fields.value(name).is_some_and(|found| !same(found, value)));
    match wrong.next() {
        None => Ok(()),
        Some((name, _, accepted)) => Err(fields.unsupported(name, accepted)),
    }
}

/// Refuses another activation than SiLU.
pub(crate) fn expect_silu(fields: &Fields<'_>, name: &str) -> Result<(), CheckpointError> {
    match fields.text(name)? {
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(fields.unsupported(name, "\"silu\"")),
    }
}

/// Refuses weights that are stored in fewer bits.
pub(crate) fn refuse_quantized(fields: &Fields<'_>) -> Result<(), CheckpointError> {
    match fields.has("quantization_config") {
        true => Err(fields.unsupported("quantization_config", "null (weights as floating-point numbers)")),
        false => Ok(()),
    }
}

/// `num_attention_heads`, `num_key_value_heads`, `head_dim` and `attention_bias`, without positions.
pub(crate) fn attention(
    fields: &Fields<'_>,
    model_dim: usize,
) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    let num_heads = fields.dimension("num_attention_heads")?;
    let groups = fields.dimension_or("num_key_value_heads", num_heads)?;
    if !num_heads.is_multiple_of(groups) {
        let expected = format!("a divisor of the {num_heads} heads");
        return Err(fields.wrong("num_key_value_heads", &expected, Some(&groups.into())));
    }
    if !fields.has("head_dim") && !model_dim.is_multiple_of(num_heads) {
        let expected = format!("a divisor of hidden_size = {model_dim}, where head_dim is not given");
        return Err(fields.wrong("num_attention_heads", &expected, Some(&num_heads.into())));
    }
    let head_dim = fields.dimension_or("head_dim", model_dim / num_heads)?;
    if (num_heads * head_dim) as u64 > MAX_DIMENSION {
        let expected = format!("heads that are at most {MAX_DIMENSION} wide together");
        return Err(fields.wrong("head_dim", &expected, Some(&head_dim.into())));
    }
    let bias = fields.bool_or("attention_bias", false)?;
    Ok(SoftmaxAttentionConfig {
        model_dim,
        num_heads,
        num_key_value_heads: groups,
        head_dim,
        norm: None,
        rotary: None,
        window: None,
        scale: None,
        conv: None,
        query_key_value_bias: bias,
        gate: false,
        output_bias: bias,
    })
}

/// Mamba-2 of the fields `mamba_n_heads`, `mamba_d_head`, `mamba_d_state`, `mamba_n_groups`, `mamba_d_conv`, `mamba_conv_bias`,
/// `mamba_proj_bias` and `time_step_limit`, its channels `inner` (`mamba_expand` · `hidden_size` where that is `None`).
pub(crate) fn mamba2(
    fields: &Fields<'_>,
    frame: &Frame,
    inner: Option<(&str, usize)>,
) -> Result<Mamba2Config, CheckpointError> {
    let (name, inner) = match inner {
        Some(given) => given,
        None => {
            let expanded = fields.dimension_or("mamba_expand", 2)? * frame.model_dim;
            ("mamba_expand", expanded)
        }
    };
    let num_heads = fields.dimension("mamba_n_heads")?;
    let automatic = matches!(fields.value("mamba_d_head"), Some(Value::String(text)) if text == "auto");
    let head_dim = match fields.has("mamba_d_head") && !automatic {
        true => fields.dimension("mamba_d_head")?,
        false => inner / num_heads,
    };
    if num_heads * head_dim != inner {
        let expected = format!("mamba_n_heads · mamba_d_head = {inner}, as {name} has it");
        let found = format!("{num_heads} · {head_dim}");
        return Err(fields.wrong("mamba_n_heads", &expected, Some(&found.into())));
    }
    let mixer = Mamba2Config {
        model_dim: frame.model_dim,
        num_heads,
        head_dim,
        state_dim: fields.dimension("mamba_d_state")?,
        num_groups: fields.dimension_or("mamba_n_groups", 1)?,
        conv: ShortConvConfig {
            width: fields.dimension_or("mamba_d_conv", 4)?,
            bias: fields.bool_or("mamba_conv_bias", true)?,
        },
        projection_bias: fields.bool_or("mamba_proj_bias", false)?,
        skip_per_channel: false,
        dt_limit: fields.interval_or("time_step_limit", (0.0, f32::INFINITY))?,
        norm: Some(GatedNorm {
            eps: frame.norm_eps,
            order: GateOrder::NormAfterGate,
        }),
        factors: None,
        fresh: fresh_gates(fields)?,
        num_layers: frame.layers,
    };
    expect_sizes(fields, "mamba_n_groups", &mixer)?;
    Ok(mixer)
}

/// Step sizes of fresh layers between `time_step_min` and `time_step_max`.
pub(crate) fn fresh_gates(fields: &Fields<'_>) -> Result<FreshGates, CheckpointError> {
    Ok(FreshGates {
        steps: step_sizes(fields, HUGGING_FACE_STEPS)?,
        ..FreshGates::default()
    })
}

/// Groups divide heads, and the input projection (z, x, B, C, Δ) is of a size that can exist.
pub(crate) fn expect_sizes(
    fields: &Fields<'_>,
    groups: &str,
    mixer: &Mamba2Config,
) -> Result<(), CheckpointError> {
    if !mixer.num_heads.is_multiple_of(mixer.num_groups) {
        let expected = format!("a divisor of the {} heads", mixer.num_heads);
        return Err(fields.wrong(groups, &expected, Some(&mixer.num_groups.into())));
    }
    // Each factor is at most 2^24, so this stays below 2^52.
    let rows = mixer.projection_dim() as u64;
    if rows > MAX_DIMENSION {
        let expected = format!("sizes that give the input projection at most {MAX_DIMENSION} rows");
        return Err(fields.wrong("hidden_size", &expected, Some(&rows.into())));
    }
    Ok(())
}

/// What there is to say about layers with attention and without.
pub(crate) fn details(mamba: &Mamba2Config, attention_layers: impl Iterator<Item = usize>) -> Details {
    let layers: Vec<String> = attention_layers.map(|layer| layer.to_string()).collect();
    Details::from([
        ("taps of the convolution", mamba.conv.width.to_string()),
        (
            "bounds of the step size",
            format!("{} to {}", mamba.dt_limit.0, mamba.dt_limit.1),
        ),
        (
            "layers with attention",
            match layers.is_empty() {
                true => "none".into(),
                false => layers.join(", "),
            },
        ),
    ])
}

/// The layers of a list of which `true` stands for attention.
pub(crate) fn attended(layers: &[bool]) -> impl Iterator<Item = usize> {
    let layers = layers.iter().enumerate();
    layers.filter(|(_, attends)| **attends).map(|(layer, _)| layer)
}
