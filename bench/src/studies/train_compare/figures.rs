//! The pictures of a comparison.

use super::arm::{ArmReport, Bucket, Measure, Point};
use super::findings::{COURSE, span};
use super::report::ComparisonReport;
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer, aside, middle};
use crate::kit::format::position;
use crate::kit::ink::{Ink, MOST, Mark, Stroke};
use crate::kit::picture::Drawing;
use crate::studies::estimate::Estimate;
use crate::studies::results::Picture;
use std::collections::BTreeSet;

/// How far the bars of neighbouring arms stand apart, as a share of an octave of positions.
const APART: f64 = 0.07;

const BEFORE: Stroke = Stroke {
    dash: "2 3",
    ..Stroke::plain(Ink::Grey, 2.0)
};

/// What is drawn upwards.
#[derive(Clone, Copy)]
struct Quantity<T> {
    /// Name of the axis.
    name: &'static str,
    /// Whether 0 is always shown.
    zero: bool,
    /// The quantity of a bucket or an evaluation; `None` where it was not measured.
    of: fn(&T) -> Option<&Estimate>,
}

const LOSS: &str = "loss (nats per token)";
const EXCESS: &str = "loss over an emptied state (nats)";
const BARS: &str = "The bars are 95 % intervals over seeds (Student's t).";

/// Every picture that the numbers allow.
pub fn pictures(report: &ComparisonReport) -> Vec<Picture> {
    let by_position = by_position(report).into_iter().flatten();
    by_position.chain(by_tokens(report)).collect()
}

fn by_position(report: &ComparisonReport) -> [Option<Picture>; 2] {
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
    [
        positions(report, loss, before)
            .map(|drawn| Picture::new("loss-by-position", "Loss against position", loss_caption, drawn)),
        positions(report, excess, None).map(|drawn| {
            Picture::new(
                "excess-by-position",
                "What the old state costs",
                excess_caption,
                drawn,
            )
        }),
    ]
}

fn by_tokens(report: &ComparisonReport) -> Vec<Picture> {
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
    let drawn = |(name, title, of, quantity)| {
        let drawing = course(report, quantity)?;
        Some(Picture::new(name, title, format!("{of}. {BARS}"), drawing))
    };
    all.into_iter().filter_map(drawn).collect()
}

/// The curve of an arm and its bars, moved a little so that those of several arms are seen.
fn layers(name: &str, points: &[(f64, &Estimate)], index: usize) -> Vec<Layer> {
    let stroke = Stroke::nth(index);
    let line = points.iter().map(|(x, estimate)| (*x, estimate.mean)).collect();
    let bars = points.iter().filter_map(|(x, estimate)| {
        let [low, high] = estimate.interval?;
        (index < MOST).then(|| Layer::Interval {
            name: name.into(),
            x: *x,
            low: Some(low),
            high: Some(high),
            ink: stroke.ink,
            mark: Mark::nth(index),
        })
    });
    std::iter::once(Layer::line(name, line, stroke))
        .chain(bars)
        .collect()
}

/// The axis of a quantity.
fn upwards<T>(quantity: &Quantity<T>) -> Axis {
    let axis = Axis::new(quantity.name, Scale::Linear);
    if quantity.zero { axis.with(0.0) } else { axis }
}

/// Something against position, after the last step; `before` is drawn as well.
fn positions(
    report: &ComparisonReport,
    quantity: Quantity<Bucket>,
    before: Option<&Point>,
) -> Option<Drawing> {
    let of = quantity.of;
    let mut buckets = report.arms.iter().flat_map(|arm| &arm.curve);
    if !buckets.all(|bucket| of(bucket).is_some()) {
        return None;
    }
    let lengths: BTreeSet<u64> = report.arms.iter().map(|arm| arm.train_length).collect();
    let at = |length: u64| Layer::At(length as f64, format!("T = {}", position(length as f64)));
    let mut all: Vec<Layer> = lengths.into_iter().map(at).collect();
    if let Some(point) = before {
        let middles = report.ranges.iter().map(|&(start, end)| middle(start, end));
        let points = middles.zip(&point.losses).map(|(x, loss)| (x, loss.mean));
        all.push(Layer::line("before", points.collect(), BEFORE));
    }
    for (index, arm) in report.arms.iter().enumerate() {
        let moved = (APART * aside(index, report.arms.len())).exp2();
        let points = arm
            .curve
            .iter()
            .filter_map(|bucket| Some((middle(bucket.start, bucket.end) * moved, of(bucket)?)));
        all.extend(layers(&arm.name, &points.collect::<Vec<_>>(), index));
    }
    drawn(Axis::positions(), &quantity, all)
}

/// Something against the tokens trained on.
fn course(report: &ComparisonReport, quantity: Quantity<Point>) -> Option<Drawing> {
    let of = quantity.of;
    let points = || report.arms.iter().flat_map(|arm| arm.trained());
    let few = report.arms.iter().any(|arm| arm.trained().count() < COURSE);
    if few || points().any(|point| of(point).is_none()) {
        return None;
    }
    let thousands = |point: &Point| point.tokens as f64 / 1000.0;
    let last = points().map(thousands).fold(0.0, f64::max);
    let mut all = Vec::new();
    for (index, arm) in report.arms.iter().enumerate() {
        let moved = 0.004 * last * aside(index, report.arms.len());
        let points = arm
            .trained()
            .filter_map(|point| Some((thousands(point) + moved, of(point)?)));
        all.extend(layers(&arm.name, &points.collect::<Vec<_>>(), index));
    }
    let x = Axis::new("thousands of tokens trained on", Scale::Linear).with(0.0);
    drawn(x, &quantity, all)
}

/// The chart; nothing where no number is finite.
fn drawn<T>(x: Axis, quantity: &Quantity<T>, mut layers: Vec<Layer>) -> Option<Drawing> {
    let has_any = layers.iter().any(|layer| match layer {
        Layer::Line { points, .. } => points.iter().any(|point| point.1.is_finite()),
        _ => false,
    });
    if quantity.zero {
        layers.push(Layer::Level(0.0, String::new()));
    }
    let chart = Chart {
        x,
        y: upwards(quantity),
        exponential: None,
        layers,
    };
    has_any.then(|| chart.draw())
}
