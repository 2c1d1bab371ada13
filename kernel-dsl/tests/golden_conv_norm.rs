//! The convolution and the gated norm agree with other people's software.

mod support;

mod golden {
    use kernel_dsl::Rows;
    use kernel_dsl::causal_conv1d::{self, Activation, causal_conv1d};
    use kernel_dsl::gated_norm::{self, GateOrder, add_rms_norm, gated_rms_norm};

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

    /// Convolves stretches of `stretch` tokens, each from the state that the one before left.
    fn convolve(case: &Case, x: &[f32], initial: &[f32], stretch: usize) -> (Vec<f32>, Vec<f32>) {
        let (batch, channels, time, width) = (case.dim("B"), case.dim("D"), case.dim("L"), case.dim("W"));
        let activation = match case.text("activation") {
            Some("silu") => Activation::Silu,
            Some("none") => Activation::None,
            other => panic!("{} has the activation {other:?}", case.name),
        };
        let (mut out, mut state) = (vec![f32::NAN; x.len()], initial.to_vec());
        let past_len = channels * (width - 1);
        for b in 0..batch {
            for first in (0..time).step_by(stretch) {
                let count = stretch.min(time - first);
                let problem = causal_conv1d::Problem {
                    batch: 1,
                    time: count,
                    channels,
                    width,
                    activation,
                };
                let tokens = (b * time + first) * channels..(b * time + first + count) * channels;
                causal_conv1d(
                    &problem,
                    Rows::contiguous(&x[tokens.clone()], count, channels).expect("whole rows"),
                    case.input("weight"),
                    case.input_if_any("bias"),
                    &mut state[b * past_len..(b + 1) * past_len],
                    &mut out[tokens],
                )
                .expect("valid");
            }
        }
        (out, state)
    }

    #[test]
    fn gated_norm_agrees() {
        for case in cases("rmsnorm_gated") {
            let (rows, features) = (case.dim("R"), case.dim("D"));
            let view = |values| Rows::contiguous(values, rows, features).expect("whole rows");
            let problem = gated_norm::Problem {
                rows,
                features,
                group_size: case.scalar_if_any("group_size").map_or(features, |n| n as usize),
                eps: case.scalar("eps") as f32,
                order: if case.scalar("norm_before_gate") == 0.0 {
                    GateOrder::NormAfterGate
                } else {
                    GateOrder::NormBeforeGate
                },
            };
            let (x, gate) = (case.input("x"), case.input_if_any("z"));
            let (weight, bias) = (case.input("weight"), case.input_if_any("bias"));
            let mut out = vec![f32::NAN; rows * features];
            gated_rms_norm(&problem, view(x), gate.map(view), Some(weight), bias, &mut out).expect("valid");
            case.check("gated_rms_norm", "out", &out);
            if gate.is_none() && bias.is_none() && problem.group_size == features {
                let mut residual = vec![0.0; x.len()];
                add_rms_norm(&mut residual, Some(x), weight, problem.eps, &mut out).expect("valid");
                case.check("add_rms_norm", "out", &out);
                assert_eq!(residual, x, "{}", case.name);
            }
        }
    }

    /// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
    fn exchange(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        let matrices = values.chunks_exact(rows * cols);
        matrices
            .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
            .collect()
    }
}
