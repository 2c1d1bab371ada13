//! Qwen3.5 and Qwen3.6 with mixtures of experts: the layers of [Qwen3.5](crate::qwen3_5), an MLP of experts in each.
//!
//! | tensor of `model.layers.N.mlp` | shape |
//! |---|---|
//! | `gate` | `num_experts` × `hidden_size`, the router: a softmax over the chosen experts |
//! | `experts.gate_up_proj` | experts × 2 · `moe_intermediate_size` × `hidden_size`, rows of the gates first |
//! | `experts.down_proj` | experts × `hidden_size` × `moe_intermediate_size` |
//! | `experts.E.{gate,up,down}_proj` | or every expert by itself, as transformers writes them |
//! | `shared_expert.{gate,up,down}_proj`, `shared_expert_gate` | an expert for all tokens, times σ of one row |
//!
//! Checkpoints with vision are read as those of Qwen3.5 are.
//!
//! Source: Qwen Team, the published configurations and transformers' `qwen3_5_moe`.

use std::sync::Arc;

use spillway_attention_linear::mixture::{ExpertTensors, Scores};

use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::qwen_experts::Experts;
use crate::qwen3_5;

/// Hugging Face's layout of `Qwen3_5MoeForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "qwen3_5_moe",
    name: "Hugging Face",
    recognise: |checkpoint| qwen3_5::recognised(checkpoint, "qwen3_5_moe_text", qwen3_5::TEXT),
    config: stored_config,
    parse,
    presets: PRESETS,
};

/// `Qwen3_5MoeForConditionalGeneration`, of which the model of text is read.
pub(crate) const WITH_VISION: Layout = Layout {
    architecture: "qwen3_5_moe",
    name: "Hugging Face, with vision",
    recognise: |checkpoint| qwen3_5::recognised(checkpoint, "qwen3_5_moe", qwen3_5::TEXT_BESIDE_VISION),
    config: stored_config,
    parse: parse_with_vision,
    presets: &[],
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "qwen3_5_moe_text", "architectures": ["Qwen3_5MoeForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "num_hidden_layers": 2, "full_attention_interval": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}"#,
    },
    Preset {
        size: "35b",
        config: r#"{"model_type": "qwen3_5_moe_text", "architectures": ["Qwen3_5MoeForCausalLM"], "vocab_size": 248320,
            "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25}}"#,
    },
];

fn parse(fields: &Fields<'_>, has: Has<'_>) -> Result<Assembly, ModelError> {
    let tied = fields.bool_or("tie_word_embeddings", false)?;
    assembly(fields, has, tied, qwen3_5::TEXT)
}

fn parse_with_vision(fields: &Fields<'_>, has: Has<'_>) -> Result<Assembly, ModelError> {
    let (text, tied) = qwen3_5::text_of(fields)?;
    assembly(&text, has, tied, qwen3_5::TEXT_BESIDE_VISION)
}

fn assembly(
    fields: &Fields<'_>,
    has: Has<'_>,
    tied: bool,
    prefix: &'static str,
) -> Result<Assembly, ModelError> {
    let config = qwen3_5::config(fields, tied)?;
    let tensors = match has(&format!("{prefix}.layers.0.mlp.experts.0.down_proj.weight")) {
        true => ExpertTensors::Gated(&[]),
        false => ExpertTensors::Joined {
            gate_up: "experts.gate_up_proj",
            down: "experts.down_proj",
        },
    };
    let experts = Experts::new(fields, config.model_dim, Scores::SoftmaxOfChosen, tensors)?;
    Ok(Assembly::new(move |loader| {
        loader.ignore_below(qwen3_5::VISION);
        let mut parts = config.load(loader, prefix, qwen3_5::recurrence, |loader, name, _| {
            Ok(Arc::new(experts.read(loader, name)?))
        })?;
        parts.outline.details.extend(experts.details());
        Ok(parts)
    }))
}
