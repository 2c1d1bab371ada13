//! The selective scan at the shapes of Mamba.

use serde_json::{Value, json};
pub use spillway_kernel_dsl::selective_scan::Problem;
use spillway_kernel_dsl::selective_scan::{
    Cotangents, DEFAULT_CHUNK_SIZE, Gradients, Inputs, backward, sequential, step,
};
use spillway_kernel_dsl::{Rows, Sequences};

use super::{EXPONENTIAL, Failure, Kernel, Work, values};

/// Mamba of 130M parameters.
pub const MAMBA_130M: Problem = Problem {
    batch: 1,
    time: 2048,
    channels: 1536,
    state_dim: 16,
    groups: 1,
};

/// The sizes by name, for peers.
pub fn sizes(problem: &Problem) -> Value {
    json!({
        "batch": problem.batch,
        "time": problem.time,
        "channels": problem.channels,
        "state_dim": problem.state_dim,
        "groups": problem.groups,
    })
}

/// What a call does at least. Forward, of every value of the state: the decay's product and exponential, three operations of
/// the update, a multiply-add of the read-out. Backward: decay and update again, and six multiply-adds.
pub fn work(problem: &Problem, form: &str) -> Work {
    let tokens = problem.batch * problem.time;
    let values = tokens * problem.channels * problem.state_dim;
    let inputs = tokens * (2 * problem.channels + 2 * problem.groups * problem.state_dim)
        + problem.channels * problem.state_dim;
    let out = tokens * problem.channels;
    let state = 2 * problem.state_len();
    if form == "backward" {
        Work::in_place(
            tokens,
            (1 + EXPONENTIAL + 3 + 12) * values,
            2 * inputs + out + state,
        )
    } else {
        Work::in_place(tokens, (1 + EXPONENTIAL + 3 + 2) * values, inputs + out + state)
    }
}

/// Kernels of the selective scan: one token alone and for many sequences, and 2048 tokens forward and backward.
pub fn kernels() -> Vec<Kernel> {
    let token = |batch| Problem {
        batch,
        time: 1,
        ..MAMBA_130M
    };
    vec![
        forward("step", "mamba_130m_b1", token(1)),
        forward("step", "mamba_130m_b256", token(256)),
        forward("sequential", "mamba_130m_t2048", MAMBA_130M),
        backward_kernel("mamba_130m_t2048", MAMBA_130M),
    ]
}

fn forward(form: &'static str, name: &str, problem: Problem) -> Kernel {
    let work = work(&problem, form);
    Kernel::on_host(form, name, sizes(&problem), work, move || {
        let operands = Operands::new(problem);
        let (mut state, mut out) = (values(problem.state_len()), operands.cotangent.clone());
        Ok(move || {
            let inputs = operands.inputs()?;
            match form {
                "step" => step(&problem, &inputs, &mut state, &mut out)?,
                _ => sequential(&problem, &inputs, &mut state, &mut out)?,
            }
            Ok(())
        })
    })
}

fn backward_kernel(name: &str, problem: Problem) -> Kernel {
    let work = work(&problem, "backward");
    Kernel::on_host("backward", name, sizes(&problem), work, move || {
        let operands = Operands::new(problem);
        let state = values(problem.state_len());
        let like = |values: &[f32]| vec![0.0; values.len()];
        let (mut input, mut step_size) = (like(&operands.input), like(&operands.step_size));
        let (mut a, mut b, mut c) = (like(&operands.a), like(&operands.b), like(&operands.c));
        let mut initial = like(&state);
        Ok(move || {
            let cotangents = Cotangents {
                out: operands.rows(&operands.cotangent)?,
                state: None,
            };
            let mut gradients = Gradients {
                input: &mut input,
                step_size: &mut step_size,
                a: &mut a,
                b: &mut b,
                c: &mut c,
                skip: None,
                gate: None,
                state: &mut initial,
            };
            let inputs = operands.inputs()?;
            backward(
                &problem,
                &inputs,
                DEFAULT_CHUNK_SIZE,
                &state,
                &cotangents,
                &mut gradients,
            )?;
            Ok(())
        })
    })
}

/// Inputs and cotangents of a problem.
struct Operands {
    problem: Problem,
    input: Vec<f32>,
    step_size: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    cotangent: Vec<f32>,
}

impl Operands {
    fn new(problem: Problem) -> Self {
        let rows = problem.batch * problem.time;
        let per_group = rows * problem.groups * problem.state_dim;
        Self {
            problem,
            input: values(rows * problem.channels),
            // Between 0.001 and 0.1, and A from −1 to −N, as Mamba begins.
            step_size: values(rows * problem.channels)
                .iter()
                .map(|v| 0.001 + 0.099 * (v + 0.5))
                .collect(),
            a: (0..problem.channels * problem.state_dim)
                .map(|i| -((i % problem.state_dim + 1) as f32))
                .collect(),
            b: values(per_group),
            c: values(per_group),
            cotangent: values(rows * problem.channels),
        }
    }

    fn rows<'a>(&self, values: &'a [f32]) -> Result<Rows<'a>, Failure> {
        let rows = self.problem.batch * self.problem.time;
        Ok(Rows::contiguous(values, rows, values.len() / rows)?)
    }

    fn inputs(&self) -> Result<Inputs<'_>, Failure> {
        Ok(Inputs {
            input: self.rows(&self.input)?,
            step_size: self.rows(&self.step_size)?,
            a: &self.a,
            b: self.rows(&self.b)?,
            c: self.rows(&self.c)?,
            skip: None,
            gate: None,
            sequences: Sequences::Equal,
        })
    }
}
