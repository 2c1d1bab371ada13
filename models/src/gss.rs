//! Gated state space models: an embedding, [gated state spaces](spillway_ssm_core::gss) on a residual stream, a projection; some blocks may be
//! attention within [blocks of tokens](spillway_attention_linear::block_attention).
//!
//! The names are those of `GatedStateSpacesLM` in lucidrains/gated-state-spaces-pytorch, whose files have no configuration:
//!
//! | tensor | what |
//! |---|---|
//! | `token_emb.weight`, `to_logits.weight` | embedding, head |
//! | `layers.N.0.norm.{weight,bias}` | norm of block N |
//! | `layers.N.0.{to_u.0, to_v.0, dss.*, to_gate, to_out}` | its gated state space |
//! | `layers.N.0.attn.{q_proj, k_proj, v_proj, o_proj}`, `layers.N.1.norm`, `layers.N.1.{fc1, fc2}` | a block of attention and an MLP; ours, for nobody published any |
//!
//! There is no norm before the head. A `config.json` may say what shapes do not:
//!
//! | field | what | default |
//! |---|---|---|
//! | `d_model`, `n_layer`, `vocab_size` | width, blocks, ids | those of the tensors |
//! | `dim_expansion_factor` | width of the gated branch over `d_model` | 4 |
//! | `dss_kernel_H`, `dss_kernel_N` | channels of the state space, modes of each | 256, 512 |
//! | `dss_kernel_lambda_imag_exp` | whether Im Λ is e to the stored numbers | true |
//! | `dss_norm` | whether there is a norm before the state space; the paper has none | true |
//! | `attn_layer_idx` | blocks of attention, from 0 | none |
//! | `attn_cfg.{num_heads, window, rotary_emb_dim}` | heads, tokens of a block, features of a head that positions turn | –, 512, 0 |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use spillway_attention_linear::block_attention::{BlockAttention, BlockAttentionConfig};
use spillway_attention_linear::mlp::{Mlp, MlpActivation, MlpConfig};
use spillway_ssm_core::WeightSource;
use spillway_ssm_core::gss::{Gss, GssConfig};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::hybrid::{EvenHeads, layer_list};
use crate::layout::{Assembly, Layout, Outline, Parts, Preset, eos_ids};
use crate::loader::Loader;
use crate::network::{Block, Channel};

const EMBEDDING: &str = "token_emb.weight";
const HEAD: &str = "to_logits.weight";
/// What a block's mark ends in by which it is a gated state space.
const MARK: &str = ".0.dss.Lambda_real";
const NORM_EPS: f32 = 1e-5;

/// The names of lucidrains' code.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gss",
    name: "lucidrains",
    recognise: |checkpoint| {
        let mark = checkpoint.names().find(|name| name.ends_with(MARK))?;
        let found = format!("tensors {EMBEDDING} and {mark}");
        checkpoint.has(EMBEDDING).then_some(found)
    },
    config: config_of,
    parse: |fields, _| {
        let config = config(fields)?;
        Ok(Assembly::new(move |loader| load(&config, loader)))
    },
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "gss", "d_model": 64, "n_layer": 2, "vocab_size": 256, "dim_expansion_factor": 2,
            "dss_kernel_H": 32, "dss_kernel_N": 16, "attn_layer_idx": [1], "attn_cfg": {"num_heads": 4, "window": 16,
            "rotary_emb_dim": 8}}"#,
    },
    Preset {
        size: "16x1024",
        config: r#"{"model_type": "gss", "d_model": 1024, "n_layer": 16, "vocab_size": 32000}"#,
    },
    Preset {
        size: "16x1024-hybrid",
        config: r#"{"model_type": "gss", "d_model": 1024, "n_layer": 16, "vocab_size": 32000, "attn_layer_idx": [3, 7, 11, 15],
            "attn_cfg": {"num_heads": 8, "window": 512, "rotary_emb_dim": 128}}"#,
    },
];

/// The configuration beside the file, or what the shapes say.
fn config_of(checkpoint: &Checkpoint) -> Result<Map<String, Value>, CheckpointError> {
    let stored = checkpoint.config_map();
    if stored.contains_key("d_model") {
        return Ok(stored.clone());
    }
    let shape = |name: &str| -> Result<[usize; 2], CheckpointError> {
        let found = checkpoint.stored(name).map(|stored| stored.shape.to_vec());
        let found = found.ok_or_else(|| CheckpointError::TensorMissing {
            path: checkpoint.weights_path().to_path_buf(),
            tensor: name.to_string(),
            expected: vec![],
        })?;
        found[..].try_into().map_err(|_| CheckpointError::Field {
            path: checkpoint.weights_path().to_path_buf(),
            field: format!("shape of {name}"),
            expected: "2 dimensions".into(),
            found: format!("{found:?}"),
        })
    };
    let index =
        |name: &str| -> Option<usize> { name.strip_prefix("layers.")?.strip_suffix(MARK)?.parse().ok() };
    let layers = checkpoint
        .names()
        .filter_map(index)
        .max()
        .map_or(0, |last| last.saturating_add(1));
    let ([vocab_size, width], [hidden, _]) = (shape(EMBEDDING)?, shape("layers.0.0.to_u.0.weight")?);
    let [channels, modes] = shape("layers.0.0.dss.C_real")?;
    let mut config = stored.clone();
    let of_shapes = json!({
        "d_model": width,
        "n_layer": layers,
        "vocab_size": vocab_size,
        "dim_expansion_factor": hidden / width.max(1),
        "dss_kernel_H": channels,
        "dss_kernel_N": modes,
        "dss_norm": checkpoint.has("layers.0.0.dss.norm.weight"),
    });
    if let Value::Object(of_shapes) = of_shapes {
        config.extend(of_shapes);
    }
    Ok(config)
}

/// What a configuration says.
struct Config {
    vocab_size: usize,
    num_layers: usize,
    mixer: GssConfig,
    attention_layers: BTreeSet<usize>,
    attention: Option<BlockAttentionConfig>,
    eos_ids: Vec<u32>,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let model_dim = fields.dimension("d_model")?;
    let num_layers = fields.layers("n_layer")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let factor = fields.dimension_or("dim_expansion_factor", 4)?;
    // Both are at most 2^24, so the product stays below 2^48.
    if (factor * model_dim) as u64 > MAX_DIMENSION {
        let expected = format!("a factor that makes d_model = {model_dim} at most {MAX_DIMENSION}");
        return Err(fields.wrong("dim_expansion_factor", &expected, Some(&factor.into())));
    }
    let attention_layers = layer_list(fields, "attn_layer_idx", num_layers)?;
    let attention = match (attention_layers.is_empty(), fields.object("attn_cfg")?) {
        (true, _) => None,
        (false, Some(attention)) => Some(block_attention(&attention, model_dim)?),
        (false, None) => {
            return Err(fields.wrong("attn_cfg", "an object, as there are attention layers", None));
        }
    };
    Ok(Config {
        vocab_size,
        num_layers,
        mixer: GssConfig {
            model_dim,
            hidden_dim: factor * model_dim,
            channels: fields.dimension_or("dss_kernel_H", 256)?,
            modes: fields.dimension_or("dss_kernel_N", 512)?,
            imag_exp: fields.bool_or("dss_kernel_lambda_imag_exp", true)?,
            inner_norm: fields.bool_or("dss_norm", true)?,
            reversed: false,
        },
        attention_layers,
        attention,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// Attention within blocks: `num_heads`, `window`, `rotary_emb_dim`.
pub(crate) fn block_attention(
    fields: &Fields<'_>,
    model_dim: usize,
) -> Result<BlockAttentionConfig, CheckpointError> {
    let heads = EvenHeads::read(fields, model_dim)?;
    Ok(BlockAttentionConfig {
        model_dim,
        num_heads: heads.count,
        window: fields.dimension_or("window", 512)?,
        rotary: heads.rotary,
    })
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let width = config.mixer.model_dim;
    let shape = [config.vocab_size, width];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let head = loader.head(HEAD, &embedding, shape, false)?;
    let blocks = (0..config.num_layers)
        .map(|layer| block(config, layer, loader))
        .collect::<Result<_, _>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.no_norm(width),
        head,
    })
}

fn block(config: &Config, layer: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let width = config.mixer.model_dim;
    let (first, second) = (format!("layers.{layer}.0"), format!("layers.{layer}.1"));
    let norm = loader.layer_norm(&format!("{first}.norm"), width, NORM_EPS, true)?;
    let attention = config
        .attention
        .filter(|_| config.attention_layers.contains(&layer));
    let Some(attention) = attention else {
        return Ok(Block {
            norm,
            mixer: Arc::new(Gss::read(config.mixer, &mut loader.below(first, &[]))?),
            channel: None,
        });
    };
    let mlp = MlpConfig {
        model_dim: width,
        hidden_dim: config.mixer.hidden_dim,
        activation: MlpActivation::Gelu,
        bias: true,
    };
    let mixer = BlockAttention::read(attention, &mut loader.below(format!("{first}.attn"), &[]))?;
    Ok(Block {
        norm,
        mixer: Arc::new(mixer),
        channel: Some(Channel {
            norm: loader.layer_norm(&format!("{second}.norm"), width, NORM_EPS, true)?,
            mixer: Arc::new(Mlp::read(mlp, &mut loader.below(second, &[]))?),
        }),
    })
}

fn outline(config: &Config) -> Outline {
    let mixer = &config.mixer;
    let mut details = BTreeMap::from([
        ("channels of the state space", mixer.channels.to_string()),
        ("modes per channel", mixer.modes.to_string()),
        ("width of the gated branch", mixer.hidden_dim.to_string()),
    ]);
    if let Some(attention) = &config.attention {
        let layers: Vec<String> = config.attention_layers.iter().map(usize::to_string).collect();
        details.insert("attention layers", layers.join(", "));
        details.insert("tokens of a block of attention", attention.window.to_string());
    }
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: mixer.model_dim,
        tied: false,
        eos_ids: config.eos_ids.clone(),
        details,
    }
}
