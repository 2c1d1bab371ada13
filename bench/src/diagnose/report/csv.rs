//! The curves as CSV files, one row per bucket or sample.

use super::DiagnosisReport;
use crate::error::ProgramError;
use crate::output::OutputFolder;
use spillway_models::evaluation::diagnosis::gates::Gate;
use spillway_models::evaluation::diagnosis::heads::HeadSummary;
use spillway_models::evaluation::tally::BucketLoss;
use std::collections::BTreeSet;
use std::io::{self, Write};

type Row = Vec<String>;

/// Writes `loss.csv`, `mitigations.csv`, `heads.csv`, `retention.csv` and `gates.csv`.
///
/// # Errors
/// [`ProgramError::File`].
pub fn write(report: &DiagnosisReport, folder: &mut OutputFolder) -> Result<(), ProgramError> {
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
    names.split_whitespace().map(String::from).collect()
}

/// A value as a field of a CSV file; empty where there is none.
fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn loss(report: &DiagnosisReport) -> Vec<Row> {
    let mut rows = vec![header(
        "mitigation buckets start end tokens loss perplexity standard_error",
    )];
    for run in &report.runs {
        let kinds = [
            ("geometric", &run.found.loss),
            ("fixed", &run.found.loss_fixed),
            ("inside", &run.found.loss_inside),
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

fn mitigations(report: &DiagnosisReport) -> Vec<Row> {
    let names = "mitigation collapsed onset ratio loss_inside price loss_beyond gain excess_removed tokens_per_second state_bytes";
    let mut rows = vec![header(names)];
    for run in &report.runs {
        let standing = &run.found.standing;
        rows.push(vec![
            run.mitigation.clone(),
            match run.found.verdict.complete {
                true => run.found.verdict.collapsed.to_string(),
                false => String::new(),
            },
            optional(run.found.verdict.onset),
            run.found.verdict.ratio.to_string(),
            optional(standing.inside),
            optional(standing.price),
            optional(standing.beyond),
            optional(standing.gain),
            optional(standing.excess_removed),
            run.found.tokens_per_second.to_string(),
            run.found.state_bytes.to_string(),
        ]);
    }
    rows
}

/// Heads with curves in files: models whose channels are heads have tens of thousands.
const HEADS_WITH_CURVES: usize = 1024;

fn heads(report: &DiagnosisReport) -> Vec<Row> {
    let names = "layer head position norm mean variance top_square_share top_mass_share log_maximum \
                 log_first_token_strength";
    let mut rows = vec![header(names)];
    for head in with_curves(report) {
        let Some((record, number)) = report.record(head) else {
            continue;
        };
        for (position, state, strength) in record.samples(number) {
            let place = [
                head.layer.to_string(),
                head.head.to_string(),
                position.to_string(),
            ];
            let numbers = state
                .to_array()
                .into_iter()
                .chain([strength])
                .map(|number| number.to_string());
            rows.push(place.into_iter().chain(numbers).collect());
        }
    }
    rows
}

/// The first heads of the ranking, in the model's order.
fn with_curves(report: &DiagnosisReport) -> Vec<&HeadSummary> {
    let mut heads: Vec<&HeadSummary> = report.heads.iter().take(HEADS_WITH_CURVES).collect();
    heads.sort_by_key(|head| head.place);
    heads
}

fn retention(report: &DiagnosisReport) -> Vec<Row> {
    let names = "layer head exit mean_log_decay retention_time kept_over_train_length fastest_key_log_decay \
                 slowest_key_log_decay measure norm_inside norm_end growth erase_inside write_inside write_end \
                 read_out_inside read_out_end effective_rank_inside effective_rank_end effective_size";
    let mut rows = vec![header(names)];
    for head in &report.heads {
        let gates = &head.gates;
        rows.push(vec![
            head.layer.to_string(),
            head.head.to_string(),
            optional(head.exit),
            head.retention.mean_log_decay.to_string(),
            optional(head.retention.retention_time),
            head.retention.kept_over_train_length.to_string(),
            optional(gates.fastest_key_log_decay),
            optional(gates.slowest_key_log_decay),
            head.measure.to_string(),
            head.norm_inside.to_string(),
            head.norm_end.to_string(),
            head.growth.to_string(),
            optional(gates.erase_inside),
            optional(gates.write_inside),
            optional(gates.write_end),
            optional(gates.read_out_inside),
            optional(gates.read_out_end),
            optional(head.usage.effective_rank_inside),
            optional(head.usage.effective_rank_end),
            optional(head.usage.effective_size),
        ]);
    }
    rows
}

/// `column` is a head, or for keys a group; both are numbered through the layer.
fn gates(report: &DiagnosisReport) -> Vec<Row> {
    let mut rows = vec![header("layer gate column start end mean variance")];
    let heads = with_curves(report);
    for (site, record) in report.records.iter().enumerate() {
        let numbers = || {
            heads
                .iter()
                .filter(|head| head.place.0 == site)
                .map(|head| head.place.1)
        };
        for gate in Gate::ALL {
            let columns: BTreeSet<usize> = numbers()
                .map(|head| head * record.columns(gate) / record.heads().max(1))
                .filter(|column| *column < record.columns(gate))
                .collect();
            for column in columns {
                for ((start, end), tally) in record.gate(gate, column) {
                    let Some(mean) = tally.mean() else { continue };
                    rows.push(vec![
                        record.layer().to_string(),
                        gate.name().into(),
                        (record.first_head() + column).to_string(),
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
