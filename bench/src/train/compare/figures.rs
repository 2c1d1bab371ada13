//! The pictures of a comparison.

use super::estimate::Estimate;
use super::findings::{COURSE, span};
use super::report::{ArmReport, Bucket, Measure, Point, Report};
use crate::capacity::chart::{Axis, Chart, Entry, Layer, Mark};
use crate::diagnose::report::chart::{GREY, Stroke, short};
use crate::diagnose::report::figures::Figure;
use crate::diagnose::report::format::position;
use crate::error::ProgramError;
use std::collections::BTreeSet;

const SIZE: (u32, u32) = (920, 420);
/// How far the bars of neighbouring arms stand apart, as a share of an octave of positions.
const APART: f64 = 0.07;

const BEFORE: Stroke = Stroke {
    colour: GREY,
    dash: Some((2, 3)),
    width: 2,
};

/// A picture and the file it is written to.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Name of the file without its ending.
    pub name: &'static str,
    /// The picture.
    pub figure: Figure,
}

/// What is drawn upwards.
#[derive(Clone, Copy)]
struct Quantity<T> {
    /// Name of the axis.
    name: &'static str,
    /// Whether 0 is always shown.
    zero: bool,
    /// Its value.
    of: fn(&T) -> Option<&Estimate>,
}

const LOSS: &str = "loss (nats per token)";
const EXCESS: &str = "loss over an emptied state (nats)";
const BARS: &str = "The bars are 95 % intervals over seeds (Student's t).";

/// Every picture that the numbers allow.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn pictures(report: &Report) -> Result<Vec<Picture>, ProgramError> {
    let [loss, excess] = by_position(report)?;
    let courses = by_tokens(report)?;
    Ok([loss, excess].into_iter().flatten().chain(courses).collect())
}

fn by_position(report: &Report) -> Result<[Option<Picture>; 2], ProgramError> {
    let before = report.arms.first().and_then(ArmReport::before);
    let loss = Quantity {
        name: LOSS,
        zero: false,
        of: |bucket: &Bucket| Some(&bucket.loss),
    };
    let excess = Quantity {
        name: EXCESS,
        zero: true,
        of: |bucket: &Bucket| bucket.excess.as_ref(),
    };
    let dotted = match before {
        Some(_) => ", the dotted curve is the model that training began with",
        None => "",
    };
    let loss_caption = format!(
        "Mean loss after the last step in buckets of position, the state carried from an empty one. {BARS} The dashed vertical lines are the \
         training lengths{dotted}."
    );
    let excess_caption = format!(
        "The same less the loss of the same model at the same tokens with its state emptied every T tokens: what text far back costs (above 0) \
         or is worth (below). {BARS}"
    );
    Ok([
        positions(report, loss, before)?
            .map(|svg| picture("loss-by-position", "Loss against position", loss_caption, svg)),
        positions(report, excess, None)?.map(|svg| {
            picture(
                "excess-by-position",
                "What the old state costs",
                excess_caption,
                svg,
            )
        }),
    ])
}

fn by_tokens(report: &Report) -> Result<Vec<Picture>, ProgramError> {
    let far = report.ranges.last().map_or(String::new(), |range| span(*range));
    let all: [(&str, &str, String, Quantity<Point>); 3] = [
        (
            "inside-by-tokens",
            "Loss inside the training length, in the course of training",
            "Inside each arm's own training length".into(),
            Quantity {
                name: LOSS,
                zero: false,
                of: |point| Some(&point.inside),
            },
        ),
        (
            "far-by-tokens",
            "Loss far beyond the training length, in the course of training",
            format!("At positions {far}"),
            Quantity {
                name: LOSS,
                zero: false,
                of: |point| Measure::Far.of(point),
            },
        ),
        (
            "excess-by-tokens",
            "What the old state costs, in the course of training",
            format!("At positions {far}, against a state emptied every T tokens"),
            Quantity {
                name: EXCESS,
                zero: true,
                of: |point| Measure::Excess.of(point),
            },
        ),
    ];
    let mut pictures = Vec::new();
    for (name, title, of, quantity) in all {
        if let Some(svg) = course(report, quantity)? {
            pictures.push(picture(name, title, format!("{of}. {BARS}"), svg));
        }
    }
    Ok(pictures)
}

fn picture(name: &'static str, title: &str, caption: String, svg: String) -> Picture {
    Picture {
        name,
        figure: Figure {
            title: title.into(),
            caption,
            svg,
            legend: Vec::new(),
        },
    }
}

/// A curve and its bars, moved a little so that those of several arms are seen.
fn layers(points: &[(f64, &Estimate)], stroke: Stroke, mark: Mark) -> Vec<Layer> {
    let line = points.iter().map(|(x, estimate)| (*x, estimate.mean)).collect();
    let bars = points.iter().filter_map(|(x, estimate)| {
        let [low, high] = estimate.interval?;
        Some(Layer::Interval {
            x: *x,
            low: Some(low),
            high: Some(high),
            colour: stroke.colour,
            mark,
        })
    });
    std::iter::once(Layer::Line(line, stroke)).chain(bars).collect()
}

/// The largest and the smallest of what is drawn, with a margin; `None` where nothing is finite.
fn range<'a>(estimates: impl Iterator<Item = &'a Estimate>, zero: bool) -> Option<(f64, f64)> {
    let ends = estimates.flat_map(|estimate| {
        [estimate.mean]
            .into_iter()
            .chain(estimate.interval.into_iter().flatten())
    });
    let ends = ends.filter(|value| value.is_finite()).chain(zero.then_some(0.0));
    let (low, high) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let margin = 0.05 * (high - low).max(0.1);
    (low <= high).then_some((low - margin, high + margin))
}

/// Where a range of positions is drawn.
fn middle(start: u64, end: u64) -> f64 {
    match start {
        0 => end as f64 / 2.0,
        start => (start as f64 * end as f64).sqrt(),
    }
}

fn legend(report: &Report) -> Vec<Entry> {
    let line = |(index, arm): (usize, &ArmReport)| Entry::line(&arm.name, Stroke::nth(index));
    report.arms.iter().enumerate().map(line).collect()
}

/// −1.5, −0.5, 0.5, 1.5 for the four of four.
fn aside(index: usize, of: usize) -> f64 {
    index as f64 - (of as f64 - 1.0) / 2.0
}

/// Something against position, after the last step; `before` is drawn as well.
fn positions(
    report: &Report,
    quantity: Quantity<Bucket>,
    before: Option<&Point>,
) -> Result<Option<String>, ProgramError> {
    let of = quantity.of;
    let buckets = || report.arms.iter().flat_map(|arm| &arm.curve);
    let drawn = buckets()
        .filter_map(of)
        .chain(before.iter().flat_map(|point| &point.losses));
    let (Some(heights), true) = (
        range(drawn, quantity.zero),
        buckets().all(|bucket| of(bucket).is_some()),
    ) else {
        return Ok(None);
    };
    let middles = buckets().map(|bucket| middle(bucket.start, bucket.end));
    let (first, last) = middles.fold((f64::INFINITY, 1.0), |(low, high): (f64, f64), x| {
        (low.min(x), high.max(x))
    });
    let lengths: BTreeSet<u64> = report.arms.iter().map(|arm| arm.train_length).collect();
    let mut all: Vec<Layer> = lengths
        .into_iter()
        .map(|length| Layer::At(length as f64))
        .collect();
    let mut entries = legend(report);
    if let Some(point) = before {
        let middles = report.ranges.iter().map(|&(start, end)| middle(start, end));
        all.push(Layer::Line(
            middles
                .zip(&point.losses)
                .map(|(x, loss)| (x, loss.mean))
                .collect(),
            BEFORE,
        ));
        entries.push(Entry::line("before", BEFORE));
    }
    for (index, arm) in report.arms.iter().enumerate() {
        let moved = (APART * aside(index, report.arms.len())).exp2();
        let points = arm
            .curve
            .iter()
            .filter_map(|bucket| Some((middle(bucket.start, bucket.end) * moved, of(bucket)?)));
        all.extend(layers(
            &points.collect::<Vec<_>>(),
            Stroke::nth(index),
            Mark::nth(index),
        ));
    }
    if quantity.zero {
        all.push(Layer::Level(0.0));
    }
    let x = Axis {
        name: "position (tokens)",
        logarithmic: true,
        range: (first / 1.5, last * 1.5),
        label: position,
    };
    draw(x, (quantity.name, heights), &all, &entries).map(Some)
}

/// Something against the tokens trained on.
fn course(report: &Report, quantity: Quantity<Point>) -> Result<Option<String>, ProgramError> {
    let of = quantity.of;
    let points = || report.arms.iter().flat_map(|arm| arm.trained());
    let few = report.arms.iter().any(|arm| arm.trained().count() < COURSE);
    let heights = range(points().filter_map(of), quantity.zero);
    let (Some(heights), false) = (heights, few || points().any(|point| of(point).is_none())) else {
        return Ok(None);
    };
    let thousands = |point: &Point| point.tokens as f64 / 1000.0;
    let last = points().map(thousands).fold(0.0, f64::max);
    let mut all = Vec::new();
    for (index, arm) in report.arms.iter().enumerate() {
        let moved = 0.004 * last * aside(index, report.arms.len());
        let points = arm
            .trained()
            .filter_map(|point| Some((thousands(point) + moved, of(point)?)));
        all.extend(layers(
            &points.collect::<Vec<_>>(),
            Stroke::nth(index),
            Mark::nth(index),
        ));
    }
    if quantity.zero {
        all.push(Layer::Level(0.0));
    }
    let x = Axis {
        name: "thousands of tokens trained on",
        logarithmic: false,
        range: (-0.02 * last, 1.02 * last),
        label: short,
    };
    draw(x, (quantity.name, heights), &all, &legend(report)).map(Some)
}

fn draw(
    x: Axis<'_>,
    (name, range): (&str, (f64, f64)),
    layers: &[Layer],
    legend: &[Entry],
) -> Result<String, ProgramError> {
    let y = Axis {
        name,
        logarithmic: false,
        range,
        label: short,
    };
    let size = SIZE;
    Chart {
        size,
        x,
        y,
        layers,
        legend,
    }
    .svg()
}
