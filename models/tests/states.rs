//! States forked, saved, rolled back, found again on disk and put into batches, for every layout, with and without
//! interventions: whatever is done with a state, what comes after it is the same.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting what each thread takes.
struct Counting;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator as it is; the counter is a plain number that needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending counts no more.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

mod equivalence {
    use std::num::NonZeroUsize;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;
    use std::time::{Duration, SystemTime};

    use burn::tensor::Tensor;
    use mitigations::Mitigation;
    use models::checkpoint::WriteDtype;
    use models::init::{layouts, preset, write_random};
    use models::{
        History, LoadOptions, Model, ModelError, ModelState, PrefixCache, PrefixCacheError,
        PrefixCacheOptions, Which,
    };
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use ssm_core::Chain;
    use tempfile::TempDir;

    /// What batches may differ from single sequences by: matrix products of more rows are summed in another order. Most models
    /// stay below 1e-6; a tiny random RetNet normalises heads that are nearly 0, and enlarges that rounding.
    const REORDERED: f64 = 2e-5;
    /// The same under interventions, which bring states closer to 0.
    const INTERVENED: f64 = 1e-4;

    fn reordered(chain: &Chain) -> f64 {
        match chain.interventions() {
            [] => REORDERED,
            _ => INTERVENED,
        }
    }

    /// Interventions of every way of carrying something.
    const SPECS: [&str; 7] = [
        "none",
        "rri:0.99,0.75",
        "state-norm:1.5",
        "window:7",
        "window-exact:7,chunk=3",
        "reset:6",
        "reset-overlap:6,2",
    ];

    /// A tiny random model of every layout.
    fn models() -> &'static [Model] {
        static MODELS: OnceLock<Vec<Model>> = OnceLock::new();
        MODELS.get_or_init(|| {
            let folder = TempDir::new().unwrap();
            let layouts = layouts().iter().enumerate();
            let models: Vec<Model> = layouts
                .filter_map(|(number, layout)| {
                    let tiny = preset(layout, "tiny")?;
                    let path = folder.path().join(number.to_string());
                    write_random(&path, layout, tiny.config, WriteDtype::F32, number as u64).unwrap();
                    Some(Model::load(&path, &LoadOptions::default()).unwrap())
                })
                .collect();
            assert!(models.len() > 1, "no layouts with a tiny preset");
            models
        })
    }

    fn name(model: &Model) -> String {
        format!("{} ({})", model.info().architecture, model.info().layout)
    }

    fn chain(spec: &str) -> Chain {
        spec.parse::<Mitigation>().unwrap().chain()
    }

    /// Every model with every intervention that it can have.
    fn cases() -> impl Iterator<Item = (&'static Model, Chain)> {
        models().iter().flat_map(|model| {
            let chains = SPECS.iter().map(|spec| chain(spec));
            let possible = chains.filter(|chain| model.start(chain, 1).is_ok());
            possible.map(move |chain| (model, chain)).collect::<Vec<_>>()
        })
    }

    fn label(model: &Model, chain: &Chain) -> String {
        format!("{} with {}", name(model), chain.text())
    }

    fn ids(model: &Model, seed: u64, count: usize) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(seed);
        let vocab_size = model.info().vocab_size as u32;
        (0..count).map(|_| random.random_range(0..vocab_size)).collect()
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// Logits after every token, as bits.
    fn logits(model: &Model, ids: &[u32], state: &mut ModelState) -> Vec<u32> {
        values(model.logits(ids, state, Which::All).unwrap())
            .into_iter()
            .map(f32::to_bits)
            .collect()
    }

    /// Everything that a state holds, but for the counts of reports.
    fn contents(state: &ModelState) -> Vec<(String, Vec<u8>)> {
        let layers = state.layers.iter().enumerate();
        let saved = layers.flat_map(|(layer, state)| {
            [("mixer", state.mixer.save()), ("channel", state.channel.save())]
                .into_iter()
                .flat_map(move |(part, saved)| {
                    saved
                        .into_iter()
                        .map(move |(name, data)| (format!("{layer}.{part}.{name}"), data.as_bytes().to_vec()))
                })
        });
        saved.collect()
    }

    fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let pairs = found.iter().zip(expected);
        let difference: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let norm: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
        (difference / norm).sqrt()
    }

    fn after(model: &Model, chain: &Chain, ids: &[u32]) -> ModelState {
        let mut state = model.start(chain, 1).unwrap();
        model.advance(ids, &mut state).unwrap();
        state
    }

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(4104),
            ..ProptestConfig::with_cases(cases)
        }
    }

    proptest! {
        #![proptest_config(config(4))]

        #[test]
        fn two_forks_go_their_own_ways(seed in any::<u64>(), before in 0usize..20, first in 1usize..20, second in 1usize..20) {
            for (model, chain) in cases() {
                let (before, first, second) =
                    (ids(model, seed, before), ids(model, seed ^ 1, first), ids(model, seed ^ 2, second));
                let mut one = after(model, &chain, &before);
                let start = contents(&one);
                let mut other = one.clone();
                let kept = one.clone();
                let found = (logits(model, &first, &mut one), logits(model, &second, &mut other));
                let expected = (
                    logits(model, &first, &mut after(model, &chain, &before)),
                    logits(model, &second, &mut after(model, &chain, &before)),
                );
                prop_assert!(found == expected, "{}", label(model, &chain));
                prop_assert!(contents(&kept) == start, "{}: a fork was written to", label(model, &chain));
            }
        }

        #[test]
        fn a_state_saved_anywhere_goes_on_bit_for_bit(seed in any::<u64>(), before in 0usize..24, later in 1usize..12) {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("state.safetensors");
            for (model, chain) in cases() {
                let ids = ids(model, seed, before + later);
                let mut state = after(model, &chain, &ids[..before]);
                state.save(&path).unwrap();
                let mut restored = model.restore(&path, &chain).unwrap();
                prop_assert_eq!(restored.positions(), state.positions());
                prop_assert!(contents(&restored) == contents(&state), "{}", label(model, &chain));
                let found = logits(model, &ids[before..], &mut restored);
                prop_assert!(found == logits(model, &ids[before..], &mut state), "{}", label(model, &chain));
            }
        }

        #[test]
        fn rolled_back_tokens_were_never_there(
            seed in any::<u64>(), before in 0usize..12, steps in 1usize..6, capacity in 1usize..5, back in 0usize..6,
        ) {
            for (model, chain) in cases() {
                let text = ids(model, seed, before + steps);
                let mut history = History::new(NonZeroUsize::new(capacity).unwrap());
                let mut state = after(model, &chain, &text[..before]);
                history.push(&state);
                for id in &text[before..] {
                    model.advance(&[*id], &mut state).unwrap();
                    history.push(&state);
                }
                prop_assert_eq!(history.len(), capacity.min(steps + 1));
                let unchanged = contents(&state);
                match history.rollback(&mut state, back as u64) {
                    Ok(()) => {
                        prop_assert!(back < capacity && back <= steps);
                        let mut expected = after(model, &chain, &text[..before]);
                        for id in &text[before..text.len() - back] {
                            model.advance(&[*id], &mut expected).unwrap();
                        }
                        prop_assert!(contents(&state) == contents(&expected), "{}", label(model, &chain));
                        prop_assert_eq!(state.positions(), expected.positions());
                        let other = ids(model, !seed, 3);
                        prop_assert_eq!(logits(model, &other, &mut state), logits(model, &other, &mut expected));
                    }
                    Err(ModelError::Rollback { .. }) => {
                        prop_assert!(back >= capacity || back > steps);
                        prop_assert!(contents(&state) == unchanged);
                    }
                    Err(other) => prop_assert!(false, "{other}"),
                }
            }
        }

        #[test]
        fn a_batch_of_different_lengths_is_its_sequences(
            seed in any::<u64>(), lengths in proptest::collection::vec(1usize..24, 1..5), steps in 0usize..4,
        ) {
            for (model, chain) in cases() {
                let prompts: Vec<Vec<u32>> =
                    lengths.iter().zip(seed..).map(|(length, seed)| ids(model, seed, *length)).collect();
                let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
                let equal = lengths.iter().all(|length| *length == lengths[0]);
                if chain.looking_at_positions().is_some() && !equal {
                    let refused = model.prefill_batch(&slices, &chain);
                    let refused = matches!(refused, Err(ModelError::Batch { what: "lengths", .. }));
                    prop_assert!(refused, "{}", label(model, &chain));
                    continue;
                }
                let (found, mut together) = model.prefill_batch(&slices, &chain).unwrap();
                let found = values(found);
                let vocab_size = model.info().vocab_size;
                let mut alone: Vec<ModelState> = slices.iter().map(|_| model.start(&chain, 1).unwrap()).collect();
                for (row, prompt) in slices.iter().enumerate() {
                    let expected = values(model.logits(prompt, &mut alone[row], Which::Last).unwrap());
                    let error = relative_error(&found[row * vocab_size..][..vocab_size], &expected);
                    prop_assert!(error <= reordered(&chain), "{}: prefill differs by {error:e}", label(model, &chain));
                    prop_assert_eq!(together.positions()[row], prompt.len() as u64);
                }
                for step in 0..steps {
                    let next = ids(model, seed ^ (100 + step as u64), slices.len());
                    let found = values(model.decode_batch(&next, &mut together).unwrap());
                    for (row, id) in next.iter().enumerate() {
                        let expected = values(model.logits(&[*id], &mut alone[row], Which::Last).unwrap());
                        let error = relative_error(&found[row * vocab_size..][..vocab_size], &expected);
                        prop_assert!(error <= reordered(&chain), "{}: decode differs by {error:e}", label(model, &chain));
                    }
                }
            }
        }

        #[test]
        fn selected_and_joined_rows_are_the_same_rows(
            seed in any::<u64>(), batch in 1usize..5, time in 0usize..12, picks in proptest::collection::vec(0usize..5, 1..5),
        ) {
            for (model, chain) in cases() {
                let mut state = model.start(&chain, batch).unwrap();
                model.advance(&ids(model, seed, batch * time), &mut state).unwrap();
                let rows: Vec<usize> = picks.iter().map(|pick| pick % batch).collect();
                let mut selected = state.select(&rows).unwrap();
                let singles: Vec<ModelState> = rows.iter().map(|row| state.select(&[*row]).unwrap()).collect();
                let mut joined = ModelState::cat(&singles.iter().collect::<Vec<_>>()).unwrap();
                prop_assert_eq!(joined.positions(), selected.positions());
                let next = ids(model, !seed, rows.len());
                let a = values(model.decode_batch(&next, &mut selected).unwrap());
                let b = values(model.decode_batch(&next, &mut joined).unwrap());
                prop_assert!(a == b, "{}", label(model, &chain));
                let mut every = vec![0; batch];
                rows.iter().zip(&next).for_each(|(row, id)| every[*row] = *id);
                let whole = values(model.decode_batch(&every, &mut state.clone()).unwrap());
                let vocab_size = model.info().vocab_size;
                for (place, row) in rows.iter().enumerate().filter(|(place, row)| every[**row] == next[*place]) {
                    let (found, expected) = (&a[place * vocab_size..][..vocab_size], &whole[row * vocab_size..][..vocab_size]);
                    let error = relative_error(found, expected);
                    prop_assert!(error <= reordered(&chain), "{}: row {row} differs by {error:e}", label(model, &chain));
                }
            }
        }
    }

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
                let borders = |prompt: &[u32]| (prompt.len() - 1) / chunk;
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

    /// A clone of many sequences takes no more memory than one of a single sequence, but for their positions and lengths.
    #[test]
    fn a_fork_shares_its_tensors_until_it_is_written() {
        const ROWS: usize = 64;
        for (model, chain) in cases() {
            let taken = |rows: usize| {
                let mut state = model.start(&chain, rows).unwrap();
                model.advance(&ids(model, 1, 9 * rows), &mut state).unwrap();
                let before = super::TAKEN.get();
                let fork = std::hint::black_box(state.clone());
                (super::TAKEN.get() - before, fork.bytes())
            };
            let ((one, bytes_of_one), (all, bytes)) = (taken(1), taken(ROWS));
            let numbers = 8 * (ROWS - 1) * (model.info().layers + 1);
            assert!(
                all <= one + numbers,
                "{}: {one} bytes for 1, {all} for {ROWS}",
                label(model, &chain)
            );
            assert!(bytes > ROWS / 2 * bytes_of_one, "{}", label(model, &chain));
        }
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
                let expected = values(model.logits(prompt, &mut alone, Which::Last).unwrap());
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
    fn what_cannot_be_one_batch_is_refused() {
        let (model, plain) = (&models()[0], Chain::default());
        assert!(matches!(
            model.prefill_batch(&[], &plain),
            Err(ModelError::EmptyPrompt)
        ));
        assert!(matches!(
            model.prefill_batch(&[&[1], &[]], &plain),
            Err(ModelError::EmptyPrompt)
        ));
        assert!(matches!(
            ModelState::cat(&[]),
            Err(ModelError::Batch { what: "states", .. })
        ));
        let (one, two) = (
            after(model, &plain, &[1]),
            after(model, &chain("forget:0.5"), &[1]),
        );
        assert!(matches!(
            ModelState::cat(&[&one, &two]),
            Err(ModelError::Batch {
                what: "interventions",
                ..
            })
        ));
        assert!(matches!(
            one.select(&[1]),
            Err(ModelError::Batch { what: "sequence", .. })
        ));
        let reset = chain("reset:3");
        let (short, long) = (after(model, &reset, &[1]), after(model, &reset, &[1, 2]));
        let error = ModelState::cat(&[&short, &long]).unwrap_err().to_string();
        assert!(
            error.contains("reset:3 acts at positions") && error.contains("one by one"),
            "{error}"
        );
        let mut state = model.start(&plain, 2).unwrap();
        assert!(matches!(
            model.decode_batch(&[1], &mut state),
            Err(ModelError::Count { .. })
        ));
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
            load("one", 1, &LoadOptions::with_weights(models::WeightType::Int8))
        );
    }
}
