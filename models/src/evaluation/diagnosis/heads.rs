//! When a head leaves the range that it had inside the training length, how long it remembers, and what its gates do.
//!
//! A head *leaves its in-window range* at the first sample beyond the training length T where its state's norm exceeds
//! [`EXIT_FACTOR`] times the largest norm seen up to T, and stays above it at every later sample. Training has shown the layers
//! behind it no such state.

use serde::Serialize;

use super::gates::Gate;
use super::record::SiteRecord;
use super::retention::Retention;
use super::state_statistics::StateStatistics;
use super::usage::HeadUsage;
use crate::evaluation::tally::Tally;

/// Factor over the largest norm inside the training length beyond which a head has left its range.
pub const EXIT_FACTOR: f64 = 2.0;

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
    /// Norm of its state at the last sample.
    pub norm_end: f64,
    /// Growth of the norm of its state, norm_end / norm_inside.
    pub growth: f64,
    /// What is called its norm: `norm`, or `weight` for the sum of weights in a weighted mean.
    pub measure: &'static str,
    /// Share of the squared norm in the top 1 % of elements, at the training length.
    pub top_square_share_inside: f64,
    /// Share of the squared norm in the top 1 % of elements, at the last sample.
    pub top_square_share_end: f64,
    /// How much of its state the head uses.
    #[serde(flatten)]
    pub usage: HeadUsage,
    /// How long the head remembers.
    #[serde(flatten)]
    pub retention: Retention,
    /// Means of its gates.
    #[serde(flatten)]
    pub gates: GateMeans,
    /// Index of the head's recurrence among those of the model, and of the head within it, from 0.
    #[serde(skip)]
    pub place: (usize, usize),
}

/// Means of a head's gates inside the training length and over the last interval between samples.
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
    /// Norm of what a token writes, over the last interval between samples.
    pub write_end: Option<f64>,
    /// Root mean square of what is read.
    pub read_out_inside: Option<f64>,
    /// Root mean square of what is read, over the last interval between samples.
    pub read_out_end: Option<f64>,
}

/// Summarises one head from its state at successive positions; [`HeadSummary::place`], `measure`, `usage` and `gates` are left to the
/// caller.
pub fn summarise(
    (layer, head): (usize, usize),
    samples: &[(u64, StateStatistics)],
    retention: Retention,
    train_length: u64,
) -> HeadSummary {
    let split = samples.partition_point(|(position, _)| *position <= train_length);
    let (inside, beyond) = samples.split_at(split);
    let norm_inside = inside.iter().map(|(_, sample)| sample.norm).fold(0.0, f64::max);
    let norm_end = samples.last().map_or(0.0, |(_, sample)| sample.norm);
    let share =
        |sample: Option<&(u64, StateStatistics)>| sample.map_or(0.0, |(_, sample)| sample.top_square_share);
    HeadSummary {
        layer,
        head,
        exit: exit(norm_inside, beyond),
        norm_inside,
        norm_end,
        growth: norm_end / norm_inside,
        measure: "norm",
        top_square_share_inside: share(inside.last()),
        top_square_share_end: share(samples.last()),
        usage: HeadUsage::default(),
        retention,
        gates: GateMeans::default(),
        place: (0, 0),
    }
}

/// First position from which every norm is above the in-window range.
fn exit(norm_inside: f64, beyond: &[(u64, StateStatistics)]) -> Option<u64> {
    // A norm that is not a number has left every range.
    let within = |sample: &(u64, StateStatistics)| sample.1.norm <= EXIT_FACTOR * norm_inside;
    let first = beyond.iter().rposition(within).map_or(0, |last| last + 1);
    beyond.get(first).map(|(position, _)| *position)
}

/// Every head of the model, from what the probe recorded per recurrence, in the order of [`rank`].
pub fn heads(records: &[SiteRecord], train_length: u64) -> Vec<HeadSummary> {
    let mut heads = Vec::new();
    for (site, record) in records.iter().enumerate() {
        for head in 0..record.heads() {
            let samples: Vec<(u64, StateStatistics)> = record
                .samples(head)
                .map(|(position, state, _)| (position, state))
                .collect();
            let Some(mean_log_decay) = record.mean_log_decay(head, train_length) else {
                continue;
            };
            let retention = Retention::new(mean_log_decay, train_length);
            let number = (record.layer(), record.first_head() + head);
            heads.push(HeadSummary {
                measure: record.measure(),
                gates: gate_means(record, head, train_length),
                usage: record.usage(head),
                place: (site, head),
                ..summarise(number, &samples, retention, train_length)
            });
        }
    }
    rank(&mut heads);
    heads
}

fn gate_means(record: &SiteRecord, head: usize, train_length: u64) -> GateMeans {
    let inside = |gate| record.gate_inside(gate, head, train_length);
    let end = |gate| {
        let filled = record.gate(gate, head).filter(|(_, tally)| tally.count() > 0);
        filled.last().map_or_else(Tally::default, |(_, tally)| *tally)
    };
    let keys = record.key_range(head);
    GateMeans {
        fastest_key_log_decay: keys.map(|(least, _)| least),
        slowest_key_log_decay: keys.map(|(_, largest)| largest),
        erase_inside: inside(Gate::Erase).mean(),
        write_inside: inside(Gate::Write).mean(),
        write_end: end(Gate::Write).mean(),
        read_out_inside: inside(Gate::ReadOut).root_mean_square(),
        read_out_end: end(Gate::ReadOut).root_mean_square(),
    }
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

    fn samples(norms: &[f64]) -> Vec<(u64, StateStatistics)> {
        let sample = |(index, &norm): (usize, &f64)| {
            (
                16 << index,
                StateStatistics {
                    norm,
                    ..StateStatistics::default()
                },
            )
        };
        norms.iter().enumerate().map(sample).collect()
    }

    fn head(norms: &[f64]) -> HeadSummary {
        summarise((0, 0), &samples(norms), Retention::new(-0.01, 64), 64)
    }

    #[test]
    fn a_head_leaves_its_range_when_it_stays_above() {
        // Samples at 16, 32, 64 | 128, 256, 512, 1024; the range ends at 2 · 2.
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
