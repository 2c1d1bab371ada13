//! A model through which gradients flow.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use spillway_ssm_core::operators::cross_entropy;
use spillway_ssm_core::{Chain, Site};

use super::batch::Segment;
use super::parameters::{Parameter, Parameters};
use crate::checkpoint::CheckpointError;
use crate::dropout::Dropout;
use crate::error::ModelError;
use crate::layout::{Assembly, Outline};
use crate::loader::{self, Loader};
use crate::network::{Network, expect_ids};
use crate::state::{ModelState, ask_for_states, states_at_least};

/// The element type that matrices are multiplied in. Everything else is f32, as are the gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Matrices are multiplied in IEEE single precision.
    #[default]
    F32,
    /// Matrices, embeddings and what matrices are multiplied with are rounded to bfloat16.
    Bf16,
}

impl Parameters {
    /// Leaves of a new graph with the values as they are now, on `device`, an autodiff device.
    pub fn leaves(&self, device: &Device, precision: Precision) -> Leaves {
        Leaves::new(self.assembly(), self.list(), device, precision)
    }
}

/// The leaves of a graph, one per parameter.
#[derive(Clone, Debug)]
pub struct Leaves {
    assembly: Assembly,
    names: Vec<String>,
    tensors: Vec<Tensor<1>>,
    precision: Precision,
    device: Device,
}

impl Leaves {
    pub(super) fn new(
        assembly: &Assembly,
        parameters: &[Parameter],
        device: &Device,
        precision: Precision,
    ) -> Self {
        let inner = device.clone().inner();
        let leaf = |parameter: &Parameter| {
            let value = match parameter.value.device() == inner {
                true => parameter.value.clone(),
                false => parameter.value.clone().to_device(&inner),
            };
            let value = value.autodiff();
            let value = match device.gradient_checkpointing_strategy() {
                Some(strategy) => value.with_gradient_checkpointing_strategy(strategy),
                None => value,
            };
            value.require_grad()
        };
        let tensors: Vec<Tensor<1>> = parameters.iter().map(leaf).collect();
        Self {
            assembly: assembly.clone(),
            names: parameters
                .iter()
                .map(|parameter| parameter.name.clone())
                .collect(),
            tensors,
            precision,
            device: match device.is_autodiff() {
                true => device.clone(),
                false => device.clone().autodiff(),
            },
        }
    }

    /// The leaf of this name in its shape.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] when there is none, or one with another number of values.
    pub(super) fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, ModelError> {
        let missing = || CheckpointError::TensorMissing {
            path: "parameters".into(),
            tensor: name.into(),
            expected: shape.to_vec(),
        };
        let at = self.names.iter().position(|other| other == name);
        let leaf = at.map(|at| &self.tensors[at]).ok_or_else(missing)?;
        match leaf.dims()[0] == shape.iter().product::<usize>() {
            true => Ok(leaf.clone().reshape(shape)),
            false => Err(missing().into()),
        }
    }

    /// The model that the layout makes of the leaves.
    ///
    /// A backward pass uses up what is made of the leaves here, such as a matrix transposed. Losses whose gradients are wanted
    /// together are added before one backward pass; for a further one, ask for a further network.
    ///
    /// # Errors
    /// [`ModelError::Layer`] when the device does not compute in the wanted precision.
    pub fn network(&self) -> Result<Differentiable, ModelError> {
        let matrices = match self.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        if !self.device.supports_dtype(matrices) {
            return Err(ModelError::Layer(spillway_ssm_core::Error::DType {
                what: "matrices",
                expected: format!("a type that {:?} computes in", self.device),
                found: matrices.name().into(),
            }));
        }
        let names = self.names.iter().map(String::as_str);
        let tensors: BTreeMap<&str, Tensor<1>> = names.zip(self.tensors.iter().cloned()).collect();
        let leaves = loader::Leaves {
            tensors: &tensors,
            matrices,
        };
        let mut loader = Loader::of_leaves(leaves, self.device.clone());
        let parts = self.assembly.load(&mut loader)?;
        let (network, outline) = parts.network(self.device.clone());
        Ok(Differentiable {
            sites: network.sites(),
            network,
            outline,
            device: self.device.clone(),
        })
    }

    /// As `like`, a network of these leaves, without autodiff: for what no gradient goes through.
    pub(super) fn constants(&self, like: &Differentiable) -> Result<Differentiable, ModelError> {
        let constants = Self {
            tensors: self.tensors.iter().map(|leaf| leaf.clone().inner()).collect(),
            device: self.device.clone().inner(),
            ..self.clone()
        };
        Ok(constants.network()?.with_dropout(like.network.dropout))
    }

    /// The gradients of a backward pass in the order of [`Parameters::list`](super::Parameters::list), taken out of it; flat, on
    /// the inner device. None where no gradient has arrived.
    pub fn gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor<1>>> {
        self.tensors
            .iter()
            .map(|leaf| leaf.grad_remove(gradients))
            .collect()
    }
}

/// A model of [`Leaves`].
#[derive(Clone, Debug)]
pub struct Differentiable {
    network: Network,
    outline: Outline,
    sites: Vec<Site>,
    device: Device,
}

impl Differentiable {
    /// The model with channels of its layers' outputs left out.
    pub(super) fn with_dropout(mut self, dropout: Option<Dropout>) -> Self {
        self.network.dropout = dropout;
        self
    }

    /// The layers of the model.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The sizes of the model.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Every recurrence, layer by layer.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Where the model runs, an autodiff device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the machine has memory for the states of `batch` sequences.
    ///
    /// # Errors
    /// [`ModelError::Budget`].
    pub fn ask_for_states(&self, batch: usize) -> Result<(), ModelError> {
        ask_for_states(states_at_least(&self.sites), batch)
    }

    /// The state before the first token of `batch` sequences.
    pub fn start(&self, batch: usize) -> ModelState {
        let chain = Chain::default();
        ModelState {
            layers: self.network.start(&chain, batch),
            chain,
            positions: vec![0; batch],
            prefix: None,
        }
    }

    /// Logits over the padded vocabulary, `[sequences, time, padded_vocab_size]`, of `ids` `[sequences, time]`; `state` moves on.
    ///
    /// # Errors
    /// As [`Differentiable::loss`].
    pub fn logits(&self, ids: &[u32], state: &mut ModelState) -> Result<Tensor<3>, ModelError> {
        let normed = self.advance(ids, state)?;
        self.network.logits(normed)
    }

    /// Logits of the tokens of `sequences` whole sequences where they stand, hidden ones included, by a model whose layers see later tokens:
    /// `[sequences, time, padded_vocab_size]`. `ids` holds the sequences one after another.
    ///
    /// # Errors
    /// [`ModelError::SeesNoLater`] for a model that foretells the next token; else as [`Differentiable::loss`].
    pub fn logits_in_place(&self, ids: &[u32], sequences: usize) -> Result<Tensor<3>, ModelError> {
        if !self.network.sees_later_tokens() {
            return Err(ModelError::SeesNoLater);
        }
        let normed = self.advance(ids, &mut self.start(sequences))?;
        self.network.answers(normed)
    }

    /// Σ weight · −log p(target | everything up to its token) in nats over the tokens of `segment`, `[1]`, and Σ weight; `state`
    /// moves on.
    ///
    /// Neither is averaged. The state keeps its graph: whoever wants no gradient of it by earlier tokens detaches it.
    ///
    /// # Errors
    /// [`ModelError::Id`] for an id, or a target of weight above 0, beyond the vocabulary, [`ModelError::Count`] when there are more
    /// or fewer targets or weights than ids, [`ModelError::Option`] for a weight that is negative or not finite,
    /// [`ModelError::State`] for a state of another model or batch size.
    pub fn loss(
        &self,
        segment: &Segment<'_>,
        state: &mut ModelState,
    ) -> Result<(Tensor<1>, f64), ModelError> {
        let ids = segment.ids();
        let counted = Counted::of(segment, ids.len(), self.outline.vocab_size)?;
        self.expect_batch(segment.sequences(), state)?;
        let normed = self.advance(&ids, state)?;
        self.loss_of_counted(normed, counted)
    }

    /// As [`Differentiable::loss`], of what the last norm gives for the segment, `[sequences, time, model_dim]`.
    pub(super) fn loss_of(
        &self,
        normed: Tensor<3>,
        segment: &Segment<'_>,
    ) -> Result<(Tensor<1>, f64), ModelError> {
        let ids = segment.sequences() * segment.time();
        self.loss_of_counted(normed, Counted::of(segment, ids, self.outline.vocab_size)?)
    }

    fn loss_of_counted(&self, normed: Tensor<3>, counted: Counted) -> Result<(Tensor<1>, f64), ModelError> {
        let [sequences, time, width] = normed.dims();
        let ids = sequences * time;
        if ids == 0 {
            return Ok((Tensor::zeros([1], &self.device), 0.0));
        }
        let rows = normed.reshape([ids, width]);
        let (rows, count) = match &counted.rows {
            None => (rows, ids),
            Some(kept) => {
                let data = TensorData::new(kept.clone(), [kept.len()]);
                let indices = Tensor::<1, Int>::from_data(data, &self.device);
                (rows.select(0, indices), kept.len())
            }
        };
        let logits = self.network.logits(rows.reshape([1, count, width]))?;
        let logits = logits.reshape([count, self.outline.padded_vocab_size]);
        let losses = cross_entropy(logits, counted.targets, self.outline.vocab_size)?;
        let losses = match counted.weights {
            None => losses,
            Some(weights) => losses * Tensor::from_data(TensorData::new(weights, [count]), &self.device),
        };
        Ok((losses.sum(), counted.total))
    }

    /// The residual stream after the last norm, `[sequences, time, model_dim]`.
    pub(super) fn advance(&self, ids: &[u32], state: &mut ModelState) -> Result<Tensor<3>, ModelError> {
        // What hides a token of a prefix may be an id that pads the vocabulary.
        let known = match state.prefix() {
            Some(_) => self.outline.padded_vocab_size,
            None => self.outline.vocab_size,
        };
        self.network.check(ids, state, known)?;
        self.network.advance(ids, state)
    }

    /// The embeddings of `ids`, `[sequences, time, model_dim]`, for this state.
    pub(super) fn embed(&self, ids: &[u32], state: &ModelState) -> Result<Tensor<3>, ModelError> {
        self.network.check(ids, state, self.outline.vocab_size)?;
        self.network.embed(ids, state.batch())
    }

    /// As [`Differentiable::advance`] of vectors in the place of ids, `[sequences, time, model_dim]`, whose sequences end at `lengths`
    /// where they do not all fill the batch.
    pub(super) fn advance_embedded(
        &self,
        embedded: Tensor<3>,
        lengths: Option<&[usize]>,
        state: &mut ModelState,
    ) -> Result<Tensor<3>, ModelError> {
        self.network.check_layers(state)?;
        self.expect_batch(embedded.dims()[0], state)?;
        self.network.advance_embedded(embedded, lengths, state)
    }

    fn expect_batch(&self, sequences: usize, state: &ModelState) -> Result<(), ModelError> {
        if state.batch() == sequences {
            return Ok(());
        }
        Err(ModelError::State {
            what: "sequences of the batch",
            expected: sequences.to_string(),
            found: state.batch().to_string(),
        })
    }
}

/// The tokens of a segment that count.
struct Counted {
    /// Indices of the tokens that count among all of the segment; `None` where all count.
    rows: Option<Vec<i64>>,
    /// Targets of the tokens that count.
    targets: Arc<[u32]>,
    /// Weights of the tokens that count; `None` where all are 1.
    weights: Option<Vec<f32>>,
    total: f64,
}

impl Counted {
    fn of(segment: &Segment<'_>, ids: usize, vocab_size: usize) -> Result<Self, ModelError> {
        let (targets, weights) = (segment.targets(), segment.weights());
        let lengths = [
            ("targets", Some(targets.len())),
            ("weights", weights.as_ref().map(Vec::len)),
        ];
        for (what, found) in lengths {
            if let Some(found) = found.filter(|found| *found != ids) {
                let expected = format!("{ids}, one per id");
                return Err(ModelError::Count {
                    what,
                    expected,
                    found,
                });
            }
        }
        let Some(weights) = weights else {
            expect_ids(targets.iter().enumerate(), vocab_size)?;
            return Ok(Self {
                rows: None,
                total: targets.len() as f64,
                targets: targets.into(),
                weights: None,
            });
        };
        if let Some(weight) = weights
            .iter()
            .find(|weight| !(weight.is_finite() && **weight >= 0.0))
        {
            return Err(ModelError::Option {
                option: "weight of a target",
                expected: "a finite number from 0 on",
                found: weight.to_string(),
            });
        }
        let counts = |row: &usize| weights[*row] > 0.0;
        let mut rows: Vec<usize> = (0..ids).filter(counts).collect();
        expect_ids(rows.iter().map(|&row| (row, &targets[row])), vocab_size)?;
        let total = weights.iter().map(|weight| f64::from(*weight)).sum();
        if rows.is_empty() && ids > 0 {
            // One row of weight 0, so that the loss is a tensor like any other.
            rows.push(0);
        }
        let target = |row: &usize| if weights[*row] > 0.0 { targets[*row] } else { 0 };
        Ok(Self {
            targets: rows.iter().map(target).collect(),
            weights: Some(rows.iter().map(|&row| weights[row]).collect()),
            total,
            rows: (rows.len() < ids).then(|| rows.iter().map(|&row| row as i64).collect()),
        })
    }
}

/// The number that a loss is, without what made it.
pub(in crate::train) fn loss_value(loss: &Tensor<1>) -> f64 {
    let data = loss.clone().inner().into_data();
    data.iter::<f32>().map(f64::from).sum()
}
