//! What `config.json` would say of a GGUF file.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::container::{Container, Value};
use super::error::GgufError;
use super::names::{LLAMA_NAMES, MAMBA1_NAMES, MAMBA2_NAMES, Names, RWKV6_NAMES, RWKV7_NAMES};

/// An architecture as a file has it.
pub(super) struct Described {
    pub names: &'static Names,
    pub config: Map<String, Json>,
    /// Heads of queries, and of keys and values, where there are any.
    pub heads: usize,
    pub kv_heads: usize,
    /// Width of a head of a recurrence, where tensors do not tell.
    pub head_size: usize,
}

impl Described {
    pub fn new(container: &Container) -> Result<Self, GgufError> {
        let fields = Fields::new(&container.fields)?;
        let shape = |name: &str| {
            let found = container.tensors.iter().find(|entry| entry.name == name);
            found.map(|entry| entry.shape.as_slice()).unwrap_or_default()
        };
        let has_head = !shape("output.weight").is_empty();
        let vocab_size = shape("token_embd.weight").first().copied().unwrap_or_default();
        let mut described = match fields.architecture {
            "mamba" => mamba(&fields, shape("blk.0.ssm_x.weight"))?,
            "mamba2" => mamba2(&fields)?,
            "llama" => llama(&fields)?,
            // Everything follows from the shapes of the tensors.
            "rwkv6" => Self::of(&RWKV6_NAMES, json!({ "model_type": "rwkv6" })),
            "rwkv7" => Self {
                head_size: fields.whole("wkv.head_size")?,
                ..Self::of(&RWKV7_NAMES, json!({ "model_type": "rwkv7" }))
            },
            found => return Err(GgufError::Architecture { found: found.into() }),
        };
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

    fn of(names: &'static Names, config: Json) -> Self {
        Self {
            names,
            config: config.as_object().cloned().unwrap_or_default(),
            heads: 0,
            kv_heads: 0,
            head_size: 0,
        }
    }
}

/// The fields of an architecture: `NAME.block_count` is `block_count`.
struct Fields<'a> {
    architecture: &'a str,
    fields: &'a BTreeMap<String, Value>,
}

impl<'a> Fields<'a> {
    fn new(fields: &'a BTreeMap<String, Value>) -> Result<Self, GgufError> {
        match fields.get("general.architecture") {
            Some(Value::Text(architecture)) => Ok(Self { architecture, fields }),
            other => Err(field("general.architecture", "a text", other)),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn whole(&self, name: &str) -> Result<usize, GgufError> {
        let key = self.key(name);
        let value = self.fields.get(&key);
        let number = match value {
            Some(Value::Whole(number)) => usize::try_from(*number).ok(),
            _ => None,
        };
        number.ok_or_else(|| field(&key, "a whole number", value))
    }

    fn whole_or(&self, name: &str, otherwise: usize) -> Result<usize, GgufError> {
        match self.fields.contains_key(&self.key(name)) {
            true => self.whole(name),
            false => Ok(otherwise),
        }
    }

    fn real_or(&self, name: &str, otherwise: f64) -> Result<f64, GgufError> {
        let key = self.key(name);
        match self.fields.get(&key) {
            None => Ok(otherwise),
            // As it is written in decimal, not the nearest double of the single that is stored.
            Some(Value::Real(number)) => Ok((*number as f32).to_string().parse().unwrap_or(*number)),
            other => Err(field(&key, "a number", other)),
        }
    }

    /// Refuses what would change results and is not understood.
    fn expect_absent(&self, name: &str) -> Result<(), GgufError> {
        let key = self.key(name);
        match self.fields.get(&key) {
            None => Ok(()),
            Some(Value::Text(text)) if text == "none" => Ok(()),
            found => Err(field(&key, "none", found)),
        }
    }
}

fn field(key: &str, expected: &'static str, found: Option<&Value>) -> GgufError {
    let found = match found {
        None => "nothing".into(),
        Some(Value::Whole(number)) => number.to_string(),
        Some(Value::Real(number)) => number.to_string(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Text(text)) => format!("{text:?}"),
        Some(Value::List(list)) => format!("a list of {}", list.len()),
    };
    GgufError::Field {
        key: key.into(),
        expected,
        found,
    }
}

const EPSILON: &str = "attention.layer_norm_rms_epsilon";

fn mamba(fields: &Fields, x_projection: &[usize]) -> Result<Described, GgufError> {
    // Falcon-Mamba's norms of Δ, B and C have a field of their own.
    fields.expect_absent("ssm.dt_b_c_rms")?;
    let rank = fields.whole("ssm.time_step_rank")?;
    let state_size = fields.whole("ssm.state_size")?;
    if let [rows, _] = x_projection
        && *rows != rank + 2 * state_size
    {
        let key = fields.key("ssm.time_step_rank");
        let rows = Value::Whole(*rows as i128);
        return Err(field(
            &key,
            "the rows of ssm_x without twice the state size",
            Some(&rows),
        ));
    }
    Ok(Described::of(
        &MAMBA1_NAMES,
        json!({
            "model_type": "mamba",
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
        let found = Value::Whole(inner as i128);
        let key = fields.key("ssm.inner_size");
        return Err(field(
            &key,
            "a multiple of the width and of the heads",
            Some(&found),
        ));
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

fn llama(fields: &Fields) -> Result<Described, GgufError> {
    fields.expect_absent("rope.scaling.type")?;
    fields.expect_absent("expert_count")?;
    let (width, heads) = (
        fields.whole("embedding_length")?,
        fields.whole("attention.head_count")?,
    );
    let kv_heads = fields.whole_or("attention.head_count_kv", heads)?;
    let head_dim = fields.whole_or("attention.key_length", width.checked_div(heads).unwrap_or(0))?;
    if fields.whole_or("rope.dimension_count", head_dim)? != head_dim {
        let key = fields.key("rope.dimension_count");
        return Err(field(&key, "the width of a head", fields.fields.get(&key)));
    }
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
            "rope_theta": fields.real_or("rope.freq_base", 10000.0)?,
            "max_position_embeddings": fields.whole_or("context_length", 2048)?,
            "hidden_act": "silu",
        }),
    );
    Ok(Described {
        heads,
        kv_heads,
        ..described
    })
}
