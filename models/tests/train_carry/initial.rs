//! What sequences start from: noise, and noise fitted to final states.

use burn::tensor::{Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use spillway_models::train::carry::Initial;
use spillway_models::train::{Carry, CarryConfig};
use spillway_models::{Model, ModelState};
use spillway_ssm_core::{Rule, Site};

use super::support::{batches, contents, model, models, new, row, start};

fn starting_with(initial: Initial) -> CarryConfig {
    CarryConfig {
        initial,
        ..CarryConfig::default()
    }
}

/// The state that `rows` sequences start from.
fn begun(carry: &Carry, model: &Model, rows: usize, index: u64) -> ModelState {
    let batch = batches(0, 1, rows, 1).remove(0);
    carry.begin(start(model, rows), &batch, index).unwrap()
}

/// The values of one head of one recurrence, or its mean N/M and its logarithm of the weight, over all sequences.
fn quantities(site: &Site, memory: &Tensor<4>, head: usize) -> Vec<Vec<f64>> {
    let values: Vec<f64> = memory
        .clone()
        .narrow(1, head, 1)
        .into_data()
        .iter::<f64>()
        .collect();
    match site.rule {
        Rule::WeightedSum | Rule::Delta => vec![values],
        Rule::Mean => {
            let states = values.chunks(3);
            let states = states.map(|state| (state[0] / state[1], state[2] + state[1].ln()));
            let (means, weights) = states.unzip();
            vec![means, weights]
        }
    }
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// Five standard errors of mean and deviation of `n` normal numbers.
fn expect_normal(values: &[f64], mean: f64, deviation: f64, what: &str) {
    let n = values.len() as f64;
    let found = mean_and_deviation(values);
    assert!(
        (found.0 - mean).abs() <= 5.0 * deviation / n.sqrt() + 1e-6,
        "{what}: mean {} for {mean}",
        found.0
    );
    let bound = 5.0 * deviation / (2.0 * n).sqrt() + 1e-6;
    assert!(
        (found.1 - deviation).abs() <= bound,
        "{what}: deviation {} for {deviation}",
        found.1
    );
}

/// A state of `rows` sequences after one token, whose recurrences hold what `value` gives for site, head and quantity. The sums
/// of means have weight 1.
fn holding(model: &Model, rows: usize, mut value: impl FnMut(usize, usize, usize) -> f64) -> ModelState {
    let mut state = start(model, rows);
    model.advance(&vec![1; rows], &mut state).unwrap();
    for (number, (site, recurrence)) in model.info().sites.iter().zip(state.recurrences_mut()).enumerate() {
        let dims = site.state_shape(rows);
        let mut values = Vec::with_capacity(dims.iter().product());
        for _ in 0..rows {
            for head in 0..site.heads {
                match site.rule {
                    Rule::WeightedSum | Rule::Delta => {
                        let count = site.key_dim * site.value_dim;
                        values.extend((0..count).map(|_| value(number, head, 0) as f32));
                    }
                    Rule::Mean => {
                        values.extend([value(number, head, 0) as f32, 1.0, value(number, head, 1) as f32]);
                    }
                }
            }
        }
        let device = recurrence.state.memory.device();
        recurrence.state.memory = Tensor::from_data(TensorData::new(values, dims), &device);
    }
    state
}

/// Distinct for every head, and short in binary.
fn mean_of(site: usize, head: usize, quantity: usize) -> f64 {
    0.25 * ((3 * site + 5 * head + 7 * quantity) % 16) as f64 - 2.0
}

#[test]
fn noise_has_the_deviation_asked_for_in_every_layer() {
    for (name, model) in models() {
        let carry = new(&starting_with(Initial::Noise { deviation: 0.3 }), 4, model);
        let state = begun(&carry, model, 64, 0);
        let fresh = start(model, 64);
        for (number, (site, recurrence)) in model.info().sites.iter().zip(state.recurrences()).enumerate() {
            let all = (0..site.heads).map(|head| quantities(site, &recurrence.state.memory, head));
            let all: Vec<_> = all.collect();
            let values: Vec<f64> = all.iter().flat_map(|of_head| of_head[0].clone()).collect();
            expect_normal(&values, 0.0, 0.3, &format!("{name}, site {number}"));
            if site.rule == Rule::Mean {
                let weights = all.iter().flat_map(|of_head| of_head[1].clone());
                assert!(
                    weights.clone().all(|weight| weight == 0.0),
                    "{name}: one token with key 0"
                );
            }
        }
        for (layer, (state, fresh)) in state.layers.iter().zip(&fresh.layers).enumerate() {
            let others = |state: &spillway_models::LayerState| -> Vec<_> {
                let saved = state.mixer.save().into_iter().chain(state.channel.save());
                saved.filter(|(name, _)| !name.contains("recurrences")).collect()
            };
            assert!(
                others(state) == others(fresh),
                "{name}, layer {layer}: taps and caches are empty"
            );
        }
    }
}

#[test]
fn a_row_is_drawn_by_seed_batch_and_row_alone() {
    let model = model("delta_net tiny");
    let config = starting_with(Initial::Noise { deviation: 1.0 });
    let (a, b) = (new(&config, 1, model), new(&config, 1, model));
    let state = begun(&a, model, 3, 5);
    assert!(contents(&state) == contents(&begun(&b, model, 3, 5)));
    // Neither the number of rows nor what came before matters.
    let more = begun(&b, model, 4, 5);
    assert!((0..3).all(|index| row(&state, index) == row(&more, index)));
    assert!(row(&state, 0) != row(&state, 1), "rows are drawn apart");
    assert!(
        row(&state, 0) != row(&begun(&a, model, 3, 6), 0),
        "batches are drawn apart"
    );
    assert!(
        row(&state, 0) != row(&begun(&new(&config, 2, model), model, 3, 5), 0),
        "and seeds"
    );
}

#[test]
fn nothing_is_drawn_before_anything_is_fitted() {
    for (name, model) in models() {
        let carry = new(&starting_with(Initial::Fitted { momentum: 0.9 }), 4, model);
        assert!(
            contents(&begun(&carry, model, 2, 0)) == contents(&start(model, 2)),
            "{name}"
        );
    }
}

#[test]
fn fitted_noise_has_the_mean_and_deviation_of_final_states_head_by_head() {
    let deviation = |site: usize, head: usize| 0.1 + 0.05 * ((site + head) % 5) as f64;
    for (name, model) in models() {
        let mut carry = new(&starting_with(Initial::Fitted { momentum: 0.5 }), 4, model);
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..8 {
            let state = holding(model, 64, |site, head, quantity| {
                mean_of(site, head, quantity)
                    + deviation(site, head) * random.sample::<f64, _>(StandardNormal)
            });
            carry.end(state).unwrap();
        }
        let state = begun(&carry, model, 512, 9);
        for (number, (site, recurrence)) in model.info().sites.iter().zip(state.recurrences()).enumerate() {
            // Of RWKV-4's heads, which are channels, a few will do.
            for head in (0..site.heads).step_by(site.heads.div_ceil(8)) {
                let found = quantities(site, &recurrence.state.memory, head);
                for (quantity, values) in found.iter().enumerate() {
                    let what = format!("{name}, site {number}, head {head}, quantity {quantity}");
                    let (mean, deviation) = (mean_of(number, head, quantity), deviation(number, head));
                    let per_row = values.len() / 512;
                    // The moments were measured on about three batches' worth of 64 rows, and are measured again on 512.
                    let n = (192 * per_row) as f64;
                    let found = mean_and_deviation(values);
                    let bound = 6.0 * deviation / n.sqrt();
                    assert!(
                        (found.0 - mean).abs() < bound,
                        "{what}: mean {} for {mean}",
                        found.0
                    );
                    assert!(
                        (found.1 - deviation).abs() < bound,
                        "{what}: {} for {deviation}",
                        found.1
                    );
                }
            }
        }
    }
}

#[test]
fn final_states_without_spread_are_reproduced() {
    for (name, model) in models() {
        let mut carry = new(&starting_with(Initial::Fitted { momentum: 0.75 }), 4, model);
        for _ in 0..3 {
            carry.end(holding(model, 4, mean_of)).unwrap();
        }
        let state = begun(&carry, model, 3, 3);
        for (number, (site, recurrence)) in model.info().sites.iter().zip(state.recurrences()).enumerate() {
            for head in 0..site.heads {
                let found = quantities(site, &recurrence.state.memory, head);
                for (quantity, values) in found.iter().enumerate() {
                    let mean = mean_of(number, head, quantity);
                    assert!(
                        values.iter().all(|value| *value == mean),
                        "{name}, site {number}, head {head}"
                    );
                }
            }
        }
    }
}

/// With momentum ½, the second of two batches weighs twice the first.
#[test]
fn moments_are_weighted_by_their_age() {
    let model = model("gla tiny");
    let mut carry = new(&starting_with(Initial::Fitted { momentum: 0.5 }), 4, model);
    let saved = |carry: &Carry, name: &str| carry.save()[name].iter::<f64>().collect::<Vec<_>>();
    carry.end(holding(model, 2, |_, _, _| 1.0)).unwrap();
    assert!(saved(&carry, "fitted.0.mean").iter().all(|mean| *mean == 1.0));
    carry.end(holding(model, 2, |_, _, _| 4.0)).unwrap();
    let near = |found: &[f64], expected: f64| found.iter().all(|value| (value - expected).abs() < 1e-12);
    assert!(near(&saved(&carry, "fitted.0.mean"), 3.0));
    // ⅓ · ⅔ · 3², between the batches; none within.
    assert!(near(&saved(&carry, "fitted.0.variance"), 2.0));
}

#[test]
fn a_final_state_that_is_not_finite_is_refused_and_changes_nothing() {
    let model = model("rwkv4 tiny");
    let mut carry = new(&starting_with(Initial::Fitted { momentum: 0.5 }), 4, model);
    carry.end(holding(model, 2, mean_of)).unwrap();
    let before = carry.save();
    let bad = holding(model, 2, |site, _, _| if site == 1 { f64::NAN } else { 0.0 });
    let found = carry.end(bad).unwrap_err().to_string();
    assert!(found.contains("layer 1") && found.contains("finite"), "{found}");
    assert!(carry.save() == before);
}
