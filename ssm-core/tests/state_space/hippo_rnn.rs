//! The HiPPO-RNN cell against plain loops in f64: outputs, gradients by differences of that, and streams.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use nalgebra::{DMatrix, DVector};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_ssm_core::hippo_rnn::{HippoRnn, HippoRnnConfig, Remembered};
use spillway_ssm_core::state_space::hippo::Measure;
use spillway_ssm_core::state_space::{Discretisation, StateSpace};
use spillway_ssm_core::{Chain, Mixer, MixerState, WeightMap};

use super::mixers::{Leaves, gradient, leaf_of, run, values};

const BATCH: usize = 2;
const TIME: usize = 7;

fn configs() -> Vec<(&'static str, HippoRnnConfig)> {
    let legs = HippoRnnConfig::legs(3, 2, 4);
    vec![
        ("LegS, gated", legs),
        (
            "LegS by the hold, without a gate",
            HippoRnnConfig {
                rule: Discretisation::ZeroOrderHold,
                gate: false,
                ..legs
            },
        ),
        ("LMU", HippoRnnConfig::lmu(3, 2, 4, 5.0)),
        (
            "FouT, gated, reading everything",
            HippoRnnConfig {
                remembered: Remembered::Weighed {
                    measure: Measure::Fourier,
                    step: 0.2,
                },
                signals_read_memory: true,
                hidden_reads_hidden: true,
                ..legs
            },
        ),
    ]
}

/// Shapes of the weights of a cell, in the order of their names.
fn shapes(config: &HippoRnnConfig) -> Vec<(&'static str, Vec<usize>)> {
    let (width, memory) = (config.model_dim, config.signals * config.order);
    let of_signals = 2 * width + if config.signals_read_memory { memory } else { 0 };
    let of_hidden = width + memory + if config.hidden_reads_hidden { width } else { 0 };
    let mut shapes = vec![
        ("signals.weight", vec![config.signals, of_signals]),
        ("signals.bias", vec![config.signals]),
        ("hidden.weight", vec![width, of_hidden]),
        ("hidden.bias", vec![width]),
    ];
    if config.gate {
        shapes.push(("gate.weight", vec![width, of_hidden]));
        shapes.push(("gate.bias", vec![width]));
    }
    shapes
}

type Weights = BTreeMap<&'static str, Vec<f64>>;

fn draw(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| f64::from(rng.random_range(-1.0_f32..1.0)))
        .collect()
}

fn weights(config: &HippoRnnConfig) -> Weights {
    let shapes = shapes(config).into_iter().enumerate();
    shapes
        .map(|(seed, (name, shape))| {
            let draws = draw(shape.iter().product(), 7 + seed as u64);
            (name, draws.iter().map(|x| 0.6 * x).collect())
        })
        .collect()
}

fn stored(config: &HippoRnnConfig, weights: &Weights) -> BTreeMap<String, TensorData> {
    let shapes = shapes(config).into_iter();
    shapes
        .map(|(name, shape)| {
            let values: Vec<f32> = weights[name].iter().map(|x| *x as f32).collect();
            (name.to_string(), TensorData::new(values, shape))
        })
        .collect()
}

/// Ā and B̄ of step k = position, straight from the dense system.
fn discrete(config: &HippoRnnConfig, position: usize) -> (DMatrix<f64>, DVector<f64>) {
    let order = config.order;
    let (measure, step) = match config.remembered {
        Remembered::All if position == 0 => {
            // The first sample is the constant that it is.
            let mut first = DVector::zeros(order);
            first[0] = 1.0;
            return (DMatrix::zeros(order, order), first);
        }
        Remembered::All => {
            let k = position as f64;
            let held = config.rule == Discretisation::ZeroOrderHold;
            (Measure::Legs, if held { ((k + 1.0) / k).ln() } else { 1.0 / k })
        }
        Remembered::Weighed { measure, step } => (measure, step),
    };
    let system = measure
        .transition(order)
        .and_then(|transition| transition.states_only())
        .expect("a system");
    let discrete = system.discretise(config.rule, step).expect("discrete");
    (discrete.a().clone(), discrete.b().clone())
}

fn affine(weights: &Weights, name: &str, input: &[f64]) -> Vec<f64> {
    let (weight, bias) = (
        &weights[format!("{name}.weight").as_str()],
        &weights[format!("{name}.bias").as_str()],
    );
    let rows = weight.chunks(input.len()).zip(bias);
    rows.map(|(row, bias)| row.iter().zip(input).map(|(w, x)| w * x).sum::<f64>() + bias)
        .collect()
}

/// All outputs, sequence by sequence.
fn reference(config: &HippoRnnConfig, weights: &Weights, input: &[f64]) -> Vec<f64> {
    let width = config.model_dim;
    let mut outputs = Vec::new();
    for sequence in input.chunks(TIME * width) {
        let mut h = vec![0.0; width];
        let mut m = vec![DVector::zeros(config.order); config.signals];
        for (t, x) in sequence.chunks(width).enumerate() {
            let flat = |m: &[DVector<f64>]| m.iter().flat_map(|m| m.iter().copied()).collect::<Vec<_>>();
            let mut read = [x, &h].concat();
            if config.signals_read_memory {
                read.extend(flat(&m));
            }
            let u = affine(weights, "signals", &read);
            let (a, b) = discrete(config, t);
            for (m, u) in m.iter_mut().zip(u) {
                *m = &a * &*m + &b * u;
            }
            let mut read = [x, &flat(&m)].concat();
            if config.hidden_reads_hidden {
                read.extend(&h);
            }
            let candidate = affine(weights, "hidden", &read).into_iter().map(f64::tanh);
            h = match config.gate {
                false => candidate.collect(),
                true => {
                    let gate = affine(weights, "gate", &read).into_iter();
                    let gate = gate.map(|g| 1.0 / (1.0 + (-g).exp()));
                    let parts = h.iter().zip(candidate).zip(gate);
                    parts.map(|((h, new), g)| (1.0 - g) * h + g * new).collect()
                }
            };
            outputs.extend_from_slice(&h);
        }
    }
    outputs
}

fn input(config: &HippoRnnConfig) -> Vec<f64> {
    draw(BATCH * TIME * config.model_dim, 1)
}

fn data(values: &[f64], config: &HippoRnnConfig) -> TensorData {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    TensorData::new(values, [BATCH, TIME, config.model_dim])
}

fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum();
    let error = difference.sqrt() / size.max(1e-3);
    assert!(error <= tolerance, "{what}: relative error {error:e}");
}

#[test]
fn the_cell_is_its_formula_whole_and_in_pieces() {
    for (name, config) in configs() {
        let weights = weights(&config);
        let expected = reference(&config, &weights, &input(&config));
        let mut map = WeightMap::new(stored(&config, &weights), Device::flex());
        let cell = HippoRnn::read(config, &mut map).expect("the weights fit");
        map.expect_all_read().expect("all are read");
        let input: Tensor<3> = Tensor::from_data(data(&input(&config), &config), &Device::flex());
        let mut last: Option<Vec<f32>> = None;
        for lengths in [vec![TIME], vec![1; TIME], vec![3, TIME - 3]] {
            let mut state = cell.start(0, BATCH, &Chain::default(), &Device::flex());
            let found = run(&cell, &input, &mut state, &lengths, None).expect("it fits");
            close(name, &values(found), &expected, 2e-6);
            let saved = state.save().into_values();
            let state: Vec<f32> = saved
                .flat_map(|data| data.iter::<f32>().collect::<Vec<_>>())
                .collect();
            if let Some(other) = &last {
                close(
                    "the state",
                    &state,
                    &other.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(),
                    2e-6,
                );
            }
            last = Some(state);
        }
    }
}

#[test]
fn gradients_of_the_cell_are_quotients_of_differences() {
    for (name, config) in configs() {
        let weights = weights(&config);
        let (input, cotangent) = (input(&config), draw(BATCH * TIME * config.model_dim, 2));
        let loss = |weights: &Weights, input: &[f64]| -> f64 {
            let outputs = reference(&config, weights, input);
            outputs.iter().zip(&cotangent).map(|(y, c)| y * c).sum()
        };
        const STEP: f64 = 1e-5;
        let quotient = |of: &dyn Fn(f64) -> f64| (of(STEP) - of(-STEP)) / (2.0 * STEP);
        let mut leaves = Leaves::of(stored(&config, &weights));
        let cell = HippoRnn::read(config, &mut leaves).expect("the weights fit");
        let device = Device::flex().autodiff();
        let leaf = leaf_of(data(&input, &config));
        let tensor: Tensor<3> = leaf.clone().reshape([BATCH, TIME, config.model_dim]);
        let mut state = cell.start(0, BATCH, &Chain::default(), &device);
        let found = run(&cell, &tensor, &mut state, &[TIME], None).expect("it fits");
        let weighed = found * Tensor::from_data(data(&cotangent, &config), &device);
        let mut gradients = weighed.sum().backward();
        let of_input: Vec<f64> = (0..input.len())
            .map(|at| {
                quotient(&|by| {
                    let mut moved = input.clone();
                    moved[at] += by;
                    loss(&weights, &moved)
                })
            })
            .collect();
        let what = format!("{name}: the gradient of the input");
        close(&what, &gradient(&leaf, &mut gradients), &of_input, 2e-5);
        for (weight, _) in shapes(&config) {
            let expected: Vec<f64> = (0..weights[weight].len())
                .map(|at| {
                    quotient(&|by| {
                        let mut moved = weights.clone();
                        moved.get_mut(weight).expect("a weight")[at] += by;
                        loss(&moved, &input)
                    })
                })
                .collect();
            let found = leaves.gradient(weight, &mut gradients).expect("a leaf");
            close(
                &format!("{name}: the gradient of {weight}"),
                &found,
                &expected,
                2e-5,
            );
        }
    }
}

#[test]
fn sequences_at_different_positions_keep_their_own_time() {
    let config = HippoRnnConfig::legs(3, 2, 4);
    let mut map = WeightMap::new(stored(&config, &weights(&config)), Device::flex());
    let cell = HippoRnn::read(config, &mut map).expect("the weights fit");
    let input: Tensor<3> = Tensor::from_data(data(&input(&config), &config), &Device::flex());
    let chain = Chain::default();
    // The second sequence has read nothing when the first has read four tokens.
    let alone = |row: usize| input.clone().narrow(0, row, 1);
    let mut first = cell.start(0, 1, &chain, &Device::flex());
    let expected = run(&cell, &alone(0), &mut first, &[TIME], None).expect("it fits");
    let mut ahead = cell.start(0, 1, &chain, &Device::flex());
    run(&cell, &alone(0).narrow(1, 0, 4), &mut ahead, &[4], None).expect("it fits");
    let behind = cell.start(0, 1, &chain, &Device::flex());
    let mut both = MixerState::cat(&[&ahead, &behind]).expect("of one cell");
    let rest = Tensor::cat(vec![alone(0).narrow(1, 4, 3), alone(1).narrow(1, 0, 3)], 0);
    let mut shared = spillway_ssm_core::Shared::default();
    let mut context = spillway_ssm_core::Context {
        chain: &chain,
        layer: 0,
        chunking: spillway_ssm_core::Chunking::Fastest,
        positions: &[4, 0],
        lengths: None,
        prefix: None,
        shared: &mut shared,
    };
    let found = cell.forward(rest, &mut both, &mut context).expect("it fits");
    let expected: Vec<f64> = values(expected.narrow(1, 4, 3))
        .iter()
        .map(|x| f64::from(*x))
        .collect();
    close("the one ahead", &values(found.narrow(0, 0, 1)), &expected, 2e-6);
}

#[test]
fn cells_that_cannot_be_are_refused() {
    let legs = HippoRnnConfig::legs(3, 2, 4);
    let weighed = |step| HippoRnnConfig {
        remembered: Remembered::Weighed {
            measure: Measure::Legt,
            step,
        },
        ..legs
    };
    for config in [
        HippoRnnConfig { order: 0, ..legs },
        HippoRnnConfig {
            rule: Discretisation::Mixed,
            ..legs
        },
        weighed(0.0),
        weighed(f64::NAN),
    ] {
        let mut map = WeightMap::new(stored(&legs, &weights(&legs)), Device::flex());
        let error = HippoRnn::read(config, &mut map)
            .expect_err("no such cell")
            .to_string();
        assert!(error.contains("HiPPO-RNN cell"), "{error}");
    }
}
