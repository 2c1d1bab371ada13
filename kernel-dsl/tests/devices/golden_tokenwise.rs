//! Convolution, norms, rotary embedding and Taylor attention on every device agree with other people's software.

use crate::{based, device, support};

mod golden {
    use spillway_kernel_dsl::causal_conv1d::{self, Activation};
    use spillway_kernel_dsl::cube::{Client, DType, DeviceRows};
    use spillway_kernel_dsl::gated_norm::{self, GateOrder, Statistic};
    use spillway_kernel_dsl::rotary::{self, Pairing, Positions};
    use spillway_kernel_dsl::taylor_attention::{self, Expansion};
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::based::{check_state, condition, problem};
    use super::device::{clients, download, upload, upload_rows};
    use super::support::{Case, cases};

    fn rows(client: &Client, values: &[f32], cols: usize) -> DeviceRows {
        let view = Rows::contiguous(values, values.len() / cols, cols).expect("whole rows");
        upload_rows(client, &view, DType::F32)
    }

    /// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
    fn exchange(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        let matrices = values.chunks_exact(rows * cols);
        matrices
            .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
            .collect()
    }

    #[test]
    fn causal_convolution_agrees() {
        for case in cases("causal_conv1d") {
            let (channels, time) = (case.dim("D"), case.dim("L"));
            let problem = causal_conv1d::Problem {
                batch: case.dim("B"),
                time,
                channels,
                width: case.dim("W"),
                activation: match case.text("activation") {
                    Some("silu") => Activation::Silu,
                    Some("none") => Activation::None,
                    other => panic!("{} has the activation {other:?}", case.name),
                },
            };
            let x = exchange(case.input("x"), channels, time);
            let by_out = exchange(case.cotangent("out"), channels, time);
            for (name, client) in clients() {
                let constant = |name| case.input_if_any(name).map(|values| upload(client, values));
                let inputs = causal_conv1d::cube::DeviceInputs {
                    input: rows(client, &x, channels),
                    weight: upload(client, case.input("weight")),
                    bias: constant("bias"),
                    sequences: Sequences::Equal,
                };
                let start = constant("initial_states");
                let found = causal_conv1d::cube::causal_conv1d(client, &problem, &inputs, start.as_ref());
                let found = found.expect("valid");
                case.check(
                    name,
                    "out",
                    &exchange(&download(client, &found.out), time, channels),
                );
                assert_eq!(
                    download(client, &found.state),
                    case.output("final_states"),
                    "{}",
                    case.name
                );
                let cotangents = causal_conv1d::cube::DeviceCotangents {
                    out: rows(client, &by_out, channels),
                    state: case.cotangent_if_any("final_states").map(|c| upload(client, c)),
                };
                let found =
                    causal_conv1d::cube::backward(client, &problem, &inputs, start.as_ref(), &cotangents);
                let found = found.expect("valid");
                let by_x = exchange(&download(client, &found.input), time, channels);
                case.check_gradient(name, "x", &by_x);
                let gradients = [
                    ("weight", Some(found.weight)),
                    ("bias", found.bias),
                    ("initial_states", Some(found.state)),
                ];
                for (gradient, found) in gradients {
                    if case.gradient_if_any(gradient).is_some() {
                        let found = found.expect("there is a gradient of what is given");
                        case.check_gradient(name, gradient, &download(client, &found));
                    }
                }
            }
        }
    }

    fn check_norm(case: &Case, problem: &gated_norm::Problem) {
        for (name, client) in clients() {
            let constant = |name| case.input_if_any(name).map(|values| upload(client, values));
            let view = |values| rows(client, values, problem.features);
            let inputs = gated_norm::cube::DeviceInputs {
                input: view(case.input("x")),
                gate: case.input_if_any("z").map(view),
                weight: constant("weight"),
                bias: constant("bias"),
            };
            let found = gated_norm::cube::gated_norm(client, problem, &inputs).expect("valid");
            case.check(name, "out", &download(client, &found));
            let by_out = view(case.cotangent("out"));
            let found = gated_norm::cube::backward(client, problem, &inputs, &by_out).expect("valid");
            case.check_gradient(name, "x", &download(client, &found.input));
            let optional = [("z", found.gate), ("weight", found.weight), ("bias", found.bias)];
            for (gradient, found) in optional {
                if let Some(found) = found {
                    case.check_gradient(name, gradient, &download(client, &found));
                }
            }
        }
    }

    #[test]
    fn gated_norm_agrees() {
        for case in cases("rmsnorm_gated") {
            let features = case.dim("D");
            let after = case.scalar("norm_before_gate") == 0.0;
            let problem = gated_norm::Problem {
                rows: case.dim("R"),
                features,
                group_size: case.scalar_if_any("group_size").map_or(features, |n| n as usize),
                eps: case.scalar("eps") as f32,
                statistic: Statistic::MeanSquare,
                order: if after {
                    GateOrder::NormAfterGate
                } else {
                    GateOrder::NormBeforeGate
                },
            };
            check_norm(&case, &problem);
        }
    }

    #[test]
    fn the_norm_of_each_head_agrees() {
        for case in cases("groupnorm_heads") {
            let problem = gated_norm::Problem {
                rows: case.dim("T"),
                features: case.dim("H") * case.dim("N"),
                group_size: case.dim("N"),
                eps: case.scalar("eps") as f32,
                statistic: Statistic::Variance,
                order: GateOrder::NormBeforeGate,
            };
            check_norm(&case, &problem);
        }
    }

    #[test]
    fn rotary_embedding_agrees() {
        for case in cases("rotary") {
            let (batch, time, heads, head_dim) = (case.dim("B"), case.dim("T"), case.dim("H"), case.dim("D"));
            let halves = case.scalar("interleaved") == 0.0;
            let problem = rotary::Problem {
                batch,
                time,
                heads,
                head_dim,
                rotary_dim: head_dim,
                pairing: if halves {
                    Pairing::Halves
                } else {
                    Pairing::Interleaved
                },
                base: case.scalar("base"),
            };
            let first = vec![case.scalar("offset") as usize; batch];
            let positions = Positions {
                first: Some(&first),
                ..Positions::default()
            };
            for (name, client) in clients() {
                let angles = rotary::cube::DeviceAngles::new(client, &problem, &positions).expect("valid");
                let view = |values| rows(client, values, heads * head_dim);
                let found = rotary::cube::rotary(client, &angles, &view(case.input("x"))).expect("valid");
                case.check(name, "out", &download(client, &found));
                let by_out = view(case.cotangent("out"));
                let found = rotary::cube::backward(client, &angles, &by_out).expect("valid");
                case.check_gradient(name, "x", &download(client, &found));
            }
        }
    }

    fn check_attention(case: &Case, expansion: Expansion) {
        let problem = problem(case, expansion);
        let (keys, values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
        let tokens = problem.batch * problem.time;
        let view = |values, cols| Rows::contiguous(values, tokens, cols).expect("whole rows");
        let host = taylor_attention::Inputs {
            query: view(case.input("q"), keys),
            key: view(case.input("k"), keys),
            value: view(case.input("v"), values),
            prefix_key: None,
            prefix_value: None,
            log_decay: None,
            sequences: Sequences::Equal,
            prefix_padding: None,
        };
        // Chunks on devices have at least as many tokens.
        let condition = condition(&problem, &host, 16);
        for (name, client) in clients() {
            let inputs = taylor_attention::cube::DeviceInputs {
                query: rows(client, case.input("q"), keys),
                key: rows(client, case.input("k"), keys),
                value: rows(client, case.input("v"), values),
                prefix_key: None,
                prefix_value: None,
                log_decay: None,
                sequences: Sequences::Equal,
                prefix_padding: None,
            };
            let found = taylor_attention::cube::chunked(client, &problem, &inputs, None).expect("valid");
            case.check_conditioned(name, "o", &download(client, &found.out), condition);
            check_state(case, name, &problem, &download(client, &found.state));
            let cotangents = taylor_attention::cube::DeviceCotangents {
                out: rows(client, case.cotangent("o"), values),
                state: None,
            };
            let found = taylor_attention::cube::backward(client, &problem, &inputs, None, &cotangents);
            let found = found.expect("valid");
            for (gradient, found) in [("q", found.query), ("k", found.key), ("v", found.value)] {
                let found = download(client, &found);
                case.check_gradient_conditioned(name, gradient, &found, condition);
            }
        }
    }

    #[test]
    fn based_agrees() {
        for case in cases("based") {
            check_attention(&case, Expansion::Taylor);
        }
    }

    #[test]
    fn rebased_agrees() {
        for case in cases("rebased") {
            check_attention(&case, Expansion::Square);
        }
    }
}
