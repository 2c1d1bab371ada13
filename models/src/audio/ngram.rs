//! What counting foretells: n-grams of codes, each smoothed by the shorter ones.
//!
//! ```text
//! p_k(c | h_k) = (n(h_k c) + α p_{k−1}(c | h_{k−1})) / (n(h_k) + α),   p₀ = 1/V,  α = 16
//! ```
//!
//! h_k are the k − 1 codes before c, n counts in the training part. A model of sound that foretells worse than p₃ has learnt
//! nothing that a table does not know. Source: MacKay & Peto, *A hierarchical Dirichlet language model* (1995), with a fixed α.

use std::collections::HashMap;

use serde::Serialize;

/// Weight of the shorter n-gram, in occurrences.
const ALPHA: f64 = 16.0;
/// n of the longest n-grams: codes in each of them.
pub const LONGEST: usize = 3;

/// How well n-grams foretell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NGram {
    /// n: the code that is foretold, and those before it.
    pub order: usize,
    /// Mean −log₂ p of a code.
    pub bits: f64,
}

/// Occurrences of the sequences of one length.
#[derive(Default)]
struct Counts {
    /// Occurrences of every sequence of n codes, by its `key`.
    whole: HashMap<u64, u32>,
    /// Occurrences of every sequence of n − 1 codes that another code follows, by its `key`.
    before: HashMap<u64, u32>,
}

/// How well n-grams of 1 to [`LONGEST`] codes of `training`, each below `vocab_size`, foretell those of `held_out`: all but its first
/// [`LONGEST`] − 1, which have not enough before them. None where nothing is left to be foretold.
pub fn baselines(training: &[u32], held_out: &[u32], vocab_size: usize) -> Vec<NGram> {
    if held_out.len() < LONGEST {
        return Vec::new();
    }
    let tables: Vec<Counts> = (1..=LONGEST).map(|order| Counts::of(training, order)).collect();
    let mut bits = [0.0; LONGEST];
    for window in held_out.windows(LONGEST) {
        let mut p = 1.0 / vocab_size.max(1) as f64;
        for (order, (table, bits)) in (1..).zip(tables.iter().zip(&mut bits)) {
            p = table.probability(&window[LONGEST - order..], p);
            *bits -= p.log2();
        }
    }
    let count = (held_out.len() + 1 - LONGEST) as f64;
    let of_order = |(order, bits): (usize, f64)| NGram {
        order,
        bits: bits / count,
    };
    (1..).zip(bits).map(of_order).collect()
}

impl Counts {
    fn of(codes: &[u32], order: usize) -> Self {
        let mut counts = Self::default();
        for window in codes.windows(order) {
            *counts.whole.entry(key(window)).or_default() += 1;
            *counts.before.entry(key(&window[..order - 1])).or_default() += 1;
        }
        counts
    }

    /// p of the last of `window`, with that of the shorter n-gram.
    fn probability(&self, window: &[u32], shorter: f64) -> f64 {
        let count = |of: &HashMap<u64, u32>, codes| f64::from(of.get(&key(codes)).copied().unwrap_or(0));
        let before = &window[..window.len() - 1];
        (count(&self.whole, window) + ALPHA * shorter) / (count(&self.before, before) + ALPHA)
    }
}

/// Codes of at most 16 bits, one after another.
fn key(codes: &[u32]) -> u64 {
    codes.iter().fold(0, |key, code| (key << 16) | u64::from(*code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_formula_and_add_up_to_one() {
        let (training, vocab_size) = ([0, 1, 0, 1, 2, 0, 1], 3);
        // p₁(1) = (3 + 16/3)/(7 + 16); p₂(1 | 0) = (3 + 16 p₁)/(3 + 16); p₃(1 | 1 0) = (1 + 16 p₂)/(1 + 16).
        let first = (3.0 + 16.0 / 3.0) / 23.0;
        let second = (3.0 + 16.0 * first) / 19.0;
        let third = (1.0 + 16.0 * second) / 17.0;
        let found = baselines(&training, &[1, 0, 1], vocab_size);
        for (found, p) in found.iter().zip([first, second, third]) {
            assert!((found.bits + f64::log2(p)).abs() < 1e-12, "{found:?}");
        }
        for context in [[0, 0], [1, 2], [2, 0]] {
            let of_all = |code| baselines(&training, &[context[0], context[1], code], vocab_size);
            for order in 0..LONGEST {
                let sum: f64 = (0..3).map(|code| (-of_all(code)[order].bits).exp2()).sum();
                assert!((sum - 1.0).abs() < 1e-12, "{context:?} order {order}: {sum}");
            }
        }
    }

    #[test]
    fn longer_ones_know_a_period_and_too_little_is_not_foretold() {
        let codes: Vec<u32> = (0..4000).map(|i| [5, 9, 5, 7][i % 4]).collect();
        let found = baselines(&codes[..3000], &codes[3000..], 16);
        // Half of the codes follow from one before them, all from two.
        assert!((found[0].bits - 1.5).abs() < 0.05, "{found:?}");
        assert!((found[1].bits - 0.5).abs() < 0.05, "{found:?}");
        assert!(found[2].bits < 0.05, "{found:?}");
        assert!(baselines(&codes, &[5, 9], 16).is_empty());
    }
}
