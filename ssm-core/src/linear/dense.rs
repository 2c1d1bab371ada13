//! x Wᵀ + b with W a tensor, as one operator with its gradients.

#[cfg(feature = "cube")]
use crate::backend::cube;
use crate::backend::flex::{self, RowTensor, contiguous, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::Result;
#[cfg(feature = "cube")]
use burn::backend::ops::FloatTensorOps;
#[cfg(feature = "cube")]
use burn::tensor::Shape;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use burn_flex::FlexTensor;
use kernel_dsl::linear::dense as kernel;

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
    let operands = vec![
        Operand::new("input of a projection", input),
        Operand::new("weight of a projection", weight),
        Operand::optional("bias of a projection", bias),
    ];
    let [out] = run(DenseLinear, operands, &mut [])?;
    Ok(Tensor::from_dispatch(out))
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
    fn new(inputs: List<FlexTensor>) -> Self {
        let [input, weight, bias] = first(inputs);
        Self {
            input: RowTensor::new(required(input), 1),
            weight: contiguous(required(weight)),
            bias: bias.map(contiguous),
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
    fn name(&self) -> &'static str {
        "linear"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        let [mut input, weight] = [0, 1].map(|index| required(inputs[index].clone()));
        if let Some(features) = input.shape.last_mut() {
            *features = weight.shape[0];
        }
        vec![input]
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let held = Held::new(inputs);
        let mut out = vec![0.0; held.input.rows * held.out_features()];
        let bias = held.bias.as_ref().map(slice);
        flex::validated(kernel::linear(held.input.view(), held.dense(), bias, &mut out));
        let mut dims = held.input.dims.clone();
        if let Some(features) = dims.last_mut() {
            *features = held.out_features();
        }
        vec![flex::tensor(out, &dims)]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let held = Held::new(inputs);
        let [out] = first(cotangents);
        let out = RowTensor::new(required(out), 1);
        let (mut input, mut weight) = (held.input.buffer(), flex::buffer(&held.weight));
        let mut bias = held.bias.as_ref().map(flex::buffer);
        flex::validated(kernel::backward(
            held.input.view(),
            held.dense(),
            out.view(),
            &mut kernel::Gradients {
                input: Some(&mut input),
                weight: Some(&mut weight),
                bias: bias.as_deref_mut(),
            },
        ));
        vec![
            Some(flex::tensor(input, &held.input.dims)),
            Some(flex::like(weight, &held.weight)),
            bias.zip(held.bias.as_ref())
                .map(|(values, bias)| flex::like(values, bias)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [input, weight, bias] = first(inputs);
        let (input, weight) = (required(input), required(weight));
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
        vec![CubeBackend::float_reshape(product, Shape::from(dims))]
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let [input, weight, bias] = first(inputs);
        let (input, weight) = (required(input), required(weight));
        let [out] = first(cotangents);
        let (spec, of_weight) = (cube::spec(&input), cube::spec(&weight));
        let io = spec.dtype.into();
        let (input, out) = (rows(input), rows(CubeBackend::float_cast(required(out), io)));
        let back = CubeBackend::float_matmul(out.clone(), CubeBackend::float_cast(weight, io));
        let gradient = CubeBackend::float_matmul(CubeBackend::float_transpose(out.clone()), input);
        let of_bias = bias.map(|bias| {
            let bias = cube::spec(&bias);
            // Rounded once, not at every step of the sum.
            let out = CubeBackend::float_cast(out, burn::tensor::FloatDType::F32);
            let sum = CubeBackend::float_sum_dim(out, 0);
            let sum = CubeBackend::float_reshape(sum, Shape::from(bias.shape));
            CubeBackend::float_cast(sum, bias.dtype.into())
        });
        vec![
            Some(CubeBackend::float_reshape(back, Shape::from(spec.shape))),
            Some(CubeBackend::float_cast(gradient, of_weight.dtype.into())),
            of_bias,
        ]
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
