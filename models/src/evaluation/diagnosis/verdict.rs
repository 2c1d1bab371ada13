//! Does a model collapse, and where? A definition that can be computed from curves of mean loss.
//!
//! Texts are not equally hard everywhere, so a bucket is not compared with the training length directly but with the same
//! model restarted every T tokens (the baseline `reset:T`) over the same positions of the same text: that model never
//! leaves its training length. With L the loss of a run and R that of the baseline,
//!
//! ```text
//! ratio(b) = exp(L(b) − R(b))          a bucket b beyond T is above the threshold when ratio(b) > 2
//! collapsed = some bucket is above     onset = start of the first bucket that is above, as are all after it
//! ```
//!
//! The published criterion, the largest bucket beyond T against the largest inside T with no account of the text, is
//! reported beside it, in loss and in perplexity.

use serde::Serialize;

use crate::evaluation::collapse::{Published, published, rank, rise};
use crate::evaluation::tally::BucketLoss;

/// The factor in perplexity that counts as collapse, unless chosen otherwise.
pub const DEFAULT_THRESHOLD: f64 = 2.0;

/// What the definition says of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether everything that it depends on has been read, by this run and by the baseline. Until then the other fields are of
    /// what has been read so far, and conclude nothing.
    pub complete: bool,
    /// Whether some bucket beyond the training length is above the threshold.
    pub collapsed: bool,
    /// Start of the first bucket above the threshold with all later ones above it too; if the run recovers, of the first
    /// bucket above it.
    pub onset: Option<u64>,
    /// Whether the last bucket is below the threshold although an earlier one is above.
    pub recovers: bool,
    /// Largest perplexity ratio beyond the training length; `null` in JSON if the loss is not finite.
    pub ratio: f64,
    /// Start of the bucket with the largest ratio.
    pub worst: Option<u64>,
    /// The factor that `ratio` is held against.
    pub threshold: f64,
    /// The rule in words.
    pub rule: String,
    /// The published criterion's numbers.
    pub published: Published,
}

/// Judges a run by its geometric curve and that of the baseline, which must have the same buckets.
pub fn judge(run: &[BucketLoss], baseline: &[BucketLoss], train_length: u64, threshold: f64) -> Verdict {
    let beyond: Vec<(u64, f64)> = run
        .iter()
        .zip(baseline)
        .filter(|(bucket, _)| bucket.start >= train_length)
        .map(|(bucket, restarted)| (bucket.start, (bucket.mean - restarted.mean).exp()))
        .collect();
    let rise = rise(&beyond, threshold);
    let worst = beyond
        .iter()
        .copied()
        .max_by(|a, b| rank(a.1).total_cmp(&rank(b.1)));
    Verdict {
        complete: true,
        collapsed: rise.first.is_some(),
        onset: rise.for_good.or(rise.first),
        recovers: rise.first.is_some() && rise.for_good.is_none(),
        ratio: worst.map_or(1.0, |bucket| bucket.1),
        worst: worst.map(|bucket| bucket.0),
        threshold,
        rule: rule(train_length, threshold),
        published: published(run, train_length),
    }
}

fn rule(train_length: u64, threshold: f64) -> String {
    format!(
        "collapsed if, in some bucket beyond {train_length} tokens, perplexity exceeds {threshold} x that of the same model \
         restarted every {train_length} tokens at the same positions of the same text; ratio is the largest such quotient; \
         onset is the start of the first bucket above {threshold} after which all are above"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(start: u64, end: u64, mean: f64) -> BucketLoss {
        BucketLoss {
            start,
            end,
            mean,
            perplexity: mean.exp(),
            standard_error: None,
            tokens: end - start,
        }
    }

    /// Buckets [0, 64), [64, 128), [128, 256), … with these means.
    fn curve(means: &[f64]) -> Vec<BucketLoss> {
        let edge = |index: usize| if index == 0 { 0 } else { 64 << (index - 1) };
        means
            .iter()
            .enumerate()
            .map(|(index, &mean)| bucket(edge(index), edge(index + 1), mean))
            .collect()
    }

    #[test]
    fn a_rising_loss_collapses_at_the_first_bucket_that_stays_above() {
        let run = curve(&[1.5, 1.6, 2.3, 1.7, 2.25, 2.6, 2.6]);
        let verdict = judge(&run, &curve(&[1.5; 7]), 64, 2.0);
        assert!(verdict.collapsed && !verdict.recovers);
        // 2.3 at 128 is above 1.5 + ln 2 = 2.193, but 1.7 at 256 is not.
        assert_eq!(verdict.onset, Some(512));
        assert!((verdict.ratio - 1.1_f64.exp()).abs() < 1e-12);
        assert!((verdict.published.loss_ratio - 2.6 / 1.5).abs() < 1e-12);
        assert!((verdict.published.perplexity_ratio - 1.1_f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn a_flat_loss_does_not_collapse() {
        let verdict = judge(&curve(&[1.5, 1.45, 1.4, 1.6, 1.55]), &curve(&[1.5; 5]), 64, 2.0);
        assert!(!verdict.collapsed && !verdict.recovers);
        assert_eq!(verdict.onset, None);
        assert!(verdict.ratio < 1.2);
    }

    #[test]
    fn a_text_that_grows_harder_is_no_collapse() {
        let harder = curve(&[1.5, 1.5, 2.0, 2.5, 3.0]);
        let verdict = judge(&harder, &harder, 64, 2.0);
        assert!(!verdict.collapsed);
        assert!((verdict.ratio - 1.0).abs() < 1e-12);
        assert!(
            verdict.published.perplexity_ratio > 4.0,
            "the published criterion is misled"
        );
    }

    #[test]
    fn a_text_that_grows_easier_does_not_hide_a_collapse() {
        let verdict = judge(
            &curve(&[2.5, 2.5, 2.2, 2.2]),
            &curve(&[2.5, 2.4, 1.2, 1.2]),
            64,
            2.0,
        );
        assert_eq!((verdict.collapsed, verdict.onset), (true, Some(128)));
    }

    #[test]
    fn a_passing_bump_is_a_collapse_that_recovers() {
        let verdict = judge(&curve(&[1.0, 1.0, 3.0, 1.0]), &curve(&[1.0; 4]), 64, 2.0);
        assert!(verdict.collapsed && verdict.recovers);
        assert_eq!(verdict.onset, Some(128));
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_a_collapse() {
        let verdict = judge(
            &curve(&[1.0, 1.0, f64::NAN, f64::NAN]),
            &curve(&[1.0; 4]),
            64,
            2.0,
        );
        assert_eq!((verdict.collapsed, verdict.onset), (true, Some(128)));
        assert!(!verdict.ratio.is_finite());
    }
}
