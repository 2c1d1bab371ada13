//! What is drawn on a chart: curves, bands, intervals open at either end, points, maps, levels.

use super::ink::{Ink, Mark, Stroke};
use super::picture::{Entry, Sample};

/// A curve's name, its places, and how it is drawn.
pub type Curve = (String, Vec<(f64, f64)>, Stroke);

/// Curves by their right-hand ends, the highest first, so that a legend lists them as they lie; those in grey come before all others, which
/// are drawn over them.
pub fn from_the_top(mut lines: Vec<Curve>) -> impl Iterator<Item = Layer> {
    let last = |points: &[(f64, f64)]| points.last().map_or(f64::NEG_INFINITY, |point| point.1);
    lines.sort_by(|a, b| {
        let grey_first = (a.2.ink != Ink::Faint).cmp(&(b.2.ink != Ink::Faint));
        grey_first.then(last(&b.1).total_cmp(&last(&a.1)))
    });
    lines
        .into_iter()
        .map(|(name, points, stroke)| Layer::line(name, points, stroke))
}

/// Something that is drawn. What has a name stands in the legend.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A curve through points; what is no number is a gap in it.
    Line {
        /// Name of the curve in the legend; empty for none.
        name: String,
        /// Points (x, y) of the curve, in their order.
        points: Vec<(f64, f64)>,
        /// Colour, dashes, width and marks of the curve.
        stroke: Stroke,
    },
    /// The area between (x, low, high).
    Band {
        /// The lower and upper edge of the area, as (x, low, high).
        points: Vec<(f64, f64, f64)>,
        /// Colour of the area.
        ink: Ink,
    },
    /// What lies between two ends at x; an end that is not there is an arrow.
    Interval {
        /// Name of the interval in the legend; empty for none.
        name: String,
        /// Place of the interval on the horizontal axis.
        x: f64,
        /// Lower end of the interval on the vertical axis; `None` is drawn as an arrow.
        low: Option<f64>,
        /// Upper end of the interval on the vertical axis; `None` is drawn as an arrow.
        high: Option<f64>,
        /// Colour of the interval and its mark.
        ink: Ink,
        /// Mark in the middle of an interval with two ends.
        mark: Mark,
    },
    /// Points that no line joins, each with a mark.
    Dots {
        /// Name of the points in the legend; empty for none.
        name: String,
        /// Places (x, y) of the points.
        points: Vec<(f64, f64)>,
        /// Colour of the points.
        ink: Ink,
        /// Mark at each of the points.
        mark: Mark,
    },
    /// Rows of shades: the n-th lies between n and n + 1 upwards.
    Cells {
        /// What the scale is called, and what its ends and its middle stand for.
        scale: (String, [String; 3]),
        /// Where the cells of a row begin, and the last one ends.
        edges: Vec<f64>,
        /// Name and shares, from 0 to 1, of each row.
        rows: Vec<(String, Vec<f64>)>,
    },
    /// A dashed horizontal line, and what is written on it.
    Level(f64, String),
    /// A dashed vertical line, and what is written on it.
    At(f64, String),
}

impl Layer {
    /// A curve through `points`, drawn with `stroke`; `name` stands in the legend.
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>, stroke: Stroke) -> Self {
        Self::Line {
            name: name.into(),
            points,
            stroke,
        }
    }

    /// What lies between two ends at x, as a bar in a curve's colour: the curve has the mark, wherever in the bar it lies.
    pub fn bar(x: f64, [low, high]: [f64; 2], stroke: Stroke) -> Option<Self> {
        let line = || Self::line("", vec![(x, low), (x, high)], Stroke::plain(stroke.ink, 1.5));
        (low < high && stroke.ink != Ink::Faint).then(line)
    }

    /// The places that the axes have to hold.
    pub(super) fn places(&self) -> Vec<(f64, f64)> {
        const ANY: f64 = f64::NAN;
        match self {
            Self::Line { points, .. } | Self::Dots { points, .. } => points.clone(),
            Self::Band { .. } => Vec::new(),
            Self::Interval { x, low, high, .. } => {
                vec![(*x, low.unwrap_or(ANY)), (*x, high.unwrap_or(ANY))]
            }
            Self::Cells { edges, rows, .. } => {
                let ends = edges.iter().map(|edge| (*edge, ANY));
                ends.chain([(ANY, 0.0), (ANY, rows.len() as f64)]).collect()
            }
            Self::Level(y, _) => vec![(ANY, *y)],
            Self::At(x, _) => vec![(*x, ANY)],
        }
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        let (text, sample) = match self {
            Self::Line { name, stroke, .. } => (name, Sample::Line(*stroke)),
            Self::Interval { name, ink, mark, .. } | Self::Dots { name, ink, mark, .. } => {
                (name, Sample::Point(*ink, *mark))
            }
            Self::Cells { scale, .. } => (&scale.0, Sample::Scale(scale.1.clone())),
            Self::Band { .. } | Self::Level(..) | Self::At(..) => return None,
        };
        Some(Entry {
            text: text.clone(),
            sample,
        })
    }
}

/// Indices of at most `most` of `count` things, the first and the last among them, evenly spread.
pub fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let shown = count.min(most);
    (0..shown).map(move |rank| match shown {
        0 | 1 => 0,
        shown => rank * (count - 1) / (shown - 1),
    })
}
