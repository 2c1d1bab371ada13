use super::super::json::JsonTokenizer;
use super::*;
use std::path::Path;
use tokenizers::decoders::metaspace::PrependScheme;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::models::unigram::{Unigram, UnigramTrainerBuilder};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::{byte_level::ByteLevel, metaspace::Metaspace};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper, Tokenizer as Library};

/// A reader that never gives more than a few bytes.
struct Drips<'a>(&'a [u8]);

impl Read for Drips<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0.len()).min(7);
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn trained(
    model: impl Into<ModelWrapper>,
    prepare: impl FnOnce(&mut Library),
    trainer: impl Into<TrainerWrapper>,
) -> Library {
    let mut library = Library::new(model);
    prepare(&mut library);
    let text = models_text().lines().take(150).map(String::from);
    let mut trainer = trainer.into();
    library.train(&mut trainer, text).expect("training");
    library
}

fn models_text() -> &'static str {
    crate::shipped_text()
}

/// As in GPT-2: bytes, split into words first.
fn byte_level() -> Library {
    let prepare = |library: &mut Library| {
        library.with_pre_tokenizer(Some(ByteLevel::default()));
        library.with_post_processor(Some(PostProcessorWrapper::ByteLevel(ByteLevel::default())));
    };
    let trainer = BpeTrainerBuilder::new().vocab_size(500).show_progress(false);
    let trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect());
    trained(BPE::default(), prepare, trainer.build())
}

/// As in Llama 2: merges across the whole text, which is normalised, with a blank put before it and special tokens around it.
fn whole_text() -> Library {
    let model = BPE::builder().unk_token("<unk>".into()).build().expect("a model");
    let prepare = |library: &mut Library| {
        library.with_normalizer(Some(NFC)).expect("a normaliser");
        library.with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::First, false)));
    };
    let special = ["<unk>", "<s>", "</s>"]
        .map(|token| AddedToken::from(token, true))
        .to_vec();
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(500)
        .show_progress(false)
        .special_tokens(special);
    let mut library = trained(model, prepare, trainer.build());
    let ids = ["<s>", "</s>"].map(|token| (token, library.token_to_id(token).expect("an id")));
    let template = TemplateProcessing::builder()
        .try_single("<s> $A </s>")
        .expect("a template")
        .special_tokens(ids.to_vec())
        .build()
        .expect("a template");
    library.with_post_processor(Some(template));
    library
}

/// As in T5: the likeliest pieces.
fn unigram() -> Library {
    let prepare = |library: &mut Library| {
        library.with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::Always, true)));
    };
    let trainer = UnigramTrainerBuilder::default()
        .vocab_size(300)
        .show_progress(false)
        .unk_token(Some("<unk>".into()))
        .special_tokens(vec![AddedToken::from("<unk>", true)])
        .build()
        .expect("a trainer");
    trained(Unigram::default(), prepare, trainer)
}

fn texts() -> Vec<String> {
    let bible = &models_text()[..20_000];
    vec![
        String::new(),
        "short".into(),
        bible.into(),
        bible
            .replace("the ", "thé <s>\u{65}\u{301} 日本語 😀 ")
            .chars()
            .take(12_000)
            .collect(),
        "a".repeat(9000) + &"=".repeat(5000) + &"\n".repeat(3000) + "end",
        "a".repeat(9000) + "end",
        (bible[..700].to_string() + &"=".repeat(300)).repeat(8),
        " \n".repeat(4000),
    ]
}

/// The library's tokenizer, as its file would be read.
fn of(library: Library) -> Tokenizer {
    let file = library.to_string(false).expect("a file");
    let read = JsonTokenizer::parse(Path::new("tokenizer.json"), &file, usize::MAX);
    Tokenizer(Kind::Json(read.expect("a tokenizer").into()))
}

/// Bytes in a window of these tests.
const SMALL: usize = 2048;

/// Bytes of the text's longest token, where tokens may be of any length: Unigram makes one token of a run of unknown characters.
fn longest_token(tokenizer: &Tokenizer, text: &str) -> usize {
    match &tokenizer.0 {
        Kind::Json(json) => {
            let placed = json.encode_with_places(text).expect("tokens");
            let lengths = placed.into_iter().map(|(_, (start, end))| end - start);
            lengths.max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Asserts that pieces give the ids of the whole, or a refusal where a token is longer than a window; how many texts are refused.
#[track_caller]
fn same_as_whole(tokenizer: &Tokenizer) -> usize {
    let (fit, too_long): (Vec<String>, Vec<String>) = texts()
        .into_iter()
        .partition(|text| longest_token(tokenizer, text) <= SMALL);
    for text in fit {
        for special in [false, true] {
            let whole = tokenizer.encode_with(&text, special).expect("ids");
            let pieces = tokenizer.windows(Drips(text.as_bytes()), special, SMALL, 256);
            let pieces: Vec<Vec<u32>> = pieces.collect::<Result<_>>().expect("ids");
            assert!(pieces.concat() == whole, "{} {:.20?}", tokenizer.name(), text);
            assert!(text.len() < 2 * SMALL || pieces.len() > 2);
        }
    }
    for text in &too_long {
        let pieces = tokenizer.windows(Drips(text.as_bytes()), false, SMALL, 256);
        let found: Result<Vec<Vec<u32>>> = pieces.collect();
        assert!(matches!(found, Err(ReadError::Unsplittable { .. })), "{found:?}");
    }
    too_long.len()
}

#[test]
fn pieces_of_any_text_are_those_of_the_whole() {
    // Of these only Unigram fuses what it does not know: 8000 bytes of one of the texts.
    assert_eq!(same_as_whole(&Tokenizer::bytes()), 0);
    for (library, refused) in [(byte_level(), 0), (whole_text(), 0), (unigram(), 1)] {
        assert_eq!(same_as_whole(&of(library)), refused);
    }
}

#[test]
fn pieces_of_an_rwkv_vocabulary_are_those_of_the_whole() {
    let mut lines: Vec<String> = (0..256)
        .map(|byte| format!("{} b'\\x{byte:02x}' 1", byte + 1))
        .collect();
    let long = "=".repeat(300);
    for token in ["aaa", "aaaaaaaa", " the", "\\n\\n", "th", &long] {
        let length = token.replace("\\n", "n").len();
        lines.push(format!("{} '{token}' {length}", lines.len() + 1));
    }
    let vocabulary = RwkvVocabulary::parse(Path::new("x.txt"), &lines.join("\n")).expect("a vocabulary");
    assert_eq!(same_as_whole(&Tokenizer(Kind::Rwkv(vocabulary.into()))), 0);
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_place() {
    let tokenizer = of(byte_level());
    let mut bytes = models_text().as_bytes()[..9000].to_vec();
    bytes[8000] = 0xFF;
    let error = tokenizer
        .windows(&bytes[..], false, 2048, 256)
        .find_map(Result::err);
    let error = error.expect("an error").to_string();
    assert!(error.contains("0xff at 8000"), "{error}");
    // A character that the text does not end.
    let error = tokenizer.pieces(&b"abc\xE2\x82"[..], false).find_map(Result::err);
    assert!(error.expect("an error").to_string().contains("0xe2 at 3"));
    assert!(tokenizer.pieces(&b""[..], false).next().is_none());
}

#[test]
fn a_tokenizer_that_looks_across_the_whole_text_is_refused() {
    // One token a text, whatever its length: there is nowhere to cut.
    let model = BPE::builder().vocab_and_merges([("<unk>".to_string(), 0)], vec![]);
    let model = model.unk_token("<unk>".into()).fuse_unk(true).build();
    let library = Library::new(model.expect("a model"));
    let tokenizer = of(library);
    let text = "x".repeat(10_000);
    let found: Result<Vec<_>> = tokenizer.windows(text.as_bytes(), false, 2048, 256).collect();
    assert!(matches!(found, Err(ReadError::Unsplittable { .. })), "{found:?}");
}
