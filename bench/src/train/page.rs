//! `report.html` of a training.

use super::figures;
use super::record::{Record, Summary};
use super::task;
use crate::error::ProgramError;
use crate::kit::format::{count, counted, duration, position};
use crate::kit::page::{self, Page, Row, heading, headings};
use crate::kit::provenance::Provenance;
use maud::{Markup, html};
use spillway_models::train::TrainConfig;

/// Files beside the page.
const FILES: [(&str, &str); 3] = [
    ("summary.json", "the figures on this page as data"),
    ("log.jsonl", "a line for every step and evaluation"),
    ("checkpoint/", "the model in its published layout"),
];

/// The page.
///
/// # Errors
/// [`ProgramError`] for a configuration that has no text form.
pub fn page(
    name: &str,
    record: &Record,
    summary: &Summary,
    config: &TrainConfig,
    made: &Provenance,
) -> Result<String, ProgramError> {
    let training: Vec<_> = std::iter::once(figures::loss(record))
        .chain(figures::steps(record))
        .collect();
    let positions = figures::positions(record, config.length as u64);
    let evaluations: Vec<_> = positions
        .into_iter()
        .chain(figures::evaluations(record))
        .collect();
    let body = html! {
        (heading("Training"))
        (page::figures(&training))
        (task::section(record))
        @if !record.evaluations.is_empty() {
            (heading("Beyond the training length"))
            (evaluated(record))
            (page::figures(&evaluations))
        }
        (heading("Time"))
        (time(summary))
        (page::figures([&figures::speed(record)]))
        (heading("Configuration"))
        p { "Every field, those with their default values too:" }
        pre { (config.to_toml()?) }
    };
    let unfinished = "Not finished: these are the steps so far; --resume goes on from here.";
    let unfinished = (!summary.complete).then(|| unfinished.to_string());
    let page = Page {
        title: format!("Training of {name}"),
        facts: format!(
            "{} ({}), {} parameters; {} of {} a step; seed {}",
            summary.architecture,
            summary.layout,
            count(summary.parameters),
            counted((config.sequences * config.accumulation) as u64, "sequence"),
            counted(config.length as u64, "token"),
            config.seed,
        ),
        summary: unfinished.into_iter().chain(summary.sentences()).collect(),
        body,
        files: &FILES,
        specs: Vec::new(),
        made,
    };
    Ok(page.render())
}

/// Every evaluation's loss in each bucket of position.
fn evaluated(record: &Record) -> Markup {
    let buckets = record
        .evaluations
        .last()
        .map_or(&[][..], |event| &event.report.positions);
    let range = |(start, end): (u64, u64)| format!("{}–{}", position(start as f64), position(end as f64));
    let ranges = buckets.iter().map(|bucket| range((bucket.start, bucket.end)));
    let names = std::iter::once("step".to_string())
        .chain(ranges)
        .chain(["collapses at".to_string()]);
    let row = |event: &spillway_models::train::log::EvaluationEvent| {
        let losses = event
            .report
            .positions
            .iter()
            .map(|bucket| format!("{:.3}", bucket.mean));
        let onset = match &event.report.collapse {
            Some(collapse) => collapse.perplexity.for_good.map_or("no collapse".into(), count),
            None => "–".into(),
        };
        Row::of(std::iter::once(count(event.step)).chain(losses).chain([onset]))
    };
    let rows: Vec<Row> = record.evaluations.iter().map(row).collect();
    html! {
        (page::table(&headings(names), &rows))
        p { "Mean loss in nats per token by position." }
    }
}

fn time(summary: &Summary) -> Markup {
    let seconds = &summary.seconds_by_part;
    let parts = [
        ("forward: the network and its loss", seconds.forward),
        ("backward: the gradients", seconds.backward),
        ("optimiser: clipping and AdamW", seconds.optimizer),
        ("data: reading the batches", seconds.data),
    ];
    let share = |part: f64| format!("{:.1} %", 100.0 * part / summary.seconds.max(f64::MIN_POSITIVE));
    let row = |(name, part): (&str, f64)| Row::of([name, &duration(part), &share(part)]);
    let all = Row {
        is_apart: true,
        ..Row::of(["all steps", &duration(summary.seconds), ""])
    };
    let rows: Vec<Row> = parts.into_iter().map(row).chain([all]).collect();
    html! {
        (page::table(&headings(["part of a step", "time", "share"]), &rows))
        @if summary.evaluation_seconds > 0.0 {
            p { "Evaluations took " (duration(summary.evaluation_seconds)) " beside that." }
        }
    }
}
