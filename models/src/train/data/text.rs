//! Text files as documents, and documents as ids.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::corpus::{Corpus, Ids, Split};
use super::error::DataError;
use super::files::{self, Mapped};
use super::lines;
use super::windows::Order;
use crate::tokenizer::Tokenizer;

/// Bytes of text that a tokenizer is given at once. Its memory grows with them, some hundred times as fast.
const PIECE: usize = 1 << 20;

/// Text files and folders, tokenised once and kept in memory with one, two or four bytes per token.
///
/// A file of JSON lines, each an object with a field `text`, gives the texts of its lines, each a document. It is known by its
/// ending `.jsonl` or `.ndjson`, or by its first line.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Files, and folders with everything below them, sorted by path.
    pub paths: Vec<PathBuf>,
    /// Endings of the files that are read from folders; `*` for all. Files that `paths` name are read whatever their ending.
    #[serde(default = "default_extensions")]
    pub extensions: Vec<String>,
    /// What stands between the documents of a file. It is replaced by `end_of_text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// The token that is put after every document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_of_text: Option<Token>,
    /// In which order the text is read.
    #[serde(default)]
    pub order: Order,
    /// Fraction of the tokens, at the end, that is held out.
    #[serde(default)]
    pub held_out: f64,
    /// Part of the tokens that is read: all but the end that is held out, or that end.
    #[serde(default)]
    pub split: Split,
}

/// What is read from folders unless something else is asked for: `.txt`, `.text`, `.md`, `.jsonl`.
pub fn default_extensions() -> Vec<String> {
    ["txt", "text", "md", "jsonl"].map(String::from).to_vec()
}

/// A token, as a number or as the text that becomes it and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "a token's id, or the text that becomes one token")]
pub enum Token {
    /// A token by its id.
    Id(u32),
    /// A token by its text.
    Text(String),
}

impl Token {
    /// The token's id; `option` is for errors.
    ///
    /// # Errors
    /// [`DataError::Option`] for a text that is not one token, or that the tokenizer cannot read.
    pub(super) fn id(&self, option: &'static str, tokenizer: &Tokenizer) -> Result<u32, DataError> {
        let text = match self {
            Self::Id(id) => return Ok(*id),
            Self::Text(text) => text,
        };
        let expected = || format!("an id, or text that is one token of {}", tokenizer.name());
        let ids = tokenizer.encode(text);
        let ids = ids.map_err(|error| DataError::option(option, expected(), format!("{text:?}: {error}")))?;
        match ids.as_slice() {
            [id] => Ok(*id),
            _ => Err(DataError::option(
                option,
                expected(),
                format!("{text:?}, {} tokens", ids.len()),
            )),
        }
    }
}

impl TextConfig {
    /// The documents of these files, with relative paths starting from `base`.
    ///
    /// # Errors
    /// [`DataError::Io`] or [`DataError::NoFiles`] for files that are not there, [`DataError::Option`] for no paths at all, for a
    /// separator that nothing replaces, and for an end of text that is not one token.
    pub fn documents(&self, base: &Path, tokenizer: &Tokenizer) -> Result<Documents, DataError> {
        if self.paths.is_empty() {
            return Err(DataError::option("paths", "at least one file or folder", "none"));
        }
        let end_of_text = self.end_of_text.as_ref();
        let end_of_text = end_of_text
            .map(|token| token.id("end_of_text", tokenizer))
            .transpose()?;
        match &self.separator {
            Some(separator) if separator.is_empty() => {
                return Err(DataError::option("separator", "a text", "an empty one"));
            }
            Some(_) if end_of_text.is_none() => {
                let expected = "end_of_text beside separator, to stand between the documents";
                return Err(DataError::option("end_of_text", expected, "none"));
            }
            _ => {}
        }
        let paths: Vec<PathBuf> = self.paths.iter().map(|path| base.join(path)).collect();
        Ok(Documents {
            files: files::list(&paths, &self.extensions)?,
            separator: self
                .separator
                .as_ref()
                .map(|separator| separator.clone().into_bytes()),
            end_of_text,
        })
    }

    /// The part of the text that is asked for, tokenised.
    pub(super) fn corpus(
        &self,
        base: &Path,
        tokenizer: &Tokenizer,
        time: usize,
    ) -> Result<Corpus, DataError> {
        let documents = self.documents(base, tokenizer)?;
        let vocab_size = documents.vocab_size(tokenizer);
        let mut ids = Ids::empty(vocab_size);
        let mut push = |piece: &[u32]| {
            ids.push(piece);
            Ok(())
        };
        documents.encode(tokenizer, &mut push, &mut |_| {})?;
        Corpus::new(
            &documents.name(),
            ids,
            vocab_size,
            (self.split, self.held_out),
            time,
        )
    }
}

/// Files of text, each a document or several.
#[derive(Clone, Debug)]
pub struct Documents {
    files: Vec<PathBuf>,
    separator: Option<Vec<u8>>,
    end_of_text: Option<u32>,
}

impl Documents {
    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The id after every document.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Bytes of all files together.
    ///
    /// # Errors
    /// [`DataError::Io`] when a file is gone.
    pub fn bytes(&self) -> Result<u64, DataError> {
        let size = |path: &PathBuf| {
            fs::metadata(path)
                .map(|data| data.len())
                .map_err(DataError::io(path, "opening"))
        };
        self.files.iter().map(size).sum()
    }

    /// Every id of the documents is below it.
    pub fn vocab_size(&self, tokenizer: &Tokenizer) -> usize {
        let with_end = self.end_of_text.map_or(0, |id| id as usize + 1);
        tokenizer.vocab_size().max(with_end)
    }

    /// Hands out the ids of all documents in pieces and returns the number of documents; `progress` hears how many bytes have been
    /// read since it was called last. A document without text is none.
    ///
    /// A tokenizer is given a long document in pieces of a megabyte that end with a line: tokens that would straddle such an
    /// end become two.
    ///
    /// # Errors
    /// [`DataError::Io`] for a file that cannot be read, [`DataError::NotUtf8`] and [`DataError::Tokenizer`] for a text that the
    /// tokenizer cannot read, and those of `sink`.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        sink: &mut dyn FnMut(&[u32]) -> Result<(), DataError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, DataError> {
        let mut documents = 0;
        for path in &self.files {
            let bytes = Mapped::open(path)?;
            let source = Source { path, tokenizer };
            documents += match lines::are_json(path, &bytes) {
                true => self.encode_lines(source, &bytes, sink, progress)?,
                false => self.encode_text(source, &bytes, sink, progress)?,
            };
        }
        Ok(documents)
    }

    /// The documents between separators.
    fn encode_text(
        &self,
        source: Source<'_>,
        bytes: &[u8],
        sink: &mut dyn FnMut(&[u32]) -> Result<(), DataError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, DataError> {
        let (mut documents, mut begin) = (0, 0);
        while begin < bytes.len() {
            let (length, gap) = self.next_document(&bytes[begin..]);
            source.encode(begin, &bytes[begin..begin + length], sink, progress)?;
            if length > 0 {
                sink(self.end_of_text.as_slice())?;
                documents += 1;
            }
            progress(gap as u64);
            begin += length + gap;
        }
        Ok(documents)
    }

    /// The documents of JSON lines.
    fn encode_lines(
        &self,
        source: Source<'_>,
        bytes: &[u8],
        sink: &mut dyn FnMut(&[u32]) -> Result<(), DataError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, DataError> {
        let mut documents = 0;
        for text in lines::texts(source.path, bytes) {
            let (text, length) = text?;
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                source.encode(0, text.as_bytes(), sink, &mut |_| {})?;
                sink(self.end_of_text.as_slice())?;
                documents += 1;
            }
            progress(length as u64);
        }
        Ok(documents)
    }

    /// Lengths of the document that `bytes` begin with, and of the separator after it.
    fn next_document(&self, bytes: &[u8]) -> (usize, usize) {
        let found = self.separator.as_ref().and_then(|separator| {
            let place = find(bytes, separator)?;
            Some((place, separator.len()))
        });
        found.unwrap_or((bytes.len(), 0))
    }

    /// What errors call these files.
    fn name(&self) -> String {
        match self.files.as_slice() {
            [] => "no files".into(),
            [only] => only.display().to_string(),
            [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
        }
    }
}

/// A file that is read, and what with.
#[derive(Clone, Copy)]
struct Source<'a> {
    path: &'a Path,
    tokenizer: &'a Tokenizer,
}

impl Source<'_> {
    /// Hands out the ids of one document, which begins at byte `offset`, in pieces.
    fn encode(
        self,
        offset: usize,
        text: &[u8],
        sink: &mut dyn FnMut(&[u32]) -> Result<(), DataError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DataError> {
        let mut place = 0;
        while place < text.len() {
            let piece = first_piece(&text[place..]);
            sink(&encode(self.path, offset + place, piece, self.tokenizer)?)?;
            progress(piece.len() as u64);
            place += piece.len();
        }
        Ok(())
    }
}

fn encode(path: &Path, offset: usize, piece: &[u8], tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
    if tokenizer.is_byte_level() {
        return Ok(piece.iter().map(|byte| u32::from(*byte)).collect());
    }
    let text = std::str::from_utf8(piece).map_err(|error| DataError::NotUtf8 {
        path: path.to_path_buf(),
        tokenizer: tokenizer.name(),
        // What is valid ends before the piece does, or there were no error.
        found: piece.get(error.valid_up_to()).copied().unwrap_or_default(),
        offset: (offset + error.valid_up_to()) as u64,
    })?;
    tokenizer.encode(text).map_err(|source| DataError::Tokenizer {
        path: path.to_path_buf(),
        source,
    })
}

/// The first piece of a text, at most a megabyte: up to the end of a line if there is one, otherwise of a character.
fn first_piece(text: &[u8]) -> &[u8] {
    let Some(head) = text.get(..PIECE).filter(|_| text.len() > PIECE) else {
        return text;
    };
    if let Some(end) = head.iter().rposition(|byte| *byte == b'\n') {
        return &head[..=end];
    }
    // Bytes 10xxxxxx go on with a character, which has at most three of them.
    let is_inside = |at: usize| text[at] & 0xC0 == 0x80;
    let end = (PIECE - 3..=PIECE).rev().find(|at| !is_inside(*at));
    &text[..end.unwrap_or(PIECE)]
}

/// The first place of `needle`, which is not empty.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle.first()?;
    let mut place = 0;
    loop {
        place += bytes[place..].iter().position(|byte| byte == first)?;
        if bytes[place..].starts_with(needle) {
            return Some(place);
        }
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separator_is_found_where_it_begins_first() {
        assert_eq!(find(b"aab", b"ab"), Some(1));
        assert_eq!(find(b"a\n\n\nb", b"\n\n"), Some(1));
        assert_eq!(find(b"", b"x"), None);
        assert_eq!(find(b"ab\n", b"\n\n"), None);
    }

    #[test]
    fn pieces_end_with_a_line_or_between_characters() {
        let short = "é".repeat(10);
        assert_eq!(first_piece(short.as_bytes()), short.as_bytes());
        let mut lines = "x".repeat(1000).into_bytes();
        lines.push(b'\n');
        let text = lines.repeat(2000);
        let piece = first_piece(&text);
        assert!(piece.ends_with(b"\n") && piece.len() <= PIECE && piece.len() > PIECE - 1001);
        // Three bytes each: a megabyte is no multiple of it.
        let text = "€".repeat(PIECE / 2);
        let piece = first_piece(text.as_bytes());
        assert!(std::str::from_utf8(piece).is_ok() && piece.len() > PIECE - 3);
    }

    #[test]
    fn every_line_of_a_file_of_json_lines_is_a_document_and_its_braces_are_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "{\"id\": 1, \"text\": \"ab\"}\n\n{\"text\": \"\"}\n{\"text\": \"c\"}\n";
        std::fs::write(folder.path().join("a.jsonl"), text).expect("written");
        let config: TextConfig =
            toml::from_str("paths = [\"a.jsonl\"]\nend_of_text = 0").expect("a configuration");
        let documents = config
            .documents(folder.path(), &Tokenizer::bytes())
            .expect("documents");
        let (mut ids, mut read) = (Vec::new(), 0);
        let mut sink = |piece: &[u32]| {
            ids.extend_from_slice(piece);
            Ok(())
        };
        let count = documents.encode(&Tokenizer::bytes(), &mut sink, &mut |bytes| read += bytes);
        assert_eq!(count.expect("read"), 2);
        assert_eq!(ids, [97, 98, 0, 99, 0]);
        assert_eq!(read, text.len() as u64);
    }
}
