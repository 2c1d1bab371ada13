//! What a published layout is: how it is recognised, read, and made. [`crate::registry`] lists all of them.

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::{Map, Value};

use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::error::ModelError;
use crate::loader::Loader;
use crate::network::{Block, Embedding, Head, Network, Norm};
use crate::understood;

/// One way of publishing the checkpoints of one architecture.
#[derive(Debug)]
pub struct Layout {
    /// Name of the architecture, such as `mamba2`.
    pub architecture: &'static str,
    /// Name of the layout, mostly that of who publishes in it: `Hugging Face`.
    pub name: &'static str,
    /// Why a checkpoint has this layout, in words, judged by configuration and tensors; `None` where it has not.
    pub recognise: fn(&Checkpoint) -> Option<String>,
    /// The configuration: the fields of `config.json`, or what the tensors' shapes say where the layout has no file for it.
    pub config: fn(&Checkpoint) -> Result<Map<String, Value>, CheckpointError>,
    /// Reads a configuration. The second argument says whether a tensor of a name is there, for the few fields that may be
    /// left out where the tensors say as much.
    pub parse: fn(&Fields<'_>, Has<'_>) -> Result<Assembly, ModelError>,
    /// Published sizes, and one that is tiny.
    pub presets: &'static [Preset],
}

/// Whether there is a tensor of this name.
pub type Has<'a> = &'a dyn Fn(&str) -> bool;

impl Layout {
    /// Reads a configuration, and every tensor that it asks for.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`], naming the field or tensor.
    pub fn load(&self, fields: &Fields<'_>, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
        self.read(fields, &|name| loader.has(name))?.load(loader)
    }

    /// Reads a configuration; `has` says whether a tensor of a name is there.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`], naming the field, also for one that changes what a model computes and that the layout does not follow.
    pub fn read(&self, fields: &Fields<'_>, has: Has<'_>) -> Result<Assembly, ModelError> {
        let assembly = (self.parse)(fields, has)?;
        understood::expect(fields)?;
        // Where the model of text has an object of its own.
        if let Some(text) = fields.object("text_config")? {
            understood::expect(&text)?;
        }
        Ok(assembly)
    }
}

/// A configuration that has been read: puts a model together from the tensors of any loader, as often as it is asked.
#[derive(Clone)]
pub struct Assembly(Arc<Assemble>);

type Assemble = dyn Fn(&mut Loader<'_>) -> Result<Parts, ModelError> + Send + Sync;

impl Assembly {
    pub(crate) fn new(
        assemble: impl Fn(&mut Loader<'_>) -> Result<Parts, ModelError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(assemble))
    }

    /// Reads every tensor. With a blank loader this says which tensors there are; it takes nothing from elsewhere.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`], naming the tensor.
    pub fn load(&self, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
        (self.0)(loader)
    }
}

impl Debug for Assembly {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Assembly").finish_non_exhaustive()
    }
}

/// A size of a layout.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name of the size: `130m`.
    pub size: &'static str,
    /// Configuration of this size, as JSON.
    pub config: &'static str,
}

/// What an architecture makes of a checkpoint.
#[derive(Debug)]
pub struct Parts {
    /// Numbers of the model that are not in its blocks.
    pub outline: Outline,
    /// The rows of the ids.
    pub embedding: Embedding,
    /// The norm after the embedding, where the architecture has one.
    pub embedding_norm: Option<Norm>,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// The norm before the head.
    pub norm: Norm,
    /// The head, which gives logits.
    pub head: Head,
}

/// The numbers of a model that are not in its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Ids that the tokenizer may give.
    pub vocab_size: usize,
    /// Rows of the embedding.
    pub padded_vocab_size: usize,
    /// Width of the residual stream.
    pub model_dim: usize,
    /// Whether head and embedding are one.
    pub tied: bool,
    /// The ids that end a text, as the configuration has them.
    pub eos_ids: Vec<u32>,
    /// What else there is to say, by name: `("head_dim", "64")`.
    pub details: BTreeMap<&'static str, String>,
}

/// The fields of `config.json`.
///
/// # Errors
/// None; the file has been read.
pub(crate) fn stored_config(checkpoint: &Checkpoint) -> Result<Map<String, Value>, CheckpointError> {
    Ok(checkpoint.config_map().clone())
}

/// `eos_token_id`: one id or a list of them, each of which ends a text; ids outside the vocabulary are left out.
///
/// # Errors
/// [`CheckpointError::Field`] for anything else.
pub(crate) fn eos_ids(fields: &Fields<'_>, vocab_size: usize) -> Result<Vec<u32>, CheckpointError> {
    let ids = fields.ids("eos_token_id")?.unwrap_or_default();
    Ok(ids.into_iter().filter(|id| (*id as usize) < vocab_size).collect())
}

impl Parts {
    pub(crate) fn network(self, device: Device) -> (Network, Outline) {
        let network = Network {
            embedding: self.embedding,
            embedding_norm: self.embedding_norm,
            blocks: self.blocks,
            norm: self.norm,
            head: self.head,
            device,
            dropout: None,
        };
        (network, self.outline)
    }
}
