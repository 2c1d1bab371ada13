//! Mamba-1 language models: an embedding, blocks of a norm and a [mixer](spillway_ssm_core::mamba1) on a residual stream, a norm, a head.
//!
//! | | original (`state-spaces/mamba-*`) | Hugging Face (`MambaForCausalLM`) |
//! |---|---|---|
//! | recognised by | `ssm_cfg` without `layer`, or `"Mamba1"` | `model_type` = `mamba` |
//! | width, layers | `d_model`, `n_layer` | `hidden_size`, `num_hidden_layers` |
//! | channels | `ssm_cfg.expand` · `d_model` | `intermediate_size` (`expand` · `hidden_size`) |
//! | N, taps, rank of Δ | `ssm_cfg.{d_state, d_conv, dt_rank}` | `state_size`, `conv_kernel`, `time_step_rank` |
//! | Δ of a fresh model | `ssm_cfg.{dt_min, dt_max, dt_init_floor}` | `time_step_{min, max, floor}` |
//! | rows of the embedding | `vocab_size` rounded up to `pad_vocab_size_multiple` | `vocab_size` |
//! | embedding | `backbone.embedding.weight` | `backbone.embeddings.weight` |
//! | ε | 1e-5, not in the file | `layer_norm_epsilon` |
//!
//! Everything else has the same name and shape in both. A rank of `"auto"` is the width / 16, rounded up. The original layout
//! may be a [hybrid](crate::hybrid). Source: Gu & Dao, *Mamba* (2312.00752).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Map;
use spillway_ssm_core::mamba1::{Mamba1, Mamba1Config, SelectionNorm};
use spillway_ssm_core::{Mixer, ShortConvConfig, WeightSource};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::hybrid::Hybrid;
use crate::layout::{Assembly, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::mamba2::Publication;
use crate::mamba2::init::{HUGGING_FACE_STEPS, ORIGINAL_STEPS, step_sizes};
use crate::mamba2::layout::NORM_EPS;
use crate::network::{Block, NormKind};

const HEAD: &str = "lm_head.weight";
/// The `model_type` of Mamba-1 with norms of Δ_raw, B and C, otherwise in the layout of transformers' Mamba.
const FALCON: &str = "falcon_mamba";

/// The authors' own layout.
pub(crate) const ORIGINAL: Layout = Layout {
    architecture: "mamba1",
    name: Publication::Original.name(),
    recognise: |checkpoint| recognise(checkpoint, Publication::Original),
    config: stored_config,
    parse: |fields, _| Ok(assembly(original(fields)?)),
    presets: ORIGINAL_PRESETS,
};

/// The layout of `transformers`.
pub(crate) const HUGGING_FACE: Layout = Layout {
    architecture: "mamba1",
    name: Publication::HuggingFace.name(),
    recognise: |checkpoint| recognise(checkpoint, Publication::HuggingFace),
    config: stored_config,
    parse: |fields, _| Ok(assembly(hugging_face(fields)?)),
    presets: &[Preset {
        size: "tiny",
        config: r#"{"model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "num_hidden_layers": 2, "state_size": 16, "expand": 2, "intermediate_size": 128, "time_step_rank": 4,
            "conv_kernel": 4, "layer_norm_epsilon": 1e-05, "use_bias": false, "use_conv_bias": true,
            "tie_word_embeddings": true}"#,
    }],
};

macro_rules! original {
    ($size:literal, $width:literal, $layers:literal) => {
        Preset {
            size: $size,
            config: concat!(
                r#"{"d_model": "#,
                $width,
                r#", "n_layer": "#,
                $layers,
                r#", "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": true, "residual_in_fp32": true,
                "fused_add_norm": true, "pad_vocab_size_multiple": 8}"#
            ),
        }
    };
}

/// The authors' sizes, and two tiny ones: the second has an attention layer and MLPs.
const ORIGINAL_PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"d_model": 64, "n_layer": 2, "vocab_size": 256, "ssm_cfg": {}, "rms_norm": true,
            "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8}"#,
    },
    Preset {
        size: "tiny-hybrid",
        config: r#"{"d_model": 64, "n_layer": 3, "vocab_size": 256, "ssm_cfg": {}, "attn_layer_idx": [1],
            "attn_cfg": {"causal": true, "num_heads": 4, "num_heads_kv": 2, "head_dim": 16, "rotary_emb_dim": 8,
            "d_conv": 4, "qkv_proj_bias": false, "out_proj_bias": false}, "d_intermediate": 128, "rms_norm": true,
            "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8}"#,
    },
    original!("130m", 768, 24),
    original!("370m", 1024, 48),
    original!("790m", 1536, 48),
    original!("1.4b", 2048, 48),
    original!("2.8b", 2560, 64),
];

fn recognise(checkpoint: &Checkpoint, publication: Publication) -> Option<String> {
    let fields = checkpoint.config();
    let embedding = publication.embedding_name();
    let reason = match (publication, fields.text("model_type").ok()?) {
        (Publication::HuggingFace, Some("mamba")) => "model_type \"mamba\"",
        (Publication::HuggingFace, Some(FALCON)) => "model_type \"falcon_mamba\"",
        (Publication::Original, None) if fields.has("d_model") => {
            let layer = match fields.object("ssm_cfg").ok()? {
                Some(ssm) => ssm.text("layer").ok()?,
                None => None,
            };
            match layer {
                None => "d_model, and no ssm_cfg.layer",
                Some("Mamba1") => "ssm_cfg.layer \"Mamba1\"",
                Some(_) => return None,
            }
        }
        _ => return None,
    };
    checkpoint
        .has(embedding)
        .then(|| format!("{reason}, tensor {embedding}"))
}

/// What a configuration file says, whichever layout it is in.
struct Config {
    publication: Publication,
    vocab_size: usize,
    padded_vocab_size: usize,
    num_layers: usize,
    mixer: Mamba1Config,
    norm: NormKind,
    norm_eps: f32,
    tied: bool,
    hybrid: Hybrid,
    eos_ids: Vec<u32>,
}

fn original(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let (path, empty) = (fields.path(), Map::new());
    let ssm = match fields.object("ssm_cfg")? {
        Some(ssm) => ssm,
        None => Fields::new(&path, &empty),
    };
    if !matches!(ssm.text("layer")?, None | Some("Mamba1")) {
        return Err(ssm.unsupported("layer", "\"Mamba1\""));
    }
    let model_dim = fields.dimension("d_model")?;
    let num_layers = fields.layers("n_layer")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let mixer = Mamba1Config {
        model_dim,
        inner_dim: ssm.dimension_or("expand", 2)? * model_dim,
        state_dim: ssm.dimension_or("d_state", 16)?,
        dt_rank: rank(&ssm, "dt_rank", model_dim)?,
        conv: ShortConvConfig {
            width: ssm.dimension_or("d_conv", 4)?,
            bias: ssm.bool_or("conv_bias", true)?,
        },
        projection_bias: ssm.bool_or("bias", false)?,
        selection_norm: None,
        groups: None,
        fresh_steps: step_sizes(&ssm, ORIGINAL_STEPS)?,
        num_layers,
    };
    check_sizes(&ssm, &mixer)?;
    Ok(Config {
        publication: Publication::Original,
        vocab_size,
        padded_vocab_size: vocab_size.next_multiple_of(fields.dimension_or("pad_vocab_size_multiple", 8)?),
        num_layers,
        mixer,
        norm: match fields.bool_or("rms_norm", true)? {
            true => NormKind::Rms,
            false => NormKind::Layer,
        },
        norm_eps: 1e-5,
        tied: fields.bool_or("tie_embeddings", true)?,
        hybrid: Hybrid::read(fields, model_dim, num_layers)?,
        eos_ids: Vec::new(),
    })
}

fn hugging_face(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    if !matches!(fields.text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(fields.unsupported("hidden_act", "\"silu\""));
    }
    let model_dim = fields.dimension("hidden_size")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let inner_dim = match fields.has("intermediate_size") {
        true => fields.dimension("intermediate_size")?,
        false => fields.dimension_or("expand", 2)? * model_dim,
    };
    let num_layers = fields.layers("num_hidden_layers")?;
    let mixer = Mamba1Config {
        model_dim,
        inner_dim,
        state_dim: fields.dimension_or("state_size", 16)?,
        dt_rank: rank(fields, fields.given(["time_step_rank", "dt_rank"])?, model_dim)?,
        conv: ShortConvConfig {
            width: fields.dimension_or("conv_kernel", 4)?,
            bias: fields.bool_or("use_conv_bias", true)?,
        },
        projection_bias: fields.bool_or("use_bias", false)?,
        selection_norm: match fields.text("model_type")? {
            Some(FALCON) => Some(SelectionNorm {
                eps: fields.positive_or("mixer_rms_eps", 1e-6)?,
                weights: false,
            }),
            _ => None,
        },
        groups: None,
        fresh_steps: step_sizes(fields, HUGGING_FACE_STEPS)?,
        num_layers,
    };
    check_sizes(fields, &mixer)?;
    Ok(Config {
        publication: Publication::HuggingFace,
        vocab_size,
        padded_vocab_size: vocab_size,
        num_layers,
        mixer,
        norm: NormKind::Rms,
        norm_eps: fields.positive_or(fields.given(NORM_EPS)?, 1e-5)?,
        tied: fields.bool_or("tie_word_embeddings", true)?,
        hybrid: Hybrid::default(),
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// A rank; `"auto"`, as absent, is the width / 16, rounded up.
pub(crate) fn rank(fields: &Fields<'_>, name: &str, model_dim: usize) -> Result<usize, CheckpointError> {
    match fields.value(name) {
        None => Ok(model_dim.div_ceil(16)),
        Some(value) if value.as_str() == Some("auto") => Ok(model_dim.div_ceil(16)),
        Some(_) => fields.dimension(name),
    }
}

/// The projections are of sizes that can exist. Factors are at most 2^24, so that nothing here overflows.
pub(crate) fn check_sizes(fields: &Fields<'_>, mixer: &Mamba1Config) -> Result<(), CheckpointError> {
    let rows = (2 * mixer.inner_dim).max(mixer.dt_rank + 2 * mixer.state_dim) as u64;
    if rows <= MAX_DIMENSION {
        return Ok(());
    }
    let expected = format!("sizes that give every projection at most {MAX_DIMENSION} rows");
    Err(fields.wrong("expand", &expected, Some(&rows.into())))
}

fn assembly(config: Config) -> Assembly {
    Assembly::new(move |loader| load(&config, loader))
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let width = config.mixer.model_dim;
    let shape = [config.padded_vocab_size, width];
    let embedding = loader.embedding(config.publication.embedding_name(), shape)?;
    let head = match config.publication {
        Publication::Original => loader.head_stored_though_tied(HEAD, &embedding, shape, config.tied)?,
        Publication::HuggingFace => loader.head(HEAD, &embedding, shape, config.tied)?,
    };
    let blocks = (0..config.num_layers)
        .map(|layer| block(config, layer, loader))
        .collect::<Result<_, _>>()?;
    let bias = config.norm == NormKind::Layer;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.norm("backbone.norm_f", width, config.norm_eps, config.norm, bias)?,
        head,
    })
}

fn outline(config: &Config) -> Outline {
    let m = &config.mixer;
    let mut details = BTreeMap::from([
        ("channels", m.inner_dim.to_string()),
        ("state per channel", m.state_dim.to_string()),
        ("rank of the step size", m.dt_rank.to_string()),
        ("taps of the convolution", m.conv.width.to_string()),
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
    let norm = |loader: &mut Loader<'_>, name: &str| {
        let bias = config.norm == NormKind::Layer;
        loader.norm(name, width, config.norm_eps, config.norm, bias)
    };
    let mixer_name = format!("{name}.mixer");
    let mixer: Arc<dyn Mixer> = match config.hybrid.attention(loader, layer, &mixer_name)? {
        Some(attention) => Arc::new(attention),
        None => Arc::new(Mamba1::read(config.mixer, &mut loader.below(mixer_name, &[]))?),
    };
    Ok(Block {
        norm: norm(loader, &format!("{name}.norm"))?,
        mixer,
        channel: config.hybrid.channel(loader, &name, width, norm)?,
    })
}
