//! Linear state spaces on every device compute what the f64 definition does, forward and backward.

use crate::{device, linear_state_space as drawn, support};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::cube::{Client, DType, Error};
    use spillway_kernel_dsl::linear_state_space::cube::{backward, forward};
    use spillway_kernel_dsl::linear_state_space::{
        DeviceCotangents, DeviceInputs, GradientBuffers, Operands, Results, Rule,
    };

    use super::device::{clients, download, upload, upload_rows};
    use super::drawn::{Data, Spec, any_data, close};
    use super::support::property_cases;

    /// Allowed relative error of outputs and states, times √(tokens + 1): the system is made discrete in f32.
    const TOLERANCE: f64 = 3e-6;
    /// Allowed relative error of gradients, times √(tokens + 1).
    const GRADIENT_TOLERANCE: f64 = 6e-6;
    /// Allowed relative error where tokens are of half precision.
    const HALF_TOLERANCE: f64 = 6e-3;

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

    fn inputs(client: &Client, data: &Data, dtype: DType) -> DeviceInputs {
        data.inputs().map(
            |_, rows| upload_rows(client, &rows, dtype),
            |_, values| upload(client, values),
        )
    }

    fn cotangents(client: &Client, data: &Data, dtype: DType) -> DeviceCotangents {
        let found = data.cotangents();
        Results {
            out: found.out.map(|rows| upload_rows(client, &rows, dtype)),
            state: found.state.map(|values| upload(client, values)),
        }
    }

    fn run(client: &Client, data: &Data, dtype: DType) -> (Vec<f32>, Vec<f32>) {
        let found = forward(client, &data.problem(), &inputs(client, data, dtype)).expect("valid");
        (download(client, &found.out), download(client, &found.state))
    }

    fn gradients(client: &Client, data: &Data, dtype: DType) -> GradientBuffers {
        let found = backward(
            client,
            &data.problem(),
            &inputs(client, data, dtype),
            &cotangents(client, data, dtype),
        );
        let read = |_, buffer| download(client, &buffer);
        let Operands {
            input,
            token_step_size,
            step_size,
            a,
            b,
            c,
            low_rank,
            skip,
            state,
        } = found.expect("valid").map(read, read);
        GradientBuffers {
            input,
            token_step_size,
            step_size,
            a,
            b,
            c,
            low_rank,
            skip,
            state,
        }
    }

    proptest! {
        #![proptest_config(config(25))]

        #[test]
        fn the_recurrence_equals_its_definition(data in any_data(50, 12)) {
            let (out, state) = data.by_reference();
            for (name, client) in clients() {
                let found = run(client, &data, DType::F32);
                close(&format!("out on {name}"), TOLERANCE * scale(&data), &found.0, &out).map_err(failed)?;
                close(&format!("state on {name}"), TOLERANCE * scale(&data), &found.1, &state).map_err(failed)?;
            }
        }

        #[test]
        fn gradients_equal_those_of_the_definition(data in any_data(50, 12)) {
            for (_, client) in clients() {
                let found = gradients(client, &data, DType::F32);
                data.check_gradients(GRADIENT_TOLERANCE * scale(&data), &found).map_err(failed)?;
            }
        }
    }

    /// As many modes as models have, and more than a cube has units.
    #[test]
    fn states_of_every_size_agree() {
        for (state_dim, token_steps) in [(32, false), (33, true), (64, false), (100, false), (100, true)] {
            let spec = Spec {
                token_steps,
                outputs: 2,
                ..Spec::of_model(0, (40, 3, state_dim))
            };
            let data = Data::new(spec);
            let (out, state) = data.by_reference();
            for (_, client) in clients() {
                let found = run(client, &data, DType::F32);
                close("out", TOLERANCE * scale(&data), &found.0, &out).expect("close");
                close("state", TOLERANCE * scale(&data), &found.1, &state).expect("close");
                let found = gradients(client, &data, DType::F32);
                data.check_gradients(GRADIENT_TOLERANCE * scale(&data), &found)
                    .expect("close");
            }
        }
    }

    #[test]
    fn tokens_may_be_of_half_precision() {
        for (_, client) in clients() {
            for (dtype, rank) in [
                (DType::F16, 0),
                (DType::F16, 1),
                (DType::BF16, 0),
                (DType::BF16, 1),
            ] {
                if !dtype.is_supported(client) {
                    continue;
                }
                let mut data = Data::new(Spec::of_model(rank, (20, 3, 8)));
                let rounded = |x: f32| match dtype {
                    DType::F16 => half::f16::from_f32(x).to_f32(),
                    _ => half::bf16::from_f32(x).to_f32(),
                };
                for values in [&mut data.input, &mut data.out_cotangent] {
                    values.iter_mut().for_each(|x| *x = rounded(*x));
                }
                let (out, _) = data.by_reference();
                close("out", HALF_TOLERANCE, &run(client, &data, dtype).0, &out).expect("close");
                let found = gradients(client, &data, dtype);
                close(
                    "input",
                    HALF_TOLERANCE,
                    &found.input,
                    &data.reference_gradients().input,
                )
                .expect("close");
            }
        }
    }

    #[test]
    fn what_the_host_refuses_is_refused() {
        let data = Data::new(Spec::of_model(0, (3, 2, 4)));
        for (_, client) in clients() {
            let problem = spillway_kernel_dsl::linear_state_space::Problem {
                rule: Rule::Given,
                ..data.problem()
            };
            let error =
                forward(client, &problem, &inputs(client, &data, DType::F32)).expect_err("a step size");
            assert!(matches!(error, Error::Problem(_)), "{error}");
            assert_eq!(
                error.to_string(),
                "linear state space: the rule Given needs no step size, found one"
            );
        }
    }
}
