//! Tables and pictures of models whose states are stored in types of fewer bits.

use super::report::{ModelReport, RunReport, RunTypeReport};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer};
use crate::kit::format::{position, short};
use crate::kit::ink::Stroke;
use crate::studies::results::{Picture, Table};
use std::io::{self, Write};

/// What is measured of models.
pub const WORDS: &str = "Models read token by token with their recurrent states in every type, beside themselves with states in f32: there is no \
                         truth in f64, as weights and kernels are in f32. |Δ ln p| is by how much the log-probability of the next token \
                         changes, whichever way, and the rise what of it is a loss, both in nats and means over the tokens from half of a \
                         position to it; ± is 1.96 standard errors of the means over 256 tokens each.";

/// The tables of a model, with their titles.
pub fn tables(report: &ModelReport) -> Vec<(String, Table)> {
    let name = &report.model.name;
    let last = |values: &[Option<f64>]| values.last().copied().flatten();
    let change = |found: &RunTypeReport| last(&found.change).map_or("no number".into(), short);
    let rise = |found: &RunTypeReport| match (last(&found.rise), last(&found.rise_error)) {
        (Some(rise), Some(error)) => format!("{} ± {}", short(rise), short(1.96 * error)),
        (Some(rise), None) => short(rise),
        _ => "no number".into(),
    };
    let safe = |found: &RunTypeReport| match found.safe_up_to {
        0 => "–".into(),
        tokens => position(tokens as f64),
    };
    [
        (
            "mean |Δ ln p| at the end, nats",
            &change as &dyn Fn(&RunTypeReport) -> String,
        ),
        ("rise of the loss at the end, nats", &rise),
        ("tokens for which |Δ ln p| is within what is tolerated", &safe),
    ]
    .into_iter()
    .filter(|_| !report.runs.is_empty())
    .map(|(title, cell)| (format!("{name}: {title}"), table(&report.runs, cell)))
    .collect()
}

/// A row for each type, a column for each run.
fn table(runs: &[RunReport], cell: &dyn Fn(&RunTypeReport) -> String) -> Table {
    let mut headings = vec!["type".to_string()];
    headings.extend(runs.iter().map(|run| run.name.clone()));
    let types = runs.first().map_or(0, |run| run.types.len());
    let row = |place: usize| {
        let mut row = vec![runs[0].types[place].name.clone()];
        row.extend(runs.iter().map(|run| cell(&run.types[place])));
        row
    };
    Table {
        headings,
        rows: (0..types).map(row).collect(),
    }
}

/// For each run the change against the position.
pub fn pictures(place: usize, report: &ModelReport, tolerated: f64) -> Vec<Picture> {
    let picture = |(number, run): (usize, &RunReport)| {
        let line = |(place, found): (usize, &RunTypeReport)| {
            let places = run.positions.iter().zip(&found.change);
            // What is not changed at all has no logarithm.
            let points = places.map(|(position, value)| {
                (
                    *position as f64,
                    value.filter(|value| *value > 0.0).unwrap_or(f64::NAN),
                )
            });
            Layer::line(&found.name, points.collect(), Stroke::nth(place))
        };
        let mut layers = vec![Layer::Level(tolerated, "tolerated".into())];
        layers.extend(run.types.iter().enumerate().map(line));
        let chart = Chart {
            x: Axis::positions(),
            y: Axis::new("mean |Δ ln p| of the next token, nats", Scale::Decimal),
            exponential: None,
            layers,
        };
        let title = match run.name.as_str() {
            super::config::NONE => report.model.name.clone(),
            name => format!("{} under {name}", report.model.name),
        };
        Picture::new(
            format!("model-{}-{}", place + 1, number + 1),
            title,
            "By how much the log-probability of the next token changes, over the tokens from half of each position to it.",
            chart.draw(),
        )
    };
    report.runs.iter().enumerate().map(picture).collect()
}

/// Lines of `results.csv`: the model and its mitigation in the place of a law, and what is measured of models in columns of their own.
///
/// # Errors
/// Those of writing.
pub fn write_csv<W: Write>(models: &[ModelReport], csv: &mut csv::Writer<W>) -> io::Result<()> {
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.6e}"));
    for model in models {
        for run in &model.runs {
            for found in &run.types {
                for (place, position) in run.positions.iter().enumerate() {
                    let at = |values: &[Option<f64>]| number(values.get(place).copied().flatten());
                    csv.write_record([
                        format!("{}, {}", model.model.name, run.name),
                        found.name.clone(),
                        found.bits.to_string(),
                        position.to_string(),
                        String::new(),
                        String::new(),
                        String::new(),
                        String::new(),
                        at(&found.change),
                        at(&found.rise),
                        at(&found.rise_error),
                    ])?;
                }
            }
        }
    }
    Ok(())
}
