//! Gated DeltaProduct.
//!
//! The tensors of `model.layers.N.attn` are those of [`GatedDeltaProduct::read`] with `num_householder` steps; `g_norm` is `o_norm`. There are
//! convolutions unless `use_short_conv` is false, a decay unless `use_forget_gate` is, and a gate unless `use_output_gate` is. β is doubled
//! unless `allow_neg_eigval` is false. V is `expand_v` · `head_dim`; the value heads are `num_v_heads`, a multiple of `num_heads`.

use std::sync::Arc;

use spillway_attention_linear::gated_delta_product::{GatedDeltaProduct, GatedDeltaProductConfig};
use spillway_attention_linear::projection::{GateConfig, OutputConfig};

use super::mixer::{backbone, details, grouped_values, short_conv};
use super::{NAME, recognised};
use crate::checkpoint::{CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};

const PRESETS: &[Preset] = &[Preset {
    size: "tiny",
    config: r#"{"model_type": "gated_deltaproduct", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
        "intermediate_size": 128, "num_heads": 2, "head_dim": 16, "num_householder": 2}"#,
}];

/// flash-linear-attention's layout of `GatedDeltaProductForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "gated_deltaproduct",
    name: NAME,
    recognise: |checkpoint| recognised(checkpoint, "gated_deltaproduct"),
    config: stored_config,
    parse,
    presets: PRESETS,
};

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let backbone = backbone(fields)?;
    let heads = grouped_values(fields, 256, 2.0)?;
    let steps = steps(fields, heads.widths())?;
    let config = GatedDeltaProductConfig {
        model_dim: backbone.model_dim,
        heads,
        steps,
        conv: short_conv(fields, true)?,
        decays: fields.bool_or("use_forget_gate", true)?,
        negative_eigenvalues: fields.bool_or("allow_neg_eigval", true)?,
        norm_eps: backbone.norm_eps,
        output: OutputConfig {
            gate: fields
                .bool_or("use_output_gate", true)?
                .then_some(GateConfig::SILU),
            norm_weight: true,
        },
    };
    let mut details = details(&heads);
    details.insert("steps of a token", steps.to_string());
    Ok(
        backbone.assembly(details, &[("g_norm", "o_norm")], move |source, _| {
            Ok(Arc::new(GatedDeltaProduct::read(config.clone(), source)?))
        }),
    )
}

fn steps(fields: &Fields<'_>, widths: [usize; 3]) -> Result<usize, CheckpointError> {
    let steps = fields.dimension_or("num_householder", 2)?;
    let fits = |width: &usize| {
        let rows = width.checked_mul(steps);
        rows.is_some_and(|rows| rows as u64 <= MAX_DIMENSION)
    };
    match widths.iter().all(fits) {
        true => Ok(steps),
        false => {
            let expected =
                format!("a number of steps that have at most {MAX_DIMENSION} keys and values together");
            Err(fields.wrong("num_householder", &expected, Some(&steps.into())))
        }
    }
}
