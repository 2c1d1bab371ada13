//! Kernels of state spaces agree with other people's software: S4D, DSS, EMA and S4, their states, rates and lengths.

use crate::support;

mod golden {
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::cauchy::{self, truncation};
    use spillway_kernel_dsl::vandermonde::{self, Discretization, ModeSet, Steps};

    use super::support::{Case, cases};

    /// A parameter as the software stores it, what it stands for, and the slope.
    struct Transformed {
        values: Vec<f64>,
        slopes: Vec<f64>,
    }

    fn transformed(transform: &str, stored: &[f32]) -> Transformed {
        let one = |&p: &f32| -> (f64, f64) {
            let p = f64::from(p);
            let sigmoid = 1.0 / (1.0 + (-p).exp());
            match transform {
                "none" => (p, 1.0),
                "exp" => (p.exp(), p.exp()),
                "relu" => (p.max(0.0) + 1e-4, if p > 0.0 { 1.0 } else { 0.0 }),
                "sigmoid" => (sigmoid, sigmoid * (1.0 - sigmoid)),
                "softplus" => (p.exp().ln_1p(), sigmoid),
                other => panic!("no transform {other}"),
            }
        };
        let (values, slopes) = stored.iter().map(one).unzip();
        Transformed { values, slopes }
    }

    /// What all systems have, by the names of the software that made the case.
    struct System {
        modes: usize,
        copies: usize,
        step: Transformed,
        damping: Transformed,
        frequency: Transformed,
        /// The sign of the imaginary part.
        sign: f64,
        rate: f64,
        b: Vec<f32>,
        c: Vec<f32>,
        /// 0 where the band limit drops a mode.
        mask: Vec<f32>,
        names: [&'static str; 3],
    }

    impl System {
        /// The minimal S4D layer, which stores logarithms and has B = 1, or the full one.
        fn new(case: &Case) -> Self {
            let minimal = case.input_if_any("log_dt").is_some();
            let names = match minimal {
                true => ["log_dt", "log_A_real", "A_imag"],
                false => ["inv_dt", "A_real", "A_imag"],
            };
            let real = case.scalar_if_any("is_real") == Some(1.0);
            let modes = if real { case.dim("N") } else { case.dim("N") / 2 };
            let transform = |name, usual| case.text(name).unwrap_or(usual);
            let zeros = vec![0.0; case.input(names[1]).len()];
            let imaginary = case.input_if_any(names[2]).unwrap_or(&zeros);
            let copies = case.input(names[1]).len() / modes;
            let ones: Vec<f32> = [1.0, 0.0].repeat(copies * modes);
            let complex = |values: &[f32]| match real {
                true => values.iter().flat_map(|&x| [x, 0.0]).collect(),
                false => values.to_vec(),
            };
            let mut system = Self {
                modes,
                copies,
                step: transformed(transform("dt_transform", "exp"), case.input(names[0])),
                damping: transformed(transform("real_transform", "exp"), case.input(names[1])),
                frequency: transformed(transform("imag_transform", "none"), imaginary),
                sign: if minimal { 1.0 } else { -1.0 },
                rate: case.scalar_if_any("rate").unwrap_or(1.0),
                b: case.input_if_any("B").map_or(ones, complex),
                c: complex(case.input("C")),
                mask: Vec::new(),
                names,
            };
            system.limit_band(case);
            system
        }

        /// Keeps the modes below half the limit in cycles per sample, at the rate of training.
        fn limit_band(&mut self, case: &Case) {
            self.mask = vec![1.0; self.c.len()];
            let Some(limit) = case.scalar_if_any("bandlimit") else {
                return;
            };
            let channels = case.dim("H");
            for (index, mask) in self.mask.chunks_exact_mut(2).enumerate() {
                let (channel, n) = (index / self.modes % channels, index % self.modes);
                let frequency = self.frequency.values[channel % self.copies * self.modes + n];
                let step = self.step.values[channel];
                if step * frequency.abs() / std::f64::consts::TAU >= limit / 2.0 {
                    mask.fill(0.0);
                }
            }
            self.c.iter_mut().zip(&self.mask).for_each(|(c, mask)| *c *= mask);
        }

        fn step(&self) -> Vec<f32> {
            self.step.values.iter().map(|&x| (x * self.rate) as f32).collect()
        }

        fn a(&self) -> Vec<f32> {
            let pairs = self.damping.values.iter().zip(&self.frequency.values);
            pairs
                .flat_map(|(re, im)| [-re as f32, (self.sign * im) as f32])
                .collect()
        }

        /// The gradients by what is stored.
        fn check_gradients(&self, case: &Case, form: &str, step: &[f32], a: &[f32], b: &[f32], c: &[f32]) {
            let scaled = |by: &[f32], slopes: &[f64], factor: f64| -> Vec<f32> {
                let pairs = by.iter().zip(slopes);
                pairs
                    .map(|(&by, slope)| (f64::from(by) * slope * factor) as f32)
                    .collect()
            };
            let part = |values: &[f32], offset: usize| -> Vec<f32> {
                values.iter().skip(offset).step_by(2).copied().collect()
            };
            let complex = |by: &[f32], name: &str| match case.input(name).len() == by.len() {
                true => by.to_vec(),
                false => part(by, 0),
            };
            let by_re = scaled(&part(a, 0), &self.damping.slopes, -1.0);
            let by_im = scaled(&part(a, 1), &self.frequency.slopes, self.sign);
            case.check_gradient(form, self.names[0], &scaled(step, &self.step.slopes, self.rate));
            case.check_gradient(form, self.names[1], &by_re);
            if case.input_if_any(self.names[2]).is_some() {
                case.check_gradient(form, self.names[2], &by_im);
            }
            if case.input_if_any("B").is_some() {
                case.check_gradient(form, "B", &complex(b, "B"));
            }
            let by_c: Vec<f32> = c.iter().zip(&self.mask).map(|(by, mask)| by * mask).collect();
            case.check_gradient(form, "C", &complex(&by_c, "C"));
        }
    }

    /// The sizes of kernels, states and signals of a case.
    #[derive(Clone, Copy)]
    struct Sizes {
        channels: usize,
        readouts: usize,
        batch: usize,
        length: usize,
    }

    impl Sizes {
        fn new(case: &Case) -> Self {
            let (channels, length) = (case.dim("H"), case.dim("L"));
            let signal = case.input_if_any("u").map_or(0, <[f32]>::len);
            Self {
                channels,
                readouts: case.output("K").len() / (channels * length),
                batch: signal / (channels * length),
                length,
            }
        }

        /// Outputs of the layer, y = K ∗ u + S, `[batch, readouts, channels, length]`.
        fn outputs(&self, kernel: &[f32], response: &[f32], signal: &[f32]) -> Vec<f32> {
            let mut y = response.to_vec();
            y.resize(self.batch * self.readouts * self.channels * self.length, 0.0);
            self.each(|b, r, h| {
                let (k, u) = (self.kernel_row(r, h), (b * self.channels + h) * self.length);
                let row = self.output_row(b, r, h);
                for l in 0..self.length {
                    let terms = (0..=l).map(|m| f64::from(kernel[k + m]) * f64::from(signal[u + l - m]));
                    y[row + l] += terms.sum::<f64>() as f32;
                }
            });
            y
        }

        /// What the cotangent of y adds to those of K and of u.
        fn pull_back(&self, kernel: &[f32], signal: &[f32], by_y: &[f32]) -> (Vec<f32>, Vec<f32>) {
            let mut by_kernel = vec![0.0_f64; kernel.len()];
            let mut by_signal = vec![0.0_f64; signal.len()];
            self.each(|b, r, h| {
                let (k, u) = (self.kernel_row(r, h), (b * self.channels + h) * self.length);
                let row = self.output_row(b, r, h);
                for l in 0..self.length {
                    let by = f64::from(by_y[row + l]);
                    for m in 0..=l {
                        by_kernel[k + m] += by * f64::from(signal[u + l - m]);
                        by_signal[u + l - m] += by * f64::from(kernel[k + m]);
                    }
                }
            });
            let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
            (narrow(by_kernel), narrow(by_signal))
        }

        fn each(&self, mut run: impl FnMut(usize, usize, usize)) {
            for b in 0..self.batch {
                for r in 0..self.readouts {
                    (0..self.channels).for_each(|h| run(b, r, h));
                }
            }
        }

        fn kernel_row(&self, r: usize, h: usize) -> usize {
            (r * self.channels + h) * self.length
        }

        fn output_row(&self, b: usize, r: usize, h: usize) -> usize {
            ((b * self.readouts + r) * self.channels + h) * self.length
        }
    }

    fn rows(values: &[f32], cols: usize) -> Rows<'_> {
        let count = values.len().checked_div(cols).unwrap_or(0);
        Rows::contiguous(values, count, cols).expect("whole rows")
    }

    fn sum(a: &[f32], b: Option<&[f32]>) -> Vec<f32> {
        let mut sum = a.to_vec();
        let added = b.unwrap_or_default();
        sum.iter_mut().zip(added).for_each(|(sum, b)| *sum += b);
        sum
    }

    /// The names of the states before and after in a case.
    const STATES: [(&str, &str); 2] = [("state", "next_state"), ("state0", "state")];

    fn check_diagonal(case: &Case, rule: Discretization) {
        let (system, sizes) = (System::new(case), Sizes::new(case));
        let Sizes {
            channels,
            readouts,
            batch,
            length,
        } = sizes;
        let problem = vandermonde::Problem {
            channels,
            modes: system.modes,
            copies: system.copies,
            readouts,
            batch,
            length,
            discretization: rule,
            mode_set: match rule {
                Discretization::Softmax => ModeSet::All,
                _ => ModeSet::ConjugatePairs,
            },
            steps: match system.step.values.len() == channels {
                true => Steps::PerChannel,
                false => Steps::PerMode,
            },
        };
        let names = STATES
            .iter()
            .find(|(before, _)| case.input_if_any(before).is_some());
        let (step, a) = (system.step(), system.a());
        let signal = case.input_if_any("u").unwrap_or_default();
        let inputs = vandermonde::Inputs {
            step: &step,
            a: &a,
            b: &system.b,
            c: &system.c,
            state: names.map(|(before, _)| case.input(before)).unwrap_or_default(),
            signal: rows(signal, length),
        };
        let mut results = vandermonde::Results {
            kernel: vec![f32::NAN; readouts * channels * length],
            state_kernel: vec![f32::NAN; batch * readouts * channels * length],
            next_state: vec![f32::NAN; inputs.state.len()],
        };
        vandermonde::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
        case.check("Vandermonde", "K", &results.kernel);
        if case.has_output("K_state") {
            case.check("Vandermonde", "K_state", &results.state_kernel);
        }
        if let Some((_, after)) = names {
            let y = sizes.outputs(&results.kernel, &results.state_kernel, signal);
            case.check("Vandermonde", "y", &y);
            case.check("Vandermonde", after, &results.next_state);
        }
        if case.cotangent_if_any("K").is_none() {
            return;
        }

        let by_y = case.cotangent_if_any("y");
        let nothing = vec![0.0; results.state_kernel.len()];
        let (by_kernel, by_signal) = sizes.pull_back(&results.kernel, signal, by_y.unwrap_or(&nothing));
        let by_kernel = sum(&by_kernel, case.cotangent_if_any("K"));
        let by_response = sum(by_y.unwrap_or(&nothing), case.cotangent_if_any("K_state"));
        let cotangents = vandermonde::Cotangents {
            kernel: Some(rows(&by_kernel, length)),
            state_kernel: Some(rows(&by_response, length)),
            next_state: names.and_then(|(_, after)| case.cotangent_if_any(after)),
        };
        let mut gradients = vandermonde::GradientBuffers {
            step: vec![f32::NAN; step.len()],
            a: vec![f32::NAN; a.len()],
            b: vec![f32::NAN; system.b.len()],
            c: vec![f32::NAN; system.c.len()],
            state: vec![f32::NAN; inputs.state.len()],
            signal: vec![f32::NAN; signal.len()],
        };
        vandermonde::backward(&problem, &inputs, &cotangents, &mut gradients.as_written()).expect("valid");
        let vandermonde::GradientBuffers { step, a, b, c, .. } = &gradients;
        system.check_gradients(case, "Vandermonde", step, a, b, c);
        if let Some((before, _)) = names {
            case.check_gradient("Vandermonde", before, &gradients.state);
            let by_signal = sum(&by_signal, Some(&gradients.signal));
            case.check_gradient("Vandermonde", "u", &by_signal);
        }
    }

    fn rule(case: &Case) -> Discretization {
        match case.text("disc") {
            None | Some("zoh") => Discretization::ZeroOrderHold,
            Some("bilinear") => Discretization::Bilinear,
            other => panic!("{} has the rule {other:?}", case.name),
        }
    }

    #[test]
    fn kernels_of_s4d_agree() {
        for op in ["s4d_kernel", "s4d_variants"] {
            for case in cases(op) {
                check_diagonal(&case, rule(&case));
            }
        }
    }

    #[test]
    fn kernels_of_dss_agree() {
        for case in cases("dss_kernel") {
            check_diagonal(&case, Discretization::Softmax);
        }
    }

    #[test]
    fn states_agree() {
        for case in cases("s4_state_kernel") {
            match case.text("kind") {
                Some("diag") => check_diagonal(&case, rule(&case)),
                _ => check_low_rank(&case, case.scalar("l_kernel") as usize),
            }
        }
    }

    #[test]
    fn rates_and_band_limits_agree() {
        for case in cases("s4_rate") {
            match case.text("kind") {
                Some("diag") => check_diagonal(&case, rule(&case)),
                _ => {
                    check_low_rank(&case, case.scalar("l_kernel") as usize);
                    check_exact_rate(&case);
                }
            }
        }
    }

    fn low_rank_problem(case: &Case, system: &System, nodes: usize) -> cauchy::Problem {
        let Sizes {
            channels,
            readouts,
            batch,
            length,
        } = Sizes::new(case);
        cauchy::Problem {
            channels,
            modes: system.modes,
            rank: case.input("P").len() / (2 * system.copies * system.modes),
            copies: system.copies,
            readouts,
            batch,
            nodes,
            length,
        }
    }

    /// A system whose readout is truncated for so many positions at rate 1.
    fn check_low_rank(case: &Case, attuned: usize) {
        let (system, sizes) = (System::new(case), Sizes::new(case));
        let nodes = (attuned as f64 / system.rate).round() as usize;
        let problem = low_rank_problem(case, &system, nodes);
        let (step, a) = (system.step(), system.a());
        let signal = case.input_if_any("u").unwrap_or_default();
        let state = case.input_if_any("state").unwrap_or_default();
        let inputs = cauchy::Inputs {
            step: &step,
            a: &a,
            b: &system.b,
            p: case.input("P"),
            c: rows(&system.c, 2 * system.modes),
            state: rows(state, 2 * system.modes),
        };
        let responses = problem.batch * problem.readouts * problem.channels * problem.length;
        let mut results = cauchy::Results {
            kernel: vec![f32::NAN; case.output("K").len()],
            state_kernel: vec![f32::NAN; responses],
        };
        cauchy::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
        case.check("Cauchy", "K", &results.kernel);
        if case.has_output("K_state") {
            case.check("Cauchy", "K_state", &results.state_kernel);
            let y = sizes.outputs(&results.kernel, &results.state_kernel, signal);
            case.check("Cauchy", "y", &y);
        }
        if case.cotangent_if_any("K").is_none() {
            return;
        }

        let nothing = vec![0.0; responses];
        let by_y = case.cotangent_if_any("y").unwrap_or(&nothing);
        let (by_kernel, by_signal) = sizes.pull_back(&results.kernel, signal, by_y);
        let by_kernel = sum(&by_kernel, case.cotangent_if_any("K"));
        let by_response = sum(by_y, case.cotangent_if_any("K_state"));
        let cotangents = cauchy::Cotangents {
            kernel: Some(rows(&by_kernel, problem.length)),
            state_kernel: Some(rows(&by_response, problem.length)),
        };
        let mut gradients = cauchy::GradientBuffers {
            step: vec![f32::NAN; step.len()],
            a: vec![f32::NAN; a.len()],
            b: vec![f32::NAN; system.b.len()],
            p: vec![f32::NAN; case.input("P").len()],
            c: vec![f32::NAN; system.c.len()],
            state: vec![f32::NAN; state.len()],
        };
        cauchy::backward(&problem, &inputs, &cotangents, &mut gradients.as_written()).expect("valid");
        let cauchy::GradientBuffers { step, a, b, c, .. } = &gradients;
        system.check_gradients(case, "Cauchy", step, a, b, c);
        case.check_gradient("Cauchy", "P", &gradients.p);
        if case.input_if_any("state").is_some() {
            case.check_gradient("Cauchy", "state", &gradients.state);
            case.check_gradient("Cauchy", "u", &by_signal);
        }
    }

    #[test]
    fn kernels_of_s4_agree() {
        for case in cases("s4_dplr_kernel") {
            if case.text("C_is") == Some("C_tilde") {
                check_low_rank(&case, case.dim("L"));
                continue;
            }
            let system = System::new(&case);
            let problem = low_rank_problem(&case, &system, case.dim("L"));
            let found = kernel_of(
                &case,
                &system,
                &problem,
                &system.step(),
                &system.c,
                truncation::truncate,
            );
            case.check("Cauchy", "C_tilde", &found.0);
            case.check("Cauchy", "K", &found.1);
        }
    }

    type Change = fn(&cauchy::Problem, &cauchy::Inputs, &mut [f32]) -> Result<(), cauchy::CauchyError>;

    /// The readout that a change gives, and the kernel of it.
    fn kernel_of(
        case: &Case,
        system: &System,
        problem: &cauchy::Problem,
        step: &[f32],
        c: &[f32],
        change: Change,
    ) -> (Vec<f32>, Vec<f32>) {
        // Signals are not a part of it.
        let problem = cauchy::Problem { batch: 0, ..*problem };
        let a = system.a();
        let mut changed = vec![f32::NAN; c.len()];
        let mut inputs = cauchy::Inputs {
            step,
            a: &a,
            b: &system.b,
            p: case.input("P"),
            c: rows(c, 2 * system.modes),
            state: rows(&[], 2 * system.modes),
        };
        change(&problem, &inputs, &mut changed).expect("valid");
        inputs.c = rows(&changed, 2 * system.modes);
        let mut results = cauchy::Results {
            kernel: vec![f32::NAN; problem.readouts * problem.channels * problem.length],
            state_kernel: Vec::new(),
        };
        cauchy::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
        (changed, results.kernel)
    }

    /// The kernel at another rate of the C that C̃ stands for.
    fn check_exact_rate(case: &Case) {
        let system = System::new(case);
        let attuned = case.scalar("l_kernel") as usize;
        let trained: Vec<f32> = system.step.values.iter().map(|&x| x as f32).collect();
        let problem = cauchy::Problem {
            length: 0,
            ..low_rank_problem(case, &system, attuned)
        };
        let (c, _) = kernel_of(case, &system, &problem, &trained, &system.c, truncation::restore);
        let problem = low_rank_problem(case, &system, case.dim("L"));
        let (_, kernel) = kernel_of(case, &system, &problem, &system.step(), &c, truncation::truncate);
        case.check("C restored and truncated", "K_exact", &kernel);
    }

    #[test]
    fn lengths_agree() {
        for case in cases("s4_length") {
            let system = System::new(&case);
            let length = case.dim("L");
            let mut nodes = case.scalar("l_kernel") as usize;
            let (mut c, step) = (system.c.clone(), system.step());
            let mut run = |nodes: usize, after: usize, change: Change| {
                let mut problem = low_rank_problem(&case, &system, nodes);
                problem.length = 0;
                c = kernel_of(&case, &system, &problem, &step, &c, change).0;
                after
            };
            if nodes == 0 {
                nodes = run(length, length, truncation::truncate);
            }
            while nodes < length {
                nodes = run(nodes, 2 * nodes, truncation::extend);
            }
            assert_eq!(case.output("l_kernel_after"), [nodes as f32], "{}", case.name);
            case.check("extended", "C_after", &c);
            let problem = low_rank_problem(&case, &system, nodes);
            let same: Change = |_, inputs, out| {
                let rows = (0..inputs.c.rows()).flat_map(|row| inputs.c.row(row));
                out.iter_mut().zip(rows).for_each(|(out, &c)| *out = c);
                Ok(())
            };
            let (_, kernel) = kernel_of(&case, &system, &problem, &step, &c, same);
            case.check("extended", "K", &kernel);
        }
    }

    #[test]
    fn kernels_of_moving_averages_agree() {
        for case in cases("ema_kernel") {
            check_moving_average(&case);
        }
    }

    /// p = σ(δ), q = 1 − p σ(α): λ = ln q at Δ = 1, B = p β, C = γ/√N.
    fn check_moving_average(case: &Case) {
        let (modes, length, channels) = (case.dim("N"), case.dim("L"), case.dim("H") * case.dim("channels"));
        let [p, alpha] = ["delta", "alpha"].map(|name| transformed("sigmoid", case.input(name)));
        let (beta, gamma) = (case.input("beta"), case.input("gamma"));
        let copies = beta.len() / modes;
        // A tied δ belongs to all modes of a copy.
        let p_index = |index: usize| index / (copies * modes / p.values.len());
        let decay = |index: usize| -p.values[p_index(index)] * alpha.values[index];
        let real = |values: Vec<f64>| -> Vec<f32> { values.iter().flat_map(|&x| [x as f32, 0.0]).collect() };
        let a = real((0..copies * modes).map(|i| decay(i).ln_1p()).collect());
        let b = (0..copies * modes).map(|i| p.values[p_index(i)] * f64::from(beta[i]));
        let b = real(b.collect());
        let scale = (modes as f64).sqrt().recip();
        let c = real(gamma.iter().map(|&x| f64::from(x) * scale).collect());
        let problem = vandermonde::Problem {
            channels,
            modes,
            copies,
            readouts: 1,
            batch: 0,
            length,
            discretization: Discretization::ExponentialEuler,
            mode_set: ModeSet::All,
            steps: Steps::PerChannel,
        };
        let step = vec![1.0; channels];
        let inputs = vandermonde::Inputs {
            step: &step,
            a: &a,
            b: &b,
            c: &c,
            state: &[],
            signal: rows(&[], length),
        };
        let mut results = vandermonde::Results {
            kernel: vec![f32::NAN; channels * length],
            state_kernel: Vec::new(),
            next_state: Vec::new(),
        };
        vandermonde::kernel(&problem, &inputs, &mut results.as_written()).expect("valid");
        case.check("Vandermonde", "K", &results.kernel);
        let sizes = Sizes {
            channels: case.dim("H"),
            readouts: case.dim("channels"),
            batch: case.dim("B"),
            length,
        };
        let signal = case.input("u");
        case.check("Vandermonde", "y", &sizes.outputs(&results.kernel, &[], signal));

        let (by_kernel, by_signal) = sizes.pull_back(&results.kernel, signal, case.cotangent("y"));
        case.check_gradient("Vandermonde", "u", &by_signal);
        let by_kernel = sum(&by_kernel, case.cotangent_if_any("K"));
        let cotangents = vandermonde::Cotangents {
            kernel: Some(rows(&by_kernel, length)),
            state_kernel: None,
            next_state: None,
        };
        let mut by = vandermonde::GradientBuffers {
            step: vec![f32::NAN; channels],
            a: vec![f32::NAN; a.len()],
            b: vec![f32::NAN; b.len()],
            c: vec![f32::NAN; c.len()],
            state: Vec::new(),
            signal: Vec::new(),
        };
        vandermonde::backward(&problem, &inputs, &cotangents, &mut by.as_written()).expect("valid");
        let mut by_delta = vec![0.0_f64; p.values.len()];
        let (mut by_alpha, mut by_beta) = (Vec::new(), Vec::new());
        for (index, &beta) in beta.iter().enumerate() {
            let (by_a, by_b) = (f64::from(by.a[2 * index]), f64::from(by.b[2 * index]));
            let at = p_index(index);
            let by_q = by_a / (1.0 + decay(index));
            by_delta[at] += p.slopes[at] * (f64::from(beta) * by_b - alpha.values[index] * by_q);
            by_alpha.push((-p.values[at] * alpha.slopes[index] * by_q) as f32);
            by_beta.push((p.values[at] * by_b) as f32);
        }
        let by_gamma: Vec<f32> =
            by.c.iter()
                .step_by(2)
                .map(|&x| (f64::from(x) * scale) as f32)
                .collect();
        let by_delta: Vec<f32> = by_delta.into_iter().map(|x| x as f32).collect();
        for (name, found) in [
            ("delta", by_delta),
            ("alpha", by_alpha),
            ("beta", by_beta),
            ("gamma", by_gamma),
        ] {
            case.check_gradient("Vandermonde", name, &found);
        }
    }
}
