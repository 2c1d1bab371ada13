//! llama.cpp's names of hybrids, and those of Hugging Face's layouts.
//!
//! Sources: gguf-py's list of tensors and the conversion of each architecture in <https://github.com/ggml-org/llama.cpp> (`conversion/`).

use super::conversion::Conversion::{
    Column, Decay, DecayOfHeads, Grouped, Joined, Kernel, Keys, OneRow, Queries, Same, Stack, ValueColumns,
    ValueDecay, ValueKernel, ValueRows, ZeroCentred,
};
use super::conversion::{Join, Rows};
use super::names::{Names, Table};

/// Attention, as most of them have it.
const ATTENTION: Table = &[
    ("attn_q.weight", "self_attn.q_proj.weight", Same),
    ("attn_k.weight", "self_attn.k_proj.weight", Same),
    ("attn_v.weight", "self_attn.v_proj.weight", Same),
    ("attn_output.weight", "self_attn.o_proj.weight", Same),
];
const OUTSIDE: Table = &[
    ("token_embd.weight", "model.embed_tokens.weight", Same),
    ("output_norm.weight", "model.norm.weight", Same),
    ("output.weight", "lm_head.weight", Same),
];
/// Tensors outside the blocks, as `OUTSIDE` has them, with another name of the last norm.
const OUTSIDE_FINAL: Table = &[
    ("token_embd.weight", "model.embed_tokens.weight", Same),
    ("output_norm.weight", "model.final_layernorm.weight", Same),
    ("output.weight", "lm_head.weight", Same),
];
/// Tensors of a Mamba-2 mixer in layouts that have it below `mamba`.
const MAMBA2: Table = &[
    ("ssm_in.weight", "mamba.in_proj.weight", Same),
    ("ssm_in.bias", "mamba.in_proj.bias", Same),
    ("ssm_conv1d.weight", "mamba.conv1d.weight", Kernel),
    ("ssm_conv1d.bias", "mamba.conv1d.bias", Same),
    ("ssm_dt.bias", "mamba.dt_bias", Same),
    ("ssm_a", "mamba.A_log", Decay),
    ("ssm_d", "mamba.D", Column),
    ("ssm_norm.weight", "mamba.norm.weight", Grouped),
    ("ssm_out.weight", "mamba.out_proj.weight", Same),
    ("ssm_out.bias", "mamba.out_proj.bias", Same),
];

pub(super) const JAMBA_NAMES: Names = Names {
    blocks: "model.layers",
    outside: OUTSIDE_FINAL,
    within: &[
        ATTENTION,
        &[
            ("attn_norm.weight", "input_layernorm.weight", Same),
            ("ffn_norm.weight", "pre_ff_layernorm.weight", Same),
            ("ssm_in.weight", "mamba.in_proj.weight", Same),
            ("ssm_conv1d.weight", "mamba.conv1d.weight", Kernel),
            ("ssm_conv1d.bias", "mamba.conv1d.bias", Same),
            ("ssm_x.weight", "mamba.x_proj.weight", Same),
            ("ssm_dt.weight", "mamba.dt_proj.weight", Same),
            ("ssm_dt.bias", "mamba.dt_proj.bias", Same),
            ("ssm_dt_norm.weight", "mamba.dt_layernorm.weight", Same),
            ("ssm_b_norm.weight", "mamba.b_layernorm.weight", Same),
            ("ssm_c_norm.weight", "mamba.c_layernorm.weight", Same),
            ("ssm_a", "mamba.A_log", Decay),
            ("ssm_d", "mamba.D", Same),
            ("ssm_out.weight", "mamba.out_proj.weight", Same),
            ("ffn_gate.weight", "feed_forward.gate_proj.weight", Same),
            ("ffn_up.weight", "feed_forward.up_proj.weight", Same),
            ("ffn_down.weight", "feed_forward.down_proj.weight", Same),
            ("ffn_gate_inp.weight", "feed_forward.router.weight", Same),
            (
                "ffn_gate_exps.weight",
                "feed_forward.experts.{}.gate_proj.weight",
                Stack,
            ),
            (
                "ffn_up_exps.weight",
                "feed_forward.experts.{}.up_proj.weight",
                Stack,
            ),
            (
                "ffn_down_exps.weight",
                "feed_forward.experts.{}.down_proj.weight",
                Stack,
            ),
        ],
    ],
};

/// Biases, and a norm whose name has no ending in the files of that conversion.
pub(super) const FALCON_H1_NAMES: Names = Names {
    blocks: "model.layers",
    outside: OUTSIDE_FINAL,
    within: &[
        ATTENTION,
        MAMBA2,
        &[
            ("attn_norm.weight", "input_layernorm.weight", Same),
            ("ffn_norm", "pre_ff_layernorm.weight", Same),
            ("ffn_norm.weight", "pre_ff_layernorm.weight", Same),
            ("attn_q.bias", "self_attn.q_proj.bias", Same),
            ("attn_k.bias", "self_attn.k_proj.bias", Same),
            ("attn_v.bias", "self_attn.v_proj.bias", Same),
            ("attn_output.bias", "self_attn.o_proj.bias", Same),
            ("ffn_gate.weight", "feed_forward.gate_proj.weight", Same),
            ("ffn_up.weight", "feed_forward.up_proj.weight", Same),
            ("ffn_down.weight", "feed_forward.down_proj.weight", Same),
            ("ffn_gate.bias", "feed_forward.gate_proj.bias", Same),
            ("ffn_up.bias", "feed_forward.up_proj.bias", Same),
            ("ffn_down.bias", "feed_forward.down_proj.bias", Same),
        ],
    ],
};

const SHARED_IN: &str = "shared_mlp.input_linear.weight";
const SHARED_OUT: &str = "shared_mlp.output_linear.weight";
const EXPERTS_IN: &str = "block_sparse_moe.input_linear.weight";

/// Dense models have their MLP where those with experts have the shared one.
pub(super) const GRANITE_NAMES: Names = Names {
    blocks: "model.layers",
    outside: OUTSIDE,
    within: &[
        MAMBA2,
        &[
            ("attn_norm.weight", "input_layernorm.weight", Same),
            ("ffn_norm.weight", "post_attention_layernorm.weight", Same),
            ("attn_q.weight", "self_attn.q_proj.weight", Queries),
            ("attn_k.weight", "self_attn.k_proj.weight", Keys),
            ("attn_v.weight", "self_attn.v_proj.weight", Same),
            ("attn_output.weight", "self_attn.o_proj.weight", Same),
            ("ffn_gate.weight", SHARED_IN, Joined(Join::Rows, 0)),
            ("ffn_up.weight", SHARED_IN, Joined(Join::Rows, 1)),
            ("ffn_down.weight", SHARED_OUT, Same),
            ("ffn_gate_shexp.weight", SHARED_IN, Joined(Join::Rows, 0)),
            ("ffn_up_shexp.weight", SHARED_IN, Joined(Join::Rows, 1)),
            ("ffn_down_shexp.weight", SHARED_OUT, Same),
            (
                "ffn_gate_inp.weight",
                "block_sparse_moe.router.layer.weight",
                Same,
            ),
            ("ffn_gate_exps.weight", EXPERTS_IN, Joined(Join::Rows, 0)),
            ("ffn_up_exps.weight", EXPERTS_IN, Joined(Join::Rows, 1)),
            (
                "ffn_down_exps.weight",
                "block_sparse_moe.output_linear.weight",
                Same,
            ),
        ],
    ],
};

pub(super) const NEMOTRON_H_NAMES: Names = Names {
    blocks: "backbone.layers",
    outside: &[
        ("token_embd.weight", "backbone.embeddings.weight", Same),
        ("output_norm.weight", "backbone.norm_f.weight", Same),
        ("output.weight", "lm_head.weight", Same),
    ],
    within: &[&[
        ("attn_norm.weight", "norm.weight", Same),
        ("ssm_in.weight", "mixer.in_proj.weight", Same),
        ("ssm_conv1d.weight", "mixer.conv1d.weight", Kernel),
        ("ssm_conv1d.bias", "mixer.conv1d.bias", Same),
        ("ssm_dt.bias", "mixer.dt_bias", Same),
        ("ssm_a", "mixer.A_log", Decay),
        ("ssm_d", "mixer.D", Column),
        ("ssm_norm.weight", "mixer.norm.weight", Grouped),
        ("ssm_out.weight", "mixer.out_proj.weight", Same),
        ("attn_q.weight", "mixer.q_proj.weight", Queries),
        ("attn_k.weight", "mixer.k_proj.weight", Keys),
        ("attn_v.weight", "mixer.v_proj.weight", Same),
        ("attn_output.weight", "mixer.o_proj.weight", Same),
        ("ffn_up.weight", "mixer.up_proj.weight", Same),
        ("ffn_down.weight", "mixer.down_proj.weight", Same),
        ("ffn_gate_inp.weight", "mixer.gate.weight", Same),
        ("exp_probs_b.bias", "mixer.gate.e_score_correction_bias", Same),
        ("ffn_up_exps.weight", "mixer.experts.{}.up_proj.weight", Stack),
        ("ffn_down_exps.weight", "mixer.experts.{}.down_proj.weight", Stack),
        ("ffn_up_shexp.weight", "mixer.shared_experts.up_proj.weight", Same),
        (
            "ffn_down_shexp.weight",
            "mixer.shared_experts.down_proj.weight",
            Same,
        ),
        ("ffn_latent_down.weight", "mixer.fc1_latent_proj.weight", Same),
        ("ffn_latent_up.weight", "mixer.fc2_latent_proj.weight", Same),
    ]],
};

/// What the models of Qwen Team have in common.
const QWEN: Table = &[
    ("attn_norm.weight", "input_layernorm.weight", ZeroCentred),
    (
        "post_attention_norm.weight",
        "post_attention_layernorm.weight",
        ZeroCentred,
    ),
    ("attn_q_norm.weight", "self_attn.q_norm.weight", ZeroCentred),
    ("attn_k_norm.weight", "self_attn.k_norm.weight", ZeroCentred),
    ("ssm_norm.weight", "linear_attn.norm.weight", Same),
    ("ffn_gate.weight", "mlp.gate_proj.weight", Same),
    ("ffn_up.weight", "mlp.up_proj.weight", Same),
    ("ffn_down.weight", "mlp.down_proj.weight", Same),
    ("ffn_gate_inp.weight", "mlp.gate.weight", Same),
    (
        "ffn_gate_inp_shexp.weight",
        "mlp.shared_expert_gate.weight",
        OneRow,
    ),
    (
        "ffn_gate_shexp.weight",
        "mlp.shared_expert.gate_proj.weight",
        Same,
    ),
    ("ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", Same),
    (
        "ffn_down_shexp.weight",
        "mlp.shared_expert.down_proj.weight",
        Same,
    ),
];
const QWEN_OUTSIDE: Table = &[
    ("token_embd.weight", "model.embed_tokens.weight", Same),
    ("output_norm.weight", "model.norm.weight", ZeroCentred),
    ("output.weight", "lm_head.weight", Same),
];
const QKVZ: &str = "linear_attn.in_proj_qkvz.weight";

pub(super) const QWEN3_NEXT_NAMES: Names = Names {
    blocks: "model.layers",
    outside: QWEN_OUTSIDE,
    within: &[
        ATTENTION,
        QWEN,
        &[
            ("attn_qkv.weight", QKVZ, Joined(Join::KeyHeads, 0)),
            ("attn_gate.weight", QKVZ, Joined(Join::KeyHeads, 1)),
            // Files of the first conversions.
            ("ssm_in.weight", QKVZ, Same),
            ("ssm_ba.weight", "linear_attn.in_proj_ba.weight", Same),
            ("ssm_a", "linear_attn.A_log", Decay),
            ("ssm_dt.bias", "linear_attn.dt_bias", Same),
            ("ssm_conv1d.weight", "linear_attn.conv1d.weight", Kernel),
            ("ssm_out.weight", "linear_attn.out_proj.weight", Same),
            ("ffn_gate_exps.weight", "mlp.experts.{}.gate_proj.weight", Stack),
            ("ffn_up_exps.weight", "mlp.experts.{}.up_proj.weight", Stack),
            ("ffn_down_exps.weight", "mlp.experts.{}.down_proj.weight", Stack),
        ],
    ],
};

const GATE_UP: &str = "mlp.experts.gate_up_proj";

/// Dense, and with experts.
pub(super) const QWEN35_NAMES: Names = Names {
    blocks: "model.layers",
    outside: QWEN_OUTSIDE,
    within: &[
        ATTENTION,
        QWEN,
        &[
            (
                "attn_qkv.weight",
                "linear_attn.in_proj_qkv.weight",
                ValueRows(Rows::AfterKeys),
            ),
            (
                "attn_gate.weight",
                "linear_attn.in_proj_z.weight",
                ValueRows(Rows::All),
            ),
            (
                "ssm_beta.weight",
                "linear_attn.in_proj_b.weight",
                ValueRows(Rows::OneEach),
            ),
            (
                "ssm_alpha.weight",
                "linear_attn.in_proj_a.weight",
                ValueRows(Rows::OneEach),
            ),
            ("ssm_a", "linear_attn.A_log", ValueDecay),
            ("ssm_dt.bias", "linear_attn.dt_bias", ValueRows(Rows::OneEach)),
            ("ssm_conv1d.weight", "linear_attn.conv1d.weight", ValueKernel),
            ("ssm_out.weight", "linear_attn.out_proj.weight", ValueColumns),
            ("ffn_gate_exps.weight", GATE_UP, Joined(Join::Rows, 0)),
            ("ffn_up_exps.weight", GATE_UP, Joined(Join::Rows, 1)),
            ("ffn_gate_up_exps.weight", GATE_UP, Same),
            ("ffn_down_exps.weight", "mlp.experts.down_proj", Same),
        ],
    ],
};

const UP_OF_LATENT: &str = "self_attn.kv_b_proj.weight";

pub(super) const KIMI_LINEAR_NAMES: Names = Names {
    blocks: "model.layers",
    outside: OUTSIDE,
    within: &[
        ATTENTION,
        &[
            ("attn_norm.weight", "input_layernorm.weight", Same),
            ("ffn_norm.weight", "post_attention_layernorm.weight", Same),
            ("ssm_conv1d_q.weight", "self_attn.q_conv1d.weight", Kernel),
            ("ssm_conv1d_k.weight", "self_attn.k_conv1d.weight", Kernel),
            ("ssm_conv1d_v.weight", "self_attn.v_conv1d.weight", Kernel),
            ("ssm_f_a.weight", "self_attn.f_a_proj.weight", Same),
            ("ssm_f_b.weight", "self_attn.f_b_proj.weight", Same),
            ("ssm_g_a.weight", "self_attn.g_a_proj.weight", Same),
            ("ssm_g_b.weight", "self_attn.g_b_proj.weight", Same),
            ("ssm_beta.weight", "self_attn.b_proj.weight", Same),
            ("ssm_a", "self_attn.A_log", DecayOfHeads),
            ("ssm_dt.bias", "self_attn.dt_bias", Same),
            ("ssm_norm.weight", "self_attn.o_norm.weight", Same),
            ("attn_q_a.weight", "self_attn.q_a_proj.weight", Same),
            ("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", Same),
            ("attn_q_b.weight", "self_attn.q_b_proj.weight", Same),
            (
                "attn_kv_a_mqa.weight",
                "self_attn.kv_a_proj_with_mqa.weight",
                Same,
            ),
            ("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", Same),
            ("attn_kv_b.weight", UP_OF_LATENT, Same),
            ("attn_k_b.weight", UP_OF_LATENT, Joined(Join::Latent, 0)),
            ("attn_v_b.weight", UP_OF_LATENT, Joined(Join::Latent, 1)),
            ("ffn_gate.weight", "mlp.gate_proj.weight", Same),
            ("ffn_up.weight", "mlp.up_proj.weight", Same),
            ("ffn_down.weight", "mlp.down_proj.weight", Same),
            ("ffn_gate_inp.weight", "block_sparse_moe.gate.weight", Same),
            (
                "exp_probs_b.bias",
                "block_sparse_moe.gate.e_score_correction_bias",
                Same,
            ),
            (
                "ffn_gate_exps.weight",
                "block_sparse_moe.experts.{}.w1.weight",
                Stack,
            ),
            (
                "ffn_up_exps.weight",
                "block_sparse_moe.experts.{}.w3.weight",
                Stack,
            ),
            (
                "ffn_down_exps.weight",
                "block_sparse_moe.experts.{}.w2.weight",
                Stack,
            ),
            (
                "ffn_gate_shexp.weight",
                "block_sparse_moe.shared_experts.gate_proj.weight",
                Same,
            ),
            (
                "ffn_up_shexp.weight",
                "block_sparse_moe.shared_experts.up_proj.weight",
                Same,
            ),
            (
                "ffn_down_shexp.weight",
                "block_sparse_moe.shared_experts.down_proj.weight",
                Same,
            ),
        ],
    ],
};
