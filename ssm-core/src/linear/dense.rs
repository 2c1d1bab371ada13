//! x Wᵀ + b with W a tensor, as one operator with its gradients.

#[cfg(feature = "cube")]
use crate::backend::cube;
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::operands::required;
use crate::backend::{Input, Operator, Output, Spec, operands, run};
use crate::error::Result;
#[cfg(feature = "cube")]
use burn::backend::ops::FloatTensorOps;
#[cfg(feature = "cube")]
use burn::tensor::Shape;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use burn_flex::FlexTensor;
use spillway_kernel_dsl::linear::dense as kernel;

/// x Wᵀ + b; shapes have been validated, and there is at least one row.
///
/// # Shapes
/// `input` `[batch, time, in_features]`, `weight` `[out_features, in_features]`, `bias` `[out_features]`, result
/// `[batch, time, out_features]` in the type of the input.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) and [`Error::DType`](crate::Error::DType).
pub(super) fn dense_linear(
    input: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Result<Tensor<3>> {
    let inputs = Inputs {
        input: input.into(),
        weight: weight.into(),
        bias: bias.map(Input::from),
    };
    let found = run(DenseLinear, inputs)?;
    Ok(Tensor::from_dispatch(found.out))
}

operands! {
    /// What a projection reads.
    Inputs { input, weight; optional bias }
}

#[derive(Debug)]
struct DenseLinear;

/// The inputs on the CPU.
struct Held {
    input: RowTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
}

impl Held {
    fn new(inputs: Inputs<FlexTensor>) -> Self {
        Self {
            input: RowTensor::new(inputs.input, 1),
            weight: contiguous(inputs.weight),
            bias: inputs.bias.map(contiguous),
        }
    }

    fn out_features(&self) -> usize {
        flex::shape(&self.weight)[0]
    }

    fn dense(&self) -> kernel::Dense<'_> {
        flex::validated(kernel::Dense::new(
            slice(&self.weight),
            self.out_features(),
            self.input.cols,
        ))
    }
}

impl Operator for DenseLinear {
    type Inputs = Inputs<()>;
    type Outputs = Output<()>;

    fn name(&self) -> &'static str {
        "linear"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> Output<Spec> {
        let mut out = inputs.input;
        if let Some(features) = out.shape.last_mut() {
            *features = inputs.weight.shape[0];
        }
        Output { out }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> Output<FlexTensor> {
        let held = Held::new(inputs);
        let mut out = vec![0.0; held.input.rows * held.out_features()];
        let bias = held.bias.as_ref().map(slice);
        flex::validated(kernel::linear(held.input.view(), held.dense(), bias, &mut out));
        let mut dims = held.input.dims.clone();
        if let Some(features) = dims.last_mut() {
            *features = held.out_features();
        }
        Output {
            out: flex::tensor(out, &dims),
        }
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: Output<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let shapes = flex::shapes::<Inputs<()>>(&inputs);
        let mut found = flex::buffers::<Inputs<()>>(&inputs);
        let held = Held::new(inputs);
        let out = RowTensor::new(required(cotangents.out), 1);
        flex::validated(kernel::backward(
            held.input.view(),
            held.dense(),
            out.view(),
            &mut kernel::Gradients {
                input: Some(&mut found.input),
                weight: Some(&mut found.weight),
                bias: found.bias.as_deref_mut(),
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> Output<CubeTensor> {
        let Inputs { input, weight, bias } = inputs;
        let mut dims = cube::spec(&input).shape;
        let out_features = cube::spec(&weight).shape[0];
        let dtype = input.dtype;
        let weight = CubeBackend::float_cast(weight, dtype.into());
        let product = CubeBackend::float_matmul(rows(input), CubeBackend::float_transpose(weight));
        let product = match bias {
            Some(bias) => {
                let row = Shape::from(vec![1, out_features]);
                let bias = CubeBackend::float_reshape(CubeBackend::float_cast(bias, dtype.into()), row);
                CubeBackend::float_add(product, bias)
            }
            None => product,
        };
        if let Some(features) = dims.last_mut() {
            *features = out_features;
        }
        Output {
            out: CubeBackend::float_reshape(product, Shape::from(dims)),
        }
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: Output<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        let specs = cube::specs::<Inputs<()>>(&inputs);
        let io = specs.input.dtype.into();
        let (input, weight) = (rows(inputs.input), CubeBackend::float_cast(inputs.weight, io));
        let out = rows(CubeBackend::float_cast(required(cotangents.out), io));
        let back = CubeBackend::float_matmul(out.clone(), weight);
        let gradient = CubeBackend::float_matmul(CubeBackend::float_transpose(out.clone()), input);
        let of_bias = specs.bias.map(|bias| {
            // Rounded once, not at every step of the sum.
            let out = CubeBackend::float_cast(out, burn::tensor::FloatDType::F32);
            let sum = CubeBackend::float_sum_dim(out, 0);
            let sum = CubeBackend::float_reshape(sum, Shape::from(bias.shape));
            CubeBackend::float_cast(sum, bias.dtype.into())
        });
        Inputs {
            input: CubeBackend::float_reshape(back, Shape::from(specs.input.shape)),
            weight: CubeBackend::float_cast(gradient, specs.weight.dtype.into()),
            bias: of_bias,
        }
    }
}

/// All dimensions but the last as one.
#[cfg(feature = "cube")]
fn rows(tensor: CubeTensor) -> CubeTensor {
    let shape = cube::spec(&tensor).shape;
    let cols = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().product::<usize>() / cols.max(1);
    CubeBackend::float_reshape(tensor, Shape::from(vec![rows, cols]))
}
