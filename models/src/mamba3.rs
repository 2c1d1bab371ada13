//! Mamba-3 language models: an embedding, blocks of RMSNorm and [mixer](spillway_ssm_core::mamba3) on a residual stream, a norm, a head.
//!
//! | | original (state-spaces/mamba) | flash-linear-attention (`Mamba3ForCausalLM`) |
//! |---|---|---|
//! | recognised by | `ssm_cfg.layer` = `"Mamba3"` | `model_type` = `mamba3` |
//! | width, layers | `d_model`, `n_layer` | `hidden_size`, `num_hidden_layers` |
//! | channels, P, N | `ssm_cfg.{expand, headdim, d_state}` | `expand`, `head_dim` (and `num_heads`), `state_size` |
//! | groups | `ssm_cfg.ngroups` | `n_groups` |
//! | share of B and C that is turned | `ssm_cfg.rope_fraction` (½), or 1 | `rope_fraction` |
//! | norm of the read-out, least decay rate | `ssm_cfg.{is_outproj_norm, A_floor}` | `is_outproj_norm`, `A_floor` |
//! | f of the decay rates | x + 1 for x ≥ 0, 1 / (1 − x) below | softplus |
//! | rows of the embedding | `vocab_size` rounded up to `pad_vocab_size_multiple` | `vocab_size` |
//! | embedding | `backbone.embedding.weight` | `backbone.embeddings.weight` |
//! | ε | 1e-5, not in the file | `norm_eps` |
//!
//! Everything else has the same name and shape in both. The original layout may be a [hybrid](crate::hybrid). Mixers with several
//! inputs and outputs (`is_mimo`) are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use spillway_ssm_core::mamba3::{DecayMap, Mamba3, Mamba3Config};
use spillway_ssm_core::{Mixer, WeightSource};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::hybrid::Hybrid;
use crate::layout::{Assembly, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::mamba2::Publication;
use crate::mamba2::init::{ORIGINAL_STEPS, step_sizes};
use crate::network::Block;
use crate::ssm_hybrids::refuse;

const HEAD: &str = "lm_head.weight";

/// The authors' own layout.
pub(crate) const ORIGINAL: Layout = Layout {
    architecture: "mamba3",
    name: Publication::Original.name(),
    recognise: |checkpoint| {
        let ssm = checkpoint.config().object("ssm_cfg").ok()??;
        recognised(
            checkpoint,
            Publication::Original,
            ssm.text("layer").ok()?? == "Mamba3",
        )
        .map(|tensor| format!("ssm_cfg.layer \"Mamba3\", tensor {tensor}"))
    },
    config: stored_config,
    parse: |fields, _| Ok(assembly(original(fields)?)),
    presets: &[
        Preset {
            size: "tiny",
            config: r#"{"d_model": 48, "d_intermediate": 0, "n_layer": 2, "vocab_size": 256,
                "ssm_cfg": {"layer": "Mamba3", "d_state": 16, "headdim": 16}, "attn_layer_idx": [], "attn_cfg": {},
                "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 16,
                "tie_embeddings": true}"#,
        },
        Preset {
            size: "tiny-hybrid",
            config: r#"{"d_model": 48, "d_intermediate": 100, "n_layer": 2, "vocab_size": 256,
                "ssm_cfg": {"layer": "Mamba3", "d_state": 16, "headdim": 16, "rope_fraction": 1.0, "is_outproj_norm": true,
                "ngroups": 2}, "attn_layer_idx": [1],
                "attn_cfg": {"causal": true, "num_heads": 4, "num_heads_kv": 2, "head_dim": 16, "rotary_emb_dim": 8,
                "qkv_proj_bias": false, "out_proj_bias": false}, "rms_norm": true, "residual_in_fp32": true,
                "fused_add_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": false}"#,
        },
    ],
};

/// The layout of flash-linear-attention.
pub(crate) const FLA: Layout = Layout {
    architecture: "mamba3",
    name: crate::fla::NAME,
    recognise: |checkpoint| {
        let found = checkpoint.config().text("model_type").ok()?? == "mamba3";
        recognised(checkpoint, Publication::HuggingFace, found)
            .map(|tensor| format!("model_type \"mamba3\", tensor {tensor}"))
    },
    config: stored_config,
    parse: |fields, _| Ok(assembly(fla(fields)?)),
    presets: &[Preset {
        size: "tiny",
        config: r#"{"model_type": "mamba3", "architectures": ["Mamba3ForCausalLM"], "vocab_size": 256, "hidden_size": 48,
            "num_hidden_layers": 2, "state_size": 16, "expand": 2, "head_dim": 16, "num_heads": 6, "n_groups": 1,
            "rope_fraction": 0.5, "is_outproj_norm": false, "is_mimo": false, "norm_eps": 1e-05, "use_bias": false,
            "tie_word_embeddings": false}"#,
    }],
};

/// The tensor of the embedding, where the configuration names this model.
fn recognised(checkpoint: &Checkpoint, publication: Publication, named: bool) -> Option<&'static str> {
    let embedding = publication.embedding_name();
    (named && checkpoint.has(embedding)).then_some(embedding)
}

/// What a configuration file says, whichever layout it is in.
struct Config {
    publication: Publication,
    vocab_size: usize,
    padded_vocab_size: usize,
    num_layers: usize,
    mixer: Mamba3Config,
    norm_eps: f32,
    tied: bool,
    hybrid: Hybrid,
    eos_ids: Vec<u32>,
}

fn original(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let ssm = fields
        .object("ssm_cfg")?
        .ok_or_else(|| fields.wrong("ssm_cfg", "an object", None))?;
    refuse(
        fields,
        &[(
            "rms_norm",
            json!(true),
            "true (RMSNorm; LayerNorm is not implemented)",
        )],
    )?;
    let model_dim = fields.dimension("d_model")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let num_layers = fields.layers("n_layer")?;
    let names = Names {
        head_dim: "headdim",
        state_dim: "d_state",
        groups: "ngroups",
        bias: "bias",
    };
    Ok(Config {
        publication: Publication::Original,
        vocab_size,
        padded_vocab_size: vocab_size.next_multiple_of(fields.dimension_or("pad_vocab_size_multiple", 8)?),
        num_layers,
        mixer: mixer(&ssm, &names, model_dim, num_layers)?,
        norm_eps: 1e-5,
        tied: fields.bool_or("tie_embeddings", true)?,
        hybrid: Hybrid::read(fields, model_dim, num_layers)?,
        eos_ids: Vec::new(),
    })
}

fn fla(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    refuse(fields, &[("hidden_act", json!("silu"), "\"silu\"")])?;
    let model_dim = fields.dimension("hidden_size")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let num_layers = fields.layers("num_hidden_layers")?;
    let names = Names {
        head_dim: "head_dim",
        state_dim: "state_size",
        groups: "n_groups",
        bias: "use_bias",
    };
    let norm_eps = fields.positive_or("norm_eps", 1e-5)?;
    let mixer = Mamba3Config {
        decay: DecayMap::Softplus,
        norm_eps,
        ..mixer(fields, &names, model_dim, num_layers)?
    };
    if fields.dimension_or("num_heads", mixer.num_heads)? != mixer.num_heads {
        let expected = format!("{}, as expand, hidden_size and head_dim give it", mixer.num_heads);
        return Err(fields.wrong("num_heads", &expected, fields.value("num_heads")));
    }
    Ok(Config {
        publication: Publication::HuggingFace,
        vocab_size,
        padded_vocab_size: vocab_size,
        num_layers,
        mixer,
        norm_eps,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        hybrid: Hybrid::default(),
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// What the fields of a mixer are called.
struct Names {
    head_dim: &'static str,
    state_dim: &'static str,
    groups: &'static str,
    bias: &'static str,
}

fn mixer(
    fields: &Fields<'_>,
    names: &Names,
    model_dim: usize,
    num_layers: usize,
) -> Result<Mamba3Config, CheckpointError> {
    let mimo = "false (one input and one output per head)";
    refuse(fields, &[("is_mimo", json!(false), mimo)])?;
    let inner = fields.dimension_or("expand", 2)? * model_dim;
    let head_dim = fields.dimension_or(names.head_dim, 64)?;
    if !inner.is_multiple_of(head_dim) {
        let expected = format!("a divisor of expand times the width of the model, {inner}");
        return Err(fields.wrong(names.head_dim, &expected, Some(&head_dim.into())));
    }
    let state_dim = fields.dimension_or(names.state_dim, 128)?;
    let fraction = fields.positive_or("rope_fraction", 0.5)?;
    let angles = match fraction {
        0.5 => state_dim / 2 / 2,
        1.0 => state_dim / 2,
        _ => return Err(fields.unsupported("rope_fraction", "0.5 or 1")),
    };
    if angles == 0 {
        let expected = "a number of which that share has at least one pair";
        return Err(fields.wrong(names.state_dim, expected, Some(&state_dim.into())));
    }
    let config = Mamba3Config {
        model_dim,
        num_heads: inner / head_dim,
        head_dim,
        state_dim,
        num_groups: fields.dimension_or(names.groups, 1)?,
        angles,
        decay: DecayMap::HeavyTail,
        decay_floor: fields.positive_or("A_floor", 1e-4)?,
        norm_eps: 1e-5,
        read_out_norm: fields.bool_or("is_outproj_norm", false)?,
        projection_bias: fields.bool_or(names.bias, false)?,
        fresh_steps: step_sizes(fields, ORIGINAL_STEPS)?,
        num_layers,
    };
    if !config.num_heads.is_multiple_of(config.num_groups) {
        let expected = format!("a divisor of the {} heads", config.num_heads);
        return Err(fields.wrong(names.groups, &expected, Some(&config.num_groups.into())));
    }
    let rows = config.projection_dim() as u64;
    if rows > MAX_DIMENSION {
        let expected = format!("sizes that give the input projection at most {MAX_DIMENSION} rows");
        return Err(fields.wrong("expand", &expected, Some(&rows.into())));
    }
    Ok(config)
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
    let m = &config.mixer;
    let mut details = BTreeMap::from([
        ("heads", m.num_heads.to_string()),
        ("angles", m.angles.to_string()),
        ("groups of B and C", m.num_groups.to_string()),
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
        None => Arc::new(Mamba3::read(config.mixer, &mut loader.below(mixer_name, &[]))?),
    };
    Ok(Block {
        norm: norm(loader, &format!("{name}.norm"))?,
        mixer,
        channel: config.hybrid.channel(loader, &name, width, norm)?,
    })
}
