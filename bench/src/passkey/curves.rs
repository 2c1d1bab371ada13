//! Curves: passkeys found at each length, all depths together, one curve for each mitigation.

use super::report::{Cell, Run};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Curve, Layer, aside, from_the_top};
use crate::kit::format::counted;
use crate::kit::ink::Stroke;
use crate::kit::picture::Figure;
use crate::trial::NONE;
use spillway_models::evaluation::wilson;

/// Name of the curves' file in the output folder.
pub const FILE: &str = "found-by-length.svg";
/// Between the marks of two curves at one length, as a ratio.
const ASIDE: f64 = 1.015;

/// A length, and the share of the passkeys found there with its interval, all in percent.
type Place = (f64, f64, [f64; 2]);

/// The curves of several mitigations over several lengths; `None` where a heat map says all.
pub fn figure(runs: &[Run], model: &str, train_length: Option<u64>) -> Option<Figure> {
    let drawn: Vec<&Run> = runs.iter().filter(|run| !run.cells.is_empty()).collect();
    if drawn.len() < 2 || drawn.iter().all(|run| run.lengths().len() < 2) {
        return None;
    }
    let (mut curves, mut bars): (Vec<Curve>, Vec<Layer>) = Default::default();
    let mut mitigations = 0;
    for (index, run) in drawn.iter().enumerate() {
        let stroke = match run.mitigation.as_str() {
            NONE => Stroke::ALONE,
            _ => {
                mitigations += 1;
                Stroke::beside(mitigations - 1)
            }
        };
        let places = places(run, ASIDE.powf(aside(index, drawn.len())));
        bars.extend(
            places
                .iter()
                .filter_map(|(x, _, ends)| Layer::bar(*x, *ends, stroke)),
        );
        let line = places.iter().map(|(x, share, _)| (*x, *share)).collect();
        curves.push((run.mitigation.clone(), line, stroke));
    }
    let mut layers = bars;
    layers.extend(from_the_top(curves));
    layers.extend(train_length.map(|length| Layer::At(length as f64, "training length".into())));
    let chart = Chart {
        x: Axis::new("context length (tokens)", Scale::Binary),
        y: Axis::new("passkeys found (%)", Scale::Linear)
            .with(0.0)
            .with(100.0),
        exponential: None,
        layers,
    };
    let prompts = drawn
        .iter()
        .flat_map(|run| &run.cells)
        .map(|cell| cell.samples)
        .max();
    let caption = format!(
        "All depths together, up to {} a depth. Bars are Wilson 95 % intervals; curves stand a little aside from each other.",
        counted(prompts.unwrap_or(0), "prompt")
    );
    Some(Figure::new(
        format!("Passkeys found by {model}, by length"),
        caption,
        chart.draw(),
    ))
}

fn places(run: &Run, moved: f64) -> Vec<Place> {
    let at = |length: u64| {
        let cells = run.cells.iter().filter(move |cell| cell.length == length);
        let sum = |of: fn(&Cell) -> u64| cells.clone().map(of).sum::<u64>();
        let (correct, samples) = (sum(|cell| cell.correct), sum(|cell| cell.samples));
        let (low, high) = wilson::interval(correct, samples);
        let share = correct as f64 / samples.max(1) as f64;
        (moved * length as f64, 100.0 * share, [100.0 * low, 100.0 * high])
    };
    run.lengths().into_iter().map(at).collect()
}
