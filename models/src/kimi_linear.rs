//! Kimi Linear: Kimi Delta Attention in most layers, latent attention in the others, mixtures of experts.
//!
//! | tensor of `model.layers.N` | what it is |
//! |---|---|
//! | `self_attn.{q,k,v}_proj`, `{q,k,v}_conv1d`, `b_proj`, `dt_bias`, `o_proj` | as in [`DeltaNet::read`], in layers of `kda_layers` |
//! | `self_attn.f_a_proj`, `f_b_proj`; `g_a_proj`, `g_b_proj` | its decay and its gate, in two factors each |
//! | `self_attn.A_log`, stored as 1 × 1 × heads × 1; `o_norm` | its rate per head, and its norm |
//! | `self_attn.*` of `full_attn_layers` | as in [`LatentAttention::read`]; nothing is turned by its position |
//! | `mlp.{gate,up,down}_proj` | `intermediate_size` × `hidden_size` and back, of layers without experts |
//! | `block_sparse_moe.gate.weight`, `.e_score_correction_bias` | the router: sigmoids, and what is added to them where experts are chosen |
//! | `block_sparse_moe.experts.E.w1`, `w3`, `w2` | W_gate, W_up, W_down of an expert |
//! | `block_sparse_moe.shared_experts.{gate,up,down}_proj` | an expert for all tokens, as wide as `num_shared_experts` together |
//!
//! The lists of layers, in `linear_attn_config`, count from 1. Layers from `first_k_dense_replace` on, every `moe_layer_freq`-th, have experts.
//! The norms of latent vectors have an ε of 10⁻⁶, whatever `rms_norm_eps` says.
//!
//! Source: Kimi Team, *Kimi Linear* (2510.26692), the published configuration and transformers' `kimi_linear`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::tensor::Tensor;
use spillway_attention_linear::delta_net::{
    DecayConfig, DeltaNet, DeltaNetConfig, QueryKeyActivation, QueryKeyNorm,
};
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::heads::Heads;
use spillway_attention_linear::latent_attention::{LatentAttention, LatentAttentionConfig};
use spillway_attention_linear::mixture::{
    Expert, ExpertTensors, Mixture, MixtureConfig, RouterConfig, Scores,
};
use spillway_attention_linear::projection::{GateActivation, GateConfig, OutputConfig};
use spillway_ssm_core::weights::Below;
use spillway_ssm_core::{Init, Linear, Mixer, ShortConvConfig, WeightSource};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layer_types;
use crate::layout::{Assembly, Has, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// ε of the norms of latent vectors.
const LATENT_EPS: f32 = 1e-6;

/// Hugging Face's layout of `KimiLinearForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "kimi_linear",
    name: "Hugging Face",
    recognise,
    config: stored_config,
    parse,
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "kimi_linear", "architectures": ["KimiLinearForCausalLM"], "vocab_size": 256, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_lora_rank": 24, "q_lora_rank": null,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "mla_use_nope": true, "rms_norm_eps": 1e-05,
        "linear_attn_config": {"kda_layers": [1], "full_attn_layers": [2], "num_heads": 2, "head_dim": 16,
            "short_conv_kernel_size": 4},
        "num_experts": 4, "num_experts_per_token": 2, "num_shared_experts": 1, "moe_intermediate_size": 24,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "moe_renormalize": true, "moe_router_activation_func": "sigmoid",
        "num_expert_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446, "tie_word_embeddings": false}"#,
}];

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let model_type = checkpoint.config().text("model_type").ok()??;
    (model_type == "kimi_linear" && checkpoint.has(EMBEDDING))
        .then(|| format!("model_type {model_type:?}, tensor {EMBEDDING}"))
}

/// What a configuration file says.
struct Config {
    vocab_size: usize,
    model_dim: usize,
    num_layers: usize,
    attention_layers: BTreeSet<usize>,
    attention: LatentAttentionConfig,
    recurrence: DeltaNetConfig,
    dense: GatedMlpConfig,
    experts: Option<Experts>,
    norm_eps: f32,
    tied: bool,
    eos_ids: Vec<u32>,
}

/// The mixtures of experts, and the layers that have them.
struct Experts {
    first_layer: usize,
    every: usize,
    mixture: MixtureConfig,
    shared: Option<GatedMlpConfig>,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    if !matches!(fields.text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(fields.unsupported("hidden_act", "\"silu\""));
    }
    let model_dim = fields.dimension("hidden_size")?;
    let num_layers = fields.layers("num_hidden_layers")?;
    let vocab_size = fields.dimension("vocab_size")?;
    let norm_eps = fields.positive_or("rms_norm_eps", 1e-5)?;
    let linear = fields
        .object("linear_attn_config")?
        .ok_or_else(|| fields.wrong("linear_attn_config", "an object", None))?;
    Ok(Config {
        vocab_size,
        model_dim,
        num_layers,
        attention_layers: attention_layers(&linear, num_layers)?,
        attention: attention(fields, model_dim)?,
        recurrence: recurrence(&linear, model_dim, norm_eps)?,
        dense: GatedMlpConfig {
            model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            up_gate_bias: false,
            down_bias: false,
        },
        experts: match fields.has("num_experts") {
            true => Some(experts(fields, model_dim)?),
            false => None,
        },
        norm_eps,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// Every layer is in one of the two lists, which count from 1.
fn attention_layers(linear: &Fields<'_>, layers: usize) -> Result<BTreeSet<usize>, CheckpointError> {
    let list = |name: &str| {
        let value = linear.value(name);
        let index = |value: &serde_json::Value| {
            let number = usize::try_from(value.as_u64()?).ok()?;
            (1..=layers).contains(&number).then(|| number - 1)
        };
        let indices = value
            .and_then(serde_json::Value::as_array)
            .and_then(|list| list.iter().map(index).collect::<Option<BTreeSet<usize>>>());
        indices.ok_or_else(|| linear.wrong(name, &format!("a list of layers from 1 to {layers}"), value))
    };
    let (recurrent, attention) = (list("kda_layers")?, list("full_attn_layers")?);
    if recurrent.len() + attention.len() != layers || !recurrent.is_disjoint(&attention) {
        let expected = format!("those of the {layers} layers that full_attn_layers does not list");
        return Err(linear.wrong("kda_layers", &expected, linear.value("kda_layers")));
    }
    Ok(attention)
}

fn recurrence(
    linear: &Fields<'_>,
    model_dim: usize,
    norm_eps: f32,
) -> Result<DeltaNetConfig, CheckpointError> {
    let known = [
        "kda_layers",
        "full_attn_layers",
        "num_heads",
        "head_dim",
        "short_conv_kernel_size",
    ];
    if let Some(name) = linear
        .names()
        .into_iter()
        .find(|name| !known.contains(name) && linear.has(name))
    {
        return Err(linear.unsupported(name, "no such field, as it is not known what it changes"));
    }
    let (count, width) = (linear.dimension("num_heads")?, linear.dimension("head_dim")?);
    if (count * width) as u64 > MAX_DIMENSION {
        let expected = format!("heads that are at most {MAX_DIMENSION} wide together");
        return Err(linear.wrong("head_dim", &expected, Some(&width.into())));
    }
    Ok(DeltaNetConfig {
        model_dim,
        heads: Heads::equal(count, width, width),
        joint: false,
        conv: Some(ShortConvConfig {
            width: linear.dimension_or("short_conv_kernel_size", 4)?,
            bias: false,
        }),
        activation: QueryKeyActivation::Silu,
        norm: QueryKeyNorm::Length,
        beta: true,
        decay: DecayConfig::PerKey {
            rank: Some(width),
            lower_bound: None,
        },
        negative_eigenvalues: false,
        norm_eps,
        output: OutputConfig {
            gate: Some(GateConfig {
                activation: GateActivation::Sigmoid,
                rank: Some(width),
                bias: false,
            }),
            norm_weight: true,
        },
    })
}

fn attention(fields: &Fields<'_>, model_dim: usize) -> Result<LatentAttentionConfig, CheckpointError> {
    if !fields.bool_or("mla_use_nope", true)? {
        return Err(fields.unsupported("mla_use_nope", "true (nothing is turned by its position)"));
    }
    if fields.bool_or("attention_bias", false)? {
        return Err(fields.unsupported("attention_bias", "false"));
    }
    let attention = LatentAttentionConfig {
        model_dim,
        num_heads: fields.dimension("num_attention_heads")?,
        query_rank: match fields.has("q_lora_rank") {
            true => Some(fields.dimension("q_lora_rank")?),
            false => None,
        },
        latent_dim: fields.dimension("kv_lora_rank")?,
        own_dim: fields.dimension("qk_nope_head_dim")?,
        shared_dim: fields.dimension("qk_rope_head_dim")?,
        value_dim: fields.dimension("v_head_dim")?,
        norm_eps: LATENT_EPS,
    };
    let widest = (attention.own_dim + attention.shared_dim).max(attention.own_dim + attention.value_dim);
    if (attention.num_heads as u64) * widest as u64 > MAX_DIMENSION {
        let expected = format!("heads that are at most {MAX_DIMENSION} wide together");
        return Err(fields.wrong(
            "num_attention_heads",
            &expected,
            fields.value("num_attention_heads"),
        ));
    }
    Ok(attention)
}

fn experts(fields: &Fields<'_>, model_dim: usize) -> Result<Experts, CheckpointError> {
    if !matches!(fields.text("moe_router_activation_func")?, None | Some("sigmoid")) {
        return Err(fields.unsupported("moe_router_activation_func", "\"sigmoid\""));
    }
    let hidden_dim = fields.dimension("moe_intermediate_size")?;
    let router = RouterConfig {
        model_dim,
        experts: fields.dimension("num_experts")?,
        chosen: fields.dimension("num_experts_per_token")?,
        scores: Scores::Sigmoid {
            groups: fields.dimension_or("num_expert_group", 1)?,
            chosen_groups: fields.dimension_or("topk_group", 1)?,
            normalized: fields.bool_or("moe_renormalize", true)?,
            factor: fields.positive_or("routed_scaling_factor", 1.0)?,
        },
    };
    if let Err(error) = router.validate() {
        let (name, found) = ("num_experts_per_token", fields.value("num_experts_per_token"));
        return Err(fields.wrong(name, &error.to_string(), found));
    }
    let shared = crate::hybrid::whole(fields, "num_shared_experts", 0)?;
    if (shared * hidden_dim) as u64 > MAX_DIMENSION {
        let expected = format!("experts that are at most {MAX_DIMENSION} wide together");
        return Err(fields.wrong("num_shared_experts", &expected, Some(&shared.into())));
    }
    Ok(Experts {
        first_layer: crate::hybrid::whole(fields, "first_k_dense_replace", 0)?,
        every: fields.dimension_or("moe_layer_freq", 1)?,
        mixture: MixtureConfig {
            router,
            expert_dim: model_dim,
            hidden_dim,
            experts: ExpertTensors::Gated(&[("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")]),
        },
        shared: (shared > 0).then_some(GatedMlpConfig {
            model_dim,
            hidden_dim: shared * hidden_dim,
            up_gate_bias: false,
            down_bias: false,
        }),
    })
}

impl Experts {
    fn has(&self, layer: usize) -> bool {
        layer >= self.first_layer && layer.is_multiple_of(self.every)
    }

    fn read(&self, loader: &mut Loader<'_>, name: &str) -> Result<Mixture, ModelError> {
        let name = format!("{name}.block_sparse_moe");
        let names = &[
            ("router.weight", "gate.weight"),
            ("router.bias", "gate.e_score_correction_bias"),
        ];
        let mixture = Mixture::read(self.mixture, &mut loader.below(name.clone(), names))?;
        let Some(shared) = self.shared else {
            return Ok(mixture);
        };
        let shared = GatedMlp::read(shared, &mut loader.below(format!("{name}.shared_experts"), &[]))?;
        Ok(mixture.with_shared(Expert::Gated(shared), None))
    }
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let shape = [config.vocab_size, config.model_dim];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let head = loader.head("lm_head.weight", &embedding, shape, config.tied)?;
    let blocks = (0..config.num_layers)
        .map(|layer| block(config, layer, loader))
        .collect::<Result<_, _>>()?;
    Ok(Parts {
        outline: outline(config),
        embedding,
        embedding_norm: None,
        blocks,
        norm: loader.rms_norm("model.norm", config.model_dim, config.norm_eps)?,
        head,
    })
}

fn block(config: &Config, layer: usize, loader: &mut Loader<'_>) -> Result<Block, ModelError> {
    let (width, eps) = (config.model_dim, config.norm_eps);
    let name = format!("model.layers.{layer}");
    Ok(Block {
        norm: loader.rms_norm(&format!("{name}.input_layernorm"), width, eps)?,
        mixer: match config.attention_layers.contains(&layer) {
            true => {
                let source = &mut loader.below(format!("{name}.self_attn"), &[]);
                Arc::new(LatentAttention::read(config.attention, source)?)
            }
            false => Arc::new(delta_attention(config, &name, loader)?),
        },
        channel: Some(Channel {
            norm: loader.rms_norm(&format!("{name}.post_attention_layernorm"), width, eps)?,
            mixer: channel(config, &name, layer, loader)?,
        }),
    })
}

fn channel(
    config: &Config,
    name: &str,
    layer: usize,
    loader: &mut Loader<'_>,
) -> Result<Arc<dyn Mixer>, ModelError> {
    match config.experts.as_ref().filter(|experts| experts.has(layer)) {
        Some(experts) => Ok(Arc::new(experts.read(loader, name)?)),
        None => {
            let source = &mut loader.below(format!("{name}.mlp"), &[]);
            Ok(Arc::new(GatedMlp::read(config.dense, source)?))
        }
    }
}

fn delta_attention(config: &Config, name: &str, loader: &mut Loader<'_>) -> Result<DeltaNet, ModelError> {
    let names = &[
        ("f_proj.0", "f_a_proj"),
        ("f_proj.1", "f_b_proj"),
        ("g_proj.0", "g_a_proj"),
        ("g_proj.1", "g_b_proj"),
        ("g_norm", "o_norm"),
    ];
    let mut source = WithRates(loader.below(format!("{name}.self_attn"), names));
    DeltaNet::read(config.recurrence.clone(), &mut source)
}

/// The tensors of a layer, of which `A_log` is stored with four dimensions.
struct WithRates<'s, 'a>(Below<'s, Loader<'a>>);

impl WeightSource for WithRates<'_, '_> {
    type Error = ModelError;

    fn linear_with(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        init: Init,
    ) -> Result<Linear, ModelError> {
        self.0.linear_with(name, shape, bias, init)
    }

    fn stacked(
        &mut self,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        self.0.stacked(parts, in_features, bias)
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, ModelError> {
        self.0.tensor(name, shape, init)
    }

    fn vector(&mut self, name: &str, length: usize, init: Init) -> Result<Tensor<1>, ModelError> {
        match name {
            "A_log" => Ok(self.0.tensor(name, [1, 1, length, 1], init)?.reshape([length])),
            _ => self.0.vector(name, length, init),
        }
    }
}

fn outline(config: &Config) -> Outline {
    let heads = &config.recurrence.heads;
    let mut details = BTreeMap::from([
        (
            "layers with attention",
            layer_types::list(&config.attention_layers),
        ),
        ("heads of attention", config.attention.num_heads.to_string()),
        ("heads", heads.query.to_string()),
        ("width of a key", heads.key_dim.to_string()),
        (
            "width of a latent vector",
            config.attention.latent_dim.to_string(),
        ),
        ("width of the MLP", config.dense.hidden_dim.to_string()),
    ]);
    if let Some(experts) = &config.experts {
        let MixtureConfig {
            router, hidden_dim, ..
        } = experts.mixture;
        details.insert("experts", router.experts.to_string());
        details.insert("experts of a token", router.chosen.to_string());
        details.insert("width of an expert", hidden_dim.to_string());
    }
    Outline {
        vocab_size: config.vocab_size,
        padded_vocab_size: config.vocab_size,
        model_dim: config.model_dim,
        tied: config.tied,
        eos_ids: config.eos_ids.clone(),
        details,
    }
}
