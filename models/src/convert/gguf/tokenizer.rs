//! A checkpoint's tokenizer in the terms of a GGUF file.
//!
//! Normal forms (NFC) are not said in such a file, nor are rules that only few tokenizers have: where a tokenizer depends on more than the
//! file can say, it is left out, with the reason.

use std::path::Path;

use serde_json::Value as Json;

use crate::checkpoint::gguf::write::Field;
use crate::checkpoint::{Checkpoint, EmbeddedTokenizer};
use crate::input;
use crate::tokenizer::sentencepiece::{Algorithm, Kind, Vocabulary};
use crate::tokenizer::{self, RwkvVocabulary};

/// A tokenizer as a file has it.
pub(super) struct Written {
    /// llama.cpp's name of it.
    pub kind: &'static str,
    pub fields: Vec<(String, Field)>,
}

/// The longest `tokenizer.json` that is read.
const MAX_BYTES: u64 = 128 << 20;

/// The tokenizer of a checkpoint whose embedding has so many `rows`, or why the file will have none.
pub(super) fn written(checkpoint: &Checkpoint, rows: usize) -> Result<Written, String> {
    match checkpoint.tokenizer() {
        Some(EmbeddedTokenizer::Json(text)) => return bpe(text, rows),
        Some(EmbeddedTokenizer::Rwkv(text)) => {
            let vocabulary = RwkvVocabulary::parse(checkpoint.weights_path(), text);
            return rwkv(&vocabulary.map_err(|error| error.to_string())?, rows);
        }
        Some(EmbeddedTokenizer::Unread(reason)) => return Err(reason.clone()),
        None => {}
    }
    // Scores are in this file only.
    let pieces = checkpoint.folder().join("tokenizer.model");
    let file = match pieces.exists() {
        true => Some(pieces),
        false => tokenizer::find(checkpoint.folder()).map_err(|error| error.to_string())?,
    };
    let Some(file) = file else {
        return Err("the checkpoint has none".into());
    };
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("model") => spm(&Vocabulary::open(&file).map_err(|error| error.to_string())?, rows),
        Some("txt") => rwkv(
            &RwkvVocabulary::open(&file).map_err(|error| error.to_string())?,
            rows,
        ),
        _ => bpe(&text_of(&file)?, rows),
    }
}

fn text_of(file: &Path) -> Result<String, String> {
    input::read_text(file, MAX_BYTES).map_err(|error| format!("{}: {error}", file.display()))
}

/// The tokens of a file, one for each row of the embedding.
struct Tokens(Vec<Option<(String, Kind)>>);

impl Tokens {
    fn new(rows: usize) -> Self {
        Self(vec![None; rows])
    }

    fn set(&mut self, id: usize, text: String, kind: Kind) -> Result<(), String> {
        let rows = self.0.len();
        let place = self
            .0
            .get_mut(id)
            .ok_or_else(|| format!("id {id} is beyond the model's {rows} rows"))?;
        *place = Some((text, kind));
        Ok(())
    }

    /// The lists of texts and of kinds; rows without a token get one that no text has.
    fn fields(self) -> [(String, Field); 2] {
        let tokens = self.0.into_iter().enumerate();
        let (texts, kinds): (Vec<String>, Vec<i32>) = tokens
            .map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), Kind::Unused)))
            .map(|(text, kind)| (text, kind.number()))
            .unzip();
        [
            (key("tokens"), Field::Texts(texts)),
            (key("token_type"), Field::Wholes(kinds)),
        ]
    }
}

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

fn bpe(text: &str, rows: usize) -> Result<Written, String> {
    use crate::checkpoint::gguf::tokenizer::Division;
    let document: Json = serde_json::from_str(text).map_err(|error| format!("tokenizer.json: {error}"))?;
    let part = |name: &str| document.get(name).unwrap_or(&Json::Null);
    let model = part("model");
    if model.get("type").and_then(Json::as_str) != Some("BPE")
        || model.get("byte_fallback") == Some(&Json::Bool(true))
    {
        return Err("tokenizer.json is no BPE of bytes, and what the file would need of others is in tokenizer.model only".into());
    }
    if !matches!(
        part("normalizer").get("type").and_then(Json::as_str),
        None | Some("NFC")
    ) {
        return Err("tokenizer.json has a normaliser that the file cannot name".into());
    }
    let division = Division::of(part("pre_tokenizer"), model);
    let division = division.ok_or("tokenizer.json divides text in a way that has no name in the file")?;
    let mut tokens = Tokens::new(rows);
    for (token, id) in model.get("vocab").and_then(Json::as_object).into_iter().flatten() {
        let id = id
            .as_u64()
            .ok_or_else(|| format!("tokenizer.json: {token:?} has no id"))?;
        tokens.set(id as usize, token.clone(), Kind::Normal)?;
    }
    for token in part("added_tokens").as_array().into_iter().flatten() {
        let (id, content) = (
            token.get("id").and_then(Json::as_u64),
            token.get("content").and_then(Json::as_str),
        );
        let (Some(id), Some(content)) = (id, content) else {
            return Err("tokenizer.json: an added token has no id or no content".into());
        };
        let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
        let kind = if special { Kind::Control } else { Kind::UserDefined };
        tokens.set(id as usize, content.into(), kind)?;
    }
    let merge = |merge: &Json| match merge {
        Json::String(both) => Some(both.clone()),
        pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
    };
    let merges = model.get("merges").and_then(Json::as_array);
    let merges: Option<Vec<String>> = merges.and_then(|merges| merges.iter().map(merge).collect());
    let merges = merges.ok_or("tokenizer.json: merges are not pairs of texts")?;
    let mut fields = vec![
        (key("model"), Field::Text("gpt2".into())),
        (key("pre"), Field::Text(division.names[0].into())),
    ];
    fields.extend(tokens.fields());
    fields.push((key("merges"), Field::Texts(merges)));
    let [begin, end] = around(part("post_processor"));
    for (name, id) in [("bos", begin), ("eos", end)] {
        fields.push((key(&format!("add_{name}_token")), Field::Bool(id.is_some())));
        fields.extend(id.map(|id| (key(&format!("{name}_token_id")), Field::Whole(id))));
    }
    Ok(Written { kind: "gpt2", fields })
}

/// The ids that a `TemplateProcessing` puts before and after every text, where it puts one.
fn around(post_processor: &Json) -> [Option<u32>; 2] {
    let all = post_processor.get("processors").and_then(Json::as_array);
    let mut steps = all.into_iter().flatten().chain([post_processor]);
    let step = steps.find(|step| step.get("type").and_then(Json::as_str) == Some("TemplateProcessing"));
    let single = step.and_then(|step| step.get("single")).and_then(Json::as_array);
    let id = |piece: Option<&Json>| {
        let name = piece?.get("SpecialToken")?.get("id")?.as_str()?;
        let ids = step?.get("special_tokens")?.get(name)?.get("ids")?.as_array()?;
        u32::try_from(ids.first()?.as_u64()?).ok()
    };
    let single = single.map(Vec::as_slice).unwrap_or_default();
    [id(single.first()), id(single.last())]
}

/// SentencePiece's BPE; Unigram has another name and needs a normaliser.
fn spm(vocabulary: &Vocabulary, rows: usize) -> Result<Written, String> {
    if vocabulary.algorithm != Algorithm::Bpe {
        return Err("tokenizer.model is a Unigram vocabulary, which is not written".into());
    }
    let mut tokens = Tokens::new(rows);
    // Rows without a piece come last.
    let mut scores = vec![-1e4; rows];
    for (id, piece) in vocabulary.pieces.iter().enumerate() {
        tokens.set(id, piece.text.clone(), piece.kind)?;
        scores[id] = piece.score;
    }
    let mut fields = vec![
        (key("model"), Field::Text("llama".into())),
        (key("pre"), Field::Text("default".into())),
    ];
    fields.extend(tokens.fields());
    fields.extend([
        (key("scores"), Field::Reals(scores)),
        (key("add_space_prefix"), Field::Bool(vocabulary.prefix)),
        (key("remove_extra_whitespaces"), Field::Bool(vocabulary.trimmed)),
        (key("add_bos_token"), Field::Bool(vocabulary.adds[0])),
        (key("add_eos_token"), Field::Bool(vocabulary.adds[1])),
    ]);
    for (name, id) in [("bos", vocabulary.begin), ("eos", vocabulary.end)] {
        let id = id.and_then(|id| u32::try_from(id).ok());
        fields.extend(id.map(|id| (key(&format!("{name}_token_id")), Field::Whole(id))));
    }
    Ok(Written {
        kind: "llama",
        fields,
    })
}

/// Words as Python writes bytes, without the quotation marks.
fn rwkv(vocabulary: &RwkvVocabulary, rows: usize) -> Result<Written, String> {
    let mut tokens = Tokens::new(rows);
    tokens.set(0, "<s>".into(), Kind::Control)?;
    for id in 1..=vocabulary.largest_id() {
        if let Some(word) = vocabulary.token(id) {
            tokens.set(id as usize, escaped(word), Kind::Normal)?;
        }
    }
    let mut fields = vec![(key("model"), Field::Text("rwkv".into()))];
    fields.extend(tokens.fields());
    fields.extend(["bos", "eos"].map(|name| (key(&format!("{name}_token_id")), Field::Whole(0))));
    Ok(Written { kind: "rwkv", fields })
}

fn escaped(word: &[u8]) -> String {
    word.iter()
        .map(|byte| match byte {
            b'\n' => "\\n".into(),
            b'\r' => "\\r".into(),
            b'\t' => "\\t".into(),
            b'\\' => "\\\\".into(),
            // Python writes the first as it is and the second so where a word has both; this is read the same.
            b'\'' | b'"' => format!("\\x{byte:02x}"),
            b' '..=b'~' => char::from(*byte).to_string(),
            byte => format!("\\x{byte:02x}"),
        })
        .collect()
}
