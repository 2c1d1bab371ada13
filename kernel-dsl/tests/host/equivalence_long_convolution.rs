//! Long convolutions: the definition's gradients against differences, every form on the host against the definition, streams against
//! the whole, and what is refused.

use crate::{long_convolution as drawn, support};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::long_convolution::{
        Direction, Inputs, Later, LongConvolutionError, Method, Outputs, Problem, long_convolution,
    };
    use spillway_kernel_dsl::shape::ShapeError;

    use super::drawn::{LongConvolution, any_direction, any_long_convolution, close};

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(super::support::property_cases(cases))
        }
    }

    fn proved(result: Result<(), String>) -> Result<(), TestCaseError> {
        result.map_err(TestCaseError::fail)
    }

    proptest! {
        #![proptest_config(config(200))]

        #[test]
        fn the_gradient_of_a_long_convolution_is_that_of_its_definition(case in any_long_convolution(9, 12, 3, 0)) {
            proved(case.check_definition())?;
        }

        #[test]
        fn short_long_convolutions_agree_with_their_definition(case in any_long_convolution(20, 30, 40, 3)) {
            proved(case.check_host())?;
        }
    }

    proptest! {
        #![proptest_config(config(40))]

        #[test]
        fn long_convolutions_agree_with_their_definition(case in any_long_convolution(700, 700, 3, 3)) {
            proved(case.check_host())?;
        }

        /// A kernel that reaches from any token to any other, at lengths beside powers of two.
        #[test]
        fn no_tap_wraps_around(
            direction in any_direction(),
            (time, longer) in (1_usize..9).prop_flat_map(|power| {
                let length = 1_usize << power;
                (length - 1..length + 2, 0..3_usize)
            }),
            seed in any::<u64>(),
        ) {
            let problem = Problem {
                batch: 1,
                time,
                channels: 2,
                multiplicity: 1,
                taps: time + longer - longer.min(1),
                direction,
                method: Method::Auto,
            };
            proved(LongConvolution::example(problem, seed).check_host())?;
        }

        #[test]
        fn a_stream_in_pieces_is_the_whole(
            case in any_long_convolution(120, 90, 4, 0),
            cuts in prop::collection::vec(0..121_usize, 0..4),
            methods in prop::collection::vec(prop_oneof![Just(Method::Direct), Just(Method::Fourier)], 5),
        ) {
            let mut case = case;
            case.problem.batch = case.problem.batch.min(1);
            case.problem.direction = Direction::Streamed;
            case = LongConvolution::example(case.problem, 3);
            let whole = case.expected().0;
            let (outputs, channels) = (case.problem.outputs(), case.problem.channels);
            let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut.min(case.problem.time)).collect();
            ends.push(case.problem.time);
            ends.sort_unstable();
            let (mut first, mut out) = (0, Vec::new());
            let mut tail = case.tail.clone();
            for (end, method) in ends.into_iter().zip(methods) {
                let rows = |values: &[f32], cols: usize| {
                    let batch = case.problem.batch;
                    values[batch * first * cols..batch * end * cols].to_vec()
                };
                let piece = LongConvolution {
                    problem: Problem { time: end - first, method, ..case.problem },
                    input: rows(&case.input, channels),
                    response: case.response.as_deref().map(|response| rows(response, outputs)),
                    tail,
                    ..case.clone()
                };
                let found = piece.run();
                out.extend(found.out);
                tail = Some(found.tail);
                first = end;
            }
            proved(close("the output", &out, &whole.out, 1e-6))?;
            proved(close("the tail", &tail.unwrap_or_default(), &whole.tail, 1e-6))?;
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let problem = Problem {
            batch: 2,
            time: 600,
            channels: 70,
            multiplicity: 2,
            taps: 600,
            direction: Direction::Both(Later::Next),
            method: Method::Fourier,
        };
        let case = LongConvolution::example(problem, 5);
        let of = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("threads");
            pool.install(|| (case.run(), case.pull_back()))
        };
        assert_eq!(of(1), of(3));
    }

    #[test]
    fn what_is_not_a_number_stays_in_its_channel() {
        let problem = Problem {
            batch: 1,
            time: 100,
            channels: 20,
            multiplicity: 1,
            taps: 100,
            direction: Direction::Causal,
            method: Method::Fourier,
        };
        let clean = LongConvolution::example(problem, 6);
        let mut case = clean.clone();
        case.input[50 * 20 + 3] = f32::NAN;
        let (clean, found) = (clean.run().out, case.run().out);
        for (i, (clean, found)) in clean.iter().zip(found).enumerate() {
            assert!(i % 20 == 3 || *clean == found, "value {i}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let problem = Problem {
            batch: 1,
            time: 4,
            channels: 2,
            multiplicity: 3,
            taps: 5,
            direction: Direction::Streamed,
            method: Method::Auto,
        };
        let case = LongConvolution::example(problem, 1);
        let of = |problem: Problem, inputs: Inputs| {
            let (mut out, mut tail) = (vec![0.0; 24], vec![0.0; 24]);
            let mut outputs = Outputs {
                out: &mut out,
                tail: &mut tail,
            };
            long_convolution(&problem, &inputs, &mut outputs)
        };
        assert_eq!(of(problem, case.inputs()), Ok(()));
        let no_taps = Problem { taps: 0, ..problem };
        assert_eq!(of(no_taps, case.inputs()), Err(LongConvolutionError::NoTaps));
        let kernel = Some(&case.kernel[..]);
        let two = Inputs {
            later_kernel: kernel,
            ..case.inputs()
        };
        assert_eq!(of(problem, two), Err(LongConvolutionError::LaterKernel));
        let both = Problem {
            direction: Direction::Both(Later::Next),
            ..problem
        };
        assert_eq!(of(both, case.inputs()), Err(LongConvolutionError::NoLaterKernel));
        let huge = Problem {
            time: usize::MAX / 20,
            ..problem
        };
        assert_eq!(of(huge, case.inputs()), Err(LongConvolutionError::TooLarge(huge)));
        let operand = |result: Result<(), LongConvolutionError>| match result {
            Err(LongConvolutionError::Shape(ShapeError { operand, .. })) => operand,
            other => panic!("{other:?}"),
        };
        // A tail belongs to a stream.
        assert_eq!(
            operand(of(
                both,
                Inputs {
                    later_kernel: kernel,
                    ..case.inputs()
                }
            )),
            "tail"
        );
        assert_eq!(
            operand(of(
                problem,
                Inputs {
                    kernel: &case.kernel[1..],
                    ..case.inputs()
                }
            )),
            "kernel"
        );
        assert_eq!(
            operand(of(
                problem,
                Inputs {
                    skip: Some(&[]),
                    ..case.inputs()
                }
            )),
            "skip"
        );
        let narrow = Rows::contiguous(&case.input, 4, 1).expect("whole rows");
        assert_eq!(
            operand(of(
                problem,
                Inputs {
                    input: narrow,
                    ..case.inputs()
                }
            )),
            "input"
        );
        assert_eq!(
            operand(of(
                problem,
                Inputs {
                    response: Some(narrow),
                    ..case.inputs()
                }
            )),
            "response"
        );
    }
}
