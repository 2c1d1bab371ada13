//! The convolution of S4ND over the axes of images and volumes: kernels of all lags along every axis, of one outer product and of several.

use serde_json::{Value, json};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::long_convolution::nd::{
    Axes, Axis, Cotangents, GradientBuffers, Inputs, LongConvolutionNdError, Method, Outputs, Problem,
    backward, long_convolution,
};

use super::{Failure, Kernel, Work, values};

/// Images: sequences, sizes of the axes, channels, outer products.
const SHAPES: [(usize, &[usize], usize, usize); 5] = [
    (8, &[32, 32], 128, 1),
    (8, &[32, 32], 128, 4),
    (1, &[128, 128], 64, 1),
    (1, &[128, 128], 64, 4),
    (1, &[16, 32, 32], 64, 1),
];

/// Forward and backward at every shape, and both forms of the first.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for (batch, sizes, channels, rank) in SHAPES {
        let Ok(problem) = problem(batch, sizes, channels, rank) else {
            continue;
        };
        let size = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let shape = format!("s4nd_b{batch}_h{channels}_{size}_rank{rank}");
        for form in ["forward", "backward"] {
            kernels.push(kernel(form, shape.clone(), problem));
        }
        for (method, name) in [(Method::PerAxis, "per_axis"), (Method::Fourier, "fourier")] {
            let problem = Problem { method, ..problem };
            kernels.push(kernel("forward", format!("{shape}_{name}"), problem));
        }
    }
    kernels
}

fn problem(
    batch: usize,
    sizes: &[usize],
    channels: usize,
    rank: usize,
) -> Result<Problem, LongConvolutionNdError> {
    let axis = |&size: &usize| Axis {
        size,
        taps: size,
        later: size - 1,
    };
    let axes: Vec<Axis> = sizes.iter().map(axis).collect();
    Ok(Problem {
        batch,
        axes: Axes::new(&axes)?,
        channels,
        multiplicity: 1,
        rank,
        method: Method::Auto,
    })
}

fn sizes(problem: &Problem) -> Value {
    let axes: Vec<usize> = problem.axes.as_slice().iter().map(|axis| axis.size).collect();
    json!({
        "batch": problem.batch,
        "axes": axes,
        "channels": problem.channels,
        "rank": problem.rank,
    })
}

/// What a call does at least: a multiply-add per tap that meets a position, along each axis and for each term; backward twice that, and
/// what comes before the last axis once more.
fn work(problem: &Problem, form: &str) -> Work {
    let (tokens, outputs) = (problem.tokens(), problem.outputs());
    let per_position: usize = problem.axes.as_slice().iter().map(|axis| axis.size).sum();
    let forward = 2 * tokens * problem.channels * per_position * problem.rank;
    let floats = tokens * (problem.channels + outputs) + problem.kernel_len();
    match form {
        "backward" => Work::in_place(tokens, 3 * forward, 2 * floats),
        _ => Work::in_place(tokens, forward, floats),
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
                skip: Some(&skip),
            };
            if form == "forward" {
                long_convolution(&problem, &inputs, &mut Outputs { out: &mut out })?;
            } else {
                let cotangents = Cotangents {
                    out: Rows::contiguous(&cotangent, tokens, outputs)?,
                };
                let gradients = gradients.get_or_insert_with(|| GradientBuffers::zeros(&problem, &inputs));
                backward(&problem, &inputs, &cotangents, &mut gradients.as_written())?;
            }
            Ok(())
        })
    })
}
