//! WKV-4 at the shape of RWKV-4 of 169M parameters.

use serde_json::{Value, json};
pub use spillway_kernel_dsl::wkv4::Problem;
use spillway_kernel_dsl::wkv4::{
    Cotangents, DEFAULT_CHUNK_SIZE, EMPTY_MAX, Gradients, Inputs, backward, sequential, step,
};
use spillway_kernel_dsl::{Rows, Sequences};

use super::{EXPONENTIAL, Failure, Kernel, Work, values};

/// RWKV-4 of 169M parameters.
pub const RWKV4_169M: Problem = Problem {
    batch: 1,
    time: 2048,
    channels: 768,
};

/// Kernels of WKV-4: one token, and 2048 tokens forward and backward.
pub fn kernels() -> Vec<Kernel> {
    let token = Problem {
        time: 1,
        ..RWKV4_169M
    };
    vec![
        kernel("step", "rwkv4_169m_b1", token),
        kernel("sequential", "rwkv4_169m_t2048", RWKV4_169M),
        kernel("backward", "rwkv4_169m_t2048", RWKV4_169M),
    ]
}

/// The sizes by name.
pub fn sizes(problem: &Problem) -> Value {
    json!({ "batch": problem.batch, "time": problem.time, "channels": problem.channels })
}

/// What a call does at least. Forward, of every channel: four exponentials, two maxima and two sums before them, four
/// multiply-adds and a division. Backward: the same again, and about as much for the gradients.
pub fn work(problem: &Problem, form: &str) -> Work {
    let tokens = problem.batch * problem.time;
    let elements = tokens * problem.channels;
    let forward = (4 * EXPONENTIAL + 4 + 8 + 1) * elements;
    if form == "backward" {
        Work::in_place(tokens, 2 * forward, 5 * elements)
    } else {
        Work::in_place(tokens, forward, 3 * elements)
    }
}

fn kernel(form: &'static str, name: &str, problem: Problem) -> Kernel {
    let elements = problem.batch * problem.time * problem.channels;
    let (work, sizes) = (work(&problem, form), sizes(&problem));
    Kernel::on_host(form, name, sizes, work, move || {
        let decay: Vec<f32> = values(problem.channels).iter().map(|v| v - 0.5).collect();
        let bonus = values(problem.channels);
        let (key, value, cotangent) = (values(elements), values(elements), values(elements));
        let mut out = cotangent.clone();
        // Numerator, denominator and maximum of each sequence.
        let empty = |i: usize| {
            if i / problem.channels % 3 == 2 {
                EMPTY_MAX
            } else {
                0.0
            }
        };
        let mut state: Vec<f32> = (0..problem.state_len()).map(empty).collect();
        let mut gradients = [
            problem.channels,
            problem.channels,
            elements,
            elements,
            state.len(),
        ]
        .map(|len| vec![0.0; len]);
        let rows = problem.batch * problem.time;
        Ok(move || -> Result<(), Failure> {
            let view = |values| Rows::contiguous(values, rows, problem.channels);
            let inputs = Inputs {
                log_decay: &decay,
                bonus: &bonus,
                key: view(&key)?,
                value: view(&value)?,
                sequences: Sequences::Equal,
            };
            match form {
                "step" => step(&problem, &inputs, &mut state, &mut out)?,
                "sequential" => sequential(&problem, &inputs, &mut state, &mut out)?,
                _ => {
                    let cotangents = Cotangents {
                        out: view(&cotangent)?,
                        state: None,
                    };
                    let [log_decay, bonus, key, value, initial] = &mut gradients;
                    let mut gradients = Gradients {
                        log_decay,
                        bonus,
                        key,
                        value,
                        state: initial,
                    };
                    backward(
                        &problem,
                        &inputs,
                        DEFAULT_CHUNK_SIZE,
                        &state,
                        &cotangents,
                        &mut gradients,
                    )?;
                }
            }
            Ok(())
        })
    })
}
