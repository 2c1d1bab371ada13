//! What the mixers of this crate ask of their configurations, as errors.

use spillway_ssm_core::{Error, Result};

/// Two shapes are one.
pub(crate) fn shape(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape {
        what,
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}

/// Every dimension is at least 1.
pub(crate) fn positive(what: &'static str, dimensions: &[usize]) -> Result<()> {
    if !dimensions.contains(&0) {
        return Ok(());
    }
    Err(Error::Value {
        what,
        expected: "all at least 1",
        found: format!("{dimensions:?}"),
    })
}

/// The ε of a norm is a number that is at least 0.
pub(crate) fn epsilon(eps: f32) -> Result<()> {
    if eps >= 0.0 {
        return Ok(());
    }
    Err(Error::Value {
        what: "ε of a norm",
        expected: "at least 0",
        found: eps.to_string(),
    })
}

/// What log decays are divided by is positive and finite.
pub(crate) fn divisor(divisor: f32) -> Result<()> {
    if divisor > 0.0 && divisor.is_finite() {
        return Ok(());
    }
    Err(Error::Value {
        what: "divisor of a log decay",
        expected: "positive and finite",
        found: divisor.to_string(),
    })
}
