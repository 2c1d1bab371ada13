//! Pictures of loss against position.

use super::super::result::RunResult;
use super::{Placed, Section, octaves, placed, slug};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer};
use crate::kit::format::position;
use crate::kit::ink::{Ink, Mark, Stroke};
use crate::kit::ticks::{extent, widened};
use crate::studies::results::distinct;

/// Loss against position, a picture for each state size with a line for each training length; all on the same axes.
pub(super) fn losses(task: &str, runs: &[&RunResult]) -> Vec<Placed> {
    let runs: Vec<&RunResult> = runs
        .iter()
        .copied()
        .filter(|run| run.forgetting.is_some())
        .collect();
    let buckets = || {
        runs.iter()
            .filter_map(|run| run.forgetting.as_ref())
            .flat_map(|forgetting| &forgetting.buckets)
    };
    let (low, high) = widened(extent(buckets().filter_map(|bucket| bucket.loss)), 0.05);
    let Some((first, last)) = octaves(buckets().map(|bucket| bucket.end as f64)) else {
        return Vec::new();
    };
    let lengths = distinct(runs.iter().map(|run| run.train_length));
    let picture = |size: u64| {
        let of_size: Vec<&RunResult> = runs.iter().copied().filter(|run| run.elements == size).collect();
        let chart = Chart {
            x: Axis::positions().range(first, last),
            y: Axis::new("loss (nats per token)", Scale::Linear).range(low, high),
            exponential: None,
            layers: of_size.iter().flat_map(|run| layers(run, &lengths)).collect(),
        };
        let title = format!("Task {task}, S = {}", position(size as f64));
        let caption =
            "Mean loss by position, a line for each seed; a dot marks the end of the training length T.";
        let file = format!("loss-{}-s{size}", slug(task));
        placed(&file, Section::Collapse, (title, caption.into()), chart.draw())
    };
    distinct(runs.iter().map(|run| run.elements))
        .into_iter()
        .map(picture)
        .collect()
}

/// A line and the dot at the end of its training length.
fn layers(run: &RunResult, lengths: &[u64]) -> Vec<Layer> {
    let index = lengths
        .iter()
        .position(|length| *length == run.train_length)
        .unwrap_or(0);
    let stroke = Stroke {
        mark: None,
        ..Stroke::nth(index)
    };
    let name = format!("T = {}", position(run.train_length as f64));
    let buckets = run.forgetting.iter().flat_map(|forgetting| &forgetting.buckets);
    let points: Vec<(f64, f64)> = buckets
        .filter_map(|bucket| Some((bucket.end as f64, bucket.loss?)))
        .collect();
    let end: Vec<(f64, f64)> = points
        .iter()
        .copied()
        .filter(|point| point.0 == run.train_length as f64)
        .collect();
    let dots = Layer::Dots {
        name: name.clone(),
        points: end,
        ink: Ink::Series(index),
        mark: Mark::DOT,
    };
    vec![Layer::line(name, points, stroke), dots]
}
