//! The page of a diagnosis: `report.html`.

use super::{DiagnosisReport, RunReport, figures};
use crate::kit::format::{bytes, count, counted, factor, nats, short};
use crate::kit::page::{self, Page, Row, heading, headings, spec};
use crate::kit::provenance::Provenance;
use maud::{Markup, html};
use spillway_models::evaluation::diagnosis::heads::HeadSummary;

/// Rows of the table of heads.
const HEADS_LISTED: usize = 32;

/// Files beside the page.
const FILES: [(&str, &str); 6] = [
    ("report.json", "everything on this page as data"),
    ("loss.csv", "mean loss per run and bucket of position"),
    (
        "mitigations.csv",
        "one row per run: verdict, price, gain, speed, memory",
    ),
    ("heads.csv", "the state of a head at every sample"),
    (
        "retention.csv",
        "one row per head: retention time, when it leaves its range, growth",
    ),
    (
        "gates.csv",
        "decays, step sizes, values, insertions, read-outs and keys between the samples",
    ),
];

/// The report as one page of HTML.
pub fn page(report: &DiagnosisReport, made: &Provenance) -> String {
    let losses: Vec<_> = std::iter::once(figures::loss(report))
        .chain(figures::excess(report))
        .collect();
    let body = html! {
        (heading("Loss"))
        (page::figures(&losses))
        (heading("Mitigations"))
        (mitigations(report))
        (heading("Heads"))
        @if report.model.sites.is_empty() {
            p { "The model has no recurrence over keys and values: there are no heads to look into." }
        } @else if report.heads.is_empty() {
            p { "No head has been looked at yet." }
        } @else {
            (heads(report))
            (page::figures(&figures::heads(report)))
        }
        (heading("How this was measured"))
        (method(report))
    };
    let (model, method) = (&report.model, &report.method);
    let title = format!("Diagnosis of {}", model.name);
    let facts = format!(
        "{}, {} parameters, {}; training length {} tokens ({}); read {} tokens of {}",
        model.architecture,
        count(model.parameters),
        counted(model.layers as u64, "layer"),
        count(method.train_length),
        source(method.train_length_source),
        count(method.length),
        method.text.name,
    );
    let skipped = report.skipped.iter().map(|skipped| skipped.mitigation.as_str());
    Page {
        title,
        facts,
        summary: report.summary.clone(),
        body,
        files: &FILES,
        specs: report
            .runs
            .iter()
            .map(|run| run.mitigation.as_str())
            .chain(skipped)
            .collect(),
        made,
    }
    .render()
}

fn source(source: &str) -> &str {
    match source {
        "checkpoint" => "from the checkpoint",
        "assumed" => "assumed; --train-length says otherwise",
        option => option,
    }
}

fn mitigations(report: &DiagnosisReport) -> Markup {
    let ranked = report.ranking.iter().filter_map(|name| report.run(name));
    let rows: Vec<Row> = ranked.chain(report.runs.first()).map(mitigation_row).collect();
    let names = [
        "mitigation, best first",
        "loss\nbeyond",
        "gain\nbeyond",
        "excess\nremoved",
        "loss\ninside",
        "price\ninside",
        "collapses at",
        "tokens/s",
        "state",
    ];
    html! {
        (page::table(&headings(names), &rows))
        p {
            "Mean losses in nats per token. " i { "Beyond" } " and " i { "inside" } " the training length of "
            (count(report.method.train_length)) " tokens; " i { "gain" } " and " i { "price" }
            " are against the model alone on the same tokens; " i { "excess" } " is what the model alone loses over "
            code { (report.method.baseline) } "; " i { "collapses at" } " is a position in tokens; " i { "state" } " is the memory of one stream."
        }
        @if let Some(command) = &report.try_it {
            p { "To continue a prompt with the cure in place:" }
            pre { (command) }
        }
        @for skipped in &report.skipped { p { code { (skipped.mitigation) } " was left out: " (skipped.reason) "." } }
    }
}

fn mitigation_row(run: &RunReport) -> Row {
    let alone = run.mitigation == "none";
    let removed = run
        .found
        .standing
        .excess_removed
        .map_or("–".into(), |share| format!("{:.0} %", 100.0 * share));
    let of_others = |text: String| if alone { "–".into() } else { text };
    let onset = match run.found.verdict.complete {
        true => run.found.verdict.onset.map_or("no collapse".into(), count),
        false => "not known yet".into(),
    };
    let cells = [
        nats(run.found.standing.beyond),
        of_others(nats(run.found.standing.gain)),
        of_others(removed),
        nats(run.found.standing.inside),
        of_others(nats(run.found.standing.price)),
        onset,
        count(run.found.tokens_per_second.round() as u64),
        bytes(run.found.state_bytes),
    ];
    let name = html! { (spec(&run.mitigation)) @if !run.found.complete { " (interrupted)" } };
    Row {
        cells: std::iter::once(name).chain(Row::of(cells).cells).collect(),
        is_apart: alone,
    }
}

/// A column of the table of heads that only some models have: its heading, and its cells.
type Extra = (&'static str, fn(&HeadSummary) -> Option<String>);

const EXTRAS: [Extra; 7] = [
    ("slowest key\n(tokens)", |head| {
        let log_decay = head.gates.slowest_key_log_decay?;
        Some(match log_decay < 0.0 {
            true => count((-1.0 / log_decay).round() as u64),
            false => "no decay".into(),
        })
    }),
    ("erased\nby a token", |head| {
        head.gates.erase_inside.map(|share| format!("{share:.2}"))
    }),
    ("read-out\ninside, at the end", |head| {
        let (inside, end) = (head.gates.read_out_inside?, head.gates.read_out_end?);
        Some(format!("{}, {}", short(inside), short(end)))
    }),
    ("effective rank\ninside, at the end", |head| {
        let usage = head.usage;
        let rank = |rank: Option<f64>| rank.map_or("–".into(), |rank| format!("{rank:.1}"));
        let inside = usage.effective_rank_inside?;
        Some(format!(
            "{}, {}",
            rank(Some(inside)),
            rank(usage.effective_rank_end)
        ))
    }),
    ("effective\nstate size", |head| {
        head.usage.effective_size.map(|size| format!("{size:.1}"))
    }),
    ("top 1 %\ninside", |head| {
        (head.measure == "norm").then(|| format!("{:.0} %", 100.0 * head.top_square_share_inside))
    }),
    ("top 1 %\nat the end", |head| {
        (head.measure == "norm").then(|| format!("{:.0} %", 100.0 * head.top_square_share_end))
    }),
];

fn heads(report: &DiagnosisReport) -> Markup {
    let listed = || report.heads.iter().take(HEADS_LISTED);
    let extras: Vec<&Extra> = EXTRAS
        .iter()
        .filter(|(_, cell)| listed().any(|head| cell(head).is_some()))
        .collect();
    let size = match listed().next().map(|head| head.measure) {
        Some("weight") => "weights",
        _ => "norm",
    };
    let mut names = headings([
        "head, first to leave its range first",
        "leaves at",
        &format!("{size} inside,\nlargest"),
        &format!("{size}\nat the end"),
        "growth",
        "kept over\ntraining length",
        "retention time\n(tokens)",
    ]);
    names.extend(headings(extras.iter().map(|(heading, _)| heading)));
    let rows: Vec<Row> = listed().map(|head| head_row(head, &extras)).collect();
    let more = report.heads.len().saturating_sub(HEADS_LISTED);
    html! {
        (page::table(&names, &rows))
        @if more > 0 {
            p { (counted(more as u64, "more head")) " " (if more == 1 { "is" } else { "are" }) " in retention.csv." }
        }
    }
}

fn head_row(head: &HeadSummary, extras: &[&Extra]) -> Row {
    let retention = head.retention.retention_time;
    let cells = [
        format!("layer {} head {}", head.layer, head.head),
        head.exit.map_or("stays".into(), count),
        short(head.norm_inside),
        short(head.norm_end),
        format!("{} ×", factor(head.growth)),
        format!("{:.3}", head.retention.kept_over_train_length),
        retention.map_or("no decay".into(), |time| count(time.round() as u64)),
    ];
    let extras = extras
        .iter()
        .map(|(_, cell)| cell(head).unwrap_or_else(|| "–".into()));
    Row::of(cells.into_iter().chain(extras))
}

fn method(report: &DiagnosisReport) -> Markup {
    let (method, published) = (&report.method, &report.verdict.published);
    let long = method
        .streams
        .iter()
        .filter(|stream| stream.length == method.length)
        .count();
    let short = method.streams.len() - long;
    html! {
        p { b { "Verdict." } " " (report.verdict.rule) "." }
        p {
            b { "The published criterion" } (format!(
                " compares the largest bucket beyond the training length ({:.3} nats) with the largest inside ({:.3}), with no account of the \
                 text: {:.2} times in loss, {} times in perplexity.",
                published.loss_beyond,
                published.loss_inside,
                published.loss_ratio,
                factor(published.perplexity_ratio),
            ))
        }
        p {
            b { "Streams." } " " (counted(long as u64, "stream")) " of " (counted(method.length, "token"))
            @if short > 0 {
                " and " (short) " of " (counted(method.streams.last().map_or(0, |stream| stream.length), "token"))
            }
            ", each from an empty state at its own place of the text; the state is carried throughout. Weights in " (method.dtype) ", "
            (counted(method.threads as u64, "thread"))
            ". Losses at position t are those of predicting a token from the t + 1 before it."
        }
        p {
            b { "Heads." }
            " A head leaves its in-window range at the first sample beyond the training length where the norm of its state exceeds twice the \
             largest seen inside, and stays above at every later sample; in a weighted mean the sum of its weights takes the norm's place. In a \
             delta rule, what a token keeps is the root mean square over directions. States are looked at eight times inside the training \
             length and eight times to a doubling beyond it, over the long streams of the model alone."
        }
    }
}
