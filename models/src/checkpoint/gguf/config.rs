//! What `config.json` would say of a GGUF file.

use serde_json::json;

use super::container::{Container, Value};
use super::conversion::HeadCounts;
use super::described::{Described, Shapes};
use super::error::GgufError;
use super::fields::{EPSILON, Fields, field};
use super::names::{LLAMA_NAMES, MAMBA1_NAMES, MAMBA2_NAMES, RWKV6_NAMES, RWKV7_NAMES};
use super::{Tensors, hybrids, rope_factors};
use crate::checkpoint::header::Dtype;

impl Described {
    /// What a file of `bytes` says of its model; `container` is the file's header, `stored` its tensors by their names there.
    pub fn new(container: &Container, stored: &Tensors, bytes: &[u8]) -> Result<Self, GgufError> {
        let fields = Fields::new(&container.fields)?;
        let shapes = Shapes::new(&container.tensors);
        let mut described = match fields.architecture {
            "mamba" => mamba(&fields, shapes.of("blk.0.ssm_x.weight"))?,
            "mamba2" => mamba2(&fields)?,
            "llama" => llama(&fields, singles(stored, bytes, "rope_freqs.weight"))?,
            // Everything follows from the shapes of the tensors.
            "rwkv6" => rwkv6(&fields)?,
            "rwkv7" => Self {
                heads: HeadCounts {
                    width: fields.whole("wkv.head_size")?,
                    ..HeadCounts::default()
                },
                ..Self::of(&RWKV7_NAMES, json!({ "model_type": "rwkv7" }))
            },
            _ => hybrids::described(&fields, &shapes)?,
        };
        let has_head = shapes.has("output.weight");
        let vocab_size = shapes
            .of("token_embd.weight")
            .first()
            .copied()
            .unwrap_or_default();
        let config = &mut described.config;
        if !fields.architecture.starts_with("rwkv") {
            config.insert("vocab_size".into(), vocab_size.into());
            config.insert("tie_word_embeddings".into(), (!has_head).into());
        }
        for token in ["bos", "eos"] {
            let key = format!("tokenizer.ggml.{token}_token_id");
            if let Some(Value::Whole(id)) = container.fields.get(&key)
                && let Ok(id) = u64::try_from(*id)
            {
                config.insert(format!("{token}_token_id"), id.into());
            }
        }
        Ok(described)
    }
}

fn mamba(fields: &Fields, x_projection: &[usize]) -> Result<Described, GgufError> {
    let rank = fields.whole("ssm.time_step_rank")?;
    let state_size = fields.whole("ssm.state_size")?;
    if let [rows, _] = x_projection
        && *rows != rank + 2 * state_size
    {
        let key = fields.key("ssm.time_step_rank");
        let rows = Value::Whole(*rows as i128);
        let expected = "the rows of ssm_x without twice the state size";
        return Err(field(&key, expected, Some(&rows)));
    }
    // Norms of Δ, B and C are Falcon-Mamba's.
    let model_type = match fields.bool_or("ssm.dt_b_c_rms", false)? {
        true => "falcon_mamba",
        false => "mamba",
    };
    Ok(Described::of(
        &MAMBA1_NAMES,
        json!({
            "model_type": model_type,
            "hidden_size": fields.whole("embedding_length")?,
            "num_hidden_layers": fields.whole("block_count")?,
            "intermediate_size": fields.whole("ssm.inner_size")?,
            "state_size": state_size,
            "conv_kernel": fields.whole("ssm.conv_kernel")?,
            "time_step_rank": rank,
            "layer_norm_epsilon": fields.real_or(EPSILON, 1e-5)?,
            "use_bias": false,
            "use_conv_bias": true,
        }),
    ))
}

fn mamba2(fields: &Fields) -> Result<Described, GgufError> {
    let (width, inner) = (fields.whole("embedding_length")?, fields.whole("ssm.inner_size")?);
    let heads = fields.whole("ssm.time_step_rank")?;
    if width == 0 || heads == 0 || !inner.is_multiple_of(width) || !inner.is_multiple_of(heads) {
        return Err(fields.wrong("ssm.inner_size", "a multiple of the width and of the heads"));
    }
    Ok(Described::of(
        &MAMBA2_NAMES,
        json!({
            "model_type": "mamba2",
            "hidden_size": width,
            "num_hidden_layers": fields.whole("block_count")?,
            "expand": inner / width,
            "num_heads": heads,
            "head_dim": inner / heads,
            "n_groups": fields.whole_or("ssm.group_count", 1)?,
            "state_size": fields.whole("ssm.state_size")?,
            "conv_kernel": fields.whole("ssm.conv_kernel")?,
            "layer_norm_epsilon": fields.real_or(EPSILON, 1e-5)?,
            "use_bias": false,
            "use_conv_bias": true,
        }),
    ))
}

/// Files of `Rwkv6ForCausalLM` have the output matrices of later blocks halved, as the residual stream is by the program that reads them.
fn rwkv6(fields: &Fields) -> Result<Described, GgufError> {
    Ok(Described {
        heads: HeadCounts {
            rescale_every: fields.whole_or("rescale_every_n_layers", 0)?,
            ..HeadCounts::default()
        },
        ..Described::of(&RWKV6_NAMES, json!({ "model_type": "rwkv6" }))
    })
}

/// `factors` are the quotients of angles that are rescaled as Llama 3's.
fn llama(fields: &Fields, factors: Option<Vec<f32>>) -> Result<Described, GgufError> {
    fields.expect_absent("rope.scaling.type")?;
    fields.expect_absent("expert_count")?;
    let (width, heads) = (
        fields.whole("embedding_length")?,
        fields.whole("attention.head_count")?,
    );
    let kv_heads = fields.whole_or("attention.head_count_kv", heads)?;
    let head_dim = fields.whole_or("attention.key_length", width.checked_div(heads).unwrap_or(0))?;
    if fields.whole_or("rope.dimension_count", head_dim)? != head_dim {
        return Err(fields.wrong("rope.dimension_count", "the width of a head"));
    }
    let base = fields.real_or("rope.freq_base", 10000.0)?;
    let parameters = match factors {
        None => json!({ "rope_type": "default", "rope_theta": base }),
        Some(factors) => rope_factors::parameters(&factors, base).ok_or_else(|| GgufError::Tensor {
            tensor: "rope_freqs.weight".into(),
            reason: "expected the quotients of Llama 3's rescaled angles".into(),
        })?,
    };
    let described = Described::of(
        &LLAMA_NAMES,
        json!({
            "model_type": "llama",
            "hidden_size": width,
            "num_hidden_layers": fields.whole("block_count")?,
            "intermediate_size": fields.whole("feed_forward_length")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "rms_norm_eps": fields.real_or(EPSILON, 1e-6)?,
            "rope_parameters": parameters,
            "max_position_embeddings": fields.whole_or("context_length", 2048)?,
            "hidden_act": "silu",
        }),
    );
    Ok(Described {
        heads: HeadCounts {
            queries: heads,
            keys: kv_heads,
            ..HeadCounts::default()
        },
        ..described
    })
}

/// The values of a tensor of singles, where there is one.
fn singles(stored: &Tensors, bytes: &[u8], name: &str) -> Option<Vec<f32>> {
    let info = stored.get(name).filter(|info| info.dtype == Dtype::F32)?;
    let values = bytes.get(info.begin..info.end)?.as_chunks::<4>().0;
    Some(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}
