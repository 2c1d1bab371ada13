//! A shuffled order of any number of things, without a list of them.
//!
//! A Feistel network permutes the pairs (left, right) of h bits each: every round maps (l, r) to (r, l ⊕ f(r, key)), which can be
//! undone whatever f is. 4^h is the next such number not below the wanted size n; who lands at or above n walks on until he is
//! below it (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, the cycle-walking cipher), at most four
//! applications on average.

use super::seed::mix;

/// Four rounds make a permutation that cannot be told from a random one if f is random (Luby and Rackoff, 1988); two more are
/// for the small sizes, where few bits go into f.
const ROUNDS: u64 = 6;

/// A permutation of the numbers below `size`.
#[derive(Clone, Copy, Debug)]
pub(in crate::train) struct Permutation {
    size: u64,
    half: u32,
    seed: u64,
}

impl Permutation {
    /// The permutation of a seed; `size` is at least 1.
    pub(in crate::train) fn new(size: u64, seed: u64) -> Self {
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        Self {
            size,
            half: bits.div_ceil(2).max(1),
            seed,
        }
    }

    /// Where `index`, below the size, goes.
    pub(in crate::train) fn at(&self, index: u64) -> u64 {
        let mut index = self.encrypt(index);
        while index >= self.size {
            index = self.encrypt(index);
        }
        index
    }

    fn encrypt(&self, index: u64) -> u64 {
        // A half has at most 32 bits: two of them are the 64 of an index.
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (index >> self.half, index & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, (left ^ mix(self.seed, round, right)) & mask);
        }
        (left << self.half) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_below_the_size_comes_exactly_once() {
        for size in [1, 2, 3, 4, 5, 15, 16, 17, 100, 1000, 1025, 4096, 4097] {
            for seed in 0..3 {
                let permutation = Permutation::new(size, seed);
                let mut found: Vec<u64> = (0..size).map(|index| permutation.at(index)).collect();
                found.sort_unstable();
                assert!(found.into_iter().eq(0..size), "size {size}, seed {seed}");
            }
        }
    }

    #[test]
    fn neighbours_are_torn_apart_and_seeds_differ() {
        let size = 10_000;
        let order = |seed| (0..size).map(move |index| Permutation::new(size, seed).at(index));
        let neighbours = order(1)
            .zip(order(1).skip(1))
            .filter(|(a, b)| a + 1 == *b)
            .count();
        assert!(neighbours < 10, "{neighbours} of them stayed neighbours");
        let equal = order(1).zip(order(2)).filter(|(a, b)| a == b).count();
        assert!(equal < 10, "{equal} places are the same under two seeds");
        // The first tenth should be spread over everything: its mean is within five standard errors of the middle.
        let mean = order(3).take(1000).sum::<u64>() as f64 / 1000.0;
        assert!((mean - 5000.0).abs() < 5.0 * 2887.0 / 1000f64.sqrt(), "{mean}");
    }

    #[test]
    fn the_largest_size_has_room() {
        let permutation = Permutation::new(u64::MAX, 7);
        assert_ne!(permutation.at(0), permutation.at(u64::MAX - 1));
    }
}
