//! Taylor attention with its inputs and cotangents, as tests draw it.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::taylor_attention::{self, Cotangents, Expansion, Inputs, Problem};

use super::layouts::{Layout, any_layout};
use super::support::differences::{compare, inner};

/// Attention, its inputs and the cotangents of what it gives.
#[derive(Clone, Debug)]
pub struct Attention {
    pub problem: Problem,
    pub layout: Layout,
    pub rows: usize,
    /// Values between the rows.
    pub gap: usize,
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    pub prefix_key: Vec<f32>,
    pub prefix_value: Vec<f32>,
    /// Rows of padding before each prefix.
    pub prefix_padding: Option<Vec<usize>>,
    pub log_decay: Option<Vec<f32>>,
    pub state: Vec<f32>,
    pub out_cotangent: Vec<f32>,
    pub state_cotangent: Option<Vec<f32>>,
}

/// `len` values of magnitude about `scale`.
pub fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-scale..scale)).collect()
}

impl Attention {
    pub fn new(problem: Problem, layout: Layout, gap: usize, by_state: bool, seed: u64) -> Self {
        let rows = layout.sequences().rows(problem.batch, problem.time);
        let (keys, values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
        let mut attention = Self {
            problem,
            layout,
            rows,
            gap,
            query: random(seed, rows * (keys + gap), 1.5),
            key: random(seed ^ 1, rows * (keys + gap), 1.5),
            value: random(seed ^ 2, rows * (values + gap), 1.0),
            prefix_key: random(seed ^ 8, problem.batch * problem.prefix * (keys + gap), 1.5),
            prefix_value: random(seed ^ 9, problem.batch * problem.prefix * (values + gap), 1.0),
            prefix_padding: None,
            log_decay: None,
            state: vec![0.0; problem.state_len()],
            out_cotangent: random(seed ^ 3, rows * values, 1.0),
            state_cotangent: by_state.then(|| random(seed ^ 4, problem.state_len(), 1.0)),
        };
        attention.state = attention.state_after_three_tokens(seed ^ 5);
        attention
    }

    /// With padding before every prefix.
    pub fn padded(self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let padding = (0..self.problem.batch).map(|_| rng.random_range(0..=self.problem.prefix));
        Self {
            prefix_padding: Some(padding.collect()),
            ..self
        }
    }

    /// With a numerator that forgets, every head at its own rate.
    pub fn decaying(self, seed: u64) -> Self {
        let decay = random(seed, self.problem.heads, 0.2);
        Self {
            log_decay: Some(decay.iter().map(|x| -x.abs()).collect()),
            ..self
        }
    }

    /// A state that tokens lead to: others have denominators of either sign.
    fn state_after_three_tokens(&self, seed: u64) -> Vec<f32> {
        let problem = Problem {
            time: 3,
            prefix: 0,
            ..self.problem
        };
        let rows = 3 * problem.batch;
        let (keys, values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
        let (key, value) = (
            random(seed, rows * keys, 1.5),
            random(seed ^ 1, rows * values, 1.0),
        );
        let keys = Rows::contiguous(&key, rows, keys).expect("whole rows");
        let inputs = Inputs {
            query: keys,
            key: keys,
            value: Rows::contiguous(&value, rows, values).expect("whole rows"),
            prefix_key: None,
            prefix_value: None,
            log_decay: None,
            sequences: Default::default(),
            prefix_padding: None,
        };
        let mut state = vec![0.0; problem.state_len()];
        taylor_attention::reference::attention(&problem, &inputs, &mut state).expect("valid");
        state.iter().map(|&s| s as f32).collect()
    }

    pub fn inputs(&self) -> Inputs<'_> {
        let view = |values, cols| Rows::new(values, self.rows, cols, cols + self.gap).expect("whole rows");
        let prefix = self.problem.batch * self.problem.prefix;
        let of_prefix = |values, cols| {
            let rows = Rows::new(values, prefix, cols, cols + self.gap);
            (self.problem.prefix > 0).then(|| rows.expect("whole rows"))
        };
        let Problem {
            heads,
            key_dim,
            value_dim,
            ..
        } = self.problem;
        Inputs {
            query: view(&self.query, heads * key_dim),
            key: view(&self.key, heads * key_dim),
            value: view(&self.value, heads * value_dim),
            prefix_key: of_prefix(&self.prefix_key, heads * key_dim),
            prefix_value: of_prefix(&self.prefix_value, heads * value_dim),
            log_decay: self.log_decay.as_deref(),
            sequences: self.layout.sequences(),
            prefix_padding: self.prefix_padding.as_deref().filter(|_| self.problem.prefix > 0),
        }
    }

    pub fn cotangents(&self) -> Cotangents<'_> {
        let cols = self.problem.heads * self.problem.value_dim;
        Cotangents {
            out: Rows::contiguous(&self.out_cotangent, self.rows, cols).expect("whole rows"),
            state: self.state_cotangent.as_deref(),
        }
    }

    /// Output and final state of the definition.
    pub fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let mut state: Vec<f64> = self.state.iter().map(|&s| f64::from(s)).collect();
        let out = taylor_attention::reference::attention(&self.problem, &self.inputs(), &mut state);
        (out.expect("valid"), state)
    }

    pub fn expected_gradients(&self) -> taylor_attention::reference::GradientsF64 {
        let state: Vec<f64> = self.state.iter().map(|&s| f64::from(s)).collect();
        let (inputs, cotangents) = (self.inputs(), self.cotangents());
        taylor_attention::reference::backward(&self.problem, &inputs, &state, &cotangents).expect("valid")
    }

    fn loss(&self) -> f64 {
        let (out, state) = self.expected();
        let of_state = self.state_cotangent.as_deref().map_or(0.0, |c| inner(c, &state));
        inner(&self.out_cotangent, &out) + of_state
    }

    /// Compares the definition's gradients with differences of its values. Needs inputs without gaps.
    pub fn check_definition(&self) -> Result<(), String> {
        assert_eq!(self.gap, 0, "gaps have no gradient");
        let gradients = self.expected_gradients();
        let mut moved = self.clone();
        compare("the query", &self.query, &gradients.query, |query| {
            moved.query = query.to_vec();
            moved.loss()
        })?;
        let mut moved = self.clone();
        compare("the key", &self.key, &gradients.key, |key| {
            moved.key = key.to_vec();
            moved.loss()
        })?;
        let mut moved = self.clone();
        compare("the value", &self.value, &gradients.value, |value| {
            moved.value = value.to_vec();
            moved.loss()
        })?;
        let mut moved = self.clone();
        compare(
            "the prefix's key",
            &self.prefix_key,
            &gradients.prefix_key,
            |key| {
                moved.prefix_key = key.to_vec();
                moved.loss()
            },
        )?;
        let mut moved = self.clone();
        compare(
            "the prefix's value",
            &self.prefix_value,
            &gradients.prefix_value,
            |value| {
                moved.prefix_value = value.to_vec();
                moved.loss()
            },
        )?;
        if let Some(log_decay) = &self.log_decay {
            let mut moved = self.clone();
            compare("the decay", log_decay, &gradients.log_decay, |log_decay| {
                moved.log_decay = Some(log_decay.to_vec());
                moved.loss()
            })?;
        }
        let mut moved = self.clone();
        compare("the state", &self.state, &gradients.state, |state| {
            moved.state = state.to_vec();
            moved.loss()
        })
    }
}

/// Attention of up to `time` tokens and sizes up to `dim`, half of them behind a prefix that may have padding; a quarter decays.
pub fn any_attention(time: usize, dim: usize, gap: usize) -> impl Strategy<Value = Attention> {
    let shape = (0..4_usize, 0..time, 1..4_usize, 1..dim, 1..dim);
    let choices = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        0..gap + 1,
        any::<u64>(),
    );
    let ahead = (any::<[bool; 4]>(), 0..time);
    (shape, choices, ahead)
        .prop_flat_map(|(shape, choices, ahead)| {
            (
                Just(shape),
                Just(choices),
                Just(ahead),
                any_layout(shape.0, shape.1),
            )
        })
        .prop_map(
            |(
                (batch, time, heads, key_dim, value_dim),
                (square, normalized, by_state, gap, seed),
                ([has_prefix, padded, decays, often], prefix),
                layout,
            )| {
                let problem = Problem {
                    batch,
                    time: layout.time(time),
                    prefix: if has_prefix { prefix } else { 0 },
                    heads,
                    key_dim,
                    value_dim,
                    scale: 1.0 / (key_dim as f32).sqrt(),
                    expansion: if square {
                        Expansion::Square
                    } else {
                        Expansion::Taylor
                    },
                    // Squares may all be small: ε keeps the quotient smooth.
                    normalizer: normalized.then_some(if square { 0.5 } else { 1e-6 }),
                };
                let attention = Attention::new(problem, layout, gap, by_state, seed);
                let attention = match padded {
                    true => attention.padded(seed ^ 10),
                    false => attention,
                };
                match decays && often {
                    true => attention.decaying(seed ^ 11),
                    false => attention,
                }
            },
        )
}
