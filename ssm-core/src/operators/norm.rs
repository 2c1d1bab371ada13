//! Norms over groups of features: RMSNorm, LayerNorm per head, L2; gated, or joined with a residual.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, owned, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
#[cfg(feature = "cube")]
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use kernel_dsl::gated_norm as kernel;
#[cfg(feature = "cube")]
use kernel_dsl::gated_norm::cube as device;
pub use kernel_dsl::gated_norm::{GateOrder, Statistic};

/// What of a norm is not a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormPlan {
    /// What a group is divided by the root of: RMSNorm, LayerNorm or L2.
    pub statistic: Statistic,
    /// Added to the statistic.
    pub eps: f32,
    /// Neighbouring features that share one statistic; divides the features.
    pub group_size: usize,
    /// Whether the gate is applied before or after the norm.
    pub order: GateOrder,
}

impl NormPlan {
    fn problem(&self, rows: usize, features: usize) -> kernel::Problem {
        kernel::Problem {
            rows,
            features,
            group_size: self.group_size,
            eps: self.eps,
            statistic: self.statistic,
            order: self.order,
        }
    }
}

/// The tensors of a norm beside its input.
#[derive(Clone, Debug, Default)]
pub struct NormWeights {
    /// z, whose SiLU multiplies, `[batch, time, features]`.
    pub gate: Option<Tensor<3>>,
    /// Multiplies the normalised features, `[features]`.
    pub weight: Option<Tensor<1>>,
    /// Added after the weight, `[features]`.
    pub bias: Option<Tensor<1>>,
}

/// norm(x) ∘ SiLU(z), or norm(x ∘ SiLU(z)), over groups of features; see [`kernel_dsl::gated_norm`].
///
/// # Shapes
/// `input` and result `[batch, time, features]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::Value`] for groups that do not divide the features or an ε that is not at least 0,
/// [`Error::Device`] and [`Error::DType`].
pub fn gated_norm(input: Tensor<3>, weights: NormWeights, plan: NormPlan) -> Result<Tensor<3>> {
    let features = input.dims()[2];
    let NormWeights { gate, weight, bias } = weights;
    if let Some(gate) = &gate {
        expect_shape("gate of a norm", &input.dims(), &gate.dims())?;
    }
    for (what, tensor) in [("weight of a norm", &weight), ("bias of a norm", &bias)] {
        if let Some(tensor) = tensor {
            expect_shape(what, &[features], &tensor.dims())?;
        }
    }
    expect_epsilon(plan.eps)?;
    if plan.group_size == 0 || !features.is_multiple_of(plan.group_size) {
        return Err(Error::Value {
            what: "group size of a norm",
            expected: "a divisor of the features",
            found: format!("{} of {features}", plan.group_size),
        });
    }
    let operands = vec![
        Operand::new("input", input),
        Operand::optional("gate", gate),
        Operand::optional("weight", weight),
        Operand::optional("bias", bias),
    ];
    let [output] = run(GatedNorm(plan), operands, &mut [])?;
    Ok(Tensor::from_dispatch(output))
}

/// residual + x (when there is an x) and its RMSNorm · weight, the joint between two blocks.
///
/// # Shapes
/// `residual`, `x` and both results `[batch, time, features]`; `weight` `[features]`.
///
/// # Errors
/// [`Error::Shape`] when they differ, [`Error::Value`] for no features or an ε that is not at least 0, [`Error::Device`] and
/// [`Error::DType`].
pub fn add_rms_norm(
    residual: Tensor<3>,
    x: Option<Tensor<3>>,
    weight: Tensor<1>,
    eps: f32,
) -> Result<(Tensor<3>, Tensor<3>)> {
    if let Some(x) = &x {
        expect_shape("input of a residual", &residual.dims(), &x.dims())?;
    }
    expect_shape("weight of a norm", &[residual.dims()[2]], &weight.dims())?;
    expect_epsilon(eps)?;
    if weight.dims() == [0] {
        return Err(Error::Value {
            what: "features of a norm",
            expected: "at least 1",
            found: "0".into(),
        });
    }
    let operands = vec![
        Operand::new("residual", residual),
        Operand::optional("x", x),
        Operand::new("weight", weight),
    ];
    let [sum, normed] = run(AddRmsNorm { eps }, operands, &mut [])?;
    Ok((Tensor::from_dispatch(sum), Tensor::from_dispatch(normed)))
}

pub(crate) fn expect_epsilon(eps: f32) -> Result<()> {
    if eps >= 0.0 {
        return Ok(());
    }
    Err(Error::Value {
        what: "ε of a norm",
        expected: "at least 0",
        found: eps.to_string(),
    })
}

#[derive(Debug)]
struct GatedNorm(NormPlan);

/// The inputs on the CPU.
struct Held {
    input: RowTensor,
    gate: Option<RowTensor>,
    weight: Option<FlexTensor>,
    bias: Option<FlexTensor>,
    problem: kernel::Problem,
}

impl Held {
    fn new(plan: &NormPlan, inputs: List<FlexTensor>) -> Self {
        let [input, gate, weight, bias] = first(inputs);
        let input = RowTensor::new(required(input), 1);
        let problem = plan.problem(input.rows, input.cols);
        Self {
            input,
            gate: gate.map(|gate| RowTensor::new(gate, 1)),
            weight: weight.map(contiguous),
            bias: bias.map(contiguous),
            problem,
        }
    }

    fn view(&self) -> kernel::Inputs<'_> {
        kernel::Inputs {
            input: self.input.view(),
            gate: self.gate.as_ref().map(RowTensor::view),
            weight: self.weight.as_ref().map(slice),
            bias: self.bias.as_ref().map(slice),
        }
    }
}

#[cfg(feature = "cube")]
impl GatedNorm {
    fn hold_on_cube(&self, inputs: List<CubeTensor>) -> (Place, Spec, kernel::Problem, device::DeviceInputs) {
        let [input, gate, weight, bias] = first(inputs);
        let input = required(input);
        let (place, spec) = (Place::of(&input), cube::spec(&input));
        let inputs = device::DeviceInputs {
            input: cube::rows(input, 1),
            gate: gate.map(|gate| cube::rows_as(gate, 1, spec.dtype)),
            weight: weight.map(cube::values),
            bias: bias.map(cube::values),
        };
        let problem = self.0.problem(inputs.input.rows(), inputs.input.cols());
        (place, spec, problem, inputs)
    }
}

/// RMSNorm over all features.
#[cfg(feature = "cube")]
fn rms_norm(eps: f32, input: &Spec) -> GatedNorm {
    GatedNorm(NormPlan {
        statistic: Statistic::MeanSquare,
        eps,
        group_size: input.shape.last().copied().unwrap_or(1),
        order: GateOrder::NormAfterGate,
    })
}

impl Operator for GatedNorm {
    fn name(&self) -> &'static str {
        "gated_norm"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        vec![required(inputs[0].clone())]
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let held = Held::new(&self.0, inputs);
        let mut out = held.input.buffer();
        flex::validated(kernel::gated_norm(&held.problem, &held.view(), &mut out));
        vec![flex::tensor(out, &held.input.dims)]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let held = Held::new(&self.0, inputs);
        let [out] = first(cotangents);
        let out = RowTensor::new(required(out), 1);
        let mut input = held.input.buffer();
        let mut gate = held.gate.as_ref().map(RowTensor::buffer);
        let mut weight = held.weight.as_ref().map(flex::buffer);
        let mut bias = held.bias.as_ref().map(flex::buffer);
        flex::validated(kernel::backward(
            &held.problem,
            &held.view(),
            out.view(),
            &mut kernel::Gradients {
                input: &mut input,
                gate: gate.as_deref_mut(),
                weight: weight.as_deref_mut(),
                bias: bias.as_deref_mut(),
            },
        ));
        let features = [held.problem.features];
        vec![
            Some(flex::tensor(input, &held.input.dims)),
            gate.map(|values| flex::tensor(values, &held.input.dims)),
            weight.map(|values| flex::tensor(values, &features)),
            bias.map(|values| flex::tensor(values, &features)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let (place, spec, problem, inputs) = self.hold_on_cube(inputs);
        let out = cube::launched(device::gated_norm(&place.client, &problem, &inputs));
        vec![place.tensor(out, &spec)]
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let specs: Vec<_> = inputs
            .iter()
            .map(|input| input.as_ref().map(cube::spec))
            .collect();
        let (place, spec, problem, inputs) = self.hold_on_cube(inputs);
        let [out] = first(cotangents);
        let out = cube::rows_as(required(out), 1, spec.dtype);
        let found = cube::launched(device::backward(&place.client, &problem, &inputs, &out));
        place.tensors([Some(found.input), found.gate, found.weight, found.bias], specs)
    }
}

#[derive(Debug)]
struct AddRmsNorm {
    eps: f32,
}

impl Operator for AddRmsNorm {
    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        let residual = required(inputs[0].clone());
        vec![residual.clone(), residual]
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [residual, x, weight] = first(inputs);
        let mut sum = owned(required(residual));
        let (x, weight) = (x.map(contiguous), contiguous(required(weight)));
        let mut out = flex::buffer(&sum);
        flex::validated(kernel::add_rms_norm(
            sum.storage_mut::<f32>(),
            x.as_ref().map(slice),
            slice(&weight),
            self.eps,
            &mut out,
        ));
        let out = flex::like(out, &sum);
        vec![sum, out]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [residual, x, weight] = first(inputs);
        let (mut sum, weight) = (owned(required(residual)), contiguous(required(weight)));
        let has_x = x.is_some();
        if let Some(x) = x.map(contiguous) {
            for (sum, x) in sum.storage_mut::<f32>().iter_mut().zip(slice(&x)) {
                *sum += x;
            }
        }
        let [of_sum, of_normed] = first(cotangents);
        let of_sum = contiguous(required(of_sum));
        let Some(of_normed) = of_normed.map(contiguous) else {
            // Nothing came by the norm: the sum hands its cotangent on.
            let of_weight = flex::like(flex::buffer(&weight), &weight);
            return vec![Some(of_sum.clone()), has_x.then_some(of_sum), Some(of_weight)];
        };
        let (mut of_residual, mut of_weight) = (flex::buffer(&sum), flex::buffer(&weight));
        flex::validated(kernel::add_rms_norm_backward(
            slice(&sum),
            slice(&weight),
            self.eps,
            slice(&of_normed),
            Some(slice(&of_sum)),
            &mut kernel::JointGradients {
                residual: &mut of_residual,
                weight: Some(&mut of_weight),
            },
        ));
        let of_residual = flex::like(of_residual, &sum);
        vec![
            Some(of_residual.clone()),
            has_x.then_some(of_residual),
            Some(flex::like(of_weight, &weight)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [residual, x, weight] = first(inputs);
        let residual = required(residual);
        let (place, spec) = (Place::of(&residual), cube::spec(&residual));
        let Some(x) = x else {
            let inputs = vec![Some(residual.clone()), None, weight];
            let [out] = first(
                rms_norm(self.eps, &spec)
                    .forward_cube(inputs)
                    .into_iter()
                    .map(Some)
                    .collect(),
            );
            return vec![residual, required(out)];
        };
        let found = cube::launched(device::add_rms_norm(
            &place.client,
            &cube::rows(residual, 1),
            &cube::rows_as(x, 1, spec.dtype),
            &cube::values(required(weight)),
            self.eps,
        ));
        vec![
            place.tensor(found.residual, &spec),
            place.tensor(found.out, &spec),
        ]
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let specs: Vec<_> = inputs
            .iter()
            .map(|input| input.as_ref().map(cube::spec))
            .collect();
        let [residual, x, weight] = first(inputs);
        let (residual, weight) = (required(residual), required(weight));
        let (place, dtype, has_x) = (Place::of(&residual), residual.dtype, x.is_some());
        let [of_sum, of_normed] = first(cotangents);
        let of_sum = required(of_sum);
        let Some(of_normed) = of_normed else {
            // Nothing came by the norm: the sum hands its cotangent on.
            let of_weight = burn_cubecl::CubeBackend::float_mul_scalar(weight, 0.0.into());
            return vec![Some(of_sum.clone()), has_x.then_some(of_sum), Some(of_weight)];
        };
        let sum = match x {
            Some(x) => burn_cubecl::CubeBackend::float_add(residual, x),
            None => residual,
        };
        let found = cube::launched(device::add_rms_norm_backward(
            &place.client,
            &cube::rows(sum, 1),
            &cube::values(weight),
            self.eps,
            &cube::rows_as(of_normed, 1, dtype),
            Some(&cube::rows_as(of_sum, 1, dtype)),
        ));
        let of_x = has_x.then(|| found.residual.clone());
        place.tensors([Some(found.residual), of_x, Some(found.weight)], specs)
    }
}
