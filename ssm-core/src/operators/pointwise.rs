//! Activations and gates: functions of every value.
//!
//! On the CPU these are vectorised and use all threads; without autodiff they overwrite an input that nobody else holds, with autodiff each is
//! one operator. Elsewhere they are Burn's or made of Burn's, which its backends fuse with what stands around them.

use crate::backend::flex::{self, RowTensor};
use crate::backend::host::{from_host, host, is_host};
use crate::backend::{Input, Operator, Spec, operands, run};
use burn::tensor::{DType, Device, Tensor, activation};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::{Client, Error as DeviceError};
use spillway_kernel_dsl::pointwise::{self as kernel, Function};
use std::f64::consts::SQRT_2;

/// eˣ of every value.
pub fn exp<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Exp, x)
}

/// σ(x) = 1 / (1 + e⁻ˣ).
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Sigmoid, x)
}

/// SiLU(x) = x σ(x) of every value.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Silu, x)
}

/// tanh(x) of every value.
pub fn tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Tanh, x)
}

/// max(x, 0)² of every value.
pub fn squared_relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::SquaredRelu, x)
}

/// x Φ(x) with the distribution function Φ of the standard normal.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Gelu, x)
}

/// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::GeluTanh, x)
}

/// σ(gate) ∘ x, value by value.
pub fn sigmoid_gate<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    gated(Function::Sigmoid, gate, x)
}

/// SiLU(gate) ∘ x, value by value, with SiLU(g) = g σ(g).
pub fn silu_gate<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    gated(Function::Silu, gate, x)
}

fn of<const D: usize>(function: Function, x: Tensor<D>) -> Tensor<D> {
    if is_trained_on_host([&x]) {
        return with_gradient(function, x, None);
    }
    if !is_host([&x.device()]) {
        return elsewhere(function, x);
    }
    let mut values = contiguous_values(x);
    kernel::map(function, values.storage_mut());
    from_host(values)
}

fn gated<const D: usize>(function: Function, gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    if gate.dims() == x.dims() && is_trained_on_host([&gate, &x]) {
        return with_gradient(function, gate, Some(x));
    }
    if !is_host([&gate.device(), &x.device()]) || gate.dims() != x.dims() {
        return of(function, gate) * x;
    }
    let (gates, mut values) = (RowTensor::new(host(gate), 1), contiguous_values(x));
    flex::validated(kernel::gate(function, values.storage_mut(), gates.view()));
    from_host(values)
}

/// The values one after another, with nothing before or after them.
fn contiguous_values<const D: usize>(x: Tensor<D>) -> FlexTensor {
    flex::owned(host(x))
}

fn elsewhere<const D: usize>(function: Function, x: Tensor<D>) -> Tensor<D> {
    match function {
        Function::Exp => x.exp(),
        Function::Sigmoid => activation::sigmoid(x),
        Function::Silu => activation::silu(x),
        Function::Tanh => x.tanh(),
        Function::SquaredRelu => {
            let positive = activation::relu(x);
            positive.clone() * positive
        }
        // Burn's own GELU has this value, and the derivative of the form with a tanh, which is off by up to 9e-4.
        Function::Gelu => (x.clone() / SQRT_2).erf().add_scalar(1.0) * x / 2.0,
        Function::GeluTanh => activation::gelu_approximate(x),
    }
}

/// Whether tensors of a type that operators take live on the CPU, on the same device with autodiff.
fn is_trained_on_host<const D: usize, const N: usize>(tensors: [&Tensor<D>; N]) -> bool {
    let devices = tensors.map(Tensor::device);
    let trained = |device: &Device| device.is_autodiff() && is_host([&device.clone().inner()]);
    let types = tensors.map(Tensor::dtype);
    let same = |device: &Device| {
        *device == devices[0]
            && device.gradient_checkpointing_strategy() == devices[0].gradient_checkpointing_strategy()
    };
    devices.iter().all(|device| trained(device) && same(device))
        && types
            .iter()
            .all(|dtype| *dtype == types[0] && matches!(dtype, DType::F32 | DType::BF16 | DType::F16))
}

/// f(x), or f(x) ∘ factor, where [`is_trained_on_host`].
fn with_gradient<const D: usize>(function: Function, x: Tensor<D>, factor: Option<Tensor<D>>) -> Tensor<D> {
    let inputs = Inputs {
        x: x.into(),
        factor: factor.map(Input::from),
    };
    Tensor::from_dispatch(flex::validated(run(Activation(function), inputs)).out)
}

operands! {
    /// Where the function is taken, and what its value is multiplied with.
    Inputs { x; optional factor }
}

operands! {
    /// f(x), or f(x) ∘ factor.
    Outputs { out }
}

/// A function of every value with its derivative, on the CPU.
#[derive(Debug)]
struct Activation(Function);

impl Operator for Activation {
    type Inputs = Inputs<()>;
    type Outputs = Outputs<()>;

    fn name(&self) -> &'static str {
        "activation"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> Outputs<Spec> {
        Outputs { out: inputs.x }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> Outputs<FlexTensor> {
        let out = match inputs.factor {
            None => {
                let mut values = flex::owned(inputs.x);
                kernel::map(self.0, values.storage_mut());
                values
            }
            Some(factor) => {
                let (x, mut values) = (RowTensor::new(inputs.x, 1), flex::owned(factor));
                flex::validated(kernel::gate(self.0, values.storage_mut(), x.view()));
                values
            }
        };
        Outputs { out }
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: Outputs<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let cotangent = crate::backend::operands::required(cotangents.out);
        let x = RowTensor::new(inputs.x, 1);
        let Some(factor) = inputs.factor else {
            let mut by_x = flex::owned(cotangent);
            flex::validated(kernel::pull_back(self.0, by_x.storage_mut(), x.view()));
            return Inputs {
                x: by_x,
                factor: None,
            };
        };
        let mut by_factor = flex::owned(cotangent.clone());
        flex::validated(kernel::gate(self.0, by_factor.storage_mut(), x.view()));
        let mut by_x = flex::owned(cotangent);
        let factor = flex::contiguous(factor);
        for (gradient, factor) in by_x.storage_mut::<f32>().iter_mut().zip(flex::slice(&factor)) {
            *gradient *= factor;
        }
        flex::validated(kernel::pull_back(self.0, by_x.storage_mut(), x.view()));
        Inputs {
            x: by_x,
            factor: Some(by_factor),
        }
    }

    #[cfg(feature = "cube")]
    fn admit_cube(&self, _: &Client, _: Inputs<Spec>) -> Result<(), DeviceError> {
        Err(DeviceError::Capability {
            capability: "kernel of its own",
            needed_for: "an activation",
        })
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, _: Inputs<CubeTensor>) -> Outputs<CubeTensor> {
        unreachable!("no device admits it")
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, _: Inputs<CubeTensor>, _: Outputs<Option<CubeTensor>>) -> Inputs<CubeTensor> {
        unreachable!("no device admits it")
    }
}
