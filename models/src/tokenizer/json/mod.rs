//! A published `tokenizer.json`, read by the `tokenizers` library once it is known to do no harm.
//!
//! The library trusts its files: a prefix longer than a token, a template without its tokens or a damaged character map panics,
//! some of them in the middle of a text; rules that double the text a few dozen times, or a token of a million bytes, end the
//! process. So a file goes through four gates, and what is refused is refused when the model is loaded:
//!
//! | gate | what it keeps out |
//! |---|---|
//! | `limits.rs` | steps that nest or grow without bound, texts of absurd length: all that would end the process |
//! | `charsmap.rs` | a character map that leads outside itself |
//! | the library, its panics caught | what it calls wrong, and what it does not |
//! | `probe.rs` | whatever panics on texts of every kind |
//!
//! Truncation and padding are for batches of a fixed shape. Whatever a file says of them is cut out before it is read: a text
//! has as many ids as it has.

mod charsmap;
mod limits;
mod probe;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::TokenizerError;
use crate::checkpoint::disguise;
use crate::{budget, input};

/// The longest file that is read. The largest published ones have 33 MB.
const MAX_BYTES: u64 = 128 << 20;
/// Memory that the library takes for a byte of text: the text and its normal form with an alignment of 16 bytes each, and some
/// 100 bytes for a token.
const BYTES_PER_BYTE: u64 = 100;

/// An id, and the bytes of the text that it stands for: begin and end.
pub(super) type Placed = (u32, (usize, usize));

/// A tokenizer of the library.
#[derive(Clone, Debug)]
pub(super) struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    largest_id: u32,
    /// The file that it is made of.
    name: &'static str,
}

impl JsonTokenizer {
    /// Reads a file for a model with `rows` embeddings.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] for a file that cannot be read or used, [`TokenizerError::Vocabulary`] for ids that the
    /// model does not have.
    pub(super) fn open(path: &Path, rows: usize) -> Result<Self, TokenizerError> {
        let text = input::read_text(path, MAX_BYTES).map_err(|error| invalid(path, &error.to_string()))?;
        Self::parse(path, &text, rows)
    }

    /// Reads the content of a file; `path` is named in errors only.
    ///
    /// # Errors
    /// As [`JsonTokenizer::open`].
    pub(super) fn parse(path: &Path, text: &str, rows: usize) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| invalid(path, &reason);
        let text = limits::checked(text).map_err(invalid)?;
        let parsed = caught(|| {
            text.parse::<tokenizers::Tokenizer>()
                .map_err(|error| error.to_string())
        });
        let mut inner = parsed
            .map_err(|cause| invalid(format!("reading it panics in the tokenizers library: {cause}")))?
            .map_err(|reason| match disguise::of_text(&text) {
                Some(found) => invalid(format!("it is {}: {}", found.found, found.advice)),
                None => invalid(reason),
            })?;
        drop(text);
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| invalid(error.to_string()))?;
        let largest_id = inner.get_vocab(true).into_values().max();
        let largest_id = largest_id.ok_or_else(|| invalid("it has no vocabulary".into()))?;
        let tokenizer = Self {
            inner,
            largest_id,
            name: "tokenizer.json",
        };
        let foreign = |found: u32| TokenizerError::Vocabulary {
            path: path.to_path_buf(),
            vocab_size: rows,
            found,
        };
        if largest_id as usize >= rows {
            return Err(foreign(largest_id));
        }
        match probe::largest_id(&tokenizer).map_err(invalid)? {
            Some(id) if id as usize >= rows => Err(foreign(id)),
            _ => Ok(tokenizer),
        }
    }

    /// This tokenizer, with `name` as the kind of file that it is made of.
    pub(super) fn called(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// The kind of file that it is made of.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The largest id of its vocabulary.
    pub(super) fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The ids of a text, with what the file puts around every text if `special`.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] where the library fails or panics, [`TokenizerError::Budget`] for a text that is too long
    /// for the memory that there is.
    pub(super) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        budget::ask(
            "the tokens of a text",
            budget::product([text.len() as u64, BYTES_PER_BYTE]),
            "give a shorter text, or encode it piece by piece",
        )?;
        let failed = |reason| TokenizerError::Failed { reason };
        let encoding = caught(|| self.inner.encode_fast(text, special))
            .map_err(|cause| {
                failed(format!(
                    "encoding a text panics in the tokenizers library: {cause}"
                ))
            })?
            .map_err(|error| failed(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text with their places in it.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] where the library fails or panics.
    pub(super) fn encode_with_places(&self, text: &str) -> Result<Vec<Placed>, TokenizerError> {
        let failed = |reason| TokenizerError::Failed { reason };
        let encoding = caught(|| self.inner.encode(text, false))
            .map_err(|cause| {
                failed(format!(
                    "encoding a text panics in the tokenizers library: {cause}"
                ))
            })?
            .map_err(|error| failed(error.to_string()))?;
        let (ids, places) = (encoding.get_ids(), encoding.get_offsets());
        Ok(ids.iter().copied().zip(places.iter().copied()).collect())
    }

    /// The text of some ids, without special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] where the library fails or panics.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        if ids.is_empty() {
            // Some decoders subtract 1 from the number of tokens.
            return Ok(String::new());
        }
        let failed = |reason| TokenizerError::Failed { reason };
        caught(|| self.inner.decode(ids, true))
            .map_err(|cause| failed(format!("decoding panics in the tokenizers library: {cause}")))?
            .map_err(|error| failed(error.to_string()))
    }
}

fn invalid(path: &Path, reason: &str) -> TokenizerError {
    TokenizerError::Invalid {
        path: path.to_path_buf(),
        reason: reason.replace('\n', " "),
    }
}

/// What `call` gives, or the message of its panic.
///
/// The library keeps no state between calls but caches, whose entries are whole or absent.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|cause| {
        let text = cause
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| cause.downcast_ref::<&str>().copied());
        text.unwrap_or("no reason given").to_string()
    })
}
