//! Mixtures of experts against a loop over tokens and experts in f64, for every way of choosing and weighting.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::mixture::{
    Expert, ExpertTensors, Mixture, MixtureConfig, RouterConfig, Scores,
};
use spillway_ssm_core::{Error, WeightMap, WeightSource};

const WIDTH: usize = 6;
const HIDDEN: usize = 5;
const EXPERTS: usize = 8;

/// Numbers in ±1 that do not repeat.
fn numbers(salt: u64, count: usize) -> Vec<f32> {
    let number = |i: u64| {
        let word = (i + 1 + salt * 1009).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((word >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    (0..count as u64).map(number).collect()
}

struct Weights {
    router: Vec<f32>,
    bias: Vec<f32>,
    /// Of all experts, one after another: rows of the gate, then of the values; and back.
    gate_up: Vec<f32>,
    down: Vec<f32>,
}

fn weights() -> Weights {
    Weights {
        router: numbers(1, EXPERTS * WIDTH),
        bias: numbers(2, EXPERTS),
        gate_up: numbers(3, EXPERTS * 2 * HIDDEN * WIDTH),
        down: numbers(4, EXPERTS * WIDTH * HIDDEN),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn product(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks_exact(x.len());
    rows.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
        .collect()
}

impl Weights {
    fn expert(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        let both = product(
            &self.gate_up[expert * 2 * HIDDEN * WIDTH..][..2 * HIDDEN * WIDTH],
            x,
        );
        let (gate, up) = both.split_at(HIDDEN);
        let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect();
        product(&self.down[expert * WIDTH * HIDDEN..][..WIDTH * HIDDEN], &hidden)
    }

    /// What one token is, by the definition.
    fn output(&self, config: &RouterConfig, x: &[f64]) -> Vec<f64> {
        let logits = product(&self.router, x);
        let exps: Vec<f64> = logits.iter().map(|l| l.exp()).collect();
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        let (chosen, weight): (Vec<usize>, Vec<f64>) = match config.scores {
            Scores::SoftmaxOfAll | Scores::SoftmaxOfChosen => {
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                order.truncate(config.chosen);
                let among: Vec<usize> = match config.scores {
                    Scores::SoftmaxOfAll => (0..EXPERTS).collect(),
                    _ => order.clone(),
                };
                let sum: f64 = among.iter().map(|e| exps[*e]).sum();
                let weights = order.iter().map(|e| exps[*e] / sum).collect();
                (order, weights)
            }
            Scores::Sigmoid {
                groups,
                chosen_groups,
                normalized,
                factor,
            } => {
                let scores: Vec<f64> = logits.iter().map(|l| sigmoid(*l)).collect();
                let biased: Vec<f64> = scores
                    .iter()
                    .zip(&self.bias)
                    .map(|(s, b)| s + f64::from(*b))
                    .collect();
                let size = EXPERTS / groups;
                let mut worth: Vec<(f64, usize)> = (0..groups)
                    .map(|group| {
                        let mut own = biased[group * size..][..size].to_vec();
                        own.sort_by(|a, b| b.total_cmp(a));
                        (own.iter().take(2).sum(), group)
                    })
                    .collect();
                worth.sort_by(|a, b| b.0.total_cmp(&a.0));
                let best: Vec<usize> = worth[..chosen_groups].iter().map(|(_, group)| *group).collect();
                order.retain(|expert| best.contains(&(expert / size)));
                order.sort_by(|a, b| biased[*b].total_cmp(&biased[*a]));
                order.truncate(config.chosen);
                let sum: f64 = match normalized {
                    true => order.iter().map(|e| scores[*e]).sum(),
                    false => 1.0,
                };
                let weights = order
                    .iter()
                    .map(|e| f64::from(factor) * scores[*e] / sum)
                    .collect();
                (order, weights)
            }
        };
        let mut out = vec![0.0; WIDTH];
        for (expert, weight) in chosen.into_iter().zip(weight) {
            for (out, value) in out.iter_mut().zip(self.expert(expert, x)) {
                *out += weight * value;
            }
        }
        out
    }

    /// All tensors: those of experts in two, or each by itself.
    fn map(&self, joined: bool) -> WeightMap {
        let mut tensors = BTreeMap::from([
            (
                "router.weight".to_string(),
                TensorData::new(self.router.clone(), [EXPERTS, WIDTH]),
            ),
            (
                "router.bias".to_string(),
                TensorData::new(self.bias.clone(), [EXPERTS]),
            ),
        ]);
        if joined {
            let gate_up = TensorData::new(self.gate_up.clone(), [EXPERTS, 2 * HIDDEN, WIDTH]);
            let down = TensorData::new(self.down.clone(), [EXPERTS, WIDTH, HIDDEN]);
            tensors.extend([("gate_up".to_string(), gate_up), ("down".to_string(), down)]);
            return WeightMap::new(tensors, Device::flex());
        }
        let of_gates = self.gate_up.chunks_exact(2 * HIDDEN * WIDTH);
        for (expert, (both, down)) in of_gates.zip(self.down.chunks_exact(WIDTH * HIDDEN)).enumerate() {
            let (gate, up) = both.split_at(HIDDEN * WIDTH);
            for (name, values, shape) in [
                ("w1", gate, [HIDDEN, WIDTH]),
                ("w3", up, [HIDDEN, WIDTH]),
                ("w2", down, [WIDTH, HIDDEN]),
            ] {
                tensors.insert(
                    format!("experts.{expert}.{name}.weight"),
                    TensorData::new(values.to_vec(), shape),
                );
            }
        }
        WeightMap::new(tensors, Device::flex())
    }
}

fn config(scores: Scores, chosen: usize, joined: bool) -> MixtureConfig {
    MixtureConfig {
        router: RouterConfig {
            model_dim: WIDTH,
            experts: EXPERTS,
            chosen,
            scores,
        },
        expert_dim: WIDTH,
        hidden_dim: HIDDEN,
        experts: match joined {
            true => ExpertTensors::Joined {
                gate_up: "gate_up",
                down: "down",
            },
            false => ExpertTensors::Gated(&[("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")]),
        },
    }
}

fn all_scores() -> Vec<Scores> {
    let sigmoid = |groups, chosen_groups, normalized| Scores::Sigmoid {
        groups,
        chosen_groups,
        normalized,
        factor: 2.5,
    };
    vec![
        Scores::SoftmaxOfAll,
        Scores::SoftmaxOfChosen,
        sigmoid(1, 1, true),
        sigmoid(1, 1, false),
        sigmoid(4, 2, true),
        sigmoid(8, 4, false),
    ]
}

fn values(tensor: Tensor<3>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - e));
    error / norm(&mut expected.iter().copied())
}

#[test]
fn every_way_of_choosing_is_its_definition_wherever_the_experts_are_stored() {
    let weights = weights();
    for scores in all_scores() {
        for chosen in [1, 2, 4] {
            for (joined, [batch, time]) in [(true, [2, 9]), (false, [1, 1]), (false, [3, 0])] {
                let config = config(scores, chosen, joined);
                let mixture = Mixture::read(config, &mut weights.map(joined)).unwrap();
                let input = numbers(7, batch * time * WIDTH);
                let tokens = input.chunks_exact(WIDTH);
                let expected: Vec<f64> = tokens
                    .flat_map(|x| {
                        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                        weights.output(&config.router, &x)
                    })
                    .collect();
                let data = TensorData::new(input.clone(), [batch, time, WIDTH]);
                let found = match input.is_empty() {
                    true => mixture.apply(Tensor::zeros([batch, 0, WIDTH], &Device::flex())),
                    false => mixture.apply(Tensor::from_data(data, &Device::flex())),
                };
                let found = values(found.unwrap());
                match expected.is_empty() {
                    true => assert!(found.is_empty()),
                    false => {
                        let error = relative_error(&found, &expected);
                        assert!(error < 1e-6, "{config:?}: {error:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_token_is_the_same_alone_and_among_others() {
    let weights = weights();
    for scores in all_scores() {
        let mixture = Mixture::read(config(scores, 2, true), &mut weights.map(true)).unwrap();
        let input = numbers(9, 11 * WIDTH);
        let apply = |values: &[f32]| {
            let shape = [1, values.len() / WIDTH, WIDTH];
            let data = TensorData::new(values.to_vec(), shape);
            let found = mixture.apply(Tensor::from_data(data, &Device::flex()));
            found.unwrap().into_data().iter::<f32>().collect::<Vec<_>>()
        };
        let all = apply(&input);
        for (token, expected) in input.chunks_exact(WIDTH).zip(all.chunks_exact(WIDTH)) {
            let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
            assert!(relative_error(&apply(token), &expected) < 1e-6);
        }
    }
}

#[test]
fn a_shared_expert_is_added_times_its_gate() {
    let weights = weights();
    let mlp = GatedMlpConfig {
        model_dim: WIDTH,
        hidden_dim: HIDDEN,
        up_gate_bias: false,
        down_bias: false,
    };
    let tensors = BTreeMap::from([
        (
            "up_proj.weight".to_string(),
            TensorData::new(numbers(20, HIDDEN * WIDTH), [HIDDEN, WIDTH]),
        ),
        (
            "gate_proj.weight".to_string(),
            TensorData::new(numbers(21, HIDDEN * WIDTH), [HIDDEN, WIDTH]),
        ),
        (
            "down_proj.weight".to_string(),
            TensorData::new(numbers(22, WIDTH * HIDDEN), [WIDTH, HIDDEN]),
        ),
        (
            "gate.weight".to_string(),
            TensorData::new(numbers(23, WIDTH), [1, WIDTH]),
        ),
    ]);
    let mut source = WeightMap::new(tensors, Device::flex());
    let shared = GatedMlp::read(mlp, &mut source).unwrap();
    let gate = source.linear("gate", [1, WIDTH], false).unwrap();
    let plain = Mixture::read(config(Scores::SoftmaxOfAll, 2, true), &mut weights.map(true)).unwrap();
    let input = Tensor::<3>::from_data(
        TensorData::new(numbers(24, 5 * WIDTH), [1, 5, WIDTH]),
        &Device::flex(),
    );
    let open = burn::tensor::activation::sigmoid(gate.forward(input.clone()).unwrap());
    let beside = shared.apply(input.clone()).unwrap();
    for gate in [None, Some(gate)] {
        let expected = match &gate {
            None => beside.clone(),
            Some(_) => beside.clone() * open.clone(),
        };
        let expected = values(expected + plain.apply(input.clone()).unwrap());
        let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
        let mixture = plain.clone().with_shared(Expert::Gated(shared.clone()), gate);
        let found = values(mixture.apply(input.clone()).unwrap());
        assert!(relative_error(&found, &expected) < 1e-6);
    }
}

#[test]
fn more_experts_than_there_are_cannot_be_chosen() {
    let wrong = [
        (Scores::SoftmaxOfAll, 9),
        (
            Scores::Sigmoid {
                groups: 4,
                chosen_groups: 1,
                normalized: true,
                factor: 1.0,
            },
            3,
        ),
        (
            Scores::Sigmoid {
                groups: 3,
                chosen_groups: 1,
                normalized: true,
                factor: 1.0,
            },
            2,
        ),
        (Scores::SoftmaxOfChosen, 0),
    ];
    for (scores, chosen) in wrong {
        let found = Mixture::read(config(scores, chosen, true), &mut weights().map(true));
        assert!(matches!(found, Err(Error::Value { .. })), "{scores:?}, {chosen}");
    }
}
