//! Step sizes and decays of a discretised recurrence.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use kernel_dsl::step_size as kernel;
#[cfg(feature = "cube")]
use kernel_dsl::step_size::cube as device;

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
    let operands = vec![
        Operand::new("raw step size", raw),
        Operand::new("bias of the step sizes", bias),
        Operand::new("A_log", a_log),
    ];
    let [step, log_decay] = run(StepSize { limit }, operands, &mut [])?;
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

#[cfg(feature = "cube")]
impl StepSize {
    /// The inputs, and what the outputs are like.
    fn hold_on_cube(&self, inputs: List<CubeTensor>) -> (Place, Spec, device::DeviceInputs) {
        let [raw, bias, a_log] = first(inputs).map(required);
        let (place, spec) = (Place::of(&raw), Spec::new(cube::spec(&raw).shape, DType::F32));
        let inputs = device::DeviceInputs {
            raw: cube::rows(raw, 1),
            bias: cube::values(bias),
            a_log: cube::values(a_log),
            limit: self.limit,
        };
        (place, spec, inputs)
    }
}

impl Operator for StepSize {
    fn name(&self) -> &'static str {
        "step_size"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        // A step size of half precision would forget what the sums of log decays need.
        let output = Spec::new(required(inputs[0].clone()).shape, DType::F32);
        vec![output.clone(), output]
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [raw, bias, a_log] = first(inputs).map(required);
        let (raw, bias, a_log) = (RowTensor::new(raw, 1), contiguous(bias), contiguous(a_log));
        let (mut step, mut log_decay) = (raw.buffer(), raw.buffer());
        flex::validated(kernel::step_size(
            raw.view(),
            slice(&bias),
            slice(&a_log),
            self.limit,
            &mut step,
            &mut log_decay,
        ));
        vec![flex::tensor(step, &raw.dims), flex::tensor(log_decay, &raw.dims)]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [raw, bias, a_log] = first(inputs).map(required);
        let (raw, bias, a_log) = (RowTensor::new(raw, 1), contiguous(bias), contiguous(a_log));
        let [step, log_decay] =
            first(cotangents).map(|tensor| tensor.map(|tensor| RowTensor::new(tensor, 1)));
        let (mut of_raw, mut of_bias, mut of_a_log) =
            (raw.buffer(), flex::buffer(&bias), flex::buffer(&a_log));
        flex::validated(kernel::backward(
            raw.view(),
            slice(&bias),
            slice(&a_log),
            self.limit,
            &kernel::Cotangents {
                step: step.as_ref().map(RowTensor::view),
                log_decay: log_decay.as_ref().map(RowTensor::view),
            },
            &mut kernel::Gradients {
                raw: &mut of_raw,
                bias: Some(&mut of_bias),
                a_log: Some(&mut of_a_log),
            },
        ));
        vec![
            Some(flex::tensor(of_raw, &raw.dims)),
            Some(flex::like(of_bias, &bias)),
            Some(flex::like(of_a_log, &a_log)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let (place, spec, inputs) = self.hold_on_cube(inputs);
        let found = cube::launched(device::step_size(&place.client, &inputs));
        [found.step, found.log_decay]
            .map(|buffer| place.tensor(buffer, &spec))
            .into()
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let specs: Vec<_> = inputs
            .iter()
            .map(|input| input.as_ref().map(cube::spec))
            .collect();
        let (place, spec, inputs) = self.hold_on_cube(inputs);
        let [step, log_decay] =
            first(cotangents).map(|tensor| tensor.map(|tensor| cube::rows_as(tensor, 1, spec.dtype)));
        let cotangents = device::DeviceCotangents { step, log_decay };
        let found = cube::launched(device::backward(&place.client, &inputs, &cotangents));
        place.tensors([found.raw, found.bias, found.a_log].map(Some), specs)
    }
}
