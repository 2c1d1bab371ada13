//! A model ready to run: weights, tokenizer, and the calls that everything else is made of.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde::Serialize;
use serde_json::Value;
pub use spillway_kernel_dsl::linear::WeightType;
use spillway_ssm_core::operators::cross_entropy;
use spillway_ssm_core::{Chain, Chunking, Mixer, Site};

use crate::awake::awake;
use crate::budget::{self, product};
use crate::checkpoint::{Checkpoint, CheckpointError, Fields, parse_object};
use crate::error::ModelError;
use crate::input;
use crate::layout::{self, Outline};
use crate::loader::Loader;
use crate::network::{Call, Network};
use crate::state::{LayerState, ModelState};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens that go through the layers at a time: enough for matrix products at full speed, little enough that the memory of a
/// prefill does not depend on its length.
pub(crate) const SEGMENT: usize = 256;
/// Tokens in a call, over all sequences, up to which it waits for memory rather than computes.
const DECODED_AT_ONCE: usize = 16;
/// Memory that a block of logits may take while losses are computed.
const LOGIT_BYTES: usize = 4 << 20;

/// How a checkpoint is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The type in which matrices are kept.
    pub weights: WeightType,
    /// Where the model runs. Packed weights are read as they are on the CPU; other devices get dense copies.
    pub device: Device,
    /// The tokenizer's file, where it is not the one in the checkpoint's folder.
    pub tokenizer: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            weights: WeightType::F32,
            device: Device::flex(),
            tokenizer: None,
        }
    }
}

impl LoadOptions {
    /// Matrices kept in this type, on the CPU.
    pub fn with_weights(weights: WeightType) -> Self {
        Self {
            weights,
            ..Self::default()
        }
    }
}

/// Which tokens' logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Those after the last token only.
    Last,
    /// Those after every token.
    All,
}

/// What there is to know about a model without running it.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// The folder's or file's name.
    pub name: String,
    /// `mamba2`, `rwkv7`, ...
    pub architecture: &'static str,
    /// The published layout that its files have.
    pub layout: &'static str,
    /// What showed that they have it.
    pub recognised_by: String,
    /// Ids that the tokenizer may give.
    pub vocab_size: usize,
    /// Rows of the embedding.
    pub padded_vocab_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub model_dim: usize,
    /// What else the architecture has to say, by name.
    pub details: BTreeMap<&'static str, String>,
    /// Whether head and embedding are one.
    pub tied: bool,
    /// Number of weights.
    pub parameters: u64,
    /// The types in the file.
    pub stored_as: Vec<String>,
    /// The type that matrices are kept in: `f32`, `bf16` or `int8`.
    pub kept_as: &'static str,
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
    /// The id that ends a text, where the configuration has one.
    pub eos_id: Option<u32>,
    /// Every recurrence that interventions may act on, layer by layer.
    #[serde(skip)]
    pub sites: Vec<Site>,
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
        let tokenizer = |outline: &Outline| {
            Tokenizer::open(checkpoint.folder(), outline.vocab_size, outline.padded_vocab_size)
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
        let device = options.device.clone();
        let (layout, recognised_by) = layout::recognise(checkpoint)?;
        ask_for_weights(checkpoint, options.weights)?;
        let config = (layout.config)(checkpoint)?;
        let mut loader = Loader::new(checkpoint, options.weights, device.clone());
        let path = checkpoint.config().path();
        let parts = (layout.load)(&Fields::new(&path, &config), &mut loader)?;
        loader.expect_all_read(&format!("{} ({})", layout.architecture, layout.name))?;
        let fingerprint = {
            let mut hash = loader.contents.clone();
            hash.text(env!("CARGO_PKG_VERSION"));
            hash.text(layout.architecture);
            hash.text(layout.name);
            hash.text(&Value::Object(config).to_string());
            hash.text(weight_type_name(options.weights));
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
            name,
            architecture: layout.architecture,
            layout: layout.name,
            recognised_by,
            vocab_size: outline.vocab_size,
            padded_vocab_size: outline.padded_vocab_size,
            layers: network.blocks().len(),
            model_dim: outline.model_dim,
            details: outline.details,
            tied: outline.tied,
            parameters: loader.parameters,
            stored_as: checkpoint.dtypes().into_iter().map(String::from).collect(),
            kept_as: weight_type_name(options.weights),
            weight_bytes: loader.weight_bytes,
            state_bytes: start as u64,
            cache_bytes_per_token: network.mixers().map(Mixer::cache_bytes_per_token).sum(),
            flops_per_token: loader.matrix_flops + mixing,
            train_length,
            tokenizer: tokenizer.name(),
            eos_id: outline.eos_id,
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
    /// [`ModelError::Incompatible`] when an intervention cannot work with a layer, [`ModelError::Budget`] when the machine
    /// has no memory for so many states.
    pub fn start(&self, chain: &Chain, batch: usize) -> Result<ModelState, ModelError> {
        self.info.sites.iter().try_for_each(|site| chain.check(site))?;
        ask_for_states(Some(self.info.state_bytes), batch)?;
        Ok(ModelState {
            layers: self.network.start(chain, batch),
            chain: chain.clone(),
            positions: vec![0; batch],
        })
    }

    /// The state in a file that [`ModelState::save`] wrote, with the same chain. Going on from it gives the same bits.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for a file that cannot be read, [`ModelError::SavedState`] for one of another model or
    /// chain.
    pub fn restore(&self, path: &Path, chain: &Chain) -> Result<ModelState, ModelError> {
        self.info.sites.iter().try_for_each(|site| chain.check(site))?;
        ModelState::restore(path, chain, self)
    }

    /// Takes in `ids` and returns the logits after the last or after all of them, `[1 or time, vocab_size]`; `state` moves on.
    ///
    /// Any number of ids: a prefill, one decoded token, or anything between, from any state. Memory does not grow with their
    /// number, but for the logits asked for. After an error the state is not to be used.
    ///
    /// # Errors
    /// [`ModelError::Id`] beyond the vocabulary, [`ModelError::EmptyPrompt`] for the last of no tokens,
    /// [`ModelError::State`] for a state of another model or batch size, [`ModelError::Layer`] from an intervention.
    pub fn logits(
        &self,
        ids: &[u32],
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Tensor<2>, ModelError> {
        self.expect_batch(state, 1)?;
        let logits = self.logits_batched(ids, state, which)?;
        Ok(logits.squeeze_dim::<2>(0).narrow(1, 0, self.info.vocab_size))
    }

    /// As [`Model::logits`] for all sequences of the state, over the padded vocabulary: `[batch, 1 or time, padded_vocab_size]`.
    /// `ids` holds the sequences one after another.
    ///
    /// # Errors
    /// As [`Model::logits`]; [`ModelError::Count`] when the ids do not divide into sequences of one length.
    pub fn logits_batched(
        &self,
        ids: &[u32],
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Tensor<3>, ModelError> {
        let time = self.check(ids, state)?;
        if time == 0 && which == Logits::Last {
            return Err(ModelError::EmptyPrompt);
        }
        // The products of a prompt are long enough for threads to be woken for each.
        match ids.len() {
            1..=DECODED_AT_ONCE => awake(|| self.checked_logits(ids, time, state, which)),
            _ => self.checked_logits(ids, time, state, which),
        }
    }

    fn checked_logits(
        &self,
        ids: &[u32],
        time: usize,
        state: &mut ModelState,
        which: Logits,
    ) -> Result<Tensor<3>, ModelError> {
        if which == Logits::All {
            let values = [ids.len() as u64, self.info.padded_vocab_size as u64, 4];
            let advice =
                "ask for those after the last token, or for losses, or take in fewer tokens at a time";
            budget::ask("the logits after every token", product(values), advice)?;
        }
        let mut logits = Vec::new();
        for segment in segments(time) {
            let last = segment.end == time;
            let normed = self.advance_segment(ids, segment, state)?;
            match which {
                Logits::All => logits.push(self.network.logits(normed)?),
                Logits::Last if last => {
                    let end = normed.dims()[1] - 1;
                    logits.push(self.network.logits(normed.narrow(1, end, 1))?);
                }
                Logits::Last => {}
            }
        }
        match (logits.pop(), logits.is_empty()) {
            (None, _) => Ok(Tensor::zeros(
                [state.batch(), 0, self.info.padded_vocab_size],
                &self.device,
            )),
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                logits.push(last);
                Ok(Tensor::cat(logits, 1))
            }
        }
    }

    /// Takes in `ids` without computing any logits.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn advance(&self, ids: &[u32], state: &mut ModelState) -> Result<(), ModelError> {
        let time = self.check(ids, state)?;
        segments(time).try_for_each(|segment| self.advance_segment(ids, segment, state).map(drop))
    }

    /// −log p(`targets[i]` | everything up to `ids[i]`) in nats, over the vocabulary without its padding; `state` moves on.
    ///
    /// Logits are made a few rows at a time, so that memory does not grow with the number of tokens.
    ///
    /// # Errors
    /// As [`Model::logits`]; [`ModelError::Count`] unless there is a target per id, [`ModelError::Id`] for a target beyond the
    /// vocabulary.
    pub fn losses(
        &self,
        ids: &[u32],
        targets: &[u32],
        state: &mut ModelState,
    ) -> Result<Vec<f32>, ModelError> {
        self.expect_batch(state, 1)?;
        self.losses_batched(ids, targets, state)
    }

    /// As [`Model::losses`] for all sequences of the state; ids, targets and losses hold the sequences one after another.
    ///
    /// # Errors
    /// As [`Model::losses`].
    pub fn losses_batched(
        &self,
        ids: &[u32],
        targets: &[u32],
        state: &mut ModelState,
    ) -> Result<Vec<f32>, ModelError> {
        let time = self.check(ids, state)?;
        if targets.len() != ids.len() {
            return Err(ModelError::Count {
                what: "targets",
                expected: format!("{}, one per id", ids.len()),
                found: targets.len(),
            });
        }
        self.check_ids(targets)?;
        let mut losses = vec![0.0; ids.len()];
        for segment in segments(time) {
            let normed = self.advance_segment(ids, segment.clone(), state)?;
            for row in 0..state.batch() {
                let range = row * time + segment.start..row * time + segment.end;
                let normed = normed.clone().narrow(0, row, 1);
                self.losses_of(normed, &targets[range.clone()], &mut losses[range])?;
            }
        }
        Ok(losses)
    }

    /// −log p of one sequence's targets from what its layers give, `[1, time, model_dim]`.
    fn losses_of(&self, normed: Tensor<3>, targets: &[u32], losses: &mut [f32]) -> Result<(), ModelError> {
        let rows = (LOGIT_BYTES / (4 * self.info.padded_vocab_size)).clamp(1, SEGMENT);
        let blocks = targets.chunks(rows).zip(losses.chunks_mut(rows));
        for (block, (targets, losses)) in blocks.enumerate() {
            let normed = normed.clone().narrow(1, block * rows, targets.len());
            let logits = self
                .network
                .logits(normed)?
                .reshape([targets.len(), self.info.padded_vocab_size]);
            let found = cross_entropy(logits, Arc::from(targets), self.info.vocab_size)?.into_data();
            losses
                .iter_mut()
                .zip(found.iter::<f32>())
                .for_each(|(loss, found)| *loss = found);
        }
        Ok(())
    }

    /// One segment of every sequence through all layers: `[batch, segment, model_dim]` after the last norm.
    fn advance_segment(
        &self,
        ids: &[u32],
        segment: Range<usize>,
        state: &mut ModelState,
    ) -> Result<Tensor<3>, ModelError> {
        let embedded = match state.batch() {
            1 => self.network.embed(&ids[segment.clone()], 1)?,
            batch => {
                let time = ids.len() / batch;
                let rows = (0..batch).flat_map(|b| &ids[b * time + segment.start..b * time + segment.end]);
                self.network.embed(&rows.copied().collect::<Vec<_>>(), batch)?
            }
        };
        let call = Call {
            chain: &state.chain,
            chunking: Chunking::Fastest,
            positions: &state.positions,
        };
        let normed = self.network.forward(embedded, &mut state.layers, call)?;
        state
            .positions
            .iter_mut()
            .for_each(|position| *position += segment.len() as u64);
        Ok(normed)
    }

    /// Everything that can be wrong before the state is touched; the number of tokens per sequence.
    fn check(&self, ids: &[u32], state: &ModelState) -> Result<usize, ModelError> {
        if state.layers.len() != self.info.layers {
            let (expected, found) = (self.info.layers.to_string(), state.layers.len().to_string());
            return Err(ModelError::State {
                what: "number of layers",
                expected,
                found,
            });
        }
        if state.batch() == 0 || !ids.len().is_multiple_of(state.batch()) {
            let expected = format!("{} sequences of one length", state.batch());
            return Err(ModelError::Count {
                what: "ids",
                expected,
                found: ids.len(),
            });
        }
        self.check_ids(ids)?;
        Ok(ids.len() / state.batch())
    }

    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.info.vocab_size;
        match ids.iter().position(|id| *id as usize >= vocab_size) {
            None => Ok(()),
            Some(index) => Err(ModelError::Id {
                index,
                id: ids[index],
                vocab_size,
            }),
        }
    }

    fn expect_batch(&self, state: &ModelState, batch: usize) -> Result<(), ModelError> {
        if state.batch() == batch {
            return Ok(());
        }
        let (expected, found) = (batch.to_string(), state.batch().to_string());
        Err(ModelError::State {
            what: "sequences in a call for one",
            expected,
            found,
        })
    }
}

/// Asks for the memory of all weights before the first is read.
fn ask_for_weights(checkpoint: &Checkpoint, weights: WeightType) -> Result<(), ModelError> {
    let width = match weights {
        WeightType::F32 => 4,
        WeightType::Bf16 => 2,
        WeightType::Int8 => 1,
    };
    let bytes = checkpoint.names().map(|name| {
        let shape = checkpoint.stored(name).map_or(&[][..], |stored| stored.shape);
        let width = if shape.len() < 2 { 4 } else { width };
        product(shape.iter().map(|size| *size as u64).chain([width]))
    });
    let advice = match weights {
        WeightType::F32 => "keep them in fewer bits (--dtype bf16 or int8), or take a smaller model",
        WeightType::Bf16 => "keep them in fewer bits (--dtype int8), or take a smaller model",
        WeightType::Int8 => "take a smaller model",
    };
    Ok(budget::ask("the weights", budget::sum(bytes), advice)?)
}

/// Memory of one sequence's state in the recurrences, which follows from the configuration alone.
pub(crate) fn states_at_least(sites: &[Site]) -> Option<u64> {
    budget::sum(sites.iter().map(|site| {
        let [_, heads, rows, columns] = site.state_shape(1).map(|size| size as u64);
        product([heads, rows, columns, 4])
    }))
}

/// Asks for the memory of the states of `batch` sequences.
pub(crate) fn ask_for_states(bytes: Option<u64>, batch: usize) -> Result<(), ModelError> {
    let what = match batch {
        1 => "the states of one sequence".to_string(),
        batch => format!("the states of {batch} sequences"),
    };
    let bytes = bytes.and_then(|bytes| product([bytes, batch as u64]));
    Ok(budget::ask(
        &what,
        bytes,
        "run fewer sequences side by side, or a smaller model",
    )?)
}

fn segments(time: usize) -> impl Iterator<Item = Range<usize>> {
    (0..time)
        .step_by(SEGMENT)
        .map(move |start| start..(start + SEGMENT).min(time))
}

fn weight_type_name(weights: WeightType) -> &'static str {
    match weights {
        WeightType::F32 => "f32",
        WeightType::Bf16 => "bf16",
        WeightType::Int8 => "int8",
    }
}

fn path_name(path: &Path) -> String {
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
