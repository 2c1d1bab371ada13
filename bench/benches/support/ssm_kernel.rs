//! Kernels of state spaces at the size of S4's layers: 256 channels with 32 conjugate pairs each.

use serde_json::{Value, json};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::cauchy;
use spillway_kernel_dsl::vandermonde::{self, Discretization, ModeSet, Steps};

use super::{Failure, Kernel, Work, values};

/// Channels, and modes of a channel.
const CHANNELS: usize = 256;
const MODES: usize = 32;
const LENGTHS: [(&str, usize); 4] = [
    ("h256_n64_l1k", 1 << 10),
    ("h256_n64_l4k", 1 << 12),
    ("h256_n64_l16k", 1 << 14),
    ("h256_n64_l64k", 1 << 16),
];

/// S4D's kernel, forward and with its gradients.
pub fn vandermonde() -> Vec<Kernel> {
    all_lengths(vandermonde_kernel)
}

/// S4's kernel of rank 1, forward and with its gradients.
pub fn cauchy() -> Vec<Kernel> {
    all_lengths(cauchy_kernel)
}

fn all_lengths(kernel: fn(&'static str, &str, usize) -> Kernel) -> Vec<Kernel> {
    let forms = ["kernel", "backward"].into_iter();
    forms
        .flat_map(|form| LENGTHS.map(|(name, length)| kernel(form, name, length)))
        .collect()
}

/// The sizes by name.
fn sizes(length: usize) -> Value {
    json!({ "channels": CHANNELS, "modes": MODES, "length": length })
}

/// What a call does at least: `forward` operations for every mode and position, twice that and the kernel's again backward.
fn work(form: &str, length: usize, forward: usize) -> Work {
    let (terms, floats) = (CHANNELS * MODES * length, CHANNELS * (length + 8 * MODES));
    match form {
        "backward" => Work::in_place(length, 3 * forward * terms, floats),
        _ => Work::in_place(length, forward * terms, floats),
    }
}

/// Steps between 0.001 and 0.1, and the rates −½ + iπn.
fn system() -> (Vec<f32>, Vec<f32>) {
    let steps = values(CHANNELS).iter().map(|x| (-4.6 + 4.6 * x).exp()).collect();
    let rates = (0..MODES).flat_map(|n| [-0.5, std::f32::consts::PI * n as f32]);
    (steps, rates.collect())
}

fn vandermonde_kernel(form: &'static str, name: &str, length: usize) -> Kernel {
    let problem = vandermonde::Problem {
        channels: CHANNELS,
        modes: MODES,
        copies: 1,
        readouts: 1,
        batch: 0,
        length,
        discretization: Discretization::ZeroOrderHold,
        mode_set: ModeSet::ConjugatePairs,
        steps: Steps::PerChannel,
    };
    // A complex term of a real sum is two multiply-adds.
    Kernel::on_host(form, name, sizes(length), work(form, length, 4), move || {
        let ((step, a), b) = (system(), values(2 * MODES));
        let (c, cotangent) = (values(2 * CHANNELS * MODES), values(CHANNELS * length));
        let mut kernel = cotangent.clone();
        let mut gradients = vandermonde::GradientBuffers {
            step: step.clone(),
            a: a.clone(),
            b: b.clone(),
            c: c.clone(),
            state: Vec::new(),
            signal: Vec::new(),
        };
        Ok(move || -> Result<(), Failure> {
            let inputs = vandermonde::Inputs {
                step: &step,
                a: &a,
                b: &b,
                c: &c,
                state: &[],
                signal: Rows::contiguous(&[], 0, length)?,
            };
            if form == "kernel" {
                let mut outputs = vandermonde::Outputs {
                    kernel: &mut kernel,
                    state_kernel: &mut [],
                    next_state: &mut [],
                };
                return Ok(vandermonde::kernel(&problem, &inputs, &mut outputs)?);
            }
            let cotangents = vandermonde::Cotangents {
                kernel: Some(Rows::contiguous(&cotangent, CHANNELS, length)?),
                state_kernel: None,
                next_state: None,
            };
            let mut gradients = gradients.as_written();
            Ok(vandermonde::backward(
                &problem,
                &inputs,
                &cotangents,
                &mut gradients,
            )?)
        })
    })
}

fn cauchy_kernel(form: &'static str, name: &str, length: usize) -> Kernel {
    let problem = cauchy::Problem {
        channels: CHANNELS,
        modes: MODES,
        rank: 1,
        copies: 1,
        readouts: 1,
        batch: 0,
        nodes: length,
        length,
    };
    // Half the nodes; a denominator and four sums of four multiply-adds.
    Kernel::on_host(form, name, sizes(length), work(form, length, 24), move || {
        let (step, a) = system();
        let (b, p, c) = (values(2 * MODES), values(2 * MODES), values(2 * CHANNELS * MODES));
        let cotangent = values(CHANNELS * length);
        let mut kernel = cotangent.clone();
        let mut gradients = cauchy::GradientBuffers {
            step: step.clone(),
            a: a.clone(),
            b: b.clone(),
            p: p.clone(),
            c: c.clone(),
            state: Vec::new(),
        };
        Ok(move || -> Result<(), Failure> {
            let inputs = cauchy::Inputs {
                step: &step,
                a: &a,
                b: &b,
                p: &p,
                c: Rows::contiguous(&c, CHANNELS, 2 * MODES)?,
                state: Rows::contiguous(&[], 0, 2 * MODES)?,
            };
            if form == "kernel" {
                let mut outputs = cauchy::Outputs {
                    kernel: &mut kernel,
                    state_kernel: &mut [],
                };
                return Ok(cauchy::kernel(&problem, &inputs, &mut outputs)?);
            }
            let cotangents = cauchy::Cotangents {
                kernel: Some(Rows::contiguous(&cotangent, CHANNELS, length)?),
                state_kernel: None,
            };
            let mut gradients = gradients.as_written();
            Ok(cauchy::backward(&problem, &inputs, &cotangents, &mut gradients)?)
        })
    })
}
