//! The forms of the recurrence agree with the f64 definition and with one another, on tensors of any layout.

#[path = "support/random.rs"]
mod random;

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use random::Values;
use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::recurrence as kernel;
use spillway_ssm_core::{
    Chunking, Dims, Element, Gates, LogDecay, ReadOut, State, recurrence, recurrence_bounded,
};

/// Values of one recurrence, drawn from a seed so that failures shrink over sizes only.
#[derive(Clone, Debug)]
struct Case {
    dims: Dims,
    decay: usize,
    bonus: bool,
    step: bool,
    skip: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1..3usize, 0..40usize, 1..3usize, 1..3usize, 1..7usize, 1..7usize);
    let choices = (
        0..5usize,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
    );
    (sizes, choices).prop_map(
        |((batch, time, groups, per_group, key_dim, value_dim), choices)| {
            let (decay, bonus, step, skip, seed) = choices;
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
                seed,
            }
        },
    )
}

impl Values {
    fn decay<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.tensor(shape).abs().mul_scalar(-0.7)
    }
}

fn build(case: &Case) -> (Gates, State) {
    let d = case.dims;
    let mut values = Values(case.seed);
    let gates = Gates {
        query: values.tensor([d.batch, d.time, d.groups, d.key_dim]),
        key: values.tensor([d.batch, d.time, d.groups, d.key_dim]),
        value: values.tensor([d.batch, d.time, d.heads, d.value_dim]),
        log_decay: match case.decay {
            0 => LogDecay::None,
            1 => LogDecay::PerHead(values.decay([d.heads])),
            2 => LogDecay::PerKey(values.decay([d.heads, d.key_dim])),
            3 => LogDecay::PerHeadToken(values.decay([d.batch, d.time, d.heads])),
            _ => LogDecay::PerKeyToken(values.decay([d.batch, d.time, d.heads, d.key_dim])),
        },
        step_size: case.step.then(|| values.tensor([d.batch, d.time, d.heads]).abs()),
        erase: spillway_ssm_core::Erase::None,
        read_out: match case.bonus {
            true => ReadOut::Bonus(values.tensor([d.heads, d.key_dim])),
            false => ReadOut::Inclusive,
        },
        skip: case.skip.then(|| values.tensor([d.heads])),
        scale: 0.5,
    };
    let memory = values.tensor([d.batch, d.heads, d.key_dim, d.value_dim]);
    (gates, State { memory, position: 0 })
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor
        .clone()
        .into_data()
        .try_to_vec::<f32>()
        .expect("f32 tensors")
}

/// Sums, and the sums of the sizes of their terms.
struct Sums {
    values: Vec<f64>,
    terms: Vec<f64>,
}

/// ‖found − expected‖ / ‖terms‖; infinite for anything that is not a number. Every rounding on the way is relative to a partial sum,
/// which is no larger than its terms are together, while the terms themselves may cancel to nearly nothing.
fn relative_error(found: &[f32], expected: &Sums) -> f64 {
    assert_eq!(found.len(), expected.values.len());
    let difference: f64 = found
        .iter()
        .zip(&expected.values)
        .map(|(&f, &e)| (f64::from(f) - e).powi(2))
        .sum();
    let terms: f64 = expected.terms.iter().map(|term| term * term).sum();
    match (difference, terms) {
        // Nothing but zeros, as without tokens.
        (0.0, _) => 0.0,
        _ if difference.is_finite() => (difference / terms).sqrt(),
        _ => f64::INFINITY,
    }
}

/// The same gates and state with nothing negative to cancel.
fn absolute(gates: &Gates, state: &State) -> (Gates, State) {
    let gates = Gates {
        query: gates.query.clone().abs(),
        key: gates.key.clone().abs(),
        value: gates.value.clone().abs(),
        read_out: match &gates.read_out {
            ReadOut::Bonus(bonus) => ReadOut::Bonus(bonus.clone().abs()),
            other => other.clone(),
        },
        skip: gates.skip.clone().map(Tensor::abs),
        ..gates.clone()
    };
    let state = State {
        memory: state.memory.clone().abs(),
        ..state.clone()
    };
    (gates, state)
}

/// Read-out and state of the f64 definition.
fn reference(gates: &Gates, state: &State) -> (Sums, Sums) {
    let (out, memory) = definition(gates, state);
    let (gates, state) = absolute(gates, state);
    let (out_terms, memory_terms) = definition(&gates, &state);
    let sums = |values, terms| Sums { values, terms };
    (sums(out, out_terms), sums(memory, memory_terms))
}

fn definition(gates: &Gates, state: &State) -> (Vec<f64>, Vec<f64>) {
    let d = gates.dims();
    let tokens = d.batch * d.time;
    let rows =
        |data: &'static [f32], cols: usize| Rows::contiguous(data, tokens, cols).expect("a full buffer");
    // Leaking keeps the borrowed views simple; a test process is short.
    let keep = |v: Vec<f32>| -> &'static [f32] { Box::leak(v.into_boxed_slice()) };
    let (decay, log_decay) = match &gates.log_decay {
        LogDecay::None => (DecayKind::None, spillway_kernel_dsl::LogDecay::None),
        LogDecay::PerHead(a) => (
            DecayKind::PerHead,
            spillway_kernel_dsl::LogDecay::Constant(keep(values(a))),
        ),
        LogDecay::PerKey(a) => (
            DecayKind::PerKey,
            spillway_kernel_dsl::LogDecay::Constant(keep(values(a))),
        ),
        LogDecay::PerHeadToken(a) => (
            DecayKind::PerHeadToken,
            spillway_kernel_dsl::LogDecay::Token(rows(keep(values(a)), d.heads)),
        ),
        LogDecay::PerKeyToken(a) => (
            DecayKind::PerKeyToken,
            spillway_kernel_dsl::LogDecay::Token(rows(keep(values(a)), d.heads * d.key_dim)),
        ),
        LogDecay::PerStep(_) => panic!("the definition of a weighted sum takes stored decays"),
    };
    let bonus = match &gates.read_out {
        ReadOut::Inclusive => None,
        ReadOut::Bonus(bonus) => Some(keep(values(bonus))),
        ReadOut::Mean(_) => panic!("a mean is no weighted sum"),
    };
    let inputs = kernel::Inputs {
        query: rows(keep(values(&gates.query)), d.groups * d.key_dim),
        key: rows(keep(values(&gates.key)), d.groups * d.key_dim),
        value: rows(keep(values(&gates.value)), d.heads * d.value_dim),
        log_decay,
        step_size: gates
            .step_size
            .as_ref()
            .map(|step| rows(keep(values(step)), d.heads)),
        bonus,
        skip: gates.skip.as_ref().map(|skip| keep(values(skip))),
        scale: gates.scale,
        sequences: spillway_kernel_dsl::Sequences::Equal,
    };
    let problem = kernel::Problem {
        batch: d.batch,
        time: d.time,
        heads: d.heads,
        groups: d.groups,
        key_dim: d.key_dim,
        value_dim: d.value_dim,
        decay,
        read_out: if bonus.is_some() {
            kernel::ReadOut::Bonus
        } else {
            kernel::ReadOut::Inclusive
        },
    };
    let mut memory: Vec<f64> = values(&state.memory).iter().map(|&v| v as f64).collect();
    let mut out = vec![0.0; tokens * d.heads * d.value_dim];
    kernel::reference::recurrence(&problem, &inputs, &mut memory, &mut out).expect("a valid problem");
    (out, memory)
}

/// A term goes through at most 39 decays, as many sums over tokens, 6 over keys and a few products, each of which rounds by 6e-8:
/// together 5e-6, and a power of e may round twice.
const BOUND: f64 = 1e-5;

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn every_form_computes_the_definition(case in case(), chunk_size in 1..20usize) {
            let (gates, start) = build(&case);
            let (out, memory) = reference(&gates, &start);
            for chunking in [Chunking::Fastest, Chunking::Sequential, Chunking::Chunked { chunk_size }, Chunking::Scan { chunk_size }] {
                let mut state = start.clone();
                let found = recurrence(gates.clone(), &mut state, chunking).unwrap();
                prop_assert!(relative_error(&values(&found), &out) < BOUND, "{chunking:?} read-out");
                prop_assert!(relative_error(&values(&state.memory), &memory) < BOUND, "{chunking:?} state");
                prop_assert_eq!(state.position, case.dims.time as u64);
            }
        }

        #[test]
        fn splitting_a_sequence_keeps_the_state(case in case(), at in 0.0..1.0f64) {
            let (gates, start) = build(&case);
            let (out, memory) = reference(&gates, &start);
            let cut = (case.dims.time as f64 * at) as usize;
            let mut state = start;
            let first = recurrence(gates.slice(0..cut).unwrap(), &mut state, Chunking::Fastest).unwrap();
            let second = recurrence(gates.slice(cut..case.dims.time).unwrap(), &mut state, Chunking::Fastest).unwrap();
            let found = Tensor::cat(vec![first, second], 1);
            prop_assert!(relative_error(&values(&found), &out) < BOUND);
            prop_assert!(relative_error(&values(&state.memory), &memory) < BOUND);
        }

        #[test]
        fn joining_what_was_sliced_gives_the_same_gates(case in case(), at in 0.0..1.0f64) {
            let (gates, start) = build(&case);
            let cut = (case.dims.time as f64 * at) as usize;
            let joined = gates.slice(0..cut).unwrap().join(gates.slice(cut..case.dims.time).unwrap()).unwrap();
            let (mut a, mut b) = (start.clone(), start);
            let whole = recurrence(gates, &mut a, Chunking::Fastest).unwrap();
            let again = recurrence(joined, &mut b, Chunking::Fastest).unwrap();
            prop_assert_eq!(values(&whole), values(&again));
            prop_assert_eq!(values(&a.memory), values(&b.memory));
        }

        #[test]
        fn elements_compose_associatively_and_act_as_the_recurrence(case in case(), cuts in (0.0..1.0f64, 0.0..1.0f64)) {
            let (gates, start) = build(&case);
            let (_, memory) = reference(&gates, &start);
            let time = case.dims.time as f64;
            let (low, high) = (cuts.0.min(cuts.1), cuts.0.max(cuts.1));
            let (low, high) = ((low * time) as usize, (high * time) as usize);
            let of = |range| Element::of(&gates.slice(range).unwrap(), 8).unwrap();
            let (a, b, c) = (of(0..low), of(low..high), of(high..case.dims.time));
            let left = a.compose(&b).unwrap().compose(&c).unwrap();
            let right = a.compose(&b.compose(&c).unwrap()).unwrap();
            for element in [left, right] {
                let mut state = start.clone();
                element.apply(&mut state).unwrap();
                prop_assert!(relative_error(&values(&state.memory), &memory) < BOUND);
            }
        }

        #[test]
        fn a_bound_that_is_never_met_changes_nothing(case in case()) {
            let (gates, start) = build(&case);
            let (out, memory) = reference(&gates, &start);
            let free = Tensor::<1>::full([case.dims.heads], f32::INFINITY, &Device::flex());
            let mut state = start;
            let (found, clipped) = recurrence_bounded(gates, &mut state, &free).unwrap();
            prop_assert_eq!(clipped, 0);
            prop_assert!(relative_error(&values(&found), &out) < BOUND);
            prop_assert!(relative_error(&values(&state.memory), &memory) < BOUND);
        }

        /// Columns of a projection are views into a wider buffer; the matrix products may round differently over them.
        #[test]
        fn strided_views_compute_the_definition(case in case()) {
            let (gates, start) = build(&case);
            let (out, memory) = reference(&gates, &start);
            let widen = |t: &Tensor<4>| {
                let [b, n, h, d] = t.dims();
                let padding = Tensor::<4>::full([b, n, h, 3], 7.0, &Device::flex());
                Tensor::cat(vec![t.clone(), padding], 3).narrow(3, 0, d)
            };
            let mut strided = gates.clone();
            (strided.query, strided.key, strided.value) =
                (widen(&gates.query), widen(&gates.key), widen(&gates.value));
            let mut state = start;
            let found = recurrence(strided, &mut state, Chunking::Fastest).unwrap();
            prop_assert!(relative_error(&values(&found), &out) < BOUND);
            prop_assert!(relative_error(&values(&state.memory), &memory) < BOUND);
        }
    }
}

#[test]
fn gates_of_the_wrong_shape_are_named() {
    let case = Case {
        dims: Dims {
            batch: 1,
            time: 3,
            heads: 2,
            groups: 1,
            key_dim: 4,
            value_dim: 5,
        },
        decay: 3,
        bonus: false,
        step: true,
        skip: false,
        seed: 1,
    };
    let (gates, start) = build(&case);
    let mut wrong = gates.clone();
    wrong.step_size = Some(Tensor::zeros([1, 2, 2], &Device::flex()));
    let error = recurrence(wrong, &mut start.clone(), Chunking::Fastest).unwrap_err();
    assert_eq!(
        error.to_string(),
        "step_size: expected shape [1, 3, 2], found [1, 2, 2]"
    );

    let mut wrong = start.clone();
    wrong.memory = Tensor::zeros([1, 2, 4, 4], &Device::flex());
    let error = recurrence(gates.clone(), &mut wrong, Chunking::Fastest).unwrap_err();
    assert_eq!(
        error.to_string(),
        "state: expected shape [1, 2, 4, 5], found [1, 2, 4, 4]"
    );

    let error = recurrence(gates, &mut start.clone(), Chunking::Chunked { chunk_size: 0 }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "chunk_size: expected at least 1 token, found 0"
    );
}

#[test]
fn a_norm_that_cannot_be_taken_is_an_error() {
    let zeros = |features| Tensor::<3>::zeros([1, 2, features], &Device::flex());
    let norm = |features, eps| {
        let weight = Tensor::<1>::zeros([features], &Device::flex());
        spillway_ssm_core::operators::add_rms_norm(zeros(features), None, weight, eps).map(|_| ())
    };
    assert_eq!(norm(3, 1e-5), Ok(()));
    assert_eq!(
        norm(3, -1.0).unwrap_err().to_string(),
        "ε of a norm: expected at least 0, found -1"
    );
    assert!(norm(3, f32::NAN).is_err());
    assert_eq!(
        norm(0, 1e-5).unwrap_err().to_string(),
        "features of a norm: expected at least 1, found 0"
    );
}

#[test]
fn a_state_without_rows_or_columns_is_computed_or_refused_but_never_a_panic() {
    for (key_dim, value_dim) in [(0, 3), (3, 0), (0, 0)] {
        for decay in 0..5 {
            let dims = Dims {
                batch: 1,
                time: 4,
                heads: 2,
                groups: 1,
                key_dim,
                value_dim,
            };
            let (gates, state) = build(&Case {
                dims,
                decay,
                bonus: false,
                step: false,
                skip: false,
                seed: 1,
            });
            for chunking in [
                Chunking::Fastest,
                Chunking::Sequential,
                Chunking::Chunked { chunk_size: 3 },
            ] {
                if let Ok(output) = recurrence(gates.clone(), &mut state.clone(), chunking) {
                    assert!(values(&output).iter().all(|y| *y == 0.0), "nothing was stored");
                }
            }
        }
    }
}
