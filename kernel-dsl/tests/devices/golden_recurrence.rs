//! The recurrence on every device, against what other people's software computed.

use crate::{device, support};

mod golden {
    use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, DeviceRows, Limits};
    use spillway_kernel_dsl::recurrence::cube::{
        DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Plan, backward, chunked, sequential,
    };
    use spillway_kernel_dsl::recurrence::{Problem, ReadOut};
    use spillway_kernel_dsl::{DecayKind, LogDecay};
    use spillway_kernel_dsl::{Rows, Sequences};

    use super::device::{clients, download, upload, upload_rows};
    use super::support::{Case, cases};

    const CHUNK_SIZES: [usize; 2] = [16, 32];

    /// A case in the recurrence's own layout.
    struct Prepared<'a> {
        problem: Problem,
        query: &'a [f32],
        key: &'a [f32],
        value: &'a [f32],
        log_decay: Vec<f32>,
        bonus: Option<&'a [f32]>,
        scale: f32,
        state: Option<&'a [f32]>,
    }

    impl<'a> Prepared<'a> {
        fn new(case: &'a Case, decay: DecayKind, read_out: ReadOut, query: &str) -> Self {
            Self {
                problem: Problem {
                    batch: case.dim("B"),
                    time: case.dim("T"),
                    heads: case.dim("H"),
                    groups: case.dim("H"),
                    key_dim: case.dim("K"),
                    value_dim: case.dim("V"),
                    decay,
                    read_out,
                },
                query: case.input(query),
                key: case.input("k"),
                value: case.input("v"),
                log_decay: Vec::new(),
                bonus: None,
                scale: case.scalar_if_any("scale").unwrap_or(1.0) as f32,
                state: case.input_if_any("h0"),
            }
        }

        fn rows(&self, client: &Client, values: &[f32], columns: usize) -> DeviceRows {
            let rows = self.problem.batch * self.problem.time;
            let view = Rows::contiguous(values, rows, columns).expect("as long as the case says");
            upload_rows(client, &view, DType::F32)
        }

        fn inputs(&self, client: &Client) -> DeviceInputs<'static> {
            let Problem {
                heads,
                groups,
                key_dim,
                value_dim,
                decay,
                ..
            } = self.problem;
            DeviceInputs {
                query: self.rows(client, self.query, groups * key_dim),
                key: self.rows(client, self.key, groups * key_dim),
                value: self.rows(client, self.value, heads * value_dim),
                log_decay: match decay {
                    DecayKind::None => LogDecay::None,
                    DecayKind::PerHead | DecayKind::PerKey => {
                        LogDecay::Constant(upload(client, &self.log_decay))
                    }
                    DecayKind::PerHeadToken | DecayKind::PerKeyToken => {
                        let columns = heads * decay.values_per_head(key_dim);
                        LogDecay::Token(self.rows(client, &self.log_decay, columns))
                    }
                },
                step_size: None,
                bonus: self.bonus.map(|bonus| upload(client, bonus)),
                skip: None,
                scale: self.scale,
                sequences: Sequences::Equal,
            }
        }

        /// Compares output, final state, and the gradients that the case has under these names of query, key, value, log
        /// decay, bonus and initial state.
        fn check(&self, case: &Case, names: [&str; 6]) {
            for (device, client) in clients() {
                let inputs = self.inputs(client);
                let state = self.state.map(|state| upload(client, state));
                let found = sequential(client, &self.problem, &inputs, state.as_ref()).expect("valid");
                check_outputs(case, &format!("tokens on {device}"), client, &found);
                for size in CHUNK_SIZES {
                    let form = format!("chunks of {size} on {device}");
                    let plan = Plan::exact(&Limits::of(client), size).expect("it fits");
                    let found =
                        chunked(client, &self.problem, &inputs, &plan, state.as_ref()).expect("valid");
                    check_outputs(case, &form, client, &found);
                    let found = self.gradients(case, client, &inputs, &plan, state.as_ref());
                    check_gradients(case, &form, client, names, &found);
                }
            }
        }

        fn gradients(
            &self,
            case: &Case,
            client: &Client,
            inputs: &DeviceInputs,
            plan: &Plan,
            state: Option<&DeviceBuffer>,
        ) -> DeviceGradients {
            let columns = self.problem.heads * self.problem.value_dim;
            let cotangents = DeviceCotangents {
                out: self.rows(client, case.cotangent("o"), columns),
                state: case.cotangent_if_any("ht").map(|state| upload(client, state)),
            };
            backward(client, &self.problem, inputs, plan, state, &cotangents).expect("valid")
        }
    }

    fn check_outputs(case: &Case, form: &str, client: &Client, found: &DeviceOutputs) {
        case.check(form, "o", &download(client, &found.out));
        case.check(form, "ht", &download(client, &found.state));
    }

    fn check_gradients(case: &Case, form: &str, client: &Client, names: [&str; 6], found: &DeviceGradients) {
        assert!(
            case.gradient_if_any(names[0]).is_some(),
            "{} has no gradient",
            case.name
        );
        let found = [
            Some(&found.query),
            Some(&found.key),
            Some(&found.value),
            found.log_decay.as_ref().either(),
            found.bonus.as_ref(),
            Some(&found.state),
        ];
        for (name, found) in names.into_iter().zip(found) {
            if let (Some(found), true) = (found, case.gradient_if_any(name).is_some()) {
                case.check_gradient(form, name, &download(client, found));
            }
        }
    }

    #[test]
    fn simple_gla_agrees() {
        for case in cases("simple_gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHeadToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("g").to_vec();
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn gla_agrees() {
        for case in cases("gla") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Inclusive, "q");
            prepared.log_decay = case.input("gk").to_vec();
            prepared.check(&case, ["q", "k", "v", "gk", "u", "h0"]);
        }
    }

    #[test]
    fn retention_agrees() {
        for case in cases("retention") {
            let mut prepared = Prepared::new(&case, DecayKind::PerHead, ReadOut::Inclusive, "q");
            let gamma = |head: usize| 1.0 - 2.0_f64.powi(-5 - head as i32);
            prepared.log_decay = (0..case.dim("H")).map(|head| gamma(head).ln() as f32).collect();
            prepared.check(&case, ["q", "k", "v", "g", "u", "h0"]);
        }
    }

    #[test]
    fn rwkv5_agrees() {
        for case in cases("rwkv5") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKey, ReadOut::Bonus, "r");
            let raw = case.input("time_decay").iter();
            prepared.log_decay = raw.map(|w| -f64::from(*w).exp() as f32).collect();
            prepared.bonus = Some(case.input("u"));
            prepared.check(&case, ["r", "k", "v", "w", "u", "h0"]);
        }
    }

    #[test]
    fn rwkv6_agrees() {
        for case in cases("rwkv6") {
            let mut prepared = Prepared::new(&case, DecayKind::PerKeyToken, ReadOut::Bonus, "q");
            prepared.log_decay = case.input("w").to_vec();
            prepared.bonus = Some(case.input("u"));
            prepared.check(&case, ["q", "k", "v", "w", "u", "h0"]);
        }
    }
}
