//! Norms over groups of features: RMSNorm, LayerNorm per head, L2; gated, or joined with a residual.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Residence};
use crate::backend::flex::{self, contiguous, owned, slice};
use crate::backend::operands::required;
use crate::backend::{Input, Operator, Spec, operands, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
#[cfg(feature = "cube")]
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::gated_norm as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::gated_norm::cube as device;
pub use spillway_kernel_dsl::gated_norm::{GateOrder, Statistic};

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

/// norm(x) ∘ SiLU(z), or norm(x ∘ SiLU(z)), over groups of features; see [`spillway_kernel_dsl::gated_norm`].
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
    let inputs = kernel::Operands {
        input: input.into(),
        gate: gate.map(Input::from),
        weight: weight.map(Input::from),
        bias: bias.map(Input::from),
    };
    let found = run(GatedNorm(plan), inputs)?;
    Ok(Tensor::from_dispatch(found.out))
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
    let inputs = JointInputs {
        residual: residual.into(),
        weight: weight.into(),
        x: x.map(Input::from),
    };
    let found = run(AddRmsNorm { eps }, inputs)?;
    Ok((
        Tensor::from_dispatch(found.sum),
        Tensor::from_dispatch(found.normed),
    ))
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

impl GatedNorm {
    fn problem(&self, inputs: &kernel::Operands<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        let NormPlan {
            statistic,
            eps,
            group_size,
            order,
        } = self.0;
        kernel::Problem {
            rows: inputs.input[0] * inputs.input[1],
            features: inputs.input[2],
            group_size,
            eps,
            statistic,
            order,
        }
    }

    fn results(&self, inputs: kernel::Operands<Spec, Spec>) -> kernel::Results<Spec> {
        kernel::Results { out: inputs.input }
    }
}

over_rows! {
    GatedNorm, "gated_norm", kernel;
    inputs<R, V>;
    output<R>;
    host: {
        forward(_, problem, inputs, found): kernel::gated_norm(problem, inputs, found.out),
        backward(_, problem, inputs, cotangents, found): kernel::backward(problem, inputs, cotangents.out, found),
    }
    device: {
        forward(_, client, problem, inputs): {
            device::gated_norm(client, problem, inputs).map(|out| kernel::Results { out })
        },
        backward(_, client, problem, inputs, cotangents): device::backward(client, problem, inputs, &cotangents.out),
    }
}

operands! {
    /// What the joint between two blocks reads.
    JointInputs { residual, weight; optional x }
}

operands! {
    /// The residual after the sum, and its norm.
    JointOutputs { sum, normed }
}

#[derive(Debug)]
struct AddRmsNorm {
    eps: f32,
}

impl AddRmsNorm {
    /// What is handed on where nothing came by the norm: the sum hands on its cotangent.
    fn handed_on<T: Clone>(of_sum: T, of_weight: T, has_x: bool) -> JointInputs<T> {
        JointInputs {
            x: has_x.then(|| of_sum.clone()),
            residual: of_sum,
            weight: of_weight,
        }
    }
}

impl Operator for AddRmsNorm {
    type Inputs = JointInputs<()>;
    type Outputs = JointOutputs<()>;

    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn outputs(&self, inputs: JointInputs<Spec>) -> JointOutputs<Spec> {
        JointOutputs {
            sum: inputs.residual.clone(),
            normed: inputs.residual,
        }
    }

    fn forward_flex(&self, inputs: JointInputs<FlexTensor>) -> JointOutputs<FlexTensor> {
        let mut sum = owned(inputs.residual);
        let (x, weight) = (inputs.x.map(contiguous), contiguous(inputs.weight));
        let mut out = flex::buffer(&sum);
        flex::validated(kernel::add_rms_norm(
            sum.storage_mut::<f32>(),
            x.as_ref().map(slice),
            slice(&weight),
            self.eps,
            &mut out,
        ));
        JointOutputs {
            normed: flex::like(out, &sum),
            sum,
        }
    }

    fn backward_flex(
        &self,
        inputs: JointInputs<FlexTensor>,
        cotangents: JointOutputs<Option<FlexTensor>>,
    ) -> JointInputs<FlexTensor> {
        let (mut sum, weight) = (owned(inputs.residual), contiguous(inputs.weight));
        let has_x = inputs.x.is_some();
        if let Some(x) = inputs.x.map(contiguous) {
            for (sum, x) in sum.storage_mut::<f32>().iter_mut().zip(slice(&x)) {
                *sum += x;
            }
        }
        let of_sum = contiguous(required(cotangents.sum));
        let Some(of_normed) = cotangents.normed.map(contiguous) else {
            let of_weight = flex::like(flex::buffer(&weight), &weight);
            return Self::handed_on(of_sum, of_weight, has_x);
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
        Self::handed_on(of_residual, flex::like(of_weight, &weight), has_x)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: JointInputs<CubeTensor>) -> JointOutputs<CubeTensor> {
        let JointInputs { residual, weight, x } = inputs;
        let (place, spec) = (Residence::of(&residual), cube::spec(&residual));
        let Some(x) = x else {
            let plan = NormPlan {
                statistic: Statistic::MeanSquare,
                eps: self.eps,
                group_size: spec.shape.last().copied().unwrap_or(1),
                order: GateOrder::NormAfterGate,
            };
            let inputs = kernel::Operands {
                input: residual.clone(),
                gate: None,
                weight: Some(weight),
                bias: None,
            };
            return JointOutputs {
                sum: residual,
                normed: GatedNorm(plan).forward_cube(inputs).out,
            };
        };
        let found = cube::launched(device::add_rms_norm(
            &place.client,
            &cube::rows(residual, 1),
            &cube::rows_as(x, 1, spec.dtype),
            &cube::values(weight),
            self.eps,
        ));
        JointOutputs {
            sum: place.tensor(found.residual, &spec),
            normed: place.tensor(found.out, &spec),
        }
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: JointInputs<CubeTensor>,
        cotangents: JointOutputs<Option<CubeTensor>>,
    ) -> JointInputs<CubeTensor> {
        let (place, specs) = (
            Residence::of(&inputs.residual),
            cube::specs::<JointInputs<()>>(&inputs),
        );
        let JointInputs { residual, weight, x } = inputs;
        let (dtype, has_x) = (residual.dtype, x.is_some());
        let of_sum = required(cotangents.sum);
        let Some(of_normed) = cotangents.normed else {
            let of_weight = burn_cubecl::CubeBackend::float_mul_scalar(weight, 0.0.into());
            return Self::handed_on(of_sum, of_weight, has_x);
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
        let found = Self::handed_on(found.residual, found.weight, has_x);
        place.tensors::<JointInputs<()>>(found, specs)
    }
}
