//! The S4 block in all its forms: outputs, states and gradients of the authors' code.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::linear_state_space::Rule;
use spillway_ssm_core::s4::{Activation, Gate, ModeSum, Projection, S4, S4Config};
use spillway_ssm_core::state_space::init::{StepRange, Transform};
use spillway_ssm_core::{Chain, Mixer, MixerState, WeightSource};

use super::mixers::{Leaves, data, expect, gradient, leaf_of, run, values, weights};
use super::support::{Case, cases};

const NAMES: [(&str, &str); 13] = [
    ("kernel.inv_dt", "layer.kernel.inv_dt"),
    ("kernel.A_real", "layer.kernel.A_real"),
    ("kernel.A_imag", "layer.kernel.A_imag"),
    ("kernel.B", "layer.kernel.B"),
    ("kernel.C", "layer.kernel.C"),
    ("kernel.P", "layer.kernel.P"),
    ("D", "layer.D"),
    ("input_gate.weight", "input_gate.0.weight"),
    ("input_gate.bias", "input_gate.0.bias"),
    ("output_gate.weight", "output_gate.weight"),
    ("output_gate.bias", "output_gate.bias"),
    ("output_linear.weight", "output_linear.0.weight"),
    ("output_linear.bias", "output_linear.0.bias"),
];

/// The shape of a case, and of its input whether channels come before time.
fn config(case: &Case) -> S4Config {
    let bidirectional = case.number("bidirectional", 0.0) != 0.0;
    let copies = case.shape("in.layer.kernel.A_real").to_vec();
    let activation = |name| Activation::from_name(case.text(name, "none")).expect("a known activation");
    assert_eq!(case.text("activation", "gelu"), "gelu", "{}", case.name);
    S4Config {
        model_dim: case.shape("in.layer.kernel.inv_dt")[0],
        channels: case.shape("in.layer.kernel.C")[0] / if bidirectional { 2 } else { 1 },
        state_dim: 2 * copies[1],
        rank: case
            .if_any("in.layer.kernel.P")
            .map_or(0, |_| case.shape("in.layer.kernel.P")[0]),
        copies: copies[0],
        rule: match case.text("disc", "zoh") {
            "bilinear" => Rule::Bilinear,
            _ => Rule::ZeroOrderHold,
        },
        modes: ModeSum::Pairs,
        bidirectional,
        taps: case.scalar("l_max").as_u64().map(|taps| taps as usize),
        step_transform: Transform::from_name(case.text("dt_transform", "exp")).expect("known"),
        rate_transform: Transform::from_name(case.text("real_transform", "exp")).expect("known"),
        gate: case.scalar("gate").as_u64().map(|factor| Gate {
            factor: factor as usize,
            activation: activation("gate_act"),
            of_product: activation("mult_act"),
        }),
        projection: match case.scalar("final_act").as_str() {
            Some("glu") => Projection::Glu,
            Some("id") => Projection::Linear,
            None => Projection::None,
            Some(other) => panic!("{}: {other}", case.name),
        },
        fresh: "diag-lin".into(),
        fresh_steps: StepRange::default(),
        truncated_at: case.truncated_at(),
    }
}

fn read<S: WeightSource<Error = spillway_ssm_core::Error>>(case: &Case, source: &mut S) -> S4 {
    S4::read(config(case), source).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

/// Channels of a case may come before time.
fn turned(case: &Case, x: Tensor<3>) -> Tensor<3> {
    match case.number("transposed", 0.0) != 0.0 {
        true => x.swap_dims(1, 2),
        false => x,
    }
}

/// Where sequences end, if the case says so.
fn ends(case: &Case) -> Option<Vec<usize>> {
    let ends = case.if_any("in.lengths")?;
    Some(ends.iter().map(|end| *end as usize).collect())
}

fn blocks() -> impl Iterator<Item = Case> {
    cases("s4_block").into_iter().chain(cases("s4_block_gate"))
}

fn state_of(state: &mut MixerState) -> &mut Tensor<4> {
    state.recurrent().expect("a state").system(0).expect("one")
}

#[test]
fn golden_s4_blocks_in_any_pieces() {
    let (mut streamed, mut whole, mut gated, mut padded) = (0, 0, 0, 0);
    for case in blocks() {
        let block = read(&case, &mut weights(&case, &NAMES));
        let input = turned(&case, Tensor::from_data(data(&case, "in.x"), &Device::flex()));
        let [batch, time, _] = input.dims();
        let ends = ends(&case);
        let streams = !block.config().bidirectional && ends.is_none();
        let pieces = match streams {
            true => vec![vec![time], vec![1; time], vec![time / 2, time - time / 2]],
            false => vec![vec![time]],
        };
        streamed += usize::from(streams);
        whole += usize::from(block.config().bidirectional);
        gated += usize::from(block.config().gate.is_some());
        padded += usize::from(ends.is_some());
        for lengths in pieces {
            let mut state = block.start(0, batch, &Chain::default(), &Device::flex());
            if case.if_any("in.state").is_some() {
                *state_of(&mut state) = Tensor::from_data(data(&case, "in.state"), &Device::flex());
            }
            let found = run(&block, &input, &mut state, &lengths, ends.as_deref())
                .unwrap_or_else(|error| panic!("{}: {error}", case.name));
            expect(&case, "the output", &values(turned(&case, found)), "out.y");
            if case.if_any("out.next_state").is_some() {
                let state = values(state_of(&mut state).clone());
                expect(&case, "the state", &state, "out.next_state");
            }
        }
    }
    assert!(
        streamed > 0 && whole > 0 && gated > 0 && padded > 0,
        "{streamed} cases stream, {whole} read both ways, {gated} have a gate, {padded} padding"
    );
}

#[test]
fn golden_gradients_of_s4_blocks() {
    let mut compared = 0;
    for case in blocks() {
        let mut leaves = Leaves::new(&case, &NAMES);
        let block = read(&case, &mut leaves);
        let device = Device::flex().autodiff();
        let shape = case.shape("in.x").to_vec();
        let leaf = leaf_of(data(&case, "in.x"));
        let input: Tensor<3> = leaf.clone().reshape([shape[0], shape[1], shape[2]]);
        let input = turned(&case, input);
        let [batch, time, _] = input.dims();
        let mut state = block.start(0, batch, &Chain::default(), &device);
        if case.if_any("in.state").is_some() {
            *state_of(&mut state) = Tensor::from_data(data(&case, "in.state"), &device);
        }
        let found = run(&block, &input, &mut state, &[time], ends(&case).as_deref())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let weighed = turned(&case, found) * Tensor::from_data(data(&case, "cot.y"), &device);
        let mut loss = weighed.sum();
        if case.if_any("cot.next_state").is_some() {
            let cotangent = Tensor::from_data(data(&case, "cot.next_state"), &device);
            loss = loss + (state_of(&mut state).clone() * cotangent).sum();
        }
        let mut gradients = loss.backward();
        let of_input = gradient(&leaf, &mut gradients);
        expect(&case, "the gradient of the input", &of_input, "grad.x");
        for (own, theirs) in NAMES {
            // The gradient of C̃ at one length is another than that of C, and those of A and Δ are at a C̃ that stays.
            if case.truncated_at() > 0 && own.starts_with("kernel.") {
                continue;
            }
            let Some(found) = leaves.gradient(own, &mut gradients) else {
                continue;
            };
            expect(
                &case,
                &format!("the gradient of {own}"),
                &found,
                &format!("grad.{theirs}"),
            );
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn golden_kernels_of_dss_in_a_block() {
    for case in cases("dss_kernel") {
        let names = [
            ("kernel.inv_dt", "inv_dt"),
            ("kernel.A_real", "A_real"),
            ("kernel.A_imag", "A_imag"),
            ("kernel.B", "B"),
            ("kernel.C", "C"),
            ("D", "D"),
            ("output_linear.weight", "W"),
            ("output_linear.bias", "b"),
        ];
        let kernel = case.shape("out.K").to_vec();
        let [outputs, width, length] = [kernel[0], kernel[1], kernel[2]];
        let copies = case.shape("in.A_real").to_vec();
        if case.shape("in.inv_dt")[1] != 1 || case.shape("in.B").len() != 4 {
            continue;
        }
        // D, W and b are the test's own: no skip, and W = 1.
        let inner = outputs * width;
        let identity: Vec<f64> = (0..inner * inner)
            .map(|i| f64::from(u8::from(i / inner == i % inner)))
            .collect();
        let case = case
            .with("in.D", vec![outputs, width], vec![0.0; inner])
            .with("in.W", vec![inner, inner], identity)
            .with("in.b", vec![inner], vec![0.0; inner]);
        // With as many outputs as channels there is no projection that keeps them apart; one output of each is looked at.
        if outputs != 1 {
            continue;
        }
        let config = S4Config {
            model_dim: width,
            channels: outputs,
            state_dim: 2 * copies[1],
            rank: 0,
            copies: copies[0],
            rule: Rule::ZeroOrderHold,
            modes: ModeSum::Softmax,
            bidirectional: false,
            taps: None,
            step_transform: Transform::Exp,
            rate_transform: Transform::from_name(case.text("real_transform", "exp")).expect("known"),
            gate: None,
            projection: Projection::Linear,
            fresh: "diag-lin".into(),
            fresh_steps: StepRange::default(),
            truncated_at: 0,
        };
        let input: Vec<f32> = (0..length * width).map(|i| (0.7 * i as f32).sin()).collect();
        let expected: Vec<f64> = (0..length * width)
            .map(|at| {
                let (t, h) = (at / width, at % width);
                let taps = case.series("out.K", 0, h);
                let z: f64 = (0..=t)
                    .map(|s| taps[s] * f64::from(input[(t - s) * width + h]))
                    .sum();
                z * 0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
            })
            .collect();
        for taps in [None, Some(length)] {
            let config = S4Config {
                taps,
                ..config.clone()
            };
            let block = S4::read(config, &mut weights(&case, &names)).expect("the weights fit");
            let input: Tensor<3> = Tensor::from_data(
                burn::tensor::TensorData::new(input.clone(), [1, length, width]),
                &Device::flex(),
            );
            let pieces = match taps {
                None => vec![vec![length]],
                Some(_) => vec![vec![length], vec![1; length]],
            };
            for lengths in pieces {
                let mut state = block.start(0, 1, &Chain::default(), &Device::flex());
                let found = run(&block, &input, &mut state, &lengths, None).expect("it fits");
                for (found, expected) in values(found).into_iter().zip(&expected) {
                    let off = (f64::from(found) - expected).abs();
                    assert!(off < 3e-6 * (1.0 + expected.abs()), "{}: off by {off}", case.name);
                }
            }
        }
    }
}

#[test]
fn blocks_that_read_whole_sequences_say_so_when_asked_to_go_on() {
    let case = blocks()
        .find(|case| case.number("bidirectional", 0.0) != 0.0)
        .expect("a bidirectional case");
    let block = read(&case, &mut weights(&case, &NAMES));
    assert!(block.sees_later_tokens());
    let input = turned(&case, Tensor::from_data(data(&case, "in.x"), &Device::flex()));
    let [batch, time, _] = input.dims();
    let mut state = block.start(0, batch, &Chain::default(), &Device::flex());
    let error = run(&block, &input, &mut state, &[1, time - 1], None).expect_err("no state to go on from");
    let text = error.to_string();
    assert!(
        text.contains("bidirectional") && text.contains("whole sequences"),
        "{text}"
    );
}
