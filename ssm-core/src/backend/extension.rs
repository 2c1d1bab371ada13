//! The two backend extensions through which every operator reaches every device.
//!
//! An operator is a value ([`Operator`](super::Operator)), so two traits serve all of them: [`Forward`] also on autodiff devices, [`Gradient`]
//! only below them, which is why a second derivative cannot be asked for by mistake.

use super::operator::Erased;
use super::tensors::Tensors;
use burn::backend::{Backend, Flex, backend_extension};
use spillway_kernel_dsl::operands::List;
use std::sync::Arc;

/// Outputs of an operator.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub(crate) trait Forward: Backend {
    /// The outputs, in the operator's order.
    #[fusion(meta = |inputs, operator| outputs_metadata(inputs, operator.as_ref()))]
    fn forward(#[extension_type] inputs: Tensors<Self>, operator: Arc<dyn Erased>) -> Tensors<Self>;
}

/// Gradients of an operator's inputs.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub(crate) trait Gradient: Backend {
    /// One gradient per input that is given, in the shape and element type of the input.
    #[fusion(meta = |inputs, _cotangents, _operator| inputs.clone())]
    fn gradient(
        #[extension_type] inputs: Tensors<Self>,
        #[extension_type] cotangents: Tensors<Self>,
        operator: Arc<dyn Erased>,
    ) -> Tensors<Self>;
}

#[cfg(feature = "fusion")]
fn outputs_metadata(
    inputs: &super::tensors::TensorsMetadata,
    operator: &dyn Erased,
) -> super::tensors::TensorsMetadata {
    use super::spec::Spec;
    use burn::backend::fusion::custom::TensorSpec;
    let inputs = inputs
        .as_array()
        .map(|spec| spec.map(|spec| Spec::new(spec.shape.iter().copied().collect::<Vec<_>>(), spec.dtype)));
    let outputs = operator.outputs(inputs.into()).into_iter();
    super::tensors::TensorsMetadata::new(
        outputs
            .map(|spec| spec.map(|spec| TensorSpec::new(spec.shape.into(), spec.dtype)))
            .collect(),
    )
}

impl Forward for Flex {
    fn forward(inputs: Tensors<Self>, operator: Arc<dyn Erased>) -> Tensors<Self> {
        let inputs: List<_> = inputs.into_array().into();
        Tensors::new(operator.forward_flex(inputs))
    }
}

impl Gradient for Flex {
    fn gradient(
        inputs: Tensors<Self>,
        cotangents: Tensors<Self>,
        operator: Arc<dyn Erased>,
    ) -> Tensors<Self> {
        let (inputs, cotangents): (List<_>, List<_>) =
            (inputs.into_array().into(), cotangents.into_array().into());
        Tensors::new(operator.backward_flex(inputs, cotangents))
    }
}

#[cfg(feature = "cube")]
impl Forward for burn_cubecl::CubeBackend {
    fn forward(inputs: Tensors<Self>, operator: Arc<dyn Erased>) -> Tensors<Self> {
        let inputs: List<_> = inputs.into_array().into();
        Tensors::new(operator.forward_cube(inputs))
    }
}

#[cfg(feature = "cube")]
impl Gradient for burn_cubecl::CubeBackend {
    fn gradient(
        inputs: Tensors<Self>,
        cotangents: Tensors<Self>,
        operator: Arc<dyn Erased>,
    ) -> Tensors<Self> {
        let (inputs, cotangents): (List<_>, List<_>) =
            (inputs.into_array().into(), cotangents.into_array().into());
        Tensors::new(operator.backward_cube(inputs, cotangents))
    }
}
