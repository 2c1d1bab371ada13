//! Maps: collapse ratios by state size and training length, passkeys by length and depth.

use super::super::result::{Forgetting, RecallCell, RunResult};
use super::{Placed, Section, placed};
use crate::kit::format::position;
use crate::kit::grid::{Cell, Grid};
use crate::studies::results::distinct;
use spillway_models::evaluation::passkey::RECALLED;

/// The ratio that is drawn darkest.
const DARKEST: f64 = 8.0;

fn positions(values: &[u64]) -> Vec<String> {
    values.iter().map(|value| position(*value as f64)).collect()
}

/// Collapse ratio by state size and training length, once in perplexity and once in loss; nothing without losses.
pub(super) fn collapse(task: &str, runs: &[&RunResult], threshold: f64) -> Vec<Placed> {
    type Ratio = fn(&Forgetting) -> f64;
    let criteria: [(&str, Ratio); 2] = [
        ("perplexity", Forgetting::perplexity_ratio),
        ("loss", Forgetting::loss_ratio),
    ];
    let runs: Vec<&RunResult> = runs
        .iter()
        .copied()
        .filter(|run| run.forgetting.is_some())
        .collect();
    if runs.is_empty() {
        return Vec::new();
    }
    let draw = |(name, ratio): (&str, Ratio)| {
        let (sizes, lengths) = (
            distinct(runs.iter().map(|run| run.elements)),
            distinct(runs.iter().map(|run| run.train_length)),
        );
        let cell = |size: u64, length: u64| {
            let of_cell = runs
                .iter()
                .filter(|run| run.elements == size && run.train_length == length);
            let ratios: Vec<f64> = of_cell
                .filter_map(|run| run.forgetting.as_ref())
                .map(ratio)
                .collect();
            let place = format!("S = {}, T = {}", position(size as f64), position(length as f64));
            ratio_cell(&ratios, threshold, &place)
        };
        let cells: Vec<Vec<Option<Cell>>> = sizes
            .iter()
            .map(|&size| lengths.iter().map(|&length| cell(size, length)).collect())
            .collect();
        let grid = Grid {
            columns_name: "training length T (tokens)".into(),
            rows_name: "state size S (elements)".into(),
            columns: positions(&lengths),
            rows: positions(&sizes),
            cells,
            scale: (
                "ratio, mean over seeds of its logarithm".into(),
                ["1", "middle 2.8", "8"].map(String::from),
            ),
            divider: None,
        };
        let title = format!("Collapse ratio in {name}, task {task}");
        let caption = format!(
            "Largest mean {name} of a bucket beyond the training length over the largest inside, for each seed; a frame where more than half of \
             the seeds are over {threshold}."
        );
        let file = format!("collapse-{task}-{name}");
        placed(&file, Section::Collapse, (title, caption), grid.draw())
    };
    criteria.into_iter().map(draw).collect()
}

fn ratio_cell(ratios: &[f64], threshold: f64, place: &str) -> Option<Cell> {
    if ratios.is_empty() {
        return None;
    }
    let logs = ratios
        .iter()
        .map(|ratio| ratio.clamp(1.0, DARKEST).ln() / DARKEST.ln());
    let over = ratios.iter().filter(|ratio| **ratio > threshold).count();
    let texts: Vec<String> = ratios.iter().map(|ratio| ratio_text(*ratio)).collect();
    Some(Cell {
        shade: logs.sum::<f64>() / ratios.len() as f64,
        hover: format!("{place}: {}", texts.join(", ")),
        text: texts.join(" · "),
        framed: 2 * over > ratios.len(),
    })
}

fn ratio_text(ratio: f64) -> String {
    match ratio {
        r if !r.is_finite() => "∞".into(),
        r if r >= 100.0 => ">99".into(),
        r if r >= 10.0 => format!("{r:.0}"),
        r => format!("{r:.2}"),
    }
}

/// Passkeys found, by state size and training length against context length; and by depth for the training that goes furthest.
pub(super) fn recall(task: &str, runs: &[&RunResult]) -> Vec<Placed> {
    let runs: Vec<&RunResult> = runs.iter().copied().filter(|run| run.recall.is_some()).collect();
    let lengths = distinct(all_cells(&runs).map(|cell| cell.length));
    if lengths.is_empty() {
        return Vec::new();
    }
    let mut groups: Vec<(u64, u64)> = runs.iter().map(|run| (run.elements, run.train_length)).collect();
    groups.sort_unstable();
    groups.dedup();
    let of_group = |group: (u64, u64)| {
        let members = runs
            .iter()
            .copied()
            .filter(move |run| (run.elements, run.train_length) == group);
        members.collect::<Vec<_>>()
    };
    let rows: Vec<String> = groups
        .iter()
        .map(|(size, length)| format!("{}, {}", position(*size as f64), position(*length as f64)))
        .collect();
    let cells: Vec<Vec<Option<Cell>>> = groups
        .iter()
        .map(|&group| {
            let members = of_group(group);
            let cell =
                |&length: &u64| share_cell(length, all_cells(&members).filter(|cell| cell.length == length));
            lengths.iter().map(cell).collect()
        })
        .collect();
    let drawing = grid(&lengths, "S, T", rows, cells).draw();
    let title = format!("Passkeys found, task {task}");
    let caption = "Share of the passkeys found at each context length, all depths and seeds together, by state size S and training length T. \
                   A frame marks more than 95 %.";
    let mut pictures = vec![placed(
        &format!("recall-{task}"),
        Section::Recall,
        (title, caption.into()),
        drawing,
    )];
    let found = |group: &&(u64, u64)| {
        all_cells(&of_group(**group))
            .map(|cell| cell.correct)
            .sum::<u64>()
    };
    if let Some(&best) = groups.iter().max_by_key(found) {
        pictures.push(by_depth(task, best, &of_group(best), &lengths));
    }
    pictures
}

fn by_depth(task: &str, (size, length): (u64, u64), runs: &[&RunResult], lengths: &[u64]) -> Placed {
    let depths = all_cells(runs).map(|cell| cell.depth + 1).max().unwrap_or(0);
    let rows: Vec<String> = (0..depths)
        .map(|depth| format!("{:.0} %", 100.0 * (depth as f64 + 0.5) / depths as f64))
        .collect();
    let cells: Vec<Vec<Option<Cell>>> = (0..depths)
        .map(|depth| {
            let cell = |&length: &u64| {
                let here = all_cells(runs).filter(|cell| cell.length == length && cell.depth == depth);
                share_cell(length, here)
            };
            lengths.iter().map(cell).collect()
        })
        .collect();
    let drawing = grid(lengths, "depth", rows, cells).draw();
    let title = format!(
        "By depth: S = {}, T = {}, task {task}",
        position(size as f64),
        position(length as f64)
    );
    let caption = "Share of the passkeys found by context length and depth of the passkey, for the models that found the most.";
    let file = format!("recall-depth-{task}");
    placed(&file, Section::Recall, (title, caption.into()), drawing)
}

fn grid(lengths: &[u64], rows_name: &str, rows: Vec<String>, cells: Vec<Vec<Option<Cell>>>) -> Grid {
    Grid {
        columns_name: "context length (tokens)".into(),
        rows_name: rows_name.into(),
        columns: positions(lengths),
        rows,
        cells,
        scale: ("share found".into(), ["0", "", "1"].map(String::from)),
        divider: None,
    }
}

fn all_cells<'a>(runs: &'a [&'a RunResult]) -> impl Iterator<Item = &'a RecallCell> {
    runs.iter()
        .filter_map(|run| run.recall.as_ref())
        .flat_map(|recall| &recall.cells)
}

fn share_cell<'a>(length: u64, cells: impl Iterator<Item = &'a RecallCell>) -> Option<Cell> {
    let (correct, samples) = cells.fold((0, 0), |(correct, samples), cell| {
        (correct + cell.correct, samples + cell.samples)
    });
    (samples > 0).then(|| {
        let share = correct as f64 / samples as f64;
        Cell {
            shade: share,
            text: format!("{share:.2}"),
            hover: format!("{length} tokens: {correct} found of {samples}"),
            framed: share > RECALLED,
        }
    })
}
