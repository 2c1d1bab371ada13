//! Loss against position.

use super::super::chart::{Axis, Chart, Entry, Layer, Mark, octaves};
use super::super::maps;
use super::super::result::RunResult;
use super::{Picture, Place, length_axis, slug};
use crate::diagnose::report::chart::{DASHES, PALETTE, Stroke, short};
use crate::diagnose::report::format::position;
use crate::error::ProgramError;

const SIZE: (u32, u32) = (680, 340);

/// Loss against position, a picture for each state size with a line for each training length.
pub(super) fn losses(task: &str, runs: &[&RunResult]) -> Result<Vec<Picture>, ProgramError> {
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
    let losses = buckets().filter_map(|bucket| bucket.loss);
    let (low, high) = losses.fold((f64::INFINITY, 0.0f64), |(low, high), loss| {
        (low.min(loss), high.max(loss))
    });
    let Some((first, last)) = octaves(buckets().map(|bucket| bucket.end as f64)) else {
        return Ok(Vec::new());
    };
    let margin = 0.05 * (high - low).max(0.1);
    let lengths = maps::distinct(&runs, |run| run.train_length);
    let mut pictures = Vec::new();
    for size in maps::distinct(&runs, |run| run.elements) {
        let (mut layers, mut legend) = (Vec::new(), Vec::new());
        for (index, length) in lengths.iter().enumerate() {
            let colour = PALETTE[index % PALETTE.len()];
            let stroke = Stroke {
                colour,
                dash: DASHES[index % DASHES.len()],
                width: 2,
            };
            let of_length = runs
                .iter()
                .filter(|run| run.elements == size && run.train_length == *length);
            let mut any = false;
            for forgetting in of_length.filter_map(|run| run.forgetting.as_ref()) {
                any = true;
                let points = forgetting
                    .buckets
                    .iter()
                    .filter_map(|bucket| Some((bucket.end as f64, bucket.loss?)));
                let points: Vec<(f64, f64)> = points.collect();
                let at_length = points.iter().copied().filter(|point| point.0 == *length as f64);
                layers.push(Layer::Dots(at_length.collect(), colour, Mark::Circle));
                layers.push(Layer::Line(points, stroke));
            }
            if any {
                legend.push(Entry::line(format!("T = {}", position(*length as f64)), stroke));
            }
        }
        let chart = Chart {
            size: SIZE,
            x: Axis {
                name: "position (tokens)",
                ..length_axis("", (first, last))
            },
            y: Axis {
                name: "loss (nats per token)",
                logarithmic: false,
                range: (low - margin, high + margin),
                label: short,
            },
            layers: &layers,
            legend: &legend,
        };
        let title = format!("Task {task}, S = {}", position(size as f64));
        let caption =
            "Mean loss by position, a line for each seed; a dot marks the end of the training length."
                .to_string();
        let file = format!("loss-{}-s{size}", slug(task));
        pictures.push(Picture::new(
            &file,
            Place::Collapse,
            true,
            (title, caption),
            chart.svg()?,
        ));
    }
    Ok(pictures)
}
