//! Texts: windows, documents, folders, held-out parts, tokenizers.

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
