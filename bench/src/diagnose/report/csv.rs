//! The curves as CSV files, one row per bucket or look.

use super::Report;
use crate::diagnose::loss::BucketLoss;
use crate::diagnose::probe::Gate;
use crate::error::ProgramError;
use crate::output::OutputFolder;
use std::io::{self, Write};

type Row = Vec<String>;

/// Writes `loss.csv`, `mitigations.csv`, `heads.csv`, `retention.csv` and `gates.csv`.
///
/// # Errors
/// [`ProgramError::File`].
pub fn write(report: &Report, folder: &mut OutputFolder) -> Result<(), ProgramError> {
    let files = [
        ("loss.csv", loss(report)),
        ("mitigations.csv", mitigations(report)),
        ("heads.csv", heads(report)),
    ];
    for (name, rows) in files
        .into_iter()
        .chain([("retention.csv", retention(report)), ("gates.csv", gates(report))])
    {
        folder.write(name, |file| write_rows(file, &rows))?;
    }
    Ok(())
}

fn write_rows(file: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    let mut writer = ::csv::Writer::from_writer(file);
    for row in rows {
        writer.write_record(row).map_err(io::Error::other)?;
    }
    writer.flush()
}

fn header(names: &str) -> Row {
    names.split(' ').map(String::from).collect()
}

/// Nothing where there is no number.
fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn loss(report: &Report) -> Vec<Row> {
    let mut rows = vec![header(
        "mitigation buckets start end tokens loss perplexity standard_error",
    )];
    for run in &report.runs {
        let kinds = [
            ("geometric", &run.loss),
            ("fixed", &run.loss_fixed),
            ("inside", &run.loss_inside),
        ];
        for (kind, buckets) in kinds {
            rows.extend(
                buckets
                    .iter()
                    .map(|bucket| loss_row(&run.mitigation, kind, bucket)),
            );
        }
    }
    rows
}

fn loss_row(mitigation: &str, kind: &str, bucket: &BucketLoss) -> Row {
    let numbers = [bucket.start, bucket.end, bucket.tokens].map(|number| number.to_string());
    let means = [
        bucket.mean.to_string(),
        bucket.perplexity.to_string(),
        optional(bucket.standard_error),
    ];
    [mitigation.to_string(), kind.to_string()]
        .into_iter()
        .chain(numbers)
        .chain(means)
        .collect()
}

fn mitigations(report: &Report) -> Vec<Row> {
    let names = "mitigation collapsed onset ratio loss_inside price loss_beyond gain excess_removed tokens_per_second state_bytes";
    let mut rows = vec![header(names)];
    for run in &report.runs {
        let standing = &run.standing;
        rows.push(vec![
            run.mitigation.clone(),
            run.verdict.collapsed.to_string(),
            optional(run.verdict.onset),
            run.verdict.ratio.to_string(),
            optional(standing.inside),
            optional(standing.price),
            optional(standing.beyond),
            optional(standing.gain),
            optional(standing.excess_removed),
            run.tokens_per_second.to_string(),
            run.state_bytes.to_string(),
        ]);
    }
    rows
}

fn heads(report: &Report) -> Vec<Row> {
    let names =
        "layer head position norm mean variance top_square_share top_mass_share log_first_token_strength";
    let mut rows = vec![header(names)];
    for (layer, record) in report.records.iter().enumerate() {
        for head in 0..record.heads() {
            for (position, state, strength) in record.looks(head) {
                let place = [layer.to_string(), head.to_string(), position.to_string()];
                let numbers = state
                    .to_array()
                    .into_iter()
                    .chain([strength])
                    .map(|number| number.to_string());
                rows.push(place.into_iter().chain(numbers).collect());
            }
        }
    }
    rows
}

fn retention(report: &Report) -> Vec<Row> {
    let names =
        "layer head exit mean_log_decay retention_time kept_over_train_length norm_inside norm_end growth";
    let mut rows = vec![header(names)];
    for head in &report.heads {
        rows.push(vec![
            head.layer.to_string(),
            head.head.to_string(),
            optional(head.exit),
            head.retention.mean_log_decay.to_string(),
            optional(head.retention.retention_time),
            head.retention.kept_over_train_length.to_string(),
            head.norm_inside.to_string(),
            head.norm_end.to_string(),
            head.growth.to_string(),
        ]);
    }
    rows
}

/// `column` is a head, or for keys a group.
fn gates(report: &Report) -> Vec<Row> {
    let mut rows = vec![header("layer gate column start end mean variance")];
    for (layer, record) in report.records.iter().enumerate() {
        for gate in Gate::ALL {
            for column in 0..record.columns(gate) {
                for ((start, end), tally) in record.gate(gate, column) {
                    let Some(mean) = tally.mean() else { continue };
                    rows.push(vec![
                        layer.to_string(),
                        gate.name().into(),
                        column.to_string(),
                        start.to_string(),
                        end.to_string(),
                        mean.to_string(),
                        optional(tally.variance()),
                    ]);
                }
            }
        }
    }
    rows
}
