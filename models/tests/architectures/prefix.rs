//! Models that read the beginning of a prompt both ways: prompts of every length beside the encoder's, masks, states, and the ways of
//! reading a short prompt, against what the published code computed and against one another.

use std::path::{Path, PathBuf};

use spillway_mitigations::Mitigation;
use spillway_models::checkpoint::StoredTensors;
use spillway_models::generation::{Sampling, generate_after};
use spillway_models::{
    LoadOptions, Logits, Model, ModelError, ModelState, PrefixCache, PrefixCacheOptions, PromptReading,
    ShortPrompt,
};
use spillway_ssm_core::{Chain, Padding, Prefix, PrefixMask};

use crate::common::relative_error;

/// Ten times what the published code is off by in f32, of logits.
const LOGITS: f64 = 1e-5;
/// The same of sums over a prompt.
const STATES: f64 = 1e-5;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/models")
        .join(name)
}

fn load(name: &str) -> Model {
    Model::load(&folder(name), &LoadOptions::default()).unwrap()
}

fn stored(name: &str) -> StoredTensors {
    StoredTensors::open(&folder(name).join("expected.safetensors")).unwrap()
}

fn ids(stored: &StoredTensors, name: &str) -> Vec<Vec<u32>> {
    let (_, shape, bytes) = stored.raw(name).unwrap();
    let ids: Vec<u32> = bytes
        .chunks(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
        .collect();
    ids.chunks(shape[1]).map(<[u32]>::to_vec).collect()
}

fn floats(stored: &StoredTensors, name: &str) -> Vec<f64> {
    let (_, _, bytes) = stored.raw(name).unwrap();
    let values = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    values.map(f64::from).collect()
}

fn values<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn close(what: &str, found: Vec<f32>, expected: Vec<f64>, bound: f64) {
    let error = relative_error(found, expected);
    println!("{what}: {error:.1e}");
    assert!(error <= bound, "{what}: relative error {error:e}");
}

/// The state of layer 1 as `[batch, heads, value_dim, 1 + K + K²]`, and the sums of the denominator.
fn full_state(state: &ModelState, key_dim: usize) -> [Vec<f32>; 2] {
    let memories: Vec<_> = state
        .recurrences()
        .map(|site| site.state.memory.clone())
        .collect();
    let memory = burn::tensor::Tensor::cat(memories, 3);
    let [_, _, features, columns] = memory.dims();
    let mut places: Vec<(usize, f32)> = (0..=key_dim).map(|d| (d, 1.0)).collect();
    for i in 0..key_dim {
        for j in 0..key_dim {
            let (low, high) = (i.min(j), i.max(j));
            let before: usize = (0..low).map(|row| key_dim - row).sum();
            let share = if i == j { 1.0 } else { 0.5f32.sqrt() };
            places.push((1 + key_dim + before + high - low, share));
        }
    }
    let (mut sums, mut counts) = (Vec::new(), Vec::new());
    for head in values(memory).chunks(features * columns) {
        let column = |c: usize| {
            places
                .iter()
                .map(move |&(d, share)| share * head[d * columns + c])
        };
        (0..columns - 1).for_each(|c| sums.extend(column(c)));
        counts.extend(column(columns - 1));
    }
    [sums, counts]
}

#[test]
fn prompts_of_any_length_and_masks_give_the_peers_logits_states_and_text() {
    let (model, expected) = (load("jrt-rnn"), stored("jrt-rnn"));
    assert_eq!(model.encoder_length(), 12);
    for tag in [
        "len1",
        "len5",
        "len12",
        "len20",
        "leftpad_mask2d",
        "leftpad_mask2d_shorter",
    ] {
        let prompts = ids(&expected, &format!("{tag}.input_ids"));
        let mut state = model.start(&Chain::default(), prompts.len()).unwrap();
        model.begin_prompt(prompts[0].len(), &mut state);
        if expected.raw(&format!("{tag}.mask")).is_some() {
            let rows = ids(&expected, &format!("{tag}.mask"));
            let keep: Vec<bool> = rows.concat().iter().map(|kept| *kept != 0).collect();
            let mask = PrefixMask::new(keep, rows[0].len(), Padding::Counted).unwrap();
            state.read_both_ways(Prefix::masked(mask));
        }
        let logits = model
            .logits_batched(&prompts.concat(), &mut state, Logits::All)
            .unwrap();
        let expected_logits = floats(&expected, &format!("{tag}.logits"));
        close(tag, values(logits), expected_logits, LOGITS);
        let [sums, counts] = full_state(&state, 8);
        let of_state = |part: &str| floats(&expected, &format!("{tag}.state.1.{part}"));
        close(&format!("{tag}, sums"), sums, of_state("kv"), STATES);
        close(&format!("{tag}, counts"), counts, of_state("k"), STATES);
        let greedy = ids(&expected, &format!("{tag}.greedy"));
        let after = floats(&expected, &format!("{tag}.greedy_logits"));
        let width = model.info().padded_vocab_size;
        let tokens = after.len() / width / prompts.len();
        let mut next = Vec::new();
        for token in 0..greedy[0].len() {
            let chosen: Vec<u32> = greedy.iter().map(|row| row[token]).collect();
            let logits = model.decode_batch(&chosen, &mut state).unwrap();
            next.push(values(logits));
        }
        for token in 0..tokens {
            for row in 0..prompts.len() {
                let vocabulary = model.info().vocab_size;
                let found = next[token][row * vocabulary..][..vocabulary].to_vec();
                let expected = after[(row * tokens + token) * width..][..vocabulary].to_vec();
                close(&format!("{tag}, token {token}"), found, expected, LOGITS);
            }
        }
    }
}

#[test]
fn an_encoder_of_1024_tokens_reads_prompts_below_at_and_above_it() {
    let (model, expected) = (load("jrt-rnn-m1024"), stored("jrt-rnn-m1024"));
    for tag in ["len63", "len1024", "len1025"] {
        let prompt = ids(&expected, &format!("{tag}.input_ids")).concat();
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let reading = PromptReading::default();
        let logits = model.read_prompt(&prompt, &reading, &mut state).unwrap();
        let expected_logits = floats(&expected, &format!("{tag}.logits"));
        let kept = expected_logits[..model.info().vocab_size].to_vec();
        close(tag, values(logits), kept, LOGITS);
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let greedy = ids(&expected, &format!("{tag}.greedy")).concat();
        let found = greedily(&model, &mut state, &prompt, &reading, greedy.len());
        assert_eq!(found, greedy, "{tag}");
    }
}

fn greedily(
    model: &Model,
    state: &mut ModelState,
    prompt: &[u32],
    reading: &PromptReading,
    count: usize,
) -> Vec<u32> {
    let sampling = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let go_on = |_: &str| std::ops::ControlFlow::Continue(());
    let found = generate_after(model, state, prompt, reading, &sampling, count, &[], go_on);
    found.unwrap().ids
}

#[test]
fn the_state_of_based_whose_numerator_decays_is_the_peers() {
    let (model, expected) = (load("based-decay"), stored("based-decay"));
    let prompts = ids(&expected, "input_ids");
    let mut state = model.start(&Chain::default(), prompts.len()).unwrap();
    model.advance(&prompts.concat(), &mut state).unwrap();
    let [sums, counts] = full_state(&state, 8);
    close("sums", sums, floats(&expected, "state.1.kv"), STATES);
    close("counts", counts, floats(&expected, "state.1.k"), STATES);
}

/// What a reading makes of a prompt, written out.
fn logits_after(model: &Model, tokens: &[u32], prefix: Prefix) -> Vec<f32> {
    let mut state = model.start(&Chain::default(), 1).unwrap();
    state.read_both_ways(prefix);
    values(model.logits(tokens, &mut state, Logits::Last).unwrap())
}

#[test]
fn a_short_prompt_is_padded_read_twice_or_read_again() {
    let model = load("jrt-rnn");
    let prompt = [7u32, 80, 3, 211, 19];
    let read = |short| {
        let reading = PromptReading {
            encoder_length: None,
            short,
        };
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let logits = model.read_prompt(&prompt, &reading, &mut state).unwrap();
        (values(logits), state.position())
    };
    let mut padded = vec![220; 7];
    padded.extend(prompt);
    let keep: Vec<bool> = (0..12).map(|i| i >= 7).collect();
    for padding in [Padding::Counted, Padding::LeftOut] {
        let mask = PrefixMask::new(keep.clone(), 12, padding).unwrap();
        let expected = logits_after(&model, &padded, Prefix::masked(mask));
        let pads = ShortPrompt::LeftPad { id: 220, padding };
        assert_eq!(read(pads), (expected, 12), "{padding:?}");
    }
    assert_ne!(
        read(ShortPrompt::LeftPad {
            id: 220,
            padding: Padding::LeftOut
        })
        .0,
        logits_after(&model, &padded, Prefix::new(12))
    );
    let twice = [prompt, prompt].concat();
    let expected = logits_after(&model, &twice, Prefix::new(10));
    assert_eq!(read(ShortPrompt::ReadTwice), (expected, 10));
    let expected = logits_after(&model, &prompt, Prefix::new(5));
    assert_eq!(read(ShortPrompt::AsItIs), (expected.clone(), 5));
    assert_eq!(read(ShortPrompt::Iterate), (expected, 5));
    // Every token is chosen from a prompt that the encoder has read as a whole, as long as there is room.
    let reading = PromptReading {
        encoder_length: None,
        short: ShortPrompt::Iterate,
    };
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let found = greedily(&model, &mut state, &prompt, &reading, 10);
    let mut tokens = prompt.to_vec();
    for id in &found {
        let logits = logits_after(&model, &tokens, Prefix::new(tokens.len().min(12)));
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        assert_eq!(best.unwrap() as u32, *id, "after {} tokens", tokens.len());
        tokens.push(*id);
    }
}

#[test]
fn twice_a_prompt_that_does_not_fit_loses_its_beginning() {
    let model = load("jrt-rnn");
    let prompt: Vec<u32> = (1..9).collect();
    let reading = PromptReading {
        encoder_length: None,
        short: ShortPrompt::ReadTwice,
    };
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let found = values(model.read_prompt(&prompt, &reading, &mut state).unwrap());
    let tokens: Vec<u32> = (5..9).chain(1..9).collect();
    assert_eq!(found, logits_after(&model, &tokens, Prefix::new(12)));
}

#[test]
fn an_encoder_length_of_nothing_is_the_causal_model_and_others_are_read_as_asked() {
    let model = load("jrt-rnn");
    let prompt: Vec<u32> = (0..30).map(|i| i * 7 % 250).collect();
    let read = |encoder_length| {
        let reading = PromptReading {
            encoder_length,
            ..PromptReading::default()
        };
        let mut state = model.start(&Chain::default(), 1).unwrap();
        model.read_prompt(&prompt, &reading, &mut state).map(values)
    };
    let mut state = model.start(&Chain::default(), 1).unwrap();
    let causal = values(model.logits(&prompt, &mut state, Logits::Last).unwrap());
    assert_eq!(read(Some(0)).unwrap(), causal);
    assert_eq!(
        read(Some(20)).unwrap(),
        logits_after(&model, &prompt, Prefix::new(20))
    );
    assert_eq!(
        read(None).unwrap(),
        logits_after(&model, &prompt, Prefix::new(12))
    );
    assert!(matches!(
        read(Some(usize::MAX)),
        Err(ModelError::Option {
            option: "encoder length",
            ..
        })
    ));
    // A model without an encoder has none, whatever is asked for.
    let based = load("based-decay");
    let reading = PromptReading {
        encoder_length: Some(20),
        short: ShortPrompt::ReadTwice,
    };
    let mut state = based.start(&Chain::default(), 1).unwrap();
    based.read_prompt(&prompt[..5], &reading, &mut state).unwrap();
    assert_eq!(state.position(), 5);
}

#[test]
fn what_cannot_be_a_prefix_is_refused_by_name() {
    let model = load("jrt-rnn");
    let start = |batch| model.start(&Chain::default(), batch).unwrap();
    let mut state = start(1);
    assert!(matches!(
        model.read_prompt(&[], &PromptReading::default(), &mut state),
        Err(ModelError::EmptyPrompt)
    ));
    let mut state = start(1);
    state.read_both_ways(Prefix::new(4));
    let error = model.advance(&[1, 2, 3], &mut state).unwrap_err().to_string();
    assert!(error.contains("prefix") && error.contains('4'), "{error}");
    let mut state = start(2);
    let mask = PrefixMask::new([true, false, true], 3, Padding::Counted).unwrap();
    state.read_both_ways(Prefix::masked(mask));
    let error = model.advance(&[1; 6], &mut state).unwrap_err().to_string();
    assert!(error.contains("mask"), "{error}");
    let mut state = start(1);
    model.begin_prompt(8, &mut state);
    let error = model
        .losses(&[1; 8], &[2; 8], &mut state)
        .unwrap_err()
        .to_string();
    assert!(error.contains("losses") && error.contains("8 tokens"), "{error}");
    // What follows the prefix is foretold as ever.
    let mut state = start(1);
    model.begin_prompt(8, &mut state);
    model.advance(&[1; 8], &mut state).unwrap();
    assert_eq!(model.losses(&[1; 8], &[2; 8], &mut state).unwrap().len(), 8);
}

#[test]
fn interventions_read_a_prefix_as_the_plain_model_does_and_those_that_would_lose_it_are_refused() {
    let model = load("jrt-rnn");
    let prompt: Vec<u32> = (0..30).map(|i| i * 11 % 250).collect();
    let expected = logits_after(&model, &prompt, Prefix::new(12));
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    let chain = |spec: &str| spec.parse::<Mitigation>().unwrap().chain();
    // A window that holds the whole prompt, and a norm that no state reaches, change nothing.
    for spec in ["window:1000", "state-norm:1000000000"] {
        let mut state = model.start(&chain(spec), 1).unwrap();
        model.begin_prompt(prompt.len(), &mut state);
        let found = values(model.logits(&prompt, &mut state, Logits::Last).unwrap());
        close(spec, found, expected.clone(), LOGITS);
    }
    let error = model.start(&chain("window-exact:8"), 1).unwrap_err().to_string();
    assert!(error.contains("prefix") && error.contains("window:8"), "{error}");
}

#[test]
fn a_state_behind_a_prefix_is_saved_restored_forked_and_divided() {
    let model = load("jrt-rnn");
    let prompt: Vec<u32> = (0..20).map(|i| i * 13 % 250).collect();
    let mut state = model.start(&Chain::default(), 1).unwrap();
    model.begin_prompt(prompt.len(), &mut state);
    model.advance(&prompt, &mut state).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    state.save(&path).unwrap();
    let mut restored = model.restore(&path, &Chain::default()).unwrap();
    let mut forked = state.clone();
    let mut divided = state.select(&[0, 0]).unwrap().select(&[1]).unwrap();
    let after = |state: &mut ModelState| values(model.logits(&[5, 6], state, Logits::All).unwrap());
    let expected = after(&mut state);
    assert_eq!(after(&mut restored), expected);
    assert_eq!(after(&mut forked), expected);
    assert_eq!(after(&mut divided), expected);
    let mut pending = model.start(&Chain::default(), 2).unwrap();
    model.begin_prompt(prompt.len(), &mut pending);
    let mut one = pending.select(&[1]).unwrap();
    model.advance(&prompt, &mut one).unwrap();
    assert_eq!(after(&mut one), expected);
    assert!(matches!(
        ModelState::cat(&[&pending, &pending]),
        Err(ModelError::Batch { .. })
    ));
}

#[test]
fn a_cache_of_prompts_shares_what_lies_behind_the_encoder_and_nothing_less() {
    let model = load("jrt-rnn");
    let prompt: Vec<u32> = (0..30).map(|i| i * 17 % 250).collect();
    let expected = logits_after(&model, &prompt, Prefix::new(12));
    let folder = tempfile::tempdir().unwrap();
    let options = PrefixCacheOptions {
        chunk_tokens: 5,
        ..PrefixCacheOptions::default()
    };
    let cache = PrefixCache::open(folder.path(), options).unwrap();
    for (restored, stored) in [(0, 3), (25, 0)] {
        let found = cache.prefill(&model, &Chain::default(), &prompt).unwrap();
        assert_eq!((found.restored, found.stored), (restored, stored));
        let expected = expected.iter().map(|x| f64::from(*x)).collect();
        close("from the cache", values(found.logits), expected, LOGITS);
    }
    // Of a prompt that ends before the encoder does, nothing can be shared.
    let found = cache.prefill(&model, &Chain::default(), &prompt[..12]).unwrap();
    assert_eq!((found.restored, found.stored), (0, 0));
}
