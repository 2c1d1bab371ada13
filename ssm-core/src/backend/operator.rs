//! What the backends know of an operator.

use super::operands::named;
use super::spec::Spec;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::{Client, Error};
use spillway_kernel_dsl::operands::{Declared, List, Named};
use std::fmt::Debug;

/// The inputs of an operator, each held as a `T`.
pub(crate) type In<O, T> = <<O as Operator>::Inputs as Declared>::As<T>;
/// The outputs of an operator, each held as a `T`.
pub(crate) type Out<O, T> = <<O as Operator>::Outputs as Declared>::As<T>;

/// A fused operator with a backward pass, on every kind of device.
///
/// Whoever calls one has validated shapes, element types and devices: its methods have nothing to refuse. The cotangent of the
/// first output is always given; any other may be missing, and is zero then. Gradients have the shapes and element types of the
/// inputs, with a gap where an input is missing.
pub(crate) trait Operator: Debug + Send + Sync + 'static {
    /// The inputs that it reads. The first decides on the device and the element type.
    type Inputs: Declared;
    /// The outputs that it computes.
    type Outputs: Declared;

    /// Name of the operator, for messages.
    #[cfg_attr(
        not(feature = "cube"),
        allow(dead_code, reason = "only CubeCL devices refuse an operator")
    )]
    fn name(&self) -> &'static str;

    /// Shapes and element types of the outputs.
    fn outputs(&self, inputs: In<Self, Spec>) -> Out<Self, Spec>;

    /// The outputs, from f32 inputs on the CPU.
    fn forward_flex(&self, inputs: In<Self, FlexTensor>) -> Out<Self, FlexTensor>;

    /// The gradients of the inputs, on the CPU.
    fn backward_flex(
        &self,
        inputs: In<Self, FlexTensor>,
        cotangents: Out<Self, Option<FlexTensor>>,
    ) -> In<Self, FlexTensor>;

    /// Whether a CubeCL device can run the operator and its gradient on inputs like these.
    #[cfg(feature = "cube")]
    fn admit_cube(&self, client: &Client, inputs: In<Self, Spec>) -> Result<(), Error> {
        super::cube::admit(client, inputs.into_list().iter().flatten())
    }

    /// The outputs, on a CubeCL device.
    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: In<Self, CubeTensor>) -> Out<Self, CubeTensor>;

    /// The gradients of the inputs, on a CubeCL device.
    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: In<Self, CubeTensor>,
        cotangents: Out<Self, Option<CubeTensor>>,
    ) -> In<Self, CubeTensor>;
}

/// An operator as Burn's dispatch carries it: without the names of its operands.
pub(crate) trait Erased: Debug + Send + Sync + 'static {
    /// As [`Operator::outputs`], with operands as lists.
    #[cfg_attr(
        not(feature = "fusion"),
        allow(dead_code, reason = "only fusion asks before it runs")
    )]
    fn outputs(&self, inputs: List<Spec>) -> List<Spec>;
    /// As [`Operator::forward_flex`], with operands as lists.
    fn forward_flex(&self, inputs: List<FlexTensor>) -> List<FlexTensor>;
    /// As [`Operator::backward_flex`], with operands as lists.
    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor>;
    /// As [`Operator::forward_cube`], with operands as lists.
    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> List<CubeTensor>;
    /// As [`Operator::backward_cube`], with operands as lists.
    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor>;
}

impl<O: Operator> Erased for O {
    fn outputs(&self, inputs: List<Spec>) -> List<Spec> {
        Operator::outputs(self, named(inputs)).into_list()
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> List<FlexTensor> {
        Operator::forward_flex(self, named(inputs)).into_list()
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let cotangents = cotangents.into_iter().map(Some).collect();
        Operator::backward_flex(self, named(inputs), named(cotangents)).into_list()
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> List<CubeTensor> {
        Operator::forward_cube(self, named(inputs)).into_list()
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let cotangents = cotangents.into_iter().map(Some).collect();
        Operator::backward_cube(self, named(inputs), named(cotangents)).into_list()
    }
}
