//! A model ready to run.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`Model`]: loaded from a checkpoint, its weights, tokenizer and empty states |
//! | `run.rs` | the calls that everything else is made of: logits, losses, or just moving on |
//! | `batch.rs` | prompts of different lengths side by side |

mod batch;
mod run;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
pub(crate) use run::SEGMENT;
pub use run::{Logits, segments};
use serde::Serialize;
use serde_json::{Map, Value};
pub use spillway_kernel_dsl::linear::WeightType;
use spillway_ssm_core::{Chain, Mixer, Site};

use crate::budget::{self, product};
use crate::checkpoint::{
    Checkpoint, CheckpointError, EmbeddedTokenizer, Fields, StoredTensors, parse_object,
};
use crate::error::ModelError;
use crate::hub;
use crate::input;
use crate::layout::{Layout, Outline, Parts};
use crate::loader::{Loader, bits};
use crate::network::Network;
use crate::registry;
use crate::state::file::Owner;
use crate::state::{LayerState, ModelState, ask_for_states, states_at_least};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// How a checkpoint is loaded.
///
/// # Own types
///
/// | in a GGUF file | kept as | error of a weight |
/// |---|---|---|
/// | f32, f16; bf16 | f32; bf16 | none |
/// | q4_0; q8_0 | int4; q8_0, block by block | none |
/// | q4_K, q5_K, q6_K | q8_0 | at most 0.4 % of the largest magnitude among its 32 |
///
/// Where a layout takes blocks apart, they are kept as the last row has it.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The type in which matrices are kept. `None` keeps those of a GGUF file in the file's own types ([table](LoadOptions#own-types)),
    /// and all others as f32.
    pub weights: Option<WeightType>,
    /// Where the model runs. Packed weights are read as they are on the CPU; other devices get dense copies.
    pub device: Device,
    /// The tokenizer's file, where it is not the one in the checkpoint's folder.
    pub tokenizer: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            weights: None,
            device: Device::flex(),
            tokenizer: None,
        }
    }
}

impl LoadOptions {
    /// Matrices kept in this type, on the CPU.
    pub fn with_weights(weights: impl Into<Option<WeightType>>) -> Self {
        Self {
            weights: weights.into(),
            ..Self::default()
        }
    }
}

/// What there is to know about a model without running it.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// The folder's or file's name.
    pub name: String,
    /// Name of the architecture: `mamba2`, `rwkv7`, ...
    pub architecture: &'static str,
    /// The published layout that its files have.
    pub layout: &'static str,
    /// What showed that they have it.
    pub recognised_by: String,
    /// Ids that the tokenizer may give.
    pub vocab_size: usize,
    /// Rows of the embedding.
    pub padded_vocab_size: usize,
    /// Number of blocks on the residual stream.
    pub layers: usize,
    /// Width of the residual stream.
    pub model_dim: usize,
    /// What else the architecture has to say, by name.
    pub details: BTreeMap<&'static str, String>,
    /// Whether head and embedding are one.
    pub tied: bool,
    /// Number of scalar weights in the model.
    pub parameters: u64,
    /// The types in the file.
    pub stored_as: Vec<String>,
    /// The type that matrices are kept in: `f32`, `bf16`, `int8`, `q8_0` or `int4`; several, the widest first, where each is kept as its file
    /// has it.
    pub kept_as: String,
    /// Memory taken by the weights, in bytes.
    pub weight_bytes: u64,
    /// Memory taken by the state of one sequence without interventions before its first token, in bytes.
    pub state_bytes: u64,
    /// Bytes by which that state grows with every token (the keys and values of attention layers).
    pub cache_bytes_per_token: u64,
    /// Multiplications and additions of one decoded token.
    pub flops_per_token: u64,
    /// Length that the model was trained on, in tokens, where `spillway.json` beside the weights says so.
    pub train_length: Option<u64>,
    /// `bytes`, `tokenizer.json`, `rwkv_vocab` or `none`.
    pub tokenizer: &'static str,
    /// The ids that end a text, as the configuration has them.
    pub eos_ids: Vec<u32>,
    /// Every recurrence that interventions may act on, layer by layer.
    #[serde(skip)]
    pub sites: Vec<Site>,
}

/// Where a model comes from.
pub(crate) struct Origin<'a> {
    pub(crate) layout: &'static Layout,
    /// What showed that it has this layout.
    pub(crate) recognised_by: String,
    pub(crate) config: &'a Map<String, Value>,
    /// The types of the stored tensors.
    pub(crate) stored_as: Vec<String>,
    pub(crate) name: String,
    pub(crate) train_length: Option<u64>,
}

/// A model ready to run.
///
/// ```
/// use spillway_models::{LoadOptions, Model, Logits};
/// use spillway_ssm_core::Chain;
///
/// let model = Model::shipped(&LoadOptions::default())?;
/// let mut state = model.start(&Chain::default(), 1)?;
/// let ids = model.tokenizer().encode("In the beginning")?;
/// let logits = model.logits(&ids, &mut state, Logits::Last)?;
/// assert_eq!(logits.dims(), [1, 256]);
/// assert_eq!(state.position(), 16);
/// # Ok::<(), spillway_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Model {
    info: Info,
    network: Network,
    tokenizer: Tokenizer,
    device: Device,
    fingerprint: String,
}

impl Model {
    /// Loads a checkpoint: a folder, or a weights file.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] or [`ModelError::Tokenizer`], naming what is wrong with which file.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(path)?;
        let train_length = train_length(&checkpoint.folder().join("spillway.json"))?;
        let name = path_name(path);
        let tokenizer = |outline: &Outline| match checkpoint.tokenizer() {
            Some(EmbeddedTokenizer::Json(text)) => {
                Tokenizer::from_json(checkpoint.weights_path(), text, outline.padded_vocab_size)
            }
            Some(EmbeddedTokenizer::Rwkv(text)) => {
                Tokenizer::from_words(checkpoint.weights_path(), text, outline.padded_vocab_size)
            }
            Some(EmbeddedTokenizer::Unread(reason)) => {
                Tokenizer::open(checkpoint.folder(), outline.vocab_size, outline.padded_vocab_size)
                    .map(|found| found.or_unread(checkpoint.weights_path(), reason))
            }
            None => Tokenizer::open(checkpoint.folder(), outline.vocab_size, outline.padded_vocab_size),
        };
        Self::assemble(&checkpoint, tokenizer, name, train_length, options)
    }

    /// The small checkpoint that is part of this crate: see [`crate::shipped`].
    ///
    /// # Errors
    /// None that could be mended from outside; the crate's tests load it.
    pub fn shipped(options: &LoadOptions) -> Result<Self, ModelError> {
        let checkpoint = crate::shipped::checkpoint()?;
        let (name, length) = (
            crate::shipped::NAME.to_string(),
            Some(crate::shipped::TRAIN_LENGTH),
        );
        Self::assemble(&checkpoint, |_| Ok(Tokenizer::bytes()), name, length, options)
    }

    pub(crate) fn assemble(
        checkpoint: &Checkpoint,
        tokenizer: impl FnOnce(&Outline) -> Result<Tokenizer, TokenizerError>,
        name: String,
        train_length: Option<u64>,
        options: &LoadOptions,
    ) -> Result<Self, ModelError> {
        let (layout, recognised_by) = registry::recognise(checkpoint)?;
        let mut loader = Loader::new(checkpoint, options.weights, options.device.clone());
        let stored = checkpoint.names().filter_map(|name| {
            let shape = checkpoint.stored(name)?.shape;
            // Types that are not weights are refused when they are asked for.
            let own = checkpoint
                .tensor(name, shape)
                .ok()
                .map(|tensor| tensor.own_type());
            Some((shape, loader.asked_type().or(own).unwrap_or(WeightType::F32)))
        });
        ask_for_weights(stored, loader.asked_type())?;
        let config = (layout.config)(checkpoint)?;
        let path = checkpoint.config().path();
        let parts = layout.load(&Fields::new(&path, &config), &mut loader)?;
        loader.expect_all_read(&format!("{} ({})", layout.architecture, layout.name))?;
        let origin = Origin {
            layout,
            recognised_by,
            config: &config,
            stored_as: checkpoint.dtypes().into_iter().map(String::from).collect(),
            name,
            train_length,
        };
        Self::of_parts(parts, loader, origin, tokenizer, options)
    }

    /// A model of what `loader` has read.
    pub(crate) fn of_parts(
        parts: Parts,
        loader: Loader<'_>,
        origin: Origin<'_>,
        tokenizer: impl FnOnce(&Outline) -> Result<Tokenizer, TokenizerError>,
        options: &LoadOptions,
    ) -> Result<Self, ModelError> {
        let (layout, device) = (origin.layout, options.device.clone());
        let fingerprint = {
            let mut hash = loader.contents.clone();
            hash.text(env!("CARGO_PKG_VERSION"));
            hash.text(layout.architecture);
            hash.text(layout.name);
            // The architecture has been named; files without a configuration of their own do not name it again.
            let mut config = origin.config.clone();
            config.remove("model_type");
            hash.text(&Value::Object(config).to_string());
            hash.text(&loader.kept_as());
            hash.text(&format!("{device:?}"));
            hash
        };
        let (network, outline) = parts.network(device.clone());
        let tokenizer = match &options.tokenizer {
            Some(path) => Tokenizer::from_file(path, outline.padded_vocab_size)?,
            None => tokenizer(&outline)?,
        };
        ask_for_states(states_at_least(&network.sites()), 1)?;
        let start: usize = network
            .start(&Chain::default(), 1)
            .iter()
            .map(LayerState::bytes)
            .sum();
        let mixing: u64 = network.mixers().map(Mixer::flops_per_token).sum();
        let info = Info {
            name: origin.name,
            architecture: layout.architecture,
            layout: layout.name,
            recognised_by: origin.recognised_by,
            vocab_size: outline.vocab_size,
            padded_vocab_size: outline.padded_vocab_size,
            layers: network.blocks().len(),
            model_dim: outline.model_dim,
            details: outline.details,
            tied: outline.tied,
            parameters: loader.parameters,
            stored_as: origin.stored_as,
            kept_as: loader.kept_as(),
            weight_bytes: loader.weight_bytes,
            state_bytes: start as u64,
            cache_bytes_per_token: network.mixers().map(Mixer::cache_bytes_per_token).sum(),
            flops_per_token: loader.matrix_flops + mixing,
            train_length: origin.train_length,
            tokenizer: tokenizer.name(),
            eos_ids: outline.eos_ids,
            sites: network.sites(),
        };
        Ok(Self {
            info,
            network,
            tokenizer,
            fingerprint: format!("{:032x}", fingerprint.digest()),
            device,
        })
    }

    /// What there is to know about the model.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Lets these ids end a text, in place of those of the configuration.
    pub fn end_at(&mut self, ids: Vec<u32>) {
        self.info.eos_ids = ids;
    }

    /// A hash of everything that decides what the model computes: the values of its weights and how they are kept, its
    /// configuration and layout, the kind of device, and the version of this crate. 32 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Text to ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The device that the model runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The layers, for whoever looks inside.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The state before the first token of `batch` sequences, with `chain` acting in every layer.
    ///
    /// # Errors
    /// [`ModelError::Incompatible`] when an intervention cannot work with a layer, [`ModelError::NoAttention`] when there is no
    /// layer for it to act on, [`ModelError::Budget`] when the machine has no memory for so many states.
    pub fn start(&self, chain: &Chain, batch: usize) -> Result<ModelState, ModelError> {
        self.check_chain(chain)?;
        ask_for_states(Some(self.info.state_bytes), batch)?;
        Ok(ModelState {
            layers: self.network.start(chain, batch),
            chain: chain.clone(),
            positions: vec![0; batch],
            prefix: None,
        })
    }

    /// Whether every intervention of `chain` can work with this model.
    fn check_chain(&self, chain: &Chain) -> Result<(), ModelError> {
        self.info.sites.iter().try_for_each(|site| chain.check(site))?;
        // Of attention over all tokens the keys and values grow with every one.
        match chain.acting_on_attention() {
            Some(member) if self.info.cache_bytes_per_token == 0 => Err(ModelError::NoAttention {
                intervention: member.text(),
            }),
            _ => Ok(()),
        }
    }

    /// The state in a file that [`ModelState::save`] wrote, with the same chain. Going on from it gives the same bits.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for a file that cannot be read, [`ModelError::SavedState`] for one of another model or
    /// chain.
    pub fn restore(&self, path: &Path, chain: &Chain) -> Result<ModelState, ModelError> {
        self.check_chain(chain)?;
        self.restored(path, &StoredTensors::open(path)?, chain)
    }

    /// As [`Model::restore`] of an open file; `path` is for errors.
    pub(crate) fn restored(
        &self,
        path: &Path,
        file: &StoredTensors,
        chain: &Chain,
    ) -> Result<ModelState, ModelError> {
        let blocks = self.network.blocks().iter().enumerate();
        let owner = Owner {
            sites: blocks.map(|(layer, block)| block.mixer.sites(layer)).collect(),
            start: &|batch| self.start(chain, batch),
        };
        ModelState::read(path, file, chain, &owner)
    }
}

/// Asks for the memory of all weights, given their shapes and the types of matrices, before the first is read; `asked` is the type that was
/// asked for.
pub(crate) fn ask_for_weights(
    tensors: impl Iterator<Item = (impl AsRef<[usize]>, WeightType)>,
    asked: Option<WeightType>,
) -> Result<(), ModelError> {
    let bytes = tensors.map(|(shape, weights)| {
        let shape = shape.as_ref();
        let kept = if shape.len() < 2 { WeightType::F32 } else { weights };
        let values = shape.iter().map(|size| *size as u64);
        product(values.chain([bits(kept)])).map(|bits| bits.div_ceil(8))
    });
    let advice = match asked {
        Some(WeightType::F32) => {
            "keep them in fewer bits (--dtype bf16, int8 or int4), or take a smaller model"
        }
        Some(WeightType::Bf16) => "keep them in fewer bits (--dtype int8 or int4), or take a smaller model",
        None | Some(WeightType::Int8 | WeightType::Q8_0) => {
            "keep them in fewer bits (--dtype int4), or take a smaller model"
        }
        Some(WeightType::Int4) => "take a smaller model",
    };
    Ok(budget::ask("the weights", budget::sum(bytes), advice)?)
}

fn path_name(path: &Path) -> String {
    if let Some(name) = hub::name_of(path) {
        return name;
    }
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    full.file_name().map_or_else(
        || full.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    )
}

/// `{"train_length": 2048}` beside the weights, if it is there.
fn train_length(path: &Path) -> Result<Option<u64>, CheckpointError> {
    if !path.exists() {
        return Ok(None);
    }
    let text = input::read_text(path, input::MAX_SETTINGS).map_err(CheckpointError::io(path, "reading"))?;
    let map = parse_object(path, &text)?;
    let fields = Fields::new(path, &map);
    if !fields.has("train_length") {
        return Ok(None);
    }
    Ok(Some(fields.dimension("train_length")? as u64))
}
