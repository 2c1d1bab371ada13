//! Feature maps and Taylor attention: the definition against central differences, every form against the definition.

use crate::{layouts, support, taylor};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::feature_map::{self, FeatureMap, Packing};
    use spillway_kernel_dsl::taylor_attention::{
        self, AttentionError, Expansion, GradientBuffers, Inputs, Problem, backward, chunked, sequential,
        step,
    };
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::layouts::Layout;
    use super::support::differences::{compare, inner};
    use super::support::relative_error;
    use super::taylor::{Attention, any_attention, random};

    /// Allowed relative error, times √(tokens + 1).
    const TOLERANCE: f64 = 2e-6;

    fn config() -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(200))
        }
    }

    fn close(what: &str, time: usize, found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
        let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
        let (error, allowed) = (
            relative_error(found, expected),
            TOLERANCE * (time as f64 + 1.0).sqrt(),
        );
        // Written so that NaN fails; a gradient that vanishes is compared by its size.
        let close = error <= allowed || error * norm.max(1e-9) <= allowed;
        prop_assert!(close, "{what} is off by {error:e}, allowed {allowed:e}");
        Ok(())
    }

    /// Output and final state, by chunks of that many tokens or token by token.
    fn run(case: &Attention, chunk_size: Option<usize>) -> (Vec<f32>, Vec<f32>) {
        let mut state = case.state.clone();
        let mut out = vec![f32::NAN; case.out_cotangent.len()];
        let result = match chunk_size {
            Some(size) => chunked(&case.problem, &case.inputs(), size, &mut state, &mut out),
            None => sequential(&case.problem, &case.inputs(), &mut state, &mut out),
        };
        result.expect("valid");
        (out, state)
    }

    /// The gradients of everything.
    fn pull_back(case: &Attention, chunk_size: usize) -> GradientBuffers {
        let inputs = case.inputs();
        let like = |values: Option<Rows>| values.map(|rows| vec![f32::NAN; rows.rows() * rows.cols()]);
        let keys = case.rows * case.problem.heads * case.problem.key_dim;
        let mut found = GradientBuffers {
            query: vec![f32::NAN; keys],
            key: vec![f32::NAN; keys],
            value: vec![f32::NAN; case.out_cotangent.len()],
            prefix_key: like(inputs.prefix_key),
            prefix_value: like(inputs.prefix_value),
            log_decay: inputs.log_decay.map(|decay| vec![f32::NAN; decay.len()]),
            state: vec![f32::NAN; case.state.len()],
        };
        backward(
            &case.problem,
            &inputs,
            chunk_size,
            &case.state,
            &case.cotangents(),
            &mut found.as_written(),
        )
        .expect("valid");
        found
    }

    fn any_map() -> impl Strategy<Value = FeatureMap> {
        (1..9_usize, 0.05..2.0_f32, any::<[bool; 2]>()).prop_map(|(key_dim, scale, [square, full])| {
            FeatureMap {
                key_dim,
                scale,
                expansion: if square {
                    Expansion::Square
                } else {
                    Expansion::Taylor
                },
                packing: if full { Packing::Full } else { Packing::Symmetric },
            }
        })
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn inner_products_of_features_are_the_polynomial(map in any_map(), seed in any::<u64>()) {
            let [q, k] = [random(seed, map.key_dim, 2.0), random(seed ^ 1, map.key_dim, 2.0)];
            let features = |x: &[f32]| {
                let mut out = vec![f32::NAN; map.features()];
                let view = Rows::contiguous(x, 1, map.key_dim).expect("one row");
                feature_map::forward(&map, view, &mut out).expect("valid");
                out
            };
            let found: f64 = features(&q).iter().zip(features(&k)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
            let wide: Vec<f64> = k.iter().map(|&k| f64::from(k)).collect();
            let x = f64::from(map.scale) * inner(&q, &wide);
            let [c0, c1, c2] = map.expansion.coefficients();
            let expected = c0 + c1 * x + c2 * x * x;
            // Terms of either sign may cancel.
            prop_assert!((found - expected).abs() <= 1e-5 * (1.0 + x * x), "{} for {}", found, expected);
        }

        #[test]
        fn features_and_their_gradients_equal_the_definition(
            map in any_map(),
            (rows, heads, gap, seed) in (0..4_usize, 1..4_usize, 0..4_usize, any::<u64>()),
        ) {
            let cols = heads * map.key_dim;
            let x = random(seed, rows * (cols + gap), 2.0);
            let x = Rows::new(&x, rows, cols, cols + gap).expect("whole rows");
            let cotangent = random(seed ^ 1, rows * heads * map.features(), 1.0);
            let by_features = Rows::contiguous(&cotangent, rows, heads * map.features()).expect("whole rows");
            let mut out = vec![f32::NAN; cotangent.len()];
            feature_map::forward(&map, x, &mut out).expect("valid");
            let mut gradient = vec![f32::NAN; rows * cols];
            feature_map::backward(&map, x, by_features, &mut gradient).expect("valid");
            let (mut expected, mut gradients) = (Vec::new(), Vec::new());
            let cotangents = cotangent.chunks_exact(map.features());
            for (i, cotangent) in cotangents.enumerate() {
                let key = &x.row(i / heads)[i % heads * map.key_dim..][..map.key_dim];
                let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
                expected.extend(feature_map::reference::forward(&map, &wide(key)));
                let by_key = feature_map::reference::backward(&map, &wide(key), &wide(cotangent));
                let result = compare("the key", key, &by_key, |key| {
                    inner(cotangent, &feature_map::reference::forward(&map, &wide(key)))
                });
                result.map_err(TestCaseError::fail)?;
                gradients.extend(by_key);
            }
            close("the features", 0, &out, &expected)?;
            close("the gradient", 0, &gradient, &gradients)?;
        }

        #[test]
        fn the_gradient_of_attention_is_that_of_its_definition(case in any_attention(6, 5, 0)) {
            case.check_definition().map_err(TestCaseError::fail)?;
        }

        #[test]
        fn every_form_of_attention_equals_its_definition(
            case in any_attention(80, 12, 4),
            chunk_size in 1..40_usize,
        ) {
            let (out, state) = case.expected();
            let time = case.problem.time + case.problem.prefix;
            for form in [None, Some(chunk_size)] {
                let found = run(&case, form);
                close(&format!("the output of {form:?}"), time, &found.0, &out)?;
                close(&format!("the state of {form:?}"), time, &found.1, &state)?;
            }
        }

        #[test]
        fn attention_pulls_back_as_its_definition_does(
            case in any_attention(50, 10, 4),
            chunk_size in 1..40_usize,
        ) {
            let expected = case.expected_gradients();
            let found = pull_back(&case, chunk_size);
            let time = case.problem.time + case.problem.prefix;
            close("the gradient of the query", time, &found.query, &expected.query)?;
            close("the gradient of the key", time, &found.key, &expected.key)?;
            close("the gradient of the value", time, &found.value, &expected.value)?;
            close("the gradient of the state", time, &found.state, &expected.state)?;
            let of_prefix = [
                ("key", found.prefix_key, &expected.prefix_key),
                ("value", found.prefix_value, &expected.prefix_value),
            ];
            for (what, found, expected) in of_prefix {
                close(&format!("the gradient of the prefix's {what}"), time, &found.unwrap_or_default(), expected)?;
            }
            if let Some(found) = found.log_decay {
                close("the gradient of the decay", time, &found, &expected.log_decay)?;
            }
        }

        #[test]
        fn splitting_a_sequence_keeps_the_state(
            case in any_attention(40, 8, 0),
            (cut, seed) in (0.0..1.0_f64, any::<u64>()),
        ) {
            let problem = Problem { batch: 1, ..case.problem };
            let whole = Attention::new(problem, Layout::Equal, 0, false, seed);
            let case = Attention { log_decay: case.log_decay, ..whole };
            let Problem { time, heads, key_dim, value_dim, .. } = case.problem;
            let cut = (cut * (time + 1) as f64) as usize;
            let (out, state) = run(&case, Some(7));
            let part = |first: usize, count: usize, state: Vec<f32>| Attention {
                problem: Problem {
                    time: count,
                    // The prefix comes before the first token.
                    prefix: if first == 0 { problem.prefix } else { 0 },
                    ..case.problem
                },
                rows: count,
                query: case.query[first * heads * key_dim..][..count * heads * key_dim].to_vec(),
                key: case.key[first * heads * key_dim..][..count * heads * key_dim].to_vec(),
                value: case.value[first * heads * value_dim..][..count * heads * value_dim].to_vec(),
                out_cotangent: vec![0.0; count * heads * value_dim],
                state,
                ..case.clone()
            };
            let (mut joined, middle) = run(&part(0, cut, case.state.clone()), Some(7));
            let rest = match cut {
                // Nothing has been read: the prefix has.
                0 => Attention {
                    problem: Problem { prefix: 0, ..case.problem },
                    state: middle,
                    ..case.clone()
                },
                _ => part(cut, time - cut, middle),
            };
            let (rest, last) = run(&rest, None);
            joined.extend(rest);
            let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
            close("the output", time, &joined, &wide(&out))?;
            close("the state", time, &last, &wide(&state))?;
        }
    }

    fn example(time: usize) -> Attention {
        let problem = Problem {
            batch: 2,
            time,
            prefix: 90,
            heads: 4,
            key_dim: 16,
            value_dim: 24,
            scale: 0.25,
            expansion: Expansion::Taylor,
            normalizer: Some(1e-6),
        };
        Attention::new(problem, Layout::Equal, 3, true, 11)
    }

    #[test]
    fn a_step_is_one_token_and_refuses_others() {
        let case = example(1);
        let (mut state, mut out) = (case.state.clone(), vec![f32::NAN; case.out_cotangent.len()]);
        step(&case.problem, &case.inputs(), &mut state, &mut out).expect("valid");
        assert_eq!((out, state), run(&case, None));
        let case = example(2);
        let (mut state, mut out) = (case.state.clone(), case.out_cotangent.clone());
        let result = step(&case.problem, &case.inputs(), &mut state, &mut out);
        assert_eq!(result, Err(AttentionError::NotOneToken { found: 2 }));
    }

    #[test]
    fn gradients_have_the_same_bits_on_any_number_of_threads() {
        let case = example(200);
        let with_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("threads start")
                .install(|| (run(&case, Some(64)), pull_back(&case, 64)))
        };
        assert!(with_threads(1) == with_threads(4));
    }

    #[test]
    fn wrong_shapes_and_choices_are_named() {
        let case = example(3);
        let run = |problem: &Problem, state: usize| {
            let (mut state, mut out) = (vec![0.0; state], vec![0.0; case.out_cotangent.len()]);
            chunked(problem, &case.inputs(), 8, &mut state, &mut out).expect_err("it does not fit")
        };
        let len = case.state.len();
        let problem = case.problem;
        assert_eq!(
            run(&problem, len - 1).to_string(),
            format!(
                "Taylor attention: state needs {len} values, found {} values",
                len - 1
            )
        );
        let problem = Problem {
            scale: -1.0,
            ..problem
        };
        assert_eq!(
            run(&problem, len),
            AttentionError::FeatureMap(feature_map::FeatureMapError::Scale(-1.0))
        );
        let problem = Problem {
            key_dim: 0,
            ..case.problem
        };
        assert_eq!(run(&problem, len), AttentionError::Zero { what: "key_dim" });
        let problem = Problem {
            normalizer: Some(-1.0),
            ..case.problem
        };
        assert_eq!(run(&problem, len), AttentionError::Epsilon(-1.0));
        let problem = Problem {
            time: 4,
            ..case.problem
        };
        let error = run(&problem, len).to_string();
        assert!(
            error.contains("query needs 8 rows of 64 values, found 6 rows of 64 values"),
            "{error}"
        );
        let mut inputs = case.inputs();
        inputs.sequences = Sequences::Packed(&[0, 1]);
        let (mut state, mut out) = (case.state.clone(), case.out_cotangent.clone());
        let result = taylor_attention::sequential(&case.problem, &inputs, &mut state, &mut out);
        assert!(matches!(result, Err(AttentionError::Sequences(_))));
        let without_values = Inputs {
            prefix_value: None,
            ..case.inputs()
        };
        let result = sequential(&case.problem, &without_values, &mut state, &mut out);
        assert_eq!(
            result.expect_err("half a prefix").to_string(),
            "Taylor attention: a prefix of 90 tokens needs keys and values, found keys alone"
        );
        let padded = Inputs {
            prefix_padding: Some(&[0, 91]),
            ..case.inputs()
        };
        let result = sequential(&case.problem, &padded, &mut state, &mut out);
        assert!(matches!(result, Err(AttentionError::Sequences(_))));
        let short = Problem {
            prefix: 91,
            ..case.problem
        };
        let error = run(&short, len).to_string();
        assert!(
            error.contains("prefix_key needs 182 rows of 64 values"),
            "{error}"
        );
        let map = case.problem.feature_map();
        let odd = [0.0; 17];
        let view = Rows::contiguous(&odd, 1, 17).expect("one row");
        assert!(matches!(
            feature_map::forward(&map, view, &mut []),
            Err(feature_map::FeatureMapError::Columns {
                unit: 16,
                cols: 17,
                ..
            })
        ));
    }
}
