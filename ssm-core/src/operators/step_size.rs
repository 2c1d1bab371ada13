//! Step sizes and decays of a discretised recurrence.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::{Operator, Spec, operands, run};
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
    let inputs = Inputs {
        raw: raw.into(),
        bias: bias.into(),
        a_log: a_log.into(),
    };
    let Outputs { step, log_decay } = run(StepSize { limit }, inputs)?;
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

operands! {
    /// What step sizes are made of.
    Inputs { raw, bias, a_log }
}

operands! {
    /// Δ and log α.
    Outputs { step, log_decay }
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

    /// The inputs as the kernel for the CPU reads them.
    fn hold_on_flex(
        &self,
        inputs: Inputs<FlexTensor>,
    ) -> (kernel::Problem, kernel::Operands<RowTensor, FlexTensor>) {
        let Inputs { raw, bias, a_log } = inputs;
        let inputs = kernel::Operands { raw, bias, a_log }.map(
            |_, tensor| RowTensor::new(tensor, 1),
            |_, tensor| contiguous(tensor),
        );
        (self.problem(inputs.raw.rows, inputs.raw.cols), inputs)
    }

    /// The inputs as the kernel for devices reads them, and what the outputs are like.
    #[cfg(feature = "cube")]
    fn hold_on_cube(
        &self,
        inputs: Inputs<CubeTensor>,
    ) -> (Place, Spec, kernel::Problem, kernel::DeviceInputs) {
        let place = Place::of(&inputs.raw);
        let spec = Spec::new(cube::spec(&inputs.raw).shape, DType::F32);
        let Inputs { raw, bias, a_log } = inputs;
        let inputs = kernel::Operands { raw, bias, a_log }.map(
            |_, tensor| cube::rows(tensor, 1),
            |_, tensor| cube::values(tensor),
        );
        let problem = self.problem(inputs.raw.rows(), inputs.raw.cols());
        (place, spec, problem, inputs)
    }
}

impl Operator for StepSize {
    type Inputs = Inputs<()>;
    type Outputs = Outputs<()>;

    fn name(&self) -> &'static str {
        "step_size"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> Outputs<Spec> {
        // A step size of half precision would forget what the sums of log decays need.
        let step = Spec::new(inputs.raw.shape, DType::F32);
        Outputs {
            log_decay: step.clone(),
            step,
        }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> Outputs<FlexTensor> {
        let (problem, inputs) = self.hold_on_flex(inputs);
        let dims = &inputs.raw.dims;
        let (mut step, mut log_decay) = (inputs.raw.buffer(), inputs.raw.buffer());
        flex::validated(kernel::step_size(
            &problem,
            &inputs
                .as_ref()
                .map(|_, rows| rows.view(), |_, values| slice(values)),
            &mut kernel::Outputs {
                step: &mut step,
                log_decay: &mut log_decay,
            },
        ));
        Outputs {
            step: flex::tensor(step, dims),
            log_decay: flex::tensor(log_decay, dims),
        }
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: Outputs<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let shapes = flex::shapes::<Inputs<()>>(&inputs);
        let mut found = flex::buffers::<Inputs<()>>(&inputs);
        let (problem, inputs) = self.hold_on_flex(inputs);
        let rows = |tensor: Option<FlexTensor>| tensor.map(|tensor| RowTensor::new(tensor, 1));
        let (step, log_decay) = (rows(cotangents.step), rows(cotangents.log_decay));
        flex::validated(kernel::backward(
            &problem,
            &inputs
                .as_ref()
                .map(|_, rows| rows.view(), |_, values| slice(values)),
            &kernel::Cotangents {
                step: step.as_ref().map(RowTensor::view),
                log_decay: log_decay.as_ref().map(RowTensor::view),
            },
            &mut kernel::Gradients {
                raw: &mut found.raw,
                bias: &mut found.bias,
                a_log: &mut found.a_log,
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> Outputs<CubeTensor> {
        let (place, spec, problem, inputs) = self.hold_on_cube(inputs);
        let found = cube::launched(device::step_size(&place.client, &problem, &inputs));
        Outputs {
            step: place.tensor(found.step, &spec),
            log_decay: place.tensor(found.log_decay, &spec),
        }
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: Outputs<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        let specs = cube::specs::<Inputs<()>>(&inputs);
        let (place, spec, problem, inputs) = self.hold_on_cube(inputs);
        let rows = |tensor: Option<CubeTensor>| tensor.map(|tensor| cube::rows_as(tensor, 1, spec.dtype));
        let cotangents = kernel::DeviceCotangents {
            step: rows(cotangents.step),
            log_decay: rows(cotangents.log_decay),
        };
        let found = cube::launched(device::backward(&place.client, &problem, &inputs, &cotangents));
        let found = Inputs {
            raw: found.raw,
            bias: found.bias,
            a_log: found.a_log,
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}
