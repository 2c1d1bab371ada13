//! Every way in which data can be wrong, one variant each.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::audio::AudioError;
use crate::budget::BudgetError;
use crate::output::OutputError;
use crate::tokenizer::TokenizerError;

/// Why there is no batch. Every message is one line that names the file or the option, what was expected and what was found.
#[derive(Debug, Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("{}: {action} failed: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// A folder without anything to read.
    #[error("{}: expected files whose names end in {expected}, found none among {found} files", path.display())]
    NoFiles {
        /// The folder in which files were looked for.
        path: PathBuf,
        /// The endings that are read.
        expected: String,
        /// Number of files in the folder and below it, all of other names.
        found: usize,
    },
    /// A text that this tokenizer cannot read.
    #[error("{}: expected UTF-8, which {tokenizer} needs; found byte {found:#04x} at offset {offset}", path.display())]
    NotUtf8 {
        /// The file that is not UTF-8.
        path: PathBuf,
        /// Name of the tokenizer that reads the file.
        tokenizer: &'static str,
        /// The first byte that cannot be there.
        found: u8,
        /// Offset of the byte in the file, from 0.
        offset: u64,
    },
    /// A line of a file of JSON lines is none.
    #[error("{}: line {line}: expected a JSON object with a field \"text\": {reason}", path.display())]
    Line {
        /// The file that the line is in.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The JSON parser's error, as text.
        reason: String,
    },
    /// Sound that cannot be read.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// There is not as much memory.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A text cannot be turned into ids.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file that the text is in.
        path: PathBuf,
        /// The tokenizer's error.
        source: TokenizerError,
    },
    /// Fewer tokens than one sequence with its targets needs.
    #[error("{name}: expected at least {expected} tokens for one sequence with its targets, found {found}")]
    Short {
        /// The files, and which part of them.
        name: String,
        /// Tokens of a sequence, and one more.
        expected: usize,
        /// Tokens that there are.
        found: u64,
    },
    /// An option is out of range, or does not go with another one.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What the option was given instead.
        found: String,
    },
    /// A file of tokens is damaged, or is none.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    TokenFile {
        /// The file of tokens.
        path: PathBuf,
        /// Part of the file that is wrong, as a phrase: "checksum of the header".
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was found there instead.
        found: String,
    },
    /// A file of tokens holds one that its vocabulary does not have.
    #[error("{}: token {index}: expected an id below the vocabulary size {vocab_size}, found {found}", path.display())]
    Id {
        /// The file of tokens.
        path: PathBuf,
        /// The token's place, from 0.
        index: u64,
        /// The vocabulary that the file says it is of.
        vocab_size: usize,
        /// The id that the token has.
        found: u32,
    },
    /// A position that the source cannot take: that of another one, or a malformed one.
    #[error("position in the data: {field}: expected {expected}, found {found}")]
    Position {
        /// Name of the entry of the position that does not fit: `batches`.
        field: &'static str,
        /// What this source would accept.
        expected: String,
        /// What the position has.
        found: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] OutputError),
}

impl DataError {
    /// For `map_err`: the system's answer with the file and what was tried.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// [`DataError::Option`] for a value that an option cannot have.
    pub(super) fn option(option: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Option {
            option,
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
