//! Fields of a configuration that change what a model computes, wherever they come from: a layout that does not look at one of them does not
//! follow it, and refuses a file in which it says something.
//!
//! A layout refuses by name what it knows of itself. This is for the others: a fine-tune or a newer version of a model with a cap on its
//! logits or weights of few bits has the same `model_type` and the same tensors.

use serde_json::Value;

use crate::checkpoint::{CheckpointError, Fields};

/// What a field says where it changes nothing.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    /// Absent or null, `false` or 0.
    Nothing,
    /// The number 1: a factor that changes nothing.
    One,
    /// A number of at most 1: one expert, or none, is no mixture of experts.
    AtMostOne,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        let number = value.as_f64();
        match self {
            Self::Nothing => value == &Value::Bool(false) || number == Some(0.0),
            Self::One => number == Some(1.0),
            Self::AtMostOne => number.is_some_and(|number| number <= 1.0),
        }
    }
}

const FIELDS: &[(&str, Neutral)] = &[
    ("alibi", Neutral::Nothing),
    ("attention_multiplier", Neutral::One),
    ("attn_logit_softcapping", Neutral::Nothing),
    ("clip_qkv", Neutral::Nothing),
    ("embedding_multiplier", Neutral::One),
    ("final_logit_softcapping", Neutral::Nothing),
    ("key_multiplier", Neutral::One),
    ("lm_head_multiplier", Neutral::One),
    ("logit_scale", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("num_experts", Neutral::AtMostOne),
    ("num_local_experts", Neutral::AtMostOne),
    ("quantization_config", Neutral::Nothing),
    ("residual_multiplier", Neutral::One),
    ("router_logit_softcapping", Neutral::Nothing),
    ("scale_emb", Neutral::One),
    ("use_alibi", Neutral::Nothing),
    ("use_qk_norm", Neutral::Nothing),
];

/// Refuses a configuration, which a layout has read, for what of it the layout does not follow.
///
/// # Errors
/// [`CheckpointError::Unsupported`], naming the first such field.
pub(crate) fn expect(fields: &Fields<'_>) -> Result<(), CheckpointError> {
    for (name, neutral) in FIELDS {
        // Looking at the field makes it one that was read.
        let was_read = fields.is_read(name);
        if let Some(value) = fields.value(name)
            && !was_read
            && !neutral.is(value)
        {
            let accepted = match neutral {
                Neutral::Nothing => "null (this layout does not follow the field)",
                Neutral::One => "1 (this layout does not follow the field)",
                Neutral::AtMostOne => "1 or none (this layout has no experts)",
            };
            return Err(fields.unsupported(name, accepted));
        }
    }
    Ok(())
}
