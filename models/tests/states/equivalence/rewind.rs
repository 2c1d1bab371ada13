//! States taken back without a state kept for each token.

use std::num::NonZeroUsize;

use proptest::prelude::*;
use spillway_models::{Logits, Model, ModelError, ModelState, Replay, Rewind};
use spillway_ssm_core::{Chain, Prefix};

use super::{are_near, cases, config, contents, ids, label, logits, models, relative_error, values};
use crate::allocator::TAKEN;

fn rewind<'m>(model: &'m Model, chain: &Chain, reach: usize, replay: Replay) -> Rewind<'m> {
    let reach = NonZeroUsize::new(reach).unwrap();
    Rewind::new(model, model.start(chain, 1).unwrap(), reach, replay).unwrap()
}

/// The calls of a text, without its last `back` tokens.
fn cut(calls: &[Vec<u32>], back: usize) -> Vec<Vec<u32>> {
    let mut left = calls.iter().map(Vec::len).sum::<usize>() - back;
    let kept = calls.iter().map(|call| {
        let now = call.len().min(left);
        left -= now;
        call[..now].to_vec()
    });
    kept.filter(|call| !call.is_empty()).collect()
}

fn run(model: &Model, chain: &Chain, calls: &[Vec<u32>]) -> ModelState {
    let mut state = model.start(chain, 1).unwrap();
    for call in calls {
        model.advance(call, &mut state).unwrap();
    }
    state
}

proptest! {
    #![proptest_config(config(3))]

    /// Any number of tokens up to the reach, again and again: to the bit the state of the calls that are left.
    #[test]
    fn what_was_taken_back_was_never_there(
        seed in any::<u64>(), reach in 1usize..9,
        rounds in proptest::collection::vec((proptest::collection::vec(1usize..6, 1..5), 0usize..9), 1..4),
    ) {
        for (model, chain) in cases() {
            let mut text = rewind(model, &chain, reach, Replay::Exact);
            let (mut calls, mut furthest): (Vec<Vec<u32>>, usize) = (Vec::new(), 0);
            for (round, (lengths, back)) in rounds.iter().enumerate() {
                for (index, length) in lengths.iter().enumerate() {
                    let call = ids(model, seed ^ (100 * round + index) as u64, *length);
                    text.advance(&call).unwrap();
                    calls.push(call);
                }
                // One that is old enough, and two within reach: of two stretches between them one is longer than half of it.
                prop_assert!(text.snapshots() <= 3, "{} for {reach}", text.snapshots());
                let tokens: usize = calls.iter().map(Vec::len).sum();
                furthest = furthest.max(tokens);
                let back = *back.min(&(tokens - furthest.saturating_sub(reach).min(tokens)));
                text.rollback(back as u64).unwrap();
                calls = cut(&calls, back);
                prop_assert_eq!(text.position(), (tokens - back) as u64);
                let expected = run(model, &chain, &calls);
                prop_assert!(contents(text.state().unwrap()) == contents(&expected), "{}", label(model, &chain));
            }
            let next = ids(model, !seed, 3);
            let found: Vec<u32> = values(text.logits(&next, Logits::All).unwrap()).into_iter().map(f32::to_bits).collect();
            prop_assert!(found == logits(model, &next, &mut run(model, &chain, &calls)), "{}", label(model, &chain));
        }
    }

    /// Read again together with what follows, it is the same up to rounding.
    #[test]
    fn what_is_read_again_with_what_follows_is_the_same(
        seed in any::<u64>(), reach in 2usize..9, before in 1usize..9, back in 1usize..9, after in 1usize..5,
    ) {
        for (model, chain) in cases() {
            let mut text = rewind(model, &chain, reach, Replay::Joined);
            let read = ids(model, seed, before);
            read.iter().for_each(|id| text.advance(&[*id]).unwrap());
            let back = back.min(before).min(reach);
            text.rollback(back as u64).unwrap();
            let next = ids(model, !seed, after);
            let found = values(text.logits(&next, Logits::All).unwrap());
            let kept = &read[..before - back];
            let mut expected = run(model, &chain, &[kept.to_vec()]);
            let expected = values(model.logits(&next, &mut expected, Logits::All).unwrap());
            let (error, all) = (relative_error(&found, &expected), [kept, &next].concat());
            prop_assert!(are_near(model, &chain, &all, next.len(), error), "{}: {error:e}", label(model, &chain));
            prop_assert_eq!(text.behind(), 0);
            prop_assert_eq!(text.position(), (before - back + after) as u64);
        }
    }
}

#[test]
fn a_prompt_of_several_pieces_is_read_as_the_model_reads_it_and_taken_back_within_reach() {
    let (model, plain) = (&models()[0], Chain::default());
    let read = ids(model, 5, 700);
    let mut text = rewind(model, &plain, 8, Replay::Exact);
    let found = values(text.logits(&read, Logits::Last).unwrap());
    let mut expected = model.start(&plain, 1).unwrap();
    assert_eq!(
        found,
        values(model.logits(&read, &mut expected, Logits::Last).unwrap())
    );
    assert!(contents(text.state().unwrap()) == contents(&expected));
    text.rollback(8).unwrap();
    assert!(contents(text.state().unwrap()) == contents(&run(model, &plain, &[read[..692].to_vec()])));
    // All logits of a text in pieces.
    let mut again = rewind(model, &plain, 8, Replay::Exact);
    let dims = again.logits(&read, Logits::All).unwrap().dims();
    assert_eq!(dims, [700, model.info().vocab_size]);
}

#[test]
fn what_is_not_kept_cannot_be_taken_back_and_nothing_changes() {
    let (model, plain) = (&models()[0], Chain::default());
    let mut text = rewind(model, &plain, 2, Replay::Exact);
    for id in ids(model, 1, 20) {
        text.advance(&[id]).unwrap();
    }
    let before = contents(text.state().unwrap());
    for tokens in [12, 20, 21, u64::MAX] {
        let error = text.rollback(tokens).unwrap_err();
        assert!(
            matches!(error, ModelError::Rollback { position: 20, .. }),
            "{error}"
        );
    }
    assert!(contents(text.state().unwrap()) == before);
    // An id that there is not is refused before anything is read.
    assert!(matches!(text.advance(&[0, u32::MAX]), Err(ModelError::Id { .. })));
    assert!(contents(text.state().unwrap()) == before);
    assert!(matches!(
        text.logits(&[], Logits::Last),
        Err(ModelError::EmptyPrompt)
    ));
    assert_eq!(
        text.logits(&[], Logits::All).unwrap().dims(),
        [0, model.info().vocab_size]
    );
}

#[test]
fn batches_and_prefixes_that_are_still_to_be_read_are_refused() {
    let (model, plain) = (&models()[0], Chain::default());
    let refused = |state: ModelState| {
        Rewind::new(model, state, NonZeroUsize::MIN, Replay::Exact)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(model.start(&plain, 2).unwrap()).contains("sequences"));
    let mut state = model.start(&plain, 1).unwrap();
    state.read_both_ways(Prefix::new(3));
    assert!(refused(state).contains("read the prompt first"));
}

/// A rollback moves a cursor.
#[test]
fn a_rollback_copies_no_state() {
    for (model, chain) in cases() {
        let mut text = rewind(model, &chain, 8, Replay::Exact);
        for id in ids(model, 2, 12) {
            text.advance(&[id]).unwrap();
        }
        let before = TAKEN.get();
        text.rollback(3).unwrap();
        text.rollback(2).unwrap();
        assert_eq!(TAKEN.get() - before, 0, "bytes, {}", label(model, &chain));
    }
}
