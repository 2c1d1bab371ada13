//! Linear state spaces agree with other people's software, gradients included.

use crate::linear_state_space as drawn;
use crate::support;

mod golden {
    use pulp::c64;
    use spillway_kernel_dsl::linear_state_space::{
        Cotangents, GradientBuffers, Inputs, Outputs, Problem, Rule, Spectrum, System, backward, chunked,
        sequential,
    };
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::drawn::{Data, Dense};
    use super::support::{Case, cases};

    /// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
    fn exchange(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        let matrices = values.chunks_exact((rows * cols).max(1));
        matrices
            .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
            .collect()
    }

    /// A case of S4 or S4D with tokens in rows; its files have time last.
    struct S4<'a> {
        case: &'a Case,
        problem: Problem<'static>,
        input: Vec<f32>,
        step: Vec<f32>,
        a: Vec<f32>,
        /// C, without the factor that a kernel of finite length puts into it.
        c: Vec<f32>,
        truncated: bool,
        state: Option<&'a [f32]>,
    }

    impl<'a> S4<'a> {
        fn new(case: &'a Case) -> Self {
            let (channels, copies) = (case.dim("H"), case.scalar("n_ssm") as usize);
            let rule = match case.text("disc") {
                Some("zoh") => Rule::ZeroOrderHold,
                Some("bilinear") => Rule::Bilinear,
                other => panic!("{}: a rule {other:?}", case.name),
            };
            let problem = Problem {
                batch: case.dim("B"),
                time: case.dim("L"),
                sequences: Sequences::Equal,
                channels,
                outputs: case.dim("channels"),
                state_dim: case.dim("N") / 2,
                copies,
                rank: case.scalar("rank") as usize,
                rule,
                spectrum: Spectrum::ConjugatePairs,
            };
            let exp = |x: &f32| f64::from(*x).exp();
            // Λ = −e^{A_real} − i A_imag.
            let modes = case.input("A_real").iter().zip(case.input("A_imag"));
            let mut found = Self {
                case,
                problem,
                input: exchange(case.input("u"), channels, problem.time),
                step: case.input("inv_dt").iter().map(|x| exp(x) as f32).collect(),
                a: modes.flat_map(|(re, im)| [-exp(re) as f32, -im]).collect(),
                c: case.input("C").to_vec(),
                truncated: case.scalar("l_kernel") > 0.0,
                state: case.input_if_any("state"),
            };
            if found.truncated {
                found.restore_c(case.scalar("l_kernel") as usize);
            }
            found
        }

        fn restore_c(&mut self, length: usize) {
            let Problem {
                channels,
                outputs,
                state_dim: n,
                copies,
                rank,
                ..
            } = self.problem;
            for h in 0..channels {
                let at = |values: &[f32], at: usize| Data::complex(&values[2 * n * at..][..2 * n]);
                let copy = h % copies;
                let p: Vec<Vec<c64>> = (0..rank)
                    .map(|k| at(self.case.input("P"), k * copies + copy))
                    .collect();
                let step = f64::from(self.case.input("inv_dt")[h]).exp();
                let of_a = |i: usize| {
                    let i = copy * n + i;
                    c64::new(
                        -f64::from(self.case.input("A_real")[i]).exp(),
                        -f64::from(self.case.input("A_imag")[i]),
                    )
                };
                let a: Vec<c64> = (0..n).map(of_a).collect();
                let system = Dense::new(self.problem.rule, step, &a, &at(self.case.input("B"), copy), &p);
                for output in 0..outputs {
                    let index = output * channels + h;
                    let c = system.without_truncation(&at(self.case.input("C"), index), length);
                    for (pair, c) in self.c[2 * n * index..].chunks_exact_mut(2).zip(c) {
                        (pair[0], pair[1]) = (c.re as f32, c.im as f32);
                    }
                }
            }
        }

        fn inputs(&self) -> Inputs<'_> {
            let rows = self.problem.rows();
            Inputs {
                input: Rows::contiguous(&self.input, rows, self.problem.channels).expect("whole rows"),
                token_step_size: None,
                step_size: Some(&self.step),
                a: &self.a,
                b: self.case.input("B"),
                c: &self.c,
                low_rank: self.case.input_if_any("P"),
                skip: None,
                state: self.state,
            }
        }

        /// The outputs in the order of the files.
        fn by_case(&self, out: &[f32]) -> Vec<f32> {
            exchange(
                out,
                self.problem.time,
                self.problem.outputs * self.problem.channels,
            )
        }

        fn check(&self, form: &str, out: &[f32], state: &[f32]) {
            self.case.check(form, "y", &self.by_case(out));
            if self.case.has_output("next_state") {
                self.case.check(form, "next_state", state);
            }
        }

        fn check_forward(&self) {
            let Self { problem, .. } = self;
            let run = |form: &str, chunk_size: Option<usize>| {
                let (mut out, mut state) = (
                    vec![f32::NAN; problem.out_len()],
                    vec![f32::NAN; problem.state_len()],
                );
                let outputs = &mut Outputs {
                    out: &mut out,
                    state: &mut state,
                };
                match chunk_size {
                    None => sequential(problem, &self.inputs(), outputs).expect("valid"),
                    Some(size) => chunked(problem, &self.inputs(), size, outputs).expect("valid"),
                }
                self.check(form, &out, &state);
            };
            run("sequential", None);
            run("chunks of 5", Some(5));
            run("one chunk", Some(64));
            self.check_steps();
        }

        fn check_steps(&self) {
            let Problem {
                batch,
                time,
                channels,
                outputs,
                ..
            } = self.problem;
            let system = System::new(&self.problem, &self.inputs()).expect("valid");
            let mut state = self
                .state
                .map_or(vec![0.0; self.problem.state_len()], <[f32]>::to_vec);
            let cols = outputs * channels;
            let mut out = vec![f32::NAN; self.problem.out_len()];
            for t in 0..time {
                let tokens =
                    Rows::new(&self.input[t * channels..], batch, channels, time * channels).expect("tokens");
                let mut y = vec![f32::NAN; batch * cols];
                system.step(tokens, None, &mut state, &mut y).expect("valid");
                for b in 0..batch {
                    out[(b * time + t) * cols..][..cols].copy_from_slice(&y[b * cols..][..cols]);
                }
            }
            self.check("steps", &out, &state);
        }

        /// The derivatives by what the file holds, from those by what the operator reads.
        fn check_gradients(&self, form: &str, found: &GradientBuffers) {
            let case = self.case;
            let Problem { time, channels, .. } = self.problem;
            case.check_gradient(form, "u", &exchange(&found.input, time, channels));
            if let (Some(state), true) = (&found.state, case.gradient_if_any("state").is_some()) {
                case.check_gradient(form, "state", state);
            }
            // C of the file depends on Δ, A and P where a length is in it.
            if self.truncated {
                return;
            }
            case.check_gradient(form, "C", &found.c);
            case.check_gradient(form, "B", &found.b);
            let parts = |part: usize| found.a.iter().skip(part).step_by(2);
            let re: Vec<f32> = parts(0)
                .zip(self.a.iter().step_by(2))
                .map(|(g, a)| g * a)
                .collect();
            let im: Vec<f32> = parts(1).map(|g| -g).collect();
            case.check_gradient(form, "A_real", &re);
            case.check_gradient(form, "A_imag", &im);
            let step = found.step_size.as_ref().expect("step sizes");
            let step: Vec<f32> = step.iter().zip(&self.step).map(|(g, step)| g * step).collect();
            case.check_gradient(form, "inv_dt", &step);
            if let Some(low_rank) = &found.low_rank {
                case.check_gradient(form, "P", low_rank);
            }
        }

        fn buffers(&self) -> GradientBuffers {
            let inputs = self.inputs();
            let of = |values: Option<&[f32]>| values.map(|values| vec![f32::NAN; values.len()]);
            GradientBuffers {
                input: vec![f32::NAN; self.problem.rows() * self.problem.channels],
                token_step_size: None,
                step_size: of(inputs.step_size),
                a: vec![f32::NAN; self.a.len()],
                b: vec![f32::NAN; inputs.b.len()],
                c: vec![f32::NAN; self.c.len()],
                low_rank: of(inputs.low_rank),
                skip: None,
                state: of(inputs.state),
            }
        }

        fn backward(&self, out: &[f32], state: Option<&[f32]>, chunk_size: usize) -> GradientBuffers {
            let Problem {
                outputs, channels, ..
            } = self.problem;
            let mut found = self.buffers();
            let cotangents = Cotangents {
                out: Some(
                    Rows::contiguous(out, self.problem.rows(), outputs * channels).expect("whole rows"),
                ),
                state,
            };
            backward(
                &self.problem,
                &self.inputs(),
                chunk_size,
                &cotangents,
                &mut found.as_written(),
            )
            .expect("valid");
            found
        }
    }

    #[test]
    fn steps_of_s4_and_s4d_agree() {
        for case in cases("s4_step") {
            let s4 = S4::new(&case);
            s4.check_forward();
            let cols = s4.problem.outputs * s4.problem.channels;
            let cotangent = exchange(case.cotangent("y"), cols, s4.problem.time);
            for chunk_size in [1, 5, 64] {
                let found = s4.backward(&cotangent, case.cotangent_if_any("next_state"), chunk_size);
                s4.check_gradients(&format!("chunks of {chunk_size}"), &found);
            }
        }
    }

    /// The kernel is what a first token of 1 gives, and the part of a state in the output what no tokens give: both are sequences
    /// beside those of the case.
    #[test]
    fn convolutions_from_a_state_agree() {
        for case in cases("s4_state_kernel") {
            let s4 = S4::new(&case);
            s4.check_forward();
            let Problem {
                batch,
                time,
                channels,
                outputs,
                state_dim,
                ..
            } = s4.problem;
            let (cols, len) = (outputs * channels, 2 * channels * state_dim);
            let state = case.input("state");
            let mut states = state.to_vec();
            states.extend(vec![0.0; len]);
            states.extend(state);
            let mut all = S4 {
                problem: Problem {
                    batch: 2 * batch + 1,
                    ..s4.problem
                },
                state: Some(&states),
                ..S4::new(&case)
            };
            let tokens = all.input.len();
            all.input.resize(tokens + (batch + 1) * time * channels, 0.0);
            all.input[tokens..tokens + channels].fill(1.0);
            let (mut out, mut end) = (
                vec![f32::NAN; all.problem.out_len()],
                vec![f32::NAN; all.problem.state_len()],
            );
            sequential(
                &all.problem,
                &all.inputs(),
                &mut Outputs {
                    out: &mut out,
                    state: &mut end,
                },
            )
            .expect("valid");
            let (of_kernel, of_state) = (batch * time * cols, (batch + 1) * time * cols);
            case.check(
                "sequential",
                "K",
                &exchange(&out[of_kernel..of_state], time, cols),
            );
            case.check("sequential", "K_state", &exchange(&out[of_state..], time, cols));

            let mut cotangent = exchange(case.cotangent("y"), cols, time);
            cotangent.extend(exchange(case.cotangent("K"), cols, time));
            cotangent.extend(exchange(case.cotangent("K_state"), cols, time));
            let end = case.cotangent_if_any("next_state").map(|state| {
                let mut all = state.to_vec();
                all.resize((2 * batch + 1) * len, 0.0);
                all
            });
            for chunk_size in [4, 64] {
                let mut found = all.backward(&cotangent, end.as_deref(), chunk_size);
                found.input.truncate(tokens);
                let by_state = found.state.take().expect("states");
                let (first, last) = (&by_state[..batch * len], &by_state[(batch + 1) * len..]);
                found.state = Some(first.iter().zip(last).map(|(a, b)| a + b).collect());
                s4.check_gradients(&format!("chunks of {chunk_size}"), &found);
            }
        }
    }

    /// erf x by its series, which cancels little for |x| ≤ 3, and by its asymptote beyond.
    fn erf(x: f64) -> f64 {
        if x.abs() > 6.0 {
            return x.signum();
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    /// The layer around S4D: GELU, a product, a gated linear unit.
    struct Layer<'a> {
        case: &'a Case,
        problem: Problem<'static>,
        /// `[tokens, channels]`.
        input: Vec<f32>,
        step: Vec<f32>,
        a: Vec<f32>,
        b: Vec<f32>,
    }

    impl<'a> Layer<'a> {
        fn new(case: &'a Case) -> Self {
            let (channels, time) = (case.dim("D"), case.dim("L"));
            let state_dim = case.dim("N") / 2;
            let problem = Problem {
                batch: case.dim("B"),
                time,
                sequences: Sequences::Equal,
                channels,
                outputs: 1,
                state_dim,
                copies: channels,
                rank: 0,
                rule: Rule::ZeroOrderHold,
                spectrum: Spectrum::ConjugatePairs,
            };
            let exp = |x: &f32| f64::from(*x).exp() as f32;
            let modes = case
                .input("kernel.log_A_real")
                .iter()
                .zip(case.input("kernel.A_imag"));
            Self {
                case,
                problem,
                input: match case.scalar("transposed") as usize {
                    0 => case.input("x").to_vec(),
                    _ => exchange(case.input("x"), channels, time),
                },
                step: case.input("kernel.log_dt").iter().map(exp).collect(),
                a: modes.flat_map(|(re, im)| [-exp(re), *im]).collect(),
                b: [1.0, 0.0].repeat(channels * state_dim),
            }
        }

        fn inputs(&self) -> Inputs<'_> {
            Inputs {
                input: Rows::contiguous(&self.input, self.problem.rows(), self.problem.channels)
                    .expect("whole rows"),
                token_step_size: None,
                step_size: Some(&self.step),
                a: &self.a,
                b: &self.b,
                c: self.case.input("kernel.C"),
                low_rank: None,
                skip: Some(self.case.input("D")),
                state: None,
            }
        }

        /// In the order of the file, from the order of tokens.
        fn by_case(&self, values: &[f32]) -> Vec<f32> {
            match self.case.scalar("transposed") as usize {
                0 => values.to_vec(),
                _ => exchange(values, self.problem.time, self.problem.channels),
            }
        }

        /// What comes after the recurrence, from its output y: the layer's output, and its derivative by y.
        fn rest(&self, y: &[f32], cotangent: &[f32]) -> (Vec<f32>, Vec<f32>) {
            let d = self.problem.channels;
            let weight = self.case.input("output_linear.0.weight");
            let bias = self.case.input("output_linear.0.bias");
            let (mut out, mut by_y) = (Vec::new(), Vec::new());
            for (y, cotangent) in y.chunks_exact(d).zip(cotangent.chunks_exact(d)) {
                let normal = |x: f64| 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
                let gelu: Vec<f64> = y.iter().map(|&y| f64::from(y) * normal(f64::from(y))).collect();
                let z = |row: usize| {
                    let weight = &weight[row * d..(row + 1) * d];
                    f64::from(bias[row])
                        + weight
                            .iter()
                            .zip(&gelu)
                            .map(|(w, g)| f64::from(*w) * g)
                            .sum::<f64>()
                };
                let mut by_gelu = vec![0.0; d];
                for i in 0..d {
                    let (first, gate) = (z(i), 1.0 / (1.0 + (-z(d + i)).exp()));
                    out.push((first * gate) as f32);
                    let cotangent = f64::from(cotangent[i]);
                    let by_z = [cotangent * gate, cotangent * first * gate * (1.0 - gate)];
                    for (j, by) in by_gelu.iter_mut().enumerate() {
                        *by += by_z[0] * f64::from(weight[i * d + j])
                            + by_z[1] * f64::from(weight[(d + i) * d + j]);
                    }
                }
                for (y, by) in y.iter().zip(by_gelu) {
                    let y = f64::from(*y);
                    let density = (-0.5 * y * y).exp() / (2.0 * std::f64::consts::PI).sqrt();
                    by_y.push((by * (normal(y) + y * density)) as f32);
                }
            }
            (out, by_y)
        }
    }

    #[test]
    fn the_layer_of_s4d_agrees_as_a_recurrence() {
        for case in cases("s4d_layer") {
            let layer = Layer::new(&case);
            let Problem { channels, .. } = layer.problem;
            let cotangent = match case.scalar("transposed") as usize {
                0 => case.cotangent("y").to_vec(),
                _ => exchange(case.cotangent("y"), channels, layer.problem.time),
            };
            let (mut y, mut state) = (
                vec![f32::NAN; layer.problem.out_len()],
                vec![f32::NAN; layer.problem.state_len()],
            );
            sequential(
                &layer.problem,
                &layer.inputs(),
                &mut Outputs {
                    out: &mut y,
                    state: &mut state,
                },
            )
            .expect("valid");
            let (out, by_y) = layer.rest(&y, &cotangent);
            case.check("sequential", "y", &layer.by_case(&out));

            let inputs = layer.inputs();
            let mut found = GradientBuffers {
                input: vec![f32::NAN; layer.input.len()],
                token_step_size: None,
                step_size: Some(vec![f32::NAN; channels]),
                a: vec![f32::NAN; layer.a.len()],
                b: vec![f32::NAN; layer.b.len()],
                c: vec![f32::NAN; inputs.c.len()],
                low_rank: None,
                skip: Some(vec![f32::NAN; channels]),
                state: None,
            };
            let cotangents = Cotangents {
                out: Some(Rows::contiguous(&by_y, layer.problem.rows(), channels).expect("whole rows")),
                state: None,
            };
            backward(&layer.problem, &inputs, 8, &cotangents, &mut found.as_written()).expect("valid");
            let form = "chunks of 8";
            let parts = |part: usize| found.a.iter().skip(part).step_by(2);
            let re: Vec<f32> = parts(0)
                .zip(layer.a.iter().step_by(2))
                .map(|(g, a)| g * a)
                .collect();
            let im: Vec<f32> = parts(1).copied().collect();
            let step = found.step_size.iter().flatten().zip(&layer.step);
            let log_step: Vec<f32> = step.map(|(g, step)| g * step).collect();
            case.check_gradient(form, "x", &layer.by_case(&found.input));
            case.check_gradient(form, "D", found.skip.as_deref().unwrap_or_default());
            case.check_gradient(form, "kernel.C", &found.c);
            case.check_gradient(form, "kernel.log_A_real", &re);
            case.check_gradient(form, "kernel.A_imag", &im);
            case.check_gradient(form, "kernel.log_dt", &log_step);
        }
    }
}
