//! The recurrence at the shapes of published models.

use kernel_dsl::recurrence::{
    DEFAULT_CHUNK_SIZE, DecayKind, Inputs, LogDecay, Problem, ReadOut, chunked, sequential, step,
};
use kernel_dsl::{Rows, Sequences};

use super::{Failure, Kernel, Work, values};

/// Which function computes it.
#[derive(Clone, Copy)]
enum Form {
    Step,
    Sequential,
    Chunked,
}

/// A shape, by the name of who has it.
struct Shape {
    name: &'static str,
    heads: usize,
    groups: usize,
    key_dim: usize,
    value_dim: usize,
    decay: DecayKind,
    read_out: ReadOut,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "mamba2_130m",
        heads: 24,
        groups: 1,
        key_dim: 128,
        value_dim: 64,
        decay: DecayKind::PerHeadToken,
        read_out: ReadOut::Inclusive,
    },
    Shape {
        name: "gla_12x64x64",
        heads: 12,
        groups: 12,
        key_dim: 64,
        value_dim: 64,
        decay: DecayKind::PerKeyToken,
        read_out: ReadOut::Inclusive,
    },
    Shape {
        name: "rwkv6_12x64x64",
        heads: 12,
        groups: 12,
        key_dim: 64,
        value_dim: 64,
        decay: DecayKind::PerKeyToken,
        read_out: ReadOut::Bonus,
    },
    Shape {
        name: "small_4x256x32",
        heads: 4,
        groups: 4,
        key_dim: 256,
        value_dim: 32,
        decay: DecayKind::PerHeadToken,
        read_out: ReadOut::Inclusive,
    },
];

/// Every shape with 1, 512 and 2048 tokens.
pub fn kernels() -> Result<Vec<Kernel>, Failure> {
    let mut kernels = Vec::new();
    for shape in &SHAPES {
        kernels.push(kernel(shape, Form::Step, 1)?);
        for time in [512, 2048] {
            kernels.push(kernel(shape, Form::Sequential, time)?);
            kernels.push(kernel(shape, Form::Chunked, time)?);
        }
    }
    Ok(kernels)
}

fn kernel(shape: &Shape, form: Form, time: usize) -> Result<Kernel, Failure> {
    let problem = Problem {
        batch: 1,
        time,
        heads: shape.heads,
        groups: shape.groups,
        key_dim: shape.key_dim,
        value_dim: shape.value_dim,
        decay: shape.decay,
        read_out: shape.read_out,
    };
    let key_cols = problem.groups * problem.key_dim;
    let value_cols = problem.heads * problem.value_dim;
    let decay_cols = problem.decay_len(Sequences::Equal) / time;
    let (query, key, value) = (
        values(time * key_cols),
        values(time * key_cols),
        values(time * value_cols),
    );
    // Between −1 and 0.
    let log_decay: Vec<f32> = values(time * decay_cols).iter().map(|v| v - 0.5).collect();
    let bonus = (shape.read_out == ReadOut::Bonus).then(|| values(problem.heads * problem.key_dim));
    let (mut state, mut out) = (
        values(problem.state_len()),
        vec![0.0; problem.out_len(Sequences::Equal)],
    );
    let floats = query.len() + key.len() + value.len() + log_decay.len() + out.len() + 2 * state.len();
    // Decay, update and read-out of every value of the state: one multiplication and two multiply-adds.
    let work = Work::in_place(5 * time * state.len(), 4 * floats);
    let mut call = move || -> Result<(), Failure> {
        let inputs = Inputs {
            query: Rows::contiguous(&query, time, key_cols)?,
            key: Rows::contiguous(&key, time, key_cols)?,
            value: Rows::contiguous(&value, time, value_cols)?,
            log_decay: LogDecay::Token(Rows::contiguous(&log_decay, time, decay_cols)?),
            step_size: None,
            bonus: bonus.as_deref(),
            skip: None,
            scale: 1.0,
            sequences: Sequences::Equal,
        };
        match form {
            Form::Step => step(&problem, &inputs, &mut state, &mut out)?,
            Form::Sequential => sequential(&problem, &inputs, &mut state, &mut out)?,
            Form::Chunked => chunked(&problem, &inputs, DEFAULT_CHUNK_SIZE, &mut state, &mut out)?,
        }
        Ok(())
    };
    call()?;
    let form = match form {
        Form::Step => "step",
        Form::Sequential => "sequential",
        Form::Chunked => "chunked",
    };
    Ok(Kernel {
        name: format!("{}/{form}/{time}", shape.name),
        work,
        run: Box::new(move || call().expect("the first call succeeded")),
    })
}
