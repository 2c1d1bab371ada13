//! Convolutions over several axes: the definition's gradients against differences, every form on the host against the definition, and what
//! is refused.

use crate::{long_convolution_nd as drawn, support};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::long_convolution::nd::{
        Axes, Axis, Inputs, LongConvolutionNdError, Method, Outputs, Problem, long_convolution, reference,
    };
    use spillway_kernel_dsl::long_convolution::{self as along_one_axis, Direction, Later};
    use spillway_kernel_dsl::shape::ShapeError;

    use super::drawn::{LongConvolutionNd, any_long_convolution_nd};

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(super::support::property_cases(cases))
        }
    }

    fn proved(result: Result<(), String>) -> Result<(), TestCaseError> {
        result.map_err(TestCaseError::fail)
    }

    fn axes(axes: &[(usize, usize, usize)]) -> Axes {
        let axes = axes.iter().map(|&(size, taps, later)| Axis { size, taps, later });
        Axes::new(&axes.collect::<Vec<_>>()).expect("one to three axes")
    }

    fn problem(of: &[(usize, usize, usize)], rank: usize) -> Problem {
        Problem {
            batch: 2,
            axes: axes(of),
            channels: 3,
            multiplicity: 2,
            rank,
            method: Method::Auto,
        }
    }

    proptest! {
        #![proptest_config(config(60))]

        #[test]
        fn the_gradient_over_several_axes_is_that_of_its_definition(
            case in any_long_convolution_nd([6, 4, 3], 2, 0),
        ) {
            proved(case.check_definition())?;
        }

        #[test]
        fn small_images_and_volumes_agree_with_their_definition(
            case in any_long_convolution_nd([20, 8, 4], 19, 3),
        ) {
            proved(case.check_host())?;
        }
    }

    /// Lines that are transformed, beside others that are not, on every axis; and lengths beside powers of two.
    #[test]
    fn long_axes_agree_with_their_definition() {
        for (index, of) in [
            vec![(257, 300, 255), (2, 2, 1)],
            vec![(3, 1, 2), (200, 200, 199)],
            vec![(1, 1, 0), (129, 129, 128), (3, 3, 2)],
            vec![(17, 17, 16), (31, 16, 3)],
            vec![(5, 9, 0), (4, 1, 3), (9, 2, 8)],
        ]
        .iter()
        .enumerate()
        {
            let case = LongConvolutionNd::example(problem(of, 2), index as u64);
            case.check_host()
                .unwrap_or_else(|error| panic!("{of:?}: {error}"));
        }
    }

    /// Of one axis and one term it is the long convolution along it.
    #[test]
    fn one_axis_is_the_convolution_along_it() {
        let problem = problem(&[(40, 40, 39)], 1);
        let case = LongConvolutionNd::example(problem, 5);
        let plain = along_one_axis::Problem {
            batch: problem.batch,
            time: 40,
            channels: problem.channels,
            multiplicity: problem.multiplicity,
            taps: 40,
            direction: Direction::Both(Later::Next),
            method: along_one_axis::Method::Auto,
        };
        let rows = case.kernel.chunks_exact(79);
        let kernel: Vec<f32> = rows.clone().flat_map(|row| row[39..].to_vec()).collect();
        // The last tap of the later kernel meets nothing.
        let later = rows.flat_map(|row| row[..39].iter().rev().copied().chain([0.0]));
        let later: Vec<f32> = later.collect();
        let inputs = along_one_axis::Inputs {
            input: case.inputs().input,
            kernel: &kernel,
            later_kernel: Some(&later),
            skip: case.skip.as_deref(),
            response: None,
            tail: None,
        };
        let expected = along_one_axis::reference::long_convolution(&plain, &inputs).expect("valid");
        let found = reference::long_convolution(&problem, &case.inputs()).expect("valid");
        assert_eq!(found.out.len(), expected.out.len());
        for (found, expected) in found.out.iter().zip(&expected.out) {
            assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_over_several_axes() {
        for method in [Method::PerAxis, Method::Fourier] {
            let problem = Problem {
                channels: 70,
                method,
                ..problem(&[(20, 20, 19), (24, 24, 23)], 2)
            };
            let case = LongConvolutionNd::example(problem, 5);
            let of = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads");
                pool.install(|| (case.run(), case.pull_back()))
            };
            assert_eq!(of(1), of(3), "{method:?}");
        }
    }

    #[test]
    fn what_does_not_fit_over_several_axes_is_refused() {
        let axis = Axis {
            size: 2,
            taps: 2,
            later: 1,
        };
        assert_eq!(Axes::new(&[]), Err(LongConvolutionNdError::Axes(0)));
        assert_eq!(Axes::new(&[axis; 4]), Err(LongConvolutionNdError::Axes(4)));
        let no_taps = Axis { taps: 0, ..axis };
        assert_eq!(
            Axes::new(&[axis, no_taps]),
            Err(LongConvolutionNdError::NoTaps { axis: 1 })
        );
        let problem = problem(&[(2, 2, 1), (3, 1, 0)], 2);
        let case = LongConvolutionNd::example(problem, 1);
        let of = |problem: Problem, inputs: Inputs| {
            let mut out = vec![0.0; 72];
            long_convolution(&problem, &inputs, &mut Outputs { out: &mut out })
        };
        assert_eq!(of(problem, case.inputs()), Ok(()));
        let huge = Problem {
            axes: axes(&[(usize::MAX / 20, 1, 0)]),
            ..problem
        };
        assert_eq!(
            of(huge, case.inputs()),
            Err(LongConvolutionNdError::TooLarge(huge))
        );
        let operand = |inputs: Inputs| match of(problem, inputs) {
            Err(LongConvolutionNdError::Shape(ShapeError { operand, .. })) => operand,
            other => panic!("{other:?}"),
        };
        let narrow = Rows::contiguous(&case.input, 12, 2).expect("whole rows");
        assert_eq!(
            operand(Inputs {
                input: narrow,
                ..case.inputs()
            }),
            "input"
        );
        assert_eq!(
            operand(Inputs {
                kernel: &case.kernel[1..],
                ..case.inputs()
            }),
            "kernel"
        );
        assert_eq!(
            operand(Inputs {
                skip: Some(&[]),
                ..case.inputs()
            }),
            "skip"
        );
    }
}
