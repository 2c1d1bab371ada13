//! Long documents, cut around their answer.
//!
//! With room for b = L − 50 tokens, and the answer beginning at token a, the tokens from max(0, a − b/2) on are kept, b of them at
//! most: what the published evaluation does. It makes a task easier than the whole document would, for the answer is always in what is left,
//! and not far from its middle. Where the answer lies is looked for in any case; of an attribute, it is where its name or its
//! value comes first, as the published runs have it.
//!
//! That cuts the beginning of a document that would fit, too, when its answer lies beyond b/2. Documents whose answer is reckoned
//! from all of them (`drop` and the lists) are left whole as long as they fit.
//!
//! A document without its answer keeps its first b tokens. (The published evaluation takes its last b/2, by an index of −1.)

use super::document::{Content, Document, RecallTask, stripped};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens that are left for the question and the answer.
pub const ANSWER_TOKENS: usize = 50;

/// A document that fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The document with what is kept of its text.
    pub document: Document,
    /// Where its answer begins, from 0 at the beginning to 1 at the end, in characters; `None` where it is not in it.
    pub depth: Option<f64>,
}

/// Cuts `document` to a length of L tokens; leaves it whole without one.
///
/// # Errors
/// As [`Tokenizer::encode`].
pub fn cut(document: &Document, length: Option<usize>, tokenizer: &Tokenizer) -> Result<Cut, TokenizerError> {
    let document = match length {
        Some(length) => shortened(document, length.saturating_sub(ANSWER_TOKENS).max(1), tokenizer)?,
        None => document.clone(),
    };
    let depth = answer_at(document.context(), document.answers().iter().map(String::as_str));
    let characters = document.context().chars().count();
    Ok(Cut {
        depth: depth.map(|at| document.context()[..at].chars().count() as f64 / characters as f64),
        document,
    })
}

fn shortened(document: &Document, room: usize, tokenizer: &Tokenizer) -> Result<Document, TokenizerError> {
    let context = stripped(document.context());
    let ids = tokenizer.encode(context)?;
    let is_reckoned = matches!(
        document.task(),
        RecallTask::Drop | RecallTask::NameIndex | RecallTask::MiddleMatch
    );
    if is_reckoned && ids.len() <= room {
        return Ok(document.clone());
    }
    let begin = match centre(document, context) {
        Some(at) => tokenizer.encode(&context[..at])?.len().saturating_sub(room / 2),
        None => 0,
    };
    let end = ids.len().min(begin.saturating_add(room));
    if begin == 0 && end == ids.len() {
        return Ok(document.clone());
    }
    let kept = tokenizer.decode(ids.get(begin..end).unwrap_or_default());
    let content = match document.content().clone() {
        Content::Attribute { key, value, .. } => Content::Attribute {
            text: kept,
            key,
            value,
        },
        // The sentence to complete stays behind what is kept, wherever it was in the text.
        Content::Completion {
            text,
            context,
            question,
            value,
        } => Content::Completion {
            text: format!(
                "{kept} {}",
                stripped(stripped(&text).strip_prefix(stripped(&context)).unwrap_or(&text))
            ),
            context: kept,
            question,
            value,
        },
        Content::Cloze {
            cloze,
            question,
            answers,
            ..
        } => Content::Cloze {
            context: kept,
            cloze,
            question,
            answers,
        },
    };
    // What is kept of blanks alone is no document: then the whole is the better one.
    Ok(Document::new(document.task(), content).unwrap_or_else(|_| document.clone()))
}

/// The byte that the window lies around.
fn centre(document: &Document, context: &str) -> Option<usize> {
    match document.content() {
        Content::Attribute { key, value, .. } => {
            let places = [key, value].map(|text| find(context, text));
            places.into_iter().flatten().min()
        }
        _ => answer_at(context, document.answers().iter().map(String::as_str)),
    }
}

/// Where the first of the answers that occurs at all begins.
fn answer_at<'a>(context: &str, mut answers: impl Iterator<Item = &'a str>) -> Option<usize> {
    answers.find_map(|answer| find(context, answer))
}

/// The first place of `needle` in `text` in any case, in bytes.
pub(super) fn find(text: &str, needle: &str) -> Option<usize> {
    let lowered = |text: &str| -> Vec<(usize, char)> {
        let letters = text.char_indices();
        letters
            .flat_map(|(at, letter)| letter.to_lowercase().map(move |lower| (at, lower)))
            .collect()
    };
    let (text, needle) = (lowered(text), lowered(needle));
    let same = |window: &[(usize, char)]| window.iter().zip(&needle).all(|(a, b)| a.1 == b.1);
    match needle.is_empty() {
        true => Some(0),
        false => text
            .windows(needle.len())
            .find(|window| same(window))
            .map(|window| window[0].0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(context: &str, answer: &str) -> Document {
        let content = Content::Cloze {
            context: context.into(),
            cloze: "It is".into(),
            question: "What is it?".into(),
            answers: vec![answer.into()],
        };
        Document::new(RecallTask::Drop, content).expect("a document")
    }

    fn cut_to(document: &Document, length: Option<usize>) -> Cut {
        cut(document, length, &Tokenizer::bytes()).expect("bytes")
    }

    #[test]
    fn the_answer_is_left_in_and_its_depth_is_that_in_what_is_left() {
        let whole = document(&format!("{}ANSWER{}", "a".repeat(300), "b".repeat(300)), "answer");
        let found = cut_to(&whole, Some(150));
        assert_eq!(found.document.context().len(), 100);
        assert_eq!(found.document.context().find("ANSWER"), Some(50));
        assert_eq!(found.depth, Some(0.5));
        let found = cut_to(&whole, None);
        assert_eq!((found.depth, &found.document), (Some(300.0 / 606.0), &whole));
    }

    #[test]
    fn what_fits_is_left_whole_where_all_of_it_counts_and_begins_later_where_it_does_not() {
        let text = format!("{}answer", "a".repeat(80));
        let whole = document(&text, "answer");
        assert_eq!(cut_to(&whole, Some(150)).document, whole);
        let content = whole.content().clone();
        let looked_up = Document::new(RecallTask::TriviaQa, content).expect("a document");
        assert_eq!(cut_to(&looked_up, Some(150)).document.context(), &text[30..]);
    }

    #[test]
    fn a_document_without_its_answer_keeps_its_beginning() {
        let found = cut_to(&document(&"abcde".repeat(40), "answer"), Some(60));
        assert_eq!((found.document.context(), found.depth), ("abcdeabcde", None));
    }

    #[test]
    fn lengths_that_leave_no_room_keep_a_token_and_longer_ones_everything() {
        let whole = document("abc answer", "answer");
        for length in [0, 1, ANSWER_TOKENS, ANSWER_TOKENS + 1] {
            assert_eq!(cut_to(&whole, Some(length)).document.context(), "a", "{length}");
        }
        assert_eq!(cut_to(&whole, Some(usize::MAX)).document, whole);
    }

    #[test]
    fn a_completion_keeps_its_last_sentence() {
        let content = Content::Completion {
            text: format!("{}blue{} The sky is", "a".repeat(200), "b".repeat(200)),
            context: format!("{}blue{}", "a".repeat(200), "b".repeat(200)),
            question: "What is the sky?".into(),
            value: "blue".into(),
        };
        let whole = Document::new(RecallTask::Squad, content).expect("a document");
        let found = cut_to(&whole, Some(90)).document;
        assert_eq!(
            found.context(),
            format!("{}blue{}", "a".repeat(20), "b".repeat(16))
        );
        assert_eq!(found.cue(), format!("{} The sky is", found.context()));
    }

    #[test]
    fn places_are_found_in_any_case() {
        assert_eq!(find("aÉé Straße", "éÉ S"), Some(1));
        assert_eq!((find("abc", "d"), find("a", "abc")), (None, None));
    }
}
