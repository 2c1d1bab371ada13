//! `report.html` of passkey retrieval.

use super::report::{PasskeysReport, Run};
use super::{curves, heatmap};
use crate::kit::format::{count, counted};
use crate::kit::page::{self, Page, Row, heading, headings, spec};
use crate::kit::picture::Figure;
use crate::kit::provenance::Provenance;
use maud::html;

/// The page, with the curves of all runs, and the name of each run's picture.
pub fn page(
    report: &PasskeysReport<'_>,
    curves: Option<&Figure>,
    pictures: &[String],
    made: &Provenance,
) -> String {
    let figure = |run: &Run| heatmap::figure(run, &report.model.name, report.train_length);
    let drawn = report.runs.iter().filter(|run| !run.cells.is_empty());
    let figures: Vec<Figure> = drawn.map(figure).collect();
    let data = [
        ("passkey.json", "everything on this page as data"),
        ("passkey.csv", "a line for each mitigation and cell"),
    ];
    let pictures = pictures
        .iter()
        .map(|name| (name.as_str(), "a heat map as a file of its own"));
    let curves_file = curves.map(|_| (curves::FILE, "the curves as a file of their own"));
    let files: Vec<(&str, &str)> = data.into_iter().chain(curves_file).chain(pictures).collect();
    let rows: Vec<Row> = report.runs.iter().map(row).collect();
    let names = [
        "mitigation",
        "more than 95 % found\nup to (tokens)",
        "found",
        "prompts",
        "seconds",
    ];
    let trained = report
        .train_length
        .map_or("of unknown training length".into(), |length| {
            format!("training length {} tokens", count(length))
        });
    Page {
        title: format!("Passkeys found by {}", report.model.name),
        facts: format!(
            "{}, {} parameters, {trained}; {} a cell, seed {}",
            report.model.architecture,
            count(report.model.parameters),
            counted(report.samples as u64, "prompt"),
            report.seed,
        ),
        summary: report.runs.iter().map(sentence).collect(),
        body: html! {
            (heading("Accuracy"))
            (page::table(&headings(names), &rows))
            (page::figures(curves.into_iter().chain(&figures)))
            (heading("How this was measured"))
            p {
                "Five digits are hidden in filler text, and the model is asked for them at the end. The answer is greedy, and right if the five \
                 digits occur in it. Every length is asked at places spread evenly from the beginning to the end of the text, "
                (counted(report.depths as u64, "row")) " of " (counted(report.samples as u64, "prompt")) " each."
            }
        },
        files: &files,
        specs: report.runs.iter().map(|run| run.mitigation.as_str()).collect(),
        made,
    }
    .render()
}

fn sentence(run: &Run) -> String {
    let name = match run.mitigation.as_str() {
        "none" => "The model alone",
        name => name,
    };
    if let Some(reason) = &run.stopped {
        return format!("{name}: {reason}.");
    }
    if !run.complete {
        return format!("{name}: interrupted; these are the answers so far.");
    }
    match run.recall_length {
        Some(length) => format!("{name}: more than 95 % are found up to {} tokens.", count(length)),
        None => format!("{name}: not more than 95 % are found at any length."),
    }
}

fn row(run: &Run) -> Row {
    let (correct, samples) = run
        .cells
        .iter()
        .fold((0, 0), |sum, cell| (sum.0 + cell.correct, sum.1 + cell.samples));
    let share = match samples {
        0 => "–".into(),
        samples => format!("{:.0} %", 100.0 * correct as f64 / samples as f64),
    };
    let numbers = [
        run.recall_length.map_or("none".into(), count),
        share,
        count(samples),
        format!("{:.1}", run.seconds),
    ];
    Row {
        cells: std::iter::once(spec(&run.mitigation))
            .chain(Row::of(numbers).cells)
            .collect(),
        is_apart: run.mitigation == "none",
    }
}
