//! What is looked at in the state of a head, and when a head leaves the range it had inside the training length.
//!
//! A head *leaves its in-window range* at the first look beyond the training length T where its state's norm exceeds
//! [`EXIT_FACTOR`] times the largest norm seen up to T, and stays above it at every later look. Training has shown the layers
//! behind it no such state.
//!
//! The state of a weighted mean (RWKV-4) is kept relative to its largest weight; its three numbers have no norm worth
//! speaking of. What plays the part of the norm there is the sum of all weights, against which a new token has to stand.

use super::retention::Retention;
use serde::Serialize;

/// Factor over the largest norm inside the training length beyond which a head has left its range.
pub const EXIT_FACTOR: f64 = 2.0;
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

/// Numbers in [`StateStatistics`].
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

/// A head over the whole text, in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadSummary {
    /// Index of the layer, from 0.
    pub layer: usize,
    /// Index of the head, from 0.
    pub head: usize,
    /// Position at which it leaves its in-window range for good; absent if it does not.
    pub exit: Option<u64>,
    /// Largest norm of its state up to the training length.
    pub norm_inside: f64,
    /// Norm of its state at the last look.
    pub norm_end: f64,
    /// norm_end / norm_inside.
    pub growth: f64,
    /// What is called its norm: `norm`, or `weight` for the sum of weights in a weighted mean.
    pub measure: &'static str,
    /// Share of the squared norm in the top 1 % of elements, at the training length.
    pub top_square_share_inside: f64,
    /// The same at the last look.
    pub top_square_share_end: f64,
    /// How long it remembers.
    #[serde(flatten)]
    pub retention: Retention,
    /// Means of its gates.
    #[serde(flatten)]
    pub gates: GateMeans,
    /// Which of the model's recurrences it belongs to, and its number there.
    #[serde(skip)]
    pub place: (usize, usize),
}

/// Means of a head's gates inside the training length and over the last interval between looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct GateMeans {
    /// Least mean of log a over the training length among its key rows, where they differ.
    pub fastest_key_log_decay: Option<f64>,
    /// Largest mean of log a over the training length among its key rows, where they differ.
    pub slowest_key_log_decay: Option<f64>,
    /// Share that a token erases of what the state holds in one direction, in a delta rule.
    pub erase_inside: Option<f64>,
    /// Norm of what a token writes.
    pub write_inside: Option<f64>,
    /// The same at the end.
    pub write_end: Option<f64>,
    /// Root mean square of what is read.
    pub read_out_inside: Option<f64>,
    /// The same at the end.
    pub read_out_end: Option<f64>,
}

/// Summarises one head from its state at successive positions; [`HeadSummary::place`], `measure` and `gates` are left to the
/// caller.
pub fn summarise(
    (layer, head): (usize, usize),
    looks: &[(u64, StateStatistics)],
    retention: Retention,
    train_length: u64,
) -> HeadSummary {
    let split = looks.partition_point(|(position, _)| *position <= train_length);
    let (inside, beyond) = looks.split_at(split);
    let norm_inside = inside.iter().map(|(_, look)| look.norm).fold(0.0, f64::max);
    let norm_end = looks.last().map_or(0.0, |(_, look)| look.norm);
    let share = |look: Option<&(u64, StateStatistics)>| look.map_or(0.0, |(_, look)| look.top_square_share);
    HeadSummary {
        layer,
        head,
        exit: exit(norm_inside, beyond),
        norm_inside,
        norm_end,
        growth: norm_end / norm_inside,
        measure: "norm",
        top_square_share_inside: share(inside.last()),
        top_square_share_end: share(looks.last()),
        retention,
        gates: GateMeans::default(),
        place: (0, 0),
    }
}

/// First position from which every norm is above the in-window range.
fn exit(norm_inside: f64, beyond: &[(u64, StateStatistics)]) -> Option<u64> {
    // A norm that is not a number has left every range.
    let within = |look: &(u64, StateStatistics)| look.1.norm <= EXIT_FACTOR * norm_inside;
    let first = beyond.iter().rposition(within).map_or(0, |last| last + 1);
    beyond.get(first).map(|(position, _)| *position)
}

/// Sorts heads: those that leave their range first come first, the faster growing first among equals.
pub fn rank(heads: &mut [HeadSummary]) {
    heads.sort_by(|a, b| {
        let exits = a.exit.unwrap_or(u64::MAX).cmp(&b.exit.unwrap_or(u64::MAX));
        exits
            .then(b.growth.total_cmp(&a.growth))
            .then((a.layer, a.head).cmp(&(b.layer, b.head)))
    });
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

    fn looks(norms: &[f64]) -> Vec<(u64, StateStatistics)> {
        let look = |(index, &norm): (usize, &f64)| {
            (
                16 << index,
                StateStatistics {
                    norm,
                    ..StateStatistics::default()
                },
            )
        };
        norms.iter().enumerate().map(look).collect()
    }

    fn head(norms: &[f64]) -> HeadSummary {
        summarise((0, 0), &looks(norms), Retention::new(-0.01, 64), 64)
    }

    #[test]
    fn a_head_leaves_its_range_when_it_stays_above() {
        // Looks at 16, 32, 64 | 128, 256, 512, 1024; the range ends at 2 · 2.
        assert_eq!(head(&[1.0, 2.0, 1.5, 3.9, 4.1, 5.0, 9.0]).exit, Some(256));
        assert_eq!(head(&[1.0, 2.0, 1.5, 9.0, 3.0, 5.0, 9.0]).exit, Some(512));
        assert_eq!(head(&[1.0, 2.0, 1.5, 9.0, 9.0, 9.0, 2.0]).exit, None);
        assert_eq!(
            head(&[1.0, 2.0, 1.5, 2.0, f64::NAN, f64::NAN, f64::NAN]).exit,
            Some(256)
        );
    }

    #[test]
    fn heads_are_ranked_by_when_they_leave_then_by_growth() {
        let mut heads = vec![
            HeadSummary {
                head: 0,
                ..head(&[1.0, 1.0, 1.0, 1.0])
            },
            HeadSummary {
                head: 1,
                ..head(&[1.0, 1.0, 1.0, 3.0])
            },
            HeadSummary {
                head: 2,
                ..head(&[1.0, 1.0, 1.0, 4.0])
            },
        ];
        rank(&mut heads);
        assert_eq!(heads.iter().map(|head| head.head).collect::<Vec<_>>(), [2, 1, 0]);
    }
}
