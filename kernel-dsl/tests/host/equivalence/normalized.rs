//! The recurrence with a normaliser.

use proptest::prelude::*;
use spillway_kernel_dsl::recurrence::normalized::{
    self, InitialState, NormalizedCotangents, NormalizedGradients, NormalizedState,
};
use spillway_kernel_dsl::recurrence::{GradientBuffers, Problem, ReadOut, reference};

use super::backward::named;
use super::data::{Data, Spec, any_spec};
use super::{check, config, sorted_cuts};
use crate::support::relative_error;

/// Far from 0, so that a denominator without any key is none of the difficulties tested here.
const EPS: f32 = 0.5;

/// Output, final state and final key sum.
type Results<T> = [Vec<T>; 3];

fn key_sum_of(data: &Data) -> Vec<f32> {
    let Problem {
        batch,
        heads,
        key_dim,
        ..
    } = data.problem;
    (0..batch * heads * key_dim)
        .map(|i| 0.1 + 0.8 * (i % 7) as f32 / 7.0)
        .collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

fn by_reference(data: &Data, key_sum: &[f64]) -> Results<f64> {
    let (mut state, mut key_sum, mut out) = (wide(&data.state), key_sum.to_vec(), vec![0.0; data.out_len()]);
    let both = NormalizedState {
        state: &mut state,
        key_sum: &mut key_sum,
    };
    reference::normalized(&data.problem, &data.inputs(), EPS, both, &mut out).expect("valid");
    [out, state, key_sum]
}

fn by_form(data: &Data, key_sum: &[f32], chunk_size: Option<usize>) -> Results<f32> {
    let (mut state, mut key_sum) = (data.state.clone(), key_sum.to_vec());
    let mut out = vec![f32::NAN; data.out_len()];
    let both = NormalizedState {
        state: &mut state,
        key_sum: &mut key_sum,
    };
    match chunk_size {
        None => normalized::sequential(&data.problem, &data.inputs(), EPS, both, &mut out),
        Some(size) => normalized::chunked(&data.problem, &data.inputs(), EPS, size, both, &mut out),
    }
    .expect("valid");
    [out, state, key_sum]
}

fn check_results(
    name: &str,
    data: &Data,
    found: &Results<f32>,
    expected: &Results<f64>,
) -> Result<(), TestCaseError> {
    for (what, (found, expected)) in ["output", "state", "key sum"]
        .into_iter()
        .zip(found.iter().zip(expected))
    {
        check(&format!("{what} of {name}"), data.problem.time, found, expected)?;
    }
    Ok(())
}

fn cotangents<'a>(data: &'a Data, key_sum: &'a [f32]) -> NormalizedCotangents<'a> {
    let cotangents = data.cotangents();
    NormalizedCotangents {
        out: cotangents.out,
        state: cotangents.state,
        key_sum: Some(key_sum),
    }
}

fn reference_gradients(data: &Data, key_sum: &[f32]) -> (GradientBuffers<f64>, Vec<f64>) {
    let mut found = GradientBuffers::zeros(&data.problem, &data.inputs()).expect("valid");
    let mut key_sum_gradient = vec![0.0; key_sum.len()];
    let initial = InitialState {
        state: &wide(&data.state),
        key_sum: &wide(key_sum),
    };
    let mut gradients = NormalizedGradients {
        inputs: found.as_written(),
        key_sum: &mut key_sum_gradient,
    };
    let cotangents = cotangents(data, key_sum);
    reference::normalized_backward(
        &data.problem,
        &data.inputs(),
        EPS,
        initial,
        &cotangents,
        &mut gradients,
    )
    .expect("valid");
    (found, key_sum_gradient)
}

fn chunk_gradients(data: &Data, key_sum: &[f32], chunk_size: usize) -> (GradientBuffers, Vec<f32>) {
    let mut found: GradientBuffers = GradientBuffers::zeros(&data.problem, &data.inputs()).expect("valid");
    let mut key_sum_gradient = vec![f32::NAN; key_sum.len()];
    let initial = InitialState {
        state: &data.state,
        key_sum,
    };
    let mut gradients = NormalizedGradients {
        inputs: found.as_written(),
        key_sum: &mut key_sum_gradient,
    };
    let cotangents = cotangents(data, key_sum);
    normalized::backward(
        &data.problem,
        &data.inputs(),
        EPS,
        chunk_size,
        initial,
        &cotangents,
        &mut gradients,
    )
    .expect("valid");
    (found, key_sum_gradient)
}

fn loss(data: &Data, key_sum: &[f64], key_sum_cotangent: &[f32]) -> f64 {
    let [out, state, key_sum] = by_reference(data, key_sum);
    let cotangents = data.cotangents();
    let width = data.problem.heads * data.problem.value_dim;
    let dot = |values: &[f64], c: &[f32]| values.iter().zip(c).map(|(x, c)| x * f64::from(*c)).sum::<f64>();
    let rows = (0..data.problem.batch).flat_map(|b| data.span(b));
    rows.map(|row| dot(&out[row * width..], cotangents.out.row(row)))
        .sum::<f64>()
        + dot(&state, cotangents.state.unwrap_or_default())
        + dot(&key_sum, key_sum_cotangent)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn normalised_forms_equal_the_reference(spec in any_spec(100), chunk_size in 1_usize..=70) {
        let data = Data::new(&spec);
        let key_sum = key_sum_of(&data);
        let expected = by_reference(&data, &wide(&key_sum));
        check_results("sequential", &data, &by_form(&data, &key_sum, None), &expected)?;
        check_results("chunks", &data, &by_form(&data, &key_sum, Some(chunk_size)), &expected)?;
    }

    #[test]
    fn splitting_a_normalised_sequence_keeps_both_states(
        spec in any_spec(100),
        chunk_size in prop::option::of(1_usize..=70),
        fractions in prop::collection::vec(0.0..1.0, 1..4),
    ) {
        let data = Data::new(&spec);
        let start = key_sum_of(&data);
        let (mut out, mut state, mut key_sum) = (vec![0.0; data.out_len()], data.state.clone(), start.clone());
        for bounds in sorted_cuts(data.problem.time, &fractions).windows(2) {
            let (from, to) = (bounds[0], bounds[1]);
            let [part, h, z] = by_form(&data.segment(from, to, &state), &key_sum, chunk_size);
            (state, key_sum) = (h, z);
            data.place(&mut out, (from, to), &part, data.problem.heads * data.problem.value_dim);
        }
        let expected = by_reference(&data, &wide(&start));
        check_results("segments", &data, &[out, state, key_sum], &expected)?;
    }

    /// Numerator and denominator pull at q and k in opposite directions, so that digits are lost: ten times the tolerance.
    #[test]
    fn normalised_gradients_equal_the_reference(spec in any_spec(100), chunk_size in 1_usize..=70) {
        let data = Data::new(&spec);
        let key_sum = key_sum_of(&data);
        let (expected, expected_key_sum) = reference_gradients(&data, &key_sum);
        let (found, found_key_sum) = chunk_gradients(&data, &key_sum, chunk_size);
        let allowed = 1e-5 * (data.problem.time as f64 + 1.0).sqrt();
        for ((input, found), (_, expected)) in named(&found).into_iter().zip(named(&expected)) {
            let error = relative_error(found, expected);
            let close = error <= allowed;
            prop_assert!(close, "gradient of {input} is off by {error:.2e}, allowed {allowed:.2e}");
        }
        let error = relative_error(&found_key_sum, &expected_key_sum);
        let close = error <= allowed;
        prop_assert!(close, "gradient of the key sum is off by {error:.2e}, allowed {allowed:.2e}");
    }

    #[test]
    fn normalised_gradients_of_the_reference_equal_finite_differences(
        spec in any_spec(7),
        place in any::<prop::sample::Index>(),
    ) {
        let data = Data::new(&spec);
        let key_sum = key_sum_of(&data);
        let (gradients, key_sum_gradient) = reference_gradients(&data, &key_sum);
        let exact = wide(&key_sum);
        let step = 1.0 / 8192.0;
        for (input, gradient) in named(&gradients) {
            if gradient.is_empty() {
                continue;
            }
            let index = place.index(gradient.len());
            let (mut above, mut below) = (data.clone(), data.clone());
            let (before, high) = above.nudge(input, index, step);
            let (_, low) = below.nudge(input, index, -step);
            if !before.is_finite() {
                continue;
            }
            let difference = loss(&above, &exact, &key_sum) - loss(&below, &exact, &key_sum);
            let slope = difference / (f64::from(high) - f64::from(low));
            let allowed = 1e-5 * slope.abs() + 1e-7 * loss(&data, &exact, &key_sum).abs();
            let close = (slope - gradient[index]).abs() <= allowed;
            prop_assert!(close, "{input} {index}: slope {slope}, gradient {}", gradient[index]);
        }
        if !key_sum.is_empty() {
            let index = place.index(key_sum.len());
            let nudged = |by: f64| {
                let mut nudged = exact.clone();
                nudged[index] += by;
                loss(&data, &nudged, &key_sum)
            };
            let slope = (nudged(1e-4) - nudged(-1e-4)) / 2e-4;
            let allowed = 1e-5 * slope.abs() + 1e-7 * loss(&data, &exact, &key_sum).abs();
            let close = (slope - key_sum_gradient[index]).abs() <= allowed;
            prop_assert!(close, "key sum {index}: slope {slope}, gradient {}", key_sum_gradient[index]);
        }
    }
}

#[test]
fn a_normalised_step_is_one_token() {
    let mut spec = Spec::large().remove(0);
    spec.problem.time = 1;
    spec.problem.read_out = ReadOut::Inclusive;
    let data = Data::new(&spec);
    let start = key_sum_of(&data);
    let (mut state, mut key_sum, mut out) =
        (data.state.clone(), start.clone(), vec![f32::NAN; data.out_len()]);
    let both = NormalizedState {
        state: &mut state,
        key_sum: &mut key_sum,
    };
    normalized::step(&data.problem, &data.inputs(), EPS, both, &mut out).expect("one token");
    assert!([out, state, key_sum] == by_form(&data, &start, None));
}

#[test]
fn normalised_gradients_have_the_same_bits_on_any_number_of_threads() {
    for spec in Spec::large().into_iter().chain([Spec::many_heads()]) {
        let data = Data::new(&spec);
        let key_sum = key_sum_of(&data);
        let with_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a thread pool");
            pool.install(|| chunk_gradients(&data, &key_sum, 32))
        };
        assert!(
            with_threads(1) == with_threads(3),
            "3 threads differ for {:?}",
            data.problem
        );
    }
}

/// The denominator is Σ of the weights: equal values come out as they are.
#[test]
fn equal_values_are_their_own_mean() {
    let mut spec = Spec::large().remove(3);
    spec.step_size = false;
    spec.skip = None;
    let mut data = Data::new(&spec);
    data.state.fill(0.0);
    let len = data.problem.batch * data.problem.time * data.problem.heads * data.problem.value_dim;
    for index in 0..len {
        let (before, _) = data.nudge("value", index, 0.0);
        data.nudge("value", index, 3.0 - before);
    }
    let zeros = vec![0.0; key_sum_of(&data).len()];
    let (mut state, mut key_sum, mut out) = (data.state.clone(), zeros, vec![f32::NAN; data.out_len()]);
    let both = NormalizedState {
        state: &mut state,
        key_sum: &mut key_sum,
    };
    normalized::chunked(&data.problem, &data.inputs(), 0.0, 32, both, &mut out).expect("valid");
    assert!(
        out.iter().all(|y| (y - 3.0).abs() < 1e-5),
        "a weighted mean of threes"
    );
}
