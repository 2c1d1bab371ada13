//! Nemotron-H and its successors: every layer is one thing on its own norm, Mamba-2, attention, an MLP or a mixture of experts.
//!
//! ```text
//! r ← r + mixer(norm(r))            MLP: W_down max(W_up x, 0)²
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `hybrid_override_pattern` | a letter for every layer: `M` Mamba-2, `*` attention, `-` MLP, `E` experts; or `layers_block_type`, a list of words |
//! | `mamba_num_heads`, `mamba_head_dim`, `ssm_state_size`, `n_groups`, `conv_kernel` | Mamba-2; `expand` says nothing |
//! | `use_bias`, `use_conv_bias`, `mlp_bias` | biases of Mamba's projections, its convolution, the MLPs |
//! | `intermediate_size` | width of an MLP |
//! | `n_routed_experts`, `num_experts_per_tok`, `moe_intermediate_size` | experts, how many a token goes to, their width |
//! | `n_group`, `topk_group`, `norm_topk_prob`, `routed_scaling_factor` | see [`Scores::Sigmoid`] |
//! | `moe_shared_expert_intermediate_size` | width of the expert that all tokens go to |
//! | `moe_latent_size` | width between two projections around the experts, where there are any |
//! | `layer_norm_epsilon` | ε of all norms |
//!
//! | tensor of `backbone.layers.N` | |
//! |---|---|
//! | `norm` | |
//! | `mixer.*` | those of [`Mamba2::read`]; `{q,k,v,o}_proj`; `{up,down}_proj` |
//! | `mixer.gate.weight`, `gate.e_score_correction_bias`, `experts.E.{up,down}_proj`, `shared_experts.{up,down}_proj` | of experts |
//! | `mixer.fc1_latent_proj`, `fc2_latent_proj` | the projections around them |
//!
//! Attention has no positions and no biases, and the head is never the embedding, whatever the file says. Source: NVIDIA, *Nemotron-H*
//! (2504.03624).

use std::sync::Arc;

use serde_json::{Value, json};
use spillway_attention_linear::mixture::{
    Expert, ExpertTensors, Mixture, MixtureConfig, RouterConfig, Scores,
};
use spillway_attention_linear::mlp::{Mlp, MlpActivation, MlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::mamba2::{GateOrder, GatedNorm, Mamba2, Mamba2Config};
use spillway_ssm_core::{Mixer, ShortConvConfig, WeightSource};

use super::{
    Details, Frame, attention, details, expect_silu, expect_sizes, fresh_gates, refuse, refuse_quantized,
};
use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::loader::Loader;
use crate::network::Block;

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"], "vocab_size": 256, "hidden_size": 48,
        "num_hidden_layers": 5, "hybrid_override_pattern": "M-*EM", "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "mamba_num_heads": 6, "mamba_head_dim": 16, "ssm_state_size": 16,
        "n_groups": 2, "conv_kernel": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 32, "n_shared_experts": 1, "n_group": 2, "topk_group": 2,
        "norm_topk_prob": true, "routed_scaling_factor": 1.5, "layer_norm_epsilon": 1e-05, "mlp_hidden_act": "relu2",
        "tie_word_embeddings": false}"#,
}];

/// Hugging Face's layout of `NemotronHForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "nemotron_h",
    name: "Hugging Face",
    recognise,
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// What the tensors of the backbone may begin with: as published, and as newer versions of `transformers` call it.
const PREFIXES: [&str; 2] = ["backbone", "model"];

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let mut names = PREFIXES
        .iter()
        .map(|prefix| format!("{prefix}.embeddings.weight"));
    names.find_map(|name| super::recognised(checkpoint, "nemotron_h", &name))
}

/// What a layer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

/// What a configuration file says.
struct Config {
    frame: Frame,
    prefix: &'static str,
    kinds: Vec<Kind>,
    mamba: Mamba2Config,
    attention: SoftmaxAttentionConfig,
    mlp: MlpConfig,
    experts: Option<Experts>,
}

struct Experts {
    mixture: MixtureConfig,
    shared_dim: usize,
}

fn parse(fields: &Fields<'_>, has: Has<'_>) -> Result<Assembly, ModelError> {
    let prefix = match has("model.embeddings.weight") {
        true => PREFIXES[1],
        false => PREFIXES[0],
    };
    let config = config(fields, prefix)?;
    Ok(Assembly::new(move |loader| {
        let embedding = format!("{}.embeddings.weight", config.prefix);
        let ends = config.frame.ends(loader, &embedding)?;
        let blocks = (0..config.frame.layers).map(|layer| block(&config, loader, layer));
        let blocks = blocks.collect::<Result<_, ModelError>>()?;
        let norm = config.frame.norm(loader, &format!("{}.norm_f", config.prefix))?;
        Ok(config.frame.parts(ends, blocks, norm, outline(&config)))
    }))
}

fn config(fields: &Fields<'_>, prefix: &'static str) -> Result<Config, CheckpointError> {
    refuse_quantized(fields)?;
    expect_silu(fields, "mamba_hidden_act")?;
    let accepted = [
        ("mlp_hidden_act", json!("relu2"), "\"relu2\""),
        ("sliding_window", json!(null), "null (attention sees all tokens)"),
    ];
    refuse(fields, &accepted)?;
    let mut frame = Frame::read(fields, 1e-5, false)?;
    frame.tied = false;
    frame.norm_eps = fields.positive_or("layer_norm_epsilon", 1e-5)?;
    let kinds = kinds(fields, frame.layers)?;
    let mut softmax = attention(fields, frame.model_dim)?;
    (softmax.query_key_value_bias, softmax.output_bias) = (false, false);
    let bias = fields.bool_or("mlp_bias", false)?;
    let experts = match kinds.contains(&Kind::Experts) {
        true if bias => return Err(fields.unsupported("mlp_bias", "false where there are experts")),
        true => Some(experts(fields, frame.model_dim)?),
        false => None,
    };
    Ok(Config {
        prefix,
        mamba: mamba(fields, &frame)?,
        attention: softmax,
        mlp: MlpConfig {
            model_dim: frame.model_dim,
            hidden_dim: fields.dimension("intermediate_size")?,
            activation: MlpActivation::SquaredRelu,
            bias,
        },
        experts,
        kinds,
        frame,
    })
}

/// The kind of every layer, by letters or words.
fn kinds(fields: &Fields<'_>, layers: usize) -> Result<Vec<Kind>, CheckpointError> {
    const PATTERN: &str = "hybrid_override_pattern";
    const WORDS: &str = "layers_block_type";
    let of_letter = |letter| match letter {
        'M' => Some(Kind::Mamba),
        '*' => Some(Kind::Attention),
        '-' => Some(Kind::Mlp),
        'E' => Some(Kind::Experts),
        _ => None,
    };
    let of_word = |word: &Value| match word.as_str()? {
        "mamba" => Some(Kind::Mamba),
        "attention" => Some(Kind::Attention),
        "mlp" => Some(Kind::Mlp),
        "moe" => Some(Kind::Experts),
        _ => None,
    };
    let (name, found): (_, Option<Vec<Kind>>) = match (fields.text(PATTERN)?, fields.value(WORDS)) {
        (None, Some(words)) => {
            let list = words.as_array();
            (WORDS, list.and_then(|list| list.iter().map(of_word).collect()))
        }
        (pattern, _) => (
            PATTERN,
            pattern.unwrap_or_default().chars().map(of_letter).collect(),
        ),
    };
    match found.filter(|found| found.len() == layers) {
        Some(found) => Ok(found),
        None => {
            let expected = match name {
                PATTERN => format!("{layers} letters, each M, *, - or E"),
                _ => format!("a list of {layers} of the words \"mamba\", \"attention\", \"mlp\" and \"moe\""),
            };
            Err(fields.wrong(name, &expected, fields.value(name)))
        }
    }
}

fn mamba(fields: &Fields<'_>, frame: &Frame) -> Result<Mamba2Config, CheckpointError> {
    let mixer = Mamba2Config {
        model_dim: frame.model_dim,
        num_heads: fields.dimension("mamba_num_heads")?,
        head_dim: fields.dimension("mamba_head_dim")?,
        state_dim: fields.dimension("ssm_state_size")?,
        num_groups: fields.dimension_or("n_groups", 8)?,
        conv: ShortConvConfig {
            width: fields.dimension_or("conv_kernel", 4)?,
            bias: fields.bool_or("use_conv_bias", true)?,
        },
        projection_bias: fields.bool_or("use_bias", false)?,
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
    expect_sizes(fields, "n_groups", &mixer)?;
    Ok(mixer)
}

fn experts(fields: &Fields<'_>, model_dim: usize) -> Result<Experts, CheckpointError> {
    let (count, chosen) = (
        fields.dimension("n_routed_experts")?,
        fields.dimension("num_experts_per_tok")?,
    );
    let router = RouterConfig {
        model_dim,
        experts: count,
        chosen,
        scores: Scores::Sigmoid {
            groups: fields.dimension_or("n_group", 1)?,
            chosen_groups: fields.dimension_or("topk_group", 1)?,
            normalized: fields.bool_or("norm_topk_prob", true)?,
            factor: fields.positive_or("routed_scaling_factor", 1.0)?,
        },
    };
    if router.validate().is_err() {
        let expected =
            format!("at most what n_routed_experts = {count}, n_group and topk_group leave to choose from");
        return Err(fields.wrong("num_experts_per_tok", &expected, Some(&chosen.into())));
    }
    Ok(Experts {
        mixture: MixtureConfig {
            router,
            expert_dim: match fields.has("moe_latent_size") {
                true => fields.dimension("moe_latent_size")?,
                false => model_dim,
            },
            hidden_dim: fields.dimension("moe_intermediate_size")?,
            experts: ExpertTensors::SquaredRelu(MLP_NAMES),
        },
        shared_dim: fields.dimension("moe_shared_expert_intermediate_size")?,
    })
}

fn outline(config: &Config) -> Details {
    let layers = |kind: Kind| {
        let layers = config.kinds.iter().enumerate();
        layers
            .filter(move |(_, found)| **found == kind)
            .map(|(layer, _)| layer)
    };
    let mut details = details(&config.mamba, layers(Kind::Attention));
    details.insert("width of the MLP", config.mlp.hidden_dim.to_string());
    if let Some(experts) = &config.experts {
        let RouterConfig { experts, chosen, .. } = experts.mixture.router;
        details.insert("experts", format!("{experts}, {chosen} for a token"));
    }
    details
}

const MLP_NAMES: &[(&str, &str)] = &[("fc1", "up_proj"), ("fc2", "down_proj")];

fn block(config: &Config, loader: &mut Loader<'_>, layer: usize) -> Result<Block, ModelError> {
    let name = format!("{}.layers.{layer}", config.prefix);
    let norm = config.frame.norm(loader, &format!("{name}.norm"))?;
    let mixer = format!("{name}.mixer");
    let mixer: Arc<dyn Mixer> = match (config.kinds[layer], &config.experts) {
        (Kind::Mamba, _) => Arc::new(Mamba2::read(config.mamba.clone(), &mut loader.below(mixer, &[]))?),
        (Kind::Attention, _) => Arc::new(SoftmaxAttention::read(
            config.attention,
            &mut loader.below(mixer, &[]),
        )?),
        (Kind::Experts, Some(experts)) => Arc::new(mixture(experts, config.mlp, loader, &mixer)?),
        (Kind::Mlp | Kind::Experts, _) => {
            Arc::new(Mlp::read(config.mlp, &mut loader.below(mixer, MLP_NAMES))?)
        }
    };
    Ok(Block {
        norm,
        mixer,
        channel: None,
    })
}

fn mixture(
    config: &Experts,
    mlp: MlpConfig,
    loader: &mut Loader<'_>,
    name: &str,
) -> Result<Mixture, ModelError> {
    let names = [
        ("router.weight", "gate.weight"),
        ("router.bias", "gate.e_score_correction_bias"),
    ];
    let mut mixture = Mixture::read(config.mixture, &mut loader.below(name, &names))?;
    let (wide, narrow) = (mlp.model_dim, config.mixture.expert_dim);
    if narrow != wide {
        let source = &mut loader.below(name, &[]);
        let to = source.linear("fc1_latent_proj", [narrow, wide], false)?;
        mixture = mixture.within([to, source.linear("fc2_latent_proj", [wide, narrow], false)?]);
    }
    let shared = MlpConfig {
        hidden_dim: config.shared_dim,
        ..mlp
    };
    let shared = Mlp::read(
        shared,
        &mut loader.below(format!("{name}.shared_experts"), MLP_NAMES),
    )?;
    Ok(mixture.with_shared(Expert::Plain(shared), None))
}
