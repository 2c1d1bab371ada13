//! The RWKV tokenizer: files as Python writes them, the longest match, and files that are damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use spillway_models::Tokenizer;
use spillway_models::tokenizer::{RwkvVocabulary, TokenizerError};
use tempfile::TempDir;

/// All bytes, some words, and what is awkward to write: quotes, backslashes, blanks, line separators, parts of characters.
/// Each line was written by Python's `repr`.
const SMALL: &str = include_str!("rwkv_vocab_small.txt");

fn parse(text: &str) -> Result<RwkvVocabulary, TokenizerError> {
    RwkvVocabulary::parse(Path::new("rwkv_vocab.txt"), text)
}

#[test]
fn literals_are_read_as_python_reads_them() {
    let cases: [(&str, &[u8]); 22] = [
        ("'a'", b"a"),
        ("\"it's\"", b"it's"),
        (r"'\''", b"'"),
        (r#"'"'"#, b"\""),
        (r"'\\'", b"\\"),
        (r"'\\n'", b"\\n"),
        (r"'\n\r\t'", b"\n\r\t"),
        (r"'\a\b\f\v\0\177'", b"\x07\x08\x0c\x0b\0\x7f"),
        ("' '", b" "),
        ("'a b c'", b"a b c"),
        (r"'\x85'", "\u{85}".as_bytes()),
        (r"'\xe9'", "é".as_bytes()),
        ("'é'", "é".as_bytes()),
        (r"'\u2028'", "\u{2028}".as_bytes()),
        (r"'\U0001f600'", "😀".as_bytes()),
        ("'日本'", "日本".as_bytes()),
        (r"b'\x85'", b"\x85"),
        (r"b'\xe6\x97'", b"\xe6\x97"),
        (r#"b"\xff'""#, b"\xff'"),
        (r"B'\377\0'", b"\xff\0"),
        (r"b'\\x41'", b"\\x41"),
        (r"'\1011'", b"A1"),
    ];
    for (literal, expected) in cases {
        let vocabulary = parse(&format!("7 {literal} {}\n", expected.len())).unwrap();
        assert_eq!(vocabulary.token(7), Some(expected), "{literal}");
    }
}

#[test]
fn the_longest_token_is_taken() {
    let vocabulary = parse(SMALL).unwrap();
    let tokens = |text: &str| {
        let ids = vocabulary.encode(text.as_bytes()).unwrap();
        ids.iter()
            .map(|id| String::from_utf8_lossy(vocabulary.token(*id).unwrap()).into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(tokens("then the thenin"), ["then", " the", " then", "in"]);
    // Not " beginning" until its last letter is there.
    assert_eq!(
        tokens("in the beginnin"),
        ["in", " the", " ", "b", "e", "g", "in", "n", "in"]
    );
    assert_eq!(tokens("日本語日"), ["日本語", "\u{FFFD}", "\u{FFFD}"]);
    assert_eq!(tokens(""), [] as [&str; 0]);
}

#[test]
fn damaged_lines_are_named() {
    let cases = [
        ("1 'a' 1\nx 'b' 1", "line 2", "expected an id, found \"x\""),
        ("-1 'a' 1", "line 1", "expected an id"),
        ("4294967295 'a' 1", "line 1", "expected an id"),
        ("1 'a'", "line 1", "expected an id, a Python literal and a length"),
        ("1", "line 1", "expected an id, a Python literal and a length"),
        ("1 'a' 1\n\n2 'b' 1", "line 2", "expected an id, a Python literal"),
        ("1 'a' one", "line 1", "expected a length, found \"one\""),
        ("1 'a' 2", "line 1", "says 2 bytes, the literal has 1"),
        ("1 'é' 1", "line 1", "says 1 bytes, the literal has 2"),
        ("1 '' 0", "line 1", "at least one byte"),
        ("1 a 1", "line 1", "in quotes"),
        ("1 'a\" 2", "line 1", "in quotes"),
        ("1 ' 1", "line 1", "in quotes"),
        ("1 'a'b' 3", "line 1", "expected \\'"),
        ("1 r'a' 1", "line 1", "in quotes"),
        ("1 b'é' 2", "line 1", "expected ASCII in bytes"),
        (r"1 '\N{DASH}' 3", "line 1", r"escape \N is not known"),
        (r"1 b'\u0041' 1", "line 1", r"escape \u is not known"),
        (r"1 '\x4' 1", "line 1", "expected 2 digits of base 16"),
        (r"1 '\x+4' 1", "line 1", "expected 2 digits of base 16"),
        (r"1 '\ud800' 3", "line 1", "expected a character"),
        (r"1 b'\400' 1", "line 1", "expected a byte"),
        (r"1 'a\' 1", "line 1", "found the end"),
        ("1 'a' 1\n2 'b' 1\n1 'c' 1", "line 3", "id 1 stands in line 1"),
        (
            "1 'a' 1\n2 b'a' 1",
            "line 2",
            "the text of id 2 is that of id 1 in line 1",
        ),
    ];
    for (text, line, reason) in cases {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, TokenizerError::Line { .. }), "{text}: {error}");
        let message = error.to_string();
        for part in ["rwkv_vocab.txt", line, reason] {
            assert!(message.contains(part), "{part:?} is not named in: {message}");
        }
    }
    assert!(parse("").unwrap_err().to_string().contains("no tokens"));
    // Lines end as files of other systems have them, too.
    assert_eq!(parse("1 'a' 1\r\n2 'b' 1\r\n").unwrap().largest_id(), 2);
}

#[test]
fn a_byte_without_a_token_is_an_error() {
    let vocabulary = parse("1 'a' 1\n2 'abc' 3").unwrap();
    assert_eq!(vocabulary.encode(b"aabca").unwrap(), [1, 2, 1]);
    let message = vocabulary.encode(b"aab").unwrap_err().to_string();
    assert!(
        message.contains("byte 2") && message.contains("0x62"),
        "{message}"
    );
}

#[test]
fn a_folder_with_a_vocabulary_has_a_tokenizer() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rwkv_vocab_v20230424.txt");
    fs::write(&path, SMALL).unwrap();
    let tokenizer = Tokenizer::open(folder.path(), 512, 512).unwrap();
    assert_eq!(
        (tokenizer.name(), tokenizer.is_byte_level()),
        ("rwkv_vocab", false)
    );
    let ids = tokenizer.encode("In the 日本語 😀\n").unwrap();
    assert_eq!(tokenizer.decode(&ids), "In the 日本語 😀\n");
    // The end of a text stands for none, an id that there is not for what is no text.
    assert_eq!(tokenizer.decode(&[0, ids[0], 511]), "I\u{FFFD}");

    // Characters in two tokens appear with the second: 日 is two bytes that are a token, and one that is.
    let ids = tokenizer.encode("é日!").unwrap();
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(pieces, ["é", "", "日", "!"]);
    assert_eq!(stream.push(ids[1]), "");
    assert_eq!(stream.finish(), "\u{FFFD}");

    let error = Tokenizer::open(folder.path(), 250, 256).unwrap_err();
    assert!(
        matches!(error, TokenizerError::Vocabulary { vocab_size: 256, .. }),
        "{error}"
    );
    fs::write(folder.path().join("rwkv_vocab_other.txt"), SMALL).unwrap();
    let message = Tokenizer::open(folder.path(), 512, 512).unwrap_err().to_string();
    assert!(
        message.contains("rwkv_vocab_v20230424.txt") && message.contains("several"),
        "{message}"
    );
}

/// The definition: of all tokens that the text goes on with, the longest.
fn by_brute_force(tokens: &BTreeMap<Vec<u8>, u32>, mut text: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    while !text.is_empty() {
        let fitting = tokens.iter().filter(|(token, _)| text.starts_with(token));
        let (token, id) = fitting.max_by_key(|(token, _)| token.len()).unwrap();
        ids.push(*id);
        text = &text[token.len()..];
    }
    ids
}

/// All bytes and some longer tokens of few letters, so that many share their beginnings.
fn vocabularies() -> impl Strategy<Value = BTreeMap<Vec<u8>, u32>> {
    let letters = proptest::sample::select(vec![b'a', b'b', b'\'', b'\\', 0xE6, 0x97, 0xFF]);
    let longer = proptest::collection::vec(proptest::collection::vec(letters, 2..6), 0..30);
    longer.prop_map(|longer| {
        let texts = (0..=255u8).map(|b| vec![b]).chain(longer);
        let mut tokens = BTreeMap::new();
        for text in texts {
            let next = tokens.len() as u32 + 1;
            tokens.entry(text).or_insert(next);
        }
        tokens
    })
}

fn file(tokens: &BTreeMap<Vec<u8>, u32>) -> String {
    let line = |(text, id): (&Vec<u8>, &u32)| {
        let escaped: String = text.iter().map(|b| format!("\\x{b:02x}")).collect();
        format!("{id} b'{escaped}' {}\n", text.len())
    };
    tokens.iter().map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn ids_are_the_longest_matches_and_stand_for_the_text(
        tokens in vocabularies(),
        text in proptest::collection::vec(
            prop_oneof![proptest::sample::select(vec![b'a', b'b', b'\'', b'\\', 0xE6, 0x97, 0xFF]), any::<u8>()], 0..60),
    ) {
        let vocabulary = parse(&file(&tokens)).unwrap();
        let ids = vocabulary.encode(&text).unwrap();
        prop_assert_eq!(&ids, &by_brute_force(&tokens, &text));
        let bytes: Vec<u8> = ids.iter().flat_map(|id| vocabulary.token(*id).unwrap().to_vec()).collect();
        prop_assert_eq!(bytes, text);
    }

    #[test]
    fn arbitrary_files_never_panic(text in ".{0,40}", id in any::<u32>(), length in 0usize..9) {
        let _ = parse(&text);
        let _ = parse(&format!("{id} '{text}' {length}"));
        let _ = parse(&format!("{id} b\"{text}\" {length}"));
    }
}
