//! What is trained: every tensor of a model under its published name, in f32.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, Value, json};

use crate::budget::{self, product};
use crate::checkpoint::{
    Checkpoint, CheckpointError, Fields, TensorPlan, WriteDtype, write_folder, write_safetensors,
};
use crate::error::ModelError;
use crate::init::for_each_block;
use crate::layout::{Assembly, Layout};
use crate::loader::{Asked, Loader, Source, ValuesInMemory};
use crate::model::{LoadOptions, Model, Origin, WeightType, ask_for_weights};
use crate::output::{NewFile, NewFolder};
use crate::registry;
use crate::tokenizer::Tokenizer;

/// In the place of a path, where a configuration comes from memory.
const CONFIG: &str = "config.json";

/// One tensor of a model.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name of the tensor in the published layout.
    pub name: String,
    /// Shape of the tensor in that layout, outermost dimension first.
    pub shape: Vec<usize>,
    /// Values of the tensor in row-major order, f32, without autodiff.
    pub value: Tensor<1>,
    /// A second name under which the layout stores the same values: that of a head that is tied and stored all the same.
    pub twin: Option<String>,
}

impl Parameter {
    /// A fresh one, the same for the same seed.
    pub(super) fn fresh(asked: Asked, seed: u64, device: &Device) -> Self {
        let mut values = Vec::new();
        let Ok(()) = for_each_block::<std::convert::Infallible>(&asked, seed, |block| {
            values.extend_from_slice(block);
            Ok(())
        });
        let count = values.len();
        Self {
            name: asked.plan.name,
            shape: asked.plan.shape,
            value: Tensor::from_data(TensorData::new(values, [count]), device),
            twin: None,
        }
    }

    /// How the tensor is written under `name`: that name, and its shape.
    fn plan(&self, name: &str) -> TensorPlan {
        TensorPlan {
            name: name.to_string(),
            shape: self.shape.clone(),
        }
    }
}

/// The tensors of a model in one layout, as they are now.
///
/// ```
/// use burn::tensor::Device;
/// use spillway_models::init::preset;
/// use spillway_models::registry::layouts;
/// use spillway_models::train::{Batch, Parameters, Precision};
///
/// let layout = layouts()[0];
/// let config = serde_json::from_str(preset(layout, "tiny").unwrap().config)?;
/// let device = Device::flex();
/// let parameters = Parameters::random(layout, &config, 1, &device)?;
///
/// let leaves = parameters.leaves(&device.autodiff(), Precision::F32);
/// let network = leaves.network()?;
/// let batch = Batch {
///     sequences: 1,
///     time: 3,
///     ids: vec![1, 2, 3],
///     targets: vec![2, 3, 4],
///     weights: None,
///     continues: vec![false],
/// };
/// let (loss, targets) = network.loss(&batch.whole(), &mut network.start(1))?;
/// assert_eq!(targets, 3.0);
/// let gradients = leaves.gradients(&mut loss.backward());
/// assert_eq!(gradients.len(), parameters.list().len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Parameters {
    layout: &'static Layout,
    config: Map<String, Value>,
    /// The configuration as the layout has read it: puts the model together from tensors.
    assembly: Assembly,
    list: Vec<Parameter>,
    /// How many of `list`, the first ones, are tensors of the layout.
    of_layout: usize,
    device: Device,
}

/// Refuses checkpoints of S4 whose C is C̃ = C (I − Ā^l): trained as it stands, it would be taken for C.
fn refuse_truncated(checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let truncated = checkpoint.names().find(|name| {
        let stored = name
            .ends_with(".l_kernel")
            .then(|| checkpoint.stored(name))
            .flatten();
        stored.is_some_and(|stored| stored.bytes.iter().any(|byte| *byte != 0))
    });
    match truncated {
        None => Ok(()),
        Some(name) => Err(CheckpointError::Unsupported {
            path: checkpoint.weights_path().to_path_buf(),
            field: name.to_string(),
            found: "a length, so that C is kept for kernels of that length".into(),
            accepted: "0 where a training begins (such a checkpoint can be run)",
        }),
    }
}

impl Parameters {
    /// Fresh values: those that [`write_random`](crate::init::write_random) writes in f32 for the same seed.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for a configuration that the layout refuses.
    pub fn random(
        layout: &'static Layout,
        config: &Map<String, Value>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let assembly = layout.read(&Fields::new(Path::new(CONFIG), config), &|_| false)?;
        let mut loader = Loader::blank();
        assembly.load(&mut loader)?;
        let plan = (layout, config.clone(), assembly);
        Self::of(plan, loader.asked(), device, |asked| {
            let mut values = Vec::with_capacity(asked.plan.shape.iter().product());
            for_each_block(asked, seed, |block| {
                values.extend_from_slice(block);
                Ok::<_, CheckpointError>(())
            })?;
            Ok(values)
        })
    }

    /// The tensors of a checkpoint in any published layout: a folder, or a weights file.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`], naming what is wrong with which file.
    pub fn load(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(path)?;
        refuse_truncated(&checkpoint)?;
        let (layout, _) = registry::recognise(&checkpoint)?;
        let config = (layout.config)(&checkpoint)?;
        let mut loader = Loader::outline_of(&checkpoint);
        let path = checkpoint.config().path();
        let fields = Fields::new(&path, &config);
        let assembly = layout.read(&fields, &|name| checkpoint.has(name))?;
        assembly.load(&mut loader)?;
        loader.expect_all_read(&format!("{} ({})", layout.architecture, layout.name))?;
        Self::of((layout, config, assembly), loader.asked(), device, |asked| {
            checkpoint.tensor(&asked.plan.name, &asked.plan.shape)?.to_vec()
        })
    }

    fn of(
        (layout, config, assembly): (&'static Layout, Map<String, Value>, Assembly),
        asked: &[Asked],
        device: &Device,
        mut values: impl FnMut(&Asked) -> Result<Vec<f32>, CheckpointError>,
    ) -> Result<Self, ModelError> {
        let device = device.clone().inner();
        let sizes = asked.iter().filter(|asked| asked.twin.is_none());
        let bytes = sizes.map(|asked| product(asked.plan.shape.iter().map(|size| *size as u64).chain([4])));
        budget::ask("the parameters", budget::sum(bytes), "train a smaller model")?;
        let mut list: Vec<Parameter> = Vec::with_capacity(asked.len());
        for asked in asked {
            let TensorPlan { name, shape } = &asked.plan;
            if let Some(twin) = &asked.twin {
                if let Some(parameter) = list.iter_mut().find(|parameter| parameter.name == *twin) {
                    parameter.twin = Some(name.clone());
                }
                continue;
            }
            let values = values(asked)?;
            let length = values.len();
            list.push(Parameter {
                name: name.clone(),
                shape: shape.clone(),
                value: Tensor::from_data(TensorData::new(values, [length]), &device),
                twin: None,
            });
        }
        Ok(Self {
            layout,
            config,
            assembly,
            of_layout: list.len(),
            list,
            device,
        })
    }

    /// The configuration, read.
    pub(super) fn assembly(&self) -> &Assembly {
        &self.assembly
    }

    /// Every tensor once, in the order in which the layout reads them, and what has been added to them.
    pub fn list(&self) -> &[Parameter] {
        &self.list
    }

    /// As [`Parameters::list`], to be changed.
    pub fn list_mut(&mut self) -> &mut [Parameter] {
        &mut self.list
    }

    /// Adds tensors that are no part of the layout: they are trained with the others, and are in no checkpoint.
    pub(super) fn add(&mut self, more: Vec<Parameter>) {
        self.list.extend(more);
    }

    /// Takes what has been added from a file that [`Parameters::save_added`] wrote.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for a file that is damaged, or has a tensor missing or of another shape.
    pub(super) fn load_added(&mut self, path: &Path) -> Result<(), ModelError> {
        let stored = Checkpoint::open(path)?;
        for parameter in &mut self.list[self.of_layout..] {
            let values = stored.tensor(&parameter.name, &parameter.shape)?.to_vec()?;
            let count = values.len();
            parameter.value = Tensor::from_data(TensorData::new(values, [count]), &self.device);
        }
        Ok(())
    }

    /// The tensors that are no part of the layout.
    pub fn added(&self) -> &[Parameter] {
        &self.list[self.of_layout..]
    }

    /// The layout that names and shapes are of.
    pub fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// The configuration, in the layout's own fields.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Where the tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Writes a checkpoint folder in the layout; `train_length`, in tokens, goes into `spillway.json`. The folder appears when it
    /// is complete.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`]: there is something of that name, a value beyond the range of bfloat16, a full disk. Nothing
    /// is left behind then.
    pub fn save(
        &self,
        folder: &Path,
        dtype: WriteDtype,
        train_length: Option<u64>,
    ) -> Result<(), ModelError> {
        self.write(NewFolder::create(folder)?, dtype, train_length)
    }

    /// As [`Parameters::save`]; files of the same names in a folder that is there already are replaced, each in one step.
    ///
    /// # Errors
    /// As there.
    pub fn save_over(
        &self,
        folder: &Path,
        dtype: WriteDtype,
        train_length: Option<u64>,
    ) -> Result<(), ModelError> {
        self.write(NewFolder::replace(folder)?, dtype, train_length)
    }

    fn write(
        &self,
        folder: NewFolder,
        dtype: WriteDtype,
        train_length: Option<u64>,
    ) -> Result<(), ModelError> {
        let note = train_length.map(|length| {
            let text = format!("{:#}\n", json!({ "train_length": length }));
            ("spillway.json", text)
        });
        let (plans, mut values) = self.plans();
        let texts: Vec<_> = note.into_iter().collect();
        Ok(write_folder(
            folder,
            &self.config,
            dtype,
            &plans,
            &texts,
            |_, sink| write_values(values.next(), sink),
        )?)
    }

    /// Writes the tensors that are no part of the layout into a file of their own, where there are any.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for a file that cannot be written.
    pub(super) fn save_added(&self, path: &Path) -> Result<(), ModelError> {
        let added = self.added();
        if added.is_empty() {
            return Ok(());
        }
        let plans: Vec<TensorPlan> = added
            .iter()
            .map(|parameter| parameter.plan(&parameter.name))
            .collect();
        let mut values = added.iter().map(|parameter| &parameter.value);
        let mut file = NewFile::create(path)?;
        write_safetensors::<CheckpointError>(
            path,
            file.writer(),
            WriteDtype::F32,
            &plans,
            &Default::default(),
            |_, sink| write_values(values.next(), sink),
        )?;
        Ok(file.commit()?)
    }

    /// A model of the values as they are now, its matrices packed in f32.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] when a value is not finite.
    pub fn model(&self, tokenizer: Tokenizer) -> Result<Model, ModelError> {
        let tensors = self.list.iter();
        let tensors = tensors.map(|parameter| (parameter.name.as_str(), &parameter.value));
        let tensors = tensors.collect();
        let source = Source::Values(ValuesInMemory {
            of: self.layout.architecture,
            tensors: &tensors,
        });
        let origin = Origin {
            layout: self.layout,
            recognised_by: "the training that it comes from".into(),
            config: &self.config,
            stored_as: vec!["F32".into()],
            name: self.layout.architecture.to_string(),
            train_length: None,
        };
        let options = LoadOptions {
            weights: Some(WeightType::F32),
            device: self.device.clone(),
            tokenizer: None,
        };
        let tensors = self
            .plans()
            .0
            .into_iter()
            .map(|plan| (plan.shape, WeightType::F32));
        ask_for_weights(tensors, options.weights)?;
        let mut loader = Loader::of(source, options.weights, options.device.clone());
        let parts = self.assembly.load(&mut loader)?;
        Model::of_parts(parts, loader, origin, |_| Ok(tokenizer), &options)
    }

    /// What is written, under all names, and the values of each.
    fn plans(&self) -> (Vec<TensorPlan>, impl Iterator<Item = &Tensor<1>>) {
        let names = |parameter: &Parameter| 1 + usize::from(parameter.twin.is_some());
        let list = &self.list[..self.of_layout];
        let plans = list.iter().flat_map(|parameter| {
            let names = std::iter::once(&parameter.name).chain(&parameter.twin);
            names.map(|name| parameter.plan(name)).collect::<Vec<_>>()
        });
        let values = list
            .iter()
            .flat_map(move |parameter| std::iter::repeat_n(&parameter.value, names(parameter)));
        (plans.collect(), values)
    }
}

/// Hands the values of a tensor to a file; there is one for each plan.
fn write_values(
    value: Option<&Tensor<1>>,
    sink: &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let Some(value) = value else {
        return Ok(());
    };
    let values: Vec<f32> = value.to_data().iter::<f32>().collect();
    sink(&values)
}
