//! Where an architecture takes its weights from: a checkpoint; tensors in memory; nothing, to learn which tensors it would take;
//! or tensors that gradients are wanted for. For its mixers it is a [`WeightSource`].
//!
//! A matrix from a checkpoint or from memory is packed for the CPU, one from leaves stays a tensor. Layouts that store a matrix transposed, or
//! several in one tensor, take it apart as a tensor ([`Loader::stored`]) and hand the parts back ([`Loader::pack`],
//! [`Loader::place`]): that is arithmetic on the CPU for the one and a part of the graph for the other.

mod draw;
mod packing;
mod source;
mod weights;

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_kernel_dsl::linear::WeightType;
use spillway_ssm_core::weights::{Init, WeightSource};
use spillway_ssm_core::{Linear, Weight};

use crate::budget::{Account, product};
use crate::checkpoint::{Checkpoint, CheckpointError, TensorPlan};
use crate::error::ModelError;
use crate::network::{Embedding, Head, Norm, NormKind, Residual};
use crate::state::fingerprint::Fingerprint;
pub(crate) use draw::draw;
use source::StoredValues;
pub(crate) use source::{Leaves, Source, ValuesInMemory};

/// A tensor that an architecture asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) plan: TensorPlan,
    pub(crate) init: Init,
    /// The tensor whose values this one repeats.
    pub(crate) twin: Option<String>,
}

/// Turns tensors into weights, checks and counts them.
///
/// Every method names the tensor, gives the shape that it must have, and how it is drawn in a random checkpoint. Errors are
/// [`ModelError::Checkpoint`]: a tensor that is missing, of another shape, of an unsupported type, or not finite.
#[derive(Debug)]
pub struct Loader<'a> {
    source: Source<'a>,
    /// The type that matrices are kept in; `None` where each is kept as its file has it.
    weights: Option<WeightType>,
    /// The types of the matrices so far.
    kept: Vec<WeightType>,
    /// The type of matrices made of the one that was last taken apart.
    taken_apart: WeightType,
    device: Device,
    asked: Vec<Asked>,
    read: BTreeSet<String>,
    /// Hash of the names, shapes and values of all tensors so far.
    pub(crate) contents: Fingerprint,
    pub(crate) parameters: u64,
    pub(crate) weight_bytes: u64,
    /// Multiplications and additions of one token in all matrices.
    pub(crate) matrix_flops: u64,
    /// Share of the matrices now being read that a token is multiplied with, `[chosen, count]`.
    share: [u64; 2],
    memory: Account,
}

/// Memory that is counted for a tensor beside its values: its names, its entries in lists. A configuration of millions of
/// layers runs out of memory by them alone.
const TENSOR_BYTES: u64 = 4096;

impl<'a> Loader<'a> {
    /// A loader of `checkpoint`'s tensors, whose matrices are kept in a type; without one those of a GGUF file as they are
    /// stored, all others as f32.
    pub fn new(checkpoint: &'a Checkpoint, weights: impl Into<Option<WeightType>>, device: Device) -> Self {
        let weights = weights
            .into()
            .or((!checkpoint.is_gguf()).then_some(WeightType::F32));
        Self::of(Source::Checkpoint(checkpoint), weights, device)
    }

    /// A loader that has everything that it is asked for, as zeros.
    pub(crate) fn blank() -> Self {
        Self::of(Source::Blank(None), WeightType::Int8, Device::flex())
    }

    /// As [`Loader::blank`]; of tensors that there need not be, it has those that are in `checkpoint`.
    pub(crate) fn outline_of(checkpoint: &'a Checkpoint) -> Self {
        Self::of(Source::Blank(Some(checkpoint)), WeightType::Int8, Device::flex())
    }

    /// A loader of tensors on `device`, to which gradients flow from whatever is made of them.
    pub(crate) fn of_leaves(leaves: Leaves<'a>, device: Device) -> Self {
        Self::of(Source::Leaves(leaves), WeightType::F32, device)
    }

    pub(crate) fn of(source: Source<'a>, weights: impl Into<Option<WeightType>>, device: Device) -> Self {
        Self {
            source,
            weights: weights.into(),
            kept: Vec::new(),
            taken_apart: WeightType::F32,
            device,
            asked: Vec::new(),
            read: BTreeSet::new(),
            contents: Fingerprint::new(),
            parameters: 0,
            weight_bytes: 0,
            matrix_flops: 0,
            share: [1, 1],
            memory: Account::default(),
        }
    }

    /// The type that all matrices are kept in, where there is one.
    pub(crate) fn asked_type(&self) -> Option<WeightType> {
        self.weights
    }

    /// Where tensors are put.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether there is a tensor of this name; a blank loader has none that it was not asked for.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }

    /// Says that a tensor of this name may be there and means nothing.
    pub fn ignore(&mut self, name: &str) {
        self.read.insert(name.to_string());
    }

    /// Says that tensors below this name may be there and mean nothing: parts of a larger model that is not run.
    pub fn ignore_below(&mut self, name: &str) {
        let prefix = format!("{name}.");
        let names = self.source.checkpoint().into_iter().flat_map(Checkpoint::names);
        self.read
            .extend(names.filter(|name| name.starts_with(&prefix)).map(String::from));
    }

    /// A whole number that a checkpoint may hold as a tensor without dimensions; 0 where it does not.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a tensor that is no such number.
    pub fn whole_number(&mut self, name: &str) -> Result<usize, ModelError> {
        self.ignore(name);
        Ok(self.source.whole_number(name)?)
    }

    /// A matrix `[out, in]`.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn matrix(&mut self, name: &str, shape: [usize; 2], init: Init) -> Result<Weight, ModelError> {
        self.count_product(shape);
        self.ask(name, &shape, init);
        self.weight(&[(name.to_string(), shape)])
    }

    /// A matrix that is stored as `[in, out]`.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn transposed(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, ModelError> {
        if let Source::Checkpoint(checkpoint) = self.source
            && let Some(turned) = checkpoint.tensor(name, &shape)?.turned()
        {
            self.ask(name, &shape, Init::fan_in(shape[0]));
            let shape = [shape[1], shape[0]];
            self.count_product(shape);
            return self.packed(&[(name.to_string(), shape, StoredValues::Checkpoint(turned))]);
        }
        let stored = self.stored(name, shape, Init::fan_in(shape[0]))?;
        self.pack(stored.transpose())
    }

    /// A tensor as it is stored, to be transposed, taken apart or otherwise changed before [`Loader::pack`] or
    /// [`Loader::place`]: on the CPU, or a leaf.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn stored<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, ModelError> {
        if let Source::Leaves(leaves) = self.source {
            self.ask(name, &shape, init);
            return Ok(leaves.tensor(name, shape)?);
        }
        let values = self.values(name, &shape, init)?;
        // Not by vectors, which are taken in between.
        if self.weights.is_none() && shape.iter().filter(|size| **size > 1).count() > 1 {
            self.taken_apart = self.type_taken_apart(name, &shape)?;
        }
        Ok(Tensor::from_data(TensorData::new(values, shape), &Device::flex()))
    }

    /// A tensor made of what [`Loader::stored`] gave, where the model runs.
    pub fn place<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        match tensor.device() == self.device {
            true => tensor,
            false => tensor.to_device(&self.device),
        }
    }

    /// The embedding, `[rows, model_dim]`.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn embedding(&mut self, name: &str, shape: [usize; 2]) -> Result<Embedding, ModelError> {
        self.ask(name, &shape, Init::Normal(0.02));
        Ok(Embedding {
            name: name.to_string(),
            rows: self.weight(&[(name.to_string(), shape)])?,
            factor: 1.0,
            places: None,
        })
    }

    /// The head: `name` `[rows, model_dim]`, or the embedding where they are tied. A head that is stored though tied must be
    /// the same bytes: published code loads both tensors into one parameter, so they can only differ in a broken file.
    ///
    /// # Errors
    /// See [`Loader`]; [`CheckpointError::TiedTensorsDiffer`].
    pub fn head(
        &mut self,
        name: &str,
        embedding: &Embedding,
        shape: [usize; 2],
        tied: bool,
    ) -> Result<Head, ModelError> {
        if !tied {
            return Ok(Linear::new(self.matrix(name, shape, Init::Normal(0.02))?, None)?.into());
        }
        if let Source::Checkpoint(checkpoint) = self.source
            && checkpoint.has(name)
        {
            let twin = checkpoint.tensor(name, &shape)?;
            if !checkpoint.tensor(&embedding.name, &shape)?.same_bytes(&twin) {
                return Err(CheckpointError::TiedTensorsDiffer {
                    path: checkpoint.weights_path().into(),
                    input: embedding.name.clone(),
                    output: name.to_string(),
                }
                .into());
            }
            self.read.insert(name.to_string());
        }
        self.count_product(shape);
        Ok(Linear::new(embedding.rows.clone(), None)?.into())
    }

    /// As [`Loader::head`] in layouts that store the head even where it is tied.
    ///
    /// # Errors
    /// As [`Loader::head`].
    pub fn head_stored_though_tied(
        &mut self,
        name: &str,
        embedding: &Embedding,
        shape: [usize; 2],
        tied: bool,
    ) -> Result<Head, ModelError> {
        if tied && matches!(self.source, Source::Blank(_)) {
            self.ask(name, &shape, Init::Normal(0.02));
            if let Some(asked) = self.asked.last_mut() {
                asked.twin = Some(embedding.name.clone());
            }
        }
        self.head(name, embedding, shape, tied)
    }

    /// An RMSNorm of weight `NAME.weight`.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn rms_norm(&mut self, name: &str, length: usize, eps: f32) -> Result<Norm, ModelError> {
        self.norm(name, length, eps, NormKind::Rms, false)
    }

    /// An RMSNorm whose weight is 1 + `NAME.weight`.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn zero_centred_rms_norm(&mut self, name: &str, length: usize, eps: f32) -> Result<Norm, ModelError> {
        let distance = self.vector(&format!("{name}.weight"), length, Init::Zeros)?;
        Ok(Norm {
            kind: NormKind::Rms,
            weight: distance + 1.0,
            bias: None,
            eps,
            residual: Residual::Sum,
        })
    }

    /// A LayerNorm of weight `NAME.weight` and, where there is one, bias `NAME.bias`.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn layer_norm(
        &mut self,
        name: &str,
        length: usize,
        eps: f32,
        bias: bool,
    ) -> Result<Norm, ModelError> {
        self.norm(name, length, eps, NormKind::Layer, bias)
    }

    /// A norm of either kind.
    ///
    /// # Errors
    /// See [`Loader`].
    pub fn norm(
        &mut self,
        name: &str,
        length: usize,
        eps: f32,
        kind: NormKind,
        bias: bool,
    ) -> Result<Norm, ModelError> {
        Ok(Norm {
            kind,
            weight: self.vector(&format!("{name}.weight"), length, Init::Ones)?,
            bias: match bias {
                true => Some(self.vector(&format!("{name}.bias"), length, Init::Zeros)?),
                false => None,
            },
            eps,
            residual: Residual::Sum,
        })
    }

    /// No norm at all.
    pub fn no_norm(&self, length: usize) -> Norm {
        Norm {
            kind: NormKind::Identity,
            weight: Tensor::ones([length], &self.device),
            bias: None,
            eps: 0.0,
            residual: Residual::Sum,
        }
    }

    /// A tensor's values, in row-major order, from anything but leaves.
    fn values(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Vec<f32>, ModelError> {
        self.ask(name, shape, init);
        // The stored shape is compared before anything of that size is taken from memory.
        let stored = self.source.stored(name, shape)?;
        self.take(shape.iter().map(|size| *size as u64), bits(WeightType::F32))?;
        let mut values = Vec::with_capacity(shape.iter().product());
        stored.for_each_block(|block| {
            values.extend_from_slice(block);
            Ok::<_, CheckpointError>(())
        })?;
        self.contents.tensor(name, shape);
        self.contents.values(&values);
        self.parameters += values.len() as u64;
        self.weight_bytes += 4 * values.len() as u64;
        Ok(values)
    }

    /// Asks for the memory of a tensor of so many bits a value before it is taken.
    fn take(&mut self, shape: impl IntoIterator<Item = u64>, bits: u64) -> Result<(), ModelError> {
        let bits = product(shape.into_iter().chain([bits]));
        let bytes = bits.and_then(|bits| bits.div_ceil(8).checked_add(TENSOR_BYTES));
        let advice = "take a smaller model, or one kept in fewer bits (--dtype bf16, int8 or int4)";
        Ok(self.memory.ask("the weights so far", bytes, advice)?)
    }

    fn count_product(&mut self, shape: [usize; 2]) {
        let operations = 2u64
            .saturating_mul(shape[0] as u64)
            .saturating_mul(shape[1] as u64);
        let [chosen, count] = self.share;
        let of_token = operations.saturating_mul(chosen) / count;
        self.matrix_flops = self.matrix_flops.saturating_add(of_token);
    }

    fn ask(&mut self, name: &str, shape: &[usize], init: Init) {
        self.read.insert(name.to_string());
        if let Source::Blank(_) = self.source {
            self.asked.push(Asked {
                plan: TensorPlan {
                    name: name.to_string(),
                    shape: shape.to_vec(),
                },
                init,
                twin: None,
            });
        }
    }

    /// What was asked for, in order.
    pub(crate) fn asked(&self) -> &[Asked] {
        &self.asked
    }

    /// Refuses weights that nothing asked for: a configuration of fewer layers, or without a bias that is there.
    pub(crate) fn expect_all_read(&self, layout: &str) -> Result<(), CheckpointError> {
        let Some(checkpoint) = self.source.checkpoint() else {
            return Ok(());
        };
        match checkpoint.names().find(|name| !self.read.contains(*name)) {
            None => Ok(()),
            Some(tensor) => Err(CheckpointError::UnexpectedTensor {
                path: checkpoint.weights_path().into(),
                tensor: tensor.into(),
                expected: format!("the tensors that the {layout} layout has with this configuration"),
            }),
        }
    }
}

/// Bits of a weight, at least.
pub(crate) const fn bits(weights: WeightType) -> u64 {
    match weights {
        WeightType::F32 => 32,
        WeightType::Bf16 => 16,
        WeightType::Int8 | WeightType::Q8_0 => 8,
        WeightType::Int4 => 4,
    }
}
