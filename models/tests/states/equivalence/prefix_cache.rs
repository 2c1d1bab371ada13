//! Prefixes on disk: what is found, what is refused, what is forgotten.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random};
use spillway_models::registry::layouts;
use spillway_models::{LoadOptions, Logits, Model, PrefixCache, PrefixCacheError, PrefixCacheOptions};
use spillway_ssm_core::Chain;
use tempfile::TempDir;

use super::{
    REORDERED, cases, chain, config, contents, ids, label, logits, models, name, relative_error, values,
};

proptest! {
    // Every border is a file.
    #![proptest_config(config(2))]

    #[test]
    fn what_is_found_on_disk_is_what_would_be_computed(
        seed in any::<u64>(), shared in 0usize..14, first in 1usize..8, second in 1usize..8, chunk in 1usize..6,
    ) {
        for (model, chain) in cases() {
            let folder = TempDir::new().unwrap();
            let cache = cache(folder.path(), chunk);
            let shared = ids(model, seed, shared);
            let prompts = [[shared.clone(), ids(model, seed ^ 1, first)].concat(), [shared, ids(model, seed ^ 2, second)].concat()];
            let common = prompts[0].iter().zip(&prompts[1]).take_while(|(a, b)| a == b).count();
            // What an encoder reads as a whole has no beginning that another prompt could share.
            let borders = |prompt: &[u32]| match model.encoder_length() {
                0 => (prompt.len() - 1) / chunk,
                _ => 0,
            };
            let one = cache.prefill(model, &chain, &prompts[0]).unwrap();
            prop_assert_eq!((one.restored, one.stored), (0, borders(&prompts[0])));
            let mut two = cache.prefill(model, &chain, &prompts[1]).unwrap();
            let found = (common / chunk).min(borders(&prompts[1])).min(borders(&prompts[0]));
            prop_assert_eq!((two.restored, two.stored), (found * chunk, borders(&prompts[1]) - found));
            prop_assert!(one.refused.is_empty() && two.refused.is_empty());
            let empty = TempDir::new().unwrap();
            let mut missed = self::cache(empty.path(), chunk).prefill(model, &chain, &prompts[1]).unwrap();
            prop_assert_eq!(values(two.logits), values(missed.logits));
            prop_assert!(contents(&two.state) == contents(&missed.state), "{}", label(model, &chain));
            let next = ids(model, seed ^ 3, 3);
            prop_assert_eq!(logits(model, &next, &mut two.state), logits(model, &next, &mut missed.state));
        }
    }
}

fn cache(folder: &Path, chunk_tokens: usize) -> PrefixCache {
    let options = PrefixCacheOptions {
        chunk_tokens,
        ..PrefixCacheOptions::default()
    };
    PrefixCache::open(folder, options).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}
/// Longer than the pieces in which tokens go through the layers.
#[test]
fn long_prompts_in_a_batch_and_from_disk_are_those_of_a_plain_prefill() {
    let plain = Chain::default();
    for model in [&models()[0], &models()[models().len() - 1]] {
        let prompts: Vec<Vec<u32>> = [300, 5, 256, 513, 300]
            .iter()
            .zip(7..)
            .map(|(n, seed)| ids(model, seed, *n))
            .collect();
        let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let (found, state) = model.prefill_batch(&slices, &plain).unwrap();
        assert_eq!(state.positions(), [300, 5, 256, 513, 300]);
        let found = values(found);
        let folder = TempDir::new().unwrap();
        let cache = cache(folder.path(), 256);
        for (row, prompt) in slices.iter().enumerate() {
            let mut alone = model.start(&plain, 1).unwrap();
            let expected = values(model.logits(prompt, &mut alone, Logits::Last).unwrap());
            let error = relative_error(&found[row * expected.len()..][..expected.len()], &expected);
            assert!(error <= REORDERED, "{}: {error:e}", name(model));
            for restored in [0, (prompt.len() - 1) / 256 * 256] {
                let prefilled = cache.prefill(model, &plain, prompt).unwrap();
                assert_eq!(prefilled.restored, restored);
                assert_eq!(values(prefilled.logits), expected, "{}", name(model));
                assert!(contents(&prefilled.state) == contents(&alone), "{}", name(model));
            }
        }
    }
}

#[test]
fn an_entry_with_any_byte_changed_or_missing_is_refused_and_replaced() {
    let (model, plain) = (&models()[0], Chain::default());
    let folder = TempDir::new().unwrap();
    let cache = cache(folder.path(), 4);
    let prompt = ids(model, 5, 6);
    let expected = cache.prefill(model, &plain, &prompt).unwrap();
    let [path] = files(folder.path()).try_into().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let step = (whole.len() / 200).max(1);
    let places = (0..64.min(whole.len())).chain((64..whole.len()).step_by(step));
    for (place, bit) in places.zip((0..8).cycle()) {
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << bit;
        std::fs::write(&path, damaged).unwrap();
        let error = cache.entry(model, &plain, &prompt[..4]).unwrap_err();
        match (place, error) {
            (0..8, PrefixCacheError::NotAnEntry { .. }) => {}
            (8..12, PrefixCacheError::Version { expected: 1, .. }) => {}
            (12.., PrefixCacheError::Damaged { .. }) => {}
            (_, other) => panic!("byte {place}: {other}"),
        }
    }
    for length in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = cache.entry(model, &plain, &prompt[..4]).unwrap_err();
        assert!(
            matches!(
                error,
                PrefixCacheError::NotAnEntry { .. } | PrefixCacheError::Damaged { .. }
            ),
            "{length} bytes: {error}"
        );
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    let found = cache.prefill(model, &plain, &prompt).unwrap();
    assert!(matches!(
        found.refused.as_slice(),
        [PrefixCacheError::Damaged { .. }]
    ));
    assert_eq!((found.restored, found.stored), (0, 1));
    assert_eq!(values(found.logits), values(expected.logits));
    assert_eq!(cache.prefill(model, &plain, &prompt).unwrap().restored, 4);
}

#[test]
fn entries_of_other_models_chains_and_tokens_are_not_taken() {
    let folder = TempDir::new().unwrap();
    let cache = cache(folder.path(), 4);
    let (model, plain) = (&models()[0], Chain::default());
    let prompt: Vec<u32> = (0..9).collect();
    cache.prefill(model, &plain, &prompt).unwrap();
    for other in &models()[1..] {
        assert_eq!(
            cache.prefill(other, &plain, &prompt).unwrap().restored,
            0,
            "{}",
            name(other)
        );
    }
    assert_eq!(
        cache
            .prefill(model, &chain("forget:0.5"), &prompt)
            .unwrap()
            .restored,
        0
    );
    // A file under another entry's name.
    let entry = |ids: &[u32]| {
        let folder = TempDir::new().unwrap();
        self::cache(folder.path(), 4).prefill(model, &plain, ids).unwrap();
        let [path] = files(folder.path()).try_into().unwrap();
        (path.file_name().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    let (name, _) = entry(&[1, 2, 3, 4, 5]);
    let (_, other) = entry(&[1, 2, 3, 5, 5]);
    std::fs::write(folder.path().join(name), other).unwrap();
    let error = cache.entry(model, &plain, &[1, 2, 3, 4]).unwrap_err();
    assert!(
        matches!(error, PrefixCacheError::Foreign { what: "tokens", .. }),
        "{error}"
    );
    let found = cache.prefill(model, &plain, &[1, 2, 3, 4, 9]).unwrap();
    assert_eq!((found.restored, found.stored, found.refused.len()), (0, 1, 1));
}

#[test]
fn a_full_cache_forgets_what_was_used_longest_ago_and_touches_nothing_else() {
    let (model, plain) = (&models()[0], Chain::default());
    let folder = TempDir::new().unwrap();
    let prompts: Vec<Vec<u32>> = (0..4).map(|seed| ids(model, seed, 3)).collect();
    let open = |limit_bytes| {
        let options = PrefixCacheOptions {
            chunk_tokens: 2,
            limit_bytes,
        };
        PrefixCache::open(folder.path(), options).unwrap()
    };
    open(u64::MAX).prefill(model, &plain, &prompts[0]).unwrap();
    let [entry] = files(folder.path()).try_into().unwrap();
    let size = std::fs::metadata(&entry).unwrap().len();
    let foreign = folder.path().join("notes.txt");
    std::fs::write(&foreign, vec![0; 4 * size as usize]).unwrap();
    let cache = open(2 * size + size / 2);
    cache.prefill(model, &plain, &prompts[1]).unwrap();
    // The first one was used before the second one, and is used again now.
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    for file in files(folder.path()) {
        std::fs::File::options()
            .append(true)
            .open(file)
            .unwrap()
            .set_modified(hour_ago)
            .unwrap();
    }
    assert_eq!(cache.prefill(model, &plain, &prompts[0]).unwrap().restored, 2);
    cache.prefill(model, &plain, &prompts[2]).unwrap();
    assert_eq!(files(folder.path()).len(), 3);
    assert!(foreign.exists() && entry.exists());
    assert_eq!(cache.prefill(model, &plain, &prompts[1]).unwrap().restored, 0);
    // Nothing fits.
    let small = open(size / 2).prefill(model, &plain, &prompts[3]).unwrap();
    assert_eq!((small.stored, small.refused.len()), (0, 0));
}

#[test]
fn threads_share_a_folder() {
    let (model, plain) = (&models()[0], Chain::default());
    let folder = TempDir::new().unwrap();
    let prompt = ids(model, 1, 40);
    let run = || {
        let found = cache(folder.path(), 4).prefill(model, &plain, &prompt).unwrap();
        assert!(found.refused.is_empty(), "{:?}", found.refused);
        values(found.logits)
    };
    let all: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|logits| *logits == all[0]));
    assert_eq!(files(folder.path()).len(), 9, "no temporary file is left");
}

#[test]
fn a_fingerprint_follows_the_values_and_not_the_file() {
    let folder = TempDir::new().unwrap();
    let layout = layouts()[0];
    let tiny = preset(layout, "tiny").unwrap();
    let load = |name: &str, seed, options: &LoadOptions| {
        let path = folder.path().join(name);
        if !path.exists() {
            write_random(&path, layout, tiny.config, WriteDtype::F32, seed).unwrap();
        }
        Model::load(&path, options).unwrap().fingerprint().to_string()
    };
    let exact = LoadOptions::default();
    let one = load("one", 1, &exact);
    assert_eq!(one, load("copy", 1, &exact));
    assert_ne!(one, load("other", 2, &exact));
    assert_ne!(
        one,
        load(
            "one",
            1,
            &LoadOptions::with_weights(spillway_models::WeightType::Int8)
        )
    );
}
