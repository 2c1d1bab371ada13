//! The probe against brute force over the recorded gates.

use burn::tensor::{Device, Distribution, Tensor};
use spillway_models::evaluation::diagnosis::gates::{Gate, GateSegment};
use spillway_models::evaluation::diagnosis::probe::Probe;
use spillway_models::evaluation::diagnosis::record::SiteRecord;
use spillway_models::evaluation::diagnosis::state_statistics::state_statistics;
use spillway_models::evaluation::positions::snapshots;
use spillway_ssm_core::{
    Chain, Chunking, Erase, Gates, Intervention, LogDecay, ReadOut, Rule, Site, SiteState, State,
};
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
    decays: true,
    per_key_decay: false,
    begins_with_prefix: false,
    rule: Rule::WeightedSum,
};

fn gates() -> Gates {
    let device = Device::flex();
    device.seed(11);
    let normal = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let uniform =
        |low, high| Tensor::<3>::random([1, TIME, SITE.heads], Distribution::Uniform(low, high), &device);
    Gates {
        log_decay: LogDecay::PerHeadToken(uniform(-0.3, 0.0)),
        step_size: Some(uniform(0.01, 0.2)),
        ..Gates::new(
            normal([1, TIME, SITE.groups, SITE.key_dim]),
            normal([1, TIME, SITE.groups, SITE.key_dim]),
            normal([1, TIME, SITE.heads, SITE.value_dim]),
        )
    }
}

fn start(chain: &Chain) -> SiteState {
    let device = Device::flex();
    SiteState {
        state: State {
            memory: Tensor::zeros([1, SITE.heads, SITE.key_dim, SITE.value_dim], &device),
            position: 0,
        },
        interventions: chain.start(&SITE, 1, &device),
    }
}

/// Runs all tokens in pieces of these lengths, and gives the read-outs.
fn run(chain: &Chain, state: &mut SiteState, gates: &Gates, pieces: &[usize]) -> Vec<f32> {
    let mut first = state.state.position as usize;
    let mut outputs = Vec::new();
    for &piece in pieces {
        let piece = gates.slice(first..first + piece).expect("inside the segment");
        first += piece.dims().time;
        let output = chain
            .run(&SITE, piece, state, Chunking::Sequential)
            .expect("gates fit");
        outputs.extend(floats(&output.into_data()));
    }
    outputs
}

fn record(state: &mut SiteState) -> SiteRecord {
    let memory = state.interventions[0].as_any_mut().downcast_ref::<SiteRecord>();
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
    let probe = Probe::new(positions.clone(), TRAIN_LENGTH);
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
            let (at, found, _) = record.samples(head).nth(index).expect("a sample");
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
                near(record.samples(head).nth(index).expect("a sample").2, expected),
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
    let saved = state.interventions[0].save();
    state.interventions = vec![
        probe
            .restore(&SITE, 1, &Device::flex(), &saved)
            .expect("what was saved"),
    ];
    run(&chain, &mut state, &gates, &[30]);
    let (expected, found) = (record(&mut whole), record(&mut state));
    assert_eq!(expected, found);
    let text = serde_json::to_string(&found).expect("serialised");
    assert_eq!(serde_json::from_str::<SiteRecord>(&text).expect("read"), found);
}

#[test]
fn a_record_of_another_shape_is_refused() {
    let (_, probe, chain) = probed();
    let saved = start(&chain).interventions[0].save();
    let wider = Site { heads: 6, ..SITE };
    assert!(probe.restore(&wider, 1, &Device::flex(), &saved).is_err());
    let mut missing = saved;
    missing.remove("gates");
    let error = probe
        .restore(&SITE, 1, &Device::flex(), &missing)
        .expect_err("gates are missing");
    assert!(error.to_string().contains("probe.gates is missing"), "{error}");
}

/// The least and the largest of the means over time of a head's key rows.
#[test]
fn decays_per_key_keep_their_slowest_and_fastest_row() {
    let site = Site {
        per_key_decay: true,
        ..SITE
    };
    let device = Device::flex();
    let range = Distribution::Uniform(-0.5, 0.0);
    let decays = Tensor::<4>::random([1, TIME, SITE.heads, SITE.key_dim], range, &device);
    let gates = Gates {
        log_decay: LogDecay::PerKeyToken(decays.clone()),
        ..gates()
    };
    let (_, _, chain) = probed();
    let mut state = SiteState {
        state: site.empty_state(1, &device),
        interventions: chain.start(&site, 1, &device),
    };
    chain
        .run(&site, gates, &mut state, Chunking::Sequential)
        .expect("gates fit");
    let (record, decays) = (record(&mut state), floats(&decays.into_data()));
    let train_length = TRAIN_LENGTH as usize;
    for head in 0..SITE.heads {
        let mean = |row: usize| {
            let at = |token: usize| f64::from(decays[(token * SITE.heads + head) * SITE.key_dim + row]);
            (0..train_length).map(at).sum::<f64>() / train_length as f64
        };
        let means: Vec<f64> = (0..SITE.key_dim).map(mean).collect();
        let (least, largest) = record.key_range(head).expect("rows differ");
        assert!(near(least, means.iter().copied().fold(f64::INFINITY, f64::min)));
        assert!(near(
            largest,
            means.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        ));
    }
}

/// What is left of unit matrices, by the recurrence itself with nothing written: ‖M‖²_F is the sum over the directions.
fn retention_by_recurrence(gates: &Gates, head: usize) -> f64 {
    let device = Device::flex();
    let dims = gates.dims();
    let blank = Gates {
        value: Tensor::zeros(gates.value.dims(), &device),
        ..gates.clone()
    };
    let mut state = State {
        memory: Tensor::<2>::eye(dims.key_dim, &device)
            .reshape([1, 1, dims.key_dim, dims.key_dim])
            .repeat_dim(1, dims.heads),
        position: 0,
    };
    spillway_ssm_core::recurrence(blank, &mut state, Chunking::Sequential).expect("gates fit");
    let size = dims.key_dim * dims.key_dim;
    let left = &floats(&state.memory.into_data())[head * size..(head + 1) * size];
    let squares: f64 = left.iter().map(|x| f64::from(*x).powi(2)).sum();
    0.5 * (squares / dims.key_dim as f64).ln()
}

#[test]
fn a_delta_rule_keeps_what_its_matrix_leaves_of_a_random_direction() {
    let device = Device::flex();
    device.seed(5);
    let (heads, key_dim) = (3, 4);
    let normal = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 0.5), &device);
    let plain = |log_decay, erase| Gates {
        log_decay,
        erase,
        ..Gates::new(
            normal([1, 1, heads, key_dim]),
            normal([1, 1, heads, key_dim]),
            normal([1, 1, heads, key_dim]),
        )
    };
    let range = Distribution::Uniform(-0.5, 0.0);
    let per_head = || LogDecay::PerHeadToken(Tensor::random([1, 1, heads], range, &device));
    let per_key = || LogDecay::PerKeyToken(Tensor::random([1, 1, heads, key_dim], range, &device));
    let beta = || {
        Erase::Delta(Tensor::random(
            [1, 1, heads],
            Distribution::Uniform(0.2, 1.0),
            &device,
        ))
    };
    let low_rank = || Erase::LowRank {
        p: normal([1, 1, heads, key_dim]),
        b: normal([1, 1, heads, key_dim]),
    };
    for gates in [
        plain(LogDecay::None, beta()),
        plain(per_head(), beta()),
        plain(per_key(), beta()),
        plain(per_key(), low_rank()),
    ] {
        let segment = GateSegment::new(&gates).expect("floats");
        for head in 0..heads {
            let found = segment.token(0, head).log_decay;
            let expected = retention_by_recurrence(&gates, head);
            assert!(
                near(found, expected),
                "{} {}: {found} {expected}",
                gates.log_decay.kind(),
                gates.erase.kind()
            );
        }
    }
}

#[test]
fn a_weighted_mean_is_recorded_by_its_weights() {
    let device = Device::flex();
    device.seed(3);
    let site = Site {
        groups: 4,
        key_dim: 1,
        value_dim: 3,
        has_step_size: false,
        rule: Rule::Mean,
        ..SITE
    };
    let normal = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let (key, value) = (normal([1, TIME, 4, 1]), normal([1, TIME, 4, 1]));
    let gates = Gates {
        log_decay: LogDecay::PerHead(Tensor::from_floats([-0.1, -0.2, -0.01, -1.0], &device)),
        read_out: ReadOut::Mean(Tensor::zeros([4], &device)),
        ..Gates::new(
            Tensor::zeros([1, TIME, 4, 1], &device),
            key.clone(),
            value.clone(),
        )
    };
    let (_, _, chain) = probed();
    let mut state = SiteState {
        state: site.empty_state(1, &device),
        interventions: chain.start(&site, 1, &device),
    };
    chain
        .run(&site, gates, &mut state, Chunking::Sequential)
        .expect("gates fit");
    let record = record(&mut state);
    assert_eq!(record.measure(), "weight");
    let (key, value) = (floats(&key.into_data()), floats(&value.into_data()));
    for (head, decay) in [-0.1, -0.2, -0.01, -1.0_f64].into_iter().enumerate() {
        for (position, found, _) in record.samples(head) {
            let weight = |t: u64| {
                let age = (position - 1 - t) as f64;
                (age * decay + f64::from(key[t as usize * 4 + head])).exp()
            };
            let sum: f64 = (0..position).map(weight).sum();
            let weighted = |t: u64| weight(t) * f64::from(value[t as usize * 4 + head]);
            let mean = (0..position).map(weighted).sum::<f64>() / sum;
            assert!(
                near(found.norm, sum),
                "head {head} at {position}: {} {sum}",
                found.norm
            );
            assert!(
                near(found.mean, mean),
                "head {head} at {position}: {} {mean}",
                found.mean
            );
        }
    }
}
