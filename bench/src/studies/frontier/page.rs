//! `report.html`, `RESULTS.md`, `results.csv`, and the table on the terminal.

use super::findings::{accuracy, percent, points_of};
use super::report::{FrontierReport, Point};
use crate::kit::format::{bytes, count, short};
use crate::kit::page::{self, Page, heading, sentences};
use crate::kit::provenance::Provenance;
use crate::studies::results::{Picture, SUPPORTED, Table, UNSUPPORTED, markdown_figures, markdown_sentences};
use crate::trial::NONE;
use maud::html;
use std::io::{self, Write};

/// Files and folders beside the page.
const FILES: [(&str, &str); 5] = [
    ("results.json", "everything on this page as data"),
    (
        "results.csv",
        "a line for each question to each training under each mitigation",
    ),
    ("RESULTS.md", "the page in a few paragraphs"),
    ("figures/", "the pictures"),
    ("runs/", "the trainings"),
];

const WORDS: &str = "Sequences that no model was trained on, the same for all. In brackets: 95 % intervals over seeds, Student's t for accuracies and \
                     Wilson's for the share of trainings that solve what is asked first. A state is that of one sequence after the longest that is asked, \
                     in f32, with short convolutions and the keys and values that there are by then. Speeds are of one sequence at a time, with the weights of \
                     the first seed, when all trainings are done.";

const PRICE: &str = "The same trained models, asked again under a mitigation. The change is in points of accuracy, seed by seed; below zero it is what the \
                     mitigation costs. Bytes are those of the state with what the mitigation keeps beside it.";

const CHOICE: &str = "Each size is trained with every learning rate. What is reported is the rate whose models come to most, in the mean over seeds, on other \
     sequences than those reported.";

/// The frontier as one page of HTML.
pub fn page(report: &FrontierReport, pictures: &[Picture], made: &Provenance) -> String {
    let (price, choice) = (price_table(report), choice_table(report));
    let is_there = |name: &str| name != "runs/" || report.about.trainings[0] > 0;
    let files: Vec<(&str, &str)> = FILES.into_iter().filter(|file| is_there(file.0)).collect();
    let mut specs = report.mitigations();
    specs.sort_unstable();
    let body = html! {
        (page::figures(pictures.iter().map(|picture| &picture.figure)))
        (heading("Every model in every size"))
        (main_table(report).html())
        p { (WORDS) }
        @if !price.rows.is_empty() {
            (heading("What mitigations cost"))
            (price.html())
            p { (PRICE) }
        }
        (sentences(SUPPORTED, &report.findings.supported))
        (sentences(UNSUPPORTED, &report.findings.unsupported))
        (heading("What is asked"))
        (asked_table(report).html())
        @if !choice.rows.is_empty() {
            (heading("Learning rates"))
            (choice.html())
            p { (CHOICE) }
        }
        (heading("Sizes"))
        (size_table(report).html())
        pre { (report.about.command) }
    };
    Page {
        title: report.about.title.clone(),
        facts: report.about.facts("steps"),
        summary: report.about.summary(),
        body,
        files: &files,
        specs,
        made,
    }
    .render()
}

/// Points in the order of models and states, without those that a mitigation refuses.
fn rows<'a>(report: &'a FrontierReport, mitigations: &[&str]) -> Vec<&'a Point> {
    let mut points = Vec::new();
    for model in 0..report.models.len() {
        for alone in report.alone(model) {
            for mitigation in mitigations {
                points.extend(report.points.iter().filter(|point| {
                    (point.model, point.size) == (alone.model, alone.size) && point.mitigation == *mitigation
                }));
            }
        }
    }
    points
}

/// A speed of a point, where it was measured.
type Speed = fn(&Point) -> Option<f64>;

fn main_table(report: &FrontierReport) -> Table {
    let mut headings = ["model", "state", "weights", "seeds"].map(String::from).to_vec();
    headings.extend(report.asked.iter().map(|asked| asked.question.name.clone()));
    headings.push("solved".into());
    let is_timed = |of: Speed| report.points.iter().any(|point| of(point).is_some());
    let speeds: [(&str, Speed); 2] = [
        ("decoded\ntokens/s", |point| point.decode_tokens_per_second),
        ("prompt\ntokens/s", |point| point.prefill_tokens_per_second),
    ];
    let speeds: Vec<_> = speeds.into_iter().filter(|(_, of)| is_timed(*of)).collect();
    headings.extend(speeds.iter().map(|(name, _)| name.to_string()));
    headings.push("seconds of\ntraining".into());
    let row = |point: &&Point| {
        let mut cells = vec![
            report.models[point.model].0.clone(),
            bytes(point.state_bytes),
            count(point.parameters),
            point.seeds.len().to_string(),
        ];
        cells.extend(point.answers.iter().map(|outcome| accuracy(&outcome.accuracy)));
        cells.push(point.answers.first().map_or("–".into(), |first| {
            let [low, high] = first.solved_interval;
            format!(
                "{} of {} ({} to {})",
                first.solved,
                first.counted.len(),
                percent(low),
                percent(high)
            )
        }));
        cells.extend(
            speeds
                .iter()
                .map(|(_, of)| of(point).map_or("–".into(), |speed| count(speed.round() as u64))),
        );
        cells.push(format!("{:.0}", point.seconds));
        cells
    };
    let points = rows(report, &[NONE]);
    Table {
        headings,
        rows: points.iter().map(row).collect(),
    }
}

fn price_table(report: &FrontierReport) -> Table {
    let mut headings = ["model", "mitigation", "state"].map(String::from).to_vec();
    for asked in &report.asked {
        headings.push(asked.question.name.clone());
        headings.push("change\n(points)".into());
    }
    let row = |point: &&Point| {
        let mut cells = vec![report.models[point.model].0.clone(), point.mitigation.clone()];
        match &point.refused {
            Some(reason) => {
                cells.push("–".into());
                cells.push(format!("refused: {reason}"));
                cells.resize(headings.len(), String::new());
            }
            None => cells.push(bytes(point.state_bytes)),
        }
        for outcome in &point.answers {
            cells.push(accuracy(&outcome.accuracy));
            cells.push(outcome.change.as_ref().map_or(String::new(), points_of));
        }
        cells
    };
    let mitigations = report.mitigations();
    let all: Vec<&str> = std::iter::once(NONE).chain(mitigations.iter().copied()).collect();
    let points = match mitigations.is_empty() {
        true => Vec::new(),
        false => rows(report, &all),
    };
    let rows = points.iter().map(row).collect();
    Table { headings, rows }
}

fn asked_table(report: &FrontierReport) -> Table {
    let lists = report.asked.iter().any(|asked| asked.bound.is_some());
    let mut headings = ["asked", "tokens", "sequences", "a guess among\nwhat was told"]
        .map(String::from)
        .to_vec();
    if lists {
        headings.push("least bytes,\nfirst list first".into());
        headings.push("least bytes,\nbetter order".into());
    }
    let rows = report.asked.iter().map(|asked| {
        let mut cells = vec![
            asked.question.name.clone(),
            count(asked.question.length as u64),
            count(asked.question.sequences as u64),
            asked
                .guess
                .map_or("–".into(), |guess| format!("{:.1} %", 100.0 * guess)),
        ];
        if lists {
            let bound = |of: fn(&super::report::Bound) -> f64| {
                asked
                    .bound
                    .as_ref()
                    .map_or("–".into(), |bound| format!("{:.1}", of(bound)))
            };
            cells.push(bound(|bound| bound.causal_bytes));
            cells.push(bound(|bound| bound.better_order_bytes));
        }
        cells
    });
    Table {
        headings,
        rows: rows.collect(),
    }
}

fn choice_table(report: &FrontierReport) -> Table {
    let headings = [
        "model",
        "state",
        "accuracy by learning rate, on other sequences",
        "taken",
    ];
    let points = rows(report, &[NONE]);
    let row = |point: &&Point| {
        let rate = point.learning_rate?;
        let tried = point.choice.iter().map(|(rate, value)| {
            let value = value.map_or("–".into(), |value| format!("{:.1} %", 100.0 * value));
            format!("{}: {value}", short(*rate))
        });
        (point.choice.len() > 1).then(|| {
            vec![
                report.models[point.model].0.clone(),
                bytes(point.state_bytes),
                tried.collect::<Vec<_>>().join(", "),
                short(rate),
            ]
        })
    };
    Table {
        headings: headings.map(String::from).to_vec(),
        rows: points.iter().filter_map(row).collect(),
    }
}

fn size_table(report: &FrontierReport) -> Table {
    let row = |point: &&Point| {
        let settings = point.settings.iter();
        let settings: Vec<String> = settings
            .map(|(field, value)| format!("{field} = {value}"))
            .collect();
        vec![
            report.models[point.model].0.clone(),
            count(point.state_bytes),
            settings.join(", "),
        ]
    };
    let headings = ["model", "bytes of state", "what the size changes"];
    let points = rows(report, &[NONE]);
    Table {
        headings: headings.map(String::from).to_vec(),
        rows: points.iter().map(row).collect(),
    }
}

/// The table for the terminal.
pub fn text(report: &FrontierReport) -> String {
    let price = price_table(report);
    let price = match price.rows.is_empty() {
        true => String::new(),
        false => format!("\n{}", price.markdown()),
    };
    format!(
        "{}\n\n{}{price}",
        report.about.title,
        main_table(report).markdown()
    )
}

/// `RESULTS.md`: the page in a few paragraphs.
pub fn markdown(report: &FrontierReport, pictures: &[Picture]) -> String {
    let mut text = report.about.markdown(&report.about.facts("steps"));
    let mut add = |title: &str, table: Table, words: &str| {
        if !table.rows.is_empty() {
            text += title;
            text += &table.markdown();
            text += words;
        }
    };
    add("", main_table(report), &format!("\n{WORDS}\n"));
    add(
        "\n## What mitigations cost\n\n",
        price_table(report),
        &format!("\n{PRICE}\n"),
    );
    add("\n## What is asked\n\n", asked_table(report), "");
    add(
        "\n## Learning rates\n\n",
        choice_table(report),
        &format!("\n{CHOICE}\n"),
    );
    text += &markdown_sentences(SUPPORTED, &report.findings.supported);
    text += &markdown_sentences(UNSUPPORTED, &report.findings.unsupported);
    text + &markdown_figures(pictures)
}

/// `results.csv`: a line for each question to each training under each mitigation.
///
/// # Errors
/// Those of writing.
pub fn write_csv(report: &FrontierReport, file: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record([
        "model",
        "size",
        "learning_rate",
        "mitigation",
        "state_bytes",
        "parameters",
        "seed",
        "asked",
        "questions",
        "right",
        "accuracy",
        "sequences",
        "whole",
        "solved",
    ])?;
    for point in &report.points {
        for (asked, outcome) in report.asked.iter().zip(&point.answers) {
            for (seed, counted) in point.seeds.iter().zip(&outcome.counted) {
                let accuracy = counted.accuracy();
                csv.write_record([
                    report.models[point.model].0.clone(),
                    (point.size + 1).to_string(),
                    point.learning_rate.map_or(String::new(), |rate| rate.to_string()),
                    point.mitigation.clone(),
                    point.state_bytes.to_string(),
                    point.parameters.to_string(),
                    seed.to_string(),
                    asked.question.name.clone(),
                    counted.asked.to_string(),
                    counted.right.to_string(),
                    format!("{accuracy:.5}"),
                    counted.sequences.to_string(),
                    counted.whole.to_string(),
                    (accuracy >= report.solved).to_string(),
                ])?;
            }
        }
    }
    csv.flush()
}
