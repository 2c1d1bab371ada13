//! Checkpoints as they are published: a `config.json` and weights in safetensors or PyTorch files.
//!
//! | file | what it holds |
//! |---|---|
//! | `json.rs` | fields by name; Python's bare `Infinity` and `NaN` |
//! | `scan.rs` | JSON measured before it is parsed |
//! | `header.rs` | the safetensors header, checked |
//! | `gguf/` | GGUF files, read as the layout that they were made of |
//! | [`blocks`] | their values of few bits |
//! | `pth/` | PyTorch files: the archive, and a pickle machine that builds tensors and nothing else |
//! | `folder.rs` | which of a folder's files are the weights |
//! | `bytes.rs` | the mapped file |
//! | `tensor.rs` | a tensor's values as f32, block by block |
//! | `kept.rs` | the type that it is kept in as it is stored, and its blocks |
//! | `disguise.rs` | what lies in the place of weights, and what to do |
//! | `writer.rs` | writing, to a temporary name first |
//! | `error.rs` | every way to be wrong |
//!
//! Weights are mapped, converted in blocks, and their pages given back as they are used: packing a model takes the packed
//! model's memory and one block, not twice the model.

pub mod blocks;
mod bytes;
pub(crate) mod disguise;
mod error;
mod folder;
pub(crate) mod gguf;
mod header;
mod json;
mod kept;
mod pth;
pub(crate) mod scan;
mod tensor;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::input;
use bytes::Bytes;
use disguise::Disguise;
pub use error::CheckpointError;
use folder::{ACCEPTED, find_weights, is_plain_file_name, is_pytorch};
pub(crate) use folder::{Weights, weights_among};
pub use gguf::{EmbeddedTokenizer, GgufDtype, GgufError};
pub use header::{Change, Dtype, Header, TensorInfo};
pub(crate) use json::to_text;
pub use json::{Fields, MAX_DIMENSION, MAX_LAYERS, describe, parse_object, tag_bare_non_finite};
pub use kept::Rows;
pub(crate) use kept::wider;
pub use pth::PthError;
pub use tensor::Tensor;
pub(crate) use writer::{StoredPlan, encode, write_folder, write_stored};
pub use writer::{TensorPlan, WriteDtype, write_safetensors};

/// The longest header accepted. The largest published checkpoints need under a megabyte a shard.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor that only BlinkDL's own RWKV files have. Everything that a configuration would say follows from the shapes of
/// their tensors, and they are published without one.
const NEEDS_NO_CONFIG: &str = "blocks.0.ln0.weight";

/// A checkpoint: its configuration, parsed, and its weights, mapped but not read.
#[derive(Debug)]
pub struct Checkpoint {
    config_path: PathBuf,
    config: Map<String, Value>,
    weights_path: PathBuf,
    files: Vec<WeightsFile>,
    /// Index in `files` of the file that holds each tensor, by the tensor's name.
    places: BTreeMap<String, usize>,
}

/// The bytes of a tensor as they lie in its file, whatever its type, and the shape that the layout gives it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Type of the stored values.
    pub dtype: Dtype,
    /// The type's name in the safetensors format.
    pub dtype_name: &'a str,
    /// Shape of the tensor, outermost dimension first.
    pub shape: &'a [usize],
    /// The values, little-endian and in row-major order.
    pub bytes: &'a [u8],
}

/// One file of weights: its path, its mapped bytes and its header.
#[derive(Debug)]
struct WeightsFile {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
}

impl WeightsFile {
    /// The weights of a model.
    fn of_weights(path: PathBuf, bytes: Bytes) -> Result<Self, CheckpointError> {
        if bytes.all().starts_with(gguf::MAGIC) {
            let header = Header::parse_gguf(&path, bytes.all())?;
            return Ok(Self { path, bytes, header });
        }
        Self::new(path, bytes, "a file of weights", disguise::of_weights)
    }

    /// What this program saved.
    fn saved(path: PathBuf, bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::new(path, bytes, "a saved file", disguise::of_saved)
    }

    fn new(
        path: PathBuf,
        bytes: Bytes,
        expected: &'static str,
        disguise: fn(&[u8]) -> Option<Disguise>,
    ) -> Result<Self, CheckpointError> {
        let header = match is_pytorch(&path) {
            true => Header::parse_pth(&path, bytes.all()),
            false => Header::parse(&path, bytes.all()),
        };
        let header = header.map_err(|error| match disguise(bytes.all()) {
            // What torch.save writes begins as every zip archive does.
            Some(found) if !(is_pytorch(&path) && bytes.all().starts_with(b"PK")) => {
                CheckpointError::Disguised {
                    path: path.clone(),
                    expected,
                    found: found.found,
                    advice: found.advice,
                }
            }
            _ => error,
        })?;
        Ok(Self { path, bytes, header })
    }
}

/// The tensors of one safetensors file as raw bytes, whatever their types: saved states, expected values of tests.
#[derive(Debug)]
pub struct StoredTensors(WeightsFile);

impl StoredTensors {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// A variant of [`CheckpointError`] for each way of being wrong.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        if !path.is_file() {
            return Err(CheckpointError::Missing {
                path: path.to_path_buf(),
                expected: "a .safetensors file",
            });
        }
        Ok(Self(WeightsFile::saved(path.to_path_buf(), Bytes::map(path)?)?))
    }

    /// A safetensors file that has been read already; `path` is for errors.
    ///
    /// # Errors
    /// As [`StoredTensors::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, CheckpointError> {
        Ok(Self(WeightsFile::saved(path.to_path_buf(), Bytes::Owned(bytes))?))
    }

    /// A text of the file's metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.0.header.metadata.get(name).map(String::as_str)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.header.tensors.keys().map(String::as_str)
    }

    /// Type (as the file names it), shape and little-endian bytes of a tensor.
    pub fn raw(&self, name: &str) -> Option<(&str, &[usize], &[u8])> {
        let info = self.0.header.tensors.get(name)?;
        Some((
            &info.dtype_name,
            &info.shape,
            &self.0.bytes.all()[info.begin..info.end],
        ))
    }
}

impl Checkpoint {
    /// Opens a checkpoint folder, or a file of weights with `config.json` beside it.
    ///
    /// A folder holds `model.safetensors`, or `model.safetensors.index.json` and the shards that it names, or one
    /// `.safetensors` file of any name; in place of these, the same as PyTorch files: `pytorch_model.bin`, its index, or one
    /// `.pth` file of any name. The configuration may be absent where the weights are in BlinkDL's RWKV layout:
    /// [`Checkpoint::config`] is then empty.
    ///
    /// # Errors
    /// A variant of [`CheckpointError`] for each way of being wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(CheckpointError::Missing {
                path: path.to_path_buf(),
                expected: ACCEPTED,
            });
        }
        let weights = if path.is_dir() {
            find_weights(path)?
        } else {
            path.to_path_buf()
        };
        let config_path = weights.with_file_name("config.json");
        let is_index = weights.to_string_lossy().ends_with(".index.json");
        let bytes = match is_index {
            true => None,
            false => Some(Bytes::map(&weights)?),
        };
        let describes_itself = bytes
            .as_ref()
            .is_some_and(|bytes| bytes.all().starts_with(gguf::MAGIC));
        // Before the weights: it says more of what is wrong with a folder.
        let beside = match !describes_itself && config_path.exists() {
            true => Some(read_config(&config_path)?),
            false => None,
        };
        let (files, places) = match bytes {
            None => open_shards(&weights)?,
            Some(bytes) => single_file(WeightsFile::of_weights(weights.clone(), bytes)?),
        };
        let own = files.first().map(|file| file.header.config.clone());
        let config = beside.or(own.filter(|config| !config.is_empty()));
        if config.is_none() && !places.contains_key(NEEDS_NO_CONFIG) {
            return Err(CheckpointError::Missing {
                path: config_path,
                expected: "the model's configuration",
            });
        }
        Ok(Self {
            config_path,
            config: config.unwrap_or_default(),
            weights_path: weights,
            files,
            places,
        })
    }

    /// A checkpoint that is part of the program; `name` takes the folder's place in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_static(name: &str, config: &str, weights: &'static [u8]) -> Result<Self, CheckpointError> {
        let (config_path, weights_path) = (
            Path::new(name).join("config.json"),
            Path::new(name).join("model.safetensors"),
        );
        let config = parse_object(&config_path, config)?;
        let (files, places) = single_file(WeightsFile::of_weights(
            weights_path.clone(),
            Bytes::Static(weights),
        )?);
        Ok(Self {
            config_path,
            config,
            weights_path,
            files,
            places,
        })
    }

    /// The fields of the checkpoint's configuration, by name.
    pub fn config(&self) -> Fields<'_> {
        Fields::new(&self.config_path, &self.config)
    }

    /// Whether the configuration comes from the file of weights, and not from one beside it.
    pub(crate) fn describes_itself(&self) -> bool {
        self.files
            .first()
            .is_some_and(|file| !file.header.config.is_empty())
    }

    /// The tokenizer that the file of weights brings.
    pub fn tokenizer(&self) -> Option<&EmbeddedTokenizer> {
        self.files.first()?.header.tokenizer.as_ref()
    }

    /// The configuration as one object.
    pub(crate) fn config_map(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The weights file, or the index of its shards.
    pub fn weights_path(&self) -> &Path {
        &self.weights_path
    }

    /// The folder that other files of the model, such as its tokenizer, lie in.
    pub fn folder(&self) -> &Path {
        self.weights_path.parent().unwrap_or(Path::new("."))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Bytes of all weights files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes.all().len() as u64).sum()
    }

    /// The names of the stored types, each once, sorted.
    pub fn dtypes(&self) -> Vec<&str> {
        let tensors = self.files.iter().flat_map(|f| f.header.tensors.values());
        let names: std::collections::BTreeSet<&str> = tensors.map(|t| t.dtype_name.as_str()).collect();
        names.into_iter().collect()
    }

    /// The tensor of this name as it is stored, unchecked and not read yet; without bytes where it is put together of parts.
    pub fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let file = self.files.get(*self.places.get(name)?)?;
        let info = file.header.tensors.get(name)?;
        Some(Stored {
            dtype: info.dtype,
            dtype_name: &info.dtype_name,
            shape: &info.shape,
            bytes: &file.bytes.all()[info.begin..info.end],
        })
    }

    /// A tensor of a given shape, not read yet.
    ///
    /// # Errors
    /// [`CheckpointError::TensorMissing`], [`CheckpointError::Shape`], or [`CheckpointError::Dtype`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>, CheckpointError> {
        let found = self.places.get_key_value(name).and_then(|(name, place)| {
            let file = self.files.get(*place)?;
            Some((name, file, file.header.tensors.get(name)?))
        });
        let Some((name, file, info)) = found else {
            let (path, tensor) = (self.weights_path.clone(), name.to_string());
            return Err(CheckpointError::TensorMissing {
                path,
                tensor,
                expected: shape.to_vec(),
            });
        };
        if info.shape != shape {
            return Err(CheckpointError::Shape {
                path: file.path.clone(),
                tensor: name.clone(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        if let Dtype::Other(_) = info.dtype {
            let (path, tensor) = (file.path.clone(), name.clone());
            return Err(CheckpointError::Dtype {
                path,
                tensor,
                found: info.dtype_name.clone(),
            });
        }
        Ok(Tensor {
            path: &file.path,
            name,
            info,
            bytes: &file.bytes,
            turned: false,
        })
    }

    /// Whether the weights are in a GGUF file, whose types are kept.
    pub(crate) fn is_gguf(&self) -> bool {
        self.files
            .first()
            .is_some_and(|file| file.bytes.all().starts_with(gguf::MAGIC))
    }
}

/// `config.json`, with the ids that end a text from `generation_config.json` beside it, where that has some: as transformers reads them.
fn read_config(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let mut config = parse_object(path, &read_text(path)?)?;
    let generation = path.with_file_name("generation_config.json");
    if generation.exists() {
        let found = parse_object(&generation, &read_text(&generation)?)?;
        let fields = Fields::new(&generation, &found);
        if let Some(ids) = fields.ids(EOS)? {
            config.insert(EOS.into(), ids.into());
        }
    }
    Ok(config)
}

/// The field of the ids that end a text.
const EOS: &str = "eos_token_id";

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    input::read_text(path, input::MAX_SETTINGS).map_err(CheckpointError::io(path, "reading"))
}

type Shards = (Vec<WeightsFile>, BTreeMap<String, usize>);

fn single_file(file: WeightsFile) -> Shards {
    let places = file.header.tensors.keys().map(|name| (name.clone(), 0)).collect();
    (vec![file], places)
}

/// Reads `{"weight_map": {"tensor": "shard file"}}` and maps every shard it names.
fn open_shards(index: &Path) -> Result<Shards, CheckpointError> {
    let map = parse_object(index, &read_text(index)?)?;
    let fields = Fields::new(index, &map);
    let weight_map = fields.value("weight_map").and_then(Value::as_object);
    let weight_map = weight_map.ok_or_else(|| {
        fields.wrong(
            "weight_map",
            "an object from tensor to file name",
            fields.value("weight_map"),
        )
    })?;
    let mut files: Vec<WeightsFile> = Vec::new();
    let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let wrong = || {
            fields.wrong(
                &format!("weight_map.{tensor}"),
                "a file name in the same folder",
                Some(shard),
            )
        };
        let name = shard
            .as_str()
            .filter(|s| is_plain_file_name(s))
            .ok_or_else(wrong)?;
        let place = match opened.get(name) {
            Some(place) => *place,
            None => {
                files.push(open_shard(index, name, tensor)?);
                opened.insert(name, files.len() - 1);
                files.len() - 1
            }
        };
        if !files[place].header.tensors.contains_key(tensor) {
            let (path, index) = (files[place].path.clone(), index.to_path_buf());
            return Err(CheckpointError::NotInShard {
                path,
                index,
                tensor: tensor.clone(),
            });
        }
        places.insert(tensor.clone(), place);
    }
    Ok((files, places))
}

fn open_shard(index: &Path, name: &str, tensor: &str) -> Result<WeightsFile, CheckpointError> {
    let path = index.with_file_name(name);
    if !path.exists() {
        let (path, tensor) = (index.to_path_buf(), tensor.to_string());
        return Err(CheckpointError::ShardMissing {
            path,
            shard: name.to_string(),
            tensor,
        });
    }
    let bytes = Bytes::map(&path)?;
    WeightsFile::of_weights(path, bytes)
}
