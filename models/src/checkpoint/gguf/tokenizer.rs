//! What `tokenizer.json` would say of a GGUF file.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::container::Value;

/// A tokenizer that a file brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbeddedTokenizer {
    /// The text of a `tokenizer.json`.
    Json(String),
    /// One that is not read, and what of it is not.
    Unread(String),
}

/// Token types, as llama.cpp counts them: what is no piece of text, and what the model's publisher added.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// How text is divided before pairs are merged.
struct Division {
    /// llama.cpp's names of it.
    names: &'static [&'static str],
    /// ByteLevel's own rule where there is none.
    expression: Option<&'static str>,
    /// Whether a word that is a token is taken as one, whatever the pairs.
    whole_words: bool,
}

const DIVISIONS: [Division; 3] = [
    Division {
        names: &[
            "default",
            "gpt-2",
            "gpt2",
            "olmo",
            "mpt",
            "dbrx",
            "phi-2",
            "jina-v2-code",
        ],
        expression: None,
        whole_words: false,
    },
    Division {
        names: &["llama-bpe", "llama3", "llama-v3", "smaug-bpe"],
        expression: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        whole_words: true,
    },
    Division {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"],
        expression: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        whole_words: false,
    },
];

/// The tokenizer of a file; `None` where it has none.
pub(super) fn of(fields: &BTreeMap<String, Value>) -> Option<EmbeddedTokenizer> {
    let text = |name: &str| match fields.get(&format!("tokenizer.ggml.{name}")) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let list = |name: &str| match fields.get(&format!("tokenizer.ggml.{name}")) {
        Some(Value::List(list)) => Some(list.as_slice()),
        _ => None,
    };
    let model = text("model").filter(|model| !matches!(*model, "none" | "no_vocab"))?;
    let unread = |reason: String| Some(EmbeddedTokenizer::Unread(reason));
    if model != "gpt2" {
        return unread(format!(
            "tokenizer.ggml.model {model:?} is not read from GGUF (gpt2 is)"
        ));
    }
    let division = text("pre").unwrap_or("default");
    let Some(division) = DIVISIONS.iter().find(|known| known.names.contains(&division)) else {
        return unread(format!(
            "tokenizer.ggml.pre {:?} is not known",
            text("pre").unwrap_or_default()
        ));
    };
    let (Some(tokens), Some(merges)) = (texts(list("tokens")), texts(list("merges"))) else {
        return unread("tokenizer.ggml.tokens and merges are not lists of texts".into());
    };
    let types = list("token_type").unwrap_or_default();
    let kind = |index: usize| match types.get(index) {
        Some(Value::Whole(kind)) => *kind,
        _ => 1,
    };
    Some(EmbeddedTokenizer::Json(
        document(&tokens, &merges, kind, division).to_string(),
    ))
}

fn texts(list: Option<&[Value]>) -> Option<Vec<&str>> {
    list?
        .iter()
        .map(|value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

fn document(tokens: &[&str], merges: &[&str], kind: impl Fn(usize) -> i128, division: &Division) -> Json {
    let vocabulary: serde_json::Map<String, Json> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).into(), id.into()))
        .collect();
    let added = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| matches!(kind(*id), CONTROL | USER_DEFINED));
    let added: Vec<Json> = added
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "special": kind(id) == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let pre_tokenizer = match division.expression {
        None => bytes(true),
        Some(expression) => json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false },
            bytes(false),
        ] }),
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": division.whole_words,
            "vocab": vocabulary, "merges": merges,
        },
    })
}
