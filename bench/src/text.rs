//! The text that `--text` names.

use crate::error::ProgramError;
use crate::prompt::read_file;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_models::Model;
use spillway_models::evaluation::diagnosis::text::Text;
use std::path::Path;

/// Tokens of a random text before it repeats.
const RANDOM_TOKENS: usize = 1 << 18;

/// `newlines`, `random` ids, `ids:FILE` with numbers, a file of text, or, without a name, the text that comes with Spillway.
///
/// # Errors
/// [`ProgramError::File`] and [`ProgramError::Content`] for a file that cannot be read or holds fewer than two tokens.
pub fn open(text: Option<&str>, model: &Model) -> Result<Text, ProgramError> {
    beginning(text, model, usize::MAX)
}

/// As [`open`], of a file of text only as much as holds `most` tokens.
///
/// # Errors
/// As [`open`].
pub fn beginning(text: Option<&str>, model: &Model, most: usize) -> Result<Text, ProgramError> {
    let encode = |text: &str| {
        let ids = model.tokenizer().encode(text).map_err(ProgramError::from);
        ids.map_err(without_tokenizer)
    };
    let (name, ids) = match text {
        None => (
            "the text that comes with Spillway",
            encode(spillway_models::shipped_text())?,
        ),
        Some("random") => ("random ids", random_ids(model.info().vocab_size)),
        Some("newlines") => ("newlines", encode("\n")?.repeat(2)),
        Some(file) => match file.strip_prefix("ids:") {
            Some(path) => {
                let ids = spillway_models::tokenizer::parse_ids(
                    &read_text(Path::new(path))?,
                    model.info().vocab_size,
                );
                (
                    path,
                    ids.map_err(|error| ProgramError::Failed(format!("{path}: {error}")))?,
                )
            }
            None => (
                file,
                read_file(Path::new(file), model, most).map_err(without_tokenizer)?,
            ),
        },
    };
    Ok(Text::new(name, ids)?)
}

/// Ids drawn evenly, always the same.
fn random_ids(vocab_size: usize) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(0);
    let most = u32::try_from(vocab_size).unwrap_or(u32::MAX).max(1);
    (0..RANDOM_TOKENS).map(|_| random.random_range(0..most)).collect()
}

fn read_text(path: &Path) -> Result<String, ProgramError> {
    let bytes = spillway_models::input::read_stream(path, spillway_models::input::MAX_TEXT);
    let bytes = bytes.map_err(ProgramError::file("read", path))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        ProgramError::content(
            path,
            "text in UTF-8",
            format!("other bytes from position {valid}"),
        )
    })
}

fn without_tokenizer(error: ProgramError) -> ProgramError {
    error.without_tokenizer("as ids:FILE, or take random ones with random")
}
