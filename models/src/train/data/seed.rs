//! Random numbers that are a function of where they are needed, so that any position can be gone to at once.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A number that looks random, of a seed and two counters: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators", 2014) after each of the three.
pub(in crate::train) fn mix(seed: u64, first: u64, second: u64) -> u64 {
    [first, second]
        .into_iter()
        .fold(scramble(seed), |hash, counter| scramble(hash ^ counter))
}

/// A number in [0, 1) of a seed and two counters, in steps of 2⁻⁵³.
pub(in crate::train) fn fraction(seed: u64, first: u64, second: u64) -> f64 {
    (mix(seed, first, second) >> 11) as f64 / (1u64 << 53) as f64
}

/// A generator of its own for every seed and pair of counters.
pub(in crate::train) fn generator(seed: u64, first: u64, second: u64) -> StdRng {
    StdRng::seed_from_u64(mix(seed, first, second))
}

fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
