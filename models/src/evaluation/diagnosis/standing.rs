//! What a mitigation costs inside the training length and gains beyond it.
//!
//! All runs read the same tokens, so differences between their means are not blurred by the text. With L the mean loss of a
//! run, L₀ that of the model alone and R that of the baseline restarted every T tokens,
//!
//! ```text
//! price = L(inside T) − L₀(inside T)      gain = L₀(beyond T) − L(beyond T)
//! excess removed = gain / (L₀(beyond T) − R(beyond T))
//! ```
//!
//! *Inside* is averaged over all streams, *beyond* over every position beyond T of the long ones.

use serde::Serialize;

use crate::evaluation::tally::{BucketLoss, mean_over};

/// Differences in mean loss, in nats, that are called no difference.
pub const TOLERANCE: f64 = 0.05;

/// Price and gain of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Standing {
    /// Mean loss inside the training length.
    pub inside: Option<f64>,
    /// Price: how much larger the mean loss inside T is than that of the model alone, in nats.
    pub price: Option<f64>,
    /// Mean loss beyond the training length.
    pub beyond: Option<f64>,
    /// Gain: how much smaller the mean loss beyond T is than that of the model alone, in nats.
    pub gain: Option<f64>,
    /// Share of the model's excess over the baseline that is gone; absent when there is no excess to speak of.
    pub excess_removed: Option<f64>,
}

/// The curves of one run that its standing follows from.
#[derive(Clone, Copy, Debug)]
pub struct Curves<'a> {
    /// Geometric buckets over all streams.
    pub all: &'a [BucketLoss],
    /// Geometric buckets over the long streams.
    pub long: &'a [BucketLoss],
}

impl Curves<'_> {
    fn inside(&self, train_length: u64) -> Option<f64> {
        mean_over(self.all.iter().filter(|bucket| bucket.start < train_length))
    }

    /// Mean loss beyond the training length, over the positions that `other` has too.
    fn beyond(&self, other: &Self, train_length: u64) -> Option<f64> {
        let there = |bucket: &&BucketLoss| {
            other
                .long
                .iter()
                .any(|b| (b.start, b.tokens) == (bucket.start, bucket.tokens))
        };
        mean_over(
            self.long
                .iter()
                .filter(|bucket| bucket.start >= train_length)
                .filter(there),
        )
    }
}

/// The standing of `run` against the model alone and the baseline.
pub fn standing(
    run: Curves<'_>,
    alone: Curves<'_>,
    baseline: Option<Curves<'_>>,
    train_length: u64,
) -> Standing {
    let difference = |a: Option<f64>, b: Option<f64>| Some(a? - b?);
    let (inside, beyond) = (run.inside(train_length), run.beyond(&alone, train_length));
    let gain = difference(alone.beyond(&run, train_length), beyond);
    let excess = baseline.and_then(|baseline| {
        difference(
            alone.beyond(&baseline, train_length),
            baseline.beyond(&alone, train_length),
        )
    });
    let excess_removed = excess
        .filter(|excess| *excess > TOLERANCE)
        .and_then(|excess| Some(gain? / excess));
    Standing {
        inside,
        price: difference(inside, alone.inside(train_length)),
        beyond,
        gain,
        excess_removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(means: &[f64]) -> Vec<BucketLoss> {
        let bucket = |(index, &mean): (usize, &f64)| BucketLoss {
            start: 64 * index as u64,
            end: 64 * (index as u64 + 1),
            mean,
            perplexity: mean.exp(),
            standard_error: None,
            tokens: 64,
        };
        means.iter().enumerate().map(bucket).collect()
    }

    #[test]
    fn price_gain_and_the_share_of_the_excess() {
        let (alone, baseline, run) = (
            curve(&[1.0, 2.0, 4.0]),
            curve(&[1.0, 1.0, 1.0]),
            curve(&[1.1, 1.5, 1.5]),
        );
        let curves = |curve| Curves {
            all: curve,
            long: curve,
        };
        let found = standing(curves(&run), curves(&alone), Some(curves(&baseline)), 64);
        let near =
            |found: Option<f64>, expected: f64| found.is_some_and(|found| (found - expected).abs() < 1e-12);
        assert!(
            near(found.price, 0.1) && near(found.beyond, 1.5) && near(found.gain, 1.5),
            "{found:?}"
        );
        assert!(near(found.excess_removed, 0.75), "{found:?}");
    }

    #[test]
    fn without_an_excess_there_is_no_share_of_it() {
        let flat = curve(&[1.0, 1.0]);
        let curves = Curves {
            all: &flat,
            long: &flat,
        };
        assert_eq!(standing(curves, curves, Some(curves), 64).excess_removed, None);
    }

    #[test]
    fn an_interrupted_run_is_compared_over_what_it_has_read() {
        let (alone, run) = (curve(&[1.0, 2.0, 4.0]), curve(&[1.0, 1.5]));
        let found = standing(
            Curves {
                all: &run,
                long: &run,
            },
            Curves {
                all: &alone,
                long: &alone,
            },
            None,
            64,
        );
        assert_eq!(found.gain, Some(0.5));
    }
}
