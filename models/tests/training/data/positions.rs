//! Positions: a source that seeks goes on like the one that was there.

use super::*;

/// Every kind of source, over a text and a file of tokens in `folder`.
fn every_source(folder: &Path) -> Vec<Value> {
    let tokens = counting(folder, 700);
    fs::write(
        folder.join("a.txt"),
        "In the beginning God created the heaven and the earth.\n".repeat(9),
    )
    .unwrap();
    let text = json!({"kind": "text", "paths": ["a.txt"]});
    let ordered = with(tokens.clone(), json!({"order": "documents"}));
    vec![
        text.clone(),
        tokens.clone(),
        ordered.clone(),
        json!({"kind": "repeat", "token": "\n"}),
        json!({"kind": "copy", "vocab_size": 9}),
        json!({"kind": "mqar", "pairs": 3, "vocab_size": 64}),
        json!({"kind": "passkey-lite"}),
        json!({"kind": "induction-heads"}),
        json!({"kind": "repeated-header", "length": 4, "marker": 0, "source": text.clone()}),
        json!({"kind": "mix", "parts": [
            {"weight": 3, "source": ordered},
            {"weight": 1, "source": {"kind": "mix", "parts": [
                {"weight": 0.5, "source": {"kind": "repeat", "token": 10}},
                {"weight": 0.5, "source": {"kind": "passkey-lite", "other_weight": 0.5}},
            ]}},
            {"weight": 2, "source": tokens},
        ]}),
        json!({"kind": "pairs-in-filler", "pairs": [1, 3, 5]}),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn a_source_that_seeks_goes_on_as_the_one_that_was_there(
        before in 0usize..120, after in 1usize..20, rows in 1usize..5, time in 15usize..40, seed in any::<u64>(),
    ) {
        let folder = TempDir::new().unwrap();
        for value in every_source(folder.path()) {
            let mut source = open(folder.path(), value.clone(), rows, time, seed);
            take(&mut *source, before);
            let position = serde_json::to_string(&source.position()).unwrap();
            prop_assert!(position.len() < 300, "{position}");
            let going_on = take(&mut *source, after);
            let mut resumed = open(folder.path(), value.clone(), rows, time, seed);
            resumed.seek(&serde_json::from_str(&position).unwrap()).unwrap();
            prop_assert_eq!(take(&mut *resumed, after), going_on, "{}", value);
            prop_assert_eq!(resumed.position(), source.position());
        }
    }
}

#[test]
fn batches_have_the_shape_they_say_and_seeds_differ() {
    let folder = TempDir::new().unwrap();
    for value in every_source(folder.path()) {
        let mut source = open(folder.path(), value.clone(), 3, 20, 1);
        let vocab_size = source.vocab_size();
        let batches = take(&mut *source, 10);
        for batch in &batches {
            assert_eq!((batch.sequences, batch.time, batch.continues.len()), (3, 20, 3));
            assert_eq!((batch.ids.len(), batch.targets.len()), (60, 60));
            assert!(batch.weights.as_ref().is_none_or(|weights| weights.len() == 60));
            assert!(
                batch
                    .ids
                    .iter()
                    .chain(&batch.targets)
                    .all(|id| (*id as usize) < vocab_size),
                "{value}"
            );
        }
        assert_eq!(
            take(&mut *open(folder.path(), value.clone(), 3, 20, 1), 10),
            batches
        );
        let other = take(&mut *open(folder.path(), value.clone(), 3, 20, 2), 10);
        // What is read in order, or always the same, has no use for a seed.
        let is_random = value["order"] != "documents" && value["kind"] != "repeat";
        assert_eq!(other != batches, is_random, "{value}");
    }
}

#[test]
fn a_position_of_other_data_or_of_other_batches_is_refused() {
    let folder = TempDir::new().unwrap();
    let all = every_source(folder.path());
    let mut source = open(folder.path(), all[0].clone(), 2, 20, 1);
    take(&mut *source, 3);
    let good = source.position();
    let mut refuse = |position: &Value, parts: &[&str]| {
        let error = source.seek(position).unwrap_err().to_string();
        holds(&error, &[&["position in the data"], parts].concat());
        assert_eq!(source.position(), good);
    };
    refuse(&json!(null), &["sequences", "expected 2"]);
    refuse(
        &with(good.clone(), json!({"sequences": 3})),
        &["sequences", "expected 2, found 3"],
    );
    refuse(
        &with(good.clone(), json!({"time": 21})),
        &["time", "expected 20, found 21"],
    );
    refuse(
        &with(good.clone(), json!({"batches": -1})),
        &["batches", "found -1"],
    );
    refuse(
        &with(good.clone(), json!({"batches": u64::MAX})),
        &["batches", "below 2^62"],
    );
    refuse(&with(good.clone(), json!({"taken": [1]})), &["taken"]);
    refuse(
        &open(folder.path(), all[1].clone(), 2, 20, 1).position(),
        &["checksum"],
    );
    fs::write(
        folder.path().join("a.txt"),
        "And the earth was without form, and void.\n".repeat(9),
    )
    .unwrap();
    let error = open(folder.path(), all[0].clone(), 2, 20, 1)
        .seek(&good)
        .unwrap_err()
        .to_string();
    holds(&error, &["checksum"]);

    let mut mixed = open(folder.path(), all[9].clone(), 2, 20, 1);
    take(&mut *mixed, 5);
    let good = mixed.position();
    for taken in [json!(null), json!([5, 5]), json!([5, 4, 0, 0, 0, 0, 0, 0])] {
        let error = mixed
            .seek(&with(good.clone(), json!({"taken": taken})))
            .unwrap_err()
            .to_string();
        holds(&error, &["taken", "4 × 2 counters, 5 in each of the 2 rows"]);
    }
    mixed.seek(&good).unwrap();
}
