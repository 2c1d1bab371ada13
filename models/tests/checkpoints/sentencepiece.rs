//! `tokenizer.model`: the ids of SentencePiece itself, and files that are damaged.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spillway_models::Tokenizer;
use tempfile::TempDir;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers")
}

#[test]
fn golden_texts_have_the_ids_of_sentencepiece() {
    let expected: Value =
        serde_json::from_str(&fs::read_to_string(folder().join("expected.json")).unwrap()).unwrap();
    let mut cases = 0;
    for (name, texts) in expected.as_object().unwrap() {
        let tokenizer = Tokenizer::from_file(&folder().join(format!("{name}.model")), 1 << 20).unwrap();
        assert_eq!(tokenizer.name(), "tokenizer.model");
        for case in texts.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = case["ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
            cases += 1;
        }
    }
    assert_eq!(cases, 14);
}

#[test]
fn what_is_decoded_is_what_sentencepiece_decodes() {
    let expected: Value =
        serde_json::from_str(&fs::read_to_string(folder().join("expected.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_file(&folder().join("bpe.model"), 1 << 20).unwrap();
    for case in expected["bpe"].as_array().unwrap() {
        let ids: Vec<u32> = case["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect();
        assert_eq!(tokenizer.decode(&ids), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn a_folder_with_such_a_file_has_a_tokenizer_and_its_configuration_says_what_prompts_begin_with() {
    let folder_of = TempDir::new().unwrap();
    fs::copy(
        folder().join("bpe.model"),
        folder_of.path().join("tokenizer.model"),
    )
    .unwrap();
    let begins = || {
        let tokenizer = Tokenizer::open(folder_of.path(), 1000, 1000).unwrap();
        tokenizer.encode_prompt("and").unwrap().len() - tokenizer.encode("and").unwrap().len()
    };
    assert_eq!(begins(), 1);
    fs::write(
        folder_of.path().join("tokenizer_config.json"),
        r#"{"add_bos_token": false}"#,
    )
    .unwrap();
    assert_eq!(begins(), 0);
    let error = Tokenizer::open(folder_of.path(), 100, 100)
        .unwrap_err()
        .to_string();
    assert!(error.contains("vocabulary size 100"), "{error}");
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    let whole = fs::read(folder().join("bpe.model")).unwrap();
    let read = |bytes: &[u8]| Tokenizer::from_pieces(Path::new("tokenizer.model"), bytes, 1000);
    for length in (0..whole.len()).step_by(101) {
        if let Err(error) = read(&whole[..length]) {
            assert!(error.to_string().starts_with("tokenizer.model: "), "{error}");
        }
    }
    for place in (0..400).step_by(3) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        let _ = read(&damaged);
    }
    // One piece of a length that the file does not have; a piece of no type; a group; a model of words; a score that is no number.
    for (bytes, message) in [
        (
            &b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
            "ends within a field",
        ),
        (b"\x0a\x05\x0a\x01a\x18\x09", "type 9"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\x03\x0a\x01a\x12\x02\x18\x03", "model_type 3"),
        (b"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f", "no number"),
        (b"", "no pieces"),
        (b"\x0a\x03\x0a\x01\xff", "not UTF-8"),
    ] {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let mut long = vec![0x0a, 0xab, 0x08, 0x0a, 0xa8, 0x08];
    long.extend([b'a'; 1064]);
    let error = read(&long).unwrap_err().to_string();
    assert!(error.contains("at most 512 bytes"), "{error}");
}
