//! The models of flash-linear-attention with every option of their configurations, against plain f64 loops; the same however
//! tokens are split among calls; and what is refused.

mod cases;
#[path = "../common/derivatives.rs"]
mod derivatives;
mod gradients;
mod reference;
mod refused;

mod equivalence {
    use burn::tensor::Tensor;
    use models::{Model, ModelState, Which};
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use ssm_core::Chain;

    use super::cases::{Case, cases};
    use super::reference::Reference;

    /// f32 against f64 through two layers with random weights.
    const REFERENCE: f64 = 2e-5;
    /// Two f32 computations of the same thing.
    const REORDERED: f64 = 2e-5;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(2312),
            ..ProptestConfig::with_cases(cases)
        }
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().iter::<f64>().collect()
    }

    fn start(model: &Model) -> ModelState {
        model.start(&Chain::default(), 1).unwrap()
    }

    fn logits(model: &Model, ids: &[u32], state: &mut ModelState) -> Vec<f64> {
        values(model.logits(ids, state, Which::All).unwrap())
    }

    /// ‖found − expected‖ / ‖expected‖, NaN included.
    fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / norm(&mut expected.iter().copied())
    }

    fn check(case: &Case, time: usize) -> Result<(), TestCaseError> {
        let (folder, model) = case.load();
        let ids = case.ids(time);
        let found = logits(&model, &ids, &mut start(&model));
        let expected = Reference::open(folder.path(), &case.config).logits(&ids).concat();
        let error = relative_error(&found, &expected);
        prop_assert!(error <= REFERENCE, "relative error {error:e}");
        Ok(())
    }

    proptest! {
        #![proptest_config(config(160))]

        #[test]
        fn logits_are_those_of_the_equations(case in cases(), time in 1usize..24) {
            check(&case, time)?;
        }

        #[test]
        fn splitting_a_sequence_anywhere_changes_nothing(
            case in cases(), time in 1usize..24, cuts in proptest::collection::vec(0usize..24, 0..4),
        ) {
            let (_folder, model) = case.load();
            let ids = case.ids(time);
            let mut whole = start(&model);
            let expected = logits(&model, &ids, &mut whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(time)).chain([0, time]).collect();
            cuts.sort_unstable();
            let (mut state, mut found) = (start(&model), Vec::new());
            for pair in cuts.windows(2) {
                found.extend(logits(&model, &ids[pair[0]..pair[1]], &mut state));
            }
            let error = relative_error(&found, &expected);
            prop_assert!(error <= REORDERED, "relative error {error:e}");
            let after = [1u32];
            let error = relative_error(&logits(&model, &after, &mut state), &logits(&model, &after, &mut whole));
            prop_assert!(error <= REORDERED, "after the last cut: relative error {error:e}");
        }

        #[test]
        fn decode_is_prefill(case in cases(), time in 1usize..24) {
            let (_folder, model) = case.load();
            let ids = case.ids(time);
            let expected = logits(&model, &ids, &mut start(&model));
            let mut state = start(&model);
            let found: Vec<f64> = ids.iter().flat_map(|id| logits(&model, &[*id], &mut state)).collect();
            let error = relative_error(&found, &expected);
            prop_assert!(error <= REORDERED, "relative error {error:e}");
        }
    }
}
