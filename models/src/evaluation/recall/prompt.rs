//! Prompts: where the question stands, and how often the document is read.
//!
//! With H the question in natural words, D the document, c what the answer follows upon, and p readings:
//!
//! | order | one reading | p readings |
//! |---|---|---|
//! | `d-q` | D c | D ⏎ … D c |
//! | `q-d` | H D c | H D ⏎ … D c |
//! | `c-q` | D c | D c ⏎ … D c |
//!
//! `d-q:1` is the published default prompt and `q-d:2` (Q-D-D-Q) the published JRT-Prompt, both to the letter; `c-q:2` is the prompt
//! of the paper's text, C-Q-C-Q. The two published prompts clean a document by rules that differ in small things. `d-q:1` has the
//! rules of the first, everything else those of the second:
//!
//! | task | H | D, once | D, otherwise | c |
//! |---|---|---|---|---|
//! | `fda` | `Information about K. ` | without a `key:` at its end, newlines and then dots stripped, one dot at its end | the same | ` K:` |
//! | `swde` | the same | cut at `Summary of information above...`; stripped, then dots, one dot | dots stripped before whitespace | ` K:` |
//! | `squad` | question, blank | `text` | context before `Question:`; the last reading is `text` | in `text` |
//! | `nq` | question without colons around it, blank | without the cloze at its end, whitespace and dots stripped, one dot | the same, more than once and in any case | ` cloze` |
//! | `triviaqa` | question, blank | `[PAR]`, `[DOC]`, `[TLE]` removed, then as `nq` | the same | ` cloze` |
//! | `drop` and the lists | as `nq` | as `nq` | the same | ` cloze` |
//!
//! K is the key with its first letter in upper case.
//!
//! A document may also be read [in pieces](super::pieces): `d-q:1:oprm=512` and `q-d:1:cached=512`.
//!
//! The *padding control* of a form has the question where the form has it, one reading, and in the place of the earlier
//! ones as many tokens of dots, so that its length is the same to the token.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::document::{Content, Document, RecallTask, is_space, stripped};
use super::pieces::Pieces;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Where the pages of SWDE end and their questions begin.
const SUMMARY: &str = "Summary of information above...";
/// Marks between the paragraphs of TriviaQA.
const MARKS: [&str; 3] = ["[PAR]", "[DOC]", "[TLE]"];
/// What the padding control is padded with.
const FILLER: &str = " .";
/// More readings than anybody asks for.
pub const MOST_PASSES: usize = 64;

/// Where the question stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// After the last reading only.
    DocumentFirst,
    /// Before the first reading, and after the last.
    QuestionFirst,
    /// After every reading of the document.
    EveryTime,
}

impl Order {
    /// Every place where the question can stand.
    pub const ALL: [Self; 3] = [Self::DocumentFirst, Self::QuestionFirst, Self::EveryTime];

    /// `d-q`, `q-d` or `c-q`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DocumentFirst => "d-q",
            Self::QuestionFirst => "q-d",
            Self::EveryTime => "c-q",
        }
    }
}

/// A kind of prompt: the order, the readings, whether the earlier readings are padding, and whether the document is read in pieces.
/// Its text form is `q-d:2`, with `:padded` behind it for a control, and `q-d:1:oprm=512` in pieces of 512 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromptForm {
    /// Where the question stands.
    pub order: Order,
    /// p, at least 1.
    pub passes: usize,
    /// Whether all readings but the last are dots.
    pub is_padded: bool,
    /// How the one reading is divided; `None` for one state that reads all of it.
    pub pieces: Option<Pieces>,
}

/// A text that is no form.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "expected d-q, q-d or c-q, with :N behind it for N readings from 1 to {MOST_PASSES}, q-d-d-q or c-q-c-q; or d-q or q-d with \
     :oprm=TOKENS or :cached=TOKENS behind it, found '{0}'"
)]
pub struct UnknownForm(String);

impl PromptForm {
    /// The published default prompt.
    pub const ONCE: Self = Self::new(Order::DocumentFirst, 1);
    /// The published JRT-Prompt, `q-d:2`.
    pub const TWICE: Self = Self::new(Order::QuestionFirst, 2);

    /// So many readings in this order.
    pub const fn new(order: Order, passes: usize) -> Self {
        Self {
            order,
            passes,
            is_padded: false,
            pieces: None,
        }
    }

    /// The control of equal length; `None` for one reading, which has no earlier one, and for a control.
    pub fn control(self) -> Option<Self> {
        let controlled = self.passes > 1 && !self.is_padded;
        // The question after each reading is part of what is padded, so that `c-q` has the control of `d-q`, and its own length.
        controlled.then_some(Self {
            is_padded: true,
            ..self
        })
    }
}

impl fmt::Display for PromptForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let padded = if self.is_padded { ":padded" } else { "" };
        write!(f, "{}:{}{padded}", self.order.name(), self.passes)?;
        self.pieces.map_or(Ok(()), |pieces| write!(f, ":{pieces}"))
    }
}

impl FromStr for PromptForm {
    type Err = UnknownForm;

    /// `q-d` is one reading; `q-d-d-q` and `c-q-c-q` are `q-d:2` and `c-q:2`.
    fn from_str(text: &str) -> Result<Self, UnknownForm> {
        let unknown = || UnknownForm(text.into());
        let (rest, pieces) = match text.rsplit_once(':').map(|(rest, last)| (rest, last.parse())) {
            Some((rest, Ok(pieces))) => (rest, Some(pieces)),
            _ => (text, None),
        };
        let (rest, is_padded) = match rest.strip_suffix(":padded") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (order, passes) = match rest {
            "q-d-d-q" => ("q-d", 2),
            "c-q-c-q" => ("c-q", 2),
            other => match other.split_once(':') {
                Some((order, passes)) => (order, passes.parse().map_err(|_| unknown())?),
                None => (other, 1),
            },
        };
        let order = Order::ALL.into_iter().find(|known| known.name() == order);
        let form = Self {
            is_padded,
            pieces,
            ..Self::new(order.ok_or_else(unknown)?, passes)
        };
        // A question after every piece is a question after the only reading of each.
        let divided = pieces.is_none() || (passes == 1 && form.order != Order::EveryTime);
        match (1..=MOST_PASSES).contains(&passes) && !(is_padded && passes == 1) && divided {
            true => Ok(form),
            false => Err(unknown()),
        }
    }
}

impl Serialize for PromptForm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'a> Deserialize<'a> for PromptForm {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A document made ready.
struct Parts {
    /// H and what follows it.
    hint: String,
    /// A reading that is not the last.
    earlier: String,
    /// The last reading and c.
    last: String,
}

impl Parts {
    fn of(document: &Document, is_once: bool) -> Self {
        match document.content() {
            Content::Attribute { text, key, .. } => Self::attribute(document.task(), text, key, is_once),
            Content::Completion {
                text,
                context,
                question,
                ..
            } => Self {
                hint: format!("{question} "),
                earlier: context.split("Question:").next().unwrap_or_default().to_string(),
                last: stripped(text).to_string(),
            },
            Content::Cloze {
                context,
                cloze,
                question,
                ..
            } => Self::cloze(document.task(), context, cloze, question, is_once),
        }
    }

    fn attribute(task: RecallTask, text: &str, key: &str, is_once: bool) -> Self {
        let text = match task {
            RecallTask::Swde => text.split(SUMMARY).next().unwrap_or_default(),
            _ => text,
        };
        let text = without_endings(text, &format!("{key}:"));
        let newlines = |text: &str| text.trim_matches('\n').to_string();
        let document = match (task, is_once) {
            (RecallTask::Swde, true) => {
                let text = stripped(text.trim_matches('\n')).trim_matches('\n');
                format!("{}.", stripped(text).trim_matches('.'))
            }
            (RecallTask::Swde, false) => {
                let text = stripped(text.trim_matches('\n').trim_matches('.'));
                with_dot(stripped(text.trim_matches('\n')))
            }
            _ => with_dot(newlines(text).trim_matches('.')),
        };
        let asked = asked_for(key);
        Self {
            hint: format!("Information about {}. ", asked.trim_matches(':')),
            last: format!("{document} {asked}"),
            earlier: document,
        }
    }

    fn cloze(task: RecallTask, context: &str, cloze: &str, question: &str, is_once: bool) -> Self {
        let cloze = stripped(cloze);
        let mut context = stripped(context).to_string();
        if task == RecallTask::TriviaQa {
            for mark in MARKS {
                context = context.replace(mark, "");
            }
        }
        let context = match (task, is_once) {
            (RecallTask::NaturalQuestions, true) => context.strip_suffix(cloze).unwrap_or(&context),
            _ => without_endings(&context, cloze),
        };
        let inner = stripped(context).trim_matches('.');
        let inner = if is_once { inner } else { stripped(inner) };
        let document = format!("{inner}.");
        let question = match task {
            RecallTask::TriviaQa => question,
            _ => question.trim_matches(':'),
        };
        Self {
            hint: format!("{question} "),
            last: format!("{document} {cloze}"),
            earlier: document,
        }
    }
}

/// `text` without `ending` at its end, in whatever case and however often.
fn without_endings<'a>(mut text: &'a str, ending: &str) -> &'a str {
    let (lower, length) = (ending.to_lowercase(), ending.chars().count());
    while length > 0 && text.to_lowercase().ends_with(&lower) {
        let end = text.char_indices().rev().nth(length - 1);
        text = &text[..end.map_or(0, |(at, _)| at)];
    }
    text
}

fn with_dot(text: &str) -> String {
    match text.ends_with('.') {
        true => text.to_string(),
        false => format!("{text}."),
    }
}

/// The name of an attribute as a line begins with it.
fn asked_for(key: &str) -> String {
    let mut letters = key.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}:", letters.as_str())
}

/// The prompt as text; of a control, without its padding.
pub fn text(document: &Document, form: PromptForm) -> String {
    let parts = Parts::of(document, form == PromptForm::ONCE);
    let passes = if form.is_padded { 1 } else { form.passes };
    let repeated = |reading: &str| format!("{reading}\n").repeat(passes.saturating_sub(1));
    match form.order {
        Order::DocumentFirst => repeated(&parts.earlier) + &parts.last,
        Order::QuestionFirst => parts.hint + &repeated(&parts.earlier) + &parts.last,
        Order::EveryTime => repeated(&parts.last) + &parts.last,
    }
}

/// What the answer follows upon, without the document: `Attribute:`, or the cloze.
pub fn cue(document: &Document) -> String {
    match document.content() {
        Content::Attribute { key, .. } => asked_for(key),
        Content::Completion { text, context, .. } => {
            stripped(text.strip_prefix(context.as_str()).unwrap_or(text)).to_string()
        }
        Content::Cloze { cloze, .. } => stripped(cloze).to_string(),
    }
}

/// The prompt as ids, without the special tokens that some tokenizers put in front.
///
/// # Errors
/// As [`Tokenizer::encode`].
pub fn ids(document: &Document, form: PromptForm, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
    if !form.is_padded {
        return tokenizer.encode(&text(document, form));
    }
    let repeated = PromptForm {
        is_padded: false,
        ..form
    };
    let parts = Parts::of(document, false);
    let mut ids = match form.order {
        Order::QuestionFirst => tokenizer.encode(parts.hint.trim_end_matches(is_space))?,
        Order::DocumentFirst | Order::EveryTime => Vec::new(),
    };
    let reading = tokenizer.encode(&format!("\n{}", parts.last))?;
    let length = tokenizer.encode(&text(document, repeated))?.len();
    let filler = tokenizer.encode(FILLER)?;
    let padding = length.saturating_sub(ids.len() + reading.len());
    ids.extend(filler.iter().cycle().take(padding));
    ids.extend(reading);
    Ok(ids)
}

/// What prompts of the pieces of a document are made of, as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Divisible {
    /// The question before the document, where the form has it there.
    pub(super) head: Vec<u32>,
    /// The document, as far as its tokens are not those of the tail.
    pub(super) document: Vec<u32>,
    /// What the answer follows upon.
    pub(super) tail: Vec<u32>,
}

/// The parts of a prompt of one reading. Where the tokenizer has tokens that reach across the end of the document, the tail begins
/// with the first of them.
///
/// # Errors
/// As [`Tokenizer::encode`].
pub(super) fn divisible(
    document: &Document,
    order: Order,
    tokenizer: &Tokenizer,
) -> Result<Divisible, TokenizerError> {
    let parts = Parts::of(document, order == Order::DocumentFirst);
    let mut reading = tokenizer.encode(&parts.last)?;
    let alone = tokenizer.encode(&parts.earlier)?;
    let shared = reading.iter().zip(&alone).take_while(|(a, b)| a == b).count();
    let tail = reading.split_off(shared);
    Ok(Divisible {
        head: match order {
            Order::QuestionFirst => tokenizer.encode(&parts.hint)?,
            Order::DocumentFirst | Order::EveryTime => Vec::new(),
        },
        document: reading,
        tail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloze(task: RecallTask, context: &str, cloze: &str, question: &str) -> Document {
        let content = Content::Cloze {
            context: context.into(),
            cloze: cloze.into(),
            question: question.into(),
            answers: vec!["answer".into()],
        };
        Document::new(task, content).expect("a document")
    }

    #[test]
    fn every_order_reads_as_often_as_it_is_asked_to() {
        let document = cloze(RecallTask::Drop, "D", "c", "H");
        let text = |form: &str| text(&document, form.parse().expect("a form"));
        for (form, expected) in [
            ("d-q", "D. c"),
            ("d-q:2", "D.\nD. c"),
            ("d-q:3", "D.\nD.\nD. c"),
            ("q-d", "H D. c"),
            ("q-d-d-q", "H D.\nD. c"),
            ("c-q", "D. c"),
            ("c-q-c-q", "D. c\nD. c"),
            ("c-q:3", "D. c\nD. c\nD. c"),
        ] {
            assert_eq!(text(form), expected, "{form}");
        }
    }

    #[test]
    fn a_control_has_the_length_of_its_form_and_reads_once() {
        let tokenizer = Tokenizer::bytes();
        let document = cloze(RecallTask::Drop, "The document", "The answer is", "What?");
        for form in ["d-q:2", "q-d:2", "c-q:2", "q-d:3"] {
            let form: PromptForm = form.parse().expect("a form");
            let control = form.control().expect("several readings");
            let ids = |form| ids(&document, form, &tokenizer).expect("bytes");
            assert_eq!(ids(form).len(), ids(control).len(), "{form}");
            let text = tokenizer.decode(&ids(control));
            assert_eq!(text.matches("The document").count(), 1, "{text}");
            assert!(text.ends_with("\nThe document. The answer is"), "{text}");
            assert_eq!(text.starts_with("What? . ."), form.order == Order::QuestionFirst);
            assert_eq!(control.control(), None);
            assert_eq!(control.to_string().parse(), Ok(control));
        }
        assert_eq!(PromptForm::ONCE.control(), None);
    }

    #[test]
    fn a_divided_form_is_written_and_read_and_its_parts_are_the_prompt() {
        let tokenizer = Tokenizer::bytes();
        let document = cloze(RecallTask::Drop, "The document", "The answer is", "What?");
        for (written, order, form) in [
            ("d-q:oprm=512", "d-q", "d-q:1:oprm=512"),
            ("q-d:1:cached=64", "q-d", "q-d:1:cached=64"),
        ] {
            let parsed: PromptForm = written.parse().expect("a form");
            assert_eq!(parsed.to_string(), form);
            assert_eq!(parsed.control(), None);
            let parts = divisible(&document, parsed.order, &tokenizer).expect("bytes");
            let joined = [parts.head, parts.document, parts.tail.clone()].concat();
            let whole: PromptForm = order.parse().expect("a form");
            assert_eq!(tokenizer.decode(&joined), text(&document, whole));
            assert_eq!(tokenizer.decode(&parts.tail), " The answer is");
        }
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for bad in [
            "",
            "q",
            "q-d:0",
            "q-d:65",
            "q-d:x",
            "q-d:1:padded",
            "d-q-d",
            "q-d:2:oprm=8",
            "c-q:1:cached=8",
            "d-q:oprm=0",
            "d-q:oprm",
            "d-q:2:padded:oprm=8",
        ] {
            assert!(bad.parse::<PromptForm>().is_err(), "{bad}");
        }
        let written = serde_json::to_string(&PromptForm::TWICE).expect("serialised");
        assert_eq!(written, "\"q-d:2\"");
    }
}
