//! Configurations that cannot be opened: each is refused by name.

use super::*;

#[test]
fn configurations_that_cannot_be_are_named() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    fs::write(at.join("a.txt"), "In the beginning").unwrap();
    fs::create_dir_all(at.join("empty")).unwrap();
    fs::create_dir_all(at.join("pictures")).unwrap();
    fs::write(at.join("pictures/a.png"), "x").unwrap();
    let text = |fields: Value| with(json!({"kind": "text", "paths": ["a.txt"]}), fields);
    let size = (2, 4);
    refused(
        at,
        text(json!({"paths": ["no.txt"]})),
        size,
        &["no.txt", "No such file"],
    );
    refused(at, text(json!({"paths": []})), size, &["paths", "at least one"]);
    refused(
        at,
        text(json!({"paths": ["empty"]})),
        size,
        &["empty", ".txt, .text, .md", "none among 0"],
    );
    refused(
        at,
        text(json!({"paths": ["a.txt", "pictures"]})),
        size,
        &["pictures", ".txt", "none among 1"],
    );
    refused(
        at,
        text(json!({})),
        (1, 16),
        &["a.txt", "at least 17 tokens", "found 16"],
    );
    refused(at, text(json!({})), (1, 0), &["time", "found 0"]);
    refused(at, text(json!({})), (0, 4), &["sequences", "found 0"]);
    refused(at, text(json!({"held_out": 1.0})), size, &["held_out", "found 1"]);
    refused(
        at,
        text(json!({"held_out": -0.5})),
        size,
        &["held_out", "found -0.5"],
    );
    refused(
        at,
        text(json!({"held_out": 0.9})),
        size,
        &["a.txt, training part", "at least 5", "found 2"],
    );
    refused(
        at,
        text(json!({"held_out": 0.1, "split": "held-out"})),
        size,
        &["a.txt, held-out part", "found 2"],
    );
    refused(
        at,
        text(json!({"split": "held-out"})),
        size,
        &["held_out", "above 0"],
    );
    refused(
        at,
        text(json!({"separator": "\n"})),
        size,
        &["end_of_text", "separator", "none"],
    );
    refused(
        at,
        text(json!({"separator": "", "end_of_text": 0})),
        size,
        &["separator"],
    );
    refused(
        at,
        text(json!({"end_of_text": "two"})),
        size,
        &["end_of_text", "one token of bytes", "3 tokens"],
    );
    refused(
        at,
        json!({"kind": "repeat", "token": ""}),
        size,
        &["token", "0 tokens"],
    );
    refused(
        at,
        json!({"kind": "copy", "vocab_size": 2}),
        size,
        &["vocab_size", "found 2"],
    );
    refused(
        at,
        json!({"kind": "induction-heads", "vocab_size": 0}),
        size,
        &["vocab_size", "found 0"],
    );
    refused(
        at,
        json!({"kind": "mqar", "pairs": 0}),
        size,
        &["pairs", "found 0"],
    );
    refused(
        at,
        json!({"kind": "mqar", "pairs": 9, "vocab_size": 19}),
        size,
        &["vocab_size", "at least 20", "found 19"],
    );
    refused(
        at,
        json!({"kind": "passkey-lite", "other_weight": -1.0}),
        size,
        &["other_weight", "found -1"],
    );
    for (option, value, parts) in [
        ("pairs", json!([]), &["pairs", "at least one number"][..]),
        ("pairs", json!([2, 0]), &["pairs", "each at least 1", "[2, 0]"]),
        ("keys", json!(7), &["keys", "at least 8", "found 7"]),
        ("values", json!(0), &["values", "found 0"]),
        ("other_weight", json!(-1.0), &["other_weight", "found -1"]),
    ] {
        let mut task = json!({"kind": "pairs-in-filler", "pairs": [1, 8]});
        task[option] = value;
        refused(at, task, size, parts);
    }
    let header = |length: usize| json!({"kind": "repeated-header", "length": length, "marker": 0, "source": text(json!({}))});
    refused(at, header(2), (1, 5), &["time", "at least 6", "found 5"]);
    refused(at, header(0), size, &["length", "found 0"]);
}

#[test]
fn mixtures_without_anything_to_draw_are_named() {
    let folder = TempDir::new().unwrap();
    let newlines = || json!({"kind": "repeat", "token": 10});
    let mix = |weights: &[f64]| {
        let part = |weight| json!({"weight": weight, "source": newlines()});
        json!({"kind": "mix", "parts": weights.iter().map(part).collect::<Vec<_>>()})
    };
    refused(folder.path(), mix(&[]), (1, 4), &["parts", "0 parts"]);
    refused(
        folder.path(),
        mix(&[0.0, 0.0]),
        (1, 4),
        &["parts", "above 0", "2 parts"],
    );
    refused(folder.path(), mix(&[1.0, -1.0]), (1, 4), &["weight", "found -1"]);
    refused(
        folder.path(),
        mix(&[f64::MAX, f64::MAX]),
        (1, 4),
        &["parts", "inf"],
    );
    let around = json!({"kind": "repeated-header", "length": 1, "marker": 0, "source": mix(&[1.0])});
    refused(folder.path(), around, (1, 8), &["source", "a mixture"]);
}

#[test]
fn unknown_kinds_and_options_are_refused_by_name() {
    let parse = |value: Value| {
        serde_json::from_value::<DataConfig>(value)
            .unwrap_err()
            .to_string()
    };
    holds(
        &parse(json!({"kind": "texts", "paths": []})),
        &["texts", "passkey-lite"],
    );
    holds(
        &parse(json!({"kind": "text", "paths": ["a"], "oder": "documents"})),
        &["oder", "order"],
    );
    holds(
        &parse(json!({"kind": "text", "paths": ["a"], "order": "backwards"})),
        &["backwards", "shuffled"],
    );
    holds(&parse(json!({"kind": "text"})), &["paths"]);
    holds(
        &parse(json!({"kind": "repeat", "token": -1})),
        &["a token's id, or the text"],
    );
    holds(
        &parse(json!({"kind": "copy", "vocabulary": 3})),
        &["vocabulary", "vocab_size"],
    );
}
