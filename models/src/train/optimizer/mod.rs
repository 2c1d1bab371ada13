//! AdamW on the f32 masters of all parameters, with one global gradient norm.
//!
//! ```text
//! g ← g · min(1, clip_norm / ‖g‖)                              ‖g‖ over all parameters together
//! m ← β₁ m + (1 − β₁) g,      v ← β₂ v + (1 − β₂) g²
//! w ← (1 − η λ) w − η (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)          λ = 0 where a parameter does not decay
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`Optimizer`]: a step; moments by name, to be saved and restored |
//! | `config.rs` | [`OptimizerConfig`] |
//! | `decay.rs` | [`decays`]: which parameters λ applies to |
//! | `group.rs` | [`GroupConfig`]: parameters with an η or a λ of their own |
//! | `gradients.rs` | the norm; [`Accumulator`]: sums of gradients over the pieces of a step |
//! | `host.rs` | passes over values in this machine's memory |
//! | `partition.rs` | [`Partition`]: which values each of several ranks has the moments of |
//! | `shared_norm.rs` | the norm of gradients that lie in parts on several ranks |
//! | `share.rs` | an [`Optimizer`] with the moments of one part, and how they come to a rank and go from it |
//! | `error.rs` | [`OptimizerError`] |
//!
//! The update of one tensor is Burn's, on the CPU in one pass and to the same bits. Source: Loshchilov & Hutter, *Decoupled Weight Decay Regularization* (1711.05101).

mod config;
mod decay;
mod error;
mod gradients;
mod group;
mod host;
mod partition;
mod share;
mod shared_norm;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};

pub use config::OptimizerConfig;
pub use decay::decays;
pub(super) use decay::ends_with;
pub use error::OptimizerError;
pub use gradients::Accumulator;
pub use group::GroupConfig;
pub use partition::Partition;
pub(super) use partition::{Gradients, Weights};
pub(super) use share::Saved;
pub(super) use shared_norm::square_sums;

use self::config::NORM_LIMIT;
use self::share::{ENTRIES, entry};
use super::parameters::Parameter;

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// η of this step.
    pub learning_rate: f64,
    /// ‖g‖ over all parameters, before clipping.
    pub gradient_norm: f64,
    /// Whether the gradients were scaled down.
    pub clipped: bool,
    /// Parameters that the loss did not depend on. They, and their moments, are what they were.
    pub unused: Vec<String>,
}

/// The moments of all parameters, or of one rank's part of their values, and what to do with them.
pub struct Optimizer {
    config: OptimizerConfig,
    steps: u64,
    slots: Vec<Slot>,
}

/// AdamW's update of a tensor that lies in this machine's memory, or elsewhere; the bits are the same.
struct Adam {
    anywhere: AdamW,
    on_the_host: host::AdamW,
}

impl Adam {
    /// The update of one tensor whose weights decay by `weight_decay`.
    fn new(config: &OptimizerConfig, weight_decay: f64) -> Self {
        let (betas, eps) = (config.betas.map(|beta| beta as f32), config.eps as f32);
        let weight_decay = weight_decay as f32;
        let anywhere = AdamWConfig::new()
            .with_beta_1(betas[0])
            .with_beta_2(betas[1])
            .with_epsilon(eps)
            .with_weight_decay(weight_decay)
            .build();
        Self {
            anywhere,
            on_the_host: host::AdamW {
                betas,
                eps,
                weight_decay,
            },
        }
    }

    /// The weights and the moments after a gradient, which is first multiplied with `scale`. Gradient and moments are of the
    /// weights in `places`, and the others stay as they are.
    fn step(
        &self,
        (rate, scale): (f64, Option<f64>),
        weights: Tensor<1>,
        places: Range<usize>,
        gradient: Tensor<1>,
        state: Option<AdamWState<1>>,
    ) -> (Tensor<1>, Option<AdamWState<1>>) {
        if [&weights, &gradient].into_iter().all(host::is_host) {
            let step = (rate, scale);
            let (weights, state) = self.on_the_host.step(step, weights, places, gradient, state);
            return (weights, Some(state));
        }
        if places.is_empty() {
            // Not every device has tensors of no values.
            let nothing = || Tensor::zeros([0], &Device::flex());
            let time = state.map_or(0, |state| state.momentum.time) + 1;
            let momentum = AdaptiveMomentumState::new(time, nothing(), nothing());
            return (weights, Some(AdamWState::new(momentum)));
        }
        let gradient = gradient.to_device(&weights.device());
        let gradient = match scale {
            Some(scale) => gradient.mul_scalar(scale),
            None => gradient,
        };
        if places.len() == weights.dims()[0] {
            return self.anywhere.step(rate, weights, gradient, state);
        }
        let own = weights.clone().narrow(0, places.start, places.len());
        let (own, state) = self.anywhere.step(rate, own, gradient, state);
        (weights.slice_assign([places], own), state)
    }
}

/// What belongs to one parameter.
struct Slot {
    name: String,
    /// Number of the parameter's values.
    count: usize,
    /// Those of the values that there are moments of here.
    places: Range<usize>,
    device: Device,
    /// The parameter's update.
    adam: Adam,
    /// Learning rate η of the parameter at the peak of the schedule.
    peak: f64,
    /// The parameter's moments; `None` before its first gradient.
    state: Option<AdamWState<1>>,
}

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Optimizer")
            .field("config", &self.config)
            .field("steps", &self.steps)
            .field("parameters", &self.slots.len())
            .finish()
    }
}

impl Optimizer {
    /// An optimiser of these parameters over `steps` steps, all moments at zero.
    ///
    /// # Errors
    /// [`OptimizerError::Option`] for a configuration that is out of range, or an exception from decay that no parameter has.
    pub fn new(
        config: &OptimizerConfig,
        parameters: &[Parameter],
        steps: u64,
    ) -> Result<Self, OptimizerError> {
        config.validate(steps)?;
        let has_end = |end: &String| parameters.iter().any(|p| decay::ends_with(&p.name, end));
        if let Some(end) = config.no_decay.iter().find(|end| !has_end(end)) {
            let expected = "ends of parameters' names, in whole parts between dots";
            return Err(OptimizerError::option("no_decay", expected, format!("{end:?}")));
        }
        config
            .groups
            .iter()
            .try_for_each(|group| group.expect_names(parameters))?;
        Ok(Self {
            config: config.clone(),
            steps,
            slots: parameters.iter().map(|p| Slot::new(config, p)).collect(),
        })
    }

    /// Updates `parameters` by the gradients of the mean loss, which are in the same order, after `step` steps.
    ///
    /// # Errors
    /// [`OptimizerError::NonFinite`] and [`OptimizerError::Overflow`] for gradients that cannot be used,
    /// [`OptimizerError::Mismatch`] for other parameters than those the optimiser was made for. Nothing has been changed then.
    pub fn step(
        &mut self,
        parameters: &mut [Parameter],
        gradients: Vec<Option<Tensor<1>>>,
        step: u64,
    ) -> Result<Update, OptimizerError> {
        let squares = gradients::square_sums(&gradients);
        self.step_by(parameters, gradients, &squares, step)
    }

    /// As [`Optimizer::step`] by gradients of this rank's part of the values, of which `squares` has Σ g² of all values of each
    /// parameter. The values of other parts are not updated.
    ///
    /// # Errors
    /// As there.
    pub(super) fn step_by(
        &mut self,
        parameters: &mut [Parameter],
        gradients: Vec<Option<Tensor<1>>>,
        squares: &[Option<f64>],
        step: u64,
    ) -> Result<Update, OptimizerError> {
        self.expect(parameters, &gradients)?;
        let gradient_norm = self.finite_norm(squares, step)?;
        let clip = self.config.clip_norm.filter(|limit| gradient_norm > *limit);
        let norm = clip.unwrap_or(gradient_norm);
        if norm > NORM_LIMIT {
            let limit = NORM_LIMIT;
            return Err(OptimizerError::Overflow { step, limit, norm });
        }
        let learning_rate = self.config.rate(step, self.steps);
        let mut unused = Vec::new();
        for ((slot, parameter), gradient) in self.slots.iter_mut().zip(&mut *parameters).zip(gradients) {
            let Some(gradient) = gradient else {
                unused.push(slot.name.clone());
                continue;
            };
            let value = std::mem::replace(&mut parameter.value, Tensor::zeros([0], &Device::flex()));
            let rate = self.config.schedule.rate(slot.peak, step, self.steps);
            let scale = clip.map(|limit| limit / gradient_norm);
            let (places, state) = (slot.places.clone(), slot.state.take());
            (parameter.value, slot.state) = slot.adam.step((rate, scale), value, places, gradient, state);
        }
        Ok(Update {
            learning_rate,
            gradient_norm,
            clipped: clip.is_some(),
            unused,
        })
    }

    /// ‖g‖ over all parameters.
    fn finite_norm(&self, squares: &[Option<f64>], step: u64) -> Result<f64, OptimizerError> {
        let finite = |square: &Option<f64>| square.is_none_or(f64::is_finite);
        match squares
            .iter()
            .zip(&self.slots)
            .find(|(square, _)| !finite(square))
        {
            Some((_, slot)) => Err(OptimizerError::NonFinite {
                step,
                parameter: slot.name.clone(),
            }),
            None => Ok(squares.iter().flatten().sum::<f64>().sqrt()),
        }
    }

    fn expect(
        &self,
        parameters: &[Parameter],
        gradients: &[Option<Tensor<1>>],
    ) -> Result<(), OptimizerError> {
        let count = self.slots.len();
        for (what, found) in [
            ("number of parameters", parameters.len()),
            ("number of gradients", gradients.len()),
        ] {
            if found != count {
                return Err(OptimizerError::mismatch(what, count.to_string(), found));
            }
        }
        for ((slot, parameter), gradient) in self.slots.iter().zip(parameters).zip(gradients) {
            if slot.name != parameter.name {
                return Err(OptimizerError::mismatch("parameter", &slot.name, &parameter.name));
            }
            let value = ("", Some(&parameter.value), slot.count);
            let gradient = ("gradient of ", gradient.as_ref(), slot.places.len());
            for (of, tensor, count) in [value, gradient] {
                let found = tensor.map_or(count, |tensor| tensor.dims()[0]);
                if found != count {
                    let what = format!("{of}{}", slot.name);
                    let expected = format!("{count} values");
                    return Err(OptimizerError::mismatch(what, expected, found));
                }
            }
        }
        Ok(())
    }

    /// Everything that a later step depends on, by name, but for the parameters themselves: `time.NAME` (steps taken),
    /// `moment_1.NAME` and `moment_2.NAME` of every parameter that has had a gradient; the moments of one part on one rank of
    /// several.
    pub fn tensors(&self) -> BTreeMap<String, TensorData> {
        let states = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot, slot.state.as_ref()?)));
        let entries = states.flat_map(|(slot, state)| {
            let momentum = &state.momentum;
            [
                (entry("time", &slot.name), share::time(momentum.time)),
                (entry("moment_1", &slot.name), momentum.moment_1.to_data()),
                (entry("moment_2", &slot.name), momentum.moment_2.to_data()),
            ]
        });
        entries.collect()
    }

    /// Puts back what [`Optimizer::tensors`] gave for all values of the parameters, to the bit; on one rank of several, what is of
    /// its own part.
    ///
    /// # Errors
    /// [`OptimizerError::Saved`] for entries that are missing, of another shape or type, or of no parameter. Nothing has been
    /// changed then.
    pub fn restore(&mut self, tensors: &BTreeMap<String, TensorData>) -> Result<(), OptimizerError> {
        let states = self.slots.iter().map(|slot| slot.restored(tensors));
        let states: Vec<Option<AdamWState<1>>> = states.collect::<Result<_, _>>()?;
        let names: BTreeSet<&str> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
        let known = |entry: &String| {
            let (kind, name) = entry.split_once('.').unwrap_or_default();
            ENTRIES.contains(&kind) && names.contains(name)
        };
        if let Some(entry) = tensors.keys().find(|entry| !known(entry)) {
            return Err(OptimizerError::saved(
                entry,
                "entries of the parameters",
                "one of none",
            ));
        }
        for (slot, state) in self.slots.iter_mut().zip(states) {
            slot.state = state;
        }
        Ok(())
    }
}

impl Slot {
    fn new(config: &OptimizerConfig, parameter: &Parameter) -> Self {
        let excepted = config
            .no_decay
            .iter()
            .any(|end| decay::ends_with(&parameter.name, end));
        let decay = match !excepted && decays(parameter) {
            true => config.weight_decay,
            false => 0.0,
        };
        let group = config.groups.iter().find(|group| group.has(&parameter.name));
        Self {
            name: parameter.name.clone(),
            count: parameter.value.dims()[0],
            places: 0..parameter.value.dims()[0],
            device: parameter.value.device(),
            adam: Adam::new(
                config,
                group.and_then(|group| group.weight_decay).unwrap_or(decay),
            ),
            peak: group
                .and_then(|group| group.learning_rate)
                .unwrap_or(config.learning_rate),
            state: None,
        }
    }

    /// The state among saved ones, if there is any of this parameter.
    fn restored(
        &self,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<Option<AdamWState<1>>, OptimizerError> {
        let [time, moment_1, moment_2] = ENTRIES.map(|kind| tensors.get(&entry(kind, &self.name)));
        let (Some(time), Some(moment_1), Some(moment_2)) = (time, moment_1, moment_2) else {
            let missing = [time, moment_1, moment_2].iter().position(Option::is_none);
            return match (missing, time.or(moment_1).or(moment_2)) {
                (Some(index), Some(_)) => Err(OptimizerError::saved(
                    entry(ENTRIES[index], &self.name),
                    "an entry, as there are others of this parameter",
                    "none",
                )),
                _ => Ok(None),
            };
        };
        let steps = time.as_slice::<u64>().ok().and_then(|time| match time {
            [steps] => i32::try_from(*steps).ok(),
            _ => None,
        });
        let Some(steps) = steps else {
            let found = format!("{:?} {:?}", time.dtype(), time.shape().as_slice());
            let expected = "one U64 number below 2^31";
            return Err(OptimizerError::saved(entry("time", &self.name), expected, found));
        };
        Ok(Some(AdamWState::new(AdaptiveMomentumState::new(
            steps as usize,
            self.moment("moment_1", moment_1)?,
            self.moment("moment_2", moment_2)?,
        ))))
    }

    fn moment(&self, kind: &str, data: &TensorData) -> Result<Tensor<1>, OptimizerError> {
        if data.dtype() != DType::F32 || data.shape().as_slice() != [self.count] {
            let found = format!("{:?} {:?}", data.dtype(), data.shape().as_slice());
            let expected = format!("F32 [{}]", self.count);
            return Err(OptimizerError::saved(entry(kind, &self.name), expected, found));
        }
        let tensor = match self.places.len() == self.count {
            true => Tensor::from_data(data.clone(), &self.device),
            false => self.own_tensor(share::slice(data, self.places.clone())),
        };
        Ok(tensor)
    }

    /// Moments of this part in the place where they are kept; not every device has tensors of no values.
    fn own_tensor(&self, data: TensorData) -> Tensor<1> {
        let nowhere = Device::flex();
        let device = if self.places.is_empty() {
            &nowhere
        } else {
            &self.device
        };
        Tensor::from_data(data, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible values in [−1, 1) with zeros of both signs among them.
    fn values(seed: u64, count: usize) -> Vec<f32> {
        let value = |index: u64| {
            let bits = (index + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            let value = bits as f32 / (1u64 << 23) as f32 - 1.0;
            if index % 17 == 3 { value * 0.0 } else { value }
        };
        (0..count as u64).map(value).collect()
    }

    fn bits(tensor: &Tensor<1>) -> Vec<u32> {
        tensor.to_data().iter::<f32>().map(f32::to_bits).collect()
    }

    #[test]
    fn the_pass_over_memory_gives_the_bits_of_the_operations_on_tensors() {
        let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &Device::flex());
        // Less than a vector, and more than a piece for one thread.
        for count in [0, 3, 40_001] {
            for (weight_decay, scale) in [(0.0, None), (0.1, None), (0.1, Some(0.37))] {
                let adam = Adam::new(&OptimizerConfig::new(1e-3), weight_decay);
                let (mut pass, mut operations) = (tensor(&values(1, count)), tensor(&values(1, count)));
                let (mut state, mut expected_state) = (None, None);
                for step in 0..4 {
                    let rate = 1e-3 * f64::from(step + 1);
                    // A part of a longer tensor, as a gradient may be.
                    let longer = tensor(&values(100 + step as u64, count + 5));
                    let gradient = match count {
                        0 => tensor(&[]),
                        _ => longer.narrow(0, 5, count),
                    };
                    let held = pass.clone();
                    let before = bits(&held);
                    (pass, state) = adam.step((rate, scale), pass, 0..count, gradient.clone(), state);
                    assert_eq!(bits(&held), before, "weights that others hold have changed");
                    let gradient = scale.map_or(gradient.clone(), |scale| gradient.mul_scalar(scale));
                    (operations, expected_state) =
                        adam.anywhere.step(rate, operations, gradient, expected_state);
                    assert_eq!(bits(&pass), bits(&operations), "weights after step {step}");
                    let (found, expected) = (state.as_ref().unwrap(), expected_state.as_ref().unwrap());
                    let (found, expected) = (&found.momentum, &expected.momentum);
                    assert_eq!(found.time, expected.time);
                    assert_eq!(bits(&found.moment_1), bits(&expected.moment_1), "step {step}");
                    assert_eq!(bits(&found.moment_2), bits(&expected.moment_2), "step {step}");
                }
            }
        }
    }
}
