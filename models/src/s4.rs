//! Deep S4 and S4D language models: an embedding, [blocks](spillway_ssm_core::s4) on a residual stream, a norm, a projection.
//!
//! The names are those of state-spaces/s4, version 4, whose experiments wrap a backbone between an encoder and a decoder, and whose
//! Lightning checkpoints keep them so:
//!
//! | tensor | what |
//! |---|---|
//! | `encoder.0.weight` | embedding |
//! | `model.layers.N.norm.norm.{weight,bias}` | norm before layer N |
//! | `model.layers.N.layer.layer.{D, kernel.*}`, `.layer.output_linear.0.{weight,bias}` | a state space and its projection |
//! | `model.layers.N.layer.ff.{0.0,2}.{weight,bias}` | an MLP, where every second layer is one |
//! | `model.norm.norm.{weight,bias}` | norm before the decoder |
//! | `decoder.0.output_transform.{weight,bias}` | logits |
//!
//! `config.json` has the fields of the experiments' configuration:
//!
//! | field | what | default |
//! |---|---|---|
//! | `d_model`, `n_layers`, `vocab_size` | width, pairs of layers or layers, ids | |
//! | `ff` | width of the MLP over `d_model`; 0 for none | 0 |
//! | `prenorm` | whether norms stand before layers; after them there is none before the decoder | true |
//! | `norm` | `layer`, `rms` or `none` | `layer` |
//! | `layer.d_state`, `.channels`, `.n_ssm` | N, outputs of a channel, copies of (A, B, P) | 64, 1, 1 |
//! | `layer.mode`, `.init`, `.rank` | `diag` or `nplr`; name of the initialisation; rank of P | `nplr`, `legs`, 1 |
//! | `layer.mode = "conv"`, `.l_max` | a kernel of so many free taps in the place of a state space | – |
//! | `layer.disc` | `zoh`, `bilinear`, `dss` (DSS-softmax) or `dss-exp` | `zoh` for `diag` |
//! | `layer.{dt_transform, real_transform, dt_min, dt_max, final_act}` | | `exp`, `exp`, 0.001, 0.1, `glu` |
//! | `layer.bidirectional` | whether later tokens are read too; no language model then, and C has twice the rows | false |
//! | `layer.l_max` | taps after which kernels end; 0 for none | 0 |
//! | `layer.axes` | sizes of the axes of images, one to three, the last one fastest: a state space on each of them ([S4ND](spillway_ssm_core::s4nd)) | – |
//! | `layer.{causal_axes, tie_axes, trank, bandlimit}` | axes, from 0, that are read from their beginning on alone; whether all have one kernel; outer products of a kernel; the band limit, as a share of the Nyquist frequency | none, false, 1, none |
//! | `layer.block` | where there are axes: `s4`, or `convnext` for the block of ConvNeXt, which wants `norm = "none"` | `s4` |
//! | `layer.{gate, gate_act, mult_act}` | width of a gate over `d_model`, 0 for none; what becomes of it and of the product | 0, `gelu`, `id` |
//!
//! With `axes` and `mode = "conv"` a layer is a window of `l_max` free taps along every axis.
//!
//! C of a checkpoint with `kernel.l_kernel` above 0 is C̃ = C (I − Ā^l), of which C is taken back.

mod images;

use std::collections::BTreeMap;
use std::sync::Arc;

use images::Images;
use serde_json::Map;
use spillway_attention_linear::mlp::{Mlp, MlpActivation, MlpConfig};
use spillway_ssm_core::free_convolution::FreeConvolution;
use spillway_ssm_core::operators::linear_state_space::Rule;
use spillway_ssm_core::s4::{Activation, Gate, ModeSum, Projection, S4, S4Config};
use spillway_ssm_core::state_space::init::{StepRange, Transform};
use spillway_ssm_core::{Mixer, WeightSource};

use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::hybrid::whole;
use crate::layout::{Assembly, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel, Norm, NormKind, Residual};

const EMBEDDING: &str = "encoder.0.weight";
const HEAD: &str = "decoder.0.output_transform";

/// The names of state-spaces/s4.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "s4",
    name: "state-spaces",
    recognise: |checkpoint| {
        let fields = checkpoint.config();
        let ours = fields.text("model_type").ok()? == Some("s4") && checkpoint.has(EMBEDDING);
        ours.then(|| format!("model_type \"s4\", tensor {EMBEDDING}"))
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
        config: r#"{"model_type": "s4", "d_model": 64, "n_layers": 2, "ff": 2, "vocab_size": 256,
            "layer": {"mode": "nplr", "init": "legs", "d_state": 16}}"#,
    },
    Preset {
        size: "tiny-s4d",
        config: r#"{"model_type": "s4", "d_model": 64, "n_layers": 2, "ff": 2, "vocab_size": 256,
            "layer": {"mode": "diag", "init": "diag-lin", "d_state": 16}}"#,
    },
    Preset {
        size: "tiny-conv",
        config: r#"{"model_type": "s4", "d_model": 64, "n_layers": 2, "ff": 2, "vocab_size": 256,
            "layer": {"mode": "conv", "l_max": 16}}"#,
    },
    Preset {
        size: "tiny-dss",
        config: r#"{"model_type": "s4", "d_model": 64, "n_layers": 2, "ff": 2, "vocab_size": 256,
            "layer": {"mode": "diag", "disc": "dss", "init": "diag-legs", "d_state": 16, "l_max": 256}}"#,
    },
    Preset {
        size: "wikitext-249m",
        config: r#"{"model_type": "s4", "d_model": 1024, "n_layers": 16, "ff": 4, "vocab_size": 50257,
            "layer": {"mode": "nplr", "init": "legs", "d_state": 64, "channels": 4, "n_ssm": 1}}"#,
    },
];

/// What a configuration says.
struct Config {
    vocab_size: usize,
    layers: usize,
    block: S4Config,
    /// What is read, where it is no sequence.
    images: Option<Images>,
    /// Taps of the kernel that takes the state space's place.
    taps: Option<usize>,
    mlp: Option<MlpConfig>,
    /// What norms divide by; [`NormKind::Identity`] for no norm.
    norm: NormKind,
    norm_eps: f32,
    /// Whether norms stand before layers, `prenorm`, or after them.
    residual: Residual,
    eos_ids: Vec<u32>,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let (path, empty) = (fields.path(), Map::new());
    let layer = match fields.object("layer")? {
        Some(layer) => layer,
        None => Fields::new(&path, &empty),
    };
    let model_dim = fields.dimension("d_model")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let taps = match layer.text("mode")? {
        Some("conv") if layer.bool_or("bidirectional", false)? => {
            return Err(layer.unsupported("bidirectional", "false, where mode is \"conv\""));
        }
        Some("conv") => Some(layer.dimension("l_max")?),
        _ => None,
    };
    let block = block_config(&layer, model_dim)?;
    let images = images::read(&layer, &block)?;
    if let (Some(_), Some(0)) = (&images, taps.map(|taps| taps % 2)) {
        return Err(layer.unsupported(
            "l_max",
            "an odd number, where mode is \"conv\" and there are axes",
        ));
    }
    Ok(Config {
        vocab_size,
        layers: fields.layers("n_layers")?,
        block,
        images,
        taps,
        mlp: match whole(fields, "ff", 0)? {
            0 => None,
            factor => Some(MlpConfig {
                model_dim,
                hidden_dim: factor * model_dim,
                activation: MlpActivation::Gelu,
                bias: true,
            }),
        },
        norm: match fields.text("norm")? {
            None | Some("layer") => NormKind::Layer,
            Some("rms") => NormKind::Rms,
            Some("none") => NormKind::Identity,
            Some(_) => {
                let accepted = "\"layer\", \"rms\" or \"none\"; norms over a batch need running means, which are not kept";
                return Err(fields.unsupported("norm", accepted));
            }
        },
        norm_eps: 1e-5,
        residual: match fields.bool_or("prenorm", true)? {
            true => Residual::Sum,
            false => Residual::Normed,
        },
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// The state space of a table `layer` at this width.
pub(crate) fn block_config(layer: &Fields<'_>, model_dim: usize) -> Result<S4Config, CheckpointError> {
    let diagonal = match layer.text("mode")? {
        None | Some("nplr" | "dplr") => false,
        Some("diag" | "s4d" | "conv") => true,
        Some(_) => return Err(layer.unsupported("mode", "\"diag\", \"nplr\" or \"conv\"")),
    };
    let (rule, modes) = discretisation(layer, diagonal)?;
    let copies = layer.dimension_or("n_ssm", 1)?;
    if !model_dim.is_multiple_of(copies) {
        let expected = format!("a divisor of d_model = {model_dim}");
        return Err(layer.wrong("n_ssm", &expected, Some(&copies.into())));
    }
    let state_dim = layer.dimension_or("d_state", 64)?;
    if !state_dim.is_multiple_of(2) {
        return Err(layer.wrong("d_state", "an even number", Some(&state_dim.into())));
    }
    let transform = |name: &str| -> Result<Transform, CheckpointError> {
        let found = layer.text(name)?.unwrap_or("exp");
        Transform::from_name(found)
            .map_err(|_| layer.unsupported(name, "none, exp, relu, sigmoid or softplus"))
    };
    let taps = whole(layer, "l_max", 0)?;
    Ok(S4Config {
        model_dim,
        channels: layer.dimension_or("channels", 1)?,
        state_dim,
        rank: if diagonal {
            0
        } else {
            layer.dimension_or("rank", 1)?
        },
        copies,
        rule,
        modes,
        bidirectional: layer.bool_or("bidirectional", false)?,
        taps: (taps > 0).then_some(taps),
        step_transform: transform("dt_transform")?,
        rate_transform: transform("real_transform")?,
        gate: gate(layer)?,
        projection: match layer.text("final_act")? {
            None | Some("glu") => Projection::Glu,
            Some("id") => Projection::Linear,
            Some(_) => return Err(layer.unsupported("final_act", "\"glu\" or \"id\"")),
        },
        fresh: layer
            .text("init")?
            .unwrap_or(if diagonal { "diag-lin" } else { "legs" })
            .into(),
        fresh_steps: StepRange {
            min: f64::from(layer.positive_or("dt_min", 1e-3)?),
            max: f64::from(layer.positive_or("dt_max", 1e-1)?),
        },
        truncated_at: 0,
    })
}

/// `disc`: how time becomes discrete, and what the modes add up to.
fn discretisation(layer: &Fields<'_>, diagonal: bool) -> Result<(Rule, ModeSum), CheckpointError> {
    match (diagonal, layer.text("disc")?) {
        (true, None | Some("zoh")) => Ok((Rule::ZeroOrderHold, ModeSum::Pairs)),
        (true, Some("dss-exp")) => Ok((Rule::ZeroOrderHold, ModeSum::Single)),
        (true, Some("dss")) => Ok((Rule::ZeroOrderHold, ModeSum::Softmax)),
        (true, Some("bilinear")) | (false, None | Some("bilinear")) => Ok((Rule::Bilinear, ModeSum::Pairs)),
        (true, Some(_)) => Err(layer.unsupported("disc", "\"zoh\", \"bilinear\", \"dss\" or \"dss-exp\"")),
        (false, Some(_)) => Err(layer.unsupported("disc", "\"bilinear\", where A has a low-rank part")),
    }
}

/// `gate`, `gate_act` and `mult_act`.
fn gate(layer: &Fields<'_>) -> Result<Option<Gate>, CheckpointError> {
    let activation = |name: &str, usual| match layer.text(name)? {
        None => Ok(usual),
        Some(found) => Activation::from_name(found)
            .ok_or_else(|| layer.unsupported(name, "id, gelu, silu, sigmoid, tanh or relu")),
    };
    let (of_gate, of_product) = (
        activation("gate_act", Activation::Gelu)?,
        activation("mult_act", Activation::Identity)?,
    );
    Ok(match whole(layer, "gate", 0)? {
        0 => None,
        factor => Some(Gate {
            factor,
            activation: of_gate,
            of_product,
        }),
    })
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let shape = [config.vocab_size, config.block.model_dim];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let blocks = (0..config.layers)
        .map(|index| block(config, index, loader))
        .collect::<Result<_, _>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: match config.residual {
            Residual::Sum | Residual::Nothing => norm(config, "model.norm.norm", loader)?,
            Residual::Normed => norm_before(config, config.layers * per_block(config), loader)?,
        },
        head: loader.linear(HEAD, shape, true)?.into(),
    })
}

/// Layers of the file that are one block.
fn per_block(config: &Config) -> usize {
    1 + usize::from(config.mlp.is_some())
}

/// A norm of the kind that the configuration says.
fn norm(config: &Config, name: &str, loader: &mut Loader<'_>) -> Result<Norm, ModelError> {
    let width = config.block.model_dim;
    let norm = match config.norm {
        NormKind::Identity => loader.no_norm(width),
        NormKind::Rms => loader.rms_norm(name, width, config.norm_eps)?,
        NormKind::Layer => loader.layer_norm(name, width, config.norm_eps, true)?,
    };
    Ok(Norm {
        residual: config.residual,
        ..norm
    })
}

/// What stands between layer `index` and the one before it: a norm of the one or of the other.
fn norm_before(config: &Config, index: usize, loader: &mut Loader<'_>) -> Result<Norm, ModelError> {
    let of = match (config.residual, index) {
        (Residual::Sum | Residual::Nothing, _) => index,
        (Residual::Normed, 0) => return Ok(loader.no_norm(config.block.model_dim)),
        (Residual::Normed, _) => index - 1,
    };
    norm(config, &format!("model.layers.{of}.norm.norm"), loader)
}

/// Block `index`, with the MLP that is the next layer of the file where there are any.
fn block(config: &Config, index: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let first = per_block(config) * index;
    let name = |layer: usize| format!("model.layers.{layer}.layer");
    let mixer = mixer(config, name(first), loader)?;
    let channel = match config.mlp {
        None => None,
        Some(mlp) => Some(Channel {
            norm: norm_before(config, first + 1, loader)?,
            mixer: Arc::new(Mlp::read(mlp, &mut loader.below(name(first + 1), MLP_NAMES))?),
        }),
    };
    Ok(Block {
        norm: norm_before(config, first, loader)?,
        mixer,
        channel,
    })
}

/// The state space, or the kernel in its place, and its projection.
fn mixer(config: &Config, name: String, loader: &mut Loader<'_>) -> Result<Arc<dyn Mixer>, ModelError> {
    if let Some(images) = &config.images {
        return images.mixer(&config.block, config.taps, &name, loader);
    }
    if let Some(taps) = config.taps {
        let source = &mut loader.below(name, BLOCK_NAMES);
        return Ok(Arc::new(FreeConvolution::read(
            config.block.model_dim,
            taps,
            source,
        )?));
    }
    state_space(&config.block, name, loader)
}

/// The state space of the tensors below `name`, and its projection.
pub(crate) fn state_space(
    block: &S4Config,
    name: String,
    loader: &mut Loader<'_>,
) -> Result<Arc<dyn Mixer>, ModelError> {
    let truncated_at = loader.whole_number(&format!("{name}.layer.kernel.l_kernel"))?;
    let block = S4Config {
        truncated_at,
        ..block.clone()
    };
    Ok(Arc::new(S4::read(block, &mut loader.below(name, BLOCK_NAMES))?))
}

const BLOCK_NAMES: &[(&str, &str)] = &[
    ("kernel", "layer.kernel"),
    ("D", "layer.D"),
    ("input_gate", "input_gate.0"),
    ("output_linear", "output_linear.0"),
];
const MLP_NAMES: &[(&str, &str)] = &[("fc1", "ff.0.0"), ("fc2", "ff.2")];

fn outline(config: &Config) -> Outline {
    let block = &config.block;
    let of_state_space = || {
        let matrix = match block.rank {
            0 => "diagonal".into(),
            rank => format!("diagonal plus rank {rank}"),
        };
        BTreeMap::from([
            ("state per channel", block.state_dim.to_string()),
            ("outputs per channel", block.channels.to_string()),
            ("copies of A, B and P", block.copies.to_string()),
            ("state matrix", matrix),
        ])
    };
    let of_taps = |taps: usize| BTreeMap::from([("taps per channel", taps.to_string())]);
    let mut details = config.taps.map_or_else(of_state_space, of_taps);
    if config.taps.is_none() {
        if block.bidirectional {
            details.insert("directions", "both: later tokens are read too".into());
        }
        if let Some(taps) = block.taps {
            details.insert("taps of a kernel", taps.to_string());
        }
        match block.modes {
            ModeSum::Pairs => {}
            ModeSum::Single => drop(details.insert("sum over modes", "DSS-exp".into())),
            ModeSum::Softmax => drop(details.insert("sum over modes", "DSS-softmax".into())),
        }
        if let Some(gate) = block.gate {
            details.insert("width of the gate", (gate.factor * block.model_dim).to_string());
        }
    }
    if let Some(images) = &config.images {
        details.extend(images.details());
    }
    if let Some(mlp) = config.mlp {
        details.insert("width of the MLP", mlp.hidden_dim.to_string());
    }
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: block.model_dim,
        tied: false,
        eos_ids: config.eos_ids.clone(),
        details,
    }
}
