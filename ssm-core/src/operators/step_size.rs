//! Step sizes and decays of a discretised recurrence.

use crate::backend::{Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
use spillway_kernel_dsl::step_size as kernel;

/// Δ = clamp(softplus(raw + bias), limit) and log α = −Δ e^{A_log}, as in Mamba-2.
///
/// The clamp comes after the softplus; where it binds, Δ passes no gradient on. Source: Dao & Gu, *Transformers are SSMs*
/// (2405.21060), section 7.
///
/// # Shapes
/// `raw` and both results `[batch, time, heads]`, the results in f32; `bias`, `a_log` `[heads]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::Value`] for bounds out of order, [`Error::Device`] and [`Error::DType`].
pub fn step_size(
    raw: Tensor<3>,
    bias: Tensor<1>,
    a_log: Tensor<1>,
    limit: (f32, f32),
) -> Result<(Tensor<3>, Tensor<3>)> {
    let heads = raw.dims()[2];
    expect_shape("bias of the step sizes", &[heads], &bias.dims())?;
    expect_shape("A_log", &[heads], &a_log.dims())?;
    expect_limit(limit)?;
    let inputs = kernel::Operands {
        raw: raw.into(),
        bias: bias.into(),
        a_log: a_log.into(),
    };
    let kernel::Results { step, log_decay } = run(StepSize { limit }, inputs)?;
    Ok((Tensor::from_dispatch(step), Tensor::from_dispatch(log_decay)))
}

pub(crate) fn expect_limit((low, high): (f32, f32)) -> Result<()> {
    if low >= 0.0 && low <= high {
        return Ok(());
    }
    Err(Error::Value {
        what: "dt_limit",
        expected: "0 ≤ lower bound ≤ upper bound",
        found: format!("({low}, {high})"),
    })
}

#[derive(Debug)]
struct StepSize {
    limit: (f32, f32),
}

impl StepSize {
    fn problem(&self, inputs: &kernel::Operands<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        kernel::Problem {
            tokens: inputs.raw[0] * inputs.raw[1],
            heads: inputs.raw[2],
            limit: self.limit,
        }
    }

    /// A step size of half precision would forget what the sums of log decays need.
    fn results(&self, inputs: kernel::Operands<Spec, Spec>) -> kernel::Results<Spec> {
        let step = Spec::new(inputs.raw.shape, DType::F32);
        kernel::Results {
            log_decay: step.clone(),
            step,
        }
    }
}

over_rows! {
    StepSize, "step_size", kernel;
    inputs<R, V>;
    outputs<R>;
    functions: step_size, backward;
}
