//! `report.html` of a training.

use super::figures;
use super::record::{Record, Summary, duration};
use crate::diagnose::report::format::{count, position};
use crate::diagnose::report::html::{document, escape, push, section, small, wide};
use crate::error::ProgramError;
use models::train::TrainConfig;

/// The page.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn page(
    name: &str,
    record: &Record,
    summary: &Summary,
    config: &TrainConfig,
) -> Result<String, ProgramError> {
    let mut body = String::new();
    head(&mut body, name, summary, config);
    section(&mut body, "Training");
    wide(&mut body, &figures::loss(record)?);
    body.push_str("<div class=\"pairs\">");
    for figure in figures::steps(record)? {
        small(&mut body, &figure);
    }
    body.push_str("</div>");
    if !record.evaluations.is_empty() {
        section(&mut body, "Beyond the training length");
        let train_length = config.length as u64;
        if let Some(figure) = figures::positions(record, train_length)? {
            wide(&mut body, &figure);
        }
        body.push_str("<div class=\"scroll\">");
        evaluations(&mut body, record);
        body.push_str("</div>");
        body.push_str("<div class=\"pairs\">");
        for figure in figures::evaluations(record)? {
            small(&mut body, &figure);
        }
        body.push_str("</div>");
    }
    section(&mut body, "Time");
    body.push_str("<div class=\"pairs\"><div>");
    time(&mut body, summary);
    body.push_str("</div>");
    small(&mut body, &figures::speed(record)?);
    body.push_str("</div>");
    section(&mut body, "Command and configuration");
    configuration(&mut body, summary, config)?;
    Ok(document(&format!("Training of {name}"), &body))
}

fn head(body: &mut String, name: &str, summary: &Summary, config: &TrainConfig) {
    push(body, format_args!("<h1>Training of {}</h1>", escape(name)));
    push(
        body,
        format_args!(
            "<p class=\"facts\">{} ({}), {} parameters; {} sequences of {} tokens a step; seed {}</p>",
            escape(&summary.architecture),
            escape(&summary.layout),
            count(summary.parameters),
            count((config.sequences * config.accumulation) as u64),
            count(config.length as u64),
            config.seed,
        ),
    );
    body.push_str("<div class=\"summary\">");
    if !summary.complete {
        body.push_str("<p>Not finished: these are the steps so far; --resume goes on from here.</p>");
    }
    for sentence in summary.sentences() {
        push(body, format_args!("<p>{}</p>", escape(&sentence)));
    }
    body.push_str("</div>");
}

/// Every evaluation's loss in each bucket of position.
fn evaluations(body: &mut String, record: &Record) {
    let buckets = record
        .evaluations
        .last()
        .map_or(&[][..], |event| &event.report.positions);
    let headings: String = buckets
        .iter()
        .map(|bucket| {
            format!(
                "<th>{}–{}</th>",
                position(bucket.start as f64),
                position(bucket.end as f64)
            )
        })
        .collect();
    push(
        body,
        format_args!("<table class=\"dense\"><tr><th>step</th>{headings}<th>collapses at</th></tr>"),
    );
    for event in &record.evaluations {
        let losses: String = event
            .report
            .positions
            .iter()
            .map(|bucket| format!("<td>{:.3}</td>", bucket.mean))
            .collect();
        let onset = match &event.report.collapse {
            Some(collapse) => collapse.perplexity.for_good.map_or("no collapse".into(), count),
            None => "–".into(),
        };
        push(
            body,
            format_args!("<tr><td>{}</td>{losses}<td>{onset}</td></tr>", count(event.step)),
        );
    }
    body.push_str("</table><p>Mean loss in nats per token by position.</p>");
}

fn time(body: &mut String, summary: &Summary) {
    let seconds = &summary.seconds_by_part;
    body.push_str("<table><tr><th>part of a step</th><th>time</th><th>share</th></tr>");
    for (name, part) in [
        ("forward: the network and its loss", seconds.forward),
        ("backward: the gradients", seconds.backward),
        ("optimiser: clipping and AdamW", seconds.optimizer),
        ("data: reading the batches", seconds.data),
    ] {
        let share = 100.0 * part / summary.seconds.max(f64::MIN_POSITIVE);
        push(
            body,
            format_args!(
                "<tr><td>{name}</td><td>{}</td><td>{share:.1} %</td></tr>",
                duration(part)
            ),
        );
    }
    push(
        body,
        format_args!(
            "<tr class=\"alone\"><td>all steps</td><td>{}</td><td></td></tr></table>",
            duration(summary.seconds)
        ),
    );
    if summary.evaluation_seconds > 0.0 {
        push(
            body,
            format_args!(
                "<p>Evaluations took {} beside that.</p>",
                duration(summary.evaluation_seconds)
            ),
        );
    }
}

fn configuration(body: &mut String, summary: &Summary, config: &TrainConfig) -> Result<(), ProgramError> {
    push(
        body,
        format_args!(
            "<pre>{}</pre><p>Every field, those with their default values too:</p><pre>{}</pre>",
            escape(&summary.command),
            escape(&config.to_toml()?)
        ),
    );
    body.push_str(
        "<p><b>Files.</b> checkpoint/ is the model in its published layout; log.jsonl has a line for every step and evaluation; \
         summary.json holds the figures above as data; snapshot.safetensors is what --resume goes on from.</p>",
    );
    Ok(())
}
