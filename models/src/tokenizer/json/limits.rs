//! What a `tokenizer.json` may ask for before it is handed to the library: bounds on everything that would end the process
//! rather than panic (memory, the stack), or take forever.
//!
//! The published files stay far below each of them: a handful of steps, prefixes of three bytes, tokens of some hundred.

use serde_json::Value;

use super::charsmap;
use crate::budget;
use crate::checkpoint::scan::{extent, members};

/// Arrays and objects inside each other.
const MAX_DEPTH: u32 = 64;
/// Sequences of steps inside each other: the library tries each twice.
const MAX_SEQUENCES: usize = 8;
/// Steps of one kind (normalising, splitting, finishing, decoding), with those inside sequences.
const MAX_STEPS: u64 = 64;
/// A text may become so many times as long by all rules together.
const MAX_GROWTH: u64 = 4096;
/// A text that a step looks for or puts in, in bytes.
const MAX_STEP_TEXT: usize = 16 << 10;
/// A prefix or suffix of subwords.
const MAX_AFFIX: usize = 256;
/// A token that is added to the vocabulary.
const MAX_ADDED: usize = 16 << 10;
/// A token of a Unigram vocabulary, whose trie is as deep as the longest one and is dropped recursively.
const MAX_UNIGRAM: usize = 1 << 10;
/// Characters of a word that WordPiece looks through in a time that grows with their square.
const MAX_WORD: u64 = 1000;
/// Memory for a value while the file is read.
const BYTES_PER_VALUE: u64 = 128;
/// Memory for a byte of a Unigram vocabulary: a node of the trie, with its table of children.
const BYTES_PER_NODE: u64 = 320;

/// The text, if it may be handed to the library, without truncation and padding.
///
/// # Errors
/// One sentence on what it asks for.
pub(super) fn checked(text: &str) -> Result<String, String> {
    let whole = extent(text);
    if whole.depth > MAX_DEPTH {
        return Err(format!(
            "expected at most {MAX_DEPTH} levels of JSON, found {}",
            whole.depth
        ));
    }
    let needed = budget::product([whole.values, BYTES_PER_VALUE]);
    budget::ask("its values", needed, "use the model's own tokenizer").map_err(|error| error.to_string())?;
    let Some(members) = members(text) else {
        // The library says what is wrong with it.
        return Ok(text.to_string());
    };
    let mut clean = String::with_capacity(text.len());
    let mut copied = 0;
    for (name, range) in members {
        let value = &text[range.clone()];
        match name.as_str() {
            "truncation" | "padding" => {
                clean.push_str(&text[copied..range.start]);
                clean.push_str("null");
                copied = range.end;
            }
            "normalizer" | "pre_tokenizer" | "post_processor" | "decoder" => {
                check_steps(&name, value)?;
            }
            "added_tokens" => check_added(value)?,
            "model" => check_model(value)?,
            _ => {}
        }
    }
    clean.push_str(&text[copied..]);
    Ok(clean)
}

/// A part of the file as a tree. What is not JSON is left to the library to refuse.
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn check_steps(part: &str, text: &str) -> Result<(), String> {
    let mut found = Steps::default();
    found.visit(part, &parse(text), 0)?;
    if found.steps > MAX_STEPS {
        return Err(format!(
            "{part}: expected at most {MAX_STEPS} steps, found {}",
            found.steps
        ));
    }
    if found.growth > MAX_GROWTH {
        return Err(format!(
            "{part}: its rules can make a text more than {MAX_GROWTH} times as long"
        ));
    }
    Ok(())
}

/// The steps of a part so far.
#[derive(Debug)]
struct Steps {
    steps: u64,
    /// How many times as long a text can become by all of these steps: the product over them.
    growth: u64,
}

impl Default for Steps {
    fn default() -> Self {
        Self { steps: 0, growth: 1 }
    }
}

impl Steps {
    /// Goes through everything inside a value; depth is bounded by then.
    fn visit(&mut self, part: &str, value: &Value, sequences: usize) -> Result<(), String> {
        match value {
            Value::Array(values) => values
                .iter()
                .try_for_each(|value| self.visit(part, value, sequences)),
            Value::Object(object) => {
                let nested = ["normalizers", "pretokenizers", "processors", "decoders"];
                let inside = sequences + usize::from(nested.iter().any(|name| object.contains_key(*name)));
                if inside > MAX_SEQUENCES {
                    return Err(format!(
                        "{part}: expected at most {MAX_SEQUENCES} sequences inside each other"
                    ));
                }
                if object.contains_key("type") || inside > sequences {
                    self.steps += 1;
                }
                self.growth = self.growth.saturating_mul(growth(part, value)?);
                object.iter().try_for_each(|(name, value)| match value {
                    // It has a check of its own.
                    Value::String(_) if name == "precompiled_charsmap" => Ok(()),
                    Value::String(text) if text.len() > MAX_STEP_TEXT => Err(format!(
                        "{part}: {name}: expected at most {MAX_STEP_TEXT} bytes, found {}",
                        text.len()
                    )),
                    value => self.visit(part, value, inside),
                })
            }
            _ => Ok(()),
        }
    }
}

/// How many times as long a text can become by one step.
fn growth(part: &str, step: &Value) -> Result<u64, String> {
    let length = |name: &str| {
        step.get(name)
            .and_then(Value::as_str)
            .map(|text| text.len() as u64)
    };
    if let Some(map) = step.get("precompiled_charsmap").and_then(Value::as_str) {
        let longest = charsmap::longest_replacement(map).map_err(|reason| format!("{part}: {reason}"))?;
        return Ok((longest as u64).max(1));
    }
    if let (Some(pattern), Some(content)) = (step.get("pattern"), length("content")) {
        let pattern = pattern.get("String").and_then(Value::as_str).map_or(0, str::len) as u64;
        return Ok(match pattern {
            // Of an expression nothing is known: it may match between any two characters.
            0 => 1 + content,
            pattern => content.div_ceil(pattern).max(1),
        });
    }
    if let Some(pieces) = step.get("single").and_then(Value::as_array) {
        let copies = pieces
            .iter()
            .filter(|piece| piece.get("Sequence").is_some())
            .count();
        return Ok((copies as u64).max(1));
    }
    if let Some(before) = length("prepend") {
        return Ok(1 + before);
    }
    // An empty text is found between any two characters.
    let is_empty = |name| length(name) == Some(0);
    if ["suffix", "word_delimiter_token", "pad_token"]
        .into_iter()
        .any(is_empty)
    {
        return Ok(2);
    }
    Ok(match step.get("type").and_then(Value::as_str) {
        Some("ByteLevel" | "BertNormalizer") => 2,
        Some("Metaspace") => length("replacement").unwrap_or(1).max(2),
        _ => 1,
    })
}

fn check_added(text: &str) -> Result<(), String> {
    let tokens = parse(text);
    let longest = tokens.as_array().into_iter().flatten().filter_map(|token| {
        let content = token.get("content")?.as_str()?;
        Some(content.len())
    });
    match longest.max() {
        Some(found) if found > MAX_ADDED => Err(format!(
            "added_tokens: expected tokens of at most {MAX_ADDED} bytes, found one of {found}"
        )),
        _ => Ok(()),
    }
}

fn check_model(text: &str) -> Result<(), String> {
    let Some(members) = members(text) else {
        return Ok(());
    };
    let part = |wanted: &str| {
        // Of two of one name the library takes the last.
        let found = members.iter().rfind(|(name, _)| name == wanted);
        found.map(|(_, range)| &text[range.clone()])
    };
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let found = members.iter().filter(|(member, _)| member == name);
        let longest = found.map(|(_, range)| range.len()).max().unwrap_or(0);
        if longest > MAX_AFFIX {
            return Err(format!(
                "model: {name}: expected at most {MAX_AFFIX} bytes, found {longest}"
            ));
        }
    }
    if let Some(found) = part("max_input_chars_per_word").and_then(|text| parse(text).as_u64())
        && found > MAX_WORD
    {
        return Err(format!(
            "model: max_input_chars_per_word: expected at most {MAX_WORD}, found {found}"
        ));
    }
    if let Some(prefix) = part("continuing_subword_prefix").map(parse)
        && let Some(prefix) = prefix.as_str().filter(|prefix| !prefix.is_empty())
        && let Some(merges) = part("merges")
    {
        check_merges(prefix, &parse(merges))?;
    }
    // Only Unigram's is a list.
    match part("vocab") {
        Some(vocab) if vocab.starts_with('[') => check_unigram(vocab),
        _ => Ok(()),
    }
}

/// The library cuts the prefix off the second part of every merge, wherever that ends.
fn check_merges(prefix: &str, merges: &Value) -> Result<(), String> {
    let second = |merge: &Value| match merge {
        Value::String(both) => both.split_once(' ').map(|(_, second)| second.to_string()),
        pair => pair.get(1).and_then(Value::as_str).map(String::from),
    };
    let mut seconds = merges.as_array().into_iter().flatten().filter_map(second);
    match seconds.find(|second| !second.starts_with(prefix)) {
        Some(second) => Err(format!(
            "model: merges: expected every second part to begin with the continuing_subword_prefix {prefix:?}, found {second:?}"
        )),
        None => Ok(()),
    }
}

fn check_unigram(vocab: &str) -> Result<(), String> {
    let needed = budget::product([extent(vocab).strings, BYTES_PER_NODE]);
    budget::ask(
        "the tokens of its Unigram vocabulary",
        needed,
        "use the model's own tokenizer",
    )
    .map_err(|error| error.to_string())?;
    let vocab = parse(vocab);
    let pairs = vocab.as_array().into_iter().flatten();
    let lengths = pairs.filter_map(|pair| pair.get(0)?.as_str().map(str::len));
    match lengths.max() {
        Some(found) if found > MAX_UNIGRAM => Err(format!(
            "model: vocab: expected tokens of at most {MAX_UNIGRAM} bytes, found one of {found}"
        )),
        _ => Ok(()),
    }
}
