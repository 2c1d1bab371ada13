//! Gradients of convolution, norms, step sizes and cross-entropy: the definition against central differences, the host against
//! the definition.

use crate::{layouts, support, tokenwise};

mod equivalence {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use spillway_kernel_dsl::causal_conv1d::{self, Activation, causal_conv1d};
    use spillway_kernel_dsl::cross_entropy;
    use spillway_kernel_dsl::gated_norm::{self, GateOrder, Statistic};
    use spillway_kernel_dsl::step_size;
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::layouts::Layout;
    use super::support::differences::compare;
    use super::support::relative_error;
    use super::tokenwise::{
        Convolution, Norm, any_convolution, any_norm, close, close_sums, random, widened,
    };

    /// Allowed relative error of a gradient.
    const TOLERANCE: f64 = 2e-6;

    fn config() -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(200))
        }
    }

    fn proved(result: Result<(), String>) -> Result<(), TestCaseError> {
        result.map_err(TestCaseError::fail)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn the_gradient_of_a_convolution_is_that_of_its_definition(case in any_convolution(7, 4)) {
            proved(case.check_definition())?;
        }

        #[test]
        fn the_convolution_pulls_back_as_its_definition_does(case in any_convolution(50, 70)) {
            proved(case.check_host())?;
        }

        #[test]
        fn rows_of_padding_change_nothing(case in any_convolution(20, 20)) {
            // The same sequences without padding, one call each.
            let channels = case.problem.channels;
            let past = channels * (case.problem.width - 1);
            let mut out = vec![f32::NAN; case.rows * channels];
            let mut state = case.state.clone();
            causal_conv1d(&case.problem, &case.inputs(), &mut state, &mut out).expect("valid");
            let (mut alone_out, mut alone_state) = (vec![0.0; out.len()], case.state.clone());
            for b in 0..case.problem.batch {
                let span = case.layout.sequences().span(b, case.problem.time);
                let x: Vec<f32> = span.clone().flat_map(|row| case.inputs().input.row(row)).copied().collect();
                let problem = causal_conv1d::Problem { batch: 1, time: span.len(), ..case.problem };
                let inputs = causal_conv1d::Inputs {
                    input: Rows::contiguous(&x, span.len(), channels).expect("whole rows"),
                    sequences: Sequences::Equal,
                    ..case.inputs()
                };
                let state = &mut alone_state[b * past..(b + 1) * past];
                let out = &mut alone_out[span.start * channels..span.end * channels];
                causal_conv1d(&problem, &inputs, state, out).expect("valid");
            }
            prop_assert_eq!(state, alone_state);
            proved(close("the convolution", &out, &widened(&alone_out)))?;
        }

        #[test]
        fn the_gradient_of_a_norm_is_that_of_its_definition(case in any_norm(4, 8, 0.25)) {
            proved(case.check_definition())?;
        }

        #[test]
        fn the_norm_pulls_back_as_its_definition_does(case in any_norm(5, 90, 1e-2)) {
            proved(case.check_host())?;
        }

        #[test]
        fn the_joint_of_two_blocks_pulls_back_as_sum_and_norm_do(
            (rows, features) in (0..5_usize, 1..200_usize),
            (seen, seed) in any::<(bool, u64)>(),
        ) {
            let len = rows * features;
            let norm = Norm {
                problem: gated_norm::Problem {
                    rows,
                    features,
                    group_size: features,
                    eps: 1e-2,
                    statistic: Statistic::MeanSquare,
                    order: GateOrder::NormAfterGate,
                },
                x: random(seed, len, 2.0),
                gate: None,
                weight: Some(random(seed ^ 2, features, 2.0)),
                bias: None,
                cotangent: random(seed ^ 4, len, 1.0),
            };
            let by_residual = seen.then(|| random(seed ^ 5, len, 1.0));
            let mut expected = norm.expected();
            if let Some(by_residual) = &by_residual {
                expected.input.iter_mut().zip(by_residual).for_each(|(e, &r)| *e += f64::from(r));
            }
            let (mut residual, mut weight) = (vec![f32::NAN; len], vec![f32::NAN; features]);
            let given = norm.weight.as_deref().unwrap_or_default();
            let mut gradients = gated_norm::JointGradients { residual: &mut residual, weight: Some(&mut weight) };
            let by_residual = by_residual.as_deref();
            gated_norm::add_rms_norm_backward(&norm.x, given, 1e-2, &norm.cotangent, by_residual, &mut gradients)
                .expect("valid");
            proved(close("the gradient of the residual", &residual, &expected.input))?;
            proved(close("the gradient of the weight", &weight, &expected.weight))?;
        }

        #[test]
        fn the_gradient_of_a_step_size_is_that_of_its_definition(
            (raw, bias, a_log) in (-4.0..4.0_f32, -2.0..2.0_f32, -2.0..2.0_f32),
            cotangent in (-1.0..1.0_f32, -1.0..1.0_f32),
            limit in prop_oneof![Just((0.0, f32::INFINITY)), Just((0.1_f32, 3.0_f32))],
        ) {
            let loss = |raw: f32, a_log: f32| {
                let (step, log_decay) = step_size::reference::step_size(raw, bias, a_log, limit);
                f64::from(cotangent.0) * step + f64::from(cotangent.1) * log_decay
            };
            // Differences across a bound mean nothing.
            let step = step_size::reference::step_size(raw, bias, a_log, (0.0, f32::INFINITY)).0;
            prop_assume!((step - 0.1).abs() > 2e-3 && (step - 3.0).abs() > 2e-3);
            let (by_raw, by_a_log) = step_size::reference::backward(raw, bias, a_log, limit, cotangent);
            proved(compare("the raw value", &[raw], &[by_raw], |raw| loss(raw[0], a_log)))?;
            proved(compare("A_log", &[a_log], &[by_a_log], |a_log| loss(raw, a_log[0])))?;
        }

        #[test]
        fn step_sizes_pull_back_as_their_definition_does(
            (rows, heads, gap) in (0..6_usize, 0..40_usize, 0..5_usize),
            limit in prop_oneof![Just((0.0, f32::INFINITY)), Just((0.1_f32, 3.0_f32))],
            [by_step, by_log] in any::<[bool; 2]>(),
            seed in any::<u64>(),
        ) {
            let raw = random(seed, rows * (heads + gap), 4.0);
            let raw = Rows::new(&raw, rows, heads, heads + gap).expect("whole rows");
            let (bias, a_log) = (random(seed ^ 1, heads, 2.0), random(seed ^ 2, heads, 2.0));
            let cotangents = [3, 4].map(|i| random(seed ^ i, rows * heads, 1.0));
            let view = |i: usize| Rows::contiguous(&cotangents[i], rows, heads).expect("whole rows");
            let mut by_raw = vec![f32::NAN; rows * heads];
            let [mut by_bias, mut by_a_log] = [vec![f32::NAN; heads], vec![f32::NAN; heads]];
            step_size::backward(
                &step_size::Problem { tokens: rows, heads, limit },
                &step_size::Inputs { raw, bias: &bias, a_log: &a_log },
                &step_size::Cotangents { step: by_step.then(|| view(0)), log_decay: by_log.then(|| view(1)) },
                &mut step_size::Gradients {
                    raw: &mut by_raw,
                    bias: &mut by_bias,
                    a_log: &mut by_a_log,
                },
            )
            .expect("valid");
            let (mut raws, mut biases, mut a_logs) = (Vec::new(), vec![0.0; heads], vec![0.0; heads]);
            let [mut bias_terms, mut a_log_terms] = [vec![0.0; heads], vec![0.0; heads]];
            for i in 0..rows * heads {
                let (row, h) = (i / heads, i % heads);
                let given = |seen: bool, values: &[f32]| if seen { values[i] } else { 0.0 };
                let cotangent = (given(by_step, &cotangents[0]), given(by_log, &cotangents[1]));
                let x = raw.row(row)[h];
                let (g, a) = step_size::reference::backward(x, bias[h], a_log[h], limit, cotangent);
                raws.push(g);
                biases[h] += g;
                bias_terms[h] += g.abs();
                a_logs[h] += a;
                a_log_terms[h] += a.abs();
            }
            proved(close("the gradient of the raw values", &by_raw, &raws))?;
            proved(close_sums("the gradient of the bias", &by_bias, &biases, &bias_terms))?;
            proved(close_sums("the gradient of A_log", &by_a_log, &a_logs, &a_log_terms))?;
        }

        #[test]
        fn cross_entropy_pulls_back_as_its_definition_does(
            (rows, classes, gap) in (0..5_usize, 1..300_usize, 0..5_usize),
            scale in prop_oneof![Just(1e-3_f32), Just(1.0), Just(20.0)],
            offset in prop_oneof![Just(0.0_f32), Just(1e3), Just(-1e3)],
            seed in any::<u64>(),
        ) {
            let mut logits = random(seed, rows * (classes + gap), scale);
            logits.iter_mut().for_each(|x| *x += offset);
            let view = Rows::new(&logits, rows, classes, classes + gap).expect("whole rows");
            let mut rng = StdRng::seed_from_u64(seed ^ 1);
            let targets: Vec<u32> = (0..rows).map(|_| rng.random_range(0..classes as u32)).collect();
            let cotangent = random(seed ^ 2, rows, 1.0);
            let mut gradient = vec![f32::NAN; rows * classes];
            cross_entropy::backward(view, &targets, &cotangent, &mut gradient).expect("valid");
            for (row, found) in gradient.chunks_exact(classes).enumerate() {
                let expected: Vec<f64> =
                    cross_entropy::reference::backward(view.row(row), targets[row] as usize)
                        .iter()
                        .map(|g| g * f64::from(cotangent[row]))
                        .collect();
                let error = relative_error(found, &expected);
                prop_assert!(error <= TOLERANCE, "row {} is off by {:e}", row, error);
            }
        }

        #[test]
        fn the_gradient_of_cross_entropy_is_that_of_its_definition(
            logits in proptest::collection::vec(-4.0..4.0_f32, 1..12),
            place in 0.0..1.0_f64,
        ) {
            let target = (place * logits.len() as f64) as usize;
            let gradient = cross_entropy::reference::backward(&logits, target);
            let loss = |logits: &[f32]| cross_entropy::reference::cross_entropy(logits, target);
            proved(compare("the logits", &logits, &gradient, loss))?;
        }
    }

    /// Enough rows for several tasks on several threads.
    #[test]
    fn sums_over_tokens_have_the_same_bits_on_any_number_of_threads() {
        let convolution = Convolution {
            layout: Layout::LeftPadded(vec![0, 40]),
            ..Convolution::example(2, 333, 257)
        };
        convolution.check_host().expect("close");
        let norm = Norm::example(301, 1536);
        norm.check_host().expect("close");
        let with_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("threads start")
                .install(|| (convolution.run(), norm.run()))
        };
        assert!(with_threads(1) == with_threads(4));
    }

    #[test]
    fn gradients_without_their_input_are_refused() {
        let view = Rows::contiguous(&[0.0; 6], 2, 3).expect("whole rows");
        let problem = causal_conv1d::Problem {
            batch: 1,
            time: 2,
            channels: 3,
            width: 2,
            activation: Activation::None,
        };
        let inputs = causal_conv1d::Inputs {
            input: view,
            weight: &[0.0; 6],
            bias: None,
            sequences: Sequences::Equal,
        };
        let mut gradients = causal_conv1d::Gradients {
            input: &mut [0.0; 6],
            weight: &mut [0.0; 6],
            bias: Some(&mut [0.0; 3]),
            state: &mut [0.0; 3],
        };
        let cotangents = causal_conv1d::Cotangents {
            out: view,
            state: None,
        };
        assert_eq!(
            causal_conv1d::backward(&problem, &inputs, &[0.0; 3], &cotangents, &mut gradients)
                .expect_err("no bias")
                .to_string(),
            "causal convolution: the gradient of bias needs none, found 3 values"
        );
        let problem = gated_norm::Problem {
            rows: 2,
            features: 3,
            group_size: 3,
            eps: 0.0,
            statistic: Statistic::MeanSquare,
            order: GateOrder::NormAfterGate,
        };
        let inputs = gated_norm::Inputs {
            input: view,
            gate: None,
            weight: None,
            bias: None,
        };
        let mut gradients = gated_norm::Gradients {
            input: &mut [0.0; 6],
            gate: Some(&mut [0.0; 6]),
            weight: None,
            bias: None,
        };
        assert_eq!(
            gated_norm::backward(&problem, &inputs, view, &mut gradients)
                .expect_err("no gate")
                .to_string(),
            "norm: the gradient of gate needs none, found 6 values"
        );
    }
}
