//! Gates of every kind of recurrence.

use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_ssm_core::{Erase, Gates, LogDecay, ReadOut, Rule, State};

/// Numbers from −1 to 1, the same for the same seed.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-1.0f32..1.0)).collect()
}

/// A state before the first token; of a mean, one that has seen something.
pub fn initial_state(gates: &Gates) -> State {
    let shape = gates.state_shape(BATCH);
    let mut values = numbers(77, shape.iter().product());
    if gates.rule() == Rule::Mean {
        let denominators = values.iter_mut().skip(1).step_by(3);
        denominators.for_each(|denominator| *denominator = 0.5 + denominator.abs());
    }
    State {
        memory: Tensor::from_data(TensorData::new(values, shape), &Device::flex()),
        position: 9,
    }
}

const BATCH: usize = 2;
const HEADS: usize = 2;
const KEYS: usize = 4;
const VALUES: usize = 3;

/// Gates of `time` tokens of every kind of recurrence, by name.
pub fn all_gates(time: usize, seed: u64) -> Vec<(&'static str, Gates)> {
    let device = Device::flex();
    let mut next = seed;
    let mut tensor = |shape: [usize; 4]| {
        next += 1;
        let values = numbers(next, shape.iter().product());
        Tensor::<4>::from_data(TensorData::new(values, shape), &device)
    };
    let mut base = |keys: usize, values: usize| {
        let [query, key] = [0, 1].map(|_| tensor([BATCH, time, HEADS, keys]));
        Gates {
            scale: 0.5,
            ..Gates::new(query, key * 0.5, tensor([BATCH, time, HEADS, values]))
        }
    };
    let gates = [(); 8].map(|()| base(KEYS, VALUES));
    let mean = base(1, 1);
    let one_column = base(KEYS, 1);
    let negative = |tensor: Tensor<4>| tensor.abs() * -0.3;
    let of_heads = |tensor: Tensor<4>| tensor.narrow(3, 0, 1).squeeze_dim::<3>(3);
    let constant = |values: &[f32]| Tensor::<1>::from_floats(values, &device);
    let per_key = |seed: u64| {
        let values = numbers(seed, HEADS * KEYS)
            .into_iter()
            .map(|value| -0.3 * value.abs());
        Tensor::<2>::from_data(
            TensorData::new(values.collect::<Vec<_>>(), [HEADS, KEYS]),
            &device,
        )
    };
    let [none, head, head_token, key_token, bonus, delta, low_rank, groups] = gates;
    let decays = negative(head_token.key.clone());
    let beta = of_heads(delta.query.clone()).abs();
    vec![
        ("no decay", none),
        (
            "a decay per head",
            Gates {
                log_decay: LogDecay::PerHead(constant(&[-0.1, -0.02])),
                ..head
            },
        ),
        (
            "a decay per head and token",
            Gates {
                log_decay: LogDecay::PerHeadToken(of_heads(decays.clone())),
                ..head_token
            },
        ),
        (
            "a decay per key row and token",
            Gates {
                log_decay: LogDecay::PerKeyToken(decays.clone()),
                ..key_token
            },
        ),
        (
            "a bonus",
            Gates {
                log_decay: LogDecay::PerKeyToken(decays.clone()),
                read_out: ReadOut::Bonus(Tensor::ones([HEADS, KEYS], &device)),
                ..bonus
            },
        ),
        (
            "a delta rule",
            Gates {
                erase: Erase::Delta(beta),
                log_decay: LogDecay::PerHeadToken(of_heads(decays.clone())),
                ..delta
            },
        ),
        (
            "low-rank transitions",
            Gates {
                erase: Erase::LowRank {
                    p: low_rank.key.clone(),
                    b: low_rank.key.clone() * -0.5,
                },
                log_decay: LogDecay::PerKeyToken(decays),
                ..low_rank
            },
        ),
        (
            "a constant decay per key row, queries and keys of one group",
            Gates {
                query: groups.query.narrow(2, 0, 1),
                key: groups.key.narrow(2, 0, 1),
                log_decay: LogDecay::PerKey(per_key(seed + 1000)),
                ..groups
            },
        ),
        (
            "a decay of the step size, and a skip",
            Gates {
                log_decay: LogDecay::PerStep(per_key(seed + 1001)),
                step_size: Some(of_heads(one_column.query.clone()).abs()),
                skip: Some(constant(&[0.5, -0.7])),
                ..one_column
            },
        ),
        (
            "a mean",
            Gates {
                scale: 1.0,
                log_decay: LogDecay::PerHead(constant(&[-0.1, -0.5])),
                read_out: ReadOut::Mean(constant(&[0.3, 0.1])),
                ..mean
            },
        ),
    ]
}
