//! The S4 block and the H3 mixer: outputs and states of the authors' code.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::h3::{H3, H3Config};
use spillway_ssm_core::operators::linear_state_space::Rule;
use spillway_ssm_core::s4::{Projection, S4, S4Config};
use spillway_ssm_core::state_space::init::{StepRange, Transform};
use spillway_ssm_core::{Chain, Chunking, Context, Mixer, MixerState, Shared, WeightMap};

use super::support::{Case, cases};

/// How many times the error of the peer's own f32 code is allowed.
const OF_THE_PEER: f64 = 10.0;

fn data(case: &Case, name: &str) -> TensorData {
    let values: Vec<f32> = case.tensor(name).iter().map(|x| *x as f32).collect();
    TensorData::new(values, case.shape(name).to_vec())
}

/// The weights of a case by the names of a mixer: pairs of its name and the case's.
fn weights(case: &Case, names: &[(&str, &str)]) -> WeightMap {
    let given = names
        .iter()
        .filter(|(_, theirs)| case.if_any(&format!("in.{theirs}")).is_some());
    let tensors = given.map(|(own, theirs)| (own.to_string(), data(case, &format!("in.{theirs}"))));
    WeightMap::new(tensors.collect::<BTreeMap<_, _>>(), Device::flex())
}

/// Runs pieces of these lengths from a state, one after another.
fn run(mixer: &dyn Mixer, input: &Tensor<3>, state: &mut MixerState, lengths: &[usize]) -> Tensor<3> {
    let (chain, mut shared) = (Chain::default(), Shared::default());
    let (mut first, mut found) = (0, Vec::new());
    for &length in lengths {
        let mut context = Context {
            chain: &chain,
            layer: 0,
            chunking: Chunking::Fastest,
            positions: &[],
            shared: &mut shared,
        };
        let piece = input.clone().narrow(1, first, length);
        found.push(mixer.forward(piece, state, &mut context).expect("it fits"));
        first += length;
    }
    Tensor::cat(found, 1)
}

fn expect(case: &Case, what: &str, found: Vec<f32>, name: &str) {
    let expected = case.tensor(name);
    assert_eq!(found.len(), expected.len(), "{}: {what}", case.name);
    let square = |x: f64| x * x;
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| square(f64::from(*a) - b))
        .sum();
    let size: f64 = expected.iter().map(|x| square(*x)).sum();
    let error = (difference / size).sqrt();
    let peer = case.json["float32_reference_error"][name]["rel_l2"].as_f64();
    let allowed = OF_THE_PEER * peer.expect("the case states the peer's error");
    assert!(
        error <= allowed,
        "{}: {what} is off by {error:e}, {allowed:e} allowed",
        case.name
    );
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn golden_s4_blocks() {
    let names = [
        ("kernel.inv_dt", "layer.kernel.inv_dt"),
        ("kernel.A_real", "layer.kernel.A_real"),
        ("kernel.A_imag", "layer.kernel.A_imag"),
        ("kernel.B", "layer.kernel.B"),
        ("kernel.C", "layer.kernel.C"),
        ("kernel.P", "layer.kernel.P"),
        ("D", "layer.D"),
        ("output_linear.weight", "output_linear.0.weight"),
        ("output_linear.bias", "output_linear.0.bias"),
    ];
    let mut seen = 0;
    for case in cases("s4_block") {
        // Blocks that see later tokens, or fewer than all earlier ones, have no state to stream from.
        let streams = case.number("bidirectional", 0.0) == 0.0 && case.scalar("l_max").is_null();
        if !streams || case.number("has_lengths", 0.0) != 0.0 || case.text("activation", "gelu") != "gelu" {
            continue;
        }
        let projection = match case.scalar("final_act").as_str() {
            Some("glu") => Projection::Glu,
            Some("id") => Projection::Linear,
            None => Projection::None,
            Some(_) => continue,
        };
        seen += 1;
        let copies = case.shape("in.layer.kernel.A_real").to_vec();
        let config = S4Config {
            model_dim: case.shape("in.layer.kernel.inv_dt")[0],
            channels: case.shape("in.layer.kernel.C")[0],
            state_dim: 2 * copies[1],
            rank: case
                .if_any("in.layer.kernel.P")
                .map_or(0, |_| case.shape("in.layer.kernel.P")[0]),
            copies: copies[0],
            rule: match case.text("disc", "zoh") {
                "bilinear" => Rule::Bilinear,
                _ => Rule::ZeroOrderHold,
            },
            step_transform: Transform::from_name(case.text("dt_transform", "exp")).expect("known"),
            rate_transform: Transform::from_name(case.text("real_transform", "exp")).expect("known"),
            projection,
            fresh: "diag-lin".into(),
            fresh_steps: StepRange::default(),
            truncated_at: case.truncated_at(),
        };
        let block = S4::read(config, &mut weights(&case, &names)).expect("the weights fit");
        let transposed = case.number("transposed", 0.0) != 0.0;
        let turn = |x: Tensor<3>| if transposed { x.swap_dims(1, 2) } else { x };
        let input = turn(Tensor::from_data(data(&case, "in.x"), &Device::flex()));
        let [batch, time, _] = input.dims();
        for lengths in [vec![time], vec![1; time], vec![time / 2, time - time / 2]] {
            let mut state = block.start(0, batch, &Chain::default(), &Device::flex());
            if case.if_any("in.state").is_some() {
                let given = Tensor::from_data(data(&case, "in.state"), &Device::flex());
                *state.recurrent().expect("a state").system(0).expect("one") = given;
            }
            let found = run(&block, &input, &mut state, &lengths);
            expect(&case, "the output", values(turn(found)), "out.y");
            if case.if_any("out.next_state").is_some() {
                let state = state
                    .recurrent()
                    .expect("a state")
                    .system(0)
                    .expect("one")
                    .clone();
                expect(&case, "the state", values(state), "out.next_state");
            }
        }
    }
    assert!(seen > 0, "no case of a block that streams");
}

#[test]
fn golden_h3_mixers() {
    let names = [
        ("q_proj.weight", "q_proj.weight"),
        ("q_proj.bias", "q_proj.bias"),
        ("k_proj.weight", "k_proj.weight"),
        ("k_proj.bias", "k_proj.bias"),
        ("v_proj.weight", "v_proj.weight"),
        ("v_proj.bias", "v_proj.bias"),
        ("shift.B", "ssm_k_kernel.kernel.B"),
        ("shift.C", "ssm_k_kernel.kernel.C"),
        ("shift_D", "ssm_k_D"),
        ("diagonal.C", "kernel.kernel.C"),
        ("diagonal.B", "kernel.kernel.B"),
        ("diagonal.log_dt", "kernel.kernel.log_dt"),
        ("diagonal.inv_A_real", "kernel.kernel.inv_A_real"),
        ("diagonal.A_imag", "kernel.kernel.A_imag"),
        ("D", "D"),
        ("out_proj.weight", "output_linear.weight"),
        ("out_proj.bias", "output_linear.bias"),
    ];
    for case in cases("h3_layer") {
        let shift = case.shape("in.ssm_k_kernel.kernel.B").to_vec();
        let config = H3Config {
            model_dim: shift[0],
            head_dim: case.number("head_dim", 1.0) as usize,
            state_dim: shift[1],
        };
        let mixer = H3::read(config, &mut weights(&case, &names)).expect("the weights fit");
        let input: Tensor<3> = Tensor::from_data(data(&case, "in.x"), &Device::flex());
        let [batch, time, _] = input.dims();
        for lengths in [vec![time], vec![1; time], vec![time - 2, 1, 1]] {
            let mut state = mixer.start(0, batch, &Chain::default(), &Device::flex());
            let found = run(&mixer, &input, &mut state, &lengths);
            expect(&case, "the output", values(found), "out.y");
        }
    }
}
