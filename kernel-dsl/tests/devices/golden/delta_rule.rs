//! DeltaNet, Gated DeltaNet, KDA and RWKV-7.

use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, DeviceRows};
use spillway_kernel_dsl::delta_rule::cube::{
    DeviceCotangents, DeviceInputs, DeviceTransition, DeviceTransitionGradients, backward, chunked,
    sequential,
};
use spillway_kernel_dsl::delta_rule::{Problem, TransitionKind};
use spillway_kernel_dsl::{Rows, Sequences};

use crate::device::{clients, download, upload, upload_rows};
use crate::support::{Case, cases};

/// How one software names what the delta rule reads.
struct Names {
    op: &'static str,
    query: &'static str,
    decay: DecayKind,
    /// The log decay, unless there is none.
    log_decay: &'static str,
    transition: TransitionKind,
}

const OPS: [Names; 4] = [
    Names {
        op: "delta_rule",
        query: "q",
        decay: DecayKind::None,
        log_decay: "",
        transition: TransitionKind::Delta,
    },
    Names {
        op: "gated_delta_rule",
        query: "q",
        decay: DecayKind::PerHeadToken,
        log_decay: "g",
        transition: TransitionKind::Delta,
    },
    Names {
        op: "kda",
        query: "q",
        decay: DecayKind::PerKeyToken,
        log_decay: "g",
        transition: TransitionKind::Delta,
    },
    Names {
        op: "rwkv7",
        query: "r",
        decay: DecayKind::PerKeyToken,
        log_decay: "w",
        transition: TransitionKind::LowRank,
    },
];

impl Names {
    fn problem(&self, case: &Case) -> Problem {
        Problem {
            batch: case.dim("B"),
            time: case.dim("T"),
            heads: case.dim("H"),
            groups: case.dim("H"),
            key_dim: case.dim("K"),
            value_dim: case.dim("V"),
            transition: self.transition,
            decay: self.decay,
        }
    }

    fn inputs(&self, case: &Case, client: &Client) -> DeviceInputs<'static> {
        let rows = |name: &str| rows(case, client, case.input(name));
        DeviceInputs {
            query: rows(self.query),
            key: rows("k"),
            value: rows("v"),
            transition: match self.transition {
                TransitionKind::Delta => DeviceTransition::Delta { beta: rows("beta") },
                TransitionKind::LowRank => DeviceTransition::LowRank {
                    p: rows("a"),
                    b: rows("b"),
                },
            },
            log_decay: (self.decay != DecayKind::None)
                .then(|| rows(self.log_decay))
                .into(),
            scale: case
                .scalar_if_any("scale")
                .unwrap_or((case.dim("K") as f64).powf(-0.5)) as f32,
            sequences: Sequences::Equal,
        }
    }
}

/// A tensor `[batch, time, ...]` as token rows on the device.
fn rows(case: &Case, client: &Client, values: &[f32]) -> DeviceRows {
    let tokens = case.dim("B") * case.dim("T");
    let view = Rows::contiguous(values, tokens, values.len() / tokens).expect("the case has all tokens");
    upload_rows(client, &view, DType::F32)
}

fn start(case: &Case, client: &Client) -> Option<DeviceBuffer> {
    case.input_if_any("h0").map(|state| upload(client, state))
}

#[test]
fn delta_rules_agree() {
    for (name, client) in clients() {
        for names in &OPS {
            for case in cases(names.op) {
                let inputs = names.inputs(&case, client);
                let (problem, start) = (names.problem(&case), start(&case, client));
                let tokens = sequential(client, &problem, &inputs, start.as_ref()).expect("a valid case");
                let chunks = chunked(client, &problem, &inputs, start.as_ref()).expect("a valid case");
                for (form, found) in [("tokens", tokens), ("chunks", chunks)] {
                    let form = format!("{form} on {name}");
                    case.check(&form, "o", &download(client, &found.out));
                    case.check(&form, "ht", &download(client, &found.state));
                }
            }
        }
    }
}

#[test]
fn gradients_of_delta_rules_agree() {
    for (name, client) in clients() {
        for names in &OPS {
            for case in cases(names.op) {
                let cotangents = DeviceCotangents {
                    out: rows(&case, client, case.cotangent("o")),
                    state: case.cotangent_if_any("ht").map(|state| upload(client, state)),
                };
                let (problem, inputs) = (names.problem(&case), names.inputs(&case, client));
                let initial = start(&case, client);
                let found = backward(client, &problem, &inputs, initial.as_ref(), &cotangents);
                let found = found.expect("a valid case");
                let mut checks = vec![
                    (names.query, &found.query),
                    ("k", &found.key),
                    ("v", &found.value),
                ];
                match &found.transition {
                    DeviceTransitionGradients::Delta { beta } => checks.push(("beta", beta)),
                    DeviceTransitionGradients::LowRank { p, b } => checks.extend([("a", p), ("b", b)]),
                }
                checks.extend(found.log_decay.token().map(|found| (names.log_decay, found)));
                if initial.is_some() {
                    checks.push(("h0", &found.state));
                }
                for (gradient, found) in checks {
                    check(&case, name, gradient, &download(client, found));
                }
            }
        }
    }
}

/// A gradient that is 0 throughout has no f32 error, and must be 0.
fn check(case: &Case, name: &str, gradient: &str, found: &[f32]) {
    if case.gradient(gradient).iter().all(|g| *g == 0.0) {
        assert!(
            found.iter().all(|g| *g == 0.0),
            "{} on {name}: {gradient}",
            case.name
        );
    } else {
        case.check_gradient(name, gradient, found);
    }
}
