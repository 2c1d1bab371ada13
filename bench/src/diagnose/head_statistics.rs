//! What is looked at in the state of a head, and when a head leaves the range it had inside the training length.
//!
//! A head *leaves its in-window range* at the first look beyond the training length T where its state's norm exceeds
//! [`EXIT_FACTOR`] times the largest norm seen up to T, and stays above it at every later look. Training has shown the layers
//! behind it no such state.

use super::retention::Retention;
use serde::Serialize;

/// Factor over the largest norm inside the training length beyond which a head has left its range.
pub const EXIT_FACTOR: f64 = 2.0;
/// Share of the elements of a state that counts as its top.
pub const TOP_SHARE: f64 = 0.01;

/// Statistics of the state h ∈ R^{K×V} of one head, n = K·V elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StateStatistics {
    /// ‖h‖_F.
    pub norm: f64,
    /// Σh / n.
    pub mean: f64,
    /// Unbiased variance of the elements.
    pub variance: f64,
    /// Share of Σh² in the 1 % of elements largest in magnitude; 0.01 if all are alike, 1 if a few hold everything.
    pub top_square_share: f64,
    /// Share of Σ|h| in the same elements.
    pub top_mass_share: f64,
}

impl StateStatistics {
    /// Fields in the order of [`Self::from_array`].
    pub fn to_array(self) -> [f64; 5] {
        [
            self.norm,
            self.mean,
            self.variance,
            self.top_square_share,
            self.top_mass_share,
        ]
    }

    /// The inverse of [`Self::to_array`].
    pub fn from_array([norm, mean, variance, top_square_share, top_mass_share]: [f64; 5]) -> Self {
        Self {
            norm,
            mean,
            variance,
            top_square_share,
            top_mass_share,
        }
    }

    /// Field by field mean of several; `None` of none.
    pub fn average(all: &[Self]) -> Option<Self> {
        let mut sums = [0.0; 5];
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
    /// Share of the squared norm in the top 1 % of elements, at the training length.
    pub top_square_share_inside: f64,
    /// The same at the last look.
    pub top_square_share_end: f64,
    /// How long it remembers.
    #[serde(flatten)]
    pub retention: Retention,
}

/// Summarises one head from its state at successive positions.
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
        top_square_share_inside: share(inside.last()),
        top_square_share_end: share(looks.last()),
        retention,
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
