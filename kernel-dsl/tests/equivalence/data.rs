//! Random problems and their inputs.

use kernel_dsl::Rows;
use kernel_dsl::recurrence::{DecayKind, Inputs, LogDecay, Problem, ReadOut};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a random case looks like; the numbers follow from the seed.
#[derive(Clone, Debug)]
pub struct Spec {
    pub problem: Problem,
    /// Values between the rows of every view.
    pub padding: usize,
    pub step_size: bool,
    /// Values of the skip: none, one per head, or one per head and value.
    pub skip: Option<bool>,
    pub decay: Strength,
    pub seed: u64,
}

/// How fast states are forgotten.
#[derive(Clone, Copy, Debug)]
pub enum Strength {
    /// Log decays between −0.2 and 0.
    Mild,
    /// Log decays from 0 to −8: a few tokens are remembered.
    Middling,
    /// Mild ones among −60 and −∞.
    Strong,
}

/// Any problem of at most `time` tokens.
pub fn any_spec(time: usize) -> impl Strategy<Value = Spec> {
    let decays = prop_oneof![
        Just(DecayKind::None),
        Just(DecayKind::PerHead),
        Just(DecayKind::PerKey),
        Just(DecayKind::PerHeadToken),
        Just(DecayKind::PerKeyToken),
    ];
    let read_outs = prop_oneof![Just(ReadOut::Inclusive), Just(ReadOut::Bonus)];
    let value_dims = prop_oneof![4 => 1_usize..=20, 1 => 32_usize..=36, 1 => 63_usize..=81, 1 => Just(128)];
    let key_dims = prop_oneof![4 => 1_usize..=24, 1 => 60_usize..=70];
    let sizes = (
        1_usize..=2,
        0..=time,
        1_usize..=3,
        1_usize..=3,
        key_dims,
        value_dims,
    );
    let problems = (sizes, decays, read_outs).prop_map(|(sizes, decay, read_out)| {
        let (batch, time, groups, heads_per_group, key_dim, value_dim) = sizes;
        Problem {
            batch,
            time,
            heads: groups * heads_per_group,
            groups,
            key_dim,
            value_dim,
            decay,
            read_out,
        }
    });
    let strengths = prop_oneof![
        Just(Strength::Mild),
        Just(Strength::Middling),
        Just(Strength::Strong)
    ];
    let skips = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    (
        problems,
        0_usize..=3,
        any::<bool>(),
        skips,
        strengths,
        any::<u64>(),
    )
        .prop_map(|(problem, padding, step_size, skip, decay, seed)| Spec {
            problem,
            padding,
            step_size,
            skip,
            decay,
            seed,
        })
}

impl Spec {
    /// Problems large enough that threads are used, one per decay kind.
    pub fn large() -> Vec<Self> {
        let kinds = [
            DecayKind::PerHeadToken,
            DecayKind::PerKeyToken,
            DecayKind::PerKey,
            DecayKind::None,
        ];
        let spec = |decay| Self {
            problem: Problem {
                batch: 1,
                time: 100,
                heads: 5,
                groups: 1,
                key_dim: 24,
                value_dim: 40,
                decay,
                read_out: if decay == DecayKind::PerKey {
                    ReadOut::Bonus
                } else {
                    ReadOut::Inclusive
                },
            },
            padding: 0,
            step_size: true,
            skip: Some(false),
            decay: Strength::Mild,
            seed: 7,
        };
        kinds.map(spec).to_vec()
    }
}

/// Rows with NaN between them, so that reading a wrong column cannot go unnoticed.
#[derive(Clone)]
struct Table {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Table {
    fn new(rows: usize, cols: usize, padding: usize, mut value: impl FnMut(usize) -> f32) -> Self {
        let stride = cols + padding;
        let of_row = |_| {
            (0..stride)
                .map(|c| if c < cols { value(c) } else { f32::NAN })
                .collect::<Vec<_>>()
        };
        Self {
            values: (0..rows).flat_map(of_row).collect(),
            rows,
            cols,
            stride,
        }
    }

    fn view(&self) -> Rows<'_> {
        Rows::new(&self.values, self.rows, self.cols, self.stride).expect("long enough")
    }

    /// Tokens `from..to` of each of `batch` sequences.
    fn stretch(&self, batch: usize, from: usize, to: usize) -> Self {
        let time = self.rows / batch;
        let row = |r: usize| &self.values[r * self.stride..(r + 1) * self.stride];
        let rows = (0..batch).flat_map(|b| (from..to).map(move |t| b * time + t));
        Self {
            values: rows.flat_map(row).copied().collect(),
            rows: batch * (to - from),
            ..*self
        }
    }
}

/// Inputs of one call. Values and states have one sign per column and all else is positive: so nothing cancels in a
/// read-out, and relative errors measure the arithmetic rather than the conditioning.
#[derive(Clone)]
pub struct Data {
    pub problem: Problem,
    pub state: Vec<f32>,
    query: Table,
    key: Table,
    value: Table,
    constant_decay: Vec<f32>,
    token_decay: Table,
    step_size: Option<Table>,
    bonus: Option<Vec<f32>>,
    skip: Option<Vec<f32>>,
}

impl Data {
    pub fn new(spec: &Spec) -> Self {
        let Problem {
            batch,
            time,
            heads,
            groups,
            key_dim,
            value_dim,
            decay,
            read_out,
        } = spec.problem;
        let (tokens, padding) = (batch * time, spec.padding);
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let signs: Vec<f32> = (0..heads * value_dim)
            .map(|_| if rng.random() { 1.0 } else { -1.0 })
            .collect();
        let per_head = heads * decay.values_per_head(key_dim);
        let state = (0..spec.problem.state_len()).map(|i| {
            let head = i / (key_dim * value_dim) % heads;
            signs[head * value_dim + i % value_dim] * rng.random_range(0.1..1.0)
        });
        let state = state.collect();
        let mut positive = |_: usize| rng.random_range(0.1_f32..1.0);
        let query = Table::new(tokens, groups * key_dim, padding, &mut positive);
        let key = Table::new(tokens, groups * key_dim, padding, &mut positive);
        let value = Table::new(tokens, heads * value_dim, padding, |c| signs[c] * positive(c));
        let step_size = spec
            .step_size
            .then(|| Table::new(tokens, heads, padding, &mut positive));
        let bonus = (read_out == ReadOut::Bonus).then(|| (0..heads * key_dim).map(&mut positive).collect());
        let skip = spec
            .skip
            .map(|per_value| if per_value { heads * value_dim } else { heads });
        let skip = skip.map(|len| (0..len).map(&mut positive).collect());
        let mut log_decay = |_: usize| match spec.decay {
            Strength::Mild => -rng.random_range(0.0_f32..0.2),
            Strength::Middling => -rng.random_range(0.0_f32..8.0),
            Strength::Strong => match rng.random_range(0..10) {
                0 => f32::NEG_INFINITY,
                1 => -60.0,
                _ => -rng.random_range(0.0_f32..0.1),
            },
        };
        let constant_decay = (0..per_head).map(&mut log_decay).collect();
        let token_decay = Table::new(tokens, per_head, padding, &mut log_decay);
        let problem = spec.problem;
        Self {
            problem,
            state,
            query,
            key,
            value,
            constant_decay,
            token_decay,
            step_size,
            bonus,
            skip,
        }
    }

    /// Gives all heads and keys the same constant log decay, with some digits of its own.
    pub fn set_constant_decay(&mut self, log_decay: f32) {
        for (i, g) in self.constant_decay.iter_mut().enumerate() {
            *g = log_decay * (1.0 + 0.0137 * i as f32);
        }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            log_decay: match self.problem.decay {
                DecayKind::None => LogDecay::None,
                DecayKind::PerHead | DecayKind::PerKey => LogDecay::Constant(&self.constant_decay),
                DecayKind::PerHeadToken | DecayKind::PerKeyToken => LogDecay::Token(self.token_decay.view()),
            },
            step_size: self.step_size.as_ref().map(Table::view),
            bonus: self.bonus.as_deref(),
            skip: self.skip.as_deref(),
            scale: 0.7,
        }
    }

    /// Tokens `from..to` of every sequence, beginning from `state`.
    pub fn stretch(&self, from: usize, to: usize, state: &[f32]) -> Self {
        let part = |table: &Table| table.stretch(self.problem.batch, from, to);
        Self {
            problem: Problem {
                time: to - from,
                ..self.problem
            },
            state: state.to_vec(),
            query: part(&self.query),
            key: part(&self.key),
            value: part(&self.value),
            token_decay: part(&self.token_decay),
            step_size: self.step_size.as_ref().map(part),
            ..self.clone()
        }
    }

    /// Writes the output of a stretch that begins at token `from` to its place in the whole output.
    pub fn place(&self, out: &mut [f32], from: usize, part: &[f32]) {
        let width = self.problem.heads * self.problem.value_dim;
        let tokens = part.len() / (self.problem.batch * width);
        for b in 0..self.problem.batch {
            let target = (b * self.problem.time + from) * width;
            out[target..target + tokens * width]
                .copy_from_slice(&part[b * tokens * width..][..tokens * width]);
        }
    }
}
