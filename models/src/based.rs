//! Based and JRT-RNN in HazyResearch's layout: gated convolutions, Taylor linear attention (behind a prefix, in JRT-RNN) and attention in
//! a window, each followed by a gated MLP.
//!
//! | mixer | by its `_target_` | tensors of `transformer.layers.N.mixer` |
//! |---|---|---|
//! | gated convolution | `…BaseConv` | `in_proj`, `conv.conv`, `out_proj` |
//! | Taylor attention | `…LinearAttention` with `…TaylorExp` or `taylor_exp` | `proj_q`, `proj_k`, `proj_v`, `out_proj` |
//! | the same, decaying | with `use_decay_proj`, and `fixed_decay` of the model | also `decay_proj`; `transformer.decay.decay` is ln γ |
//! | prefix linear attention | `…PrefixLinearAttention` with `taylor_exp` | also `proj_k_enc`, `proj_v_enc` |
//! | attention in a window | `…SlidingAttention` | `Wqkv` (rows of queries, keys, values), `out_proj` |
//!
//! `mixer` is every layer's but those of `alt_mixer_layers` and `alt_mixer_2_layers`. Three things are not as they read: a
//! `window_size` w lets a token read w / 2 keys before its own; the MLP is `n_inner` rounded up to a multiple of 256 wide, its
//! gate the second half of `mlp.fc1`; `kernel_sizes` is not looked at, `kernel_size` is (3). A `fixed_decay` that no mixer has a
//! `use_decay_proj` for does nothing in the published code either. γ of head h is 1 − 2^(c − h), c = `decay_const` (−3), where the tensor
//! is not there. Sources: Arora et al., *Simple linear attention language models balance the recall-throughput tradeoff* (2402.18668)
//! and *Just read twice* (2407.05483).

mod presets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use spillway_attention_linear::base_conv::{BaseConv, BaseConvConfig};
use spillway_attention_linear::based::{TaylorAttention, TaylorAttentionConfig};
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::operators::{Pairing, RotaryPlan};
use spillway_ssm_core::{Init, Mixer, ShortConvConfig, WeightSource};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::hybrid::{layer_list, whole};
use crate::layout::{Assembly, Has, Layout, Outline, Parts, eos_ids, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};

const EMBEDDING: &str = "transformer.embeddings.word_embeddings.weight";
/// The hidden width of an MLP is a multiple of this.
const MLP_MULTIPLE: usize = 256;
/// What the tensors of an attention in a window are called here; the others' names are their own.
const ATTENTION_NAMES: &[(&str, &str)] = &[
    ("q_proj", "Wqkv"),
    ("k_proj", "Wqkv"),
    ("v_proj", "Wqkv"),
    ("o_proj", "out_proj"),
];
/// What those of an MLP are called.
const MLP_NAMES: &[(&str, &str)] = &[("up_proj", "fc1"), ("gate_proj", "fc1"), ("down_proj", "fc2")];
/// ε of the denominator in the authors' code.
const TAYLOR_EPS: f32 = 1e-12;
/// ln γ of every head, for all layers.
const LOG_DECAY: &str = "transformer.decay.decay";
/// Tokens that an encoder reads where no field says how many.
const ENCODER_LENGTH: usize = 1024;

/// `GPTLMHeadModel` with Based's mixers.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "based",
    name: "HazyResearch",
    recognise,
    config: stored_config,
    parse,
    presets: presets::BASED,
};

/// `GPTLMHeadModel` with prefix linear attention.
pub(crate) const PREFIX_LAYOUT: Layout = Layout {
    architecture: "jrt",
    name: "HazyResearch",
    recognise: recognise_prefix,
    config: stored_config,
    parse,
    presets: presets::JRT,
};

/// The fields that hold a mixer.
const MIXERS: [&str; 3] = ["mixer", "alt_mixer", "alt_mixer_2"];

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let fields = checkpoint.config();
    let mixer = fields.object("mixer").ok()??;
    let target = mixer.text("_target_").ok()??;
    checkpoint
        .has(EMBEDDING)
        .then(|| format!("mixer._target_ {target:?}, tensor {EMBEDDING}"))
}

fn recognise_prefix(checkpoint: &Checkpoint) -> Option<String> {
    let fields = checkpoint.config();
    let found = MIXERS.into_iter().find_map(|name| {
        let mixer = fields.object(name).ok()??;
        let target = mixer.text("_target_").ok()??;
        let is_prefix = target.ends_with(".PrefixLinearAttention");
        is_prefix.then(|| format!("{name}._target_ {target:?}"))
    });
    let found = found?;
    checkpoint
        .has(EMBEDDING)
        .then(|| format!("{found}, tensor {EMBEDDING}"))
}

/// What a configuration file says.
struct Config {
    vocab_size: usize,
    padded_vocab_size: usize,
    model_dim: usize,
    /// The mixer of every layer.
    layers: Vec<MixerPlan>,
    alternatives: [BTreeSet<usize>; 2],
    /// c of γ = 1 − 2^(c − h), where something decays.
    decay_const: Option<f64>,
    mlp: GatedMlpConfig,
    norm_eps: f32,
    tied: bool,
    eos_ids: Vec<u32>,
}

/// A kind of mixer.
#[derive(Clone, Copy)]
enum MixerPlan {
    Conv(BaseConvConfig),
    Taylor(TaylorAttentionConfig),
    /// Taylor attention whose numerator decays.
    Decaying(TaylorAttentionConfig),
    Sliding(SoftmaxAttentionConfig),
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    if fields.text("activation_function")? != Some("swiglu") {
        return Err(fields.unsupported("activation_function", "\"swiglu\""));
    }
    if !fields.bool_or("rms_norm", false)? {
        return Err(fields.unsupported("rms_norm", "true"));
    }
    if whole(fields, "max_position_embeddings", 0)? != 0 {
        return Err(fields.unsupported("max_position_embeddings", "0 (no embedding of positions)"));
    }
    let model_dim = fields.dimension("n_embd")?;
    let num_layers = fields.layers("n_layer")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let inner = fields.dimension_or("n_inner", 4 * model_dim)?;
    let mixer = |name: &str| match fields.object(name)? {
        Some(mixer) => mixer_plan(&mixer, fields, model_dim).map(Some),
        None => Ok(None),
    };
    let [first, second, third] = MIXERS.map(mixer);
    let mixers = [first?, second?, third?];
    let alternatives = [
        layer_list(fields, "alt_mixer_layers", num_layers)?,
        layer_list(fields, "alt_mixer_2_layers", num_layers)?,
    ];
    let layers = layers(fields, num_layers, &mixers, &alternatives)?;
    let decays = layers.iter().any(|plan| matches!(plan, MixerPlan::Decaying(_)));
    Ok(Config {
        vocab_size,
        decay_const: if decays { Some(decay_const(fields)?) } else { None },
        padded_vocab_size: vocab_size.next_multiple_of(fields.dimension_or("pad_vocab_size_multiple", 1)?),
        model_dim,
        layers,
        alternatives,
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: inner.next_multiple_of(MLP_MULTIPLE),
            up_gate_bias: fields.bool_or("mlp_fc1_bias", true)?,
            down_bias: fields.bool_or("mlp_fc2_bias", true)?,
        },
        norm_eps: fields.positive_or("layer_norm_epsilon", 1e-5)?,
        tied: fields.bool_or("tie_word_embeddings", true)?,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// The mixer of every layer, of the usual one and the two alternatives.
fn layers(
    fields: &Fields<'_>,
    num_layers: usize,
    mixers: &[Option<MixerPlan>; 3],
    [alternative, second]: &[BTreeSet<usize>; 2],
) -> Result<Vec<MixerPlan>, CheckpointError> {
    let of_layer = |layer: usize| {
        let (index, name) = if alternative.contains(&layer) {
            (1, "alt_mixer")
        } else if second.contains(&layer) {
            (2, "alt_mixer_2")
        } else {
            (0, "mixer")
        };
        let expected = format!("the mixer of layer {layer}");
        mixers[index].ok_or_else(|| fields.wrong(name, &expected, None))
    };
    (0..num_layers).map(of_layer).collect()
}

/// The plan of the mixer that `fields` holds, of the `model` that it is in.
fn mixer_plan(
    fields: &Fields<'_>,
    model: &Fields<'_>,
    model_dim: usize,
) -> Result<MixerPlan, CheckpointError> {
    let target = fields.text("_target_")?.unwrap_or_default();
    match target.rsplit('.').next() {
        Some("BaseConv") => {
            let rows = fields.dimension_or("expand_proj", 4)? * model_dim;
            if !rows.is_multiple_of(2) || rows as u64 > MAX_DIMENSION {
                let expected = format!("a factor that gives an even number of rows up to {MAX_DIMENSION}");
                return Err(fields.wrong("expand_proj", &expected, fields.value("expand_proj")));
            }
            Ok(MixerPlan::Conv(BaseConvConfig {
                model_dim,
                channels: rows / 2,
                conv: ShortConvConfig {
                    width: fields.dimension_or("kernel_size", 3)?,
                    bias: false,
                },
                projection_bias: fields.bool_or("use_bias", true)?,
            }))
        }
        Some("LinearAttention") => {
            let config = taylor(fields, model_dim)?;
            if fields.bool_or("fixed_decay", false)? {
                return Err(fields.unsupported("fixed_decay", "false (no decay)"));
            }
            if !fields.bool_or("use_decay_proj", false)? {
                return Ok(MixerPlan::Taylor(config));
            }
            if !model.bool_or("fixed_decay", false)? {
                return Err(model.unsupported("fixed_decay", "true (a mixer has use_decay_proj)"));
            }
            Ok(MixerPlan::Decaying(config))
        }
        Some("PrefixLinearAttention") => {
            let of_model = model.dimension_or("enc_length", ENCODER_LENGTH)?;
            Ok(MixerPlan::Taylor(TaylorAttentionConfig {
                encoder_length: Some(fields.dimension_or("enc_length", of_model)?),
                ..taylor(fields, model_dim)?
            }))
        }
        Some("SlidingAttention") => Ok(MixerPlan::Sliding(sliding(fields, model_dim)?)),
        _ => Err(fields.unsupported(
            "_target_",
            "…BaseConv, …LinearAttention, …PrefixLinearAttention or …SlidingAttention",
        )),
    }
}

/// Taylor attention without an encoder.
fn taylor(fields: &Fields<'_>, model_dim: usize) -> Result<TaylorAttentionConfig, CheckpointError> {
    let map = fields.object("feature_map")?;
    let map = map.map(|map| map.text("_target_")).transpose()?.flatten();
    let named = fields.text("feature_name")? == Some("taylor_exp");
    if !named && !map.is_some_and(|map| map.ends_with("TaylorExp")) {
        return Err(fields.unsupported("feature_map", "TaylorExp"));
    }
    for (name, accepted) in [
        (
            "use_rotary_apply",
            "false (no rotary embedding of queries and keys)",
        ),
        ("use_act", "false (no activation of queries and keys)"),
    ] {
        if fields.bool_or(name, false)? {
            return Err(fields.unsupported(name, accepted));
        }
    }
    let num_heads = heads(fields, model_dim)?;
    if fields.dimension_or("num_key_value_heads", num_heads)? != num_heads {
        return Err(fields.unsupported("num_key_value_heads", "as many as num_heads"));
    }
    Ok(TaylorAttentionConfig {
        model_dim,
        num_heads,
        feature_dim: fields.dimension_or("feature_dim", 16)?,
        head_dim: model_dim / num_heads,
        eps: TAYLOR_EPS,
        encoder_length: None,
    })
}

/// c of γ = 1 − 2^(c − h), below 0.
fn decay_const(model: &Fields<'_>) -> Result<f64, CheckpointError> {
    if model.bool_or("decay_denom", false)? {
        return Err(model.unsupported("decay_denom", "false (rows are not divided by their norm)"));
    }
    let Some(value) = model.value("decay_const") else {
        return Ok(-3.0);
    };
    let found = value.as_f64().filter(|c| *c < 0.0 && c.is_finite());
    found.ok_or_else(|| model.wrong("decay_const", "a number below 0", Some(value)))
}

fn sliding(fields: &Fields<'_>, model_dim: usize) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    if !fields.bool_or("causal", true)? {
        return Err(fields.unsupported("causal", "true"));
    }
    let num_heads = heads(fields, model_dim)?;
    let head_dim = model_dim / num_heads;
    let plan = RotaryPlan {
        base: 10_000.0,
        rotated_dim: head_dim,
        pairing: Pairing::Halves,
        scaling: None,
    };
    if plan.validate(head_dim).is_err() {
        return Err(fields.wrong("num_heads", "heads of even width", Some(&num_heads.into())));
    }
    Ok(SoftmaxAttentionConfig {
        model_dim,
        num_heads,
        num_key_value_heads: num_heads,
        head_dim,
        norm: None,
        rotary: Some(plan),
        window: Some(fields.dimension_or("window_size", 128)? / 2),
        scale: None,
        conv: None,
        gate: false,
        query_key_value_bias: false,
        output_bias: false,
    })
}

fn heads(fields: &Fields<'_>, model_dim: usize) -> Result<usize, CheckpointError> {
    let num_heads = fields.dimension("num_heads")?;
    if model_dim.is_multiple_of(num_heads) {
        return Ok(num_heads);
    }
    let expected = format!("a divisor of n_embd = {model_dim}");
    Err(fields.wrong("num_heads", &expected, Some(&num_heads.into())))
}

impl Config {
    fn outline(&self) -> Outline {
        let list = |layers: &BTreeSet<usize>| {
            let indices: Vec<String> = layers.iter().map(usize::to_string).collect();
            indices.join(", ")
        };
        let [alternative, second] = &self.alternatives;
        let mut details = BTreeMap::from([
            ("layers of alt_mixer", list(alternative)),
            ("layers of alt_mixer_2", list(second)),
            ("width of the MLP", self.mlp.hidden_dim.to_string()),
        ]);
        let encoder = self.layers.iter().find_map(|plan| match plan {
            MixerPlan::Taylor(config) => config.encoder_length,
            _ => None,
        });
        details.extend(encoder.map(|tokens| ("tokens of the encoder", tokens.to_string())));
        details.extend(
            self.decay_const
                .map(|c| ("γ of head h", format!("1 − 2^({c} − h)"))),
        );
        Outline {
            vocab_size: self.vocab_size,
            padded_vocab_size: self.padded_vocab_size,
            model_dim: self.model_dim,
            tied: self.tied,
            eos_ids: self.eos_ids.clone(),
            details,
        }
    }
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let shape = [config.padded_vocab_size, config.model_dim];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let head = loader.head_stored_though_tied("lm_head.weight", &embedding, shape, config.tied)?;
    let log_decay = log_decay(config, loader)?;
    let block = |layer: usize| {
        let name = |part: &str| format!("transformer.layers.{layer}.{part}");
        Ok(Block {
            norm: loader.rms_norm(&name("norm1"), config.model_dim, config.norm_eps)?,
            mixer: mixer(config.layers[layer], log_decay.as_ref(), loader, &name("mixer"))?,
            channel: Some(Channel {
                norm: loader.rms_norm(&name("norm2"), config.model_dim, config.norm_eps)?,
                mixer: Arc::new(GatedMlp::read(
                    config.mlp,
                    &mut loader.below(name("mlp"), MLP_NAMES),
                )?),
            }),
        })
    };
    let blocks = (0..config.layers.len())
        .map(block)
        .collect::<Result<_, ModelError>>()?;
    Ok(Parts {
        outline: config.outline(),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.rms_norm("transformer.ln_f", config.model_dim, config.norm_eps)?,
        head,
    })
}

/// ln γ of every head: the stored one, which is a constant of the model, or that of the configuration.
fn log_decay(config: &Config, loader: &mut Loader<'_>) -> Result<Option<Tensor<1>>, ModelError> {
    let heads = config.layers.iter().find_map(|plan| match plan {
        MixerPlan::Decaying(config) => Some(config.num_heads),
        _ => None,
    });
    let (Some(heads), Some(c)) = (heads, config.decay_const) else {
        loader.ignore(LOG_DECAY);
        return Ok(None);
    };
    if loader.has(LOG_DECAY) {
        let stored = loader.stored(LOG_DECAY, [heads], Init::Zeros)?;
        return Ok(Some(loader.place(stored).detach()));
    }
    let log = |head: usize| (-(c - head as f64).exp2()).ln_1p() as f32;
    let logs: Vec<f32> = (0..heads).map(log).collect();
    let computed = Tensor::from_floats(logs.as_slice(), &Device::flex());
    Ok(Some(loader.place(computed)))
}

fn mixer(
    plan: MixerPlan,
    log_decay: Option<&Tensor<1>>,
    loader: &mut Loader<'_>,
    name: &str,
) -> Result<Arc<dyn Mixer>, ModelError> {
    let source = &mut loader.below(name, ATTENTION_NAMES);
    Ok(match plan {
        MixerPlan::Conv(config) => Arc::new(BaseConv::read(config, source)?),
        MixerPlan::Taylor(config) => Arc::new(TaylorAttention::read(config, None, source)?),
        MixerPlan::Decaying(config) => Arc::new(TaylorAttention::read(config, log_decay.cloned(), source)?),
        MixerPlan::Sliding(config) => Arc::new(SoftmaxAttention::read(config, source)?),
    })
}
