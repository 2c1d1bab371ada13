//! Ids of a text that is read piece by piece: the same ids as of the whole, in memory that does not grow with it.
//!
//! | tokenizer | where it may be cut |
//! |---|---|
//! | bytes | anywhere |
//! | RWKV's vocabulary | before any token, once the longest token fits into what is left |
//! | `tokenizer.json` | where two windows of the text that overlap give the same tokens at the same places |
//!
//! A published tokenizer normalises, splits and merges locally, but how far it looks is nowhere written down. So every window
//! begins some kilobytes before the end of the one before, at a token of it, and the two are joined in the middle of a segment
//! in which they agree token by token; the outer quarters of the overlap, where a window's own ends show, do not count. For
//! byte-pair merges agreement is proof: a sequence of tokens is the encoding of its text exactly if each pair of neighbours
//! is. Where windows do not agree the overlap grows up to the whole window; after that the text is refused.

use std::io::{self, Read};

use thiserror::Error;

use super::{Kind, RwkvVocabulary, Tokenizer, TokenizerError};

/// Bytes of text in a window. The memory of a tokenizer is some hundred times that.
const WINDOW: usize = 256 << 10;
/// Bytes that two windows have in common, to begin with.
const OVERLAP: usize = 8 << 10;

/// Why a text that is read piece by piece has no ids.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not UTF-8, which every tokenizer but bytes needs.
    #[error("expected text in UTF-8, found byte {byte:#04x} at {offset}")]
    NotUtf8 {
        /// Where, counted from 0.
        offset: u64,
        /// The first byte that is none.
        byte: u8,
    },
    /// The tokenizer fails on it.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tokenizer looks further than a window reaches.
    #[error(
        "a text of more than {window} bytes cannot be cut for this tokenizer: tokens depend on text that far away"
    )]
    Unsplittable {
        /// Bytes in a window.
        window: usize,
    },
}

type Result<T> = std::result::Result<T, ReadError>;

/// The ids of a text, some at a time; see [`Tokenizer::pieces`]. After an error it has ended.
#[derive(Debug)]
pub struct Pieces<'t, R> {
    tokenizer: &'t Tokenizer,
    reader: R,
    special: bool,
    window: usize,
    overlap: usize,
    /// Text not yet done with, as far as it is read.
    text: Vec<u8>,
    /// Place of `text` in the whole text: the number of bytes before it.
    place: u64,
    /// Whether the reader has ended.
    at_end: bool,
    is_over: bool,
    /// Tokens of the window before that are not handed out.
    pending: Option<Window>,
    /// What follows the text's last token.
    suffix: Vec<u32>,
}

/// A window's tokens, at places relative to `Pieces::text`.
#[derive(Debug)]
struct Window {
    tokens: Vec<Token>,
    end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    id: u32,
    start: usize,
    end: usize,
}

impl Tokenizer {
    /// The ids of the text that `reader` gives, a few ten thousand at a time and together those of [`Tokenizer::encode`], or,
    /// with `special`, of [`Tokenizer::encode_prompt`].
    ///
    /// ```
    /// use spillway_models::Tokenizer;
    ///
    /// let tokenizer = Tokenizer::bytes();
    /// let ids: Result<Vec<Vec<u32>>, _> = tokenizer.pieces("In the beginning".as_bytes(), true).collect();
    /// assert_eq!(ids?.concat(), tokenizer.encode("In the beginning")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pieces<R: Read>(&self, reader: R, special: bool) -> Pieces<'_, R> {
        self.windows(reader, special, WINDOW, OVERLAP)
    }

    fn windows<R: Read>(&self, reader: R, special: bool, window: usize, overlap: usize) -> Pieces<'_, R> {
        Pieces {
            tokenizer: self,
            reader,
            special,
            window,
            overlap,
            text: Vec::new(),
            place: 0,
            at_end: false,
            is_over: false,
            pending: None,
            suffix: Vec::new(),
        }
    }
}

impl<R: Read> Iterator for Pieces<'_, R> {
    type Item = Result<Vec<u32>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            let piece = self.piece();
            self.is_over |= piece.is_err();
            match piece {
                Ok(ids) if ids.is_empty() => {}
                other => return Some(other),
            }
        }
        None
    }
}

impl<R: Read> Pieces<'_, R> {
    /// Bytes of the text that have been read.
    pub fn bytes_read(&self) -> u64 {
        self.place + self.text.len() as u64
    }

    fn piece(&mut self) -> Result<Vec<u32>> {
        let already = match &self.tokenizer.0 {
            Kind::Rwkv(vocabulary) => vocabulary.longest_token(),
            _ => self.pending.as_ref().map_or(0, |window| window.end),
        };
        self.fill(already.saturating_add(self.window))?;
        self.is_over = self.at_end;
        match &self.tokenizer.0 {
            Kind::Bytes => {
                let ids = self.text.iter().map(|byte| u32::from(*byte)).collect();
                self.drop_text(self.text.len());
                Ok(ids)
            }
            Kind::Rwkv(vocabulary) => self.rwkv(&vocabulary.clone()),
            Kind::Json(_) => self.json(),
            Kind::Absent { .. } => Ok(self.tokenizer.encode_with("", self.special)?),
        }
    }

    /// Reads until `length` bytes are there or no more come.
    fn fill(&mut self, length: usize) -> Result<()> {
        if !self.at_end && self.text.len() < length {
            let missing = (length - self.text.len()) as u64;
            let read = (&mut self.reader).take(missing).read_to_end(&mut self.text)?;
            self.at_end = (read as u64) < missing;
        }
        Ok(())
    }

    fn drop_text(&mut self, length: usize) {
        self.text.drain(..length);
        self.place += length as u64;
    }

    fn rwkv(&mut self, vocabulary: &RwkvVocabulary) -> Result<Vec<u32>> {
        let end = match self.at_end {
            true => self.text.len(),
            false => self.text.len().saturating_sub(vocabulary.longest_token()),
        };
        let place = self.place as usize;
        let (ids, read) = vocabulary
            .encode_up_to(&self.text, end)
            .map_err(|error| match error {
                TokenizerError::NoToken { byte, offset } => TokenizerError::NoToken {
                    byte,
                    offset: place + offset,
                },
                other => other,
            })?;
        self.drop_text(read);
        Ok(ids)
    }

    /// Text that is whole characters.
    fn characters(&self) -> Result<&str> {
        match std::str::from_utf8(&self.text) {
            Ok(text) => Ok(text),
            // A character that is not read to its end.
            Err(error) if error.error_len().is_none() && !self.at_end => {
                let whole = &self.text[..error.valid_up_to()];
                Ok(std::str::from_utf8(whole).unwrap_or_default())
            }
            Err(error) => Err(ReadError::NotUtf8 {
                offset: self.place + error.valid_up_to() as u64,
                byte: self.text.get(error.valid_up_to()).copied().unwrap_or_default(),
            }),
        }
    }

    fn json(&mut self) -> Result<Vec<u32>> {
        let Some(before) = self.pending.take() else {
            return self.first_window();
        };
        let mut overlap = self.overlap;
        loop {
            let start = before.start_of_next(overlap, self.characters()?);
            let next = self.encode(start)?;
            if let Some((kept, from)) = join(&before.tokens, &next.tokens, (start, before.end)) {
                let mut ids: Vec<u32> = before.tokens[..kept].iter().map(|token| token.id).collect();
                let tokens = next.tokens[from..].to_vec();
                if self.at_end {
                    ids.extend(tokens.iter().map(|token| token.id));
                    ids.append(&mut self.suffix);
                } else {
                    self.keep(
                        Window {
                            tokens,
                            end: next.end,
                        },
                        start,
                    );
                }
                return Ok(ids);
            }
            if start == 0 {
                return Err(ReadError::Unsplittable { window: self.window });
            }
            overlap = overlap.saturating_mul(4);
        }
    }

    /// The whole text if it is short; otherwise nothing yet but what stands before it.
    fn first_window(&mut self) -> Result<Vec<u32>> {
        let text = self.characters()?;
        if self.at_end {
            return Ok(self.tokenizer.encode_with(text, self.special)?);
        }
        let end = text.len();
        let (with, without) = (
            self.tokenizer.encode_with(text, self.special)?,
            self.tokenizer.encode_with(text, false)?,
        );
        let unsplittable = ReadError::Unsplittable { window: self.window };
        let begin =
            (0..=with.len().saturating_sub(without.len())).find(|at| with[*at..].starts_with(&without));
        let begin = begin.ok_or(unsplittable)?;
        self.suffix = with[begin + without.len()..].to_vec();
        let window = Window {
            tokens: self.encode(0)?.tokens,
            end,
        };
        self.keep(window, 0);
        Ok(with[..begin].to_vec())
    }

    /// Keeps a window's tokens for the next to be joined to, and its text from `start` on.
    fn keep(&mut self, window: Window, start: usize) {
        self.drop_text(start);
        let moved = |token: &Token| Token {
            id: token.id,
            start: token.start.saturating_sub(start),
            end: token.end.saturating_sub(start),
        };
        self.pending = Some(Window {
            tokens: window.tokens.iter().map(moved).collect(),
            end: window.end - start,
        });
    }

    /// The tokens of the text from `start` on.
    fn encode(&self, start: usize) -> Result<Window> {
        let text = self.characters()?;
        let Kind::Json(tokenizer) = &self.tokenizer.0 else {
            return Ok(Window {
                tokens: Vec::new(),
                end: text.len(),
            });
        };
        let places = tokenizer.encode_with_places(&text[start..])?;
        let token = |(id, place): (u32, (usize, usize))| Token {
            id,
            start: start + place.0,
            end: start + place.1,
        };
        Ok(Window {
            tokens: places.into_iter().map(token).collect(),
            end: text.len(),
        })
    }
}

impl Window {
    /// Where the next window begins: at the end of a token, so that a run of one character is cut into the same tokens, and
    /// `overlap` before the end of this one.
    fn start_of_next(&self, overlap: usize, text: &str) -> usize {
        let wanted = self.end.saturating_sub(overlap);
        let ends = self.tokens.iter().rev().map(|token| token.end);
        let mut ends = ends.filter(|end| *end <= wanted && text.is_char_boundary(*end));
        ends.next().unwrap_or(0)
    }
}

/// How many tokens of the window before are kept, and with which token of the next one the ids go on; `None` unless they agree in the
/// middle half of what they have in common.
fn join(before: &[Token], next: &[Token], (start, end): (usize, usize)) -> Option<(usize, usize)> {
    let quarter = end.saturating_sub(start) / 4;
    let inside = |tokens: &[Token]| {
        let first = tokens.partition_point(|token| token.start < start + quarter);
        let last = tokens.partition_point(|token| token.end <= end - quarter);
        first..last.max(first)
    };
    let (ours, theirs) = (inside(before), inside(next));
    let agree = before[ours.clone()] == next[theirs.clone()] && !ours.is_empty();
    let middle = ours.len() / 2;
    agree.then_some((ours.start + middle, theirs.start + middle))
}

#[cfg(test)]
mod tests;
