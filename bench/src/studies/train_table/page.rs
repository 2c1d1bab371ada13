//! `report.html`, `RESULTS.md`, `results.csv`, and the table on the terminal.

use super::report::{ArmReport, Asked, TableReport};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer, aside};
use crate::kit::format::count;
use crate::kit::ink::{Ink, MOST, Mark, Stroke};
use crate::kit::page::{self, Page, heading, sentences};
use crate::kit::provenance::Provenance;
use crate::studies::results::{Picture, SUPPORTED, Table, UNSUPPORTED, markdown_figures, markdown_sentences};
use crate::train::task_result::value;
use maud::html;
use spillway_models::train::task::Metric;
use std::io::{self, Write};

/// Files and folders beside the page.
const FILES: [(&str, &str); 5] = [
    ("results.json", "everything on this page as data"),
    ("results.csv", "a line for each evaluation of each training"),
    ("RESULTS.md", "the page in a few paragraphs"),
    ("figures/", "the pictures"),
    ("runs/", "the trainings"),
];

const CHANCE: Stroke = Stroke {
    dash: "2 4",
    ..Stroke::plain(Ink::Grey, 2.0)
};

const WORDS: &str = "Examples that no model was trained on. In brackets: 95 % intervals over seeds (Student's t), over examples where there is \
                     one seed. Chance is what the best answer gets that is always the same; an error is the mean square error over the \
                     variance of the right answers. Seconds are those of a training's steps.";

/// The table as one page of HTML.
pub fn page(report: &TableReport, pictures: &[Picture], made: &Provenance) -> String {
    let is_there = |name: &str| match name {
        "figures/" => !pictures.is_empty(),
        "runs/" => report.about.trainings[1] > 0,
        _ => true,
    };
    let files: Vec<(&str, &str)> = FILES.into_iter().filter(|file| is_there(file.0)).collect();
    let body = html! {
        (table(report).html())
        p { (WORDS) }
        (sentences(SUPPORTED, &report.findings.supported))
        (sentences(UNSUPPORTED, &report.findings.unsupported))
        @if !pictures.is_empty() { (heading("In the course of training")) }
        (page::figures(pictures.iter().map(|picture| &picture.figure)))
        (heading("What the arms change"))
        (settings(report).html())
        pre { (report.about.command) }
    };
    Page {
        title: report.about.title.clone(),
        facts: facts(report),
        summary: report.about.summary(),
        body,
        files: &files,
        specs: Vec::new(),
        made,
    }
    .render()
}

fn facts(report: &TableReport) -> String {
    match report.about.trainings {
        [_, 0] => "C by least squares, nothing else is trained".into(),
        _ => report.about.facts("steps and evaluations"),
    }
}

/// Every name of what is asked, in the order of the first arm that has it.
fn asked(report: &TableReport) -> Vec<&Asked> {
    let mut all: Vec<&Asked> = Vec::new();
    for asked in report.arms.iter().flat_map(|arm| &arm.asked) {
        if !all.iter().any(|other| other.name == asked.name) {
            all.push(asked);
        }
    }
    all
}

fn name(asked: &Asked) -> String {
    let metric = match asked.metric {
        Metric::Accuracy => "accuracy",
        Metric::RelativeError => "error",
    };
    match asked.name.as_str() {
        "" => metric.into(),
        name => format!("{metric}, {name}"),
    }
}

/// The table of a report: its headings, and a row for each arm.
fn table(report: &TableReport) -> Table {
    let asked = asked(report);
    let published = report.arms.iter().any(|arm| arm.published.is_some());
    let mut headings = vec!["arm".to_string(), "weights".into(), "seeds".into()];
    headings.extend(asked.iter().map(|asked| name(asked)));
    headings.push("chance".into());
    headings.extend(published.then(|| "published".to_string()));
    headings.push("seconds".into());
    let row = |arm: &ArmReport| {
        let of_task = arm.asked.first();
        let metric = of_task.map_or(Metric::Accuracy, |asked| asked.metric);
        let number = |number: Option<f64>| number.map_or("–".into(), |number| value(metric, number));
        let mut cells = vec![
            arm.name.clone(),
            match arm.parameters {
                0 => "–".into(),
                parameters => count(parameters),
            },
            arm.seeds.len().to_string(),
        ];
        let found = asked.iter().map(|asked| arm.last(&asked.name));
        cells.extend(found.map(|point| point.map_or("–".into(), |point| point.text())));
        cells.push(number(of_task.map(|asked| asked.chance)));
        cells.extend(published.then(|| number(arm.published)));
        cells.push(match arm.seeds.len() {
            0 => "–".into(),
            _ => format!("{:.0}", arm.seconds),
        });
        cells
    };
    Table {
        headings,
        rows: report.arms.iter().map(row).collect(),
    }
}

/// What the arms change of the training.
fn settings(report: &TableReport) -> Table {
    let row = |arm: &ArmReport| {
        let changes = arm.settings.iter();
        let changes: Vec<String> = changes
            .map(|(field, value)| format!("{field} = {value}"))
            .collect();
        let changes = match changes.as_slice() {
            [] => "nothing".into(),
            changes => changes.join(", "),
        };
        vec![arm.name.clone(), changes, count(arm.steps)]
    };
    let headings = ["arm", "change", "steps"].map(String::from).into();
    Table {
        headings,
        rows: report.arms.iter().map(row).collect(),
    }
}

/// Each set of examples in the course of training, where there was an evaluation before the last.
pub fn pictures(report: &TableReport) -> Vec<Picture> {
    let all = asked(report).into_iter().enumerate();
    all.filter_map(|(place, asked)| picture(report, place, asked))
        .collect()
}

fn picture(report: &TableReport, place: usize, asked: &Asked) -> Option<Picture> {
    let scale = match asked.metric {
        Metric::Accuracy => 100.0,
        Metric::RelativeError => 1.0,
    };
    let of_arm = |arm: &ArmReport| {
        let same = arm.asked.iter().find(|other| other.name == asked.name);
        same.map(|same| same.points.clone()).unwrap_or_default()
    };
    let courses: Vec<_> = report.arms.iter().map(of_arm).collect();
    let last = courses.iter().flatten().map(|point| point.step).max()? as f64;
    if !courses.iter().any(|points| points.len() > 1) {
        return None;
    }
    let ends = [0.0, last].map(|step| (step, scale * asked.chance));
    let mut layers = vec![Layer::line("chance", ends.to_vec(), CHANCE)];
    for (index, (arm, points)) in report.arms.iter().zip(&courses).enumerate() {
        let moved = 0.004 * last * aside(index, report.arms.len());
        let at = |step: u64| step as f64 + moved;
        let line = points
            .iter()
            .map(|point| (at(point.step), scale * point.value.mean));
        layers.push(Layer::line(&arm.name, line.collect(), Stroke::nth(index)));
        let bars = points.iter().filter_map(|point| {
            // Student's interval knows nothing of the ends of the scale.
            let most = match asked.metric {
                Metric::Accuracy => 1.0,
                Metric::RelativeError => f64::INFINITY,
            };
            let [low, high] = point.value.interval?.map(|end| end.clamp(0.0, most));
            (index < MOST).then(|| Layer::Interval {
                name: arm.name.clone(),
                x: at(point.step),
                low: Some(scale * low),
                high: Some(scale * high),
                ink: Stroke::nth(index).ink,
                mark: Mark::nth(index),
            })
        });
        layers.extend(bars);
    }
    let y = match asked.metric {
        Metric::Accuracy => Axis::new("accuracy (%)", Scale::Linear).with(0.0).with(100.0),
        Metric::RelativeError => Axis::new("error over variance", Scale::Decimal),
    };
    let chart = Chart {
        x: Axis::new("step", Scale::Whole).with(0.0),
        y,
        exponential: None,
        layers,
    };
    let title = match asked.name.as_str() {
        "" => "The task".to_string(),
        name => name.to_string(),
    };
    let file = match place {
        0 => "course".to_string(),
        place => format!("course-{place}"),
    };
    let caption = "Means over seeds in the course of training, on examples that no model was trained on. The bars are 95 % intervals over \
                   seeds (Student's t).";
    Some(Picture::new(file, title, caption, chart.draw()))
}

/// The table for the terminal.
pub fn text(report: &TableReport) -> String {
    format!("{}\n\n{}", report.about.title, table(report).markdown())
}

/// `RESULTS.md`: the page in a few paragraphs.
pub fn markdown(report: &TableReport, pictures: &[Picture]) -> String {
    let mut text = report.about.markdown(&facts(report));
    text += &format!("{}\n{WORDS}\n", table(report).markdown());
    text += &markdown_sentences(SUPPORTED, &report.findings.supported);
    text += &markdown_sentences(UNSUPPORTED, &report.findings.unsupported);
    text += &format!("\n## What the arms change\n\n{}", settings(report).markdown());
    match pictures {
        [] => text,
        pictures => text + &markdown_figures(pictures),
    }
}

/// `results.csv`: a line for each evaluation of each training.
///
/// # Errors
/// Those of writing.
pub fn write_csv(report: &TableReport, file: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record([
        "arm", "seed", "step", "asked", "metric", "value", "low", "high", "chance", "whole", "loss",
        "examples",
    ])?;
    for arm in &report.arms {
        for (asked, point) in arm
            .asked
            .iter()
            .flat_map(|asked| asked.points.iter().map(move |point| (asked, point)))
        {
            for (seed, result) in arm.seeds.iter().zip(&point.results) {
                let metric = match result.metric {
                    Metric::Accuracy => "accuracy",
                    Metric::RelativeError => "relative-error",
                };
                let number = |number: f64| format!("{number:.5}");
                csv.write_record([
                    arm.name.clone(),
                    seed.to_string(),
                    point.step.to_string(),
                    asked.name.clone(),
                    metric.into(),
                    number(result.value),
                    number(result.low),
                    number(result.high),
                    number(result.chance),
                    result.whole.map_or(String::new(), number),
                    number(result.loss),
                    result.examples.to_string(),
                ])?;
            }
        }
    }
    csv.flush()
}
