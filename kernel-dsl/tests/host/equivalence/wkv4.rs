//! WKV-4.
//!
//! Keys, decays and maxima are multiples of 1/64 of a moderate size here, so that running maxima are exact: which operand of a
//! maximum is larger, and with it the gradient of the maximum, does not hang on rounding.

mod errors;

use std::ops::Range;

use proptest::prelude::*;
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::wkv4::{
    Cotangents, EMPTY_MAX, Element, ElementMut, Gradients, Inputs, Problem, apply, backward, compose,
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
    log_decay: Vec<f32>,
    bonus: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    state: Vec<f32>,
    cotangent: Vec<f32>,
    state_cotangent: Option<Vec<f32>>,
}

/// Which states come in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Past {
    Empty,
    Some,
}

/// Multiples of 1/64.
fn quantised(seed: u64, len: usize, range: Range<f32>) -> Vec<f32> {
    let values = random(seed, len, range);
    values.iter().map(|x| (x * 64.0).round() / 64.0).collect()
}

impl Data {
    /// `size` is that of the keys.
    fn new(problem: Problem, layout: Layout, (gap, past, size): (usize, Past, f32), seed: u64) -> Self {
        let rows = problem.rows(&layout.sequences());
        let channels = problem.channels;
        let mut state = problem.empty_state();
        if past == Past::Some && channels > 0 {
            let sums = random(seed ^ 5, state.len(), 0.5..3.0);
            let maxima = quantised(seed ^ 6, state.len(), -size..size);
            for (i, x) in state.iter_mut().enumerate() {
                *x = if i / channels % 3 == 2 { maxima[i] } else { sums[i] };
            }
        }
        Self {
            problem,
            layout,
            gap,
            log_decay: quantised(seed ^ 1, channels, -3.0..0.0),
            bonus: quantised(seed ^ 2, channels, -2.0..2.0),
            key: quantised(seed ^ 3, rows * (channels + gap), -size..size),
            value: random(seed ^ 4, rows * (channels + gap), -1.0..1.0),
            cotangent: random(seed ^ 7, rows * (channels + gap), -1.0..1.0),
            state_cotangent: seed
                .is_multiple_of(2)
                .then(|| random(seed ^ 8, state.len(), -1.0..1.0)),
            state,
        }
    }

    fn rows(&self) -> usize {
        self.problem.rows(&self.layout.sequences())
    }

    fn view<'a>(&self, values: &'a [f32]) -> Rows<'a> {
        let channels = self.problem.channels;
        Rows::new(values, self.rows(), channels, channels + self.gap).expect("whole rows")
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            log_decay: &self.log_decay,
            bonus: &self.bonus,
            key: self.view(&self.key),
            value: self.view(&self.value),
            sequences: self.layout.sequences(),
        }
    }

    fn cotangents(&self) -> Cotangents<'_> {
        Cotangents {
            out: self.view(&self.cotangent),
            state: self.state_cotangent.as_deref(),
        }
    }

    fn out_len(&self) -> usize {
        self.rows() * self.problem.channels
    }

    /// Output and final state.
    fn run(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut state, mut out) = (self.state.clone(), vec![f32::NAN; self.out_len()]);
        sequential(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    fn by_reference(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut state, mut out) = (widened(&self.state), vec![f64::NAN; self.out_len()]);
        reference::wkv4(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    /// The tokens `rows` as a single sequence from `state`, which is left with `state_cotangent`.
    fn segment(&self, rows: Range<usize>, state: &[f32], state_cotangent: Option<Vec<f32>>) -> Self {
        let stride = self.problem.channels + self.gap;
        let cut = |values: &[f32]| values[rows.start * stride..rows.end * stride].to_vec();
        Self {
            problem: Problem {
                batch: 1,
                time: rows.len(),
                ..self.problem
            },
            layout: Layout::Equal,
            key: cut(&self.key),
            value: cut(&self.value),
            cotangent: cut(&self.cotangent),
            state: state.to_vec(),
            state_cotangent,
            ..self.clone()
        }
    }

    /// Sequence `b` alone.
    fn alone(&self, b: usize) -> Self {
        let of_b = b * 3 * self.problem.channels..(b + 1) * 3 * self.problem.channels;
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

/// Buffers for gradients.
#[derive(Debug, PartialEq)]
struct Buffers<T>([Vec<T>; 5]);

const NAMES: [&str; 5] = ["log_decay", "bonus", "key", "value", "state"];

impl<T: Copy> Buffers<T> {
    fn new(data: &Data, value: T) -> Self {
        let channels = data.problem.channels;
        let lengths = [
            channels,
            channels,
            data.out_len(),
            data.out_len(),
            data.state.len(),
        ];
        Self(lengths.map(|len| vec![value; len]))
    }

    fn gradients(&mut self) -> Gradients<'_, T> {
        let Self([log_decay, bonus, key, value, state]) = self;
        Gradients {
            log_decay,
            bonus,
            key,
            value,
            state,
        }
    }
}

fn gradients(data: &Data, chunk_size: usize) -> Buffers<f32> {
    let mut found = Buffers::new(data, f32::NAN);
    let (inputs, cotangents) = (data.inputs(), data.cotangents());
    let mut into = found.gradients();
    backward(
        &data.problem,
        &inputs,
        chunk_size,
        &data.state,
        &cotangents,
        &mut into,
    )
    .expect("valid");
    found
}

fn reference_gradients(data: &Data) -> Buffers<f64> {
    let mut found = Buffers::new(data, f64::NAN);
    let (inputs, state) = (data.inputs(), widened(&data.state));
    let mut into = found.gradients();
    reference::backward(&data.problem, &inputs, &state, &data.cotangents(), &mut into).expect("valid");
    found
}

fn any_options() -> impl Strategy<Value = (usize, Past, f32)> {
    let past = prop_oneof![Just(Past::Empty), Just(Past::Some)];
    (0..4_usize, past, prop_oneof![Just(2.0_f32), Just(60.0)])
}

prop_compose! {
    /// Any data with up to `time - 1` tokens.
    fn any_data(time: usize)(
        (layout, batch, time) in any_layout(0..4, 0..time),
        channels in 0..150_usize,
        options in any_options(),
        seed in any::<u64>(),
    ) -> Data {
        Data::new(Problem { batch, time, channels }, layout, options, seed)
    }
}

prop_compose! {
    /// Any data of one sequence, with up to three places to cut it.
    fn any_cut()(
        (channels, time) in (0..50_usize, 0..60_usize),
        options in any_options(),
        cuts in proptest::collection::vec(0..60_usize, 0..4),
        seed in any::<u64>(),
    ) -> (Data, Vec<usize>) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(time)).chain([0, time]).collect();
        cuts.sort_unstable();
        (Data::new(Problem { batch: 1, time, channels }, Layout::Equal, options, seed), cuts)
    }
}

fn tolerance(data: &Data) -> f64 {
    (data.problem.time as f64 + 1.0).sqrt()
}

/// Compares states part by part: maxima of empty states would hide the sums beside them.
fn check_state(data: &Data, found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
    for part in 0..3 {
        let of_part = |i: &usize| i / data.problem.channels % 3 == part;
        let found: Vec<f32> = (0..found.len()).filter(of_part).map(|i| found[i]).collect();
        let expected: Vec<f64> = (0..expected.len()).filter(of_part).map(|i| expected[i]).collect();
        check("state", TOLERANCE * tolerance(data), &found, &expected)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn wkv4_equals_its_definition(data in any_data(60)) {
        let (out, state) = data.run();
        let (expected_out, expected_state) = data.by_reference();
        check("out", TOLERANCE * tolerance(&data), &out, &expected_out)?;
        check_state(&data, &state, &expected_state)?;
    }

    #[test]
    fn splitting_a_sequence_of_wkv4_keeps_the_state((data, cuts) in any_cut()) {
        let (mut state, mut out) = (data.state.clone(), Vec::new());
        for bounds in cuts.windows(2) {
            let (part, end) = data.segment(bounds[0]..bounds[1], &state, None).run();
            out.extend(part);
            state = end;
        }
        prop_assert_eq!((out, state), data.run());
    }

    #[test]
    fn steps_of_wkv4_equal_one_call((data, _) in any_cut()) {
        let (mut state, mut out) = (data.state.clone(), Vec::new());
        for t in 0..data.problem.time {
            let token = data.segment(t..t + 1, &state, None);
            let mut y = vec![f32::NAN; data.problem.channels];
            step(&token.problem, &token.inputs(), &mut state, &mut y).expect("valid");
            out.extend(y);
        }
        prop_assert_eq!((out, state), data.run());
    }

    #[test]
    fn sequences_of_wkv4_together_equal_each_alone(data in any_data(30)) {
        let (out, state) = data.run();
        let channels = data.problem.channels;
        let mut expected = vec![0.0; out.len()];
        for (b, rows) in data.layout.spans(data.problem.batch, data.problem.time).into_iter().enumerate() {
            let (part, end) = data.alone(b).run();
            expected[rows.start * channels..rows.end * channels].copy_from_slice(&part);
            prop_assert_eq!(&state[b * 3 * channels..(b + 1) * 3 * channels], &end[..]);
        }
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn elements_of_wkv4_compose((data, cuts) in any_cut()) {
        let (channels, len) = (data.problem.channels, data.state.len());
        let of = |rows| {
            let data = data.segment(rows, &data.state, None);
            let (mut sums, mut update) = (vec![f32::NAN; channels], vec![f32::NAN; len]);
            element(&data.problem, &data.inputs(), &mut sums, &mut update).expect("valid");
            (sums, update)
        };
        let mut joined = (vec![0.0; channels], data.problem.empty_state());
        for bounds in cuts.windows(2) {
            let (mut sums, mut update) = of(bounds[0]..bounds[1]);
            let first = Element { log_decay_sum: &joined.0, update: &joined.1 };
            let second = ElementMut { log_decay_sum: &mut sums, update: &mut update };
            compose(&data.problem, first, second).expect("valid");
            joined = (sums, update);
        }
        let whole = of(0..data.problem.time);
        check("log_decay_sum", TOLERANCE, &joined.0, &widened(&whole.0))?;
        check_state(&data, &joined.1, &widened(&whole.1))?;
        let mut state = data.state.clone();
        let element = Element { log_decay_sum: &joined.0, update: &joined.1 };
        apply(&data.problem, element, &mut state).expect("valid");
        check_state(&data, &state, &data.by_reference().1)?;
    }

    #[test]
    fn gradients_of_wkv4_equal_the_references(data in any_data(60), chunk_size in 1..70_usize) {
        let (found, expected) = (gradients(&data, chunk_size), reference_gradients(&data));
        for (name, (found, expected)) in NAMES.iter().zip(found.0.iter().zip(&expected.0)) {
            check(name, GRADIENT_TOLERANCE * tolerance(&data), found, expected)?;
        }
    }

    #[test]
    fn gradients_of_wkv4_pass_through_the_state((data, cuts) in any_cut()) {
        let mut states = vec![data.state.clone()];
        for bounds in cuts.windows(2) {
            let (_, end) = data.segment(bounds[0]..bounds[1], &states[states.len() - 1], None).run();
            states.push(end);
        }
        let mut cotangent = data.state_cotangent.clone();
        let mut key = Vec::new();
        for (i, bounds) in cuts.windows(2).enumerate().rev() {
            let part = data.segment(bounds[0]..bounds[1], &states[i], cotangent);
            let Buffers([_, _, part_key, _, state]) = gradients(&part, 8);
            key.splice(0..0, part_key);
            cotangent = Some(state);
        }
        let expected = reference_gradients(&data);
        let allowed = 2.0 * GRADIENT_TOLERANCE * tolerance(&data);
        check("key", allowed, &key, &expected.0[2])?;
        check("state", allowed, &cotangent.expect("set"), &expected.0[4])?;
    }

    #[test]
    fn wkv4s_reference_gradients_equal_finite_differences(
        (layout, batch, time) in any_layout(1..3, 0..8),
        channels in 1..4_usize,
        past in prop_oneof![Just(Past::Empty), Just(Past::Some)],
        seed in any::<u64>(),
    ) {
        let mut data = Data::new(Problem { batch, time, channels }, layout, (0, past, 2.0), seed);
        // At a tie the maximum has no derivative: keys are multiples of 1/4, decays are not for up to 15 tokens.
        data.key.iter_mut().for_each(|k| *k = (*k * 4.0).round() / 4.0);
        data.log_decay.iter_mut().for_each(|w| *w = (*w * 32.0).round() / 32.0 - 1.0 / 64.0);
        for (i, x) in data.state.iter_mut().enumerate() {
            if i / channels % 3 == 2 && *x > EMPTY_MAX {
                *x = (*x * 4.0).round() / 4.0 + 1.0 / 128.0;
            }
        }
        // A loss that sees a maximum of −1e38 has no other digits.
        let (_, last) = data.by_reference();
        for (cotangent, x) in data.state_cotangent.iter_mut().flatten().zip(last) {
            *cotangent *= f32::from(x > f64::from(EMPTY_MAX));
        }
        let expected = reference_gradients(&data);
        let fields: [fn(&mut Data) -> &mut Vec<f32>; 5] = [
            |data| &mut data.log_decay,
            |data| &mut data.bonus,
            |data| &mut data.key,
            |data| &mut data.value,
            |data| &mut data.state,
        ];
        for (name, (field, expected)) in NAMES.iter().zip(fields.iter().zip(&expected.0)) {
            let values = field(&mut data).clone();
            let found = differences(&values, |changed| {
                field(&mut data).copy_from_slice(changed);
                data.loss()
            });
            field(&mut data).copy_from_slice(&values);
            // Nothing can be said about a maximum of −1e38, which no small number changes.
            let known = |i: &usize| *name != "state" || past == Past::Some || i / channels % 3 != 2;
            let found: Vec<f32> = (0..values.len()).filter(known).map(|i| found[i]).collect();
            let expected: Vec<f64> = (0..values.len()).filter(known).map(|i| expected[i]).collect();
            check(name, 2e-5, &found, &expected)?;
        }
    }
}

#[test]
fn any_number_of_threads_gives_wkv4_the_same_bits() {
    let problem = Problem {
        batch: 3,
        time: 70,
        channels: 300,
    };
    let data = Data::new(
        problem,
        Layout::LeftPadded(vec![0, 3, 69]),
        (1, Past::Some, 5.0),
        4,
    );
    let results = |threads| on_threads(threads, || (data.run(), gradients(&data, 16)));
    let expected = results(1);
    assert!(results(2) == expected && results(5) == expected);
}

/// Keys of ±1024 overflow any exponential; one token outweighs all others.
#[test]
fn keys_of_any_size_stay_finite() {
    let problem = Problem {
        batch: 1,
        time: 20,
        channels: 17,
    };
    for scale in [1024.0_f32, 1e10, 1e30] {
        let mut data = Data::new(problem, Layout::Equal, (0, Past::Empty, 1.0), 3);
        data.key.iter_mut().for_each(|k| *k *= scale);
        let (out, state) = data.run();
        let (expected_out, expected_state) = data.by_reference();
        // Beyond 2¹⁷ a decay is lost beside the maximum that it is added to.
        if scale < 1e5 {
            check("out", 1e-5, &out, &expected_out).expect("close");
            check_state(&data, &state, &expected_state).expect("close");
        }
        assert!(out.iter().chain(&state).all(|x| x.is_finite()));
        assert!(gradients(&data, 7).0.iter().flatten().all(|x| x.is_finite()));
    }
}

/// A key of −∞ hides a token, a decay of −∞ forgets all tokens before, and a mean of nothing is 0.
#[test]
fn infinite_keys_and_decays_give_their_limits() {
    let problem = Problem {
        batch: 1,
        time: 6,
        channels: 4,
    };
    let mut data = Data::new(problem, Layout::Equal, (0, Past::Empty, 2.0), 6);
    let hidden = f32::NEG_INFINITY;
    // Channel 0 sees nothing, channel 1 its third token only, channel 2 forgets, channel 3 forgets what it sees at token 2.
    for t in 0..6 {
        data.key[t * 4] = hidden;
        if t != 2 {
            data.key[t * 4 + 1] = hidden;
            data.key[t * 4 + 3] = hidden;
        }
    }
    (data.log_decay[2], data.log_decay[3]) = (hidden, hidden);
    data.state[8] = hidden;
    let (out, state) = data.run();
    let (expected_out, expected_state) = data.by_reference();
    check("out", TOLERANCE, &out, &expected_out).expect("close");
    check_state(&data, &state, &expected_state).expect("close");
    assert_eq!((out[0], out[5 * 4], out[5 * 4 + 3]), (0.0, 0.0, 0.0));
    assert!((out[4 + 1], out[5 * 4 + 1]) == (0.0, data.value[2 * 4 + 1]));
    let (found, expected) = (gradients(&data, 4), reference_gradients(&data));
    for (name, (found, expected)) in NAMES.iter().zip(found.0.iter().zip(&expected.0)) {
        check(name, GRADIENT_TOLERANCE, found, expected).expect("close");
    }
    let mut joined = data.problem.empty_state();
    let sums = [hidden; 4];
    let nothing = data.problem.empty_state();
    let second = ElementMut {
        log_decay_sum: &mut [hidden; 4],
        update: &mut joined,
    };
    let first = Element {
        log_decay_sum: &sums,
        update: &nothing,
    };
    compose(&data.problem, first, second).expect("valid");
    assert_eq!(joined, nothing);
}
