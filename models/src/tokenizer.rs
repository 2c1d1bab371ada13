//! Text to ids and back: a published `tokenizer.json`, or bytes as they are for small models.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// The vocabulary of a byte-level model: the id is the byte.
const BYTES: usize = 256;

/// Why text cannot be turned into ids.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The model came without one.
    #[error(
        "{}: no tokenizer.json, and a vocabulary of {vocab_size} is not byte-level (256); put the model's tokenizer.json \
         there, or give token ids",
        folder.display()
    )]
    Absent {
        /// The checkpoint's folder.
        folder: PathBuf,
        /// The model's vocabulary.
        vocab_size: usize,
    },
    /// The file cannot be read.
    #[error("{}: not a tokenizer that can be read: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The library's reason.
        reason: String,
    },
    /// The tokenizer belongs to another model.
    #[error("{}: expected ids below the model's vocabulary size {vocab_size}, found id {found}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Rows of the model's embedding.
        vocab_size: usize,
        /// The largest id of the tokenizer.
        found: u32,
    },
    /// The library failed on a text.
    #[error("tokenizer: {reason}")]
    Failed {
        /// The library's reason.
        reason: String,
    },
    /// An entry of a list of ids is not one.
    #[error("token ids: entry {index}: expected a whole number below {vocab_size}, found {found:?}")]
    Ids {
        /// Position in the list, from 0.
        index: usize,
        /// Ids that exist.
        vocab_size: usize,
        /// The entry.
        found: String,
    },
}

/// Turns text into ids and ids into text.
#[derive(Clone, Debug)]
pub struct Tokenizer(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Bytes,
    Json(Box<tokenizers::Tokenizer>),
    /// The model works, but only on ids.
    Absent {
        folder: PathBuf,
        vocab_size: usize,
    },
}

impl Tokenizer {
    /// The tokenizer of a byte-level model.
    pub fn bytes() -> Self {
        Self(Kind::Bytes)
    }

    /// The tokenizer in a checkpoint's folder: `tokenizer.json`; without it, bytes if the vocabulary has 256 entries. When there
    /// is neither, the model can still be used with ids, and it is [`Tokenizer::encode`] that fails.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] for a broken file, [`TokenizerError::Vocabulary`] for ids that the model does not have
    /// (`rows` of the embedding).
    pub fn open(folder: &Path, vocab_size: usize, rows: usize) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            let absent = Kind::Absent {
                folder: folder.to_path_buf(),
                vocab_size,
            };
            return Ok(Self(if vocab_size == BYTES { Kind::Bytes } else { absent }));
        }
        let invalid = |reason: String| TokenizerError::Invalid {
            path: path.clone(),
            reason: reason.replace('\n', " "),
        };
        let inner = tokenizers::Tokenizer::from_file(&path).map_err(|e| invalid(e.to_string()))?;
        match inner.get_vocab(true).into_values().max() {
            None => Err(invalid("it has no vocabulary".into())),
            Some(found) if found as usize >= rows => Err(TokenizerError::Vocabulary {
                path,
                vocab_size: rows,
                found,
            }),
            Some(_) => Ok(Self(Kind::Json(Box::new(inner)))),
        }
    }

    /// A word for reports.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::Bytes => "bytes",
            Kind::Json(_) => "tokenizer.json",
            Kind::Absent { .. } => "none",
        }
    }

    /// Whether ids are bytes, so that any file is a text of known length.
    pub fn is_byte_level(&self) -> bool {
        matches!(self.0, Kind::Bytes)
    }

    /// The ids of `text`, without anything put before or after it: pieces of a long text may be encoded one by one, up to
    /// tokens that would straddle a cut.
    ///
    /// # Errors
    /// [`TokenizerError::Absent`], or [`TokenizerError::Failed`] from the library.
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
            Kind::Json(inner) => {
                let encoding = inner.encode_fast(text, special);
                let encoding = encoding.map_err(|e| TokenizerError::Failed {
                    reason: e.to_string(),
                })?;
                Ok(encoding.get_ids().to_vec())
            }
            Kind::Absent { folder, vocab_size } => Err(TokenizerError::Absent {
                folder: folder.clone(),
                vocab_size: *vocab_size,
            }),
        }
    }

    /// The text of `ids`. Bytes that are not UTF-8, and ids that the tokenizer does not know, become U+FFFD; without a
    /// tokenizer the ids themselves are written, with blanks between.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.0 {
            Kind::Bytes => String::from_utf8_lossy(&to_bytes(ids)).into_owned(),
            Kind::Json(inner) => inner
                .decode(ids, true)
                .unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string()),
            Kind::Absent { .. } => ids.iter().map(|id| format!("{id} ")).collect(),
        }
    }

    /// A decoder that takes one id at a time.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder {
            tokenizer: self,
            ids: Vec::new(),
            read: 0,
        }
    }
}

fn to_bytes(ids: &[u32]) -> Vec<u8> {
    // Ids above a byte cannot come from a byte-level model; 0xFF is never part of UTF-8.
    ids.iter().map(|id| u8::try_from(*id).unwrap_or(0xFF)).collect()
}

/// Decodes token by token and gives out whole characters only: a character of several tokens appears with its last one.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens given out last, which later ones may need as context (a leading blank, for example), and those held back.
    ids: Vec<u32>,
    /// How many of them have been given out.
    read: usize,
}

/// A character takes at most four bytes; what is incomplete after this many tokens stays so.
const HELD_BACK: usize = 8;

impl StreamDecoder<'_> {
    /// Adds a token and returns the text that is complete with it, often empty.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        match self.tokenizer.0 {
            Kind::Bytes => self.complete_bytes(),
            _ => self.complete_tokens(),
        }
    }

    /// The rest, incomplete characters as U+FFFD.
    pub fn finish(&mut self) -> String {
        let before = self.tokenizer.decode(&self.ids[..self.read]);
        let all = self.tokenizer.decode(&self.ids);
        self.ids.clear();
        self.read = 0;
        all.get(before.len()..).unwrap_or_default().to_string()
    }

    /// All bytes but an incomplete character at the end.
    fn complete_bytes(&mut self) -> String {
        let bytes = to_bytes(&self.ids);
        let incomplete = match bytes.utf8_chunks().last() {
            // An invalid end may be the beginning of a character only if the decoder would accept more bytes.
            Some(last) => match std::str::from_utf8(last.invalid()) {
                Err(error) if error.error_len().is_none() => last.invalid().len(),
                _ => 0,
            },
            None => 0,
        };
        let complete = bytes.len() - incomplete;
        self.ids.drain(..complete);
        String::from_utf8_lossy(&bytes[..complete]).into_owned()
    }

    /// Text that the held-back tokens add to those given out before them.
    fn complete_tokens(&mut self) -> String {
        let before = self.tokenizer.decode(&self.ids[..self.read]);
        let all = self.tokenizer.decode(&self.ids);
        let unfinished = all.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.read < HELD_BACK;
        match all.get(before.len()..) {
            Some(new) if !new.is_empty() && !unfinished => {
                let new = new.to_string();
                self.ids.drain(..self.read);
                self.read = self.ids.len();
                new
            }
            _ => String::new(),
        }
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
    fn a_byte_stream_gives_out_whole_characters_only() {
        let tokenizer = Tokenizer::bytes();
        let mut stream = tokenizer.stream();
        let text = "aé€😀b";
        let pieces: Vec<String> = text.bytes().map(|b| stream.push(u32::from(b))).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn broken_utf8_is_replaced_once_it_is_certain() {
        let tokenizer = Tokenizer::bytes();
        let mut stream = tokenizer.stream();
        assert_eq!(stream.push(0xE2), "");
        assert_eq!(stream.push(u32::from(b'x')), "\u{FFFD}x");
        assert_eq!(stream.push(0xFF), "\u{FFFD}");
        assert_eq!(stream.push(0xE2), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
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
