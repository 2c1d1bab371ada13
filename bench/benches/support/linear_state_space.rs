//! Linear state spaces at the shape of S4D and S4 layers, and the shift system of H3.

use serde_json::{Value, json};
use spillway_kernel_dsl::linear_state_space::{
    Cotangents, DEFAULT_CHUNK_SIZE, GradientBuffers, Inputs, Outputs, Problem, Rule, Spectrum, System,
    backward, chunked, sequential,
};
use spillway_kernel_dsl::{Rows, Sequences, shift_state_space as shift};

use super::{Failure, Kernel, Work, values};

/// A layer of 256 channels with 32 conjugate pairs each: S4D where the rank is 0, else S4.
fn layer(rank: usize, time: usize) -> Problem<'static> {
    Problem {
        batch: 1,
        time,
        sequences: Sequences::Equal,
        channels: 256,
        outputs: 1,
        state_dim: 32,
        copies: 256,
        rank,
        rule: if rank == 0 {
            Rule::ZeroOrderHold
        } else {
            Rule::Bilinear
        },
        spectrum: Spectrum::ConjugatePairs,
    }
}

/// A training step's part in a layer of the S4D that is trained on digits: 32 sequences of 64 pixels.
fn digits() -> Problem<'static> {
    Problem {
        batch: 32,
        channels: 64,
        copies: 64,
        state_dim: 16,
        ..layer(0, 64)
    }
}

/// Kernels of S4D and of S4, one token and 4096 forward and backward; and those of the digits, forward and backward.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for (name, rank) in [("s4d_h256_n64", 0), ("s4_h256_n64", 1)] {
        kernels.push(kernel("step", &format!("{name}_b1"), layer(rank, 1)));
        for form in ["sequential", "chunked", "backward"] {
            kernels.push(kernel(form, &format!("{name}_t4096"), layer(rank, 4096)));
        }
    }
    for form in ["chunked", "backward"] {
        kernels.push(kernel(form, "s4d_digits_h64_n32_b32_t64", digits()));
    }
    kernels
}

fn sizes(problem: &Problem) -> Value {
    json!({
        "batch": problem.batch, "time": problem.time, "channels": problem.channels, "modes": problem.state_dim,
        "rank": problem.rank,
    })
}

/// What a call does at least. Forward, of every mode: three complex multiply-adds, of which two are with real numbers, and two more
/// for each rank. Backward: the states again, their derivatives, and three products for the gradients. A step moves the constants and
/// the state of every mode, all else tokens only.
fn work(problem: &Problem, form: &str) -> Work {
    let tokens = problem.batch * problem.time;
    let modes = problem.channels * problem.state_dim;
    let forward = (16 + 8 * problem.rank) * tokens * modes;
    match form {
        "step" => Work::in_place(tokens, forward, (12 + 4 * problem.rank) * modes),
        "backward" => Work::in_place(tokens, 3 * forward, 3 * tokens * problem.channels),
        _ => Work::in_place(tokens, forward, 2 * tokens * problem.channels),
    }
}

fn kernel(form: &'static str, name: &str, problem: Problem<'static>) -> Kernel {
    let (work, sizes) = (work(&problem, form), sizes(&problem));
    Kernel::on_host(form, name, sizes, work, move || {
        let Problem {
            channels,
            state_dim,
            rank,
            ..
        } = problem;
        let (modes, tokens) = (2 * channels * state_dim, problem.rows() * channels);
        let (input, cotangent) = (values(tokens), values(tokens));
        let step: Vec<f32> = values(channels).iter().map(|v| 0.002 + 0.1 * (v + 0.5)).collect();
        let a: Vec<f32> = (0..modes / 2)
            .flat_map(|i| [-0.5, std::f32::consts::PI * (i % state_dim) as f32])
            .collect();
        let (b, c, p, skip) = (
            values(modes),
            values(modes),
            values(rank * modes),
            values(channels),
        );
        let mut state = values(problem.batch * modes);
        let mut out = vec![0.0; tokens];
        let mut gradients = GradientBuffers {
            input: vec![0.0; tokens],
            token_step_size: None,
            step_size: Some(vec![0.0; channels]),
            a: vec![0.0; modes],
            b: vec![0.0; modes],
            c: vec![0.0; modes],
            low_rank: (rank > 0).then(|| vec![0.0; p.len()]),
            skip: Some(vec![0.0; channels]),
            state: None,
        };
        let mut system = None;
        Ok(move || -> Result<(), Failure> {
            let inputs = Inputs {
                input: Rows::contiguous(&input, problem.rows(), channels)?,
                token_step_size: None,
                step_size: Some(&step),
                a: &a,
                b: &b,
                c: &c,
                low_rank: (rank > 0).then_some(p.as_slice()),
                skip: Some(&skip),
                state: None,
            };
            match form {
                "step" => {
                    let made = match system.take() {
                        Some(system) => system,
                        None => System::new(&problem, &inputs)?,
                    };
                    system
                        .insert(made)
                        .step(inputs.input, None, &mut state, &mut out)?;
                }
                "sequential" => sequential(
                    &problem,
                    &inputs,
                    &mut Outputs {
                        out: &mut out,
                        state: &mut state,
                    },
                )?,
                "chunked" => {
                    let outputs = &mut Outputs {
                        out: &mut out,
                        state: &mut state,
                    };
                    chunked(&problem, &inputs, 32, outputs)?;
                }
                _ => {
                    let cotangents = Cotangents {
                        out: Some(Rows::contiguous(&cotangent, problem.rows(), channels)?),
                        state: None,
                    };
                    backward(
                        &problem,
                        &inputs,
                        DEFAULT_CHUNK_SIZE,
                        &cotangents,
                        &mut gradients.as_written(),
                    )?;
                }
            }
            Ok(())
        })
    })
}

/// Kernels of the shift system of H3 with 125M parameters: one token, and 4096 forward and backward.
pub fn shift_kernels() -> Vec<Kernel> {
    let layer = |time| shift::Problem {
        batch: 1,
        time,
        sequences: Sequences::Equal,
        channels: 768,
        outputs: 1,
        state_dim: 64,
    };
    vec![
        shift_kernel("step", "h3_125m_b1", layer(1)),
        shift_kernel("convolved", "h3_125m_t4096", layer(4096)),
        shift_kernel("backward", "h3_125m_t4096", layer(4096)),
    ]
}

fn shift_kernel(form: &'static str, name: &str, problem: shift::Problem<'static>) -> Kernel {
    let (tokens, values_each) = (problem.rows(), problem.channels * problem.state_dim);
    let flops = 2 * tokens * values_each;
    let work = match form {
        "step" => Work::in_place(tokens, 2 * flops, 4 * values_each),
        "backward" => Work::in_place(tokens, 2 * flops, 3 * tokens * problem.channels),
        _ => Work::in_place(tokens, flops, 2 * tokens * problem.channels),
    };
    let sizes = json!({
        "batch": problem.batch, "time": problem.time, "channels": problem.channels, "state_dim": problem.state_dim,
    });
    Kernel::on_host(form, name, sizes, work, move || {
        let elements = problem.rows() * problem.channels;
        let (input, cotangent) = (values(elements), values(elements));
        let (b, c, skip) = (values(values_each), values(values_each), values(problem.channels));
        let mut state = values(values_each);
        let mut out = vec![0.0; elements];
        let mut gradients = shift::GradientBuffers {
            input: vec![0.0; elements],
            b: vec![0.0; values_each],
            c: vec![0.0; values_each],
            skip: Some(vec![0.0; problem.channels]),
            state: None,
        };
        Ok(move || -> Result<(), Failure> {
            let inputs = shift::Inputs {
                input: Rows::contiguous(&input, problem.rows(), problem.channels)?,
                b: &b,
                c: &c,
                skip: Some(&skip),
                state: None,
            };
            match form {
                "step" => shift::step(&problem, &inputs, &mut state, &mut out)?,
                "convolved" => {
                    let outputs = &mut shift::Outputs {
                        out: &mut out,
                        state: &mut state,
                    };
                    shift::convolved(&problem, &inputs, outputs)?;
                }
                _ => {
                    let cotangents = shift::Cotangents {
                        out: Some(Rows::contiguous(&cotangent, problem.rows(), problem.channels)?),
                        state: None,
                    };
                    shift::backward(&problem, &inputs, &cotangents, &mut gradients.as_written())?;
                }
            }
            Ok(())
        })
    })
}
