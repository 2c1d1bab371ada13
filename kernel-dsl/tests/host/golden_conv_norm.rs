//! The convolution and the gated norm agree with other people's software.

use crate::support;

mod golden {
    use spillway_kernel_dsl::causal_conv1d::{self, Activation, causal_conv1d};
    use spillway_kernel_dsl::gated_norm::{self, GateOrder, Statistic, add_rms_norm, gated_norm};
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::support::{Case, cases};

    #[test]
    fn causal_convolution_agrees() {
        for case in cases("causal_conv1d") {
            let (batch, channels, time, width) = (case.dim("B"), case.dim("D"), case.dim("L"), case.dim("W"));
            let x = exchange(case.input("x"), channels, time);
            let zeros = vec![0.0; batch * channels * (width - 1)];
            let initial = case.input_if_any("initial_states").unwrap_or(&zeros);
            for pieces in [1, 2, time] {
                let (out, state) = convolve(&case, &x, initial, time.div_ceil(pieces));
                case.check(
                    &format!("{pieces} pieces"),
                    "out",
                    &exchange(&out, time, channels),
                );
                assert_eq!(state, case.output("final_states"), "{}", case.name);
            }
        }
    }

    fn problem(case: &Case, batch: usize, time: usize) -> causal_conv1d::Problem {
        causal_conv1d::Problem {
            batch,
            time,
            channels: case.dim("D"),
            width: case.dim("W"),
            activation: match case.text("activation") {
                Some("silu") => Activation::Silu,
                Some("none") => Activation::None,
                other => panic!("{} has the activation {other:?}", case.name),
            },
        }
    }

    fn inputs<'a>(case: &'a Case, x: &'a [f32], sequences: Sequences<'a>) -> causal_conv1d::Inputs<'a> {
        let channels = case.dim("D");
        causal_conv1d::Inputs {
            input: Rows::contiguous(x, x.len() / channels, channels).expect("whole rows"),
            weight: case.input("weight"),
            bias: case.input_if_any("bias"),
            sequences,
        }
    }

    /// Convolves segments of `segment` tokens, each from the state that the one before left.
    fn convolve(case: &Case, x: &[f32], initial: &[f32], segment: usize) -> (Vec<f32>, Vec<f32>) {
        let (batch, channels, time, width) = (case.dim("B"), case.dim("D"), case.dim("L"), case.dim("W"));
        let (mut out, mut state) = (vec![f32::NAN; x.len()], initial.to_vec());
        let past_len = channels * (width - 1);
        for b in 0..batch {
            for first in (0..time).step_by(segment) {
                let count = segment.min(time - first);
                let tokens = (b * time + first) * channels..(b * time + first + count) * channels;
                causal_conv1d(
                    &problem(case, 1, count),
                    &inputs(case, &x[tokens.clone()], Sequences::Equal),
                    &mut state[b * past_len..(b + 1) * past_len],
                    &mut out[tokens],
                )
                .expect("valid");
            }
        }
        (out, state)
    }

    #[test]
    fn gradients_of_the_causal_convolution_agree() {
        for case in cases("causal_conv1d") {
            let (batch, channels, time, width) = (case.dim("B"), case.dim("D"), case.dim("L"), case.dim("W"));
            let x = exchange(case.input("x"), channels, time);
            let cotangent = exchange(case.cotangent("out"), channels, time);
            let initial = vec![0.0; batch * channels * (width - 1)];
            let initial = case.input_if_any("initial_states").unwrap_or(&initial);
            let offsets: Vec<usize> = (0..=batch).map(|b| b * time).collect();
            let layouts = [
                ("equal lengths", time, Sequences::Equal),
                ("packed sequences", batch * time, Sequences::Packed(&offsets)),
            ];
            for (form, time_of_problem, sequences) in layouts {
                let mut input = vec![f32::NAN; x.len()];
                let mut weight = vec![f32::NAN; channels * width];
                let mut bias = vec![f32::NAN; channels];
                let mut state = vec![f32::NAN; initial.len()];
                let cotangents = causal_conv1d::Cotangents {
                    out: Rows::contiguous(&cotangent, batch * time, channels).expect("whole rows"),
                    state: case.cotangent_if_any("final_states"),
                };
                let has_bias = case.input_if_any("bias").is_some();
                let mut gradients = causal_conv1d::Gradients {
                    input: &mut input,
                    weight: &mut weight,
                    bias: has_bias.then_some(&mut bias),
                    state: &mut state,
                };
                causal_conv1d::backward(
                    &problem(&case, batch, time_of_problem),
                    &inputs(&case, &x, sequences),
                    initial,
                    &cotangents,
                    &mut gradients,
                )
                .expect("valid");
                case.check_gradient(form, "x", &exchange(&input, time, channels));
                case.check_gradient(form, "weight", &weight);
                for (name, found) in [("bias", &bias), ("initial_states", &state)] {
                    if case.gradient_if_any(name).is_some() {
                        case.check_gradient(form, name, found);
                    }
                }
            }
        }
    }

    #[test]
    fn gated_norm_agrees() {
        for case in cases("rmsnorm_gated") {
            let (rows, features) = (case.dim("R"), case.dim("D"));
            let problem = gated_norm::Problem {
                rows,
                features,
                group_size: case.scalar_if_any("group_size").map_or(features, |n| n as usize),
                eps: case.scalar("eps") as f32,
                statistic: Statistic::MeanSquare,
                order: if case.scalar("norm_before_gate") == 0.0 {
                    GateOrder::NormAfterGate
                } else {
                    GateOrder::NormBeforeGate
                },
            };
            check_norm(&case, &problem);
            let plain = case.input_if_any("z").is_none() && case.input_if_any("bias").is_none();
            if plain && problem.group_size == features {
                check_joint(&case, problem.eps);
            }
        }
    }

    #[test]
    fn the_norm_of_each_head_agrees() {
        for case in cases("groupnorm_heads") {
            let (rows, heads, head_dim) = (case.dim("T"), case.dim("H"), case.dim("N"));
            let problem = gated_norm::Problem {
                rows,
                features: heads * head_dim,
                group_size: head_dim,
                eps: case.scalar("eps") as f32,
                statistic: Statistic::Variance,
                order: GateOrder::NormBeforeGate,
            };
            check_norm(&case, &problem);
        }
    }

    fn check_norm(case: &Case, problem: &gated_norm::Problem) {
        let (rows, features) = (problem.rows, problem.features);
        let view = |values| Rows::contiguous(values, rows, features).expect("whole rows");
        let inputs = gated_norm::Inputs {
            input: view(case.input("x")),
            gate: case.input_if_any("z").map(view),
            weight: Some(case.input("weight")),
            bias: case.input_if_any("bias"),
        };
        let mut out = vec![f32::NAN; rows * features];
        gated_norm(problem, &inputs, &mut out).expect("valid");
        case.check("gated_norm", "out", &out);

        let (mut input, mut gate) = (out.clone(), out.clone());
        let (mut weight, mut bias) = (vec![f32::NAN; features], vec![f32::NAN; features]);
        let mut gradients = gated_norm::Gradients {
            input: &mut input,
            gate: inputs.gate.is_some().then_some(&mut gate),
            weight: Some(&mut weight),
            bias: inputs.bias.is_some().then_some(&mut bias),
        };
        gated_norm::backward(problem, &inputs, view(case.cotangent("out")), &mut gradients).expect("valid");
        let found = [("x", &input), ("z", &gate), ("weight", &weight), ("bias", &bias)];
        for (name, found) in found {
            if case.input_if_any(name).is_some() {
                case.check_gradient("gated_norm", name, found);
            }
        }
    }

    fn check_joint(case: &Case, eps: f32) {
        let (x, weight) = (case.input("x"), case.input("weight"));
        let (mut residual, mut out) = (vec![0.0; x.len()], vec![f32::NAN; x.len()]);
        add_rms_norm(&mut residual, Some(x), weight, eps, &mut out).expect("valid");
        case.check("add_rms_norm", "out", &out);
        assert_eq!(residual, x, "{}", case.name);
        let (mut input, mut by_weight) = (vec![f32::NAN; x.len()], vec![f32::NAN; weight.len()]);
        let mut gradients = gated_norm::JointGradients {
            residual: &mut input,
            weight: Some(&mut by_weight),
        };
        gated_norm::add_rms_norm_backward(
            &residual,
            weight,
            eps,
            case.cotangent("out"),
            None,
            &mut gradients,
        )
        .expect("valid");
        case.check_gradient("add_rms_norm", "x", &input);
        case.check_gradient("add_rms_norm", "weight", &by_weight);
    }

    /// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
    fn exchange(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        let matrices = values.chunks_exact(rows * cols);
        matrices
            .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
            .collect()
    }
}
