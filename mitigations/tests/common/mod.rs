//! Random gates, chains run over them in pieces, and the f64 sums that the results are compared with.

#![allow(dead_code)] // Each test binary uses its part.

pub mod brute;
#[path = "../../../ssm-core/tests/support/random.rs"]
mod random;

use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
pub use random::Values;
use spillway_mitigations::Mitigation;
use spillway_ssm_core::{Chunking, Dims, Gates, LogDecay, ReadOut, Site, SiteState, State};

/// Sizes and choices of one recurrence; its numbers are drawn from a seed, so that failures shrink over sizes only.
#[derive(Clone, Debug)]
pub struct Case {
    pub dims: Dims,
    pub decay: usize,
    pub bonus: bool,
    pub step: bool,
    pub skip: bool,
    /// Some decays are e⁻⁶⁰ or 0.
    pub extreme: bool,
    pub chunking: Chunking,
    /// Lengths of the calls; the rest comes in one more.
    pub splits: Vec<usize>,
    pub seed: u64,
}

pub fn case() -> impl Strategy<Value = Case> {
    let sizes = (1..3usize, 0..80usize, 1..3usize, 1..3usize, 1..6usize, 1..6usize);
    let choices = (
        0..5usize,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
        any::<u64>(),
    );
    let chunking = prop_oneof![
        Just(Chunking::Fastest),
        Just(Chunking::Sequential),
        (1..20usize).prop_map(|chunk_size| Chunking::Chunked { chunk_size }),
        (1..20usize).prop_map(|chunk_size| Chunking::Scan { chunk_size }),
    ];
    let splits = prop_oneof![prop::collection::vec(0..30usize, 0..6), Just(vec![1; 80])];
    (sizes, choices, chunking, splits).prop_map(
        |((batch, time, groups, per_group, key_dim, value_dim), choices, chunking, splits)| {
            let (decay, bonus, step, skip, extreme, seed) = choices;
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
                extreme,
                chunking,
                splits,
                seed,
            }
        },
    )
}

impl Values {
    pub fn decay<const D: usize>(&mut self, shape: [usize; D], extreme: bool) -> Tensor<D> {
        let draw = |_| {
            let (size, kind) = (self.next().abs(), self.next());
            match extreme {
                true if kind > 0.95 => f32::NEG_INFINITY,
                true if kind > 0.9 => -60.0,
                _ => -0.5 * size * size,
            }
        };
        tensor((0..shape.iter().product()).map(draw).collect(), shape)
    }
}

pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

pub fn build(case: &Case) -> Gates {
    let d = case.dims;
    let mut values = Values(case.seed);
    Gates {
        query: values.tensor([d.batch, d.time, d.groups, d.key_dim]),
        key: values.tensor([d.batch, d.time, d.groups, d.key_dim]),
        value: values.tensor([d.batch, d.time, d.heads, d.value_dim]),
        log_decay: match case.decay {
            0 => LogDecay::None,
            1 => LogDecay::PerHead(values.decay([d.heads], case.extreme)),
            2 => LogDecay::PerKey(values.decay([d.heads, d.key_dim], case.extreme)),
            3 => LogDecay::PerHeadToken(values.decay([d.batch, d.time, d.heads], case.extreme)),
            _ => LogDecay::PerKeyToken(values.decay([d.batch, d.time, d.heads, d.key_dim], case.extreme)),
        },
        step_size: case.step.then(|| values.tensor([d.batch, d.time, d.heads]).abs()),
        erase: spillway_ssm_core::Erase::None,
        read_out: match case.bonus {
            true => ReadOut::Bonus(values.tensor([d.heads, d.key_dim])),
            false => ReadOut::Inclusive,
        },
        skip: case.skip.then(|| values.tensor([d.heads])),
        scale: 0.5,
    }
}

pub fn site(gates: &Gates) -> Site {
    let d = gates.dims();
    Site {
        layer: 0,
        first_head: 0,
        heads: d.heads,
        groups: d.groups,
        key_dim: d.key_dim,
        value_dim: d.value_dim,
        has_step_size: gates.step_size.is_some(),
        decays: !matches!(gates.log_decay, LogDecay::None),
        per_key_decay: gates.log_decay.is_per_key(),
        begins_with_prefix: false,
        rule: spillway_ssm_core::Rule::WeightedSum,
    }
}

pub fn start(mitigation: &Mitigation, gates: &Gates) -> SiteState {
    let (d, device) = (gates.dims(), Device::flex());
    SiteState {
        state: State::zeros(&d, &device),
        interventions: mitigation.chain().start(&site(gates), d.batch, &device),
    }
}

/// Tokens `range` of `gates` through the chain, in calls of the given lengths and one for the rest.
pub fn run_from(
    state: &mut SiteState,
    mitigation: &Mitigation,
    gates: &Gates,
    range: std::ops::Range<usize>,
    splits: &[usize],
    chunking: Chunking,
) -> Vec<Tensor<4>> {
    let (chain, site) = (mitigation.chain(), site(gates));
    chain.check(&site).expect("a chain that fits");
    let mut outputs = Vec::new();
    let mut done = range.start;
    for length in splits.iter().copied().chain([usize::MAX]) {
        let end = range.end.min(done.saturating_add(length));
        if end > done || range.is_empty() {
            let call = gates.slice(done..end).expect("a range inside");
            outputs.push(chain.run(&site, call, state, chunking).expect("gates that fit"));
        }
        done = end;
        if range.is_empty() {
            break;
        }
    }
    outputs
}

/// All read-outs, `[batch, time, heads, value_dim]`.
pub fn run(mitigation: &Mitigation, gates: &Gates, splits: &[usize], chunking: Chunking) -> Vec<f32> {
    let mut state = start(mitigation, gates);
    let time = gates.dims().time;
    let outputs = run_from(&mut state, mitigation, gates, 0..time, splits, chunking);
    assert_eq!(state.state.position, time as u64);
    joined(outputs)
}

pub fn joined(outputs: Vec<Tensor<4>>) -> Vec<f32> {
    if outputs.is_empty() {
        Vec::new()
    } else {
        values(&Tensor::cat(outputs, 1))
    }
}

pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec::<f32>().expect("f32 tensors")
}

fn doubles<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    values(tensor).into_iter().map(f64::from).collect()
}

/// What the tokens computed, recorded in f64 and per head.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub dims: Dims,
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
    /// `[batch, time, heads, key_dim]`, for every kind of decay.
    pub log_decay: Vec<f64>,
    /// `[batch, time, heads]`, 1 where the gates have none.
    pub step: Vec<f64>,
    bonus: Option<Vec<f64>>,
    skip: Option<Vec<f64>>,
    scale: f64,
}

impl Recorded {
    pub fn of(gates: &Gates) -> Self {
        let d = gates.dims();
        let decay = match &gates.log_decay {
            LogDecay::None => vec![],
            LogDecay::PerHead(a) => doubles(a),
            LogDecay::PerKey(a) => doubles(a),
            LogDecay::PerHeadToken(a) => doubles(a),
            LogDecay::PerKeyToken(a) => doubles(a),
            LogDecay::PerStep(_) => panic!("see brute.rs for decays per step"),
        };
        let of_token = |token: usize, head: usize, key: usize| match &gates.log_decay {
            LogDecay::None => 0.0,
            LogDecay::PerHead(_) => decay[head],
            LogDecay::PerKey(_) => decay[head * d.key_dim + key],
            LogDecay::PerHeadToken(_) => decay[token * d.heads + head],
            LogDecay::PerKeyToken(_) => decay[(token * d.heads + head) * d.key_dim + key],
            LogDecay::PerStep(_) => panic!("see brute.rs for decays per step"),
        };
        let tokens = d.batch * d.time;
        let log_decay = (0..tokens * d.heads * d.key_dim).map(|index| {
            of_token(
                index / (d.heads * d.key_dim),
                index / d.key_dim % d.heads,
                index % d.key_dim,
            )
        });
        Self {
            dims: d,
            query: doubles(&gates.query),
            key: doubles(&gates.key),
            value: doubles(&gates.value),
            log_decay: log_decay.collect(),
            step: gates
                .step_size
                .as_ref()
                .map_or_else(|| vec![1.0; tokens * d.heads], doubles),
            bonus: match &gates.read_out {
                ReadOut::Inclusive => None,
                ReadOut::Bonus(bonus) => Some(doubles(bonus)),
                ReadOut::Mean(_) => panic!("see brute.rs for means"),
            },
            skip: gates.skip.as_ref().map(doubles),
            scale: f64::from(gates.scale),
        }
    }

    /// A copy whose decays are multiplied by `retention` and whose writes by `insertion`.
    pub fn with(mut self, retention: f64, insertion: f64) -> Self {
        self.log_decay.iter_mut().for_each(|log| *log += retention.ln());
        self.step.iter_mut().for_each(|step| *step *= insertion);
        self
    }

    /// A copy whose step size is multiplied by `factor`.
    pub fn with_step(mut self, factor: f64) -> Self {
        self.log_decay.iter_mut().for_each(|log| *log *= factor);
        self.step.iter_mut().for_each(|step| *step *= factor);
        self
    }

    /// For every number of the read-outs of all tokens, the sum of the sizes of its terms: what all rounding on the way is small
    /// beside, however much of the terms cancels and however much of the state a window subtracts.
    pub fn terms(&self) -> Vec<f64> {
        let absolute = |values: &[f64]| values.iter().map(|x| x.abs()).collect::<Vec<f64>>();
        let positive = Self {
            query: absolute(&self.query),
            key: absolute(&self.key),
            value: absolute(&self.value),
            bonus: self.bonus.as_deref().map(absolute),
            skip: self.skip.as_deref().map(absolute),
            ..self.clone()
        };
        positive.sum(|_, _| true)
    }

    fn key_at(&self, token: usize, head: usize, of: &[f64]) -> std::ops::Range<usize> {
        let d = self.dims;
        debug_assert_eq!(of.len(), d.batch * d.time * d.groups * d.key_dim);
        let start = (token * d.groups + head / (d.heads / d.groups)) * d.key_dim;
        start..start + d.key_dim
    }

    /// y_t = scale · Σ_{i ≤ t, sees(t, i)} (q_t ∘ a_{(i,t]} ∘ k_i) (δ_i v_i)ᵀ + D v_t, straight from the definition; with a bonus, the
    /// current token is weighted by it and the others are read before the decay of token t.
    pub fn sum(&self, sees: impl Fn(usize, usize) -> bool) -> Vec<f64> {
        let d = self.dims;
        let mut out = vec![0.0; d.batch * d.time * d.heads * d.value_dim];
        for (b, t, h) in
            (0..d.batch).flat_map(|b| (0..d.time).flat_map(move |t| (0..d.heads).map(move |h| (b, t, h))))
        {
            let token = b * d.time + t;
            let y = &mut out[(token * d.heads + h) * d.value_dim..][..d.value_dim];
            self.add_skip(token, h, y);
            let mut log_weight = vec![0.0; d.key_dim];
            for i in (0..=t).rev() {
                let written = b * d.time + i;
                if sees(t, i) {
                    let weights = self.weights(i == t, h, &log_weight);
                    let q = &self.query[self.key_at(token, h, &self.query)];
                    let k = &self.key[self.key_at(written, h, &self.key)];
                    let strength: f64 = (0..d.key_dim).map(|n| q[n] * weights[n] * k[n]).sum();
                    let strength = strength * self.scale * self.step[written * d.heads + h];
                    self.add_value(written, h, strength, y);
                }
                // A read before the update does not see the decay of its own token.
                if self.bonus.is_none() || i < t {
                    let decays = &self.log_decay[(written * d.heads + h) * d.key_dim..][..d.key_dim];
                    log_weight
                        .iter_mut()
                        .zip(decays)
                        .for_each(|(sum, log)| *sum += log);
                }
            }
        }
        out
    }

    fn weights(&self, current: bool, head: usize, log_weight: &[f64]) -> Vec<f64> {
        match &self.bonus {
            Some(bonus) if current => bonus[head * log_weight.len()..][..log_weight.len()].to_vec(),
            _ => log_weight.iter().map(|log| log.exp()).collect(),
        }
    }

    fn add_skip(&self, token: usize, head: usize, y: &mut [f64]) {
        if let Some(skip) = &self.skip {
            self.add_value(token, head, skip[head], y);
        }
    }

    fn add_value(&self, token: usize, head: usize, weight: f64, y: &mut [f64]) {
        let d = self.dims;
        let v = &self.value[(token * d.heads + head) * d.value_dim..][..d.value_dim];
        y.iter_mut().zip(v).for_each(|(y, v)| *y += weight * v);
    }

    /// The recurrence token by token, every head's state clipped to a Frobenius norm of `bound` after the tokens for which
    /// `clips` holds, and emptied before those for which `empties` holds.
    pub fn bounded(
        &self,
        bound: &[f64],
        clips: impl Fn(usize) -> Option<Clip>,
        empties: impl Fn(usize) -> bool,
    ) -> Vec<f64> {
        let d = self.dims;
        let mut out = vec![0.0; d.batch * d.time * d.heads * d.value_dim];
        for (b, h) in (0..d.batch).flat_map(|b| (0..d.heads).map(move |h| (b, h))) {
            let mut state = vec![0.0; d.key_dim * d.value_dim];
            for t in 0..d.time {
                let token = b * d.time + t;
                if empties(t) {
                    state.fill(0.0);
                }
                let y = &mut out[(token * d.heads + h) * d.value_dim..][..d.value_dim];
                self.add_skip(token, h, y);
                if let Some(bonus) = &self.bonus {
                    self.read(token, h, &state, y);
                    let (q, k) = (
                        &self.query[self.key_at(token, h, &self.query)],
                        &self.key[self.key_at(token, h, &self.key)],
                    );
                    let strength: f64 = (0..d.key_dim)
                        .map(|n| q[n] * bonus[h * d.key_dim + n] * k[n])
                        .sum();
                    self.add_value(
                        token,
                        h,
                        strength * self.scale * self.step[token * d.heads + h],
                        y,
                    );
                }
                self.update(token, h, &mut state);
                if clips(t) == Some(Clip::BeforeReading) {
                    clip(&mut state, bound[h]);
                }
                if self.bonus.is_none() {
                    self.read(token, h, &state, y);
                }
                if clips(t) == Some(Clip::AfterReading) {
                    clip(&mut state, bound[h]);
                }
            }
        }
        out
    }

    fn read(&self, token: usize, head: usize, state: &[f64], y: &mut [f64]) {
        let v = self.dims.value_dim;
        let q = &self.query[self.key_at(token, head, &self.query)];
        for (n, q) in q.iter().enumerate() {
            y.iter_mut()
                .zip(&state[n * v..][..v])
                .for_each(|(y, x)| *y += self.scale * q * x);
        }
    }

    fn update(&self, token: usize, head: usize, state: &mut [f64]) {
        let d = self.dims;
        let at = token * d.heads + head;
        let k = &self.key[self.key_at(token, head, &self.key)];
        let v = &self.value[at * d.value_dim..][..d.value_dim];
        for n in 0..d.key_dim {
            let decay = self.log_decay[at * d.key_dim + n].exp();
            for (x, v) in state[n * d.value_dim..][..d.value_dim].iter_mut().zip(v) {
                *x = *x * decay + k[n] * self.step[at] * v;
            }
        }
    }
}

/// Whether the token that causes a clip reads the clipped state (where it reads after its update at all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clip {
    BeforeReading,
    AfterReading,
}

fn clip(state: &mut [f64], bound: f64) {
    let norm = state.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > bound {
        state.iter_mut().for_each(|x| *x *= bound / norm);
    }
}

/// Inputs lie in [−1, 1). A read-out of a single number can be terms that cancel to nearly nothing, whose rounding is not
/// small beside it; below this root mean square, the error is measured against this.
const FLOOR: f64 = 0.02;

/// ‖found − expected‖ / ‖expected‖; infinite for anything that is not a number.
pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(&f, &e)| (f64::from(f) - e).powi(2))
        .sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    let floor = FLOOR * FLOOR * expected.len().max(1) as f64;
    if difference.is_finite() {
        (difference / norm.max(floor)).sqrt()
    } else {
        f64::INFINITY
    }
}

/// ‖found − expected‖ / ‖terms‖ with the [`Recorded::terms`]; infinite for anything that is not a number.
pub fn error_beside(found: &[f32], expected: &[f64], terms: &[f64]) -> f64 {
    assert_eq!((found.len(), terms.len()), (expected.len(), expected.len()));
    let square = |x: f64| x * x;
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs.map(|(&f, &e)| square(f64::from(f) - e)).sum();
    let terms: f64 = terms.iter().map(|&term| square(term)).sum();
    match difference {
        // Nothing but zeros, as without tokens.
        0.0 => 0.0,
        _ if difference.is_finite() => (difference / terms).sqrt(),
        _ => f64::INFINITY,
    }
}

pub fn parse(text: &str) -> Mitigation {
    text.parse().expect("a mitigation")
}
