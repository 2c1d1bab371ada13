//! The pictures of a diagnosis: which curves go into which.

use super::{DiagnosisReport, RunReport};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Curve, Layer, from_the_top, middle};
use crate::kit::format::{count, counted, factor, position};
use crate::kit::ink::{Ink, MOST, Mark, Stroke};
use crate::kit::picture::Figure;
use spillway_models::evaluation::diagnosis::gates::Gate;
use spillway_models::evaluation::diagnosis::heads::{EXIT_FACTOR, HeadSummary};
use spillway_models::evaluation::diagnosis::record::SiteRecord;
use spillway_models::evaluation::tally::Tally;

/// Heads that get a line of their own.
pub const HEADS_DRAWN: usize = MOST;
/// Intervals between samples that are drawn as one point of a gate: single ones hold too few tokens.
const INTERVALS_INSIDE: usize = 2;
/// Intervals between samples that are drawn as one point of a gate beyond the training length.
const INTERVALS_BEYOND: usize = 4;
/// Heads that get a row of the map, where there are more.
const HEADS_MAPPED: usize = 512;
/// Dots in the picture of retention times.
const DOTS: usize = 1024;
/// Growth of a state's norm that is drawn darkest: 2⁵.
const DARKEST_DOUBLINGS: f64 = 5.0;
/// Least height of an axis of ratios.
const RATIO_RANGE: f64 = 0.1;

/// Loss and perplexity against position, every run.
pub fn loss(report: &DiagnosisReport) -> Figure {
    let lines = strokes(report)
        .map(|(run, stroke)| (name(run), loss_points(run, report.method.train_length), stroke));
    let chart = Chart {
        x: Axis::positions(),
        y: Axis::new("loss (nats per token)", Scale::Linear),
        exponential: Some("perplexity"),
        layers: run_layers(report, lines.collect(), None),
    };
    let caption = format!(
        "Mean loss in buckets of position: eighths of the training length, then two buckets to a doubling. {}",
        order(report)
    );
    Figure::new("Loss and perplexity against position", caption, chart.draw())
}

/// How the legend is sorted, and what is in grey.
fn order(report: &DiagnosisReport) -> &'static str {
    match report.runs.len() > MOST {
        true => {
            "The legend lists the curves from top to bottom at the right-hand end; all but the best mitigations are grey, and in the table below."
        }
        false => "The legend lists the curves from top to bottom at the right-hand end.",
    }
}

/// Loss of the runs less that of the baseline at the same positions: all of them, and those that do not collapse.
pub fn excess(report: &DiagnosisReport) -> Vec<Figure> {
    let (train_length, threshold) = (report.method.train_length, report.verdict.threshold);
    let Some(restarted) = report
        .run(&report.method.baseline)
        .filter(|run| run.found.complete)
    else {
        return Vec::new();
    };
    let caption = format!(
        "The same curves less that of the model restarted every {} tokens at the same positions, which takes out how \
         hard the text is there. The horizontal line is the verdict's threshold, {:.2} nats or {threshold} times the perplexity.",
        count(train_length),
        threshold.ln(),
    );
    let level = Layer::Level(threshold.ln(), "collapse".into());
    let all = excess_chart(report, restarted, level, |_| true);
    let all = Figure::new("What the text does not explain", caption, all.draw());
    let stable = |run: &RunReport| run.found.verdict.complete && !run.found.verdict.collapsed;
    if report.runs.iter().all(stable) {
        return vec![all];
    }
    let caption = "The same, only for the runs that do not collapse, magnified. Below 0 a run does better than restarting.";
    let cured = excess_chart(report, restarted, Layer::Level(0.0, String::new()), stable);
    vec![
        all,
        Figure::new("The runs that do not collapse", caption, cured.draw()),
    ]
}

fn excess_chart(
    report: &DiagnosisReport,
    restarted: &RunReport,
    level: Layer,
    shown: impl Fn(&RunReport) -> bool,
) -> Chart {
    let lines = strokes(report)
        .filter(|(run, _)| shown(run))
        .map(|(run, stroke)| {
            let pairs = run
                .found
                .loss
                .iter()
                .zip(&restarted.found.loss)
                .filter(|(a, b)| (a.start, a.tokens) == (b.start, b.tokens));
            let points = pairs
                .map(|(bucket, other)| (middle(bucket.start, bucket.end), bucket.mean - other.mean))
                .collect();
            (name(run), points, stroke)
        });
    Chart {
        x: Axis::positions(),
        y: Axis::new("loss over restarted model (nats)", Scale::Linear),
        exponential: None,
        layers: run_layers(report, lines.collect(), Some(level)),
    }
}

/// The training length, a level, and a line for each run.
fn run_layers(report: &DiagnosisReport, lines: Vec<Curve>, level: Option<Layer>) -> Vec<Layer> {
    std::iter::once(training_length(report))
        .chain(level)
        .chain(from_the_top(lines))
        .collect()
}

/// The line that marks the training length.
fn training_length(report: &DiagnosisReport) -> Layer {
    Layer::At(report.method.train_length as f64, "training length".into())
}

fn name(run: &RunReport) -> String {
    if run.mitigation == "none" {
        "the model alone".into()
    } else {
        run.mitigation.clone()
    }
}

/// The model alone is black, the baseline grey and dashed, the best mitigations coloured, the others in light grey.
fn strokes(report: &DiagnosisReport) -> impl Iterator<Item = (&RunReport, Stroke)> {
    let ranked: Vec<&String> = report
        .ranking
        .iter()
        .filter(|name| **name != report.method.baseline)
        .collect();
    report.runs.iter().enumerate().map(move |(index, run)| {
        let stroke = match index {
            0 => Stroke::ALONE,
            1 => Stroke::BASELINE,
            _ => Stroke::beside(
                ranked
                    .iter()
                    .position(|name| **name == run.mitigation)
                    .unwrap_or(MOST),
            ),
        };
        (run, stroke)
    })
}

/// Parts of the training length, then geometric buckets.
fn loss_points(run: &RunReport, train_length: u64) -> Vec<(f64, f64)> {
    let beyond = run
        .found
        .loss
        .iter()
        .filter(|bucket| bucket.start >= train_length);
    run.found
        .loss_inside
        .iter()
        .chain(beyond)
        .map(|bucket| (middle(bucket.start, bucket.end), bucket.mean))
        .collect()
}

/// The state, the retention and the gates of the heads.
pub fn heads(report: &DiagnosisReport) -> Vec<Figure> {
    if report.heads.is_empty() {
        return Vec::new();
    }
    let mut figures = Vec::new();
    if report.heads.len() > HEADS_DRAWN {
        figures.push(norm_map(report));
    }
    let few = few(report);
    let growth = Axis::new("norm / in-window maximum", Scale::Decimal);
    figures.extend(head_figure(
        report,
        ("State norm", growth, Some(Layer::Level(EXIT_FACTOR, String::new()))),
        format!("{} of a head's state over its largest inside the training length; beyond {EXIT_FACTOR} for good, a head has left its range.{few}", size_name(report)),
        |record, head, summary| record.samples(head).map(|(at, state, _)| (at as f64, state.norm / summary.norm_inside)).collect(),
    ));
    if report.records.iter().any(|record| record.measure() == "norm") {
        figures.extend(head_figure(
            report,
            ("Outliers", Axis::new("share of squared norm", Scale::Linear).with(0.0), None),
            format!("Share of the squared norm in the 1 % of the state's elements that are largest; 0.01 if all were alike.{few}"),
            |record, head, _| record.samples(head).map(|(at, state, _)| (at as f64, state.top_square_share)).collect(),
        ));
    }
    figures.extend(head_figure(
        report,
        (
            "Memory of the first token",
            Axis::new("share left", Scale::Linear).with(0.0),
            None,
        ),
        format!("exp of the summed log decays since the first token.{few}"),
        |record, head, _| {
            record
                .samples(head)
                .map(|(at, _, strength)| (at as f64, strength.exp()))
                .collect()
        },
    ));
    figures.push(spectrum(report));
    figures.extend(gate_figures(report, &few));
    figures.push(keys(report));
    figures
}

/// The sentence of a caption that says which heads have a line; empty where all have one.
fn few(report: &DiagnosisReport) -> String {
    let leaving = report.heads.iter().filter(|head| head.exit.is_some()).count();
    match (leaving, report.heads.len().saturating_sub(HEADS_DRAWN)) {
        (_, 0) => String::new(),
        (0, _) => format!(" The {HEADS_DRAWN} heads that grow most; none leaves its range."),
        (1, _) => format!(
            " The head that leaves its range, and the {} that grow most beside it.",
            HEADS_DRAWN - 1
        ),
        (HEADS_DRAWN.., _) => format!(" The {HEADS_DRAWN} heads that leave their range first."),
        (some, _) => match HEADS_DRAWN - some {
            1 => {
                format!(" The {some} heads that leave their range, and the one that grows most beside them.")
            }
            rest => format!(
                " The {some} heads that leave their range, and the {rest} that grow most beside them."
            ),
        },
    }
}

/// What plays the part of the norm in this model.
fn size_name(report: &DiagnosisReport) -> &'static str {
    let is = |measure: &str| report.records.iter().any(|record| record.measure() == measure);
    match (is("norm"), is("weight")) {
        (true, false) => "Frobenius norm",
        (false, _) => "Sum of the weights",
        (true, true) => "Frobenius norm, or sum of the weights,",
    }
}

/// One figure per gate that the model has.
fn gate_figures(report: &DiagnosisReport, few: &str) -> Vec<Figure> {
    let gates = [
        (Gate::StepSize, "Step size \u{394}", "Mean of \u{394}"),
        (
            Gate::Erase,
            "Erased share",
            "Mean share that a token erases of what the state holds in one direction,",
        ),
        (
            Gate::Value,
            "Input: value",
            "Root mean square of the value, over a head's elements,",
        ),
        (Gate::Write, "Insertion", "Mean norm of what a token writes"),
        (
            Gate::ReadOut,
            "Read-out",
            "Root mean square of what is read, over a head's elements,",
        ),
    ];
    let figure = |(gate, title, caption): (Gate, &str, &str)| {
        let caption = format!("{caption} over its mean inside the training length: 1 means unchanged.{few}");
        head_figure(report, (title, ratio(), None), caption, |record, head, _| {
            gate_points(record, gate, head, report.method.train_length)
        })
    };
    gates.into_iter().filter_map(figure).collect()
}

/// The axis of what is divided by its mean inside the training length.
fn ratio() -> Axis {
    Axis::new("relative to inside", Scale::Linear)
        .with(1.0)
        .least(RATIO_RANGE)
}

/// Keys of the groups that the first heads to leave their range read.
fn keys(report: &DiagnosisReport) -> Figure {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for head in report.heads.iter().take(HEADS_DRAWN) {
        let Some((record, number)) = report.record(head) else {
            continue;
        };
        let group = (
            head.place.0,
            number * record.columns(Gate::Key) / record.heads().max(1),
        );
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let line = |(index, &(site, group)): (usize, &(usize, usize))| {
        let record = report.records.get(site)?;
        let layer = record.layer();
        let name = if record.columns(Gate::Key) > 1 {
            format!("layer {layer} group {}", record.first_head() + group)
        } else {
            format!("layer {layer}")
        };
        let points = gate_points(record, Gate::Key, group, report.method.train_length);
        Some(Layer::line(name, points, Stroke::nth(index)))
    };
    let lines = groups.iter().enumerate().filter_map(line);
    let chart = Chart {
        x: Axis::positions(),
        y: ratio(),
        exponential: None,
        layers: std::iter::once(training_length(report)).chain(lines).collect(),
    };
    let caption = "Root mean square of the key, which the heads of a group share, over its mean inside the training length.";
    Figure::new("Input: key", caption, chart.draw())
}

/// A line for each of the first heads; nothing if none of them has points.
fn head_figure(
    report: &DiagnosisReport,
    (title, y, level): (&str, Axis, Option<Layer>),
    caption: String,
    points: impl Fn(&SiteRecord, usize, &HeadSummary) -> Vec<(f64, f64)>,
) -> Option<Figure> {
    let line = |(index, head): (usize, &HeadSummary)| {
        let (record, number) = report.record(head)?;
        let points = points(record, number, head);
        let name = format!("layer {} head {}", head.layer, head.head);
        (!points.is_empty()).then(|| Layer::line(name, points, Stroke::nth(index)))
    };
    let lines: Vec<Layer> = report
        .heads
        .iter()
        .take(HEADS_DRAWN)
        .enumerate()
        .filter_map(line)
        .collect();
    if lines.is_empty() {
        return None;
    }
    let chart = Chart {
        x: Axis::positions(),
        y,
        exponential: None,
        layers: std::iter::once(training_length(report))
            .chain(level)
            .chain(lines)
            .collect(),
    };
    Some(Figure::new(title, caption, chart.draw()))
}

/// Mean, or root mean square of what has elements of either sign, between the samples, over its mean inside the training length.
fn gate_points(record: &SiteRecord, gate: Gate, column: usize, train_length: u64) -> Vec<(f64, f64)> {
    let value = |mean: f64, variance: f64| {
        if matches!(gate, Gate::StepSize | Gate::Erase | Gate::Write) {
            mean
        } else {
            (mean * mean + variance).sqrt()
        }
    };
    let (inside, beyond): (Vec<_>, Vec<_>) = record
        .gate(gate, column)
        .partition(|((_, end), _)| *end <= train_length);
    let values = inside
        .chunks(INTERVALS_INSIDE)
        .chain(beyond.chunks(INTERVALS_BEYOND))
        .filter_map(|intervals| {
            let (start, end) = (intervals.first()?.0.0, intervals.last()?.0.1);
            let mut sum = Tally::default();
            intervals.iter().for_each(|(_, tally)| sum.merge(tally));
            Some((start, end, value(sum.mean()?, sum.variance().unwrap_or(0.0))))
        });
    let values: Vec<(u64, u64, f64)> = values.collect();
    let inside: Vec<f64> = values
        .iter()
        .filter(|(_, end, _)| *end <= train_length)
        .map(|(.., value)| *value)
        .collect();
    let reference = inside.iter().sum::<f64>() / inside.len().max(1) as f64;
    values
        .into_iter()
        .map(|(start, end, value)| (middle(start, end), value / reference))
        .collect()
}

/// Every head's norm over its in-window maximum.
fn norm_map(report: &DiagnosisReport) -> Figure {
    let (mut edges, mut rows) = (Vec::new(), Vec::new());
    for head in report.heads.iter().take(HEADS_MAPPED) {
        let Some((record, number)) = report.record(head) else {
            continue;
        };
        let samples: Vec<_> = record.samples(number).collect();
        if edges.is_empty() {
            edges = samples.iter().map(|(position, ..)| *position as f64).collect();
        }
        let share = |norm: f64| (norm / head.norm_inside).log2() / DARKEST_DOUBLINGS;
        let shares = samples
            .iter()
            .skip(1)
            .map(|(_, state, _)| share(state.norm))
            .collect();
        let leaves = head.exit.map_or("stays in its range".into(), |exit| {
            format!("leaves its range at {}", count(exit))
        });
        let name = format!(
            "layer {} head {}: {leaves}, grows by {}",
            head.layer,
            head.head,
            factor(head.growth)
        );
        rows.push((name, shares));
    }
    let cells = Layer::Cells {
        scale: (
            "times its largest norm inside".into(),
            ["\u{2264} 1", "middle 5.7", "\u{2265} 32"].map(String::from),
        ),
        edges,
        rows,
    };
    let chart = Chart {
        x: Axis::positions(),
        y: Axis::new("heads in the order of the table", Scale::Whole).downwards(),
        exponential: None,
        layers: vec![cells, training_length(report)],
    };
    let which = match report.heads.len() > HEADS_MAPPED {
        true => format!(
            " The first {HEADS_MAPPED} of {}.",
            count(report.heads.len() as u64)
        ),
        false => String::new(),
    };
    let caption = format!(
        "Norm over its largest inside the training length, from 1 to 32 times by its logarithm; one row per head, those that leave their \
         range first on top.{which}"
    );
    Figure::new("State norm of every head", caption, chart.draw())
}

fn spectrum(report: &DiagnosisReport) -> Figure {
    let dots: Vec<(f64, f64)> = report
        .heads
        .iter()
        .filter_map(|head| Some((head.retention.retention_time?, head.layer as f64)))
        .collect();
    // Evenly thinned, in the order of the ranking.
    let step = dots.len().div_ceil(DOTS).max(1);
    let forever = report.heads.len() - dots.len();
    let mut note = if forever > 0 {
        format!(" {} without decay not shown.", counted(forever as u64, "head"))
    } else {
        String::new()
    };
    if step > 1 {
        note.push_str(&format!(" One head in {step} is shown."));
    }
    let dots = Layer::Dots {
        name: String::new(),
        points: dots.into_iter().step_by(step).collect(),
        ink: Ink::Series(0),
        mark: Mark::DOT,
    };
    let chart = Chart {
        x: Axis::new("retention time (tokens)", Scale::Binary),
        y: Axis::new("layer", Scale::Whole)
            .range(-0.5, report.model.layers as f64 - 0.5)
            .downwards(),
        exponential: None,
        layers: vec![training_length(report), dots],
    };
    let caption = format!(
        "\u{3c4} = \u{2212}1 / mean(log \u{3b1}) of every head inside the training length (dashed, {}): a head to the right of it keeps \
         more than 0.37 of a token over the whole training length.{note}",
        position(report.method.train_length as f64)
    );
    Figure::new("Retention times", caption, chart.draw())
}
