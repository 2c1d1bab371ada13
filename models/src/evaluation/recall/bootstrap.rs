//! Intervals of means over documents, by resampling them.
//!
//! Arms that answered the same documents are compared document by document: with d_i the difference of two scores on document i,
//! the mean of d and the 2.5 % and 97.5 % quantiles of the mean over 10,000 samples with replacement. Where several questions
//! are asked of one document, documents are drawn and not questions. Source: Efron and Tibshirani, *An introduction to the
//! bootstrap* (1993), section 13.3.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::evaluation::quantile::of_sorted;

/// Number of bootstrap samples that an interval is taken from.
const SAMPLES: usize = 10_000;

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean of the values.
    pub mean: f64,
    /// Lower end of the 95 % interval of the mean.
    pub low: f64,
    /// Upper end of the 95 % interval of the mean.
    pub high: f64,
}

/// The mean of `values` with its interval; `documents` says of each value which document it is of. `None` below two documents,
/// which say nothing of others. The same seed gives the same interval.
///
/// ```
/// use spillway_models::evaluation::recall::bootstrap::interval;
///
/// let found = interval(&[1.0, 0.0, 1.0, 1.0], &[0, 1, 2, 3], 0).unwrap();
/// assert!(found.mean == 0.75 && found.low < 0.75 && found.high == 1.0);
/// ```
pub fn interval(values: &[f64], documents: &[usize], seed: u64) -> Option<Interval> {
    let sums = sums(values, documents);
    if sums.len() < 2 {
        return None;
    }
    let total = |sums: &mut dyn Iterator<Item = (f64, f64)>| {
        let (sum, count) = sums.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
        sum / count
    };
    let mut random = StdRng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..SAMPLES)
        .map(|_| total(&mut (0..sums.len()).map(|_| sums[random.random_range(0..sums.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    Some(Interval {
        mean: total(&mut sums.iter().copied()),
        low: of_sorted(&means, 0.025),
        high: of_sorted(&means, 0.975),
    })
}

/// Sum and number of the values of each document.
fn sums(values: &[f64], documents: &[usize]) -> Vec<(f64, f64)> {
    let mut sums = std::collections::BTreeMap::new();
    for (value, document) in values.iter().zip(documents) {
        let entry: &mut (f64, f64) = sums.entry(*document).or_default();
        *entry = (entry.0 + value, entry.1 + 1.0);
    }
    sums.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_many_values_is_that_of_the_normal_distribution() {
        // Differences of −1, 0 and 1 with mean 0.1 and variance 0.29 over 1000 documents.
        let values: Vec<f64> = (0..1000)
            .map(|index| match index % 10 {
                0 | 1 => 1.0,
                2 => -1.0,
                _ => 0.0,
            })
            .collect();
        let documents: Vec<usize> = (0..1000).collect();
        let found = interval(&values, &documents, 1).expect("documents");
        let half = 1.96 * (0.29_f64 / 1000.0).sqrt();
        assert!((found.mean - 0.1).abs() < 1e-12);
        assert!((found.low - (0.1 - half)).abs() < 0.003 && (found.high - (0.1 + half)).abs() < 0.003);
        assert_eq!(interval(&values, &documents, 1), Some(found));
        assert_ne!(interval(&values, &documents, 2), Some(found));
    }

    #[test]
    fn questions_of_one_document_are_drawn_together() {
        let values = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        let apart = interval(&values, &[0, 1, 2, 3, 4, 5], 0).expect("documents");
        let together = interval(&values, &[0, 0, 0, 1, 1, 1], 0).expect("documents");
        assert_eq!((together.mean, together.low, together.high), (0.5, 0.0, 1.0));
        assert!(apart.low > 0.0 && apart.high < 1.0);
    }

    #[test]
    fn one_document_has_no_interval_and_equal_ones_one_without_width() {
        assert_eq!(interval(&[1.0, 0.0], &[4, 4], 0), None);
        assert_eq!(interval(&[], &[], 0), None);
        let flat = interval(&[0.5, 0.5], &[0, 1], 0).expect("documents");
        assert_eq!((flat.mean, flat.low, flat.high), (0.5, 0.5, 0.5));
    }
}
