//! Files that break the library, and what becomes of them.

use std::path::Path;

use serde_json::{Value, json};

use super::JsonTokenizer;

/// Three tokens, with some of the file's parts replaced.
fn file(changes: Value) -> String {
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
        },
    });
    for (name, value) in changes.as_object().into_iter().flatten() {
        file[name] = value.clone();
    }
    file.to_string()
}

fn parse(text: &str) -> Result<JsonTokenizer, String> {
    JsonTokenizer::parse(Path::new("tokenizer.json"), text, 3).map_err(|error| error.to_string())
}

#[track_caller]
fn expect_refused(changes: Value, part: &str) {
    let message = parse(&file(changes)).expect_err("refused");
    assert!(
        message.starts_with("tokenizer.json: ") && message.contains(part),
        "{part:?} is not named in: {message}"
    );
}

#[test]
fn truncation_and_padding_never_act_whatever_they_say() {
    let shapes = [
        (Value::Null, Value::Null),
        (
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 7}),
            json!({"strategy": {"Fixed": 1u64 << 40}, "direction": "Right", "pad_to_multiple_of": null,
                   "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}),
        ),
        (json!("nonsense"), json!([1, {"a": 2}])),
    ];
    for (truncation, padding) in shapes {
        let text = file(json!({"truncation": truncation, "padding": padding}));
        let tokenizer = parse(&text).expect("a tokenizer");
        let ids = tokenizer.encode("abaab", true).expect("encoded");
        assert_eq!(ids, [2, 0, 2], "{text}");
    }
}

#[test]
fn what_panics_in_the_library_is_refused_when_it_is_loaded() {
    expect_refused(
        json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}),
        "panics",
    );
    expect_refused(
        json!({"post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {},
        }}),
        "panics",
    );
    expect_refused(
        json!({"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 5}}),
        "panics",
    );
    let mut model = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]});
    model["continuing_subword_prefix"] = json!("####");
    expect_refused(json!({"model": model}), "continuing_subword_prefix");
}

#[test]
fn a_damaged_character_map_is_refused() {
    let map = |base64: &str| json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64}});
    expect_refused(map("AAAA"), "too short");
    expect_refused(map("/////w=="), "claims an array of 4294967292 bytes");
    expect_refused(map("AAAAAA=="), "empty");
    expect_refused(map("BAAAAAAAAAA="), "outside itself");
}

#[test]
fn rules_that_grow_or_nest_without_bound_are_refused() {
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let sequence = |count| json!({"type": "Sequence", "normalizers": vec![double.clone(); count]});
    expect_refused(json!({"normalizer": sequence(13)}), "times as long");
    expect_refused(
        json!({"decoder": {"type": "Replace", "pattern": {"Regex": ""}, "content": "b".repeat(5000)}}),
        "times as long",
    );
    expect_refused(
        json!({"normalizer": {"type": "Prepend", "prepend": "b".repeat(20_000)}}),
        "at most 16384 bytes",
    );
    let strip = json!({"type": "StripAccents"});
    let many = json!({"type": "Sequence", "normalizers": vec![strip.clone(); 65]});
    expect_refused(json!({"normalizer": many}), "at most 64 steps");
    let nested = (0..9).fold(
        strip,
        |inner, _| json!({"type": "Sequence", "normalizers": [inner]}),
    );
    expect_refused(json!({"normalizer": nested}), "sequences inside each other");
    let long = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b".repeat(2000), -1.0]]});
    expect_refused(json!({"model": long}), "at most 1024 bytes");
}

#[test]
fn an_id_that_only_the_template_has_is_one_too_many() {
    expect_refused(
        json!({"post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[X]": {"id": "[X]", "ids": [99], "tokens": ["[X]"]}},
        }}),
        "found id 99",
    );
}

#[test]
fn a_panic_on_a_later_text_is_an_error() {
    let text = file(json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}));
    let tokenizer = JsonTokenizer {
        inner: text.parse().expect("the library reads it"),
        largest_id: 2,
        name: "tokenizer.json",
    };
    let message = tokenizer.encode("ab", false).expect_err("it panics").to_string();
    assert!(message.contains("panics in the tokenizers library"), "{message}");
}
