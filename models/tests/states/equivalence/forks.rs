//! Forks, saved states and rollbacks.

use std::num::NonZeroUsize;

use proptest::prelude::*;
use spillway_models::{History, ModelError};
use tempfile::TempDir;

use super::{after, cases, config, contents, ids, label, logits};
use crate::allocator::TAKEN;

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
}

/// A clone of many sequences takes no more memory than one of a single sequence, but for their positions and lengths.
#[test]
fn a_fork_shares_its_tensors_until_it_is_written() {
    const ROWS: usize = 64;
    for (model, chain) in cases() {
        let taken = |rows: usize| {
            let mut state = model.start(&chain, rows).unwrap();
            model.advance(&ids(model, 1, 9 * rows), &mut state).unwrap();
            let before = TAKEN.get();
            let fork = std::hint::black_box(state.clone());
            (TAKEN.get() - before, fork.bytes())
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
