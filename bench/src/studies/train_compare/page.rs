//! `report.html`, `RESULTS.md` and `results.csv` of a comparison.

use super::arm::{ArmReport, Measure, Point};
use super::factorial::Effects;
use super::findings::span;
use super::report::ComparisonReport;
use crate::kit::format::{count, counted, day, duration};
use crate::kit::page::{self, Page, heading, sentences};
use crate::kit::provenance::Provenance;
use crate::studies::estimate::Estimate;
use crate::studies::results::{Picture, SUPPORTED, Table, UNSUPPORTED, markdown_figures, markdown_sentences};
use maud::{Markup, html};
use std::io::{self, Write};

/// Files and folders beside the page.
const FILES: [(&str, &str); 4] = [
    ("results.json", "everything on this page as data"),
    ("results.csv", "a line for each evaluation of each training"),
    ("RESULTS.md", "the page in a few paragraphs"),
    ("figures/", "the pictures"),
];

/// The comparison as one page of HTML.
pub fn page(report: &ComparisonReport, pictures: &[Picture], made: &Provenance) -> String {
    let effects = effects(report);
    let body = html! {
        (sentences(SUPPORTED, &report.findings.supported))
        (sentences(UNSUPPORTED, &report.findings.unsupported))
        (heading("Arms"))
        (settings(report).html())
        (heading("After the last step"))
        (ends(report).html())
        (page::figures(pictures.iter().map(|picture| &picture.figure)))
        @if let Some(effects) = &effects {
            (heading("Two settings and both together"))
            (effects.html())
        }
        @if report.arms.len() > 1 {
            (heading("Every arm against every other"))
            (differences(report).html())
        }
        (heading("How this was made"))
        (method(report))
    };
    Page {
        title: title(report),
        facts: facts(report),
        summary: Vec::new(),
        body,
        files: &FILES,
        specs: Vec::new(),
        made,
    }
    .render()
}

fn title(report: &ComparisonReport) -> String {
    let names: Vec<&str> = report.arms.iter().map(|arm| arm.name.as_str()).collect();
    format!("Trainings compared: {}", names.join(", "))
}

/// One line on what was trained and when.
fn facts(report: &ComparisonReport) -> String {
    let trainings: usize = report.arms.iter().map(|arm| arm.trainings.len()).sum();
    let [first, last] = report.started.map(day);
    let days = if first == last {
        first
    } else {
        format!("{first} to {last}")
    };
    format!(
        "{} of {} with {} weights, {days}, {} one after another",
        counted(trainings as u64, "training"),
        report.architecture,
        count(report.parameters),
        duration(report.seconds)
    )
}

/// What makes each arm.
fn settings(report: &ComparisonReport) -> Table {
    let fields = report.arms.iter().take(1).flat_map(|arm| &arm.settings);
    let mut headings = vec!["arm".to_string(), "seeds".into(), "steps".into(), "tokens".into()];
    headings.extend(fields.map(|setting| setting.field.clone()));
    let row = |arm: &ArmReport| {
        let seeds: Vec<String> = arm.seeds.iter().map(u64::to_string).collect();
        let steps = arm.end().map_or(0, |end| end.step);
        let mut cells = vec![
            arm.name.clone(),
            seeds.join(", "),
            count(steps),
            count(arm.tokens()),
        ];
        cells.extend(arm.settings.iter().map(|setting| setting.value.clone()));
        cells
    };
    Table {
        headings,
        rows: report.arms.iter().map(row).collect(),
    }
}

/// Where each arm ends, and what it began with.
fn ends(report: &ComparisonReport) -> Table {
    let mut headings = vec!["arm".to_string(), "loss inside T".into()];
    headings.extend(
        report
            .ranges
            .iter()
            .map(|range| format!("loss at {}", span(*range))),
    );
    headings.push("cost of the old state".into());
    headings.push("collapsed".into());
    let row = |(name, point, of): (String, &Point, usize)| {
        let mut cells = vec![name, point.inside.text()];
        cells.extend(point.losses.iter().map(Estimate::text));
        cells.push(point.excess.as_ref().map_or("–".into(), Estimate::text));
        cells.push(format!("{} of {of}", point.collapsed));
        cells
    };
    // One model, and so one number: the interval over seeds would be of no width.
    let before = report.arms.first().and_then(|arm| Some((arm, arm.before()?)));
    let before = before.map(|(arm, point)| {
        let alone = |estimate: &Estimate| Estimate::of(estimate.values.iter().copied().take(1).collect());
        let point = Point {
            losses: point.losses.iter().map(alone).collect(),
            inside: alone(&point.inside),
            excess: point.excess.as_ref().map(alone),
            collapsed: point.collapsed.min(1),
            ..point.clone()
        };
        (format!("before ({})", arm.name), point)
    });
    let ends = report
        .arms
        .iter()
        .filter_map(|arm| Some((arm.name.clone(), arm.end()?, arm.seeds.len())));
    let before = before.iter().map(|(name, point)| (name.clone(), point, 1));
    Table {
        headings,
        rows: before.chain(ends).map(row).collect(),
    }
}

fn effects(report: &ComparisonReport) -> Option<Table> {
    let factorial = report.factorial.as_ref()?;
    let [a, b] = &factorial.factors;
    let row = |effects: &Effects| {
        let cells = [&effects.first, &effects.second, &effects.interaction].map(Estimate::text);
        std::iter::once(report.words(effects.measure))
            .chain(cells)
            .collect()
    };
    Some(Table {
        headings: vec![
            "on".into(),
            format!("{} {} → {}", a.field, a.levels[0], a.levels[1]),
            format!("{} {} → {}", b.field, b.levels[0], b.levels[1]),
            "interaction".into(),
        ],
        rows: factorial.effects.iter().map(row).collect(),
    })
}

fn differences(report: &ComparisonReport) -> Table {
    let measures: Vec<Measure> = Measure::ALL
        .into_iter()
        .filter(|measure| {
            report
                .differences
                .iter()
                .any(|difference| difference.measure == *measure)
        })
        .collect();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for difference in &report.differences {
        let pair = (difference.arm.as_str(), difference.from.as_str());
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    let cell = |(arm, from): (&str, &str), measure: Measure| {
        let mut all = report.differences.iter();
        let found = all.find(|found| found.measure == measure && found.arm == arm && found.from == from);
        found.map_or("–".into(), |found| found.difference.text())
    };
    let row = |pair: (&str, &str)| {
        let name = format!("{} − {}", pair.0, pair.1);
        std::iter::once(name)
            .chain(measures.iter().map(|measure| cell(pair, *measure)))
            .collect()
    };
    let headings = measures.iter().map(|measure| report.words(*measure));
    Table {
        headings: std::iter::once("difference".to_string())
            .chain(headings)
            .collect(),
        rows: pairs.into_iter().map(row).collect(),
    }
}

fn method(report: &ComparisonReport) -> Markup {
    html! {
        p {
            b { "Numbers" }
            " are mean losses in nats per token on held-out text, the same tokens in every training, and in brackets 95 % intervals over seeds \
             (Student's t). Differences are taken seed by seed. "
            i { "The cost of the old state" }
            " is the loss in the last range less that of the same model at the same tokens with its state emptied every T tokens. A training has \
             collapsed if the largest bucket beyond T has more than the threshold of its configuration times the perplexity of the largest inside. An \
             interaction is what both settings do together less the sum of what each does alone."
        }
        pre {
            (report.command)
            @for training in report.arms.iter().flat_map(|arm| &arm.trainings) { "\n" (training.command) }
        }
    }
}

/// `RESULTS.md`: the page in a few paragraphs.
pub fn markdown(report: &ComparisonReport, pictures: &[Picture]) -> String {
    let mut text = format!(
        "# {}\n\n    {}\n\n{}.\n",
        title(report),
        report.command,
        facts(report)
    );
    text += &markdown_sentences(SUPPORTED, &report.findings.supported);
    text += &markdown_sentences(UNSUPPORTED, &report.findings.unsupported);
    for (title, table) in [("Arms", settings(report)), ("After the last step", ends(report))] {
        text += &format!("\n## {title}\n\n{}", table.markdown());
    }
    if let Some(effects) = effects(report) {
        text += "\n## Two settings and both together\n\n";
        text += &effects.markdown();
    }
    text + &markdown_figures(pictures)
}

/// `results.csv`: a line for each evaluation of each training.
///
/// # Errors
/// Those of writing.
pub fn write_csv(report: &ComparisonReport, file: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    let mut headings: Vec<String> = ["arm", "seed", "step", "tokens", "loss_inside"]
        .map(String::from)
        .into();
    headings.extend(
        report
            .ranges
            .iter()
            .map(|(start, end)| format!("loss_{start}_{end}")),
    );
    headings.extend(["excess", "perplexity_ratio"].map(String::from));
    csv.write_record(&headings)?;
    for arm in &report.arms {
        for point in &arm.points {
            for (index, seed) in arm.seeds.iter().enumerate() {
                let number = |estimate: &Estimate| format!("{:.4}", estimate.values[index]);
                let mut cells = vec![
                    arm.name.clone(),
                    seed.to_string(),
                    point.step.to_string(),
                    point.tokens.to_string(),
                ];
                cells.push(number(&point.inside));
                cells.extend(point.losses.iter().map(number));
                cells.push(point.excess.as_ref().map_or(String::new(), number));
                cells.push(number(&point.perplexity_ratio));
                csv.write_record(&cells)?;
            }
        }
    }
    csv.flush()
}
