//! Any kind of recurrence in f64, token by token and head by head, over exactly the tokens that a mitigation lets it see.

use super::{Values, tensor, values};
use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use spillway_ssm_core::{Chunking, Dims, Erase, Gates, LogDecay, ReadOut, Rule, Site};

/// What a layer computes per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A weighted sum with a decay of the given kind.
    Sum(Decay),
    /// The same, read before the update, with a bonus.
    Bonus(Decay),
    /// The delta rule with β.
    Delta(Decay),
    /// The delta rule with a matrix of rank 1.
    LowRank(Decay),
    /// A weighted mean.
    Mean(Decay),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    None,
    PerHead,
    PerKey,
    PerHeadToken,
    PerKeyToken,
    /// A constant times the step size.
    PerStep,
}

pub const KINDS: [Kind; 20] = [
    Kind::Sum(Decay::None),
    Kind::Sum(Decay::PerHead),
    Kind::Sum(Decay::PerKey),
    Kind::Sum(Decay::PerHeadToken),
    Kind::Sum(Decay::PerKeyToken),
    Kind::Sum(Decay::PerStep),
    Kind::Bonus(Decay::None),
    Kind::Bonus(Decay::PerHead),
    Kind::Bonus(Decay::PerKey),
    Kind::Bonus(Decay::PerHeadToken),
    Kind::Bonus(Decay::PerKeyToken),
    Kind::Delta(Decay::None),
    Kind::Delta(Decay::PerHead),
    Kind::Delta(Decay::PerHeadToken),
    Kind::Delta(Decay::PerKeyToken),
    Kind::LowRank(Decay::None),
    Kind::LowRank(Decay::PerHeadToken),
    Kind::LowRank(Decay::PerKeyToken),
    Kind::Mean(Decay::None),
    Kind::Mean(Decay::PerHead),
];

impl Kind {
    pub fn decay(self) -> Decay {
        let (Self::Sum(decay)
        | Self::Bonus(decay)
        | Self::Delta(decay)
        | Self::LowRank(decay)
        | Self::Mean(decay)) = self;
        decay
    }

    pub fn rule(self) -> Rule {
        match self {
            Self::Sum(_) | Self::Bonus(_) => Rule::WeightedSum,
            Self::Delta(_) | Self::LowRank(_) => Rule::Delta,
            Self::Mean(_) => Rule::Mean,
        }
    }
}

/// One recurrence and how it is called.
#[derive(Clone, Debug)]
pub struct Layer {
    pub kind: Kind,
    pub dims: Dims,
    pub step: bool,
    pub skip: bool,
    pub extreme: bool,
    /// Heads of an earlier recurrence of the same layer.
    pub first_head: usize,
    pub chunking: Chunking,
    pub splits: Vec<usize>,
    pub seed: u64,
}

pub fn layer() -> impl Strategy<Value = Layer> {
    let sizes = (1..3usize, 1..40usize, 1..3usize, 1..3usize, 1..5usize, 1..5usize);
    let chunking = prop_oneof![
        Just(Chunking::Fastest),
        Just(Chunking::Sequential),
        (1..20usize).prop_map(|chunk_size| Chunking::Chunked { chunk_size }),
        (1..20usize).prop_map(|chunk_size| Chunking::Scan { chunk_size }),
    ];
    let splits = prop_oneof![
        prop::collection::vec(0..20usize, 0..5),
        Just(vec![1; 40]),
        Just(vec![])
    ];
    let choices = (
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
        any::<bool>(),
        any::<u64>(),
    );
    (
        prop::sample::select(KINDS.to_vec()),
        sizes,
        choices,
        chunking,
        splits,
    )
        .prop_map(
            |(kind, sizes, (step, skip, extreme, second, seed), chunking, splits)| {
                let (batch, time, groups, per_group, key_dim, value_dim) = sizes;
                let mean = kind.rule() == Rule::Mean;
                let heads = groups * per_group;
                let dims = Dims {
                    batch,
                    time,
                    heads,
                    groups: if mean { heads } else { groups },
                    key_dim: if mean { 1 } else { key_dim },
                    value_dim: if mean { 1 } else { value_dim },
                };
                Layer {
                    kind,
                    dims,
                    step: (step || kind.decay() == Decay::PerStep) && !mean,
                    skip: skip && !mean,
                    extreme,
                    first_head: if second { 2 } else { 0 },
                    chunking,
                    splits,
                    seed,
                }
            },
        )
}

impl Layer {
    pub fn site(&self) -> Site {
        Site {
            layer: 1,
            first_head: self.first_head,
            heads: self.dims.heads,
            groups: self.dims.groups,
            key_dim: self.dims.key_dim,
            value_dim: match self.kind.rule() {
                Rule::Mean => 3,
                Rule::WeightedSum | Rule::Delta => self.dims.value_dim,
            },
            has_step_size: self.step,
            decays: self.kind.decay() != Decay::None,
            per_key_decay: matches!(
                self.kind.decay(),
                Decay::PerKey | Decay::PerKeyToken | Decay::PerStep
            ),
            begins_with_prefix: false,
            rule: self.kind.rule(),
        }
    }

    pub fn gates(&self) -> Gates {
        let d = self.dims;
        let mut random = Values(self.seed);
        let keys = [d.batch, d.time, d.groups, d.key_dim];
        let tokens = [d.batch, d.time, d.heads];
        // Keys shorter than 1, so that erasing by them never grows a state.
        let key_size = if self.kind.rule() == Rule::Mean { 2.0 } else { 0.5 };
        let extreme = self.extreme;
        Gates {
            query: random.tensor(keys),
            key: random.tensor::<4>(keys) * key_size,
            value: random.tensor([d.batch, d.time, d.heads, d.value_dim]),
            log_decay: match self.kind.decay() {
                Decay::None => LogDecay::None,
                Decay::PerHead => LogDecay::PerHead(random.decay([d.heads], extreme)),
                Decay::PerKey => LogDecay::PerKey(random.decay([d.heads, d.key_dim], extreme)),
                Decay::PerHeadToken => LogDecay::PerHeadToken(random.decay(tokens, extreme)),
                Decay::PerKeyToken => {
                    LogDecay::PerKeyToken(random.decay([d.batch, d.time, d.heads, d.key_dim], extreme))
                }
                Decay::PerStep => LogDecay::PerStep(random.decay([d.heads, d.key_dim], false)),
            },
            step_size: self.step.then(|| random.tensor(tokens).abs()),
            erase: match self.kind {
                Kind::Delta(_) => Erase::Delta(random.tensor(tokens).abs()),
                Kind::LowRank(_) => Erase::LowRank {
                    p: random.tensor::<4>(keys) * 0.3,
                    b: random.tensor::<4>(keys) * 0.3,
                },
                Kind::Sum(_) | Kind::Bonus(_) | Kind::Mean(_) => Erase::None,
            },
            read_out: match self.kind {
                Kind::Bonus(_) => ReadOut::Bonus(random.tensor([d.heads, d.key_dim])),
                Kind::Mean(_) => ReadOut::Mean(random.tensor([d.heads])),
                Kind::Sum(_) | Kind::Delta(_) | Kind::LowRank(_) => ReadOut::Inclusive,
            },
            skip: self.skip.then(|| random.tensor([d.heads])),
            scale: 0.5,
        }
    }
}

/// The gates of a layer in f64, everything per head.
#[derive(Clone, Debug)]
pub struct Brute {
    pub dims: Dims,
    kind: Kind,
    query: Vec<f64>,
    pub key: Vec<f64>,
    /// `[batch, time, heads, value_dim]`.
    pub value: Vec<f64>,
    /// `[batch, time, heads, key_dim]`.
    pub log_decay: Vec<f64>,
    /// `[batch, time, heads]`, 1 where the gates have none.
    pub step: Vec<f64>,
    pub beta: Vec<f64>,
    p: Vec<f64>,
    pub b: Vec<f64>,
    /// `[heads, key_dim]`.
    pub bonus: Vec<f64>,
    pub skip: Vec<f64>,
    pub scale: f64,
    /// h before the first token, `[heads, key_dim, value_dim]`, the same for every sequence.
    pub initial: Vec<f64>,
}

/// When states are clipped, and to what.
pub struct Clipping<'a> {
    pub bounds: &'a [f64],
    /// `None` after every token and before it is read; `Some(Q)` after every Q-th and after it is read.
    pub chunk: Option<usize>,
}

impl Brute {
    pub fn of(layer: &Layer) -> Self {
        let (gates, d) = (layer.gates(), layer.dims);
        let tokens = d.batch * d.time;
        let per_head = |grouped: &Tensor<4>| -> Vec<f64> {
            let grouped = doubles(grouped);
            let row = |token: usize, head: usize| {
                let start = (token * d.groups + head / (d.heads / d.groups)) * d.key_dim;
                grouped[start..start + d.key_dim].to_vec()
            };
            let rows = (0..tokens).flat_map(|token| (0..d.heads).map(move |head| (token, head)));
            rows.flat_map(|(token, head)| row(token, head)).collect()
        };
        let step = gates
            .step_size
            .as_ref()
            .map_or_else(|| vec![1.0; tokens * d.heads], doubles);
        let (beta, p, b) = match &gates.erase {
            Erase::None => (vec![], vec![], vec![]),
            Erase::Delta(beta) => (doubles(beta), vec![], vec![]),
            Erase::LowRank { p, b } => (vec![], per_head(p), per_head(b)),
        };
        let skip = gates.skip.as_ref().map_or_else(|| vec![0.0; d.heads], doubles);
        Self {
            dims: d,
            kind: layer.kind,
            query: per_head(&gates.query),
            key: per_head(&gates.key),
            value: doubles(&gates.value),
            log_decay: log_decays(&gates, &d, &step),
            step,
            beta,
            p,
            b,
            bonus: match &gates.read_out {
                ReadOut::Inclusive => vec![],
                ReadOut::Bonus(bonus) => doubles(bonus),
                ReadOut::Mean(bonus) => doubles(bonus),
            },
            skip,
            scale: f64::from(gates.scale),
            initial: vec![0.0; d.heads * d.key_dim * d.value_dim],
        }
    }

    /// Read-outs where token t sees the tokens from `first(t)` on; what came before was never there.
    pub fn run(&self, first: impl Fn(usize) -> usize, clipping: Option<&Clipping<'_>>) -> Vec<f64> {
        let d = self.dims;
        let mut out = vec![0.0; d.batch * d.time * d.heads * d.value_dim];
        for (batch, head) in (0..d.batch).flat_map(|b| (0..d.heads).map(move |h| (b, h))) {
            let mut running: Option<(usize, Head<'_>)> = None;
            for t in 0..d.time {
                let start = first(t);
                let row = ((batch * d.time + t) * d.heads + head) * d.value_dim;
                let y = &mut out[row..row + d.value_dim];
                match &mut running {
                    // The same start as the token before: go on from there.
                    Some((from, state)) if *from == start => state.token(t, y, clipping),
                    _ => {
                        let mut state = Head::start(self, batch, head, start == 0);
                        let mut unused = vec![0.0; d.value_dim];
                        (start..t).for_each(|i| state.token(i, &mut unused, clipping));
                        state.token(t, y, clipping);
                        running = Some((start, state));
                    }
                }
            }
        }
        out
    }
}

impl Brute {
    /// Read-outs of what the last `window` tokens changed in a state that all tokens before them have made, decayed since.
    pub fn run_writes(&self, window: usize) -> Vec<f64> {
        let d = self.dims;
        let mut out = vec![0.0; d.batch * d.time * d.heads * d.value_dim];
        for (batch, head) in (0..d.batch).flat_map(|b| (0..d.heads).map(move |h| (b, h))) {
            let mut state = Head::start(self, batch, head, true);
            let mut writes: Vec<Vec<f64>> = Vec::new();
            for t in 0..d.time {
                let at = (batch * d.time + t) * d.heads + head;
                let decays = &self.log_decay[at * d.key_dim..][..d.key_dim];
                let decay = |memory: &mut [f64]| {
                    for (row, decay) in memory.chunks_mut(d.value_dim).zip(decays) {
                        row.iter_mut().for_each(|x| *x *= decay.exp());
                    }
                };
                let mut kept = state.memory.clone();
                decay(&mut kept);
                state.update(at);
                writes.iter_mut().for_each(|write| decay(write));
                writes.push(
                    state
                        .memory
                        .iter()
                        .zip(&kept)
                        .map(|(now, kept)| now - kept)
                        .collect(),
                );
                let mut windowed = Head::start(self, batch, head, false);
                for write in &writes[writes.len().saturating_sub(window)..] {
                    add(&mut windowed.memory, write, 1.0);
                }
                let y = &mut out[at * d.value_dim..][..d.value_dim];
                windowed.read(&self.query[at * d.key_dim..][..d.key_dim], y);
                add(y, &self.value[at * d.value_dim..][..d.value_dim], self.skip[head]);
            }
        }
        out
    }
}

/// One head of one sequence.
struct Head<'a> {
    of: &'a Brute,
    batch: usize,
    head: usize,
    /// `[key_dim, value_dim]`, or numerator and denominator of a mean: weights here are small enough to need no maximum.
    memory: Vec<f64>,
}

impl<'a> Head<'a> {
    fn start(of: &'a Brute, batch: usize, head: usize, from_the_beginning: bool) -> Self {
        let size = of.dims.key_dim * of.dims.value_dim;
        let memory = match of.kind.rule() {
            Rule::Mean => vec![0.0; 2],
            _ if from_the_beginning => of.initial[head * size..(head + 1) * size].to_vec(),
            _ => vec![0.0; size],
        };
        Self {
            of,
            batch,
            head,
            memory,
        }
    }

    fn token(&mut self, t: usize, y: &mut [f64], clipping: Option<&Clipping<'_>>) {
        let (of, d) = (self.of, self.of.dims);
        let at = (self.batch * d.time + t) * d.heads + self.head;
        y.fill(0.0);
        if of.kind.rule() == Rule::Mean {
            return self.mean(at, y);
        }
        let value = &of.value[at * d.value_dim..][..d.value_dim];
        let query = &of.query[at * d.key_dim..][..d.key_dim];
        let key = &of.key[at * d.key_dim..][..d.key_dim];
        let bonus = matches!(of.kind, Kind::Bonus(_));
        if bonus {
            self.read(query, y);
            let own: f64 = (0..d.key_dim)
                .map(|n| query[n] * of.bonus[self.head * d.key_dim + n] * key[n])
                .sum();
            add(y, value, own * of.step[at] * of.scale);
        }
        self.update(at);
        let bound = clipping.map(|clipping| (clipping.bounds[self.head], clipping.chunk));
        if let Some((bound, None)) = bound {
            clip(&mut self.memory, bound);
        }
        if !bonus {
            self.read(query, y);
        }
        if let Some((bound, Some(chunk))) = bound
            && (t + 1).is_multiple_of(chunk)
        {
            clip(&mut self.memory, bound);
        }
        add(y, value, of.skip[self.head]);
    }

    fn read(&self, query: &[f64], y: &mut [f64]) {
        let rows = self.memory.chunks(y.len().max(1));
        for (q, row) in query.iter().zip(rows) {
            add(y, row, q * self.of.scale);
        }
    }

    /// h ← what the rule says.
    fn update(&mut self, at: usize) {
        let (of, d) = (self.of, self.of.dims);
        let (key_dim, value_dim) = (d.key_dim, d.value_dim);
        let key = &of.key[at * key_dim..][..key_dim];
        let value: Vec<f64> = of.value[at * value_dim..][..value_dim]
            .iter()
            .map(|v| v * of.step[at])
            .collect();
        let decays = &of.log_decay[at * key_dim..][..key_dim];
        // What a vector over keys reads of the state as it is.
        let under = |memory: &[f64], keys: &[f64]| -> Vec<f64> {
            let column = |v: usize| (0..key_dim).map(|n| keys[n] * memory[n * value_dim + v]).sum();
            (0..value_dim).map(column).collect()
        };
        let removed = match of.kind {
            Kind::LowRank(_) => Some(under(&self.memory, &of.p[at * key_dim..][..key_dim])),
            _ => None,
        };
        for (row, decay) in self.memory.chunks_mut(value_dim).zip(decays) {
            row.iter_mut().for_each(|x| *x *= decay.exp());
        }
        let written = match of.kind {
            Kind::Delta(_) => {
                let held = under(&self.memory, key);
                let beta = of.beta[at];
                value.iter().zip(held).map(|(v, h)| beta * (v - h)).collect()
            }
            _ => value,
        };
        for (n, row) in self.memory.chunks_mut(value_dim).enumerate() {
            add(row, &written, key[n]);
            if let Some(removed) = &removed {
                add(row, removed, of.b[at * key_dim + n]);
            }
        }
    }

    fn mean(&mut self, at: usize, y: &mut [f64]) {
        let of = self.of;
        let (key, value) = (of.key[at], of.value[at]);
        let own = (of.bonus[self.head] + key).exp();
        y[0] = of.scale * (self.memory[0] + own * value) / (self.memory[1] + own);
        let decay = of.log_decay[at].exp();
        self.memory[0] = self.memory[0] * decay + key.exp() * value;
        self.memory[1] = self.memory[1] * decay + key.exp();
    }
}

fn log_decays(gates: &Gates, d: &Dims, step: &[f64]) -> Vec<f64> {
    let numbers = match &gates.log_decay {
        LogDecay::None => vec![],
        LogDecay::PerHead(a) => doubles(a),
        LogDecay::PerKey(a) | LogDecay::PerStep(a) => doubles(a),
        LogDecay::PerHeadToken(a) => doubles(a),
        LogDecay::PerKeyToken(a) => doubles(a),
    };
    let of = |index: usize| {
        let (at, key) = (index / d.key_dim, index % d.key_dim);
        let head = at % d.heads;
        match &gates.log_decay {
            LogDecay::None => 0.0,
            LogDecay::PerHead(_) => numbers[head],
            LogDecay::PerKey(_) => numbers[head * d.key_dim + key],
            LogDecay::PerStep(_) => numbers[head * d.key_dim + key] * step[at],
            LogDecay::PerHeadToken(_) => numbers[at],
            LogDecay::PerKeyToken(_) => numbers[index],
        }
    };
    (0..d.batch * d.time * d.heads * d.key_dim).map(of).collect()
}

fn add(to: &mut [f64], what: &[f64], factor: f64) {
    to.iter_mut()
        .zip(what)
        .for_each(|(to, what)| *to += factor * what);
}

fn clip(memory: &mut [f64], bound: f64) {
    let norm = memory.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > bound {
        memory.iter_mut().for_each(|x| *x *= bound / norm);
    }
}

fn doubles<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    values(tensor).into_iter().map(f64::from).collect()
}

/// Gates of one token that change nothing and write nothing, for a look at the state.
pub fn idle_token(layer: &Layer) -> Gates {
    let d = layer.dims;
    let device = Device::flex();
    let zeros = |shape: [usize; 4]| tensor(vec![0.0; shape.iter().product()], shape).to_device(&device);
    Gates::new(
        zeros([d.batch, 1, d.groups, d.key_dim]),
        zeros([d.batch, 1, d.groups, d.key_dim]),
        zeros([d.batch, 1, d.heads, d.value_dim]),
    )
}
