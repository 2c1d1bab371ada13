//! Text to ids and back: a published `tokenizer.json`, SentencePiece's `tokenizer.model`, RWKV's vocabulary, or bytes as they are for small models.

mod json;
pub(crate) mod literal;
mod pieces;
mod rwkv;
pub(crate) mod sentencepiece;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::budget::BudgetError;
use json::JsonTokenizer;
pub use pieces::{Pieces, ReadError};
pub use rwkv::RwkvVocabulary;
pub use stream::StreamDecoder;

/// The vocabulary of a byte-level model: the id is the byte.
const BYTES: usize = 256;

/// Why text cannot be turned into ids.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The model came without one.
    #[error(
        "{}: no tokenizer.json, rwkv_vocab*.txt or tokenizer.model, and a vocabulary of {vocab_size} is not byte-level (256); put the \
         model's there, or give token ids",
        folder.display()
    )]
    Absent {
        /// Folder of the checkpoint that has no tokenizer.
        folder: PathBuf,
        /// Size of the model's vocabulary.
        vocab_size: usize,
    },
    /// The file cannot be read.
    #[error("{}: not a tokenizer that can be read: {reason}", path.display())]
    Invalid {
        /// Path of the tokenizer's file.
        path: PathBuf,
        /// Why the file is no tokenizer that can be read, in words.
        reason: String,
    },
    /// A line of a vocabulary is damaged.
    #[error("{}: line {line}: {reason}", path.display())]
    Line {
        /// Path of the vocabulary's file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A vocabulary has no token for a part of a text.
    #[error("text, byte {offset}: no token of the vocabulary begins with byte {byte:#04x}")]
    NoToken {
        /// The byte that no token begins with.
        byte: u8,
        /// Place of the byte in the text, from 0.
        offset: usize,
    },
    /// The tokenizer belongs to another model.
    #[error("{}: expected ids below the model's vocabulary size {vocab_size}, found id {found}", path.display())]
    Vocabulary {
        /// Path of the tokenizer's file.
        path: PathBuf,
        /// Rows of the model's embedding.
        vocab_size: usize,
        /// The largest id of the tokenizer.
        found: u32,
    },
    /// A text needs more memory than there is.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The library failed on a text.
    #[error("tokenizer: {reason}")]
    Failed {
        /// What the tokenizers library reports, in words.
        reason: String,
    },
    /// An entry of a list of ids is not one.
    #[error("token ids: entry {index}: expected a whole number below {vocab_size}, found {found:?}")]
    Ids {
        /// Position in the list, from 0.
        index: usize,
        /// Number of ids that exist; the largest is one less.
        vocab_size: usize,
        /// Text of the entry that is no id.
        found: String,
    },
}

/// Turns text into ids and ids into text.
#[derive(Clone, Debug)]
pub struct Tokenizer(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Bytes,
    Json(Arc<JsonTokenizer>),
    Rwkv(Arc<RwkvVocabulary>),
    /// The model works, but only on ids.
    Absent {
        folder: PathBuf,
        vocab_size: usize,
        /// What is wrong with one that is there.
        unread: Option<String>,
    },
}

impl Tokenizer {
    /// The tokenizer of a byte-level model.
    pub fn bytes() -> Self {
        Self(Kind::Bytes)
    }

    /// The tokenizer in a checkpoint's folder: `tokenizer.json`, the only `rwkv_vocab*.txt`, or `tokenizer.model`; without them, bytes if the
    /// vocabulary has 256 entries. When there is none of these, the model can still be used with ids, and it is
    /// [`Tokenizer::encode`] that fails.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`]; [`TokenizerError::Invalid`] also for several RWKV vocabularies.
    pub fn open(folder: &Path, vocab_size: usize, rows: usize) -> Result<Self, TokenizerError> {
        match find(folder)? {
            Some(path) => Self::from_file(&path, rows),
            None => Ok(Self::of_vocabulary(folder, vocab_size)),
        }
    }

    /// The tokenizer of a model that comes with no file of it: bytes if the vocabulary has 256 entries, else none; `folder` is
    /// named where one is then asked for.
    pub fn of_vocabulary(folder: &Path, vocab_size: usize) -> Self {
        Self(match vocab_size {
            BYTES => Kind::Bytes,
            _ => Kind::Absent {
                folder: folder.to_path_buf(),
                vocab_size,
                unread: None,
            },
        })
    }

    /// This tokenizer; where there is none, errors of texts say that the one in the file of weights `path` is not read, and why.
    pub(crate) fn or_unread(self, path: &Path, reason: &str) -> Self {
        match self.0 {
            Kind::Absent { vocab_size, .. } => Self(Kind::Absent {
                folder: path.to_path_buf(),
                vocab_size,
                unread: Some(reason.into()),
            }),
            kind => Self(kind),
        }
    }

    /// The tokenizer in a file: an RWKV vocabulary if its name ends in `.txt`, SentencePiece's if it ends in `.model`, otherwise a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] or [`TokenizerError::Line`] for a broken file, [`TokenizerError::Vocabulary`] for ids that
    /// the model does not have (`rows` of the embedding).
    pub fn from_file(path: &Path, rows: usize) -> Result<Self, TokenizerError> {
        let ends_in = |ending: &str| path.extension().is_some_and(|found| found == ending);
        if ends_in("model") {
            return Self::of_pieces(path, &sentencepiece::Vocabulary::open(path)?, rows);
        }
        if !ends_in("txt") {
            return Ok(Self(Kind::Json(Arc::new(JsonTokenizer::open(path, rows)?))));
        }
        Self::of_words(path, RwkvVocabulary::open(path)?, rows)
    }

    /// The tokenizer in the bytes of SentencePiece's file, which is named in errors only.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_pieces(path: &Path, bytes: &[u8], rows: usize) -> Result<Self, TokenizerError> {
        let vocabulary = sentencepiece::Vocabulary::parse(bytes);
        Self::of_pieces(path, &vocabulary.map_err(|reason| invalid(path, reason))?, rows)
    }

    fn of_pieces(
        path: &Path,
        vocabulary: &sentencepiece::Vocabulary,
        rows: usize,
    ) -> Result<Self, TokenizerError> {
        let text = vocabulary.to_json().map_err(|reason| invalid(path, reason))?;
        let tokenizer = JsonTokenizer::parse(path, &text, rows)?.called("tokenizer.model");
        Ok(Self(Kind::Json(Arc::new(tokenizer))))
    }

    /// The tokenizer in the text of an RWKV vocabulary; `path` is named in errors only.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_words(path: &Path, text: &str, rows: usize) -> Result<Self, TokenizerError> {
        Self::of_words(path, RwkvVocabulary::parse(path, text)?, rows)
    }

    fn of_words(path: &Path, vocabulary: RwkvVocabulary, rows: usize) -> Result<Self, TokenizerError> {
        let largest = vocabulary.largest_id();
        if largest as usize >= rows {
            return Err(TokenizerError::Vocabulary {
                path: path.to_path_buf(),
                vocab_size: rows,
                found: largest,
            });
        }
        Ok(Self(Kind::Rwkv(Arc::new(vocabulary))))
    }

    /// The tokenizer in the text of a `tokenizer.json`; `path` is named in errors only.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_json(path: &Path, text: &str, rows: usize) -> Result<Self, TokenizerError> {
        Ok(Self(Kind::Json(Arc::new(JsonTokenizer::parse(
            path, text, rows,
        )?))))
    }

    /// A word for reports.
    pub fn name(&self) -> &'static str {
        match &self.0 {
            Kind::Bytes => "bytes",
            Kind::Json(json) => json.name(),
            Kind::Rwkv(_) => "rwkv_vocab",
            Kind::Absent { .. } => "none",
        }
    }

    /// Whether ids are bytes, so that any file is a text of known length.
    pub fn is_byte_level(&self) -> bool {
        matches!(self.0, Kind::Bytes)
    }

    /// Every id that the tokenizer can give is below it.
    pub fn vocab_size(&self) -> usize {
        match &self.0 {
            Kind::Bytes => BYTES,
            Kind::Json(json) => json.largest_id() as usize + 1,
            Kind::Rwkv(vocabulary) => vocabulary.largest_id() as usize + 1,
            Kind::Absent { vocab_size, .. } => *vocab_size,
        }
    }

    /// The ids of `text`, without anything put before or after it: pieces of a long text may be encoded one by one, up to
    /// tokens that would straddle a cut.
    ///
    /// # Errors
    /// [`TokenizerError::Absent`], [`TokenizerError::Failed`] from the library, [`TokenizerError::NoToken`], or
    /// [`TokenizerError::Budget`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, false)
    }

    /// The ids of a prompt: with the tokens that the model expects at the beginning of a text, where its tokenizer adds some.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        match &self.0 {
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::Json(json) => json.encode(text, special),
            Kind::Rwkv(vocabulary) => vocabulary.encode(text.as_bytes()),
            Kind::Absent {
                folder,
                unread: Some(reason),
                ..
            } => Err(invalid(folder, reason.clone())),
            Kind::Absent {
                folder, vocab_size, ..
            } => Err(TokenizerError::Absent {
                folder: folder.clone(),
                vocab_size: *vocab_size,
            }),
        }
    }

    /// The text of `ids`. Bytes that are not UTF-8, and ids that the tokenizer does not know, become U+FFFD; without a
    /// tokenizer the ids themselves are written, with blanks between.
    pub fn decode(&self, ids: &[u32]) -> String {
        if let Some(bytes) = self.bytes_of(ids) {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        match &self.0 {
            Kind::Json(json) => json
                .decode(ids)
                .unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string()),
            _ => ids.iter().map(|id| format!("{id} ")).collect(),
        }
    }

    /// The bytes of `ids`, where every id stands for some whatever is around it. One that there is not becomes 0xFF, which is
    /// never part of UTF-8.
    fn bytes_of(&self, ids: &[u32]) -> Option<Vec<u8>> {
        match &self.0 {
            Kind::Bytes => Some(ids.iter().map(|id| u8::try_from(*id).unwrap_or(0xFF)).collect()),
            Kind::Rwkv(vocabulary) => {
                let tokens = ids.iter().map(|id| vocabulary.token(*id).unwrap_or(&[0xFF]));
                Some(tokens.collect::<Vec<_>>().concat())
            }
            Kind::Json(_) | Kind::Absent { .. } => None,
        }
    }
}

fn invalid(path: &Path, reason: String) -> TokenizerError {
    TokenizerError::Invalid {
        path: path.to_path_buf(),
        reason,
    }
}

/// Whether a file of this name is RWKV's vocabulary.
pub(crate) fn is_rwkv_vocabulary(name: &str) -> bool {
    name.starts_with("rwkv_vocab") && name.ends_with(".txt")
}

/// The name under which a tokenizer's file is found in a folder, whatever it is called elsewhere.
pub(crate) fn name_in_folder(file: &Path) -> String {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let ending = file.extension().unwrap_or_default().to_string_lossy();
    match ending.as_ref() {
        "txt" if is_rwkv_vocabulary(&name) => name,
        "txt" => "rwkv_vocab.txt".into(),
        "model" => SENTENCEPIECE.into(),
        _ => "tokenizer.json".into(),
    }
}

/// Name of the file in which SentencePiece keeps a vocabulary.
const SENTENCEPIECE: &str = "tokenizer.model";

/// The file that a folder's tokenizer is read from: `tokenizer.json`, the only `rwkv_vocab*.txt`, or `tokenizer.model`.
///
/// # Errors
/// [`TokenizerError::Invalid`] for several RWKV vocabularies.
pub fn find(folder: &Path) -> Result<Option<PathBuf>, TokenizerError> {
    let json = folder.join("tokenizer.json");
    if json.exists() {
        return Ok(Some(json));
    }
    // A folder that cannot be listed has none: models that are part of the program name no real one.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_vocabulary =
        |path: &PathBuf| is_rwkv_vocabulary(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut vocabularies: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_vocabulary).collect();
    vocabularies.sort();
    match vocabularies.as_slice() {
        [_, second, ..] => Err(TokenizerError::Invalid {
            path: second.clone(),
            reason: "expected one file rwkv_vocab*.txt in the folder, found several".into(),
        }),
        [_] => Ok(vocabularies.pop()),
        [] => Ok(Some(folder.join(SENTENCEPIECE)).filter(|path| path.exists())),
    }
}

/// Reads ids written as numbers between commas or blanks: `1,2,3`.
///
/// # Errors
/// [`TokenizerError::Ids`] for an entry that is not a number or not below `vocab_size`.
pub fn parse_ids(text: &str, vocab_size: usize) -> Result<Vec<u32>, TokenizerError> {
    let entries = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty());
    entries
        .enumerate()
        .map(|(index, entry)| {
            let id = entry.parse::<u32>().ok().filter(|id| (*id as usize) < vocab_size);
            id.ok_or_else(|| TokenizerError::Ids {
                index,
                vocab_size,
                found: entry.to_string(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_gets_the_name_that_is_looked_for() {
        let name = |file: &str| name_in_folder(Path::new(file));
        assert_eq!(name("a/20B_tokenizer.json"), "tokenizer.json");
        assert_eq!(name("a/rwkv_vocab_v20230424.txt"), "rwkv_vocab_v20230424.txt");
        assert_eq!(name("words.txt"), "rwkv_vocab.txt");
    }

    #[test]
    fn ids_are_read_from_numbers_and_named_when_they_are_not() {
        assert_eq!(parse_ids("1, 2,3 4", 5).unwrap(), [1, 2, 3, 4]);
        assert_eq!(parse_ids("", 5).unwrap(), [] as [u32; 0]);
        let message = parse_ids("1,five", 5).unwrap_err().to_string();
        assert!(
            message.contains("entry 1") && message.contains("\"five\""),
            "{message}"
        );
        let message = parse_ids("1,2,5", 5).unwrap_err().to_string();
        assert!(
            message.contains("entry 2") && message.contains("below 5"),
            "{message}"
        );
    }
}
