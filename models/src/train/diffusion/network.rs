//! A stack of DiffuSSM blocks between images and what noise they have.

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use spillway_ssm_core::channel_filter::FilterKind;
use spillway_ssm_core::diffussm::{DiffuSsm, DiffuSsmConfig};
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::silu;
use spillway_ssm_core::operators::{gated_norm, split};
use spillway_ssm_core::state_space::init::StepRange;
use spillway_ssm_core::weights::Init;
use spillway_ssm_core::{Error, Linear, Result, WeightSource};

/// Step sizes of fresh state spaces: those of short sequences.
const STEPS: StepRange = StepRange { min: 0.01, max: 1.0 };
/// The longest wave of a time.
const LONGEST: f64 = 10_000.0;
const NORM_EPS: f32 = 1e-6;
/// The largest of the sizes: products of two of them are far inside 64 bits.
const MOST: usize = 1 << 24;

/// The sizes of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionNetworkConfig {
    /// Width of the stream.
    pub model_dim: usize,
    /// Width of the long sequence in a block.
    pub inner_dim: usize,
    /// How many times as long the long sequence in a block is as the image.
    pub factor: usize,
    /// Number of DiffuSSM blocks.
    pub layers: usize,
    /// N of the state spaces, an even number.
    pub state_dim: usize,
    /// Width of the condition, an even number.
    pub condition_dim: usize,
}

/// A network that tells the noise of an image and the variance of its next step.
#[derive(Clone, Debug)]
pub struct DiffusionNetwork {
    config: DiffusionNetworkConfig,
    input: Linear,
    time: [Linear; 2],
    /// The conditions of the classes, and of none after them.
    classes: Tensor<2>,
    blocks: Vec<DiffuSsm>,
    modulation: Linear,
    out: Linear,
}

impl DiffusionNetwork {
    /// The network of the weights of `source` for images of `classes` classes, with S = `model_dim` and E = `condition_dim`: `input` (S × 1),
    /// `time.0` and `time.1` (E × E), `classes.weight` (one more than there are × E), `blocks.N.NAME` as [`DiffuSsm::read`], `mod`
    /// (2S × E) and `out` (2 × S); projections have biases. A fresh network answers 0.
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0 or above 2^24, or an odd one that must be even; the source's for a tensor that is missing or of
    /// another shape.
    pub fn read<S: WeightSource>(
        config: DiffusionNetworkConfig,
        classes: usize,
        source: &mut S,
    ) -> std::result::Result<Self, S::Error> {
        let DiffusionNetworkConfig {
            model_dim,
            inner_dim,
            factor,
            layers,
            state_dim,
            condition_dim,
        } = config;
        let sizes = [model_dim, inner_dim, factor, layers, state_dim, condition_dim];
        let small = sizes.iter().all(|size| *size <= MOST);
        if !small || layers == 0 || condition_dim == 0 || !condition_dim.is_multiple_of(2) {
            return Err(S::Error::from(Error::Value {
                what: "sizes of a network of diffusion",
                expected: "numbers up to 16777216, at least one layer, and an even condition_dim of at least 2",
                found: format!("{config:?}"),
            }));
        }
        let block = DiffuSsmConfig {
            model_dim,
            inner_dim,
            factor,
            condition_dim,
            filter: FilterKind::StateSpace {
                state_dim,
                steps: STEPS,
            },
        };
        let square = [condition_dim; 2];
        Ok(Self {
            config,
            input: source.linear("input", [model_dim, 1], true)?,
            time: [
                source.linear("time.0", square, true)?,
                source.linear("time.1", square, true)?,
            ],
            classes: source.tensor("classes.weight", [classes + 1, condition_dim], Init::Normal(0.02))?,
            blocks: (0..layers)
                .map(|index| DiffuSsm::read(block, &mut source.below(format!("blocks.{index}"), &[])))
                .collect::<std::result::Result<_, _>>()?,
            modulation: source.linear_with("mod", [2 * model_dim, condition_dim], true, Init::Zeros)?,
            out: source.linear_with("out", [2, model_dim], true, Init::Zeros)?,
        })
    }

    /// ε̂ and v, `[batch, pixels, 1]` each, of noisy images of this shape at these times and of these classes.
    ///
    /// # Errors
    /// [`Error::Value`] for a class that there is not, or for another number of times or classes than of images; as
    /// [`DiffuSsm::forward`].
    pub fn forward(&self, x: Tensor<3>, times: &[f64], classes: &[Option<u32>]) -> Result<[Tensor<3>; 2]> {
        let condition = self.condition(x.dims()[0], times, classes)?;
        let mut stream = self.input.forward(x)?;
        for block in &self.blocks {
            stream = block.forward(stream, condition.clone())?;
        }
        let width = self.config.model_dim;
        let modulation = self.modulation.forward(silu(condition.unsqueeze_dim(1)))?;
        let [shift, scale] = split(modulation, [width; 2])?;
        let plan = NormPlan {
            statistic: Statistic::Variance,
            eps: NORM_EPS,
            group_size: width,
            order: GateOrder::NormAfterGate,
        };
        let normed = gated_norm(stream, NormWeights::default(), plan)?;
        split(self.out.forward(normed * (scale + 1.0) + shift)?, [1; 2])
    }

    /// The sum of what time and class say, `[batch, condition_dim]`.
    fn condition(&self, batch: usize, times: &[f64], classes: &[Option<u32>]) -> Result<Tensor<2>> {
        let none = self.classes.dims()[0] - 1;
        let known = |class: &Option<u32>| class.is_none_or(|class| (class as usize) < none);
        if times.len() != batch || classes.len() != batch || !classes.iter().all(known) {
            return Err(Error::Value {
                what: "times and classes of noisy images",
                expected: "one of each per image, and classes that there are",
                found: format!("{} times and classes {classes:?} for {batch} images", times.len()),
            });
        }
        let (device, half) = (self.classes.device(), self.config.condition_dim / 2);
        let wave = |i: usize| (-LONGEST.ln() * i as f64 / half as f64).exp();
        let waves = times.iter().flat_map(|time| {
            let cosines = (0..half).map(move |i| (time * wave(i)).cos() as f32);
            cosines.chain((0..half).map(move |i| (time * wave(i)).sin() as f32))
        });
        let waves = TensorData::new(waves.collect::<Vec<_>>(), [1, batch, 2 * half]);
        let [first, second] = &self.time;
        let time = second.forward(silu(first.forward(Tensor::from_data(waves, &device))?))?;
        let rows: Vec<i64> = classes
            .iter()
            .map(|class| class.map_or(none as i64, i64::from))
            .collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [batch]), &device);
        Ok(time.reshape([batch, 2 * half]) + self.classes.clone().select(0, rows))
    }
}
