//! Rotary positions as configurations of Hugging Face give them.
//!
//! | field | meaning |
//! |---|---|
//! | `rope_theta` | base of the angles |
//! | `partial_rotary_factor` | share of the values of a head that are turned |
//! | `rope_parameters`, `rope_scaling` | objects in which newer files have these fields; they count before those outside |
//! | `rope_type`, `type` in them | `"default"`: angles that are not rescaled; `"llama3"` where a layout follows it; others are refused |
//! | `factor`, `low_freq_factor`, `high_freq_factor`, `original_max_position_embeddings` beside `"llama3"` | see [`RotaryScaling`] |
//!
//! `mrope_section` and `mrope_interleaved` divide the angles among time, height and width of images. Text has one position for all three, so
//! that they say nothing here.

use spillway_ssm_core::operators::{Pairing, RotaryPlan, RotaryScaling};

use crate::checkpoint::{CheckpointError, Fields};

/// What is taken where a configuration does not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub base: f32,
    pub share: f32,
    /// Whether angles may be rescaled as Llama 3's are.
    pub llama3: bool,
}

impl Defaults {
    /// Angles that are not rescaled.
    pub fn plain(base: f32, share: f32) -> Self {
        Self {
            base,
            share,
            llama3: false,
        }
    }
}

/// How heads of `head_dim` values are turned.
///
/// # Errors
/// [`CheckpointError::Field`] for a field of the wrong type or a share that is no even number of values,
/// [`CheckpointError::Unsupported`] for rescaled angles.
pub(crate) fn rotary(
    fields: &Fields<'_>,
    head_dim: usize,
    defaults: Defaults,
) -> Result<RotaryPlan, CheckpointError> {
    let mut base = fields.positive_or("rope_theta", defaults.base)?;
    let mut share = fields.positive_or("partial_rotary_factor", defaults.share)?;
    let (mut holder, mut scaling) = (fields.clone(), None);
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = fields.object(name)? else {
            continue;
        };
        for kind in ["rope_type", "type"] {
            match rope.text(kind)? {
                None | Some("default") => {}
                Some("llama3") if defaults.llama3 => scaling = Some(llama3(&rope)?),
                Some(_) if defaults.llama3 => {
                    return Err(
                        rope.unsupported(kind, "\"default\" (angles that are not rescaled) or \"llama3\"")
                    );
                }
                Some(_) => return Err(rope.unsupported(kind, "\"default\" (angles that are not rescaled)")),
            }
        }
        base = rope.positive_or("rope_theta", base)?;
        if rope.has("partial_rotary_factor") {
            share = rope.positive_or("partial_rotary_factor", share)?;
            holder = rope;
        }
    }
    let plan = RotaryPlan {
        base,
        // A share such as 0.7 is a little less in f32.
        rotated_dim: (head_dim as f64 * f64::from(share) + 1e-3) as usize,
        pairing: Pairing::Halves,
        scaling,
    };
    match plan.validate(head_dim) {
        Ok(()) => Ok(plan),
        Err(_) if share == 1.0 => Err(fields.wrong("head_dim", "an even number", Some(&head_dim.into()))),
        Err(_) => {
            let expected = format!("a share of head_dim = {head_dim} that is even and at most the whole");
            Err(holder.wrong("partial_rotary_factor", &expected, Some(&share.into())))
        }
    }
}

/// The four numbers of `"llama3"`, none of which has a default.
fn llama3(rope: &Fields<'_>) -> Result<RotaryScaling, CheckpointError> {
    let number = |name: &str| match rope.has(name) {
        true => rope.positive_or(name, 1.0),
        false => Err(rope.wrong(name, "a positive finite number", None)),
    };
    let scaling = RotaryScaling {
        factor: number("factor")?,
        low: number("low_freq_factor")?,
        high: number("high_freq_factor")?,
        length: number("original_max_position_embeddings")?,
    };
    if scaling.factor < 1.0 {
        return Err(rope.wrong("factor", "at least 1", rope.value("factor")));
    }
    match scaling.low < scaling.high {
        true => Ok(scaling),
        false => {
            let expected = format!("more than low_freq_factor = {}", scaling.low);
            Err(rope.wrong("high_freq_factor", &expected, rope.value("high_freq_factor")))
        }
    }
}
