//! Mamba-2 language models: an embedding, blocks of RMSNorm and [mixer](ssm_core::mamba2) on a residual stream, a norm, a head.
//!
//! ```text
//! r ← embedding(ids)        per block: r ← r + mixer(RMSNorm(r))        logits = W_head · RMSNorm(r)
//! ```
//!
//! Source: Dao & Gu, *Transformers are SSMs* (2405.21060). Two published layouts are read, see [`layout`]:
//! the original one (`state-spaces/mamba2-*`) and Hugging Face's (`Mamba2ForCausalLM`).

pub mod init;
pub mod layout;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use kernel_dsl::linear::{PackedMatrix, WeightType};
use ssm_core::mamba2::{Mamba2, Mamba2Config, Mamba2Weights};
use ssm_core::operators::add_rms_norm;
use ssm_core::{Chain, Form, LayerState, Linear, Site};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::ModelError;
pub use layout::Layout;

/// What a configuration file says, whichever layout it is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The layout it came in.
    pub layout: Layout,
    /// Ids that the tokenizer may give.
    pub vocab_size: usize,
    /// Rows of the embedding: the vocabulary rounded up.
    pub padded_vocab_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// The mixer of every block.
    pub mixer: Mamba2Config,
    /// ε of the norms between blocks.
    pub norm_eps: f32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether the projections of the mixer have biases.
    pub projection_bias: bool,
    /// Whether the short convolution has a bias.
    pub conv_bias: bool,
    /// Whether the skip D has a value per channel rather than per head.
    pub skip_per_channel: bool,
    /// The id that ends a text, where the configuration has one.
    pub eos_id: Option<u32>,
}

impl Config {
    /// Multiplications and additions of one decoded token: two per weight of a matrix, and six per element of the state.
    pub fn flops_per_token(&self) -> u64 {
        let m = &self.mixer;
        let product = |a: usize, b: usize| a as f64 * b as f64;
        let projections = product(m.model_dim, m.projection_dim() + m.inner_dim());
        let mixing = 2.0 * product(m.conv_dim(), m.conv_width) + 6.0 * product(m.inner_dim(), m.state_dim);
        let head = product(self.padded_vocab_size, m.model_dim);
        (self.num_layers as f64 * (2.0 * projections + mixing) + 2.0 * head) as u64
    }
}

/// A block: the norm before the mixer, and the mixer.
#[derive(Clone, Debug)]
struct Block {
    norm: Tensor<1>,
    mixer: Mamba2,
}

/// A whole model with its weights packed.
#[derive(Clone, Debug)]
pub struct Network {
    config: Config,
    embedding: Arc<PackedMatrix>,
    blocks: Vec<Block>,
    norm: Tensor<1>,
    head: Linear,
    device: Device,
    parameters: u64,
    weight_bytes: u64,
}

impl Network {
    /// Reads and packs every weight that `config` calls for.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for a tensor that is missing, of another shape, of an unsupported type or not finite, for a
    /// tensor that has no place, and for a stored head that differs from the embedding it is tied to.
    pub fn load(
        checkpoint: &Checkpoint,
        config: Config,
        weights: WeightType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        layout::check_names(checkpoint, &config)?;
        let mut loader = Loader {
            checkpoint,
            weights,
            device,
            parameters: 0,
            weight_bytes: 0,
        };
        let m = &config.mixer;
        let embedding_shape = [config.padded_vocab_size, m.model_dim];
        let embedding_name = config.layout.embedding_name();
        let embedding = loader.matrix(embedding_name, embedding_shape)?;
        let head = if config.tied {
            check_tied(checkpoint, embedding_name, &embedding_shape)?;
            embedding.clone()
        } else {
            loader.matrix(layout::HEAD, embedding_shape)?
        };
        let blocks = (0..config.num_layers)
            .map(|layer| loader.block(&config, layer))
            .collect::<Result<_, _>>()?;
        let norm = loader.vector(layout::FINAL_NORM, m.model_dim)?;
        let (parameters, weight_bytes) = (loader.parameters, loader.weight_bytes);
        let head = Linear::new(head, None)?;
        Ok(Self {
            embedding,
            blocks,
            norm,
            head,
            device: device.clone(),
            parameters,
            weight_bytes,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Number of weights, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Memory taken by all weights in bytes, at the type they are kept in.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// The layers' mixers, first to last.
    pub fn mixers(&self) -> impl Iterator<Item = &Mamba2> {
        self.blocks.iter().map(|b| &b.mixer)
    }

    /// What interventions may know about each layer.
    pub fn sites(&self) -> Vec<Site> {
        self.mixers()
            .enumerate()
            .map(|(layer, mixer)| mixer.site(layer))
            .collect()
    }

    /// The embeddings of `ids`, `[batch, time, model_dim]`; `ids` holds `batch · time` of them, sequence by sequence.
    ///
    /// # Errors
    /// [`ModelError::Packing`] for an id that has no row.
    pub(crate) fn embed(&self, ids: &[u32], batch: usize) -> Result<Tensor<3>, ModelError> {
        let width = self.config.mixer.model_dim;
        let mut rows = vec![0.0; ids.len() * width];
        for (id, row) in ids.iter().zip(rows.chunks_exact_mut(width)) {
            self.embedding.row(*id as usize, row)?;
        }
        let time = ids.len() / batch.max(1);
        Ok(Tensor::from_data(
            TensorData::new(rows, [batch, time, width]),
            &self.device,
        ))
    }

    /// The residual stream after the last norm, `[batch, time, model_dim]`; `states` are left after the last token.
    pub(crate) fn forward(
        &self,
        embedded: Tensor<3>,
        states: &mut [LayerState],
        chain: &Chain,
        form: Form,
    ) -> Result<Tensor<3>, ModelError> {
        let eps = self.config.norm_eps;
        let (mut residual, mut update) = (embedded, None);
        for (layer, (block, state)) in self.blocks.iter().zip(states).enumerate() {
            let (sum, normed) = add_rms_norm(residual, update, block.norm.clone(), eps)?;
            update = Some(block.mixer.forward(normed, state, chain, layer, form)?);
            residual = sum;
        }
        Ok(add_rms_norm(residual, update, self.norm.clone(), eps)?.1)
    }

    /// Logits over the padded vocabulary, `[batch, time, padded_vocab_size]`.
    pub(crate) fn logits(&self, normed: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        Ok(self.head.forward(normed)?)
    }
}

/// The published code loads both tensors into one parameter; they can only differ in a file that is broken.
fn check_tied(checkpoint: &Checkpoint, embedding: &str, shape: &[usize]) -> Result<(), ModelError> {
    if !checkpoint.has(layout::HEAD) {
        return Ok(());
    }
    if checkpoint
        .tensor(embedding, shape)?
        .same_bytes(&checkpoint.tensor(layout::HEAD, shape)?)
    {
        return Ok(());
    }
    let (input, output) = (embedding.to_string(), layout::HEAD.to_string());
    Err(CheckpointError::TiedTensorsDiffer {
        path: checkpoint.weights_path().into(),
        input,
        output,
    }
    .into())
}

/// Turns tensors of a checkpoint into weights, and counts them.
struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    weights: WeightType,
    device: &'a Device,
    parameters: u64,
    weight_bytes: u64,
}

impl Loader<'_> {
    fn block(&mut self, config: &Config, layer: usize) -> Result<Block, ModelError> {
        let m = &config.mixer;
        let name = |part: &str| format!("backbone.layers.{layer}.{part}");
        let skip = if config.skip_per_channel {
            m.inner_dim()
        } else {
            m.num_heads
        };
        let conv = self.values(&name("mixer.conv1d.weight"), &[m.conv_dim(), 1, m.conv_width])?;
        let weights = Mamba2Weights {
            in_proj: self.linear(
                &name("mixer.in_proj"),
                [m.projection_dim(), m.model_dim],
                config.projection_bias,
            )?,
            conv_weight: Tensor::from_data(TensorData::new(conv, [m.conv_dim(), m.conv_width]), self.device),
            conv_bias: match config.conv_bias {
                true => Some(self.vector(&name("mixer.conv1d.bias"), m.conv_dim())?),
                false => None,
            },
            dt_bias: self.vector(&name("mixer.dt_bias"), m.num_heads)?,
            a_log: self.vector(&name("mixer.A_log"), m.num_heads)?,
            skip: self.vector(&name("mixer.D"), skip)?,
            norm_weight: match m.norm {
                Some(_) => Some(self.vector(&name("mixer.norm.weight"), m.inner_dim())?),
                None => None,
            },
            out_proj: self.linear(
                &name("mixer.out_proj"),
                [m.model_dim, m.inner_dim()],
                config.projection_bias,
            )?,
        };
        let norm = self.vector(&name("norm.weight"), m.model_dim)?;
        Ok(Block {
            norm,
            mixer: Mamba2::new(m.clone(), weights)?,
        })
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) -> Result<Linear, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"), shape)?;
        let bias = if bias {
            Some(self.vector(&format!("{name}.bias"), shape[0])?)
        } else {
            None
        };
        Ok(Linear::new(weight, bias)?)
    }

    /// Packs a matrix block by block, so that it is never in memory twice.
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Arc<PackedMatrix>, ModelError> {
        let tensor = self.checkpoint.tensor(name, &shape)?;
        let mut builder = PackedMatrix::builder(shape[0], shape[1], self.weights)?;
        tensor.for_each_block(|rows| builder.push_rows(rows).map_err(ModelError::from))?;
        self.parameters += tensor.len() as u64;
        let packed = builder.finish()?;
        self.weight_bytes += packed.bytes() as u64;
        Ok(Arc::new(packed))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor<1>, ModelError> {
        Ok(Tensor::from_data(
            TensorData::new(self.values(name, &[length])?, [length]),
            self.device,
        ))
    }

    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let values = self.checkpoint.tensor(name, shape)?.to_vec()?;
        self.parameters += values.len() as u64;
        self.weight_bytes += 4 * values.len() as u64;
        Ok(values)
    }
}
