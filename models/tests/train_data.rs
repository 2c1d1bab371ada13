//! Batches: what is in them, in which order they come, that they can be gone back to, and how bad data is refused.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use models::Tokenizer;
use models::train::Batch;
use models::train::data::{
    CopyTask, DataConfig, InductionHeads, Mqar, PasskeyLite, Source, Task, TextConfig, TokenFile,
    TokenWriter, batches, examples,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tempfile::TempDir;

fn config(value: Value) -> DataConfig {
    serde_json::from_value(value).unwrap()
}

fn open(folder: &Path, value: Value, rows: usize, time: usize, seed: u64) -> Box<dyn Source> {
    config(value)
        .open(folder, rows, time, &Tokenizer::bytes(), seed)
        .unwrap()
}

fn take(source: &mut dyn Source, count: usize) -> Vec<Batch> {
    batches(source).take(count).collect::<Result<_, _>>().unwrap()
}

#[track_caller]
fn holds(message: &str, parts: &[&str]) {
    assert!(!message.contains('\n'), "more than one line: {message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

/// The message of data that cannot be opened.
#[track_caller]
fn refused(folder: &Path, value: Value, (rows, time): (usize, usize), parts: &[&str]) {
    let opened = config(value).open(folder, rows, time, &Tokenizer::bytes(), 0);
    holds(&opened.err().expect("refused").to_string(), parts);
}

/// A file of the tokens 0, 1, 2, …, so that every token tells where it is from.
fn counting(folder: &Path, count: u32) -> Value {
    let mut writer = TokenWriter::create(&folder.join("counting.tokens"), count as usize, None).unwrap();
    let ids: Vec<u32> = (0..count).collect();
    for piece in ids.chunks(97) {
        writer.push(piece).unwrap();
    }
    writer.finish(1).unwrap();
    json!({"kind": "tokens", "path": "counting.tokens"})
}

fn with(mut config: Value, fields: Value) -> Value {
    config
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    config
}

/// The first tokens of the sequences of some batches.
fn starts(batches: &[Batch]) -> Vec<u32> {
    let sequences = batches.iter().flat_map(|batch| batch.ids.chunks(batch.time));
    sequences.map(|ids| ids[0]).collect()
}

mod text {
    use super::*;

    #[test]
    fn an_epoch_visits_every_window_once_and_the_next_one_in_another_order() {
        let folder = TempDir::new().unwrap();
        let (count, time) = (1003u32, 10u32);
        let data = counting(folder.path(), count);
        // One window fewer than would fit, so that the grid can be shifted.
        let windows = ((count - time) / time) as usize;
        for rows in [1, 3] {
            assert_eq!(windows % rows, 0);
            let mut source = open(folder.path(), data.clone(), rows, time as usize, 5);
            let epochs: Vec<Vec<u32>> = (0..3)
                .map(|_| starts(&take(&mut *source, windows / rows)))
                .collect();
            for epoch in &epochs {
                let mut sorted = epoch.clone();
                sorted.sort_unstable();
                let shift = sorted[0];
                assert!(shift < time);
                assert!(
                    sorted
                        .into_iter()
                        .eq((0..windows as u32).map(|window| shift + window * time))
                );
                assert!(
                    epoch.windows(2).filter(|pair| pair[0] + time == pair[1]).count() < 10,
                    "{epoch:?}"
                );
            }
            let windows_of = |epoch: &[u32]| epoch.iter().map(|start| start / time).collect::<Vec<_>>();
            assert_ne!(windows_of(&epochs[0]), windows_of(&epochs[1]));
            let shifts: BTreeSet<u32> = epochs.iter().map(|epoch| epoch[0] % time).collect();
            assert!(shifts.len() > 1, "{shifts:?}");
        }
    }

    #[test]
    fn the_shortest_text_is_one_window() {
        let folder = TempDir::new().unwrap();
        let data = counting(folder.path(), 11);
        let batch = open(folder.path(), data.clone(), 2, 10, 1).next().unwrap();
        assert!(batch.ids.chunks(10).all(|ids| ids.iter().copied().eq(0..10)));
        assert!(batch.targets.chunks(10).all(|ids| ids.iter().copied().eq(1..11)));
        refused(
            folder.path(),
            data,
            (2, 11),
            &["counting.tokens", "at least 12 tokens", "found 11"],
        );
    }

    #[test]
    fn documents_go_on_from_batch_to_batch_and_are_the_text_when_put_together() {
        let folder = TempDir::new().unwrap();
        let data = with(counting(folder.path(), 1000), json!({"order": "documents"}));
        let mut source = open(folder.path(), data, 4, 10, 1);
        let all = take(&mut *source, 60);
        for (step, batch) in all.iter().enumerate() {
            assert_eq!(batch.continues, vec![step > 0; 4]);
            assert_eq!(batch.weights, None);
            // The text is a ring: after its end comes its beginning.
            let next: Vec<u32> = batch.ids.iter().map(|id| (id + 1) % 1000).collect();
            assert_eq!(batch.targets, next);
        }
        let row = |row: usize, steps: &[Batch]| -> Vec<u32> {
            steps
                .iter()
                .flat_map(|batch| batch.ids[row * 10..][..10].to_vec())
                .collect()
        };
        let text: Vec<u32> = (0..4).flat_map(|index| row(index, &all[..25])).collect();
        assert!(text.into_iter().eq(0..1000));
        assert!(row(3, &all).into_iter().eq((750..1000).chain(0..350)));
    }

    #[test]
    fn rows_of_an_uneven_text_are_windows_of_it() {
        let folder = TempDir::new().unwrap();
        for order in ["documents", "shuffled"] {
            let data = with(counting(folder.path(), 103), json!({"order": order}));
            for batch in take(&mut *open(folder.path(), data, 3, 7, 1), 50) {
                for (ids, targets) in batch.ids.chunks(7).zip(batch.targets.chunks(7)) {
                    assert_eq!(ids[1..], targets[..6]);
                    let next: Vec<u32> = ids.iter().map(|id| (id + 1) % 103).collect();
                    assert_eq!(targets, next);
                }
            }
        }
    }

    #[test]
    fn folders_are_read_below_sorted_by_path_and_only_what_is_text() {
        let folder = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("texts/b/deep")).unwrap();
        fs::create_dir_all(folder.path().join("texts/.hidden")).unwrap();
        for (name, text) in [
            ("texts/c.txt", "three"),
            ("texts/a.TXT", "one"),
            ("texts/b/deep/x.md", "two"),
            ("texts/picture.png", "PNG"),
            ("texts/.hidden/y.txt", "hidden"),
            ("texts/.z.txt", "hidden"),
            ("other.rs", "last"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let whole = |fields: Value, length: usize| {
            let data = with(
                json!({"kind": "text", "paths": ["texts", "other.rs"], "order": "documents"}),
                fields,
            );
            let batch = open(folder.path(), data, 1, length - 1, 0).next().unwrap();
            let last = *batch.targets.last().unwrap();
            let ids = batch
                .ids
                .iter()
                .chain([&last])
                .map(|id| u8::try_from(*id).unwrap());
            String::from_utf8(ids.collect()).unwrap()
        };
        assert_eq!(whole(json!({}), 15), "onetwothreelast");
        assert_eq!(whole(json!({"extensions": ["png", ".md"]}), 10), "twoPNGlast");
        assert_eq!(whole(json!({"extensions": ["*"]}), 18), "onetwothreePNGlast");
        assert_eq!(whole(json!({"end_of_text": "|"}), 19), "one|two|three|last|");
        let split = json!({"separator": "e", "end_of_text": 33});
        assert_eq!(whole(split, 16), "on!two!thr!last!");
    }

    #[test]
    fn the_held_out_end_and_the_training_part_are_the_whole_text() {
        let folder = TempDir::new().unwrap();
        let data = with(counting(folder.path(), 1000), json!({"held_out": 0.1}));
        let mut training = open(folder.path(), data.clone(), 2, 10, 1);
        let seen: BTreeSet<u32> = take(&mut *training, 500)
            .into_iter()
            .flat_map(|batch| [batch.ids, batch.targets])
            .flatten()
            .collect();
        assert!(
            seen.len() > 890 && seen.last().is_some_and(|id| *id < 900),
            "{seen:?}"
        );
        let held_out = config(data).held_out().unwrap();
        assert!(held_out.held_out().is_none());
        let mut held_out = held_out
            .open(folder.path(), 2, 10, &Tokenizer::bytes(), 1)
            .unwrap();
        let first = take(&mut *held_out, 5);
        assert_eq!(starts(&first), [900, 950, 910, 960, 920, 970, 930, 980, 940, 990]);
        assert_eq!(first[4].targets[19], 900);
    }

    #[test]
    fn a_tokenizer_reads_long_texts_in_pieces_and_refuses_what_is_no_text() {
        let folder = TempDir::new().unwrap();
        let vocabulary = r#"{"version": "1.0", "added_tokens": [{"id": 3, "content": "<end>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}], "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": {"in": 0, "the": 1, "beginning": 2}, "unk_token": "in"}}"#;
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, vocabulary).unwrap();
        let tokenizer = Tokenizer::from_file(&path, 4).unwrap();
        assert_eq!(tokenizer.vocab_size(), 4);
        let lines = 80_000;
        fs::write(folder.path().join("a.txt"), "the beginning\n".repeat(lines)).unwrap();
        let data =
            config(json!({"kind": "text", "paths": ["a.txt"], "end_of_text": "<end>", "order": "documents"}));
        let mut source = data.open(folder.path(), 1, 2 * lines, &tokenizer, 0).unwrap();
        assert_eq!(source.vocab_size(), 4);
        let batch = source.next().unwrap();
        assert!(batch.ids.chunks(2).all(|pair| pair == [1, 2]));
        assert_eq!(batch.targets.last(), Some(&3));

        fs::write(folder.path().join("a.txt"), b"in the \xC3( beginning").unwrap();
        let error = data
            .open(folder.path(), 1, 2, &tokenizer, 0)
            .err()
            .unwrap()
            .to_string();
        holds(&error, &["a.txt", "UTF-8", "tokenizer.json", "0xc3", "offset 7"]);
        // To a model of bytes everything is text.
        let bytes = json!({"kind": "text", "paths": ["a.txt"]});
        assert_eq!(open(folder.path(), bytes, 1, 2, 0).vocab_size(), 256);
        let two = config(json!({"kind": "text", "paths": ["a.txt"], "end_of_text": "the beginning"}));
        let error = two
            .open(folder.path(), 1, 2, &tokenizer, 0)
            .err()
            .unwrap()
            .to_string();
        holds(&error, &["end_of_text", "one token", "2 tokens"]);
    }
}

mod positions {
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
}

mod mixtures {
    use super::*;

    #[test]
    fn parts_come_in_their_proportions_and_every_window_of_a_text_is_still_visited_once() {
        let folder = TempDir::new().unwrap();
        let (count, time, rows) = (1003u32, 10u32, 4);
        let windows = ((count - time) / time) as usize;
        let data = json!({"kind": "mix", "parts": [
            {"weight": 3, "source": counting(folder.path(), count)},
            {"weight": 1, "source": {"kind": "repeat", "token": 5000}},
            {"weight": 0, "source": {"kind": "repeat", "token": 6000}},
        ]});
        let mut source = open(folder.path(), data, rows, time as usize, 1);
        assert_eq!(source.vocab_size(), 6001);
        let all = take(&mut *source, 2000);
        let starts = starts(&all);
        let runs = starts.iter().filter(|start| **start == 5000).count();
        // A quarter of 8,000, give or take five standard deviations of 39.
        assert!(runs.abs_diff(2000) < 195, "{runs}");
        assert!(!starts.contains(&6000));
        let run = all
            .iter()
            .flat_map(|batch| batch.ids.chunks(10).zip(batch.targets.chunks(10)));
        for (ids, targets) in run.filter(|(ids, _)| ids[0] == 5000) {
            assert!(ids == [5000; 10] && targets == [5000; 10]);
        }
        // Rows are ahead of one another by chance, so that epochs overlap a little; the windows are visited equally often.
        let mut visits: HashMap<u32, usize> = HashMap::new();
        for start in starts.iter().filter(|start| **start != 5000) {
            *visits.entry(start / time).or_default() += 1;
        }
        let expected = (starts.len() - runs) / windows;
        for window in 1..windows as u32 {
            let found = visits.get(&window).copied().unwrap_or(0);
            assert!(
                found.abs_diff(expected) <= expected / 4,
                "window {window}: {found}, expected {expected}"
            );
        }
    }

    #[test]
    fn a_row_goes_on_only_if_nothing_came_between() {
        let folder = TempDir::new().unwrap();
        let data = json!({"kind": "mix", "parts": [
            {"weight": 1, "source": with(counting(folder.path(), 1000), json!({"order": "documents"}))},
            {"weight": 1, "source": {"kind": "repeat", "token": 5000}},
        ]});
        let all = take(&mut *open(folder.path(), data, 2, 10, 3), 40);
        let mut next = [0, 500];
        let mut went_on = 0;
        for (step, batch) in all.iter().enumerate() {
            for row in 0..2 {
                let start = batch.ids[row * 10];
                let text_before = step > 0 && all[step - 1].ids[row * 10] != 5000;
                assert_eq!(batch.continues[row], start != 5000 && text_before);
                if start != 5000 {
                    // No token of the text is lost to the runs between.
                    assert_eq!(start, next[row]);
                    next[row] += 10;
                }
                went_on += usize::from(batch.continues[row]);
            }
        }
        assert!(went_on > 5);
    }

    #[test]
    fn a_repeated_header_is_the_same_at_both_ends_and_the_text_between_is_untouched() {
        let folder = TempDir::new().unwrap();
        let text = with(counting(folder.path(), 1000), json!({"order": "documents"}));
        let data = json!({"kind": "repeated-header", "length": 3, "marker": 7, "source": text.clone()});
        let (time, mut headers) = (20, BTreeSet::new());
        let mut source = open(folder.path(), data, 2, time, 1);
        let plain = take(&mut *open(folder.path(), text, 2, time, 1), 30);
        for (batch, plain) in take(&mut *source, 30).iter().zip(&plain) {
            assert_eq!(batch.continues, [false, false]);
            let weights = batch.weights.as_ref().unwrap();
            for row in 0..2 {
                let range = row * time..(row + 1) * time;
                let (ids, targets) = (&batch.ids[range.clone()], &batch.targets[range.clone()]);
                assert_eq!(ids[1..], targets[..time - 1]);
                assert_eq!(ids[..4], targets[time - 4..]);
                assert_eq!(ids[4..time - 3], plain.ids[range.clone()][4..time - 3]);
                assert!(ids[0] == 7 && !ids[1..4].contains(&7));
                assert_eq!(weights[range][..4], [0.0, 0.0, 0.0, 1.0]);
                headers.insert(ids[1..4].to_vec());
            }
        }
        assert!(headers.len() > 55, "headers differ: {}", headers.len());
    }
}

mod tasks {
    use super::*;

    #[test]
    fn a_copy_is_weighed_where_it_can_be_known() {
        for time in [2, 3, 16, 17] {
            let half = time / 2;
            for example in examples(CopyTask { vocab_size: 5 }, time, 1).unwrap().take(50) {
                assert_eq!(example.ids[1..], example.targets[..time - 1]);
                assert_eq!(example.ids[half], 0);
                assert_eq!(example.targets[half..2 * half], example.ids[..half]);
                assert!(example.ids[..half].iter().all(|id| (1..5).contains(id)));
                let weighed: Vec<usize> = (0..time).filter(|at| example.weights[*at] == 1.0).collect();
                assert!(weighed.into_iter().eq(half..2 * half));
                assert!(example.weights.iter().all(|weight| [0.0, 1.0].contains(weight)));
            }
        }
    }

    #[test]
    fn every_key_is_asked_once_after_the_pairs_and_its_value_is_the_target() {
        for (time, pairs, random_filler) in [(16, 4, true), (64, 8, true), (64, 8, false), (67, 3, true)] {
            let task = Mqar {
                random_filler,
                vocab_size: 64,
                ..Mqar::new(pairs)
            };
            for example in examples(task, time, 1).unwrap().take(50) {
                let given: HashMap<u32, u32> = example.ids[..2 * pairs]
                    .chunks(2)
                    .map(|pair| (pair[0], pair[1]))
                    .collect();
                assert_eq!(given.len(), pairs);
                assert!(
                    given
                        .iter()
                        .all(|(key, value)| (1..32).contains(key) && (32..64).contains(value))
                );
                assert_eq!(given.values().collect::<BTreeSet<_>>().len(), pairs);
                let asked: Vec<usize> = (0..time).filter(|at| example.weights[*at] != 0.0).collect();
                assert_eq!(asked.len(), pairs);
                let mut keys = BTreeSet::new();
                for at in asked {
                    assert!(at >= 2 * pairs && at % 2 == 0 && example.weights[at] == 1.0);
                    assert_eq!(given.get(&example.ids[at]), Some(&example.targets[at]));
                    keys.insert(example.ids[at]);
                }
                assert_eq!(keys.len(), pairs);
                assert!(
                    random_filler || example.ids[2 * pairs..].iter().filter(|id| **id != 0).count() == pairs
                );
            }
        }
    }

    #[test]
    fn the_power_says_how_soon_keys_are_asked() {
        let mean = |power: f64| {
            let task = Mqar {
                power,
                ..Mqar::new(1)
            };
            let places = examples(task, 202, 1).unwrap().take(2000).map(|example| {
                let place = example.weights.iter().position(|weight| *weight == 1.0).unwrap();
                ((place - 2) / 2 + 1) as f64
            });
            places.sum::<f64>() / 2000.0
        };
        // 100 slots, p ∝ i^(a − 1): 50.5 for a = 1 (standard error 0.65). For a = 0.01 the mean is Σ i^0.01 / Σ i^(−0.99) = 19.9
        // (standard error 0.56).
        let slots = || (1..=100).map(f64::from);
        let expected = slots().map(|slot| slot.powf(0.01)).sum::<f64>()
            / slots().map(|slot| slot.powf(-0.99)).sum::<f64>();
        assert!((mean(1.0) - 50.5).abs() < 3.3, "{}", mean(1.0));
        assert!(
            (mean(0.01) - expected).abs() < 2.8,
            "{} against {expected}",
            mean(0.01)
        );
    }

    #[test]
    fn a_passkey_stands_where_its_depth_says_in_filler_that_never_changes() {
        let mut rng = StdRng::seed_from_u64(1);
        let task = PasskeyLite::default();
        for length in [11, 12, 64, 128, 1000, 8192] {
            let blocks = (length - 3) / 8;
            for depth in [0.0, 0.25, 0.5, 0.99, 1.0] {
                let prompt = task.prompt(length, depth, &mut rng).unwrap();
                assert_eq!(prompt.ids.len(), length);
                assert_eq!(prompt.ids[length - 3..], [21, 18, 19]);
                let first = (length - 3) % 8;
                let place = first + 8 * (depth * (blocks - 1) as f64).floor() as usize;
                let key = &prompt.ids[place..place + 8];
                assert_eq!(
                    (&key[..2], &key[2..7], key[7]),
                    (&[18, 19][..], &prompt.answer[..], 20)
                );
                assert!(prompt.answer.iter().all(|digit| *digit < 10));
                for (at, id) in prompt.ids[..length - 3].iter().enumerate() {
                    let filler = 10 + ((at + 8 - first) % 8) as u32;
                    assert!((place..place + 8).contains(&at) || *id == filler, "{at}: {id}");
                }
            }
        }
        let error = |length, depth| {
            task.prompt(length, depth, &mut StdRng::seed_from_u64(1))
                .unwrap_err()
                .to_string()
        };
        holds(&error(10, 0.5), &["length", "at least 11", "found 10"]);
        holds(&error(64, 1.5), &["depth", "found 1.5"]);
        holds(&error(64, f64::NAN), &["depth", "NaN"]);
    }

    #[test]
    fn passkeys_to_train_on_end_with_their_answer_and_come_at_every_depth() {
        let (time, mut places) = (128, HashMap::<usize, usize>::new());
        for example in examples(PasskeyLite::default(), time, 1).unwrap().take(1500) {
            assert_eq!(example.ids[1..], example.targets[..time - 1]);
            assert_eq!(example.ids[time - 7..time - 4], [21, 18, 19]);
            let place = example.ids.windows(2).position(|pair| pair == [18, 19]).unwrap();
            assert_eq!(example.targets[time - 5..], example.ids[place + 2..place + 7]);
            assert!(example.weights[..time - 5].iter().all(|weight| *weight == 0.1));
            assert_eq!(example.weights[time - 5..], [1.0; 5]);
            *places.entry(place).or_default() += 1;
        }
        // 15 blocks, 100 each, give or take five standard deviations of 9.7.
        assert_eq!(places.len(), 15);
        assert!(
            places.values().all(|count| count.abs_diff(100) < 49),
            "{places:?}"
        );
    }

    #[test]
    fn the_answer_of_induction_heads_is_the_token_after_the_first_marker() {
        for time in [3, 10, 64] {
            for example in examples(InductionHeads::default(), time, 1).unwrap().take(50) {
                let marker = example.ids.iter().position(|id| *id == 0).unwrap();
                assert!(marker < time - 2);
                assert_eq!(example.ids.iter().filter(|id| **id == 0).count(), 2);
                assert_eq!(example.targets[time - 1], example.ids[marker + 1]);
                assert_eq!(example.weights.iter().sum::<f32>(), 1.0);
                assert_eq!(example.weights[time - 1], 1.0);
            }
        }
    }

    #[test]
    fn a_task_needs_room() {
        let check = |task: &dyn Task, time: usize, parts: &[&str]| {
            assert!(task.check(time + 1).is_ok());
            holds(&task.check(time).unwrap_err().to_string(), parts);
        };
        check(&CopyTask::default(), 1, &["time", "at least 2", "found 1"]);
        check(&InductionHeads::default(), 2, &["time", "at least 3", "found 2"]);
        check(&Mqar::new(8), 31, &["time", "at least 32", "8 pairs", "found 31"]);
        check(&PasskeyLite::default(), 14, &["time", "at least 15", "found 14"]);
        assert!(examples(CopyTask::default(), 0, 1).is_err());
    }
}

mod bad_input {
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
}

mod token_files {
    use super::*;

    fn written(folder: &Path, vocab_size: usize, ids: &[u32]) -> std::path::PathBuf {
        let path = folder.join("a.tokens");
        let mut writer = TokenWriter::create(&path, vocab_size, Some(0)).unwrap();
        writer.push(ids).unwrap();
        let header = writer.finish(3).unwrap();
        assert_eq!(header, TokenFile::open(&path).unwrap().header());
        assert_eq!(header.bytes(), fs::metadata(&path).unwrap().len());
        path
    }

    #[test]
    fn ids_take_two_bytes_or_four_and_come_back() {
        let folder = TempDir::new().unwrap();
        for (vocab_size, width, ids) in [
            (1 << 16, 2, vec![0, 65535, 1, 256, 7]),
            ((1 << 16) + 1, 4, vec![65536, 0, 65535, 1, 256]),
            (1 << 32, 4, vec![u32::MAX, 0, 1, 2, 3]),
        ] {
            let path = written(folder.path(), vocab_size, &ids);
            let file = TokenFile::open(&path).unwrap();
            file.verify().unwrap();
            let header = file.header();
            assert_eq!(
                (header.width, header.count, header.vocab_size),
                (width, 5, vocab_size)
            );
            assert_eq!((header.documents, header.end_of_text), (3, Some(0)));
            let data = json!({"kind": "tokens", "path": "a.tokens", "order": "documents"});
            let mut source = open(folder.path(), data, 1, 4, 0);
            assert_eq!(source.vocab_size(), vocab_size);
            let batch = source.next().unwrap();
            assert_eq!((&batch.ids[..], &batch.targets[..]), (&ids[..4], &ids[1..]));
        }
    }

    #[test]
    fn a_file_of_tokens_gives_the_batches_of_its_text() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("a.txt"), "one\n\ntwo\n\nthree\n".repeat(20)).unwrap();
        let fields = json!({"paths": ["a.txt"], "separator": "\n\n", "end_of_text": 0, "held_out": 0.25});
        let read: TextConfig = serde_json::from_value(fields.clone()).unwrap();
        let text = with(fields, json!({"kind": "text"}));
        let tokenizer = Tokenizer::bytes();
        let documents = read.documents(folder.path(), &tokenizer).unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer =
            TokenWriter::create(&path, documents.vocab_size(&tokenizer), documents.end_of_text()).unwrap();
        let mut bytes = 0;
        let count = documents
            .encode(&tokenizer, &mut |ids| writer.push(ids), &mut |more| bytes += more)
            .unwrap();
        assert_eq!((count, bytes), (41, documents.bytes().unwrap()));
        writer.finish(count).unwrap();
        for (order, split) in [
            ("shuffled", "training"),
            ("documents", "training"),
            ("shuffled", "held-out"),
        ] {
            let fields = json!({"order": order, "split": split});
            let file = with(
                json!({"kind": "tokens", "path": "a.tokens", "held_out": 0.25}),
                fields.clone(),
            );
            let mut file = open(folder.path(), file, 2, 8, 1);
            let mut text = open(folder.path(), with(text.clone(), fields), 2, 8, 1);
            assert_eq!(take(&mut *file, 50), take(&mut *text, 50));
        }
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let folder = TempDir::new().unwrap();
        let path = written(folder.path(), 300, &[1, 2, 3, 299, 5, 6, 7, 8]);
        let good = fs::read(&path).unwrap();
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let opened = TokenFile::open(&path).and_then(|file| file.verify());
            let message = opened.expect_err("damaged").to_string();
            holds(&message, &["a.tokens"]);
            message
        };
        let regions: [(std::ops::Range<usize>, &str); 5] = [
            (0..8, "first bytes"),
            (8..12, "version"),
            (12..56, "checksum of the header"),
            (56..64, "checksum of the header"),
            (64..80, "checksum of the ids"),
        ];
        for (region, what) in regions {
            for at in region {
                for bit in [0, 7] {
                    let mut bytes = good.clone();
                    bytes[at] ^= 1 << bit;
                    holds(&message(&bytes), &[what]);
                }
            }
        }
        for length in 0..64 {
            holds(&message(&good[..length]), &["size in bytes", "at least 64"]);
        }
        for length in 64..good.len() {
            holds(
                &message(&good[..length]),
                &["bytes after the header", "2 for each of 8 ids"],
            );
        }
        holds(
            &message(&[&good[..], &[0]].concat()),
            &["bytes after the header", "found 17"],
        );
        holds(
            &message(b"In the beginning God created the heaven and the earth, and more than 64 bytes."),
            &["first bytes", "In the b"],
        );
        fs::write(&path, &good).unwrap();
        TokenFile::open(&path).unwrap().verify().unwrap();
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_named_when_it_is_read() {
        let folder = TempDir::new().unwrap();
        let path = written(folder.path(), 300, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut bytes = fs::read(&path).unwrap();
        // 4, the token at place 3, becomes 4 + 256 · 2 = 516.
        bytes[64 + 7] = 2;
        fs::write(&path, bytes).unwrap();
        let data = json!({"kind": "tokens", "path": "a.tokens", "order": "documents"});
        refused(
            folder.path(),
            data.clone(),
            (1, 2),
            &["a.tokens", "checksum of the ids"],
        );
        let mut source = open(folder.path(), with(data, json!({"verify": false})), 1, 2, 0);
        source.next().unwrap();
        let position = source.position();
        let error = source.next().unwrap_err().to_string();
        holds(
            &error,
            &[
                "a.tokens",
                "token 3",
                "below the vocabulary size 300",
                "found 516",
            ],
        );
        assert_eq!(source.position(), position);
    }

    #[test]
    fn a_writer_refuses_ids_that_do_not_fit_and_leaves_nothing_behind() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer = TokenWriter::create(&path, 10, None).unwrap();
        writer.push(&[1, 2, 9]).unwrap();
        let error = writer.push(&[3, 10]).unwrap_err().to_string();
        holds(
            &error,
            &["a.tokens", "token 4", "below the vocabulary size 10", "found 10"],
        );
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let error = TokenWriter::create(&folder.path().join("no/a.tokens"), 10, None)
            .err()
            .unwrap()
            .to_string();
        holds(&error, &["no/a.tokens", "creating failed"]);
        holds(
            &TokenWriter::create(&path, 0, None).err().unwrap().to_string(),
            &["vocabulary size", "found 0"],
        );
    }
}
