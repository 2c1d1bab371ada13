//! Whatever way tokens go through a model, the result is the same; and it is what the equations say.

use burn::tensor::Tensor;
use proptest::prelude::*;
use spillway_models::checkpoint::Checkpoint;
use spillway_models::{Logits, ModelState};
use spillway_ssm_core::Chain;

use crate::common::{Case, SMALL, cases, reference, relative_error};

/// f32 against f64, through up to two layers.
const REFERENCE: f64 = 1e-4;
/// Two f32 computations of the same thing.
const REORDERED: f64 = 1e-4;

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn start(model: &spillway_models::Model, batch: usize) -> ModelState {
    model.start(&Chain::default(), batch).unwrap()
}

fn memories(state: &ModelState) -> Vec<f64> {
    let layers = state.layers.iter();
    let saved = layers.flat_map(|layer| layer.mixer.save().into_values());
    saved
        .flat_map(|data| data.iter::<f64>().collect::<Vec<_>>())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2405), ..ProptestConfig::with_cases(200) })]

    #[test]
    fn logits_are_those_of_the_equations(case in cases(), time in 0usize..30) {
        let (folder, model) = case.load();
        let ids = case.ids(time);
        let found = values(model.logits(&ids, &mut start(&model, 1), Logits::All).unwrap());
        let expected = reference::logits(&case, &Checkpoint::open(folder.path()).unwrap(), &ids);
        let error = relative_error(found, expected.into_iter().flatten());
        prop_assert!(error <= REFERENCE, "relative error {error:e}");
    }

    #[test]
    fn splitting_a_sequence_anywhere_changes_nothing(
        case in cases(), time in 1usize..40, cuts in proptest::collection::vec(0usize..40, 0..5),
    ) {
        let (_folder, model) = case.load();
        let ids = case.ids(time);
        let mut whole = start(&model, 1);
        let expected = values(model.logits(&ids, &mut whole, Logits::All).unwrap());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(time)).chain([0, time]).collect();
        cuts.sort_unstable();
        let mut state = start(&model, 1);
        let mut found = Vec::new();
        for pair in cuts.windows(2) {
            found.extend(values(model.logits(&ids[pair[0]..pair[1]], &mut state, Logits::All).unwrap()));
        }
        let error = relative_error(found, expected.into_iter().map(f64::from));
        prop_assert!(error <= REORDERED, "logits: relative error {error:e}");
        let error = relative_error(memories(&state).into_iter().map(|v| v as f32), memories(&whole));
        prop_assert!(error <= REORDERED, "states: relative error {error:e}");
        prop_assert_eq!(state.position(), time as u64);
    }

    #[test]
    fn prefill_is_decode(case in cases(), time in 1usize..30) {
        let (_folder, model) = case.load();
        let ids = case.ids(time);
        let mut prefilled = start(&model, 1);
        let expected = values(model.logits(&ids, &mut prefilled, Logits::All).unwrap());
        let mut state = start(&model, 1);
        let mut found = Vec::new();
        for id in &ids {
            found.extend(values(model.logits(&[*id], &mut state, Logits::Last).unwrap()));
        }
        let error = relative_error(found, expected.into_iter().map(f64::from));
        prop_assert!(error <= REORDERED, "logits: relative error {error:e}");
        let error = relative_error(memories(&state).into_iter().map(|v| v as f32), memories(&prefilled));
        prop_assert!(error <= REORDERED, "states: relative error {error:e}");
    }

    #[test]
    fn a_saved_state_continues_bit_for_bit(case in cases(), before in 0usize..20, after in 1usize..20) {
        let (folder, model) = case.load();
        let ids = case.ids(before + after);
        let mut state = start(&model, 1);
        model.advance(&ids[..before], &mut state).unwrap();
        let path = folder.path().join("state.safetensors");
        state.save(&path).unwrap();
        let mut restored = model.restore(&path, &Chain::default()).unwrap();
        prop_assert_eq!(restored.position(), before as u64);
        prop_assert_eq!(restored.bytes(), state.bytes());
        let mut cloned = state.clone();
        let expected = values(model.logits(&ids[before..], &mut state, Logits::All).unwrap());
        for other in [&mut restored, &mut cloned] {
            prop_assert_eq!(&values(model.logits(&ids[before..], other, Logits::All).unwrap()), &expected);
            prop_assert_eq!(memories(other), memories(&state));
        }
    }

    #[test]
    fn losses_are_those_of_the_logits(case in cases(), time in 1usize..40) {
        let (_folder, model) = case.load();
        let ids = case.ids(time + 1);
        let losses = model.losses(&ids[..time], &ids[1..], &mut start(&model, 1)).unwrap();
        let logits = values(model.logits(&ids[..time], &mut start(&model, 1), Logits::All).unwrap());
        let expected = logits.chunks(case.vocab_size).zip(&ids[1..]).map(|(row, target)| {
            let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            sum.ln() - f64::from(row[*target as usize])
        });
        let error = relative_error(losses, expected);
        prop_assert!(error <= 1e-5, "relative error {error:e}");
    }

    #[test]
    fn a_batch_is_its_sequences(case in cases(), batch in 1usize..4, time in 1usize..20) {
        let (_folder, model) = case.load();
        let ids = case.ids(batch * time);
        let found = values(model.logits_batched(&ids, &mut start(&model, batch), Logits::All).unwrap());
        let expected = ids.chunks(time).flat_map(|sequence| {
            values(model.logits_batched(sequence, &mut start(&model, 1), Logits::All).unwrap())
        });
        let error = relative_error(found, expected.map(f64::from));
        prop_assert!(error <= REORDERED, "relative error {error:e}");
    }
}

/// Beyond one segment, where a prefill is cut internally.
#[test]
fn a_prefill_of_several_segments_is_its_tokens() {
    let case = Case { seed: 3, ..SMALL };
    let (folder, model) = case.load();
    let ids = case.ids(700);
    let expected = reference::logits(&case, &Checkpoint::open(folder.path()).unwrap(), &ids);
    let all = values(model.logits(&ids, &mut start(&model, 1), Logits::All).unwrap());
    let last = values(model.logits(&ids, &mut start(&model, 1), Logits::Last).unwrap());
    let error = relative_error(last, all[all.len() - 40..].iter().map(|v| f64::from(*v)));
    assert!(error <= REORDERED, "relative error {error:e}");
    let error = relative_error(all, expected.into_iter().flatten());
    assert!(error <= REFERENCE, "relative error {error:e}");
    let batched = [&ids[..350], &ids[350..]].concat();
    let found = values(
        model
            .logits_batched(&batched, &mut start(&model, 2), Logits::Last)
            .unwrap(),
    );
    let alone = |ids| {
        values(
            model
                .logits_batched(ids, &mut start(&model, 1), Logits::Last)
                .unwrap(),
        )
    };
    let expected = [alone(&ids[..350]), alone(&ids[350..])].concat();
    let error = relative_error(found, expected.into_iter().map(f64::from));
    assert!(error <= REORDERED, "relative error {error:e}");
}
