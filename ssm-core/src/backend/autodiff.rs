//! Every operator on an autodiff device: one node, whatever the number of its outputs.
//!
//! A node of Burn's graph has one tensor. Here the first output is the node of the operator, and every further output
//! (the final state) is a child of it whose backward step leaves its cotangent where the operator's own step finds it:
//! children come before their parents in a backward pass. The child also registers a zero cotangent for the first output,
//! which starts the operator's step even when only the state leads to the loss.
//!
//! ```text
//! inputs ──► operator (= first output) ──► loss          backward: cotangent of the first output, as usual
//!                │
//!                └──► further output ────► loss          backward: cotangent left in the operator's tray
//! ```
//!
//! Operators are compute bound in the sense of gradient checkpointing: their outputs are kept, and their inputs are asked
//! back from the checkpointer, so that cheap operations before them (an activation, a scaling) may be recomputed.

use super::extension::{Forward, Gradient};
use super::operator::Operator;
use super::tensors::{PLACES, Tensors};
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

/// Where further outputs leave their cotangents.
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

/// What the backward step of an operator needs.
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    operator: Arc<dyn Operator>,
    inputs: [Option<NodeId>; PLACES],
    tray: Tray<B>,
}

#[derive(Debug)]
struct OperatorStep;

impl<B: Gradient> Backward<B, PLACES> for OperatorStep {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, PLACES>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved {
            operator,
            inputs,
            tray,
        } = ops.state;
        let first = grads.consume::<B>(&ops.node);
        let further = std::mem::take(&mut *tray.open());
        let inputs = inputs.map(|id| id.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id)));
        let gradients = B::gradient(
            Tensors::new(inputs),
            Tensors::new(std::iter::once(Some(first)).chain(further)),
            operator,
        );
        for (parent, gradient) in ops.parents.into_iter().zip(gradients.into_array()) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// What the backward step of a further output needs: its place in the tray, and what a zero for the first output looks like.
#[derive(Clone, Debug)]
struct FurtherOutput<B: Backend> {
    tray: Tray<B>,
    place: usize,
    shape: Shape,
    dtype: FloatDType,
    device: Device<B>,
}

impl<B: Backend> FurtherOutput<B> {
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

#[derive(Debug)]
struct FurtherStep;

impl<B: Backend> Backward<B, 1> for FurtherStep {
    type State = FurtherOutput<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let state = ops.state;
        let cotangent = grads.consume::<B>(&ops.node);
        if let Some(place) = state.tray.open().get_mut(state.place) {
            *place = Some(cotangent);
        }
        let [operator] = ops.parents;
        if let Some(operator) = operator {
            grads.register::<B>(operator.id, state.zeros());
        }
    }
}

impl<B: Forward + Gradient, C: CheckpointStrategy> Forward for Autodiff<B, C> {
    fn forward(inputs: Tensors<Self>, operator: Arc<dyn Operator>) -> Tensors<Self> {
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
                let mut outputs = B::forward(primitives(inputs), operator.clone())
                    .into_array()
                    .into_iter();
                let tray = Tray::new(PLACES - 1);
                let Some(first) = outputs.next().flatten() else {
                    unreachable!("every operator has an output");
                };
                let state = Saved {
                    operator,
                    inputs: saved,
                    tray: tray.clone(),
                };
                let first = prepared.finish(state, first);
                let further: Vec<_> = outputs
                    .enumerate()
                    .map(|(place, tensor)| Some(further_output::<B, C>(&first, tensor?, tray.clone(), place)))
                    .collect();
                Tensors::new(std::iter::once(Some(first)).chain(further))
            }
        }
    }
}

fn primitives<B: Backend>(inputs: [Option<Tracked<B>>; PLACES]) -> Tensors<B> {
    Tensors::new(inputs.map(|input| input.map(|tensor| tensor.into_primitive())))
}

fn further_output<B: Backend, C: CheckpointStrategy>(
    operator: &Tracked<B>,
    output: FloatTensor<B>,
    tray: Tray<B>,
    place: usize,
) -> Tracked<B> {
    match FurtherStep
        .prepare::<C>([operator.node()])
        .compute_bound()
        .stateful()
    {
        OpsKind::UnTracked(prepared) => prepared.finish(output),
        OpsKind::Tracked(prepared) => {
            let first = operator.primitive();
            let state = FurtherOutput {
                tray,
                place,
                shape: first.shape(),
                dtype: first.dtype().into(),
                device: first.device(),
            };
            prepared.finish(state, output)
        }
    }
}
