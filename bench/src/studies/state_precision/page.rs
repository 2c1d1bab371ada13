//! `report.html`, `RESULTS.md`, `results.csv`, and the tables on the terminal.

use super::config::PrecisionConfig;
use super::models::page as models;
use super::report::{LawReport, PrecisionReport, TypeReport};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer};
use crate::kit::format::{count, counted, duration, position, short};
use crate::kit::ink::Stroke;
use crate::kit::page::{self, Page, heading, sentences};
use crate::kit::picture::Drawing;
use crate::kit::provenance::{Provenance, machine};
use crate::studies::results::{Picture, Table, markdown_figures, markdown_sentences};
use maud::html;
use std::io::{self, Write};

/// Files and folders beside the page.
const FILES: [(&str, &str); 5] = [
    ("results.json", "everything on this page as data"),
    ("results.csv", "a line for each law or model, type and position"),
    ("RESULTS.md", "the page in a few paragraphs"),
    ("figures/", "the pictures"),
    (
        "runs/",
        "what each law gave with each seed, and each model under each mitigation",
    ),
];

const FOUND: &str = "What the runs say";

const WORDS: &str = "A state is stored after every token and read back before the next; the token that is taken in reads the state as it was \
                     computed, in f32. The truth is the definition in f64 over the same numbers. Errors are ‖found − true‖ / ‖true‖: of the \
                     state at a position, and of the read-out over the tokens from half of that position to it.";

const THEORY: &str = "If the errors of single roundings were independent, the state's error after t tokens would be ε √((1 − ρ^t)/(1 − ρ)), \
                      where ε is the measured error of rounding the true state once, ρ = a² for a weighted sum (so ε/√(1 − a²) in the end, \
                      and ε√t where nothing is forgotten) and a²(1 − β(2 − β)/K) for a delta rule with keys in random directions. A ratio \
                      of 1 is what it says; far above it, increments are rounded away in the same direction every time.";

/// What the cells of a table are.
struct Cells {
    title: &'static str,
    cell: fn(&TypeReport) -> String,
}

const TABLES: [Cells; 4] = [
    Cells {
        title: "Error of the read-out at the end",
        cell: |found| number(found.read_out.last().copied().flatten()),
    },
    Cells {
        title: "Error of the state at the end",
        cell: |found| number(found.state.last().copied().flatten()),
    },
    Cells {
        title: "The state's error over what independent roundings would make it, at the end",
        cell: |found| number(found.last_ratio()),
    },
    Cells {
        title: "Tokens for which the read-out stays within what is tolerated",
        cell: |found| match found.safe_up_to {
            0 => "–".into(),
            tokens => position(tokens as f64),
        },
    },
];

fn number(value: Option<f64>) -> String {
    value.map_or("no number".into(), short)
}

/// A row for each type, a column for each law that was measured.
fn table(report: &PrecisionReport, cells: &Cells) -> Table {
    let laws: Vec<&LawReport> = report.laws.iter().filter(|law| !law.types.is_empty()).collect();
    let mut headings = vec!["type".to_string(), "bits".into()];
    headings.extend(laws.iter().map(|law| law.law.name.clone()));
    let types = laws.first().map_or(0, |law| law.types.len());
    let row = |place: usize| {
        let mut row = vec![
            laws[0].types[place].name.clone(),
            short(laws[0].types[place].bits),
        ];
        row.extend(laws.iter().map(|law| (cells.cell)(&law.types[place])));
        row
    };
    Table {
        headings,
        rows: (0..types).map(row).collect(),
    }
}

/// The fewest and the most tokens of a run.
fn tokens(config: &PrecisionConfig) -> String {
    let laws = config.laws.iter().map(|_| config.tokens);
    let all = laws.chain(config.models.iter().map(|model| config.tokens_of(model)));
    let (least, most) = all.fold((u64::MAX, 0), |(least, most), tokens| {
        (least.min(tokens), most.max(tokens))
    });
    match least == most {
        true => count(most),
        false => format!("{} to {}", count(least), count(most)),
    }
}

fn facts(report: &PrecisionReport) -> String {
    let [done, all] = report.runs;
    let runs = match done == all {
        true => counted(all as u64, "run"),
        false => format!("{done} of {}", counted(all as u64, "run")),
    };
    let config = &report.config;
    format!(
        "{runs} of {} tokens{}, {} one after another",
        tokens(config),
        match config.laws.is_empty() {
            true => String::new(),
            false => format!(", states of {} × {}", config.key_dim, config.value_dim),
        },
        duration(report.seconds)
    )
}

/// Whether a law is asked, and whether a model is.
fn has_laws(report: &PrecisionReport) -> bool {
    !report.laws.is_empty()
}

fn has_models(report: &PrecisionReport) -> bool {
    !report.models.is_empty()
}

/// The tables of the laws, if there are any, and of the models, with their titles.
fn tables(report: &PrecisionReport) -> Vec<(String, Table)> {
    let of_laws = TABLES.iter().filter(|_| has_laws(report));
    let of_laws = of_laws.map(|cells| (cells.title.to_string(), table(report, cells)));
    of_laws
        .chain(report.models.iter().flat_map(models::tables))
        .collect()
}

/// What is measured, for each of the two kinds that there are.
fn words(report: &PrecisionReport) -> String {
    let kinds = [(has_laws(report), WORDS), (has_models(report), models::WORDS)];
    let words: Vec<&str> = kinds
        .into_iter()
        .filter_map(|(is_asked, words)| is_asked.then_some(words))
        .collect();
    words.join("\n\n")
}

/// The study as one page of HTML.
pub fn page(report: &PrecisionReport, pictures: &[Picture], made: &Provenance) -> String {
    let files: Vec<(&str, &str)> = FILES
        .into_iter()
        .filter(|file| file.0 != "figures/" || !pictures.is_empty())
        .collect();
    let question = &report.config.question;
    let body = html! {
        @if has_laws(report) { p { (WORDS) } }
        @if has_models(report) { p { (models::WORDS) } }
        (sentences(FOUND, &report.findings))
        @for (title, table) in &tables(report) {
            (heading(title))
            (table.html())
        }
        (heading("In the course of the tokens"))
        @if has_laws(report) { p { (THEORY) } }
        (page::figures(pictures.iter().map(|picture| &picture.figure)))
        pre { (report.command) }
    };
    Page {
        title: report.config.title.clone(),
        facts: facts(report),
        summary: Some(question.clone())
            .filter(|question| !question.is_empty())
            .into_iter()
            .collect(),
        body,
        files: &files,
        specs: vec!["state-dtype:bf16"],
        made,
    }
    .render()
}

/// For each law its errors of the read-out, and those of the state over the theory's; for each model its changes.
pub fn pictures(report: &PrecisionReport) -> Vec<Picture> {
    let measured = report
        .laws
        .iter()
        .enumerate()
        .filter(|(_, law)| !law.types.is_empty());
    let tolerated = report.config.tolerated_change;
    let of_models = report.models.iter().enumerate();
    let of_models = of_models.flat_map(|(place, model)| models::pictures(place, model, tolerated));
    measured
        .flat_map(|(place, law)| {
            let tolerated = Layer::Level(report.config.tolerated, "tolerated".into());
            let errors = chart(law, "error of the read-out", tolerated, |found| found.read_out.clone());
            let expected = Layer::Level(1.0, "independent roundings".into());
            let ratios = chart(law, "measured over predicted", expected, TypeReport::ratios);
            let name = &law.law.name;
            [
                Picture::new(
                    format!("read-out-{}", place + 1),
                    name,
                    "Relative error of the read-out over the tokens from half of each position to it, root mean square over seeds.",
                    errors,
                ),
                Picture::new(
                    format!("theory-{}", place + 1),
                    format!("{name}: beside the theory"),
                    "Relative error of the state over what independent roundings would make it.",
                    ratios,
                ),
            ]
        })
        .chain(of_models)
        .collect()
}

fn chart(
    law: &LawReport,
    name: &str,
    level: Layer,
    values: impl Fn(&TypeReport) -> Vec<Option<f64>>,
) -> Drawing {
    let line = |(place, found): (usize, &TypeReport)| {
        let places = law.positions.iter().zip(values(found));
        let points = places.map(|(position, value)| (*position as f64, value.unwrap_or(f64::NAN)));
        Layer::line(&found.name, points.collect(), Stroke::nth(place))
    };
    let mut layers = vec![level];
    layers.extend(law.types.iter().enumerate().map(line));
    Chart {
        x: Axis::positions(),
        y: Axis::new(name, Scale::Decimal),
        exponential: None,
        layers,
    }
    .draw()
}

/// The first table and the findings, for the terminal.
pub fn text(report: &PrecisionReport) -> String {
    let findings: String = report
        .findings
        .iter()
        .map(|finding| format!("- {finding}\n"))
        .collect();
    let first = match tables(report).into_iter().next() {
        None => String::new(),
        Some((title, table)) => format!("\n{title}\n\n{}", table.markdown()),
    };
    format!("{}\n{first}\n{findings}", report.config.title)
}

/// `RESULTS.md`: the page in a few paragraphs.
pub fn markdown(report: &PrecisionReport, pictures: &[Picture]) -> String {
    let mut text = format!(
        "# {}\n\n    {}\n\n{}\n\n{}; {}.\n\n{}\n",
        report.config.title,
        report.command,
        report.config.question,
        facts(report),
        machine(),
        words(report)
    );
    text += &markdown_sentences(FOUND, &report.findings);
    for (title, table) in tables(report) {
        text += &format!("\n## {title}\n\n{}", table.markdown());
    }
    if has_laws(report) {
        text += &format!("\n{THEORY}\n");
    }
    match pictures {
        [] => text,
        pictures => text + &markdown_figures(pictures),
    }
}

/// `results.csv`: a line for each law, type and position.
///
/// # Errors
/// Those of writing.
pub fn write_csv(report: &PrecisionReport, file: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record([
        "law",
        "type",
        "bits",
        "position",
        "state",
        "predicted",
        "read_out",
        "rounding",
        "change",
        "rise",
        "rise_error",
    ])?;
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.6e}"));
    for law in &report.laws {
        for found in &law.types {
            for (place, position) in law.positions.iter().enumerate() {
                let at = |values: &[Option<f64>]| number(values.get(place).copied().flatten());
                csv.write_record([
                    law.law.name.clone(),
                    found.name.clone(),
                    found.bits.to_string(),
                    position.to_string(),
                    at(&found.state),
                    at(&found.predicted),
                    at(&found.read_out),
                    number(found.rounding),
                    String::new(),
                    String::new(),
                    String::new(),
                ])?;
            }
        }
    }
    models::write_csv(&report.models, &mut csv)?;
    csv.flush()
}
