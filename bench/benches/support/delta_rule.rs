//! The delta rule at shapes of DeltaNet, Gated DeltaNet, KDA and RWKV-7.

use serde_json::{Value, json};
use spillway_kernel_dsl::DecayKind;
pub use spillway_kernel_dsl::delta_rule::Problem;
use spillway_kernel_dsl::delta_rule::{
    Cotangents, DEFAULT_CHUNK_SIZE, Gradients, Inputs, Transition, TransitionGradients, TransitionKind,
    backward, chunked, sequential, step,
};
use spillway_kernel_dsl::{Rows, Sequences};

use super::{Failure, Kernel, Work, values};

const fn shape(decay: DecayKind, transition: TransitionKind) -> Problem {
    Problem {
        batch: 1,
        time: 2048,
        heads: 8,
        groups: 8,
        key_dim: 64,
        value_dim: 64,
        transition,
        decay,
    }
}

/// Every kind, with eight heads of 64 × 64.
pub const SHAPES: [(&str, Problem); 4] = [
    ("deltanet_h8_64x64", shape(DecayKind::None, TransitionKind::Delta)),
    (
        "gated_deltanet_h8_64x64",
        shape(DecayKind::PerHeadToken, TransitionKind::Delta),
    ),
    (
        "kda_h8_64x64",
        shape(DecayKind::PerKeyToken, TransitionKind::Delta),
    ),
    (
        "rwkv7_h8_64x64",
        shape(DecayKind::PerKeyToken, TransitionKind::LowRank),
    ),
];

/// The sizes by name, for peers.
pub fn sizes(problem: &Problem) -> Value {
    json!({
        "batch": problem.batch,
        "time": problem.time,
        "heads": problem.heads,
        "groups": problem.groups,
        "key_dim": problem.key_dim,
        "value_dim": problem.value_dim,
        "decay": format!("{:?}", problem.decay),
        "transition": format!("{:?}", problem.transition),
    })
}

/// Every kind: one token, and all in every form.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for (name, problem) in SHAPES {
        kernels.push(kernel(
            "step",
            format!("{name}_b1"),
            Problem { time: 1, ..problem },
        ));
        for form in ["sequential", "chunked", "backward"] {
            kernels.push(kernel(form, format!("{name}_t2048"), problem));
        }
    }
    kernels
}

/// What a call does at least. Forward, of every value of the state: decay, what the key reads, the update and the read-out.
/// Backward: decay, reading and update again, and five multiply-adds.
pub fn work(problem: &Problem, form: &str) -> Work {
    let tokens = problem.batch * problem.time;
    let state = problem.batch * problem.heads * problem.key_dim * problem.value_dim;
    let values = problem.time * state;
    let key = tokens * problem.groups * problem.key_dim;
    let out = tokens * problem.heads * problem.value_dim;
    let floats = 2 * key + transition_len(problem) + decay_len(problem) + out;
    if form == "backward" {
        Work::in_place(tokens, 17 * values, 2 * floats + out + 2 * state)
    } else {
        Work::in_place(tokens, 7 * values, floats + out + 2 * state)
    }
}

fn transition_len(problem: &Problem) -> usize {
    let tokens = problem.batch * problem.time;
    match problem.transition {
        TransitionKind::Delta => tokens * problem.heads,
        TransitionKind::LowRank => 2 * tokens * problem.groups * problem.key_dim,
    }
}

fn decay_len(problem: &Problem) -> usize {
    problem.batch * problem.time * problem.heads * problem.decay.values_per_head(problem.key_dim)
}

fn kernel(form: &'static str, name: String, problem: Problem) -> Kernel {
    let work = work(&problem, form);
    Kernel::on_host(form, name, sizes(&problem), work, move || {
        let operands = Operands::new(problem);
        let mut state = values(problem.state_len());
        let mut out = operands.cotangent.clone();
        let mut gradients = operands.clone();
        let mut initial = state.clone();
        Ok(move || -> Result<(), Failure> {
            let inputs = operands.inputs()?;
            match form {
                "step" => step(&problem, &inputs, &mut state, &mut out)?,
                "sequential" => sequential(&problem, &inputs, &mut state, &mut out)?,
                "chunked" => chunked(&problem, &inputs, DEFAULT_CHUNK_SIZE, &mut state, &mut out)?,
                _ => {
                    let cotangents = Cotangents {
                        out: operands.rows(&operands.cotangent)?,
                        state: None,
                    };
                    let mut into = gradients.as_gradients(&mut initial);
                    backward(
                        &problem,
                        &inputs,
                        DEFAULT_CHUNK_SIZE,
                        &state,
                        &cotangents,
                        &mut into,
                    )?;
                }
            }
            Ok(())
        })
    })
}

/// Inputs and cotangents of a problem, or buffers for their gradients.
#[derive(Clone)]
struct Operands {
    problem: Problem,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// β; or p, and after it b.
    transition: Vec<f32>,
    log_decay: Option<Vec<f32>>,
    cotangent: Vec<f32>,
}

impl Operands {
    fn new(problem: Problem) -> Self {
        let rows = problem.batch * problem.time;
        let key = || {
            let mut key = values(rows * problem.groups * problem.key_dim);
            for row in key.chunks_exact_mut(problem.key_dim) {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x /= norm);
            }
            key
        };
        let transition = match problem.transition {
            TransitionKind::Delta => values(rows * problem.heads).iter().map(|v| v + 0.5).collect(),
            // −k and k / 2: what they add to the state, the decay takes.
            TransitionKind::LowRank => {
                let opposite = key().into_iter().map(|x| -x);
                opposite.chain(key().into_iter().map(|x| 0.5 * x)).collect()
            }
        };
        let decays = (problem.decay != DecayKind::None).then(|| values(decay_len(&problem)));
        Self {
            problem,
            query: values(rows * problem.groups * problem.key_dim),
            key: key(),
            value: values(rows * problem.heads * problem.value_dim),
            transition,
            log_decay: decays.map(|values| values.iter().map(|v| 0.2 * (v - 0.5)).collect()),
            cotangent: values(rows * problem.heads * problem.value_dim),
        }
    }

    fn rows<'a>(&self, values: &'a [f32]) -> Result<Rows<'a>, Failure> {
        let rows = self.problem.batch * self.problem.time;
        Ok(Rows::contiguous(values, rows, values.len() / rows)?)
    }

    fn inputs(&self) -> Result<Inputs<'_>, Failure> {
        let (p, b) = self.transition.split_at(self.transition.len() / 2);
        Ok(Inputs {
            query: self.rows(&self.query)?,
            key: self.rows(&self.key)?,
            value: self.rows(&self.value)?,
            transition: match self.problem.transition {
                TransitionKind::Delta => Transition::Delta {
                    beta: self.rows(&self.transition)?,
                },
                TransitionKind::LowRank => Transition::LowRank {
                    p: self.rows(p)?,
                    b: self.rows(b)?,
                },
            },
            log_decay: self
                .log_decay
                .as_deref()
                .map(|values| self.rows(values))
                .transpose()?
                .into(),
            scale: 1.0,
            sequences: Sequences::Equal,
        })
    }

    fn as_gradients<'a>(&'a mut self, state: &'a mut [f32]) -> Gradients<'a> {
        let half = self.transition.len() / 2;
        Gradients {
            query: &mut self.query,
            key: &mut self.key,
            value: &mut self.value,
            transition: match self.problem.transition {
                TransitionKind::Delta => TransitionGradients::Delta {
                    beta: &mut self.transition,
                },
                TransitionKind::LowRank => {
                    let (p, b) = self.transition.split_at_mut(half);
                    TransitionGradients::LowRank { p, b }
                }
            },
            log_decay: self.log_decay.as_deref_mut().into(),
            state,
        }
    }
}
