//! The selective scan.

mod errors;

use proptest::prelude::*;
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::selective_scan::{
    Cotangents, Element, ElementMut, Gradients, Inputs, Problem, ScanError, apply, backward, compose,
    element, reference, sequential, step,
};

use super::layout::{Layout, any_layout};
use super::{check, config, differences, on_threads, random, widened};

/// Allowed relative error of outputs and states, times √(tokens + 1).
const TOLERANCE: f64 = 1e-6;
/// Allowed relative error of gradients, times √(tokens + 1).
const GRADIENT_TOLERANCE: f64 = 2e-6;

/// A problem with its inputs, whose rows lie in wider buffers.
#[derive(Clone, Debug)]
struct Data {
    problem: Problem,
    layout: Layout,
    gap: usize,
    input: Vec<f32>,
    step_size: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    skip: Option<Vec<f32>>,
    gate: Option<Vec<f32>>,
    state: Vec<f32>,
    cotangent: Vec<f32>,
    state_cotangent: Option<Vec<f32>>,
}

impl Data {
    fn new(problem: Problem, layout: Layout, options: (usize, bool, bool, bool), seed: u64) -> Self {
        let (gap, skip, gate, state_cotangent) = options;
        let rows = problem.rows(&layout.sequences());
        let (channels, values) = (problem.channels, problem.groups * problem.state_dim);
        Self {
            problem,
            gap,
            input: random(seed, rows * (channels + gap), -1.0..1.0),
            step_size: random(seed ^ 1, rows * (channels + gap), 0.001..0.5),
            a: random(seed ^ 2, channels * problem.state_dim, -4.0..-0.01),
            b: random(seed ^ 3, rows * (values + gap), -1.0..1.0),
            c: random(seed ^ 4, rows * (values + gap), -1.0..1.0),
            skip: skip.then(|| random(seed ^ 5, channels, -1.0..1.0)),
            gate: gate.then(|| random(seed ^ 6, rows * (channels + gap), -3.0..3.0)),
            state: random(seed ^ 7, problem.state_len(), -1.0..1.0),
            cotangent: random(seed ^ 8, rows * (channels + gap), -1.0..1.0),
            state_cotangent: state_cotangent.then(|| random(seed ^ 9, problem.state_len(), -1.0..1.0)),
            layout,
        }
    }

    fn rows(&self) -> usize {
        self.problem.rows(&self.layout.sequences())
    }

    fn view<'a>(&self, values: &'a [f32], columns: usize) -> Rows<'a> {
        Rows::new(values, self.rows(), columns, columns + self.gap).expect("whole rows")
    }

    fn inputs(&self) -> Inputs<'_> {
        let (channels, values) = (
            self.problem.channels,
            self.problem.groups * self.problem.state_dim,
        );
        Inputs {
            input: self.view(&self.input, channels),
            step_size: self.view(&self.step_size, channels),
            a: &self.a,
            b: self.view(&self.b, values),
            c: self.view(&self.c, values),
            skip: self.skip.as_deref(),
            gate: self.gate.as_deref().map(|gate| self.view(gate, channels)),
            sequences: self.layout.sequences(),
        }
    }

    fn cotangents(&self) -> Cotangents<'_> {
        Cotangents {
            out: self.view(&self.cotangent, self.problem.channels),
            state: self.state_cotangent.as_deref(),
        }
    }

    /// Output and final state.
    fn run(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut state, mut out) = (self.state.clone(), vec![f32::NAN; self.out_len()]);
        sequential(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    fn out_len(&self) -> usize {
        self.rows() * self.problem.channels
    }

    fn by_reference(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut state, mut out) = (widened(&self.state), vec![f64::NAN; self.out_len()]);
        reference::selective_scan(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    /// The part of a view's values that holds the rows `rows`.
    fn cut(&self, values: &[f32], columns: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
        let stride = columns + self.gap;
        values[rows.start * stride..rows.end * stride].to_vec()
    }

    /// The tokens `rows` as a single sequence from `state`, which is left with `state_cotangent`.
    fn segment(
        &self,
        rows: std::ops::Range<usize>,
        state: &[f32],
        state_cotangent: Option<Vec<f32>>,
    ) -> Self {
        let (channels, values) = (
            self.problem.channels,
            self.problem.groups * self.problem.state_dim,
        );
        let cut = |data: &[f32], columns| self.cut(data, columns, rows.clone());
        Self {
            problem: Problem {
                batch: 1,
                time: rows.len(),
                ..self.problem
            },
            layout: Layout::Equal,
            gap: self.gap,
            input: cut(&self.input, channels),
            step_size: cut(&self.step_size, channels),
            a: self.a.clone(),
            b: cut(&self.b, values),
            c: cut(&self.c, values),
            skip: self.skip.clone(),
            gate: self.gate.as_ref().map(|gate| cut(gate, channels)),
            state: state.to_vec(),
            cotangent: cut(&self.cotangent, channels),
            state_cotangent,
        }
    }

    /// Sequence `b` alone.
    fn alone(&self, b: usize) -> Self {
        let len = self.problem.channels * self.problem.state_dim;
        let of_b = b * len..(b + 1) * len;
        let cotangent = self
            .state_cotangent
            .as_ref()
            .map(|state| state[of_b.clone()].to_vec());
        let rows = self.layout.sequences().span(b, self.problem.time);
        self.segment(rows, &self.state[of_b], cotangent)
    }

    /// Σ ⟨cotangent, result⟩ of the reference.
    fn loss(&self) -> f64 {
        let (out, state) = self.by_reference();
        let cotangent = self.cotangents().out;
        let rows = self
            .layout
            .spans(self.problem.batch, self.problem.time)
            .into_iter()
            .flatten();
        let of_out = rows.flat_map(|row| {
            let out = &out[row * self.problem.channels..];
            cotangent.row(row).iter().zip(out).map(|(c, y)| f64::from(*c) * y)
        });
        let of_state = self
            .state_cotangent
            .iter()
            .flatten()
            .zip(&state)
            .map(|(c, h)| f64::from(*c) * h);
        of_out.sum::<f64>() + of_state.sum::<f64>()
    }
}

/// Buffers for gradients, and their names.
#[derive(Debug, PartialEq)]
struct Buffers<T>([Vec<T>; 8], bool, bool);

/// Some input, where there is one.
type Field = fn(&mut Data) -> Option<&mut Vec<f32>>;

const NAMES: [&str; 8] = ["input", "step_size", "a", "b", "c", "skip", "gate", "state"];

impl<T: Copy> Buffers<T> {
    fn new(data: &Data, value: T) -> Self {
        let (rows, channels) = (data.rows(), data.problem.channels);
        let values = data.problem.groups * data.problem.state_dim;
        let [skip, gate] = [(&data.skip, channels), (&data.gate, rows * channels)]
            .map(|(input, len)| input.as_ref().map_or(0, |_| len));
        let lengths = [
            rows * channels,
            rows * channels,
            data.a.len(),
            rows * values,
            rows * values,
            skip,
            gate,
            data.state.len(),
        ];
        Self(
            lengths.map(|len| vec![value; len]),
            data.skip.is_some(),
            data.gate.is_some(),
        )
    }

    fn gradients(&mut self) -> Gradients<'_, T> {
        let Self([input, step_size, a, b, c, skip, gate, state], has_skip, has_gate) = self;
        Gradients {
            input,
            step_size,
            a,
            b,
            c,
            skip: has_skip.then_some(skip),
            gate: has_gate.then_some(gate),
            state,
        }
    }
}

fn gradients(data: &Data, chunk_size: usize) -> Buffers<f32> {
    let mut found = Buffers::new(data, f32::NAN);
    backward(
        &data.problem,
        &data.inputs(),
        chunk_size,
        &data.state,
        &data.cotangents(),
        &mut found.gradients(),
    )
    .expect("valid");
    found
}

fn reference_gradients(data: &Data) -> Buffers<f64> {
    let mut found = Buffers::new(data, f64::NAN);
    reference::backward(
        &data.problem,
        &data.inputs(),
        &widened(&data.state),
        &data.cotangents(),
        &mut found.gradients(),
    )
    .expect("valid");
    found
}

prop_compose! {
    /// Any data with up to `time - 1` tokens and `channels - 1` channels per group.
    fn any_data(time: usize, channels: usize)(
        (layout, batch, time) in any_layout(0..4, 0..time),
        groups in 1..4_usize,
        per_group in 0..channels,
        state_dim in 0..36_usize,
        options in (0..4_usize, any::<bool>(), any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) -> Data {
        let problem = Problem { batch, time, channels: groups * per_group, state_dim, groups };
        Data::new(problem, layout, options, seed)
    }
}

prop_compose! {
    /// Any data of one sequence, with up to three places to cut it.
    fn any_cut()(
        mut data in any_data(2, 20),
        time in 0..40_usize,
        cuts in proptest::collection::vec(0..40_usize, 0..4),
        seed in any::<u64>(),
    ) -> (Data, Vec<usize>) {
        let problem = Problem { batch: 1, time, ..data.problem };
        let options = (data.gap, data.skip.is_some(), data.gate.is_some(), data.state_cotangent.is_some());
        data = Data::new(problem, Layout::Equal, options, seed);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(time)).chain([0, time]).collect();
        cuts.sort_unstable();
        (data, cuts)
    }
}

fn tolerance(data: &Data) -> f64 {
    (data.problem.time as f64 + 1.0).sqrt()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_scan_equals_its_definition(data in any_data(40, 40)) {
        let (out, state) = data.run();
        let (expected_out, expected_state) = data.by_reference();
        check("out", TOLERANCE * tolerance(&data), &out, &expected_out)?;
        check("state", TOLERANCE * tolerance(&data), &state, &expected_state)?;
    }

    #[test]
    fn splitting_a_sequence_keeps_the_state((data, cuts) in any_cut()) {
        let (mut state, mut out) = (data.state.clone(), Vec::new());
        for bounds in cuts.windows(2) {
            let (part, end) = data.segment(bounds[0]..bounds[1], &state, None).run();
            out.extend(part);
            state = end;
        }
        let (expected_out, expected_state) = data.by_reference();
        check("out", TOLERANCE * tolerance(&data), &out, &expected_out)?;
        check("state", TOLERANCE * tolerance(&data), &state, &expected_state)?;
    }

    #[test]
    fn steps_equal_the_definition((data, _) in any_cut()) {
        let (mut state, mut out) = (data.state.clone(), Vec::new());
        for t in 0..data.problem.time {
            let token = data.segment(t..t + 1, &state, None);
            let mut y = vec![f32::NAN; data.problem.channels];
            step(&token.problem, &token.inputs(), &mut state, &mut y).expect("valid");
            out.extend(y);
        }
        let (expected_out, expected_state) = data.by_reference();
        check("out", TOLERANCE * tolerance(&data), &out, &expected_out)?;
        check("state", TOLERANCE * tolerance(&data), &state, &expected_state)?;
    }

    #[test]
    fn sequences_together_equal_each_alone(data in any_data(30, 20)) {
        let (out, state) = data.run();
        let (channels, len) = (data.problem.channels, data.problem.channels * data.problem.state_dim);
        let mut expected = vec![0.0; out.len()];
        for (b, rows) in data.layout.spans(data.problem.batch, data.problem.time).into_iter().enumerate() {
            let (part, end) = data.alone(b).run();
            expected[rows.start * channels..rows.end * channels].copy_from_slice(&part);
            prop_assert_eq!(&state[b * len..(b + 1) * len], &end[..]);
        }
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn elements_compose((data, cuts) in any_cut()) {
        let (channels, len) = (data.problem.channels, data.state.len());
        let of = |rows| {
            let data = data.segment(rows, &data.state, None);
            let (mut sums, mut update) = (vec![f32::NAN; channels], vec![f32::NAN; len]);
            element(&data.problem, &data.inputs(), &mut sums, &mut update).expect("valid");
            (sums, update)
        };
        let mut joined = (vec![0.0; channels], vec![0.0; len]);
        for bounds in cuts.windows(2) {
            let (mut sums, mut update) = of(bounds[0]..bounds[1]);
            let first = Element { step_size_sum: &joined.0, update: &joined.1 };
            let second = ElementMut { step_size_sum: &mut sums, update: &mut update };
            compose(&data.problem, &data.a, first, second).expect("valid");
            joined = (sums, update);
        }
        let whole = of(0..data.problem.time);
        check("step_size_sum", TOLERANCE, &joined.0, &widened(&whole.0))?;
        check("update", TOLERANCE * tolerance(&data), &joined.1, &widened(&whole.1))?;
        let mut state = data.state.clone();
        let element = Element { step_size_sum: &joined.0, update: &joined.1 };
        apply(&data.problem, &data.a, element, &mut state).expect("valid");
        check("state", TOLERANCE * tolerance(&data), &state, &data.by_reference().1)?;
    }

    #[test]
    fn gradients_equal_the_references(data in any_data(40, 40), chunk_size in 1..50_usize) {
        let (found, expected) = (gradients(&data, chunk_size), reference_gradients(&data));
        for (name, (found, expected)) in NAMES.iter().zip(found.0.iter().zip(&expected.0)) {
            check(name, GRADIENT_TOLERANCE * tolerance(&data), found, expected)?;
        }
    }

    #[test]
    fn gradients_pass_through_the_state((data, cuts) in any_cut()) {
        let mut states = vec![data.state.clone()];
        for bounds in cuts.windows(2) {
            let (_, end) = data.segment(bounds[0]..bounds[1], &states[states.len() - 1], None).run();
            states.push(end);
        }
        let mut cotangent = data.state_cotangent.clone();
        let mut a = vec![0.0; data.a.len()];
        for (i, bounds) in cuts.windows(2).enumerate().rev() {
            let part = data.segment(bounds[0]..bounds[1], &states[i], cotangent);
            let Buffers([_, _, part_a, .., state], ..) = gradients(&part, 8);
            a.iter_mut().zip(part_a).for_each(|(a, part)| *a += part);
            cotangent = Some(state);
        }
        let expected = reference_gradients(&data);
        check("a", GRADIENT_TOLERANCE * tolerance(&data), &a, &expected.0[2])?;
        check("state", GRADIENT_TOLERANCE * tolerance(&data), &cotangent.expect("set"), &expected.0[7])?;
    }

    #[test]
    fn the_references_gradients_equal_finite_differences(
        (layout, batch, time) in any_layout(1..3, 0..6),
        (groups, per_group, state_dim) in (1..3_usize, 1..3_usize, 1..4_usize),
        (skip, gate) in (any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) {
        let problem = Problem { batch, time, channels: groups * per_group, state_dim, groups };
        let mut data = Data::new(problem, layout, (0, skip, gate, true), seed);
        let expected = reference_gradients(&data);
        let fields: [Field; 8] = [
            |data| Some(&mut data.input),
            |data| Some(&mut data.step_size),
            |data| Some(&mut data.a),
            |data| Some(&mut data.b),
            |data| Some(&mut data.c),
            |data| data.skip.as_mut(),
            |data| data.gate.as_mut(),
            |data| Some(&mut data.state),
        ];
        for (name, (field, expected)) in NAMES.iter().zip(fields.iter().zip(&expected.0)) {
            let Some(values) = field(&mut data).map(|values| values.clone()) else { continue };
            let found = differences(&values, |changed| {
                if let Some(values) = field(&mut data) {
                    values.copy_from_slice(changed);
                }
                data.loss()
            });
            if let Some(field) = field(&mut data) {
                field.copy_from_slice(&values);
            }
            check(name, 1e-5, &found, expected)?;
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let problem = Problem {
        batch: 3,
        time: 70,
        channels: 2 * 150,
        state_dim: 16,
        groups: 2,
    };
    let data = Data::new(
        problem,
        Layout::LeftPadded(vec![0, 3, 69]),
        (1, true, true, true),
        5,
    );
    let results = |threads| on_threads(threads, || (data.run(), gradients(&data, 16)));
    let expected = results(1);
    assert!(results(2) == expected && results(5) == expected);
}

/// A decay of 0.9999 over many tokens.
#[test]
fn long_memories_stay_exact() {
    let problem = Problem {
        batch: 1,
        time: 50_000,
        channels: 3,
        state_dim: 2,
        groups: 1,
    };
    let mut data = Data::new(problem, Layout::Equal, (0, false, false, false), 9);
    data.step_size.fill(0.001);
    data.a = vec![-0.1, -0.01, -0.1, -0.02, -0.03, -0.5];
    let (out, state) = data.run();
    let (expected_out, expected_state) = data.by_reference();
    check("out", 3e-5, &out, &expected_out).expect("close");
    check("state", 3e-5, &state, &expected_state).expect("close");
}
