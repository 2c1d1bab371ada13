//! The probe against brute force over the recorded gates.

use bench::diagnose::head_statistics::state_statistics;
use bench::diagnose::positions::snapshots;
use bench::diagnose::probe::{Gate, LayerRecord, Probe};
use burn::tensor::{Device, Distribution, Tensor};
use ssm_core::{Chain, Form, Gates, Intervention, LogDecay, ReadOut, Recurrence, Site, State};
use std::sync::Arc;

const TIME: usize = 50;
const TRAIN_LENGTH: u64 = 8;
const SITE: Site = Site {
    layer: 0,
    first_head: 0,
    heads: 4,
    groups: 2,
    key_dim: 5,
    value_dim: 3,
    has_step_size: true,
    per_key_decay: false,
    rule: ssm_core::Rule::WeightedSum,
};

fn gates() -> Gates {
    let device = Device::flex();
    device.seed(11);
    let normal = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let uniform =
        |low, high| Tensor::<3>::random([1, TIME, SITE.heads], Distribution::Uniform(low, high), &device);
    Gates {
        query: normal([1, TIME, SITE.groups, SITE.key_dim]),
        key: normal([1, TIME, SITE.groups, SITE.key_dim]),
        value: normal([1, TIME, SITE.heads, SITE.value_dim]),
        log_decay: LogDecay::PerHeadToken(uniform(-0.3, 0.0)),
        step_size: Some(uniform(0.01, 0.2)),
        erase: ssm_core::Erase::None,
        read_out: ReadOut::Inclusive,
        skip: None,
        scale: 1.0,
    }
}

fn start(chain: &Chain) -> Recurrence {
    let device = Device::flex();
    Recurrence {
        state: State {
            memory: Tensor::zeros([1, SITE.heads, SITE.key_dim, SITE.value_dim], &device),
            position: 0,
        },
        memories: chain.start(&SITE, 1, &device),
    }
}

/// Runs all tokens in pieces of these lengths, and gives the read-outs.
fn run(chain: &Chain, state: &mut Recurrence, gates: &Gates, pieces: &[usize]) -> Vec<f32> {
    let mut first = state.state.position as usize;
    let mut outputs = Vec::new();
    for &piece in pieces {
        let piece = gates.slice(first..first + piece).expect("inside the stretch");
        first += piece.dims().time;
        let output = chain
            .run(&SITE, piece, state, Form::Sequential)
            .expect("gates fit");
        outputs.extend(floats(&output.into_data()));
    }
    outputs
}

fn record(state: &mut Recurrence) -> LayerRecord {
    let memory = state.memories[0].as_any_mut().downcast_ref::<LayerRecord>();
    memory.expect("the probe's record").clone()
}

fn floats(data: &burn::tensor::TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

fn near(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-5 * expected.abs().max(1.0)
}

fn probed() -> (Vec<u64>, Probe, Chain) {
    let positions = snapshots(TRAIN_LENGTH, TIME as u64);
    let probe = Probe::new(positions.clone());
    (positions, probe.clone(), Chain::new(vec![Arc::new(probe)]))
}

#[test]
fn a_probe_changes_nothing() {
    let (_, _, chain) = probed();
    let gates = gates();
    let plain = run(&Chain::default(), &mut start(&Chain::default()), &gates, &[TIME]);
    let seen = run(&chain, &mut start(&chain), &gates, &[TIME]);
    assert_eq!(plain.len(), seen.len());
    assert!(
        plain
            .iter()
            .zip(&seen)
            .all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs().max(1.0))
    );
}

#[test]
fn states_are_looked_at_after_the_right_tokens() {
    let (positions, _, chain) = probed();
    let gates = gates();
    let mut state = start(&chain);
    run(&chain, &mut state, &gates, &[TIME]);
    let record = record(&mut state);
    for (index, &position) in positions.iter().enumerate() {
        let mut plain = start(&Chain::default());
        run(&Chain::default(), &mut plain, &gates, &[position as usize]);
        let memory = floats(&plain.state.memory.to_data());
        for (head, state) in memory.chunks(SITE.key_dim * SITE.value_dim).enumerate() {
            let (at, found, _) = record.looks(head).nth(index).expect("a look");
            assert_eq!(at, position);
            assert!(
                near(found.norm, state_statistics(state).norm),
                "head {head} at {position}"
            );
        }
    }
}

#[test]
fn decays_steps_keys_and_values_agree_with_sums_over_the_gates() {
    let (positions, _, chain) = probed();
    let gates = gates();
    let mut state = start(&chain);
    run(&chain, &mut state, &gates, &[7, 20, 23]);
    let record = record(&mut state);
    let LogDecay::PerHeadToken(log_decay) = &gates.log_decay else {
        panic!("made above")
    };
    let log_decay = floats(&log_decay.to_data());
    let step = floats(&gates.step_size.as_ref().expect("made above").to_data());
    let (key, value) = (floats(&gates.key.to_data()), floats(&gates.value.to_data()));
    // The numbers of one column between two tokens, from `[time, columns, width]`.
    let column =
        |values: &[f32], columns: usize, width: usize, column: usize, from: u64, to: u64| -> Vec<f64> {
            let rows = values
                .chunks(columns * width)
                .take(to as usize)
                .skip(from as usize);
            rows.flat_map(|row| row[column * width..(column + 1) * width].to_vec())
                .map(f64::from)
                .collect()
        };
    let check = |gate: Gate, values: &[f32], width: usize| {
        for index in 0..record.columns(gate) {
            for ((from, to), tally) in record.gate(gate, index) {
                let expected = column(values, record.columns(gate), width, index, from, to);
                let mean = expected.iter().sum::<f64>() / expected.len() as f64;
                assert_eq!(tally.count(), expected.len() as u64);
                assert!(
                    near(tally.mean().expect("tokens"), mean),
                    "{gate:?} {index} {from}..{to}"
                );
            }
        }
    };
    check(Gate::LogDecay, &log_decay, 1);
    check(Gate::StepSize, &step, 1);
    check(Gate::Value, &value, SITE.value_dim);
    check(Gate::Key, &key, SITE.key_dim);
    for head in 0..SITE.heads {
        for (index, &position) in positions.iter().enumerate() {
            // The first token's own decay acts on what was before it.
            let expected: f64 = column(&log_decay, SITE.heads, 1, head, 1, position).iter().sum();
            assert!(
                near(record.looks(head).nth(index).expect("a look").2, expected),
                "head {head} at {position}"
            );
        }
        let inside = column(&log_decay, SITE.heads, 1, head, 0, TRAIN_LENGTH);
        let mean = record.mean_log_decay(head, TRAIN_LENGTH).expect("tokens");
        assert!(near(mean, inside.iter().sum::<f64>() / inside.len() as f64));
    }
}

#[test]
fn a_saved_record_goes_on_to_the_same_bits() {
    let (_, probe, chain) = probed();
    let gates = gates();
    let mut whole = start(&chain);
    run(&chain, &mut whole, &gates, &[20, 30]);
    let mut state = start(&chain);
    run(&chain, &mut state, &gates, &[20]);
    let saved = state.memories[0].save();
    state.memories = vec![
        probe
            .restore(&SITE, 1, &Device::flex(), &saved)
            .expect("what was saved"),
    ];
    run(&chain, &mut state, &gates, &[30]);
    let (expected, found) = (record(&mut whole), record(&mut state));
    assert_eq!(expected, found);
    let text = serde_json::to_string(&found).expect("serialised");
    assert_eq!(serde_json::from_str::<LayerRecord>(&text).expect("read"), found);
}

#[test]
fn a_record_of_another_shape_is_refused() {
    let (_, probe, chain) = probed();
    let saved = start(&chain).memories[0].save();
    let wider = Site { heads: 6, ..SITE };
    assert!(probe.restore(&wider, 1, &Device::flex(), &saved).is_err());
    let mut missing = saved;
    missing.remove("gates");
    let error = probe
        .restore(&SITE, 1, &Device::flex(), &missing)
        .expect_err("gates are missing");
    assert!(error.to_string().contains("probe.gates is missing"), "{error}");
}
