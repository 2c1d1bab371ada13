//! H3: blocks of the [mixer](spillway_ssm_core::h3) of two state spaces, some of softmax attention, each with an MLP.
//!
//! | | `model.pt` as published first | as published later |
//! |---|---|---|
//! | tensors of block N | `s4seq.encoder.layers.N` | `backbone.layers.N` |
//! | embedding | `embedding` | `backbone.embeddings.word_embeddings` |
//! | norm before the mixer of block N | `norm2` of block N − 1; of block 0 `s4seq.encoder.norm` | `norm1` |
//! | norm before the MLP | `norm1` | `norm2` |
//! | norm before the head | `norm2` of the last block | `backbone.ln_f` |
//!
//! Each may stand below `model.`, as training frameworks write it. The files have no configuration: widths and blocks are the
//! tensors' shapes, and what no shape says, the heads of the attention and whether positions turn them, is known of the
//! published sizes (table in Fu et al., *Hungry Hungry Hippos*, 2212.14052, appendix F, and the authors' README). A
//! `config.json` beside the file, with the names of the authors' `SSMLMHeadModel`, says it for others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use spillway_attention_linear::mlp::{Mlp, MlpActivation, MlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::h3::{H3, H3Config};
use spillway_ssm_core::{Mixer, WeightSource};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::error::ModelError;
use crate::hybrid::{EvenHeads, layer_list};
use crate::layout::{Assembly, Has, Layout, Outline, Parts, Preset};
use crate::loader::Loader;
use crate::network::{Block, Channel, Norm};

/// The names of later files.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "h3",
    name: "HazyResearch",
    recognise: |checkpoint| recognise(checkpoint, &LATER),
    config: |checkpoint| config_of(checkpoint, &LATER),
    parse: |fields, has| parse(&LATER, fields, has),
    presets: PRESETS,
};

/// The names of the first files.
pub(crate) const FIRST_LAYOUT: Layout = Layout {
    architecture: "h3",
    name: "HazyResearch, first names",
    recognise: |checkpoint| recognise(checkpoint, &FIRST),
    config: |checkpoint| config_of(checkpoint, &FIRST),
    parse: |fields, has| parse(&FIRST, fields, has),
    presets: &[Preset {
        size: "tiny",
        config: TINY,
    }],
};

const TINY: &str = r#"{"model_type": "h3", "d_model": 64, "n_layer": 2, "d_inner": 128, "vocab_size": 256,
    "ssm_cfg": {"mode": "diag", "measure": "diag-lin", "d_state": 16}, "attn_layer_idx": [1], "attn_cfg": {"num_heads": 4}}"#;

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: TINY,
    },
    Preset {
        size: "125m",
        config: r#"{"model_type": "h3", "d_model": 768, "n_layer": 12, "d_inner": 3072, "vocab_size": 50257,
            "ssm_cfg": {"mode": "diag", "measure": "diag-lin"}, "attn_layer_idx": [6], "attn_cfg": {"num_heads": 12}}"#,
    },
    Preset {
        size: "355m",
        config: r#"{"model_type": "h3", "d_model": 1024, "n_layer": 24, "d_inner": 4096, "vocab_size": 50257,
            "ssm_cfg": {"mode": "diag", "measure": "diag-lin"}, "attn_layer_idx": [8, 16], "attn_cfg": {"num_heads": 16}}"#,
    },
];

/// A generation of names.
struct Names {
    /// What a block's index is appended to.
    layers: &'static str,
    embedding: &'static str,
    /// Norms of block N, before its mixer and its MLP.
    norms: fn(usize) -> [String; 2],
    /// Norm before the head, given the number of blocks.
    final_norm: fn(usize) -> String,
}

const LATER: Names = Names {
    layers: "backbone.layers",
    embedding: "backbone.embeddings.word_embeddings.weight",
    norms: |layer| [1, 2].map(|norm| format!("backbone.layers.{layer}.norm{norm}")),
    final_norm: |_| "backbone.ln_f".into(),
};

const FIRST: Names = Names {
    layers: "s4seq.encoder.layers",
    embedding: "embedding.weight",
    norms: |layer| {
        let before = match layer.checked_sub(1) {
            None => "s4seq.encoder.norm".into(),
            Some(before) => format!("s4seq.encoder.layers.{before}.norm2"),
        };
        [before, format!("s4seq.encoder.layers.{layer}.norm1")]
    },
    final_norm: |layers| format!("s4seq.encoder.layers.{}.norm2", layers.saturating_sub(1)),
};

/// What frameworks may write before every name.
const WRAPPERS: [&str; 2] = ["", "model."];
const HEAD: &str = "lm_head.weight";
/// The tensor of a block by which its mixer is H3.
const SHIFT: &str = "mixer.ssm_k_kernel.kernel.B";

/// What stands before the names in a checkpoint, if it is one.
fn wrapper(has: impl Fn(&str) -> bool, names: &Names) -> Option<&'static str> {
    let found = |wrapper: &&str| has(&format!("{wrapper}{}", names.embedding));
    WRAPPERS.into_iter().find(found)
}

fn recognise(checkpoint: &Checkpoint, names: &Names) -> Option<String> {
    let wrapper = wrapper(|name| checkpoint.has(name), names)?;
    let start = format!("{wrapper}{}.", names.layers);
    let mark = checkpoint
        .names()
        .find(|name| name.starts_with(&start) && name.ends_with(SHIFT))?;
    Some(format!("tensors {wrapper}{} and {mark}", names.embedding))
}

/// The configuration beside the file, or what the shapes and the published sizes say.
fn config_of(checkpoint: &Checkpoint, names: &Names) -> Result<Map<String, Value>, CheckpointError> {
    let stored = checkpoint.config_map();
    if stored.contains_key("d_model") {
        return Ok(stored.clone());
    }
    let wrapper = wrapper(|name| checkpoint.has(name), names).unwrap_or_default();
    let shape = |name: &str| -> Result<Vec<usize>, CheckpointError> {
        let tensor = format!("{wrapper}{name}");
        let found = checkpoint.stored(&tensor).map(|stored| stored.shape.to_vec());
        found.ok_or_else(|| CheckpointError::TensorMissing {
            path: checkpoint.weights_path().to_path_buf(),
            tensor,
            expected: vec![],
        })
    };
    let embedding = shape(names.embedding)?;
    let ([vocab_size, width] | [vocab_size, width, ..]) = embedding[..] else {
        return Err(CheckpointError::Field {
            path: checkpoint.weights_path().to_path_buf(),
            field: format!("shape of {}", names.embedding),
            expected: "2 dimensions".into(),
            found: format!("{embedding:?}"),
        });
    };
    let start = format!("{wrapper}{}.", names.layers);
    let block = |name: &str| -> Option<(usize, String)> {
        let (index, rest) = name.strip_prefix(&start)?.split_once('.')?;
        Some((index.parse().ok()?, rest.to_string()))
    };
    let blocks: Vec<(usize, String)> = checkpoint.names().filter_map(block).collect();
    let last = blocks.iter().map(|(index, _)| *index).max();
    let layers = last.map_or(0, |last| last.saturating_add(1));
    let with = |tensor: &str| -> BTreeSet<usize> {
        let with = blocks.iter().filter(|(_, name)| name == tensor);
        with.map(|(index, _)| *index).collect()
    };
    let attention = with("mixer.Wqkv.weight");
    let first = with(SHIFT).first().copied().unwrap_or(0);
    let last =
        |name: &str| shape(&format!("{}.{first}.{name}", names.layers)).map(|shape| shape.last().copied());
    let heads = shape(&format!("{}.{first}.mixer.D", names.layers))?;
    let (num_heads, rotary) = published_attention(checkpoint, width, &attention)?;
    Ok(json_object(json!({
        "d_model": width,
        "n_layer": layers,
        "d_inner": shape(&format!("{}.{first}.mlp.fc1.weight", names.layers))?.first(),
        "vocab_size": vocab_size,
        "pad_vocab_size_multiple": 1,
        "ssm_cfg": {
            "d_state": last(SHIFT)?,
            "head_dim": width / heads.first().copied().unwrap_or(1).max(1),
        },
        "attn_layer_idx": attention,
        "attn_cfg": {"num_heads": num_heads, "rotary_emb_dim": rotary},
    })))
}

fn json_object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Heads of the attention and how many of a head's features positions turn, of the published sizes.
fn published_attention(
    checkpoint: &Checkpoint,
    width: usize,
    layers: &BTreeSet<usize>,
) -> Result<(usize, usize), CheckpointError> {
    let indices: Vec<usize> = layers.iter().copied().collect();
    match (width, indices.as_slice()) {
        // Nothing is asked of attention that is not there.
        (_, []) => Ok((1, 0)),
        (768, _) => Ok((12, 0)),
        (1024 | 2048, _) => Ok((16, 0)),
        (2560, [10, 21]) => Ok((20, 64)),
        (2560, _) => Ok((20, 0)),
        _ => Err(CheckpointError::Field {
            path: checkpoint.weights_path().to_path_buf(),
            field: "attn_cfg.num_heads".into(),
            expected: "a config.json beside the weights, which says how many heads the attention has".into(),
            found: format!("none, and width {width} is none of the published ones (768, 1024, 2048, 2560)"),
        }),
    }
}

/// What a configuration says.
struct Config {
    vocab_size: usize,
    padded_vocab_size: usize,
    num_layers: usize,
    mixer: H3Config,
    attention_layers: BTreeSet<usize>,
    attention: Option<SoftmaxAttentionConfig>,
    mlp: MlpConfig,
    norm_eps: f32,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let (path, empty) = (fields.path(), Map::new());
    let ssm = match fields.object("ssm_cfg")? {
        Some(ssm) => ssm,
        None => Fields::new(&path, &empty),
    };
    if !matches!(ssm.text("mode")?, None | Some("diag")) {
        return Err(ssm.unsupported("mode", "\"diag\", which every published model has"));
    }
    let model_dim = fields.dimension("d_model")?;
    let num_layers = fields.layers("n_layer")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let attention_layers = layer_list(fields, "attn_layer_idx", num_layers)?;
    let attention = match (attention_layers.is_empty(), fields.object("attn_cfg")?) {
        (true, _) => None,
        (false, Some(attention)) => Some(softmax_attention(&attention, model_dim)?),
        (false, None) => {
            return Err(fields.wrong("attn_cfg", "an object, as there are attention layers", None));
        }
    };
    let head_dim = ssm.dimension_or("head_dim", 1)?;
    if !model_dim.is_multiple_of(head_dim) {
        let expected = format!("a divisor of d_model = {model_dim}");
        return Err(ssm.wrong("head_dim", &expected, Some(&head_dim.into())));
    }
    let state_dim = ssm.dimension_or("d_state", 64)?;
    if !state_dim.is_multiple_of(2) {
        return Err(ssm.wrong("d_state", "an even number", Some(&state_dim.into())));
    }
    Ok(Config {
        vocab_size,
        padded_vocab_size: vocab_size.next_multiple_of(fields.dimension_or("pad_vocab_size_multiple", 8)?),
        num_layers,
        mixer: H3Config {
            model_dim,
            head_dim,
            state_dim,
        },
        attention_layers,
        attention,
        mlp: MlpConfig {
            model_dim,
            hidden_dim: fields.dimension_or("d_inner", 4 * model_dim)?,
            activation: MlpActivation::GeluTanh,
            bias: true,
        },
        norm_eps: fields.positive_or("layer_norm_epsilon", 1e-5)?,
    })
}

fn softmax_attention(
    fields: &Fields<'_>,
    model_dim: usize,
) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    let heads = EvenHeads::read(fields, model_dim)?;
    Ok(SoftmaxAttentionConfig {
        model_dim,
        num_heads: heads.count,
        num_key_value_heads: heads.count,
        head_dim: heads.dim,
        norm: None,
        rotary: heads.rotary,
        window: None,
        scale: None,
        conv: None,
        gate: false,
        query_key_value_bias: true,
        output_bias: true,
    })
}

fn parse(names: &'static Names, fields: &Fields<'_>, has: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    let wrapper = wrapper(has, names).unwrap_or_default();
    Ok(Assembly::new(move |loader| {
        load(&config, (wrapper, names), loader)
    }))
}

fn load(config: &Config, names: (&str, &Names), loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let (wrapper, generation) = names;
    let width = config.mixer.model_dim;
    let shape = [config.padded_vocab_size, width];
    let embedding = loader.embedding(&format!("{wrapper}{}", generation.embedding), shape)?;
    let head = loader.head_stored_though_tied(&format!("{wrapper}{HEAD}"), &embedding, shape, true)?;
    let blocks = (0..config.num_layers)
        .map(|layer| block(config, names, layer, loader))
        .collect::<Result<_, _>>()?;
    let norm = format!("{wrapper}{}", (generation.final_norm)(config.num_layers));
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.layer_norm(&norm, width, config.norm_eps, true)?,
        head,
    })
}

fn block(
    config: &Config,
    (wrapper, names): (&str, &Names),
    layer: usize,
    loader: &mut Loader<'_>,
) -> Result<Block, ModelError> {
    let name = format!("{wrapper}{}.{layer}", names.layers);
    let [before_mixer, before_mlp] = (names.norms)(layer).map(|norm| format!("{wrapper}{norm}"));
    let norm = |loader: &mut Loader<'_>, name: &str| -> Result<Norm, ModelError> {
        loader.layer_norm(name, config.mixer.model_dim, config.norm_eps, true)
    };
    let mixer_name = format!("{name}.mixer");
    let attention = config
        .attention
        .filter(|_| config.attention_layers.contains(&layer));
    let mixer: Arc<dyn Mixer> = match attention {
        Some(attention) => Arc::new(SoftmaxAttention::read(
            attention,
            &mut loader.below(mixer_name, ATTENTION_NAMES),
        )?),
        None => Arc::new(H3::read(
            config.mixer,
            &mut loader.below(mixer_name, MIXER_NAMES),
        )?),
    };
    Ok(Block {
        norm: norm(loader, &before_mixer)?,
        mixer,
        channel: Some(Channel {
            norm: norm(loader, &before_mlp)?,
            mixer: Arc::new(Mlp::read(
                config.mlp,
                &mut loader.below(format!("{name}.mlp"), &[]),
            )?),
        }),
    })
}

const ATTENTION_NAMES: &[(&str, &str)] = &[
    ("q_proj", "Wqkv"),
    ("k_proj", "Wqkv"),
    ("v_proj", "Wqkv"),
    ("o_proj", "out_proj"),
];

/// What the authors call the mixer's tensors.
const MIXER_NAMES: &[(&str, &str)] = &[
    ("out_proj", "output_linear"),
    ("shift", "ssm_k_kernel.kernel"),
    ("shift_D", "ssm_k_D"),
    ("diagonal", "kernel.kernel"),
];

fn outline(config: &Config) -> Outline {
    let layers: Vec<String> = config.attention_layers.iter().map(usize::to_string).collect();
    let mut details = BTreeMap::from([
        ("state per channel", config.mixer.state_dim.to_string()),
        ("width of the MLP", config.mlp.hidden_dim.to_string()),
    ]);
    if !layers.is_empty() {
        details.insert("attention layers", layers.join(", "));
    }
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.padded_vocab_size,
        model_dim: config.mixer.model_dim,
        tied: true,
        eos_ids: Vec::new(),
        details,
    }
}
