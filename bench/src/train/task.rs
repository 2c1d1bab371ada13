//! What a training on a task found, for people.

use super::record::Record;
use super::task_result::{metric, value, with_interval};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer};
use crate::kit::format::{count, short};
use crate::kit::ink::{Ink, Stroke};
use crate::kit::page::{self, Row, headings};
use crate::kit::picture::Figure;
use maud::{Markup, html};
use spillway_models::train::log::TaskEvent;
use spillway_models::train::task::{Metric, TaskResult};

const CHANCE: Stroke = Stroke {
    dash: "2 4",
    ..Stroke::plain(Ink::Series(4), 2.0)
};

/// Every evaluation of the task and of what else was asked; nothing where there is no task.
pub fn section(record: &Record) -> Markup {
    html! {
        @if !record.tasks.is_empty() {
            (page::heading("The task"))
            (table(record))
            (page::figures(&figures(record)))
        }
    }
}

fn table(record: &Record) -> Markup {
    let names = [
        "step",
        "asked",
        "examples",
        "metric",
        "value (95 %)",
        "chance",
        "all right",
        "loss",
    ];
    let rows: Vec<Row> = record
        .tasks
        .iter()
        .flat_map(|event| rows(event).collect::<Vec<_>>())
        .collect();
    html! {
        (page::table(&headings(names), &rows))
        p {
            "Examples that the model was not trained on. Chance is what the best answer gets that is always the same. The error is the mean \
             square error over the variance of the right answers. All right: share of the examples with no wrong answer."
        }
    }
}

fn rows(event: &TaskEvent) -> impl Iterator<Item = Row> {
    event.report.results.iter().map(|result| {
        let name = if result.name.is_empty() {
            "the task"
        } else {
            &result.name
        };
        let whole = result
            .whole
            .map_or("–".into(), |whole| value(Metric::Accuracy, whole));
        Row::of([
            count(event.step),
            name.to_string(),
            count(result.examples),
            metric(result.metric).to_string(),
            with_interval(result),
            value(result.metric, result.chance),
            whole,
            short(result.loss),
        ])
    })
}

/// The metric of each set of examples against step, beside chance.
fn figures(record: &Record) -> Vec<Figure> {
    let Some(last) = record.tasks.last().filter(|_| record.tasks.len() > 1) else {
        return Vec::new();
    };
    let Some(first) = last.report.results.first() else {
        return Vec::new();
    };
    let scale = match first.metric {
        Metric::Accuracy => 100.0,
        Metric::RelativeError => 1.0,
    };
    let line = |(place, result): (usize, &TaskResult)| {
        let of_event = |event: &TaskEvent| {
            let result = event.report.results.get(place)?;
            Some((event.step as f64, scale * result.value))
        };
        let name = if result.name.is_empty() {
            "the task"
        } else {
            &result.name
        };
        let points = record.tasks.iter().filter_map(of_event).collect();
        Layer::line(name, points, Stroke::nth(place))
    };
    let lines: Vec<Layer> = last.report.results.iter().enumerate().map(line).collect();
    let ends = [0.0, last.step as f64].map(|step| (step, scale * first.chance));
    let chance = Layer::line("chance", ends.to_vec(), CHANCE);
    let (y, caption) = match first.metric {
        Metric::Accuracy => (
            Axis::new("accuracy (%)", Scale::Linear).with(0.0).with(100.0),
            "Share of the right answers to examples that the model was not trained on.",
        ),
        Metric::RelativeError => (
            Axis::new("error over variance", Scale::Decimal),
            "Mean square error over the variance of the right answers, on examples that the model was not trained on.",
        ),
    };
    let chart = Chart {
        x: Axis::new("step", Scale::Whole).with(0.0),
        y,
        exponential: None,
        layers: std::iter::once(chance).chain(lines).collect(),
    };
    vec![Figure::new("Answers", caption, chart.draw())]
}
