//! Where along a text the loss is averaged and the states are looked at: ranges of positions, fixed before the run.
//!
//! Every list here grows with the logarithm of the length, or not at all.

use serde::{Deserialize, Serialize};

/// Geometric buckets beyond the training length: this many to a doubling of the position.
pub const BUCKETS_PER_DOUBLING: u32 = 2;
/// Buckets of equal width: at most this many, whatever the length.
pub const FIXED_BUCKETS: u64 = 64;
/// Equal parts that the training length is divided into.
pub const PARTS_INSIDE: u64 = 8;
/// Looks at the state: this many to a doubling of the position, beyond the training length.
pub const SNAPSHOTS_PER_DOUBLING: u32 = 8;

/// Neighbouring half-open ranges of positions `[edge_i, edge_{i+1})`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    edges: Vec<u64>,
}

impl Buckets {
    /// One bucket for the training length T, then edges at T·2^{k/2} for k = 1, 2, …, and the rest up to `length`.
    pub fn geometric(train_length: u64, length: u64) -> Self {
        let mut edges = vec![0];
        edges.extend(doublings(train_length, length, BUCKETS_PER_DOUBLING));
        // A last bucket of less than half its usual width would hold little but noise.
        if let [.., before, last] = edges[..] {
            let usual = before as f64 * (1.0 / f64::from(BUCKETS_PER_DOUBLING)).exp2() - before as f64;
            if before > train_length && ((last - before) as f64) < usual / 2.0 {
                edges.remove(edges.len() - 2);
            }
        }
        Self { edges }
    }

    /// At most [`FIXED_BUCKETS`] buckets of one width, a multiple of the training length.
    pub fn fixed(train_length: u64, length: u64) -> Self {
        let width = length.div_ceil(FIXED_BUCKETS).div_ceil(train_length.max(1)) * train_length.max(1);
        let mut edges: Vec<u64> = (0..length)
            .step_by(width.try_into().unwrap_or(usize::MAX))
            .collect();
        edges.push(length);
        Self { edges }
    }

    /// The training length T, then the last T positions of each of the lengths `factors` · T, with what lies between them.
    pub fn windows(train_length: u64, factors: &[u64]) -> Self {
        let mut edges = vec![0, train_length];
        for factor in factors {
            edges.extend([factor.saturating_sub(1), *factor].map(|k| train_length.saturating_mul(k)));
        }
        edges.sort_unstable();
        edges.dedup();
        Self { edges }
    }

    /// The training length T in two halves, then doubling: T·{0, ½, 1, 2, 4, …} below `length`, and `length`.
    pub fn doubling(train_length: u64, length: u64) -> Self {
        let train_length = train_length.max(1);
        let mut edges = vec![0, train_length / 2];
        edges.extend(doublings(train_length, length, 1));
        edges.retain(|edge| *edge <= length);
        edges.dedup();
        Self { edges }
    }

    /// The training length in [`PARTS_INSIDE`] parts.
    pub fn inside(train_length: u64) -> Self {
        Self {
            edges: std::iter::once(0).chain(parts(train_length)).collect(),
        }
    }

    /// Number of buckets.
    pub fn len(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    /// Whether there is no bucket.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// (start, end) of every bucket.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.edges.windows(2).map(|pair| (pair[0], pair[1]))
    }

    /// The edges, the first bucket's start first.
    pub fn edges(&self) -> &[u64] {
        &self.edges
    }

    /// The bucket that holds `position`.
    pub fn find(&self, position: u64) -> Option<usize> {
        let after = self.edges.partition_point(|&edge| edge <= position);
        (after > 0 && after < self.edges.len()).then(|| after - 1)
    }
}

/// Positions after which the states are looked at: the ends of [`PARTS_INSIDE`] parts of the training length T, then
/// T·2^{k/8} for k = 1, 2, …, and the end.
pub fn snapshots(train_length: u64, length: u64) -> Vec<u64> {
    let inside = parts(train_length).filter(|&position| position < train_length.min(length));
    inside
        .chain(doublings(train_length, length, SNAPSHOTS_PER_DOUBLING))
        .collect()
}

fn parts(train_length: u64) -> impl Iterator<Item = u64> {
    let mut last = 0;
    let ends = (1..=PARTS_INSIDE).map(move |part| (train_length * part).div_ceil(PARTS_INSIDE));
    ends.filter(move |&end| std::mem::replace(&mut last, end) != end)
}

/// T·2^{k/n} below `length`, without repeats, then `length`.
fn doublings(train_length: u64, length: u64, per_doubling: u32) -> Vec<u64> {
    let mut positions: Vec<u64> = Vec::new();
    for k in 0_u32.. {
        let position = (train_length as f64 * (f64::from(k) / f64::from(per_doubling)).exp2()).round() as u64;
        if position >= length {
            break;
        }
        if positions.last() != Some(&position) {
            positions.push(position);
        }
    }
    positions.push(length);
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometric_buckets_start_with_the_training_length_and_end_with_the_text() {
        let buckets = Buckets::geometric(64, 1024);
        assert_eq!(buckets.edges(), [0, 64, 91, 128, 181, 256, 362, 512, 724, 1024]);
        // 1030 would leave a last bucket of 6 positions: it joins its neighbour.
        assert_eq!(Buckets::geometric(64, 1030).edges()[8..], [724, 1030]);
    }

    #[test]
    fn windows_are_the_last_training_length_of_each_length() {
        let buckets = Buckets::windows(64, &[2, 4, 8]);
        assert_eq!(buckets.edges(), [0, 64, 128, 192, 256, 448, 512]);
        assert_eq!(Buckets::windows(64, &[]).edges(), [0, 64]);
    }

    #[test]
    fn every_position_lies_in_exactly_one_bucket() {
        for (train_length, length) in [(1, 7), (3, 100), (64, 65536), (100, 201), (2048, 5000)] {
            for buckets in [
                Buckets::geometric(train_length, length),
                Buckets::fixed(train_length, length),
            ] {
                assert_eq!(buckets.edges().first(), Some(&0));
                assert_eq!(buckets.edges().last(), Some(&length));
                assert!(buckets.edges().is_sorted_by(|a, b| a < b), "{buckets:?}");
                for position in [0, 1, train_length, length / 2, length - 1] {
                    let found = buckets.find(position).expect("inside");
                    let (start, end) = buckets.ranges().nth(found).expect("exists");
                    assert!((start..end).contains(&position), "{position} in {start}..{end}");
                }
                assert_eq!(buckets.find(length), None);
            }
        }
    }

    #[test]
    fn the_number_of_fixed_buckets_does_not_grow_with_the_length() {
        for length in [1 << 10, 1 << 16, 1 << 20, 1 << 30] {
            assert!(Buckets::fixed(64, length).len() <= FIXED_BUCKETS as usize);
        }
    }

    #[test]
    fn doubling_buckets_are_halves_of_the_training_length_then_its_doublings() {
        assert_eq!(Buckets::doubling(64, 512).edges(), [0, 32, 64, 128, 256, 512]);
        assert_eq!(
            Buckets::doubling(64, 600).edges(),
            [0, 32, 64, 128, 256, 512, 600]
        );
        assert_eq!(Buckets::doubling(64, 64).edges(), [0, 32, 64]);
        assert_eq!(Buckets::doubling(64, 40).edges(), [0, 32, 40]);
        assert_eq!(Buckets::doubling(64, 20).edges(), [0, 20]);
        assert_eq!(Buckets::doubling(1, 4).edges(), [0, 1, 2, 4]);
    }

    #[test]
    fn snapshots_include_the_training_length_and_the_end_once() {
        let positions = snapshots(64, 1000);
        assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
        assert_eq!(positions[..8], [8, 16, 24, 32, 40, 48, 56, 64]);
        assert_eq!(positions.last(), Some(&1000));
        assert!(snapshots(3, 20).is_sorted_by(|a, b| a < b));
    }
}
