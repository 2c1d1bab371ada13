//! Shift systems with their inputs and cotangents, as tests draw them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::shift_state_space::{
    Cotangents, GradientBuffers, Inputs, Outputs, Problem, Results, backward, reference,
};

use super::layouts::{Layout, any_layout};
use super::linear_state_space::close;
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
    pub skip: bool,
    pub state: bool,
    pub state_cotangent: bool,
    /// Values between the rows of token views.
    pub gap: usize,
    pub seed: u64,
}

/// A problem with everything that it reads, and the cotangents of what it gives.
#[derive(Clone, Debug)]
pub struct Data {
    pub spec: Spec,
    pub input: Vec<f32>,
    pub b: Vec<f32>,
    pub c: Vec<f32>,
    pub skip: Option<Vec<f32>>,
    pub state: Option<Vec<f32>>,
    pub out_cotangent: Vec<f32>,
    pub state_cotangent: Option<Vec<f32>>,
}

impl Data {
    pub fn new(spec: Spec) -> Self {
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let mut values = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let rows = spec
            .layout
            .sequences()
            .rows(spec.batch, spec.layout.time(spec.time));
        let Spec {
            batch,
            channels,
            outputs,
            state_dim,
            gap,
            ..
        } = spec;
        Self {
            input: values(rows * (channels + gap)),
            b: values(channels * state_dim),
            c: values(outputs * channels * state_dim),
            skip: spec.skip.then(|| values(outputs * channels)),
            state: spec.state.then(|| values(batch * channels * state_dim)),
            out_cotangent: values(rows * (outputs * channels + gap)),
            state_cotangent: spec.state_cotangent.then(|| values(batch * channels * state_dim)),
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
        }
    }

    pub fn view<'a>(&self, values: &'a [f32], cols: usize) -> Rows<'a> {
        Rows::new(values, self.problem().rows(), cols, cols + self.spec.gap).expect("whole rows")
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            input: self.view(&self.input, self.spec.channels),
            b: &self.b,
            c: &self.c,
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

    fn buffers<T: Copy>(&self, value: T) -> GradientBuffers<T> {
        let like = |values: &Option<Vec<f32>>| values.as_ref().map(|values| vec![value; values.len()]);
        GradientBuffers {
            input: vec![value; self.problem().rows() * self.spec.channels],
            b: vec![value; self.b.len()],
            c: vec![value; self.c.len()],
            skip: like(&self.skip),
            state: like(&self.state),
        }
    }

    pub fn gradients(&self) -> GradientBuffers {
        let mut found = self.buffers(f32::NAN);
        backward(
            &self.problem(),
            &self.inputs(),
            &self.cotangents(),
            &mut found.as_written(),
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
        let fields: [(&str, Option<&Vec<f64>>, Field); 5] = [
            ("input", Some(&found.input), |data| Some(&mut data.input)),
            ("b", Some(&found.b), |data| Some(&mut data.b)),
            ("c", Some(&found.c), |data| Some(&mut data.c)),
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

    /// The tokens of some rows as a single sequence from a state.
    pub fn segment(&self, rows: std::ops::Range<usize>, state: Option<&[f32]>) -> Self {
        let cut = |values: &[f32], cols: usize| {
            let stride = cols + self.spec.gap;
            values[rows.start * stride..rows.end * stride].to_vec()
        };
        let mut part = self.clone();
        part.spec = Spec {
            batch: 1,
            time: rows.len(),
            layout: Layout::Equal,
            ..self.spec.clone()
        };
        part.input = cut(&self.input, self.spec.channels);
        part.out_cotangent = cut(&self.out_cotangent, self.spec.outputs * self.spec.channels);
        part.state = state.map(<[f32]>::to_vec);
        part.state_cotangent = None;
        part
    }
}

/// Some input, where there is one.
type Field = fn(&mut Data) -> Option<&mut Vec<f32>>;

/// Compares gradients.
pub fn close_gradients(
    allowed: f64,
    found: &GradientBuffers,
    expected: &GradientBuffers<f64>,
) -> Result<(), String> {
    for (name, found, expected) in [
        ("skip", &found.skip, &expected.skip),
        ("state", &found.state, &expected.state),
    ] {
        if let (Some(found), Some(expected)) = (found, expected) {
            close(name, allowed, found, expected)?;
        }
    }
    close("input", allowed, &found.input, &expected.input)?;
    close("b", allowed, &found.b, &expected.b)?;
    close("c", allowed, &found.c, &expected.c)
}

prop_compose! {
    /// Any data of up to `time` tokens a sequence, and up to `channels` channels.
    pub fn any_data(time: usize, channels: usize)(
        batch in 0..4_usize,
        time in 0..=time,
        sizes in (0..=channels, 0..3_usize, 0..40_usize),
        options in (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_usize),
        seed in any::<u64>(),
    )(
        layout in any_layout(batch, time),
        (batch, time, sizes, options, seed) in Just((batch, time, sizes, options, seed)),
    ) -> Data {
        let ((channels, outputs, state_dim), (skip, state, state_cotangent, gap)) = (sizes, options);
        Data::new(Spec { batch, time, layout, channels, outputs, state_dim, skip, state, state_cotangent, gap, seed })
    }
}
