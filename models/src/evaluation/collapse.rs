//! Does the loss stay what it was inside the training length T? The published criterion, and a smooth companion.
//!
//! With L(b) the mean loss of a bucket b of positions,
//!
//! ```text
//! loss ratio        max_{b beyond T} L(b) / max_{b inside T} L(b)             collapsed above 2
//! perplexity ratio  exp(max_{b beyond T} L(b) − max_{b inside T} L(b))        collapsed above 2
//! onset             start of the first bucket above the threshold, as are all after it
//! excess of b       L(b) − mean loss in [T/2, T)
//! ```
//!
//! Twice the loss and twice the perplexity are very different tests: at 2.7 nats they mean 2.7 and 0.69 nats more. Source: Chen
//! et al., *Stuffed Mamba* (2410.07145), section 5, whose first version measures perplexity and whose second measures loss.

use serde::{Deserialize, Serialize};

use super::not_finite_is_null;
use super::tally::{BucketLoss, mean_over};

/// Largest bucket mean beyond the training length against the largest inside, with no account of the text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Largest bucket loss inside the training length, in nats.
    #[serde(deserialize_with = "not_finite_is_null")]
    pub loss_inside: f64,
    /// Largest bucket loss beyond it, in nats.
    #[serde(deserialize_with = "not_finite_is_null")]
    pub loss_beyond: f64,
    /// Loss ratio of the criterion, loss_beyond / loss_inside.
    #[serde(deserialize_with = "not_finite_is_null")]
    pub loss_ratio: f64,
    /// Perplexity ratio of the criterion, exp(loss_beyond − loss_inside).
    #[serde(deserialize_with = "not_finite_is_null")]
    pub perplexity_ratio: f64,
}

/// The numbers of the published criterion; NaN where no bucket is inside, or none beyond.
pub fn published(curve: &[BucketLoss], train_length: u64) -> Published {
    let largest = |inside: bool| {
        let buckets = curve
            .iter()
            .filter(|bucket| (bucket.start < train_length) == inside);
        buckets
            .map(|bucket| bucket.mean)
            .max_by(|a, b| rank(*a).total_cmp(&rank(*b)))
            .unwrap_or(f64::NAN)
    };
    let (loss_inside, loss_beyond) = (largest(true), largest(false));
    Published {
        loss_inside,
        loss_beyond,
        loss_ratio: loss_beyond / loss_inside,
        perplexity_ratio: (loss_beyond - loss_inside).exp(),
    }
}

/// For comparisons in which NaN is worse than every number.
pub fn rank(ratio: f64) -> f64 {
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// Where a curve is above a threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rise {
    /// Start of the first bucket above it.
    pub first: Option<u64>,
    /// Start of the first bucket above it with all later ones above it too.
    pub for_good: Option<u64>,
}

/// Where `curve`, starts of buckets and their values, is above `threshold`; a value that is not a number is.
pub fn rise(curve: &[(u64, f64)], threshold: f64) -> Rise {
    // Written so that NaN is above.
    let above =
        |&(_, value): &(u64, f64)| !matches!(value.partial_cmp(&threshold), Some(order) if order.is_le());
    let below = curve.iter().rposition(|bucket| !above(bucket));
    Rise {
        first: curve.iter().find(|bucket| above(bucket)).map(|bucket| bucket.0),
        for_good: curve.get(below.map_or(0, |last| last + 1)).map(|bucket| bucket.0),
    }
}

/// What the published criterion says of a curve, in loss and in perplexity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collapse {
    /// The factor that ratios are held against.
    pub threshold: f64,
    /// Ratios of the losses beyond the training length to those inside.
    #[serde(flatten)]
    pub published: Published,
    /// Where the loss exceeds `threshold` times the largest inside the training length.
    pub loss: Rise,
    /// Where the perplexity does.
    pub perplexity: Rise,
}

impl Collapse {
    /// Whether the loss exceeds `threshold` times the largest inside anywhere beyond the training length.
    pub fn in_loss(&self) -> bool {
        self.loss.first.is_some()
    }

    /// Whether the perplexity does.
    pub fn in_perplexity(&self) -> bool {
        self.perplexity.first.is_some()
    }
}

/// Judges a curve by the published criterion.
pub fn collapse(curve: &[BucketLoss], train_length: u64, threshold: f64) -> Collapse {
    let published = published(curve, train_length);
    let beyond = curve.iter().filter(|bucket| bucket.start >= train_length);
    let [loss, perplexity] = [
        |mean: f64, inside: f64| mean / inside,
        |mean: f64, inside: f64| (mean - inside).exp(),
    ]
    .map(|ratio| {
        let ratios = beyond
            .clone()
            .map(|bucket| (bucket.start, ratio(bucket.mean, published.loss_inside)));
        rise(&ratios.collect::<Vec<_>>(), threshold)
    });
    Collapse {
        threshold,
        published,
        loss,
        perplexity,
    }
}

/// How much larger the mean loss L(b) of a bucket b beyond the training length T is than that in [T/2, T).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Excess {
    /// First position of the bucket.
    pub start: u64,
    /// Position after its last.
    pub end: u64,
    /// Difference in mean loss, in nats.
    #[serde(deserialize_with = "not_finite_is_null")]
    pub excess: f64,
}

/// L(b) − mean loss in [T/2, T) for every bucket b beyond T; nothing where no bucket begins in [T/2, T).
pub fn excess(curve: &[BucketLoss], train_length: u64) -> Vec<Excess> {
    let last_half = train_length / 2..train_length;
    let Some(level) = mean_over(curve.iter().filter(|bucket| last_half.contains(&bucket.start))) else {
        return Vec::new();
    };
    let beyond = curve.iter().filter(|bucket| bucket.start >= train_length);
    let excess = |bucket: &BucketLoss| Excess {
        start: bucket.start,
        end: bucket.end,
        excess: bucket.mean - level,
    };
    beyond.map(excess).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buckets [0, 32), [32, 64), [64, 128), [128, 256), … with these means.
    fn curve(means: &[f64]) -> Vec<BucketLoss> {
        let edge = |index: usize| if index == 0 { 0 } else { 16 << index };
        let bucket = |(index, &mean): (usize, &f64)| BucketLoss {
            start: edge(index),
            end: edge(index + 1),
            mean,
            perplexity: mean.exp(),
            standard_error: None,
            tokens: edge(index + 1) - edge(index),
        };
        means.iter().enumerate().map(bucket).collect()
    }

    #[test]
    fn twice_the_perplexity_is_not_twice_the_loss() {
        let found = collapse(&curve(&[2.0, 1.5, 1.8, 2.8, 2.9]), 64, 2.0);
        assert!((found.published.loss_ratio - 1.45).abs() < 1e-12);
        assert!((found.published.perplexity_ratio - 0.9_f64.exp()).abs() < 1e-12);
        assert!(!found.in_loss() && found.in_perplexity());
        // 2 + ln 2 = 2.693 is exceeded from 128 on.
        assert_eq!(found.perplexity.for_good, Some(128));
        let worse = collapse(&curve(&[2.0, 1.5, 1.8, 2.8, 4.1]), 64, 2.0);
        assert_eq!((worse.loss.first, worse.loss.for_good), (Some(256), Some(256)));
    }

    #[test]
    fn a_bump_is_above_but_not_for_good() {
        let found = collapse(&curve(&[1.0, 1.0, 3.0, 1.0]), 64, 2.0);
        assert_eq!((found.loss.first, found.loss.for_good), (Some(64), None));
        let flat = collapse(&curve(&[1.0, 0.9, 1.1, 1.2]), 64, 2.0);
        assert_eq!((flat.loss, flat.perplexity), (Rise::default(), Rise::default()));
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_a_collapse_and_survives_a_file() {
        let found = collapse(&curve(&[1.0, 1.0, 1.0, f64::NAN]), 64, 2.0);
        assert!(found.in_loss() && found.published.loss_ratio.is_nan());
        let text = serde_json::to_string(&found).expect("serialised");
        let back: Collapse = serde_json::from_str(&text).expect("read");
        assert!(back.published.loss_ratio.is_nan());
        assert_eq!((back.loss, back.published.loss_inside), (found.loss, 1.0));
    }

    #[test]
    fn the_excess_is_held_against_the_last_half_of_the_training_length() {
        let found = excess(&curve(&[3.0, 1.0, 1.5, 0.5]), 64);
        let found: Vec<_> = found.iter().map(|e| (e.start, e.end, e.excess)).collect();
        assert_eq!(found, [(64, 128, 0.5), (128, 256, -0.5)]);
        assert!(excess(&curve(&[3.0])[..1], 16).is_empty());
    }
}
