//! A rank's stretches of a batch on their way through the layers, forward and back.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use spillway_ssm_core::Chain;
use spillway_ssm_core::tensor_map::on_device;

use super::plan::Plan;
use super::tape::{Between, Cotangents, Tape, cut};
use super::{Graph, Graphs};
use crate::error::ModelError;
use crate::network::{Around, Passage};
use crate::parallel::collectives::{bytes_of, decoded_numbers};
use crate::parallel::{Communicator, Tag, wire};
use crate::state::LayerState;
use crate::train::batch::{Batch, Segment};
use crate::train::error::TrainError;
use crate::train::forward::{Differentiable, loss_value};
use crate::train::optimizer::Accumulator;

const STATE: Tag = Tag::new(19, "the state of a layer");
const COTANGENT: Tag = Tag::new(20, "the cotangent of a layer's state");

/// A rank's stretches after the forward pass: their losses, and what the backward pass takes.
pub(in crate::train) struct Recorded<'a> {
    way: Way<'a>,
    stretches: Vec<Stretch>,
}

/// One stretch after the forward pass.
struct Stretch {
    turn: usize,
    layers: Vec<Kept>,
    head: Head,
}

/// What is kept of a layer for its backward pass.
enum Kept {
    Tape(Box<Tape>),
    /// What the layer was given, to be run again.
    Input(Box<Between>),
}

/// What the last norm and the head gave of a stretch. Nothing comes after them, so that their backward pass has been made.
struct Head {
    loss: f64,
    weight: f64,
    gradients: Vec<Option<Tensor<1>>>,
    of_passage: Vec<Option<Tensor<3>>>,
}

/// What is the same for all stretches of a batch.
struct Way<'a> {
    ranks: Arc<dyn Communicator>,
    graph: &'a Graphs<'a>,
    batch: &'a Batch,
    plan: Plan,
    /// The network as constants.
    constants: Differentiable,
    chain: Chain,
    /// The states before the first token.
    fresh: Vec<LayerState>,
    recompute: bool,
}

impl<'a> Recorded<'a> {
    /// This rank's stretches of the batch, of at most `longest` tokens each, forward.
    pub(super) fn forward(
        ranks: Arc<dyn Communicator>,
        (longest, recompute): (Option<usize>, bool),
        graph: &'a Graphs<'a>,
        batch: &'a Batch,
    ) -> Result<Self, TrainError> {
        let (leaves, network) = graph()?;
        network.network().expect_causal()?;
        let constants = leaves.constants(&network)?;
        let fresh = constants.start(batch.sequences);
        let vocab_size = constants.outline().vocab_size;
        constants.network().check(&batch.ids, &fresh, vocab_size)?;
        if batch.ids.len() != batch.sequences * batch.time {
            return Err(TrainError::Model(ModelError::Count {
                what: "ids of a batch",
                expected: format!("{} sequences of {} tokens", batch.sequences, batch.time),
                found: batch.ids.len(),
            }));
        }
        let way = Way {
            graph,
            batch,
            plan: Plan::new(batch.time, ranks.size(), longest),
            constants,
            chain: fresh.chain,
            fresh: fresh.layers,
            recompute,
            ranks,
        };
        let turns = way.plan.of_rank(way.ranks.rank());
        let stretches = turns.map(|turn| way.forward(turn)).collect::<Result<_, _>>()?;
        Ok(Self { way, stretches })
    }

    /// The summed loss of this rank's targets.
    pub(in crate::train) fn loss(&self) -> f64 {
        self.stretches.iter().map(|stretch| stretch.head.loss).sum()
    }

    /// Adds the gradients of this rank's uses of the parameters, and the weights of its targets.
    pub(in crate::train) fn backward(self, sums: &mut Accumulator) -> Result<(), TrainError> {
        let stretches = self.stretches.into_iter().rev();
        for stretch in stretches {
            self.way.backward(stretch, sums)?;
        }
        Ok(())
    }
}

impl<'a> Way<'a> {
    fn segment(&self, turn: usize) -> Segment<'a> {
        self.batch.segment(self.plan.tokens(turn))
    }

    /// Tokens before the stretch, of every sequence.
    fn positions(&self, turn: usize) -> Vec<u64> {
        vec![self.plan.tokens(turn).start as u64; self.batch.sequences]
    }

    fn around<'b>(&'b self, positions: &'b [u64]) -> Around<'b> {
        Around {
            chain: &self.chain,
            positions,
            lengths: None,
            prefix: None,
        }
    }

    fn graph(&self) -> Result<Graph, TrainError> {
        (self.graph)()
    }

    fn forward(&self, turn: usize) -> Result<Stretch, TrainError> {
        let (network, segment) = (self.constants.network(), self.segment(turn));
        let mut passage = network.enter(network.embed(&segment.ids(), segment.sequences())?)?;
        let mut layers = Vec::new();
        for layer in 0..self.fresh.len() {
            let state = self.incoming(turn, layer)?;
            let (kept, after) = self.layer(turn, layer, Between { passage, state })?;
            self.outgoing(turn, &after.state)?;
            passage = after.passage;
            layers.push(kept);
        }
        let head = self.head(passage, &segment)?;
        Ok(Stretch { turn, layers, head })
    }

    fn layer(&self, turn: usize, layer: usize, before: Between) -> Result<(Kept, Between), TrainError> {
        let positions = self.positions(turn);
        let around = self.around(&positions);
        if !self.recompute {
            let (tape, after) = Tape::of_layer(self.graph()?, layer, before, around)?;
            return Ok((Kept::Tape(Box::new(tape)), after));
        }
        let input = Box::new(before.clone());
        let Between { passage, mut state } = before;
        let passage = self
            .constants
            .network()
            .pass(layer, passage, &mut state, around)?;
        Ok((Kept::Input(input), Between { passage, state }))
    }

    /// The loss of a stretch and its gradients by the last norm, the head and what the layers give.
    fn head(&self, passage: Passage, segment: &Segment<'_>) -> Result<Head, TrainError> {
        let (leaves, network) = self.graph()?;
        let mut given = Vec::new();
        let passage = passage.map(|tensor| cut(tensor, network.device(), &mut given));
        let (total, weight) = network.loss_of(network.network().leave(passage)?, segment)?;
        let loss = loss_value(&total);
        let mut gradients = total.backward();
        Ok(Head {
            loss,
            weight,
            of_passage: given
                .iter()
                .map(|leaf| leaf.grad_remove(&mut gradients))
                .collect(),
            gradients: leaves.gradients(&mut gradients),
        })
    }

    /// The state in which the stretch before has left a layer.
    fn incoming(&self, turn: usize, layer: usize) -> Result<LayerState, TrainError> {
        let mut state = self.fresh[layer].clone();
        if let Some(from) = self.plan.before(turn) {
            let bytes = self.ranks.receive(from, STATE)?;
            let sites = self.constants.network().blocks()[layer].mixer.sites(layer);
            let position = self.plan.tokens(turn).start as u64;
            wire::take_up(&mut state, &bytes, (&sites, &self.chain), position, (STATE, from))?;
        }
        Ok(state)
    }

    fn outgoing(&self, turn: usize, state: &LayerState) -> Result<(), TrainError> {
        if let Some(to) = self.plan.behind(turn) {
            let bytes = wire::to_bytes(state, STATE, self.ranks.rank())?;
            self.ranks.send(to, STATE, bytes)?;
        }
        Ok(())
    }

    fn backward(&self, stretch: Stretch, sums: &mut Accumulator) -> Result<(), TrainError> {
        let Stretch { turn, layers, head } = stretch;
        sums.add(head.gradients, head.weight)?;
        let mut of_passage = head.of_passage;
        let positions = self.positions(turn);
        for (layer, kept) in layers.into_iter().enumerate().rev() {
            let tape = match kept {
                Kept::Tape(tape) => *tape,
                Kept::Input(before) => {
                    Tape::of_layer(self.graph()?, layer, *before, self.around(&positions))?.0
                }
            };
            let of_outputs = Cotangents {
                passage: of_passage,
                state: self.cotangents(turn, &tape.outgoing_sizes())?,
            };
            let (parameters, of_inputs) = tape.pull_back(of_outputs);
            self.send_back(turn, &of_inputs.state)?;
            of_passage = of_inputs.passage;
            add(sums, parameters)?;
        }
        let segment = self.segment(turn);
        let tape = Tape::of_embedding(self.graph()?, &segment.ids(), segment.sequences())?;
        let of_outputs = Cotangents {
            passage: of_passage,
            state: Vec::new(),
        };
        add(sums, tape.pull_back(of_outputs).0)
    }

    /// The cotangents of a layer's outgoing state, whose tensors have `sizes` values: none for the last stretch, whose state nothing
    /// comes of.
    fn cotangents(&self, turn: usize, sizes: &[usize]) -> Result<Vec<Tensor<1>>, TrainError> {
        let Some(from) = self.plan.behind(turn) else {
            return Ok(Vec::new());
        };
        let numbers = decoded_numbers(self.ranks.as_ref(), from, COTANGENT, sizes.iter().sum())?;
        let mut rest = numbers.as_slice();
        let tensors = sizes.iter().map(|size| {
            let (values, others) = rest.split_at(*size);
            rest = others;
            Tensor::from_data(TensorData::new(values.to_vec(), [*size]), self.constants.device())
        });
        Ok(tensors.collect())
    }

    fn send_back(&self, turn: usize, of_state: &[Tensor<1>]) -> Result<(), TrainError> {
        if let Some(to) = self.plan.before(turn) {
            let inner = self.constants.device();
            let values = of_state
                .iter()
                .map(|tensor| on_device(tensor.clone(), inner).into_data());
            let numbers: Vec<f32> = values
                .flat_map(|data| data.iter::<f32>().collect::<Vec<_>>())
                .collect();
            self.ranks.send(to, COTANGENT, bytes_of(&numbers))?;
        }
        Ok(())
    }
}

/// Adds gradients of which there may be none.
fn add(sums: &mut Accumulator, gradients: Option<Vec<Option<Tensor<1>>>>) -> Result<(), TrainError> {
    match gradients {
        Some(gradients) => Ok(sums.add(gradients, 0.0)?),
        None => Ok(()),
    }
}
