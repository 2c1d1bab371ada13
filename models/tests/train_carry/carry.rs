//! States from batch to batch: one long text, unrelated texts, resets, and what is on disk.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use spillway_mitigations::Mitigation;
use spillway_models::train::carry::{Backpropagation, Initial};
use spillway_models::train::{Batch, Carry, CarryConfig};
use spillway_models::{Model, ModelError, ModelState};
use spillway_ssm_core::MixerState;

use super::support::{attends, batches, contents, ids, model, models, new, relative_error, row, start, step};

/// What splitting a text may change: chunks and matrix products of other sizes are summed in another order.
const REORDERED: f64 = 2e-5;

fn carrying() -> CarryConfig {
    CarryConfig {
        carry: true,
        ..CarryConfig::default()
    }
}

/// The carry after `count` batches of a text, and the batch that comes next.
fn under_way(model: &Model, config: &CarryConfig, sequences: usize, count: usize) -> (Carry, Batch) {
    let mut all = batches(3, count + 1, sequences, 9);
    let next = all.pop().unwrap();
    let mut carry = new(config, 11, model);
    for (index, batch) in all.iter().enumerate() {
        step(model, &mut carry, batch, index as u64);
    }
    (carry, next)
}

#[test]
fn batches_that_go_on_are_one_long_text() {
    for (name, model) in models() {
        let all = batches(1, 4, 2, 13);
        let config = CarryConfig {
            restart_documents: true,
            segment: Some(5),
            backpropagation: Backpropagation::Truncated,
            ..carrying()
        };
        let mut carry = new(&config, 0, model);
        let mut found = [Vec::new(), Vec::new()];
        for (index, batch) in all.iter().enumerate() {
            let losses = step(model, &mut carry, batch, index as u64);
            found
                .iter_mut()
                .zip(losses.chunks(13))
                .for_each(|(row, losses)| row.extend_from_slice(losses));
        }
        for (row, found) in found.iter().enumerate() {
            let piece = |of: fn(&Batch) -> &[u32]| {
                let pieces = all.iter().map(|batch| of(batch)[row * 13..][..13].to_vec());
                pieces.collect::<Vec<_>>().concat()
            };
            let (ids, targets) = (piece(|batch| &batch.ids), piece(|batch| &batch.targets));
            let expected = model.losses(&ids, &targets, &mut start(model, 1)).unwrap();
            let error = relative_error(found, &expected);
            assert!(error < REORDERED, "{name}, sequence {row}: {error:e}");
        }
    }
}

#[test]
fn without_carrying_every_batch_starts_from_the_empty_state() {
    for (name, model) in models() {
        let (carry, next) = under_way(model, &CarryConfig::default(), 2, 2);
        let fresh = start(model, 2);
        let found = carry.begin(fresh.clone(), &next, 2).unwrap();
        assert!(contents(&found) == contents(&fresh), "{name}");
        assert!(carry.save().is_empty());
    }
}

/// Whether the second row of `found` is the fresh one in caches of attention, and that of `last` in everything else.
fn recurrent_of_last(found: &MixerState, last: &MixerState, fresh: &MixerState) -> bool {
    let of = |state: &MixerState| state.select(&[1]).unwrap().save();
    match (found, last, fresh) {
        (MixerState::Several(found), MixerState::Several(last), MixerState::Several(fresh)) => {
            let mut parts = found.iter().zip(last).zip(fresh);
            parts.all(|((found, last), fresh)| recurrent_of_last(found, last, fresh))
        }
        (MixerState::Attention(_), _, fresh) => of(found) == of(fresh),
        _ => of(found) == of(last),
    }
}

#[test]
fn another_text_takes_up_the_recurrent_state_but_no_keys_and_values() {
    for (name, model) in models() {
        let (carry, mut next) = under_way(model, &carrying(), 2, 2);
        let last = carry.begin(start(model, 2), &next, 2).unwrap();
        assert_eq!(last.positions(), [18, 18], "{name}");
        next.continues = vec![true, false];
        let found = carry.begin(start(model, 2), &next, 2).unwrap();
        assert!(row(&found, 0) == row(&last, 0), "{name}: the row that goes on");
        assert_eq!(found.positions(), [18, 0], "{name}");
        let fresh = start(model, 2);
        for (layer, state) in found.layers.iter().enumerate() {
            let parts = [
                (
                    &state.mixer,
                    &last.layers[layer].mixer,
                    &fresh.layers[layer].mixer,
                ),
                (
                    &state.channel,
                    &last.layers[layer].channel,
                    &fresh.layers[layer].channel,
                ),
            ];
            for (found, last, fresh) in parts {
                assert!(recurrent_of_last(found, last, fresh), "{name}, layer {layer}");
            }
        }
        let caches = found.layers.iter().filter(|layer| layer.mixer.attends());
        assert_eq!(caches.count() > 0, attends(name), "{name}");
    }
}

#[test]
fn a_row_that_starts_anew_is_the_fresh_row_and_others_stay() {
    for (name, model) in models() {
        let (carry, mut next) = under_way(model, &carrying(), 3, 2);
        let carried = carry.begin(start(model, 3), &next, 2).unwrap();
        let fresh = start(model, 3);
        assert!(row(&carried, 1) != row(&fresh, 1), "{name}: nothing was carried");

        let config = CarryConfig {
            restart_documents: true,
            ..carrying()
        };
        let (carry, _) = under_way(model, &config, 3, 2);
        next.continues = vec![true, false, true];
        let found = carry.begin(fresh.clone(), &next, 2).unwrap();
        for b in 0..3 {
            let expected = if b == 1 { &fresh } else { &carried };
            assert!(row(&found, b) == row(expected, b), "{name}, row {b}");
        }
    }
}

#[test]
fn resets_hit_some_rows_and_leave_the_others() {
    for (name, model) in models() {
        let at = |probability| CarryConfig {
            reset_probability: probability,
            ..carrying()
        };
        let rows = 6;
        let (carry, next) = under_way(model, &carrying(), rows, 1);
        let saved = carry.save();
        let with = |probability| {
            let mut carry = new(&at(probability), 11, model);
            carry.restore(&saved, start(model, rows)).unwrap();
            carry
        };
        let fresh = start(model, rows);
        let carried = carry.begin(fresh.clone(), &next, 1).unwrap();
        let all = with(1.0).begin(fresh.clone(), &next, 1).unwrap();
        assert!(contents(&all) == contents(&fresh), "{name}: probability 1");
        let half = with(0.5);
        let mut reset = 0;
        for index in 1..5 {
            let found = half.begin(fresh.clone(), &next, index).unwrap();
            for b in 0..rows {
                let [is_fresh, is_carried] = [&fresh, &carried].map(|state| row(&found, b) == row(state, b));
                assert!(
                    is_fresh != is_carried,
                    "{name}, row {b}: neither the one nor the other"
                );
                reset += usize::from(is_fresh);
            }
        }
        assert!(
            (4..=20).contains(&reset),
            "{name}: {reset} of 24 at probability 1/2"
        );
    }
}

#[test]
fn resets_come_as_often_as_configured_and_follow_seed_and_batch() {
    let model = model("mamba2 tiny");
    let (rows, count, p) = (50, 20, 0.2);
    let config = CarryConfig {
        reset_probability: p,
        initial: Initial::Noise { deviation: 1.0 },
        ..CarryConfig::default()
    };
    let batch = batches(0, 1, rows, 1).remove(0);
    let fresh = row(&start(model, 1), 0);
    let resets = |seed: u64| -> Vec<bool> {
        let carry = new(&config, seed, model);
        let states = (0..count).map(|index| carry.begin(start(model, rows), &batch, index).unwrap());
        states
            .flat_map(|state| (0..rows).map(|b| row(&state, b) == fresh).collect::<Vec<_>>())
            .collect()
    };
    let found = resets(1);
    let (hits, n) = (
        found.iter().filter(|reset| **reset).count() as f64,
        found.len() as f64,
    );
    // Five standard deviations of a binomial distribution.
    assert!(
        (hits - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt(),
        "{hits} of {n}"
    );
    assert_eq!(found, resets(1));
    assert_ne!(found, resets(2));
    assert_ne!(found[..rows], found[rows..2 * rows]);
}

#[test]
fn a_restored_carry_goes_on_to_the_bit() {
    let config = CarryConfig {
        segment: Some(4),
        initial: Initial::Fitted { momentum: 0.9 },
        reset_probability: 0.3,
        ..carrying()
    };
    for (name, model) in models() {
        let all = batches(7, 6, 3, 9);
        let mut first = new(&config, 2, model);
        for (index, batch) in all[..3].iter().enumerate() {
            step(model, &mut first, batch, index as u64);
        }
        let saved = first.save();
        let mut second = new(&config, 2, model);
        second.restore(&saved, start(model, 3)).unwrap();
        assert!(second.save() == saved, "{name}: saved once more");
        for (index, batch) in all.iter().enumerate().skip(3) {
            let [a, b] = [&mut first, &mut second].map(|carry| {
                let losses = step(model, carry, batch, index as u64);
                losses.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert!(a == b, "{name}: losses of batch {index}");
            assert!(
                first.save() == second.save(),
                "{name}: states after batch {index}"
            );
        }
    }
}

#[test]
fn a_carry_that_has_seen_nothing_is_restored_as_such() {
    let model = model("gla tiny");
    let config = CarryConfig {
        initial: Initial::Fitted { momentum: 0.5 },
        ..carrying()
    };
    let untouched = new(&config, 0, model);
    let (mut used, next) = under_way(model, &config, 2, 2);
    used.restore(&untouched.save(), start(model, 2)).unwrap();
    let fresh = start(model, 2);
    let found = used.begin(fresh.clone(), &next, 2).unwrap();
    assert!(contents(&found) == contents(&fresh));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let model = model("mamba2 tiny-hybrid");
    let config = CarryConfig {
        initial: Initial::Fitted { momentum: 0.5 },
        ..carrying()
    };
    let (carry, next) = under_way(model, &config, 2, 1);
    let saved = carry.save();
    let refusal = |saved: &BTreeMap<String, TensorData>, sequences: usize| -> String {
        let mut carry = new(&config, 0, model);
        carry
            .restore(saved, start(model, sequences))
            .unwrap_err()
            .to_string()
    };
    assert!(refusal(&saved, 3).contains("state.positions"));
    for name in saved.keys().filter(|name| *name != "state.positions") {
        let mut less = saved.clone();
        less.remove(name);
        let last = name.rsplit('.').next().unwrap();
        let found = refusal(&less, 2);
        assert!(
            found.contains(last) && found.contains("nothing"),
            "{name}: {found}"
        );
    }

    let rows = carry.begin(start(model, 3), &next, 1).unwrap_err();
    assert!(matches!(rows, ModelError::Batch { .. }), "{rows}");
    let mut more = batches(0, 1, 3, 4).remove(0);
    let rows = carry.begin(start(model, 3), &more, 1).unwrap_err();
    assert!(rows.to_string().contains("carried state"), "{rows}");
    more.continues.pop();
    assert!(matches!(
        carry.begin(start(model, 3), &more, 1),
        Err(ModelError::Batch { .. })
    ));
}

#[test]
fn states_with_interventions_that_remember_are_refused() {
    let model = model("mamba2 tiny");
    let chain = "window:4".parse::<Mitigation>().unwrap().chain();
    let state = model.start(&chain, 1).unwrap();
    let found = state.clone().detach().unwrap_err().to_string();
    assert!(found.contains("interventions"), "{found}");
    assert!(new(&carrying(), 0, model).end(state).is_err());
    // One that remembers nothing is no hindrance.
    let chain = "forget:0.9".parse::<Mitigation>().unwrap().chain();
    assert!(model.start(&chain, 1).unwrap().detach().is_ok());
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let good = CarryConfig::default();
    let bad = [
        (
            "segment",
            CarryConfig {
                segment: Some(0),
                ..good.clone()
            },
        ),
        (
            "reset_probability",
            CarryConfig {
                reset_probability: 1.5,
                ..good.clone()
            },
        ),
        (
            "reset_probability",
            CarryConfig {
                reset_probability: f64::NAN,
                ..good.clone()
            },
        ),
        (
            "deviation",
            CarryConfig {
                initial: Initial::Noise { deviation: -1.0 },
                ..good.clone()
            },
        ),
        (
            "momentum",
            CarryConfig {
                initial: Initial::Fitted { momentum: 1.0 },
                ..good.clone()
            },
        ),
    ];
    for (name, config) in bad {
        let found = Carry::new(&config, 0, &[]).unwrap_err().to_string();
        assert!(found.contains(name), "{found}");
    }
    for text in [
        "segments = 3",
        "initial = { kind = \"noise\" }",
        "backpropagation = \"none\"",
    ] {
        assert!(toml::from_str::<CarryConfig>(text).is_err(), "{text}");
    }
    let text = "carry = true\ninitial = { kind = \"fitted\" }\nbackpropagation = \"truncated\"";
    let config: CarryConfig = toml::from_str(text).unwrap();
    assert_eq!(config.initial, Initial::Fitted { momentum: 0.9 });
    let again: CarryConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
}

/// Every layer's state by choice of rows, against the rows themselves.
#[test]
fn chosen_rows_are_those_of_the_states_they_were_taken_from() {
    for (name, model) in models() {
        let after = |seed: u64, time: usize| -> ModelState {
            let mut state = start(model, 3);
            model.advance(&ids(seed, 3 * time), &mut state).unwrap();
            state
        };
        let (first, second) = (after(1, 7), after(2, 4));
        let mask = [true, false, true];
        for (a, b) in first.layers.iter().zip(&second.layers) {
            for (a, b) in [(&a.mixer, &b.mixer), (&a.channel, &b.channel)] {
                let found = MixerState::choose(&mask, a, b).unwrap();
                for (index, of_first) in mask.into_iter().enumerate() {
                    let expected = if of_first { a } else { b };
                    let of = |state: &MixerState| state.select(&[index]).unwrap().save();
                    assert!(of(&found) == of(expected), "{name}, row {index}");
                }
                let stateless = matches!(a, MixerState::Stateless);
                assert_eq!(
                    MixerState::choose(&mask[..2], a, b).is_err(),
                    !stateless,
                    "{name}"
                );
            }
        }
    }
}
