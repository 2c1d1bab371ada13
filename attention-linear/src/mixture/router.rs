//! The router of a mixture: which experts a token goes to, and with which weights.
//!
//! With logits l = W x of E experts, of which a token goes to k:
//!
//! | [`Scores`] | chosen by | weight of a chosen expert |
//! |---|---|---|
//! | `SoftmaxOfAll` | l | e^l / Σ e^l over all E |
//! | `SoftmaxOfChosen` | l | e^l / Σ e^l over the k chosen |
//! | `Sigmoid` | σ(l) + b, among the best groups | c σ(l), divided by Σ σ(l) over the k chosen where it is normalised |
//!
//! Weights of a softmax over all that are divided by their sum over the chosen are those of a softmax over the chosen. Groups are
//! neighbouring experts; the best are those whose two largest scores have the largest sum. The bias b of `Sigmoid` chooses and does
//! no more: training moves it by other means than gradients.
//!
//! Sources: Shazeer et al. (1701.06538), section 2.1; Fedus et al., *Switch* (2101.03961); DeepSeek-AI, *DeepSeek-V3* (2412.19437), equations
//! 13 to 16.

use std::cmp::Ordering;

use crate::expect;
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Int, Tensor, TensorData};
use spillway_ssm_core::{Error, Init, Linear, Result, Weight, WeightSource};

/// Added to the sum that weights of a sigmoid are divided by.
const SUM_EPS: f32 = 1e-20;

/// The configuration of a router.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterConfig {
    /// Width of what it reads.
    pub model_dim: usize,
    /// E, the number of experts.
    pub experts: usize,
    /// k, the number of experts that a token goes to.
    pub chosen: usize,
    /// How experts are chosen and weighted.
    pub scores: Scores,
}

/// How experts are chosen and weighted; see [`mixture`](super).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// Experts are chosen by logits; weights are a softmax over all experts.
    SoftmaxOfAll,
    /// Experts are chosen by logits; weights are a softmax over the chosen ones.
    SoftmaxOfChosen,
    /// Experts are chosen by sigmoids of logits plus a bias; weights are the sigmoids.
    Sigmoid {
        /// Groups of neighbouring experts.
        groups: usize,
        /// How many of the groups a token may choose from.
        chosen_groups: usize,
        /// Whether weights are divided by their sum.
        normalized: bool,
        /// c, the factor of all weights.
        factor: f32,
    },
}

/// A router of tokens to experts, with its weights W and b.
#[derive(Clone, Debug)]
pub(super) struct Router {
    config: RouterConfig,
    /// Kept as a tensor of f32: rounding it would send tokens to other experts.
    weight: Linear,
    /// b, `[experts]`, of sigmoids.
    bias: Option<Tensor<1>>,
}

/// The experts that tokens go to, and with which weights.
#[derive(Debug)]
pub(super) struct Routes {
    /// The experts of every token in ascending order, `tokens` × `chosen`.
    pub(super) experts: Vec<usize>,
    /// Weights of these experts, `[tokens, chosen]`.
    pub(super) weights: Tensor<2>,
}

impl RouterConfig {
    /// Checks that a token can go to as many experts as it is to.
    ///
    /// # Errors
    /// [`Error::Value`] for sizes of 0, and for more experts or groups chosen than there are.
    pub fn validate(&self) -> Result<()> {
        expect::positive("sizes of a router", &[self.model_dim, self.experts, self.chosen])?;
        let wrong = |expected, found: String| Error::Value {
            what: "experts of a token",
            expected,
            found,
        };
        if self.chosen > self.experts {
            let found = format!("{} of {}", self.chosen, self.experts);
            return Err(wrong("at most as many as there are", found));
        }
        let Scores::Sigmoid {
            groups,
            chosen_groups,
            ..
        } = self.scores
        else {
            return Ok(());
        };
        expect::positive("groups of experts", &[groups, chosen_groups])?;
        let (experts, chosen) = (self.experts, self.chosen);
        if !experts.is_multiple_of(groups) || chosen_groups > groups {
            let found = format!("{chosen_groups} of {groups} groups of {experts} experts");
            return Err(wrong("from some of several groups of one size", found));
        }
        if chosen > chosen_groups * (experts / groups) {
            let found = format!("{chosen} of {chosen_groups} groups of {}", experts / groups);
            return Err(wrong(
                "at most as many as the groups hold that they are chosen from",
                found,
            ));
        }
        Ok(())
    }
}

impl Router {
    /// `router.weight`, `experts` × `model_dim`, and of sigmoids `router.bias`, `experts`.
    pub(super) fn read<S: WeightSource>(config: RouterConfig, source: &mut S) -> Result<Self, S::Error> {
        config.validate()?;
        let shape = [config.experts, config.model_dim];
        let weight = source.tensor::<2>("router.weight", shape, Init::fan_in(config.model_dim))?;
        Ok(Self {
            weight: Linear::new(Weight::Dense(weight), None)?,
            bias: match config.scores {
                Scores::Sigmoid { .. } => Some(source.vector("router.bias", config.experts, Init::Zeros)?),
                _ => None,
            },
            config,
        })
    }

    /// The experts of every token of `[1, tokens, model_dim]`.
    pub(super) fn route(&self, input: Tensor<3>) -> Result<Routes> {
        let RouterConfig { experts, chosen, .. } = self.config;
        let [_, tokens, _] = input.dims();
        let logits: Tensor<2> = self.weight.forward(input)?.reshape([tokens, experts]);
        let scores = match (&self.bias, self.config.scores) {
            (Some(bias), Scores::Sigmoid { .. }) => {
                sigmoid(logits.clone().detach()) + bias.clone().detach().unsqueeze::<2>()
            }
            _ => logits.clone(),
        };
        let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
        let places: Vec<usize> = scores
            .chunks_exact(experts)
            .flat_map(|scores| self.choose(scores))
            .collect();
        let device = logits.device();
        let indices: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(indices, [tokens, chosen]), &device);
        Ok(Routes {
            experts: places,
            weights: self.weights(logits, indices),
        })
    }

    /// The experts chosen for one token of these scores, in ascending order.
    fn choose(&self, scores: &[f32]) -> Vec<usize> {
        let mut candidates: Vec<usize> = (0..scores.len()).collect();
        if let Scores::Sigmoid {
            groups,
            chosen_groups,
            ..
        } = self.config.scores
            && chosen_groups < groups
        {
            let size = scores.len() / groups;
            let worth: Vec<f32> = scores.chunks_exact(size).map(sum_of_best_two).collect();
            let best = best(&worth, (0..groups).collect(), chosen_groups);
            candidates.retain(|expert| best.contains(&(expert / size)));
        }
        best(scores, candidates, self.config.chosen)
    }

    fn weights(&self, logits: Tensor<2>, indices: Tensor<2, Int>) -> Tensor<2> {
        match self.config.scores {
            Scores::SoftmaxOfAll => softmax(logits, 1).gather(1, indices),
            Scores::SoftmaxOfChosen => softmax(logits.gather(1, indices), 1),
            Scores::Sigmoid {
                normalized, factor, ..
            } => {
                let mut weights = sigmoid(logits.gather(1, indices));
                if normalized {
                    let sum = weights.clone().sum_dim(1).add_scalar(SUM_EPS);
                    weights = weights / sum;
                }
                weights = weights.mul_scalar(factor);
                match &self.bias {
                    // Gradients of a bias that only chooses are 0; a training wants one of every parameter.
                    Some(bias) if bias.device().is_autodiff() => {
                        weights + bias.clone().sum().mul_scalar(0.0).unsqueeze::<2>()
                    }
                    _ => weights,
                }
            }
        }
    }
}

fn sum_of_best_two(scores: &[f32]) -> f32 {
    let two = best(scores, (0..scores.len()).collect(), scores.len().min(2));
    two.into_iter().map(|index| scores[index]).sum()
}

/// The `count` candidates of the largest scores, in ascending order; of equal ones the first.
fn best(scores: &[f32], mut candidates: Vec<usize>, count: usize) -> Vec<usize> {
    let by_score = |a: &usize, b: &usize| -> Ordering { scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)) };
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_score);
        candidates.truncate(count);
    }
    candidates.sort_unstable();
    candidates
}
