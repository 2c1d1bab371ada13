//! Long convolutions on every device, in both forms, forward and backward, against their definition.

use crate::{device, long_convolution as drawn, support, tokenwise};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::cube::{Client, DType, Error};
    use spillway_kernel_dsl::long_convolution::cube::{backward, long_convolution};
    use spillway_kernel_dsl::long_convolution::{
        DeviceCotangents, DeviceInputs, Direction, GradientBuffers, Later, Method, Problem, Results,
    };

    use super::device::{clients, download, upload, upload_rows};
    use super::drawn::{LongConvolution, any_long_convolution, close, close_gradients};
    use super::tokenwise::random;

    /// Allowed relative error in f32: factors on devices are products of two, in every pass.
    const TOLERANCE: f64 = 2e-6;
    /// Allowed relative error of results that are rounded to f16.
    const F16_TOLERANCE: f64 = 2e-3;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(super::support::property_cases(cases))
        }
    }

    fn given(client: &Client, case: &LongConvolution, dtype: DType) -> DeviceInputs {
        let rows = |rows: Rows| upload_rows(client, &rows, dtype);
        case.inputs()
            .map(|_, view| rows(view), |_, values| upload(client, values))
    }

    fn cotangents(client: &Client, case: &LongConvolution, dtype: DType) -> DeviceCotangents {
        let cotangents = case.cotangents();
        DeviceCotangents {
            out: cotangents.out.map(|rows| upload_rows(client, &rows, dtype)),
            tail: cotangents.tail.map(|values| upload(client, values)),
        }
    }

    fn check(case: &LongConvolution, method: Method, dtype: DType, tolerance: f64) -> Result<(), String> {
        let (results, gradients) = case.expected();
        let problem = Problem {
            method,
            ..case.problem
        };
        for (name, client) in clients() {
            let inputs = given(client, case, dtype);
            let found = long_convolution(client, &problem, &inputs).expect("valid");
            let found = Results {
                out: download(client, &found.out),
                tail: download(client, &found.tail),
            };
            close(
                &format!("the output ({method:?}) on {name}"),
                &found.out,
                &results.out,
                tolerance,
            )?;
            close(
                &format!("the tail ({method:?}) on {name}"),
                &found.tail,
                &results.tail,
                tolerance,
            )?;
            let cotangents = cotangents(client, case, dtype);
            let found = backward(client, &problem, &inputs, &cotangents).expect("valid");
            let found: GradientBuffers = found.map(
                |_, buffer| download(client, &buffer),
                |_, buffer| download(client, &buffer),
            );
            close_gradients(&format!("{method:?} on {name}"), &found, &gradients, tolerance)?;
        }
        Ok(())
    }

    fn check_forms(case: &LongConvolution) -> Result<(), TestCaseError> {
        for method in [Method::Direct, Method::Fourier] {
            check(case, method, DType::F32, TOLERANCE).map_err(TestCaseError::fail)?;
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(config(40))]

        #[test]
        fn short_long_convolutions_on_devices_agree_with_their_definition(case in any_long_convolution(12, 20, 70, 3)) {
            check_forms(&case)?;
        }
    }

    proptest! {
        #![proptest_config(config(12))]

        #[test]
        fn long_convolutions_on_devices_agree_with_their_definition(case in any_long_convolution(600, 600, 3, 3)) {
            check_forms(&case)?;
        }
    }

    /// Every number of points up to one of many passes.
    #[test]
    fn every_power_of_two_transforms_on_devices() {
        for power in 0..12 {
            let time = (1_usize << power) + usize::from(power > 3);
            let problem = Problem {
                batch: 1,
                time,
                channels: 2,
                multiplicity: 1,
                taps: time.min(40),
                direction: Direction::Both(Later::Current),
                method: Method::Fourier,
            };
            let case = LongConvolution::example(problem, power);
            check(&case, Method::Fourier, DType::F32, TOLERANCE).expect("the definition");
        }
    }

    #[test]
    fn half_precision_costs_rounding_alone() {
        if clients()
            .iter()
            .any(|(_, client)| !DType::F16.is_supported(client))
        {
            return;
        }
        let problem = Problem {
            batch: 2,
            time: 50,
            channels: 5,
            multiplicity: 2,
            taps: 50,
            direction: Direction::Streamed,
            method: Method::Auto,
        };
        let rounded = |seed, len| -> Vec<f32> {
            let values: Vec<f32> = random(seed, len, 1.0);
            values
                .into_iter()
                .map(|x| half::f16::from_f32(x).to_f32())
                .collect()
        };
        let case = LongConvolution {
            input: rounded(1, 500),
            response: Some(rounded(2, 1000)),
            out_cotangent: Some(rounded(3, 1000)),
            ..LongConvolution::example(problem, 4)
        };
        for method in [Method::Direct, Method::Fourier] {
            check(&case, method, DType::F16, F16_TOLERANCE).expect("the definition");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_a_launch() {
        let problem = Problem {
            batch: 1,
            time: 4,
            channels: 2,
            multiplicity: 1,
            taps: 5,
            direction: Direction::Causal,
            method: Method::Auto,
        };
        let case = LongConvolution::example(problem, 1);
        for (_, client) in clients() {
            let inputs = given(client, &case, DType::F32);
            let no_taps = Problem { taps: 0, ..problem };
            assert!(matches!(
                long_convolution(client, &no_taps, &inputs),
                Err(Error::Problem(_))
            ));
            let other = Problem { taps: 6, ..problem };
            assert!(matches!(
                long_convolution(client, &other, &inputs),
                Err(Error::Shape(_))
            ));
        }
    }
}
