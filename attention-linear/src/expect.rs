//! What the mixers of this crate ask of their weights, as errors.

use ssm_core::{Error, Linear, Result};

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

/// A projection goes from `from` features `to` that many.
pub(crate) fn projection(what: &'static str, linear: &Linear, to: usize, from: usize) -> Result<()> {
    let weight = linear.weight();
    shape(what, &[to, from], &[weight.out_features(), weight.in_features()])
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
