//! llama.cpp's names and forms, and those of the layout that each architecture is read as: Hugging Face's, and BlinkDL's for RWKV.

use super::conversion::Conversion::{
    self, Column, Decay, Divided, Dropped, Grouped, Heads, Kernel, Keys, Queries, Rescaled, Row, Same,
    Transposed,
};

/// A table: llama.cpp's name within a block (or outside of one), ours, and the form.
pub(crate) type Table = &'static [(&'static str, &'static str, Conversion)];

/// The names of one architecture.
pub(crate) struct Names {
    /// Before the number of a block.
    pub blocks: &'static str,
    pub outside: Table,
    pub within: &'static [Table],
}

const MAMBA_OUTSIDE: Table = &[
    ("token_embd.weight", "backbone.embeddings.weight", Same),
    ("output_norm.weight", "backbone.norm_f.weight", Same),
    ("output.weight", "lm_head.weight", Same),
];
const MAMBA: Table = &[
    ("attn_norm.weight", "norm.weight", Same),
    ("ssm_in.weight", "mixer.in_proj.weight", Same),
    ("ssm_conv1d.weight", "mixer.conv1d.weight", Kernel),
    ("ssm_conv1d.bias", "mixer.conv1d.bias", Same),
    ("ssm_out.weight", "mixer.out_proj.weight", Same),
    ("ssm_a", "mixer.A_log", Decay),
];
const MAMBA1_ONLY: Table = &[
    ("ssm_x.weight", "mixer.x_proj.weight", Same),
    ("ssm_dt.weight", "mixer.dt_proj.weight", Same),
    ("ssm_dt.bias", "mixer.dt_proj.bias", Same),
    ("ssm_d", "mixer.D", Same),
];
const MAMBA2_ONLY: Table = &[
    ("ssm_dt.bias", "mixer.dt_bias", Same),
    ("ssm_d", "mixer.D", Column),
    ("ssm_norm.weight", "mixer.norm.weight", Grouped),
];
pub(crate) const MAMBA1_NAMES: Names = Names {
    blocks: "backbone.layers",
    outside: MAMBA_OUTSIDE,
    within: &[MAMBA, MAMBA1_ONLY],
};
pub(crate) const MAMBA2_NAMES: Names = Names {
    blocks: "backbone.layers",
    outside: MAMBA_OUTSIDE,
    within: &[MAMBA, MAMBA2_ONLY],
};

const RWKV_OUTSIDE: Table = &[
    ("token_embd.weight", "emb.weight", Same),
    ("token_embd_norm.weight", "blocks.0.ln0.weight", Same),
    ("token_embd_norm.bias", "blocks.0.ln0.bias", Same),
    ("output_norm.weight", "ln_out.weight", Same),
    ("output_norm.bias", "ln_out.bias", Same),
    ("output.weight", "head.weight", Same),
];
const RWKV: Table = &[
    ("attn_norm.weight", "ln1.weight", Same),
    ("attn_norm.bias", "ln1.bias", Same),
    ("attn_norm_2.weight", "ln2.weight", Same),
    ("attn_norm_2.bias", "ln2.bias", Same),
    ("time_mix_ln.weight", "att.ln_x.weight", Same),
    ("time_mix_ln.bias", "att.ln_x.bias", Same),
    ("time_mix_key.weight", "att.key.weight", Same),
    ("time_mix_value.weight", "att.value.weight", Same),
    ("time_mix_receptance.weight", "att.receptance.weight", Same),
    ("time_mix_output.weight", "att.output.weight", Rescaled),
    ("channel_mix_key.weight", "ffn.key.weight", Same),
    ("channel_mix_value.weight", "ffn.value.weight", Rescaled),
];
const RWKV6: Table = &[
    ("time_mix_gate.weight", "att.gate.weight", Same),
    ("time_mix_lerp_x.weight", "att.time_maa_x", Row),
    (
        "time_mix_lerp_fused.weight",
        "att",
        Divided(&[
            "time_maa_w",
            "time_maa_k",
            "time_maa_v",
            "time_maa_r",
            "time_maa_g",
        ]),
    ),
    ("time_mix_w1.weight", "att.time_maa_w1", Transposed),
    ("time_mix_w2.weight", "att.time_maa_w2", Transposed),
    ("time_mix_first.weight", "att.time_faaaa", Same),
    ("time_mix_decay.weight", "att.time_decay", Row),
    ("time_mix_decay_w1.weight", "att.time_decay_w1", Transposed),
    ("time_mix_decay_w2.weight", "att.time_decay_w2", Transposed),
    ("channel_mix_receptance.weight", "ffn.receptance.weight", Same),
    ("channel_mix_lerp_k.weight", "ffn.time_maa_k", Row),
    ("channel_mix_lerp_r.weight", "ffn.time_maa_r", Row),
];
const RWKV7: Table = &[
    (
        "time_mix_lerp_fused.weight",
        "att",
        Divided(&["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"]),
    ),
    ("time_mix_k_k.weight", "att.k_k", Row),
    ("time_mix_k_a.weight", "att.k_a", Row),
    ("time_mix_r_k.weight", "att.r_k", Heads),
    ("time_mix_w0.weight", "att.w0", Row),
    ("time_mix_w1.weight", "att.w1", Transposed),
    ("time_mix_w2.weight", "att.w2", Transposed),
    ("time_mix_a0.weight", "att.a0", Row),
    ("time_mix_a1.weight", "att.a1", Transposed),
    ("time_mix_a2.weight", "att.a2", Transposed),
    ("time_mix_v0.weight", "att.v0", Row),
    ("time_mix_v1.weight", "att.v1", Transposed),
    ("time_mix_v2.weight", "att.v2", Transposed),
    ("time_mix_g1.weight", "att.g1", Transposed),
    ("time_mix_g2.weight", "att.g2", Transposed),
    ("channel_mix_lerp_k.weight", "ffn.x_k", Row),
];
pub(crate) const RWKV6_NAMES: Names = Names {
    blocks: "blocks",
    outside: RWKV_OUTSIDE,
    within: &[RWKV, RWKV6],
};
pub(crate) const RWKV7_NAMES: Names = Names {
    blocks: "blocks",
    outside: RWKV_OUTSIDE,
    within: &[RWKV, RWKV7],
};

pub(crate) const LLAMA_NAMES: Names = Names {
    blocks: "model.layers",
    outside: &[
        ("token_embd.weight", "model.embed_tokens.weight", Same),
        ("output_norm.weight", "model.norm.weight", Same),
        ("output.weight", "lm_head.weight", Same),
        // What the configuration says of it is made of its values.
        ("rope_freqs.weight", "", Dropped),
    ],
    within: &[&[
        ("attn_norm.weight", "input_layernorm.weight", Same),
        ("attn_q.weight", "self_attn.q_proj.weight", Queries),
        ("attn_k.weight", "self_attn.k_proj.weight", Keys),
        ("attn_v.weight", "self_attn.v_proj.weight", Same),
        ("attn_output.weight", "self_attn.o_proj.weight", Same),
        ("ffn_norm.weight", "post_attention_layernorm.weight", Same),
        ("ffn_gate.weight", "mlp.gate_proj.weight", Same),
        ("ffn_up.weight", "mlp.up_proj.weight", Same),
        ("ffn_down.weight", "mlp.down_proj.weight", Same),
    ]],
};

impl Names {
    /// The name in the layout, and the form; a name that is not known stays as it is.
    pub fn of(&self, name: &str) -> (String, Conversion) {
        let Some((number, part)) = block(name) else {
            let found = self.outside.iter().find(|(theirs, ..)| *theirs == name);
            return found.map_or((name.into(), Same), |(_, ours, conversion)| {
                ((*ours).into(), *conversion)
            });
        };
        let mut tables = self.within.iter().flat_map(|table| table.iter());
        match tables.find(|(theirs, ..)| *theirs == part) {
            // The first layer has no value residual; llama.cpp wants some tensors there.
            Some((_, "att.v0" | "att.v1" | "att.v2", _)) if number == "0" => (name.into(), Dropped),
            Some((_, ours, conversion)) => (format!("{}.{number}.{ours}", self.blocks), *conversion),
            None => (name.into(), Same),
        }
    }
}

/// The number of a tensor's block, and what follows it.
pub(crate) fn block(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
}
