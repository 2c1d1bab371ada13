//! Every operator on an autodiff device: one node, whatever the number of its outputs.
//!
//! A node of Burn's graph has one tensor. An operator of one output is that output's node. Of several outputs none is: the node
//! of the operator has a token of one element, and every output is a child of it whose backward step leaves its cotangent
//! where the operator's own step finds it, as children come before their parents in a backward pass. Each child also registers
//! a cotangent of the token, which starts the operator's step whichever of the outputs lead to the loss.
//!
//! ```text
//! inputs ──► operator (= only output) ──► loss           backward: cotangent of the output, as usual
//!
//! inputs ──► operator (= token) ──┬──► output ──► loss   backward: cotangents left in the operator's tray
//!                                 └──► output ──► loss
//! ```
//!
//! Operators are compute bound in the sense of gradient checkpointing: their outputs are kept, and their inputs are asked
//! back from the checkpointer, so that cheap operations before them (an activation, a scaling) may be recomputed.

use super::extension::{Forward, Gradient};
use super::operator::Erased;
use super::tensors::{SLOTS, Tensors};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{Device, FloatTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, TensorData};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A tensor of `B` with its place in the graph.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// Where the outputs of an operator leave their cotangents.
#[derive(Debug)]
struct Tray<B: Backend>(Arc<Mutex<Vec<Option<FloatTensor<B>>>>>);

impl<B: Backend> Tray<B> {
    fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![None; places])))
    }

    /// A cotangent is whole or absent, so a panic elsewhere leaves nothing half done.
    fn open(&self) -> MutexGuard<'_, Vec<Option<FloatTensor<B>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Clone for Tray<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What a tensor is like.
#[derive(Clone, Debug)]
struct Like<B: Backend> {
    shape: Shape,
    dtype: FloatDType,
    device: Device<B>,
}

impl<B: Backend> Like<B> {
    fn of(tensor: &FloatTensor<B>) -> Self {
        Self {
            shape: tensor.shape(),
            dtype: tensor.dtype().into(),
            device: tensor.device(),
        }
    }

    fn zeros(self) -> FloatTensor<B> {
        match self.shape.num_elements() {
            // Uploaded, not filled: Burn's fusion takes an empty tensor for the shape of a kernel in which it fuses the
            // operations around it, and that kernel then computes none of them.
            0 => {
                let data = TensorData::zeros::<f32, _>(self.shape).convert_dtype(self.dtype.into());
                B::float_from_data(data, &self.device)
            }
            _ => B::float_zeros(self.shape, &self.device, self.dtype),
        }
    }
}

/// The outputs of an operator that has several.
#[derive(Clone, Debug)]
struct Outputs<B: Backend> {
    tray: Tray<B>,
    /// Operators may rely on a cotangent of the first.
    first: Like<B>,
}

/// What the backward step of an operator needs.
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    operator: Arc<dyn Erased>,
    inputs: [Option<NodeId>; SLOTS],
    /// The operator's several outputs; `None` where the only output is the operator's own node.
    outputs: Option<Outputs<B>>,
}

#[derive(Debug)]
struct OperatorStep;

impl<B: Gradient> Backward<B, SLOTS> for OperatorStep {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, SLOTS>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved {
            operator,
            inputs,
            outputs,
        } = ops.state;
        let of_node = grads.consume::<B>(&ops.node);
        let cotangents = match outputs {
            None => vec![Some(of_node)],
            Some(outputs) => {
                let mut cotangents = std::mem::take(&mut *outputs.tray.open());
                if let Some(first @ None) = cotangents.first_mut() {
                    *first = Some(outputs.first.zeros());
                }
                cotangents
            }
        };
        let inputs = inputs.map(|id| id.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id)));
        let gradients = B::gradient(Tensors::new(inputs), Tensors::new(cotangents), operator);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients.into_array()) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// What the backward step of one of several outputs needs.
#[derive(Clone, Debug)]
struct Output<B: Backend> {
    tray: Tray<B>,
    place: usize,
    token: Like<B>,
}

#[derive(Debug)]
struct OutputStep;

impl<B: Backend> Backward<B, 1> for OutputStep {
    type State = Output<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let state = ops.state;
        let cotangent = grads.consume::<B>(&ops.node);
        if let Some(place) = state.tray.open().get_mut(state.place) {
            *place = Some(cotangent);
        }
        let [operator] = ops.parents;
        if let Some(operator) = operator {
            grads.register::<B>(operator.id, state.token.zeros());
        }
    }
}

impl<B: Forward + Gradient, C: CheckpointStrategy> Forward for Autodiff<B, C> {
    fn forward(inputs: Tensors<Self>, operator: Arc<dyn Erased>) -> Tensors<Self> {
        let inputs = inputs.into_array();
        let Some(any) = inputs.iter().flatten().next() else {
            unreachable!("dispatch chose this device by one of the inputs");
        };
        // A missing input is a parent that wants no gradient.
        let nodes = inputs.each_ref().map(|input| match input {
            Some(tensor) => tensor.node(),
            None => Self::from_inner(any.primitive().clone()).node(),
        });
        let prepared = OperatorStep.prepare::<C>(nodes).compute_bound().stateful();
        match prepared {
            OpsKind::UnTracked(prepared) => {
                let mut outputs = B::forward(primitives(inputs), operator).into_array().into_iter();
                let first = outputs.next().flatten().map(|tensor| prepared.finish(tensor));
                Tensors::new(std::iter::once(first).chain(outputs.map(|tensor| tensor.map(Self::from_inner))))
            }
            OpsKind::Tracked(mut prepared) => {
                let saved = inputs
                    .each_ref()
                    .map(|input| input.as_ref().map(|tensor| prepared.checkpoint(tensor)));
                let outputs = B::forward(primitives(inputs), operator.clone()).into_array();
                let mut given: Vec<_> = outputs.into_iter().flatten().collect();
                let saved = |outputs| Saved {
                    operator,
                    inputs: saved,
                    outputs,
                };
                match (given.pop(), given.first()) {
                    (None, _) => unreachable!("every operator has an output"),
                    (Some(only), None) => Tensors::new([Some(prepared.finish(saved(None), only))]),
                    (Some(last), Some(first)) => {
                        let first = Like::<B>::of(first);
                        let tray = Tray::new(given.len() + 1);
                        let token = B::float_zeros(Shape::new([1]), &first.device, FloatDType::F32);
                        let outputs = Outputs {
                            tray: tray.clone(),
                            first,
                        };
                        let token = prepared.finish(saved(Some(outputs)), token);
                        let outputs = given.into_iter().chain([last]).enumerate();
                        Tensors::new(
                            outputs.map(|(place, tensor)| {
                                Some(output::<B, C>(&token, tensor, tray.clone(), place))
                            }),
                        )
                    }
                }
            }
        }
    }
}

fn primitives<B: Backend>(inputs: [Option<Tracked<B>>; SLOTS]) -> Tensors<B> {
    Tensors::new(inputs.map(|input| input.map(|tensor| tensor.into_primitive())))
}

/// One of several outputs of the operator whose node `token` is.
fn output<B: Backend, C: CheckpointStrategy>(
    token: &Tracked<B>,
    output: FloatTensor<B>,
    tray: Tray<B>,
    place: usize,
) -> Tracked<B> {
    match OutputStep.prepare::<C>([token.node()]).compute_bound().stateful() {
        OpsKind::UnTracked(prepared) => prepared.finish(output),
        OpsKind::Tracked(prepared) => {
            let token = Like::of(token.primitive());
            prepared.finish(Output { tray, place, token }, output)
        }
    }
}
