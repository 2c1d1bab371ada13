//! Activations and gates: functions of every value.
//!
//! On the CPU without autodiff these are vectorised, use all threads and overwrite an input that nobody else holds. Elsewhere
//! they are Burn's.

use crate::backend::flex::{self, RowTensor};
use crate::backend::host::{from_host, host, is_host};
use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
use spillway_kernel_dsl::pointwise::{self as kernel, Function};

/// eˣ.
pub fn exp<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Exp, x)
}

/// σ(x) = 1 / (1 + e⁻ˣ).
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Sigmoid, x)
}

/// x σ(x).
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Silu, x)
}

/// tanh(x).
pub fn tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    of(Function::Tanh, x)
}

/// max(x, 0)².
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

/// σ(gate) ∘ x.
pub fn sigmoid_gate<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    gated(Function::Sigmoid, gate, x)
}

/// SiLU(gate) ∘ x.
pub fn silu_gate<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    gated(Function::Silu, gate, x)
}

fn of<const D: usize>(function: Function, x: Tensor<D>) -> Tensor<D> {
    if !is_host([&x.device()]) {
        return elsewhere(function, x);
    }
    let mut values = contiguous_values(x);
    kernel::map(function, values.storage_mut());
    from_host(values)
}

fn gated<const D: usize>(function: Function, gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
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
        Function::Gelu => activation::gelu(x),
        Function::GeluTanh => activation::gelu_approximate(x),
    }
}
