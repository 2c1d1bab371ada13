//! All forms of the recurrence compute the same thing.

use crate::support;

mod equivalence {
    mod backward;
    mod data;
    mod normalized;

    use data::{Data, Spec, any_spec};
    use proptest::prelude::*;
    use spillway_kernel_dsl::DecayKind;
    use spillway_kernel_dsl::recurrence::{
        Element, ElementMut, Problem, ReadOut, apply, chunked, compose, element, reference, sequential,
        sequential_bounded, step,
    };

    use super::support::relative_error;

    /// Allowed relative error, times √(tokens + 1). The largest in 2000 cases of each test was 1.7e-7.
    const TOLERANCE: f64 = 1e-6;

    fn config() -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(200))
        }
    }

    /// Output and final state.
    type Results<T> = (Vec<T>, Vec<T>);

    fn by_reference(data: &Data) -> Results<f64> {
        let mut state: Vec<f64> = data.state.iter().map(|x| f64::from(*x)).collect();
        let mut out = vec![f64::NAN; data.out_len()];
        reference::recurrence(&data.problem, &data.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    fn by_sequential(data: &Data) -> Results<f32> {
        let (mut state, mut out) = (data.state.clone(), vec![f32::NAN; data.out_len()]);
        sequential(&data.problem, &data.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    fn by_chunks(data: &Data, chunk_size: usize) -> Results<f32> {
        let (mut state, mut out) = (data.state.clone(), vec![f32::NAN; data.out_len()]);
        chunked(&data.problem, &data.inputs(), chunk_size, &mut state, &mut out).expect("valid");
        (out, state)
    }

    /// Runs `form` on each of the segments between the cuts, passing the state on, and joins the outputs.
    fn by_segments(data: &Data, cuts: &[usize], form: impl Fn(&Data) -> Results<f32>) -> Results<f32> {
        let mut state = data.state.clone();
        // Rows that are no tokens are in no segment.
        let mut out = vec![0.0; data.out_len()];
        for bounds in cuts.windows(2) {
            let (part, end) = form(&data.segment(bounds[0], bounds[1], &state));
            state = end;
            data.place(
                &mut out,
                (bounds[0], bounds[1]),
                &part,
                data.problem.heads * data.problem.value_dim,
            );
        }
        (out, state)
    }

    /// The element of some tokens.
    fn element_of(data: &Data, chunk_size: usize) -> (Vec<f32>, Vec<f32>) {
        let Problem { batch, heads, .. } = data.problem;
        let mut sums = vec![f32::NAN; batch * heads * data.problem.decay_sums_per_head()];
        let mut update = vec![f32::NAN; data.problem.state_len()];
        element(&data.problem, &data.inputs(), chunk_size, &mut sums, &mut update).expect("valid");
        (sums, update)
    }

    fn composed(
        problem: &Problem,
        first: &(Vec<f32>, Vec<f32>),
        second: &(Vec<f32>, Vec<f32>),
    ) -> (Vec<f32>, Vec<f32>) {
        let (mut sums, mut update) = second.clone();
        let earlier = Element {
            log_decay_sum: &first.0,
            update: &first.1,
        };
        compose(
            problem,
            earlier,
            ElementMut {
                log_decay_sum: &mut sums,
                update: &mut update,
            },
        )
        .expect("valid");
        (sums, update)
    }

    /// The product of elements as a balanced tree.
    fn tree(problem: &Problem, elements: &[(Vec<f32>, Vec<f32>)]) -> (Vec<f32>, Vec<f32>) {
        match elements {
            [one] => one.clone(),
            many => {
                let (left, right) = many.split_at(many.len() / 2);
                composed(problem, &tree(problem, left), &tree(problem, right))
            }
        }
    }

    fn applied(problem: &Problem, (sums, update): &(Vec<f32>, Vec<f32>), state: &[f32]) -> Vec<f32> {
        let mut state = state.to_vec();
        apply(
            problem,
            Element {
                log_decay_sum: sums,
                update,
            },
            &mut state,
        )
        .expect("valid");
        state
    }

    fn check(name: &str, time: usize, found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
        let error = relative_error(found, expected);
        let allowed = TOLERANCE * (time as f64 + 1.0).sqrt();
        // Written so that NaN fails.
        let close = error <= allowed;
        prop_assert!(close, "{name} is off by {error:.2e}, allowed {allowed:.2e}");
        Ok(())
    }

    fn check_both(
        name: &str,
        data: &Data,
        found: &Results<f32>,
        expected: &Results<f64>,
    ) -> Result<(), TestCaseError> {
        check(
            &format!("output of {name}"),
            data.problem.time,
            &found.0,
            &expected.0,
        )?;
        check(
            &format!("state of {name}"),
            data.problem.time,
            &found.1,
            &expected.1,
        )
    }

    /// 0, some cuts in ascending order, and the end.
    fn sorted_cuts(time: usize, fractions: &[f64]) -> Vec<usize> {
        let mut cuts: Vec<usize> = fractions
            .iter()
            .map(|f| (f * (time + 1) as f64) as usize)
            .collect();
        cuts.extend([0, time]);
        cuts.sort_unstable();
        cuts
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn all_forms_equal_the_reference(spec in any_spec(150), chunk_size in 1_usize..=70) {
            let data = Data::new(&spec);
            let expected = by_reference(&data);
            check_both("sequential", &data, &by_sequential(&data), &expected)?;
            check_both("chunked", &data, &by_chunks(&data, chunk_size), &expected)?;
            let every_token: Vec<usize> = (0..=data.problem.time).collect();
            let by_step = by_segments(&data, &every_token, |token| {
                let (mut state, mut out) = (token.state.clone(), vec![f32::NAN; token.out_len()]);
                step(&token.problem, &token.inputs(), &mut state, &mut out).expect("valid");
                (out, state)
            });
            prop_assert_eq!(by_step, by_sequential(&data));
        }

        #[test]
        fn splitting_a_sequence_keeps_the_state(
            spec in any_spec(150),
            chunk_size in 1_usize..=70,
            fractions in prop::collection::vec(0.0..1.0, 0..4),
        ) {
            let data = Data::new(&spec);
            let expected = by_reference(&data);
            let cuts = sorted_cuts(data.problem.time, &fractions);
            prop_assert_eq!(by_segments(&data, &cuts, by_sequential), by_sequential(&data));
            let chunks = by_segments(&data, &cuts, |part| by_chunks(part, chunk_size));
            check_both("chunked segments", &data, &chunks, &expected)?;
        }

        #[test]
        fn a_batch_of_unequal_sequences_equals_them_one_by_one(spec in any_spec(100), chunk_size in 1_usize..=70) {
            let data = Data::new(&spec);
            let width = data.problem.heads * data.problem.value_dim;
            for chunks in [None, Some(chunk_size)] {
                let form = |data: &Data| chunks.map_or_else(|| by_sequential(data), |size| by_chunks(data, size));
                let (out, state) = form(&data);
                let (mut outs, mut states) = (vec![0.0; out.len()], Vec::new());
                for b in 0..data.problem.batch {
                    let (out, state) = form(&data.sequence(b));
                    outs[data.span(b).start * width..][..out.len()].copy_from_slice(&out);
                    states.extend(state);
                }
                prop_assert_eq!((out, state), (outs, states));
            }
        }

        #[test]
        fn a_scan_over_elements_gives_the_state(
            spec in any_spec(150),
            chunk_size in 1_usize..=70,
            fractions in prop::collection::vec(0.0..1.0, 0..6),
        ) {
            let data = Data::new(&spec);
            let cuts = sorted_cuts(data.problem.time, &fractions);
            let zero = vec![0.0; data.problem.state_len()];
            let segment = |bounds: &[usize]| element_of(&data.segment(bounds[0], bounds[1], &zero), chunk_size);
            let elements: Vec<_> = cuts.windows(2).map(segment).collect();
            let product = tree(&data.problem, &elements);
            let time = data.problem.time;
            let (_, expected) = by_reference(&data);
            check("state of the scan", time, &applied(&data.problem, &product, &data.state), &expected)?;
            let fold = elements.iter().fold(data.state.clone(), |h, e| applied(&data.problem, e, &h));
            check("state of the fold", time, &fold, &expected)?;
            // The whole as one element has the same decay and the same update.
            let (sums, update) = element_of(&data, chunk_size);
            let exact: Vec<f64> = product.1.iter().map(|x| f64::from(*x)).collect();
            check("update of the whole", time, &update, &exact)?;
            for (one, tree) in sums.iter().zip(&product.0) {
                let same = one == tree || (one - tree).abs() <= 1e-6 * one.abs();
                prop_assert!(same, "log decay {one} of the whole, {tree} of the tree");
            }
        }

        #[test]
        fn composing_is_associative(spec in any_spec(40), fractions in prop::collection::vec(0.0..1.0, 2)) {
            let data = Data::new(&spec);
            let problem = &data.problem;
            let cuts = sorted_cuts(problem.time, &fractions);
            let elements: Vec<_> =
                cuts.windows(2).map(|b| element_of(&data.segment(b[0], b[1], &data.state), 16)).collect();
            let left = composed(problem, &composed(problem, &elements[0], &elements[1]), &elements[2]);
            let right = composed(problem, &elements[0], &composed(problem, &elements[1], &elements[2]));
            let exact: Vec<f64> = right.1.iter().map(|x| f64::from(*x)).collect();
            check("update", problem.time, &left.1, &exact)?;
            for (left, right) in left.0.iter().zip(&right.0) {
                prop_assert!(left == right || (left - right).abs() <= 1e-6 * right.abs(), "{left} and {right}");
            }
        }

        #[test]
        fn bounded_states_equal_the_bounded_reference(
            spec in any_spec(150),
            bounds in prop::collection::vec(prop_oneof![Just(f32::INFINITY), Just(0.0), 0.3_f32..30.0], 9),
        ) {
            let data = Data::new(&spec);
            let bound = &bounds[..data.problem.heads];
            let mut exact_state: Vec<f64> = data.state.iter().map(|x| f64::from(*x)).collect();
            let mut exact_out = vec![f64::NAN; data.out_len()];
            let (mut state, mut out) = (data.state.clone(), vec![f32::NAN; data.out_len()]);
            let (problem, inputs) = (&data.problem, data.inputs());
            let exact_clipped =
                reference::recurrence_bounded(problem, &inputs, bound, &mut exact_state, &mut exact_out).expect("valid");
            let clipped = sequential_bounded(problem, &inputs, bound, &mut state, &mut out).expect("valid");
            check_both("bounded", &data, &(out, state), &(exact_out, exact_state))?;
            // A norm within rounding of its bound may fall on either side.
            prop_assert!(clipped.abs_diff(exact_clipped) <= 2, "clipped {clipped}, expected {exact_clipped}");
        }

        #[test]
        fn infinite_bounds_change_nothing(spec in any_spec(60)) {
            let data = Data::new(&spec);
            let (mut state, mut out) = (data.state.clone(), vec![f32::NAN; data.out_len()]);
            let free = vec![f32::INFINITY; data.problem.heads];
            let clipped = sequential_bounded(&data.problem, &data.inputs(), &free, &mut state, &mut out).expect("valid");
            prop_assert_eq!(clipped, 0);
            prop_assert_eq!((out, state), by_sequential(&data));
        }
    }

    /// Large enough to be shared among threads, with more threads than groups.
    #[test]
    fn the_same_call_gives_the_same_bits_on_any_number_of_threads() {
        for spec in Spec::large() {
            let data = Data::new(&spec);
            let with_threads = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("a thread pool");
                pool.install(|| (by_sequential(&data), by_chunks(&data, 32), element_of(&data, 32)))
            };
            let one = with_threads(1);
            assert!(one == with_threads(3), "3 threads differ for {:?}", data.problem);
            assert!(
                one == with_threads(1),
                "a repetition differs for {:?}",
                data.problem
            );
            let expected = by_reference(&data);
            assert!(
                relative_error(&one.0.0, &expected.0) < 1e-5 && relative_error(&one.1.0, &expected.0) < 1e-5
            );
        }
    }

    /// Constant decays near 1 must not drift: each token's rounding error would be the same one.
    #[test]
    fn memories_of_ten_thousand_tokens_do_not_drift() {
        for (decay, read_out) in [
            (DecayKind::PerHead, ReadOut::Inclusive),
            (DecayKind::PerKey, ReadOut::Bonus),
        ] {
            let mut spec = Spec::large().remove(0);
            spec.problem = Problem {
                time: 30_000,
                heads: 1,
                key_dim: 8,
                value_dim: 8,
                decay,
                read_out,
                ..spec.problem
            };
            let mut data = Data::new(&spec);
            data.set_constant_decay(-1e-4);
            let (exact_out, exact_state) = by_reference(&data);
            for (form, (out, state)) in [
                ("sequential", by_sequential(&data)),
                ("chunked", by_chunks(&data, 64)),
            ] {
                let errors = (
                    relative_error(&out, &exact_out),
                    relative_error(&state, &exact_state),
                );
                // A decay in one f32 is off by up to 3e-4 here.
                assert!(
                    errors.0 < 2e-5 && errors.1 < 2e-5,
                    "{form}, {decay:?}: {errors:?}"
                );
            }
        }
    }

    /// A state beyond the square root of the largest f32 is clipped, not erased.
    #[test]
    fn huge_states_are_clipped_by_their_true_norm() {
        let mut spec = Spec::large().remove(0);
        spec.problem.time = 1;
        spec.problem.read_out = ReadOut::Inclusive;
        let mut data = Data::new(&spec);
        data.state.iter_mut().for_each(|x| *x *= 1e30);
        let mut out = vec![f32::NAN; data.out_len()];
        let bound = vec![2.0; data.problem.heads];
        let mut state = data.state.clone();
        sequential_bounded(&data.problem, &data.inputs(), &bound, &mut state, &mut out).expect("valid");
        for h in state.chunks_exact(data.problem.head_state_len()) {
            let norm = h.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            assert!((norm - 2.0).abs() < 1e-5, "norm {norm} after clipping to 2");
        }
    }
}
