//! How an answer is judged.
//!
//! | score | 1 if |
//! |---|---|
//! | contains | one of the right answers occurs in it, in any case; the published measure of all six tasks |
//! | exact | it is one of them once both are in lower case, without punctuation, articles and superfluous blanks |
//! | F1 | – : 2PR/(P + R) of the words that it shares with the right answer that it shares most with, made ready as for `exact` |
//!
//! An answer that is not found is of one of these kinds, the first that fits:
//!
//! | kind | an answer |
//! |---|---|
//! | not a number | does not come: the logits are not numbers any more |
//! | none | without a word |
//! | repeated | all of whose words stand in the question, or that says the same again: four words or more, no more than half of them different |
//! | irrelevant | of other words |
//!
//! Scores after SQuAD's (Rajpurkar et al., 1606.05250); the kinds of error after the appendix of *Just read twice* (2407.05483).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::cut::find;
use super::document::Document;

/// Words before an answer can be said to repeat itself.
const TELLING: usize = 4;

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It contains a right answer.
    Found,
    /// It has no words.
    None,
    /// It repeats the question, or itself.
    Repeated,
    /// It says something else.
    Irrelevant,
    /// The logits are not numbers any more.
    NotANumber,
}

/// The scores of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Whether it contains a right answer, and what it is otherwise.
    pub kind: Kind,
    /// Whether it is a right answer.
    pub exact: bool,
    /// Words in common with a right answer, from 0 to 1.
    pub f1: f64,
}

impl Score {
    /// Score of an answer that does not come, as the logits are not numbers.
    pub const NOT_A_NUMBER: Self = Self {
        kind: Kind::NotANumber,
        exact: false,
        f1: 0.0,
    };

    /// Score of what a model says to a document's question.
    pub fn of(continuation: &str, document: &Document) -> Self {
        let words = normalised(continuation);
        let answers = document.answers().iter().map(|answer| normalised(answer));
        let answers: Vec<Vec<String>> = answers.collect();
        Self {
            kind: match contains(continuation, document.answers()) {
                true => Kind::Found,
                false => error_kind(continuation, document),
            },
            exact: answers.contains(&words),
            f1: answers
                .iter()
                .map(|answer| f1(&words, answer))
                .fold(0.0, f64::max),
        }
    }

    /// Whether a right answer is in it.
    pub fn is_found(&self) -> bool {
        self.kind == Kind::Found
    }
}

/// Whether one of `answers` occurs in `continuation`, in any case.
pub fn contains(continuation: &str, answers: &[String]) -> bool {
    answers.iter().any(|answer| find(continuation, answer).is_some())
}

fn error_kind(continuation: &str, document: &Document) -> Kind {
    let words = words(continuation);
    if words.is_empty() {
        return Kind::None;
    }
    let asked: BTreeSet<String> = match document.content() {
        // The text is not the question, and most right answers stand in it.
        super::document::Content::Completion {
            text,
            context,
            question,
            ..
        } => {
            let cloze = text.strip_prefix(context.as_str()).unwrap_or_default();
            words_of([cloze, question])
        }
        _ => words_of([document.cue(), document.question()]),
    };
    let different: BTreeSet<&String> = words.iter().collect();
    let says_again = words.len() >= TELLING && 2 * different.len() <= words.len();
    match says_again || different.into_iter().all(|word| asked.contains(word)) {
        true => Kind::Repeated,
        false => Kind::Irrelevant,
    }
}

fn words_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    texts.into_iter().flat_map(words).collect()
}

/// Words in lower case, without ASCII punctuation.
fn words(text: &str) -> Vec<String> {
    let plain: String = text
        .to_lowercase()
        .chars()
        .filter(|letter| !letter.is_ascii_punctuation())
        .collect();
    plain.split_whitespace().map(String::from).collect()
}

fn normalised(text: &str) -> Vec<String> {
    let mut words = words(text);
    words.retain(|word| !["a", "an", "the"].contains(&word.as_str()));
    words
}

fn f1(found: &[String], expected: &[String]) -> f64 {
    if found.is_empty() || expected.is_empty() {
        return f64::from(u8::from(found == expected));
    }
    let mut left: BTreeMap<&String, usize> = BTreeMap::new();
    for word in expected {
        *left.entry(word).or_default() += 1;
    }
    let common = found.iter().filter(|word| match left.get_mut(word) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    });
    let common = common.count() as f64;
    2.0 * common / (found.len() + expected.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::super::document::{Content, RecallTask};
    use super::*;

    fn score(continuation: &str, answers: &[&str]) -> Score {
        let content = Content::Cloze {
            context: "A text".into(),
            cloze: "The capital of Tamir is".into(),
            question: "What is the capital of Tamir?".into(),
            answers: answers.iter().map(|answer| answer.to_string()).collect(),
        };
        Score::of(
            continuation,
            &Document::new(RecallTask::Drop, content).expect("a document"),
        )
    }

    #[test]
    fn scores_are_those_made_by_hand() {
        for (continuation, answers, kind, exact, f1) in [
            (" Kelvo.", &["Kelvo"][..], Kind::Found, true, 1.0),
            ("the Kelvo", &["A kelvo!"], Kind::Irrelevant, true, 1.0),
            // 2 of 4 words and of 2: 2 · 2 / 6.
            (
                " it is Kelvo Sami",
                &["kelvo sami"],
                Kind::Found,
                false,
                2.0 / 3.0,
            ),
            ("xKelvox", &["KELVO"], Kind::Found, false, 0.0),
            ("Sami", &["Kelvo", "Sami"], Kind::Found, true, 1.0),
            ("", &["Kelvo"], Kind::None, false, 0.0),
            (" .,\u{a0}", &["Kelvo"], Kind::None, false, 0.0),
            (" the capital, of Tamir", &["Kelvo"], Kind::Repeated, false, 0.0),
            ("no no no no", &["Kelvo"], Kind::Repeated, false, 0.0),
            ("no no no", &["Kelvo"], Kind::Irrelevant, false, 0.0),
            ("Vela", &["Kelvo"], Kind::Irrelevant, false, 0.0),
            // One of the same word twice counts once.
            ("kelvo kelvo", &["Kelvo Sami"], Kind::Irrelevant, false, 0.5),
        ] {
            let found = score(continuation, answers);
            assert_eq!((found.kind, found.exact), (kind, exact), "{continuation:?}");
            assert!((found.f1 - f1).abs() < 1e-12, "{continuation:?}: {}", found.f1);
        }
    }

    #[test]
    fn articles_alone_are_no_answer_and_no_words_in_common() {
        let found = score("the a", &["the"]);
        // Both are empty once made ready, and the one contains the other.
        assert_eq!((found.kind, found.exact, found.f1), (Kind::Found, true, 1.0));
        assert_eq!(score("the", &["Kelvo"]).f1, 0.0);
    }

    #[test]
    fn what_stands_in_the_text_is_no_repetition_of_the_question() {
        let content = Content::Completion {
            text: "Vela is large. Kelvo is".into(),
            context: "Vela is large.".into(),
            question: "What is Kelvo?".into(),
            value: "small".into(),
        };
        let document = Document::new(RecallTask::Squad, content).expect("a document");
        assert_eq!(Score::of("large", &document).kind, Kind::Irrelevant);
        assert_eq!(Score::of("Kelvo", &document).kind, Kind::Repeated);
    }
}
