//! Mean and deviation of final states, head by head, as they are now.
//!
//! After every batch, with mean m̂ and variance v̂ over the batch, momentum λ and the sum w of all weights so far,
//!
//! ```text
//! w' = λ w + (1 − λ)    δ = m̂ − m    m ← m + δ (1 − λ)/w'    v ← (λ w v + (1 − λ) v̂)/w' + δ² λ w (1 − λ)/w'²
//! ```
//!
//! which are mean and variance of everything seen, weighted by λ per batch of age; the first batch counts in full. The variance
//! never becomes negative, and is exactly 0 where all values were one. Source: Buitrago & Gu (2507.02782), second intervention;
//! the running average is ours, because states change as the model learns.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use spillway_ssm_core::{Error, Rule, Site};

use super::noise::{Draw, Normal, quantities};
use crate::state::ModelState;

/// Mean and variance of one quantity of one head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    mean: f64,
    variance: f64,
}

/// The running moments of every site.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fitted {
    momentum: f64,
    /// w, 0 before the first batch.
    weight: f64,
    sites: Vec<SiteMoments>,
}

/// Quantity by quantity, head by head.
#[derive(Clone, Debug, PartialEq)]
struct SiteMoments {
    heads: usize,
    moments: Vec<Moments>,
}

impl Fitted {
    pub(super) fn new(momentum: f64, sites: &[Site]) -> Self {
        let none = |site: &Site| SiteMoments {
            heads: site.heads,
            moments: vec![Moments::default(); quantities(site.rule) * site.heads],
        };
        Self {
            momentum,
            weight: 0.0,
            sites: sites.iter().map(none).collect(),
        }
    }

    /// What initial states of site `number` are drawn from; `None` before the first batch.
    pub(super) fn draw(&self, number: usize) -> Option<Draw> {
        let site = self.sites.get(number).filter(|_| self.weight > 0.0)?;
        let normal = |moments: &Moments| Normal {
            mean: moments.mean,
            deviation: moments.variance.sqrt(),
        };
        let quantities = site.moments.chunks(site.heads.max(1));
        Some(Draw {
            quantities: quantities
                .map(|of_heads| of_heads.iter().map(normal).collect())
                .collect(),
        })
    }

    /// Takes in the final states of a batch.
    ///
    /// # Errors
    /// [`Error::Value`] for a state that is not finite; nothing is taken in then.
    pub(super) fn update(&mut self, sites: &[Site], state: &ModelState) -> Result<(), Error> {
        // Sequences without a token have no final state.
        if state.position() == 0 || sites.is_empty() {
            return Ok(());
        }
        let found = sites.iter().zip(state.recurrences());
        let found: Vec<[Tensor<1>; 2]> = found
            .map(|(site, recurrence)| moments(site, recurrence.state.memory.clone()))
            .collect();
        // All sites at once: reading from a device makes it wait.
        let [means, variances] = [0, 1].map(|which| {
            let parts = found.iter().map(|moments| moments[which].clone());
            let data = Tensor::cat(parts.collect(), 0).into_data();
            data.iter::<f64>().collect::<Vec<_>>()
        });
        expect_finite(sites, &means, &variances)?;
        let (old, new) = (self.momentum * self.weight, 1.0 - self.momentum);
        let sum = old + new;
        let all = self.sites.iter_mut().flat_map(|site| &mut site.moments);
        for (moments, (mean, variance)) in all.zip(means.iter().zip(&variances)) {
            let difference = mean - moments.mean;
            moments.mean += difference * new / sum;
            moments.variance = (old * moments.variance + new * variance) / sum
                + difference * difference * (old / sum) * (new / sum);
        }
        self.weight = sum;
        Ok(())
    }

    pub(super) fn save(&self) -> BTreeMap<String, TensorData> {
        let mut saved = BTreeMap::from([("weight".to_string(), TensorData::new(vec![self.weight], [1]))]);
        for (number, site) in self.sites.iter().enumerate() {
            let list = |value: fn(&Moments) -> f64| {
                let values: Vec<f64> = site.moments.iter().map(value).collect();
                TensorData::new(values, [site.moments.len()])
            };
            saved.insert(format!("{number}.mean"), list(|moments| moments.mean));
            saved.insert(format!("{number}.variance"), list(|moments| moments.variance));
        }
        saved
    }

    /// The moments that were saved, for the same sites.
    ///
    /// # Errors
    /// [`Error::Saved`] for an entry that is missing or does not fit.
    pub(super) fn restored(&self, saved: &BTreeMap<String, TensorData>) -> Result<Self, Error> {
        let weight = entry(saved, "weight", 1)?[0];
        let sites = self.sites.iter().enumerate().map(|(number, site)| {
            let list = |name| entry(saved, &format!("{number}.{name}"), site.moments.len());
            let (means, variances) = (list("mean")?, list("variance")?);
            let moments = means.into_iter().zip(variances);
            Ok(SiteMoments {
                heads: site.heads,
                moments: moments
                    .map(|(mean, variance)| Moments { mean, variance })
                    .collect(),
            })
        });
        Ok(Self {
            momentum: self.momentum,
            weight,
            sites: sites.collect::<Result<_, Error>>()?,
        })
    }
}

/// Mean and variance over a batch of states, quantity by quantity, head by head.
fn moments(site: &Site, state: Tensor<4>) -> [Tensor<1>; 2] {
    let [batch, heads, key_dim, value_dim] = state.dims();
    let values: Tensor<2> = match site.rule {
        Rule::WeightedSum | Rule::Delta => state
            .swap_dims(0, 1)
            .reshape([heads, batch * key_dim * value_dim]),
        Rule::Mean => {
            let column = |index| {
                state
                    .clone()
                    .narrow(3, index, 1)
                    .reshape([batch, heads])
                    .swap_dims(0, 1)
            };
            let (numerator, denominator, max) = (column(0), column(1), column(2));
            Tensor::cat(vec![numerator / denominator.clone(), max + denominator.log()], 0)
        }
    };
    let rows = values.dims()[0];
    let mean = values.clone().mean_dim(1);
    let from_mean = values - mean.clone();
    let variance = (from_mean.clone() * from_mean).mean_dim(1);
    [mean, variance].map(|moments| moments.reshape([rows]))
}

fn expect_finite(sites: &[Site], means: &[f64], variances: &[f64]) -> Result<(), Error> {
    let counts = sites.iter().map(|site| quantities(site.rule) * site.heads);
    let layers = sites.iter().zip(counts);
    let mut layers = layers.flat_map(|(site, count)| std::iter::repeat_n(site.layer, count));
    let mut numbers = means.iter().zip(variances);
    match numbers.position(|(mean, variance)| !(mean.is_finite() && variance.is_finite())) {
        None => Ok(()),
        Some(index) => Err(Error::Value {
            what: "final state that initial states are fitted to",
            expected: "finite numbers",
            found: format!(
                "mean {} and variance {} in layer {}",
                means[index],
                variances[index],
                layers.nth(index).unwrap_or(0)
            ),
        }),
    }
}

fn entry(saved: &BTreeMap<String, TensorData>, name: &str, count: usize) -> Result<Vec<f64>, Error> {
    let wrong = |found| Error::Saved {
        what: format!("fitted.{name}"),
        expected: format!("F64 [{count}]"),
        found,
    };
    let data = saved.get(name).ok_or_else(|| wrong("nothing".into()))?;
    if data.dtype() != DType::F64 || data.shape().as_slice() != [count] {
        return Err(wrong(format!("{:?} {:?}", data.dtype(), data.shape().as_slice())));
    }
    Ok(data.iter::<f64>().collect())
}
