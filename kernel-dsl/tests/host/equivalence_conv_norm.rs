//! Convolution, norms, step sizes and cross-entropy against their definitions in f64.

use crate::support;

mod equivalence {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use spillway_kernel_dsl::causal_conv1d::{self, Activation, ConvError, causal_conv1d};
    use spillway_kernel_dsl::cross_entropy::{self, CrossEntropyError, cross_entropy};
    use spillway_kernel_dsl::gated_norm::{self, GateOrder, NormError, Statistic, add_rms_norm, gated_norm};
    use spillway_kernel_dsl::step_size::{self, StepSizeError, step_size};
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::support::{error_beside, relative_error};

    /// Allowed relative error.
    const TOLERANCE: f64 = 5e-7;

    fn config() -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(200))
        }
    }

    /// `len` values of magnitude about `scale`.
    fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..len).map(|_| rng.random_range(-scale..scale)).collect()
    }

    fn widened(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&v| f64::from(v)).collect()
    }

    /// A convolution with its inputs, whose rows lie in a wider buffer.
    #[derive(Debug)]
    struct Convolution {
        problem: causal_conv1d::Problem,
        stride: usize,
        x: Vec<f32>,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        state: Vec<f32>,
    }

    impl Convolution {
        fn new(problem: causal_conv1d::Problem, gap: usize, bias: bool, seed: u64) -> Self {
            let causal_conv1d::Problem {
                batch,
                time,
                channels,
                width,
                ..
            } = problem;
            let stride = channels + gap;
            Self {
                problem,
                stride,
                x: random(seed, batch * time * stride, 2.0),
                weight: random(seed ^ 1, channels * width, 1.0),
                bias: bias.then(|| random(seed ^ 2, channels, 1.0)),
                state: random(seed ^ 3, problem.state_len(), 2.0),
            }
        }

        fn inputs(&self) -> causal_conv1d::Inputs<'_> {
            let causal_conv1d::Problem {
                batch,
                time,
                channels,
                ..
            } = self.problem;
            causal_conv1d::Inputs {
                input: Rows::new(&self.x, batch * time, channels, self.stride).expect("whole rows"),
                weight: &self.weight,
                bias: self.bias.as_deref(),
                sequences: Sequences::Equal,
            }
        }

        /// Output and state.
        fn run(&self) -> (Vec<f32>, Vec<f32>) {
            let mut state = self.state.clone();
            let len = self.problem.batch * self.problem.time * self.problem.channels;
            let mut out = vec![f32::NAN; len];
            causal_conv1d(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
            (out, state)
        }

        /// Σ |wᵢ xᵢ| + |b| of every output.
        fn terms(&self) -> Vec<f64> {
            let absolute = |values: &[f32]| values.iter().map(|x| x.abs()).collect::<Vec<_>>();
            let positive = Self {
                problem: causal_conv1d::Problem {
                    activation: Activation::None,
                    ..self.problem
                },
                stride: self.stride,
                x: absolute(&self.x),
                weight: absolute(&self.weight),
                bias: self.bias.as_deref().map(absolute),
                state: absolute(&self.state),
            };
            let mut state = widened(&positive.state);
            causal_conv1d::reference::causal_conv1d(&positive.problem, &positive.inputs(), &mut state)
                .expect("valid")
        }

        fn check(&self) {
            let mut expected_state = widened(&self.state);
            let expected =
                causal_conv1d::reference::causal_conv1d(&self.problem, &self.inputs(), &mut expected_state);
            let (out, state) = self.run();
            let error = error_beside(&out, &expected.expect("valid"), &self.terms());
            assert!(error <= TOLERANCE, "off by {error:e}");
            assert_eq!(widened(&state), expected_state, "the state is a copy of inputs");
        }

        /// Tokens `first .. first + count` of a single sequence, from `state`.
        fn segment(&self, first: usize, count: usize, state: Vec<f32>) -> Self {
            Self {
                problem: causal_conv1d::Problem {
                    time: count,
                    ..self.problem
                },
                stride: self.stride,
                x: self.x[first * self.stride..(first + count) * self.stride].to_vec(),
                weight: self.weight.clone(),
                bias: self.bias.clone(),
                state,
            }
        }
    }

    fn any_activation() -> impl Strategy<Value = Activation> {
        prop_oneof![Just(Activation::None), Just(Activation::Silu)]
    }

    fn any_convolution(batch: std::ops::Range<usize>) -> impl Strategy<Value = Convolution> {
        let shape = (batch, 0..40_usize, 0..70_usize, 1..7_usize, any_activation());
        let rest = (0..5_usize, any::<bool>(), any::<u64>());
        (shape, rest).prop_map(|(shape, (gap, bias, seed))| {
            let (batch, time, channels, width, activation) = shape;
            let problem = causal_conv1d::Problem {
                batch,
                time,
                channels,
                width,
                activation,
            };
            Convolution::new(problem, gap, bias, seed)
        })
    }

    fn any_statistic() -> impl Strategy<Value = Statistic> {
        prop_oneof![
            Just(Statistic::MeanSquare),
            Just(Statistic::Variance),
            Just(Statistic::SumOfSquares)
        ]
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn convolution_equals_its_definition(case in any_convolution(0..4)) {
            case.check();
        }

        #[test]
        fn splitting_a_sequence_keeps_the_convolution_state(
            case in any_convolution(1..2),
            cut in 0.0..1.0_f64,
        ) {
            let time = case.problem.time;
            let cut = (cut * (time + 1) as f64) as usize;
            let (out, state) = case.run();
            let (mut joined, middle) = case.segment(0, cut, case.state.clone()).run();
            let (rest, last) = case.segment(cut, time - cut, middle).run();
            joined.extend(rest);
            prop_assert_eq!(last, state);
            let error = error_beside(&joined, &widened(&out), &case.terms());
            prop_assert!(error <= TOLERANCE, "off by {:e}", error);
        }

        #[test]
        fn norm_equals_its_definition(
            rows in 0..6_usize,
            (groups, group_size) in (1..5_usize, 1..80_usize),
            gap in 0..5_usize,
            (gate, weight, bias, before) in any::<(bool, bool, bool, bool)>(),
            statistic in any_statistic(),
            (exponent, seed) in (-6..6_i32, any::<u64>()),
        ) {
            // Two features are ±1 after a LayerNorm, whatever they were.
            let group_size = if statistic == Statistic::Variance { group_size + 2 } else { group_size };
            let features = groups * group_size;
            let order = if before { GateOrder::NormBeforeGate } else { GateOrder::NormAfterGate };
            let problem = gated_norm::Problem { rows, features, group_size, eps: 1e-5, statistic, order };
            let stride = features + gap;
            let x = random(seed, rows * stride, 10.0_f32.powi(exponent));
            let z = random(seed ^ 1, rows * stride, 4.0);
            let view = |values| Rows::new(values, rows, features, stride).expect("whole rows");
            let weight = weight.then(|| random(seed ^ 2, features, 2.0));
            let bias = bias.then(|| random(seed ^ 3, features, 2.0));
            let inputs = gated_norm::Inputs {
                input: view(&x),
                gate: gate.then(|| view(&z)),
                weight: weight.as_deref(),
                bias: bias.as_deref(),
            };
            let expected = gated_norm::reference::gated_norm(&problem, &inputs).expect("valid");
            let unbiased = gated_norm::Inputs { bias: None, ..inputs };
            let scaled = gated_norm::reference::gated_norm(&problem, &unbiased).expect("valid");
            let terms: Vec<f64> =
                scaled.iter().zip(&expected).map(|(scaled, sum)| scaled.abs() + (sum - scaled).abs()).collect();
            let mut out = vec![f32::NAN; rows * features];
            gated_norm(&problem, &inputs, &mut out).expect("valid");
            let error = error_beside(&out, &expected, &terms);
            // A mean is rounded as its values are: those that are all but equal have few digits left beside it.
            let moved: Vec<f32> = (0..).zip(&x).map(|(i, x)| x * (1.0 + f32::EPSILON * [1.0, -1.0][i % 2])).collect();
            let moved = gated_norm::Inputs { input: view(&moved), ..inputs };
            let moved = gated_norm::reference::gated_norm(&problem, &moved).expect("valid");
            let moved: Vec<f32> = moved.iter().map(|&x| x as f32).collect();
            let allowed = TOLERANCE + error_beside(&moved, &expected, &terms);
            prop_assert!(error <= allowed, "off by {:e}, allowed {:e}", error, allowed);
        }

        #[test]
        fn adding_to_the_residual_and_normalising_is_one_step(
            (rows, features) in (0..6_usize, 1..200_usize),
            (adds, seed) in any::<(bool, u64)>(),
        ) {
            let before = random(seed, rows * features, 2.0);
            let x = adds.then(|| random(seed ^ 1, rows * features, 2.0));
            let weight = random(seed ^ 2, features, 2.0);
            let sum: Vec<f32> = match &x {
                Some(x) => before.iter().zip(x).map(|(a, b)| a + b).collect(),
                None => before.clone(),
            };
            let (order, statistic) = (GateOrder::NormAfterGate, Statistic::MeanSquare);
            let problem = gated_norm::Problem { rows, features, group_size: features, eps: 1e-6, statistic, order };
            let inputs = gated_norm::Inputs {
                input: Rows::contiguous(&sum, rows, features).expect("whole rows"),
                gate: None,
                weight: Some(&weight),
                bias: None,
            };
            let expected = gated_norm::reference::gated_norm(&problem, &inputs);
            let (mut residual, mut out) = (before, vec![f32::NAN; rows * features]);
            add_rms_norm(&mut residual, x.as_deref(), &weight, 1e-6, &mut out).expect("valid");
            prop_assert_eq!(&residual, &sum);
            let error = relative_error(&out, &expected.expect("valid"));
            prop_assert!(error <= TOLERANCE, "off by {:e}", error);
        }

        #[test]
        fn step_sizes_equal_their_definition(
            (rows, heads, gap) in (0..6_usize, 0..40_usize, 0..5_usize),
            scale in prop_oneof![Just(1.0_f32), Just(30.0), Just(200.0)],
            limit in prop_oneof![Just((0.0, f32::INFINITY)), Just((1e-3_f32, 0.1_f32))],
            seed in any::<u64>(),
        ) {
            let raw = random(seed, rows * (heads + gap), scale);
            let raw = Rows::new(&raw, rows, heads, heads + gap).expect("whole rows");
            let (bias, a_log) = (random(seed ^ 1, heads, 5.0), random(seed ^ 2, heads, 3.0));
            let (mut step, mut log_decay) = (vec![f32::NAN; rows * heads], vec![f32::NAN; rows * heads]);
            step_size(
                &step_size::Problem { tokens: rows, heads, limit },
                &step_size::Inputs { raw, bias: &bias, a_log: &a_log },
                &mut step_size::Outputs { step: &mut step, log_decay: &mut log_decay },
            )
            .expect("valid");
            let expected = |i: usize| {
                let (row, head) = (i / heads, i % heads);
                step_size::reference::step_size(raw.row(row)[head], bias[head], a_log[head], limit)
            };
            for (i, (&step, &log_decay)) in step.iter().zip(&log_decay).enumerate() {
                let (row, head) = (i / heads, i % heads);
                let (expected_step, expected_log) = expected(i);
                // The sum of a raw value and its bias is rounded before the softplus sees it.
                let rounding = 6e-8 * f64::from((raw.row(row)[head] + bias[head]).abs());
                let allowed = TOLERANCE + rounding;
                let close = |found: f32, expected: f64| {
                    (f64::from(found) - expected).abs() <= allowed * expected.abs() + 1e-37
                };
                prop_assert!(close(step, expected_step), "{} for {}", step, expected_step);
                prop_assert!(close(log_decay, expected_log), "{} for {}", log_decay, expected_log);
            }
        }

        #[test]
        fn cross_entropy_equals_its_definition(
            (rows, classes, gap) in (0..5_usize, 1..300_usize, 0..5_usize),
            scale in prop_oneof![Just(1e-3_f32), Just(1.0), Just(20.0), Just(1e4)],
            offset in prop_oneof![Just(0.0_f32), Just(1e4), Just(-1e4)],
            seed in any::<u64>(),
        ) {
            let mut logits = random(seed, rows * (classes + gap), scale);
            logits.iter_mut().for_each(|x| *x += offset);
            let view = Rows::new(&logits, rows, classes, classes + gap).expect("whole rows");
            let mut rng = StdRng::seed_from_u64(seed ^ 1);
            let targets: Vec<u32> = (0..rows).map(|_| rng.random_range(0..classes as u32)).collect();
            let mut loss = vec![f32::NAN; rows];
            cross_entropy(view, &targets, &mut loss).expect("valid");
            for (row, (&loss, &target)) in loss.iter().zip(&targets).enumerate() {
                let expected = cross_entropy::reference::cross_entropy(view.row(row), target as usize);
                let error = (f64::from(loss) - expected).abs();
                prop_assert!(error <= TOLERANCE * (1.0 + expected), "{} for {}", loss, expected);
            }
        }
    }

    /// Large enough for several threads and several tasks, with a task that spans two sequences.
    #[test]
    fn long_convolutions_equal_their_definition() {
        for (batch, time, channels, width) in [(2, 333, 257, 4), (1, 600, 1792, 3), (3, 100, 300, 9)] {
            let activation = Activation::Silu;
            let problem = causal_conv1d::Problem {
                batch,
                time,
                channels,
                width,
                activation,
            };
            Convolution::new(problem, 3, true, 7).check();
        }
    }

    #[test]
    fn many_rows_are_normalised_as_one_is() {
        let (rows, features) = (301, 1536);
        let (x, weight) = (random(1, rows * features, 2.0), random(2, features, 2.0));
        let (mut residual, mut many) = (random(3, x.len(), 2.0), vec![f32::NAN; x.len()]);
        let mut expected = vec![f32::NAN; x.len()];
        let mut sums = residual.clone();
        let each = x.chunks(features).zip(sums.chunks_mut(features));
        for ((x, residual), out) in each.zip(expected.chunks_mut(features)) {
            add_rms_norm(residual, Some(x), &weight, 1e-5, out).expect("valid");
        }
        add_rms_norm(&mut residual, Some(&x), &weight, 1e-5, &mut many).expect("valid");
        assert_eq!(residual, sums);
        assert_eq!(many, expected);
    }

    #[test]
    fn many_rows_have_the_cross_entropy_that_each_has() {
        let (rows, classes) = (7, 50_280);
        let logits = random(1, rows * classes, 9.0);
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7_000).collect();
        let mut loss = vec![f32::NAN; rows];
        let view = Rows::contiguous(&logits, rows, classes).expect("whole rows");
        cross_entropy(view, &targets, &mut loss).expect("valid");
        let expected: Vec<f64> = (0..rows)
            .map(|row| cross_entropy::reference::cross_entropy(view.row(row), targets[row] as usize))
            .collect();
        let error = relative_error(&loss, &expected);
        assert!(error <= TOLERANCE, "off by {error:e}");
    }

    #[test]
    fn logits_that_are_not_numbers_give_no_number() {
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [0, 33, 99] {
                let mut logits = random(5, 100, 1.0);
                logits[place] = bad;
                let view = Rows::contiguous(&logits, 1, 100).expect("one row");
                let mut loss = [0.0];
                cross_entropy(view, &[1], &mut loss).expect("valid");
                assert!(loss[0].is_nan(), "{bad} at {place} gave {}", loss[0]);
            }
        }
        let (logits, mut loss) = ([f32::NEG_INFINITY, 0.0, 0.0], [f32::NAN]);
        let view = Rows::contiguous(&logits, 1, 3).expect("one row");
        cross_entropy(view, &[1], &mut loss).expect("valid");
        assert!((loss[0] - std::f32::consts::LN_2).abs() < 1e-6, "{}", loss[0]);
    }

    #[test]
    fn a_step_size_that_is_not_a_number_stays_one() {
        let raw = Rows::contiguous(&[f32::NAN], 1, 1).expect("one value");
        let (mut step, mut log_decay) = ([0.0], [0.0]);
        step_size(
            &step_size::Problem {
                tokens: 1,
                heads: 1,
                limit: (0.0, 1.0),
            },
            &step_size::Inputs {
                raw,
                bias: &[0.0],
                a_log: &[0.0],
            },
            &mut step_size::Outputs {
                step: &mut step,
                log_decay: &mut log_decay,
            },
        )
        .expect("valid");
        assert!(step[0].is_nan() && log_decay[0].is_nan());
    }

    #[test]
    fn wrong_shapes_are_named() {
        let view = Rows::contiguous(&[0.0; 6], 2, 3).expect("whole rows");
        let mut problem = causal_conv1d::Problem {
            batch: 1,
            time: 2,
            channels: 3,
            width: 0,
            activation: Activation::None,
        };
        let convolve = |problem: &causal_conv1d::Problem, weight: usize| {
            let inputs = causal_conv1d::Inputs {
                input: view,
                weight: &vec![0.0; weight],
                bias: None,
                sequences: Sequences::Equal,
            };
            causal_conv1d(problem, &inputs, &mut [0.0; 3], &mut [0.0; 6])
        };
        assert_eq!(convolve(&problem, 0), Err(ConvError::NoTaps));
        problem.width = 2;
        let message = |result: Result<(), ConvError>| result.expect_err("it does not fit").to_string();
        assert_eq!(
            message(convolve(&problem, 5)),
            "causal convolution: weight needs 6 values, found 5 values"
        );
        problem.time = 3;
        assert_eq!(
            message(convolve(&problem, 6)),
            "causal convolution: input needs 3 rows of 3 values, found 2 rows of 3 values"
        );
        let order = GateOrder::NormAfterGate;
        let norm = gated_norm::Problem {
            rows: 2,
            features: 3,
            group_size: 2,
            eps: 0.0,
            statistic: Statistic::MeanSquare,
            order,
        };
        let inputs = gated_norm::Inputs {
            input: view,
            gate: None,
            weight: None,
            bias: None,
        };
        assert_eq!(
            gated_norm(&norm, &inputs, &mut [0.0; 6]),
            Err(NormError::Groups {
                features: 3,
                group_size: 2
            })
        );
        assert_eq!(
            cross_entropy(view, &[0, 3], &mut [0.0; 2]),
            Err(CrossEntropyError::Target {
                row: 1,
                target: 3,
                classes: 3
            })
        );
        let (mut step, mut log_decay) = ([0.0; 6], [0.0; 6]);
        let problem = step_size::Problem {
            tokens: 2,
            heads: 3,
            limit: (1.0, 0.5),
        };
        let inputs = step_size::Inputs {
            raw: view,
            bias: &[0.0; 3],
            a_log: &[0.0; 3],
        };
        let mut outputs = step_size::Outputs {
            step: &mut step,
            log_decay: &mut log_decay,
        };
        assert_eq!(
            step_size(&problem, &inputs, &mut outputs),
            Err(StepSizeError::Limit { low: 1.0, high: 0.5 })
        );
    }
}
