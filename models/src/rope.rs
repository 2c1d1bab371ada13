//! Rotary positions as configurations of Hugging Face give them.
//!
//! | field | meaning |
//! |---|---|
//! | `rope_theta` | base of the angles (10000) |
//! | `partial_rotary_factor` | share of the values of a head that are turned |
//! | `rope_parameters`, `rope_scaling` | objects in which newer files have these fields; they count before those outside |
//! | `rope_type`, `type` in them | `"default"`: angles that are not rescaled; others are refused |
//!
//! `mrope_section` and `mrope_interleaved` divide the angles among time, height and width of images. Text has one position for all three, so
//! that they say nothing here.

use spillway_ssm_core::operators::{Pairing, RotaryPlan};

use crate::checkpoint::{CheckpointError, Fields};

/// How heads of `head_dim` values are turned; `share` of them where the configuration does not say how many.
///
/// # Errors
/// [`CheckpointError::Field`] for a field of the wrong type or a share that is no even number of values,
/// [`CheckpointError::Unsupported`] for rescaled angles.
pub(crate) fn rotary(
    fields: &Fields<'_>,
    head_dim: usize,
    share: f32,
) -> Result<RotaryPlan, CheckpointError> {
    let mut base = fields.positive_or("rope_theta", 10_000.0)?;
    let mut share = fields.positive_or("partial_rotary_factor", share)?;
    let mut holder = fields.clone();
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = fields.object(name)? else {
            continue;
        };
        for kind in ["rope_type", "type"] {
            if !matches!(rope.text(kind)?, None | Some("default")) {
                return Err(rope.unsupported(kind, "\"default\" (angles that are not rescaled)"));
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
        rotated_dim: (head_dim as f32 * share) as usize,
        pairing: Pairing::Halves,
    };
    match plan.validate(head_dim) {
        Ok(()) => Ok(plan),
        Err(_) if share == 1.0 => Err(fields.wrong("head_dim", "an even number", Some(&head_dim.into()))),
        Err(_) => {
            let expected =
                format!("a share of the {head_dim} values of a head that is an even number of them");
            Err(holder.wrong("partial_rotary_factor", &expected, Some(&share.into())))
        }
    }
}
