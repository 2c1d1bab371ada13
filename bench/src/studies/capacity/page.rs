//! `report.html`, `RESULTS.md` and `results.csv`.

use super::analysis::{Analysis, Laws};
use super::figures::{Placed, Section};
use super::pairs;
use super::report::{CapacityReport, Setting};
use super::result::RunResult;
use super::threshold::{Threshold, Trial, interval_of};
use crate::kit::format::{count, duration, position};
use crate::kit::page::{self, Page, Row, heading, headings, sentences, text};
use crate::kit::provenance::Provenance;
use crate::studies::results::{SUPPORTED, UNSUPPORTED, markdown_figures, markdown_sentences, markdown_table};
use maud::{Markup, html};
use std::io::{self, Write};

/// Files and folders beside the page.
const FILES: [(&str, &str); 6] = [
    ("results.json", "everything on this page as data"),
    ("results.csv", "a line for each training"),
    ("RESULTS.md", "the findings and thresholds in a few paragraphs"),
    ("figures/", "the pictures"),
    ("runs/", "what each training gave"),
    (
        "pairs.csv",
        "a line for each number of pairs and length of each training",
    ),
];

/// What comes above the sentences on the published points.
const PUBLISHED: &str = "The published points, fitted once more";

/// The study as one page of HTML.
pub fn page(report: &CapacityReport, pictures: &[Placed]) -> String {
    let has = |section: Section| pictures.iter().any(|picture| picture.0 == section);
    let body = html! {
        (sentences(SUPPORTED, &report.findings.supported))
        (sentences(UNSUPPORTED, &report.findings.unsupported))
        @if !report.analyses.is_empty() {
            (heading("Thresholds"))
            (draw(pictures, Section::Thresholds))
            @for analysis in &report.analyses {
                @let title = format!("{}, task {}", analysis.quantity, analysis.task);
                (laws(&title, "S in thousands of elements, T in tokens", &analysis.laws))
            }
            @for (title, section) in [("Collapse", Section::Collapse), ("Passkeys", Section::Recall)] {
                @if has(section) { (heading(title)) (draw(pictures, section)) }
            }
        }
        @if !report.pairs.is_empty() {
            (heading("Pairs of keys and values"))
            (draw(pictures, Section::Pairs))
            (pairs::page::html(&report.pairs))
        }
        (sentences(PUBLISHED, &report.findings.published))
        (draw(pictures, Section::Published))
        @for published in &report.published {
            (laws(&published.name, "S in millions of elements, T in thousands of tokens", &published.laws))
        }
        (heading("Every training"))
        (trainings(&report.runs))
        (heading("How this was measured"))
        (method(report))
    };
    Page {
        title: format!("State capacity: {}", report.setting.name),
        facts: facts(report),
        summary: Vec::new(),
        body,
        files: match report.pairs.is_empty() {
            true => &FILES[..FILES.len() - 1],
            false => &FILES,
        },
        specs: Vec::new(),
        made: &made(&report.setting),
    }
    .render()
}

/// Where the trainings were, whenever the page is drawn.
fn made(setting: &Setting) -> Provenance {
    let here = Provenance::here(1);
    let made = match &setting.record {
        Some(record) => Provenance {
            date: record.date.clone(),
            machine: record.machine.clone(),
            threads: record.workers,
            level: String::new(),
            ..here
        },
        None => here,
    };
    Provenance {
        command: setting.command.clone(),
        ..made
    }
}

/// One line on what was run, where and how long.
fn facts(report: &CapacityReport) -> String {
    let mut facts = format!("{} of {} trainings", report.runs.len(), report.setting.planned);
    let Some(record) = &report.setting.record else {
        return facts;
    };
    facts.push_str(&format!(
        "; {}, {}; {} in all, {} at a time",
        record.machine,
        record.date,
        duration(record.seconds),
        record.workers,
    ));
    match record.load() {
        Some(load) if record.was_shared() => facts.push_str(&format!(
            ". The machine was shared: its mean load was {load:.1}, so that the sweep alone would have been faster"
        )),
        Some(load) => facts.push_str(&format!("; mean load of the machine {load:.1}")),
        None => {}
    }
    facts
}

fn draw(pictures: &[Placed], section: Section) -> Markup {
    let here = pictures.iter().filter(|picture| picture.0 == section);
    page::figures(here.map(|picture| &picture.1.figure))
}

fn laws(title: &str, units: &str, laws: &Laws) -> Markup {
    let names = headings([
        "law",
        "errors",
        units,
        "bootstrap 95 %",
        "resamples\nnot fitted",
        "σ",
        "R²",
        "ln L",
        "AIC",
        "AICc",
        "behind",
    ]);
    let rows: Vec<Row> = (0..laws.fits.len()).map(|index| law(laws, index)).collect();
    html! {
        h3 { (title) }
        @if !rows.is_empty() { (page::table(&names, &rows)) }
        @for reason in &laws.refused { p { "Left out: " (reason) "." } }
    }
}

fn law(laws: &Laws, index: usize) -> Row {
    let fit = &laws.fits[index];
    let bootstrap = laws.bootstraps.get(index).and_then(Option::as_ref);
    let ranges = bootstrap.map_or("–".into(), |bootstrap| {
        let named = bootstrap.parameters.iter().zip(["a", "b", "c"]);
        let ranges: Vec<String> = named
            .map(|(range, name)| {
                let number = spillway_models::evaluation::laws::law::number;
                format!("{name}: {} to {}", number(range.low), number(range.high))
            })
            .collect();
        if ranges.is_empty() {
            "too few".into()
        } else {
            ranges.join("\n")
        }
    });
    let failed = bootstrap.map_or("–".into(), |bootstrap| {
        format!("{} of {}", bootstrap.failed, bootstrap.resamples)
    });
    let optional = |value: Option<f64>, decimals: usize, none: &str| {
        value.map_or(none.to_string(), |value| format!("{value:.decimals$}"))
    };
    let sigma = match fit.at_floor {
        true => "at its floor".to_string(),
        false => spillway_models::evaluation::laws::law::number(fit.sigma),
    };
    Row::of([
        fit.law.to_string(),
        fit.error.to_string(),
        fit.formula(),
        ranges,
        failed,
        sigma,
        optional(fit.r_squared, 4, "–"),
        format!("{:.2}", fit.log_likelihood),
        format!("{:.2}", fit.aic),
        optional(fit.aicc, 2, "undefined"),
        format!("{:.1}", laws.behind(fit)),
    ])
}

const COLUMNS: [&str; 16] = [
    "task",
    "elements",
    "d_state",
    "layers",
    "model_dim",
    "parameters",
    "train_length",
    "seed",
    "steps",
    "tokens",
    "train_loss",
    "loss_inside",
    "loss_worst",
    "loss_ratio",
    "perplexity_ratio",
    "recall_length",
];

fn values(run: &RunResult) -> [String; 16] {
    let forgetting = run.forgetting.as_ref();
    let loss = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    let ratio = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    let reach = run.recall.as_ref().map(|recall| recall.recalled().unwrap_or(0));
    [
        run.task.clone(),
        run.elements.to_string(),
        run.state.d_state.to_string(),
        run.state.layers.to_string(),
        run.state.model_dim.to_string(),
        run.parameters.to_string(),
        run.train_length.to_string(),
        run.seed.to_string(),
        run.steps.to_string(),
        run.tokens.to_string(),
        format!("{:.4}", run.train_loss),
        loss(forgetting.and_then(|forgetting| forgetting.inside)),
        loss(forgetting.and_then(|forgetting| forgetting.worst)),
        ratio(forgetting.map(|forgetting| forgetting.loss_ratio())),
        ratio(forgetting.map(|forgetting| forgetting.perplexity_ratio())),
        reach.map_or(String::new(), |reach| reach.to_string()),
    ]
}

/// `results.csv`: a line for each training.
///
/// # Errors
/// Those of writing.
pub fn write_csv(runs: &[RunResult], file: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record(COLUMNS)?;
    for run in runs {
        csv.write_record(values(run))?;
    }
    csv.flush()
}

fn trainings(runs: &[RunResult]) -> Markup {
    let rows: Vec<Row> = runs.iter().map(|run| Row::of(values(run))).collect();
    page::table(&COLUMNS.map(|name| text(&name.replace('_', "\n"))), &rows)
}

fn method(report: &CapacityReport) -> Markup {
    let setting = &report.setting;
    html! {
        @for task in &setting.tasks {
            p {
                b { "Task " (task.name) "." } " " (task.data) "; " (task.initialisation)
                @if let Some(expansion) = &task.expansion { "; " (expansion) }
                "."
            }
        }
        p {
            b { "Collapse." }
            " Streams of held-out data are read from an empty state far beyond the training length; losses are averaged over streams in buckets \
             of one training length inside it and of half an octave beyond. A model has collapsed if the largest bucket beyond is over "
            (setting.collapse_ratio)
            " times the largest inside: in loss as the published experiment has it, and in perplexity, which is a different test (at 1.5 nats, \
             twice the loss is e" sup { "1.5" } " = 4.5 times the perplexity)."
        }
        p {
            b { "Thresholds." }
            " T_forget lies between the longest training length that collapses and the shortest that does not; T_recall is the longest context up \
             to which more than 95 % of the passkeys are found (with the Wilson bound: whose 95 % interval lies above 95 %), over all training \
             lengths."
        }
        @if !report.pairs.is_empty() {
            p {
                b { "Pairs." }
                " K pairs of keys and values are spread evenly at random in filler that is always the same; after it every key is asked once, in \
                 random order. Values are drawn independently of each other. Pairs held: the largest K up to which, at every K tried, the share of \
                 right answers at the training length reaches the accuracy asked for; T_recall of K pairs: the longest length up to which it \
                 does. Bytes are those of the recurrent state in f32, without short convolutions. Laws are fitted to the trainings that \
                 answer the fewest pairs; the others are counted and left out."
            }
        }
        p {
            b { "Fits." }
            " Maximum likelihood; of intervals the probability of the interval, open ends included. All likelihoods are of the lengths themselves, \
             so that AIC compares laws and error models on the same points. AICc = AIC + 2k(k+1)/(n−k−1), k with σ, is undefined for n ≤ k + 1; \
             laws are ranked by it where all have it, else by AIC. σ is at least 5 % where lengths are intervals."
        }
        p {
            b { "Bootstrap." } " " (setting.resampling.resamples) " resamples of the sizes and, within a size, of its seeds (seed "
            (setting.resampling.seed)
            "); percentile intervals. They, and the profiles, are too narrow for so few sizes; profiles moreover take seeds as independent of each \
             other. Each training runs on one thread and is the same bits whatever else runs."
        }
        h3 { "Configuration" }
        pre { (setting.configuration) }
    }
}

/// `RESULTS.md`: the page in a few paragraphs.
pub fn markdown(report: &CapacityReport, pictures: &[Placed]) -> String {
    let mut text = format!("# State capacity: {}\n\n", report.setting.name);
    text.push_str(&format!("    {}\n\n{}.\n", report.setting.command, facts(report)));
    for (title, sentences) in [
        (SUPPORTED, &report.findings.supported),
        (UNSUPPORTED, &report.findings.unsupported),
        (PUBLISHED, &report.findings.published),
    ] {
        text += &markdown_sentences(title, sentences);
    }
    for analysis in &report.analyses {
        text += &thresholds(analysis);
    }
    text += &pairs::page::markdown(&report.pairs);
    text += &markdown_figures(pictures.iter().map(|picture| &picture.1));
    text
}

/// The thresholds of an analysis as a table, and its best law.
fn thresholds(analysis: &Analysis) -> String {
    let quantity = analysis.quantity;
    let tokens = format!("{} (tokens)", quantity.symbol());
    let headings = ["state elements", "seed", &tokens, "by training length"].map(String::from);
    let row = |threshold: &Threshold| {
        let trial = |trial: &Trial| {
            let value = trial_value(trial.value, quantity.is_forget());
            format!("{}: {value}", position(trial.length as f64))
        };
        let trials: Vec<String> = threshold.trials.iter().map(trial).collect();
        vec![
            count(threshold.elements),
            threshold.seed.to_string(),
            interval_of(quantity, threshold.interval),
            trials.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = analysis.thresholds.iter().map(row).collect();
    let best = analysis.laws.fits.first().map(|best| {
        let (law, error, formula) = (best.law, best.error, best.formula());
        format!("\nBest law: {law} with {error} errors, {formula} (S in thousands of elements).\n")
    });
    format!(
        "\n## {quantity}, task {}\n\n{}{}",
        analysis.task,
        markdown_table(&headings, &rows),
        best.unwrap_or_default()
    )
}

fn trial_value(value: f64, is_ratio: bool) -> String {
    match is_ratio {
        true if value.is_finite() => format!("{value:.2}"),
        true => "not finite".into(),
        false => format!("{value:.0}"),
    }
}
