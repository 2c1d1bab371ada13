//! Feature maps and Taylor attention agree with other people's software, gradients included.

use crate::{based, support};

mod golden {
    use spillway_kernel_dsl::feature_map::{self, FeatureMap, Packing};
    use spillway_kernel_dsl::taylor_attention::{
        Cotangents, Expansion, Gradients, Inputs, Problem, backward, chunked, sequential,
    };
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::based::{check_state, condition, problem};
    use super::support::{Case, cases};

    fn check(case: &Case, problem: &Problem) {
        let rows = problem.batch * problem.time;
        let (keys, values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
        let view = |values, cols| Rows::contiguous(values, rows, cols).expect("whole rows");
        let inputs = Inputs {
            query: view(case.input("q"), keys),
            key: view(case.input("k"), keys),
            value: view(case.input("v"), values),
            sequences: Sequences::Equal,
            prefix_key: None,
            prefix_value: None,
            log_decay: None,
            prefix_padding: None,
        };
        for chunk_size in [0, 1, 16, 64] {
            let (form, mut out) = (format!("chunks of {chunk_size}"), vec![f32::NAN; rows * values]);
            let mut state = vec![0.0; problem.state_len()];
            match chunk_size {
                0 => sequential(problem, &inputs, &mut state, &mut out).expect("valid"),
                size => chunked(problem, &inputs, size, &mut state, &mut out).expect("valid"),
            }
            let condition = condition(problem, &inputs, chunk_size.max(1));
            case.check_conditioned(&form, "o", &out, condition);
            check_state(case, &form, problem, &state);
            if chunk_size == 0 {
                continue;
            }
            let [mut query, mut key] = [vec![f32::NAN; rows * keys], vec![f32::NAN; rows * keys]];
            let mut value = vec![f32::NAN; rows * values];
            let mut gradients = Gradients {
                query: &mut query,
                key: &mut key,
                value: &mut value,
                prefix_key: None,
                prefix_value: None,
                log_decay: None,
                state: &mut state,
            };
            let cotangents = Cotangents {
                out: view(case.cotangent("o"), values),
                state: None,
            };
            let initial = vec![0.0; problem.state_len()];
            backward(
                problem,
                &inputs,
                chunk_size,
                &initial,
                &cotangents,
                &mut gradients,
            )
            .expect("valid");
            for (name, found) in [("q", &query), ("k", &key), ("v", &value)] {
                case.check_gradient_conditioned(&form, name, found, condition);
            }
        }
    }

    #[test]
    fn based_agrees() {
        for case in cases("based") {
            check(&case, &problem(&case, Expansion::Taylor));
        }
    }

    #[test]
    fn rebased_agrees() {
        for case in cases("rebased") {
            check(&case, &problem(&case, Expansion::Square));
        }
    }

    #[test]
    fn the_taylor_features_agree() {
        let mut compared = 0;
        for case in cases("based").into_iter().filter(|case| case.has_output("phi_q")) {
            compared += 1;
            let problem = problem(&case, Expansion::Taylor);
            let map = FeatureMap {
                packing: Packing::Full,
                ..problem.feature_map()
            };
            let (rows, cols) = (problem.batch * problem.time, problem.heads * problem.key_dim);
            let query = Rows::contiguous(case.input("q"), rows, cols).expect("whole rows");
            let mut features = vec![f32::NAN; rows * problem.heads * map.features()];
            feature_map::forward(&map, query, &mut features).expect("valid");
            case.check("feature_map", "phi_q", &features);
        }
        assert!(compared > 0, "no case has features");
    }
}
