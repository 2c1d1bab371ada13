//! Softmax attention in some of the layers: `attn` of the configuration.
//!
//! | field | |
//! |---|---|
//! | `layers` | indices of the layers, from 0 |
//! | `num_heads`, `num_kv_heads` | heads of queries, and of keys and values (as many without) |
//! | `qkv_bias` | whether `q_proj`, `k_proj` and `v_proj` have biases; false without |
//! | `window_size` | how many tokens a query sees, its own among them; null for all |
//! | `rope_theta` | base of the angles by which halves of queries and keys are turned; 10000 without |
//!
//! `attn` may be a list of such objects, each for layers of its own.

use std::collections::BTreeMap;

use serde_json::Value;
use spillway_attention_linear::softmax_attention::SoftmaxAttentionConfig;
use spillway_ssm_core::operators::rotary::{Pairing, RotaryPlan};

use crate::checkpoint::{CheckpointError, Fields};

/// Softmax attention of each layer that has it, by the index of the layer, from 0.
pub(super) fn read(
    fields: &Fields<'_>,
    model_dim: usize,
    layers: usize,
) -> Result<BTreeMap<usize, SoftmaxAttentionConfig>, CheckpointError> {
    let path = fields.path();
    let specs: Vec<Fields<'_>> = match fields.value("attn") {
        None => Vec::new(),
        Some(Value::Array(specs)) => {
            let specs = specs.iter().map(|spec| {
                let expected = "an object, or a list of objects";
                let map = spec
                    .as_object()
                    .ok_or_else(|| fields.wrong("attn", expected, Some(spec)))?;
                Ok(Fields::new(&path, map))
            });
            specs.collect::<Result<_, CheckpointError>>()?
        }
        Some(_) => fields.object("attn")?.into_iter().collect(),
    };
    let mut found = BTreeMap::new();
    for spec in &specs {
        let attention = attention(spec, model_dim)?;
        for layer in layer_indices(spec, layers)? {
            if found.insert(layer, attention).is_some() {
                let expected = "every layer at most once";
                return Err(spec.wrong("layers", expected, Some(&layer.into())));
            }
        }
    }
    Ok(found)
}

fn layer_indices(spec: &Fields<'_>, layers: usize) -> Result<Vec<usize>, CheckpointError> {
    let value = spec.value("layers");
    let index = |value: &Value| {
        usize::try_from(value.as_u64()?)
            .ok()
            .filter(|index| *index < layers)
    };
    let indices = value
        .and_then(Value::as_array)
        .and_then(|indices| indices.iter().map(index).collect());
    indices.ok_or_else(|| {
        let expected = format!("a list of layers from 0 to {}", layers.saturating_sub(1));
        spec.wrong("layers", &expected, value)
    })
}

/// The attention that an object describes.
pub(super) fn attention(
    spec: &Fields<'_>,
    model_dim: usize,
) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    let num_heads = spec.dimension("num_heads")?;
    let num_key_value_heads = spec.dimension_or("num_kv_heads", num_heads)?;
    if !num_heads.is_multiple_of(num_key_value_heads) {
        let expected = format!("a divisor of the {num_heads} heads");
        return Err(spec.wrong("num_kv_heads", &expected, spec.value("num_kv_heads")));
    }
    let head_dim = model_dim / num_heads;
    if head_dim * num_heads != model_dim || !head_dim.is_multiple_of(2) {
        let expected = format!("a divisor of hidden_size {model_dim} that leaves heads of even width");
        return Err(spec.wrong("num_heads", &expected, spec.value("num_heads")));
    }
    let window = match spec.has("window_size") {
        // A query's own key is not before it.
        true => Some(spec.dimension("window_size")? - 1),
        false => None,
    };
    Ok(SoftmaxAttentionConfig {
        model_dim,
        num_heads,
        num_key_value_heads,
        head_dim,
        norm: None,
        rotary: Some(RotaryPlan {
            base: spec.positive_or("rope_theta", 10000.0)?,
            rotated_dim: head_dim,
            pairing: Pairing::Halves,
            scaling: None,
        }),
        window,
        scale: None,
        conv: None,
        gate: false,
        query_key_value_bias: spec.bool_or("qkv_bias", false)?,
        output_bias: false,
    })
}
