//! Thresholds by state size with the laws fitted to them, and what they tell about the exponent.

use super::super::analysis::Analysis;
use super::super::report::CapacityReport;
use super::super::threshold::{Quantity, Threshold};
use super::{Placed, Section, law_layers, length_axis, octaves, placed, quantity_slug, size_axis, slug};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer, aside};
use crate::kit::ink::{Ink, Mark, Stroke};
use crate::studies::results::distinct;
use spillway_models::evaluation::laws::Observation;

/// The intervals of an analysis, under one name.
pub(super) fn interval_layers(analysis: &Analysis, name: &str, ink: Ink) -> Vec<Layer> {
    let seeds = distinct(analysis.thresholds.iter().map(|threshold| threshold.seed));
    let layer = |threshold: &Threshold| {
        let seed = seeds.iter().position(|seed| *seed == threshold.seed).unwrap_or(0);
        let Observation::Within { low, high } = threshold.interval else {
            return None;
        };
        (!threshold.interval.is_empty()).then(|| Layer::Interval {
            name: name.into(),
            // Seeds stand side by side, not on top of each other.
            x: threshold.elements as f64 * (0.1 * aside(seed, seeds.len())).exp2(),
            low: (low > 0.0).then_some(low),
            high,
            ink,
            mark: Mark::nth(seed),
        })
    };
    analysis.thresholds.iter().filter_map(layer).collect()
}

/// Sizes and lengths that a picture of an analysis must hold.
fn extent(analysis: &Analysis) -> ((f64, f64), (f64, f64)) {
    let sizes = analysis
        .thresholds
        .iter()
        .map(|threshold| threshold.elements as f64);
    let lengths = analysis
        .thresholds
        .iter()
        .flat_map(|threshold| match threshold.interval {
            Observation::Within { low, high } => [low, high.unwrap_or(0.0)],
            Observation::Exact(value) => [value; 2],
        });
    let tried = analysis.thresholds.iter().flat_map(|threshold| &threshold.trials);
    let tried = tried.map(|trial| trial.length as f64);
    let (low, high) = octaves(sizes).unwrap_or((1.0, 2.0));
    let (short, long) = octaves(lengths.chain(tried)).unwrap_or((1.0, 2.0));
    ((low / 2.0, high * 2.0), (short / 2.0, long * 2.0))
}

/// The intervals of an analysis and its laws.
pub(super) fn thresholds(analysis: &Analysis) -> Placed {
    let (sizes, lengths) = extent(analysis);
    let (laws, symbol) = (&analysis.laws, analysis.quantity.symbol());
    let mut layers = law_layers(laws, sizes);
    layers.extend(interval_layers(analysis, "an interval of one seed", Ink::Text));
    let chart = Chart {
        x: size_axis(sizes),
        y: length_axis(format!("{symbol} (tokens)"), lengths),
        exponential: None,
        layers,
    };
    let caption = format!(
        "Each bar is the interval that the lengths tried leave for one state size and seed; an arrow is an end that was not reached, \
         a bar with two caps has a mark in its middle. Lines: the better error model of each law, with the {} by which it is behind the best; \
         band: 95 % of the bootstrap resamples of the best.",
        laws.criterion_name(),
    );
    let title = format!("{}, task {}", analysis.quantity, analysis.task);
    let file = format!(
        "threshold-{}-{}",
        slug(&analysis.task),
        quantity_slug(analysis.quantity)
    );
    placed(&file, Section::Thresholds, (title, caption), chart.draw())
}

/// ln L(b) − max ln L of the exponent, for ours and the published thresholds.
pub(super) fn profiles(report: &CapacityReport) -> Placed {
    let mut layers = vec![Layer::Level(-1.92, "95 %".into()), Layer::At(1.0, "b = 1".into())];
    let ours = report.analyses_of_laws().map(|analysis| {
        let name = format!("{}, {}", analysis.task, short_name(analysis.quantity));
        (name, &analysis.laws)
    });
    let published = [
        ("published T_forget, (T/2, T]", report.published_forget()),
        ("published T_recall", report.published_recall()),
    ];
    let published = published
        .into_iter()
        .filter_map(|(name, published)| Some((name.to_string(), &published?.laws)));
    for (index, (name, laws)) in published.chain(ours).enumerate() {
        let Some(profile) = &laws.profile else { continue };
        let stroke = Stroke {
            mark: None,
            ..Stroke::nth(index)
        };
        layers.push(Layer::line(name, profile.curve.clone(), stroke));
    }
    let chart = Chart {
        x: Axis::new("exponent b of T = a S^b", Scale::Linear).range(-1.0, 4.0),
        y: Axis::new("ln L(b) − max ln L", Scale::Linear).range(-6.0, 0.2),
        exponential: None,
        layers,
    };
    let caption = "The 95 % interval of an exponent is where its curve is above the dashed horizontal line at −1.92; b = 1 (vertical) needs the \
                   same number of state elements for each token, b = 0 is a threshold that does not depend on the state. A flat curve \
                   is what points say that do not tell.";
    let words = (
        "What the points tell about the exponent".to_string(),
        caption.to_string(),
    );
    placed("exponent-profile", Section::Thresholds, words, chart.draw())
}

fn short_name(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::ForgetLoss => "loss",
        Quantity::ForgetPerplexity => "perplexity",
        Quantity::Recall | Quantity::RecallWilson => "recall",
    }
}
