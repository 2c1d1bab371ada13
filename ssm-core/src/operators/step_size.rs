//! Step sizes and decays of a discretised recurrence.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::{In, Operator, Out, Spec, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::step_size as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::step_size::cube as device;

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
    fn problem(&self, tokens: usize, heads: usize) -> kernel::Problem {
        kernel::Problem {
            tokens,
            heads,
            limit: self.limit,
        }
    }
}

/// Tensors of raw step sizes as rows.
fn rows(tensor: FlexTensor) -> RowTensor {
    RowTensor::new(tensor, 1)
}

impl Operator for StepSize {
    type Inputs = kernel::Operands<(), ()>;
    type Outputs = kernel::Results<()>;

    fn name(&self) -> &'static str {
        "step_size"
    }

    fn outputs(&self, inputs: In<Self, Spec>) -> Out<Self, Spec> {
        // A step size of half precision would forget what the sums of log decays need.
        let step = Spec::new(inputs.raw.shape, DType::F32);
        kernel::Results {
            log_decay: step.clone(),
            step,
        }
    }

    fn forward_flex(&self, inputs: In<Self, FlexTensor>) -> Out<Self, FlexTensor> {
        let inputs = inputs.map(|_, tensor| rows(tensor), |_, tensor| contiguous(tensor));
        let problem = self.problem(inputs.raw.rows, inputs.raw.cols);
        let mut found = kernel::Results {
            step: inputs.raw.buffer(),
            log_decay: inputs.raw.buffer(),
        };
        let views = inputs
            .as_ref()
            .map(|_, rows| rows.view(), |_, values| slice(values));
        flex::validated(kernel::step_size(&problem, &views, &mut found.as_written()));
        found.map(|_, values| flex::tensor(values, &inputs.raw.dims))
    }

    fn backward_flex(
        &self,
        inputs: In<Self, FlexTensor>,
        cotangents: Out<Self, Option<FlexTensor>>,
    ) -> In<Self, FlexTensor> {
        let shapes = flex::shapes::<Self::Inputs>(&inputs);
        let mut found = flex::buffers::<Self::Inputs>(&inputs);
        let inputs = inputs.map(|_, tensor| rows(tensor), |_, tensor| contiguous(tensor));
        let cotangents = cotangents.map(|_, tensor| tensor.map(rows));
        flex::validated(kernel::backward(
            &self.problem(inputs.raw.rows, inputs.raw.cols),
            &inputs
                .as_ref()
                .map(|_, rows| rows.view(), |_, values| slice(values)),
            &cotangents
                .as_ref()
                .map(|_, rows| rows.as_ref().map(RowTensor::view)),
            &mut found.as_written(),
        ));
        flex::tensors::<Self::Inputs>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: In<Self, CubeTensor>) -> Out<Self, CubeTensor> {
        let place = Place::of(&inputs.raw);
        let specs = self.outputs(cube::specs::<Self::Inputs>(&inputs));
        let inputs = inputs.map(
            |_, tensor| cube::rows(tensor, 1),
            |_, tensor| cube::values(tensor),
        );
        let problem = self.problem(inputs.raw.rows(), inputs.raw.cols());
        let found = cube::launched(device::step_size(&place.client, &problem, &inputs));
        place.tensors::<Self::Outputs>(found, specs)
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: In<Self, CubeTensor>,
        cotangents: Out<Self, Option<CubeTensor>>,
    ) -> In<Self, CubeTensor> {
        let (place, specs) = (Place::of(&inputs.raw), cube::specs::<Self::Inputs>(&inputs));
        let inputs = inputs.map(
            |_, tensor| cube::rows(tensor, 1),
            |_, tensor| cube::values(tensor),
        );
        let problem = self.problem(inputs.raw.rows(), inputs.raw.cols());
        let cotangents = cotangents.map(|_, tensor| Some(cube::rows_as(tensor?, 1, DType::F32)));
        let found = cube::launched(device::backward(&place.client, &problem, &inputs, &cotangents));
        place.tensors::<Self::Inputs>(found, specs)
    }
}
