//! The pictures of a recall run: maps, and where documents have several numbers of facts, curves over them.

use super::report::{ArmReport, RecallReport, percent, task_name};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer, aside};
use crate::kit::format::count;
use crate::kit::grid::{self, Grid};
use crate::kit::ink::{Mark, Stroke};
use crate::kit::picture::Figure;
use spillway_models::evaluation::recall::prompt::PromptForm;
use spillway_models::evaluation::recall::summary::Cell;

/// Between the marks of two curves at one number of facts, as a ratio.
const ASIDE: f64 = 1.02;

/// For each task, and for all together, curves over several numbers of facts, and a map; with the names of their files.
pub fn figures(report: &RecallReport<'_>) -> Vec<(String, Figure)> {
    let mut figures: Vec<(String, Figure)> = Vec::new();
    for task in report.tasks() {
        if report.facts.len() > 1 {
            let found = found_by_facts(report, task);
            figures.push((format!("facts-{task}.svg"), found));
            let gained = gained_by_facts(report, task);
            figures.extend(gained.map(|figure| (format!("facts-{task}-twice.svg"), figure)));
        }
        figures.push((format!("recall-{task}.svg"), map(report, task)));
    }
    figures
}

/// ` in fda`, ` in all tasks`.
fn in_task(task: &str) -> String {
    match task {
        "all" => " in all tasks".into(),
        task => format!(" in {task}"),
    }
}

/// The cells of an arm and a kind of prompt, by the number of facts.
fn by_facts<'a>(
    report: &'a RecallReport<'_>,
    arm: usize,
    form: PromptForm,
    task: &'a str,
) -> impl Iterator<Item = (f64, &'a Cell)> {
    let cells = report.cells.iter();
    let cells = cells.filter(move |cell| (cell.arm, cell.form, task_name(cell)) == (arm, form, task));
    cells.filter_map(|cell| Some((cell.facts? as f64, cell)))
}

/// How each arm is drawn: those with attention alone in black, the others in colours.
fn strokes(report: &RecallReport<'_>) -> Vec<Stroke> {
    let mut recurrent = 0;
    let stroke = |arm: &ArmReport| match arm.is_attention {
        true => Stroke {
            mark: Some(Mark::DOT),
            ..Stroke::ALONE
        },
        false => {
            recurrent += 1;
            Stroke::nth(recurrent)
        }
    };
    report.arms.iter().map(stroke).collect()
}

/// A curve with bars for every arm: `value` gives what is drawn of a cell, and the ends of its interval.
fn curves(
    report: &RecallReport<'_>,
    (form, task): (PromptForm, &str),
    value: impl Fn(&Cell) -> Option<(f64, [f64; 2])>,
) -> Vec<Layer> {
    let (strokes, arms) = (strokes(report), report.arms.iter().enumerate());
    let layers = arms.flat_map(|(index, arm)| {
        let moved = ASIDE.powf(aside(index, report.arms.len()));
        let places: Vec<(f64, f64, [f64; 2])> = by_facts(report, index, form, task)
            .filter_map(|(facts, cell)| value(cell).map(|(mean, ends)| (moved * facts, mean, ends)))
            .collect();
        let line = places.iter().map(|(x, mean, _)| (*x, 100.0 * mean)).collect();
        let bars = places
            .into_iter()
            .filter_map(|(x, _, ends)| Layer::bar(x, ends.map(|end| 100.0 * end), strokes[index]));
        let curve = Layer::line(arm.name(), line, strokes[index]);
        std::iter::once(curve).chain(bars).collect::<Vec<_>>()
    });
    layers.collect()
}

fn facts_axis() -> Axis {
    Axis::new("facts in a document", Scale::Binary)
}

fn found_by_facts(report: &RecallReport<'_>, task: &str) -> Figure {
    let chart = Chart {
        x: facts_axis(),
        y: Axis::new("answers found (%)", Scale::Linear)
            .with(0.0)
            .with(100.0),
        exponential: None,
        layers: curves(report, (PromptForm::ONCE, task), |cell| {
            Some((cell.contains, cell.wilson))
        }),
    };
    let title = format!("Answers found{}, by facts in a document", in_task(task));
    let caption = "One reading, with the question after it. Bars are Wilson 95 % intervals; curves stand a little aside from each other.";
    Figure::new(title, caption, chart.draw())
}

/// What reading twice gains, by facts in a document; `None` where nothing is read twice with the question in front.
fn gained_by_facts(report: &RecallReport<'_>, task: &str) -> Option<Figure> {
    report.forms.iter().find(|form| **form == PromptForm::TWICE)?;
    let mut layers = curves(report, (PromptForm::TWICE, task), |cell| {
        cell.gain.map(|gain| (gain.mean, [gain.low, gain.high]))
    });
    layers.push(Layer::Level(0.0, "no gain".into()));
    let chart = Chart {
        x: facts_axis(),
        y: Axis::new("gain of reading twice (points)", Scale::Linear),
        exponential: None,
        layers,
    };
    let title = format!(
        "What reading twice gains{}, by facts in a document",
        in_task(task)
    );
    let caption = "The question in front and the document twice, over one reading with the question after it, on the same documents. Bars are \
                   bootstrapped 95 % intervals; curves stand a little aside from each other.";
    Some(Figure::new(title, caption, chart.draw()))
}

/// Shares of answers found: models by kinds of prompts. Several numbers of facts are rows of their own, or the columns where there is one kind
/// of prompt.
fn map(report: &RecallReport<'_>, task: &str) -> Figure {
    let numbers = report.numbers_of_facts();
    let (several, one_form) = (numbers.len() > 1, report.forms.len() == 1);
    let columns = report
        .forms
        .iter()
        .flat_map(|form| numbers.iter().map(move |facts| (*facts, *form)));
    let (rows, columns): (Vec<Option<usize>>, Vec<_>) = match several && one_form {
        true => (vec![None], columns.collect()),
        false => (
            numbers.clone(),
            report.forms.iter().map(|form| (None, *form)).collect(),
        ),
    };
    let places = report.arms.iter().enumerate();
    let places = places.flat_map(|(index, arm)| rows.iter().map(move |facts| (index, arm, *facts)));
    let places: Vec<(usize, &ArmReport, Option<usize>)> = places.collect();
    let cell = |arm: usize, facts: Option<usize>, form: PromptForm| {
        let of_place =
            |cell: &&Cell| (cell.arm, cell.facts, cell.form, task_name(cell)) == (arm, facts, form, task);
        report.cells.iter().find(of_place).map(drawn)
    };
    let named = |facts: Option<usize>| facts.filter(|_| several).map(|facts| count(facts as u64));
    let row_name = |(_, arm, facts): &(usize, &ArmReport, Option<usize>)| match named(*facts) {
        Some(facts) => format!("{}, {facts}", arm.name()),
        None => arm.name(),
    };
    let (rows_name, columns_name) = match (several, one_form) {
        (false, _) => ("model", "kind of prompt"),
        (true, false) => ("model, facts in a document", "kind of prompt"),
        (true, true) => ("model", "facts in a document"),
    };
    let of_row = |(arm, _, facts): &(usize, &ArmReport, Option<usize>)| {
        let cells = columns
            .iter()
            .map(|(of_column, form)| cell(*arm, facts.or(*of_column), *form));
        cells.collect()
    };
    let grid = Grid {
        columns_name: columns_name.into(),
        rows_name: rows_name.into(),
        columns: columns
            .iter()
            .map(|(facts, form)| named(*facts).unwrap_or_else(|| form.to_string()))
            .collect(),
        rows: places.iter().map(row_name).collect(),
        cells: places.iter().map(of_row).collect(),
        scale: ("answers found (%)".into(), ["0", "50", "100"].map(String::from)),
        divider: None,
    };
    let caption =
        "Share of the answers that contain a right one (%). Under the pointer: the Wilson 95 % interval.";
    Figure::new(format!("Answers found{}", in_task(task)), caption, grid.draw())
}

fn drawn(cell: &Cell) -> grid::Cell {
    grid::Cell {
        shade: cell.contains,
        text: percent(cell.contains),
        hover: format!(
            "{}: {} of {} found ({} to {} %)",
            cell.form,
            count(cell.kinds.found),
            count(cell.asked),
            percent(cell.wilson[0]),
            percent(cell.wilson[1])
        ),
        framed: false,
    }
}
