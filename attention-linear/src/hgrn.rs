//! HGRN: a gated linear recurrence of vectors, without keys.
//!
//! ```text
//! h_t = e^{g_t} ∘ h_{t-1} + x_t        y_t = h_t
//! ```
//!
//! Every channel is a head with a 1×1 state, and queries and keys are 1. Source: Qin et al., *Hierarchically Gated Recurrent
//! Neural Network* (2311.04823), equation 4.

use burn::tensor::Tensor;
use ssm_core::{Gates, LogDecay, ReadOut, Result};

/// The gates of a stretch of tokens; read-out and state are `[batch, time, channels, 1]` and `[batch, channels, 1, 1]`.
///
/// # Shapes
/// `input` x and `log_decay` g `[batch, time, channels]`.
///
/// # Errors
/// [`ssm_core::Error`] when the shapes do not fit one another.
pub fn gates(input: Tensor<3>, log_decay: Tensor<3>) -> Result<Gates> {
    let [batch, time, _] = input.dims();
    let one = Tensor::<4>::ones([batch, time, 1, 1], &input.device()).cast(input.dtype());
    let gates = Gates {
        query: one.clone(),
        key: one,
        value: input.unsqueeze_dim(3),
        log_decay: LogDecay::PerHeadToken(log_decay),
        step_size: None,
        erase: ssm_core::Erase::None,
        read_out: ReadOut::Inclusive,
        skip: None,
        scale: 1.0,
    };
    gates.validate()?;
    Ok(gates)
}
