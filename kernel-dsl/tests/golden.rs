//! The recurrence against what other people's software computed.

mod support;

mod golden {
    use kernel_dsl::recurrence::{
        DecayKind, Element, Inputs, LogDecay, Problem, ReadOut, apply, chunked, element, sequential,
    };
    use kernel_dsl::{Rows, Sequences};

    use super::support::{Case, cases};

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

        /// Output and final state by every form, each named.
        fn run(&self) -> Vec<(String, Vec<f32>, Vec<f32>)> {
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
            let inputs = Inputs {
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
            };
            let mut results = Vec::new();
            let mut run = |name: String, form: &dyn Fn(&mut [f32], &mut [f32])| {
                let (mut state, mut out) = (
                    self.state.clone(),
                    vec![f32::NAN; self.problem.out_len(Sequences::Equal)],
                );
                form(&mut state, &mut out);
                results.push((name, out, state));
            };
            run("sequential".into(), &|state, out| {
                sequential(&self.problem, &inputs, state, out).expect("valid");
            });
            for chunk_size in [1, 16, 50, 64] {
                run(format!("chunks of {chunk_size}"), &|state, out| {
                    chunked(&self.problem, &inputs, chunk_size, state, out).expect("valid");
                });
            }
            run("the monoid element".into(), &|state, out| {
                let mut sums = vec![f32::NAN; batch * heads * self.problem.decay_sums_per_head()];
                let mut update = vec![f32::NAN; self.problem.state_len()];
                element(&self.problem, &inputs, 64, &mut sums, &mut update).expect("valid");
                sequential(&self.problem, &inputs, &mut state.to_vec(), out).expect("valid");
                apply(
                    &self.problem,
                    Element {
                        log_decay_sum: &sums,
                        update: &update,
                    },
                    state,
                )
                .expect("valid");
            });
            results
        }

        /// Compares `out.o` and `out.ht`.
        fn check(&self, case: &Case) {
            for (form, out, state) in self.run() {
                case.check(&form, "o", &out);
                case.check(&form, "ht", &state);
            }
        }
    }

    #[test]
    fn simple_gla_agrees() {
        for case in cases("simple_gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHeadToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("g").to_vec();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case);
        }
    }

    #[test]
    fn gla_agrees() {
        for case in cases("gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("gk").to_vec();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case);
        }
    }

    #[test]
    fn retention_agrees() {
        for case in cases("retention") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHead, ReadOut::Inclusive, "q");
            let gamma = |head: usize| 1.0 - 2.0_f64.powi(-5 - head as i32);
            prepared.log_decay = (0..case.dim("H")).map(|head| gamma(head).ln() as f32).collect();
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case);
        }
    }

    #[test]
    fn rwkv5_agrees() {
        for case in cases("rwkv5") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKey, ReadOut::Bonus, "r");
            let raw = case.input("time_decay").iter();
            prepared.log_decay = raw.map(|w| -f64::from(*w).exp() as f32).collect();
            prepared.bonus = Some(case.input("u").to_vec());
            prepared.check(&case);
        }
    }

    #[test]
    fn rwkv6_agrees() {
        for case in cases("rwkv6") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Bonus, "q");
            prepared.log_decay = case.input("w").to_vec();
            prepared.bonus = Some(case.input("u").to_vec());
            prepared.scale = case.scalar("scale") as f32;
            prepared.check(&case);
        }
    }

    /// The normaliser z_t = z_0 + Σ k is the same recurrence with a single value of 1.
    #[test]
    fn linear_attention_agrees() {
        for case in cases("linear_attn") {
            let mut prepared = Prepared::new(&case, DecayKind::None, ReadOut::Inclusive, "q");
            prepared.scale = case.scalar("scale") as f32;
            if case.scalar("normalize") == 0.0 {
                prepared.check(&case);
                continue;
            }
            let results = prepared.run();
            let Problem {
                batch,
                time,
                heads,
                key_dim,
                value_dim,
                ..
            } = prepared.problem;
            prepared.problem.value_dim = 1;
            prepared.value = vec![1.0; batch * time * heads];
            let zeros = vec![0.0; batch * heads * key_dim];
            prepared.state = case.input_if_any("z0").map_or(zeros, <[f32]>::to_vec);
            for ((form, mut out, state), (_, denominator, z)) in results.into_iter().zip(prepared.run()) {
                for (y, sum) in out.chunks_exact_mut(value_dim).zip(&denominator) {
                    y.iter_mut().for_each(|y| *y /= sum + 1e-10);
                }
                case.check(&form, "o", &out);
                case.check(&form, "ht", &state);
                case.check(&form, "zt", &z);
            }
        }
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
