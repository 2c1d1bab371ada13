//! The files of a comparison.

use super::page;
use super::row::{FILE, Leaderboard};
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;
use std::io;

/// Writes all files.
///
/// # Errors
/// [`ProgramError::File`].
pub fn write(board: &Leaderboard, folder: &mut OutputFolder) -> Result<(), ProgramError> {
    let page = page::page(board, &Provenance::here(board.threads).of(&board.model));
    // First what a comparison goes on from: killed before the others are written, it writes them again.
    folder.write_json(FILE, board)?;
    folder.write("leaderboard.html", |file| file.write_all(page.as_bytes()))?;
    folder.write("leaderboard.csv", |file| write_csv(board, file))
}

fn write_csv(board: &Leaderboard, file: &mut dyn io::Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(file);
    let mut names: Vec<String> = ["mitigation", "loss_inside", "cost_inside"]
        .map(String::from)
        .into();
    for factor in &board.factors {
        names.extend([format!("loss_{factor}x"), format!("over_baseline_{factor}x")]);
    }
    let passkeys = board.rows.first().map_or(&[][..], |row| &row.passkeys);
    names.extend(passkeys.iter().map(|score| format!("passkey_{}", score.length)));
    names.extend(
        [
            "prefill_tokens_per_second",
            "decode_tokens_per_second",
            "state_bytes",
        ]
        .map(String::from),
    );
    writer.write_record(&names).map_err(io::Error::other)?;
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for row in &board.rows {
        let mut record = vec![row.mitigation.clone(), number(row.inside), number(row.cost)];
        for at in &row.lengths {
            record.extend([number(at.loss), number(at.over_baseline)]);
        }
        record.extend(row.passkeys.iter().map(|score| score.accuracy.to_string()));
        record.extend([
            number(row.prefill_tokens_per_second),
            number(row.decode_tokens_per_second),
            row.state_bytes.to_string(),
        ]);
        writer.write_record(&record).map_err(io::Error::other)?;
    }
    writer.flush()
}
