//! Random delta rules and their inputs.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::delta_rule::{
    Cotangents, DeltaRuleError, Gradients, Inputs, Problem, Transition, TransitionGradients, TransitionKind,
    reference,
};
use spillway_kernel_dsl::{Rows, Sequences};

/// What a random case looks like; the numbers follow from the seed.
#[derive(Clone, Debug)]
pub struct Spec {
    pub problem: Problem,
    pub layout: Layout,
    /// Values between the rows of every view.
    pub gap: usize,
    pub decay: Strength,
    pub seed: u64,
}

/// How sequences lie in the rows.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    Equal,
    LeftPadded,
    Packed,
}

/// How fast states are forgotten.
#[derive(Clone, Copy, Debug)]
pub enum Strength {
    /// Log decays between −0.6 and 0.
    Mild,
    /// Log decays from 0 to −8: a few tokens are remembered.
    Middling,
    /// Mild ones among −60 and −∞.
    Strong,
}

/// Any problem of at most `time` tokens.
pub fn any_spec(time: usize) -> impl Strategy<Value = Spec> {
    let transitions = prop_oneof![Just(TransitionKind::Delta), Just(TransitionKind::LowRank)];
    let decays = prop_oneof![
        Just(DecayKind::None),
        Just(DecayKind::PerHeadToken),
        Just(DecayKind::PerKeyToken),
    ];
    let value_dims = prop_oneof![6 => 1_usize..=20, 2 => 32_usize..=36, 1 => 63_usize..=81, 1 => Just(128)];
    let key_dims = prop_oneof![6 => 1_usize..=24, 1 => 60_usize..=70];
    let sizes = (
        1_usize..=3,
        0..=time,
        1_usize..=2,
        1_usize..=2,
        key_dims,
        value_dims,
    );
    let problems = (sizes, transitions, decays).prop_map(|(sizes, transition, decay)| {
        let (batch, time, groups, heads_per_group, key_dim, value_dim) = sizes;
        Problem {
            batch,
            time,
            heads: groups * heads_per_group,
            groups,
            key_dim,
            value_dim,
            transition,
            decay,
        }
    });
    let layouts = prop_oneof![
        Just(Layout::Equal),
        Just(Layout::LeftPadded),
        Just(Layout::Packed)
    ];
    let strengths = prop_oneof![
        Just(Strength::Mild),
        Just(Strength::Middling),
        Just(Strength::Strong)
    ];
    (problems, layouts, 0_usize..=3, strengths, any::<u64>()).prop_map(
        |(problem, layout, gap, decay, seed)| Spec {
            problem,
            layout,
            gap,
            decay,
            seed,
        },
    )
}

/// Rows with NaN between them, so that reading a wrong column cannot go unnoticed.
#[derive(Clone)]
pub struct Table {
    pub values: Vec<f32>,
    rows: usize,
    pub cols: usize,
    stride: usize,
}

impl Table {
    fn new(rows: usize, cols: usize, gap: usize, mut value: impl FnMut() -> f32) -> Self {
        let stride = cols + gap;
        let values = (0..rows * stride).map(|i| {
            if i % stride.max(1) < cols {
                value()
            } else {
                f32::NAN
            }
        });
        Self {
            values: values.collect(),
            rows,
            cols,
            stride,
        }
    }

    pub fn view(&self) -> Rows<'_> {
        Rows::new(&self.values, self.rows, self.cols, self.stride).expect("long enough")
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.stride..][..self.cols]
    }

    /// Scales every `width` values of a row to length 1.
    fn normalise(mut self, width: usize) -> Self {
        for row in 0..self.rows {
            for x in self.row_mut(row).chunks_mut(width) {
                let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
                x.iter_mut().for_each(|x| *x /= norm);
            }
        }
        self
    }

    fn segment(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            values: self.values[rows.start * self.stride..rows.end * self.stride].to_vec(),
            rows: rows.len(),
            ..*self
        }
    }
}

/// Inputs of one call, and cotangents for its results.
#[derive(Clone)]
pub struct Data {
    pub problem: Problem,
    pub layout: Layout,
    /// Padding of each sequence, or offsets.
    pub bounds: Vec<usize>,
    pub state: Vec<f32>,
    pub query: Table,
    pub key: Table,
    pub value: Table,
    /// β, or p.
    pub first: Table,
    /// Nothing, or b.
    pub second: Table,
    pub log_decay: Option<Table>,
    pub out_cotangent: Table,
    pub state_cotangent: Option<Vec<f32>>,
}

/// Gradients of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned<T> {
    pub query: Vec<T>,
    pub key: Vec<T>,
    pub value: Vec<T>,
    /// By β, or by p.
    pub first: Vec<T>,
    /// By nothing, or by b.
    pub second: Vec<T>,
    pub log_decay: Option<Vec<T>>,
    pub state: Vec<T>,
}

impl<T: Copy + Into<f64>> Owned<T> {
    /// Every gradient with its name.
    pub fn parts(&self) -> Vec<(&'static str, Vec<f64>)> {
        let wide = |values: &[T]| values.iter().map(|x| (*x).into()).collect();
        vec![
            ("query", wide(&self.query)),
            ("key", wide(&self.key)),
            ("value", wide(&self.value)),
            ("beta or p", wide(&self.first)),
            ("b", wide(&self.second)),
            ("log_decay", wide(self.log_decay.as_deref().unwrap_or(&[]))),
            ("state", wide(&self.state)),
        ]
    }
}

impl Data {
    pub fn new(spec: &Spec) -> Self {
        let (problem, gap) = (spec.problem, spec.gap);
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let bounds: Vec<usize> = match spec.layout {
            Layout::Equal => Vec::new(),
            Layout::LeftPadded => (0..problem.batch)
                .map(|_| rng.random_range(0..=problem.time))
                .collect(),
            Layout::Packed => {
                let mut inner: Vec<usize> = (1..problem.batch)
                    .map(|_| rng.random_range(0..=problem.time))
                    .collect();
                inner.push(0);
                inner.push(problem.time);
                inner.sort_unstable();
                inner
            }
        };
        let rows = match spec.layout {
            Layout::Packed => problem.time,
            _ => problem.batch * problem.time,
        };
        let (key_dim, on_keys) = (problem.key_dim, problem.groups * problem.key_dim);
        let on_values = problem.heads * problem.value_dim;
        let signed = |rng: &mut StdRng| rng.random_range(-1.0_f32..1.0);
        let mut table = |cols: usize| Table::new(rows, cols, gap, || signed(&mut rng));
        let query = table(on_keys).normalise(key_dim);
        let key = table(on_keys).normalise(key_dim);
        let (value, out_cotangent) = (table(on_values), table(on_values));
        let (first, second) = match problem.transition {
            TransitionKind::Delta => {
                let mut beta = table(problem.heads);
                beta.values.iter_mut().for_each(|x| *x = 0.5 * *x + 0.5);
                (beta, Table::new(rows, 0, gap, || 0.0))
            }
            TransitionKind::LowRank => {
                // p = −κ and b = κ∘η with ‖κ‖ = 1 and η in [0, 1], as in RWKV-7.
                let p = table(on_keys).normalise(key_dim);
                let mut b = table(on_keys);
                for (b, p) in b.values.iter_mut().zip(&p.values) {
                    *b = -p * (0.5 * *b + 0.5);
                }
                (p, b)
            }
        };
        let mut log_decay = || match spec.decay {
            Strength::Mild => -rng.random_range(0.0_f32..0.6),
            Strength::Middling => -rng.random_range(0.0_f32..8.0),
            Strength::Strong => match rng.random_range(0..10) {
                0 => f32::NEG_INFINITY,
                1 => -60.0,
                _ => -rng.random_range(0.0_f32..0.1),
            },
        };
        let log_decay = (problem.decay != DecayKind::None)
            .then(|| Table::new(rows, problem.decay_columns(), gap, &mut log_decay));
        let mut state = |()| -> Vec<f32> {
            (0..problem.state_len())
                .map(|_| rng.random_range(-1.0_f32..1.0))
                .collect()
        };
        let (state, state_cotangent) = (state(()), (!spec.seed.is_multiple_of(4)).then(|| state(())));
        let mut data = Self {
            problem,
            layout: spec.layout,
            bounds,
            state,
            query,
            key,
            value,
            first,
            second,
            log_decay,
            out_cotangent,
            state_cotangent,
        };
        data.spoil_padding();
        data
    }

    /// Writes NaN where there are no tokens.
    fn spoil_padding(&mut self) {
        if !matches!(self.layout, Layout::LeftPadded) {
            return;
        }
        for b in 0..self.problem.batch {
            for row in b * self.problem.time..b * self.problem.time + self.bounds[b] {
                for table in self.tables() {
                    table.row_mut(row).fill(f32::NAN);
                }
            }
        }
    }

    /// Every table that a call reads, the cotangent last.
    pub fn tables(&mut self) -> Vec<&mut Table> {
        let mut tables = vec![
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.first,
            &mut self.second,
        ];
        tables.extend(&mut self.log_decay);
        tables.push(&mut self.out_cotangent);
        tables
    }

    pub fn sequences(&self) -> Sequences<'_> {
        match self.layout {
            Layout::Equal => Sequences::Equal,
            Layout::LeftPadded => Sequences::LeftPadded(&self.bounds),
            Layout::Packed => Sequences::Packed(&self.bounds),
        }
    }

    pub fn out_len(&self) -> usize {
        self.problem.out_len(&self.sequences())
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            transition: match self.problem.transition {
                TransitionKind::Delta => Transition::Delta {
                    beta: self.first.view(),
                },
                TransitionKind::LowRank => Transition::LowRank {
                    p: self.first.view(),
                    b: self.second.view(),
                },
            },
            log_decay: self.log_decay.as_ref().map(Table::view).into(),
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

    /// Sequence `b` alone.
    pub fn sequence(&self, b: usize) -> Self {
        let span = self.sequences().span(b, self.problem.time);
        let len = self.problem.heads * self.problem.head_state_len();
        let part = |state: &[f32]| state[b * len..(b + 1) * len].to_vec();
        Self {
            problem: Problem {
                batch: 1,
                time: span.len(),
                ..self.problem
            },
            layout: Layout::Equal,
            bounds: Vec::new(),
            state: part(&self.state),
            state_cotangent: self.state_cotangent.as_deref().map(part),
            ..self.rows(span)
        }
    }

    /// Tokens `tokens` of a single sequence, beginning from `state`.
    pub fn segment(&self, tokens: std::ops::Range<usize>, state: Vec<f32>) -> Self {
        assert!(self.problem.batch == 1 && matches!(self.layout, Layout::Equal));
        Self {
            problem: Problem {
                time: tokens.len(),
                ..self.problem
            },
            state,
            ..self.rows(tokens)
        }
    }

    /// The same with every number moved by at most one unit in its last place, as rounding might have left it.
    pub fn rounded(&self) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let mut moved = self.clone();
        let mut values: Vec<&mut f32> = moved.state.iter_mut().collect();
        values.extend(moved.state_cotangent.iter_mut().flatten());
        values
            .into_iter()
            .for_each(|x| *x *= 1.0 + f32::EPSILON * rng.random_range(-1.0_f32..=1.0).round());
        for table in moved.tables() {
            for x in &mut table.values {
                *x *= 1.0 + f32::EPSILON * rng.random_range(-1.0_f32..=1.0).round();
            }
        }
        moved
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let mut part = self.clone();
        for table in part.tables() {
            *table = table.segment(rows.clone());
        }
        part
    }

    /// Runs `form` on gradients of NaN.
    pub fn gradients<T: Copy + From<f32>>(
        &self,
        form: impl FnOnce(&mut Gradients<T>) -> Result<(), DeltaRuleError>,
    ) -> Owned<T> {
        let nan = |len: usize| vec![T::from(f32::NAN); len];
        let rows = self.sequences().rows(self.problem.batch, self.problem.time);
        let mut owned = Owned {
            query: nan(rows * self.query.cols),
            key: nan(rows * self.key.cols),
            value: nan(rows * self.value.cols),
            first: nan(rows * self.first.cols),
            second: nan(rows * self.second.cols),
            log_decay: self.log_decay.as_ref().map(|table| nan(rows * table.cols)),
            state: nan(self.state.len()),
        };
        let mut gradients = Gradients {
            query: &mut owned.query,
            key: &mut owned.key,
            value: &mut owned.value,
            transition: match self.problem.transition {
                TransitionKind::Delta => TransitionGradients::Delta {
                    beta: &mut owned.first,
                },
                TransitionKind::LowRank => TransitionGradients::LowRank {
                    p: &mut owned.first,
                    b: &mut owned.second,
                },
            },
            log_decay: owned.log_decay.as_deref_mut().into(),
            state: &mut owned.state,
        };
        form(&mut gradients).expect("valid");
        owned
    }

    /// Output and final state by the reference.
    pub fn by_reference(&self) -> (Vec<f64>, Vec<f64>) {
        let mut state: Vec<f64> = self.state.iter().map(|x| f64::from(*x)).collect();
        let mut out = vec![f64::NAN; self.out_len()];
        reference::delta_rule(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    /// Gradients by the reference.
    pub fn reference_gradients(&self) -> Owned<f64> {
        let state: Vec<f64> = self.state.iter().map(|x| f64::from(*x)).collect();
        self.gradients(|gradients| {
            reference::backward(
                &self.problem,
                &self.inputs(),
                &state,
                &self.cotangents(),
                gradients,
            )
        })
    }

    /// ⟨cotangents, results⟩ by the reference.
    pub fn loss(&self) -> f64 {
        let (out, state) = self.by_reference();
        let width = self.out_cotangent.cols;
        let mut loss = 0.0;
        for b in 0..self.problem.batch {
            for row in self.sequences().span(b, self.problem.time) {
                let cotangent = self.out_cotangent.view().row(row);
                loss += dot(cotangent, &out[row * width..][..width]);
            }
        }
        loss + self.state_cotangent.as_ref().map_or(0.0, |c| dot(c, &state))
    }
}

fn dot(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum()
}

/// ‖found − expected‖ relative to the larger of ‖expected‖ and 5 % of what values of size 1 would have: data here are of
/// that size, and a few values that cancel by chance say nothing about the arithmetic. NaN stays NaN.
pub fn error<F: Copy + Into<f64>>(found: &[F], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers of values");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(expected).map(|(f, e)| (*f).into() - e));
    let size = norm(&mut expected.iter().copied());
    let floor = 0.05 * (expected.len().max(1) as f64).sqrt();
    off / if size > floor { size } else { floor }
}
