//! The two backend extensions through which every operator reaches every device.
//!
//! An operator is a value ([`Operator`]), so two traits serve all of them: [`Forward`] also on autodiff devices, [`Gradient`]
//! only below them, which is why a second derivative cannot be asked for by mistake.

use super::operator::{List, Operator};
use super::tensors::Tensors;
use burn::backend::{Backend, Flex, backend_extension};
use std::sync::Arc;

/// Outputs of an operator.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Forward: Backend {
    /// The outputs, in the operator's order.
    fn forward(#[extension_type] inputs: Tensors<Self>, operator: Arc<dyn Operator>) -> Tensors<Self>;
}

/// Gradients of an operator's inputs.
#[backend_extension(Flex)]
pub(crate) trait Gradient: Backend {
    /// One gradient per input that is given, in the shape and element type of the input.
    fn gradient(
        #[extension_type] inputs: Tensors<Self>,
        #[extension_type] cotangents: Tensors<Self>,
        operator: Arc<dyn Operator>,
    ) -> Tensors<Self>;
}

impl Forward for Flex {
    fn forward(inputs: Tensors<Self>, operator: Arc<dyn Operator>) -> Tensors<Self> {
        let inputs: List<_> = inputs.into_array().into();
        Tensors::new(operator.forward_flex(inputs).into_iter().map(Some))
    }
}

impl Gradient for Flex {
    fn gradient(
        inputs: Tensors<Self>,
        cotangents: Tensors<Self>,
        operator: Arc<dyn Operator>,
    ) -> Tensors<Self> {
        let (inputs, cotangents): (List<_>, List<_>) =
            (inputs.into_array().into(), cotangents.into_array().into());
        Tensors::new(operator.backward_flex(inputs, cotangents))
    }
}
