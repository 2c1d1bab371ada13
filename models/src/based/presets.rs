//! The published sizes of Based and of JRT-RNN, and a tiny one of each.

use crate::layout::Preset;

/// A mixer of Based.
macro_rules! linear {
    ($heads:literal, $feature_dim:literal) => {
        concat!(
            r#"{"_target_": "based.models.mixers.linear_attention.LinearAttention", "l_max": 2048, "num_heads": "#,
            $heads,
            r#", "feature_dim": "#,
            $feature_dim,
            r#", "feature_map": {"_target_": "based.models.mixers.linear_attention.TaylorExp", "input_dim": "#,
            $feature_dim,
            "}}"
        )
    };
}

/// A mixer of the Based whose numerator decays.
macro_rules! decaying {
    ($heads:literal, $feature_dim:literal) => {
        concat!(
            r#"{"_target_": "based.models.mixers.linear_attn.LinearAttention", "l_max": 2048, "num_heads": "#,
            $heads,
            r#", "num_key_value_heads": "#,
            $heads,
            r#", "feature_dim": "#,
            $feature_dim,
            r#", "feature_name": "taylor_exp", "use_decay_proj": true}"#
        )
    };
}

/// A mixer of JRT-RNN.
macro_rules! prefix {
    ($heads:literal, $feature_dim:literal, $encoder:literal) => {
        concat!(
            r#"{"_target_": "based.models.mixers.prefix_linear_attention.PrefixLinearAttention", "l_max": 2048,
                "num_heads": "#,
            $heads,
            r#", "num_key_value_heads": "#,
            $heads,
            r#", "feature_dim": "#,
            $feature_dim,
            r#", "feature_name": "taylor_exp", "use_mask": true, "enc_length": "#,
            $encoder,
            r#", "dec_length": "#,
            $encoder,
            "}"
        )
    };
}

macro_rules! preset {
    ($size:literal, $vocab:literal, $width:literal, $layers:literal, $heads:literal, $inner:literal, $window:literal,
     $taylor:literal, $sliding:literal, $mixer:ident!($($part:literal),+), $more:literal) => {
        Preset {
            size: $size,
            config: concat!(
                r#"{"architectures": ["GPTLMHeadModel"], "model_type": "gpt2", "vocab_size": "#, $vocab,
                r#", "pad_vocab_size_multiple": 8, "n_embd": "#, $width, r#", "n_layer": "#, $layers,
                r#", "n_head": "#, $heads, r#", "n_inner": "#, $inner,
                r#", "alt_mixer_layers": "#, $taylor, r#", "alt_mixer_2_layers": "#, $sliding,
                r#", "mixer": {"_target_": "based.models.mixers.convolution.BaseConv", "expand_proj": 4, "l_max": 2048,
                "use_bias": true, "kernel_sizes": 3},
                "alt_mixer": "#, $mixer!($($part),+), r#",
                "alt_mixer_2": {"_target_": "based.models.mixers.slide_attention.SlidingAttention", "causal": true,
                "num_heads": "#, $heads, r#", "window_size": "#, $window, "}, ", $more,
                r#""rms_norm": true, "layer_norm_epsilon": 1e-05, "activation_function": "swiglu",
                "rotary_emb_fraction": 1, "max_position_embeddings": 0, "qkv_proj_bias": false, "out_proj_bias": false,
                "mlp_fc1_bias": false, "mlp_fc2_bias": false, "residual_in_fp32": true, "tie_word_embeddings": true}"#
            ),
        }
    };
}

/// The authors' sizes of Based.
pub(super) const BASED: &[Preset] = &[
    preset!("tiny", 256, 64, 3, 4, 128, 32, "[1]", "[2]", linear!(4, 8), ""),
    preset!(
        "360m",
        50257,
        1024,
        27,
        16,
        2048,
        256,
        "[1, 6, 11, 16, 21]",
        "[2, 7, 12, 17, 22]",
        linear!(16, 16),
        ""
    ),
    preset!(
        "360m-30b",
        50257,
        1024,
        27,
        16,
        2048,
        256,
        "[1, 6, 11, 16, 21]",
        "[2, 7, 12, 17, 22]",
        decaying!(16, 16),
        r#""fixed_decay": true, "decay_const": -3, "decay_denom": false, "#
    ),
    preset!(
        "1.3b",
        50257,
        1792,
        36,
        16,
        3584,
        256,
        "[1, 6, 11, 16, 21, 27, 33]",
        "[2, 7, 12, 17, 22, 28, 34]",
        linear!(16, 16),
        ""
    ),
];

/// The authors' sizes of JRT-RNN.
pub(super) const JRT: &[Preset] = &[
    preset!(
        "tiny",
        256,
        64,
        3,
        4,
        128,
        32,
        "[1]",
        "[2]",
        prefix!(4, 8, 16),
        ""
    ),
    preset!(
        "360m-30b",
        50257,
        1024,
        26,
        16,
        2048,
        256,
        "[1, 6, 11, 16, 21]",
        "[2, 7, 12, 17, 22]",
        prefix!(16, 16, 1024),
        ""
    ),
    preset!(
        "1b-50b",
        50257,
        1792,
        36,
        16,
        3584,
        256,
        "[1, 6, 11, 16, 21, 27, 33]",
        "[2, 7, 12, 17, 22, 28, 34]",
        prefix!(16, 16, 1024),
        ""
    ),
];
