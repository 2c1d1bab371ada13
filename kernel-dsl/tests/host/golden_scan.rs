//! The selective scan and WKV-4 agree with other people's software, gradients included.

use crate::support;

mod golden {
    use spillway_kernel_dsl::{Rows, Sequences, selective_scan, wkv4};

    use super::support::{Case, cases};

    /// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
    fn exchange(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        let matrices = values.chunks_exact(rows * cols);
        matrices
            .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
            .collect()
    }

    /// A case of the selective scan with tokens in rows; its file has time last.
    struct Scan<'a> {
        case: &'a Case,
        problem: selective_scan::Problem,
        input: Vec<f32>,
        /// Δ before the softplus, and what the softplus is taken of.
        raw_step: Vec<f64>,
        step_size: Vec<f32>,
        b: Vec<f32>,
        c: Vec<f32>,
        gate: Option<Vec<f32>>,
        state: Vec<f32>,
    }

    impl<'a> Scan<'a> {
        fn new(case: &'a Case) -> Self {
            let (batch, channels, time) = (case.dim("B"), case.dim("D"), case.dim("L"));
            let problem = selective_scan::Problem {
                batch,
                time,
                channels,
                state_dim: case.dim("N"),
                // No group dimension means one group.
                groups: case.dim("G").max(1),
            };
            let rows = |values| exchange(values, channels, time);
            let bias = |d: usize| {
                case.input_if_any("delta_bias")
                    .map_or(0.0, |bias| f64::from(bias[d]))
            };
            let delta = rows(case.input("delta")).into_iter().enumerate();
            let raw_step: Vec<f64> = delta.map(|(i, x)| f64::from(x) + bias(i % channels)).collect();
            let step = |x: &f64| if is_softplus(case) { x.exp().ln_1p() } else { *x };
            let group = |values| exchange(values, problem.groups * problem.state_dim, time);
            Self {
                case,
                problem,
                input: rows(case.input("u")),
                step_size: raw_step.iter().map(|x| step(x) as f32).collect(),
                raw_step,
                b: group(case.input("B")),
                c: group(case.input("C")),
                gate: case.input_if_any("z").map(rows),
                state: case
                    .input_if_any("h0")
                    .map_or(vec![0.0; problem.state_len()], <[f32]>::to_vec),
            }
        }

        fn view<'b>(&self, values: &'b [f32], columns: usize) -> Rows<'b> {
            Rows::contiguous(values, self.problem.batch * self.problem.time, columns).expect("whole rows")
        }

        fn inputs(&self) -> selective_scan::Inputs<'_> {
            let (channels, values) = (
                self.problem.channels,
                self.problem.groups * self.problem.state_dim,
            );
            selective_scan::Inputs {
                input: self.view(&self.input, channels),
                step_size: self.view(&self.step_size, channels),
                a: self.case.input("A"),
                b: self.view(&self.b, values),
                c: self.view(&self.c, values),
                skip: self.case.input_if_any("D"),
                gate: self.gate.as_deref().map(|gate| self.view(gate, channels)),
                sequences: Sequences::Equal,
            }
        }

        fn check_forward(&self) {
            let Self { problem, case, .. } = self;
            let (mut state, mut out) = (self.state.clone(), vec![f32::NAN; self.input.len()]);
            selective_scan::sequential(problem, &self.inputs(), &mut state, &mut out).expect("valid");
            case.check(
                "sequential",
                "out",
                &exchange(&out, problem.time, problem.channels),
            );
            case.check("sequential", "last_state", &state);
        }

        fn check_gradients(&self, chunk_size: usize) {
            let Self { problem, case, .. } = self;
            let selective_scan::Problem { time, channels, .. } = *problem;
            let cotangent = exchange(case.cotangent("out"), channels, time);
            let mut buffers = [
                self.input.len(),
                self.input.len(),
                channels * problem.state_dim,
                self.b.len(),
                self.c.len(),
                channels,
                self.input.len(),
                self.state.len(),
            ]
            .map(|len| vec![f32::NAN; len]);
            let [input, step_size, a, b, c, skip, gate, state] = &mut buffers;
            let cotangents = selective_scan::Cotangents {
                out: self.view(&cotangent, channels),
                state: case.cotangent_if_any("last_state"),
            };
            let mut gradients = selective_scan::Gradients {
                input,
                step_size,
                a,
                b,
                c,
                skip: case.input_if_any("D").map(|_| &mut skip[..]),
                gate: case.input_if_any("z").map(|_| &mut gate[..]),
                state,
            };
            selective_scan::backward(
                problem,
                &self.inputs(),
                chunk_size,
                &self.state,
                &cotangents,
                &mut gradients,
            )
            .expect("valid");
            let form = format!("chunks of {chunk_size}");
            let values = problem.groups * problem.state_dim;
            let raw = self.through_softplus(step_size);
            case.check_gradient(&form, "u", &exchange(input, time, channels));
            case.check_gradient(&form, "delta", &exchange(&raw, time, channels));
            case.check_gradient(&form, "A", a);
            case.check_gradient(&form, "B", &exchange(b, time, values));
            case.check_gradient(&form, "C", &exchange(c, time, values));
            let mut of_bias = vec![0.0; channels];
            for (i, x) in raw.iter().enumerate() {
                of_bias[i % channels] += x;
            }
            for (name, found) in [
                ("D", &*skip),
                ("z", &exchange(gate, time, channels)),
                ("h0", &*state),
            ] {
                if case.gradient_if_any(name).is_some() {
                    case.check_gradient(&form, name, found);
                }
            }
            if case.gradient_if_any("delta_bias").is_some() {
                case.check_gradient(&form, "delta_bias", &of_bias);
            }
        }

        /// The gradient before the softplus, whose derivative is σ.
        fn through_softplus(&self, gradient: &[f32]) -> Vec<f32> {
            let derivative = |x: &f64| {
                if is_softplus(self.case) {
                    1.0 / (1.0 + (-x).exp())
                } else {
                    1.0
                }
            };
            let raw = gradient.iter().zip(&self.raw_step);
            raw.map(|(g, x)| (f64::from(*g) * derivative(x)) as f32).collect()
        }
    }

    fn is_softplus(case: &Case) -> bool {
        case.scalar("delta_softplus") != 0.0
    }

    #[test]
    fn the_selective_scan_agrees() {
        for case in cases("mamba1_selective_scan") {
            let scan = Scan::new(&case);
            scan.check_forward();
            for chunk_size in [1, 16, 50] {
                scan.check_gradients(chunk_size);
            }
        }
    }

    #[test]
    fn wkv4_agrees() {
        for case in cases("rwkv4") {
            let (batch, time, channels) = (case.dim("B"), case.dim("T"), case.dim("C"));
            let problem = wkv4::Problem {
                batch,
                time,
                channels,
            };
            let raw = case.input("time_decay");
            let log_decay: Vec<f32> = raw.iter().map(|w| -f64::from(*w).exp() as f32).collect();
            let rows = |values| Rows::contiguous(values, batch * time, channels).expect("whole rows");
            let inputs = wkv4::Inputs {
                log_decay: &log_decay,
                bonus: case.input("time_first"),
                key: rows(case.input("k")),
                value: rows(case.input("v")),
                sequences: Sequences::Equal,
            };
            let mut initial = problem.empty_state();
            for (part, name) in ["num0", "den0", "max0"].into_iter().enumerate() {
                if let Some(values) = case.input_if_any(name) {
                    let parts = initial.chunks_exact_mut(channels).skip(part).step_by(3);
                    parts
                        .zip(values.chunks_exact(channels))
                        .for_each(|(part, values)| part.copy_from_slice(values));
                }
            }
            let (mut state, mut out) = (
                initial.clone(),
                vec![f32::NAN; problem.out_len(&inputs.sequences)],
            );
            wkv4::sequential(&problem, &inputs, &mut state, &mut out).expect("valid");
            case.check("sequential", "o", &out);
            for (part, name) in ["num", "den", "max"].into_iter().enumerate() {
                case.check("sequential", name, &part_of(&state, channels, part));
            }
            for chunk_size in [1, 16, 50] {
                check_wkv4_gradients(&case, &problem, &inputs, &initial, chunk_size);
            }
        }
    }

    /// Part `part` of a state `[batch, 3, channels]`.
    fn part_of(state: &[f32], channels: usize, part: usize) -> Vec<f32> {
        let parts = state.chunks_exact(channels).skip(part).step_by(3);
        parts.flatten().copied().collect()
    }

    fn check_wkv4_gradients(
        case: &Case,
        problem: &wkv4::Problem,
        inputs: &wkv4::Inputs,
        initial: &[f32],
        chunk_size: usize,
    ) {
        let channels = problem.channels;
        let len = problem.out_len(&inputs.sequences);
        let mut buffers = [channels, channels, len, len, initial.len()].map(|len| vec![f32::NAN; len]);
        let [log_decay, bonus, key, value, state] = &mut buffers;
        let cotangent = case.cotangent("o");
        let cotangents = wkv4::Cotangents {
            out: Rows::contiguous(cotangent, problem.batch * problem.time, channels).expect("whole rows"),
            state: None,
        };
        let mut gradients = wkv4::Gradients {
            log_decay,
            bonus,
            key,
            value,
            state,
        };
        wkv4::backward(problem, inputs, chunk_size, initial, &cotangents, &mut gradients).expect("valid");
        // ∂time_decay = w ∂w, since w = −exp(time_decay).
        let time_decay: Vec<f32> = log_decay
            .iter()
            .zip(inputs.log_decay)
            .map(|(g, w)| g * w)
            .collect();
        let form = format!("chunks of {chunk_size}");
        if case.gradient_if_any("time_decay").is_some() {
            case.check_gradient(&form, "time_decay", &time_decay);
        }
        case.check_gradient(&form, "time_first", bonus);
        case.check_gradient(&form, "k", key);
        case.check_gradient(&form, "v", value);
        for (part, name) in ["num0", "den0", "max0"].into_iter().enumerate() {
            if case.gradient_if_any(name).is_some() {
                case.check_gradient(&form, name, &part_of(state, channels, part));
            }
        }
    }
}
