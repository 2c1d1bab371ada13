//! A training of a network of diffusion: a step, the running mean of the weights, snapshots.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::loss::Noised;
use super::network::{DiffusionNetwork, DiffusionNetworkConfig};
use super::sampler::{SampleOptions, normal, sample};
use super::schedule::{Noise, NoiseKind, NoiseSchedule};
use crate::error::ModelError;
use crate::loader::{self, Loader, Source, ValuesInMemory};
use crate::model::WeightType;
use crate::tasks::Images;
use crate::train::data::seed::generator;
use crate::train::error::TrainError;
use crate::train::forward::loss_value;
use crate::train::optimizer::{Optimizer, OptimizerConfig};
use crate::train::parameters::Parameter;
use crate::train::snapshot::{Snapshot, SnapshotChoice, Snapshots};

/// The counter of a step's draws, beside its number.
const DRAWS: u64 = 0x6469_6666;

/// What is trained, and how.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// The sizes of the network.
    pub network: DiffusionNetworkConfig,
    /// How β grows over the steps of diffusion.
    #[serde(default)]
    pub noise: NoiseKind,
    /// Number T of steps of diffusion.
    #[serde(default = "noise_steps")]
    pub noise_steps: usize,
    /// Steps of the training.
    pub steps: u64,
    /// Images of a step.
    pub images: usize,
    /// λ, the weight of the divergence beside the mean square.
    #[serde(default = "variance_weight")]
    pub variance_weight: f64,
    /// The probability that an image's class is kept back, which guidance needs.
    #[serde(default = "class_dropout")]
    pub class_dropout: f64,
    /// Share of the running mean of the weights that stays at a step; the rest is the new weights'.
    #[serde(default = "mean_decay")]
    pub mean_decay: f64,
    /// Options of the optimiser, learning rate and schedule included.
    pub optimizer: OptimizerConfig,
    /// Seed of the weights and of every draw.
    #[serde(default)]
    pub seed: u64,
}

fn noise_steps() -> usize {
    1000
}

fn variance_weight() -> f64 {
    1e-3
}

fn class_dropout() -> f64 {
    0.1
}

fn mean_decay() -> f64 {
    0.9999
}

impl DiffusionConfig {
    fn check(&self) -> Result<(), TrainError> {
        if self.images == 0 {
            return Err(TrainError::field("images", "at least 1", 0));
        }
        for (field, share) in [
            ("class_dropout", self.class_dropout),
            ("mean_decay", self.mean_decay),
        ] {
            if !(0.0..1.0).contains(&share) {
                return Err(TrainError::field(field, "from 0 to below 1", share));
            }
        }
        let weight = self.variance_weight;
        if !(weight >= 0.0 && weight.is_finite()) {
            return Err(TrainError::field(
                "variance_weight",
                "a finite number from 0 on",
                weight,
            ));
        }
        Ok(())
    }
}

/// What a step was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiffusionStep {
    /// Steps done, this one included.
    pub step: u64,
    /// L, before the update.
    pub loss: f64,
    /// Learning rate η of the update.
    pub learning_rate: f64,
    /// Norm ‖g‖ of the gradients of all parameters together, before clipping.
    pub gradient_norm: f64,
}

/// A training that takes a step when it is asked.
///
/// Same configuration and images, same bits, whether or not it went on from a snapshot in between.
#[derive(Debug)]
pub struct DiffusionTrainer {
    config: DiffusionConfig,
    images: Images,
    schedule: NoiseSchedule,
    parameters: Vec<Parameter>,
    /// Running means of the parameters' values, in their order.
    means: Vec<Tensor<1>>,
    optimizer: Optimizer,
    step: u64,
}

impl DiffusionTrainer {
    /// A training on these images, whose pixels from 0 to 1 become −1 to 1, from fresh weights.
    ///
    /// # Errors
    /// [`TrainError::Field`] for a number out of range; [`TrainError::Model`] for sizes that do not fit; [`TrainError::Optimizer`].
    pub fn new(config: DiffusionConfig, images: Images) -> Result<Self, TrainError> {
        config.check()?;
        if images.count() == 0 {
            return Err(TrainError::field("images", "at least one to learn from", "none"));
        }
        let schedule = NoiseSchedule::new(config.noise, config.noise_steps)?;
        let mut blank = Loader::blank();
        DiffusionNetwork::read(config.network, images.classes, &mut blank)?;
        let asked = blank.asked().iter().cloned();
        let parameters: Vec<Parameter> = asked
            .map(|asked| Parameter::fresh(asked, config.seed, &Device::flex()))
            .collect();
        Ok(Self {
            optimizer: Optimizer::new(&config.optimizer, &parameters, config.steps)?,
            means: parameters
                .iter()
                .map(|parameter| parameter.value.clone())
                .collect(),
            parameters,
            schedule,
            images,
            config,
            step: 0,
        })
    }

    /// What is trained, and how.
    pub fn config(&self) -> &DiffusionConfig {
        &self.config
    }

    /// The noise of every step of diffusion.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// The weights as they are now.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of training steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Takes a step.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] for a loss that is no number, [`TrainError::Optimizer`] for gradients that cannot be used, and
    /// [`TrainError::Model`] for parameters of a training that diverged. Nothing has been changed then.
    pub fn step(&mut self) -> Result<DiffusionStep, TrainError> {
        let leaves: Vec<Tensor<1>> = self
            .parameters
            .iter()
            .map(|parameter| parameter.value.clone().autodiff().require_grad())
            .collect();
        let loss = self.loss(&leaves)?;
        let value = loss_value(&loss);
        if !value.is_finite() {
            return Err(TrainError::NotFinite {
                step: self.step,
                loss: value,
            });
        }
        let mut gradients = loss.backward();
        let gradients = leaves
            .iter()
            .map(|leaf| leaf.grad_remove(&mut gradients))
            .collect();
        let update = self.optimizer.step(&mut self.parameters, gradients, self.step)?;
        let kept = self.config.mean_decay;
        for (mean, parameter) in self.means.iter_mut().zip(&self.parameters) {
            *mean = mean.clone().mul_scalar(kept) + parameter.value.clone().mul_scalar(1.0 - kept);
        }
        self.step += 1;
        Ok(DiffusionStep {
            step: self.step,
            loss: value,
            learning_rate: update.learning_rate,
            gradient_norm: update.gradient_norm,
        })
    }

    /// L of the images, steps and noise of the next step.
    fn loss(&self, leaves: &[Tensor<1>]) -> Result<Tensor<1>, TrainError> {
        let device = Device::flex().autodiff();
        let names = self.parameters.iter().map(|parameter| parameter.name.as_str());
        let tensors: BTreeMap<&str, Tensor<1>> = names.zip(leaves.iter().cloned()).collect();
        let leaves = loader::Leaves {
            tensors: &tensors,
            matrices: DType::F32,
        };
        let mut loader = Loader::of_leaves(leaves, device.clone());
        let network = DiffusionNetwork::read(self.config.network, self.images.classes, &mut loader)?;

        let mut rng = generator(self.config.seed, self.step, DRAWS);
        let (mut pixels, mut steps, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.config.images {
            let (image, class) = self.images.image(rng.random_range(0..self.images.count()));
            pixels.extend(image.iter().map(|pixel| 2.0 * pixel - 1.0));
            steps.push(*self.schedule.step(rng.random_range(0..self.schedule.count())));
            classes.push((rng.random::<f64>() >= self.config.class_dropout).then_some(class));
        }
        let shape = [self.config.images, self.images.side * self.images.side, 1];
        let noise = normal(&mut rng, shape, &device);
        let image = Tensor::from_data(TensorData::new(pixels, shape), &device);
        let noised = Noised::new(image, noise, &steps);
        let times: Vec<f64> = steps.iter().map(|step: &Noise| step.time).collect();
        let answers = network
            .forward(noised.noisy.clone(), &times, &classes)
            .map_err(ModelError::from)?;
        Ok(noised.loss(
            answers,
            self.config.variance_weight * self.schedule.count() as f64,
        ))
    }

    /// The network of the running means of the weights, which draws better images than that of the weights themselves.
    ///
    /// # Errors
    /// [`TrainError::Model`] for a mean that is not finite.
    pub fn network(&self) -> Result<DiffusionNetwork, TrainError> {
        let names = self.parameters.iter().map(|parameter| parameter.name.as_str());
        let tensors: BTreeMap<&str, &Tensor<1>> = names.zip(&self.means).collect();
        let source = Source::Values(ValuesInMemory {
            of: "a training of diffusion",
            tensors: &tensors,
        });
        let mut loader = Loader::of(source, WeightType::F32, Device::flex());
        Ok(DiffusionNetwork::read(
            self.config.network,
            self.images.classes,
            &mut loader,
        )?)
    }

    /// Images with pixels from −1 to 1, drawn by [`DiffusionTrainer::network`] in so many of the T steps.
    ///
    /// # Errors
    /// As [`sample`], [`NoiseSchedule::spaced`] and [`DiffusionTrainer::network`].
    pub fn sample(&self, steps: usize, options: &SampleOptions) -> Result<Tensor<3>, TrainError> {
        let schedule = self.schedule.spaced(steps)?;
        let pixels = self.images.side * self.images.side;
        sample(&self.network()?, &schedule, pixels, options, &Device::flex())
    }

    /// Writes everything that a later step depends on.
    ///
    /// # Errors
    /// [`TrainError::Snapshot`].
    pub fn save(&self, snapshots: &Snapshots) -> Result<(), TrainError> {
        let means = self.parameters.iter().zip(&self.means);
        snapshots.write(&Snapshot {
            step: self.step,
            tokens: 0,
            config: self.text()?,
            data: Value::Null,
            other: json!({ "images": self.images.count(), "side": self.images.side }),
            parameters: Snapshot::masters(&self.parameters),
            optimizer: self.optimizer.tensors(),
            carried: means
                .map(|(parameter, mean)| (parameter.name.clone(), mean.to_data()))
                .collect(),
        })?;
        Ok(())
    }

    /// Goes on from the last snapshot of a training of this configuration.
    ///
    /// # Errors
    /// [`TrainError::Snapshot`] for none, a damaged one or one of another training; nothing has been changed then but for the weights.
    pub fn restore(&mut self, snapshots: &Snapshots) -> Result<(), TrainError> {
        let (snapshot, path) = snapshots.read(SnapshotChoice::Latest, &self.text()?)?;
        let mean = |parameter: &Parameter| {
            let count = parameter.value.dims()[0];
            let data = snapshot.carried.get(&parameter.name);
            let data = data.filter(|data| data.dtype() == DType::F32 && data.shape().as_slice() == [count]);
            data.map(|data| Tensor::from_data(data.clone(), &Device::flex()))
                .ok_or_else(|| {
                    let field = format!("mean of {} in {}", parameter.name, path.display());
                    TrainError::field(field, format!("F32 [{count}]"), "none such")
                })
        };
        let means = self.parameters.iter().map(mean).collect::<Result<Vec<_>, _>>()?;
        snapshot.restore_masters(&path, &mut self.parameters)?;
        self.optimizer.restore(&snapshot.optimizer)?;
        (self.means, self.step) = (means, snapshot.step);
        Ok(())
    }

    /// The configuration as text.
    fn text(&self) -> Result<String, TrainError> {
        let text = serde_json::to_string_pretty(&self.config);
        text.map_err(|error| TrainError::field("configuration", "one that can be written", error))
    }
}
