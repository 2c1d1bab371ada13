//! The curves of a training.

use super::record::{Record, inside};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer, middle, spread};
use crate::kit::format::{count, counted};
use crate::kit::ink::{Ink, MOST, Stroke};
use crate::kit::picture::Figure;
use spillway_models::evaluation::collapse::Published;
use spillway_models::train::log::{EvaluationEvent, StepEvent};

/// Points of a curve; steps beyond are drawn as means of several.
const POINTS: usize = 800;
/// Share of the steps that the smoothed curve is a mean over.
const SMOOTH: f64 = 0.04;
/// Evaluations that get a curve.
const EVALUATIONS_DRAWN: usize = 6;

const RAW: Stroke = Stroke::plain(Ink::Series(4), 1.0);
const MAIN: Stroke = Stroke::plain(Ink::Series(0), 3.0);
const SECOND: Stroke = Stroke {
    dash: "7 4",
    ..Stroke::plain(Ink::Series(1), 2.5)
};
const LOSS: &str = "loss (nats per token)";
const LOSS_OF_TASK: &str = "loss (of an answer)";

/// Training loss against step, as it is and smoothed, and the evaluated loss at the training length.
pub fn loss(record: &Record) -> Figure {
    let mut lines = raw_and_mean(record, |step| step.loss);
    let held_out: Vec<(f64, f64)> = record
        .trained_evaluations()
        .filter_map(|evaluation| Some((evaluation.step as f64, inside(&evaluation.report)?)))
        .collect();
    if held_out.len() > 1 {
        lines.push(Layer::line("evaluation, inside T", held_out, SECOND));
    }
    if !record.tasks.is_empty() {
        let caption = "Mean loss of the answers of each step, before the step, and its mean over the steps around: −log p in nats for \
                       classes, the square error for real values.";
        let chart = over_steps(Axis::new(LOSS_OF_TASK, Scale::Linear), lines);
        return Figure::new("Training loss", caption, chart.draw());
    }
    let caption = "Mean −log p of the targets of each step, before the step, and its mean over the steps around. The evaluation reads \
                   other text, from an empty state, up to the training length T.";
    let chart = Chart {
        exponential: Some("perplexity"),
        ..over_steps(Axis::new(LOSS, Scale::Linear), lines)
    };
    Figure::new("Training loss", caption, chart.draw())
}

/// Learning rate and gradient norm against step.
pub fn steps(record: &Record) -> [Figure; 2] {
    let rates = thinned(&series(&record.steps, |step| step.learning_rate));
    let rate = over_steps(
        Axis::new("learning rate", Scale::Linear).with(0.0),
        vec![Layer::line("", rates, MAIN)],
    );
    let norms = raw_and_mean(record, |step| step.gradient_norm);
    let norms = over_steps(Axis::new("norm", Scale::Decimal), norms);
    [
        Figure::new("Learning rate", "The rate of each step.", rate.draw()),
        Figure::new(
            "Gradient norm",
            "Norm of all gradients together before clipping, on a logarithmic axis.",
            norms.draw(),
        ),
    ]
}

/// Tokens per second against step.
pub fn speed(record: &Record) -> Figure {
    let speeds = raw_and_mean(record, |step| step.tokens_per_second);
    let chart = over_steps(Axis::new("tokens/s", Scale::Linear).with(0.0), speeds);
    let caption = "Tokens over the time of a step, evaluations left out.";
    Figure::new("Speed", caption, chart.draw())
}

/// Something of each step, and its mean over the steps around.
fn raw_and_mean(record: &Record, value: impl Fn(&StepEvent) -> f64) -> Vec<Layer> {
    let values = series(&record.steps, value);
    let width = ((values.len() as f64 * SMOOTH).round() as usize).max(1);
    let mean = format!("mean over {}", counted(width as u64, "step"));
    vec![
        Layer::line("each step", thinned(&values), RAW),
        Layer::line(mean, thinned(&smoothed(&values, width)), MAIN),
    ]
}

/// Evaluated loss against position at several steps; nothing before the first evaluation.
pub fn positions(record: &Record, train_length: u64) -> Option<Figure> {
    let evaluations: Vec<&EvaluationEvent> = record.trained_evaluations().collect();
    let drawn: Vec<usize> = spread(evaluations.len(), EVALUATIONS_DRAWN).collect();
    if drawn.is_empty() {
        return None;
    }
    let line = |(rank, index): (usize, &usize)| {
        let evaluation = evaluations[*index];
        let buckets = evaluation.report.positions.iter();
        let points = buckets.map(|bucket| (middle(bucket.start, bucket.end), bucket.mean));
        let name = format!("step {}", count(evaluation.step));
        Layer::line(name, points.collect(), Stroke::in_order(rank, drawn.len()))
    };
    let mark = Layer::At(train_length as f64, "training length".into());
    let chart = Chart {
        x: Axis::positions(),
        y: Axis::new(LOSS, Scale::Linear),
        exponential: Some("perplexity"),
        layers: std::iter::once(mark)
            .chain(drawn.iter().enumerate().map(line))
            .collect(),
    };
    let caption = "Mean loss of the evaluation in buckets of position, the state carried from an empty one; the stronger the colour, the later \
                   in the training.";
    Some(Figure::new("Loss against position", caption, chart.draw()))
}

/// Collapse and passkeys against step, as far as they were evaluated.
pub fn evaluations(record: &Record) -> Vec<Figure> {
    collapse(record).into_iter().chain(passkeys(record)).collect()
}

fn collapse(record: &Record) -> Option<Figure> {
    let ratio = |ratio: fn(&Published) -> f64| -> Vec<(f64, f64)> {
        let evaluations = record.evaluations.iter();
        evaluations
            .filter_map(|event| Some((event.step as f64, ratio(&event.report.collapse?.published))))
            .collect()
    };
    let threshold = record
        .evaluations
        .iter()
        .find_map(|event| Some(event.report.collapse?.threshold))?;
    let lines = vec![
        Layer::Level(threshold, "collapse".into()),
        Layer::line("perplexity", ratio(|published| published.perplexity_ratio), MAIN),
        Layer::line("loss", ratio(|published| published.loss_ratio), SECOND),
    ];
    let caption = "Largest bucket beyond the training length over the largest inside; above the dashed line, the model is said \
                   to collapse.";
    let chart = over_steps(Axis::new("beyond T / inside T", Scale::Decimal), lines);
    Some(Figure::new("Collapse", caption, chart.draw()))
}

fn passkeys(record: &Record) -> Option<Figure> {
    let passkeys = record
        .evaluations
        .iter()
        .filter_map(|event| event.report.passkey.as_ref());
    let mut lengths: Vec<u64> = passkeys
        .flat_map(|passkey| passkey.lengths.iter().map(|cell| cell.length))
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    let accuracy = |event: &EvaluationEvent, length: u64| {
        let cells = &event.report.passkey.as_ref()?.lengths;
        let cell = cells.iter().find(|cell| cell.length == length)?;
        Some((event.step as f64, 100.0 * cell.accuracy))
    };
    let line = |(rank, length): (usize, &u64)| {
        let points = record
            .evaluations
            .iter()
            .filter_map(|event| accuracy(event, *length));
        Layer::line(
            format!("{} tokens", count(*length)),
            points.collect(),
            Stroke::nth(rank),
        )
    };
    let grey = match lengths.len() > MOST {
        true => format!(" The {MOST} shortest in colour."),
        false => String::new(),
    };
    let caption =
        format!("Share of the passkeys that are found in prompts of each length, over all depths.{grey}");
    let lines = lengths.iter().enumerate().map(line).collect();
    let chart = over_steps(Axis::new("found (%)", Scale::Linear).with(0.0).with(100.0), lines);
    (!lengths.is_empty()).then(|| Figure::new("Passkeys", caption, chart.draw()))
}

fn over_steps(y: Axis, layers: Vec<Layer>) -> Chart {
    Chart {
        x: Axis::new("step", Scale::Whole).with(0.0),
        y,
        exponential: None,
        layers,
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

/// A curve in at most [`POINTS`] points, each the mean of equally many neighbours.
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
    fn what_is_thinned_keeps_its_mean() {
        let points: Vec<(f64, f64)> = (0..1600).map(|x| (f64::from(x), f64::from(x % 7))).collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 800);
        let mean = |points: &[(f64, f64)]| points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64;
        assert!((mean(&points) - mean(&thin)).abs() < 1e-9);
    }
}
