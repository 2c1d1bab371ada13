//! The shift system of H3 agrees with H3's own, gradients included.

use crate::support;

mod golden {
    use spillway_kernel_dsl::shift_state_space::{
        Cotangents, GradientBuffers, Inputs, Outputs, Problem, ShiftError, backward, convolved, kernel,
        sequential,
    };
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::support::{Case, cases};

    /// A form of the forward pass.
    type Method = fn(&Problem, &Inputs, &mut Outputs) -> Result<(), ShiftError>;

    /// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
    fn exchange(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        let matrices = values.chunks_exact((rows * cols).max(1));
        matrices
            .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
            .collect()
    }

    fn inputs<'a>(case: &'a Case, problem: &Problem, tokens: &'a [f32], state: &'a [f32]) -> Inputs<'a> {
        Inputs {
            input: Rows::contiguous(tokens, problem.rows(), problem.channels).expect("whole rows"),
            b: case.input("B"),
            c: case.input("C"),
            skip: None,
            state: Some(state),
        }
    }

    /// The kernel is what a first token of 1 gives, the part of a state in the output what no tokens give, and the state of the
    /// convolution what tokens give from none: all are sequences beside those of the case, so that one call has all cotangents.
    #[test]
    fn the_shift_system_agrees() {
        for case in cases("h3_shift_ssm") {
            let (batch, time, channels) = (case.dim("B"), case.dim("L"), case.dim("H"));
            let (outputs, state_dim) = (case.dim("channels"), case.dim("N"));
            let sequences = 3 * batch + 1;
            let problem = Problem {
                batch: sequences,
                time,
                sequences: Sequences::Equal,
                channels,
                outputs,
                state_dim,
            };
            let (cols, len, of_u) = (outputs * channels, channels * state_dim, batch * time * channels);
            let u = exchange(case.input("u"), channels, time);
            let mut tokens = [u.clone(), u, vec![0.0; of_u + time * channels]].concat();
            tokens[3 * of_u..3 * of_u + channels].fill(1.0);
            let given = case.input("state");
            let state = [given, &vec![0.0; batch * len], given, &vec![0.0; len]].concat();
            let inputs = inputs(&case, &problem, &tokens, &state);

            for (name, form) in [
                ("sequential", sequential as Method),
                ("convolved", convolved as Method),
            ] {
                let (mut out, mut end) = (vec![f32::NAN; problem.out_len()], vec![f32::NAN; state.len()]);
                form(
                    &problem,
                    &inputs,
                    &mut Outputs {
                        out: &mut out,
                        state: &mut end,
                    },
                )
                .expect("valid");
                let part =
                    |from: usize, to: usize| exchange(&out[from * time * cols..to * time * cols], time, cols);
                case.check(name, "y_step", &part(0, batch));
                case.check(name, "K_state_true", &part(2 * batch, 3 * batch));
                case.check(name, "K", &part(3 * batch, sequences));
                case.check(name, "final_state", &end[..batch * len]);
                case.check(name, "forward_state", &end[..batch * len]);
            }
            check_kernel(&case, &problem, &inputs);

            let zeros = |count: usize| vec![0.0; count * time * cols];
            let out = [
                exchange(case.cotangent("y_step"), cols, time),
                zeros(2 * batch),
                exchange(case.cotangent("K"), cols, time),
            ]
            .concat();
            let mut end = case.cotangent("forward_state").to_vec();
            end.resize(state.len(), 0.0);
            let cotangents = Cotangents {
                out: Some(Rows::contiguous(&out, problem.rows(), cols).expect("whole rows")),
                state: Some(&end),
            };
            let mut found = GradientBuffers {
                input: vec![f32::NAN; tokens.len()],
                b: vec![f32::NAN; case.input("B").len()],
                c: vec![f32::NAN; case.input("C").len()],
                skip: None,
                state: Some(vec![f32::NAN; state.len()]),
            };
            backward(&problem, &inputs, &cotangents, &mut found.as_written()).expect("valid");
            case.check_gradient("backward", "u", &exchange(&found.input[..of_u], time, channels));
            case.check_gradient("backward", "B", &found.b);
            case.check_gradient("backward", "C", &found.c);
            let by_state = found.state.expect("states");
            case.check_gradient("backward", "state", &by_state[..batch * len]);
        }
    }

    /// The kernel, cut to the length of the case or filled up with zeros.
    fn check_kernel(case: &Case, problem: &Problem, inputs: &Inputs) {
        let mut found = vec![f32::NAN; case.input("C").len()];
        kernel(problem, inputs, &mut found).expect("valid");
        let rows = found.chunks_exact(problem.state_dim);
        let cut = rows.flat_map(|row| (0..problem.time).map(move |l| row.get(l).copied().unwrap_or(0.0)));
        case.check("kernel", "K", &cut.collect::<Vec<_>>());
    }
}
