//! The curves of a training.

use super::record::{Record, inside};
use crate::diagnose::report::chart::{Horizontal, Line, LineChart, PALETTE, Stroke, Vertical, shade_colour};
use crate::diagnose::report::figures::{Figure, line_figure};
use crate::diagnose::report::format::count;
use crate::error::ProgramError;
use models::evaluation::collapse::Published;
use models::train::log::{EvaluationEvent, StepEvent};

const WIDE: (u32, u32) = (760, 400);
const HALF: (u32, u32) = (520, 300);
/// Points of a curve; steps beyond are drawn as means of several.
const POINTS: usize = 800;
/// Share of the steps that the smoothed curve is a mean over.
const SMOOTH: f64 = 0.04;
/// Evaluations that get a curve.
const EVALUATIONS_DRAWN: usize = 6;

const RAW: Stroke = Stroke {
    colour: PALETTE[4],
    dash: None,
    width: 1,
};
const MAIN: Stroke = Stroke {
    colour: PALETTE[0],
    dash: None,
    width: 3,
};

const SECOND: Stroke = Stroke {
    colour: PALETTE[5],
    dash: Some((7, 4)),
    width: 2,
};

/// Training loss against step, as it is and smoothed, and the evaluated loss at the training length.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn loss(record: &Record) -> Result<Figure, ProgramError> {
    let values = series(&record.steps, |step| step.loss);
    let width = ((record.steps.len() as f64 * SMOOTH).round() as usize).max(1);
    let mut lines = vec![
        line("each step", thinned(&values), RAW),
        line(
            &format!("mean over {} steps", count(width as u64)),
            thinned(&smoothed(&values, width)),
            MAIN,
        ),
    ];
    let held_out: Vec<(f64, f64)> = record
        .trained_evaluations()
        .filter_map(|evaluation| Some((evaluation.step as f64, inside(&evaluation.report)?)))
        .collect();
    if held_out.len() > 1 {
        lines.push(line("evaluation, inside T", held_out, SECOND));
    }
    let chart = LineChart {
        size: WIDE,
        quantity: "loss (nats per token)",
        vertical: Vertical::LossAndPerplexity,
        horizontal: Horizontal::Steps,
        lines: &lines,
        level: None,
    };
    let caption = "Mean −log p of the targets of each step, before the step, and its mean over the steps around. The evaluation reads \
                   other text, from an empty state, up to the training length T.";
    line_figure("Training loss", caption.into(), &chart)
}

/// Learning rate and gradient norm against step.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn steps(record: &Record) -> Result<Vec<Figure>, ProgramError> {
    let width = ((record.steps.len() as f64 * SMOOTH).round() as usize).max(1);
    let norms = series(&record.steps, |step| step.gradient_norm);
    Ok(vec![
        step_figure(
            "Learning rate",
            "The rate of each step.",
            ("learning rate", Vertical::Linear),
            &[line(
                "rate",
                thinned(&series(&record.steps, |step| step.learning_rate)),
                MAIN,
            )],
        )?,
        step_figure(
            "Gradient norm",
            "Norm of all gradients together before clipping, on a logarithmic axis.",
            ("norm", Vertical::Log2),
            &[
                line("each step", thinned(&norms), RAW),
                line("mean", thinned(&smoothed(&norms, width)), MAIN),
            ],
        )?,
    ])
}

/// Tokens per second against step.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn speed(record: &Record) -> Result<Figure, ProgramError> {
    let speeds = series(&record.steps, |step| step.tokens_per_second);
    let width = ((record.steps.len() as f64 * SMOOTH).round() as usize).max(1);
    step_figure(
        "Speed",
        "Tokens over the time of a step, evaluations left out.",
        ("tokens/s", Vertical::Linear),
        &[
            line("each step", thinned(&speeds), RAW),
            line("mean", thinned(&smoothed(&speeds, width)), MAIN),
        ],
    )
}

/// Evaluated loss against position at several steps.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn positions(record: &Record, train_length: u64) -> Result<Option<Figure>, ProgramError> {
    let evaluations: Vec<&EvaluationEvent> = record.trained_evaluations().collect();
    let drawn = spread(evaluations.len(), EVALUATIONS_DRAWN);
    if drawn.is_empty() {
        return Ok(None);
    }
    let lines: Vec<Line> = drawn
        .iter()
        .enumerate()
        .map(|(rank, index)| {
            let evaluation = evaluations[*index];
            let points = evaluation.report.positions.iter().map(|bucket| {
                let middle = if bucket.start == 0 {
                    bucket.end as f64 / 2.0
                } else {
                    (bucket.start as f64 * bucket.end as f64).sqrt()
                };
                (middle, bucket.mean)
            });
            line(
                &format!("step {}", count(evaluation.step)),
                points.collect(),
                in_order(rank, drawn.len()),
            )
        })
        .collect();
    let chart = LineChart {
        size: WIDE,
        quantity: "loss (nats per token)",
        vertical: Vertical::LossAndPerplexity,
        horizontal: Horizontal::Positions {
            mark: train_length as f64,
        },
        lines: &lines,
        level: None,
    };
    let caption = "Mean loss of the evaluation in buckets of position, the state carried from an empty one; darker is later in the \
                   training. The dashed vertical line is the training length.";
    line_figure("Loss against position", caption.into(), &chart).map(Some)
}

/// Collapse and passkeys against step, as far as they were evaluated.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn evaluations(record: &Record) -> Result<Vec<Figure>, ProgramError> {
    let mut figures = Vec::new();
    let ratio = |ratio: fn(&Published) -> f64| -> Vec<(f64, f64)> {
        let evaluations = record.evaluations.iter();
        evaluations
            .filter_map(|event| Some((event.step as f64, ratio(&event.report.collapse?.published))))
            .collect()
    };
    let perplexity = ratio(|published| published.perplexity_ratio);
    if !perplexity.is_empty() {
        let lines = [
            line("perplexity", perplexity, MAIN),
            line("loss", ratio(|published| published.loss_ratio), SECOND),
        ];
        let threshold = record
            .evaluations
            .iter()
            .find_map(|event| Some(event.report.collapse?.threshold));
        let chart = LineChart {
            level: threshold,
            ..step_chart("beyond T / inside T", Vertical::Log2, &lines)
        };
        let caption = "Largest bucket beyond the training length over the largest inside; above the dashed line, the model is said \
                       to collapse.";
        figures.push(line_figure("Collapse", caption.into(), &chart)?);
    }
    let lengths = record
        .evaluations
        .iter()
        .filter_map(|event| event.report.passkey.as_ref());
    let mut lengths: Vec<u64> = lengths
        .flat_map(|passkey| passkey.lengths.iter().map(|cell| cell.length))
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    if !lengths.is_empty() {
        let accuracy = |event: &EvaluationEvent, length: u64| {
            let cells = &event.report.passkey.as_ref()?.lengths;
            let cell = cells.iter().find(|cell| cell.length == length)?;
            Some((event.step as f64, 100.0 * cell.accuracy))
        };
        let lines: Vec<Line> = lengths
            .iter()
            .enumerate()
            .map(|(rank, length)| {
                let points = record
                    .evaluations
                    .iter()
                    .filter_map(|event| accuracy(event, *length));
                line(
                    &format!("{} tokens", count(*length)),
                    points.collect(),
                    Stroke::nth(rank),
                )
            })
            .collect();
        let caption = "Share of the passkeys that are found in prompts of each length, over all depths.";
        let chart = step_chart("found (%)", Vertical::Linear, &lines);
        figures.push(line_figure("Passkeys", caption.into(), &chart)?);
    }
    Ok(figures)
}

/// A small chart over steps.
fn step_chart<'a>(quantity: &'a str, vertical: Vertical, lines: &'a [Line]) -> LineChart<'a> {
    LineChart {
        size: HALF,
        quantity,
        vertical,
        horizontal: Horizontal::Steps,
        lines,
        level: None,
    }
}

fn step_figure(
    title: &str,
    caption: &str,
    (quantity, vertical): (&str, Vertical),
    lines: &[Line],
) -> Result<Figure, ProgramError> {
    let mut figure = line_figure(title, caption.into(), &step_chart(quantity, vertical, lines))?;
    if lines.len() == 1 {
        figure.legend.clear();
    }
    Ok(figure)
}

fn line(name: &str, points: Vec<(f64, f64)>, stroke: Stroke) -> Line {
    Line {
        name: name.into(),
        points,
        stroke,
    }
}

/// Light to dark for what has an order, and dashes so that neighbours are told apart without shades.
fn in_order(rank: usize, of: usize) -> Stroke {
    let share = (rank + 1) as f64 / of as f64;
    Stroke {
        colour: shade_colour(0.25 + 0.75 * share),
        dash: [None, Some((7, 4)), Some((2, 3))][(of - 1 - rank) % 3],
        width: if rank + 1 == of { 3 } else { 2 },
    }
}

fn series(steps: &[StepEvent], value: impl Fn(&StepEvent) -> f64) -> Vec<(f64, f64)> {
    steps.iter().map(|step| (step.step as f64, value(step))).collect()
}

/// The mean over `width` points around each, fewer at the ends.
fn smoothed(points: &[(f64, f64)], width: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![0.0];
    for point in points {
        sums.push(sums[sums.len() - 1] + point.1);
    }
    let mean = |(index, point): (usize, &(f64, f64))| {
        // As far on either side as both sides go, so that the ends are not pulled inwards.
        let reach = (width / 2).min(index).min(points.len() - 1 - index);
        let (from, to) = (index - reach, index + reach + 1);
        (point.0, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// At most [`POINTS`] points, each the mean of as many neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let several = points.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        let sum = points
            .iter()
            .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    points.chunks(several).map(mean).collect()
}

/// At most `most` of `count` things, the first and the last among them, evenly spread.
fn spread(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    (0..most).map(|rank| rank * (count - 1) / (most - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_straight_lines_and_the_ends() {
        let straight: Vec<(f64, f64)> = (0..50).map(|x| (f64::from(x), 2.0 * f64::from(x))).collect();
        for (point, smooth) in straight.iter().zip(smoothed(&straight, 9)) {
            assert!((point.1 - smooth.1).abs() < 1e-9, "{point:?} {smooth:?}");
        }
        assert!(smoothed(&[], 3).is_empty());
    }

    #[test]
    fn what_is_thinned_keeps_its_mean_and_what_is_spread_its_ends() {
        let points: Vec<(f64, f64)> = (0..1600).map(|x| (f64::from(x), f64::from(x % 7))).collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 800);
        let mean = |points: &[(f64, f64)]| points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64;
        assert!((mean(&points) - mean(&thin)).abs() < 1e-9);
        assert_eq!(spread(3, 6), [0, 1, 2]);
        assert_eq!(spread(13, 4), [0, 4, 8, 12]);
    }
}
