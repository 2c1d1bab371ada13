//! What a model carries from token to token, and its file form.
//!
//! The file is safetensors: `layers.N.conv`, `layers.N.recurrent`, `layers.N.interventions.M.NAME`; its metadata hold the
//! version of this form, the position, the chain, and the model's shape.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use ssm_core::{Chain, LayerState, Memory, Site, State};

use crate::checkpoint::{CheckpointError, NewFile, StoredTensors};
use crate::error::ModelError;

/// Version of the file form.
const VERSION: &str = "1";

/// The state of every layer, after `position` tokens.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// First layer first.
    pub layers: Vec<LayerState>,
    pub(crate) chain: Chain,
    pub(crate) position: u64,
    pub(crate) batch: usize,
}

impl ModelState {
    /// The interventions that this state was started with, and that its memories belong to.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Tokens seen, per sequence.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Memory taken, in bytes, interventions included.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerState::bytes).sum()
    }

    /// Writes everything needed to go on later. The file appears under its name when it is complete, or not at all.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] when it cannot be written, [`ModelError::SavedState`] for a memory of a type that the file
    /// form does not have.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let mut entries = BTreeMap::new();
        for (layer, state) in self.layers.iter().enumerate() {
            entries.insert(format!("layers.{layer}.conv"), state.conv.clone().into_data());
            entries.insert(
                format!("layers.{layer}.recurrent"),
                state.recurrent.memory.clone().into_data(),
            );
            for (index, memory) in state.memories.iter().enumerate() {
                let saved = memory.save().into_iter();
                entries.extend(
                    saved.map(|(n, data)| (format!("layers.{layer}.interventions.{index}.{n}"), data)),
                );
            }
        }
        let views = entries
            .iter()
            .map(|(name, data)| Ok((name, view(path, name, data)?)));
        let views = views.collect::<Result<Vec<_>, ModelError>>()?;
        let metadata = HashMap::from([
            ("version".to_string(), VERSION.to_string()),
            ("position".to_string(), self.position.to_string()),
            ("batch".to_string(), self.batch.to_string()),
            ("layers".to_string(), self.layers.len().to_string()),
            ("chain".to_string(), self.chain.text()),
        ]);
        let file = NewFile::create(path)?;
        serialize_to_file(views, Some(metadata), file.temporary_path())
            .map_err(|e| CheckpointError::io(path, "writing")(std::io::Error::other(e)))?;
        Ok(file.commit()?)
    }

    /// Reads what [`ModelState::save`] wrote, for a model with these sites.
    pub(crate) fn restore(
        path: &Path,
        chain: &Chain,
        sites: &[Site],
        conv_shapes: &[[usize; 2]],
        device: &Device,
    ) -> Result<Self, ModelError> {
        let file = StoredTensors::open(path)?;
        let saved = Saved { path, file: &file };
        saved.expect("version", VERSION)?;
        saved.expect("chain", &chain.text())?;
        saved.expect("layers", &sites.len().to_string())?;
        let (position, batch) = (saved.number("position")?, saved.number("batch")?);
        // A batch is bounded by the tensors' shapes, which are compared below.
        let batch = usize::try_from(batch).unwrap_or(usize::MAX);
        let mut layers = Vec::with_capacity(sites.len());
        for (site, conv) in sites.iter().zip(conv_shapes) {
            let name = |part: &str| format!("layers.{}.{part}", site.layer);
            let conv = saved.floats(&name("conv"), [batch, conv[0], conv[1]])?;
            let shape = [batch, site.heads, site.key_dim, site.value_dim];
            let memory = saved.floats(&name("recurrent"), shape)?;
            layers.push(LayerState {
                conv: Tensor::from_data(conv, device),
                recurrent: State {
                    memory: Tensor::from_data(memory, device),
                    position,
                },
                memories: saved.memories(site, chain, batch, device)?,
            });
        }
        Ok(Self {
            layers,
            chain: chain.clone(),
            position,
            batch,
        })
    }
}

/// A saved state being read.
struct Saved<'a> {
    path: &'a Path,
    file: &'a StoredTensors,
}

impl Saved<'_> {
    fn wrong(&self, what: &str, expected: impl Into<String>, found: impl Into<String>) -> ModelError {
        let (path, what) = (self.path.to_path_buf(), what.to_string());
        ModelError::SavedState {
            path,
            what,
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn expect(&self, entry: &str, expected: &str) -> Result<(), ModelError> {
        match self.file.metadata(entry) {
            Some(found) if found == expected => Ok(()),
            found => Err(self.wrong(entry, expected, found.unwrap_or("nothing"))),
        }
    }

    fn number(&self, entry: &str) -> Result<u64, ModelError> {
        let found = self.file.metadata(entry);
        let number = found.and_then(|text| text.parse().ok());
        number.ok_or_else(|| self.wrong(entry, "a whole number", found.unwrap_or("nothing")))
    }

    fn floats<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<TensorData, ModelError> {
        let data = self.data(name)?;
        if data.dtype() != DType::F32 || data.shape().as_slice() != shape {
            let found = format!("{:?} {:?}", data.dtype(), data.shape().as_slice());
            return Err(self.wrong(name, format!("F32 {shape:?}"), found));
        }
        Ok(data)
    }

    fn data(&self, name: &str) -> Result<TensorData, ModelError> {
        let Some((dtype, shape, bytes)) = self.file.raw(name) else {
            return Err(self.wrong(name, "a tensor", "nothing"));
        };
        let Some((dtype, _)) = TYPES.iter().find(|(_, stored)| stored.to_string() == dtype) else {
            return Err(self.wrong(name, "a type that states have", dtype));
        };
        let data = TensorData::try_from_bytes_vec(bytes.to_vec(), shape.to_vec(), *dtype);
        data.map_err(|e| self.wrong(name, "a tensor of its own size", e.to_string()))
    }

    fn memories(
        &self,
        site: &Site,
        chain: &Chain,
        batch: usize,
        device: &Device,
    ) -> Result<Vec<Box<dyn Memory>>, ModelError> {
        let mut memories = Vec::with_capacity(chain.interventions().len());
        for (index, intervention) in chain.interventions().iter().enumerate() {
            let prefix = format!("layers.{}.interventions.{index}.", site.layer);
            let mut entries = BTreeMap::new();
            for name in self.file.names().filter(|n| n.starts_with(&prefix)) {
                entries.insert(name[prefix.len()..].to_string(), self.data(name)?);
            }
            memories.push(intervention.restore(site, batch, device, &entries)?);
        }
        Ok(memories)
    }
}

/// The tensor types that a state may have, and their names in the file.
const TYPES: [(DType, Dtype); 7] = [
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::U64, Dtype::U64),
    (DType::U32, Dtype::U32),
    (DType::U8, Dtype::U8),
];

fn view<'a>(path: &Path, name: &str, data: &'a TensorData) -> Result<TensorView<'a>, ModelError> {
    let wrong = |found: String| ModelError::SavedState {
        path: path.to_path_buf(),
        what: name.to_string(),
        expected: "a type that states have".into(),
        found,
    };
    let dtype = TYPES.iter().find(|(kept, _)| *kept == data.dtype());
    let (_, dtype) = dtype.ok_or_else(|| wrong(format!("{:?}", data.dtype())))?;
    TensorView::new(*dtype, data.shape().to_vec(), data.as_bytes()).map_err(|e| wrong(e.to_string()))
}
