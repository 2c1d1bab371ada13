//! The files of a passkey run, and what is printed of it.

use super::report::{self, PasskeysReport, Run};
use super::{curves, heatmap, page};
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;

/// Writes all files, of the pictures that of the last mitigation: those of the others are there.
///
/// # Errors
/// [`ProgramError::File`].
pub fn write(
    report: &PasskeysReport<'_>,
    out: &mut OutputFolder,
    context: &Context,
) -> Result<(), ProgramError> {
    let train_length = report.train_length;
    let drawn: Vec<&Run> = report.runs.iter().filter(|run| !run.cells.is_empty()).collect();
    let pictures: Vec<String> = drawn.iter().map(|run| picture_name(&run.mitigation)).collect();
    if let (Some(run), Some(picture)) = (drawn.last(), pictures.last()) {
        let svg = heatmap::figure(run, &report.model.name, train_length).file();
        out.write(picture, |file| file.write_all(svg.as_bytes()))?;
    }
    let curves = curves::figure(&report.runs, &report.model.name, train_length);
    if let Some(curves) = &curves {
        let svg = curves.file();
        out.write(curves::FILE, |file| file.write_all(svg.as_bytes()))?;
    }
    let made = Provenance::here(context.threads()).of(report.model);
    let page = page::page(report, curves.as_ref(), &pictures, &made);
    out.write("report.html", |file| file.write_all(page.as_bytes()))?;
    out.write("passkey.csv", |file| report::write_csv(&report.runs, file))?;
    out.write_json("passkey.json", report)?;
    out.keep();
    Ok(())
}

/// Prints the table of one mitigation.
///
/// # Errors
/// As [`Context::print_line`].
pub fn print_run(context: &Context, run: &Run) -> Result<(), ProgramError> {
    let recall = match (&run.stopped, run.recall_length) {
        (Some(reason), _) => reason.clone(),
        (None, _) if !run.complete => "interrupted; these are the answers so far".into(),
        (None, Some(length)) => format!("more than 95 % found up to {length} tokens"),
        (None, None) => "not more than 95 % found at any length".into(),
    };
    context.print_line(format_args!(
        "\nmitigation {}: {recall}\n{}",
        run.mitigation,
        run.table()
    ))
}

/// `passkey-rri-0.9999-0.75.svg`: characters that some file system refuses are replaced.
fn picture_name(mitigation: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || ".+".contains(c) {
            c
        } else {
            '-'
        }
    };
    format!(
        "passkey-{}.svg",
        mitigation.chars().map(plain).collect::<String>()
    )
}
