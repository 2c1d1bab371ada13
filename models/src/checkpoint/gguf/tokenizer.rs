//! What `tokenizer.json` would say of a GGUF file, or RWKV's list of words.
//!
//! | `tokenizer.ggml.model` | what it is |
//! |---|---|
//! | `gpt2` | BPE of bytes; `tokenizer.ggml.pre` names how text is divided before |
//! | `llama` | SentencePiece's BPE: pieces with scores |
//! | `rwkv` | the longest word at each place; words are written as Python writes bytes |

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::container::Value;
use crate::tokenizer::sentencepiece::{Algorithm, Kind, Piece, Vocabulary, around};

/// A tokenizer that a file brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbeddedTokenizer {
    /// The text of a `tokenizer.json`.
    Json(String),
    /// The text of an `rwkv_vocab*.txt`.
    Rwkv(String),
    /// A tokenizer that is not read, with the reason in words.
    Unread(String),
}

/// How text is divided before pairs are merged.
pub(crate) struct Division {
    /// llama.cpp's names of it; the first is the one that is written.
    pub names: &'static [&'static str],
    /// ByteLevel's own rule where there is none.
    expression: Option<&'static str>,
    /// Whether digits are divided one by one before.
    digits: bool,
    /// Whether a word that is a token is taken as one, whatever the pairs.
    whole_words: bool,
    /// Whether prompts begin with the token of a beginning where the file does not say.
    adds_begin: bool,
}

/// Four digits in a row are two words.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const PLAIN: Division = Division {
    names: &[],
    expression: None,
    digits: false,
    whole_words: false,
    adds_begin: false,
};

pub(crate) static DIVISIONS: [Division; 6] = [
    Division {
        names: &[
            "gpt-2",
            "default",
            "gpt2",
            "olmo",
            "mpt",
            "phi-2",
            "jina-v2-code",
            "granite-docling",
        ],
        ..PLAIN
    },
    Division {
        names: &["refact", "starcoder", "smollm", "codeshell"],
        digits: true,
        ..PLAIN
    },
    Division {
        names: &["llama-bpe", "llama3", "llama-v3"],
        expression: Some(LLAMA_3),
        whole_words: true,
        adds_begin: true,
        ..PLAIN
    },
    Division {
        names: &["dbrx", "smaug-bpe"],
        expression: Some(LLAMA_3),
        ..PLAIN
    },
    Division {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"],
        expression: Some(QWEN_2),
        ..PLAIN
    },
    Division {
        names: &["qwen35"],
        expression: Some(QWEN_35),
        ..PLAIN
    },
];

impl Division {
    /// The step of a `tokenizer.json` that divides like this.
    fn step(&self) -> Json {
        match (self.expression, self.digits) {
            (None, false) => bytes(true),
            (None, true) => json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Digits", "individual_digits": true },
                bytes(true),
            ] }),
            (Some(expression), _) => json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false },
                bytes(false),
            ] }),
        }
    }

    /// The division of the steps and the model of a `tokenizer.json`, `None` where it is none of these.
    pub(crate) fn of(pre_tokenizer: &Json, model: &Json) -> Option<&'static Self> {
        let whole_words = model
            .get("ignore_merges")
            .and_then(Json::as_bool)
            .unwrap_or(false);
        let found = essential(pre_tokenizer);
        DIVISIONS
            .iter()
            .find(|known| known.whole_words == whole_words && essential(&known.step()) == found)
    }
}

/// A step without what only places in the text depend on.
fn essential(step: &Json) -> Json {
    match step {
        Json::Object(step) => {
            let kept = step.iter().filter(|(name, _)| *name != "trim_offsets");
            let mut kept: serde_json::Map<String, Json> = kept
                .map(|(name, value)| (name.clone(), essential(value)))
                .collect();
            if kept.get("type").and_then(Json::as_str) == Some("ByteLevel") {
                kept.entry("use_regex").or_insert(true.into());
            }
            Json::Object(kept)
        }
        Json::Array(steps) => steps.iter().map(essential).collect(),
        other => other.clone(),
    }
}

fn bytes(use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

/// The fields of a tokenizer.
struct Fields<'a>(&'a BTreeMap<String, Value>);

impl<'a> Fields<'a> {
    fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.get(&format!("tokenizer.ggml.{name}"))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> Option<&'a [Value]> {
        match self.value(name) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    fn texts(&self, name: &str) -> Option<Vec<&'a str>> {
        let text = |value: &'a Value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        };
        self.list(name)?.iter().map(text).collect()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.value(name) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    fn id(&self, name: &str) -> Option<usize> {
        match self.value(name) {
            Some(Value::Whole(id)) => usize::try_from(*id).ok(),
            _ => None,
        }
    }

    /// What a token is; text where the file does not say.
    fn kind(&self, index: usize) -> Kind {
        match self.list("token_type").and_then(|kinds| kinds.get(index)) {
            Some(Value::Whole(kind)) => Kind::of(*kind).unwrap_or(Kind::Normal),
            _ => Kind::Normal,
        }
    }
}

/// The tokenizer of a file; `None` where it has none.
pub(super) fn of(fields: &BTreeMap<String, Value>) -> Option<EmbeddedTokenizer> {
    let fields = Fields(fields);
    let model = fields
        .text("model")
        .filter(|model| !matches!(*model, "none" | "no_vocab"))?;
    let read = match model {
        "gpt2" => bpe(&fields).map(EmbeddedTokenizer::Json),
        "llama" => pieces(&fields).map(EmbeddedTokenizer::Json),
        "rwkv" => words(&fields).map(EmbeddedTokenizer::Rwkv),
        other => Err(format!(
            "tokenizer.ggml.model {other:?} is not read from GGUF (gpt2, llama and rwkv are)"
        )),
    };
    Some(read.unwrap_or_else(EmbeddedTokenizer::Unread))
}

fn bpe(fields: &Fields) -> Result<String, String> {
    let name = fields.text("pre").unwrap_or("default");
    let division = DIVISIONS.iter().find(|known| known.names.contains(&name));
    let division = division.ok_or_else(|| format!("tokenizer.ggml.pre {name:?} is not known"))?;
    let (Some(tokens), Some(merges)) = (fields.texts("tokens"), fields.texts("merges")) else {
        return Err("tokenizer.ggml.tokens and merges are not lists of texts".into());
    };
    let token = |flag: &str, otherwise: bool, id: &str| {
        let id = fields.id(id).filter(|_| fields.flag(flag).unwrap_or(otherwise))?;
        Some((id, *tokens.get(id)?))
    };
    let around = around(
        token("add_bos_token", division.adds_begin, "bos_token_id"),
        token("add_eos_token", false, "eos_token_id"),
    );
    Ok(document(&tokens, &merges, |index| fields.kind(index), division, around).to_string())
}

fn document(
    tokens: &[&str],
    merges: &[&str],
    kind: impl Fn(usize) -> Kind,
    division: &Division,
    around: Json,
) -> Json {
    let vocabulary: serde_json::Map<String, Json> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).into(), id.into()))
        .collect();
    let added = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| matches!(kind(*id), Kind::Control | Kind::UserDefined));
    let added: Vec<Json> = added
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "special": kind(id) == Kind::Control,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": division.step(),
        "post_processor": around,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": division.whole_words,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

/// Text of a `tokenizer.json` made of SentencePiece's pieces and their scores, or why there is none.
fn pieces(fields: &Fields) -> Result<String, String> {
    let tokens = fields
        .texts("tokens")
        .ok_or("tokenizer.ggml.tokens is not a list of texts")?;
    let scores = fields.list("scores").unwrap_or_default();
    let score = |index: usize| match scores.get(index) {
        Some(Value::Real(score)) => Ok(*score as f32),
        found => Err(format!(
            "tokenizer.ggml.scores, {index}: expected a number, found {found:?}"
        )),
    };
    let piece = |(index, text): (usize, &&str)| {
        Ok::<_, String>(Piece {
            text: (*text).into(),
            score: score(index)?,
            kind: fields.kind(index),
        })
    };
    let pieces: Result<Vec<Piece>, String> = tokens.iter().enumerate().map(piece).collect();
    let vocabulary = Vocabulary {
        algorithm: Algorithm::Bpe,
        pieces: pieces?,
        prefix: fields.flag("add_space_prefix").unwrap_or(true),
        trimmed: fields.flag("remove_extra_whitespaces").unwrap_or(false),
        map: Vec::new(),
        begin: fields.id("bos_token_id"),
        end: fields.id("eos_token_id"),
        adds: [
            fields.flag("add_bos_token").unwrap_or(true),
            fields.flag("add_eos_token").unwrap_or(false),
        ],
    };
    vocabulary.check()?;
    vocabulary.to_json()
}

/// RWKV's list of words, a line for each but the first, which ends a text, and those that fill up the list.
fn words(fields: &Fields) -> Result<String, String> {
    let tokens = fields
        .texts("tokens")
        .ok_or("tokenizer.ggml.tokens is not a list of texts")?;
    let mut list = String::new();
    for (id, token) in tokens.iter().enumerate().skip(1) {
        if !matches!(fields.kind(id), Kind::Normal | Kind::UserDefined) {
            continue;
        }
        // Bytes with one kind of quotation mark are written in the other.
        let literals = [format!("b'{token}'"), format!("b\"{token}\"")];
        let mut read = literals
            .iter()
            .filter_map(|literal| Some((literal, crate::tokenizer::literal::parse(literal).ok()?)));
        let (literal, bytes) = read.next().ok_or_else(|| {
            format!("tokenizer.ggml.tokens, {id}: expected bytes as Python writes them, found {token:?}")
        })?;
        list.push_str(&format!("{id} {literal} {}\n", bytes.len()));
    }
    Ok(list)
}
