//! The convolution of S4 at the sizes at which its kernels are compared: 256 channels, and as many taps as tokens.

use serde_json::{Value, json};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::long_convolution::{
    Cotangents, Direction, GradientBuffers, Inputs, Method, Outputs, Problem, backward, long_convolution,
};

use super::{Failure, Kernel, Work, values};

const CHANNELS: usize = 256;
/// Lengths that are timed: tokens of the signal, and as many taps of the filter.
const TIMES: [usize; 4] = [1024, 4096, 16_384, 65_536];
/// Taps at which transforms and sums tap by tap are held against each other.
const FEW_TAPS: [usize; 3] = [16, 64, 256];

/// As many taps as tokens.
pub fn problem(time: usize) -> Problem {
    Problem {
        batch: 1,
        time,
        channels: CHANNELS,
        multiplicity: 1,
        taps: time,
        direction: Direction::Causal,
        method: Method::Auto,
    }
}

/// Forward and backward at every length, and both forms around where they cost the same.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for time in TIMES {
        for form in ["forward", "backward"] {
            kernels.push(kernel(form, format!("s4_h256_l{time}"), problem(time)));
        }
    }
    for taps in FEW_TAPS {
        for (method, name) in [(Method::Direct, "direct"), (Method::Fourier, "fourier")] {
            let few = Problem {
                taps,
                method,
                ..problem(1024)
            };
            kernels.push(kernel("forward", format!("h256_l1024_taps{taps}_{name}"), few));
        }
    }
    kernels
}

/// The sizes by name.
pub fn sizes(problem: &Problem) -> Value {
    json!({
        "batch": problem.batch,
        "time": problem.time,
        "channels": problem.channels,
        "taps": problem.taps,
    })
}

/// What a call does at least. A real transform of N places takes 2.5 N log₂ N operations; forward takes those of input, kernel and product,
/// backward those of two more and of the other's inverse as well. Where it is less, a multiply-add per tap and token.
pub fn work(problem: &Problem, form: &str) -> Work {
    let (tokens, outputs) = (problem.tokens(), problem.outputs());
    let places = (problem.time + problem.taps).next_power_of_two();
    let transform = 5 * places * places.ilog2() as usize / 2;
    let direct = 2 * problem.time * problem.taps;
    let floats = tokens * (problem.channels + outputs) + problem.kernel_len();
    match form {
        "backward" => Work::in_place(tokens, (5 * transform).min(2 * direct) * outputs, 2 * floats),
        _ => Work::in_place(tokens, (3 * transform).min(direct) * outputs, floats),
    }
}

fn kernel(form: &'static str, shape: String, problem: Problem) -> Kernel {
    let (work, sizes) = (work(&problem, form), sizes(&problem));
    Kernel::on_host(form, shape, sizes, work, move || {
        let (tokens, outputs) = (problem.tokens(), problem.outputs());
        let (input, kernel, skip) = (
            values(tokens * problem.channels),
            values(problem.kernel_len()),
            values(outputs),
        );
        let (cotangent, mut out) = (values(tokens * outputs), vec![0.0; tokens * outputs]);
        let mut gradients: Option<GradientBuffers> = None;
        Ok(move || -> Result<(), Failure> {
            let inputs = Inputs {
                input: Rows::contiguous(&input, tokens, problem.channels)?,
                kernel: &kernel,
                later_kernel: None,
                skip: Some(&skip),
                response: None,
                tail: None,
            };
            if form == "forward" {
                let mut outputs = Outputs {
                    out: &mut out,
                    tail: &mut [],
                };
                long_convolution(&problem, &inputs, &mut outputs)?;
            } else {
                let cotangents = Cotangents {
                    out: Some(Rows::contiguous(&cotangent, tokens, outputs)?),
                    tail: None,
                };
                let gradients = gradients.get_or_insert_with(|| GradientBuffers::zeros(&problem, &inputs));
                backward(&problem, &inputs, &cotangents, &mut gradients.as_written())?;
            }
            Ok(())
        })
    })
}
