//! The recurrence on every device equals the reference.

use crate::{device, support};

mod equivalence {
    #[path = "../../host/equivalence/data.rs"]
    #[allow(dead_code)]
    mod data;

    use data::{Data, Spec, any_spec};
    use proptest::prelude::*;
    use spillway_kernel_dsl::LogDecay;
    use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, Limits};
    use spillway_kernel_dsl::recurrence::cube::{
        DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Plan, backward, chunked,
        chunked_autotuned, sequential, step,
    };
    use spillway_kernel_dsl::recurrence::{GradientBuffers, reference};
    use spillway_kernel_dsl::sequences::Sequences;

    use super::device::{clients, download, upload, upload_rows};
    use super::support::relative_error;

    /// Allowed relative error in f32, times √(tokens + 1).
    const TOLERANCE: f64 = 1e-6;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(cases))
        }
    }

    fn device_inputs<'a>(client: &Client, data: &'a Data, dtype: DType) -> DeviceInputs<'a> {
        let inputs = data.inputs();
        let rows = |rows| upload_rows(client, rows, dtype);
        let gates = |rows| upload_rows(client, rows, DType::F32);
        DeviceInputs {
            query: rows(&inputs.query),
            key: rows(&inputs.key),
            value: rows(&inputs.value),
            log_decay: match &inputs.log_decay {
                LogDecay::None => LogDecay::None,
                LogDecay::Constant(values) => LogDecay::Constant(upload(client, values)),
                LogDecay::Token(rows) => LogDecay::Token(gates(rows)),
            },
            step_size: inputs.step_size.as_ref().map(gates),
            bonus: inputs.bonus.map(|bonus| upload(client, bonus)),
            skip: inputs.skip.map(|skip| upload(client, skip)),
            scale: inputs.scale,
            sequences: inputs.sequences,
        }
    }

    fn by_reference(data: &Data) -> (Vec<f64>, Vec<f64>) {
        let mut state: Vec<f64> = data.state.iter().map(|x| f64::from(*x)).collect();
        let mut out = vec![f64::NAN; data.out_len()];
        reference::recurrence(&data.problem, &data.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    fn check(
        name: &str,
        (time, tolerance): (usize, f64),
        found: &[f32],
        expected: &[f64],
    ) -> Result<(), TestCaseError> {
        let error = relative_error(found, expected);
        let allowed = tolerance * (time as f64 + 1.0).sqrt();
        // Written so that NaN fails.
        let close = error <= allowed;
        prop_assert!(close, "{name} is off by {error:.2e}, allowed {allowed:.2e}");
        Ok(())
    }

    /// Chunks of 16 or of 32 tokens, with short blocks in the former, so that there are levels of blocks in both.
    fn any_plan() -> impl Strategy<Value = (usize, usize)> {
        prop_oneof![Just((16, 4)), Just((32, 16))]
    }

    fn plan(client: &Client, (chunk_size, block): (usize, usize)) -> Plan {
        let plan = Plan::exact(&Limits::of(client), chunk_size).expect("it fits");
        plan.with_block(block)
    }

    fn check_outputs(
        name: &str,
        (client, data): (&Client, &Data),
        found: &DeviceOutputs,
        tolerance: f64,
    ) -> Result<(), TestCaseError> {
        let (out, state) = by_reference(data);
        let time = data.problem.time;
        check(
            &format!("output {name}"),
            (time, tolerance),
            &download(client, &found.out),
            &out,
        )?;
        check(
            &format!("state {name}"),
            (time, tolerance),
            &download(client, &found.state),
            &state,
        )
    }

    fn gradients_by_reference(data: &Data) -> GradientBuffers<f64> {
        let inputs = data.inputs();
        let state: Vec<f64> = data.state.iter().map(|x| f64::from(*x)).collect();
        let mut gradients = GradientBuffers::zeros(&data.problem, &inputs).expect("valid");
        reference::backward(
            &data.problem,
            &inputs,
            &state,
            &data.cotangents(),
            &mut gradients.as_written(),
        )
        .expect("valid");
        gradients
    }

    fn gradients_on(client: &Client, data: &Data, dtype: DType, plan: &Plan) -> DeviceGradients {
        let inputs = device_inputs(client, data, dtype);
        let cotangents = data.cotangents();
        let cotangents = DeviceCotangents {
            out: upload_rows(client, &cotangents.out, dtype),
            state: cotangents.state.map(|state| upload(client, state)),
        };
        let start = upload(client, &data.state);
        backward(client, &data.problem, &inputs, plan, Some(&start), &cotangents).expect("valid")
    }

    /// An input's name, its gradient, and what that should be.
    type Beside<'a> = (&'static str, Option<&'a DeviceBuffer>, Option<&'a Vec<f64>>);

    /// Every gradient under the name of its input, beside the expected one.
    fn beside<'a>(found: &'a DeviceGradients, expected: &'a GradientBuffers<f64>) -> Vec<Beside<'a>> {
        vec![
            ("query", Some(&found.query), Some(&expected.query)),
            ("key", Some(&found.key), Some(&expected.key)),
            ("value", Some(&found.value), Some(&expected.value)),
            (
                "log decay",
                found.log_decay.as_ref().either(),
                expected.log_decay.as_ref().either(),
            ),
            ("step size", found.step_size.as_ref(), expected.step_size.as_ref()),
            ("bonus", found.bonus.as_ref(), expected.bonus.as_ref()),
            ("skip", found.skip.as_ref(), expected.skip.as_ref()),
            ("state", Some(&found.state), Some(&expected.state)),
        ]
    }

    fn check_gradients(
        name: &str,
        (client, data): (&Client, &Data),
        found: &DeviceGradients,
        tolerance: f64,
    ) -> Result<(), TestCaseError> {
        let expected = gradients_by_reference(data);
        for (input, found, expected) in beside(found, &expected) {
            prop_assert_eq!(found.is_some(), expected.is_some(), "{}", input);
            if let (Some(found), Some(expected)) = (found, expected) {
                let name = format!("gradient of {input} {name}");
                check(
                    &name,
                    (data.problem.time, tolerance),
                    &download(client, found),
                    expected,
                )?;
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(config(24))]

        #[test]
        fn token_by_token_equals_the_reference(spec in any_spec(40)) {
            let data = Data::new(&spec);
            for (device, client) in clients() {
                let inputs = device_inputs(client, &data, DType::F32);
                let start = upload(client, &data.state);
                let found = sequential(client, &data.problem, &inputs, Some(&start)).expect("valid");
                check_outputs(&format!("token by token on {device}"), (client, &data), &found, TOLERANCE)?;
            }
        }

        #[test]
        fn chunks_equal_the_reference(spec in any_spec(100), sizes in any_plan()) {
            let data = Data::new(&spec);
            for (device, client) in clients() {
                let inputs = device_inputs(client, &data, DType::F32);
                let start = upload(client, &data.state);
                let plan = plan(client, sizes);
                let found = chunked(client, &data.problem, &inputs, &plan, Some(&start)).expect("valid");
                check_outputs(&format!("by chunks on {device}"), (client, &data), &found, TOLERANCE)?;
            }
        }

        #[test]
        fn gradients_of_chunks_equal_the_reference(spec in any_spec(100), sizes in any_plan()) {
            let data = Data::new(&spec);
            for (device, client) in clients() {
                let found = gradients_on(client, &data, DType::F32, &plan(client, sizes));
                check_gradients(&format!("by chunks on {device}"), (client, &data), &found, TOLERANCE)?;
            }
        }
    }

    /// Half-precision inputs and products: the reference gets the rounded inputs, so what remains is the rounding of
    /// operands and results.
    #[test]
    fn half_precision_stays_within_its_rounding() {
        for (device, client) in clients() {
            for dtype in [DType::F16, DType::BF16] {
                if !dtype.is_supported(client) {
                    eprintln!("{device} has no {dtype}");
                    continue;
                }
                for spec in Spec::large() {
                    let mut data = Data::new(&spec);
                    data.round_tokens(|x| rounded(x, dtype));
                    let inputs = device_inputs(client, &data, dtype);
                    let start = upload(client, &data.state);
                    let found = sequential(client, &data.problem, &inputs, Some(&start)).expect("valid");
                    check_outputs("token by token", (client, &data), &found, 5e-4).expect("close");
                    let plan = plan(client, (16, 16)).with_operands(dtype);
                    let found = chunked(client, &data.problem, &inputs, &plan, Some(&start)).expect("valid");
                    check_outputs("by chunks", (client, &data), &found, 5e-4).expect("close");
                    let found = gradients_on(client, &data, dtype, &plan);
                    check_gradients("by chunks", (client, &data), &found, 5e-4).expect("close");
                }
            }
        }
    }

    fn rounded(x: f32, dtype: DType) -> f32 {
        match dtype {
            DType::F32 => x,
            DType::F16 => half::f16::from_f32(x).to_f32(),
            DType::BF16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    #[test]
    fn the_same_call_gives_the_same_bits() {
        for (_, client) in clients() {
            let data = Data::new(&Spec::large()[1]);
            let inputs = device_inputs(client, &data, DType::F32);
            let plan = plan(client, (16, 4));
            let run = || {
                let found = chunked(client, &data.problem, &inputs, &plan, None).expect("valid");
                let gradients = gradients_on(client, &data, DType::F32, &plan);
                let buffers = [
                    &found.out,
                    &found.state,
                    &gradients.query,
                    &gradients.key,
                    &gradients.value,
                    &gradients.state,
                ];
                buffers.map(|buffer| download(client, buffer))
            };
            assert!(run() == run(), "a repetition differs");
        }
    }

    #[test]
    fn no_tokens_leave_the_state_as_it_is() {
        for (_, client) in clients() {
            let mut spec = Spec::large().remove(0);
            spec.problem.time = 0;
            let data = Data::new(&spec);
            let inputs = device_inputs(client, &data, DType::F32);
            let start = upload(client, &data.state);
            let found = chunked(
                client,
                &data.problem,
                &inputs,
                &plan(client, (16, 16)),
                Some(&start),
            )
            .expect("valid");
            assert_eq!(download(client, &found.state), data.state);
            assert!(download(client, &found.out).is_empty());
            let found = gradients_on(client, &data, DType::F32, &plan(client, (16, 16)));
            check_gradients("of nothing", (client, &data), &found, 0.0).expect("equal");
        }
    }

    #[test]
    fn an_autotuned_plan_equals_the_reference() {
        for (device, client) in clients() {
            let data = Data::new(&Spec::large()[0]);
            let inputs = device_inputs(client, &data, DType::F32);
            let start = upload(client, &data.state);
            for _ in 0..2 {
                let tuned = chunked_autotuned(client, &data.problem, &inputs, Some(&start));
                let (found, plan) = tuned.expect("valid");
                let name = format!("by a tuned plan with chunks of {} on {device}", plan.chunk_size());
                check_outputs(&name, (client, &data), &found, TOLERANCE).expect("close");
            }
        }
    }

    /// The words of every error that a wrong argument makes.
    #[test]
    fn wrong_arguments_are_named() {
        for (_, client) in clients() {
            let data = Data::new(&Spec::large()[0]);
            let problem = &data.problem;
            let inputs = || device_inputs(client, &data, DType::F32);
            let plan = plan(client, (16, 16));
            let words = |inputs: &DeviceInputs, state: Option<&DeviceBuffer>| {
                let error = chunked(client, problem, inputs, &plan, state).expect_err("it is wrong");
                error.to_string()
            };
            let short = upload(client, &data.state[1..]);
            let (len, found) = (problem.state_len(), problem.state_len() - 1);
            assert_eq!(
                words(&inputs(), Some(&short)),
                format!("recurrence: state needs {len} values, found {found} values")
            );

            let mut wrong = inputs();
            wrong.key = wrong.value.clone();
            let (expected, found) = (
                problem.groups * problem.key_dim,
                problem.heads * problem.value_dim,
            );
            let rows = wrong.key.rows();
            assert_eq!(
                words(&wrong, None),
                format!(
                    "recurrence: key needs {rows} rows of {expected} values, found {rows} rows of {found} values"
                )
            );

            let mut wrong = inputs();
            wrong.sequences = Sequences::Packed(&[0, 1]);
            assert!(
                words(&wrong, None).contains("offset 1 needs to be"),
                "{}",
                words(&wrong, None)
            );

            if DType::F16.is_supported(client) {
                let mut wrong = inputs();
                wrong.value = upload_rows(client, &data.inputs().value, DType::F16);
                assert_eq!(
                    words(&wrong, None),
                    "recurrence: value needs values of type f32, found f16"
                );
            }

            let mut wrong = inputs();
            wrong.log_decay = LogDecay::None;
            assert!(
                words(&wrong, None).contains("LogDecay::Token"),
                "{}",
                words(&wrong, None)
            );

            let error = step(client, problem, &inputs(), None).expect_err("many tokens");
            assert_eq!(
                error.to_string(),
                format!("a step takes time = 1 token, found {}", problem.time)
            );

            let most = Limits::of(client).buffer_bytes;
            let error =
                DeviceBuffer::empty(client, most as usize / 4 + 1, DType::F32).expect_err("too large");
            assert!(error.to_string().contains("takes at most"), "{error}");
            let error = Plan::exact(&Limits::of(client), 24).expect_err("no such chunk size");
            assert!(error.to_string().contains("one of 16, 32 and 64"), "{error}");
        }
    }
}
