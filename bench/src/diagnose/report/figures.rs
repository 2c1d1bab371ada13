//! Which curves go into which picture.

use super::chart::{DotChart, GREY, HeatMap, Horizontal, INK, Line, LineChart, Stroke, Vertical};
use super::{Report, RunReport};
use crate::diagnose::gates::Gate;
use crate::diagnose::head_statistics::{EXIT_FACTOR, HeadSummary};
use crate::diagnose::loss::{BucketLoss, Tally};
use crate::diagnose::record::SiteRecord;
use crate::error::ProgramError;

/// Title of the figure that is as wide as the page.
pub const NORM_MAP: &str = "State norm of every head";
const WIDE: (u32, u32) = (760, 400);
const HALF: (u32, u32) = (520, 300);
/// Heads that get a line of their own.
pub const HEADS_DRAWN: usize = 8;
/// Intervals between looks that are drawn as one point of a gate: single ones hold too few tokens.
const INTERVALS_INSIDE: usize = 2;
/// The same beyond the training length.
const INTERVALS_BEYOND: usize = 4;
/// Heads that get a row of the map, where there are more.
const HEADS_MAPPED: usize = 512;
/// Dots in the picture of retention times.
const DOTS: usize = 4096;
/// Growth of a state's norm that is drawn darkest: 2⁵.
const DARKEST_DOUBLINGS: f64 = 5.0;

/// A picture, what it shows, and its legend.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Heading.
    pub title: String,
    /// What to see in it, and how it was made.
    pub caption: String,
    /// The picture.
    pub svg: String,
    /// The lines' names and strokes; empty if there is nothing to tell apart.
    pub legend: Vec<(String, Stroke)>,
}

/// A chart with its legend.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn line_figure(title: &str, caption: String, chart: &LineChart<'_>) -> Result<Figure, ProgramError> {
    let legend = chart
        .lines
        .iter()
        .map(|line| (line.name.clone(), line.stroke))
        .collect();
    Ok(Figure {
        title: title.into(),
        caption,
        svg: chart.svg()?,
        legend,
    })
}

/// Loss and perplexity against position, every run.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn loss(report: &Report) -> Result<Figure, ProgramError> {
    let mark = report.method.train_length as f64;
    let mut lines: Vec<Line> = strokes(report)
        .map(|(run, stroke)| Line {
            name: name(run),
            points: loss_points(run, report.method.train_length),
            stroke,
        })
        .collect();
    // The legend follows the order of the curves at their right-hand ends.
    let last = |line: &Line| line.points.last().map_or(f64::NEG_INFINITY, |point| point.1);
    lines.sort_by(|a, b| last(b).total_cmp(&last(a)));
    let chart = LineChart {
        size: WIDE,
        quantity: "loss (nats per token)",
        vertical: Vertical::LossAndPerplexity,
        horizontal: Horizontal::Positions { mark },
        lines: &lines,
        level: None,
    };
    let caption = "Mean loss in buckets of position: eighths of the training length, then two buckets to a doubling. The dashed \
                   vertical line is the training length; the legend lists the curves from top to bottom at the right-hand end.";
    line_figure("Loss and perplexity against position", caption.into(), &chart)
}

/// Loss of the runs less that of the baseline at the same positions: all of them, and those that do not collapse.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn excess(report: &Report) -> Result<Vec<Figure>, ProgramError> {
    let (train_length, threshold) = (report.method.train_length, report.verdict.threshold);
    let Some(restarted) = report.run(&report.method.baseline).filter(|run| run.complete) else {
        return Ok(Vec::new());
    };
    let caption = format!(
        "The same curves less that of the model restarted every {train_length} tokens at the same positions, which takes out how \
         hard the text is there. The horizontal line is the verdict's threshold, {:.2} nats or {threshold} times the perplexity.",
        threshold.ln(),
    );
    let all = excess_figure(
        report,
        restarted,
        ("What the text does not explain", caption, Some(threshold.ln())),
        |_| true,
    )?;
    let caption = "The same, only for the runs that do not collapse, magnified. Below 0 a run does better than restarting.";
    let stable = |run: &RunReport| !run.verdict.collapsed;
    let cured = excess_figure(
        report,
        restarted,
        ("The runs that do not collapse", caption.into(), Some(0.0)),
        stable,
    )?;
    Ok(if report.runs.iter().all(stable) {
        vec![all]
    } else {
        vec![all, cured]
    })
}

fn excess_figure(
    report: &Report,
    restarted: &RunReport,
    (title, caption, level): (&str, String, Option<f64>),
    shown: impl Fn(&RunReport) -> bool,
) -> Result<Figure, ProgramError> {
    let train_length = report.method.train_length;
    let mut lines = Vec::new();
    for (run, stroke) in strokes(report).filter(|(run, _)| shown(run)) {
        let pairs = run
            .loss
            .iter()
            .zip(&restarted.loss)
            .filter(|(a, b)| (a.start, a.tokens) == (b.start, b.tokens));
        let points = pairs
            .map(|(bucket, other)| (middle(bucket, train_length), bucket.mean - other.mean))
            .collect();
        lines.push(Line {
            name: name(run),
            points,
            stroke,
        });
    }
    let last = |line: &Line| line.points.last().map_or(f64::NEG_INFINITY, |point| point.1);
    lines.sort_by(|a, b| last(b).total_cmp(&last(a)));
    let chart = LineChart {
        size: WIDE,
        quantity: "loss over restarted model (nats)",
        vertical: Vertical::Linear,
        horizontal: Horizontal::Positions {
            mark: train_length as f64,
        },
        lines: &lines,
        level,
    };
    line_figure(title, caption, &chart)
}

fn name(run: &RunReport) -> String {
    if run.mitigation == "none" {
        "the model alone".into()
    } else {
        run.mitigation.clone()
    }
}

/// The model alone is black, the baseline grey and dashed, the mitigations coloured.
fn strokes(report: &Report) -> impl Iterator<Item = (&RunReport, Stroke)> {
    report.runs.iter().enumerate().map(|(index, run)| {
        let stroke = match index {
            0 => Stroke {
                colour: INK,
                dash: None,
                width: 3,
            },
            1 => Stroke {
                colour: GREY,
                dash: Some((3, 3)),
                width: 3,
            },
            _ => Stroke::nth(index - 2),
        };
        (run, stroke)
    })
}

/// Parts of the training length, then geometric buckets.
fn loss_points(run: &RunReport, train_length: u64) -> Vec<(f64, f64)> {
    let beyond = run.loss.iter().filter(|bucket| bucket.start >= train_length);
    run.loss_inside
        .iter()
        .chain(beyond)
        .map(|bucket| (middle(bucket, 0), bucket.mean))
        .collect()
}

/// Geometric middle; arithmetic for buckets that start below `linear_below` or at 0.
fn middle(bucket: &BucketLoss, linear_below: u64) -> f64 {
    if bucket.start == 0 || bucket.start < linear_below {
        (bucket.start + bucket.end) as f64 / 2.0
    } else {
        (bucket.start as f64 * bucket.end as f64).sqrt()
    }
}

/// The state, the retention and the gates of the heads.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn heads(report: &Report) -> Result<Vec<Figure>, ProgramError> {
    if report.heads.is_empty() {
        return Ok(Vec::new());
    }
    let mut figures = Vec::new();
    if report.heads.len() > HEADS_DRAWN {
        figures.push(norm_map(report)?);
    }
    let few = if report.heads.len() > HEADS_DRAWN {
        format!(" The {HEADS_DRAWN} heads that leave their range first.")
    } else {
        String::new()
    };
    figures.push(head_figure(
        report,
        ("State norm", "norm / in-window maximum", Vertical::Log2, Some(EXIT_FACTOR)),
        format!("{} of a head's state over its largest inside the training length; beyond {EXIT_FACTOR} for good, a head has left its range.{few}", size_name(report)),
        |record, head, summary| record.looks(head).map(|(at, state, _)| (at as f64, state.norm / summary.norm_inside)).collect(),
    )?);
    if report.records.iter().any(|record| record.measure() == "norm") {
        figures.push(head_figure(
            report,
            ("Outliers", "share of squared norm", Vertical::Linear, Some(0.0)),
            format!("Share of the squared norm in the 1 % of the state's elements that are largest; 0.01 if all were alike.{few}"),
            |record, head, _| record.looks(head).map(|(at, state, _)| (at as f64, state.top_square_share)).collect(),
        )?);
    }
    figures.push(head_figure(
        report,
        (
            "Memory of the first token",
            "share left",
            Vertical::Linear,
            Some(0.0),
        ),
        format!("exp of the summed log decays since the first token.{few}"),
        |record, head, _| {
            record
                .looks(head)
                .map(|(at, _, strength)| (at as f64, strength.exp()))
                .collect()
        },
    )?);
    figures.push(spectrum(report)?);
    figures.extend(gate_figures(report, &few)?);
    figures.push(keys(report)?);
    Ok(figures)
}

/// What plays the part of the norm in this model.
fn size_name(report: &Report) -> &'static str {
    let is = |measure: &str| report.records.iter().any(|record| record.measure() == measure);
    match (is("norm"), is("weight")) {
        (true, false) => "Frobenius norm",
        (false, _) => "Sum of the weights",
        (true, true) => "Frobenius norm, or sum of the weights,",
    }
}

/// One figure per gate that the model has.
fn gate_figures(report: &Report, few: &str) -> Result<Vec<Figure>, ProgramError> {
    let mut figures = Vec::new();
    for (gate, title, caption) in [
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
    ] {
        let caption = format!("{caption} over its mean inside the training length: 1 means unchanged.{few}");
        let figure = head_figure(
            report,
            (title, "relative to inside", Vertical::Linear, Some(1.0)),
            caption,
            |record, head, _| gate_points(record, gate, head, report.method.train_length),
        )?;
        if !figure.legend.is_empty() {
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// Keys of the groups that the first heads to leave their range read.
fn keys(report: &Report) -> Result<Figure, ProgramError> {
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
        Some(Line {
            name,
            points,
            stroke: Stroke::nth(index),
        })
    };
    let lines: Vec<Line> = groups.iter().enumerate().filter_map(line).collect();
    let chart = LineChart {
        size: HALF,
        quantity: "relative to inside",
        vertical: Vertical::Linear,
        horizontal: Horizontal::Positions {
            mark: report.method.train_length as f64,
        },
        lines: &lines,
        level: Some(1.0),
    };
    let caption = "Root mean square of the key, which the heads of a group share, over its mean inside the training length.";
    line_figure("Input: key", caption.into(), &chart)
}

fn head_figure(
    report: &Report,
    (title, quantity, vertical, level): (&str, &str, Vertical, Option<f64>),
    caption: String,
    points: impl Fn(&SiteRecord, usize, &HeadSummary) -> Vec<(f64, f64)>,
) -> Result<Figure, ProgramError> {
    let mut lines = Vec::new();
    for (index, head) in report.heads.iter().take(HEADS_DRAWN).enumerate() {
        let Some((record, number)) = report.record(head) else {
            continue;
        };
        let points = points(record, number, head);
        if !points.is_empty() {
            let name = format!("layer {} head {}", head.layer, head.head);
            lines.push(Line {
                name,
                points,
                stroke: Stroke::nth(index),
            });
        }
    }
    let mark = report.method.train_length as f64;
    line_figure(
        title,
        caption,
        &LineChart {
            size: HALF,
            quantity,
            vertical,
            horizontal: Horizontal::Positions { mark },
            lines: &lines,
            level,
        },
    )
}

/// Mean, or root mean square of what has elements of either sign, between the looks, over its mean inside the training length.
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
    let at = |start: u64, end: u64| {
        if start == 0 {
            end as f64 / 2.0
        } else {
            (start as f64 * end as f64).sqrt()
        }
    };
    values
        .into_iter()
        .map(|(start, end, value)| (at(start, end), value / reference))
        .collect()
}

/// Every head's norm over its in-window maximum.
fn norm_map(report: &Report) -> Result<Figure, ProgramError> {
    let mut columns = Vec::new();
    let mut shades = Vec::new();
    for head in report.heads.iter().take(HEADS_MAPPED) {
        let Some((record, number)) = report.record(head) else {
            continue;
        };
        let looks: Vec<_> = record.looks(number).collect();
        if columns.is_empty() {
            columns = looks.iter().map(|(position, ..)| *position as f64).collect();
        }
        let shade = |norm: f64| (norm / head.norm_inside).log2() / DARKEST_DOUBLINGS;
        shades.push(looks.iter().map(|(_, state, _)| shade(state.norm)).collect());
    }
    let mark = report.method.train_length as f64;
    let map = HeatMap {
        size: WIDE,
        rows_name: "heads, first to leave on top",
        columns: &columns,
        shades: &shades,
        mark,
    };
    let which = match report.heads.len() > HEADS_MAPPED {
        true => format!(" The first {HEADS_MAPPED} of {}.", report.heads.len()),
        false => String::new(),
    };
    Ok(Figure {
        title: NORM_MAP.into(),
        caption: format!(
            "Norm over its largest inside the training length, lightest up to 1 and darkest from 32 times on; one row per head, in the \
             order of the table.{which}"
        ),
        svg: map.svg()?,
        legend: Vec::new(),
    })
}

fn spectrum(report: &Report) -> Result<Figure, ProgramError> {
    let dots: Vec<(usize, f64)> = report
        .heads
        .iter()
        .filter_map(|head| Some((head.layer, head.retention.retention_time?)))
        .collect();
    // Evenly thinned, in the order of the ranking.
    let step = dots.len().div_ceil(DOTS).max(1);
    let shown: Vec<(usize, f64)> = dots.iter().copied().step_by(step).collect();
    let mark = report.method.train_length as f64;
    let chart = DotChart {
        size: HALF,
        quantity: "retention time (tokens)",
        rows_name: "layer",
        rows: report.model.layers,
        dots: &shown,
        mark,
    };
    let forever = report.heads.len() - dots.len();
    let mut note = if forever > 0 {
        format!(" {forever} heads without decay are not shown.")
    } else {
        String::new()
    };
    if step > 1 {
        note.push_str(&format!(" One head in {step} is shown."));
    }
    Ok(Figure {
        title: "Retention times".into(),
        caption: format!(
            "\u{3c4} = \u{2212}1 / mean(log \u{3b1}) of every head inside the training length (dashed): a head to the right of it keeps \
             more than 0.37 of a token over the whole training length.{note}"
        ),
        svg: chart.svg()?,
        legend: Vec::new(),
    })
}
