//! Tables about pairs, for the page, for `RESULTS.md` and for `pairs.csv`.

use super::super::result::RunResult;
use super::PairsReport;
use super::arms::Arm;
use super::findings::{interval, range, signed};
use super::held::{HeldAt, Reach, Reached, TaskPairs, bytes};
use crate::kit::format::count;
use crate::kit::page::{self, Row, headings};
use crate::studies::results::markdown_table;
use maud::{Markup, html};
use std::io::{self, Write};

/// A table with its title: headings, and rows of as many cells.
struct Table {
    title: String,
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
    /// What is to be said beneath.
    note: Option<String>,
}

/// All tables, in their order.
fn tables(report: &PairsReport) -> Vec<Table> {
    let mut tables = Vec::new();
    for task in &report.tasks {
        tables.extend(task.held.iter().map(|held| of_held(task, held)));
        tables.extend(of_reach(task));
    }
    tables.extend(report.arms.iter().map(of_arm));
    tables
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(String::from).to_vec()
}

fn of_held(task: &TaskPairs, held: &HeldAt) -> Table {
    let rows = held.models.iter().map(|model| {
        let shares = model.shares.iter();
        let shares: Vec<String> = shares
            .map(|(pairs, share)| format!("{pairs}: {:.1} %", 100.0 * share))
            .collect();
        vec![
            count(model.bytes),
            model.state.d_state.to_string(),
            model.seed.to_string(),
            match model.has_learned() {
                true => interval(model.interval),
                false => "not learned".into(),
            },
            shares.join(", "),
        ]
    });
    let best = held.laws.fits.first().map(|best| {
        let exponent = held.laws.profile.as_ref().map(|profile| {
            format!(
                " Exponent of the power law {:.2}, 95 % profile interval {}.",
                profile.best,
                range(profile)
            )
        });
        format!(
            "Best law: {} with {} errors, {} (T pairs held, S in thousands of bytes).{}",
            best.law,
            best.error,
            best.formula(),
            exponent.unwrap_or_default()
        )
    });
    Table {
        title: format!(
            "Pairs held at {:.0} %, task {}, T = {}",
            100.0 * task.setting.accuracy,
            task.task,
            count(held.train_length)
        ),
        headings: words([
            "bytes of state",
            "d_state",
            "seed",
            "pairs held",
            "right by number of pairs",
        ]),
        rows: rows.collect(),
        note: best,
    }
}

fn of_reach(task: &TaskPairs) -> Option<Table> {
    let rows = task.reach.iter().map(|reach: &Reach| {
        let by_length = |length: u64| {
            let at = reach.models.iter().filter(|model| model.train_length == length);
            let each: Vec<String> = at.map(|model: &Reached| interval(model.interval)).collect();
            format!("{}: {}", count(length), each.join(", "))
        };
        let lengths: Vec<String> = reach.lengths().into_iter().map(by_length).collect();
        let exponent = reach
            .laws
            .profile
            .as_ref()
            .map(|profile| format!("{:.2} ({})", profile.best, range(profile)));
        vec![
            count(reach.bytes),
            reach.pairs.to_string(),
            lengths.join("; "),
            exponent.unwrap_or_else(|| "–".into()),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    (!rows.is_empty()).then(|| Table {
        title: format!(
            "T_recall at {:.0} % by number of pairs, task {}",
            100.0 * task.setting.accuracy,
            task.task
        ),
        headings: words([
            "bytes of state",
            "pairs",
            "T_recall in tokens by training length, seed by seed",
            "b of T_recall ∝ T^b",
        ]),
        rows,
        note: None,
    })
}

fn of_arm(arm: &Arm) -> Table {
    let rows = arm.differences.iter().map(|difference| {
        let interval = difference.difference.interval.map_or("–".into(), |[low, high]| {
            format!("{} to {}", signed(low), signed(high))
        });
        vec![
            count(difference.bytes),
            count(difference.train_length),
            format!("{:.1} %", 100.0 * difference.arm),
            format!("{:.1} %", 100.0 * difference.against),
            signed(difference.difference.mean),
            interval,
            difference.difference.values.len().to_string(),
        ]
    });
    Table {
        title: format!(
            "Task {} against {}: mean share of right answers",
            arm.task, arm.against
        ),
        headings: words([
            "bytes of state",
            "T",
            "arm",
            "against",
            "difference in points",
            "95 % over seeds",
            "seeds",
        ]),
        rows: rows.collect(),
        note: None,
    }
}

/// The tables as HTML.
pub fn html(report: &PairsReport) -> Markup {
    html! {
        @for table in tables(report) {
            h3 { (table.title) }
            (page::table(&headings(&table.headings), &table.rows.iter().map(Row::of).collect::<Vec<_>>()))
            @if let Some(note) = &table.note { p { (note) } }
        }
    }
}

/// The tables as Markdown.
pub fn markdown(report: &PairsReport) -> String {
    let tables = tables(report).into_iter().map(|table| {
        let note = table.note.map_or(String::new(), |note| format!("\n{note}\n"));
        format!(
            "\n## {}\n\n{}{note}",
            table.title,
            markdown_table(&table.headings, &table.rows)
        )
    });
    tables.collect()
}

/// `pairs.csv`: a line for each number of pairs and length of each training.
///
/// # Errors
/// Those of writing.
pub fn write_csv(runs: &[RunResult], file: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record([
        "task",
        "d_state",
        "bytes",
        "train_length",
        "seed",
        "length",
        "pairs",
        "correct",
        "questions",
        "sequences",
        "whole",
    ])?;
    for run in runs {
        for cell in run.pairs.iter().flat_map(|pairs| &pairs.cells) {
            csv.write_record([
                run.task.clone(),
                run.state.d_state.to_string(),
                bytes(&run.state).to_string(),
                run.train_length.to_string(),
                run.seed.to_string(),
                cell.length.to_string(),
                cell.pairs.to_string(),
                cell.correct.to_string(),
                cell.questions.to_string(),
                cell.sequences.to_string(),
                cell.whole.to_string(),
            ])?;
        }
    }
    csv.flush()
}
