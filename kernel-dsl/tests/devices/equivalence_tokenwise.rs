//! Convolution, norms, step sizes and cross-entropy on every device, forward and backward, against their definitions.

use crate::{device, support, tokenwise};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::causal_conv1d;
    use spillway_kernel_dsl::causal_conv1d::cube as conv;
    use spillway_kernel_dsl::cross_entropy;
    use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, Error};
    use spillway_kernel_dsl::gated_norm::cube as norm;
    use spillway_kernel_dsl::gated_norm::{self, GateOrder, Statistic};
    use spillway_kernel_dsl::step_size;

    use super::device::{clients, download, upload, upload_rows};
    use super::support::relative_error;
    use super::tokenwise::{Convolution, Norm, any_convolution, any_norm, random, widened};

    /// Allowed relative error in f32: exponentials on devices are good to about 10⁻⁶.
    const TOLERANCE: f64 = 5e-6;
    /// Allowed relative error of results that are rounded to f16.
    const F16_TOLERANCE: f64 = 2e-3;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(cases))
        }
    }

    fn close(
        what: &str,
        client: &Client,
        found: &DeviceBuffer,
        expected: &[f64],
        tolerance: f64,
    ) -> Result<(), TestCaseError> {
        let found = download(client, found);
        prop_assert_eq!(found.len(), expected.len(), "values of {}", what);
        let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
        let error = relative_error(&found, expected);
        // Written so that NaN fails.
        let close = error <= tolerance || error * norm.max(1e-9) <= tolerance;
        prop_assert!(close, "{what} is off by {error:e}");
        Ok(())
    }

    /// A convolution's inputs and initial state.
    fn conv_inputs<'a>(
        client: &Client,
        case: &'a Convolution,
        dtype: DType,
    ) -> (conv::DeviceInputs<'a>, DeviceBuffer) {
        let inputs = conv::DeviceInputs {
            input: upload_rows(client, &case.inputs().input, dtype),
            weight: upload(client, &case.weight),
            bias: case.bias.as_deref().map(|bias| upload(client, bias)),
            sequences: case.layout.sequences(),
        };
        (inputs, upload(client, &case.state))
    }

    fn conv_cotangents(client: &Client, case: &Convolution, dtype: DType) -> conv::DeviceCotangents {
        conv::DeviceCotangents {
            out: upload_rows(client, &case.cotangents().out, dtype),
            state: case.state_cotangent.as_deref().map(|state| upload(client, state)),
        }
    }

    fn norm_inputs(client: &Client, case: &Norm, dtype: DType) -> norm::DeviceInputs {
        let inputs = case.inputs();
        norm::DeviceInputs {
            input: upload_rows(client, &inputs.input, dtype),
            gate: inputs.gate.as_ref().map(|gate| upload_rows(client, gate, dtype)),
            weight: inputs.weight.map(|weight| upload(client, weight)),
            bias: inputs.bias.map(|bias| upload(client, bias)),
        }
    }

    fn check_norm(case: &Norm, dtype: DType, tolerance: f64) -> Result<(), TestCaseError> {
        let out = gated_norm::reference::gated_norm(&case.problem, &case.inputs()).expect("valid");
        let expected = case.expected();
        for (name, client) in clients() {
            let inputs = norm_inputs(client, case, dtype);
            let found = norm::gated_norm(client, &case.problem, &inputs).expect("valid");
            close(&format!("the norm on {name}"), client, &found, &out, tolerance)?;
            let cotangent = upload_rows(client, &case.view(&case.cotangent), dtype);
            let found = norm::backward(client, &case.problem, &inputs, &cotangent).expect("valid");
            let gradients = [
                ("input", Some(&found.input), &expected.input),
                ("gate", found.gate.as_ref(), &expected.gate),
                ("weight", found.weight.as_ref(), &expected.weight),
                ("bias", found.bias.as_ref(), &expected.bias),
            ];
            for (what, found, expected) in gradients {
                if let Some(found) = found {
                    let what = format!("the gradient of the {what} on {name}");
                    close(&what, client, found, expected, tolerance)?;
                }
            }
            prop_assert_eq!(
                [found.gate.is_some(), found.weight.is_some(), found.bias.is_some()],
                [case.gate.is_some(), case.weight.is_some(), case.bias.is_some()]
            );
        }
        Ok(())
    }

    fn check_convolution(case: &Convolution, dtype: DType, tolerance: f64) -> Result<(), TestCaseError> {
        let mut state = widened(&case.state);
        let out = causal_conv1d::reference::causal_conv1d(&case.problem, &case.inputs(), &mut state);
        let (out, expected) = (out.expect("valid"), case.expected());
        for (name, client) in clients() {
            let (inputs, start) = conv_inputs(client, case, dtype);
            let found = conv::causal_conv1d(client, &case.problem, &inputs, Some(&start)).expect("valid");
            close(
                &format!("the output on {name}"),
                client,
                &found.out,
                &out,
                tolerance,
            )?;
            close(
                &format!("the state on {name}"),
                client,
                &found.state,
                &state,
                tolerance,
            )?;
            let cotangents = conv_cotangents(client, case, dtype);
            let found =
                conv::backward(client, &case.problem, &inputs, Some(&start), &cotangents).expect("valid");
            let gradients = [
                ("input", Some(&found.input), &expected.input),
                ("weight", Some(&found.weight), &expected.weight),
                ("bias", found.bias.as_ref(), &expected.bias),
                ("state", Some(&found.state), &expected.state),
            ];
            for (what, found, expected) in gradients {
                if let Some(found) = found {
                    let what = format!("the gradient of the {what} on {name}");
                    close(&what, client, found, expected, tolerance)?;
                }
            }
            prop_assert_eq!(found.bias.is_some(), case.bias.is_some());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(config(40))]

        #[test]
        fn convolution_on_devices_equals_its_definition(case in any_convolution(80, 70)) {
            check_convolution(&case, DType::F32, TOLERANCE)?;
        }

        #[test]
        fn norm_on_devices_equals_its_definition(case in any_norm(4, 90, 1e-2)) {
            check_norm(&case, DType::F32, TOLERANCE)?;
        }
    }

    proptest! {
        #![proptest_config(config(6))]

        #[test]
        fn half_precision_costs_rounding_alone(conv in any_convolution(20, 30), norm in any_norm(3, 40, 0.25)) {
            let rounded = |values: &[f32]| -> Vec<f32> {
                values.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect()
            };
            if clients().iter().any(|(_, client)| !DType::F16.is_supported(client)) {
                return Ok(());
            }
            let conv = Convolution {
                x: rounded(&conv.x),
                out_cotangent: rounded(&conv.out_cotangent),
                ..conv
            };
            check_convolution(&conv, DType::F16, F16_TOLERANCE)?;
            let norm = Norm {
                x: rounded(&norm.x),
                gate: norm.gate.as_deref().map(rounded),
                cotangent: rounded(&norm.cotangent),
                ..norm
            };
            check_norm(&norm, DType::F16, F16_TOLERANCE)?;
        }
    }

    proptest! {
        #![proptest_config(config(15))]

        #[test]
        fn step_sizes_on_devices_equal_their_definition(
            (rows, heads, gap) in (0..40_usize, 1..40_usize, 0..5_usize),
            limit in prop_oneof![Just((0.0, f32::INFINITY)), Just((0.1_f32, 3.0_f32))],
            [by_step, by_log] in any::<[bool; 2]>(),
            seed in any::<u64>(),
        ) {
            let raw = random(seed, rows * (heads + gap), 8.0);
            let raw = Rows::new(&raw, rows, heads, heads + gap).expect("whole rows");
            let (bias, a_log) = (random(seed ^ 1, heads, 2.0), random(seed ^ 2, heads, 2.0));
            let cotangents = [3, 4].map(|i| random(seed ^ i, rows * heads, 1.0));
            let (mut steps, mut logs, mut raws) = (Vec::new(), Vec::new(), Vec::new());
            let (mut biases, mut a_logs) = (vec![0.0; heads], vec![0.0; heads]);
            for i in 0..rows * heads {
                let (x, h) = (raw.row(i / heads)[i % heads], i % heads);
                let (step, log) = step_size::reference::step_size(x, bias[h], a_log[h], limit);
                let given = |seen: bool, values: &[f32]| if seen { values[i] } else { 0.0 };
                let cotangent = (given(by_step, &cotangents[0]), given(by_log, &cotangents[1]));
                let (g, a) = step_size::reference::backward(x, bias[h], a_log[h], limit, cotangent);
                steps.push(step);
                logs.push(log);
                raws.push(g);
                biases[h] += g;
                a_logs[h] += a;
            }
            for (_, client) in clients() {
                let problem = step_size::Problem { tokens: rows, heads, limit };
                let inputs = step_size::DeviceInputs {
                    raw: upload_rows(client, &raw, DType::F32),
                    bias: upload(client, &bias),
                    a_log: upload(client, &a_log),
                };
                let view = |i: usize| {
                    let rows = Rows::contiguous(&cotangents[i], rows, heads).expect("whole rows");
                    upload_rows(client, &rows, DType::F32)
                };
                let cotangents = step_size::DeviceCotangents {
                    step: by_step.then(|| view(0)),
                    log_decay: by_log.then(|| view(1)),
                };
                let found = step_size::cube::step_size(client, &problem, &inputs).expect("valid");
                close("the step size", client, &found.step, &steps, TOLERANCE)?;
                close("the log decay", client, &found.log_decay, &logs, TOLERANCE)?;
                let found = step_size::cube::backward(client, &problem, &inputs, &cotangents).expect("valid");
                close("the gradient of the raw values", client, &found.raw, &raws, TOLERANCE)?;
                close("the gradient of the bias", client, &found.bias, &biases, TOLERANCE)?;
                close("the gradient of A_log", client, &found.a_log, &a_logs, TOLERANCE)?;
            }
        }

        #[test]
        fn cross_entropy_on_devices_equals_its_definition(
            (rows, classes, gap) in (0..5_usize, 1..3000_usize, 0..5_usize),
            scale in prop_oneof![Just(1.0_f32), Just(20.0)],
            seed in any::<u64>(),
        ) {
            let logits = random(seed, rows * (classes + gap), scale);
            let view = Rows::new(&logits, rows, classes, classes + gap).expect("whole rows");
            let targets: Vec<u32> = (0..rows).map(|row| (seed as usize + 97 * row) as u32 % classes as u32).collect();
            let cotangent = random(seed ^ 2, rows, 1.0);
            let (mut losses, mut gradients) = (Vec::new(), Vec::new());
            for row in 0..rows {
                let (logits, target) = (view.row(row), targets[row] as usize);
                losses.push(cross_entropy::reference::cross_entropy(logits, target));
                let by_logits = cross_entropy::reference::backward(logits, target);
                gradients.extend(by_logits.iter().map(|g| g * f64::from(cotangent[row])));
            }
            for (_, client) in clients() {
                let logits = upload_rows(client, &view, DType::F32);
                let found = cross_entropy::cube::cross_entropy(client, &logits, &targets).expect("valid");
                close("the loss", client, &found, &losses, TOLERANCE)?;
                let cotangent = upload(client, &cotangent);
                let found = cross_entropy::cube::backward(client, &logits, &targets, &cotangent).expect("valid");
                close("the gradient of the logits", client, &found, &gradients, TOLERANCE)?;
            }
        }
    }

    #[test]
    fn small_step_sizes_keep_their_digits() {
        let values = [-10.0_f32, -15.0, -20.0, -30.0, -60.0];
        let raw = Rows::contiguous(&values, 5, 1).expect("whole rows");
        for (_, client) in clients() {
            let problem = step_size::Problem {
                tokens: 5,
                heads: 1,
                limit: (0.0, f32::INFINITY),
            };
            let inputs = step_size::DeviceInputs {
                raw: upload_rows(client, &raw, DType::F32),
                bias: upload(client, &[0.0]),
                a_log: upload(client, &[0.0]),
            };
            let found = step_size::cube::step_size(client, &problem, &inputs).expect("valid");
            for (&x, found) in values.iter().zip(download(client, &found.step)) {
                let expected = step_size::reference::step_size(x, 0.0, 0.0, problem.limit).0;
                let error = (f64::from(found) / expected - 1.0).abs();
                assert!(error <= 1e-5, "softplus({x}) is off by {error:e}");
            }
        }
    }

    #[test]
    fn no_initial_state_is_one_of_zeros() {
        let case = Convolution::example(3, 50, 33);
        let zeros = Convolution {
            state: vec![0.0; case.state.len()],
            ..case.clone()
        };
        for (_, client) in clients() {
            let (inputs, start) = conv_inputs(client, &zeros, DType::F32);
            let given = conv::causal_conv1d(client, &case.problem, &inputs, Some(&start)).expect("valid");
            let absent = conv::causal_conv1d(client, &case.problem, &inputs, None).expect("valid");
            assert_eq!(download(client, &given.out), download(client, &absent.out));
            assert_eq!(download(client, &given.state), download(client, &absent.state));
        }
    }

    #[test]
    fn the_joint_of_two_blocks_equals_sum_and_norm() {
        let (rows, features) = (7, 150);
        let (x, residual) = (random(1, rows * features, 2.0), random(2, rows * features, 2.0));
        let sum: Vec<f32> = residual.iter().zip(&x).map(|(a, b)| a + b).collect();
        let case = Norm {
            problem: gated_norm::Problem {
                rows,
                features,
                group_size: features,
                eps: 1e-5,
                statistic: Statistic::MeanSquare,
                order: GateOrder::NormAfterGate,
            },
            x: sum.clone(),
            gate: None,
            weight: Some(random(3, features, 2.0)),
            bias: None,
            cotangent: random(4, rows * features, 1.0),
        };
        let by_residual = random(5, rows * features, 1.0);
        let out = gated_norm::reference::gated_norm(&case.problem, &case.inputs()).expect("valid");
        let mut expected = case.expected();
        let by_sum = expected.input.iter_mut().zip(&by_residual);
        by_sum.for_each(|(e, &r)| *e += f64::from(r));
        let weight = case.weight.as_deref().unwrap_or_default();
        for (_, client) in clients() {
            let rows = |values| upload_rows(client, &case.view(values), DType::F32);
            let weight = upload(client, weight);
            let found =
                norm::add_rms_norm(client, &rows(&residual), &rows(&x), &weight, 1e-5).expect("valid");
            close("the norm", client, &found.out, &out, TOLERANCE).expect("close");
            assert_eq!(download(client, &found.residual), sum);
            let found = norm::add_rms_norm_backward(
                client,
                &rows(&sum),
                &weight,
                1e-5,
                &rows(&case.cotangent),
                Some(&rows(&by_residual)),
            )
            .expect("valid");
            let by_residual = &found.residual;
            close(
                "the gradient of the residual",
                client,
                by_residual,
                &expected.input,
                TOLERANCE,
            )
            .expect("close");
            close(
                "the gradient of the weight",
                client,
                &found.weight,
                &expected.weight,
                TOLERANCE,
            )
            .expect("close");
        }
    }

    #[test]
    fn the_same_call_gives_the_same_bits() {
        let case = Convolution::example(2, 300, 70);
        let norm = Norm::example(90, 64);
        for (_, client) in clients() {
            let run = || {
                let (inputs, start) = conv_inputs(client, &case, DType::F32);
                let cotangents = conv_cotangents(client, &case, DType::F32);
                let conv = conv::backward(client, &case.problem, &inputs, Some(&start), &cotangents);
                let conv = conv.expect("valid");
                let inputs = norm_inputs(client, &norm, DType::F32);
                let cotangent = upload_rows(client, &norm.view(&norm.cotangent), DType::F32);
                let norm = norm::backward(client, &norm.problem, &inputs, &cotangent).expect("valid");
                let buffers = [Some(conv.input), Some(conv.weight), conv.bias, Some(conv.state)];
                let buffers =
                    buffers
                        .into_iter()
                        .chain([Some(norm.input), norm.gate, norm.weight, norm.bias]);
                buffers
                    .flatten()
                    .map(|buffer| download(client, &buffer))
                    .collect::<Vec<_>>()
            };
            assert_eq!(run(), run());
        }
    }

    #[test]
    fn wrong_shapes_and_types_are_named() {
        let case = Convolution::example(1, 5, 4);
        for (_, client) in clients() {
            let (mut inputs, start) = conv_inputs(client, &case, DType::F32);
            let text = |inputs: &conv::DeviceInputs, start: &DeviceBuffer| {
                let result = conv::causal_conv1d(client, &case.problem, inputs, Some(start));
                result.expect_err("it does not fit").to_string()
            };
            let short = upload(client, &[0.0; 3]);
            let message = text(&inputs, &short);
            assert!(message.contains("state needs 12 values, found 3"), "{message}");
            inputs.weight = short;
            let message = text(&inputs, &start);
            assert!(message.contains("weight needs 16 values, found 3"), "{message}");
            let norm = Norm::example(2, 8);
            let mut inputs = norm_inputs(client, &norm, DType::F32);
            let zeros = vec![0.0; 2 * 8];
            let view = Rows::contiguous(&zeros, 2, 8).expect("whole rows");
            if DType::F16.is_supported(client) {
                inputs.gate = Some(upload_rows(client, &view, DType::F16));
                let result = norm::gated_norm(client, &norm.problem, &inputs);
                assert!(matches!(
                    result,
                    Err(Error::Type {
                        operand: "gate",
                        expected: DType::F32,
                        found: DType::F16,
                        ..
                    })
                ));
            }
            let problem = gated_norm::Problem {
                group_size: 3,
                ..norm.problem
            };
            let result = norm::gated_norm(client, &problem, &inputs);
            let message = result.expect_err("three does not divide eight").to_string();
            assert!(message.contains("groups of 3"), "{message}");
        }
    }
}
