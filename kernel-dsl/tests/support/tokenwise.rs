//! Convolutions and norms with their inputs and cotangents, as tests draw them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::causal_conv1d::{self, Activation};
use spillway_kernel_dsl::gated_norm::{self, GateOrder, Statistic};

use super::layouts::{Layout, any_layout};
use super::support::differences::{compare, inner};
use super::support::{error_beside, relative_error};

/// Allowed relative error of a gradient on the host.
const TOLERANCE: f64 = 2e-6;

/// `len` values of magnitude about `scale`.
pub fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-scale..scale)).collect()
}

pub fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Whether `found` is `expected` up to rounding.
pub fn close(what: &str, found: &[f32], expected: &[f64]) -> Result<(), String> {
    close_sums(what, found, expected, expected)
}

/// The same of sums, of whose terms the absolute values add up to `terms`.
pub fn close_sums(what: &str, found: &[f32], expected: &[f64], terms: &[f64]) -> Result<(), String> {
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let error = relative_error(found, expected);
    // Written so that NaN fails.
    let close = error_beside(found, expected, terms) <= TOLERANCE || error * norm <= 1e-6;
    if close {
        Ok(())
    } else {
        Err(format!("{what} is off by {error:e}"))
    }
}

/// A convolution, its inputs and the cotangents of what it gives.
#[derive(Clone, Debug)]
pub struct Convolution {
    pub problem: causal_conv1d::Problem,
    pub layout: Layout,
    pub rows: usize,
    pub stride: usize,
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub state: Vec<f32>,
    pub out_cotangent: Vec<f32>,
    pub state_cotangent: Option<Vec<f32>>,
}

impl Convolution {
    /// A convolution of four taps with all that it can have.
    pub fn example(batch: usize, time: usize, channels: usize) -> Self {
        let problem = causal_conv1d::Problem {
            batch,
            time,
            channels,
            width: 4,
            activation: Activation::Silu,
        };
        let rows = batch * time;
        Self {
            problem,
            layout: Layout::Equal,
            rows,
            stride: channels,
            x: random(1, rows * channels, 2.0),
            weight: random(2, channels * problem.width, 1.0),
            bias: Some(random(3, channels, 1.0)),
            state: random(4, problem.state_len(), 1.0),
            out_cotangent: random(5, rows * channels, 1.0),
            state_cotangent: Some(random(6, problem.state_len(), 1.0)),
        }
    }

    pub fn inputs(&self) -> causal_conv1d::Inputs<'_> {
        let channels = self.problem.channels;
        causal_conv1d::Inputs {
            input: Rows::new(&self.x, self.rows, channels, self.stride).expect("whole rows"),
            weight: &self.weight,
            bias: self.bias.as_deref(),
            sequences: self.layout.sequences(),
        }
    }

    pub fn cotangents(&self) -> causal_conv1d::Cotangents<'_> {
        let channels = self.problem.channels;
        causal_conv1d::Cotangents {
            out: Rows::contiguous(&self.out_cotangent, self.rows, channels).expect("whole rows"),
            state: self.state_cotangent.as_deref(),
        }
    }

    /// Σ ⟨cotangent, output⟩ of the definition.
    pub fn loss(&self) -> f64 {
        let mut state = widened(&self.state);
        let out = causal_conv1d::reference::causal_conv1d(&self.problem, &self.inputs(), &mut state);
        let of_state = self.state_cotangent.as_deref().map_or(0.0, |c| inner(c, &state));
        inner(&self.out_cotangent, &out.expect("valid")) + of_state
    }

    pub fn expected(&self) -> causal_conv1d::reference::GradientsF64 {
        let state = widened(&self.state);
        causal_conv1d::reference::backward(&self.problem, &self.inputs(), &state, &self.cotangents())
            .expect("valid")
    }

    pub fn check_definition(&self) -> Result<(), String> {
        let gradients = self.expected();
        let mut moved = self.clone();
        // The gaps between the rows have no gradient.
        let tight: Vec<f32> = (0..self.rows)
            .flat_map(|row| self.inputs().input.row(row))
            .copied()
            .collect();
        moved.stride = self.problem.channels;
        let mut by_input = moved.clone();
        compare("the input", &tight, &gradients.input, |x| {
            by_input.x = x.to_vec();
            by_input.loss()
        })?;
        moved.x = tight;
        let mut by_weight = moved.clone();
        compare("the weight", &self.weight, &gradients.weight, |weight| {
            by_weight.weight = weight.to_vec();
            by_weight.loss()
        })?;
        let mut by_state = moved.clone();
        compare("the state", &self.state, &gradients.state, |state| {
            by_state.state = state.to_vec();
            by_state.loss()
        })?;
        let bias = self.bias.clone().unwrap_or(vec![0.0; self.problem.channels]);
        compare("the bias", &bias, &gradients.bias, |bias| {
            moved.bias = Some(bias.to_vec());
            moved.loss()
        })
    }

    /// Input, weight, bias and state.
    pub fn run(&self) -> [Vec<f32>; 4] {
        let channels = self.problem.channels;
        let mut input = vec![f32::NAN; self.rows * channels];
        let mut weight = vec![f32::NAN; self.weight.len()];
        let mut bias = vec![f32::NAN; channels];
        let mut state = vec![f32::NAN; self.state.len()];
        let mut gradients = causal_conv1d::Gradients {
            input: &mut input,
            weight: &mut weight,
            bias: self.bias.is_some().then_some(&mut bias),
            state: &mut state,
        };
        let (inputs, cotangents) = (self.inputs(), self.cotangents());
        causal_conv1d::backward(&self.problem, &inputs, &self.state, &cotangents, &mut gradients)
            .expect("valid");
        [input, weight, bias, state]
    }

    /// Sums of the absolute values of the terms of every gradient.
    pub fn terms(&self) -> causal_conv1d::reference::GradientsF64 {
        let absolute = |values: &[f32]| values.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let mut positive = self.clone();
        positive.problem.activation = Activation::None;
        for values in [
            &mut positive.x,
            &mut positive.weight,
            &mut positive.state,
            &mut positive.out_cotangent,
        ] {
            *values = absolute(values);
        }
        positive.bias = self.bias.as_deref().map(absolute);
        positive.state_cotangent = self.state_cotangent.as_deref().map(absolute);
        positive.expected()
    }

    pub fn check_host(&self) -> Result<(), String> {
        let (expected, terms) = (self.expected(), self.terms());
        let [input, weight, bias, state] = self.run();
        close_sums("the gradient of the input", &input, &expected.input, &terms.input)?;
        close_sums(
            "the gradient of the weight",
            &weight,
            &expected.weight,
            &terms.weight,
        )?;
        close_sums("the gradient of the state", &state, &expected.state, &terms.state)?;
        if self.bias.is_some() {
            close_sums("the gradient of the bias", &bias, &expected.bias, &terms.bias)?;
        }
        Ok(())
    }
}

pub fn any_convolution(time: usize, channels: usize) -> impl Strategy<Value = Convolution> {
    let shape = (0..4_usize, 0..time, 0..channels, 1..6_usize, any::<bool>());
    shape
        .prop_flat_map(|shape| (Just(shape), any_layout(shape.0, shape.1)))
        .prop_flat_map(|shape| (Just(shape), 0..5_usize, any::<[bool; 2]>(), any::<u64>()))
        .prop_map(|((shape, layout), gap, [bias, by_state], seed)| {
            let (batch, time, channels, width, silu) = shape;
            let activation = if silu { Activation::Silu } else { Activation::None };
            let problem = causal_conv1d::Problem {
                batch,
                time: layout.time(time),
                channels,
                width,
                activation,
            };
            let rows = layout.sequences().rows(batch, problem.time);
            let state_len = problem.state_len();
            Convolution {
                problem,
                layout,
                rows,
                stride: channels + gap,
                x: random(seed, rows * (channels + gap), 2.0),
                weight: random(seed ^ 1, channels * width, 1.0),
                bias: bias.then(|| random(seed ^ 2, channels, 1.0)),
                state: random(seed ^ 3, state_len, 2.0),
                out_cotangent: random(seed ^ 4, rows * channels, 1.0),
                state_cotangent: by_state.then(|| random(seed ^ 5, state_len, 1.0)),
            }
        })
}

/// A norm, its inputs and the cotangent of its output.
#[derive(Clone, Debug)]
pub struct Norm {
    pub problem: gated_norm::Problem,
    pub x: Vec<f32>,
    pub gate: Option<Vec<f32>>,
    pub weight: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
    pub cotangent: Vec<f32>,
}

impl Norm {
    /// A gated LayerNorm of two groups with all that it can have.
    pub fn example(rows: usize, features: usize) -> Self {
        let problem = gated_norm::Problem {
            rows,
            features,
            group_size: features / 2,
            eps: 1e-5,
            statistic: Statistic::Variance,
            order: GateOrder::NormBeforeGate,
        };
        let len = rows * features;
        Self {
            problem,
            x: random(1, len, 2.0),
            gate: Some(random(2, len, 2.0)),
            weight: Some(random(3, features, 2.0)),
            bias: Some(random(4, features, 2.0)),
            cotangent: random(5, len, 1.0),
        }
    }

    pub fn view<'a>(&self, values: &'a [f32]) -> Rows<'a> {
        Rows::contiguous(values, self.problem.rows, self.problem.features).expect("whole rows")
    }

    pub fn inputs(&self) -> gated_norm::Inputs<'_> {
        gated_norm::Inputs {
            input: self.view(&self.x),
            gate: self.gate.as_deref().map(|gate| self.view(gate)),
            weight: self.weight.as_deref(),
            bias: self.bias.as_deref(),
        }
    }

    pub fn loss(&self) -> f64 {
        let out = gated_norm::reference::gated_norm(&self.problem, &self.inputs());
        inner(&self.cotangent, &out.expect("valid"))
    }

    pub fn expected(&self) -> gated_norm::reference::GradientsF64 {
        let cotangent = self.view(&self.cotangent);
        gated_norm::reference::backward(&self.problem, &self.inputs(), cotangent).expect("valid")
    }

    pub fn check_definition(&self) -> Result<(), String> {
        let gradients = self.expected();
        let mut moved = self.clone();
        compare("the input", &self.x, &gradients.input, |x| {
            moved.x = x.to_vec();
            moved.loss()
        })?;
        let mut moved = self.clone();
        if let Some(gate) = &self.gate {
            compare("the gate", gate, &gradients.gate, |gate| {
                moved.gate = Some(gate.to_vec());
                moved.loss()
            })?;
        }
        let mut moved = self.clone();
        let weight = self.weight.clone().unwrap_or(vec![1.0; self.problem.features]);
        compare("the weight", &weight, &gradients.weight, |weight| {
            moved.weight = Some(weight.to_vec());
            moved.loss()
        })?;
        let mut moved = self.clone();
        let bias = self.bias.clone().unwrap_or(vec![0.0; self.problem.features]);
        compare("the bias", &bias, &gradients.bias, |bias| {
            moved.bias = Some(bias.to_vec());
            moved.loss()
        })
    }

    /// Input, gate, weight and bias.
    pub fn run(&self) -> [Vec<f32>; 4] {
        let (len, features) = (self.x.len(), self.problem.features);
        let [mut input, mut gate] = [vec![f32::NAN; len], vec![f32::NAN; len]];
        let [mut weight, mut bias] = [vec![f32::NAN; features], vec![f32::NAN; features]];
        let mut gradients = gated_norm::Gradients {
            input: &mut input,
            gate: self.gate.is_some().then_some(&mut gate),
            weight: self.weight.is_some().then_some(&mut weight),
            bias: self.bias.is_some().then_some(&mut bias),
        };
        let cotangent = self.view(&self.cotangent);
        gated_norm::backward(&self.problem, &self.inputs(), cotangent, &mut gradients).expect("valid");
        [input, gate, weight, bias]
    }

    pub fn check_host(&self) -> Result<(), String> {
        let expected = self.expected();
        let [input, gate, weight, bias] = self.run();
        close("the gradient of the input", &input, &expected.input)?;
        let optional = [
            ("the gradient of the gate", &self.gate, gate, expected.gate),
            (
                "the gradient of the weight",
                &self.weight,
                weight,
                expected.weight,
            ),
            ("the gradient of the bias", &self.bias, bias, expected.bias),
        ];
        for (what, given, found, expected) in optional {
            if given.is_some() {
                close(what, &found, &expected)?;
            }
        }
        Ok(())
    }
}

/// A large ε keeps the norm smooth enough for differences.
pub fn any_norm(groups: usize, size: usize, eps: f32) -> impl Strategy<Value = Norm> {
    let statistic = prop_oneof![
        Just(Statistic::MeanSquare),
        Just(Statistic::Variance),
        Just(Statistic::SumOfSquares)
    ];
    // Two features are ±1 after a LayerNorm, whatever they were: their gradients are all rounding.
    let shape = (0..5_usize, 1..groups, 3..size);
    (shape, statistic, any::<[bool; 4]>(), any::<u64>()).prop_map(
        move |((rows, groups, group_size), statistic, [gate, weight, bias, before], seed)| {
            let features = groups * group_size;
            let (len, before_gate) = (rows * features, GateOrder::NormBeforeGate);
            Norm {
                problem: gated_norm::Problem {
                    rows,
                    features,
                    group_size,
                    eps,
                    statistic,
                    order: if before {
                        before_gate
                    } else {
                        GateOrder::NormAfterGate
                    },
                },
                x: random(seed, len, 2.0),
                gate: gate.then(|| random(seed ^ 1, len, 3.0)),
                weight: weight.then(|| random(seed ^ 2, features, 2.0)),
                bias: bias.then(|| random(seed ^ 3, features, 2.0)),
                cotangent: random(seed ^ 4, len, 1.0),
            }
        },
    )
}
