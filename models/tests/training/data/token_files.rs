//! Files of tokens: what is written comes back, and damage is noticed.

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
