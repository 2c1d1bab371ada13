//! What is looked at in the state of a head.
//!
//! The state of a weighted mean (RWKV-4) is kept relative to its largest weight; its three numbers have no norm worth
//! speaking of. What plays the part of the norm there is the sum of all weights, against which a new token has to stand.

use serde::Serialize;

/// Share of the elements of a state that counts as its top.
pub const TOP_SHARE: f64 = 0.01;

/// Statistics of the state h ∈ R^{K×V} of one head, n = K·V elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StateStatistics {
    /// ‖h‖_F; the sum of all weights in a weighted mean.
    pub norm: f64,
    /// Σh / n; the mean itself in a weighted mean.
    pub mean: f64,
    /// Unbiased variance of the elements.
    pub variance: f64,
    /// Share of Σh² in the 1 % of elements largest in magnitude; 0.01 if all are alike, 1 if a few hold everything.
    pub top_square_share: f64,
    /// Share of Σ|h| in the same elements.
    pub top_mass_share: f64,
    /// Logarithm of the largest weight, in a weighted mean; 0 in every other state.
    pub log_maximum: f64,
}

/// Number of fields of [`StateStatistics`].
pub const FIELDS: usize = 6;

impl StateStatistics {
    /// Fields in the order of [`Self::from_array`].
    pub fn to_array(self) -> [f64; FIELDS] {
        [
            self.norm,
            self.mean,
            self.variance,
            self.top_square_share,
            self.top_mass_share,
            self.log_maximum,
        ]
    }

    /// The inverse of [`Self::to_array`].
    pub fn from_array(array: [f64; FIELDS]) -> Self {
        let [
            norm,
            mean,
            variance,
            top_square_share,
            top_mass_share,
            log_maximum,
        ] = array;
        Self {
            norm,
            mean,
            variance,
            top_square_share,
            top_mass_share,
            log_maximum,
        }
    }

    /// Field by field mean of several; `None` of none.
    pub fn average(all: &[Self]) -> Option<Self> {
        let mut sums = [0.0; FIELDS];
        for one in all {
            sums.iter_mut()
                .zip(one.to_array())
                .for_each(|(sum, value)| *sum += value);
        }
        (!all.is_empty()).then(|| Self::from_array(sums.map(|sum| sum / all.len() as f64)))
    }
}

/// Statistics of one head's state, all elements in any order.
pub fn state_statistics(state: &[f32]) -> StateStatistics {
    let n = state.len() as f64;
    if state.is_empty() {
        return StateStatistics::default();
    }
    let mean = state.iter().map(|&h| f64::from(h)).sum::<f64>() / n;
    let squares: f64 = state.iter().map(|&h| f64::from(h).powi(2)).sum();
    let deviations: f64 = state.iter().map(|&h| (f64::from(h) - mean).powi(2)).sum();
    let mass: f64 = state.iter().map(|&h| f64::from(h).abs()).sum();

    let mut magnitudes: Vec<f32> = state.iter().map(|h| h.abs()).collect();
    let top = ((n * TOP_SHARE).ceil() as usize).clamp(1, state.len());
    magnitudes.select_nth_unstable_by(top - 1, |a, b| b.total_cmp(a));
    let top_mass: f64 = magnitudes[..top].iter().map(|&h| f64::from(h)).sum();
    let top_squares: f64 = magnitudes[..top].iter().map(|&h| f64::from(h).powi(2)).sum();
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    StateStatistics {
        norm: squares.sqrt(),
        mean,
        variance: if state.len() > 1 {
            deviations / (n - 1.0)
        } else {
            0.0
        },
        top_square_share: share(top_squares, squares),
        top_mass_share: share(top_mass, mass),
        log_maximum: 0.0,
    }
}

/// Statistics of a weighted mean's state: numerator and denominator, both divided by e^maximum, and the maximum.
pub fn mean_statistics([numerator, denominator, maximum]: [f32; 3]) -> StateStatistics {
    if denominator == 0.0 {
        return StateStatistics::default(); // No token yet; the maximum stands for minus infinity.
    }
    let (numerator, denominator) = (f64::from(numerator), f64::from(denominator));
    StateStatistics {
        norm: denominator * f64::from(maximum).exp(),
        mean: numerator / denominator,
        log_maximum: f64::from(maximum),
        ..StateStatistics::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn statistics_of_a_state_agree_with_brute_force() {
        let mut random = StdRng::seed_from_u64(7);
        for n in [1_usize, 2, 99, 100, 101, 1000] {
            let state: Vec<f32> = (0..n).map(|_| random.random_range(-3.0_f32..5.0)).collect();
            let found = state_statistics(&state);
            let wide: Vec<f64> = state.iter().map(|&h| f64::from(h)).collect();
            let mean = wide.iter().sum::<f64>() / n as f64;
            let variance = wide.iter().map(|h| (h - mean).powi(2)).sum::<f64>() / (n.max(2) - 1) as f64;
            let mut sorted = wide.clone();
            sorted.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
            let top = n.div_ceil(100);
            let of = |power: i32| {
                let sum = |part: &[f64]| part.iter().map(|h| h.abs().powi(power)).sum::<f64>();
                sum(&sorted[..top]) / sum(&sorted)
            };
            let expected = [
                wide.iter().map(|h| h * h).sum::<f64>().sqrt(),
                mean,
                variance,
                of(2),
                of(1),
                0.0,
            ];
            for (found, expected) in found.to_array().into_iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                    "{n}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn the_state_of_a_mean_is_its_weight_and_not_a_norm() {
        // Weights e^5 and e^7 of values 1 and −1.
        let scaled = (-2.0_f32).exp();
        let found = mean_statistics([scaled - 1.0, scaled + 1.0, 7.0]);
        let (a, b) = (5.0_f64.exp(), 7.0_f64.exp());
        assert!((found.norm / (a + b) - 1.0).abs() < 1e-6, "{found:?}");
        assert!((found.mean - (a - b) / (a + b)).abs() < 1e-6, "{found:?}");
        assert_eq!((found.log_maximum, found.variance), (7.0, 0.0));
        assert_eq!(mean_statistics([0.0, 0.0, -1e38]), StateStatistics::default());
    }

    #[test]
    fn an_empty_state_has_no_shares() {
        assert_eq!(state_statistics(&[0.0; 200]), StateStatistics::default());
    }
}
