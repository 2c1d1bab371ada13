//! Kernels of state spaces: the definitions against differences, the host against the definitions, and both operators against
//! each other and against the recurrence.

use crate::{ssm_kernel, support};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::cauchy::{self, CauchyError, truncation};
    use spillway_kernel_dsl::vandermonde::{self, Discretization, ModeSet, Steps, VandermondeError};

    use super::ssm_kernel::{Diagonal, LowRank, any_diagonal};
    use super::support::relative_error;

    fn config() -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(100))
        }
    }

    fn proved(result: Result<(), String>) -> Result<(), TestCaseError> {
        result.map_err(TestCaseError::fail)
    }

    fn any_low_rank(longest: usize, most: usize) -> impl Strategy<Value = LowRank> {
        let sizes = (
            0..3_usize,
            1..most,
            0..4_usize,
            1..3_usize,
            1..3_usize,
            0..3_usize,
        );
        (sizes, 0..longest, 0..longest, any::<u64>()).prop_map(|(sizes, nodes, cut, seed)| {
            let (channels, modes, rank, copies, readouts, batch) = sizes;
            let problem = cauchy::Problem {
                channels,
                modes,
                rank,
                copies,
                readouts,
                batch,
                nodes,
                length: nodes.saturating_sub(cut),
            };
            LowRank::new(problem, seed)
        })
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn gradients_of_a_vandermonde_kernel_are_those_of_its_definition(case in any_diagonal(9, 4)) {
            proved(case.check_definition())?;
        }

        #[test]
        fn the_vandermonde_kernel_is_its_definition(case in any_diagonal(300, 11)) {
            proved(case.check_host())?;
        }

        #[test]
        fn gradients_of_a_cauchy_kernel_are_those_of_its_definition(case in any_low_rank(8, 4)) {
            proved(case.check_definition())?;
        }

        #[test]
        fn the_cauchy_kernel_is_its_definition(case in any_low_rank(40, 6)) {
            proved(case.check_host())?;
        }

        #[test]
        fn a_truncated_readout_is_its_definition(case in any_low_rank(12, 4)) {
            proved(case.check_truncation())?;
        }

        #[test]
        fn a_signal_may_be_cut_anywhere(case in any_diagonal(80, 5), cut in 0..80_usize) {
            prop_assume!(case.problem.discretization != Discretization::Softmax);
            let vandermonde::Problem { channels, batch, length, .. } = case.problem;
            let cut = cut.min(length);
            let whole = case.run().next_state;
            let mut state = case.state.clone();
            for piece in [0..cut, cut..length] {
                let problem = vandermonde::Problem { length: piece.len(), ..case.problem };
                let mut part = case.clone().without_readouts(problem);
                part.state = state;
                let rows = (0..batch * channels).flat_map(|row| &case.signal[row * length..][piece.clone()]);
                part.signal = rows.copied().collect();
                state = part.run().next_state;
            }
            let expected: Vec<f64> = whole.iter().map(|&x| f64::from(x)).collect();
            let error = relative_error(&state, &expected);
            prop_assert!(error <= 2e-6, "the state is off by {:e}", error);
        }
    }

    #[test]
    fn large_systems_agree_with_their_definitions() {
        Diagonal::large().check_host().expect("the Vandermonde kernel");
        LowRank::large().check_host().expect("the Cauchy kernel");
    }

    /// A phase of a hundred thousand radians, and roots close to the unit circle.
    #[test]
    fn powers_keep_their_digits_over_65536_positions() {
        let problem = vandermonde::Problem {
            channels: 1,
            modes: 3,
            copies: 1,
            readouts: 1,
            batch: 0,
            length: 65_536,
            discretization: Discretization::ZeroOrderHold,
            mode_set: ModeSet::ConjugatePairs,
            steps: Steps::PerChannel,
        };
        let mut system = Diagonal::new(problem, 3);
        system.step = vec![0.003];
        system.a = vec![-0.02, 1300.5, -0.01, 502.3, -0.005, 3.1];
        for rule in [Discretization::ZeroOrderHold, Discretization::Bilinear] {
            system.problem.discretization = rule;
            system.check_host().expect("the definition");
        }
    }

    #[test]
    fn a_cauchy_kernel_of_rank_zero_is_a_vandermonde_kernel() {
        for nodes in [1, 2, 37, 64, 500] {
            let problem = vandermonde::Problem {
                channels: 3,
                modes: 4,
                copies: 3,
                readouts: 2,
                batch: 2,
                length: nodes,
                discretization: Discretization::Bilinear,
                mode_set: ModeSet::ConjugatePairs,
                steps: Steps::PerChannel,
            };
            let mut diagonal = Diagonal::new(problem, 21);
            // Modes that decay, so that little is lost where C̃ is rounded.
            diagonal.step.fill(0.5);
            diagonal.a.iter_mut().step_by(2).for_each(|re| *re -= 1.0);
            let expected = diagonal.run();
            let problem = cauchy::Problem {
                channels: 3,
                modes: 4,
                rank: 0,
                copies: 3,
                readouts: 2,
                batch: 2,
                nodes,
                length: nodes,
            };
            let mut system = LowRank::new(problem, 21);
            (system.step, system.a) = (diagonal.step.clone(), diagonal.a.clone());
            (system.b, system.c, system.state) =
                (diagonal.b.clone(), diagonal.c.clone(), diagonal.state.clone());
            let mut truncated = vec![f32::NAN; system.c.len()];
            truncation::truncate(&problem, &system.inputs(), &mut truncated).expect("valid");
            let mut restored = truncated.clone();
            let plain = std::mem::replace(&mut system.c, truncated);
            truncation::restore(&problem, &system.inputs(), &mut restored).expect("valid");
            assert!(relative_error(&restored, &plain) < 2e-5, "C of {nodes} nodes");
            let found = system.run();
            for (what, found, expected) in [
                ("kernel", &found.kernel, &expected.kernel),
                ("response", &found.state_kernel, &expected.state_kernel),
            ] {
                let error = relative_error(found, expected);
                assert!(error < 2e-6, "the {what} of {nodes} nodes is off by {error:e}");
            }
        }
    }

    #[test]
    fn a_readout_may_be_extended() {
        let problem = cauchy::Problem {
            channels: 2,
            modes: 4,
            rank: 2,
            copies: 1,
            readouts: 1,
            batch: 0,
            nodes: 24,
            length: 24,
        };
        let mut system = LowRank::new(problem, 5);
        let mut at_once = vec![0.0; system.c.len()];
        let twice = cauchy::Problem { nodes: 48, ..problem };
        truncation::truncate(&twice, &system.inputs(), &mut at_once).expect("valid");
        let mut once = at_once.clone();
        truncation::truncate(&problem, &system.inputs(), &mut once).expect("valid");
        system.c = once;
        let mut extended = at_once.clone();
        truncation::extend(&problem, &system.inputs(), &mut extended).expect("valid");
        assert!(relative_error(&extended, &at_once) < 1e-6);
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let refused = |change: fn(&mut Diagonal)| {
            let mut system = Diagonal::large();
            change(&mut system);
            let mut results = Diagonal::large().run();
            vandermonde::kernel(&system.problem, &system.inputs(), &mut results.as_written())
                .expect_err("it cannot be computed")
        };
        assert_eq!(
            refused(|s| s.step[1] = 0.0),
            VandermondeError::Step { index: 1, step: 0.0 }
        );
        assert!(matches!(
            refused(|s| s.step[0] = f32::NAN),
            VandermondeError::Step { index: 0, .. }
        ));
        assert!(matches!(
            refused(|s| s.a[2] = 1.5),
            VandermondeError::Unstable {
                channel: 0,
                mode: 1,
                ..
            }
        ));
        assert!(matches!(
            refused(|s| s.a[2] = f32::NAN),
            VandermondeError::NotFinite { mode: 1, .. }
        ));
        assert!(matches!(
            refused(|s| s.problem.discretization = Discretization::Softmax),
            VandermondeError::SoftmaxState { batch: 2 }
        ));
        assert!(matches!(
            refused(|s| s.problem.copies = 0),
            VandermondeError::NoCopy { channels: 5 }
        ));
        assert!(matches!(
            refused(|s| s.problem.modes = 6),
            VandermondeError::Shape(_)
        ));
        assert!(matches!(
            refused(|s| s.problem.modes = usize::MAX / 2),
            VandermondeError::Size(_)
        ));

        let refused = |change: fn(&mut LowRank)| {
            let mut system = LowRank::large();
            change(&mut system);
            let mut results = LowRank::large().run();
            cauchy::kernel(&system.problem, &system.inputs(), &mut results.as_written())
                .expect_err("it cannot be computed")
        };
        assert_eq!(
            refused(|s| s.problem.nodes = 80),
            CauchyError::Length {
                length: 90,
                nodes: 80
            }
        );
        assert_eq!(
            refused(|s| s.step[3] = -1.0),
            CauchyError::Step { index: 3, step: -1.0 }
        );
        assert!(matches!(refused(|s| s.problem.rank = 3), CauchyError::Shape(_)));
        assert!(matches!(
            refused(|s| s.problem.copies = 0),
            CauchyError::NoCopy { channels: 12 }
        ));
        // A mode that does not decay at all meets the node ω = 1.
        let singular = refused(|s| {
            s.a.fill(0.0);
            s.p.fill(0.0);
        });
        assert!(matches!(singular, CauchyError::Singular { node: 0, .. }));
        assert!(matches!(
            refused(|s| s.problem.nodes = usize::MAX / 2),
            CauchyError::Size(_)
        ));
    }
}
