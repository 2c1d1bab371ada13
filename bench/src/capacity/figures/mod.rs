//! Which pictures there are.

mod losses;
mod published;
mod thresholds;

use super::chart::Axis;
use super::fit::{Fit, Law};
use super::maps;
use super::report::Report;
use super::result::RunResult;
use super::threshold::Quantity;
use crate::diagnose::report::chart::{DASHES, PALETTE, Stroke};
use crate::diagnose::report::figures::Figure;
use crate::diagnose::report::format::position;
use crate::error::ProgramError;

const WIDE: (u32, u32) = (880, 420);
/// Points of a drawn law.
const STEPS: usize = 160;

/// Where a picture belongs on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Thresholds, alone and beside the published ones.
    Thresholds,
    /// Losses and collapse ratios.
    Collapse,
    /// Passkeys.
    Recall,
    /// The published points.
    Published,
}

/// A picture and the file it is written to.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Name of the file without its ending.
    pub name: String,
    /// Where it belongs.
    pub place: Place,
    /// Whether two stand side by side.
    pub small: bool,
    /// The picture.
    pub figure: Figure,
}

impl Picture {
    /// A picture without a legend of the page's.
    pub fn new(
        name: &str,
        place: Place,
        small: bool,
        (title, caption): (String, String),
        svg: String,
    ) -> Self {
        Self {
            name: name.into(),
            place,
            small,
            figure: Figure {
                title,
                caption,
                svg,
                legend: Vec::new(),
            },
        }
    }
}

/// Every picture that the results allow.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn pictures(report: &Report) -> Result<Vec<Picture>, ProgramError> {
    let mut pictures = Vec::new();
    let has = |quantity| {
        report
            .analyses
            .iter()
            .any(|analysis| analysis.quantity == quantity)
    };
    for analysis in report.analyses_of_laws() {
        pictures.push(thresholds::thresholds(analysis)?);
    }
    for quantity in [Quantity::ForgetPerplexity, Quantity::Recall] {
        if has(quantity) {
            pictures.push(published::beside(report, quantity)?);
        }
    }
    if !report.analyses.is_empty() {
        pictures.push(thresholds::profiles(report)?);
    }
    for task in &report.setting.tasks {
        let runs: Vec<&RunResult> = report.runs.iter().filter(|run| run.task == task.name).collect();
        pictures.extend(losses::losses(&task.name, &runs)?);
        pictures.extend(maps::collapse(&task.name, &runs, report.setting.collapse_ratio)?);
        pictures.extend(maps::recall(&task.name, &runs)?);
    }
    for forget in [true, false] {
        pictures.push(published::laws(report, forget)?);
    }
    Ok(pictures)
}

/// `text-slow, T_forget by loss` as part of a file name.
fn slug(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    text.chars().map(plain).collect()
}

fn quantity_slug(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::ForgetLoss => "forget-loss",
        Quantity::ForgetPerplexity => "forget-perplexity",
        Quantity::Recall => "recall",
        Quantity::RecallWilson => "recall-wilson",
    }
}

fn size_axis(range: (f64, f64)) -> Axis<'static> {
    Axis {
        name: "state size S (elements)",
        logarithmic: true,
        range,
        label: position,
    }
}

fn length_axis(name: &str, range: (f64, f64)) -> Axis<'_> {
    Axis {
        name,
        logarithmic: true,
        range,
        label: position,
    }
}

/// A law over a range of sizes, in elements and tokens.
fn curve(fit: &Fit, (low, high): (f64, f64), (size_unit, length_unit): (f64, f64)) -> Vec<(f64, f64)> {
    let step = (high / low).ln() / STEPS as f64;
    let sizes = (0..=STEPS).map(|index| low * (step * index as f64).exp());
    sizes
        .map(|size| (size, length_unit * fit.at(size / size_unit)))
        .collect()
}

/// The stroke of a law, the same in every picture.
fn stroke(law: Law) -> Stroke {
    let index = match law {
        Law::Power => 0,
        Law::Linear => 1,
        Law::Exponential => 2,
    };
    Stroke {
        colour: PALETTE[index],
        dash: DASHES[index],
        width: 2,
    }
}

/// The best fit of each law, the best law first.
fn best_of_each(fits: &[Fit]) -> Vec<&Fit> {
    let mut best: Vec<&Fit> = Vec::new();
    for fit in fits {
        if best.iter().all(|other| other.law != fit.law) {
            best.push(fit);
        }
    }
    best
}
