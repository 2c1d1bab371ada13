//! The fields that the conversions of llama.cpp write for hybrids.

use super::conversion::Source;
use super::file::Value;

/// The fields that a conversion writes.
pub fn fields(source: &Source) -> Vec<(String, Value)> {
    let architecture = source.architecture.as_str();
    let mut fields = vec![(
        "general.architecture".to_string(),
        Value::Text(architecture.into()),
    )];
    let mut put = |name: &str, value: Value| fields.push((format!("{architecture}.{name}"), value));
    let whole = |name: &str| Value::Whole(source.whole(name) as u32);
    let layers = source.whole("num_hidden_layers");
    put("block_count", Value::Whole(layers as u32));
    put("embedding_length", whole("hidden_size"));
    put("attention.head_count", whole("num_attention_heads"));
    let eps = ["rms_norm_eps", "layer_norm_epsilon"]
        .into_iter()
        .find(|name| source.config[*name].is_number())
        .unwrap();
    put("attention.layer_norm_rms_epsilon", Value::Real(source.real(eps)));
    let theta = source.config["rope_parameters"]["rope_theta"].as_f64();
    if let Some(theta) = theta {
        put("rope.freq_base", Value::Real(theta as f32));
    }
    let kv = source.whole("num_key_value_heads") as u32;
    let kv_of = |attends: &dyn Fn(usize) -> bool| {
        Value::Wholes(
            (0..layers)
                .map(|layer| if attends(layer) { kv } else { 0 })
                .collect(),
        )
    };
    match architecture {
        "jamba" => {
            let (period, offset) = (
                source.whole("attn_layer_period"),
                source.whole("attn_layer_offset"),
            );
            put(
                "attention.head_count_kv",
                kv_of(&|layer| layer % period == offset),
            );
            put("feed_forward_length", whole("intermediate_size"));
            put("ssm.conv_kernel", whole("mamba_d_conv"));
            put("ssm.inner_size", Value::Whole(96));
            put("ssm.state_size", whole("mamba_d_state"));
            put("ssm.time_step_rank", whole("mamba_dt_rank"));
            put("expert_count", whole("num_experts"));
            put("expert_used_count", whole("num_experts_per_tok"));
        }
        "falcon-h1" | "granitehybrid" => {
            put("ssm.conv_kernel", whole("mamba_d_conv"));
            put("ssm.state_size", whole("mamba_d_state"));
            put("ssm.time_step_rank", whole("mamba_n_heads"));
            put("ssm.group_count", whole("mamba_n_groups"));
            put(
                "ssm.inner_size",
                Value::Whole((source.whole("mamba_n_heads") * source.whole("mamba_d_head")) as u32),
            );
            put("feed_forward_length", whole("intermediate_size"));
            if architecture == "falcon-h1" {
                put("attention.head_count_kv", Value::Whole(kv));
                put(
                    "attention.key_length",
                    Value::Whole((source.whole("hidden_size") / source.whole("num_attention_heads")) as u32),
                );
            } else {
                let kinds = source.config["layer_types"].as_array().unwrap().clone();
                put(
                    "attention.head_count_kv",
                    kv_of(&|layer| kinds[layer] == "attention"),
                );
                put(
                    "attention.scale",
                    Value::Real(source.real("attention_multiplier")),
                );
                put(
                    "embedding_scale",
                    Value::Real(source.real("embedding_multiplier")),
                );
                put("residual_scale", Value::Real(source.real("residual_multiplier")));
                put("logit_scale", Value::Real(source.real("logits_scaling")));
                put("rope.scaling.finetuned", Value::Bool(false));
                put("expert_count", whole("num_local_experts"));
                put("expert_used_count", whole("num_experts_per_tok"));
            }
        }
        "nemotron_h_moe" => {
            let pattern = source.config["hybrid_override_pattern"]
                .as_str()
                .unwrap()
                .as_bytes()
                .to_vec();
            put("attention.head_count_kv", kv_of(&|layer| pattern[layer] == b'*'));
            put("attention.key_length", whole("head_dim"));
            put("ssm.conv_kernel", whole("conv_kernel"));
            put("ssm.state_size", whole("ssm_state_size"));
            put("ssm.time_step_rank", whole("mamba_num_heads"));
            put("ssm.group_count", whole("n_groups"));
            put(
                "ssm.inner_size",
                Value::Whole((source.whole("mamba_num_heads") * source.whole("mamba_head_dim")) as u32),
            );
            put("expert_count", whole("n_routed_experts"));
            put("expert_used_count", whole("num_experts_per_tok"));
            put("expert_weights_norm", Value::Bool(true));
            put(
                "expert_weights_scale",
                Value::Real(source.real("routed_scaling_factor")),
            );
            put("expert_group_count", whole("n_group"));
        }
        "qwen3next" | "qwen35" | "qwen35moe" => {
            put("attention.head_count_kv", Value::Whole(kv));
            put("attention.key_length", whole("head_dim"));
            if architecture != "qwen35moe" {
                put("feed_forward_length", whole("intermediate_size"));
            }

            put(
                "rope.dimension_count",
                Value::Whole(source.whole("head_dim") as u32 / 4),
            );
            put("ssm.conv_kernel", whole("linear_conv_kernel_dim"));
            put("ssm.state_size", whole("linear_key_head_dim"));
            put("ssm.group_count", whole("linear_num_key_heads"));
            put("ssm.time_step_rank", whole("linear_num_value_heads"));
            put(
                "ssm.inner_size",
                Value::Whole(
                    (source.whole("linear_num_value_heads") * source.whole("linear_value_head_dim")) as u32,
                ),
            );
            if architecture != "qwen35" {
                put("expert_count", whole("num_experts"));
                put("expert_used_count", whole("num_experts_per_tok"));
            }
        }
        _ => {
            let linear = &source.config["linear_attn_config"];
            let full: Vec<u64> = linear["full_attn_layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|layer| layer.as_u64().unwrap())
                .collect();
            let counts = (0..layers as u64).map(|layer| u32::from(full.contains(&(layer + 1))));
            put("attention.head_count_kv", Value::Wholes(counts.collect()));
            put("feed_forward_length", whole("intermediate_size"));
            put(
                "ssm.conv_kernel",
                Value::Whole(linear["short_conv_kernel_size"].as_u64().unwrap() as u32),
            );
            put(
                "kda.head_dim",
                Value::Whole(linear["head_dim"].as_u64().unwrap() as u32),
            );
            put("attention.kv_lora_rank", whole("kv_lora_rank"));
            put("rope.dimension_count", whole("qk_rope_head_dim"));
            put(
                "attention.key_length_mla",
                Value::Whole((source.whole("qk_nope_head_dim") + source.whole("qk_rope_head_dim")) as u32),
            );
            put("attention.value_length_mla", whole("v_head_dim"));
            put("expert_count", whole("num_experts"));
            put("expert_used_count", whole("num_experts_per_token"));
            put("expert_shared_count", whole("num_shared_experts"));
            put("leading_dense_block_count", whole("first_k_dense_replace"));
            put(
                "expert_weights_scale",
                Value::Real(source.real("routed_scaling_factor")),
            );
            put("expert_gating_func", Value::Whole(2));
        }
    }
    fields
}
