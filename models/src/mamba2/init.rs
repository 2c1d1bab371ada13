//! Published sizes of Mamba-2, and how its own parameters are drawn: −A uniform in \[1, 16\]; the bias of Δ such that
//! softplus(bias) is log-uniform in \[1e-3, 1e-1\] and at least 1e-4; or between other ends, where the configuration names
//! them.

use serde_json::Value;
use spillway_ssm_core::mamba2::FreshGates;
use spillway_ssm_core::weights::StepSizes;

use crate::checkpoint::{CheckpointError, Fields};
use crate::layout::Preset;

macro_rules! original {
    ($size:literal, $width:literal, $layers:literal) => {
        Preset {
            size: $size,
            config: concat!(
                r#"{"d_model": "#,
                $width,
                r#", "d_intermediate": 0, "n_layer": "#,
                $layers,
                r#", "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {},
                "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 16,
                "tie_embeddings": true}"#
            ),
        }
    };
}

/// Presets in the authors' layout: the sizes that they published, and tiny ones.
pub(super) const ORIGINAL: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"d_model": 64, "d_intermediate": 0, "n_layer": 2, "vocab_size": 256,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 32}, "attn_layer_idx": [], "attn_cfg": {},
            "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 16,
            "tie_embeddings": true}"#,
    },
    Preset {
        size: "tiny-hybrid",
        config: r#"{"d_model": 64, "d_intermediate": 128, "n_layer": 3, "vocab_size": 256,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 32}, "attn_layer_idx": [1],
            "attn_cfg": {"causal": true, "num_heads": 4, "num_heads_kv": 2, "head_dim": 16, "rotary_emb_dim": 8,
            "d_conv": 4, "qkv_proj_bias": false, "out_proj_bias": false}, "rms_norm": true, "residual_in_fp32": true,
            "fused_add_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true}"#,
    },
    original!("130m", 768, 24),
    original!("370m", 1024, 48),
    original!("780m", 1536, 48),
    original!("1.3b", 2048, 48),
    original!("2.7b", 2560, 64),
    // The authors' hybrid, mamba2attn-2.7b.
    Preset {
        size: "2.7b-hybrid",
        config: r#"{"d_model": 2560, "d_intermediate": 0, "n_layer": 64, "vocab_size": 50277,
            "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [9, 18, 27, 36, 45, 56],
            "attn_cfg": {"causal": true, "d_conv": 4, "head_dim": 128, "num_heads": 30, "out_proj_bias": false,
            "qkv_proj_bias": false, "rotary_emb_dim": 64}, "rms_norm": true, "residual_in_fp32": true,
            "fused_add_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true}"#,
    },
];

/// A tiny one, and Codestral's.
pub(super) const HUGGING_FACE: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "num_hidden_layers": 2, "state_size": 16, "num_heads": 4, "head_dim": 32, "n_groups": 2, "expand": 2,
            "conv_kernel": 4, "layer_norm_epsilon": 1e-05, "use_bias": false, "use_conv_bias": true,
            "tie_word_embeddings": false}"#,
    },
    Preset {
        size: "7b",
        config: r#"{"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "vocab_size": 32768, "hidden_size": 4096,
            "num_hidden_layers": 64, "state_size": 128, "num_heads": 128, "head_dim": 64, "n_groups": 8, "expand": 2,
            "conv_kernel": 4, "layer_norm_epsilon": 1e-05, "use_bias": false, "use_conv_bias": true,
            "tie_word_embeddings": false}"#,
    },
];

/// The names of the fields of [`StepSizes`] in `ssm_cfg` of the original layouts.
pub(crate) const ORIGINAL_STEPS: [&str; 3] = ["dt_min", "dt_max", "dt_init_floor"];
/// The names of the fields of [`StepSizes`] in the layouts of `transformers`.
pub(crate) const HUGGING_FACE_STEPS: [&str; 3] = ["time_step_min", "time_step_max", "time_step_floor"];

/// The step sizes of a fresh model, from the fields of these names: lower end, upper end, floor.
///
/// # Errors
/// [`CheckpointError::Field`] unless 0 < lower end ≤ upper end and 0 ≤ floor, all finite.
pub(crate) fn step_sizes(
    fields: &Fields<'_>,
    [min, max, floor]: [&str; 3],
) -> Result<StepSizes, CheckpointError> {
    let number = |name: &str, default: f64| match fields.value(name) {
        None => Ok(default),
        Some(value) => finite(value)
            .filter(|number| *number >= 0.0)
            .ok_or_else(|| fields.wrong(name, "a finite number from 0 on", Some(value))),
    };
    let default = StepSizes::default();
    let steps = StepSizes {
        min: number(min, default.min)?,
        max: number(max, default.max)?,
        floor: number(floor, default.floor)?,
    };
    if steps.min > 0.0 && steps.min <= steps.max {
        return Ok(steps);
    }
    let expected = format!("a number above 0 and up to {max} = {}", steps.max);
    Err(fields.wrong(min, &expected, Some(&steps.min.into())))
}

/// `A_init_range` of the original layout.
///
/// # Errors
/// [`CheckpointError::Field`] unless it is `[low, high]` with 0 < low ≤ high, both finite.
pub(super) fn rates(fields: &Fields<'_>) -> Result<(f32, f32), CheckpointError> {
    const NAME: &str = "A_init_range";
    let Some(value) = fields.value(NAME) else {
        return Ok(FreshGates::default().rates);
    };
    let pair = match value.as_array().map(Vec::as_slice) {
        Some([low, high]) => finite(low).zip(finite(high)),
        _ => None,
    };
    pair.map(|(low, high)| (low as f32, high as f32))
        .filter(|(low, high)| *low > 0.0 && low <= high && high.is_finite())
        .ok_or_else(|| fields.wrong(NAME, "two numbers [low, high] with 0 < low <= high", Some(value)))
}

fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}
