//! What the backends know of an operator.

use burn::tensor::DType;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
#[cfg(feature = "cube")]
use kernel_dsl::cube::{Client, Error};
use std::fmt::Debug;

/// Tensors in the order in which an operator names them; optional ones may be missing.
pub(crate) type List<T> = Vec<Option<T>>;

/// Shape and element type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
}

impl Spec {
    pub(crate) fn new(shape: impl Into<Vec<usize>>, dtype: DType) -> Self {
        Self {
            shape: shape.into(),
            dtype,
        }
    }
}

/// A fused operator with a backward pass, on every kind of device.
///
/// Whoever calls one has validated shapes, element types and devices: its methods have nothing to refuse. Gradients come in
/// the order, shapes and element types of the inputs, with a gap where an input is missing.
pub(crate) trait Operator: Debug + Send + Sync + 'static {
    /// For messages.
    #[cfg_attr(
        not(feature = "cube"),
        allow(dead_code, reason = "only CubeCL devices refuse an operator")
    )]
    fn name(&self) -> &'static str;

    /// Shapes and element types of the outputs, in order.
    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec>;

    /// The outputs, from f32 inputs on the CPU.
    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor>;

    /// The gradients of the inputs, from the inputs and the cotangents of the outputs; a missing cotangent is zero.
    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor>;

    /// Whether a CubeCL device can run the operator and its gradient on inputs like these.
    #[cfg(feature = "cube")]
    fn admit_cube(&self, client: &Client, inputs: &[Option<Spec>]) -> Result<(), Error> {
        super::cube::admit(client, inputs.iter().flatten())
    }

    /// The outputs, on a CubeCL device.
    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor>;

    /// The gradients of the inputs, on a CubeCL device.
    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor>;
}

/// The first `N` of a list.
pub(crate) fn first<T, const N: usize>(list: List<T>) -> [Option<T>; N] {
    let mut list = list.into_iter();
    std::array::from_fn(|_| list.next().flatten())
}
