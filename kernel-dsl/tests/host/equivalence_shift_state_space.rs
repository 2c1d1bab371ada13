//! All forms of a shift system compute the same thing, and so do their gradients.

use crate::shift_state_space as drawn;
use crate::support;

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::shift_state_space::{
        Inputs, Problem, ShiftError, convolved, forward, sequential, step,
    };

    use super::drawn::{Data, Spec, any_data, close_gradients};
    use super::support::property_cases;
    use crate::layouts::Layout;
    use crate::linear_state_space::close;

    /// Allowed relative error of outputs and states, times √(state + 1): each is a sum of as many terms.
    const TOLERANCE: f64 = 3e-7;
    /// Allowed relative error of gradients, times √(tokens + state + 1).
    const GRADIENT_TOLERANCE: f64 = 1e-6;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(property_cases(cases))
        }
    }

    fn failed(error: String) -> TestCaseError {
        TestCaseError::fail(error)
    }

    fn check(data: &Data, found: &(Vec<f32>, Vec<f32>)) -> Result<(), TestCaseError> {
        let (out, state) = data.by_reference();
        let allowed = TOLERANCE * (data.spec.state_dim as f64 + 1.0).sqrt();
        close("out", allowed, &found.0, &out).map_err(failed)?;
        close("state", allowed, &found.1, &state).map_err(failed)
    }

    /// One sequence of so many tokens.
    fn one_sequence(data: Data, time: usize) -> Data {
        Data::new(Spec {
            batch: 1,
            time,
            layout: Layout::Equal,
            ..data.spec
        })
    }

    proptest! {
        #![proptest_config(config(200))]

        #[test]
        fn every_form_equals_the_definition(data in any_data(150, 20)) {
            check(&data, &data.run(sequential))?;
            check(&data, &data.run(convolved))?;
            check(&data, &data.run(forward))?;
        }

        #[test]
        fn splitting_a_sequence_keeps_the_state(data in any_data(3, 20), time in 0..150_usize, cut in 0..150_usize) {
            let data = one_sequence(data, time);
            let cut = cut.min(time);
            let (mut out, state) = data.segment(0..cut, data.state.as_deref()).run(convolved);
            let (rest, state) = data.segment(cut..time, Some(&state)).run(convolved);
            out.extend(rest);
            check(&data, &(out, state))?;
        }

        #[test]
        fn steps_equal_the_definition(data in any_data(3, 20), time in 0..60_usize) {
            let data = one_sequence(data, time);
            let mut state = data.state.clone().unwrap_or_else(|| vec![0.0; data.problem().state_len()]);
            let mut out = Vec::new();
            for t in 0..time {
                let token = data.segment(t..t + 1, None);
                let mut y = vec![f32::NAN; data.spec.outputs * data.spec.channels];
                step(&token.problem(), &token.inputs(), &mut state, &mut y).expect("valid");
                out.extend(y);
            }
            check(&data, &(out, state))?;
        }

        #[test]
        fn gradients_equal_those_of_the_definition(data in any_data(150, 20)) {
            let terms = data.problem().rows() + data.spec.state_dim + 1;
            let allowed = GRADIENT_TOLERANCE * (terms as f64).sqrt();
            close_gradients(allowed, &data.gradients(), &data.reference_gradients()).map_err(failed)?;
        }
    }

    proptest! {
        #![proptest_config(config(40))]

        #[test]
        fn gradients_of_the_definition_are_its_derivatives(data in any_data(8, 3)) {
            let state_dim = data.spec.state_dim.min(6);
            Data::new(Spec { gap: 0, state_dim, ..data.spec }).check_reference_gradients().map_err(failed)?;
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let spec = Spec {
            batch: 2,
            time: 200,
            layout: Layout::Equal,
            channels: 40,
            outputs: 1,
            state_dim: 33,
            skip: true,
            state: true,
            state_cotangent: true,
            gap: 0,
            seed: 5,
        };
        let data = Data::new(spec);
        let run = || (data.run(sequential), data.run(convolved), data.gradients());
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("a few threads").install(run)
        };
        assert_eq!(on(1), on(3));
    }

    fn small() -> Data {
        Data::new(Spec {
            batch: 2,
            time: 3,
            layout: Layout::Equal,
            channels: 2,
            outputs: 1,
            state_dim: 4,
            skip: true,
            state: true,
            state_cotangent: false,
            gap: 0,
            seed: 1,
        })
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let data = small();
        let refused = |problem: Problem, inputs: Inputs| {
            let (mut out, mut state) = (vec![0.0; 12], vec![0.0; 16]);
            let outputs = &mut spillway_kernel_dsl::shift_state_space::Outputs {
                out: &mut out,
                state: &mut state,
            };
            sequential(&problem, &inputs, outputs)
                .expect_err("it does not fit")
                .to_string()
        };
        let (problem, inputs) = (data.problem(), data.inputs());
        assert_eq!(
            refused(
                problem,
                Inputs {
                    b: &[0.0; 7],
                    ..inputs
                }
            ),
            "shift state space: b needs 8 values, found 7 values"
        );
        assert_eq!(
            refused(
                Problem {
                    channels: 3,
                    ..problem
                },
                inputs
            ),
            "shift state space: input needs 6 rows of 3 values, found 6 rows of 2 values"
        );
        assert_eq!(
            refused(
                Problem {
                    channels: usize::MAX,
                    ..problem
                },
                inputs
            ),
            "shift state space: the problem has more values than this machine can address"
        );
        let (mut out, mut state) = (vec![0.0; 12], vec![0.0; 16]);
        assert_eq!(
            step(&problem, &inputs, &mut state, &mut out),
            Err(ShiftError::NotOneToken { time: 3, rows: 6 })
        );
    }
}
