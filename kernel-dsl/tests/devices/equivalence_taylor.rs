//! Taylor attention on every device, forward and backward, against its definition.

use crate::{device, layouts, support, taylor};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer};
    use spillway_kernel_dsl::feature_map::{self, FeatureMap, Packing};
    use spillway_kernel_dsl::taylor_attention::cube::{
        DeviceCotangents, DeviceInputs, Plan, backward, backward_by, chunked, chunked_by, step,
    };
    use spillway_kernel_dsl::taylor_attention::{Expansion, Problem};

    use super::device::{clients, download, upload, upload_rows};
    use super::layouts::Layout;
    use super::support::relative_error;
    use super::taylor::{Attention, any_attention, random};

    /// Allowed relative error in f32, times √(tokens + 1).
    const TOLERANCE: f64 = 3e-6;
    /// Allowed relative error of results that are rounded to f16.
    const F16_TOLERANCE: f64 = 2e-3;

    /// The same where features, weights and states are rounded to f16 before they are multiplied.
    const OPERANDS_TOLERANCE: f64 = 4e-3;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(cases))
        }
    }

    fn device_inputs<'a>(client: &Client, case: &'a Attention, dtype: DType) -> DeviceInputs<'a> {
        let inputs = case.inputs();
        DeviceInputs {
            query: upload_rows(client, &inputs.query, dtype),
            key: upload_rows(client, &inputs.key, dtype),
            value: upload_rows(client, &inputs.value, dtype),
            prefix_key: inputs.prefix_key.map(|rows| upload_rows(client, &rows, dtype)),
            prefix_value: inputs.prefix_value.map(|rows| upload_rows(client, &rows, dtype)),
            log_decay: inputs.log_decay.map(|decay| upload(client, decay)),
            sequences: case.layout.sequences(),
            prefix_padding: inputs.prefix_padding,
        }
    }

    fn device_cotangents(client: &Client, case: &Attention, dtype: DType) -> DeviceCotangents {
        DeviceCotangents {
            out: upload_rows(client, &case.cotangents().out, dtype),
            state: case.state_cotangent.as_deref().map(|state| upload(client, state)),
        }
    }

    fn close(
        what: &str,
        client: &Client,
        found: &DeviceBuffer,
        expected: &[f64],
        allowed: f64,
    ) -> Result<(), TestCaseError> {
        let found = download(client, found);
        prop_assert_eq!(found.len(), expected.len(), "values of {}", what);
        let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
        let error = relative_error(&found, expected);
        // Written so that NaN fails; a gradient that vanishes is compared by its size.
        let close = error <= allowed || error * norm.max(1e-9) <= allowed;
        prop_assert!(close, "{what} is off by {error:e}, allowed {allowed:e}");
        Ok(())
    }

    fn check(case: &Attention, dtype: DType, allowed: f64) -> Result<(), TestCaseError> {
        check_by(case, dtype, |plan| plan, allowed)
    }

    fn check_by(
        case: &Attention,
        dtype: DType,
        change: impl Fn(Plan) -> Plan,
        allowed: f64,
    ) -> Result<(), TestCaseError> {
        let ((out, state), expected) = (case.expected(), case.expected_gradients());
        for (name, client) in clients() {
            let (inputs, start) = (device_inputs(client, case, dtype), upload(client, &case.state));
            let plan = change(Plan::new(client.properties(), &case.problem, &inputs).expect("room"));
            let found = chunked_by(client, &case.problem, plan, &inputs, Some(&start)).expect("valid");
            close(
                &format!("the output on {name}"),
                client,
                &found.out,
                &out,
                allowed,
            )?;
            close(
                &format!("the state on {name}"),
                client,
                &found.state,
                &state,
                allowed,
            )?;
            if case.problem.time == 1 {
                let found = step(client, &case.problem, &inputs, Some(&start)).expect("valid");
                close(
                    &format!("a step's output on {name}"),
                    client,
                    &found.out,
                    &out,
                    allowed,
                )?;
                close(
                    &format!("a step's state on {name}"),
                    client,
                    &found.state,
                    &state,
                    allowed,
                )?;
            }
            let cotangents = device_cotangents(client, case, dtype);
            let found = backward_by(client, &case.problem, plan, &inputs, Some(&start), &cotangents);
            let found = found.expect("valid");
            let gradients = [
                ("query", &found.query, &expected.query),
                ("key", &found.key, &expected.key),
                ("value", &found.value, &expected.value),
                ("state", &found.state, &expected.state),
            ];
            for (what, found, expected) in gradients {
                let what = format!("the gradient of the {what} on {name}");
                close(&what, client, found, expected, allowed)?;
            }
            let optional = [
                ("prefix's key", &found.prefix_key, &expected.prefix_key),
                ("prefix's value", &found.prefix_value, &expected.prefix_value),
                ("decay", &found.log_decay, &expected.log_decay),
            ];
            for (what, found, expected) in optional {
                let what = format!("the gradient of the {what} on {name}");
                if let Some(found) = found {
                    close(&what, client, found, expected, allowed)?;
                }
            }
        }
        Ok(())
    }

    fn rounded(values: &[f32]) -> Vec<f32> {
        values.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect()
    }

    proptest! {
        #![proptest_config(config(25))]

        #[test]
        fn attention_on_devices_equals_its_definition(case in any_attention(75, 9, 3)) {
            let tokens = case.problem.time + case.problem.prefix;
            check(&case, DType::F32, TOLERANCE * (tokens as f64 + 1.0).sqrt())?;
        }
    }

    proptest! {
        #![proptest_config(config(8))]

        #[test]
        fn a_step_on_devices_equals_its_definition(case in any_attention(2, 12, 3), seed in any::<u64>()) {
            let problem = Problem { time: 1, batch: case.problem.batch.max(1), ..case.problem };
            let case = Attention::new(problem, Layout::Equal, 2, false, seed);
            check(&case, DType::F32, TOLERANCE * 2.0)?;
        }

        #[test]
        fn half_precision_costs_rounding_alone(case in any_attention(40, 9, 0)) {
            if clients().iter().any(|(_, client)| !DType::F16.is_supported(client)) {
                return Ok(());
            }
            let problem = Problem { expansion: Expansion::Taylor, ..case.problem };
            let case = Attention::new(problem, case.layout, 0, case.state_cotangent.is_some(), 3);
            let case = Attention {
                query: rounded(&case.query),
                key: rounded(&case.key),
                value: rounded(&case.value),
                prefix_key: rounded(&case.prefix_key),
                prefix_value: rounded(&case.prefix_value),
                out_cotangent: rounded(&case.out_cotangent),
                ..case
            };
            check(&case, DType::F16, F16_TOLERANCE)?;
            // As tensor cores round them; these are of f16 as no device here has bf16.
            check_by(&case, DType::F16, |plan| plan.with_operands(DType::F16), OPERANDS_TOLERANCE)?;
        }
    }

    #[test]
    fn features_on_devices_equal_their_definition() {
        let (rows, heads, key_dim) = (5, 3, 7);
        for (expansion, packing) in [
            (Expansion::Taylor, Packing::Full),
            (Expansion::Taylor, Packing::Symmetric),
            (Expansion::Square, Packing::Symmetric),
        ] {
            let map = FeatureMap {
                key_dim,
                scale: 0.4,
                expansion,
                packing,
            };
            let (x, cotangent) = (
                random(1, rows * heads * key_dim, 2.0),
                random(2, rows * heads * map.features(), 1.0),
            );
            let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
            let (mut features, mut gradient) = (Vec::new(), Vec::new());
            for (key, cotangent) in x.chunks(key_dim).zip(cotangent.chunks(map.features())) {
                features.extend(feature_map::reference::forward(&map, &wide(key)));
                gradient.extend(feature_map::reference::backward(
                    &map,
                    &wide(key),
                    &wide(cotangent),
                ));
            }
            for (_, client) in clients() {
                let view = |values, cols| {
                    let rows = Rows::contiguous(values, rows, heads * cols).expect("whole rows");
                    upload_rows(client, &rows, DType::F32)
                };
                let keys = view(&x, key_dim);
                let found = feature_map::cube::forward(client, &map, &keys).expect("valid");
                close("the features", client, &found, &features, TOLERANCE).expect("close");
                let cotangent = view(&cotangent, map.features());
                let found = feature_map::cube::backward(client, &map, &keys, &cotangent).expect("valid");
                close("the gradient", client, &found, &gradient, TOLERANCE).expect("close");
                let odd = FeatureMap { key_dim: 4, ..map };
                assert!(feature_map::cube::forward(client, &odd, &keys).is_err());
            }
        }
    }

    fn example() -> Attention {
        let problem = Problem {
            batch: 2,
            time: 100,
            prefix: 70,
            heads: 2,
            key_dim: 16,
            value_dim: 40,
            scale: 0.25,
            expansion: Expansion::Taylor,
            normalizer: Some(1e-6),
        };
        Attention::new(problem, Layout::Equal, 3, true, 11)
    }

    #[test]
    fn heads_of_the_size_of_based_agree_and_repeat_their_bits() {
        let case = example();
        check(&case, DType::F32, TOLERANCE * 10.0).expect("close");
        check(&case.clone().padded(3).decaying(4), DType::F32, TOLERANCE * 10.0).expect("close");
        for (_, client) in clients() {
            let run = || {
                let (inputs, start) = (
                    device_inputs(client, &case, DType::F32),
                    upload(client, &case.state),
                );
                let cotangents = device_cotangents(client, &case, DType::F32);
                let found =
                    backward(client, &case.problem, &inputs, Some(&start), &cotangents).expect("valid");
                [found.query, found.key, found.value, found.state].map(|buffer| download(client, &buffer))
            };
            assert_eq!(run(), run());
        }
    }

    #[test]
    fn no_state_is_one_of_zeros_and_wrong_ones_are_named() {
        let case = example();
        for (_, client) in clients() {
            let inputs = device_inputs(client, &case, DType::F32);
            let zeros = upload(client, &vec![0.0; case.state.len()]);
            let given = chunked(client, &case.problem, &inputs, Some(&zeros)).expect("valid");
            let absent = chunked(client, &case.problem, &inputs, None).expect("valid");
            assert_eq!(download(client, &given.out), download(client, &absent.out));
            assert_eq!(download(client, &given.state), download(client, &absent.state));
            let short = upload(client, &[0.0; 3]);
            let error = chunked(client, &case.problem, &inputs, Some(&short)).expect_err("too short");
            assert!(error.to_string().contains("state needs"), "{error}");
            let error = step(client, &case.problem, &inputs, None).expect_err("more than one token");
            assert!(error.to_string().contains("found 100"), "{error}");
        }
    }
}
