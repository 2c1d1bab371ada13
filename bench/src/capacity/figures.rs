//! Which pictures there are.

use super::analysis::{Analysis, UNIT};
use super::chart::{Axis, Chart, Entry, Layer, Mark, octaves};
use super::fit::{Fit, Law, Observation, published};
use super::maps;
use super::report::{Published, Report};
use super::result::RunResult;
use super::threshold::Quantity;
use crate::diagnose::report::chart::{DASHES, GREY, INK, PALETTE, Stroke, short};
use crate::diagnose::report::figures::Figure;
use crate::diagnose::report::format::position;
use crate::error::ProgramError;
use plotters::style::RGBColor;

const WIDE: (u32, u32) = (880, 420);
const HALF: (u32, u32) = (680, 340);
/// Points of a drawn law.
const STEPS: usize = 160;
/// Tokens in a unit of the published lengths.
const KILO: f64 = 1024.0;

/// Where a picture belongs on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Thresholds, alone and beside the published ones.
    Thresholds,
    /// Losses and collapse ratios.
    Collapse,
    /// Passkeys.
    Recall,
    /// The published points.
    Published,
}

/// A picture and the file it is written to.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Name of the file without its ending.
    pub name: String,
    /// Where it belongs.
    pub place: Place,
    /// Whether two stand side by side.
    pub small: bool,
    /// The picture.
    pub figure: Figure,
}

impl Picture {
    /// A picture without a legend of the page's.
    pub fn new(
        name: &str,
        place: Place,
        small: bool,
        (title, caption): (String, String),
        svg: String,
    ) -> Self {
        Self {
            name: name.into(),
            place,
            small,
            figure: Figure {
                title,
                caption,
                svg,
                legend: Vec::new(),
            },
        }
    }
}

/// Every picture that the results allow.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn pictures(report: &Report) -> Result<Vec<Picture>, ProgramError> {
    let mut pictures = Vec::new();
    let forget = || {
        report
            .analyses
            .iter()
            .filter(|analysis| analysis.quantity.is_forget())
    };
    for analysis in report
        .analyses
        .iter()
        .filter(|analysis| analysis.quantity != Quantity::RecallWilson)
    {
        pictures.push(thresholds(analysis)?);
    }
    if forget().next().is_some() {
        pictures.push(beside_published(report)?);
        pictures.push(profiles(report)?);
    }
    for task in &report.setting.tasks {
        let runs: Vec<&RunResult> = report.runs.iter().filter(|run| run.task == task.name).collect();
        pictures.extend(losses(&task.name, &runs)?);
        pictures.extend(maps::collapse(&task.name, &runs, report.setting.collapse_ratio)?);
        pictures.extend(maps::recall(&task.name, &runs)?);
    }
    for (name, forget, lengths) in [
        ("published-forget", true, &published::FORGET),
        ("published-recall", false, &published::RECALL),
    ] {
        let sets = report.published.iter().filter(|set| set.forget == forget);
        pictures.push(published_laws(name, &sets.collect::<Vec<_>>(), lengths)?);
    }
    Ok(pictures)
}

/// `text-slow, T_forget by loss` as part of a file name.
fn slug(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    text.chars().map(plain).collect()
}

fn quantity_slug(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::ForgetLoss => "forget-loss",
        Quantity::ForgetPerplexity => "forget-perplexity",
        Quantity::Recall => "recall",
        Quantity::RecallWilson => "recall-wilson",
    }
}

fn size_axis(range: (f64, f64)) -> Axis<'static> {
    Axis {
        name: "state size S (elements)",
        logarithmic: true,
        range,
        label: position,
    }
}

fn length_axis(name: &str, range: (f64, f64)) -> Axis<'_> {
    Axis {
        name,
        logarithmic: true,
        range,
        label: position,
    }
}

/// A law over a range of sizes, in elements and tokens.
fn curve(fit: &Fit, (low, high): (f64, f64), (size_unit, length_unit): (f64, f64)) -> Vec<(f64, f64)> {
    let step = (high / low).ln() / STEPS as f64;
    let sizes = (0..=STEPS).map(|index| low * (step * index as f64).exp());
    sizes
        .map(|size| (size, length_unit * fit.at(size / size_unit)))
        .collect()
}

/// The stroke of a law, the same in every picture.
fn stroke(law: Law) -> Stroke {
    let index = match law {
        Law::Power => 0,
        Law::Linear => 1,
        Law::Exponential => 2,
    };
    Stroke {
        colour: PALETTE[index],
        dash: DASHES[index],
        width: 2,
    }
}

/// The best fit of each law, the best law first.
fn best_of_each(fits: &[Fit]) -> Vec<&Fit> {
    let mut best: Vec<&Fit> = Vec::new();
    for fit in fits {
        if best.iter().all(|other| other.law != fit.law) {
            best.push(fit);
        }
    }
    best
}

/// Seeds stand side by side, not on top of each other.
fn aside(size: f64, seed: usize, seeds: usize) -> f64 {
    size * (0.1 * (seed as f64 - (seeds.max(1) - 1) as f64 / 2.0)).exp2()
}

/// The intervals of an analysis.
fn interval_layers(analysis: &Analysis, colour: RGBColor) -> Vec<Layer> {
    let mut seeds: Vec<u64> = analysis
        .thresholds
        .iter()
        .map(|threshold| threshold.seed)
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    let layer = |threshold: &super::threshold::Threshold| {
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

fn thresholds(analysis: &Analysis) -> Result<Picture, ProgramError> {
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

/// Ours and the published thresholds on the same axes, with the power law of each drawn through all of them.
fn beside_published(report: &Report) -> Result<Picture, ProgramError> {
    let ours: Vec<&Analysis> = report
        .analyses
        .iter()
        .filter(|analysis| analysis.quantity == Quantity::ForgetPerplexity)
        .collect();
    let sizes = ours
        .iter()
        .flat_map(|analysis| analysis.sizes())
        .map(|size| size as f64);
    let (smallest, _) = octaves(sizes).unwrap_or((1e6, 2e6));
    let (sizes, lengths) = ((smallest / 2.0, 32.0 * 1024.0 * 1024.0), (8.0, 256.0 * 1024.0));
    let (mut layers, mut legend) = (Vec::new(), Vec::new());
    if let Some(published) = report.published_intervals() {
        let units = (1e6, KILO);
        add_power(
            &mut layers,
            &mut legend,
            "published, power law",
            (published, units),
            sizes,
        );
        if let Some(line) = published.laws.fits.iter().find(|fit| fit.law == Law::Linear) {
            let stroke = Stroke {
                colour: PALETTE[0],
                dash: DASHES[1],
                width: 2,
            };
            layers.push(Layer::Line(curve(line, sizes, units), stroke));
            legend.push(Entry::line("published, line", stroke));
        }
        layers.extend(
            published
                .laws
                .points
                .iter()
                .map(|point| published_interval(point.size, point.length)),
        );
        legend.push(Entry::mark("published, (T/2, T]", Mark::Triangle, PALETTE[0]));
    }
    for (index, analysis) in ours.iter().enumerate() {
        let colour = PALETTE[1 + index % (PALETTE.len() - 1)];
        let power = analysis.laws.fits.iter().find(|fit| fit.law == Law::Power);
        if let Some(power) = power {
            let stroke = Stroke {
                colour,
                dash: None,
                width: 2,
            };
            layers.push(Layer::Line(curve(power, sizes, (UNIT, 1.0)), stroke));
            legend.push(Entry::line(format!("{}, power law", analysis.task), stroke));
        }
        layers.extend(interval_layers(analysis, colour));
        legend.push(Entry::mark(
            format!("{}, intervals", analysis.task),
            Mark::Circle,
            colour,
        ));
    }
    let chart = Chart {
        size: WIDE,
        x: size_axis(sizes),
        y: length_axis("T_forget (tokens)", lengths),
        layers: &layers,
        legend: &legend,
    };
    let caption = "T_forget by perplexity beside the published thresholds, each known to a factor of two. Lines beyond their own points are \
                   extrapolations: they show how far apart the laws come, not where other models lie. The band is that of the published \
                   power law. Sizes are counted alike but for the short convolutions, which the published sizes include.";
    let words = ("Beside the published thresholds".to_string(), caption.to_string());
    Ok(Picture::new(
        "thresholds-beside-published",
        Place::Thresholds,
        false,
        words,
        chart.svg()?,
    ))
}

fn published_interval(size: f64, length: Observation) -> Layer {
    let (low, high) = match length {
        Observation::Exact(value) => (value, Some(value)),
        Observation::Within { low, high } => (low, high),
    };
    Layer::Interval {
        x: 1e6 * size,
        low: (low > 0.0).then_some(KILO * low),
        high: high.map(|high| KILO * high),
        colour: PALETTE[0],
        mark: Mark::Triangle,
    }
}

fn add_power(
    layers: &mut Vec<Layer>,
    legend: &mut Vec<Entry>,
    name: &str,
    (published, (size_unit, length_unit)): (&Published, (f64, f64)),
    sizes: (f64, f64),
) {
    let laws = &published.laws;
    let Some((index, fit)) = laws
        .fits
        .iter()
        .enumerate()
        .find(|(_, fit)| fit.law == Law::Power)
    else {
        return;
    };
    if let Some(Some(bootstrap)) = laws.bootstraps.get(index) {
        let band = bootstrap.band.iter().map(|(size, range)| {
            (
                size_unit * size,
                length_unit * range.low,
                length_unit * range.high,
            )
        });
        layers.push(Layer::Band(band.collect(), PALETTE[0]));
    }
    let stroke = Stroke {
        colour: PALETTE[0],
        dash: None,
        width: 2,
    };
    layers.push(Layer::Line(curve(fit, sizes, (size_unit, length_unit)), stroke));
    legend.push(Entry::line(name, stroke));
}

/// ln L(b) − max ln L of the exponent, for ours and the published thresholds.
fn profiles(report: &Report) -> Result<Picture, ProgramError> {
    let (mut layers, mut legend) = (Vec::new(), Vec::new());
    let ours = report
        .analyses
        .iter()
        .filter(|analysis| analysis.quantity != Quantity::RecallWilson);
    let ours = ours.map(|analysis| {
        (
            format!("{}, {}", analysis.task, short_name(analysis.quantity)),
            &analysis.laws,
        )
    });
    let published = report.published_intervals();
    let all = published
        .iter()
        .map(|published| ("published, (T/2, T]".to_string(), &published.laws));
    for (index, (name, laws)) in all.chain(ours).enumerate() {
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

/// Loss against position, a picture for each state size with a line for each training length.
fn losses(task: &str, runs: &[&RunResult]) -> Result<Vec<Picture>, ProgramError> {
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
            size: HALF,
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

fn published_laws(name: &str, sets: &[&Published], lengths: &[f64; 6]) -> Result<Picture, ProgramError> {
    let (sizes, tokens) = ((512.0 * 1024.0, 32.0 * 1024.0 * 1024.0), (256.0, 1024.0 * 1024.0));
    let (mut layers, mut legend) = (Vec::new(), Vec::new());
    for (index, set) in sets.iter().enumerate() {
        let Some(best) = set.laws.fits.first() else {
            continue;
        };
        let others = set.laws.fits.iter().find(|fit| fit.law != best.law);
        for fit in std::iter::once(best).chain(others) {
            let stroke = Stroke {
                dash: DASHES[index % DASHES.len()],
                ..stroke(fit.law)
            };
            layers.push(Layer::Line(curve(fit, sizes, (1e6, KILO)), stroke));
            legend.push(Entry::line(
                format!("{}, {}", fit.law, ["six", "five", "intervals"][index % 3]),
                stroke,
            ));
        }
    }
    let points = published::SIZES.iter().zip(lengths).skip(1);
    let is_forget = sets.first().is_some_and(|set| set.forget);
    for (&size, &length) in points {
        if is_forget {
            layers.push(published_interval(size, Observation::halved(length)));
        }
        layers.push(Layer::Dots(vec![(1e6 * size, KILO * length)], INK, Mark::Circle));
    }
    let symbol = if is_forget { "T_forget" } else { "T_recall" };
    legend.push(Entry::mark(format!("published {symbol}"), Mark::Circle, INK));
    let axis = format!("{symbol} (tokens)");
    let chart = Chart {
        size: WIDE,
        x: size_axis(sizes),
        y: length_axis(&axis, tokens),
        layers: &layers,
        legend: &legend,
    };
    let caption = "The two best laws of each way to take the published points: all six with the artificial (0, 0), which logarithmic axes do not \
                   show; the five models; for T_forget the five as the intervals (T/2, T] that were tried. Laws that look alike among the points \
                   part below and above them.";
    let words = (
        format!("The published {symbol}, fitted once more"),
        caption.to_string(),
    );
    Ok(Picture::new(name, Place::Published, false, words, chart.svg()?))
}
