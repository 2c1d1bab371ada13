//! The tasks, and what a document of each holds.
//!
//! | task | fields of the published data set | asked |
//! |---|---|---|
//! | `fda`, `swde` | `text`, `key`, `value` | the value of an attribute, after `Key:` |
//! | `squad` | `text` (context and cloze), `context`, `question`, `value` | the end of a sentence |
//! | `nq`, `triviaqa`, `drop` | `context`, `question` (the cloze), `orig_question`, `answers` | the end of a sentence |
//! | `name-index`, `middle-match` | none; as `nq` | a name by its number, or by its neighbours, in a list |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is asked of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecallTask {
    /// Attributes of medical devices in letters of the FDA.
    #[serde(rename = "fda")]
    Fda,
    /// Attributes in pages of the web.
    #[serde(rename = "swde")]
    Swde,
    /// SQuAD: paragraphs of Wikipedia, and a sentence to complete from each.
    #[serde(rename = "squad")]
    Squad,
    /// Natural Questions: pages of Wikipedia.
    #[serde(rename = "nq")]
    NaturalQuestions,
    /// TriviaQA, whose answers a large model may know without the document.
    #[serde(rename = "triviaqa")]
    TriviaQa,
    /// DROP, whose answers are counted or reckoned.
    #[serde(rename = "drop")]
    Drop,
    /// The i-th of a list of names.
    #[serde(rename = "name-index")]
    NameIndex,
    /// The name between two others in a list.
    #[serde(rename = "middle-match")]
    MiddleMatch,
}

impl RecallTask {
    /// Every task, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Fda,
        Self::Swde,
        Self::Squad,
        Self::NaturalQuestions,
        Self::TriviaQa,
        Self::Drop,
        Self::NameIndex,
        Self::MiddleMatch,
    ];

    /// Name of the task on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fda => "fda",
            Self::Swde => "swde",
            Self::Squad => "squad",
            Self::NaturalQuestions => "nq",
            Self::TriviaQa => "triviaqa",
            Self::Drop => "drop",
            Self::NameIndex => "name-index",
            Self::MiddleMatch => "middle-match",
        }
    }

    /// Whether there is a published data set of it to read.
    pub fn is_published(self) -> bool {
        !matches!(self, Self::NameIndex | Self::MiddleMatch)
    }
}

impl fmt::Display for RecallTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no task has.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("expected one of {names}, found '{0}'", names = RecallTask::ALL.map(RecallTask::name).join(", "))]
pub struct UnknownTask(String);

impl FromStr for RecallTask {
    type Err = UnknownTask;

    fn from_str(text: &str) -> Result<Self, UnknownTask> {
        let found = Self::ALL.into_iter().find(|task| task.name() == text);
        found.ok_or_else(|| UnknownTask(text.into()))
    }
}

/// The fields of a document, by the shape of its data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A text and one of its attributes.
    Attribute {
        /// Text of the document.
        text: String,
        /// Name of the attribute.
        key: String,
        /// Value of the attribute, which is the right answer.
        value: String,
    },
    /// A text that ends in a sentence cut before the answer.
    Completion {
        /// Text of the document: the context, then the cloze (the sentence cut before the answer).
        text: String,
        /// The context alone, without the cloze.
        context: String,
        /// The question in natural words.
        question: String,
        /// The right answer, with which the sentence goes on.
        value: String,
    },
    /// A text, and a sentence cut before the answer.
    Cloze {
        /// Text of the document.
        context: String,
        /// The sentence that is cut before the answer.
        cloze: String,
        /// The question in natural words.
        question: String,
        /// Every answer that is right, the most usual first.
        answers: Vec<String>,
    },
}

/// A document and a question about it. Nothing in it is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    task: RecallTask,
    content: Content,
}

/// Why fields are no document.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DocumentError {
    /// The fields of another task.
    #[error("expected the fields of {0}, found those of another task")]
    Shape(RecallTask),
    /// There is nothing to read, to ask, or to answer.
    #[error("expected a {0}, found an empty one")]
    Empty(&'static str),
}

impl Document {
    /// A document of these fields.
    ///
    /// # Errors
    /// [`DocumentError`] for the fields of another task, and for an empty document, question or answer.
    pub fn new(task: RecallTask, content: Content) -> Result<Self, DocumentError> {
        let fits = match task {
            RecallTask::Fda | RecallTask::Swde => matches!(content, Content::Attribute { .. }),
            RecallTask::Squad => matches!(content, Content::Completion { .. }),
            RecallTask::NaturalQuestions
            | RecallTask::TriviaQa
            | RecallTask::Drop
            | RecallTask::NameIndex
            | RecallTask::MiddleMatch => matches!(content, Content::Cloze { .. }),
        };
        if !fits {
            return Err(DocumentError::Shape(task));
        }
        let document = Self { task, content };
        let question = document.question();
        let parts = [
            ("document", document.context()),
            ("question", question),
            ("sentence to complete", document.cue()),
        ];
        if let Some((name, _)) = parts.iter().find(|(_, text)| stripped(text).is_empty()) {
            return Err(DocumentError::Empty(name));
        }
        let answers = document.answers();
        if answers.is_empty() || answers.iter().any(|answer| stripped(answer).is_empty()) {
            return Err(DocumentError::Empty("answer"));
        }
        Ok(document)
    }

    /// The task that the document belongs to, and so what is asked of it.
    pub fn task(&self) -> RecallTask {
        self.task
    }

    /// The fields of the document, in the shape of its data set.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The text that the answer is looked for in.
    pub fn context(&self) -> &str {
        match &self.content {
            Content::Attribute { text, .. } => text,
            Content::Completion { context, .. } | Content::Cloze { context, .. } => context,
        }
    }

    /// The question in natural words; the attribute's name where there is none.
    pub fn question(&self) -> &str {
        match &self.content {
            Content::Attribute { key, .. } => key,
            Content::Completion { question, .. } | Content::Cloze { question, .. } => question,
        }
    }

    /// What the answer follows upon: the attribute's name, the text up to the answer, the cloze.
    pub fn cue(&self) -> &str {
        match &self.content {
            Content::Attribute { key, .. } => key,
            Content::Completion { text, .. } => text,
            Content::Cloze { cloze, .. } => cloze,
        }
    }

    /// Every answer that is right; at least one.
    pub fn answers(&self) -> &[String] {
        match &self.content {
            Content::Attribute { value, .. } | Content::Completion { value, .. } => {
                std::slice::from_ref(value)
            }
            Content::Cloze { answers, .. } => answers,
        }
    }

    /// Whether the answer can be told from chance: one character, which any answer may contain, cannot. The published evaluation
    /// leaves such documents out.
    pub fn is_scored(&self) -> bool {
        self.answers()[0].chars().count() > 1
    }
}

/// Whitespace as Python strips it: Unicode's, and four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

pub(super) fn stripped(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(text: &str, key: &str, value: &str) -> Content {
        Content::Attribute {
            text: text.into(),
            key: key.into(),
            value: value.into(),
        }
    }

    #[test]
    fn nothing_in_a_document_is_empty_and_its_fields_are_those_of_its_task() {
        let new = |content| Document::new(RecallTask::Fda, content);
        assert!(new(attribute("a", "b", "c")).expect("a document").answers()[0] == "c");
        assert_eq!(
            new(attribute(" \n", "b", "c")),
            Err(DocumentError::Empty("document"))
        );
        assert_eq!(
            new(attribute("a", "", "c")),
            Err(DocumentError::Empty("question"))
        );
        assert_eq!(new(attribute("a", "b", " ")), Err(DocumentError::Empty("answer")));
        let other = Document::new(RecallTask::Squad, attribute("a", "b", "c"));
        assert_eq!(other, Err(DocumentError::Shape(RecallTask::Squad)));
        let none = Content::Cloze {
            context: "a".into(),
            cloze: "b".into(),
            question: "c".into(),
            answers: Vec::new(),
        };
        assert_eq!(
            Document::new(RecallTask::Drop, none),
            Err(DocumentError::Empty("answer"))
        );
    }

    #[test]
    fn an_answer_of_one_character_is_not_scored() {
        let scored = |value| {
            let document = Document::new(RecallTask::Fda, attribute("a", "b", value));
            document.expect("a document").is_scored()
        };
        assert!(scored("10") && !scored("1") && !scored("é"));
    }

    #[test]
    fn tasks_are_read_by_their_names() {
        for task in RecallTask::ALL {
            assert_eq!(task.name().parse(), Ok(task));
            let written = serde_json::to_string(&task).expect("serialised");
            assert_eq!(written, format!("\"{task}\""));
        }
        let error = "nope".parse::<RecallTask>().expect_err("no task").to_string();
        assert!(error.contains("fda, swde") && error.contains("'nope'"), "{error}");
    }
}
