//! The pictures of a sweep: which there are, and in which section of the page.

mod losses;
mod maps;
mod pairs;
mod published;
mod thresholds;

use super::analysis::{Laws, UNIT};
use super::report::CapacityReport;
use super::result::RunResult;
use super::threshold::Quantity;
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::Layer;
use crate::kit::ink::{Ink, Stroke};
use crate::kit::picture::Drawing;
use crate::studies::results::Picture;
use spillway_models::evaluation::laws::{Fit, Law};

/// Points of a drawn law.
const STEPS: usize = 160;

/// The section of the page that a picture belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Thresholds, alone and beside the published ones.
    Thresholds,
    /// Losses and collapse ratios.
    Collapse,
    /// Passkeys found, by context length and by depth.
    Recall,
    /// Pairs of keys and values: how many are held, and how far they are found.
    Pairs,
    /// Laws fitted once more to the published points.
    Published,
}

/// A picture, and the section that it belongs to.
pub type Placed = (Section, Picture);

/// A drawing with its title and caption, in its section.
pub fn placed(name: &str, section: Section, (title, caption): (String, String), drawing: Drawing) -> Placed {
    (section, Picture::new(name, title, caption, drawing))
}

/// Every picture that the results allow.
pub fn pictures(report: &CapacityReport) -> Vec<Placed> {
    let has = |quantity: &Quantity| {
        report
            .analyses
            .iter()
            .any(|analysis| analysis.quantity == *quantity)
    };
    let mut pictures: Vec<Placed> = report.analyses_of_laws().map(thresholds::thresholds).collect();
    let quantities = [Quantity::ForgetPerplexity, Quantity::Recall]
        .into_iter()
        .filter(has);
    pictures.extend(quantities.map(|quantity| published::beside(report, quantity)));
    if !report.analyses.is_empty() {
        pictures.push(thresholds::profiles(report));
    }
    for task in &report.setting.tasks {
        let runs: Vec<&RunResult> = report.runs.iter().filter(|run| run.task == task.name).collect();
        pictures.extend(losses::losses(&task.name, &runs));
        pictures.extend(maps::collapse(&task.name, &runs, report.setting.collapse_ratio));
        pictures.extend(maps::recall(&task.name, &runs));
    }
    pictures.extend(pairs::pictures(&report.pairs));
    pictures.extend([true, false].map(|forget| published::laws(report, forget)));
    pictures
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

fn size_axis((low, high): (f64, f64)) -> Axis {
    Axis::new("state size S (elements)", Scale::Binary).range(low, high)
}

fn length_axis(name: String, (low, high): (f64, f64)) -> Axis {
    Axis::new(name, Scale::Binary).range(low, high)
}

/// The next power of two below and above all values that are positive; none if there are none.
fn octaves(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = crate::kit::ticks::extent(values.filter(|value| *value > 0.0))?;
    Some((low.log2().floor().exp2(), high.log2().ceil().exp2()))
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
        mark: None,
        ..Stroke::nth(index)
    }
}

/// The band of the best law and a line for every law, over a range of sizes in elements.
fn law_layers(laws: &Laws, sizes: (f64, f64)) -> Vec<Layer> {
    let mut layers = Vec::new();
    if let Some(Some(bootstrap)) = laws.bootstraps.first() {
        let band = bootstrap
            .band
            .iter()
            .map(|(size, range)| (size * UNIT, range.low, range.high));
        layers.push(Layer::Band {
            points: band.collect(),
            ink: laws.fits.first().map_or(Ink::Grey, |fit| stroke(fit.law).ink),
        });
    }
    for fit in best_of_each(&laws.fits) {
        let behind = format!("{} ({}), +{:.1}", fit.law, fit.error, laws.behind(fit));
        layers.push(Layer::line(
            behind,
            curve(fit, sizes, (UNIT, 1.0)),
            stroke(fit.law),
        ));
    }
    layers
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

#[cfg(test)]
mod tests {
    use super::octaves;

    #[test]
    fn axes_end_at_powers_of_two() {
        assert_eq!(octaves([3.0, 100.0, 0.0, -1.0].into_iter()), Some((2.0, 128.0)));
        assert_eq!(octaves([f64::INFINITY, f64::NAN].into_iter()), None);
    }
}
