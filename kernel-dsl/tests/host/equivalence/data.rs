//! Random problems and their inputs.

use std::ops::Range;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::recurrence::{Cotangents, Inputs, Problem, ReadOut};
use spillway_kernel_dsl::{DecayKind, LogDecay};
use spillway_kernel_dsl::{Rows, Sequences};

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
    pub layout: Layout,
    pub seed: u64,
}

/// How the sequences lie in the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    Equal,
    /// With paddings that follow from the seed.
    LeftPadded,
    /// `time` rows, cut at places that follow from the seed.
    Packed,
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
    let layouts = prop_oneof![
        Just(Layout::Equal),
        Just(Layout::LeftPadded),
        Just(Layout::Packed)
    ];
    (
        problems,
        0_usize..=3,
        any::<bool>(),
        skips,
        strengths,
        layouts,
        any::<u64>(),
    )
        .prop_map(|(problem, padding, step_size, skip, decay, layout, seed)| Spec {
            problem,
            padding,
            step_size,
            skip,
            decay,
            layout,
            seed,
        })
}

impl Spec {
    /// A problem of many heads in one group, large enough that threads are used.
    pub fn many_heads() -> Self {
        let mut spec = Self::large().remove(0);
        spec.problem.heads = 20;
        spec
    }

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
            layout: Layout::Equal,
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

    /// Value `index` of those that are no padding.
    fn at(&mut self, index: usize) -> &mut f32 {
        &mut self.values[index / self.cols * self.stride + index % self.cols]
    }

    /// Some of the rows.
    fn pick(&self, rows: &[usize]) -> Self {
        let row = |r: &usize| &self.values[r * self.stride..(r + 1) * self.stride];
        Self {
            values: rows.iter().flat_map(row).copied().collect(),
            rows: rows.len(),
            ..*self
        }
    }

    /// Fills rows with NaN: nobody may read them.
    fn spoil(&mut self, rows: &[usize]) {
        for row in rows {
            self.values[row * self.stride..(row + 1) * self.stride].fill(f32::NAN);
        }
    }
}

/// Inputs of one call. Values and states have one sign per column and all else is positive: so nothing cancels in a
/// read-out, and relative errors measure the arithmetic rather than the conditioning.
#[derive(Clone)]
pub struct Data {
    pub problem: Problem,
    pub state: Vec<f32>,
    layout: Layout,
    /// Paddings of the sequences, or offsets.
    bounds: Vec<usize>,
    query: Table,
    key: Table,
    value: Table,
    constant_decay: Vec<f32>,
    token_decay: Table,
    step_size: Option<Table>,
    bonus: Option<Vec<f32>>,
    skip: Option<Vec<f32>>,
    out_cotangent: Table,
    state_cotangent: Option<Vec<f32>>,
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
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let bounds: Vec<usize> = match spec.layout {
            Layout::Equal => Vec::new(),
            Layout::LeftPadded => (0..batch).map(|_| rng.random_range(0..=time)).collect(),
            Layout::Packed => {
                let mut offsets: Vec<usize> = (1..batch).map(|_| rng.random_range(0..=time)).collect();
                offsets.extend([0, time]);
                offsets.sort_unstable();
                offsets
            }
        };
        let tokens = sequences(spec.layout, &bounds).rows(batch, time);
        let padding = spec.padding;
        let signs: Vec<f32> = (0..heads * value_dim)
            .map(|_| if rng.random() { 1.0 } else { -1.0 })
            .collect();
        let per_head = heads * decay.values_per_head(key_dim);
        let state_signs = (0..spec.problem.state_len()).map(|i| {
            let head = i / (key_dim * value_dim) % heads;
            signs[head * value_dim + i % value_dim]
        });
        let state_signs: Vec<f32> = state_signs.collect();
        let state = state_signs
            .iter()
            .map(|sign| sign * rng.random_range(0.1..1.0))
            .collect();
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
        // With the signs of the values, so that nothing cancels in gradients either.
        let out_cotangent = Table::new(tokens, heads * value_dim, padding, |c| signs[c] * positive(c));
        let state_cotangent = state_signs.iter().map(|sign| sign * positive(0)).collect();
        let state_cotangent = (!spec.seed.is_multiple_of(3)).then_some(state_cotangent);
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
        let mut data = Self {
            problem,
            state,
            layout: spec.layout,
            bounds,
            query,
            key,
            value,
            constant_decay,
            token_decay,
            step_size,
            bonus,
            skip,
            out_cotangent,
            state_cotangent,
        };
        data.spoil_padding();
        data
    }

    /// What the inputs hold in rows that belong to no sequence must not matter.
    fn spoil_padding(&mut self) {
        if self.layout != Layout::LeftPadded {
            return;
        }
        let time = self.problem.time;
        let rows = self
            .bounds
            .iter()
            .enumerate()
            .flat_map(|(b, padding)| b * time..b * time + padding);
        let rows: Vec<usize> = rows.collect();
        for table in [
            Some(&mut self.query),
            Some(&mut self.key),
            Some(&mut self.value),
            Some(&mut self.token_decay),
            Some(&mut self.out_cotangent),
            self.step_size.as_mut(),
        ]
        .into_iter()
        .flatten()
        {
            table.spoil(&rows);
        }
    }

    /// Rounds queries, keys, values and the cotangent of the output.
    #[allow(dead_code)] // Half precision is for devices.
    pub fn round_tokens(&mut self, round: impl Fn(f32) -> f32) {
        for table in [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.out_cotangent,
        ] {
            table.values.iter_mut().for_each(|x| *x = round(*x));
        }
    }

    pub fn sequences(&self) -> Sequences<'_> {
        sequences(self.layout, &self.bounds)
    }

    /// The rows of sequence `b`.
    pub fn span(&self, b: usize) -> Range<usize> {
        self.sequences().span(b, self.problem.time)
    }

    pub fn out_len(&self) -> usize {
        self.problem.out_len(self.sequences())
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
            sequences: self.sequences(),
        }
    }

    pub fn cotangents(&self) -> Cotangents<'_> {
        Cotangents {
            out: self.out_cotangent.view(),
            state: self.state_cotangent.as_deref(),
        }
    }

    pub fn set_state_cotangent(&mut self, cotangent: Vec<f32>) {
        self.state_cotangent = Some(cotangent);
    }

    /// Adds to one value of an input, by its place in the contiguous gradient; returns the old value and the new one.
    pub fn nudge(&mut self, input: &'static str, index: usize, by: f32) -> (f32, f32) {
        let constant = matches!(self.problem.decay, DecayKind::PerHead | DecayKind::PerKey);
        let value = match input {
            "query" => self.query.at(index),
            "key" => self.key.at(index),
            "value" => self.value.at(index),
            "log_decay" if constant => &mut self.constant_decay[index],
            "log_decay" => self.token_decay.at(index),
            "step_size" => self.step_size.as_mut().expect("given").at(index),
            "bonus" => &mut self.bonus.as_mut().expect("given")[index],
            "skip" => &mut self.skip.as_mut().expect("given")[index],
            "state" => &mut self.state[index],
            other => panic!("{other} is no input"),
        };
        let before = *value;
        *value += by;
        (before, *value)
    }

    /// Rows that are tokens `from..to` of every sequence; shorter sequences have fewer of them.
    fn rows_of_segment(&self, from: usize, to: usize) -> Vec<Range<usize>> {
        let spans = (0..self.problem.batch).map(|b| self.span(b));
        spans
            .map(|span| (span.start + from).min(span.end)..(span.start + to).min(span.end))
            .collect()
    }

    /// Tokens `from..to` of every sequence, beginning from `state`; of unequal sequences as many as there are, packed.
    pub fn segment(&self, from: usize, to: usize, state: &[f32]) -> Self {
        let spans = self.rows_of_segment(from, to);
        let rows: Vec<usize> = spans.iter().cloned().flatten().collect();
        let part = |table: &Table| table.pick(&rows);
        let equal = self.layout == Layout::Equal;
        let mut bounds = Vec::new();
        if !equal {
            bounds.push(0);
            spans
                .iter()
                .for_each(|span| bounds.push(bounds[bounds.len() - 1] + span.len()));
        }
        Self {
            problem: Problem {
                time: if equal { to - from } else { rows.len() },
                ..self.problem
            },
            layout: if equal { Layout::Equal } else { Layout::Packed },
            bounds,
            state: state.to_vec(),
            query: part(&self.query),
            key: part(&self.key),
            value: part(&self.value),
            token_decay: part(&self.token_decay),
            step_size: self.step_size.as_ref().map(part),
            out_cotangent: part(&self.out_cotangent),
            ..self.clone()
        }
    }

    /// Sequence `b` alone.
    pub fn sequence(&self, b: usize) -> Self {
        let rows: Vec<usize> = self.span(b).collect();
        let part = |table: &Table| table.pick(&rows);
        let state_len = self.state.len() / self.problem.batch;
        Self {
            problem: Problem {
                batch: 1,
                time: rows.len(),
                ..self.problem
            },
            layout: Layout::Equal,
            bounds: Vec::new(),
            state: self.state[b * state_len..(b + 1) * state_len].to_vec(),
            state_cotangent: self
                .state_cotangent
                .as_ref()
                .map(|cotangent| cotangent[b * state_len..(b + 1) * state_len].to_vec()),
            query: part(&self.query),
            key: part(&self.key),
            value: part(&self.value),
            token_decay: part(&self.token_decay),
            step_size: self.step_size.as_ref().map(part),
            out_cotangent: part(&self.out_cotangent),
            ..self.clone()
        }
    }

    /// Writes rows of `width` values, one per token of the segment `from..to`, to their places among all rows.
    pub fn place<T: Copy>(&self, whole: &mut [T], (from, to): (usize, usize), part: &[T], width: usize) {
        let rows = self.rows_of_segment(from, to).into_iter().flatten();
        for (row, values) in rows.zip(part.chunks_exact(width.max(1))) {
            whole[row * width..(row + 1) * width].copy_from_slice(values);
        }
    }
}

fn sequences(layout: Layout, bounds: &[usize]) -> Sequences<'_> {
    match layout {
        Layout::Equal => Sequences::Equal,
        Layout::LeftPadded => Sequences::LeftPadded(bounds),
        Layout::Packed => Sequences::Packed(bounds),
    }
}
