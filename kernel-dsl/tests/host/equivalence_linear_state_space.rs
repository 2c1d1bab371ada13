//! All forms of a linear state space compute the same thing, and so do their gradients.

use crate::layouts;
use crate::linear_state_space as drawn;
use crate::support;

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::linear_state_space::{Rule, System, chunked, forward, sequential};

    use super::drawn::{Data, Spec, any_cut, any_data, close, small_data};
    use super::layouts::Layout;
    use super::support::property_cases;

    /// Allowed relative error of outputs and states, times √(tokens + 1).
    const TOLERANCE: f64 = 1e-6;
    /// Allowed relative error of gradients, times √(tokens + 1).
    const GRADIENT_TOLERANCE: f64 = 2e-6;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(property_cases(cases))
        }
    }

    fn failed(error: String) -> TestCaseError {
        TestCaseError::fail(error)
    }

    fn scale(data: &Data) -> f64 {
        (data.spec.layout.time(data.spec.time) as f64 + 1.0).sqrt()
    }

    fn check(data: &Data, found: &(Vec<f32>, Vec<f32>)) -> Result<(), TestCaseError> {
        let (out, state) = data.by_reference();
        close("out", TOLERANCE * scale(data), &found.0, &out).map_err(failed)?;
        close("state", TOLERANCE * scale(data), &found.1, &state).map_err(failed)
    }

    /// What `work` gives on `threads` threads.
    fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a few threads").install(work)
    }

    proptest! {
        #![proptest_config(config(200))]

        #[test]
        fn token_by_token_equals_the_definition(data in any_data(100, 40)) {
            check(&data, &data.run(sequential))?;
        }

        #[test]
        fn chunks_equal_the_definition(data in any_data(100, 40), chunk_size in 1..70_usize) {
            check(&data, &data.run(|problem, inputs, outputs| chunked(problem, inputs, chunk_size, outputs)))?;
        }

        #[test]
        fn many_sequences_from_no_state_equal_the_definition(
            (data, _) in any_cut(), batch in 8..12_usize, state in any::<bool>(),
        ) {
            let spec = Spec { batch, layout: Layout::Equal, token_steps: false, state, ..data.spec };
            let mut data = Data::new(spec);
            if let Some(state) = &mut data.state {
                state.fill(0.0);
            }
            check(&data, &data.run(forward))?;
        }

        #[test]
        fn splitting_a_sequence_keeps_the_state((data, cuts) in any_cut(), chunk_size in 1..40_usize) {
            let (mut state, mut out) = (data.state.clone(), Vec::new());
            for (i, bounds) in cuts.windows(2).enumerate() {
                let segment = data.segment(bounds[0]..bounds[1], state.as_deref());
                let (part, end) = match i % 2 {
                    0 => segment.run(sequential),
                    _ => segment.run(|problem, inputs, outputs| chunked(problem, inputs, chunk_size, outputs)),
                };
                out.extend(part);
                state = Some(end);
            }
            check(&data, &(out, state.expect("one segment or more")))?;
        }

        #[test]
        fn steps_equal_the_definition((data, _) in any_cut()) {
            let problem = data.problem();
            let system = System::new(&problem, &data.inputs()).expect("valid");
            let mut state = data.state.clone().unwrap_or_else(|| vec![0.0; problem.state_len()]);
            let cols = problem.outputs * problem.channels;
            let mut out = Vec::new();
            for t in 0..data.spec.time {
                let token = data.segment(t..t + 1, None);
                let inputs = token.inputs();
                let mut y = vec![f32::NAN; cols];
                system.step(inputs.input, inputs.token_step_size, &mut state, &mut y).expect("valid");
                out.extend(y);
            }
            check(&data, &(out, state))?;
        }

        #[test]
        fn sequences_together_equal_each_alone(data in any_data(40, 20)) {
            let (out, state) = data.run(sequential);
            let (cols, len) = (data.spec.outputs * data.spec.channels, 2 * data.spec.channels * data.spec.state_dim);
            let mut expected = vec![0.0; out.len()];
            for b in 0..data.spec.batch {
                let rows = data.problem().sequences.span(b, data.problem().time);
                let of_b = data.state.as_ref().map(|state| &state[b * len..(b + 1) * len]);
                let (part, end) = data.segment(rows.clone(), of_b).run(sequential);
                expected[rows.start * cols..rows.end * cols].copy_from_slice(&part);
                prop_assert_eq!(&state[b * len..(b + 1) * len], &end[..]);
            }
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn gradients_equal_those_of_the_definition(data in any_data(60, 40), chunk_size in 1..70_usize) {
            data.check_gradients(GRADIENT_TOLERANCE * scale(&data), &data.gradients(chunk_size)).map_err(failed)?;
        }

        #[test]
        fn sequences_from_no_state_have_the_gradients_of_the_definition(
            (data, _) in any_cut(), batch in 2..6_usize, state in any::<bool>(),
        ) {
            let spec = Spec { batch, layout: Layout::Equal, token_steps: false, state, state_cotangent: false, ..data.spec };
            let mut data = Data::new(spec);
            if let Some(state) = &mut data.state {
                state.fill(0.0);
            }
            data.check_gradients(GRADIENT_TOLERANCE * scale(&data), &data.gradients(16)).map_err(failed)?;
        }
    }

    proptest! {
        #![proptest_config(config(60))]

        #[test]
        fn gradients_of_the_definition_are_its_derivatives(data in small_data()) {
            data.check_reference_gradients().map_err(failed)?;
        }

        #[test]
        fn the_recurrence_is_a_convolution((data, _) in any_cut(), rank in 0..4_usize) {
            let rule = match rank {
                0 => [Rule::ZeroOrderHold, Rule::Bilinear, Rule::Mixed][data.spec.time % 3],
                _ => Rule::Bilinear,
            };
            let spec = Spec {
                rank, rule, token_steps: false, state: true,
                spectrum: spillway_kernel_dsl::linear_state_space::Spectrum::ConjugatePairs,
                ..data.spec
            };
            let data = Data::new(spec);
            let (out, _) = data.by_reference();
            let Spec { channels, outputs, .. } = data.spec;
            for h in 0..channels.min(3) {
                for output in 0..outputs {
                    let expected = data.by_convolution(output, h);
                    for (t, expected) in expected.iter().enumerate() {
                        let found = out[t * outputs * channels + output * channels + h];
                        let close = (found - expected).abs() <= 1e-11 * (1.0 + expected.abs());
                        prop_assert!(close, "token {t}: {found} against {expected}");
                    }
                }
            }
        }
    }

    /// Model sizes, and memories of thousands of tokens.
    #[test]
    fn long_memories_keep_their_digits() {
        for rank in [0, 1, 2] {
            let mut data = Data::new(Spec {
                frequency: 100.0,
                ..Spec::of_model(rank, (3000, 20, 32))
            });
            if let Some(steps) = &mut data.step_size {
                steps.iter_mut().for_each(|step| *step *= 0.02);
            }
            let (out, state) = data.by_reference();
            let scale = scale(&data);
            for (form, found) in [
                ("sequential", data.run(sequential)),
                ("forward", data.run(forward)),
            ] {
                close(
                    &format!("out by {form}, rank {rank}"),
                    TOLERANCE * scale,
                    &found.0,
                    &out,
                )
                .expect("close");
                close(
                    &format!("state by {form}, rank {rank}"),
                    TOLERANCE * scale,
                    &found.1,
                    &state,
                )
                .expect("close");
            }
            let found = data.gradients(64);
            data.check_gradients(GRADIENT_TOLERANCE * scale, &found)
                .expect("close");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        for rank in [0, 2] {
            let data = Data::new(Spec::of_model(rank, (70, 50, 17)));
            let run = || {
                (
                    data.run(sequential),
                    data.run(|problem, inputs, outputs| chunked(problem, inputs, 32, outputs)),
                    data.gradients(16),
                )
            };
            assert_eq!(on_threads(1, run), on_threads(3, run));
        }
    }

    #[test]
    fn a_token_that_takes_no_time_changes_nothing() {
        let mut data = Data::new(Spec {
            token_steps: true,
            skip: false,
            ..Spec::of_model(0, (1, 4, 8))
        });
        data.token_step_size = data.token_step_size.map(|steps| vec![0.0; steps.len()]);
        let (_, state) = data.run(sequential);
        assert_eq!(Some(state), data.state);
    }

    #[test]
    fn a_mode_at_rest_keeps_what_it_gets() {
        for token_steps in [false, true] {
            let mut data = Data::new(Spec {
                token_steps,
                ..Spec::of_model(0, (30, 3, 4))
            });
            data.a.fill(0.0);
            check(&data, &data.run(sequential)).expect("close");
            data.check_gradients(1e-5, &data.gradients(7)).expect("close");
        }
    }

    #[test]
    fn a_step_of_no_sequence_is_none() {
        let data = Data::new(Spec::of_model(1, (1, 3, 4)));
        let system = System::new(&data.problem(), &data.inputs()).expect("valid");
        let none = Rows::contiguous(&[], 0, 3).expect("nothing");
        system.step(none, None, &mut [], &mut []).expect("valid");
    }
}
