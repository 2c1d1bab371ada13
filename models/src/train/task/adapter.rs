//! What a task puts around the blocks of a model: an encoder, a readout, a head and a loss.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use spillway_ssm_core::Linear;
use spillway_ssm_core::operators::cross_entropy;
use spillway_ssm_core::weights::Init;

use super::batch::TaskBatch;
use super::config::{Readout, TaskHead};
use crate::checkpoint::TensorPlan;
use crate::error::ModelError;
use crate::loader::Asked;
use crate::tasks::{Answer, Answers, Input, Sequence, Shape};
use crate::train::forward::{Differentiable, Leaves};
use crate::train::parameters::Parameter;

const ENCODER: &str = "task.encoder";
const HEAD: &str = "task.head";

/// Encoder, readout, head and loss for a task of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adapter {
    pub(super) shape: Shape,
    /// `None` for every step.
    pub(super) readout: Option<Readout>,
    pub(super) head: TaskHead,
    pub(super) model_dim: usize,
}

/// The answers of a batch that count.
pub(super) struct Answered {
    /// Outputs of the head for the answers that count, `[rows, classes or width]`.
    pub(super) outputs: Tensor<2>,
    /// The place of each row among the answers of the batch.
    pub(super) places: Vec<usize>,
}

impl Adapter {
    /// Fresh weights, from −1/√n to 1/√n for n inputs, and biases 0. The same seed gives the same ones.
    pub(super) fn parameters(&self, seed: u64, device: &Device) -> Vec<Parameter> {
        let [encoder, head] = self.projections();
        let projections = encoder.map(|shape| (ENCODER, shape)).into_iter();
        let projections = projections.chain(head.map(|shape| (HEAD, shape)));
        let tensors = projections.flat_map(|(name, [outputs, inputs])| {
            [
                asked(
                    format!("{name}.weight"),
                    vec![outputs, inputs],
                    Init::fan_in(inputs),
                ),
                asked(format!("{name}.bias"), vec![outputs], Init::Zeros),
            ]
        });
        tensors
            .map(|asked| Parameter::fresh(asked, seed, device))
            .collect()
    }

    /// Sizes `[outputs, inputs]` of the encoder and of the head, where the training has them.
    fn projections(&self) -> [Option<[usize; 2]>; 2] {
        let encoder = match self.shape.input {
            Input::Tokens(_) => None,
            Input::Values(width) => Some([self.model_dim, width]),
        };
        let head = match self.head {
            TaskHead::Fresh => Some([self.outputs(), self.model_dim]),
            TaskHead::Model => None,
        };
        [encoder, head]
    }

    /// Numbers that the head gives at a place: a logit for each class, or the values.
    fn outputs(&self) -> usize {
        let (Answer::Class(count) | Answer::Values(count)) = self.shape.answer;
        count
    }

    /// What the network answers.
    pub(super) fn answer(
        &self,
        batch: &TaskBatch,
        leaves: &Leaves,
        network: &Differentiable,
    ) -> Result<Answered, ModelError> {
        let (sequences, length) = (batch.sequences, batch.length);
        let device = network.device();
        let mut state = network.start(sequences);
        let embedded = match &batch.inputs {
            Sequence::Tokens(tokens) => network.embed(tokens, &state)?,
            Sequence::Values(values) => {
                let width = values.len() / (sequences * length).max(1);
                let data = TensorData::new(values.clone(), [sequences, length, width]);
                let encoder = projection(leaves, ENCODER, [self.model_dim, width])?;
                encoder.forward(Tensor::from_data(data, device))?
            }
        };
        let padded = batch.steps.iter().any(|steps| *steps < length);
        let normed = network.advance_embedded(embedded, padded.then_some(&batch.steps[..]), &mut state)?;
        let (rows, places) = self.read(normed, batch);
        let count = places.len();
        let rows = rows.reshape([1, count, self.model_dim]);
        let outputs = match self.head {
            TaskHead::Fresh => projection(leaves, HEAD, [self.outputs(), self.model_dim])?.forward(rows)?,
            TaskHead::Model => network.network().answers(rows)?.narrow(2, 0, self.outputs()),
        };
        Ok(Answered {
            outputs: outputs.reshape([count, self.outputs()]),
            places,
        })
    }

    /// The rows that are answered from, `[rows, model_dim]`, and their places among the answers.
    fn read(&self, normed: Tensor<3>, batch: &TaskBatch) -> (Tensor<2>, Vec<usize>) {
        let (sequences, length, width) = (batch.sequences, batch.length, self.model_dim);
        let each = || (0..sequences).collect::<Vec<_>>();
        let device = normed.device();
        let select = |rows: Vec<usize>| {
            let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
            let count = rows.len();
            let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &device);
            normed
                .clone()
                .reshape([sequences * length, width])
                .select(0, rows)
        };
        match self.readout {
            None => {
                let counts = |place: &usize| batch.weights[*place] > 0.0;
                let mut places: Vec<usize> = (0..sequences * length).filter(counts).collect();
                if places.is_empty() {
                    // One row of weight 0, so that the loss is a tensor like any other.
                    places.push(0);
                }
                (select(places.clone()), places)
            }
            Some(Readout::Last) => {
                let last = batch.steps.iter().enumerate();
                (
                    select(last.map(|(row, steps)| row * length + steps - 1).collect()),
                    each(),
                )
            }
            Some(Readout::Mean) => {
                let share = batch.steps.iter().flat_map(|steps| {
                    (0..length).map(move |step| if step < *steps { 1.0 / *steps as f32 } else { 0.0 })
                });
                let share = TensorData::new(share.collect::<Vec<_>>(), [sequences, length, 1]);
                let mean = (normed * Tensor::from_data(share, &device)).sum_dim(1);
                (mean.reshape([sequences, width]), each())
            }
        }
    }

    /// Σ weight · loss over what was answered, `[1]`, and Σ weight. The loss of a class is −log p in nats, that of values their mean
    /// square error.
    pub(super) fn loss(&self, batch: &TaskBatch, answered: Answered) -> Result<(Tensor<1>, f64), ModelError> {
        let Answered { outputs, places } = answered;
        let [count, width] = outputs.dims();
        let device = outputs.device();
        let losses = match &batch.answers {
            Answers::Classes(classes) => {
                let right: Arc<[u32]> = places.iter().map(|place| classes[*place]).collect();
                cross_entropy(outputs, right, width)?
            }
            Answers::Values(values) => {
                let right = places
                    .iter()
                    .flat_map(|place| &values[place * width..(place + 1) * width]);
                let right = TensorData::new(right.copied().collect::<Vec<_>>(), [count, width]);
                let off = outputs - Tensor::from_data(right, &device);
                (off.clone() * off).mean_dim(1).reshape([count])
            }
        };
        let weights: Vec<f32> = places.iter().map(|place| batch.weights[*place]).collect();
        let total = weights.iter().map(|weight| f64::from(*weight)).sum();
        let weights = Tensor::from_data(TensorData::new(weights, [count]), &device);
        Ok(((losses * weights).sum(), total))
    }
}

fn asked(name: String, shape: Vec<usize>, init: Init) -> Asked {
    Asked {
        plan: TensorPlan { name, shape },
        init,
        twin: None,
    }
}

fn projection(leaves: &Leaves, name: &str, shape: [usize; 2]) -> Result<Linear, ModelError> {
    let weight = leaves.tensor(&format!("{name}.weight"), shape)?;
    let bias = leaves.tensor(&format!("{name}.bias"), [shape[0]])?;
    Ok(Linear::new(weight, Some(bias))?)
}
