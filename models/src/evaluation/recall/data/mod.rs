//! The published data sets from disk, and documents written in the same form.
//!
//! | file | what is read |
//! |---|---|
//! | `*.parquet` | a document a row, in a build with the feature `parquet`; without it, an error that says what to convert to |
//! | one that begins with `[` | a JSON list of objects |
//! | any other | JSON lines: an object a line; empty lines are passed over |
//!
//! The fields are those of the data set, see [`super::document`]; others are ignored. `answers` is a list, or one string.
//! What is broken is named by its line (or entry, or row), and left to the caller to stop at or pass over.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::document::{Content, Document, RecallTask};
use crate::input;

/// Why a file, or a part of it, is no data set.
#[derive(Debug, Error)]
pub enum DataError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file that cannot be read.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A part of it is no document.
    #[error("{}: {place}: expected {expected}, found {found}", path.display())]
    Broken {
        /// The file that the part is in.
        path: PathBuf,
        /// `line 3`, `entry 3`, `row 3`, from 1; `as a whole` for all of it.
        place: String,
        /// What would have been accepted.
        expected: String,
        /// What was found there instead.
        found: String,
    },
    /// A parquet file, which this build does not read.
    #[error(
        "{}: this build does not read parquet; build with the feature parquet, or write the file as JSON lines (in Python: \
         pandas.read_parquet(FILE).to_json(OUT, orient=\"records\", lines=True))",
        path.display()
    )]
    NoParquet {
        /// The parquet file that was to be read.
        path: PathBuf,
    },
}

impl DataError {
    fn broken(path: &Path, place: String, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Broken {
            path: path.to_path_buf(),
            place,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Read {
    /// The documents, in the file's order.
    pub documents: Vec<Document>,
    /// The places that hold none.
    pub broken: Vec<DataError>,
}

/// Reads a data set of `task`.
///
/// # Errors
/// [`DataError`] for a file that cannot be read at all; what is broken in it stands in [`Read::broken`].
pub fn read(path: &Path, task: RecallTask) -> Result<Read, DataError> {
    let is_parquet = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
    if is_parquet {
        return rows_of_parquet(path, task);
    }
    let text = input::read_text(path, input::MAX_TEXT).map_err(|source| DataError::File {
        path: path.to_path_buf(),
        source,
    })?;
    let mut read = Read::default();
    if text.trim_start().starts_with('[') {
        let entries: Vec<Value> = serde_json::from_str(&text).map_err(|error| {
            DataError::broken(
                path,
                "as a whole".into(),
                "a JSON list of objects",
                error.to_string(),
            )
        })?;
        for (index, entry) in entries.into_iter().enumerate() {
            read.take(path, task, format!("entry {}", index + 1), Ok(entry));
        }
        return Ok(read);
    }
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    for (index, line) in lines {
        let parsed = serde_json::from_str(line).map_err(|error| error.to_string());
        read.take(path, task, format!("line {}", index + 1), parsed);
    }
    Ok(read)
}

#[cfg(feature = "parquet")]
fn rows_of_parquet(path: &Path, task: RecallTask) -> Result<Read, DataError> {
    let rows = super::parquet::rows(path)?;
    let mut read = Read::default();
    for (index, row) in rows.into_iter().enumerate() {
        read.take(path, task, format!("row {}", index + 1), row);
    }
    Ok(read)
}

#[cfg(not(feature = "parquet"))]
fn rows_of_parquet(path: &Path, _: RecallTask) -> Result<Read, DataError> {
    // A file that is not there is the first thing to say.
    input::open(path).map_err(|source| DataError::File {
        path: path.to_path_buf(),
        source,
    })?;
    Err(DataError::NoParquet {
        path: path.to_path_buf(),
    })
}

impl Read {
    fn take(&mut self, path: &Path, task: RecallTask, place: String, value: Result<Value, String>) {
        let found = match value {
            Ok(Value::Object(fields)) => document(task, &fields),
            Ok(_) => Err(("an object".into(), "something else".into())),
            Err(reason) => Err(("an object of JSON".into(), reason)),
        };
        match found {
            Ok(document) => self.documents.push(document),
            Err((expected, found)) => self.broken.push(DataError::broken(path, place, expected, found)),
        }
    }
}

/// The document in these fields; else what was expected and found.
fn document(task: RecallTask, fields: &Map<String, Value>) -> Result<Document, (String, String)> {
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err((format!("a text in {name:?}"), "something else".to_string())),
        None => Err((format!("a field {name:?}"), "none".to_string())),
    };
    let content = match task {
        RecallTask::Fda | RecallTask::Swde => Content::Attribute {
            text: text("text")?,
            key: text("key")?,
            value: text("value")?,
        },
        RecallTask::Squad => Content::Completion {
            text: text("text")?,
            context: text("context")?,
            question: text("question")?,
            value: text("value")?,
        },
        _ => Content::Cloze {
            context: text("context")?,
            cloze: text("question")?,
            question: text("orig_question")?,
            answers: match fields.get("answers") {
                Some(Value::Array(answers)) => {
                    let texts = answers.iter().map(|answer| answer.as_str().map(String::from));
                    let texts: Option<Vec<String>> = texts.collect();
                    texts.ok_or_else(|| ("texts in \"answers\"".to_string(), "something else".to_string()))?
                }
                _ => vec![text("answers")?],
            },
        },
    };
    Document::new(task, content).map_err(|error| ("a document".into(), error.to_string()))
}

/// Writes documents as JSON lines with the fields of their data sets, as [`read`] reads them.
///
/// # Errors
/// The writer's.
pub fn write(documents: &[Document], out: &mut dyn Write) -> io::Result<()> {
    for document in documents {
        let fields = match document.content() {
            Content::Attribute { text, key, value } => json!({ "text": text, "key": key, "value": value }),
            Content::Completion {
                text,
                context,
                question,
                value,
            } => json!({ "text": text, "context": context, "question": question, "value": value }),
            Content::Cloze {
                context,
                cloze,
                question,
                answers,
            } => {
                json!({ "context": context, "question": cloze, "orig_question": question, "answers": answers })
            }
        };
        writeln!(out, "{fields}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read_as(name: &str, text: &str, task: RecallTask) -> Result<Read, DataError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        read(&path, task)
    }

    const LINE: &str = r#"{"doc_id": 3, "text": "A: b.", "key": "A", "value": "b"}"#;

    #[test]
    fn broken_lines_are_named_by_number_and_the_others_read() {
        let text = format!(
            "{LINE}\n\n{{\"text\": \"A\"}}\n{LINE}\r\n[1]\n{{\n{{\"text\": 3}}\n{}\n",
            r#"{"text": "A: b.", "key": "A", "value": ""}"#
        );
        let found = read_as("a.jsonl", &text, RecallTask::Fda).expect("read");
        assert_eq!(found.documents.len(), 2);
        let messages: Vec<String> = found.broken.iter().map(ToString::to_string).collect();
        for (message, parts) in messages.iter().zip([
            ["line 3: ", "a field \"key\""],
            ["line 5: ", "an object"],
            ["line 6: ", "EOF"],
            ["line 7: ", "a text in \"text\""],
            ["line 8: ", "answer"],
        ]) {
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        assert_eq!(messages.len(), 5);
    }

    #[test]
    fn a_list_is_read_entry_by_entry_or_not_at_all() {
        let text = format!(" [{LINE},\n {{}}, {LINE}]");
        let found = read_as("a.json", &text, RecallTask::Swde).expect("read");
        assert_eq!((found.documents.len(), found.broken.len()), (2, 1));
        assert!(found.broken[0].to_string().contains("entry 2: "));
        let error = read_as("a.json", "[{]", RecallTask::Swde).expect_err("no JSON");
        assert!(error.to_string().contains("as a whole"), "{error}");
    }

    #[test]
    fn answers_are_a_list_or_a_text() {
        let line = |answers: &str| {
            let text =
                format!(r#"{{"context": "c", "question": "q", "orig_question": "o", "answers": {answers}}}"#);
            read_as("a.jsonl", &text, RecallTask::Drop).expect("read")
        };
        assert_eq!(line(r#"["a", "b"]"#).documents[0].answers(), ["a", "b"]);
        assert_eq!(line(r#""a""#).documents[0].answers(), ["a"]);
        for bad in ["[]", "[1]", "null", "[\"a\", \"\"]"] {
            assert_eq!(line(bad).broken.len(), 1, "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        use super::super::generate::{Generator, Split};
        for task in RecallTask::ALL {
            let documents = Generator::new(Split::Train, 3).documents(task, 3);
            let mut bytes = Vec::new();
            write(&documents, &mut bytes).expect("written");
            let text = String::from_utf8(bytes).expect("text");
            let found = read_as("a.jsonl", &text, task).expect("read");
            assert_eq!(found.documents, documents);
        }
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn parquet_says_what_to_convert_to() {
        let message = read_as("a.Parquet", "PAR1", RecallTask::Fda)
            .expect_err("refused")
            .to_string();
        assert!(
            message.contains("feature parquet") && message.contains("JSON lines"),
            "{message}"
        );
        assert!(matches!(
            read(Path::new("none.parquet"), RecallTask::Fda),
            Err(DataError::File { .. })
        ));
    }
}
