//! Thresholds by state size with the laws fitted to them, and what they tell about the exponent.

use super::super::analysis::{Analysis, UNIT};
use super::super::chart::{Axis, Chart, Entry, Layer, Mark, octaves};
use super::super::fit::Observation;
use super::super::report::Report;
use super::super::threshold::{Quantity, Threshold};
use super::{Picture, Place, WIDE, best_of_each, curve, length_axis, quantity_slug, size_axis, slug, stroke};
use crate::diagnose::report::chart::{GREY, INK, Stroke, short};
use crate::error::ProgramError;
use plotters::style::RGBColor;

/// Seeds stand side by side, not on top of each other.
fn aside(size: f64, seed: usize, seeds: usize) -> f64 {
    size * (0.1 * (seed as f64 - (seeds.max(1) - 1) as f64 / 2.0)).exp2()
}

/// The intervals of an analysis.
pub(super) fn interval_layers(analysis: &Analysis, colour: RGBColor) -> Vec<Layer> {
    let mut seeds: Vec<u64> = analysis
        .thresholds
        .iter()
        .map(|threshold| threshold.seed)
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    let layer = |threshold: &Threshold| {
        let seed = seeds.iter().position(|seed| *seed == threshold.seed).unwrap_or(0);
        let Observation::Within { low, high } = threshold.interval else {
            return None;
        };
        (!threshold.interval.is_empty()).then(|| Layer::Interval {
            x: aside(threshold.elements as f64, seed, seeds.len()),
            low: (low > 0.0).then_some(low),
            high,
            colour,
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
pub(super) fn thresholds(analysis: &Analysis) -> Result<Picture, ProgramError> {
    let (sizes, lengths) = extent(analysis);
    let (laws, symbol) = (&analysis.laws, analysis.quantity.symbol());
    let mut layers = Vec::new();
    if let Some(Some(bootstrap)) = laws.bootstraps.first() {
        let band = bootstrap
            .band
            .iter()
            .map(|(size, range)| (size * UNIT, range.low, range.high));
        let colour = laws.fits.first().map_or(GREY, |fit| stroke(fit.law).colour);
        layers.push(Layer::Band(band.collect(), colour));
    }
    let mut legend = Vec::new();
    for fit in best_of_each(&laws.fits) {
        layers.push(Layer::Line(curve(fit, sizes, (UNIT, 1.0)), stroke(fit.law)));
        let behind = format!("{} ({}), +{:.1}", fit.law, fit.error, laws.behind(fit));
        legend.push(Entry::line(behind, stroke(fit.law)));
    }
    layers.extend(interval_layers(analysis, INK));
    legend.push(Entry::mark("an interval of one seed", Mark::Circle, INK));
    let name = format!("{symbol} (tokens)");
    let chart = Chart {
        size: WIDE,
        x: size_axis(sizes),
        y: length_axis(&name, lengths),
        layers: &layers,
        legend: &legend,
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
    Ok(Picture::new(
        &file,
        Place::Thresholds,
        false,
        (title, caption),
        chart.svg()?,
    ))
}

/// ln L(b) − max ln L of the exponent, for ours and the published thresholds.
pub(super) fn profiles(report: &Report) -> Result<Picture, ProgramError> {
    let (mut layers, mut legend) = (Vec::new(), Vec::new());
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
        layers.push(Layer::Line(profile.curve.clone(), Stroke::nth(index)));
        legend.push(Entry::line(name, Stroke::nth(index)));
    }
    layers.push(Layer::Level(-1.92));
    layers.push(Layer::At(1.0));
    let chart = Chart {
        size: WIDE,
        x: Axis {
            name: "exponent b of T = a S^b",
            logarithmic: false,
            range: (-1.0, 4.0),
            label: short,
        },
        y: Axis {
            name: "ln L(b) − max ln L",
            logarithmic: false,
            range: (-6.0, 0.2),
            label: short,
        },
        layers: &layers,
        legend: &legend,
    };
    let caption = "The 95 % interval of an exponent is where its curve is above the dashed horizontal line at −1.92; b = 1 (vertical) needs the \
                   same number of state elements for each token, b = 0 is a threshold that does not depend on the state. A flat curve \
                   is what points say that do not tell.";
    let words = (
        "What the points tell about the exponent".to_string(),
        caption.to_string(),
    );
    Ok(Picture::new(
        "exponent-profile",
        Place::Thresholds,
        false,
        words,
        chart.svg()?,
    ))
}

fn short_name(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::ForgetLoss => "loss",
        Quantity::ForgetPerplexity => "perplexity",
        Quantity::Recall | Quantity::RecallWilson => "recall",
    }
}
