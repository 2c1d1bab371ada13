//! What a block does around its recurrence: convolution, norm, loss.

use serde_json::{Value, json};
use spillway_kernel_dsl::causal_conv1d::{self, Activation, causal_conv1d as convolve};
use spillway_kernel_dsl::cross_entropy::cross_entropy as entropy;
use spillway_kernel_dsl::gated_norm::{self, GateOrder, Statistic, add_rms_norm};
use spillway_kernel_dsl::{Rows, Sequences};

use super::{EXPONENTIAL, Kernel, Work, values};

/// Tokens of a decode step, of a short and of a long prefill.
const TIMES: [usize; 3] = [1, 512, 2048];

/// The convolution of Mamba-2 130M: x, B and C together, four taps, SiLU; read out of the whole projected row.
pub fn causal_conv1d() -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = TIMES.into_iter().map(convolution).collect();
    kernels.push(convolution_backward(2048));
    kernels
}

const CHANNELS: usize = 1792;
const STRIDE: usize = 3352;
const WIDTH: usize = 4;

/// The sizes by name.
pub fn convolution_sizes(problem: &causal_conv1d::Problem) -> Value {
    json!({
        "batch": problem.batch,
        "time": problem.time,
        "channels": problem.channels,
        "width": problem.width,
    })
}

/// What a call does at least. Forward: a multiply-add per tap and the SiLU. Backward: the argument of SiLU again and its
/// derivative, and a multiply-add per tap for the gradients of input and weight each.
pub fn convolution_work(problem: &causal_conv1d::Problem, form: &str) -> Work {
    let (tokens, width) = (problem.batch * problem.time, problem.width);
    let len = tokens * problem.channels;
    let constants = (width + 1) * problem.channels;
    let state = 2 * problem.state_len();
    if form == "backward" {
        Work::in_place(
            tokens,
            len * (6 * width + EXPONENTIAL + 6),
            3 * len + 2 * constants + state,
        )
    } else {
        Work::in_place(
            tokens,
            len * (2 * width + EXPONENTIAL),
            2 * len + constants + state,
        )
    }
}

/// The problem of so many tokens.
pub fn convolution_problem(time: usize) -> causal_conv1d::Problem {
    causal_conv1d::Problem {
        batch: 1,
        time,
        channels: CHANNELS,
        width: WIDTH,
        activation: Activation::Silu,
    }
}

fn convolution(time: usize) -> Kernel {
    let problem = convolution_problem(time);
    let len = time * CHANNELS;
    let (work, sizes) = (convolution_work(&problem, "forward"), convolution_sizes(&problem));
    Kernel::on_host(
        "forward",
        format!("mamba2_130m_t{time}"),
        sizes,
        work,
        move || {
            let (x, weight, bias) = (values(time * STRIDE), values(CHANNELS * WIDTH), values(CHANNELS));
            let (mut state, mut out) = (values(problem.state_len()), vec![0.0; len]);
            Ok(move || {
                let inputs = causal_conv1d::Inputs {
                    input: Rows::new(&x, time, CHANNELS, STRIDE)?,
                    weight: &weight,
                    bias: Some(&bias),
                    sequences: Sequences::Equal,
                };
                convolve(&problem, &inputs, &mut state, &mut out)?;
                Ok(())
            })
        },
    )
}

fn convolution_backward(time: usize) -> Kernel {
    let problem = convolution_problem(time);
    let len = time * CHANNELS;
    let (work, sizes) = (
        convolution_work(&problem, "backward"),
        convolution_sizes(&problem),
    );
    Kernel::on_host(
        "backward",
        format!("mamba2_130m_t{time}"),
        sizes,
        work,
        move || {
            let (x, weight, bias) = (values(time * STRIDE), values(CHANNELS * WIDTH), values(CHANNELS));
            let (state, cotangent) = (values(problem.state_len()), values(len));
            let mut gradients = [len, weight.len(), bias.len(), state.len()].map(|len| vec![0.0; len]);
            Ok(move || {
                let inputs = causal_conv1d::Inputs {
                    input: Rows::new(&x, time, CHANNELS, STRIDE)?,
                    weight: &weight,
                    bias: Some(&bias),
                    sequences: Sequences::Equal,
                };
                let cotangents = causal_conv1d::Cotangents {
                    out: Rows::contiguous(&cotangent, time, CHANNELS)?,
                    state: None,
                };
                let [input, weight, bias, initial] = &mut gradients;
                let mut gradients = causal_conv1d::Gradients {
                    input,
                    weight,
                    bias: Some(bias),
                    state: initial,
                };
                causal_conv1d::backward(&problem, &inputs, &state, &cotangents, &mut gradients)?;
                Ok(())
            })
        },
    )
}

/// The gated norm inside a Mamba-2 130M block, and the joint between two blocks.
pub fn gated_norm() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for rows in TIMES {
        kernels.push(gated(rows));
        kernels.push(joint(rows));
    }
    kernels.push(gated_backward(2048));
    kernels
}

const FEATURES: usize = 1536;

/// The sizes by name.
pub fn norm_sizes(problem: &gated_norm::Problem) -> Value {
    json!({ "rows": problem.rows, "features": problem.features })
}

/// What a call of these forms does at least: `gated`, `add` and their backward passes.
pub fn norm_work(problem: &gated_norm::Problem, form: &str) -> Work {
    let (rows, features) = (problem.rows, problem.features);
    let len = rows * features;
    let (flops, floats) = match form {
        "gated" => (5 + EXPONENTIAL, 3 * len + features),
        "gated_backward" => (20 + EXPONENTIAL, 5 * len + 2 * features),
        "add" => (5, 4 * len + features),
        _ => (10, 4 * len + 2 * features),
    };
    Work::in_place(rows, flops * len, floats)
}

/// The problem of so many rows.
pub fn norm_problem(rows: usize) -> gated_norm::Problem {
    gated_norm::Problem {
        rows,
        features: FEATURES,
        group_size: FEATURES,
        eps: 1e-5,
        statistic: Statistic::MeanSquare,
        order: GateOrder::NormAfterGate,
    }
}

fn gated(rows: usize) -> Kernel {
    let (problem, len) = (norm_problem(rows), rows * FEATURES);
    let (work, sizes) = (norm_work(&problem, "gated"), norm_sizes(&problem));
    Kernel::on_host(
        "gated",
        format!("{FEATURES}_rows{rows}"),
        sizes,
        work,
        move || {
            let (x, gate, weight) = (values(len), values(len), values(FEATURES));
            let mut out = vec![0.0; len];
            Ok(move || {
                let inputs = gated_norm::Inputs {
                    input: Rows::contiguous(&x, rows, FEATURES)?,
                    gate: Some(Rows::contiguous(&gate, rows, FEATURES)?),
                    weight: Some(&weight),
                    bias: None,
                };
                gated_norm::gated_norm(&problem, &inputs, &mut out)?;
                Ok(())
            })
        },
    )
}

fn gated_backward(rows: usize) -> Kernel {
    let (problem, len) = (norm_problem(rows), rows * FEATURES);
    let (work, sizes) = (norm_work(&problem, "gated_backward"), norm_sizes(&problem));
    Kernel::on_host(
        "gated_backward",
        format!("{FEATURES}_rows{rows}"),
        sizes,
        work,
        move || {
            let (x, gate, weight, cotangent) = (values(len), values(len), values(FEATURES), values(len));
            let mut gradients = [len, len, FEATURES].map(|len| vec![0.0; len]);
            Ok(move || {
                let inputs = gated_norm::Inputs {
                    input: Rows::contiguous(&x, rows, FEATURES)?,
                    gate: Some(Rows::contiguous(&gate, rows, FEATURES)?),
                    weight: Some(&weight),
                    bias: None,
                };
                let [input, gate, weight] = &mut gradients;
                let mut gradients = gated_norm::Gradients {
                    input,
                    gate: Some(gate),
                    weight: Some(weight),
                    bias: None,
                };
                let cotangent = Rows::contiguous(&cotangent, rows, FEATURES)?;
                gated_norm::backward(&problem, &inputs, cotangent, &mut gradients)?;
                Ok(())
            })
        },
    )
}

fn joint(rows: usize) -> Kernel {
    const FEATURES: usize = 768;
    let len = rows * FEATURES;
    let problem = gated_norm::Problem {
        features: FEATURES,
        group_size: FEATURES,
        ..norm_problem(rows)
    };
    let (work, sizes) = (norm_work(&problem, "add"), norm_sizes(&problem));
    Kernel::on_host("add", format!("{FEATURES}_rows{rows}"), sizes, work, move || {
        let (x, weight) = (vec![0.0; len], values(FEATURES));
        let (mut residual, mut out) = (values(len), vec![0.0; len]);
        Ok(move || {
            add_rms_norm(&mut residual, Some(&x), &weight, 1e-5, &mut out)?;
            Ok(())
        })
    })
}

/// The loss over the vocabulary of GPT-NeoX.
pub fn cross_entropy() -> Vec<Kernel> {
    const CLASSES: usize = 50_280;
    let kernel = |rows: usize| {
        let len = rows * CLASSES;
        let work = Work::in_place(rows, len * (EXPONENTIAL + 2), len);
        let sizes = json!({ "rows": rows, "classes": CLASSES });
        Kernel::on_host(
            "forward",
            format!("{CLASSES}_rows{rows}"),
            sizes,
            work,
            move || {
                let logits = values(len);
                let targets: Vec<u32> = (0..rows as u32).map(|row| row * 97).collect();
                let mut loss = vec![0.0; rows];
                Ok(move || {
                    entropy(Rows::contiguous(&logits, rows, CLASSES)?, &targets, &mut loss)?;
                    Ok(())
                })
            },
        )
    };
    [1, 64].map(kernel).into()
}
