//! The Transformer baseline of flash-linear-attention (`TransformerForCausalLM`): attention in every layer, otherwise as its kin.
//!
//! The tensors of `model.layers.N.attn` are `q_proj`, `k_proj`, `v_proj` and `o_proj`; the fields of attention, which hybrids have below
//! `attn`, are those of the configuration itself: `num_heads`, `num_kv_heads`, `qkv_bias`, `window_size`, `rope_theta`.

use std::sync::Arc;

use spillway_attention_linear::softmax_attention::SoftmaxAttention;

use super::backbone::Details;
use super::mixer::backbone;
use super::{NAME, hybrid, recognised};
use crate::checkpoint::Fields;
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "transformer", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
            "intermediate_size": 128, "num_heads": 4, "num_kv_heads": 2}"#,
    },
    Preset {
        size: "340m",
        config: r#"{"model_type": "transformer", "hidden_size": 1024, "num_hidden_layers": 24, "vocab_size": 32000,
            "num_heads": 16, "tie_word_embeddings": true}"#,
    },
    Preset {
        size: "1.3b",
        config: r#"{"model_type": "transformer", "hidden_size": 2048, "num_hidden_layers": 24, "vocab_size": 32000,
            "num_heads": 32}"#,
    },
];

/// flash-linear-attention's layout of `TransformerForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "transformer",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "transformer"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    if fields.bool_or("qk_norm", false)? {
        return Err(fields
            .unsupported("qk_norm", "false (queries and keys as they are projected)")
            .into());
    }
    let attention = hybrid::attention(fields, backbone.model_dim)?;
    let details = Details::from([
        ("heads", attention.num_heads.to_string()),
        (
            "heads of keys and values",
            attention.num_key_value_heads.to_string(),
        ),
    ]);
    Ok(backbone.assembly(details, &[], move |source, _| {
        Ok(Arc::new(SoftmaxAttention::read(attention, source)?))
    }))
}
