//! What a block does around its recurrence: convolution, norm, loss.

use kernel_dsl::causal_conv1d::{self, Activation, causal_conv1d as convolve};
use kernel_dsl::cross_entropy::cross_entropy as entropy;
use kernel_dsl::gated_norm::{self, GateOrder, Statistic, add_rms_norm};
use kernel_dsl::{Rows, Sequences};

use super::{EXPONENTIAL, Kernel, Work, values};

/// Tokens of a decode step, of a short and of a long prefill.
const TIMES: [usize; 3] = [1, 512, 2048];

/// The convolution of Mamba-2 130M: x, B and C together, four taps, SiLU; read out of the whole projected row.
pub fn causal_conv1d() -> Vec<Kernel> {
    const CHANNELS: usize = 1792;
    const STRIDE: usize = 3352;
    let kernel = |time: usize| {
        let problem = causal_conv1d::Problem {
            batch: 1,
            time,
            channels: CHANNELS,
            width: 4,
            activation: Activation::Silu,
        };
        let (x, weight, bias) = (values(time * STRIDE), values(CHANNELS * 4), values(CHANNELS));
        let (mut state, mut out) = (values(problem.state_len()), vec![0.0; time * CHANNELS]);
        let floats = 2 * out.len() + weight.len() + bias.len() + 2 * state.len();
        Kernel {
            name: format!("mamba2_130m/{time}"),
            work: Work::in_place(out.len() * (2 * 4 + EXPONENTIAL), 4 * floats),
            run: Box::new(move || {
                let inputs = causal_conv1d::Inputs {
                    input: Rows::new(&x, time, CHANNELS, STRIDE).expect("rows of this length were made"),
                    weight: &weight,
                    bias: Some(&bias),
                    sequences: Sequences::Equal,
                };
                convolve(&problem, &inputs, &mut state, &mut out).expect("shapes agree");
            }),
        }
    };
    TIMES.map(kernel).into()
}

/// The gated norm inside a Mamba-2 130M block, and the joint between two blocks.
pub fn gated_norm() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for rows in TIMES {
        kernels.push(gated(rows));
        kernels.push(joint(rows));
    }
    kernels
}

fn gated(rows: usize) -> Kernel {
    const FEATURES: usize = 1536;
    let problem = gated_norm::Problem {
        rows,
        features: FEATURES,
        group_size: FEATURES,
        eps: 1e-5,
        statistic: Statistic::MeanSquare,
        order: GateOrder::NormAfterGate,
    };
    let (x, gate, weight) = (values(rows * FEATURES), values(rows * FEATURES), values(FEATURES));
    let mut out = vec![0.0; rows * FEATURES];
    Kernel {
        name: format!("gated_{FEATURES}/{rows}"),
        work: Work::in_place(out.len() * (5 + EXPONENTIAL), 4 * (3 * out.len() + weight.len())),
        run: Box::new(move || {
            let view = |values| Rows::contiguous(values, rows, FEATURES).expect("rows of this length");
            let inputs = gated_norm::Inputs {
                input: view(&x),
                gate: Some(view(&gate)),
                weight: Some(&weight),
                bias: None,
            };
            gated_norm::gated_norm(&problem, &inputs, &mut out).expect("shapes agree");
        }),
    }
}

fn joint(rows: usize) -> Kernel {
    const FEATURES: usize = 768;
    let (x, weight) = (vec![0.0; rows * FEATURES], values(FEATURES));
    let (mut residual, mut out) = (values(rows * FEATURES), vec![0.0; rows * FEATURES]);
    Kernel {
        name: format!("add_{FEATURES}/{rows}"),
        work: Work::in_place(out.len() * 5, 4 * (4 * out.len() + weight.len())),
        run: Box::new(move || {
            add_rms_norm(&mut residual, Some(&x), &weight, 1e-5, &mut out).expect("shapes agree");
        }),
    }
}

/// The loss over the vocabulary of GPT-NeoX.
pub fn cross_entropy() -> Vec<Kernel> {
    const CLASSES: usize = 50_280;
    let kernel = |rows: usize| {
        let logits = values(rows * CLASSES);
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * 97).collect();
        let mut loss = vec![0.0; rows];
        Kernel {
            name: format!("{CLASSES}_classes/{rows}"),
            work: Work::in_place(logits.len() * (EXPONENTIAL + 2), 4 * logits.len()),
            run: Box::new(move || {
                let logits = Rows::contiguous(&logits, rows, CLASSES).expect("rows of this length");
                entropy(logits, &targets, &mut loss).expect("shapes agree");
            }),
        }
    };
    [1, 64].map(kernel).into()
}
