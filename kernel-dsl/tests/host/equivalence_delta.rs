//! The forms of the delta rule agree with its definition, and with each other.

#[path = "delta/data.rs"]
mod data;

mod equivalence {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use spillway_kernel_dsl::DecayKind;
    use spillway_kernel_dsl::delta_rule::{
        DeltaRuleError, Element, ElementMut, Inputs, Problem, TransitionKind, apply, backward, chunked,
        compose, element, preferred_chunk_size, sequential, step,
    };

    use super::data::{Data, Layout, Owned, Spec, Strength, any_spec, error};

    /// Output and final state by some form.
    fn run(
        data: &Data,
        form: impl FnOnce(&Problem, &Inputs, &mut [f32], &mut [f32]) -> Result<(), DeltaRuleError>,
    ) -> (Vec<f32>, Vec<f32>) {
        let (mut state, mut out) = (data.state.clone(), vec![f32::NAN; data.out_len()]);
        form(&data.problem, &data.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    fn by_sequential(data: &Data) -> (Vec<f32>, Vec<f32>) {
        run(data, sequential)
    }

    fn by_chunks(data: &Data, chunk_size: usize) -> (Vec<f32>, Vec<f32>) {
        run(data, |problem, inputs, state, out| {
            chunked(problem, inputs, chunk_size, state, out)
        })
    }

    /// M and U of all tokens.
    fn element_of(data: &Data) -> (Vec<f32>, Vec<f32>) {
        let Problem {
            batch,
            heads,
            key_dim,
            ..
        } = data.problem;
        let mut matrix = vec![f32::NAN; batch * heads * key_dim * key_dim];
        let mut update = vec![f32::NAN; data.problem.state_len()];
        element(&data.problem, &data.inputs(), 24, &mut matrix, &mut update).expect("valid");
        (matrix, update)
    }

    fn view((matrix, update): &(Vec<f32>, Vec<f32>)) -> Element<'_> {
        Element { matrix, update }
    }

    fn composed(
        problem: &Problem,
        first: &(Vec<f32>, Vec<f32>),
        second: &(Vec<f32>, Vec<f32>),
    ) -> (Vec<f32>, Vec<f32>) {
        let (mut matrix, mut update) = second.clone();
        let into = ElementMut {
            matrix: &mut matrix,
            update: &mut update,
        };
        compose(problem, view(first), into).expect("valid");
        (matrix, update)
    }

    fn gradients(data: &Data, chunk_size: usize) -> Owned<f32> {
        data.gradients(|gradients| {
            let (inputs, cotangents) = (data.inputs(), data.cotangents());
            backward(
                &data.problem,
                &inputs,
                chunk_size,
                &data.state,
                &cotangents,
                gradients,
            )
        })
    }

    /// Within [`TOLERANCE`], or within what the reference itself is off by when its inputs are moved in their last place (eightfold,
    /// for there are roundings on the way too): transitions that nearly cancel a state leave few of its digits.
    fn close(
        what: &str,
        found: &[f32],
        expected: &[f64],
        moved: impl FnOnce() -> Vec<f64>,
    ) -> Result<(), TestCaseError> {
        let off = error(found, expected);
        let close = off < TOLERANCE || off < TOLERANCE + 8.0 * error(&moved(), expected);
        prop_assert!(close, "{what} is off by {off:.2e}");
        Ok(())
    }

    fn check_gradients(form: &str, found: &Owned<f32>, data: &Data) -> Result<(), TestCaseError> {
        let expected = data.reference_gradients();
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
        for (index, ((name, found), (_, expected))) in found.parts().iter().zip(expected.parts()).enumerate()
        {
            let what = format!("the gradient of {name} by {form}");
            let moved = || data.rounded().reference_gradients().parts().swap_remove(index).1;
            // They were widened from f32: nothing is lost.
            close(&what, &narrow(found), &expected, moved)?;
        }
        Ok(())
    }

    fn check(form: &str, (out, state): &(Vec<f32>, Vec<f32>), data: &Data) -> Result<(), TestCaseError> {
        let expected = data.by_reference();
        let moved = || data.rounded().by_reference();
        close(&format!("out by {form}"), out, &expected.0, || moved().0)?;
        close(&format!("state by {form}"), state, &expected.1, || moved().1)
    }

    /// Tokens, one of every transition and decay, large enough to be shared among threads.
    fn large() -> Vec<Spec> {
        let mut specs = Vec::new();
        for transition in [TransitionKind::Delta, TransitionKind::LowRank] {
            for decay in [DecayKind::None, DecayKind::PerHeadToken, DecayKind::PerKeyToken] {
                let problem = Problem {
                    batch: 2,
                    time: 90,
                    heads: 4,
                    groups: 2,
                    key_dim: 24,
                    value_dim: 40,
                    transition,
                    decay,
                };
                specs.push(Spec {
                    problem,
                    layout: Layout::Packed,
                    gap: 0,
                    decay: Strength::Mild,
                    seed: 7,
                });
            }
        }
        specs
    }

    /// ‖found − expected‖ / ‖expected‖ of what the host computes in f32; the largest seen was 1.1e-6.
    const TOLERANCE: f64 = 4e-6;

    fn config() -> ProptestConfig {
        ProptestConfig {
            cases: crate::support::property_cases(200),
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    /// ⟨gradient, x⁺ − x⁻⟩ against loss(x⁺) − loss(x⁻) for one table, moved in a random direction.
    fn check_direction(data: &Data, index: usize, name: &str, gradient: &[f64]) -> Result<(), TestCaseError> {
        let mut rng = StdRng::seed_from_u64(index as u64);
        let (mut plus, mut minus) = (data.clone(), data.clone());
        let mut expected = 0.0;
        let rows = data.sequences().rows(data.problem.batch, data.problem.time);
        for row in 0..rows {
            let (mut ups, mut downs) = (plus.tables(), minus.tables());
            let pairs = ups[index].row_mut(row).iter_mut().zip(downs[index].row_mut(row));
            for (n, (up, down)) in pairs.enumerate() {
                if up.is_nan() {
                    continue;
                }
                let move_by = rng.random_range(-1.0_f32..1.0) / 512.0;
                (*up, *down) = (*up + move_by, *down - move_by);
                let moved = f64::from(*up) - f64::from(*down);
                expected += moved * gradient[row * (gradient.len() / rows) + n];
            }
        }
        let found = plus.loss() - minus.loss();
        let allowed = 2e-3 * expected.abs() + 1e-5 * (gradient.len() as f64).sqrt();
        prop_assert!(
            (found - expected).abs() <= allowed,
            "{name}: {found:e}, expected {expected:e}"
        );
        Ok(())
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn gradients_of_the_reference_are_finite_differences_of_its_loss(spec in any_spec(12)) {
            let spec = match spec.decay {
                // An infinite log decay cannot be moved.
                Strength::Strong => Spec { decay: Strength::Mild, ..spec },
                _ => spec,
            };
            let data = Data::new(&spec);
            let gradients = data.reference_gradients();
            let parts = gradients.parts();
            for (index, (name, gradient)) in parts.iter().take(5).enumerate() {
                check_direction(&data, index, name, gradient)?;
            }
            if data.log_decay.is_some() {
                check_direction(&data, 5, "log_decay", &parts[5].1)?;
            }
            let (mut plus, mut minus) = (data.clone(), data.clone());
            let (mut expected, mut rng) = (0.0, StdRng::seed_from_u64(7));
            for ((up, down), gradient) in plus.state.iter_mut().zip(&mut minus.state).zip(&gradients.state) {
                let move_by = rng.random_range(-1.0_f32..1.0) / 512.0;
                (*up, *down) = (*up + move_by, *down - move_by);
                expected += (f64::from(*up) - f64::from(*down)) * gradient;
            }
            let found = plus.loss() - minus.loss();
            prop_assert!((found - expected).abs() <= 1e-9 * (1.0 + expected.abs()), "state: {found:e}, expected {expected:e}");
        }

        #[test]
        fn all_forms_equal_the_reference(spec in any_spec(150), chunk_size in 1_usize..=70) {
            let data = Data::new(&spec);
            check("sequential", &by_sequential(&data), &data)?;
            check("chunks", &by_chunks(&data, chunk_size), &data)?;
        }

        #[test]
        fn gradients_equal_those_of_the_reference(spec in any_spec(100), chunk_size in 1_usize..=70) {
            let data = Data::new(&spec);
            check_gradients("chunks", &gradients(&data, chunk_size), &data)?;
        }

        #[test]
        fn gradients_of_any_layout_equal_those_of_each_sequence(spec in any_spec(60), chunk_size in 1_usize..=40) {
            let data = Data::new(&spec);
            let all = gradients(&data, chunk_size).parts();
            let mut left = all.clone();
            for b in 0..data.problem.batch {
                let span = data.sequences().span(b, data.problem.time);
                let alone = gradients(&data.sequence(b), chunk_size).parts();
                let (state, by_token) = alone.split_last().expect("seven parts");
                for (n, (name, alone)) in by_token.iter().enumerate() {
                    let width = alone.len().checked_div(span.len()).unwrap_or(0);
                    let own = span.start * width..span.end * width;
                    prop_assert_eq!(&all[n].1[own.clone()], &alone[..], "{}", name);
                    left[n].1[own].fill(0.0);
                }
                let len = state.1.len();
                prop_assert_eq!(&all[6].1[b * len..][..len], &state.1[..]);
            }
            let outside = left.iter().take(6).flat_map(|(_, values)| values);
            prop_assert!(outside.copied().all(|x| x == 0.0), "rows of no sequence have gradient 0");
        }

        #[test]
        fn the_element_of_a_segment_equals_its_tokens(spec in any_spec(60), cuts in (0.0_f64..=1.0, 0.0_f64..=1.0)) {
            let whole = Data::new(&spec).sequence(0);
            let (time, problem) = (whole.problem.time, whole.problem);
            let at = |cut: f64| (cut * time as f64) as usize;
            let (from, to) = (at(cuts.0.min(cuts.1)), at(cuts.0.max(cuts.1)));
            let [a, b, c] = [0..from, from..to, to..time].map(|tokens| element_of(&whole.segment(tokens, whole.state.clone())));
            let expected = whole.by_reference().1;
            let after = |element: &(Vec<f32>, Vec<f32>)| {
                let mut state = whole.state.clone();
                apply(&problem, view(element), &mut state).expect("valid");
                error(&state, &expected)
            };
            let left = composed(&problem, &composed(&problem, &a, &b), &c);
            let right = composed(&problem, &a, &composed(&problem, &b, &c));
            for (name, element) in [("the whole", element_of(&whole)), ("(ab)c", left), ("a(bc)", right)] {
                let off = after(&element);
                let moved = || error(&whole.rounded().by_reference().1, &expected);
                let close = off < TOLERANCE || off < TOLERANCE + 8.0 * moved();
                prop_assert!(close, "the state after {name} is off by {off:.2e}");
            }
        }

        #[test]
        fn an_element_of_no_tokens_changes_nothing(spec in any_spec(0)) {
            let data = Data::new(&spec);
            let mut state = data.state.clone();
            apply(&data.problem, view(&element_of(&data)), &mut state).expect("valid");
            prop_assert_eq!(state, data.state);
        }

        #[test]
        fn steps_equal_the_sequential_form(spec in any_spec(1)) {
            let data = Data::new(&spec);
            let ones = (0..data.problem.batch).all(|b| data.sequences().span(b, data.problem.time).len() == 1);
            if ones {
                prop_assert_eq!(run(&data, step), by_sequential(&data));
            } else {
                let (mut state, mut out) = (data.state.clone(), vec![0.0; data.out_len()]);
                let refused = step(&data.problem, &data.inputs(), &mut state, &mut out);
                let named = matches!(refused, Err(DeltaRuleError::NotOneToken { .. }));
                prop_assert!(named, "{refused:?}");
            }
        }

        #[test]
        fn splitting_a_sequence_keeps_the_state(spec in any_spec(100), cut in 0.0_f64..=1.0, chunk_size in 1_usize..=40) {
            let whole = Data::new(&spec).sequence(0);
            let time = whole.problem.time;
            let cut = (cut * time as f64) as usize;
            for (form, run) in [("sequential", &by_sequential as &dyn Fn(&Data) -> _), ("chunks", &|data: &Data| by_chunks(data, chunk_size))] {
                let (mut out, state) = run(&whole.segment(0..cut, whole.state.clone()));
                let (rest, state) = run(&whole.segment(cut..time, state));
                out.extend(rest);
                check(form, &(out, state), &whole)?;
            }
        }

        #[test]
        fn sequences_of_any_layout_equal_each_alone(spec in any_spec(80), chunk_size in 1_usize..=40) {
            let data = Data::new(&spec);
            let width = data.problem.heads * data.problem.value_dim;
            let state_len = data.problem.heads * data.problem.head_state_len();
            for run in [&by_sequential as &dyn Fn(&Data) -> _, &|data: &Data| by_chunks(data, chunk_size)] {
                let (mut out, state) = run(&data);
                for b in 0..data.problem.batch {
                    let (alone, final_state) = run(&data.sequence(b));
                    let span = data.sequences().span(b, data.problem.time);
                    let own = &mut out[span.start * width..span.end * width];
                    prop_assert_eq!(&*own, &alone[..]);
                    prop_assert_eq!(&state[b * state_len..][..state_len], &final_state[..]);
                    own.fill(0.0);
                }
                prop_assert!(out.iter().all(|y| *y == 0.0), "rows of no sequence read 0");
            }
        }
    }
    /// Errors stay what they are for short sequences, in the outputs and in the gradients.
    #[test]
    fn thousands_of_tokens_do_not_drift() {
        for spec in large() {
            let problem = Problem {
                batch: 1,
                time: 4000,
                key_dim: 16,
                value_dim: 8,
                ..spec.problem
            };
            let data = Data::new(&Spec { problem, ..spec });
            check("sequential", &by_sequential(&data), &data).expect("no drift");
            check("chunks", &by_chunks(&data, 16), &data).expect("no drift");
            check_gradients("chunks", &gradients(&data, 32), &data).expect("no drift");
        }
    }

    /// The chunk size that is recommended is one that can be taken.
    #[test]
    fn small_states_and_single_tokens_prefer_no_chunks() {
        let problem = large()[0].problem;
        assert_eq!(preferred_chunk_size(&problem), None);
        let large = Problem {
            key_dim: 128,
            value_dim: 128,
            ..problem
        };
        assert!(preferred_chunk_size(&large).is_some_and(|size| size > 0));
        assert_eq!(preferred_chunk_size(&Problem { time: 1, ..large }), None);
    }

    #[test]
    fn the_same_call_gives_the_same_bits_on_any_number_of_threads() {
        for spec in large() {
            let data = Data::new(&spec);
            let with_threads = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("a thread pool");
                pool.install(|| {
                    (
                        by_sequential(&data),
                        by_chunks(&data, 32),
                        gradients(&data, 32),
                        element_of(&data),
                    )
                })
            };
            let one = with_threads(1);
            assert!(one == with_threads(3), "3 threads differ for {:?}", data.problem);
            assert!(
                one == with_threads(1),
                "a repetition differs for {:?}",
                data.problem
            );
            check("sequential", &one.0, &data).expect("equal");
            check("chunks", &one.1, &data).expect("equal");
        }
    }
}
