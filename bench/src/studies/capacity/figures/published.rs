//! The published thresholds, alone and beside ours.

use super::super::analysis::{Analysis, UNIT};
use super::super::report::{CapacityReport, Published};
use super::super::threshold::Quantity;
use super::thresholds::interval_layers;
use super::{Placed, Section, curve, length_axis, octaves, placed, size_axis, stroke};
use crate::kit::chart::{Chart, Layer};
use crate::kit::ink::{Ink, Mark, Stroke};
use spillway_models::evaluation::laws::{Law, Observation, published};

/// State elements and tokens in the units of the published laws.
const UNITS: (f64, f64) = (1e6, 1024.0);
/// Lengths that a picture of published thresholds holds beside ours, in tokens.
const LENGTHS: (f64, f64) = (8.0, 512.0 * 1024.0);
const LARGEST: f64 = 32.0 * 1024.0 * 1024.0;

/// What there is to draw of a quantity that was published.
struct Subject<'a> {
    /// Name of the file.
    file: &'a str,
    title: &'a str,
    /// What is known of the published points.
    known: &'a str,
    /// Legend of their marks.
    mark: &'a str,
    published: Option<&'a Published>,
    /// The law that was stated for them, and what it is called here.
    stated: (Law, &'a str),
}

impl<'a> Subject<'a> {
    fn of(report: &'a CapacityReport, quantity: Quantity) -> Self {
        match quantity.is_forget() {
            true => Self {
                file: "thresholds-beside-published",
                title: "Beside the published thresholds",
                known: "T_forget by perplexity beside the published thresholds, each known to a factor of two",
                mark: "published, (T/2, T]",
                published: report.published_forget(),
                stated: (Law::Linear, "published, line"),
            },
            false => Self {
                file: "recall-beside-published",
                title: "Beside the published recall lengths",
                known: "T_recall beside the published recall lengths, taken as exact. The tasks differ: five digits among eight ids of filler \
                        here, a passkey in English sentences there",
                mark: "published",
                published: report.published_recall(),
                stated: (Law::Exponential, "published, exponential"),
            },
        }
    }
}

/// The colour of what was published.
const PUBLISHED: Ink = Ink::Series(0);

/// Ours and the published thresholds on the same axes, with the power law of each drawn through all of them.
pub(super) fn beside(report: &CapacityReport, quantity: Quantity) -> Placed {
    let of_quantity = |analysis: &&Analysis| analysis.quantity == quantity;
    let ours: Vec<&Analysis> = report.analyses.iter().filter(of_quantity).collect();
    let sizes = ours.iter().flat_map(|analysis| analysis.sizes());
    let (smallest, _) = octaves(sizes.map(|size| size as f64)).unwrap_or((1e6, 2e6));
    let sizes = (smallest / 2.0, LARGEST);
    let subject = Subject::of(report, quantity);
    let mut layers = subject.published.map_or(Vec::new(), |published| {
        published_layers((published, &subject), sizes)
    });
    for (index, analysis) in ours.iter().enumerate() {
        let stroke = Stroke {
            dash: "",
            mark: None,
            ..Stroke::nth(1 + index)
        };
        let fits = &analysis.laws.fits;
        if let Some(power) = fits.iter().find(|fit| fit.law == Law::Power) {
            let name = format!("{}, power law", analysis.task);
            layers.push(Layer::line(name, curve(power, sizes, (UNIT, 1.0)), stroke));
        }
        layers.extend(interval_layers(
            analysis,
            &format!("{}, intervals", analysis.task),
            stroke.ink,
        ));
    }
    let chart = Chart {
        x: size_axis(sizes),
        y: length_axis(format!("{} (tokens)", quantity.symbol()), LENGTHS),
        exponential: None,
        layers,
    };
    let caption = format!(
        "{}. Lines beyond their own points are extrapolations: they show how far apart the laws come, not where other models lie. The band \
         is that of the published power law. Sizes are counted alike but for the short convolutions, which the published sizes include.",
        subject.known
    );
    placed(
        subject.file,
        Section::Thresholds,
        (subject.title.into(), caption),
        chart.draw(),
    )
}

/// The published points, the power law through them with its band, and the law that was stated for them.
fn published_layers((published, subject): (&Published, &Subject<'_>), sizes: (f64, f64)) -> Vec<Layer> {
    let mut layers = Vec::new();
    let laws = &published.laws;
    let solid = Stroke::plain(PUBLISHED, 2.0);
    let power = laws.fits.iter().position(|fit| fit.law == Law::Power);
    if let Some(index) = power {
        if let Some(Some(bootstrap)) = laws.bootstraps.get(index) {
            let (size, length) = UNITS;
            let band = bootstrap.band.iter();
            let band = band.map(|(at, range)| (size * at, length * range.low, length * range.high));
            layers.push(Layer::Band {
                points: band.collect(),
                ink: PUBLISHED,
            });
        }
        layers.push(Layer::line(
            "published, power law",
            curve(&laws.fits[index], sizes, UNITS),
            solid,
        ));
    }
    let (stated, name) = subject.stated;
    if let Some(fit) = laws.fits.iter().find(|fit| fit.law == stated) {
        let dashed = Stroke { dash: "7 4", ..solid };
        layers.push(Layer::line(name, curve(fit, sizes, UNITS), dashed));
    }
    let points = laws.points.iter();
    layers.extend(points.map(|point| published_interval(subject.mark, point.size, point.length)));
    layers
}

fn published_interval(name: &str, size: f64, length: Observation) -> Layer {
    let (low, high) = match length {
        Observation::Exact(value) => (value, Some(value)),
        Observation::Within { low, high } => (low, high),
    };
    Layer::Interval {
        name: name.into(),
        x: UNITS.0 * size,
        low: (low > 0.0).then_some(UNITS.1 * low),
        high: high.map(|high| UNITS.1 * high),
        ink: PUBLISHED,
        mark: Mark::TRIANGLE,
    }
}

/// The published points of a quantity with the laws of each way to take them.
pub(super) fn laws(report: &CapacityReport, is_forget: bool) -> Placed {
    let sets = report.published.iter().filter(|set| set.forget == is_forget);
    let (name, symbol, lengths) = match is_forget {
        true => ("published-forget", "T_forget", &published::FORGET),
        false => ("published-recall", "T_recall", &published::RECALL),
    };
    let (sizes, tokens) = ((512.0 * 1024.0, 32.0 * 1024.0 * 1024.0), (256.0, 1024.0 * 1024.0));
    let mut layers = Vec::new();
    for (index, set) in sets.enumerate() {
        let Some(best) = set.laws.fits.first() else {
            continue;
        };
        let others = set.laws.fits.iter().find(|fit| fit.law != best.law);
        for fit in std::iter::once(best).chain(others) {
            let stroke = Stroke {
                dash: Stroke::nth(index).dash,
                ..stroke(fit.law)
            };
            let name = format!("{}, {}", fit.law, ["six", "five", "intervals"][index % 3]);
            layers.push(Layer::line(name, curve(fit, sizes, UNITS), stroke));
        }
    }
    let mark = format!("published {symbol}");
    for (&size, &length) in published::SIZES.iter().zip(lengths).skip(1) {
        if is_forget {
            layers.push(published_interval("", size, Observation::halved(length)));
        }
        layers.push(Layer::Dots {
            name: mark.clone(),
            points: vec![(UNITS.0 * size, UNITS.1 * length)],
            ink: Ink::Text,
            mark: Mark::DOT,
        });
    }
    let chart = Chart {
        x: size_axis(sizes),
        y: length_axis(format!("{symbol} (tokens)"), tokens),
        exponential: None,
        layers,
    };
    let caption = "The two best laws of each way to take the published points: all six with the artificial (0, 0), which logarithmic axes do not \
                   show; the five models; for T_forget the five as the intervals (T/2, T] that were tried. Laws that look alike among the points \
                   part below and above them.";
    let words = (
        format!("The published {symbol}, fitted once more"),
        caption.to_string(),
    );
    placed(name, Section::Published, words, chart.draw())
}
