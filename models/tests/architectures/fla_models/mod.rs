//! The models of flash-linear-attention with every option of their configurations, against plain f64 loops; the same however
//! tokens are split among calls; and what is refused.

mod arithmetic;
mod cases;
mod delta_mixers;
mod gradients;
mod mixers;
mod reference;
mod refused;

use crate::{derivatives, disturbed, rounding};

mod equivalence {
    use burn::tensor::Tensor;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use spillway_models::{Logits, Model, ModelState};
    use spillway_ssm_core::Chain;

    use super::cases::cases;
    use super::reference::Reference;
    use super::rounding::{close, tolerance};

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
        values(model.logits(ids, state, Logits::All).unwrap())
    }

    proptest! {
        #![proptest_config(config(160))]

        #[test]
        fn logits_are_those_of_the_equations(case in cases(), time in 1usize..24) {
            let (folder, model) = case.load();
            let ids = case.ids(time);
            let reference = Reference::open(folder.path(), &case.config);
            let equations = || reference.logits(&ids).concat();
            close(&logits(&model, &ids, &mut start(&model)), &equations(), tolerance(equations))?;
        }

        #[test]
        fn splitting_a_sequence_anywhere_changes_nothing(
            case in cases(), time in 1usize..24, cuts in proptest::collection::vec(0usize..24, 0..4),
        ) {
            let (folder, model) = case.load();
            let ids = [case.ids(time), vec![1]].concat();
            let reference = Reference::open(folder.path(), &case.config);
            let mut whole = start(&model);
            let expected = logits(&model, &ids[..time], &mut whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(time)).chain([0, time]).collect();
            cuts.sort_unstable();
            let (mut state, mut found) = (start(&model), Vec::new());
            for pair in cuts.windows(2) {
                found.extend(logits(&model, &ids[pair[0]..pair[1]], &mut state));
            }
            close(&found, &expected, tolerance(|| reference.logits(&ids[..time]).concat()))?;
            let [found, expected] = [&mut state, &mut whole].map(|state| logits(&model, &ids[time..], state));
            close(&found, &expected, tolerance(|| reference.logits(&ids).pop().unwrap()))?;
        }

        #[test]
        fn decode_is_prefill(case in cases(), time in 1usize..24) {
            let (folder, model) = case.load();
            let ids = case.ids(time);
            let reference = Reference::open(folder.path(), &case.config);
            let expected = logits(&model, &ids, &mut start(&model));
            let mut state = start(&model);
            let found: Vec<f64> = ids.iter().flat_map(|id| logits(&model, &[*id], &mut state)).collect();
            close(&found, &expected, tolerance(|| reference.logits(&ids).concat()))?;
        }
    }
}
