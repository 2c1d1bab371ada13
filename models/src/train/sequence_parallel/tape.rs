//! The graph of one layer over one stretch, cut from what comes before and after it.
//!
//! ```text
//! what the layer before gives ──► leaves ──► layer ──► what the next one reads
//! state of the stretch before ──► leaves ──►       ──► state for the stretch behind
//! ```
//!
//! With the cotangents of both outputs, the gradients of ⟨outputs, cotangents⟩ are those by the parameters, and the cotangents of both
//! inputs.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::TensorMap;
use spillway_ssm_core::tensor_map::{Constants, on_device};

use super::Graph;
use crate::error::ModelError;
use crate::network::{Around, Passage};
use crate::state::LayerState;
use crate::train::forward::Leaves;

/// What stands between two layers, and what the layer behind it starts from; constants.
#[derive(Clone)]
pub(super) struct Between {
    pub(super) passage: Passage,
    pub(super) state: LayerState,
}

/// Cotangents of the tensors of a [`Passage`], in their order, and of those of a state that have values, flat, in theirs.
#[derive(Default)]
pub(super) struct Cotangents {
    pub(super) passage: Vec<Option<Tensor<3>>>,
    pub(super) state: Vec<Tensor<1>>,
}

/// A graph whose backward pass is still to come.
pub(super) struct Tape {
    leaves: Leaves,
    passage: Vec<Tensor<3>>,
    incoming: Vec<Tensor<1>>,
    given: Vec<Tensor<3>>,
    outgoing: Vec<Tensor<1>>,
}

impl Tape {
    /// The tape of layer `layer`, and what the layer gives. Caches are left as a saved state has them, so that the cotangents of both
    /// are of the same shapes.
    pub(super) fn of_layer(
        (leaves, network): Graph,
        layer: usize,
        before: Between,
        around: Around<'_>,
    ) -> Result<(Self, Between), ModelError> {
        let device = network.device().clone();
        let mut passage = Vec::new();
        let cut = before.passage.map(|tensor| cut(tensor, &device, &mut passage));
        let mut starts = Cut {
            device: &device,
            leaves: Vec::new(),
        };
        let mut state = before.state.map(&mut starts)?;
        let incoming = starts.leaves;
        let after = network.network().pass(layer, cut, &mut state, around)?;
        state.compact();
        let mut ends = Flat(Vec::new());
        let state = state.map(&mut ends)?;
        let given = after.tensors().cloned().collect();
        let inner = device.inner();
        let tape = Self {
            leaves,
            passage,
            incoming,
            given,
            outgoing: ends.0,
        };
        let after = Between {
            passage: after.map(|tensor| on_device(tensor, &inner)),
            state: state.map(&mut Constants(&inner))?,
        };
        Ok((tape, after))
    }

    /// The tape of the embedding, which begins with the parameters alone.
    pub(super) fn of_embedding(
        (leaves, network): Graph,
        ids: &[u32],
        sequences: usize,
    ) -> Result<Self, ModelError> {
        let network = network.network();
        let entered = network.enter(network.embed(ids, sequences)?)?;
        Ok(Self {
            leaves,
            passage: Vec::new(),
            incoming: Vec::new(),
            given: entered.tensors().cloned().collect(),
            outgoing: Vec::new(),
        })
    }

    /// Numbers of values of the outgoing state's tensors.
    pub(super) fn outgoing_sizes(&self) -> Vec<usize> {
        self.outgoing.iter().map(|tensor| tensor.dims()[0]).collect()
    }

    /// Gradients by the parameters, in the order of their list, and by what the layer was given, from those by what it gives:
    /// `of_outputs`, whose state is empty where nothing comes of the outgoing one. The first are `None` where no cotangent reaches
    /// anything.
    pub(super) fn pull_back(self, of_outputs: Cotangents) -> (Option<Vec<Option<Tensor<1>>>>, Cotangents) {
        let given = self.given.iter().zip(of_outputs.passage);
        let given = given.filter_map(|(tensor, cotangent)| product(tensor, cotangent?));
        let outgoing = self.outgoing.iter().zip(of_outputs.state);
        let outgoing = outgoing.filter_map(|(tensor, cotangent)| product(tensor, cotangent));
        let total = given.chain(outgoing).reduce(|sum, term| sum + term);
        let mut gradients = total.map(|total| total.backward());
        let parameters = gradients
            .as_mut()
            .map(|gradients| self.leaves.gradients(gradients));
        let passage = self.passage.into_iter();
        let passage = passage
            .map(|leaf| leaf.grad_remove(gradients.as_mut()?))
            .collect();
        let incoming = self.incoming.into_iter();
        let state = incoming.map(|leaf| {
            let gradient = gradients.as_mut().and_then(|found| leaf.grad_remove(found));
            gradient.unwrap_or_else(|| leaf.inner().zeros_like())
        });
        let state = state.collect();
        (parameters, Cotangents { passage, state })
    }
}

/// The values of `tensor` as a leaf, which is kept in `leaves` as well.
pub(super) fn cut<const D: usize>(
    tensor: Tensor<D>,
    device: &Device,
    leaves: &mut Vec<Tensor<D>>,
) -> Tensor<D> {
    let leaf = on_device(tensor, device).require_grad();
    leaves.push(leaf.clone());
    leaf
}

/// ⟨tensor, cotangent⟩, through which the cotangent reaches whatever made the tensor; `None` where nothing did.
fn product<const D: usize>(tensor: &Tensor<D>, cotangent: Tensor<D>) -> Option<Tensor<1>> {
    tensor
        .is_tracked()
        .then(|| (tensor.clone() * on_device(cotangent, &tensor.device())).sum())
}

/// Tensors of a state made of flat leaves. Those without values stay constants: they have no gradient, and Burn gives them no other shape.
struct Cut<'a> {
    device: &'a Device,
    leaves: Vec<Tensor<1>>,
}

impl TensorMap for Cut<'_> {
    fn map<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        let shape = tensor.dims();
        match shape.iter().product::<usize>() {
            0 => on_device(tensor, self.device),
            count => cut(tensor.reshape([count]), self.device, &mut self.leaves).reshape(shape),
        }
    }
}

/// The tensors of a state that have values, flat, in their order; the state stays as it is.
struct Flat(Vec<Tensor<1>>);

impl TensorMap for Flat {
    fn map<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        match tensor.shape().num_elements() {
            0 => {}
            count => self.0.push(tensor.clone().reshape([count])),
        }
        tensor
    }
}
