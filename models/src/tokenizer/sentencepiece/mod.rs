//! SentencePiece's vocabularies, made into what `tokenizer.json` would say.
//!
//! | algorithm | ids of a text |
//! |---|---|
//! | BPE | of all neighbours whose join is a piece, those of the best score are joined first, the leftmost of equals |
//! | Unigram | the pieces of the largest sum of scores |
//!
//! BPE by scores is BPE by ranks: every way of cutting a piece into two others is a merge, and merges are ranked by the score of the
//! whole. Of ways to cut one piece that with the longer first half comes first, as in transformers' conversion, so that ids are the same.
//! Blanks are written ▁. Pieces of bytes stand for characters that no other piece has.
//!
//! A file is a protocol buffer, `ModelProto`. Source: Kudo & Richardson, *SentencePiece* (1808.06226), and `sentencepiece_model.proto`.

mod protobuf;

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use self::protobuf::{Fields, Value};
use super::TokenizerError;
use crate::{budget, input};

/// The longest file that is read. The largest published ones have 5 MB.
pub(super) const MAX_BYTES: u64 = 32 << 20;
/// Pieces of a vocabulary; the largest published ones have a quarter of a million.
const MAX_PIECES: usize = 1 << 21;
/// A piece of text, in bytes: training stops at 16 characters, unless it is told otherwise. What users define may be longer.
const MAX_PIECE: usize = 512;
/// Memory for a byte of the pieces: the tree of JSON, and a merge for every place to cut.
const BYTES_PER_BYTE: u64 = 256;

/// How pieces make a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Unigram,
    Bpe,
}

/// What a piece is, by the numbers of `SentencePiece.Type`, which GGUF files have as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// The kind of a number; none has 0 and those above 6.
    pub fn of(number: i128) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Number of the kind in `SentencePiece.Type`.
    pub fn number(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

/// A token of the vocabulary: its text, score and kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// A vocabulary, and what is done to a text before and after.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vocabulary {
    pub algorithm: Algorithm,
    pub pieces: Vec<Piece>,
    /// Whether a blank is put before a text.
    pub prefix: bool,
    /// Whether blanks at the ends go, and several become one.
    pub trimmed: bool,
    /// The normaliser's map of characters; empty for none.
    pub map: Vec<u8>,
    /// The tokens at the beginning and the end of a text, where the file names them.
    pub begin: Option<usize>,
    pub end: Option<usize>,
    /// Whether a prompt begins and ends with them.
    pub adds: [bool; 2],
}

impl Vocabulary {
    /// Reads a `tokenizer.model`; `add_bos_token` and `add_eos_token` of a `tokenizer_config.json` beside it say what prompts begin and end with.
    /// Without one a prompt begins with its token in BPE, as transformers' class for those has it, and not in Unigram.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] for a file that cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid {
            path: path.to_path_buf(),
            reason,
        };
        let bytes = input::read(path, MAX_BYTES).map_err(|error| invalid(error.to_string()))?;
        let mut vocabulary = Self::parse(&bytes).map_err(invalid)?;
        let beside = path.with_file_name("tokenizer_config.json");
        if beside.exists() {
            let text =
                input::read_text(&beside, input::MAX_SETTINGS).map_err(|error| invalid(error.to_string()))?;
            let config: Json = serde_json::from_str(&text)
                .map_err(|error| invalid(format!("tokenizer_config.json beside it: {error}")))?;
            for (place, name) in ["add_bos_token", "add_eos_token"].into_iter().enumerate() {
                if let Some(adds) = config.get(name).and_then(Json::as_bool) {
                    vocabulary.adds[place] = adds;
                }
            }
        }
        Ok(vocabulary)
    }

    /// Reads the bytes of a `ModelProto`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut found = Self {
            algorithm: Algorithm::Unigram,
            pieces: Vec::new(),
            prefix: true,
            trimmed: true,
            map: Vec::new(),
            begin: None,
            end: None,
            adds: [false; 2],
        };
        for field in Fields::new(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => {
                    if found.pieces.len() == MAX_PIECES {
                        return Err(format!("expected at most {MAX_PIECES} pieces"));
                    }
                    found.pieces.push(piece(bytes)?);
                }
                (2, Value::Bytes(bytes)) => found.trainer(bytes)?,
                (3, Value::Bytes(bytes)) => found.normalizer(bytes)?,
                _ => {}
            }
        }
        let begin = |name: &str| {
            let is = |piece: &Piece| piece.kind == Kind::Control && piece.text == name;
            found.pieces.iter().position(is)
        };
        found.begin = found
            .begin
            .or_else(|| begin("<s>"))
            .filter(|id| *id < found.pieces.len());
        found.end = found
            .end
            .or_else(|| begin("</s>"))
            .filter(|id| *id < found.pieces.len());
        found.adds[0] = found.algorithm == Algorithm::Bpe && found.begin.is_some();
        found.check()?;
        Ok(found)
    }

    /// `TrainerSpec`: which algorithm, and ids.
    fn trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        // An id of -1 is none.
        let id = |number: u64| usize::try_from(number.cast_signed()).ok();
        for field in Fields::new(bytes) {
            match field? {
                (3, Value::Varint(1)) => self.algorithm = Algorithm::Unigram,
                (3, Value::Varint(2)) => self.algorithm = Algorithm::Bpe,
                (3, Value::Varint(other)) => {
                    return Err(format!(
                        "model_type {other} is not read (1, Unigram, and 2, BPE, are)"
                    ));
                }
                (24, Value::Varint(suffix)) if suffix != 0 => {
                    return Err("treat_whitespace_as_suffix is not read".into());
                }
                (41, Value::Varint(number)) => self.begin = id(number),
                (42, Value::Varint(number)) => self.end = id(number),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads a message `NormalizerSpec`: what is done to a text before it is encoded.
    fn normalizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields::new(bytes) {
            match field? {
                (2, Value::Bytes(map)) => self.map = map.to_vec(),
                (3, Value::Varint(prefix)) => self.prefix = prefix != 0,
                (4, Value::Varint(trimmed)) => self.trimmed = trimmed != 0,
                (5, Value::Varint(0)) => return Err("escape_whitespaces: false is not read".into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Bounds on what the conversion takes time and memory for.
    ///
    /// # Errors
    /// What is beyond them, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        let bytes: u64 = self.pieces.iter().map(|piece| piece.text.len() as u64).sum();
        let needed = budget::product([bytes, BYTES_PER_BYTE]);
        budget::ask(
            "the pieces of a vocabulary",
            needed,
            "use the model's own tokenizer",
        )
        .map_err(|error| error.to_string())?;
        let joined = |piece: &&Piece| matches!(piece.kind, Kind::Normal | Kind::Unused);
        match self
            .pieces
            .iter()
            .filter(joined)
            .find(|piece| piece.text.len() > MAX_PIECE)
        {
            Some(piece) => Err(format!(
                "expected pieces of at most {MAX_PIECE} bytes, found one of {}",
                piece.text.len()
            )),
            None if self.pieces.iter().any(|piece| piece.score.is_nan()) => {
                Err("a score is no number".into())
            }
            None => Ok(()),
        }
    }

    fn has_bytes(&self) -> bool {
        self.pieces.iter().any(|piece| piece.kind == Kind::Byte)
    }

    fn unknown(&self) -> Option<(usize, &Piece)> {
        self.pieces
            .iter()
            .enumerate()
            .find(|(_, piece)| piece.kind == Kind::Unknown)
    }

    /// The text of a `tokenizer.json`.
    ///
    /// # Errors
    /// A vocabulary without an unknown piece where Unigram needs one, in words.
    pub fn to_json(&self) -> Result<String, String> {
        let added = self.pieces.iter().enumerate();
        let added = added
            .filter(|(_, piece)| matches!(piece.kind, Kind::Unknown | Kind::Control | Kind::UserDefined));
        let added: Vec<Json> = added
            .map(|(id, piece)| {
                json!({
                    "id": id, "content": piece.text, "special": piece.kind != Kind::UserDefined,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
            .collect();
        let document = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": self.normalizing(),
            "pre_tokenizer": null,
            "post_processor": self.around(),
            "decoder": self.decoder(),
            "model": match self.algorithm {
                Algorithm::Bpe => self.bpe(),
                Algorithm::Unigram => self.unigram()?,
            },
        });
        Ok(document.to_string())
    }

    fn normalizing(&self) -> Json {
        let mut steps = Vec::new();
        if !self.map.is_empty() {
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(&self.map) }));
        }
        if self.trimmed {
            steps.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
            steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
        }
        if self.prefix {
            steps.push(json!({ "type": "Prepend", "prepend": BLANK }));
        }
        steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": BLANK }));
        json!({ "type": "Sequence", "normalizers": steps })
    }

    /// What a prompt begins and ends with.
    fn around(&self) -> Json {
        let token = |place: usize, id: Option<usize>| {
            let id = id.filter(|_| self.adds[place])?;
            Some((id, self.pieces.get(id)?.text.as_str()))
        };
        around(token(0, self.begin), token(1, self.end))
    }

    fn decoder(&self) -> Json {
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": BLANK }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.prefix {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }

    fn unigram(&self) -> Result<Json, String> {
        let Some((unknown, _)) = self.unknown() else {
            return Err("a Unigram vocabulary has a piece for what is unknown, and this has none".into());
        };
        let vocab: Vec<Json> = self
            .pieces
            .iter()
            .map(|piece| json!([piece.text, piece.score]))
            .collect();
        Ok(json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": self.has_bytes() }))
    }

    fn bpe(&self) -> Json {
        let ids: HashMap<&str, usize> = self
            .pieces
            .iter()
            .enumerate()
            .map(|(id, piece)| (piece.text.as_str(), id))
            .collect();
        let vocab: serde_json::Map<String, Json> = ids
            .iter()
            .map(|(text, id)| ((*text).into(), (*id).into()))
            .collect();
        let merges: Vec<Json> = merges(&self.pieces, &ids)
            .into_iter()
            .map(|(left, right)| json!([left, right]))
            .collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": self.unknown().map(|(_, piece)| piece.text.as_str()),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": self.has_bytes(), "ignore_merges": false, "vocab": vocab, "merges": merges,
        })
    }
}

/// A blank in the terms of the vocabulary.
const BLANK: &str = "\u{2581}";

/// Every way of cutting a piece into two others, the best first.
fn merges<'a>(pieces: &'a [Piece], ids: &HashMap<&str, usize>) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for piece in pieces
        .iter()
        .filter(|piece| matches!(piece.kind, Kind::Normal | Kind::Unused))
    {
        let begin = found.len();
        let cuts = piece.text.char_indices().skip(1);
        for (left, right) in cuts.map(|(at, _)| piece.text.split_at(at)) {
            if let (Some(first), Some(second)) = (ids.get(left), ids.get(right)) {
                found.push((piece.score, left, right, (*first, *second)));
            }
        }
        found[begin..].sort_by_key(|(.., places)| *places);
    }
    let length = |text: &str| text.chars().count();
    found.sort_by(|(a, left, right, _), (b, other_left, other_right, _)| {
        let lengths = (length(other_left), length(other_right)).cmp(&(length(left), length(right)));
        b.total_cmp(a).then(lengths)
    });
    found
        .into_iter()
        .map(|(_, left, right, _)| (left, right))
        .collect()
}

/// A post-processor that puts tokens, by id and text, before and after every prompt; null for neither.
pub(crate) fn around(begin: Option<(usize, &str)>, end: Option<(usize, &str)>) -> Json {
    let tokens: Vec<(usize, &str)> = begin.into_iter().chain(end).collect();
    if tokens.is_empty() {
        return Json::Null;
    }
    let special = |(_, text): (usize, &str)| json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let single = |sequence: &str| {
        let middle = json!({ "Sequence": { "id": sequence, "type_id": 0 } });
        let all = begin
            .map(special)
            .into_iter()
            .chain([middle])
            .chain(end.map(special));
        all.collect::<Vec<Json>>()
    };
    let table: serde_json::Map<String, Json> = tokens
        .iter()
        .map(|(id, text)| {
            (
                (*text).into(),
                json!({ "id": text, "ids": [id], "tokens": [text] }),
            )
        })
        .collect();
    let pair = [single("A"), single("B")].concat();
    json!({ "type": "TemplateProcessing", "single": single("A"), "pair": pair, "special_tokens": table })
}

/// Reads a message `SentencePiece`: one token.
fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut found = Piece {
        text: String::new(),
        score: 0.0,
        kind: Kind::Normal,
    };
    for field in Fields::new(bytes) {
        match field? {
            (1, Value::Bytes(text)) => {
                found.text =
                    String::from_utf8(text.to_vec()).map_err(|_| "a piece is not UTF-8".to_string())?;
            }
            (2, Value::Four(score)) => found.score = f32::from_le_bytes(score),
            (3, Value::Varint(kind)) => {
                found.kind = Kind::of(kind.into())
                    .ok_or_else(|| format!("a piece of type {kind}, which there is not"))?;
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Bytes in base 64, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    out
}
