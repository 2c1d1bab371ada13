//! The delta rule against what other people's software computed.

use crate::support;

mod golden {
    use spillway_kernel_dsl::DecayKind;
    use spillway_kernel_dsl::delta_rule::{
        Cotangents, DeltaRuleError, Gradients, Inputs, Problem, Transition, TransitionGradients,
        TransitionKind, backward, chunked, reference, sequential,
    };
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::support::{Case, cases};

    /// How an operator names its tensors.
    struct Names {
        query: &'static str,
        log_decay: &'static str,
        /// β, or p and b.
        transition: &'static [&'static str],
    }

    /// One case in this crate's terms.
    struct Prepared<'a> {
        case: &'a Case,
        names: &'a Names,
        problem: Problem,
        state: Vec<f32>,
    }

    impl<'a> Prepared<'a> {
        fn new(case: &'a Case, names: &'a Names, decay: DecayKind) -> Self {
            let heads = case.dim("H");
            let problem = Problem {
                batch: case.dim("B"),
                time: case.dim("T"),
                heads,
                groups: heads,
                key_dim: case.dim("K"),
                value_dim: case.dim("V"),
                transition: match names.transition {
                    [_] => TransitionKind::Delta,
                    _ => TransitionKind::LowRank,
                },
                decay,
            };
            let zeros = || vec![0.0; problem.state_len()];
            let state = case.input_if_any("h0").map_or_else(zeros, <[f32]>::to_vec);
            Self {
                case,
                names,
                problem,
                state,
            }
        }

        /// The tensor of `cols` columns as rows of tokens.
        fn rows<'v>(&self, values: &'v [f32], cols: usize) -> Rows<'v> {
            let tokens = self.problem.batch * self.problem.time;
            Rows::contiguous(values, tokens, cols).expect("as long as the case says")
        }

        fn inputs(&self) -> Inputs<'_> {
            let Problem {
                heads,
                key_dim,
                value_dim,
                ..
            } = self.problem;
            let input = |name, cols| self.rows(self.case.input(name), cols);
            Inputs {
                query: input(self.names.query, heads * key_dim),
                key: input("k", heads * key_dim),
                value: input("v", heads * value_dim),
                transition: match self.names.transition {
                    [p, b] => Transition::LowRank {
                        p: input(p, heads * key_dim),
                        b: input(b, heads * key_dim),
                    },
                    names => Transition::Delta {
                        beta: input(names[0], heads),
                    },
                },
                log_decay: (self.problem.decay != DecayKind::None)
                    .then(|| input(self.names.log_decay, self.problem.decay_columns()))
                    .into(),
                scale: self.case.scalar("scale") as f32,
                sequences: Sequences::Equal,
            }
        }

        fn check_forward(
            &self,
            form: &str,
            run: impl FnOnce(&Problem, &Inputs, &mut [f32], &mut [f32]) -> Result<(), DeltaRuleError>,
        ) {
            let (mut state, mut out) = (
                self.state.clone(),
                vec![f32::NAN; self.problem.out_len(&Sequences::Equal)],
            );
            run(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
            self.case.check(form, "o", &out);
            self.case.check(form, "ht", &state);
        }

        fn check_backward<T: Copy + From<f32> + Into<f64>>(
            &self,
            form: &str,
            run: impl FnOnce(&Inputs, &Cotangents, &mut Gradients<T>) -> Result<(), DeltaRuleError>,
        ) {
            let nan = |len: usize| vec![T::from(f32::NAN); len];
            let like = |name: &str| nan(self.case.input(name).len());
            let mut buffers: Vec<Vec<T>> = self.names.transition.iter().map(|name| like(name)).collect();
            let mut second = buffers.split_off(1);
            let (mut query, mut key, mut value) = (like(self.names.query), like("k"), like("v"));
            let mut log_decay = (self.problem.decay != DecayKind::None).then(|| like(self.names.log_decay));
            let mut state = nan(self.problem.state_len());
            let cotangents = Cotangents {
                out: self.rows(
                    self.case.cotangent("o"),
                    self.problem.heads * self.problem.value_dim,
                ),
                state: self.case.cotangent_if_any("ht"),
            };
            let mut gradients = Gradients {
                query: &mut query,
                key: &mut key,
                value: &mut value,
                transition: match second.first_mut() {
                    None => TransitionGradients::Delta {
                        beta: &mut buffers[0],
                    },
                    Some(b) => TransitionGradients::LowRank {
                        p: &mut buffers[0],
                        b,
                    },
                },
                log_decay: log_decay.as_deref_mut().into(),
                state: &mut state,
            };
            run(&self.inputs(), &cotangents, &mut gradients).expect("valid");
            let check = |name: &str, found: &[T]| {
                let narrow: Vec<f32> = found.iter().map(|x| (*x).into() as f32).collect();
                self.case.check_gradient(form, name, &narrow);
            };
            check(self.names.query, &query);
            check("k", &key);
            check("v", &value);
            for (name, found) in self.names.transition.iter().zip(buffers.iter().chain(&second)) {
                check(name, found);
            }
            if let Some(log_decay) = &log_decay {
                check(self.names.log_decay, log_decay);
            }
            if self.case.input_if_any("h0").is_some() {
                check("h0", &state);
            }
        }
    }

    fn check_operator(op: &str, names: &Names, decay: DecayKind) {
        for case in cases(op) {
            let prepared = Prepared::new(&case, names, decay);
            prepared.check_forward("sequential", sequential);
            for chunk_size in [1, 16, 50, 64] {
                let form = format!("chunks of {chunk_size}");
                prepared.check_forward(&form, |problem, inputs, state, out| {
                    chunked(problem, inputs, chunk_size, state, out)
                });
                prepared.check_backward::<f32>(&form, |inputs, cotangents, gradients| {
                    backward(
                        &prepared.problem,
                        inputs,
                        chunk_size,
                        &prepared.state,
                        cotangents,
                        gradients,
                    )
                });
            }
            prepared.check_backward::<f64>("the reference", |inputs, cotangents, gradients| {
                let state: Vec<f64> = prepared.state.iter().map(|x| f64::from(*x)).collect();
                reference::backward(&prepared.problem, inputs, &state, cotangents, gradients)
            });
        }
    }

    #[test]
    fn delta_net_agrees() {
        let names = Names {
            query: "q",
            log_decay: "none",
            transition: &["beta"],
        };
        check_operator("delta_rule", &names, DecayKind::None);
    }

    #[test]
    fn gated_delta_net_agrees() {
        let names = Names {
            query: "q",
            log_decay: "g",
            transition: &["beta"],
        };
        check_operator("gated_delta_rule", &names, DecayKind::PerHeadToken);
    }

    #[test]
    fn kimi_delta_attention_agrees() {
        let names = Names {
            query: "q",
            log_decay: "g",
            transition: &["beta"],
        };
        check_operator("kda", &names, DecayKind::PerKeyToken);
    }

    #[test]
    fn rwkv7_agrees() {
        let names = Names {
            query: "r",
            log_decay: "w",
            transition: &["a", "b"],
        };
        check_operator("rwkv7", &names, DecayKind::PerKeyToken);
    }
}
