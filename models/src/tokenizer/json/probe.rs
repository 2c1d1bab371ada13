//! Texts of every kind, encoded and decoded once: what panics on one of them is found before a model answers with it.

use super::JsonTokenizer;
use crate::tokenizer::TokenizerError;

/// Texts that break what breaks: nothing, blanks, words, accents whole and in parts, scripts without blanks, emoji of several
/// characters, what has no width, what normal forms lengthen, numbers, code.
const TEXTS: [&str; 14] = [
    "",
    " ",
    "a",
    "Hello, world! It's 1234567.5 o'clock.\n\n\tIsn't it?  ",
    "   leading, trailing   \n  \r\n ",
    "é ñ ü ß Ǆ İ ſ",
    "e\u{301}\u{302} n\u{303} \u{301}",
    "中文 日本語テキスト 한국어",
    "😀👩\u{200D}👩\u{200D}👧🇩🇪 ✈\u{FE0F}",
    "\u{200B}\u{FEFF}\u{2028}\u{A0}\u{AD}\u{202E}\u{0}\u{7F}",
    "ﷺ ½ Ⅷ ﬁ ㌀ ①",
    "مرحبا שלום Привет ไทย हिन्दी",
    "fn main() { let x = a[0] != b[1] && c <= 0x7f; } // <|x|> [UNK] </s> <0x41> ## ▁ Ġ",
    "aA1 aA1aA1\u{10FFFF}\u{E000}",
];
/// What is repeated for long texts without a place to break them.
const REPEATED: [&str; 6] = ["a", " ", "=", "ab", "é", "\n"];
const REPEATS: usize = 600;
/// Ids whose tokens are decoded alone, and special tokens that are encoded, at most.
const SINGLE: usize = 256;
/// More ids than this for a byte of text come of rules that grow, not of a vocabulary.
const IDS_PER_BYTE: usize = 64;
/// Ids that may stand around any text.
const IDS_AROUND: usize = 4096;

/// The largest id that any probe gives.
///
/// # Errors
/// What panicked on which text, or gave more ids than a text can have. That the library calls a text wrong is no reason
/// against the file: a vocabulary need not have every character.
pub(super) fn largest_id(tokenizer: &JsonTokenizer) -> Result<Option<u32>, String> {
    let mut largest = None;
    let mut look = |text: &str| -> Result<(), String> {
        for special in [false, true] {
            largest = largest.max(encoded(tokenizer, text, special)?);
        }
        Ok(())
    };
    for text in TEXTS {
        look(text)?;
    }
    for text in REPEATED {
        look(&text.repeat(REPEATS))?;
    }
    let bytes: Vec<char> = (0..=u8::MAX).map(char::from).collect();
    look(&bytes.iter().collect::<String>())?;
    for byte in bytes {
        look(&byte.to_string())?;
    }
    let added = tokenizer.inner.get_added_tokens_decoder();
    let mut added: Vec<_> = added.into_iter().collect();
    added.sort_by_key(|(id, _)| *id);
    for (_, token) in added.iter().take(SINGLE) {
        look(&token.content)?;
        look(&format!("a {0} {0}{0}b", token.content))?;
    }
    let last = tokenizer.largest_id();
    let first = (0..=last).take(SINGLE);
    for id in first.chain(last.saturating_sub(16)..=last) {
        decoded(tokenizer, &[id])?;
    }
    Ok(largest)
}

/// The largest id of a text, whose ids have been decoded, too.
fn encoded(tokenizer: &JsonTokenizer, text: &str, special: bool) -> Result<Option<u32>, String> {
    let of_text = |reason: String| {
        format!(
            "{reason} (on the text {:?})",
            text.chars().take(40).collect::<String>()
        )
    };
    let ids = match tokenizer.inner_encode(text, special) {
        Ok(ids) => ids,
        Err(Fault::Panic(cause)) => {
            return Err(of_text(format!(
                "encoding panics in the tokenizers library: {cause}"
            )));
        }
        Err(Fault::Refused) => return Ok(None),
    };
    if ids.len() > IDS_PER_BYTE * text.len() + IDS_AROUND {
        return Err(of_text(format!(
            "{} bytes become {} ids: its rules grow",
            text.len(),
            ids.len()
        )));
    }
    decoded(tokenizer, &ids).map_err(of_text)?;
    Ok(ids.into_iter().max())
}

fn decoded(tokenizer: &JsonTokenizer, ids: &[u32]) -> Result<(), String> {
    match tokenizer.decode(ids) {
        Err(TokenizerError::Failed { reason }) if reason.contains(" panics ") => Err(reason),
        _ => Ok(()),
    }
}

/// Why there are no ids.
enum Fault {
    /// The library panicked, with this message.
    Panic(String),
    /// The library gave an error.
    Refused,
}

impl JsonTokenizer {
    fn inner_encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Fault> {
        super::caught(|| self.inner.encode_fast(text, special))
            .map_err(Fault::Panic)?
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|_| Fault::Refused)
    }
}
