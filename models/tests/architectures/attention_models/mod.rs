//! Models with attention, and those of Mamba-1, against plain f64 loops; the same however tokens are split among calls.

mod cases;
mod reference;

use crate::{derivatives, disturbed, rounding};

mod equivalence {
    use burn::tensor::Tensor;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use spillway_mitigations::Mitigation;
    use spillway_models::{Logits, Model, ModelState};
    use spillway_ssm_core::Chain;

    use super::cases::{Case, VOCABULARY, cases};
    use super::derivatives;
    use super::reference::{Laid, Reference};
    use super::rounding::{close, relative_error, tolerance};

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(1706),
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

    fn in_pieces(model: &Model, ids: &[u32], cuts: &[usize], state: &mut ModelState) -> Vec<f64> {
        let mut cuts: Vec<usize> = cuts
            .iter()
            .map(|cut| *cut.min(&ids.len()))
            .chain([0, ids.len()])
            .collect();
        cuts.sort_unstable();
        cuts.windows(2)
            .flat_map(|pair| logits(model, &ids[pair[0]..pair[1]], state))
            .collect()
    }

    /// The equations' logits, without the rows that only fill up the embedding.
    fn rows(reference: &Reference, case: &Case, ids: &[u32]) -> Vec<Vec<f64>> {
        let rows = reference.logits(ids, case.layout);
        rows.iter().map(|row| row[..VOCABULARY].to_vec()).collect()
    }

    proptest! {
        #![proptest_config(config(150))]

        #[test]
        fn logits_are_those_of_the_equations(case in cases(), time in 1usize..24) {
            let (folder, model) = case.load();
            let ids = case.ids(time);
            let reference = Reference::open(folder.path(), &case.config);
            let equations = || rows(&reference, &case, &ids).concat();
            close(&logits(&model, &ids, &mut start(&model)), &equations(), tolerance(equations))?;
        }

        #[test]
        fn queries_are_sharpened_where_all_tokens_are_read(case in cases(), time in 1usize..24, base in 1.5f64..100.0) {
            let (folder, model) = case.load();
            let ids = case.ids(time);
            let mitigation: Mitigation = format!("log-attention:{base}").parse().unwrap();
            let state = model.start(&mitigation.chain(), 1);
            if model.info().cache_bytes_per_token == 0 {
                let refused = state.err().map(|error| error.to_string());
                prop_assert!(refused.is_some_and(|message| message.starts_with("log-attention:")));
                return Ok(());
            }
            let mut reference = Reference::open(folder.path(), &case.config);
            reference.log_base = Some(base);
            let equations = || rows(&reference, &case, &ids).concat();
            let (first, second) = ids.split_at(time / 2);
            let mut state = state.unwrap();
            let mut found = logits(&model, first, &mut state);
            found.extend(logits(&model, second, &mut state));
            close(&found, &equations(), tolerance(equations))?;
        }

        #[test]
        fn gradients_are_the_derivatives_of_the_equations(case in cases(), time in 1usize..12) {
            let (folder, _model) = case.load();
            let reference = Reference::open(folder.path(), &case.config);
            let mut equations = Laid { reference, layout: case.layout };
            let checked = derivatives::check(folder.path(), &mut equations, VOCABULARY, &case.ids(time + 1));
            checked.map_err(TestCaseError::fail)?;
        }

        #[test]
        fn splitting_a_sequence_anywhere_changes_nothing(
            case in cases(), time in 1usize..150, cuts in proptest::collection::vec(0usize..150, 0..4),
        ) {
            let (folder, model) = case.load();
            let ids = case.ids(time + 1);
            let reference = Reference::open(folder.path(), &case.config);
            let mut whole = start(&model);
            let expected = logits(&model, &ids[..time], &mut whole);
            let mut state = start(&model);
            let found = in_pieces(&model, &ids[..time], &cuts, &mut state);
            close(&found, &expected, tolerance(|| rows(&reference, &case, &ids[..time]).concat()))?;
            prop_assert_eq!(state.position(), time as u64);
            let [found, expected] = [&mut state, &mut whole].map(|state| logits(&model, &ids[time..], state));
            close(&found, &expected, tolerance(|| rows(&reference, &case, &ids).pop().unwrap()))?;
        }

        #[test]
        fn prefill_is_decode(case in cases(), time in 1usize..80) {
            let (folder, model) = case.load();
            let ids = case.ids(time);
            let reference = Reference::open(folder.path(), &case.config);
            let expected = logits(&model, &ids, &mut start(&model));
            let cuts: Vec<usize> = (0..time).collect();
            let found = in_pieces(&model, &ids, &cuts, &mut start(&model));
            close(&found, &expected, tolerance(|| rows(&reference, &case, &ids).concat()))?;
        }

        #[test]
        fn a_saved_state_and_a_copy_continue_as_the_state_does(case in cases(), before in 0usize..70, after in 1usize..9) {
            let (folder, model) = case.load();
            let ids = case.ids(before + after);
            let mut state = start(&model);
            model.advance(&ids[..before], &mut state).unwrap();
            let path = folder.path().join("state.safetensors");
            state.save(&path).unwrap();
            let mut restored = model.restore(&path, &Chain::default()).unwrap();
            prop_assert_eq!(restored.position(), before as u64);
            let mut copied = state.clone();
            let expected = logits(&model, &ids[before..], &mut state);
            for other in [&mut copied, &mut restored] {
                let error = relative_error(&logits(&model, &ids[before..], other), &expected);
                // The restored cache has other room, and keys may meet in blocks of another size.
                prop_assert!(error <= 1e-6, "relative error {error:e}");
            }
        }
    }
}

mod golden {
    use std::path::Path;

    use burn::tensor::Tensor;
    use spillway_models::{LoadOptions, Logits, Model};
    use spillway_ssm_core::Chain;

    fn logits(folder: &Path) -> Vec<f32> {
        let model = Model::load(folder, &LoadOptions::default()).unwrap();
        let mut state = model.start(&Chain::default(), 1).unwrap();
        let logits: Tensor<3> = model
            .logits_batched(&[1, 2, 3, 200, 7], &mut state, Logits::All)
            .unwrap();
        logits.into_data().iter::<f32>().collect()
    }

    #[test]
    fn the_authors_own_file_holds_the_same_model() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/mamba-original");
        let alone = tempfile::tempdir().unwrap();
        for name in ["config.json", "pytorch_model.bin"] {
            std::fs::copy(folder.join(name), alone.path().join(name)).unwrap();
        }
        assert_eq!(logits(alone.path()), logits(&folder));
    }
}
