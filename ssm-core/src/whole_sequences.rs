//! What layers that read whole sequences have in common: nothing comes before a call, and padding counts for nothing.

use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{Tensor, TensorData};

/// Refuses to go on from earlier tokens; `expected` says why there is nothing to go on from.
pub(crate) fn expect_first(positions: &[u64], expected: &'static str) -> Result<()> {
    match positions.iter().max().copied().unwrap_or(0) {
        0 => Ok(()),
        earlier => Err(Error::Value {
            what: "tokens before those of a call",
            expected,
            found: earlier.to_string(),
        }),
    }
}

/// Zeros in the place of what comes after the first `lengths` tokens of each sequence.
pub(crate) fn before_padding(input: Tensor<3>, lengths: &[usize]) -> Result<Tensor<3>> {
    let [batch, time, _] = input.dims();
    expect_shape("lengths of sequences", &[batch], &[lengths.len()])?;
    let counts = lengths
        .iter()
        .flat_map(|length| (0..time).map(move |step| if step < *length { 1.0_f32 } else { 0.0 }));
    let counts = TensorData::new(counts.collect::<Vec<_>>(), [batch, time, 1]);
    let device = input.device();
    Ok(input * Tensor::from_data(counts, &device))
}
