//! Random initial states and random resets, as functions of what they are for.

use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;
use spillway_ssm_core::{Rule, Site};

use crate::train::data::seed;

/// What tells the stream of a row's resets from those of its sites, which count from 0.
const RESETS: u64 = u64::MAX;

/// The random numbers of one site of one row of one batch.
pub(super) fn stream(seed: u64, index: u64, row: usize, site: u64) -> StdRng {
    seed::generator(seed::mix(seed, index, row as u64), site, 0)
}

/// Whether a row of a batch starts from the empty state.
pub(super) fn is_reset(seed: u64, index: u64, row: usize, probability: f64) -> bool {
    seed::fraction(seed::mix(seed, index, row as u64), RESETS, 0) < probability
}

/// A normal distribution, by its mean and standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Normal {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

/// The distributions that a site's initial states come from.
///
/// The state of a weighted sum is drawn value by value. That of a mean is (N e^{−m}, M e^{−m}, m), of which only N/M and
/// m + ln M mean anything: these two are drawn, and the state is (N/M, 1, m + ln M).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draw {
    /// One distribution per head for each quantity: the values, or the mean N/M and the logarithm m + ln M of the weight.
    pub(super) quantities: Vec<Vec<Normal>>,
}

/// Number of quantities that are drawn for a state of this rule: 2 for a mean, else 1.
pub(super) fn quantities(rule: Rule) -> usize {
    match rule {
        Rule::WeightedSum | Rule::Delta => 1,
        Rule::Mean => 2,
    }
}

impl Draw {
    /// Values around 0; for a mean, means around 0 of weight 1.
    pub(super) fn around_zero(site: &Site, deviation: f64) -> Self {
        let of_heads = |deviation| vec![Normal { mean: 0.0, deviation }; site.heads];
        let deviations = [deviation, 0.0].into_iter().take(quantities(site.rule));
        Self {
            quantities: deviations.map(of_heads).collect(),
        }
    }

    /// The state `fresh` with the rows in `drawn` drawn, each from its own stream.
    pub(super) fn rows(
        &self,
        site: &Site,
        drawn: &[bool],
        fresh: &Tensor<4>,
        stream: impl Fn(usize) -> StdRng,
    ) -> Tensor<4> {
        let dims = fresh.dims();
        let mut values: Vec<f32> = fresh.to_data().iter::<f32>().collect();
        let width = dims[1..].iter().product::<usize>().max(1);
        let rows = values.chunks_exact_mut(width).zip(drawn).enumerate();
        for (row, (values, _)) in rows.filter(|(_, (_, drawn))| **drawn) {
            self.fill(site, &mut stream(row), values);
        }
        Tensor::from_data(TensorData::new(values, dims), &fresh.device())
    }

    /// Draws the state of one sequence, head by head.
    fn fill(&self, site: &Site, random: &mut StdRng, values: &mut [f32]) {
        let mut draw = |normal: &Normal| {
            let unit: f64 = random.sample(StandardNormal);
            (normal.mean + normal.deviation * unit) as f32
        };
        let width = (site.key_dim * site.value_dim).max(1);
        for (head, values) in values.chunks_exact_mut(width).enumerate() {
            match (site.rule, self.quantities.as_slice()) {
                (Rule::WeightedSum | Rule::Delta, [of_values, ..]) => {
                    values
                        .iter_mut()
                        .for_each(|value| *value = draw(&of_values[head]));
                }
                (Rule::Mean, [means, weights, ..]) => {
                    values.copy_from_slice(&[draw(&means[head]), 1.0, draw(&weights[head])]);
                }
                // There is nothing to draw from.
                (_, _) => {}
            }
        }
    }
}
