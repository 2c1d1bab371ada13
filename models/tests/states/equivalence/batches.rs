//! Sequences of a batch against the same sequences alone.

use proptest::prelude::*;
use spillway_models::{Logits, ModelError, ModelState};
use spillway_ssm_core::Chain;

use super::{after, are_near, cases, chain, config, ids, label, models, relative_error, values};

proptest! {
    #![proptest_config(config(4))]

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
            let mut read = prompts.clone();
            for (row, prompt) in prompts.iter().enumerate() {
                let expected = values(model.logits(prompt, &mut alone[row], Logits::Last).unwrap());
                let error = relative_error(&found[row * vocab_size..][..vocab_size], &expected);
                prop_assert!(are_near(model, &chain, prompt, 1, error), "{}: prefill differs by {error:e}", label(model, &chain));
                prop_assert_eq!(together.positions()[row], prompt.len() as u64);
            }
            for step in 0..steps {
                let next = ids(model, seed ^ (100 + step as u64), slices.len());
                let found = values(model.decode_batch(&next, &mut together).unwrap());
                for (row, id) in next.iter().enumerate() {
                    read[row].push(*id);
                    let expected = values(model.logits(&[*id], &mut alone[row], Logits::Last).unwrap());
                    let error = relative_error(&found[row * vocab_size..][..vocab_size], &expected);
                    prop_assert!(are_near(model, &chain, &read[row], 1, error), "{}: decode differs by {error:e}", label(model, &chain));
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
            let read = ids(model, seed, batch * time);
            model.advance(&read, &mut state).unwrap();
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
                let read = [&read[row * time..][..time], &[next[place]]].concat();
                prop_assert!(are_near(model, &chain, &read, 1, error), "{}: row {row} differs by {error:e}", label(model, &chain));
            }
        }
    }
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
