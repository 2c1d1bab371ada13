//! Random recurrences, and their gradients by the f64 definition.

use super::random::Values;
use proptest::prelude::*;
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::recurrence::{self as kernel, Cotangents, GradientBuffers};
use spillway_ssm_core::{Dims, Sequences};

/// A recurrence whose values are drawn from a seed, so that failures shrink over sizes only.
#[derive(Clone, Debug)]
pub struct Case {
    pub dims: Dims,
    pub decay: spillway_kernel_dsl::DecayKind,
    pub bonus: bool,
    pub step: bool,
    pub skip: Skip,
    /// Tokens of each sequence that are none, or which are its own in a packed row.
    pub layout: Layout,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    None,
    PerHead,
    PerValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Equal,
    LeftPadded,
    Packed,
}

pub const DECAYS: [spillway_kernel_dsl::DecayKind; 5] = [
    spillway_kernel_dsl::DecayKind::None,
    spillway_kernel_dsl::DecayKind::PerHead,
    spillway_kernel_dsl::DecayKind::PerKey,
    spillway_kernel_dsl::DecayKind::PerHeadToken,
    spillway_kernel_dsl::DecayKind::PerKeyToken,
];

pub fn case(longest: usize) -> impl Strategy<Value = Case> {
    let sizes = (1..3usize, 0..longest, 1..3usize, 1..3usize, 1..6usize, 1..6usize);
    let choices = (
        prop::sample::select(DECAYS.to_vec()),
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(vec![Skip::None, Skip::PerHead, Skip::PerValue]),
        prop::sample::select(vec![Layout::Equal, Layout::LeftPadded, Layout::Packed]),
        any::<u64>(),
    );
    (sizes, choices).prop_map(|(sizes, choices)| {
        let (batch, time, groups, per_group, key_dim, value_dim) = sizes;
        let (decay, bonus, step, skip, layout, seed) = choices;
        let dims = Dims {
            batch,
            time,
            heads: groups * per_group,
            groups,
            key_dim,
            value_dim,
        };
        Case {
            dims,
            decay,
            bonus,
            step,
            skip,
            layout,
            seed,
        }
    })
}

/// All values of a case as plain lists, and the sequences that it is made of.
#[derive(Clone)]
pub struct Data {
    pub problem: kernel::Problem,
    pub sequences: Sequences,
    /// Rows of the token tensors, `[batch of tensors, time]`.
    pub tokens: [usize; 2],
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    pub log_decay: Vec<f32>,
    pub step_size: Option<Vec<f32>>,
    pub bonus: Option<Vec<f32>>,
    pub skip: Option<Vec<f32>>,
    pub state: Vec<f32>,
    pub output_cotangent: Vec<f32>,
    pub state_cotangent: Vec<f32>,
}

pub const SCALE: f32 = 0.5;

impl Data {
    pub fn new(case: &Case) -> Self {
        let d = case.dims;
        let (sequences, tokens, time) = match case.layout {
            Layout::Equal => (Sequences::Equal, [d.batch, d.time], d.time),
            Layout::LeftPadded => {
                let padding: Vec<usize> = (0..d.batch).map(|b| d.time * b / 3).collect();
                (Sequences::left_padded(padding), [d.batch, d.time], d.time)
            }
            Layout::Packed => {
                // Sequences of different lengths, the first of them empty.
                let offsets: Vec<usize> = (0..=d.batch).map(|b| d.time * (b * b / 2)).collect();
                let rows = offsets[d.batch];
                (Sequences::packed(offsets), [1, rows], rows)
            }
        };
        let problem = kernel::Problem {
            batch: d.batch,
            time,
            heads: d.heads,
            groups: d.groups,
            key_dim: d.key_dim,
            value_dim: d.value_dim,
            decay: case.decay,
            read_out: match case.bonus {
                true => kernel::ReadOut::Bonus,
                false => kernel::ReadOut::Inclusive,
            },
        };
        let rows = tokens[0] * tokens[1];
        let per_token = d.heads * case.decay.values_per_head(d.key_dim);
        let decays = match case.decay {
            spillway_kernel_dsl::DecayKind::PerHeadToken | spillway_kernel_dsl::DecayKind::PerKeyToken => {
                rows * per_token
            }
            _ => per_token,
        };
        let mut v = Values(case.seed);
        let states = d.batch * d.heads * d.key_dim * d.value_dim;
        Self {
            problem,
            sequences,
            tokens,
            query: v.list(rows * d.groups * d.key_dim),
            key: v.list(rows * d.groups * d.key_dim),
            value: v.list(rows * d.heads * d.value_dim),
            log_decay: v.list(decays).iter().map(|a| -0.7 * a.abs()).collect(),
            step_size: case
                .step
                .then(|| v.list(rows * d.heads).iter().map(|s| s.abs()).collect()),
            bonus: case.bonus.then(|| v.list(d.heads * d.key_dim)),
            skip: match case.skip {
                Skip::None => None,
                Skip::PerHead => Some(v.list(d.heads)),
                Skip::PerValue => Some(v.list(d.heads * d.value_dim)),
            },
            state: v.list(states),
            output_cotangent: v.list(rows * d.heads * d.value_dim),
            state_cotangent: v.list(states),
        }
    }

    /// Sums of the sizes of the terms of every gradient, in the order of [`NAMES`]: the gradients with nothing negative to
    /// cancel.
    pub fn terms(&self) -> Vec<Option<Vec<f64>>> {
        let absolute = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<f32>>();
        let positive = Self {
            query: absolute(&self.query),
            key: absolute(&self.key),
            value: absolute(&self.value),
            bonus: self.bonus.as_deref().map(absolute),
            skip: self.skip.as_deref().map(absolute),
            state: absolute(&self.state),
            output_cotangent: absolute(&self.output_cotangent),
            state_cotangent: absolute(&self.state_cotangent),
            ..self.clone()
        };
        positive.reference()
    }

    /// Gradients by the f64 definition, in the order of [`NAMES`].
    pub fn reference(&self) -> Vec<Option<Vec<f64>>> {
        let p = &self.problem;
        let rows = self.tokens[0] * self.tokens[1];
        let view = |data, cols| Rows::contiguous(data, rows, cols).expect("a full buffer");
        let view_of_sequences = match &self.sequences {
            Sequences::Equal => spillway_kernel_dsl::Sequences::Equal,
            Sequences::LeftPadded(padding) => spillway_kernel_dsl::Sequences::LeftPadded(padding),
            Sequences::Packed(offsets) => spillway_kernel_dsl::Sequences::Packed(offsets),
        };
        let inputs = kernel::Inputs {
            query: view(&self.query, p.groups * p.key_dim),
            key: view(&self.key, p.groups * p.key_dim),
            value: view(&self.value, p.heads * p.value_dim),
            log_decay: match p.decay {
                spillway_kernel_dsl::DecayKind::None => spillway_kernel_dsl::LogDecay::None,
                spillway_kernel_dsl::DecayKind::PerHead | spillway_kernel_dsl::DecayKind::PerKey => {
                    spillway_kernel_dsl::LogDecay::Constant(&self.log_decay)
                }
                kind => spillway_kernel_dsl::LogDecay::Token(view(
                    &self.log_decay,
                    p.heads * kind.values_per_head(p.key_dim),
                )),
            },
            step_size: self.step_size.as_ref().map(|step| view(step, p.heads)),
            bonus: self.bonus.as_deref(),
            skip: self.skip.as_deref(),
            scale: SCALE,
            sequences: view_of_sequences,
        };
        let cotangents = Cotangents {
            out: view(&self.output_cotangent, p.heads * p.value_dim),
            state: Some(&self.state_cotangent),
        };
        let state: Vec<f64> = self.state.iter().map(|&h| f64::from(h)).collect();
        let mut found = GradientBuffers::<f64>::zeros(p, &inputs).expect("shapes that fit");
        kernel::reference::backward(p, &inputs, &state, &cotangents, &mut found.as_written())
            .expect("shapes that fit");
        vec![
            Some(found.query),
            Some(found.key),
            Some(found.value),
            match found.log_decay {
                spillway_kernel_dsl::LogDecay::None => None,
                spillway_kernel_dsl::LogDecay::Constant(values)
                | spillway_kernel_dsl::LogDecay::Token(values) => Some(values),
            },
            found.step_size,
            found.bonus,
            found.skip,
            Some(found.state),
        ]
    }
}

pub const NAMES: [&str; 8] = [
    "query",
    "key",
    "value",
    "log_decay",
    "step_size",
    "bonus",
    "skip",
    "state",
];
