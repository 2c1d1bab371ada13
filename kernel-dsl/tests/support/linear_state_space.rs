//! Linear state spaces with their inputs and cotangents, as tests draw them, and what a dense matrix makes of them.

// Each test binary uses its own part of this module.
#![allow(dead_code, unused_imports)]

use proptest::prelude::*;
use pulp::c64;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::linear_state_space::{
    Cotangents, GradientBuffers, Gradients, Inputs, Outputs, Problem, Results, Rule, Spectrum, backward,
    reference,
};

#[path = "system_closeness.rs"]
mod closeness;
#[path = "dense_system.rs"]
mod dense_system;

pub use closeness::close;
pub use dense_system::{Dense, doubled, solve};

use super::layouts::{Layout, any_layout};
use super::support::differences::{compare, inner};

/// What a test draws.
#[derive(Clone, Debug)]
pub struct Spec {
    pub batch: usize,
    pub time: usize,
    pub layout: Layout,
    pub channels: usize,
    pub outputs: usize,
    pub state_dim: usize,
    pub copies: usize,
    pub rank: usize,
    pub rule: Rule,
    pub spectrum: Spectrum,
    pub token_steps: bool,
    pub skip: bool,
    pub state: bool,
    pub state_cotangent: bool,
    /// Values between the rows of token views.
    pub gap: usize,
    /// Largest imaginary part of an eigenvalue.
    pub frequency: f32,
    pub seed: u64,
}

impl Spec {
    /// S4D, or S4 with a rank, as models have them.
    pub fn of_model(rank: usize, (time, channels, state_dim): (usize, usize, usize)) -> Self {
        Self {
            batch: 2,
            time,
            layout: Layout::Equal,
            channels,
            outputs: 1,
            state_dim,
            copies: channels,
            rank,
            rule: if rank > 0 {
                Rule::Bilinear
            } else {
                Rule::ZeroOrderHold
            },
            spectrum: Spectrum::ConjugatePairs,
            token_steps: false,
            skip: true,
            state: true,
            state_cotangent: true,
            gap: 0,
            frequency: 60.0,
            seed: 11,
        }
    }
}

/// A problem with everything that it reads, and the cotangents of what it gives.
#[derive(Clone, Debug)]
pub struct Data {
    pub spec: Spec,
    pub input: Vec<f32>,
    pub token_step_size: Option<Vec<f32>>,
    pub step_size: Option<Vec<f32>>,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub c: Vec<f32>,
    pub low_rank: Option<Vec<f32>>,
    pub skip: Option<Vec<f32>>,
    pub state: Option<Vec<f32>>,
    pub out_cotangent: Vec<f32>,
    pub state_cotangent: Option<Vec<f32>>,
}

struct Source(StdRng);

impl Source {
    fn values(&mut self, len: usize, range: std::ops::Range<f32>) -> Vec<f32> {
        (0..len).map(|_| self.0.random_range(range.clone())).collect()
    }
}

impl Data {
    pub fn new(spec: Spec) -> Self {
        let mut source = Source(StdRng::seed_from_u64(spec.seed));
        let rows = spec
            .layout
            .sequences()
            .rows(spec.batch, spec.layout.time(spec.time));
        let Spec {
            channels,
            outputs,
            state_dim,
            copies,
            rank,
            gap,
            ..
        } = spec;
        let modes = copies * state_dim;
        let a = (0..modes).flat_map(|_| {
            if spec.rule == Rule::Given {
                let angle = source.values(1, -3.2..3.2)[0];
                let radius = 1.0 - source.values(1, 0.001..0.5)[0].powi(2);
                return [radius * angle.cos(), radius * angle.sin()];
            }
            let decay = -source.values(1, 0.3..1.4)[0].powi(2);
            [decay, source.values(1, -spec.frequency..spec.frequency)[0]]
        });
        let a: Vec<f32> = a.collect();
        let tokens = |source: &mut Source, cols, range| source.values(rows * (cols + gap), range);
        let with_steps = spec.rule != Rule::Given;
        Self {
            input: tokens(&mut source, channels, -1.0..1.0),
            token_step_size: (with_steps && spec.token_steps)
                .then(|| tokens(&mut source, channels, 0.002..0.15)),
            step_size: (with_steps && !spec.token_steps).then(|| source.values(channels, 0.005..0.15)),
            a,
            b: source.values(2 * modes, -1.0..1.0),
            c: source.values(2 * outputs * channels * state_dim, -1.0..1.0),
            low_rank: (rank > 0).then(|| source.values(2 * rank * modes, -1.0..1.0)),
            skip: spec.skip.then(|| source.values(outputs * channels, -1.0..1.0)),
            state: spec
                .state
                .then(|| source.values(2 * spec.batch * channels * state_dim, -1.0..1.0)),
            out_cotangent: tokens(&mut source, outputs * channels, -1.0..1.0),
            state_cotangent: spec
                .state_cotangent
                .then(|| source.values(2 * spec.batch * channels * state_dim, -1.0..1.0)),
            spec,
        }
    }

    pub fn problem(&self) -> Problem<'_> {
        let spec = &self.spec;
        Problem {
            batch: spec.batch,
            time: spec.layout.time(spec.time),
            sequences: spec.layout.sequences(),
            channels: spec.channels,
            outputs: spec.outputs,
            state_dim: spec.state_dim,
            copies: spec.copies,
            rank: spec.rank,
            rule: spec.rule,
            spectrum: spec.spectrum,
        }
    }

    pub fn view<'a>(&self, values: &'a [f32], cols: usize) -> Rows<'a> {
        Rows::new(values, self.problem().rows(), cols, cols + self.spec.gap).expect("whole rows")
    }

    pub fn inputs(&self) -> Inputs<'_> {
        let channels = self.spec.channels;
        Inputs {
            input: self.view(&self.input, channels),
            token_step_size: self
                .token_step_size
                .as_deref()
                .map(|steps| self.view(steps, channels)),
            step_size: self.step_size.as_deref(),
            a: &self.a,
            b: &self.b,
            c: &self.c,
            low_rank: self.low_rank.as_deref(),
            skip: self.skip.as_deref(),
            state: self.state.as_deref(),
        }
    }

    pub fn cotangents(&self) -> Cotangents<'_> {
        Cotangents {
            out: Some(self.view(&self.out_cotangent, self.spec.outputs * self.spec.channels)),
            state: self.state_cotangent.as_deref(),
        }
    }

    /// Output and final state of a form.
    pub fn run<E: std::fmt::Debug>(
        &self,
        form: impl FnOnce(&Problem, &Inputs, &mut Outputs) -> Result<(), E>,
    ) -> (Vec<f32>, Vec<f32>) {
        let problem = self.problem();
        let (mut out, mut state) = (
            vec![f32::NAN; problem.out_len()],
            vec![f32::NAN; problem.state_len()],
        );
        let outputs = &mut Outputs {
            out: &mut out,
            state: &mut state,
        };
        form(&problem, &self.inputs(), outputs).expect("valid");
        (out, state)
    }

    pub fn by_reference(&self) -> (Vec<f64>, Vec<f64>) {
        let problem = self.problem();
        let (mut out, mut state) = (
            vec![f64::NAN; problem.out_len()],
            vec![f64::NAN; problem.state_len()],
        );
        let outputs = &mut Results {
            out: &mut out[..],
            state: &mut state[..],
        };
        reference::sequential(&problem, &self.inputs(), outputs).expect("valid");
        (out, state)
    }

    /// Buffers for gradients of what there is.
    pub fn buffers<T: Copy>(&self, value: T) -> GradientBuffers<T> {
        let tokens = self.problem().rows() * self.spec.channels;
        let like = |values: &Option<Vec<f32>>| values.as_ref().map(|values| vec![value; values.len()]);
        GradientBuffers {
            input: vec![value; tokens],
            token_step_size: self.token_step_size.as_ref().map(|_| vec![value; tokens]),
            step_size: like(&self.step_size),
            a: vec![value; self.a.len()],
            b: vec![value; self.b.len()],
            c: vec![value; self.c.len()],
            low_rank: like(&self.low_rank),
            skip: like(&self.skip),
            state: like(&self.state),
        }
    }

    pub fn gradients(&self, chunk_size: usize) -> GradientBuffers {
        let mut found = self.buffers(f32::NAN);
        let mut gradients: Gradients = found.as_written();
        backward(
            &self.problem(),
            &self.inputs(),
            chunk_size,
            &self.cotangents(),
            &mut gradients,
        )
        .expect("valid");
        found
    }

    pub fn reference_gradients(&self) -> GradientBuffers<f64> {
        let mut found = self.buffers(f64::NAN);
        reference::backward(
            &self.problem(),
            &self.inputs(),
            &self.cotangents(),
            &mut found.as_written(),
        )
        .expect("valid");
        found
    }

    /// Σ ⟨cotangent, result⟩ of the reference.
    fn loss(&self) -> f64 {
        let (out, state) = self.by_reference();
        let cols = self.spec.outputs * self.spec.channels;
        let view = self.view(&self.out_cotangent, cols);
        let of_out: f64 = (0..view.rows())
            .map(|row| inner(view.row(row), &out[row * cols..(row + 1) * cols]))
            .sum();
        of_out
            + self
                .state_cotangent
                .as_ref()
                .map_or(0.0, |cotangent| inner(cotangent, &state))
    }

    /// Whether the gradients of the reference are those of the reference. Rows have no gaps.
    pub fn check_reference_gradients(&self) -> Result<(), String> {
        assert_eq!(self.spec.gap, 0, "gradients have no gaps");
        let found = self.reference_gradients();
        let fields: [(&str, Option<&Vec<f64>>, Field); 9] = [
            ("input", Some(&found.input), |data| Some(&mut data.input)),
            ("token_step_size", found.token_step_size.as_ref(), |data| {
                data.token_step_size.as_mut()
            }),
            ("step_size", found.step_size.as_ref(), |data| {
                data.step_size.as_mut()
            }),
            ("a", Some(&found.a), |data| Some(&mut data.a)),
            ("b", Some(&found.b), |data| Some(&mut data.b)),
            ("c", Some(&found.c), |data| Some(&mut data.c)),
            ("low_rank", found.low_rank.as_ref(), |data| data.low_rank.as_mut()),
            ("skip", found.skip.as_ref(), |data| data.skip.as_mut()),
            ("state", found.state.as_ref(), |data| data.state.as_mut()),
        ];
        for (name, gradient, field) in fields {
            let Some(gradient) = gradient else { continue };
            let mut moved = self.clone();
            let values = field(&mut moved).expect("there is a gradient").clone();
            compare(name, &values, gradient, |values| {
                if let Some(field) = field(&mut moved) {
                    field.copy_from_slice(values);
                }
                moved.loss()
            })?;
        }
        Ok(())
    }

    /// The part of a view's values that holds some rows.
    fn cut(&self, values: &[f32], cols: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
        let stride = cols + self.spec.gap;
        values[rows.start * stride..rows.end * stride].to_vec()
    }

    /// The tokens of some rows as a single sequence from a state.
    pub fn segment(&self, rows: std::ops::Range<usize>, state: Option<&[f32]>) -> Self {
        let (channels, outputs) = (self.spec.channels, self.spec.outputs);
        let mut part = self.clone();
        part.spec = Spec {
            batch: 1,
            time: rows.len(),
            layout: Layout::Equal,
            ..self.spec.clone()
        };
        part.input = self.cut(&self.input, channels, rows.clone());
        part.token_step_size = self
            .token_step_size
            .as_ref()
            .map(|steps| self.cut(steps, channels, rows.clone()));
        part.out_cotangent = self.cut(&self.out_cotangent, outputs * channels, rows);
        part.state = state.map(<[f32]>::to_vec);
        part.spec.state = part.state.is_some();
        part.state_cotangent = None;
        part
    }

    /// The complex values of an operand.
    pub fn complex(values: &[f32]) -> Vec<c64> {
        let pairs = values.chunks_exact(2);
        pairs
            .map(|pair| c64::new(f64::from(pair[0]), f64::from(pair[1])))
            .collect()
    }

    /// Output `output` of channel `h` of a sequence that is the only one, by its kernel: Σ_l K_l u_{t−l} + 2 Re(C Ā^{t+1} x_0) + D u_t,
    /// with a dense Ā of conjugate pairs that a linear system gives.
    pub fn by_convolution(&self, output: usize, h: usize) -> Vec<f64> {
        let (n, copy) = (self.spec.state_dim, h % self.spec.copies);
        let of = |values: &[f32], at: usize| Self::complex(&values[2 * n * at..][..2 * n]);
        let c = of(&self.c, output * self.spec.channels + h);
        let p: Vec<Vec<c64>> = (0..self.spec.rank)
            .map(|k| {
                of(
                    self.low_rank.as_deref().unwrap_or_default(),
                    k * self.spec.copies + copy,
                )
            })
            .collect();
        let step = f64::from(self.step_size.as_ref().expect("one step size")[h]);
        let system = Dense::new(self.spec.rule, step, &of(&self.a, copy), &of(&self.b, copy), &p);
        let time = self.spec.time;
        let mut response = system.input.clone();
        let mut rest = doubled(&of(self.state.as_deref().expect("a state"), h));
        let (mut kernel, mut of_state) = (Vec::new(), Vec::new());
        let read = |x: &[c64]| doubled(&c).iter().zip(x).map(|(c, x)| (c * x).re).sum::<f64>();
        for _ in 0..time {
            kernel.push(read(&response));
            response = system.apply(&response);
            rest = system.apply(&rest);
            of_state.push(read(&rest));
        }
        let u = self.view(&self.input, self.spec.channels);
        let u: Vec<f64> = (0..time).map(|t| f64::from(u.row(t)[h])).collect();
        let skip = self
            .skip
            .as_ref()
            .map_or(0.0, |skip| f64::from(skip[output * self.spec.channels + h]));
        let sum = |t: usize| (0..=t).map(|l| kernel[l] * u[t - l]).sum::<f64>();
        (0..time).map(|t| sum(t) + of_state[t] + skip * u[t]).collect()
    }
}

/// Some input, where there is one.
type Field = fn(&mut Data) -> Option<&mut Vec<f32>>;

/// A rule, and a rank and step sizes that go with it.
fn any_rule() -> impl Strategy<Value = (Rule, Spectrum, usize, bool)> {
    let rules = [Rule::Given, Rule::ZeroOrderHold, Rule::Bilinear, Rule::Mixed];
    let spectra = [Spectrum::ConjugatePairs, Spectrum::Complete];
    prop_oneof![
        (0..4_usize, 0..2_usize, any::<bool>()).prop_map(move |(rule, spectrum, tokens)| (
            rules[rule],
            spectra[spectrum],
            0,
            tokens
        )),
        (1..4_usize).prop_map(|rank| (Rule::Bilinear, Spectrum::ConjugatePairs, rank, false)),
    ]
}

prop_compose! {
    /// Any data of up to `time` tokens a sequence, and up to `channels` channels.
    pub fn any_data(time: usize, channels: usize)(
        batch in 0..4_usize,
        time in 0..=time,
        per_copy in 0..=channels.div_ceil(3),
        sizes in (1..4_usize, 0..3_usize, 0..20_usize),
        rule in any_rule(),
        options in (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_usize),
        seed in any::<u64>(),
    )(
        layout in any_layout(batch, time),
        (batch, time, per_copy, sizes, rule, options, seed) in Just((batch, time, per_copy, sizes, rule, options, seed)),
    ) -> Data {
        let ((copies, outputs, state_dim), (rule, spectrum, rank, token_steps)) = (sizes, rule);
        let (skip, state, state_cotangent, gap) = options;
        Data::new(Spec {
            batch, time, layout, channels: copies * per_copy, outputs, state_dim, copies, rank, rule, spectrum, token_steps, skip,
            state, state_cotangent, gap, frequency: 20.0, seed,
        })
    }
}

prop_compose! {
    /// A small one with few turns, for differences.
    pub fn small_data()(data in any_data(5, 3)) -> Data {
        let mut data = data;
        data.spec.gap = 0;
        data.spec.frequency = 2.0;
        data.spec.state_dim = data.spec.state_dim.min(3);
        let mut data = Data::new(data.spec);
        if data.spec.rule == Rule::Given {
            // Room for a difference below the magnitude of 1.
            data.a.iter_mut().for_each(|a| *a *= 0.99);
        }
        data
    }
}

prop_compose! {
    /// Data of one sequence, with up to three places to cut it.
    pub fn any_cut()(
        data in any_data(4, 20),
        time in 0..80_usize,
        cuts in proptest::collection::vec(0..80_usize, 0..4),
    ) -> (Data, Vec<usize>) {
        let spec = Spec { batch: 1, time, layout: Layout::Equal, ..data.spec };
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(time)).chain([0, time]).collect();
        cuts.sort_unstable();
        (Data::new(spec), cuts)
    }
}
