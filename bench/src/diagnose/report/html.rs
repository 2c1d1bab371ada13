//! `report.html`: one page that needs nothing else, no script, no network.

use super::chart::{Stroke, short};
use super::figures::{self, Figure};
use super::format::{bytes, count, factor, nats};
use super::{Report, RunReport};
use crate::diagnose::head_statistics::HeadSummary;
use crate::error::ProgramError;
use std::fmt::Write;

/// Rows of the table of heads.
const HEADS_LISTED: usize = 32;

const STYLE: &str = "\
:root{color-scheme:light}*{box-sizing:border-box}\
body{margin:0;background:#fff;color:#222;font:16px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
main{max-width:1120px;margin:0 auto;padding:32px 28px 64px}\
h1{font-size:26px;margin:0 0 4px}h2{font-size:20px;margin:44px 0 8px;border-bottom:1px solid #ddd;padding-bottom:6px}\
h3{font-size:16px;margin:0 0 6px}\
.facts{color:#555;margin:0 0 20px}.summary{background:#f4f7fb;border-left:4px solid #0072b2;padding:14px 20px;font-size:18px}\
.summary p{margin:0 0 8px}.summary p:last-child{margin:0}\
figure{margin:18px 0 0}figcaption{color:#555;font-size:14px;max-width:900px}\
.wide{display:flex;gap:20px;align-items:flex-start}.wide>svg{flex:0 0 760px;width:760px}\
.pairs{display:grid;grid-template-columns:1fr 1fr;gap:20px 28px}.pairs svg[role=img]{width:100%;height:auto}\
.legend{list-style:none;margin:8px 0 0;padding:0;font-size:14px}.legend li{white-space:nowrap;line-height:1.75}\
.pairs .legend{columns:3;margin:0 0 4px 56px}.legend svg{vertical-align:middle;margin-right:8px}\
table{border-collapse:collapse;font-size:15px;margin-top:10px}th,td{padding:5px 12px;text-align:right;border-bottom:1px solid #e6e6e6}\
th{font-weight:600;color:#444;vertical-align:bottom}th:first-child,td:first-child{text-align:left;padding-left:0}\
.scroll{overflow-x:auto}.dense{font-size:13px}.dense th,.dense td{padding:4px 6px}.alone td{background:#fafafa}code{font-size:.94em}\
pre{background:#f6f7f9;padding:12px 16px;overflow-x:auto;font-size:13.5px;line-height:1.45}\
svg text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
@media(max-width:860px){.pairs{grid-template-columns:1fr}.wide{display:block}.wide>svg{width:100%;height:auto}}";

/// The page.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn page(report: &Report) -> Result<String, ProgramError> {
    let mut body = String::new();
    head(&mut body, report);
    section(&mut body, "Loss");
    wide(&mut body, &figures::loss(report)?);
    figures::excess(report)?
        .iter()
        .for_each(|figure| wide(&mut body, figure));
    section(&mut body, "Mitigations");
    mitigations(&mut body, report);
    if !report.heads.is_empty() {
        section(&mut body, "Heads");
        heads(&mut body, report);
        let figures = figures::heads(report)?;
        let (wide_figures, pairs): (Vec<&Figure>, Vec<&Figure>) = figures
            .iter()
            .partition(|figure| figure.title == figures::NORM_MAP);
        wide_figures
            .into_iter()
            .for_each(|figure| wide(&mut body, figure));
        body.push_str("<div class=\"pairs\">");
        pairs.into_iter().for_each(|figure| small(&mut body, figure));
        body.push_str("</div>");
    }
    if report.model.sites.is_empty() {
        section(&mut body, "Heads");
        body.push_str("<p>The model has no recurrence: there are no heads to look into.</p>");
    }
    section(&mut body, "How this was measured");
    method(&mut body, report);
    Ok(document(&format!("Diagnosis of {}", report.model.name), &body))
}

/// A whole page.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n",
        escape(title)
    )
}

/// Adds text to a page.
pub fn push(body: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = body.write_fmt(text);
}

/// With the characters that HTML takes for its own replaced.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A heading.
pub fn section(body: &mut String, title: &str) {
    push(body, format_args!("\n<h2>{title}</h2>"));
}

fn head(body: &mut String, report: &Report) {
    let (model, method) = (&report.model, &report.method);
    push(
        body,
        format_args!("<h1>Diagnosis of {}</h1>", escape(&model.name)),
    );
    push(
        body,
        format_args!(
            "<p class=\"facts\">{}, {} parameters, {} layers; training length {} tokens ({}); read {} tokens of {}</p>",
            model.architecture,
            count(model.parameters),
            model.layers,
            count(method.train_length),
            source(method.train_length_source),
            count(method.length),
            escape(&method.text.name),
        ),
    );
    body.push_str("<div class=\"summary\">");
    report
        .summary
        .iter()
        .for_each(|sentence| push(body, format_args!("<p>{}</p>", escape(sentence))));
    body.push_str("</div>");
}

fn source(source: &str) -> &str {
    match source {
        "checkpoint" => "from the checkpoint",
        "assumed" => "assumed; --train-length says otherwise",
        option => option,
    }
}

fn legend(body: &mut String, entries: &[(String, Stroke)]) {
    body.push_str("<ul class=\"legend\">");
    for (name, Stroke { colour, dash, width }) in entries {
        let dash = dash.map_or(String::new(), |(dash, gap)| {
            format!(" stroke-dasharray=\"{dash} {gap}\"")
        });
        push(
            body,
            format_args!(
                "<li><svg width=\"34\" height=\"8\"><path d=\"M0 4H34\" stroke=\"rgb({},{},{})\" stroke-width=\"{width}\"{dash}/></svg>{}</li>",
                colour.0,
                colour.1,
                colour.2,
                escape(name),
            ),
        );
    }
    body.push_str("</ul>");
}

/// A figure with its legend beside it.
pub fn wide(body: &mut String, figure: &Figure) {
    push(
        body,
        format_args!(
            "\n<figure><h3>{}</h3><div class=\"wide\">{}",
            escape(&figure.title),
            figure.svg
        ),
    );
    legend(body, &figure.legend);
    push(
        body,
        format_args!(
            "</div><figcaption>{}</figcaption></figure>",
            escape(&figure.caption)
        ),
    );
}

/// A figure with its legend below it, for a grid of two columns.
pub fn small(body: &mut String, figure: &Figure) {
    push(
        body,
        format_args!("\n<figure><h3>{}</h3>{}", escape(&figure.title), figure.svg),
    );
    legend(body, &figure.legend);
    push(
        body,
        format_args!("<figcaption>{}</figcaption></figure>", escape(&figure.caption)),
    );
}

fn mitigations(body: &mut String, report: &Report) {
    body.push_str(
        "<div class=\"scroll\"><table><tr><th>mitigation, best first</th><th>loss<br>beyond</th><th>gain<br>beyond</th>\
         <th>excess<br>removed</th><th>loss<br>inside</th><th>price<br>inside</th><th>collapses at</th><th>tokens/s</th>\
         <th>state</th></tr>",
    );
    let ranked = report.ranking.iter().filter_map(|name| report.run(name));
    for run in ranked.chain(report.runs.first()) {
        mitigation_row(body, run);
    }
    body.push_str("</table></div>");
    push(
        body,
        format_args!(
            "<p>Mean losses in nats per token. <i>Beyond</i> and <i>inside</i> the training length of {} tokens; <i>gain</i> and <i>price</i> \
         are against the model alone on the same tokens; <i>excess</i> is what the model alone loses over <code>{}</code>; \
         <i>state</i> is the memory of one stream.</p>",
            count(report.method.train_length),
            escape(&report.method.baseline)
        ),
    );
    for skipped in &report.skipped {
        push(
            body,
            format_args!(
                "<p><code>{}</code> was left out: {}.</p>",
                escape(&skipped.mitigation),
                escape(&skipped.reason)
            ),
        );
    }
}

fn mitigation_row(body: &mut String, run: &RunReport) {
    let alone = run.mitigation == "none";
    let name = if alone {
        "the model alone".into()
    } else {
        format!("<code>{}</code>", escape(&run.mitigation))
    };
    let unfinished = if run.complete { "" } else { " (interrupted)" };
    let removed = run
        .standing
        .excess_removed
        .map_or("–".into(), |share| format!("{:.0} %", 100.0 * share));
    let of_others = |text: String| if alone { "–".into() } else { text };
    push(
        body,
        format_args!(
            "<tr{}><td>{name}{unfinished}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            if alone { " class=\"alone\"" } else { "" },
            nats(run.standing.beyond),
            of_others(nats(run.standing.gain)),
            of_others(removed),
            nats(run.standing.inside),
            of_others(nats(run.standing.price)),
            run.verdict.onset.map_or("no collapse".into(), count),
            count(run.tokens_per_second.round() as u64),
            bytes(run.state_bytes),
        ),
    );
}

/// A column of the table of heads that only some models have: its heading, and its cells.
type Extra = (&'static str, fn(&HeadSummary) -> Option<String>);

const EXTRAS: [Extra; 5] = [
    ("slowest key<br>(tokens)", |head| {
        let log_decay = head.gates.slowest_key_log_decay?;
        Some(match log_decay < 0.0 {
            true => count((-1.0 / log_decay).round() as u64),
            false => "no decay".into(),
        })
    }),
    ("erased<br>by a token", |head| {
        head.gates.erase_inside.map(|share| format!("{share:.2}"))
    }),
    ("read-out<br>inside, at the end", |head| {
        let (inside, end) = (head.gates.read_out_inside?, head.gates.read_out_end?);
        Some(format!("{},&nbsp;{}", short(inside), short(end)))
    }),
    ("top&nbsp;1&nbsp;%<br>inside", |head| {
        (head.measure == "norm").then(|| format!("{:.0} %", 100.0 * head.top_square_share_inside))
    }),
    ("top&nbsp;1&nbsp;%<br>at the end", |head| {
        (head.measure == "norm").then(|| format!("{:.0} %", 100.0 * head.top_square_share_end))
    }),
];

fn heads(body: &mut String, report: &Report) {
    let listed = || report.heads.iter().take(HEADS_LISTED);
    let extras: Vec<&Extra> = EXTRAS
        .iter()
        .filter(|(_, cell)| listed().any(|head| cell(head).is_some()))
        .collect();
    let headings: String = extras
        .iter()
        .map(|(heading, _)| format!("<th>{heading}</th>"))
        .collect();
    let size = match listed().next().map(|head| head.measure) {
        Some("weight") => "weights",
        _ => "norm",
    };
    push(
        body,
        format_args!(
            "<div class=\"scroll\"><table><tr><th>head, first to leave its range first</th><th>leaves at</th><th>{size} inside,<br>largest</th>\
             <th>{size}<br>at the end</th><th>growth</th><th>kept over<br>training length</th><th>retention time<br>(tokens)</th>\
             {headings}</tr>",
        ),
    );
    for head in listed() {
        let cells: String = extras
            .iter()
            .map(|(_, cell)| format!("<td>{}</td>", cell(head).unwrap_or_else(|| "–".into())))
            .collect();
        head_row(body, head, &cells);
    }
    body.push_str("</table></div>");
    if report.heads.len() > HEADS_LISTED {
        push(
            body,
            format_args!(
                "<p>{} more heads are in retention.csv.</p>",
                report.heads.len() - HEADS_LISTED
            ),
        );
    }
}

fn head_row(body: &mut String, head: &HeadSummary, extras: &str) {
    push(
        body,
        format_args!(
            "<tr><td>layer {} head {}</td><td>{}</td><td>{}</td><td>{}</td><td>{} x</td><td>{:.3}</td><td>{}</td>{extras}</tr>",
            head.layer,
            head.head,
            head.exit.map_or("stays".into(), count),
            short(head.norm_inside),
            short(head.norm_end),
            factor(head.growth),
            head.retention.kept_over_train_length,
            head.retention
                .retention_time
                .map_or("no decay".into(), |time| count(time.round() as u64)),
        ),
    );
}

fn method(body: &mut String, report: &Report) {
    let (method, published) = (&report.method, &report.verdict.published);
    let long = method
        .streams
        .iter()
        .filter(|stream| stream.length == method.length)
        .count();
    let short = method.streams.len() - long;
    push(
        body,
        format_args!("<p><b>Verdict.</b> {}.</p>", escape(&report.verdict.rule)),
    );
    push(
        body,
        format_args!(
            "<p><b>The published criterion</b> compares the largest bucket beyond the training length ({:.3} nats) with the largest inside ({:.3}), \
         with no account of the text: {:.2} times in loss, {} times in perplexity.</p>",
            published.loss_beyond,
            published.loss_inside,
            published.loss_ratio,
            factor(published.perplexity_ratio),
        ),
    );
    push(
        body,
        format_args!(
            "<p><b>Streams.</b> {long} of {} tokens{}, each from an empty state at its own place of the text; the state is carried throughout. \
         Weights in {}, {} threads. Losses at position t are those of predicting a token from the t + 1 before it.</p>",
            count(method.length),
            if short > 0 {
                format!(
                    " and {short} of {} tokens",
                    count(method.streams.last().map_or(0, |s| s.length))
                )
            } else {
                String::new()
            },
            escape(&method.dtype),
            method.threads,
        ),
    );
    body.push_str(
        "<p><b>Heads.</b> A head leaves its in-window range at the first look beyond the training length where the norm of its state \
         exceeds twice the largest seen inside, and stays above at every later look; in a weighted mean the sum of its weights takes \
         the norm's place. In a delta rule, what a token keeps is the root mean square over directions. States are looked at eight times inside \
         the training length and eight times to a doubling beyond it, over the long streams of the model alone.</p>\
         <p><b>Files.</b> report.json holds everything on this page as data; loss.csv, mitigations.csv, heads.csv, retention.csv and gates.csv \
         hold the curves.</p>",
    );
}
