//! C of the C̃ = C (I − Ā^L) that S4 keeps for kernels of L taps.

use crate::backend::host;
use crate::error::{Error, Result};
use crate::operators::linear_state_space::LinearSystem;
use crate::state_space::{Complex64, Discretisation, Dplr, StateSpace as _, TruncatedOutput};
use burn::tensor::{Tensor, TensorData};

/// C = C̃ (I − Ā^L)⁻¹ of every channel and output, in f64.
pub(super) fn untruncated(system: &LinearSystem, length: usize) -> Result<Tensor<4>> {
    let [outputs, channels, modes, _] = system.c.dims();
    let copies = system.a.dims()[0];
    let (a, b, c) = (
        complex(system.a.clone())?,
        complex(system.b.clone())?,
        complex(system.c.clone())?,
    );
    let p = system
        .low_rank
        .clone()
        .map(complex)
        .transpose()?
        .unwrap_or_default();
    let steps = values(system.step_size.clone())?;
    let mut found = Vec::with_capacity(2 * outputs * channels * modes);
    for (row, truncated) in c.chunks_exact(modes).enumerate() {
        let (channel, copy) = (row % channels, row % channels % copies);
        let of_copy = |values: &[Complex64]| values[copy * modes..][..modes].to_vec();
        let low_rank = p.chunks_exact(copies * modes).map(of_copy).collect();
        let truncated = TruncatedOutput {
            output: truncated.to_vec(),
            length,
        };
        let output = Dplr::new(of_copy(&a), low_rank, of_copy(&b), truncated.output.clone(), 0.0)
            .and_then(|continuous| continuous.discretise(Discretisation::BILINEAR, f64::from(steps[channel])))
            .and_then(|discrete| discrete.untruncate(&truncated))
            .map_err(|error| Error::Value {
                what: "kernel.C of an S4 block, which is kept for kernels of one length",
                expected: "a C that it can be taken back to",
                found: error.to_string(),
            })?;
        found.extend(interleaved(&output));
    }
    let data = TensorData::new(found, [outputs, channels, modes, 2]);
    Ok(Tensor::from_data(data, &system.c.device()))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    host::values(tensor).map_err(|reason| Error::Kernel {
        operation: "reading the parameters of an S4 block",
        reason,
    })
}

fn complex<const D: usize>(tensor: Tensor<D>) -> Result<Vec<Complex64>> {
    let values = values(tensor)?;
    let pairs = values.chunks_exact(2);
    Ok(pairs
        .map(|pair| Complex64::new(f64::from(pair[0]), f64::from(pair[1])))
        .collect())
}

/// Real and imaginary parts, one after another.
pub(super) fn interleaved(values: &[Complex64]) -> Vec<f32> {
    values.iter().flat_map(|z| [z.re as f32, z.im as f32]).collect()
}
