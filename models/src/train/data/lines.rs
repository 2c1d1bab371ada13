//! Files of JSON lines: one document a line, `{"text": "...", ...}`, as data sets are published.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;

use super::error::DataError;

/// Endings of such files.
const ENDINGS: [&str; 2] = ["jsonl", "ndjson"];
/// The longest first line that is looked at to tell them from text.
const LOOKED_AT: usize = 1 << 20;

/// What is read of a line. The text may hold escapes, and then is no part of the line.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// Whether a file is one of JSON lines: by the ending of its name, or because its first line is an object with a text.
pub(super) fn are_json(path: &Path, bytes: &[u8]) -> bool {
    let ending = path.extension().unwrap_or_default();
    ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
        || first_line(bytes).is_some_and(|line| line.starts_with(b"{") && parse(line).is_ok())
}

/// The first line that is not empty, if it ends within what is looked at.
fn first_line(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = bytes.trim_ascii_start();
    let head = bytes.get(..LOOKED_AT).unwrap_or(bytes);
    let end = head.iter().position(|byte| *byte == b'\n');
    let whole = bytes.len() <= LOOKED_AT;
    let end = end.or_else(|| whole.then_some(head.len()))?;
    Some(head[..end].trim_ascii_end())
}

fn parse(line: &[u8]) -> Result<Document<'_>, serde_json::Error> {
    serde_json::from_slice(line)
}

/// The texts of a file's lines, each with the number of bytes of its line; empty lines have none.
///
/// # Errors
/// [`DataError::Line`] for a line that is no object with a text.
pub(super) fn texts<'a>(
    path: &'a Path,
    bytes: &'a [u8],
) -> impl Iterator<Item = Result<(Option<Cow<'a, str>>, usize), DataError>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    lines.map(move |(index, line)| {
        let trimmed = line.trim_ascii();
        if trimmed.is_empty() {
            return Ok((None, line.len()));
        }
        let document = parse(trimmed).map_err(|error| DataError::Line {
            path: path.to_path_buf(),
            line: index + 1,
            reason: error.to_string(),
        })?;
        Ok((Some(document.text), line.len()))
    })
}

/// The text of a whole file: that of its lines, with an empty line between them, if they are JSON; otherwise the bytes as they
/// are.
///
/// # Errors
/// [`DataError::Line`] for a file of JSON lines with one that is no object with a text.
pub fn plain_text(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, DataError> {
    if !are_json(path, &bytes) {
        return Ok(bytes);
    }
    let mut all = Vec::new();
    for text in texts(path, &bytes) {
        if let (Some(text), _) = text? {
            if !all.is_empty() {
                all.extend(b"\n\n");
            }
            all.extend(text.as_bytes());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_told_from_text_by_name_or_by_their_first_line() {
        let (named, other) = (Path::new("a.JSONL"), Path::new("a.txt"));
        assert!(are_json(named, b""));
        assert!(are_json(other, b"\n{\"id\": 1, \"text\": \"a\"}\nwhatever"));
        assert!(are_json(other, b"{\"text\": \"a\"}"));
        for text in [
            "",
            "In the beginning",
            "{\"title\": \"a\"}\n",
            "{ \"text\": \n \"a\" }",
            "{text}\n",
            "[\"text\"]\n",
        ] {
            assert!(!are_json(other, text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_text_of_a_file_is_that_of_its_lines() {
        let plain = |text: &str| plain_text(Path::new("a.txt"), text.as_bytes().to_vec());
        let text =
            plain("{\"text\": \"a\\n\\u00e9\"}\r\n\n{\"n\": {}, \"text\": \"b\"}").expect("JSON lines");
        assert_eq!(text, "a\né\n\nb".as_bytes());
        assert_eq!(plain("{a}").expect("text"), b"{a}");
        let message = plain("{\"text\": \"a\"}\n{\"text\": 3}\n")
            .expect_err("no text")
            .to_string();
        assert!(
            message.starts_with("a.txt: line 2: ") && message.contains("\"text\""),
            "{message}"
        );
    }
}
