//! Tokenizers go into GGUF files and come back.

use std::fs;
use std::path::Path;

use serde_json::json;
use spillway_models::checkpoint::GgufDtype;
use spillway_models::{LoadOptions, Model};
use tempfile::TempDir;

use super::gguf::golden;
use super::gguf_write::{random, run};

/// BPE over bytes as published ones are, small.
fn bpe(pre_tokenizer: &serde_json::Value, more: &serde_json::Value) -> serde_json::Value {
    // ByteLevel's characters for bytes: those that are printed stand for themselves.
    let printed = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 256..;
    let alphabet: Vec<String> = (0..256_u32)
        .map(|byte| {
            if printed(byte) {
                byte
            } else {
                others.next().unwrap()
            }
        })
        .map(|code| char::from_u32(code).unwrap().to_string())
        .collect();
    let merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("i", "n"),
        ("1", "2"),
        ("12", "3"),
    ];
    let joined = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let vocab: serde_json::Map<String, serde_json::Value> = alphabet
        .iter()
        .cloned()
        .chain(joined)
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    let id = vocab.len();
    let mut document = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [
            { "id": id, "content": "<|begin|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
            { "id": id + 1, "content": "<tool>", "special": false, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
        ],
        "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<|begin|>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<|begin|>": { "id": "<|begin|>", "ids": [id], "tokens": ["<|begin|>"] } } },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
            "merges": merges.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>() },
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        document["model"][name] = value.clone();
    }
    document
}

const TEXTS: [&str; 5] = [
    "the 1234 things in there",
    "<tool>é中 \n\n\tx",
    "Aren't  they?",
    "",
    "<|begin|>the",
];

fn same_ids(from: &Path, to: &Path) {
    let [before, after] = [from, to].map(|path| Model::load(path, &LoadOptions::default()).unwrap());
    for text in TEXTS {
        let ids = |model: &Model| {
            (
                model.tokenizer().encode(text).unwrap(),
                model.tokenizer().encode_prompt(text).unwrap(),
            )
        };
        assert_eq!(ids(&after), ids(&before), "{text:?}");
        let ids = ids(&before).0;
        assert_eq!(
            after.tokenizer().decode(&ids),
            before.tokenizer().decode(&ids),
            "{text:?}"
        );
    }
}

#[test]
fn tokenizers_go_into_the_file_and_give_the_same_ids() {
    let folder = TempDir::new().unwrap();
    let path = random(folder.path(), "llama", &[("vocab_size", json!(560))]);
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let split = |expression: &str| {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false },
            bytes(false),
        ] })
    };
    let llama3 = split(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    let cases = [
        bpe(&bytes(true), &json!({})),
        bpe(&llama3, &json!({})),
        bpe(&llama3, &json!({ "ignore_merges": true })),
    ];
    for (index, document) in cases.iter().enumerate() {
        fs::write(path.join("tokenizer.json"), document.to_string()).unwrap();
        let to = folder.path().join(format!("bpe-{index}.gguf"));
        assert_eq!(run(&path, &to, GgufDtype::F32).unwrap().tokenizer, Ok("gpt2"));
        same_ids(&path, &to);
    }
    let odd = bpe(&split(r"\d"), &json!({}));
    fs::write(path.join("tokenizer.json"), odd.to_string()).unwrap();
    let reason = run(&path, &folder.path().join("odd.gguf"), GgufDtype::F32)
        .unwrap()
        .tokenizer
        .unwrap_err();
    assert!(reason.contains("no name in the file"), "{reason}");
    fs::remove_file(path.join("tokenizer.json")).unwrap();

    fs::copy(
        golden().join("tokenizers/bpe.model"),
        path.join("tokenizer.model"),
    )
    .unwrap();
    let to = folder.path().join("pieces.gguf");
    assert_eq!(run(&path, &to, GgufDtype::F32).unwrap().tokenizer, Ok("llama"));
    same_ids(&path, &to);
    fs::remove_file(path.join("tokenizer.model")).unwrap();

    fs::write(path.join("rwkv_vocab.txt"), include_str!("rwkv_vocab_small.txt")).unwrap();
    let to = folder.path().join("words.gguf");
    assert_eq!(run(&path, &to, GgufDtype::F32).unwrap().tokenizer, Ok("rwkv"));
    same_ids(&path, &to);
}

#[test]
fn an_embedded_tokenizer_that_is_not_read_is_named_where_text_is_given() {
    let folder = TempDir::new().unwrap();
    let path = random(folder.path(), "llama", &[("vocab_size", json!(560))]);
    fs::copy(
        golden().join("tokenizers/bpe.model"),
        path.join("tokenizer.model"),
    )
    .unwrap();
    let to = folder.path().join("pieces.gguf");
    run(&path, &to, GgufDtype::F32).unwrap();
    let key = b"tokenizer.ggml.model";
    let mut bytes = fs::read(&to).unwrap();
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 12;
    assert_eq!(&bytes[at..at + 5], b"llama");
    bytes[at..at + 5].copy_from_slice(b"plamo");
    fs::write(&to, bytes).unwrap();
    let model = Model::load(&to, &LoadOptions::default()).unwrap();
    let error = model.tokenizer().encode("text").unwrap_err().to_string();
    assert!(
        error.contains("pieces.gguf") && error.contains("plamo"),
        "{error}"
    );
}
