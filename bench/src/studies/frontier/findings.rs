//! What the numbers of a frontier support, in sentences.

use super::report::{AskedReport, FrontierReport, Outcome, Point};
use crate::kit::format::{count, counted, list};
use crate::studies::estimate::{Estimate, Side};
use crate::studies::train_compare::report::Findings;
use crate::trial::NONE;

/// The sentences of a report.
pub fn findings(report: &FrontierReport) -> Findings {
    let mut found = Findings::default();
    let [done, all] = report.about.trainings;
    if done < all {
        let sentence =
            format!("{done} of {all} trainings are finished and asked: the frontier is not complete.");
        found.unsupported.push(sentence);
    }
    for model in 0..report.models.len() {
        solved(report, model, &mut found);
    }
    for mitigation in report.mitigations() {
        for asked in 0..report.asked.len() {
            price(report, mitigation, asked, &mut found);
        }
    }
    for model in 0..report.models.len() {
        order(report, model, &mut found);
    }
    found
}

/// Says from which size on a model solves the first question.
fn solved(report: &FrontierReport, model: usize, found: &mut Findings) {
    let (points, Some(asked)) = (report.alone(model), report.asked.first()) else {
        return;
    };
    let name = &report.models[model].0;
    let outcomes = points
        .iter()
        .filter_map(|point| Some((*point, point.answers.first()?)));
    let outcomes: Vec<(&Point, &Outcome)> = outcomes.collect();
    let threshold = percent(report.solved);
    if let Some((point, outcome)) = outcomes.iter().find(|(_, outcome)| solves(outcome)) {
        found.supported.push(format!(
            "{name} solves {} (accuracy from {threshold} on) in {} of {} from a state of {} on.",
            asked.question.name,
            outcome.solved,
            counted(outcome.counted.len() as u64, "training"),
            counted(point.state_bytes, "byte"),
        ));
        return;
    }
    let best = outcomes
        .iter()
        .max_by(|a, b| a.1.accuracy.mean.total_cmp(&b.1.accuracy.mean));
    if let Some((point, outcome)) = best {
        let guessing = match asked.guess {
            Some(guess) if !is_above(&outcome.accuracy, guess) => {
                format!(", not shown to be better than a guess ({})", percent(guess))
            }
            _ => String::new(),
        };
        found.unsupported.push(format!(
            "{name} does not solve {} in half of its trainings at any size tried; it comes to {} at {}{guessing}.",
            asked.question.name,
            accuracy(&outcome.accuracy),
            counted(point.state_bytes, "byte"),
        ));
    }
}

/// Whether at least half of the trainings have solved it.
pub fn solves(outcome: &Outcome) -> bool {
    outcome.solved > 0 && 2 * outcome.solved >= outcome.counted.len() as u64
}

fn is_above(estimate: &Estimate, bound: f64) -> bool {
    match estimate.interval {
        Some([low, _]) => low > bound,
        None => false,
    }
}

/// What a mitigation changes of the answers to one question, over models and sizes.
fn price(report: &FrontierReport, mitigation: &str, asked: usize, found: &mut Findings) {
    let under = report
        .points
        .iter()
        .filter(|point| point.mitigation == mitigation);
    let changes = under.filter_map(|point| Some((point, point.answers.get(asked)?.change.as_ref()?)));
    let changes: Vec<(&Point, &Estimate)> = changes.collect();
    if changes.is_empty() {
        return;
    }
    let question = &report.asked[asked].question.name;
    let named = |side: Side| {
        let points = changes.iter().filter(|(_, change)| change.side() == side);
        let named = points.map(|(point, change)| format!("{} {}", place(report, point), points_of(change)));
        named.collect::<Vec<String>>()
    };
    let (costs, gains) = (named(Side::Below), named(Side::Above));
    for (verb, named) in [("costs", &costs), ("gains", &gains)] {
        if !named.is_empty() {
            let sentence = format!("{mitigation} {verb} points of {question}: {}.", list(named));
            found.supported.push(sentence);
        }
    }
    let rest = changes.len() - costs.len() - gains.len();
    if rest > 0 {
        found.unsupported.push(format!(
            "In {rest} of {} no change of {question} by {mitigation} is shown: the interval over seeds holds 0, or there is none.",
            counted(changes.len() as u64, "case"),
        ));
    }
}

/// Whether it matters which of two lists comes first, at the largest size of a model.
fn order(report: &FrontierReport, model: usize, found: &mut Findings) {
    let points = report.alone(model);
    let Some(point) = points.last() else {
        return;
    };
    let name = &report.models[model].0;
    for (short, long) in turned(&report.asked) {
        let (Some(first), Some(other)) = (point.answers.get(short), point.answers.get(long)) else {
            continue;
        };
        let both = first.accuracy.values.iter().zip(&other.accuracy.values);
        let difference = Estimate::of(both.map(|(short, long)| short - long).collect());
        let words = format!(
            "{name} at {}: {} with the shorter list first, {} with the longer one",
            counted(point.state_bytes, "byte"),
            accuracy(&first.accuracy),
            accuracy(&other.accuracy),
        );
        let lists = format!(
            "({} and {})",
            report.asked[short].question.name, report.asked[long].question.name
        );
        match difference.side() {
            Side::Above | Side::Below => {
                let sentence = format!(
                    "{words} {lists}: a difference of {} points.",
                    points_of(&difference)
                );
                found.supported.push(sentence);
            }
            Side::Both | Side::Unknown => {
                let sentence = format!("{words} {lists}: no difference is shown.");
                found.unsupported.push(sentence);
            }
        }
    }
}

/// Places of questions about lists of the same two sizes, the shorter one first in the first of each two.
pub fn turned(asked: &[AskedReport]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for (short, one) in asked.iter().enumerate() {
        let Some(bound) = one.bound.filter(|bound| bound.first < bound.second) else {
            continue;
        };
        let is_turned = |other: &AskedReport| {
            other
                .bound
                .is_some_and(|other| (other.first, other.second) == (bound.second, bound.first))
        };
        if let Some(long) = asked.iter().position(is_turned) {
            pairs.push((short, long));
        }
    }
    pairs
}

fn place(report: &FrontierReport, point: &Point) -> String {
    let alone = report
        .points
        .iter()
        .find(|other| (other.model, other.size) == (point.model, point.size) && other.mitigation == NONE);
    let bytes = alone.map_or(point.state_bytes, |alone| alone.state_bytes);
    format!("{} at {} bytes", report.models[point.model].0, count(bytes))
}

/// A share in per cent.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// An accuracy with its interval, inside what accuracies can be.
pub fn accuracy(estimate: &Estimate) -> String {
    // Student's interval knows nothing of the ends of the scale.
    let interval = estimate.interval.map(|ends| ends.map(|end| end.clamp(0.0, 1.0)));
    let interval = interval.map(|[low, high]| format!(" ({:.1} to {:.1})", 100.0 * low, 100.0 * high));
    format!("{:.1} %", 100.0 * estimate.mean) + &interval.unwrap_or_default()
}

/// A difference of accuracies in points, with its interval.
pub fn points_of(change: &Estimate) -> String {
    let scaled = Estimate {
        values: Vec::new(),
        mean: 100.0 * change.mean,
        interval: change.interval.map(|ends| ends.map(|end| 100.0 * end)),
    };
    scaled.text()
}
