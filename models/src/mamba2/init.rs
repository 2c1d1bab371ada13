//! Published sizes of Mamba-2, and how its own parameters are drawn: −A uniform in \[1, 16\]; the bias of Δ such that
//! softplus(bias) is log-uniform in \[1e-3, 1e-1\] and at least 1e-4.

use rand::Rng;
use rand::rngs::StdRng;

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

/// The authors' sizes.
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

/// log U\[1, 16\].
pub(super) fn log_decay_rate(rng: &mut StdRng) -> f32 {
    rng.random_range(1.0f32..16.0).ln()
}

/// softplus⁻¹ of a log-uniform step size.
pub(crate) fn step_bias(rng: &mut StdRng) -> f32 {
    let step: f64 = rng.random_range(1e-3f64.ln()..1e-1f64.ln()).exp().max(1e-4);
    // softplus(b) = step  ⇔  b = step + ln(1 − e^(−step))
    (step + (-(-step).exp_m1()).ln()) as f32
}
