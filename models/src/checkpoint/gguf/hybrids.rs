//! What `config.json` would say of a hybrid.
//!
//! Which layers are which, and the widths of experts, are taken from the tensors: every reader has those, while the fields differ between
//! versions of the conversion. What the conversion multiplies into weights (Falcon-H1's factors) is 1 here.

use serde_json::{Value as Json, json};

use super::conversion::{DeltaHeads, HeadCounts};
use super::described::{Described, Shapes};
use super::error::GgufError;
use super::fields::{EPSILON, Fields};
use super::hybrid_names::{
    FALCON_H1_NAMES, GRANITE_NAMES, JAMBA_NAMES, KIMI_LINEAR_NAMES, NEMOTRON_H_NAMES, QWEN3_NEXT_NAMES,
    QWEN35_NAMES,
};
use crate::checkpoint::MAX_LAYERS;

/// An architecture that is none of the five others.
pub(super) fn described(fields: &Fields, shapes: &Shapes) -> Result<Described, GgufError> {
    match fields.architecture {
        "jamba" => jamba(fields, shapes),
        "falcon-h1" => falcon_h1(fields, shapes),
        "granitehybrid" => granite(fields, shapes),
        "nemotron_h" | "nemotron_h_moe" => nemotron_h(fields, shapes),
        "qwen3next" => qwen(fields, shapes, "qwen3_next"),
        "qwen35" => qwen(fields, shapes, "qwen3_5_text"),
        "qwen35moe" => qwen(fields, shapes, "qwen3_5_moe_text"),
        "kimi-linear" => kimi_linear(fields, shapes),
        found => Err(GgufError::Architecture { found: found.into() }),
    }
}

/// The blocks of the model itself, without those that foretell later tokens.
fn blocks(fields: &Fields) -> Result<usize, GgufError> {
    let (all, beyond) = (
        fields.whole("block_count")?,
        fields.whole_or("nextn_predict_layers", 0)?,
    );
    match all
        .checked_sub(beyond)
        .filter(|blocks| *blocks as u64 <= MAX_LAYERS)
    {
        Some(blocks) => Ok(blocks),
        None => Err(fields.wrong("block_count", "a number of blocks up to 65536")),
    }
}

/// Whether each block has such a tensor.
fn having(shapes: &Shapes, blocks: usize, part: &str) -> Vec<bool> {
    (0..blocks)
        .map(|block| shapes.has(&format!("blk.{block}.{part}")))
        .collect()
}

/// Rows of a matrix, or of each of a stack, in the first block that has it.
fn rows_in(shapes: &Shapes, blocks: usize, part: &str) -> usize {
    match shapes.in_blocks(blocks, part) {
        Some([.., rows, _]) => *rows,
        _ => 0,
    }
}

/// Heads of attention, and the width of one.
struct Heads {
    queries: usize,
    keys: usize,
    width: usize,
}

impl Heads {
    fn new(fields: &Fields, model_dim: usize) -> Result<Self, GgufError> {
        let queries = fields.whole_or_largest("attention.head_count")?;
        Ok(Self {
            queries,
            keys: fields.whole_or_largest("attention.head_count_kv")?,
            width: fields.whole_or(
                "attention.key_length",
                model_dim.checked_div(queries).unwrap_or(0),
            )?,
        })
    }

    fn counts(&self) -> HeadCounts {
        HeadCounts {
            queries: self.queries,
            keys: self.keys,
            ..HeadCounts::default()
        }
    }
}

/// Mamba-2's sizes: channels, heads, channels of a head.
fn mamba2(fields: &Fields) -> Result<[usize; 3], GgufError> {
    let (inner, heads) = (
        fields.whole("ssm.inner_size")?,
        fields.whole("ssm.time_step_rank")?,
    );
    match heads > 0 && inner.is_multiple_of(heads) {
        true => Ok([inner, heads, inner / heads]),
        false => Err(fields.wrong("ssm.inner_size", "a multiple of the heads, ssm.time_step_rank")),
    }
}

/// Layers as one period of them and where in it they stand: (period, offset).
fn periodic(fields: &Fields, layers: &[bool]) -> Result<(usize, usize), GgufError> {
    let places: Vec<usize> = (0..layers.len()).filter(|layer| layers[*layer]).collect();
    let (period, offset) = match places.as_slice() {
        [] => (layers.len() + 1, layers.len()),
        [only] => (layers.len().max(only + 1), *only),
        [first, second, ..] => (second - first, *first),
    };
    let fits = offset < period && (0..layers.len()).all(|layer| layers[layer] == (layer % period == offset));
    match fits {
        true => Ok((period, offset)),
        false => Err(fields.wrong(
            "block_count",
            "blocks of which every so many-th has attention or experts",
        )),
    }
}

fn jamba(fields: &Fields, shapes: &Shapes) -> Result<Described, GgufError> {
    let (blocks, width) = (blocks(fields)?, fields.whole("embedding_length")?);
    let inner = fields.whole("ssm.inner_size")?;
    if width == 0 || !inner.is_multiple_of(width) {
        return Err(fields.wrong("ssm.inner_size", "a multiple of the width"));
    }
    let heads = Heads::new(fields, width)?;
    let attention = periodic(fields, &having(shapes, blocks, "attn_q.weight"))?;
    let mixes = having(shapes, blocks, "ffn_gate_inp.weight");
    let experts = periodic(fields, &mixes)?;
    let config = json!({
        "model_type": "jamba",
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "intermediate_size": fields.whole_or_largest("feed_forward_length")?,
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": heads.width,
        "attn_layer_period": attention.0,
        "attn_layer_offset": attention.1,
        "expert_layer_period": experts.0,
        "expert_layer_offset": experts.1,
        "num_experts": if mixes.contains(&true) { fields.whole("expert_count")? } else { 1 },
        "num_experts_per_tok": fields.whole_or("expert_used_count", 1)?.max(1),
        "mamba_expand": inner / width,
        "mamba_d_state": fields.whole("ssm.state_size")?,
        "mamba_d_conv": fields.whole("ssm.conv_kernel")?,
        "mamba_dt_rank": fields.whole("ssm.time_step_rank")?,
        "mamba_conv_bias": true,
        "mamba_proj_bias": false,
        "rms_norm_eps": fields.real_or(EPSILON, 1e-6)?,
    });
    Ok(Described::of(&JAMBA_NAMES, config))
}

fn falcon_h1(fields: &Fields, shapes: &Shapes) -> Result<Described, GgufError> {
    fields.expect_absent("rope.scaling.type")?;
    let (blocks, width) = (blocks(fields)?, fields.whole("embedding_length")?);
    let heads = Heads::new(fields, width)?;
    let [inner, count, head_dim] = mamba2(fields)?;
    let has = |part: &str| shapes.in_blocks(blocks, part).is_some();
    let config = json!({
        "model_type": "falcon_h1",
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "intermediate_size": fields.whole("feed_forward_length")?,
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": heads.width,
        "attention_bias": has("attn_q.bias"),
        "mlp_bias": has("ffn_up.bias"),
        "mamba_d_ssm": inner,
        "mamba_n_heads": count,
        "mamba_d_head": head_dim,
        "mamba_d_state": fields.whole("ssm.state_size")?,
        "mamba_n_groups": fields.whole_or("ssm.group_count", 1)?,
        "mamba_d_conv": fields.whole("ssm.conv_kernel")?,
        "mamba_conv_bias": has("ssm_conv1d.bias"),
        "mamba_proj_bias": has("ssm_in.bias"),
        "projectors_bias": has("ssm_out.bias"),
        "mamba_rms_norm": has("ssm_norm.weight"),
        // As the program that these files are for computes it.
        "mamba_norm_before_gate": false,
        "rms_norm_eps": fields.real_or(EPSILON, 1e-5)?,
        "rope_theta": fields.real_or("rope.freq_base", 10_000.0)?,
    });
    Ok(Described::of(&FALCON_H1_NAMES, config))
}

fn granite(fields: &Fields, shapes: &Shapes) -> Result<Described, GgufError> {
    fields.expect_absent("rope.scaling.type")?;
    let (blocks, width) = (blocks(fields)?, fields.whole("embedding_length")?);
    let heads = Heads::new(fields, width)?;
    let [inner, count, head_dim] = mamba2(fields)?;
    if width == 0 || !inner.is_multiple_of(width) {
        return Err(fields.wrong("ssm.inner_size", "a multiple of the width"));
    }
    let rope = fields.bool_or("rope.scaling.finetuned", false)?;
    // The conversion changes the order of whole heads, which turns other pairs where a part is turned.
    if rope && fields.whole_or("rope.dimension_count", heads.width)? != heads.width {
        return Err(fields.wrong("rope.dimension_count", "the width of a head"));
    }
    let shared = match rows_in(shapes, blocks, "ffn_up_shexp.weight") {
        0 => rows_in(shapes, blocks, "ffn_up.weight"),
        rows => rows,
    };
    let words = having(shapes, blocks, "attn_q.weight").into_iter();
    let words: Vec<&str> = words
        .map(|attends| if attends { "attention" } else { "mamba" })
        .collect();
    let experts = match rows_in(shapes, blocks, "ffn_up_exps.weight") {
        0 => 0,
        _ => fields.whole("expert_count")?,
    };
    let config = json!({
        "model_type": "granitemoehybrid",
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "layer_types": words,
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": heads.width,
        "attention_multiplier": fields.real_or("attention.scale", (heads.width.max(1) as f64).powf(-0.5))?,
        "embedding_multiplier": fields.real_or("embedding_scale", 1.0)?,
        "residual_multiplier": fields.real_or("residual_scale", 1.0)?,
        "logits_scaling": fields.real_or("logit_scale", 1.0)?,
        "position_embedding_type": if rope { "rope" } else { "nope" },
        "rope_theta": fields.real_or("rope.freq_base", 10_000.0)?,
        "shared_intermediate_size": shared,
        "intermediate_size": rows_in(shapes, blocks, "ffn_up_exps.weight"),
        "num_local_experts": experts,
        "num_experts_per_tok": fields.whole_or("expert_used_count", 0)?,
        "mamba_n_heads": count,
        "mamba_d_head": head_dim,
        "mamba_expand": inner / width,
        "mamba_d_state": fields.whole("ssm.state_size")?,
        "mamba_n_groups": fields.whole_or("ssm.group_count", 1)?,
        "mamba_d_conv": fields.whole("ssm.conv_kernel")?,
        "mamba_conv_bias": shapes.in_blocks(blocks, "ssm_conv1d.bias").is_some(),
        "mamba_proj_bias": shapes.in_blocks(blocks, "ssm_in.bias").is_some(),
        "rms_norm_eps": fields.real_or(EPSILON, 1e-6)?,
    });
    Ok(Described {
        heads: heads.counts(),
        ..Described::of(&GRANITE_NAMES, config)
    })
}

fn nemotron_h(fields: &Fields, shapes: &Shapes) -> Result<Described, GgufError> {
    let (blocks, width) = (blocks(fields)?, fields.whole("embedding_length")?);
    let heads = Heads::new(fields, width)?;
    let [_, count, head_dim] = mamba2(fields)?;
    let kinds = [
        ('M', "ssm_in.weight"),
        ('*', "attn_q.weight"),
        ('E', "ffn_gate_inp.weight"),
        ('-', "ffn_up.weight"),
    ];
    let letter = |block: usize| {
        let has = |part: &str| shapes.has(&format!("blk.{block}.{part}"));
        kinds
            .iter()
            .find(|(_, part)| has(part))
            .map(|(letter, _)| *letter)
    };
    let pattern: Option<String> = (0..blocks).map(letter).collect();
    let pattern = pattern.ok_or_else(|| {
        fields.wrong(
            "block_count",
            "blocks with a recurrence, attention, an MLP or experts each",
        )
    })?;
    let groups = fields.whole_or("expert_group_count", 1)?.max(1);
    let used_groups = match groups {
        1 => 1,
        _ => fields.whole("expert_group_used_count")?,
    };
    let wide = |part: &str| rows_in(shapes, blocks, part);
    let mut config = json!({
        "model_type": "nemotron_h",
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "hybrid_override_pattern": pattern,
        "intermediate_size": wide("ffn_up.weight").max(1),
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": heads.width,
        "mamba_num_heads": count,
        "mamba_head_dim": head_dim,
        "ssm_state_size": fields.whole("ssm.state_size")?,
        "n_groups": fields.whole_or("ssm.group_count", 1)?,
        "conv_kernel": fields.whole("ssm.conv_kernel")?,
        "use_bias": false,
        "use_conv_bias": true,
        "layer_norm_epsilon": fields.real_or(EPSILON, 1e-5)?,
        "mlp_hidden_act": "relu2",
    });
    if pattern.contains('E') {
        let more = json!({
            "n_routed_experts": fields.whole("expert_count")?,
            "num_experts_per_tok": fields.whole("expert_used_count")?,
            "moe_intermediate_size": wide("ffn_up_exps.weight"),
            "moe_shared_expert_intermediate_size": wide("ffn_up_shexp.weight"),
            "n_group": groups,
            "topk_group": used_groups,
            "norm_topk_prob": fields.bool_or("expert_weights_norm", true)?,
            "routed_scaling_factor": fields.real_or("expert_weights_scale", 1.0)?,
            "moe_latent_size": fields.value("moe_latent_size").map(|_| fields.whole("moe_latent_size")).transpose()?,
        });
        extend(&mut config, more);
    }
    Ok(Described {
        heads: heads.counts(),
        blocks: Some(blocks),
        ..Described::of(&NEMOTRON_H_NAMES, config)
    })
}

fn extend(config: &mut Json, more: Json) {
    if let (Some(config), Json::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
}

fn qwen(fields: &Fields, shapes: &Shapes, model_type: &str) -> Result<Described, GgufError> {
    fields.expect_absent("rope.scaling.type")?;
    let (blocks, width) = (blocks(fields)?, fields.whole("embedding_length")?);
    let heads = Heads::new(fields, width)?;
    let (inner, values) = (
        fields.whole("ssm.inner_size")?,
        fields.whole("ssm.time_step_rank")?,
    );
    let delta = DeltaHeads {
        keys: fields.whole("ssm.group_count")?,
        values,
        key_width: fields.whole("ssm.state_size")?,
        value_width: inner.checked_div(values).unwrap_or(0),
    };
    let widths = [delta.keys, delta.key_width, delta.value_width];
    if widths.contains(&0) || !values.is_multiple_of(delta.keys) || delta.value_width * values != inner {
        return Err(fields.wrong(
            "ssm.time_step_rank",
            "a number of heads that divides ssm.inner_size, a multiple of ssm.group_count",
        ));
    }
    let attends = having(shapes, blocks, "attn_q.weight").into_iter();
    let words: Vec<&str> = attends
        .map(|attends| {
            if attends {
                "full_attention"
            } else {
                "linear_attention"
            }
        })
        .collect();
    let dense = having(shapes, blocks, "ffn_gate.weight");
    let dense: Vec<usize> = (0..blocks).filter(|block| dense[*block]).collect();
    let turned = fields.whole_or("rope.dimension_count", heads.width / 4)? as f64;
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "layer_types": words,
        "intermediate_size": rows_in(shapes, blocks, "ffn_up.weight").max(1),
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": heads.width,
        "linear_num_key_heads": delta.keys,
        "linear_num_value_heads": values,
        "linear_key_head_dim": delta.key_width,
        "linear_value_head_dim": delta.value_width,
        "linear_conv_kernel_dim": fields.whole("ssm.conv_kernel")?,
        "rms_norm_eps": fields.real_or(EPSILON, 1e-6)?,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": fields.real_or("rope.freq_base", 10_000.0)?,
            "partial_rotary_factor": turned / heads.width.max(1) as f64,
        },
    });
    if shapes.in_blocks(blocks, "ffn_gate_inp.weight").is_some() {
        let more = json!({
            "num_experts": fields.whole("expert_count")?,
            "num_experts_per_tok": fields.whole("expert_used_count")?,
            "moe_intermediate_size": match shapes.in_blocks(blocks, "ffn_down_exps.weight") {
                Some([.., columns]) => *columns,
                _ => 0,
            },
            "shared_expert_intermediate_size": rows_in(shapes, blocks, "ffn_up_shexp.weight"),
            "norm_topk_prob": true,
            "mlp_only_layers": dense,
        });
        extend(&mut config, more);
    }
    let names = match model_type {
        "qwen3_next" => &QWEN3_NEXT_NAMES,
        _ => &QWEN35_NAMES,
    };
    Ok(Described {
        heads: HeadCounts {
            delta,
            ..HeadCounts::default()
        },
        blocks: Some(blocks),
        ..Described::of(names, config)
    })
}

/// What llama.cpp calls a router of sigmoids.
const SIGMOID: usize = 2;

fn kimi_linear(fields: &Fields, shapes: &Shapes) -> Result<Described, GgufError> {
    let blocks = blocks(fields)?;
    if fields.whole_or("expert_gating_func", SIGMOID)? != SIGMOID {
        return Err(fields.wrong("expert_gating_func", "2 (sigmoids)"));
    }
    fields.expect_absent("moe_latent_size")?;
    let (shared_dim, key) = (
        fields.whole("rope.dimension_count")?,
        fields.whole("attention.key_length_mla")?,
    );
    let Some(own_dim) = key.checked_sub(shared_dim) else {
        return Err(fields.wrong("attention.key_length_mla", "at least rope.dimension_count"));
    };
    let attends = |block: usize| shapes.has(&format!("blk.{block}.attn_kv_a_mqa.weight"));
    let (full, recurrent): (Vec<usize>, Vec<usize>) = (0..blocks).partition(|block| attends(*block));
    // The lists of the configuration count from 1.
    let counted = |list: Vec<usize>| list.into_iter().map(|block| block + 1).collect::<Vec<_>>();
    let heads = shapes
        .in_blocks(blocks, "ssm_a")
        .map_or(0, |shape| shape.iter().product::<usize>());
    let expert_dim = rows_in(shapes, blocks, "ffn_up_exps.weight");
    let mut config = json!({
        "model_type": "kimi_linear",
        "hidden_size": fields.whole("embedding_length")?,
        "num_hidden_layers": blocks,
        "intermediate_size": fields.whole_or_largest("feed_forward_length")?,
        "num_attention_heads": fields.whole_or_largest("attention.head_count")?,
        "kv_lora_rank": fields.whole("attention.kv_lora_rank")?,
        "q_lora_rank": fields.value("attention.q_lora_rank").map(|_| fields.whole("attention.q_lora_rank")).transpose()?,
        "qk_nope_head_dim": own_dim,
        "qk_rope_head_dim": shared_dim,
        "v_head_dim": fields.whole("attention.value_length_mla")?,
        "mla_use_nope": true,
        "rms_norm_eps": fields.real_or(EPSILON, 1e-5)?,
        "linear_attn_config": {
            "kda_layers": counted(recurrent),
            "full_attn_layers": counted(full),
            "num_heads": heads,
            "head_dim": fields.whole("kda.head_dim")?,
            "short_conv_kernel_size": fields.whole("ssm.conv_kernel")?,
        },
    });
    let shared_rows = rows_in(shapes, blocks, "ffn_up_shexp.weight");
    // No experts have no width.
    if let Some(shared_experts) = shared_rows.checked_div(expert_dim) {
        let groups = fields.whole_or("expert_group_count", 1)?.max(1);
        let more = json!({
            "num_experts": fields.whole("expert_count")?,
            "num_experts_per_token": fields.whole("expert_used_count")?,
            "num_shared_experts": shared_experts,
            "moe_intermediate_size": expert_dim,
            "first_k_dense_replace": fields.whole_or("leading_dense_block_count", 0)?,
            "moe_layer_freq": 1,
            "moe_renormalize": fields.bool_or("expert_weights_norm", true)?,
            "moe_router_activation_func": "sigmoid",
            "num_expert_group": groups,
            "topk_group": if groups == 1 { 1 } else { fields.whole("expert_group_used_count")? },
            "routed_scaling_factor": fields.real_or("expert_weights_scale", 1.0)?,
        });
        extend(&mut config, more);
    }
    Ok(Described::of(&KIMI_LINEAR_NAMES, config))
}
