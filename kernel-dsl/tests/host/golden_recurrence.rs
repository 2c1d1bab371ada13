//! The recurrence against what other people's software computed.

use crate::support;

mod golden {
    use spillway_kernel_dsl::recurrence::normalized::{
        self, InitialState, NormalizedCotangents, NormalizedGradients, NormalizedState,
    };
    use spillway_kernel_dsl::recurrence::{
        Cotangents, Element, GradientBuffers, Inputs, Problem, ReadOut, apply, backward, chunked, element,
        sequential,
    };
    use spillway_kernel_dsl::{DecayKind, LogDecay};
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::support::{Case, cases};

    const CHUNK_SIZES: [usize; 4] = [1, 16, 50, 64];

    /// Owned inputs of a recurrence, in its own layout.
    struct Prepared {
        problem: Problem,
        query: Vec<f32>,
        key: Vec<f32>,
        value: Vec<f32>,
        log_decay: Vec<f32>,
        step_size: Option<Vec<f32>>,
        bonus: Option<Vec<f32>>,
        skip: Option<Vec<f32>>,
        scale: f32,
        state: Vec<f32>,
    }

    impl Prepared {
        fn new(case: &Case, decay: DecayKind, read_out: ReadOut, query: &str) -> Self {
            let (batch, time, heads) = (case.dim("B"), case.dim("T"), case.dim("H"));
            let (key_dim, value_dim) = (case.dim("K"), case.dim("V"));
            let problem = Problem {
                batch,
                time,
                heads,
                groups: heads,
                key_dim,
                value_dim,
                decay,
                read_out,
            };
            let state = case
                .input_if_any("h0")
                .map_or(vec![0.0; problem.state_len()], <[f32]>::to_vec);
            Self {
                problem,
                query: case.input(query).to_vec(),
                key: case.input("k").to_vec(),
                value: case.input("v").to_vec(),
                log_decay: Vec::new(),
                step_size: None,
                bonus: None,
                skip: None,
                scale: 1.0,
                state,
            }
        }

        fn inputs(&self) -> Inputs<'_> {
            let Problem {
                batch,
                time,
                heads,
                groups,
                key_dim,
                value_dim,
                decay,
                ..
            } = self.problem;
            let rows = |values, cols| {
                Rows::contiguous(values, batch * time, cols).expect("as long as the case says")
            };
            Inputs {
                query: rows(&self.query, groups * key_dim),
                key: rows(&self.key, groups * key_dim),
                value: rows(&self.value, heads * value_dim),
                log_decay: match decay {
                    DecayKind::None => LogDecay::None,
                    DecayKind::PerHead | DecayKind::PerKey => LogDecay::Constant(&self.log_decay),
                    DecayKind::PerHeadToken => LogDecay::Token(rows(&self.log_decay, heads)),
                    DecayKind::PerKeyToken => LogDecay::Token(rows(&self.log_decay, heads * key_dim)),
                },
                step_size: self.step_size.as_ref().map(|steps| rows(steps, heads)),
                bonus: self.bonus.as_deref(),
                skip: self.skip.as_deref(),
                scale: self.scale,
                sequences: Sequences::Equal,
            }
        }

        /// Output and final state by every form, each named.
        fn run(&self) -> Vec<(String, Vec<f32>, Vec<f32>)> {
            let (problem, inputs) = (&self.problem, &self.inputs());
            let mut results = Vec::new();
            let mut run = |name: String, form: &dyn Fn(&mut [f32], &mut [f32])| {
                let (mut state, mut out) = (self.state.clone(), self.out_buffer());
                form(&mut state, &mut out);
                results.push((name, out, state));
            };
            run("sequential".into(), &|state, out| {
                sequential(problem, inputs, state, out).expect("valid");
            });
            for chunk_size in CHUNK_SIZES {
                run(format!("chunks of {chunk_size}"), &|state, out| {
                    chunked(problem, inputs, chunk_size, state, out).expect("valid");
                });
            }
            run("the monoid element".into(), &|state, out| {
                let sums = problem.batch * problem.heads * problem.decay_sums_per_head();
                let (mut sums, mut update) = (vec![f32::NAN; sums], vec![f32::NAN; problem.state_len()]);
                element(problem, inputs, 64, &mut sums, &mut update).expect("valid");
                sequential(problem, inputs, &mut state.to_vec(), out).expect("valid");
                let element = Element {
                    log_decay_sum: &sums,
                    update: &update,
                };
                apply(problem, element, state).expect("valid");
            });
            results
        }

        fn out_buffer(&self) -> Vec<f32> {
            vec![f32::NAN; self.problem.out_len(Sequences::Equal)]
        }

        /// Gradients by chunks of several sizes, each named.
        fn gradients(&self, out: &[f32], state: Option<&[f32]>) -> Vec<(String, GradientBuffers)> {
            let (problem, inputs) = (&self.problem, &self.inputs());
            let cotangents = Cotangents {
                out: self.out_rows(out),
                state,
            };
            let by_chunks = |chunk_size| {
                let mut found: GradientBuffers = GradientBuffers::zeros(problem, inputs).expect("valid");
                let mut gradients = found.as_written();
                backward(
                    problem,
                    inputs,
                    chunk_size,
                    &self.state,
                    &cotangents,
                    &mut gradients,
                )
                .expect("valid");
                (format!("chunks of {chunk_size}"), found)
            };
            CHUNK_SIZES.into_iter().map(by_chunks).collect()
        }

        fn out_rows<'a>(&self, values: &'a [f32]) -> Rows<'a> {
            let Problem {
                batch,
                time,
                heads,
                value_dim,
                ..
            } = self.problem;
            Rows::contiguous(values, batch * time, heads * value_dim).expect("as long as the output")
        }

        /// Compares `out.o` and `out.ht`, and the gradients that the case has under these names of query, key, value, log
        /// decay, bonus and initial state.
        fn check(&self, case: &Case, names: [&str; 6]) {
            for (form, out, state) in self.run() {
                case.check(&form, "o", &out);
                case.check(&form, "ht", &state);
            }
            for (form, gradients) in self.gradients(case.cotangent("o"), case.cotangent_if_any("ht")) {
                check_gradients(case, &form, names, &gradients);
            }
        }
    }

    /// Compares the gradients that the case has under these names; the query's it has to have.
    fn check_gradients(case: &Case, form: &str, names: [&str; 6], gradients: &GradientBuffers) {
        assert!(
            case.gradient_if_any(names[0]).is_some(),
            "{} has no gradient",
            case.name
        );
        let found = [
            Some(&gradients.query),
            Some(&gradients.key),
            Some(&gradients.value),
            gradients.log_decay.as_ref().either(),
            gradients.bonus.as_ref(),
            Some(&gradients.state),
        ];
        for (name, found) in names.into_iter().zip(found) {
            if let (Some(found), true) = (found, case.gradient_if_any(name).is_some()) {
                case.check_gradient(form, name, found);
            }
        }
    }

    #[test]
    fn simple_gla_agrees() {
        for case in cases("simple_gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHeadToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("g").to_vec();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn gla_agrees() {
        for case in cases("gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("gk").to_vec();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "gk", "u", "h0"]);
        }
    }

    #[test]
    fn retention_agrees() {
        for case in cases("retention") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHead, ReadOut::Inclusive, "q");
            let gamma = |head: usize| 1.0 - 2.0_f64.powi(-5 - head as i32);
            prepared.log_decay = (0..case.dim("H")).map(|head| gamma(head).ln() as f32).collect();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn lightning_attention_agrees() {
        for case in cases("lightning_attn") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHead, ReadOut::Inclusive, "q");
            let heads = case.dim("H");
            let depth = 1.0 - case.scalar("layer_idx") / case.scalar("num_layers");
            let slope = |head: usize| -8.0 / heads as f64 * depth * head as f64;
            prepared.log_decay = (0..heads).map(|head| slope(head) as f32).collect();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn rwkv5_agrees() {
        for case in cases("rwkv5") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKey, ReadOut::Bonus, "r");
            let raw = case.input("time_decay").iter();
            prepared.log_decay = raw.map(|w| -f64::from(*w).exp() as f32).collect();
            prepared.bonus = Some(case.input("u").to_vec());
            prepared.check(&case, ["r", "k", "v", "w", "u", "h0"]);
            // ln a = −exp(w) has the derivative ln a by w.
            for (form, gradients) in prepared.gradients(case.cotangent("o"), case.cotangent_if_any("ht")) {
                let by_log_decay = gradients.log_decay.either().expect("RWKV-5 decays");
                let by_raw = by_log_decay.iter().zip(&prepared.log_decay);
                let by_raw: Vec<f32> = by_raw.map(|(gradient, g)| gradient * g).collect();
                case.check_gradient(&form, "time_decay", &by_raw);
            }
        }
    }

    #[test]
    fn rwkv6_agrees() {
        for case in cases("rwkv6") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Bonus, "q");
            prepared.log_decay = case.input("w").to_vec();
            prepared.bonus = Some(case.input("u").to_vec());
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case, ["q", "k", "v", "w", "u", "h0"]);
        }
    }

    /// One head per channel, whose state is one value; query and key are 1.
    #[test]
    fn hgrn_agrees() {
        for case in cases("hgrn") {
            let (batch, time, channels) = (case.dim("B"), case.dim("T"), case.dim("D"));
            let zeros = vec![0.0; batch * channels];
            let prepared = Prepared {
                problem: Problem {
                    batch,
                    time,
                    heads: channels,
                    groups: 1,
                    key_dim: 1,
                    value_dim: 1,
                    decay: DecayKind::PerHeadToken,
                    read_out: ReadOut::Inclusive,
                },
                query: vec![1.0; batch * time],
                key: vec![1.0; batch * time],
                value: case.input("x").to_vec(),
                log_decay: case.input("g").to_vec(),
                step_size: None,
                bonus: None,
                skip: None,
                scale: 1.0,
                state: case.input_if_any("h0").map_or(zeros, <[f32]>::to_vec),
            };
            for (form, out, state) in prepared.run() {
                case.check(&form, "o", &out);
                case.check(&form, "ht", &state);
            }
            for (form, gradients) in prepared.gradients(case.cotangent("o"), case.cotangent_if_any("ht")) {
                case.check_gradient(&form, "x", &gradients.value);
                case.check_gradient(&form, "g", &gradients.log_decay.either().expect("HGRN decays"));
                if case.gradient_if_any("h0").is_some() {
                    case.check_gradient(&form, "h0", &gradients.state);
                }
            }
        }
    }

    /// Output, final state and final key sum with a normaliser, by every form.
    fn normalized_results(prepared: &Prepared, eps: f32, key_sum: &[f32]) -> Vec<(String, [Vec<f32>; 3])> {
        let (problem, inputs) = (&prepared.problem, &prepared.inputs());
        let forms = [None].into_iter().chain(CHUNK_SIZES.map(Some));
        let run = |chunk_size: Option<usize>| {
            let (mut state, mut out) = (prepared.state.clone(), prepared.out_buffer());
            let mut key_sum = key_sum.to_vec();
            let both = NormalizedState {
                state: &mut state,
                key_sum: &mut key_sum,
            };
            match chunk_size {
                None => normalized::sequential(problem, inputs, eps, both, &mut out),
                Some(size) => normalized::chunked(problem, inputs, eps, size, both, &mut out),
            }
            .expect("valid");
            (format!("{chunk_size:?}"), [out, state, key_sum])
        };
        forms.map(run).collect()
    }

    /// Gradients with a normaliser, those of the key sum last.
    fn normalized_gradients(
        prepared: &Prepared,
        eps: f32,
        key_sum: &[f32],
        (out, state, key_sum_cotangent): (&[f32], Option<&[f32]>, Option<&[f32]>),
    ) -> Vec<(String, GradientBuffers, Vec<f32>)> {
        let (problem, inputs) = (&prepared.problem, &prepared.inputs());
        let cotangents = NormalizedCotangents {
            out: prepared.out_rows(out),
            state,
            key_sum: key_sum_cotangent,
        };
        let by_chunks = |chunk_size| {
            let mut found: GradientBuffers = GradientBuffers::zeros(problem, inputs).expect("valid");
            let mut key_sum_gradient = vec![f32::NAN; key_sum.len()];
            let initial = InitialState {
                state: &prepared.state,
                key_sum,
            };
            let mut gradients = NormalizedGradients {
                inputs: found.as_written(),
                key_sum: &mut key_sum_gradient,
            };
            normalized::backward(
                problem,
                inputs,
                eps,
                chunk_size,
                initial,
                &cotangents,
                &mut gradients,
            )
            .expect("valid");
            (format!("chunks of {chunk_size}"), found, key_sum_gradient)
        };
        CHUNK_SIZES.into_iter().map(by_chunks).collect()
    }

    #[test]
    fn linear_attention_agrees() {
        let names = ["q", "k", "v", "g", "u", "h0"];
        for case in cases("linear_attn") {
            let mut prepared = Prepared::new(&case, DecayKind::None, ReadOut::Inclusive, "q");
            prepared.scale = case.scalar("scale") as f32;
            if case.scalar("normalize") == 0.0 {
                prepared.check(&case, names);
                continue;
            }
            let zeros = vec![0.0; prepared.problem.batch * prepared.problem.heads * prepared.problem.key_dim];
            let z0 = case.input_if_any("z0").map_or(zeros, <[f32]>::to_vec);
            for (form, [out, state, key_sum]) in normalized_results(&prepared, 1e-10, &z0) {
                case.check(&form, "o", &out);
                case.check(&form, "ht", &state);
                case.check(&form, "zt", &key_sum);
            }
            let cotangents = (
                case.cotangent("o"),
                case.cotangent_if_any("ht"),
                case.cotangent_if_any("zt"),
            );
            for (form, gradients, key_sum) in normalized_gradients(&prepared, 1e-10, &z0, cotangents) {
                check_gradients(&case, &form, names, &gradients);
                if case.gradient_if_any("z0").is_some() {
                    case.check_gradient(&form, "z0", &key_sum);
                }
            }
        }
    }

    /// Based's feature map, [1, x / K^¼, x xᵀ / √(2K)], is done here in f64: it is not the recurrence's.
    #[test]
    fn based_agrees() {
        for case in cases("based") {
            let mut prepared = Prepared::new(&case, DecayKind::None, ReadOut::Inclusive, "q");
            let raw_dim = prepared.problem.key_dim;
            let features = 1 + raw_dim + raw_dim * raw_dim;
            prepared.problem.key_dim = features;
            prepared.query = taylor(&prepared.query, raw_dim);
            prepared.key = taylor(&prepared.key, raw_dim);
            prepared.state = vec![0.0; prepared.problem.state_len()];
            let z0 = vec![0.0; prepared.problem.batch * prepared.problem.heads * features];
            let cotangent = case.cotangent("o");
            let raw = |name: &str, gradient: &[f32]| taylor_backward(case.input(name), gradient, raw_dim);
            if case.scalar("use_norm") == 0.0 {
                for (form, out, _) in prepared.run() {
                    case.check(&form, "o", &out);
                }
                for (form, gradients) in prepared.gradients(cotangent, None) {
                    case.check_gradient(&form, "q", &raw("q", &gradients.query));
                    case.check_gradient(&form, "k", &raw("k", &gradients.key));
                    case.check_gradient(&form, "v", &gradients.value);
                }
                continue;
            }
            let eps = case.scalar("eps") as f32;
            for (form, [out, state, key_sum]) in normalized_results(&prepared, eps, &z0) {
                case.check(&form, "o", &out);
                case.check(
                    &form,
                    "kv_T",
                    &transpose(&state, features, prepared.problem.value_dim),
                );
                case.check(&form, "k_T", &key_sum);
            }
            for (form, gradients, _) in normalized_gradients(&prepared, eps, &z0, (cotangent, None, None)) {
                case.check_gradient(&form, "q", &raw("q", &gradients.query));
                case.check_gradient(&form, "k", &raw("k", &gradients.key));
                case.check_gradient(&form, "v", &gradients.value);
            }
        }
    }

    fn taylor(values: &[f32], dim: usize) -> Vec<f32> {
        let (first, second) = ((dim as f64).powf(-0.25), (2.0 * dim as f64).sqrt().recip());
        let map = |x: &[f32]| {
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let products = x.iter().flat_map(|a| x.iter().map(move |b| a * b * second));
            let features = [1.0]
                .into_iter()
                .chain(x.iter().map(|x| x * first))
                .chain(products);
            features.map(|x| x as f32).collect::<Vec<_>>()
        };
        values.chunks_exact(dim).flat_map(map).collect()
    }

    fn taylor_backward(values: &[f32], gradients: &[f32], dim: usize) -> Vec<f32> {
        let (first, second) = ((dim as f64).powf(-0.25), (2.0 * dim as f64).sqrt().recip());
        let back = |(x, gradient): (&[f32], &[f32])| {
            let (linear, products) = gradient[1..].split_at(dim);
            let of_value = |i: usize| {
                let pairs = (0..dim).map(|j| {
                    (f64::from(products[i * dim + j]) + f64::from(products[j * dim + i])) * f64::from(x[j])
                });
                (first * f64::from(linear[i]) + second * pairs.sum::<f64>()) as f32
            };
            (0..dim).map(of_value).collect::<Vec<_>>()
        };
        let rows = values
            .chunks_exact(dim)
            .zip(gradients.chunks_exact(1 + dim + dim * dim));
        rows.flat_map(back).collect()
    }

    /// Mamba-2's projections to step size and gate are done here in f64: they are not the recurrence's.
    #[test]
    fn mamba2_agrees() {
        for case in cases("mamba2_ssd") {
            let (heads, key_dim, value_dim) = (case.dim("H"), case.dim("N"), case.dim("P"));
            let problem = Problem {
                batch: case.dim("B"),
                time: case.dim("T"),
                heads,
                groups: case.dim("G"),
                key_dim,
                value_dim,
                decay: DecayKind::PerHeadToken,
                read_out: ReadOut::Inclusive,
            };
            let zeros = vec![0.0; problem.state_len()];
            let state = case
                .input_if_any("h0")
                .map_or(zeros, |h0| transpose(h0, value_dim, key_dim));
            let step = |(i, raw): (usize, &f32)| mamba2_step_size(&case, *raw, i % heads);
            let steps: Vec<f64> = case.input("dt").iter().enumerate().map(step).collect();
            let a = case.input("A");
            let log_decay = |(i, step): (usize, &f64)| (step * f64::from(a[i % heads])) as f32;
            let prepared = Prepared {
                problem,
                query: case.input("C").to_vec(),
                key: case.input("B").to_vec(),
                value: case.input("x").to_vec(),
                log_decay: steps.iter().enumerate().map(log_decay).collect(),
                step_size: Some(steps.iter().map(|step| *step as f32).collect()),
                bonus: None,
                skip: case.input_if_any("D").map(<[f32]>::to_vec),
                scale: 1.0,
                state,
            };
            check_mamba2_gradients(&case, &prepared, &steps);
            for (form, mut out, state) in prepared.run() {
                if let Some(gate) = case.input_if_any("z") {
                    for (y, z) in out.iter_mut().zip(gate) {
                        let z = f64::from(*z);
                        *y = (f64::from(*y) * z / (1.0 + (-z).exp())) as f32;
                    }
                }
                case.check(&form, "out", &out);
                case.check(&form, "final_state", &transpose(&state, key_dim, value_dim));
            }
        }
    }

    /// Takes the recurrence's gradients on to what Mamba-2's layer is given: z, raw Δ and its bias, and A.
    fn check_mamba2_gradients(case: &Case, prepared: &Prepared, steps: &[f64]) {
        let Problem {
            heads,
            key_dim,
            value_dim,
            ..
        } = prepared.problem;
        let (_, y, _) = prepared.run().swap_remove(0);
        let cotangent = case.cotangent("out");
        let mut by_y = cotangent.to_vec();
        if let Some(gate) = case.input_if_any("z") {
            let mut by_gate = Vec::new();
            for ((dy, y), z) in by_y.iter_mut().zip(&y).zip(gate) {
                let (z, sigmoid) = (f64::from(*z), 1.0 / (1.0 + f64::from(-*z).exp()));
                by_gate.push((f64::from(*dy) * f64::from(*y) * sigmoid * (1.0 + z * (1.0 - sigmoid))) as f32);
                *dy = (f64::from(*dy) * z * sigmoid) as f32;
            }
            case.check_gradient("sequential", "z", &by_gate);
        }
        let state = case
            .cotangent_if_any("final_state")
            .map(|state| transpose(state, value_dim, key_dim));
        for (form, gradients) in prepared.gradients(&by_y, state.as_deref()) {
            case.check_gradient(&form, "C", &gradients.query);
            case.check_gradient(&form, "B", &gradients.key);
            case.check_gradient(&form, "x", &gradients.value);
            if let Some(skip) = &gradients.skip {
                case.check_gradient(&form, "D", skip);
            }
            if case.gradient_if_any("h0").is_some() {
                case.check_gradient(&form, "h0", &transpose(&gradients.state, key_dim, value_dim));
            }
            let by_step = gradients.step_size.expect("Mamba-2 has step sizes");
            let by_log_decay = gradients.log_decay.either().expect("Mamba-2 decays");
            let mut by_raw = Vec::new();
            let [mut by_a, mut by_bias, mut sizes] = [(); 3].map(|()| vec![0.0_f64; heads]);
            for (i, raw) in case.input("dt").iter().enumerate() {
                let head = i % heads;
                let a = f64::from(case.input("A")[head]);
                by_a[head] += f64::from(by_log_decay[i]) * steps[i];
                let terms = [f64::from(by_step[i]), f64::from(by_log_decay[i]) * a];
                let slope = mamba2_step_size_slope(case, *raw, head);
                let derivative = (terms[0] + terms[1]) * slope;
                sizes[head] += (terms[0].abs() + terms[1].abs()) * slope;
                by_bias[head] += derivative;
                by_raw.push(derivative as f32);
            }
            let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<_>>();
            case.check_gradient(&form, "dt", &by_raw);
            case.check_gradient(&form, "A", &narrow(&by_a));
            let expected = case.gradient_if_any("dt_bias").unwrap_or_default();
            for (head, expected) in expected.iter().enumerate() {
                // A sum of terms that cancel, each known to f32: the error is measured against their sizes.
                let size = sizes[head];
                let close = (by_bias[head] - f64::from(*expected)).abs() <= 1e-6 * size;
                assert!(
                    close,
                    "{} by {form}: dt_bias {head} is {}, expected {expected}, from terms of {size}",
                    case.name, by_bias[head]
                );
            }
        }
    }

    /// dΔ / d raw.
    fn mamba2_step_size_slope(case: &Case, raw: f32, head: usize) -> f64 {
        let bias = case
            .input_if_any("dt_bias")
            .map_or(0.0, |bias| f64::from(bias[head]));
        let sum = f64::from(raw) + bias;
        let (step, slope) = if case.scalar("dt_softplus") == 0.0 {
            (sum, 1.0)
        } else {
            (sum.exp().ln_1p(), 1.0 / (1.0 + (-sum).exp()))
        };
        let (lowest, highest) = case.scalar_pair("dt_limit");
        if (lowest..=highest).contains(&step) {
            slope
        } else {
            0.0
        }
    }

    /// Δ = clamp(softplus(raw + bias)), without softplus where the case says so.
    fn mamba2_step_size(case: &Case, raw: f32, head: usize) -> f64 {
        let bias = case
            .input_if_any("dt_bias")
            .map_or(0.0, |bias| f64::from(bias[head]));
        let sum = f64::from(raw) + bias;
        let step = if case.scalar("dt_softplus") == 0.0 {
            sum
        } else {
            sum.exp().ln_1p()
        };
        let (lowest, highest) = case.scalar_pair("dt_limit");
        step.clamp(lowest, highest)
    }

    /// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
    fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        let matrices = values.chunks_exact(rows * cols);
        matrices
            .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
            .collect()
    }
}
