//! What a task was answered, in words.

use crate::kit::format::{counted, short};
use spillway_models::train::TaskReport;
use spillway_models::train::task::{Metric, TaskResult};

/// An evaluation in one line.
pub fn sentence(step: u64, report: &TaskReport) -> String {
    let each: Vec<String> = report.results.iter().map(result).collect();
    format!("Evaluated after {}: {}.", counted(step, "step"), each.join("; "))
}

fn result(result: &TaskResult) -> String {
    let name = match result.name.as_str() {
        "" => String::new(),
        name => format!("{name}: "),
    };
    let verdict = match result.is_better_than_chance() {
        true => "chance is",
        false => "no better than chance,",
    };
    format!(
        "{name}{} {} on {}, {verdict} {}",
        metric(result.metric),
        with_interval(result),
        counted(result.examples, "example"),
        value(result.metric, result.chance),
    )
}

/// The name of a metric.
pub fn metric(metric: Metric) -> &'static str {
    match metric {
        Metric::Accuracy => "accuracy",
        Metric::RelativeError => "error over variance",
    }
}

/// A value of a metric as people read it: per cent, or a plain number.
pub fn value(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Accuracy => format!("{:.1} %", 100.0 * value),
        Metric::RelativeError => short(value),
    }
}

/// A value with the ends of its interval.
pub fn with_interval(result: &TaskResult) -> String {
    let [low, middle, high] =
        [result.low, result.value, result.high].map(|bound| value(result.metric, bound));
    format!("{middle} ({low} to {high})")
}
